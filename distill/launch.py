"""What a command does before it computes, and beside it."""
import concurrent.futures
import contextlib
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SWEEPS = 100_000, 50, 100       # Python's gc.set_threshold

_ahead: list[concurrent.futures.Future] = []


def keep_programs() -> None:
  """Has JAX keep compiled programs on disk, in `$JAX_COMPILATION_CACHE_DIR` or `~/.cache/distill`.

  All of them: a start is many small programs.
  """
  import jax  # here: a mistake on the command line is answered without it
  jax.config.update('jax_compilation_cache_dir', os.environ.get(
      'JAX_COMPILATION_CACHE_DIR', os.path.expanduser('~/.cache/distill/xla')))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)


def sweep_seldom() -> None:
  """Has Python look for garbage less often.

  A traced program is millions of objects that all stay: at Python's own thresholds a seventh of a
  start goes into walking through them.
  """
  gc.set_threshold(*SWEEPS)


@contextlib.contextmanager
def compiled_ahead(programs: Sequence[Callable[[], Any]]) -> Iterator[None]:
  """Compiles programs, one after the other, while the first ones already run.

  Each is the `compile` of a lowered program; who calls the program first waits for that, and isn't
  told of what goes wrong here, for it goes wrong there again.
  """
  pool = concurrent.futures.ThreadPoolExecutor(1)
  _ahead[:] = [pool.submit(program) for program in programs]
  try:
    yield
  finally:
    pool.shutdown(wait=False, cancel_futures=True)


def leave(status: int) -> None:
  """Ends the process, without waiting for a program that nobody will call."""
  if any(program.running() for program in _ahead):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  sys.exit(status)
