"""Tables of a report: models side by side, rows of cells for the page and for the terminal."""
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distill import modalities
from distill.report import text, tiers
from distill.report.contract import Model, Report

Cell = tuple[str, str]          # the main text, and an addition in smaller print
Rows = list[tuple[str, list[Cell]]]         # a label, and a cell for every model

# Rows of faithfulness and calibration; {} is the modality's name for the places of an example.
SIMILARITY = {
    'agreement': 'agreement with teacher',
    'agreement_on_errors': "agreement on the teacher's errors",
    'kl': 'KL divergence from teacher', 'correlation': 'correlation with teacher',
    'distance': 'mean distance from teacher', 'saliency': 'saliency rank correlation',
    'saliency_top': '{}, against 20 % by chance', 'rollout': 'attention rollout correlation',
    'cka': 'CKA similarity of layers', 'ece': 'expected calibration error'}
NONE = '–', ''
CLASSES = 20            # at most; of more, those on which the first student is worst


def tables(report: Report) -> list[tuple[str, list[Rows]]]:
  """Returns a table of quality and cost on the main split, and one of quality per further split.

  A table is a title and its rows, in groups.
  """
  models, primary = report['models'], report['task']['primary']
  size = lambda model: f'{model["quality"][primary]["n"]:,} examples'
  split = report['task'].get('split')
  title = f'{split}, {size(models[0])}' if split else ''
  found = [(title, [_training_rows(models), _quality_rows(models, primary, models[0]['quality']),
                    _similarity_rows(models), *_cost_rows(models), _tier_rows(models)])]
  for split, first in models[0].get('also', {}).items():
    also = [model['also'][split] for model in models]
    found.append((f'{split}, {size(first)}', [_quality_rows(also, primary, [primary])]))
  return found


def memory_is_underestimated(report: Report) -> bool:
  """Tells whether XLA's plan misses most of the memory of calls, as for convolutions on a CPU.

  A model whose process is known (`process_bytes`) was timed in a worker, on the CPU of any machine.
  """
  models = report['models']
  planned = [m for m in models if m['peak_memory_bytes'] is not None]
  on_cpu = report['hardware']['device'] == 'cpu' or any(m.get('process_bytes') for m in planned)
  return _modality(models).convolved and bool(planned) and on_cpu


def energy_methods(report: Report) -> list[str]:
  """Returns how energies were measured or estimated: each method with its inputs."""
  methods: dict[str, dict[str, None]] = {}
  for model in report['models']:
    if energy := model['energy_j_per_example']:
      known, inputs = methods.setdefault(energy['method'], {}), energy.get('inputs', {})
      if 'cores' in inputs:
        known[f'{text.with_noun(inputs["cores"], "core")} for the median time at batch 1'] = None
      elif 'joules' in inputs:
        known[f'{model["name"]} {inputs["joules"]:.3g} J over {inputs["examples"]:,} '
              'examples'] = None
  return [f'{method} ({", ".join(known)})' if known else method
          for method, known in methods.items()]


def tier_table(report: Report) -> tuple[list[str], list[Rows]]:
  """Returns the students that have tiers, and a group of rows per tier: verdict, then limits."""
  students = [model for model in report['models'] if model.get('tiers')]
  groups = []
  for verdicts in zip(*(student['tiers'] for student in students), strict=True):
    cells = []
    for student, verdict in zip(students, verdicts, strict=True):
      is_target = student['tier'] is not None and student['tier']['name'] == verdict['name']
      cells.append(('✓ reached' if verdict['passed'] else '✗ missed',
                    'target tier' if is_target else ''))
    rows = [(verdicts[0]['name'], cells)]
    for limits in zip(*(v['limits'] for v in verdicts), strict=True):
      name, bound, limit = (limits[0][key] for key in ('name', 'bound', 'limit'))
      label = tiers.LIMITED[name].replace(' in ms', '')
      value = _limit_value(name, limit).replace('.0 %', ' %').replace('.00 ms', ' ms')
      rows.append((f'{label}, {tiers.BOUNDS[bound]} {value}',
                   [(_limit_value(name, each['value']), '✓ pass' if each['passed'] else '✗ fail')
                    for each in limits]))
    groups.append(rows)
  return [student['name'] for student in students], groups


def robustness(report: Report) -> tuple[int, Rows]:
  """Returns the number of examples, and the primary metric on clean and on corrupted inputs."""
  found = [model.get('robustness') or {} for model in report['models']]
  n = next((each['clean']['n'] for each in found if each), 0)
  kinds = dict.fromkeys(kind for each in found for kind in each)
  return n, [(text.CORRUPTIONS.get(kind, kind), _metric_cells([each.get(kind) for each in found]))
             for kind in kinds]


def corruptions(report: Report) -> list[str]:
  """Returns a description of every corruption in `robustness`."""
  about = {kind: found['about'] for model in report['models']
           for kind, found in (model.get('robustness') or {}).items() if kind != 'clean'}
  return [f'{text.CORRUPTIONS.get(kind, kind)}: {line}' for kind, line in about.items()]


def classes(report: Report) -> tuple[int, Rows]:
  """Returns the number of classes, and every model's F1 of each, or of the `CLASSES` worst."""
  found = [model.get('classes') for model in report['models']]
  if None in found:
    return 0, []
  first = next((m['classes'] for m in report['models'] if m['role'] == 'student'), found[0])
  order = range(len(first))
  if len(first) > CLASSES:
    order = sorted(order, key=lambda i: first[i]['f1']['value'])[:CLASSES]
  return len(first), [
      (f'{first[i]["name"]} ({first[i]["support"]:,})',
       _metric_cells([{**each[i]['f1'], 'unit': 'fraction'} for each in found])) for i in order]


def _noun(models: Sequence[Model]) -> str:
  """Returns the noun of the examples that models were trained on, '' if it isn't known."""
  return next((noun for model in models for noun in model['saw'] or () if noun != 'labels'), '')


def _training_rows(models: Sequence[Model]) -> Rows:
  """Returns the numbers of examples and labels that models were trained on."""
  count = lambda model, noun: f'{model["saw"][noun]:,}' if model['saw'] else '–'
  noun = _noun(models)
  return [(f'training {name}', [(count(model, name), '') for model in models])
          for name in ((noun, 'labels') if noun else ())]


def _quality_rows(judged: Sequence[Mapping[str, Any]], primary: str,
                  metrics: Iterable[str]) -> Rows:
  """Returns quality, retention and gain of several models on one split."""
  first = judged[0]['quality'][primary]
  rows = [_quality_row(judged, metric) for metric in metrics]
  name = text.metric_name(primary) if first['higher_is_better'] else 'quality'
  rows += _comparison_rows(judged, 'retention', f"retention of {{}}'s {name}", 'its teacher',
                           lambda model: _retention_cell(model, primary))
  over = [model.get('retention_over_chance') for model in judged]
  chance = next((each[primary]['chance'] for each in over
                 if each and each[primary]['value'] is not None), None)
  if chance is not None:
    rows.append((f'retention over chance ({text.with_unit(chance, first["unit"])})',
                 [_over_chance_cell(each[primary]) if each else NONE for each in over]))
  return rows + _comparison_rows(judged, 'gain', 'gain over {}', 'its baseline',
                                 lambda model: _gain_cell(model, primary))


def _quality_row(judged: Sequence[Mapping[str, Any]], metric: str) -> tuple[str, list[Cell]]:
  found = [model['quality'][metric] for model in judged]
  label = text.metric_name(metric)
  if not found[0]['higher_is_better']:
    label += ', lower is better'
  return label, _metric_cells(found)


def _comparison_rows(judged: Sequence[Mapping[str, Any]], field: str, label: str, several: str,
                     cell: Callable[[Any], Cell]) -> Rows:
  """Returns a row of a comparison with another model, or no row if no model has it.

  The label names that other model; if there are several, it is called `several`.
  """
  others = {model[field]['of'] for model in judged if model[field]}
  if not others:
    return []
  name = others.pop() if len(others) == 1 else several
  return [(label.format(name), [cell(model) if model[field] else NONE for model in judged])]


def _retention_cell(model: Mapping[str, Any], primary: str) -> Cell:
  share = text.percent(model['retention'][primary])
  bounds = (model.get('retention_interval') or {}).get(primary)
  return share, text.interval({**bounds, 'unit': 'fraction'}) if bounds else ''


def _over_chance_cell(over: Mapping[str, Any]) -> Cell:
  if over['value'] is None:
    return NONE
  share, bounds = text.with_unit(over['value'], 'fraction'), over.get('interval')
  if not bounds:
    return share, ''
  to = ' to ' if bounds['low'] < 0 else '–'
  return share, text.interval({**bounds, 'unit': 'fraction'}, to)


def _gain_cell(model: Mapping[str, Any], primary: str) -> Cell:
  gain, unit = model['gain'][primary], model['quality'][primary]['unit']
  return (text.with_unit(gain['value'], unit, text.DIFFERENCE_UNITS),
          text.interval({**gain, 'unit': unit}, ' to '))


def _modality(models: Sequence[Model]) -> type[modalities.Modality]:
  """Finds the modality that models say they read, or the one whose examples have the same noun."""
  name = next((model['modality'] for model in models if model.get('modality')), '')
  known = modalities.find_known(name) if name else None
  return known or modalities.by_noun(_noun(models))


def _metric_cells(found: Sequence[Mapping[str, Any] | None]) -> list[Cell]:
  """Returns numbers of one unit with their intervals."""
  to = '–' if all(metric['low'] >= 0 for metric in found if metric) else ' to '
  return [(text.with_unit(metric['value'], metric['unit']), text.interval(metric, to))
          if metric else NONE for metric in found]


def _similarity_rows(models: Sequence[Model]) -> Rows:
  """Returns how similar models are to their teacher, and how well calibrated they are."""
  overlap, rows = _modality(models).overlap, []
  for name, label in SIMILARITY.items():
    found = [{**model['faithfulness'], **(model.get('calibration') or {})}.get(name)
             for model in models]
    if any(found):
      rows.append((label.format(overlap), _metric_cells(found)))
  return rows


def _cost_rows(models: Sequence[Model]) -> list[Rows]:
  """Returns the rows of size, and those of time, memory and energy if calls were timed."""
  row = lambda label, cell: (label, [(cell(model), '') for model in models])
  has = lambda field: any(model.get(field) for model in models)
  sizes = [row('parameters', lambda m: text.short(m['params'])),
           row('outside embeddings', lambda m: text.short(m['params_outside_embeddings'])),
           row('weights', lambda m: text.short(m['bytes'], 'B'))]
  if has('shipped_bytes'):
    sizes.append(row('shipped files', lambda m: text.short(m.get('shipped_bytes'), 'B')))
  if not all(model['latency_ms'] for model in models):
    return [sizes]
  batch = models[0]['latency_ms']['batch']
  calls = [row(f'median latency, batch {batch}',
               lambda m: text.milliseconds(m['latency_ms']['p50'])),
           row('95th percentile', lambda m: text.milliseconds(m['latency_ms']['p95'])),
           row('FLOPs per call', lambda m: text.short(m['flops'])),
           row('memory per call', lambda m: text.short(m['peak_memory_bytes'], 'B'))]
  if has('process_bytes'):
    calls.append(row('memory of the process', lambda m: text.short(m.get('process_bytes'), 'B')))
  calls.append(('examples per second', [_throughput_cell(m) for m in models]))
  if has('energy_j_per_example'):
    calls.append(row(_energy_label(models), _energy_cell))
  return [sizes, calls]


def _throughput_cell(model: Model) -> Cell:
  batch = model.get('throughput_batch')
  return f'{model["throughput_per_s"]:,.0f}', f'batch {batch}' if batch else ''


def _energy_label(models: Sequence[Model]) -> str:
  estimate = text.shared_estimate(models)
  if estimate is None:
    return 'energy per example'
  watts = estimate.get('watts_per_core')
  return 'energy per example, estimated' + (f' at {watts:g} W a core' if watts else '')


def _energy_cell(model: Model) -> str:
  energy = model['energy_j_per_example']
  if not energy:
    return '–'
  value = f'{1e3 * energy["value"]:.3g} mJ'
  return f'about {value}' if energy['method'].startswith('estimated') else value


def _tier_rows(models: Sequence[Model]) -> Rows:
  """Returns the tiers that students reach; no row if no model has tiers."""
  reached = lambda model: ', '.join(v['name'] for v in model['tiers'] if v['passed']) or 'none'
  if not any('tiers' in m for m in models):
    return []
  return [('tiers reached', [(reached(m) if 'tiers' in m else '–', '') for m in models])]


def _limit_value(name: str, value: float | None) -> str:
  """Formats the value of a tier's limit in its unit."""
  if value is None:
    return 'not measured'
  if name == 'bytes':
    return text.short(value, 'B')
  return text.milliseconds(value) if name == 'p95_ms' else text.percent(value)
