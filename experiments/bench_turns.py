"""Times taken in turns, round by round, so that what else the machine does falls on all alike."""
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
  """How long a call takes until its arrays are there."""
  start = time.perf_counter()
  jax.block_until_ready(call())
  return time.perf_counter() - start


def in_turns(calls: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
  """What the calls return, by round; every other round goes backwards."""
  found = {name: [] for name in calls}
  for i in range(rounds):
    for name in list(calls)[::-1 if i % 2 else 1]:
      found[name].append(calls[name]())
  return found


def spread(values: Sequence[float], unit: str, **more: Any) -> dict[str, Any]:
  """A number of a row: what was measured in all rounds."""
  return {'unit': unit, 'min': min(values), 'median': statistics.median(values),
          'max': max(values), **more}


@contextlib.contextmanager
def worker(*arguments: str) -> Iterator[Callable[[], float]]:
  """`python ARGUMENTS`, which serves; a call is its turn, and gives the seconds it reports."""
  process = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, text=True, cwd=ROOT)

  def line() -> str:
    if not (said := process.stdout.readline().strip()):
      raise RuntimeError(f'python {" ".join(arguments)} ended with {process.wait()}')
    return said

  def turn() -> float:
    process.stdin.write('\n')
    process.stdin.flush()
    return float(line())

  with process:
    try:
      while line() != READY:          # libraries may greet
        pass
      yield turn
    finally:
      with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def serve(call: Callable[[], float]) -> None:
  """A worker's side: warm already, it makes a call for every line, and sleeps in between."""
  print(READY, flush=True)
  for _ in sys.stdin:
    print(call(), flush=True)
