"""The report of a run: report.json for scripts, report.html for people, a table and a verdict.

`CONTRACT` is what report.json promises; page, table and verdict say nothing that isn't in it.
`flops` and `peak_memory_bytes` are those of the call that `latency_ms` times; they and
`throughput_per_s` are null where calls weren't measured (`evaluate.cost`). `saw` is null for a
model that was loaded. `task.split` names the examples of `quality`, a model's `teachers` those that
it learnt from, and its `also` holds the same of further splits; a report may be without the three.

Where a metric's `higher_is_better` is false, less is better. Of a model's fields
`retention_over_chance` is (a - chance) / (t - chance), with the chance of the best answer that is
always the same, null where the teacher doesn't lead that; `classes` are those of its records in
their order, null for numbers and words; `calibration` (`faithfulness.calibration`) is null without
probabilities; `faithfulness` is against the model `layers.of` or, without layers, the first
teacher: by the records `agreement`, `agreement_on_errors`, `kl` (`faithfulness.answers`), by
records/inside/NAME.npz (`inside.looked`) `saliency`, `saliency_top`, `rollout`, `cka`
(`faithfulness.insights`); {} for teachers; `layers` has the CKA of all pairs, rows its own;
`robustness` (`robustness.stood`) is on a fixed sample of `task.split`. With
`evaluate.faithfulness=False` there are only the records' numbers.

`quantised` is the share of the parameters that 8 bits or fewer hold, `process_bytes` the most that
the process of the timed calls held (Python and compiler too), `throughput_batch` the batch of
`throughput_per_s`; `tiers` are the verdicts of all, `tier` that of the one asked for.
"""
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distill.disk import reach, replace
from distill.evaluate import charts, tiers
from distill.types import Status, Stop

Report = Model = Mapping[str, Any]
Cell = tuple[str, str]          # what it says, and what it adds in smaller print
Rows = list[tuple[str, list[Cell]]]         # a label, and a cell for every model

# How CONTRACT reads: a type (a float may be whole), a set of values, a tuple of alternatives,
# [each of a list], {name: …} with `...` for names that aren't given, and 'name?' for one that may
# be missing. More names are welcome.
UNITS = {'fraction': '%', 'correlation': ''}            # what stands after a number
GAPS = {'fraction': 'points', 'correlation': ''}        # … after a difference
NAMES = {'mcc': 'Matthews correlation', 'mse': 'MSE', 'pearson': 'Pearson correlation',
         'spearman': 'Spearman correlation'}

ALIKE = {'agreement': 'same answer as teacher', 'kl': 'KL from the teacher',
         'correlation': 'correlation with teacher', 'distance': 'distance from teacher',
         'saliency': 'saliency overlap', 'rollout': 'attention overlap', 'cka': 'layers alike',
         'ece': 'calibration error'}

METRIC = {'value': float, 'low': float, 'high': float, 'n': int, 'unit': str,
          'higher_is_better': bool}
GAP = {'value': float, 'low': float, 'high': float}
JUDGED = {
    'quality': {...: METRIC}, 'retention': ({'of': str, ...: (float, None)}, None),
    'retention_over_chance?': ({'of': str, ...: {'value': (float, None), 'chance': float}}, None),
    'gain': ({'of': str, ...: GAP}, None)}
CALIBRATION = {
    **dict.fromkeys(('ece', 'adaptive_ece', 'nll', 'brier'), METRIC),
    'bins': [{'low': float, 'high': float, 'n': int, 'confidence': (float, None),
              'accuracy': (float, None)}]}
TIER = {'name': str, 'passed': bool,
        'limits': [{'name': str, 'bound': {'>=', '<=', '<'}, 'limit': float,
                    'value': (float, None), 'passed': bool}]}     # None: not measured, not passed
MODEL = {
    'name': str, 'role': {'teacher', 'assistant', 'student', 'baseline', 'quantized'},
    'saw': (*({what: int, 'labels': int} for what in ('texts', 'images')), None), **JUDGED,
    'params': int, 'params_outside_embeddings': int, 'bytes': int,
    'latency_ms': ({'p50': float, 'p95': float, 'batch': int, 'threads': int}, None),
    'throughput_per_s': (float, None), 'flops': (float, None), 'peak_memory_bytes': (int, None),
    'energy_j_per_example': ({'value': float, 'method': str}, None),
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


def write(workdir: pathlib.Path, report: Report, rows: charts.Rows) -> None:
  """Leaves report.html and then report.json, each whole or not at all.

  `rows` are those of metrics.jsonl. A report that breaks the contract is a ValueError.
  """
  if wrong := _wrong(report, CONTRACT, 'report') or _misfit(report):
    raise ValueError(wrong)
  text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
  replace(workdir / 'report.html', _page(report, rows))
  reach('reporting')
  replace(workdir / 'report.json', text + '\n')


def read(workdir: pathlib.Path) -> Report:
  """The report that `write` left in a workdir."""
  path = workdir / 'report.json'
  try:
    report = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise Stop(Status.DATA, f'{path} is not JSON ({error}): remove it to measure again') from None
  if wrong := _wrong(report, CONTRACT, 'report') or _misfit(report):
    raise Stop(Status.DATA, f'{path} breaks its contract ({wrong}): remove it to measure again')
  return report


def verdict(report: Report) -> str:
  """What distillation brought: a sentence for every student, claiming only what was shown."""
  models = {model['name']: model for model in report['models']}
  students = [model for model in report['models'] if model['role'] == 'student']
  names = {m['name']: 'The student' if len(students) == 1 else f'The student {m["name"]}'
           for m in students}
  return ' '.join(
      _sentence(names[m['name']], m, models, report['task']['primary'])
      + (f' It {"reaches" if m["tier"]["passed"] else "misses"} the tier {m["tier"]["name"]}: '
         f'{tiers.said(m["tier"])}.' if m['tier'] else '') for m in students)


def table(report: Report) -> str:
  """The models side by side as plain text; three of them take about 100 columns.

  Of more than five, a student that would be the fourth or later begins a table of its own.
  """
  names, lines, blocks = [model['name'] for model in report['models']], [], [[0]]
  for i, model in enumerate(report['models']):
    if len(names) > 5 and model['role'] == 'student' and len(blocks[-1]) > 3:
      blocks.append([0])
    blocks[-1].append(1 + i)
  for title, groups in _tables(report):
    lines += [[''] * (1 + len(names))] if lines else []
    lines.append([title, *names])
    lines += [[label, *(f'{main} ({small})' if small else main for main, small in cells)]
              for group in groups for label, cells in group]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  adjusted = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
  return '\n\n'.join('\n'.join('  '.join(line[i] for i in block).rstrip() for line in adjusted)
                     for block in blocks)


def spelled(metric: str) -> str:
  """As in a sentence: macro_f1 is macro F1."""
  words = (word.upper() if word[-1:].isdigit() else word for word in metric.split('_'))
  return NAMES.get(metric, ' '.join(words))


def _sentence(who: str, student: Model, models: Mapping[str, Model], metric: str) -> str:
  quality, kept, gain = student['quality'][metric], student['retention'], student['gain']
  unit = quality['unit']
  said = f'{who} reaches {spelled(metric)} {_amount(quality["value"], unit)}'
  if kept and kept[metric] is not None:
    teacher = models[kept['of']]
    theirs = _amount(teacher['quality'][metric]['value'], unit)
    said = (f"{who} keeps {_percent(kept[metric])} of the {teacher['name']}'s {spelled(metric)}"
            if quality['higher_is_better'] else
            f'{said}, where the {teacher["name"]} has {theirs},')
    timed = student['latency_ms'] and teacher['latency_ms']
    said += f' with {_size(student, teacher)}' + (
        f', {_pace(student, teacher)}' if timed else '')
  if not gain:
    return f'{said}; without a baseline, nothing shows what the teacher brought.'
  of = models[gain['of']]
  other = 'the same student without a teacher' if of['role'] == 'baseline' else of['name']
  low, high = (_number(gain[metric][name], unit) for name in ('low', 'high'))
  gap = _amount(gain[metric]['value'], unit, GAPS)
  interval = f'95 % interval {low} to {high}'
  if gain[metric]['low'] > 0:
    return f'{said}, and beats {other} by {gap} ({interval}).'
  found = 'is worse than' if gain[metric]['high'] < 0 else 'is not measurably better than'
  return f'{said}, but {found} {other} ({gap}, {interval}).'


def _size(model: Model, of: Model) -> str:
  embedded = any(m['params_outside_embeddings'] < m['params'] for m in (model, of))
  field = 'params_outside_embeddings' if embedded else 'params'
  times = of[field] / max(1, model[field])
  if abs(times - round(times)) < 0.03 * times:
    times = round(times)
  said = ('as many' if 0.95 < times < 1.05 else
          f'1/{_times(times)} of its' if times > 1 else f'{_times(1 / times)} times its')
  return f'{said} parameters' + ' outside the embeddings' * embedded


def _pace(model: Model, of: Model) -> str:
  times = of['latency_ms']['p50'] / model['latency_ms']['p50']
  said = ('as fast' if 0.95 < times < 1.05 else
          f'{_times(times)}× faster' if times > 1 else f'{_times(1 / times)}× slower')
  return f'{said} at batch {model["latency_ms"]["batch"]}'


def _tables(report: Report) -> list[tuple[str, list[Rows]]]:
  """What the models are worth and cost, then what they are worth on further splits.

  A title, and the rows in groups.
  """
  models, primary = report['models'], report['task']['primary']
  size = lambda judged: f'{judged["quality"][primary]["n"]:,} examples'
  split = report['task'].get('split')
  first = f'{split}, {size(models[0])}' if split else ''
  tables = [(first, [_saw_rows(models), _worth(models, primary, models[0]['quality']),
                     _alike(models), *_costs(models), _tiers(models)])]
  for split, judged in models[0].get('also', {}).items():
    found = [model['also'][split] for model in models]
    tables.append((f'{split}, {size(judged)}', [_worth(found, primary, [primary])]))
  return tables


def _saw_rows(models: Sequence[Model]) -> Rows:
  said = lambda model, what: f'{model["saw"][what]:,}' if model['saw'] else '–'
  return [(f'{what} it saw', [(said(model, what), '') for model in models])
          for what in next((model['saw'] for model in models if model['saw']), ())]


def _worth(found: Sequence[Mapping[str, Any]], primary: str, metrics: Iterable[str]) -> Rows:
  """Quality, retention and gain of several models."""
  about = found[0]['quality'][primary]
  spread = lambda q, unit, to: f'{_number(q["low"], unit)}{to}{_number(q["high"], unit)}'

  def quality(metric: str) -> tuple[str, list[Cell]]:
    each = [judged['quality'][metric] for judged in found]
    unit, lower = each[0]['unit'], not each[0]['higher_is_better']
    to = '–' if all(q['low'] >= 0 for q in each) else ' to '
    return spelled(metric) + ', lower is better' * lower, [
        (_amount(q['value'], unit), spread(q, unit, to)) for q in each]

  def against(field: str, label: str, cell: Callable[[Any], Cell]) -> Rows:
    of = {judged[field]['of'] for judged in found if judged[field]}
    return [] if not of else [(label.format(*of if len(of) == 1 else ('its baseline',)), [
        cell(judged[field][primary]) if judged[field] else ('–', '') for judged in found])]

  def gained(gain: Mapping[str, float]) -> Cell:
    return _amount(gain['value'], about['unit'], GAPS), spread(gain, about['unit'], ' to ')

  what = spelled(primary) if about['higher_is_better'] else 'quality'
  return [*map(quality, metrics),
          *against('retention', f"{{}}'s {what} kept", lambda kept: (_percent(kept), '')),
          *against('gain', 'gain over {}', gained)]


def _alike(models: Sequence[Model]) -> Rows:
  """How like their teacher models are, and how far from being as sure as they are right."""
  rows = []
  for name, label in ALIKE.items():
    found = [{**model['faithfulness'], **(model.get('calibration') or {})}.get(name)
             for model in models]
    if any(found):
      rows.append((label, [(_amount(m['value'], m['unit']), '') if m else ('–', '')
                           for m in found]))
  return rows


def _costs(models: Sequence[Model]) -> list[Rows]:
  row = lambda label, say: (label, [(say(model), '') for model in models])
  sizes = [row('parameters', lambda m: _short(m['params'])),
           row('outside embeddings', lambda m: _short(m['params_outside_embeddings'])),
           row('weights', lambda m: _short(m['bytes'], 'B'))]
  if not all(model['latency_ms'] for model in models):
    return [sizes]
  return [
      sizes,
      [row(f'time at batch {models[0]["latency_ms"]["batch"]}',
           lambda m: f'{m["latency_ms"]["p50"]:,.2f} ms'),
       row('95th percentile', lambda m: f'{m["latency_ms"]["p95"]:,.2f} ms'),
       row('FLOPs of a call', lambda m: _short(m['flops'])),
       row('memory of a call', lambda m: _short(m['peak_memory_bytes'], 'B')),
       row('examples a second', lambda m: f'{m["throughput_per_s"]:,.0f}'),
       *([row('energy an example', _energy)]
         if any(m['energy_j_per_example'] for m in models) else [])]]


def _energy(model: Model) -> str:
  energy = model['energy_j_per_example']
  said = f'{1e3 * energy["value"]:.3g} mJ' if energy else '–'
  return f'about {said}' if energy and energy['method'].startswith('estimated') else said


def _tiers(models: Sequence[Model]) -> Rows:
  """The tiers that students reach."""
  reached = lambda model: ', '.join(v['name'] for v in model['tiers'] if v['passed']) or 'none'
  return [('tiers reached', [(reached(m) if 'tiers' in m else '–', '') for m in models])
          ] if any('tiers' in m for m in models) else []


def _page(report: Report, rows: charts.Rows) -> str:
  import jinja2  # here, as matplotlib in charts: a run that starts doesn't wait for it
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                   trim_blocks=True, lstrip_blocks=True)
  environment.filters |= {'short': _short, 'percent': _percent, 'saw': _saw, 'tied': _tied}
  primary = report['task']['primary']
  found = [model['quality'][primary] for model in report['models']]
  names = [model['name'] for model in report['models']]
  title = spelled(primary)[0].upper() + spelled(primary)[1:]
  scale = 100 if found[0]['unit'] == 'fraction' else 1
  look = charts.styles([*names, *sorted({row['stage'] for row in rows} - set(names))])
  panels = [charts.curves(name, lines, look) for name, lines in charts.lines(rows).items()]
  template = pathlib.Path(__file__).with_suffix('.html').read_text('utf-8')
  return environment.from_string(template).render(
      report=report, verdict=verdict(report), title=title, metric=found[0],
      values=[_amount(q['value'], q['unit']) for q in found], look=look,
      forest=charts.forest(found, scale), tables=_tables(report), panels=panels)


def _saw(model: Model) -> str:
  if model['saw'] is None:
    return 'loaded, not trained here'
  labels = model['saw']['labels']
  what, n = next((what, n) for what, n in model['saw'].items() if what != 'labels')
  labelled = 'all labelled' if labels == n else f'{labels:,} labelled'
  return ', and the '.join((f'{n:,} {what}, {labelled}', *model.get('teachers', ())))


def _tied(text: str) -> str:
  """Numbers stay on the line of their signs."""
  return text.replace(' %', '\u00a0%').replace('× ', '×\u00a0')


def _number(value: float, unit: str) -> str:
  said = (f'{100 * value:.1f}' if unit == 'fraction' else
          f'{value:.3f}' if unit == 'correlation' else f'{value:.4g}')
  return said.replace('-', '−' if float(said) else '')


def _amount(value: float, unit: str, words: Mapping[str, str] = UNITS) -> str:
  return f'{_number(value, unit)} {words.get(unit, unit)}'.rstrip()


def _times(ratio: float) -> str:
  return f'{ratio:.1f}'.removesuffix('.0') if ratio < 10 else f'{ratio:.0f}'


def _percent(share: float | None) -> str:
  return '–' if share is None else f'{100 * share:.1f} %'


def _short(number: float | None, unit: str = '') -> str:
  """Three digits: 870, 1.84 M, 7.37 MB."""
  if number is None:
    return '–'
  power = 0
  while number >= 999.5 and power < 5:
    number, power = number / 1000, power + 1
  return f'{number:.3g} {("", "k", "M", "G", "T", "P")[power]}{unit}'.rstrip()


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
    for judged in (model, *(also[split] for split in splits)):
      if primary not in metrics or set(judged['quality']) != metrics:
        return f'{where} must have the quality {primary}, and all the same metrics'
      for field in 'retention', 'gain':
        if judged[field] and (judged[field]['of'] not in names or primary not in judged[field]):
          return f'{where}: {field} must be of a model in the report, and have {primary}'
  return ''
