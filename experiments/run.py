"""Runs a config's sweep over seeds, and leaves a row in results.jsonl for every run.

python -m experiments.run configs/NAME.py[:VARIANT] --out=experiments/PAPER [--seeds=3] [--only=ARM]

An arm is what the config's `sweep()` yields: overrides by dotted path; {} is the config as it
stands, and the only arm of a config without a sweep. `--only` takes the arms whose name holds it.

A seed sets both `seed` and `data.seed`: the arms of a seed see the same batches in the same order
and are compared in pairs. Runs go seed by seed, so that what is there at any time is paired.
Stages that are equal (a teacher, a baseline) are trained once: runs leave them in runs/shared.

The same command goes on where it was stopped. A finished run isn't run again; one that failed is
a row with its error, and is tried again. Two runners share the work: one that finds a run taken
goes on with the next seed, then comes back, and waits for what is still taken. Nothing is
committed.
"""
import contextlib
import dataclasses
import datetime
import inspect
import json
import os
import pathlib
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from distill import main as distill
from distill.disk import replace
from distill.types import Status, Stop
from experiments import rows
from experiments.rows import Arm, words

SHARED = pathlib.Path('runs/shared')
WAIT = 10           # seconds between looks at runs that others hold


@dataclasses.dataclass(frozen=True)
class Planned:
  """An arm at a seed, resolved."""
  file: str
  arm: Arm
  seed: int
  config: Mapping[str, Any]
  base: str           # a short hash of the config as it stands

  @property
  def sha256(self) -> str:
    return distill.sha256(self.config)

  @property
  def name(self) -> str:
    return distill.name_of(self.file)

  @property
  def workdir(self) -> pathlib.Path:
    return pathlib.Path('runs') / f'{self.name}-{self.sha256[:8]}'


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  if {'--help', '-h'} & set(arguments):
    print(__doc__, file=sys.stderr)
    return int(Status.DONE)
  try:
    file, values = _parsed(arguments)
    planned = [p for p in plan(file, values.seeds) if values.only in words(p.arm)]
    if not planned:
      raise Stop(Status.CONFIG, f'--only={values.only} is in the name of no arm of {file}: '
                 + '; '.join(map(words, arms(file))))
    return carried_out(planned, pathlib.Path(values.out))
  except Stop as stop:
    _say(str(stop))
    return int(stop.status)
  except KeyboardInterrupt:             # between runs; within one it is a Stop
    _say('stopped: the same command goes on')
    return int(Status.PREEMPTED)


def _parsed(arguments: Sequence[str]) -> tuple[str, flags.FlagValues]:
  values = flags.FlagValues()
  flags.DEFINE_string('out', '', 'the folder of the experiment', flag_values=values)
  flags.DEFINE_integer('seeds', 3, 'how many', lower_bound=1, flag_values=values)
  flags.DEFINE_string('only', '', 'part of the names of the arms to run', flag_values=values)
  try:
    left = values(['experiments.run', *arguments])[1:]
  except flags.Error as error:
    raise Stop(Status.CONFIG, ' '.join(str(error).split())) from error
  if len(left) != 1 or not values.out:
    raise Stop(Status.CONFIG, 'say: python -m experiments.run configs/NAME.py[:VARIANT] '
               '--out=experiments/PAPER [--seeds=3] [--only=ARM]')
  return os.path.normpath(left[0]), values


def arms(file: str) -> list[Arm]:
  """What the config's `sweep` yields; it is given the variant if it takes one."""
  path, _, variant = file.partition(':')
  sweep = runpy.run_path(path).get('sweep', lambda: [{}])
  given = [variant] if variant and inspect.signature(sweep).parameters else []
  try:
    found = list(sweep(*given))
  except Exception as error:
    raise Stop(Status.CONFIG, f'{path}: sweep: {type(error).__name__}: {error}') from error
  if not found:
    raise Stop(Status.CONFIG, f'{path}: sweep yields nothing: {{}} is the config as it stands')
  for arm in found:
    if not isinstance(arm, Mapping):
      raise Stop(Status.CONFIG, f'{path}: sweep yields {arm!r}, not overrides by dotted path')
    if {'seed', 'data.seed'} & arm.keys():
      raise Stop(Status.CONFIG, f'{path}: sweep sets a seed ({words(arm)}): --seeds does that')
  return found


def plan(file: str, seeds: int) -> list[Planned]:
  """Every arm of every seed, seed by seed, resolved: a wrong override stops before any run."""
  def resolved(overrides: Arm) -> dict[str, Any]:
    return distill.parsed([f'--config={file}', *(
        f'--config.{path}={value}' for path, value in overrides.items())]).config.to_dict()

  base, found = distill.sha256(resolved({}))[:8], {}
  for seed in range(seeds):
    for arm in arms(file):
      each = Planned(file, arm, seed, resolved({**arm, 'seed': seed, 'data.seed': seed}), base)
      same = found.setdefault(each.sha256, each)
      if same is not each:
        raise Stop(Status.CONFIG, f'{file}: these are one config: {words(same.arm)} (seed '
                   f'{same.seed}) and {words(arm)} (seed {seed}): drop one from its sweep')
  return list(found.values())


def carried_out(planned: Sequence[Planned], out: pathlib.Path) -> int:
  """Runs what has no row yet; 0, or the status of the first run that failed."""
  path, status, again = out / 'results.jsonl', 0, False
  try:
    out.mkdir(parents=True, exist_ok=True)
    path.open('a').close()
  except OSError as error:
    raise Stop(Status.DISK, f'cannot write {path}: {error.strerror}: take another --out') from error
  for fault in rows.read(path)[1]:
    _say(fault)
  while planned:
    taken = []
    for each in planned:
      if not again and any(each.seed == other.seed for other in taken):
        taken.append(each)              # its teacher is being trained by another runner
        continue
      try:
        row = _added(each, path)
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


def _added(planned: Planned, path: pathlib.Path) -> dict[str, Any] | None:
  """The row of a run that has just been added; None if it was there."""
  with distill.locked(planned.workdir):
    if any(row['config_sha256'] == planned.sha256 and 'error' not in row
           for row in rows.read(path)[0]):
      return None
    _say(f'{words(planned.arm)}, seed {planned.seed}')
    row = finished(planned, path.absolute().parent.name)
    rows.append(path, row)
  return row


def finished(planned: Planned, experiment: str) -> dict[str, Any]:
  """Runs it in its workdir, which this process has locked; the row that tells of it."""
  with _counted(planned.workdir) as spent:
    try:
      with distill.stopped_by_signals() as stopping:
        report = distill.run(planned.name, planned.config, planned.workdir, stopping, SHARED)
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
      'schema': 1, 'experiment': experiment, 'config': planned.file, 'base': planned.base,
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
    replace(path, json.dumps(spent))

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
