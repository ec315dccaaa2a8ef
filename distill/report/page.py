"""HTML page of a report: one self-contained file for a phone, a screen and paper."""
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.measure import quality
from distill.report import charts, gallery, radar, tables, text, verdict
from distill.report.contract import Model, Report
from distill.types import Records

LISTED = 5              # most frequent confusions listed in words


def draw(report: Report, rows: charts.Rows, records: Mapping[str, Records],
         explanations: Mapping[str, Records], picture: str) -> str:
  """Returns the page as HTML.

  Args:
    rows: the rows of metrics.jsonl.
    records: predictions by a model's name; the page lacks the charts of models without them.
    explanations: results of `attributions.explain` by a model's name, likewise.
    picture: the radar chart as SVG, or ''.
  """
  import jinja2  # here, as matplotlib in charts: a run that starts doesn't wait for it
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                   trim_blocks=True, lstrip_blocks=True)
  environment.filters |= {'short': text.short, 'percent': text.percent,
                          'nonbreaking': text.nonbreaking, 'with_noun': text.with_noun,
                          'training': _training}
  models, primary = report['models'], report['task']['primary']
  qualities, names = [m['quality'][primary] for m in models], [m['name'] for m in models]
  metric = text.metric_name(primary)
  look = charts.styles([*names, *sorted({row['stage'] for row in rows} - set(names))])
  matrices, confused = _confusion_matrices(models, records, look)
  axes, lacking = radar.axes(report)
  first = verdict.headline(report)
  differ, examples = gallery.examples(report, records, explanations)
  template = pathlib.Path(__file__).with_suffix('.html').read_text('utf-8')
  return environment.from_string(template).render(
      report=report, name=metric, title=metric[0].upper() + metric[1:], metric=qualities[0],
      look=look, first=first, further=[' '.join(line for line in student if line != first)
                                       for student in verdict.sentences(report)],
      values=[text.with_unit(q['value'], q['unit']) for q in qualities],
      forest=charts.forest(qualities, 100 if qualities[0]['unit'] == 'fraction' else 1),
      radar=picture, axes=axes, lacking=lacking, pareto=radar.pareto_optimal(axes),
      tiers=tables.tier_table(report),
      tables=tables.tables(report), robustness=tables.robustness(report),
      corruptions=tables.corruptions(report),
      memory_is_underestimated=tables.memory_is_underestimated(report),
      energies=tables.energy_methods(report),
      panels=[charts.curves(name, lines, look) for name, lines in charts.lines(rows).items()],
      reliability=_reliability_diagrams(models, look), matrices=matrices, confused=confused,
      classes=tables.classes(report), differ=differ, examples=examples,
      colours=(gallery.FOR, gallery.AGAINST), layers=_layer_matrices(models, look))


def most_frequent(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
  """Returns the most frequent confusions of all models together, in words."""
  wrong = sum(matrices.values()) * (1 - np.eye(len(names), dtype=int))
  order = np.argsort(-wrong, axis=None, kind='stable')[:LISTED]
  return [f'{names[truth]} predicted as {names[answer]}, {wrong[truth, answer]:,}×'
          for truth, answer in (divmod(int(i), len(names)) for i in order)
          if wrong[truth, answer]]


def _confusion_matrices(models: Sequence[Model], records: Mapping[str, Records],
                        look: Mapping[str, Any]) -> tuple[list[str], list[str]]:
  """Draws a matrix of every model but baselines, and lists the most frequent confusions of all."""
  classifiers = [m for m in models if m.get('classes')
                 and quality.is_classification(records.get(m['name'], {}))]
  if not classifiers:
    return [], []
  names = [each['name'] for each in classifiers[0]['classes']]
  counts = {m['name']: quality.confusion_matrix(records[m['name']], len(names))
            for m in classifiers}

  def matrix(model: Model) -> str:
    table = counts[model['name']]
    cells = [[f'{n}' if n else '' for n in line] for line in table]
    right = np.trace(table)
    return charts.matrix(
        model['name'], f'{right:,} of {table.sum():,} correct',
        table / np.maximum(table.sum(axis=1, keepdims=True), 1), cells, (names, names),
        ('true class', 'predicted class'), look[model['name']]['color'])
  return ([matrix(m) for m in classifiers if m['role'] != 'baseline'],
          most_frequent(counts, names))


def _reliability_diagrams(models: Sequence[Model], look: Mapping[str, Any]) -> list[str]:
  """Draws the reliability diagram of every model that has a calibration."""
  found = []
  for model in models:
    if calibration := model.get('calibration'):
      ece = calibration['ece']
      about = f'ECE {text.with_unit(ece["value"], ece["unit"])} ({text.interval(ece)})'
      found.append(charts.reliability(model['name'], about, calibration['bins'],
                                      look[model['name']]))
  return found


def _layer_matrices(models: Sequence[Model], look: Mapping[str, Any]) -> list[str]:
  """Draws the CKA similarity of every model's layers, except baselines', with its teacher's."""
  found = []
  for model in models:
    if model['role'] != 'baseline' and (layers := model.get('layers')):
      cka = np.array(layers['cka'])
      rows, columns = ([path.partition('/')[0] for path in layers[side]]
                       for side in ('rows', 'columns'))
      found.append(charts.matrix(
          model['name'], '', cka, [[f'{v:.2f}'.replace('-', '−') for v in line] for line in cka],
          (rows, columns), (model['name'], layers['of']), look[model['name']]['color']))
  return found


def _training(model: Model) -> str:
  """Returns what a model was trained on: examples, labels, teachers, and the model's note."""
  line = 'loaded, not trained here'
  if model['saw'] is not None:
    labels = model['saw']['labels']
    noun, n = next((noun, n) for noun, n in model['saw'].items() if noun != 'labels')
    labelled = 'all labelled' if labels == n else f'{labels:,} labelled'
    line = ', and the '.join((f'{n:,} {noun}, {labelled}', *model.get('teachers', ())))
  return '; '.join(filter(None, (line, model.get('note'))))
