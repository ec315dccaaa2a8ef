"""`CONTRACT` is what report.json promises. Table and verdict say nothing that isn't in it.

`flops` and `peak_memory_bytes` are those of the call that `latency_ms` times; they and
`throughput_per_s` are null where calls weren't measured (`evaluate.cost`). `saw` is null for a
model that was loaded. `task.split` names the examples of `quality`, a model's `teachers` those that
it learnt from, its `note` says what else is to be known of it, and its `also` holds the same of
further splits; a report may be without these.

Where a metric's `higher_is_better` is false, less is better. Of a model's fields
`retention_interval` is null where a resample has no such share; `retention_over_chance` is
(a - chance) / (t - chance), with the chance of the best answer that is always the same, null where
the teacher doesn't lead that; `classes` are those of its records in their order, null for numbers
and words; `calibration` (`faithfulness.calibration`) is null without probabilities; `faithfulness`
is against the teacher that `retention` is of: by the records `agreement`, `agreement_on_errors`,
`kl` (`faithfulness.answers`), by records/inside/NAME.npz (`inside.explained`) `saliency`,
`saliency_top`, `rollout`, `cka` (`faithfulness.insights`); {} for teachers; `layers` has the CKA of
all pairs, rows its own; `robustness` (`robustness.compared`) is on a fixed sample of `task.split`.
With `evaluate.faithfulness=False` there are only the records' numbers.

`modality` names one outside this package (`modalities.find_known`).

`quantised` is the share of the parameters that 8 bits or fewer hold, `process_bytes` the most that
the process of the timed calls held (Python and compiler too), `throughput_batch` the batch of
`throughput_per_s`; `tiers` are the verdicts of all, `tier` that of the one asked for.
"""
import math
from collections.abc import Iterable, Mapping
from typing import Any

Report = Model = Mapping[str, Any]

# How CONTRACT reads: a type (a float may be whole), a set of values, a tuple of alternatives,
# [each of a list], {name: …} with `...` for names that aren't given, and 'name?' for one that may
# be missing. More names are welcome.
METRIC = {'value': float, 'low': float, 'high': float, 'n': int, 'unit': str,
          'higher_is_better': bool}
INTERVAL = {'low': float, 'high': float}, None
GAP = {'value': float, 'low': float, 'high': float}
JUDGED = {
    'quality': {...: METRIC}, 'retention': ({'of': str, ...: (float, None)}, None),
    'retention_interval?': ({'of': str, ...: INTERVAL}, None),
    'retention_over_chance?': ({'of': str, ...: {
        'value': (float, None), 'chance': float, 'interval?': INTERVAL}}, None),
    'gain': ({'of': str, ...: GAP}, None)}
CALIBRATION = {
    **dict.fromkeys(('ece', 'adaptive_ece', 'nll', 'brier'), METRIC),
    'bins': [{'low': float, 'high': float, 'n': int, 'confidence': (float, None),
              'accuracy': (float, None)}]}
TIER = {'name': str, 'passed': bool,
        'limits': [{'name': str, 'bound': {'>=', '<=', '<'}, 'limit': float,
                    'value': (float, None), 'passed': bool}]}     # None: not measured, not passed
MODEL = {
    'name': str, 'note?': str, 'modality?': str,
    'role': {'teacher', 'assistant', 'student', 'baseline', 'derived', 'quantized'},
    'saw': ({'labels': int, ...: int}, None), **JUDGED,
    'params': int, 'params_outside_embeddings': int, 'bytes': int,
    'latency_ms': ({'p50': float, 'p95': float, 'batch': int, 'threads': int}, None),
    'throughput_per_s': (float, None), 'flops': (float, None), 'peak_memory_bytes': (int, None),
    'energy_j_per_example': ({'value': float, 'method': str, 'inputs?': {...: float}}, None),
    'classes?': ([{'name': str, 'precision': float, 'recall': float, 'f1': GAP,
                   'support': int}], None),
    'calibration?': (CALIBRATION, None), 'faithfulness': {...: METRIC},
    'layers?': ({'of': str, 'rows': [str], 'columns': [str], 'cka': [[float]]}, None),
    'robustness?': ({'clean': METRIC, ...: {
        **METRIC, 'about': str, 'kept': (float, None), 'change': GAP}}, None),
    'shipped_bytes?': (int, None), 'quantised?': float, 'process_bytes?': (int, None),
    'throughput_batch?': (int, None), 'tiers?': [TIER], 'tier': (TIER, None)}
CONTRACT = {
    'schema': {1}, 'config_name': str, 'config_sha256': str, 'seed': int, 'versions': {...: str},
    'hardware': {'device': str, 'cpu': str, 'cores': int},
    'data': {'name': str, 'fingerprint': str, 'splits': {...: int}},
    'padding_share': (float, None), 'task': {'primary': str}, 'models': [MODEL],
    'training': {...: {'seconds': float, 'steps': int, 'examples': int, 'flops': (float, None)}}}


def broken(report: Report) -> str:
  """The first thing about a report that isn't as the contract says, or ''."""
  return _wrong(report, CONTRACT, 'report') or _misfit(report)


def _wrong(value: Any, spec: Any, where: str) -> str:
  """The first thing about `value` that isn't as `spec` says, or ''."""
  if isinstance(spec, tuple):
    wrong = [_wrong(value, other, where) for other in spec]
    return '' if '' in wrong else wrong[0]
  if isinstance(spec, set):
    return '' if value in list(spec) else f'{where} is {value!r}, not one of {sorted(spec)}'
  if isinstance(spec, list):
    if not isinstance(value, list):
      return f'{where} is {value!r}, not a list'
    return _first(_wrong(each, spec[0], f'{where}[{i}]') for i, each in enumerate(value))
  if isinstance(spec, dict):
    if not isinstance(value, Mapping):
      return f'{where} is {value!r}, not a table of names'
    optional = {name[:-1] for name in spec if name is not ... and name.endswith('?')}
    spec = {name if name is ... else name.removesuffix('?'): of for name, of in spec.items()}
    if missing := [n for n in spec if n is not ... and n not in value and n not in optional]:
      return f'{where} lacks {", ".join(missing)}'
    return _first(_wrong(each, spec.get(name, spec.get(...)), f'{where}.{name}')
                  for name, each in value.items() if name in spec or ... in spec)
  if spec is None:
    return '' if value is None else f'{where} is {value!r}, not null'
  if (isinstance(value, bool) and spec is not bool
      or not isinstance(value, (int, float) if spec is float else spec)):
    return f'{where} is {value!r}, not of type {spec.__name__}'
  return f'{where} is {value}' if spec is float and not math.isfinite(value) else ''


def _first(wrong: Iterable[str]) -> str:
  return next(filter(None, wrong), '')


def _misfit(report: Report) -> str:
  """What is wrong between fields that are right by themselves, or ''."""
  names, primary = [m['name'] for m in report['models']], report['task']['primary']
  if not names or len(set(names)) < len(names):
    return f'report.models: there must be models, and their names must differ: {names}'
  first = report['models'][0]
  metrics, splits = set(first['quality']), list(first.get('also', {}))
  for model in report['models']:
    where, also = f'report.models: {model["name"]}', model.get('also', {})
    wrong = _wrong(also, {split: JUDGED for split in splits}, f'{where}.also')
    if wrong := wrong or _wrong(model.get('teachers', []), [set(names)], f'{where}.teachers'):
      return wrong
    if model['saw'] and len(model['saw']) < 2:
      return f'{where}: saw must say of how many examples it is, by their noun, beside labels'
    for judged in (model, *(also[split] for split in splits)):
      if primary not in metrics or set(judged['quality']) != metrics:
        return f'{where} must have the quality {primary}, and all the same metrics'
      for field in 'retention', 'retention_over_chance', 'gain':
        if (found := judged.get(field)) and (found['of'] not in names or primary not in found):
          return f'{where}: {field} must be of a model in the report, and have {primary}'
  return ''
