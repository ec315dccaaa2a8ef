"""Runs a config's sweep over seeds, and leaves a row in results.jsonl for every run.

python -m experiments.run configs/NAME.py[:VARIANT] --out=experiments/PAPER [--seeds=3] [--only=ARM]

  --dry_run    what would run, what is there, and about how long the rest takes
  --jobs=N     N processes, each with its share of the cores

An arm is what the config's `sweep()` yields: the name of a variant, or overrides by dotted path,
for which 'variant' is one more; {} is the config as it stands, and the only arm of a config
without a sweep. `--only` takes the arm of that name, or else those whose name holds it.

A seed sets both `seed` and `data.seed`: the arms of a seed see the same batches in the same order
and are compared in pairs. Runs go seed by seed, so that what is there at any time is paired.
Stages that are equal (a teacher, a baseline) are trained once: runs leave them in runs/shared.

The same command goes on where it was stopped. A finished run isn't run again; one that failed is
a row with its error, and is tried again by the next command. Runners share the work, the processes
of `--jobs` as well as commands: one that finds a run taken goes on with the next seed, then comes
back, and waits for what is still taken. Nothing is committed.
"""
import contextlib
import dataclasses
import datetime
import functools
import inspect
import json
import os
import pathlib
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from distill import flags as commands
from distill import launch, streams
from distill import workdir as workdirs
from distill.disk import replace
from distill.pipelines.identities import config_sha256
from distill.types import Status, Stop
from experiments import forecast, rows
from experiments.rows import VARIANT, Arm, words

SHARED = pathlib.Path('runs/shared')
WORKER = sys.executable, '-m', 'experiments.run'
WAIT = 10           # seconds between looks at runs that others hold


@dataclasses.dataclass(frozen=True)
class Planned:
  """An arm at a seed, resolved."""
  file: str
  arm: Arm
  seed: int
  config: Mapping[str, Any]
  base: str           # a short hash of the config as it stands

  @functools.cached_property
  def sha256(self) -> str:
    """The name that rows have for the config."""
    return rows.recorded(config_sha256(self.config))

  @property
  def name(self) -> str:
    return commands.name_of(self.file)

  @functools.cached_property
  def workdir(self) -> pathlib.Path:
    return workdirs.default(self.name, self.config)


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  return streams.run('experiments.run', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  if {'--help', '-h'} & set(arguments):
    print(__doc__, file=sys.stderr)
    return int(Status.DONE)
  try:
    file, values = _parsed(arguments)
    planned = _only(values.only, plan(file, values.seeds), file)
    if values.dry_run:
      print('\n'.join(forecast.lines(planned, _there(values.out), values.jobs)))
      return int(Status.DONE)
    path = _writable(pathlib.Path(values.out))
    planned = _turned(planned, values.turn)
    if values.jobs > 1:
      return shared_out([file, f'--before={len(rows.read(path)[0])}', *(
          f'--{name}={values[name].value}' for name in ('out', 'seeds', 'only'))], values.jobs)
    return carried_out(planned, path, values.before)
  except KeyboardInterrupt:             # between runs; within one it is a Stop
    raise Stop(Status.PREEMPTED, 'stopped: the same command goes on') from None


def _parsed(arguments: Sequence[str]) -> tuple[str, flags.FlagValues]:
  values = flags.FlagValues()
  flags.DEFINE_string('out', '', 'the folder of the experiment', flag_values=values)
  flags.DEFINE_integer('seeds', 3, 'how many', lower_bound=1, flag_values=values)
  flags.DEFINE_string('only', '', 'part of the names of the arms to run', flag_values=values)
  flags.DEFINE_integer('jobs', 1, 'processes', lower_bound=1, flag_values=values)
  flags.DEFINE_integer('before', None, "how many rows there were: by --jobs", flag_values=values)
  flags.DEFINE_float('turn', 0.0, 'at which share of the arms to begin: by --jobs',
                     flag_values=values)
  flags.DEFINE_bool('dry_run', False, 'say what would be run', flag_values=values)
  try:
    left = values(['experiments.run', *arguments])[1:]
  except flags.Error as error:
    raise Stop(Status.CONFIG, ' '.join(str(error).split())) from error
  if len(left) != 1 or not (values.out or values.dry_run):
    raise Stop(Status.CONFIG, 'say: python -m experiments.run configs/NAME.py[:VARIANT] '
               '--out=experiments/PAPER [--seeds=3] [--only=ARM] [--jobs=1] [--dry_run]')
  return os.path.normpath(left[0]), values


def arms(file: str) -> list[Arm]:
  """What the config's `sweep` yields; it is given the variant if it takes one."""
  path, _, variant = file.partition(':')
  try:
    sweep = runpy.run_path(path).get('sweep', lambda: [{}])
  except (Exception, SystemExit) as error:
    raise Stop(Status.CONFIG, f'{path}: {type(error).__name__}: {error}') from error
  given = [variant] if variant and inspect.signature(sweep).parameters else []
  try:
    found = list(sweep(*given))
  except Exception as error:
    raise Stop(Status.CONFIG, f'{path}: sweep: {type(error).__name__}: {error}') from error
  if not found:
    raise Stop(Status.CONFIG, f'{path}: sweep yields nothing: {{}} is the config as it stands')
  found = [{VARIANT: arm} if isinstance(arm, str) else arm for arm in found]
  for arm in found:
    if not isinstance(arm, Mapping):
      raise Stop(Status.CONFIG, f'{path}: sweep yields {arm!r}, neither a variant nor overrides by '
                 'dotted path')
    if {'seed', 'data.seed'} & arm.keys():
      raise Stop(Status.CONFIG, f'{path}: sweep sets a seed ({words(arm)}): --seeds does that')
    if variant and VARIANT in arm:
      raise Stop(Status.CONFIG, f'{path}: sweep yields the variant {arm[VARIANT]}: run {path} '
                 f'without :{variant}')
  return found


def plan(file: str, seeds: int) -> list[Planned]:
  """Every arm of every seed, seed by seed, resolved: a wrong override stops before any run."""
  def resolved(arm: Arm):
    variant = f':{arm[VARIANT]}' if VARIANT in arm else ''
    return commands.parsed([f'--config={file}{variant}', *(
        f'--config.{path}={value}' for path, value in arm.items() if path != VARIANT)]).config

  base = rows.recorded(config_sha256(resolved({}).to_dict()))[:8]
  told = [(arm, resolved({**arm, 'seed': 0, 'data.seed': 0})) for arm in arms(file)]
  found = {}
  for seed in range(seeds):
    for arm, config in told:
      config.seed = config.data.seed = seed
      each = Planned(file, arm, seed, config.to_dict(), base)
      same = found.setdefault(each.sha256, each)
      if same is not each:
        raise Stop(Status.CONFIG, f'{file}: these are one config: {words(same.arm)} (seed '
                   f'{same.seed}) and {words(arm)} (seed {seed}): drop one from its sweep')
  return list(found.values())


def _only(part: str, planned: Sequence[Planned], file: str) -> list[Planned]:
  """The runs of the arm that is named so; without one, of the arms whose name holds it."""
  named = [p for p in planned if words(p.arm) == part]
  if found := named or [p for p in planned if part in words(p.arm)]:
    return found
  raise Stop(Status.CONFIG, f'--only={part} is in the name of no arm of {file}: '
             + '; '.join(dict.fromkeys(words(p.arm) for p in planned)))


def _turned(planned: Sequence[Planned], share: float) -> list[Planned]:
  """Seed by seed still, but each seed from a later arm on and around: so two runners compile other
  programs at first, and find each other's later.
  """
  seeds: dict[int, list[Planned]] = {}
  for each in planned:
    seeds.setdefault(each.seed, []).append(each)
  first = lambda arms: int(share * len(arms))
  return [each for arms in seeds.values() for each in (*arms[first(arms):], *arms[:first(arms)])]


def _there(out: str) -> list[rows.Row]:
  """The rows of an experiment; without one, of all in the folder that is meant for them."""
  paths = [pathlib.Path(out)] if out else sorted(pathlib.Path('experiments').glob('*/'))
  read = [rows.read(path) for folder in paths if (path := folder / 'results.jsonl').exists()]
  for fault in (fault for _, faults in read for fault in faults):
    _say(fault)
  return [row for found, _ in read for row in found if 'config' in row]


def shared_out(arguments: Sequence[str], jobs: int) -> int:
  """The command in several processes, each on its share of the cores; the first bad status."""
  bound = hasattr(os, 'sched_setaffinity')
  cores, workers = sorted(os.sched_getaffinity(0)) if bound else [], []
  try:
    for i in range(jobs):
      if bound:
        os.sched_setaffinity(0, cores[i::jobs] or cores)      # which the process inherits
      # A session each: a terminal's Ctrl-C reaches this process alone, which passes it on once.
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


def _writable(out: pathlib.Path) -> pathlib.Path:
  """The file of an experiment's rows."""
  path = out / 'results.jsonl'
  try:
    out.mkdir(parents=True, exist_ok=True)
    path.open('a').close()
  except OSError as error:
    raise Stop(Status.DISK, f'cannot write {path}: {error.strerror}: take another --out') from error
  return path


def carried_out(planned: Sequence[Planned], path: pathlib.Path, before: int | None) -> int:
  """Runs what has no row yet; 0, or the status of the first run that failed.

  `before` is how many rows there were when the command began: those that failed are tried again.
  """
  status, again, (found, faults) = 0, False, rows.read(path)
  before = len(found) if before is None else before
  for fault in faults:
    _say(fault)
  done = {row['config_sha256'] for row in found if 'bench' not in row and 'error' not in row}
  planned = [each for each in planned if each.sha256 not in done]
  while planned:
    taken = []
    for each in planned:
      if not again and any(other.seed == each.seed for other in taken):
        taken.append(each)              # its teacher is being trained by another runner
        continue
      try:
        row = _added(each, path, before)
      except Stop as stop:
        if stop.status != Status.LOCKED:
          raise
        taken.append(each)
        continue
      if row and 'error' in row:
        _say(f'failed: {words(each.arm)}, seed {each.seed}: {row["error"]["line"]}')
        status = status or row['error']['status']
    if len(taken) == len(planned):
      _say(f'waiting for {len(taken)} runs that others hold')
      time.sleep(WAIT)
    planned, again = taken, True
  return status


def _added(planned: Planned, path: pathlib.Path, before: int) -> dict[str, Any] | None:
  """The row of a run that has just been added; None if another runner added one, failed or not,
  after the `before` rows that there were."""
  with workdirs.locked(planned.workdir):
    if any(row['config_sha256'] == planned.sha256 for row in rows.read(path)[0][before:]):
      return None
    _say(f'{words(planned.arm)}, seed {planned.seed}')
    row = finished(planned, path.absolute().parent.name)
    rows.append(path, row)
  return row


def finished(planned: Planned, experiment: str) -> dict[str, Any]:
  """Runs it in its workdir, which this process has locked; the row that tells of it."""
  with _counted(planned.workdir) as spent:
    try:
      with launch.stopped_by_signals() as stopping:
        report = workdirs.run(planned.name, planned.config, planned.workdir, stopping, SHARED)
      told = rows.told(report, planned.workdir)
    except Stop as stop:
      if stop.status == Status.PREEMPTED:
        raise
      told = {'error': {'status': int(stop.status), 'line': str(stop)}}
    except Exception as error:
      traceback.print_exc()
      line = ' '.join(f'{type(error).__name__}: {error}'.split())
      told = {'error': {'status': 1, 'line': line}}
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')
  return rows.rounded({
      'schema': rows.SCHEMA, 'experiment': experiment, 'config': planned.file, 'base': planned.base,
      'arm': planned.arm, 'seed': planned.seed, 'data_seed': planned.seed,
      'config_sha256': planned.sha256, 'time': now, **spent, **told})


@contextlib.contextmanager
def _counted(workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
  """At which commits a run was worked on and for how long, over all times it was taken up."""
  path, started, here = workdir / 'spent.json', time.monotonic(), rows.commit()
  if path.exists():
    spent = json.loads(path.read_text())
  else:
    begun = (workdir / 'config.json').exists()      # by distill.main, which doesn't keep count
    spent = {'commit': 'unknown' if begun else here, 'seconds': 0.0}
  if here not in spent['commit'].split(', ') and not (workdir / 'report.json').exists():
    spent['commit'] += f', {here}'

  def keep() -> None:
    replace(path, json.dumps(spent, allow_nan=False))

  keep()
  try:
    yield spent
  finally:
    spent['seconds'] += time.monotonic() - started
    keep()


def _say(line: str) -> None:
  print(f'experiments.run: {line}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  sys.exit(main(sys.argv[1:]))
