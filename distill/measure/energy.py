"""Energy of an example in joules: measured by a counter, or estimated, or unknown.

RAPL counts the joules of whole processors (and of their memory, where a separate counter exists),
NVML those of a GPU. Both count idle power and other work at the same time. Where the CPU has no
readable counter, a stated power of a busy core gives an estimate. The field `method` says whether
a value was measured or estimated, and for which device.
"""
import os
import pathlib
from typing import Any, Protocol

POWERCAP = pathlib.Path('/sys/class/powercap')
MICRO, MILLI = 1e-6, 1e-3


class Meter(Protocol):
  """A counter of joules; only differences between its values have a meaning."""

  def joules(self) -> float:
    """Returns the joules counted so far."""

  def per_example(self, joules: float, examples: int) -> dict[str, Any]:
    """Returns the report's `energy_j_per_example` for the joules that some examples took."""


class Rapl:
  """Intel's and AMD's counters of processors and memory, as Linux shows them.

  A counter starts again at 0 after its `max_energy_range_uj`. On a busy server that takes a few
  minutes or less, and `joules` must be called at least that often.

  Raises:
    OSError: this machine has no such counter, or only the administrator may read it.
  """

  def __init__(self, root: pathlib.Path = POWERCAP):
    # Not 'core' and 'uncore', which are parts of a package, nor 'psys', which contains it.
    self._zones = {
        zone: (zone / 'name').read_text().strip() for zone in sorted(root.glob('intel-rapl:*'))
        if (zone / 'name').read_text().startswith(('package', 'dram'))}
    if not self._zones:
      raise FileNotFoundError(f'{root} has no counter of a processor')
    self._ranges = {zone: _number(zone / 'max_energy_range_uj') for zone in self._zones}
    self._last = {zone: _number(zone / 'energy_uj') for zone in self._zones}
    self._total = 0

  def joules(self) -> float:
    for zone, last in self._last.items():
      now = _number(zone / 'energy_uj')
      self._total += now - last if now >= last else now - last + self._ranges[zone]
      self._last[zone] = now
    return self._total * MICRO

  def per_example(self, joules: float, examples: int) -> dict[str, Any]:
    return _measurement(joules, examples,
                        f'measured by RAPL on the CPU: {", ".join(self._zones.values())}')


class Nvml:
  """The counter of an NVIDIA GPU (Volta or later).

  Raises:
    OSError: this machine has no such GPU, or its counter can't be read.
  """

  def __init__(self, visible: str | None = None):
    """Opens the first device of `visible`, the value of CUDA_VISIBLE_DEVICES."""
    first = (visible or '0').split(',')[0].strip()
    try:
      import pynvml  # of the package nvidia-ml-py
    except ImportError as error:
      raise FileNotFoundError('pip install nvidia-ml-py') from error
    try:
      pynvml.nvmlInit()
      self._device = (pynvml.nvmlDeviceGetHandleByIndex(int(first)) if first.isdecimal()
                      else pynvml.nvmlDeviceGetHandleByUUID(first))
      self._count = pynvml.nvmlDeviceGetTotalEnergyConsumption
      self._count(self._device)
    except pynvml.NVMLError as error:
      raise FileNotFoundError(str(error)) from error

  def joules(self) -> float:
    return self._count(self._device) * MILLI

  def per_example(self, joules: float, examples: int) -> dict[str, Any]:
    return _measurement(joules, examples, 'measured by NVML on one GPU')


def find_meter(platform: str) -> Meter | None:
  """Returns this machine's meter for a JAX platform; None if it has no readable counter."""
  try:
    if platform == 'cpu':
      return Rapl()
    return Nvml(os.environ.get('CUDA_VISIBLE_DEVICES')) if platform in ('gpu', 'cuda') else None
  except (OSError, ValueError):         # no such counter, or only the administrator may read it
    return None


def estimate(watts: float, cores: int, seconds: float) -> dict[str, Any] | None:
  """Estimates the joules of an example that keeps `cores` of a CPU busy for some seconds.

  `watts` is the power of one busy core. Returns None if it is 0, which means unknown.
  """
  if not watts:
    return None
  return {'value': watts * cores * seconds,
          'method': f'estimated for the CPU: {watts:g} W a busy core × cores × seconds',
          'inputs': {'watts_per_core': watts, 'cores': cores, 'seconds': seconds}}


def _measurement(joules: float, examples: int, method: str) -> dict[str, Any]:
  return {'value': joules / examples, 'method': method,
          'inputs': {'joules': joules, 'examples': examples}}


def _number(file: pathlib.Path) -> int:
  return int(file.read_text())
