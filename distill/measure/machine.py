"""The device and the versions of packages that a measurement was made on."""
import os
import platform
from importlib.metadata import version
from typing import Any

import jax

PACKAGES = ('distill', 'jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'tokenizers')


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the packages that a result depends on."""
  return {'python': platform.python_version(), **{name: version(name) for name in PACKAGES}}


def hardware() -> dict[str, Any]:
  """Returns the device, the processor's name and the cores that this process may use."""
  cpu = platform.processor() or platform.machine()
  if os.path.exists('/proc/cpuinfo'):
    with open('/proc/cpuinfo') as lines:
      names = (line.split(':')[1].strip() for line in lines if line.startswith('model name'))
      cpu = next(names, cpu)
  cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  return {'device': jax.devices()[0].device_kind, 'cpu': cpu, 'cores': cores}
