"""The models side by side: rows of cells, for the page and for the terminal."""
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distill.evaluate import tiers, wording
from distill.evaluate.contract import Model, Report

Cell = tuple[str, str]          # what it says, and what it adds in smaller print
Rows = list[tuple[str, list[Cell]]]         # a label, and a cell for every model

ALIKE = {'agreement': 'same answer as teacher', 'kl': 'KL from the teacher',
         'correlation': 'correlation with teacher', 'distance': 'distance from teacher',
         'saliency': 'saliency overlap', 'rollout': 'attention overlap', 'cka': 'layers alike',
         'ece': 'calibration error'}
NONE = '–', ''
CLASSES = 20            # of more, those on which the first student is worst


def tables(report: Report) -> list[tuple[str, list[Rows]]]:
  """What the models are worth and cost, then what they are worth on further splits.

  A title, and the rows in groups.
  """
  models, primary = report['models'], report['task']['primary']
  size = lambda judged: f'{judged["quality"][primary]["n"]:,} examples'
  split = report['task'].get('split')
  first = f'{split}, {size(models[0])}' if split else ''
  tables = [(first, [_saw_rows(models), _worth(models, primary, models[0]['quality']),
                     _alike(models), *_costs(models), _reached(models)])]
  for split, judged in models[0].get('also', {}).items():
    found = [model['also'][split] for model in models]
    tables.append((f'{split}, {size(judged)}', [_worth(found, primary, [primary])]))
  return tables


def promises(report: Report) -> tuple[list[str], list[Rows]]:
  """The students that have tiers, and a group of rows a tier: its verdict, then its limits."""
  students = [model for model in report['models'] if model.get('tiers')]
  groups = []
  for verdicts in zip(*(student['tiers'] for student in students), strict=True):
    aims = [s['tier'] is not None and s['tier']['name'] == v['name']
            for s, v in zip(students, verdicts, strict=True)]
    rows = [(verdicts[0]['name'], [('✓ reached' if v['passed'] else '✗ missed', 'its aim' * aim)
                                   for v, aim in zip(verdicts, aims, strict=True)])]
    for limits in zip(*(v['limits'] for v in verdicts), strict=True):
      name, bound, limit = (limits[0][key] for key in ('name', 'bound', 'limit'))
      rows.append((f'{tiers.NAMES[name].replace(" in ms", "")}, {tiers.WORDS[bound]} '
                   + _limited(name, limit).replace('.0 %', ' %').replace('.00 ms', ' ms'),
                   [(_limited(name, one['value']), '✓ pass' if one['passed'] else '✗ fail')
                    for one in limits]))
    groups.append(rows)
  return [student['name'] for student in students], groups


def robustness(report: Report) -> tuple[int, Rows]:
  """The primary metric on so many examples as they are and by each corruption."""
  stood = [model.get('robustness') or {} for model in report['models']]
  n = next((each['clean']['n'] for each in stood if each), 0)
  return n, [(wording.KINDS.get(name, name), _measured([each.get(name) for each in stood]))
             for name in dict.fromkeys(name for each in stood for name in each)]


def kinds(report: Report) -> list[str]:
  """What the corruptions of `robustness` do."""
  about = {name: found['about'] for model in report['models']
           for name, found in (model.get('robustness') or {}).items() if name != 'clean'}
  return [f'{wording.KINDS.get(name, name)}: {said}' for name, said in about.items()]


def classes(report: Report) -> tuple[int, Rows]:
  """How many classes there are, and every model's F1 of them, or of the `CLASSES` worst."""
  found = [model.get('classes') for model in report['models']]
  if None in found:
    return 0, []
  first = next((m['classes'] for m in report['models'] if m['role'] == 'student'), found[0])
  order = range(len(first))
  if len(first) > CLASSES:
    order = sorted(order, key=lambda i: first[i]['f1']['value'])[:CLASSES]
  return len(first), [
      (f'{first[i]["name"]} ({first[i]["support"]:,})',
       _measured([{**each[i]['f1'], 'unit': 'fraction'} for each in found])) for i in order]


def _saw_rows(models: Sequence[Model]) -> Rows:
  said = lambda model, what: f'{model["saw"][what]:,}' if model['saw'] else '–'
  return [(f'{what} it saw', [(said(model, what), '') for model in models])
          for what in next((model['saw'] for model in models if model['saw']), ())]


def _worth(found: Sequence[Mapping[str, Any]], primary: str, metrics: Iterable[str]) -> Rows:
  """Quality, retention and gain of several models."""
  about = found[0]['quality'][primary]

  def quality(metric: str) -> tuple[str, list[Cell]]:
    each = [judged['quality'][metric] for judged in found]
    label = wording.spelled(metric) + ', lower is better' * (not each[0]['higher_is_better'])
    return label, _measured(each)

  def against(field: str, label: str, cell: Callable[[Any], Cell]) -> Rows:
    of = {judged[field]['of'] for judged in found if judged[field]}
    return [] if not of else [(label.format(*of if len(of) == 1 else ('its baseline',)), [
        cell(judged) if judged[field] else NONE for judged in found])]

  def kept(judged: Mapping[str, Any]) -> Cell:
    bounds = (judged.get('retention_interval') or {}).get(primary)
    return (wording.percent(judged['retention'][primary]),
            wording.interval({**bounds, 'unit': 'fraction'}) if bounds else '')

  def gained(judged: Mapping[str, Any]) -> Cell:
    gain = judged['gain'][primary]
    return (wording.amount(gain['value'], about['unit'], wording.GAPS),
            wording.interval({**gain, 'unit': about['unit']}, ' to '))

  what = wording.spelled(primary) if about['higher_is_better'] else 'quality'
  return [*map(quality, metrics),
          *against('retention', f"{{}}'s {what} kept", kept),
          *against('gain', 'gain over {}', gained)]


def _measured(found: Sequence[Mapping[str, Any] | None]) -> list[Cell]:
  """Numbers of one unit with their intervals."""
  to = '–' if all(metric['low'] >= 0 for metric in found if metric) else ' to '
  return [(wording.amount(metric['value'], metric['unit']), wording.interval(metric, to))
          if metric else NONE for metric in found]


def _alike(models: Sequence[Model]) -> Rows:
  """How like their teacher models are, and how far from being as sure as they are right."""
  found = {label: [{**model['faithfulness'], **(model.get('calibration') or {})}.get(name)
                   for model in models] for name, label in ALIKE.items()}
  return [(label, _measured(each)) for label, each in found.items() if any(each)]


def _costs(models: Sequence[Model]) -> list[Rows]:
  row = lambda label, say: (label, [(say(model), '') for model in models])
  sizes = [row('parameters', lambda m: wording.short(m['params'])),
           row('outside embeddings', lambda m: wording.short(m['params_outside_embeddings'])),
           row('weights', lambda m: wording.short(m['bytes'], 'B'))]
  if not all(model['latency_ms'] for model in models):
    return [sizes]
  return [
      sizes,
      [row(f'time at batch {models[0]["latency_ms"]["batch"]}',
           lambda m: wording.milliseconds(m['latency_ms']['p50'])),
       row('95th percentile', lambda m: wording.milliseconds(m['latency_ms']['p95'])),
       row('FLOPs of a call', lambda m: wording.short(m['flops'])),
       row('memory of a call', lambda m: wording.short(m['peak_memory_bytes'], 'B')),
       row('examples a second', lambda m: f'{m["throughput_per_s"]:,.0f}'),
       *([row('energy an example', _energy)]
         if any(m['energy_j_per_example'] for m in models) else [])]]


def _energy(model: Model) -> str:
  energy = model['energy_j_per_example']
  said = f'{1e3 * energy["value"]:.3g} mJ' if energy else '–'
  return f'about {said}' if energy and energy['method'].startswith('estimated') else said


def _reached(models: Sequence[Model]) -> Rows:
  """The tiers that students reach."""
  reached = lambda model: ', '.join(v['name'] for v in model['tiers'] if v['passed']) or 'none'
  return [('tiers reached', [(reached(m) if 'tiers' in m else '–', '') for m in models])
          ] if any('tiers' in m for m in models) else []


def _limited(name: str, value: float | None) -> str:
  """What a tier limits, in its unit."""
  if value is None:
    return 'not measured'
  return (wording.short(value, 'B') if name == 'bytes' else
          wording.milliseconds(value) if name == 'p95_ms' else wording.percent(value))
