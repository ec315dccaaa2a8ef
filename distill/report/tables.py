"""The models side by side: rows of cells, for the page and for the terminal."""
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distill import modalities
from distill.report import tiers, wording
from distill.report.contract import Model, Report

Cell = tuple[str, str]          # what it says, and what it adds in smaller print
Rows = list[tuple[str, list[Cell]]]         # a label, and a cell for every model

ALIKE = {'agreement': 'same answer as teacher',
         'agreement_on_errors': 'same answer where the teacher is wrong',
         'kl': 'KL from the teacher', 'correlation': 'correlation with teacher',
         'distance': 'distance from teacher', 'saliency': 'saliency overlap',
         'saliency_top': '{}, against 20 % by chance', 'rollout': 'attention overlap',
         'cka': 'layers alike', 'ece': 'calibration error'}
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


def missed(report: Report) -> bool:
  """Whether XLA's plan misses most of the memory of calls: of convolutions on a CPU it does.

  A model whose process is known (`process_bytes`) was timed alone, on the CPU of any machine.
  """
  models = report['models']
  there = [m for m in models if m['peak_memory_bytes'] is not None]
  return _modality(models).convolved and bool(there) and (
      report['hardware']['device'] == 'cpu' or any(m.get('process_bytes') for m in there))


def energies(report: Report) -> list[str]:
  """How joules are known, each way with what went into it."""
  ways: dict[str, dict[str, None]] = {}
  for model in report['models']:
    if energy := model['energy_j_per_example']:
      known, inputs = ways.setdefault(energy['method'], {}), energy.get('inputs', {})
      if 'cores' in inputs:
        known[f'{wording.counted(inputs["cores"], "core")} for the median time at batch 1'] = None
      elif 'joules' in inputs:
        known[f'{model["name"]} {inputs["joules"]:.3g} J over {inputs["examples"]:,} '
              'examples'] = None
  return [f'{method} ({", ".join(known)})' if known else method for method, known in ways.items()]


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


def _saw(models: Sequence[Model]) -> str:
  """What models learnt from, by what it is called, or '' where that isn't known."""
  return next((what for model in models for what in model['saw'] or () if what != 'labels'), '')


def _saw_rows(models: Sequence[Model]) -> Rows:
  said = lambda model, what: f'{model["saw"][what]:,}' if model['saw'] else '–'
  saw = _saw(models)
  return [(f'{what} it saw', [(said(model, what), '') for model in models])
          for what in ((saw, 'labels') if saw else ())]


def _worth(found: Sequence[Mapping[str, Any]], primary: str, metrics: Iterable[str]) -> Rows:
  """Quality, retention and gain of several models."""
  about = found[0]['quality'][primary]

  def quality(metric: str) -> tuple[str, list[Cell]]:
    each = [judged['quality'][metric] for judged in found]
    label = wording.spelled(metric) + ', lower is better' * (not each[0]['higher_is_better'])
    return label, _measured(each)

  def against(field: str, label: str, whose: str, cell: Callable[[Any], Cell]) -> Rows:
    of = {judged[field]['of'] for judged in found if judged[field]}
    return [] if not of else [(label.format(*of if len(of) == 1 else (whose,)), [
        cell(judged) if judged[field] else NONE for judged in found])]

  def kept(judged: Mapping[str, Any]) -> Cell:
    bounds = (judged.get('retention_interval') or {}).get(primary)
    return (wording.percent(judged['retention'][primary]),
            wording.interval({**bounds, 'unit': 'fraction'}) if bounds else '')

  def gained(judged: Mapping[str, Any]) -> Cell:
    gain = judged['gain'][primary]
    return (wording.amount(gain['value'], about['unit'], wording.GAPS),
            wording.interval({**gain, 'unit': about['unit']}, ' to '))

  def led(judged: Mapping[str, Any]) -> Cell:
    over = judged['retention_over_chance'][primary]
    if over['value'] is None:
      return NONE
    bounds = over.get('interval')
    return (wording.amount(over['value'], 'fraction'), wording.interval(
        {**bounds, 'unit': 'fraction'}, ' to ' if bounds['low'] < 0 else '–') if bounds else '')

  what = wording.spelled(primary) if about['higher_is_better'] else 'quality'
  over = [judged.get('retention_over_chance') for judged in found]
  chance = next((each[primary]['chance'] for each in over
                 if each and each[primary]['value'] is not None), None)
  return [*map(quality, metrics),
          *against('retention', f"{{}}'s {what} kept", 'its teacher', kept),
          *([] if chance is None else [(
              f'… over chance ({wording.amount(chance, about["unit"])})',
              [led(judged) if each else NONE for judged, each in zip(found, over, strict=True)])]),
          *against('gain', 'gain over {}', 'its baseline', gained)]


def _modality(models: Sequence[Model]) -> type[modalities.Modality]:
  """Finds the modality that models say they read, or the one whose examples a report calls so."""
  name = next((model['modality'] for model in models if model.get('modality')), '')
  return name and modalities.find_known(name) or modalities.by_noun(_saw(models))


def _measured(found: Sequence[Mapping[str, Any] | None]) -> list[Cell]:
  """Numbers of one unit with their intervals."""
  to = '–' if all(metric['low'] >= 0 for metric in found if metric) else ' to '
  return [(wording.amount(metric['value'], metric['unit']), wording.interval(metric, to))
          if metric else NONE for metric in found]


def _alike(models: Sequence[Model]) -> Rows:
  """How like their teacher models are, and how far from being as sure as they are right."""
  found = {label: [{**model['faithfulness'], **(model.get('calibration') or {})}.get(name)
                   for model in models] for name, label in ALIKE.items()}
  overlap = _modality(models).overlap
  return [(label.format(overlap), _measured(each)) for label, each in found.items() if any(each)]


def _costs(models: Sequence[Model]) -> list[Rows]:
  row = lambda label, say: (label, [(say(model), '') for model in models])
  if_any = lambda field, row: [row] if any(model.get(field) for model in models) else []
  sizes = [row('parameters', lambda m: wording.short(m['params'])),
           row('outside embeddings', lambda m: wording.short(m['params_outside_embeddings'])),
           row('weights', lambda m: wording.short(m['bytes'], 'B')),
           *if_any('shipped_bytes', row('as shipped', lambda m: wording.short(
               m.get('shipped_bytes'), 'B')))]
  if not all(model['latency_ms'] for model in models):
    return [sizes]
  return [
      sizes,
      [row(f'time at batch {models[0]["latency_ms"]["batch"]}',
           lambda m: wording.milliseconds(m['latency_ms']['p50'])),
       row('95th percentile', lambda m: wording.milliseconds(m['latency_ms']['p95'])),
       row('FLOPs of a call', lambda m: wording.short(m['flops'])),
       row('memory of a call', lambda m: wording.short(m['peak_memory_bytes'], 'B')),
       *if_any('process_bytes', row('memory of its process', lambda m: wording.short(
           m.get('process_bytes'), 'B'))),
       ('examples a second', [_rate(m) for m in models]),
       *if_any('energy_j_per_example', row(_spent(models), _energy))]]


def _rate(model: Model) -> Cell:
  batch = model.get('throughput_batch')
  return f'{model["throughput_per_s"]:,.0f}', f'batch {batch}' if batch else ''


def _spent(models: Sequence[Model]) -> str:
  known = wording.estimate(models)
  if known is None:
    return 'energy an example'
  watts = known.get('watts_per_core')
  return 'energy an example, estimated' + (f' at {watts:g} W a core' if watts else '')


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
