"""The rows of results.jsonl: how they are made of reports, written and read.

A row is a finished run, or one that failed (then it has `error`, and no numbers), or a bench's
(then it has `bench`, its name).
"""
import fcntl
import functools
import json
import os
import pathlib
import subprocess
from collections.abc import Mapping
from typing import Any

from distill import numbers

Row = Mapping[str, Any]
Arm = Mapping[str, Any]         # overrides of a config by dotted path; and VARIANT, if it is of one
VARIANT = 'variant'

NAMES = pathlib.Path(__file__).with_name('names.json')
SCHEMA = 1
FIELDS = {'schema', 'config', 'base', 'arm', 'seed', 'config_sha256', 'commit', 'seconds'}
FINISHED = {'metric', 'models', 'training', 'data', 'hardware', 'versions'}
BENCH = {'schema', 'bench', 'time', 'commit', 'seconds', 'rounds', 'sizes', 'numbers', 'hardware',
         'versions'}
TAKEN = ('role', 'params', 'params_outside_embeddings', 'bytes', 'flops', 'throughput_per_s', 'saw')


def recorded(sha256: str) -> str:
  """Returns the name that rows have for the config of this name.

  They differ for rows of before 2026-12, when fields with their default counted too: `NAMES` has
  the start of each new name, and the old one.
  """
  return _names().get(sha256[:16], sha256)


@functools.cache
def _names() -> Mapping[str, str]:
  return json.loads(NAMES.read_text())


def words(arm: Arm) -> str:
  """An arm's name."""
  said = (value if path == VARIANT else f'{path}={value}' for path, value in arm.items())
  return ', '.join(said) or 'as it stands'


def told(report: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
  """What a row has of a report; a stage is `shared` if another run trained it.

  One that was evaluated on the way has its `curve`: what it is judged by, by step. A shared one has
  none here: it is in the row of the run that trained it.
  """
  task = report['task']
  about = report['models'][0]['quality'][task['primary']]
  curves = _curves(workdir, f'{task["split"]}/{task["primary"]}') if 'split' in task else {}
  judged = lambda of: {
      'n': of['quality'][task['primary']]['n'], 'retention': of['retention'], 'gain': of['gain'],
      'quality': {metric: q['value'] for metric, q in of['quality'].items()}}
  return {
      'metric': {'name': task['primary'], **{key: about[key] for key in (
          'unit', 'higher_is_better')}, **({'split': task['split']} if 'split' in task else {})},
      'models': {m['name']: {
          **{key: m[key] for key in TAKEN}, **judged(m),
          'latency_ms': m['latency_ms'] and m['latency_ms']['p50'],
          **({'tier': _tier(m['tier'])} if m.get('tier') else {}),
          **({'also': {split: judged(of) for split, of in m['also'].items()}}
             if 'also' in m else {})}
          for m in report['models']},
      'training': {stage: {
          'seconds': cost['seconds'], 'steps': cost['steps'],
          'shared': not (workdir / 'checkpoints' / stage / str(cost['steps'])).exists(),
          **({'curve': curves[stage]} if stage in curves else {})}
          for stage, cost in report['training'].items()},
      'data': {key: report['data'][key] for key in ('name', 'fingerprint')},
      'hardware': report['hardware'], 'versions': report['versions']}


def _tier(told: Mapping[str, Any]) -> dict[str, Any]:
  """The verdict of the tier that a student was to reach, its limits by name."""
  limits = {limit['name']: {key: limit[key] for key in ('bound', 'limit', 'value', 'passed')}
            for limit in told['limits']}
  return {'name': told['name'], 'passed': told['passed'], 'limits': limits}


def _curves(workdir: pathlib.Path, metric: str) -> dict[str, list[list[float]]]:
  """By stage: the steps at which its log has the metric, each with its value to five digits."""
  found: dict[str, list[list[float]]] = {}
  path = workdir / 'metrics.jsonl'
  for line in path.read_bytes().splitlines() if path.exists() else ():
    logged = json.loads(line)
    if logged.get(metric) is not None:
      found.setdefault(logged['stage'], []).append([
          logged['step'], float(f'{logged[metric]:.5g}')])
  return found


def rounded(value: Any) -> Any:
  """Floats to six significant digits, all the way down."""
  if isinstance(value, float):
    return float(f'{value:.6g}')
  if isinstance(value, Mapping):
    return {key: rounded(inner) for key, inner in value.items()}
  return value


def append(path: pathlib.Path, row: Row) -> None:
  """Adds a row, on a line of its own even where the last writer was cut short."""
  line = numbers.dumps(row, f'a row of {path}', ensure_ascii=False).encode()
  with path.open('a+b') as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    torn = False
    if file.seek(0, os.SEEK_END):
      file.seek(-1, os.SEEK_END)
      torn = file.read(1) != b'\n'
    file.write(b'\n' * torn + line + b'\n')
    file.flush()
    os.fsync(file.fileno())


def read(path: pathlib.Path) -> tuple[list[Row], list[str]]:
  """The rows of a file, and a sentence about each of its lines that isn't one."""
  found, faults = [], []
  for number, line in enumerate(path.read_bytes().split(b'\n'), 1):
    try:
      if line:
        found.append(_checked(json.loads(line)))
    except ValueError as error:
      faults.append(f'{path}:{number} is left out: {error}')
  return found, faults


def _checked(row: Any) -> Row:
  if not isinstance(row, dict):
    raise ValueError('it is no row')
  if row.get('schema') != SCHEMA:
    raise ValueError(f'its schema is {row.get("schema")}, where this code has {SCHEMA}')
  of_a_run = FIELDS if 'error' in row else FIELDS | FINISHED
  if missing := (BENCH if 'bench' in row else of_a_run) - row.keys():
    raise ValueError(f'it lacks {", ".join(sorted(missing))}')
  return row


def commit() -> str:
  """HEAD, with `-dirty` if tracked files other than rows and prose differ from it."""
  git = lambda *command: subprocess.run(('git', '--no-optional-locks', *command), text=True,
                                        capture_output=True, check=True).stdout.strip()
  try:
    differ = git('diff', '--name-only', 'HEAD', '--', ':(top,exclude)*.jsonl', ':(top,exclude)*.md')
    return git('rev-parse', 'HEAD') + ('-dirty' if differ else '')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
