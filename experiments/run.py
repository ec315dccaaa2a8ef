"""Runs a config's sweep over seeds, and writes a row to results.jsonl for every run.

python -m experiments.run configs/NAME.py[:VARIANT] --out=experiments/PAPER [--seeds=3] [--only=ARM]
python -m experiments.run configs/digits.py --out=experiments/methods --seeds=8 --only=fitnet
python -m experiments.run configs/digits.py --dry_run

An arm is what the config's `sweep()` yields: the name of a variant, or overrides by dotted path,
where 'variant' may be one more key; {} is the config as it stands, and the only arm of a config
without a sweep. `--only` takes the arm of that name, or else those whose name contains it.

A seed sets both `seed` and `data.seed`: the arms of a seed see the same batches in the same order
and are compared in pairs. Runs go seed by seed, so that finished arms are paired at any time.
Equal stages (a teacher, a baseline) are trained once: runs share them in runs/shared.

The same command resumes where it was stopped. A finished run isn't run again; a failed run is a row
with its error, and the next command tries it again. Several processes share the work, those of
`--jobs` and other commands alike: a process that finds a run locked goes on with the next seed, and
comes back later. Nothing is committed.
"""
import argparse
import contextlib
import datetime
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from distill import command_line, launch, streams
from distill import workdir as workdirs
from distill.disk import replace
from distill.types import Status, Stop
from experiments import forecast, rows
from experiments.rows import arm_name
from experiments.sweeps import Trial, check_distinct, list_trials, plan, select

SHARED = pathlib.Path('runs/shared')
WORKER = sys.executable, '-m', 'experiments.run'
WAIT = 10           # seconds between two tries of runs that others have locked


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('experiments.run', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  try:
    file, values = _parsed(arguments)
    if values.jobs > 1 and not values.dry_run:
      return _run_with_jobs(file, values)
    trials = select(values.only, plan(file, values.seeds), file)
    if values.dry_run:
      print('\n'.join(forecast.lines(trials, _recorded_rows(values.out), values.jobs)))
      return int(Status.DONE)
    path = _rows_file(pathlib.Path(values.out))
    return run_trials(_rotated(trials, values.turn), path, values.before)
  except KeyboardInterrupt:             # between runs; during a run it is a Stop
    raise Stop(Status.PREEMPTED, 'stopped: the same command goes on') from None


def _run_with_jobs(file: str, values: argparse.Namespace) -> int:
  """Runs the sweep with --jobs: this process checks it and waits, and never loads JAX."""
  trials = check_distinct(list_trials(file, values.seeds), lambda trial: json.dumps(
      trial.config, sort_keys=True, default=list))
  select(values.only, trials, file)
  path = _rows_file(pathlib.Path(values.out))
  return run_processes([file, f'--before={len(rows.read(path)[0])}', *(
      f'--{name}={getattr(values, name)}' for name in ('out', 'seeds', 'only'))], values.jobs)


def _parsed(arguments: Sequence[str]) -> tuple[str, argparse.Namespace]:
  parser = command_line.Parser(
      'experiments.run', __doc__, 'configs/NAME.py[:VARIANT] --out=experiments/PAPER [--seeds=3] '
      '[--only=ARM] [--jobs=1] [--dry_run]')
  number = command_line.positive
  parser.add_argument('config', metavar='configs/NAME.py[:VARIANT]')
  parser.add_argument('--out', default='', metavar='DIR', help='the folder of the experiment')
  parser.add_argument('--seeds', type=number, default=3, metavar='N', help='of each arm')
  parser.add_argument('--only', default='', metavar='ARM', help='some arms, by name')
  parser.add_argument('--jobs', type=number, default=1, metavar='N',
                      help='processes, each with its share of the cores')
  parser.add_argument('--dry_run', action='store_true',
                      help='list runs, finished ones and how long the rest takes')
  # For the processes of --jobs: how many rows there were, and at which share of the arms to begin.
  parser.add_argument('--before', type=int, help=argparse.SUPPRESS)
  parser.add_argument('--turn', type=float, default=0.0, help=argparse.SUPPRESS)
  values = parser.parsed(arguments)
  if not (values.out or values.dry_run):
    parser.error('--out is empty')
  return os.path.normpath(values.config), values


def _rotated(trials: Sequence[Trial], share: float) -> list[Trial]:
  """Returns the trials seed by seed, each seed beginning at a later arm.

  Processes that begin at different arms compile different programs first, and later find those that
  the others compiled.
  """
  seeds: dict[int, list[Trial]] = {}
  for trial in trials:
    seeds.setdefault(trial.seed, []).append(trial)
  first = lambda arms: int(share * len(arms))
  return [trial for arms in seeds.values()
          for trial in (*arms[first(arms):], *arms[:first(arms)])]


def _recorded_rows(out: str) -> list[rows.Row]:
  """Reads the rows of an experiment, by default of all experiments."""
  paths = [pathlib.Path(out)] if out else sorted(pathlib.Path('experiments').glob('*/'))
  read = [rows.read(path) for folder in paths if (path := folder / 'results.jsonl').exists()]
  for fault in (fault for _, faults in read for fault in faults):
    _say(fault)
  return [row for found, _ in read for row in found if 'config' in row]


def run_processes(arguments: Sequence[str], jobs: int) -> int:
  """Runs the command in several processes, each on its share of the cores.

  Returns the first status that isn't 0, else 0.
  """
  bound = hasattr(os, 'sched_setaffinity')
  cores, workers = sorted(os.sched_getaffinity(0)) if bound else [], []
  try:
    for i in range(jobs):
      if bound:
        os.sched_setaffinity(0, cores[i::jobs] or cores)      # the process inherits it
      # A session each: a terminal's Ctrl-C reaches only this process, which passes it on once.
      workers.append(subprocess.Popen([*WORKER, *arguments, f'--turn={i / jobs}'],
                                      start_new_session=True))
    if bound:
      os.sched_setaffinity(0, cores)
    statuses = [worker.wait() for worker in workers]
  except KeyboardInterrupt:
    try:
      for worker in workers:
        worker.terminate()
      for worker in workers:
        worker.wait()
    except KeyboardInterrupt:
      for worker in workers:
        worker.kill()
    raise
  for status in statuses:
    if status < 0:
      _say(f'a process was ended by signal {-status}: the same command goes on')
  return next((abs(status) for status in statuses if status), 0)


def _rows_file(out: pathlib.Path) -> pathlib.Path:
  """Returns the file of an experiment's rows, after a check that it can be written."""
  path = out / 'results.jsonl'
  try:
    out.mkdir(parents=True, exist_ok=True)
    path.open('a').close()
  except OSError as error:
    raise Stop(Status.DISK, f'cannot write {path}: {error.strerror}: take another --out') from error
  return path


def run_trials(trials: Sequence[Trial], path: pathlib.Path, before: int | None) -> int:
  """Runs the trials that have no row yet; returns 0, or the status of the first failure.

  `before` is how many rows there were when the command began: trials that failed in these are tried
  again.
  """
  status, again, (found, faults) = 0, False, rows.read(path)
  before = len(found) if before is None else before
  for fault in faults:
    _say(fault)
  done = {row['config_sha256'] for row in found if 'bench' not in row and 'error' not in row}
  trials = [trial for trial in trials if trial.sha256 not in done]
  while trials:
    locked = []
    for trial in trials:
      if not again and any(other.seed == trial.seed for other in locked):
        locked.append(trial)            # another process is training its teacher
        continue
      try:
        row = _run_and_append(trial, path, before)
      except Stop as stop:
        if stop.status != Status.LOCKED:
          raise
        locked.append(trial)
        continue
      if row and 'error' in row:
        _say(f'failed: {arm_name(trial.arm)}, seed {trial.seed}: {row["error"]["line"]}')
        status = status or row['error']['status']
    if len(locked) == len(trials):
      _say(f'waiting for {len(locked)} runs that others hold')
      time.sleep(WAIT)
    trials, again = locked, True
  return status


def _run_and_append(trial: Trial, path: pathlib.Path, before: int) -> dict[str, Any] | None:
  """Runs a trial, appends its row to the file and returns it.

  Returns None if another process has appended a row of this trial, failed or not, after the first
  `before` rows.
  """
  with workdirs.locked(trial.workdir):
    if any(row['config_sha256'] == trial.sha256 for row in rows.read(path)[0][before:]):
      return None
    _say(f'{arm_name(trial.arm)}, seed {trial.seed}')
    row = run_trial(trial, path.absolute().parent.name)
    rows.append(path, row)
  return row


def run_trial(trial: Trial, experiment: str) -> dict[str, Any]:
  """Runs a trial in its workdir, which this process has locked; returns its row."""
  with _measured(trial.workdir) as effort:
    try:
      with launch.stopped_by_signals() as stopping:
        report = workdirs.run(trial.name, trial.config, trial.workdir, stopping, SHARED)
      results = rows.from_report(report, trial.workdir)
    except Stop as stop:
      if stop.status == Status.PREEMPTED:
        raise
      results = {'error': {'status': int(stop.status), 'line': str(stop)}}
    except Exception as error:
      traceback.print_exc()
      line = ' '.join(f'{type(error).__name__}: {error}'.split())
      results = {'error': {'status': 1, 'line': line}}
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  return rows.rounded({
      'schema': rows.SCHEMA, 'experiment': experiment, 'config': trial.file, 'base': trial.base,
      'arm': trial.arm, 'seed': trial.seed, 'data_seed': trial.seed,
      'config_sha256': trial.sha256, 'time': now, **effort, **results})


@contextlib.contextmanager
def _measured(workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
  """Measures the time of a run over all its resumptions, and lists the commits that it ran at."""
  path, started, here = workdir / 'spent.json', time.monotonic(), rows.commit()
  if path.exists():
    effort = json.loads(path.read_text())
  else:
    begun = (workdir / 'config.json').exists()      # by distill.main, which records no effort
    effort = {'commit': 'unknown' if begun else here, 'seconds': 0.0}
  if here not in effort['commit'].split(', ') and not (workdir / 'report.json').exists():
    effort['commit'] += f', {here}'

  def keep() -> None:
    replace(path, json.dumps(effort, allow_nan=False))

  keep()
  try:
    yield effort
  finally:
    effort['seconds'] += time.monotonic() - started
    keep()


def _say(line: str) -> None:
  print(f'experiments.run: {line}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  sys.exit(main(sys.argv[1:]))
