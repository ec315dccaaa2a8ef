"""Times of calls that take turns, round by round, so that other load affects all of them alike."""
import contextlib
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

ROOT = pathlib.Path(__file__).parent.parent
READY = 'ready'


def seconds(call: Callable[[], Any]) -> float:
  """Returns the seconds that a call takes until its arrays are computed."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def in_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
  """Returns the calls' results by round; every other round goes backwards."""
  found = {name: [] for name in calls}
  for i in range(rounds):
    for name in list(calls)[::-1 if i % 2 else 1]:
      found[name].append(calls[name]())
  return found


def spread(values: Sequence[float], unit: str, **more: Any) -> dict[str, Any]:
  """Returns a number of a row: minimum, median and maximum over the rounds."""
  return {'unit': unit, 'min': min(values), 'median': statistics.median(values),
          'max': max(values), **more}


@contextlib.contextmanager
def worker(*arguments: str) -> Iterator[Callable[[], float]]:
  """Starts `python ARGUMENTS` as a worker; a call of the result returns the seconds of one turn."""
  process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, cwd=ROOT)

  def line() -> str:
    text = process.stdout.readline().strip()
    if not text:
      raise RuntimeError(f'python {" ".join(arguments)} ended with {process.wait()}')
    return text

  def turn() -> float:
    process.stdin.write('\n')
    process.stdin.flush()
    return float(line())

  with process:
    try:
      while line() != READY:          # libraries may print
        pass
      yield turn
    finally:
      with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def serve(call: Callable[[], float]) -> None:
  """Serves as a worker: makes a call for every line of stdin, and waits in between."""
  print(READY, flush=True)
  for _ in sys.stdin:
    print(call(), flush=True)
