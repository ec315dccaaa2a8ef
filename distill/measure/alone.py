"""Exported models timed in turns, each in a process of its own, all on one core.

python -m distill.measure.alone '{"place": DIR, …}'        # what `Child` starts

The process learns its core before it loads NumPy and JAX, whose threads then have no other. It
answers each line on stdin, a call of `cost.Subject` as JSON, by one on stdout. The data isn't
needed: calls are on the largest inputs that the job's `inputs`, a card, speak of.
"""
import contextlib
import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

ROOT = pathlib.Path(__file__).parent.parent.parent
FLAGS = '--xla_cpu_multi_thread_eigen=false'


class Child:
  """A `cost.Timed` in another process."""

  def __init__(self, name: str, job: Mapping[str, Any], cache: str | None):
    paths = filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': FLAGS,
                   'PYTHONPATH': os.pathsep.join(paths), **({
                       'JAX_COMPILATION_CACHE_DIR': cache,
                       'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'} if cache else {})}
    self._name = name
    # A group of its own: a signal from the keyboard is for the run, which then ends this.
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'distill.measure.alone', json.dumps(job)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)

  def plan(self, batch: int) -> dict[str, Any]:
    return self._asked('plan', batch)

  def turn(self, batch: int, seconds: float) -> list[float]:
    return self._asked('turn', batch, seconds)

  def _asked(self, *call: Any) -> Any:
    with contextlib.suppress(BrokenPipeError):
      print(json.dumps(call), file=self.process.stdin, flush=True)
    answer = self.process.stdout.readline()
    if not answer:
      from distill.types import Status, Stop  # loads NumPy
      status = self.process.wait()
      why = 'likely for want of memory' if status < 0 else 'for what it says above'
      raise Stop(Status.CONFIG, f'the process that timed {self._name} ended with status {status}, '
                 f'{why}: start again, what is there is kept; or, in another --workdir, '
                 '--config.evaluate.cost=False leaves out timing')
    return json.loads(answer)


@contextlib.contextmanager
def children(jobs: Mapping[str, Mapping[str, Any]], outputs: Sequence[str],
             cache: str | None = None) -> Iterator[dict[str, Child]]:
  """A process for every model; `jobs` have its `place` and `model` as `formats.open_model` takes
  them, and the `inputs` to time it on as a card has them.

  `cache` is where JAX keeps compiled programs.
  """
  core = max(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else None
  with contextlib.ExitStack() as ending:
    found = {}
    for name, job in jobs.items():
      found[name] = Child(name, {**job, 'outputs': list(outputs), 'core': core}, cache)
      ending.callback(_end, found[name].process)
    yield found


def _end(process: subprocess.Popen) -> None:
  process.kill()
  process.wait()
  process.stdout.close()
  with contextlib.suppress(BrokenPipeError):      # of a question that it didn't live to read
    process.stdin.close()


def main(job: str) -> None:
  """Answers until nothing is asked any more."""
  told = json.loads(job)
  if told['core'] is not None:
    os.sched_setaffinity(0, {told['core']})
  from distill import formats, modalities  # JAX counts its cores when it is loaded
  from distill.measure import cost
  answers, sys.stdout = sys.stdout, sys.stderr
  pure, weights, _ = formats.open_model(told['place'], model=told.get('model'))
  modality = modalities.from_card(told['inputs'], told['place'])
  subject = cost.Subject(pure, weights, modality, told['outputs'])
  for line in sys.stdin:
    name, *arguments = json.loads(line)
    answer = getattr(subject, name)(*arguments)
    if name == 'plan':
      subject.turn(*arguments, 0)
      answer['process_bytes'] = _high_water()
    print(json.dumps(answer, allow_nan=False), file=answers, flush=True)


def _high_water() -> int | None:
  """The most bytes that this process has held, Python and compiler included."""
  status = pathlib.Path('/proc/self/status')      # rusage would count what the parent held
  found = [line for line in status.read_text().splitlines() if line.startswith('VmHWM')
           ] if status.exists() else []
  return 1024 * int(found[0].split()[1]) if found else None


if __name__ == '__main__':
  main(sys.argv[1])
