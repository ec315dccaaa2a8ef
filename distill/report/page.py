"""The page of a report: one self-contained file for a telephone, a screen and paper."""
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.measure import quality
from distill.report import charts, gallery, radar, tables, verdict, wording
from distill.report.contract import Model, Report
from distill.types import Records

COMMONEST = 5           # confusions that are told in words


def drawn(report: Report, rows: charts.Rows, records: Mapping[str, Records],
          inside: Mapping[str, Records], picture: str) -> str:
  """The page as HTML.

  `rows` are those of metrics.jsonl, `picture` is the radar, or ''; of models of which `records` or
  `inside` (`attributions.explain`) hold nothing, the page lacks what would come from there.
  """
  import jinja2  # here, as matplotlib in charts: a run that starts doesn't wait for it
  environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined,
                                   trim_blocks=True, lstrip_blocks=True)
  environment.filters |= {'short': wording.short, 'percent': wording.percent,
                          'saw': _saw, 'tied': wording.tied, 'counted': wording.counted}
  models, primary = report['models'], report['task']['primary']
  found, names = [m['quality'][primary] for m in models], [m['name'] for m in models]
  what = wording.spelled(primary)
  look = charts.styles([*names, *sorted({row['stage'] for row in rows} - set(names))])
  whole, confused = _confusions(models, records, look)
  axes, lacking = radar.axes(report)
  first = verdict.headline(report)
  differ, examples = gallery.examples(report, records, inside)
  template = pathlib.Path(__file__).with_suffix('.html').read_text('utf-8')
  return environment.from_string(template).render(
      report=report, what=what, title=what[0].upper() + what[1:], metric=found[0], look=look,
      first=first, further=[' '.join(said for said in student if said != first)
                            for student in verdict.sentences(report)],
      values=[wording.amount(q['value'], q['unit']) for q in found],
      forest=charts.forest(found, 100 if found[0]['unit'] == 'fraction' else 1),
      radar=picture, axes=axes, lacking=lacking, tiers=tables.promises(report),
      tables=tables.tables(report), robustness=tables.robustness(report),
      kinds=tables.kinds(report), missed=tables.missed(report),
      energies=tables.energies(report),
      panels=[charts.curves(name, lines, look) for name, lines in charts.lines(rows).items()],
      calibration=_calibrations(models, look), confusions=whole, confused=confused,
      classes=tables.classes(report), differ=differ, examples=examples,
      colours=(gallery.FOR, gallery.AGAINST), layers=_layers(models, look))


def commonest(tables: Mapping[str, np.ndarray], names: Sequence[str]) -> list[str]:
  """The commonest confusions of all models together, in words."""
  taken = sum(tables.values()) * (1 - np.eye(len(names), dtype=int))
  order = np.argsort(-taken, axis=None, kind='stable')[:COMMONEST]
  return [f'{names[truth]} taken for {names[answer]}, {taken[truth, answer]:,}×'
          for truth, answer in (divmod(int(i), len(names)) for i in order)
          if taken[truth, answer]]


def _confusions(models: Sequence[Model], records: Mapping[str, Records],
                look: Mapping[str, Any]) -> tuple[list[str], list[str]]:
  """A matrix of every model that isn't a baseline, and the commonest confusions of all."""
  there = [m for m in models if m.get('classes')
           and quality.is_classification(records.get(m['name'], {}))]
  if not there:
    return [], []
  names = [each['name'] for each in there[0]['classes']]
  counts = {m['name']: quality.confusion_matrix(records[m['name']], len(names)) for m in there}

  def matrix(model: Model) -> str:
    table = counts[model['name']]
    cells = [[f'{n}' if n else '' for n in line] for line in table]
    right = np.trace(table)
    return charts.matrix(
        model['name'], f'{right:,} of {table.sum():,} right',
        table / np.maximum(table.sum(axis=1, keepdims=True), 1), cells, (names, names),
        ('truth', 'answer'), look[model['name']]['color'])
  return ([matrix(m) for m in there if m['role'] != 'baseline'], commonest(counts, names))


def _calibrations(models: Sequence[Model], look: Mapping[str, Any]) -> list[str]:
  found = []
  for model in models:
    if calibration := model.get('calibration'):
      ece = calibration['ece']
      about = f'ECE {wording.amount(ece["value"], ece["unit"])} ({wording.interval(ece)})'
      found.append(charts.reliability(model['name'], about, calibration['bins'],
                                      look[model['name']]))
  return found


def _layers(models: Sequence[Model], look: Mapping[str, Any]) -> list[str]:
  """How alike the layers of models are to those of their teacher, but for the baselines'."""
  found = []
  for model in models:
    if model['role'] != 'baseline' and (layers := model.get('layers')):
      cka = np.array(layers['cka'])
      found.append(charts.matrix(
          model['name'], '', cka, [[f'{v:.2f}'.replace('-', '−') for v in line] for line in cka],
          ([_layer(name) for name in layers['rows']], [_layer(name) for name in layers['columns']]),
          (model['name'], layers['of']), look[model['name']]['color']))
  return found


def _layer(path: str) -> str:
  return path.partition('/')[0]


def _saw(model: Model) -> str:
  said = 'loaded, not trained here'
  if model['saw'] is not None:
    labels = model['saw']['labels']
    what, n = next((what, n) for what, n in model['saw'].items() if what != 'labels')
    labelled = 'all labelled' if labels == n else f'{labels:,} labelled'
    said = ', and the '.join((f'{n:,} {what}, {labelled}', *model.get('teachers', ())))
  return '; '.join(filter(None, (said, model.get('note'))))
