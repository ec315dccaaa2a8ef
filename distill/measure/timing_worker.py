"""Isolated timing: each exported model in a process of its own, in turns, all on one core.

python -m distill.measure.timing_worker '{"place": DIR, …}'        # what `Worker` starts

The process pins itself to its core before it loads NumPy and JAX, so their threads stay on that
core. It reads one JSON request a line from stdin, a method of `cost.LocalTimer` and its arguments,
and writes one JSON answer a line to stdout. It needs no data: it times full batches of the inputs
that the job's `inputs`, part of an export's card, describe.
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


class Worker:
  """A `cost.Timer` of a model in another process."""

  def __init__(self, name: str, job: Mapping[str, Any], cache: str | None):
    paths = filter(None, (str(ROOT), os.environ.get('PYTHONPATH')))
    environment = {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': FLAGS,
                   'PYTHONPATH': os.pathsep.join(paths)}
    if cache:
      environment['JAX_COMPILATION_CACHE_DIR'] = cache
      environment['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
    self._name = name
    # A new session: Ctrl-C reaches the run alone, and the run then ends this process.
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'distill.measure.timing_worker', json.dumps(job)], env=environment,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True)

  def compile_stats(self, batch: int) -> dict[str, Any]:
    return self._request('compile_stats', batch)

  def time_calls(self, batch: int, seconds: float) -> list[float]:
    return self._request('time_calls', batch, seconds)

  def _request(self, *call: Any) -> Any:
    """Sends a method's name and arguments to the process and returns its answer."""
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
def start_workers(jobs: Mapping[str, Mapping[str, Any]], outputs: Sequence[str],
                  cache: str | None = None) -> Iterator[dict[str, Worker]]:
  """Starts a process for every model, all on the last core that this process may use.

  Args:
    jobs: by a model's name, its `place` and `model` as `formats.open_model` takes them, and the
      `inputs` to time it on, as a card describes them.
    outputs: names of the outputs that a timed call computes.
    cache: the folder where JAX keeps compiled programs.
  """
  core = max(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else None
  with contextlib.ExitStack() as stack:
    workers = {}
    for name, job in jobs.items():
      workers[name] = Worker(name, {**job, 'outputs': list(outputs), 'core': core}, cache)
      stack.callback(_end, workers[name].process)
    yield workers


def _end(process: subprocess.Popen) -> None:
  process.kill()
  process.wait()
  process.stdout.close()
  with contextlib.suppress(BrokenPipeError):      # of a request that the process never read
    process.stdin.close()


def main(job_json: str) -> None:
  """Answers requests until stdin ends."""
  job = json.loads(job_json)
  if job['core'] is not None:
    os.sched_setaffinity(0, {job['core']})
  from distill import formats, modalities  # JAX counts its cores when it is loaded
  from distill.measure import cost
  answers, sys.stdout = sys.stdout, sys.stderr
  pure, weights, _ = formats.open_model(job['place'], model=job.get('model'))
  modality = modalities.from_card(job['inputs'], job['place'])
  timer = cost.LocalTimer(pure, weights, modality, job['outputs'])
  for line in sys.stdin:
    name, *arguments = json.loads(line)
    answer = getattr(timer, name)(*arguments)
    if name == 'compile_stats':
      timer.time_calls(*arguments, 0)
      answer['process_bytes'] = _peak_resident_bytes()
    print(json.dumps(answer, allow_nan=False), file=answers, flush=True)


def _peak_resident_bytes() -> int | None:
  """Returns the most memory that this process has held, Python and compiler included."""
  status = pathlib.Path('/proc/self/status')      # rusage would count what the parent held
  if not status.exists():
    return None
  lines = [line for line in status.read_text().splitlines() if line.startswith('VmHWM')]
  return 1024 * int(lines[0].split()[1]) if lines else None


if __name__ == '__main__':
  main(sys.argv[1])
