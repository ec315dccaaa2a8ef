"""What an example costs in joules, and how that is known: measured, estimated, or not at all.

RAPL counts the joules of whole processors (and their memory, where it has a counter of its own),
NVML those of a GPU: with what idles in them, and with whatever else they do meanwhile. Where
a CPU's can't be read, a stated power of a busy core gives an estimate, which is called one. Every
`method` says whose joules they are.
"""
import os
import pathlib
from typing import Any, Protocol

POWERCAP = pathlib.Path('/sys/class/powercap')
MICRO, MILLI = 1e-6, 1e-3


class Meter(Protocol):
  """A counter of joules; only differences mean anything."""

  def joules(self) -> float: ...

  def told(self, joules: float, examples: int) -> dict[str, Any]:
    """The report's `energy_j_per_example` of what was counted over some examples."""


class Rapl:
  """Intel's and AMD's counters as Linux shows them, processors and memory; OSError without them.

  A counter starts again at 0 after its `max_energy_range_uj`, on a busy server within a minute or
  a few: it must be read at least that often.
  """

  def __init__(self, root: pathlib.Path = POWERCAP):
    # Not 'core' and 'uncore', which are parts of a package, nor 'psys', which holds it.
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

  def told(self, joules: float, examples: int) -> dict[str, Any]:
    return _measured(joules, examples,
                     f'measured by RAPL on the CPU: {", ".join(self._zones.values())}')


class Nvml:
  """The counter of an NVIDIA GPU (Volta or later); OSError without one that can be read."""

  def __init__(self, visible: str | None = None):
    """`visible` is CUDA_VISIBLE_DEVICES, whose first device it is."""
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

  def told(self, joules: float, examples: int) -> dict[str, Any]:
    return _measured(joules, examples, 'measured by NVML on one GPU')


def meter(platform: str) -> Meter | None:
  """What counts the joules of a platform of JAX's here, if anything does."""
  try:
    if platform == 'cpu':
      return Rapl()
    return Nvml(os.environ.get('CUDA_VISIBLE_DEVICES')) if platform in ('gpu', 'cuda') else None
  except (OSError, ValueError):         # no such counter, or only the administrator may read it
    return None


def estimated(watts: float, cores: int, seconds: float) -> dict[str, Any] | None:
  """Joules of an example that keeps some of a CPU's cores busy; None if no power is told."""
  return {'value': watts * cores * seconds,
          'method': f'estimated for the CPU: {watts:g} W a busy core × cores × seconds',
          'inputs': {'watts_per_core': watts, 'cores': cores, 'seconds': seconds}
          } if watts else None


def _measured(joules: float, examples: int, method: str) -> dict[str, Any]:
  return {'value': joules / examples, 'method': method,
          'inputs': {'joules': joules, 'examples': examples}}


def _number(file: pathlib.Path) -> int:
  return int(file.read_text())
