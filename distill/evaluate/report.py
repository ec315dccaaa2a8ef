"""The report of a run: report.json for scripts, report.html for people, a table and a verdict.

`CONTRACT` is what report.json promises; page, table and verdict say nothing that isn't in it.
`flops` and `peak_memory_bytes` are those of the call that `latency_ms` times.
"""
import functools
import json
import math
import operator
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.evaluate import charts

Report = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
Cell = tuple[str, str]          # what it says, and the same in smaller print

# How CONTRACT reads: a type (a float may be whole), a set of values, a tuple of alternatives,
# [each of a list], {name: …} with `...` for names that aren't given. More names are welcome.
METRIC = {'value': float, 'low': float, 'high': float, 'n': int, 'unit': str,
          'higher_is_better': bool}
TIER = {'name': str, 'passed': bool,
        'limits': [{'name': str, 'limit': float, 'value': float, 'passed': bool}]}
MODEL = {
    'name': str, 'role': {'teacher', 'assistant', 'student', 'baseline', 'quantized'},
    'saw': {'texts': int, 'labels': int}, 'quality': {...: METRIC},
    'params': int, 'params_outside_embeddings': int, 'bytes': int,
    'latency_ms': {'p50': float, 'p95': float, 'batch': int, 'threads': int},
    'throughput_per_s': float, 'flops': (float, None), 'peak_memory_bytes': (int, None),
    'energy_j_per_example': ({'value': float, 'method': str}, None),
    'faithfulness': {...: float}, 'retention': ({'of': str, ...: (float, None)}, None),
    'gain': ({'of': str, ...: {'value': float, 'low': float, 'high': float}}, None),
    'tier': (TIER, None)}
CONTRACT = {
    'schema': {1}, 'config_name': str, 'config_sha256': str, 'seed': int, 'versions': {...: str},
    'hardware': {'device': str, 'cpu': str, 'cores': int},
    'data': {'name': str, 'fingerprint': str, 'splits': {...: int}},
    'padding_share': (float, None), 'task': {'primary': str}, 'models': [MODEL],
    'training': {...: {'seconds': float, 'steps': int, 'examples': int, 'flops': (float, None)}}}


def write(workdir: pathlib.Path, report: Report, rows: Rows) -> None:
  """Leaves report.html and then report.json, each whole or not at all.

  `rows` are those of metrics.jsonl. A report that breaks the contract is a ValueError.
  """
  if wrong := _wrong(report, CONTRACT, 'report') or _misfit(report):
    raise ValueError(wrong)
  text = json.dumps(report, indent=2, allow_nan=False, ensure_ascii=False)
  _replace(workdir / 'report.html', _page(report, rows))
  _replace(workdir / 'report.json', text + '\n')


def verdict(report: Report) -> str:
  """What distillation brought: a sentence for every student, claiming only what was shown."""
  models = {model['name']: model for model in report['models']}
  students = [model for model in report['models'] if model['role'] == 'student']
  return ' '.join(
      _sentence(student, 'The student' if len(students) == 1 else f'The student {student["name"]}',
                models, report['task']['primary']) for student in students)


def table(report: Report) -> str:
  """The models side by side as plain text; up to three take at most 100 columns."""
  lines = [['', *(model['name'] for model in report['models'])]]
  lines += [[label, *(f'{main} ({small})' if small else main for main, small in cells)]
            for rows in _groups(report) for label, cells in rows]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  return '\n'.join('  '.join([label.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]).rstrip()
                   for label, *cells in lines)


def _sentence(student: Report, who: str, models: Mapping[str, Report], metric: str) -> str:
  quality, kept, gain = student['quality'][metric], student['retention'], student['gain']
  said = f'{who} reaches {_spelled(metric)} {_amount(quality["value"], quality["unit"])}'
  if kept and kept[metric] is not None:
    teacher = models[kept['of']]
    said = (f"{who} keeps {_percent(kept[metric])} of the {teacher['name']}'s {_spelled(metric)} "
            f'with {_size(student, teacher)}, {_pace(student, teacher)}')
  if not gain:
    return f'{said}; without a baseline, nothing shows what the teacher brought.'
  value, low, high = (_number(gain[metric][k], quality['unit']) for k in ('value', 'low', 'high'))
  points = _points(quality['unit'])
  other = models[gain['of']]
  other = 'the same student without a teacher' if other['role'] == 'baseline' else other['name']
  if gain[metric]['low'] > 0:
    return f'{said}, and beats {other} by {value} {points} (95 % interval {low} to {high}).'
  found = 'is worse than' if gain[metric]['high'] < 0 else 'is not measurably better than'
  return f'{said}, but {found} {other} ({value} {points}, 95 % interval {low} to {high}).'


def _size(model: Report, of: Report) -> str:
  embedded = any(m['params_outside_embeddings'] < m['params'] for m in (model, of))
  field = 'params_outside_embeddings' if embedded else 'params'
  times = of[field] / max(1, model[field])
  if abs(times - round(times)) < 0.03 * times:
    times = round(times)
  said = f'1/{_times(times)} of' if times > 1 else f'{_times(1 / times)} times'
  return f'{said} its parameters' + ' outside the embeddings' * embedded


def _pace(model: Report, of: Report) -> str:
  times = of['latency_ms']['p50'] / model['latency_ms']['p50']
  said = ('as fast' if 0.95 < times < 1.05 else
          f'{_times(times)}× faster' if times > 1 else f'{_times(1 / times)}× slower')
  return f'{said} at batch {model["latency_ms"]["batch"]}'


def _groups(report: Report) -> list[list[tuple[str, list[Cell]]]]:
  """The rows of the table in groups: a label, and a cell for every model."""
  models, primary = report['models'], report['task']['primary']

  def row(label: str, say: Callable[[Any], str], *path: str) -> tuple[str, list[Cell]]:
    values = [functools.reduce(operator.getitem, path, model) for model in models]
    return label, [('–' if value is None else say(value), '') for value in values]

  def quality(name: str) -> tuple[str, list[Cell]]:
    found = [(model['quality'][name], model['quality'][name]['unit']) for model in models]
    return _spelled(name), [(_amount(q['value'], unit),
                             f'{_number(q["low"], unit)}–{_number(q["high"], unit)}')
                            for q, unit in found]

  def against(field: str, label: str, say: Callable[[Any], Cell]) -> list[tuple[str, list[Cell]]]:
    of = [model[field]['of'] for model in models if model[field]]
    cells = [say(model[field][primary]) if model[field] else ('–', '') for model in models]
    return [(label.format(of[0]), cells)] if of else []

  def gained(gain: Mapping[str, float]) -> Cell:
    unit = models[0]['quality'][primary]['unit']
    value, low, high = (_number(gain[k], unit) for k in ('value', 'low', 'high'))
    return f'{value} {_points(unit)}', f'{low} to {high}'

  return [
      [row('texts it saw', '{:,}'.format, 'saw', 'texts'),
       row('labels it saw', '{:,}'.format, 'saw', 'labels')],
      [*map(quality, models[0]['quality']),
       *against('retention', f"{{}}'s {_spelled(primary)} kept", lambda kept: (_percent(kept), '')),
       *against('gain', 'gain over {}', gained)],
      [row('parameters', _short, 'params'),
       row('outside embeddings', _short, 'params_outside_embeddings'),
       row('weights', _bytes, 'bytes')],
      [row(f'time at batch {models[0]["latency_ms"]["batch"]}', _time, 'latency_ms', 'p50'),
       row('95th percentile', _time, 'latency_ms', 'p95'),
       row('FLOPs of a call', _short, 'flops'),
       row('memory of a call', _bytes, 'peak_memory_bytes'),
       row('examples a second', '{:,.0f}'.format, 'throughput_per_s')]]


def _page(report: Report, rows: Rows) -> str:
  import jinja2  # here, as matplotlib in charts: a run that starts doesn't wait for it
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                   trim_blocks=True, lstrip_blocks=True)
  environment.filters.update(short=_short, percent=_percent, spelled=_spelled, saw=_saw,
                             tied=lambda text: text.replace(' %', '\u00a0%').replace('× ', '×\u00a0'))
  template = environment.from_string(pathlib.Path(__file__).with_suffix('.html').read_text('utf-8'))
  names = [model['name'] for model in report['models']]
  look = charts.styles([*names, *sorted({row['stage'] for row in rows} - set(names))])
  return template.render(
      report=report, verdict=verdict(report), groups=_groups(report), look=look,
      forest=_forest(report), panels=_panels(report, rows, look))


def _forest(report: Report) -> dict[str, Any]:
  """The primary metric of every model on one axis; places are percents of its width."""
  found = [model['quality'][report['task']['primary']] for model in report['models']]
  scale = 100 if found[0]['unit'] == 'fraction' else 1
  ticks = charts.ticks(scale * min(min(q['low'], q['value']) for q in found),
                       scale * max(max(q['high'], q['value']) for q in found))
  place = lambda value: round(100 * (scale * value - ticks[0]) / (ticks[-1] - ticks[0]), 2)
  return {'metric': found[0], 'ticks': [(f'{tick:g}', place(tick / scale)) for tick in ticks],
          'points': [{'value': place(q['value']), 'low': place(q['low']),
                      'width': round(place(q['high']) - place(q['low']), 2),
                      'text': _amount(q['value'], q['unit'])} for q in found]}


def _panels(report: Report, rows: Rows, look: Mapping[str, Any]) -> list[str]:
  """Curves by stage: of the primary metric, where it was logged, and of the loss."""
  primary = report['task']['primary']
  percent = report['models'][0]['quality'][primary]['unit'] == 'fraction'
  panels = []
  for name, title in ((primary, _spelled(primary).capitalize() + ', %' * percent),
                      ('loss', 'Loss, each of its own objective')):
    scale = 100 if percent and name == primary else 1
    lines: dict[str, tuple[list, list]] = {}
    for row in rows:
      for value in (v for key, v in row.items() if key.rpartition('/')[2] == name):
        if value is not None and math.isfinite(value):
          steps, values = lines.setdefault(row['stage'], ([], []))
          steps.append(row['step'])
          values.append(scale * value)
    if lines:
      panels.append(charts.curves(title, lines, look))
  return panels


def _saw(model: Report) -> str:
  texts, labels = model['saw']['texts'], model['saw']['labels']
  labelled = 'all labelled' if labels == texts else f'{labels:,} labelled'
  return f'{texts:,} texts, {labelled}' + ', and the teacher' * (model['role'] == 'student')


def _spelled(metric: str) -> str:
  """As in a sentence: macro_f1 is macro F1."""
  return ' '.join(word.upper() if word[-1].isdigit() else word for word in metric.split('_'))


def _number(value: float, unit: str) -> str:
  return (f'{100 * value:.1f}' if unit == 'fraction' else f'{value:.4g}').replace('-', '−')


def _amount(value: float, unit: str) -> str:
  return f'{_number(value, unit)} {"%" if unit == "fraction" else unit}'


def _points(unit: str) -> str:
  return 'points' if unit == 'fraction' else unit


def _times(ratio: float) -> str:
  return f'{ratio:.1f}'.removesuffix('.0') if ratio < 10 else f'{ratio:.0f}'


def _percent(share: float | None) -> str:
  return '–' if share is None else f'{100 * share:.1f} %'


def _short(number: float | None) -> str:
  """Three digits: 870, 1.84 M, 53 M."""
  if number is None:
    return '–'
  power = 0
  while abs(number) >= 999.5 and power < 5:
    number, power = number / 1000, power + 1
  return f'{number:.3g}' + ('', ' k', ' M', ' G', ' T', ' P')[power]


def _bytes(number: float) -> str:
  return (said := _short(number)) + ('B' if ' ' in said else ' B')


def _time(milliseconds: float) -> str:
  return f'{milliseconds:.3g} ms'


def _wrong(value: Any, spec: Any, where: str) -> str:
  """The first thing about `value` that isn't as `spec` says, or ''."""
  if isinstance(spec, tuple):
    wrong = [_wrong(value, other, where) for other in spec]
    return '' if '' in wrong else wrong[0]
  if isinstance(spec, set):
    return '' if value in spec else f'{where} is {value!r}, not one of {sorted(spec)}'
  if spec is None:
    return '' if value is None else f'{where} is not null'
  kind = {dict: Mapping, float: (int, float)}.get(outer := spec if isinstance(spec, type)
                                                  else type(spec), outer)
  if not isinstance(value, kind) or (isinstance(value, bool) and outer is not bool):
    return f'{where} is {value!r}, not a {outer.__name__}'
  if spec is float and not math.isfinite(value):
    return f'{where} is {value}'
  inner = []
  if isinstance(spec, list):
    inner = [(each, spec[0], f'{where}[{i}]') for i, each in enumerate(value)]
  if isinstance(spec, dict):
    if missing := [name for name in spec if name is not ... and name not in value]:
      return f'{where} lacks {", ".join(missing)}'
    inner = [(each, spec.get(name, spec.get(...)), f'{where}.{name}')
             for name, each in value.items() if name in spec or ... in spec]
  return next(filter(None, (_wrong(*each) for each in inner)), '')


def _misfit(report: Report) -> str:
  """What is wrong between fields that are right by themselves, or ''."""
  names, primary = [m['name'] for m in report['models']], report['task']['primary']
  if not names or len(set(names)) < len(names):
    return f'report.models: there must be models, and their names must differ: {names}'
  metrics = set(report['models'][0]['quality'])
  for model in report['models']:
    where = f'report.models: {model["name"]}'
    if primary not in metrics or set(model['quality']) != metrics:
      return f'{where} must have the quality {primary}, and all the same metrics'
    for field in 'retention', 'gain':
      if model[field] and (model[field]['of'] not in names or primary not in model[field]):
        return f'{where}: {field} must be of a model in the report, and have {primary}'
  return ''


def _replace(path: pathlib.Path, text: str) -> None:
  """Writes a file whole: a reader finds the old one or the new one."""
  temporary = path.with_name(path.name + '.tmp')
  with open(temporary, 'w', encoding='utf-8') as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(temporary, path)
  folder = os.open(path.parent, os.O_RDONLY)
  try:
    os.fsync(folder)
  finally:
    os.close(folder)
