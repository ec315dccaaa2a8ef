"""Runs a config's sweep over seeds, and leaves a row in results.jsonl for every run.

python -m experiments.run configs/NAME.py[:VARIANT] --out=experiments/PAPER [--seeds=3] [--only=ARM]

An arm is what the config's `sweep()` yields: overrides by dotted path; {} is the config as it
stands, and the only arm of a config without a sweep. `--only` takes the arms whose name holds it.

A seed sets both `seed` and `data.seed`: the arms of a seed see the same batches in the same order
and are compared in pairs. Runs go seed by seed, so that what is there at any time is paired.
Stages that are equal (a teacher, a baseline) are trained once: runs leave them in runs/shared.

The same command goes on where it was stopped. A finished run isn't run again; a failed one is a
row with its error, and is tried again. Two runners share the work: one that finds a run taken
goes on with the next seed, then comes back and waits for what is still taken. Nothing is
committed.
"""
import contextlib
import dataclasses
import datetime
import fcntl
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

from distill import main as distill
from distill.types import Status, Stop

Row = Mapping[str, Any]
Arm = Mapping[str, Any]
SHARED = pathlib.Path('runs/shared')
WAIT = 10           # seconds between looks at runs that others hold
FIELDS = {'schema', 'config', 'base', 'arm', 'seed', 'config_sha256'}


@dataclasses.dataclass(frozen=True)
class Planned:
  """An arm at a seed, resolved."""
  file: str
  arm: Arm
  seed: int
  config: Mapping[str, Any]
  base: str           # a short hash of the config as it stands; other numbers don't compare

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
  try:
    values = _parsed(arguments)
    file, out = os.path.normpath(arguments[0]), pathlib.Path(values.out)
    wanted = [p for p in plan(file, values.seeds) if values.only in words(p.arm)]
    if not wanted:
      raise Stop(Status.CONFIG, f'--only={values.only!r} is in no arm of {file}: '
                 + '; '.join(map(words, arms(file))))
    return carried_out(wanted, out)
  except Stop as stop:
    print(f'experiments.run: {stop}', file=sys.stderr, flush=True)
    return int(stop.status)
  except KeyboardInterrupt:           # between runs; inside one it is a Stop
    print('experiments.run: stopped: the same command goes on', file=sys.stderr, flush=True)
    return int(Status.PREEMPTED)


def _parsed(arguments: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_string('out', '', 'the folder of the experiment', flag_values=values)
  flags.DEFINE_integer('seeds', 3, 'how many', lower_bound=1, flag_values=values)
  flags.DEFINE_string('only', '', 'part of the names of the arms to run', flag_values=values)
  try:
    left = values(['experiments.run', *arguments])[1:]
  except flags.Error as error:
    raise Stop(Status.CONFIG, ' '.join(str(error).split())) from error
  if len(left) != 1 or left[0] != arguments[0] or not values.out:
    raise Stop(Status.CONFIG, 'python -m experiments.run configs/NAME.py[:VARIANT] '
               '--out=experiments/PAPER [--seeds=3] [--only=ARM]')
  return values


def words(arm: Arm) -> str:
  """An arm's name."""
  return ', '.join(f'{path}={value}' for path, value in arm.items()) or 'as it stands'


def arms(file: str) -> list[Arm]:
  """What the config's `sweep` yields; it is given the variant if it takes one."""
  path, _, variant = file.partition(':')
  sweep = runpy.run_path(path).get('sweep', lambda: [{}])
  given = [variant] if variant and inspect.signature(sweep).parameters else []
  try:
    found = list(sweep(*given))
  except Exception as error:
    raise Stop(Status.CONFIG, f'{path}: sweep: {type(error).__name__}: {error}') from error
  for arm in found:
    if not isinstance(arm, Mapping) or not all(isinstance(key, str) for key in arm):
      raise Stop(Status.CONFIG, f'{path}: sweep yields {arm!r}, not overrides by dotted path')
  return found


def plan(file: str, seeds: int) -> list[Planned]:
  """Every arm of every seed, seed by seed, resolved: what cannot be stops here, before any run."""
  resolved = lambda overrides: distill.parsed([f'--config={file}', *(
      f'--config.{path}={value}' for path, value in overrides.items())]).config.to_dict()
  base, found = distill.sha256(resolved({}))[:8], {}
  for seed in range(seeds):
    for arm in arms(file):
      each = Planned(file, arm, seed, resolved({'seed': seed, 'data.seed': seed, **arm}), base)
      if (same := found.setdefault(each.sha256, each)) is not each:
        raise Stop(Status.CONFIG, f'{file}: two arms are one config: {words(same.arm)} (seed '
                   f'{same.seed}), and {words(arm)} (seed {seed})')
  return list(found.values())


def carried_out(planned: Sequence[Planned], out: pathlib.Path) -> int:
  """Runs what has no row yet; 0, or the status of the first run that failed."""
  path, status, come_back = out / 'results.jsonl', 0, False
  try:
    out.mkdir(parents=True, exist_ok=True)
    path.open('a').close()
  except OSError as error:
    raise Stop(Status.DISK, f'cannot write {path}: {error.strerror}: take another --out') from error
  for fault in rows(path)[1]:
    _say(fault)
  while planned:
    taken, seeds = [], set()
    for each in planned:
      if each.seed in seeds and not come_back:        # whose teacher another runner is training
        taken.append(each)
        continue
      try:
        with distill.locked(each.workdir):
          if any(r['config_sha256'] == each.sha256 for r in rows(path)[0] if 'error' not in r):
            continue
          _say(f'{words(each.arm)}, seed {each.seed}')
          row = row_of_run(each, out.name)
          append(path, row)
      except Stop as stop:
        if stop.status != Status.LOCKED:
          raise
        taken.append(each)
        seeds.add(each.seed)
        continue
      if error := row.get('error'):
        _say(f'failed: {error["line"]}')
        status = status or error['status']
    if len(taken) == len(planned):
      time.sleep(WAIT)
    planned, come_back = taken, True
  return status


def row_of_run(planned: Planned, experiment: str) -> dict[str, Any]:
  """Runs it in its workdir, which this process has locked; the row that tells of it."""
  with _counted(planned.workdir) as spent:
    try:
      told = row_of(distill.run(planned.name, planned.config, planned.workdir, SHARED),
                    planned.workdir)
    except Stop as stop:
      if stop.status == Status.PREEMPTED:
        raise
      told = {'error': {'status': int(stop.status), 'line': str(stop)}}
    except Exception as error:
      traceback.print_exc()
      line = ' '.join(str(error).split())
      told = {'error': {'status': 1, 'line': f'{type(error).__name__}: {line}'}}
  return {
      'schema': 1, 'experiment': experiment, 'config': planned.file, 'base': planned.base,
      'arm': planned.arm, 'seed': planned.config['seed'],
      'data_seed': planned.config['data']['seed'], 'config_sha256': planned.sha256,
      'time': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
      **rounded(spent), **rounded(told)}


def row_of(report: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
  """What of a report goes into a row; `shared` are stages that another run trained."""
  primary = report['task']['primary']
  quality = report['models'][0]['quality'][primary]
  taken = ('role', 'params', 'params_outside_embeddings', 'bytes', 'flops', 'throughput_per_s',
           'retention', 'gain', 'saw')
  return {
      'metric': {'name': primary, **{k: quality[k] for k in ('unit', 'higher_is_better')}},
      'models': {m['name']: {
          **{field: m[field] for field in taken}, 'latency_ms': m['latency_ms']['p50'],
          'n': m['quality'][primary]['n'],
          'quality': {metric: q['value'] for metric, q in m['quality'].items()}}
          for m in report['models']},
      'training': {stage: {
          'seconds': cost['seconds'], 'steps': cost['steps'],
          'shared': not (workdir / 'checkpoints' / stage / str(cost['steps'])).exists()}
          for stage, cost in report['training'].items()},
      'data': {k: report['data'][k] for k in ('name', 'fingerprint')},
      'hardware': report['hardware'], 'versions': report['versions']}


@contextlib.contextmanager
def _counted(workdir: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The commits at which a run was worked on and its seconds, over all times it was taken up."""
  path, started = workdir / 'spent.json', time.monotonic()
  begun, here = (workdir / 'config.json').exists(), commit()
  spent = json.loads(path.read_text()) if path.exists() else {
      'commit': 'unknown' if begun else here, 'seconds': 0.0}
  if here not in spent['commit'].split(', ') and not (workdir / 'report.json').exists():
    spent['commit'] += f', {here}'

  def keep():
    draft = path.with_suffix('.draft')
    draft.write_text(json.dumps(spent))
    draft.replace(path)

  keep()
  try:
    yield spent
  finally:
    spent['seconds'] += time.monotonic() - started
    keep()


def commit() -> str:
  """HEAD, `-dirty` if tracked files other than rows and prose differ from it."""
  git = lambda *command: subprocess.run(('git', '--no-optional-locks', *command), text=True,
                                        capture_output=True, check=True).stdout.strip()
  try:
    differ = git('diff', '--name-only', 'HEAD', '--', ':(top,exclude)*.jsonl', ':(top,exclude)*.md')
    return git('rev-parse', 'HEAD') + ('-dirty' if differ else '')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'


def rounded(value: Any) -> Any:
  """Floats to six significant digits, all the way down."""
  if isinstance(value, float):
    return float(f'{value:.6g}')
  if isinstance(value, Mapping):
    return {key: rounded(inner) for key, inner in value.items()}
  return value


def append(path: pathlib.Path, row: Row) -> None:
  """Adds a line, whole, on a line of its own even where the last writer was cut short."""
  with path.open('a+b') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    torn = file.seek(0, os.SEEK_END) and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b'\n'
    file.write(b'\n' * bool(torn) + json.dumps(row, ensure_ascii=False).encode() + b'\n')
    file.flush()
    os.fsync(file.fileno())


def rows(path: pathlib.Path) -> tuple[list[Row], list[str]]:
  """The rows of a file, and a line about each of its lines that is none."""
  found, faults = [], []
  for number, line in enumerate(path.read_bytes().splitlines(), 1):
    try:
      row = json.loads(line)
      if not isinstance(row, dict) or FIELDS - row.keys() or row['schema'] != 1:
        raise ValueError('not a row of schema 1')
      found.append(row)
    except ValueError as error:
      faults.append(f'{path}:{number} is left out: {error}')
  return found, faults


def _say(line: str) -> None:
  print(f'experiments.run: {line}', file=sys.stderr, flush=True)


if __name__ == '__main__':
  signal.signal(signal.SIGTERM, signal.default_int_handler)
  sys.exit(main(sys.argv[1:]))
