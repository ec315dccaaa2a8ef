"""Set-up of a command before it computes: processes, signals, memory, compiled programs."""
import concurrent.futures
import contextlib
import ctypes
import gc
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from distill.types import Status, Stop

# Variables that are all set in a process that such a cluster started.
SLURM = {f'SLURM_{name}' for name in ('JOB_ID', 'STEP_NODELIST', 'NTASKS', 'PROCID', 'LOCALID')}
KUBERNETES = {'KUBERNETES_SERVICE_HOST', 'JOB_COMPLETION_INDEX'}
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4           # of glibc's malloc.h
GC_THRESHOLDS = 100_000, 50, 100        # arguments of gc.set_threshold

_ahead: list[concurrent.futures.Future] = []


def join_processes() -> bool:
  """Joins the other processes of this run, if any, before JAX looks for devices."""
  variables = {name: os.environ.get(f'JAX_{name}', '') for name in (
      'COORDINATOR_ADDRESS', 'NUM_PROCESSES', 'PROCESS_ID')}
  settings, size = {}, 0
  if any(variables.values()):
    address, count, place = variables.values()
    if not (re.fullmatch(r'.+:\d+', address) and count.isdecimal() and place.isdecimal()
            and int(place) < int(count)):
      raise Stop(Status.CONFIG, 'one of several processes needs '
                 + ', '.join(f'JAX_{name}={value!r}' for name, value in variables.items())
                 + ': say HOST:PORT of process 0, how many there are, and which this is, from 0')
    settings = dict(coordinator_address=address, num_processes=int(count), process_id=int(place))
  import jax  # which looks for TPUs
  if not settings and (size := _cluster_size()) == 1:
    return False
  jax.config.update('jax_enable_preemption_service', False)     # it would take SIGTERM from us
  try:
    jax.distributed.initialize(**settings)
  except (OSError, RuntimeError, ValueError) as error:
    if size is None and isinstance(error, ValueError):          # JAX finds no cluster
      return False
    raise Stop(Status.CONFIG, f'cannot join the other processes: {error}') from error
  return True


def _cluster_size() -> int | None:
  """Returns how many processes a cluster started, 1 without a cluster, None if JAX has to ask it.

  Reads the environment variables by which JAX recognises clusters, in JAX's order.
  """
  environment = os.environ
  if 'OMPI_MCA_orte_hnp_uri' in environment:
    return _number('OMPI_COMM_WORLD_SIZE')
  if SLURM <= environment.keys():
    return _number('SLURM_NTASKS')
  if 'TPU_ML_PLATFORM' in environment:        # JAX sets it where it finds TPUs
    for name in 'TPU_PROCESS_ADDRESSES', 'TPU_WORKER_HOSTNAMES':
      if hosts := environment.get(name):
        return len(hosts.split(',')) * _number('MEGASCALE_NUM_SLICES', '1')
    if 'TPU_SKIP_MDS_QUERY' not in environment:         # the machine's metadata has the others
      return None
  # In any pod JAX asks Kubernetes for the job; only an indexed job's pods are numbered.
  return None if KUBERNETES <= environment.keys() else 1


def _number(name: str, default: str = '') -> int:
  """Reads a number of processes from an environment variable."""
  value = os.environ.get(name) or default
  if not value.isdecimal():
    raise Stop(Status.CONFIG, f'the environment has {name}={value!r}, which is no number')
  return int(value)


class Stopping:
  """A signal handler: the first signal saves the run and ends it, a second one ends it at once."""

  def __init__(self):
    self.run = None             # a `runs.Run`, once there is one

  def __call__(self, number: int, frame: Any) -> None:
    del frame
    for each in SIGNALS:
      signal.signal(each, signal.SIG_DFL)
    # Not print: the signal may have interrupted another print.
    with contextlib.suppress(OSError):            # stderr may be a closed pipe
      os.write(2, f'\n{signal.Signals(number).name}: saving; once more to stop at once\n'.encode())
    if self.run is None:
      raise Stop(Status.PREEMPTED, 'stopped before anything was begun')
    self.run.preempt()


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Stopping]:
  """Handles SIGTERM, SIGINT and SIGUSR1: a run saves its state and ends."""
  stopping = Stopping()
  before = {number: signal.signal(number, stopping) for number in SIGNALS}
  try:
    yield stopping
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def keep_memory() -> None:
  """Makes glibc keep freed memory for the next allocation.

  XLA on a CPU allocates the buffers of every step again. By default glibc maps large ones, and the
  kernel clears their pages each time; the rows of `experiments.bench peers` show the difference.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if os.name == 'posix' else None
  if mallopt:
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


def keep_programs() -> None:
  """Makes JAX cache compiled programs on disk, in its own folder or in `~/.cache/distill`.

  Its own folder is `$JAX_COMPILATION_CACHE_DIR`. Programs of any size are cached: a run starts with
  many small ones.
  """
  import jax  # not at the top: a mistake on the command line is reported without loading JAX
  jax.config.update('jax_compilation_cache_dir', os.environ.get(
      'JAX_COMPILATION_CACHE_DIR', os.path.expanduser('~/.cache/distill/xla')))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def collect_garbage_rarely() -> None:
  """Makes Python collect garbage less often.

  A traced program is millions of objects that all stay: at Python's default thresholds the
  collector walks through them again and again.
  """
  gc.set_threshold(*GC_THRESHOLDS)


@contextlib.contextmanager
def compiled_ahead(programs: Sequence[Callable[[], Any]]) -> Iterator[None]:
  """Compiles programs, one after the other, while the first ones already run.

  Each is the `compile` of a lowered program. A call of a program waits until it is compiled. An
  error of compilation is dropped here: the call raises the same one.
  """
  pool = concurrent.futures.ThreadPoolExecutor(1)
  _ahead[:] = [pool.submit(program) for program in programs]
  try:
    yield
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def leave(status: int) -> None:
  """Ends the process without waiting for programs that are compiling and won't be called."""
  if any(program.running() for program in _ahead):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)
