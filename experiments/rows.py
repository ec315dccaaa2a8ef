"""Rows of results.jsonl: made from reports, written and read.

A row is that of a finished run, of a failed run (it has `error` and no numbers) or of a bench (it
has `bench`, the bench's name).
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
Arm = Mapping[str, Any]         # overrides of a config by dotted path, and its VARIANT, if any
VARIANT = 'variant'

NAMES = pathlib.Path(__file__).with_name('names.json')
SCHEMA = 1
FIELDS = {'schema', 'config', 'base', 'arm', 'seed', 'config_sha256', 'commit', 'seconds'}
FINISHED = {'metric', 'models', 'training', 'data', 'hardware', 'versions'}
BENCH = {'schema', 'bench', 'time', 'commit', 'seconds', 'rounds', 'sizes', 'numbers', 'hardware',
         'versions'}
MODEL = ('role', 'params', 'params_outside_embeddings', 'bytes', 'flops', 'throughput_per_s', 'saw')


def recorded(sha256: str) -> str:
  """Returns the hash that rows have for the config of this hash.

  The two differ for rows from before 2026-12, when fields at their default were part of the hash:
  `NAMES` has the start of each new hash, and the old one.
  """
  return _names().get(sha256[:16], sha256)


@functools.cache
def _names() -> Mapping[str, str]:
  return json.loads(NAMES.read_text())


def arm_name(arm: Arm) -> str:
  """Returns an arm's name: its variant and its overrides."""
  parts = (value if path == VARIANT else f'{path}={value}' for path, value in arm.items())
  return ', '.join(parts) or 'as it stands'


def from_report(report: Mapping[str, Any], workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the fields that a row takes from a report.

  A stage is `shared` if another run trained it. A stage that was evaluated during training has its
  `curve`, the primary metric by step; that of a shared stage is in the row of the run that trained
  it.
  """
  task = report['task']
  about = report['models'][0]['quality'][task['primary']]
  curves = _curves(workdir, f'{task["split"]}/{task["primary"]}') if 'split' in task else {}
  evaluation = lambda model: {
      'n': model['quality'][task['primary']]['n'], 'retention': model['retention'],
      'gain': model['gain'],
      'quality': {metric: q['value'] for metric, q in model['quality'].items()}}
  return {
      'metric': {'name': task['primary'], **{key: about[key] for key in (
          'unit', 'higher_is_better')}, **({'split': task['split']} if 'split' in task else {})},
      'models': {model['name']: {
          **{key: model[key] for key in MODEL}, **evaluation(model),
          'latency_ms': model['latency_ms'] and model['latency_ms']['p50'],
          **({'tier': _tier(model['tier'])} if model.get('tier') else {}),
          **({'also': {split: evaluation(further) for split, further in model['also'].items()}}
             if 'also' in model else {})}
          for model in report['models']},
      'training': {stage: {
          'seconds': cost['seconds'], 'steps': cost['steps'],
          'shared': not (workdir / 'checkpoints' / stage / str(cost['steps'])).exists(),
          **({'curve': curves[stage]} if stage in curves else {})}
          for stage, cost in report['training'].items()},
      'data': {key: report['data'][key] for key in ('name', 'fingerprint')},
      'hardware': report['hardware'], 'versions': report['versions']}


def _tier(tier: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the verdict on a student's tier, with its limits by name."""
  limits = {limit['name']: {key: limit[key] for key in ('bound', 'limit', 'value', 'passed')}
            for limit in tier['limits']}
  return {'name': tier['name'], 'passed': tier['passed'], 'limits': limits}


def _curves(workdir: pathlib.Path, metric: str) -> dict[str, list[list[float]]]:
  """Returns by stage the steps at which a metric was logged, each with its value to five digits."""
  found: dict[str, list[list[float]]] = {}
  path = workdir / 'metrics.jsonl'
  for line in path.read_bytes().splitlines() if path.exists() else ():
    logged = json.loads(line)
    if logged.get(metric) is not None:
      found.setdefault(logged['stage'], []).append([
          logged['step'], float(f'{logged[metric]:.5g}')])
  return found


def rounded(value: Any) -> Any:
  """Returns a value with all floats in it rounded to six significant digits."""
  if isinstance(value, float):
    return float(f'{value:.6g}')
  if isinstance(value, Mapping):
    return {key: rounded(inner) for key, inner in value.items()}
  return value


def append(path: pathlib.Path, row: Row) -> None:
  """Appends a row as a new line, also if the last line is incomplete."""
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
  """Returns the rows of a file, and a sentence about each line that is no row."""
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
  missing = (BENCH if 'bench' in row else of_a_run) - row.keys()
  if missing:
    raise ValueError(f'it lacks {", ".join(sorted(missing))}')
  return row


def commit() -> str:
  """Returns HEAD, with `-dirty` if tracked files other than rows and prose differ from it."""
  git = lambda *command: subprocess.run(('git', '--no-optional-locks', *command), text=True,
                                        capture_output=True, check=True).stdout.strip()
  try:
    differ = git('diff', '--name-only', 'HEAD', '--', ':(top,exclude)*.jsonl', ':(top,exclude)*.md')
    return git('rev-parse', 'HEAD') + ('-dirty' if differ else '')
  except (OSError, subprocess.CalledProcessError):
    return 'unknown'
