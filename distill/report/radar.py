"""The radar: what each model is worth on a few axes, 100 % being the best of the models."""
import math
from collections.abc import Callable, Mapping
from typing import Any

from distill.measure import quality
from distill.report import charts, tables, wording
from distill.report.contract import Model, Report

WIDTH, RADIUS = 320, 100        # in points; the page never draws it narrower
LEAST = 3               # axes that make a radar
LINE = 15               # from one line of text to the next
ALIKE = {'agreement': "share of answers that are the teacher's",
         'correlation': "correlation with the teacher's answers"}
AXES = 'speed', 'memory', 'energy', 'faithfulness'       # beside the primary metric

# name, whole (what 100 % is), about (what was measured), shares (a model's name -> one, or None)
Axis = Mapping[str, Any]


def axes(report: Report) -> tuple[list[Axis], list[str]]:
  """The axes that models have, and the names of those that none has.

  On every axis 100 % is the best of the models, and more is better, whatever the direction of what
  was measured; but 100 % faithful are the teacher's own answers.
  """
  models, metric = report['models'], report['task']['primary']
  first = models[0]['quality'][metric]
  found = [_best(wording.spelled(metric), models, lambda m: m['quality'][metric]['value'],
                 lambda best: wording.amount(best, first['unit']), '', first['higher_is_better'])]
  timed, spent = (lambda m: m['latency_ms'] and m['latency_ms']['p50']), (
      lambda m: m['energy_j_per_example'] and m['energy_j_per_example']['value'])
  estimated = any(m['energy_j_per_example'] and m['energy_j_per_example']['method'].startswith(
      'estimated') for m in models)
  found += [_best('speed', models, timed, wording.milliseconds, 'median time at batch 1'),
            _best('memory', models, lambda m: m['peak_memory_bytes'],
                  lambda best: wording.short(best, 'B'), 'of a call' + tables.missed(report) * (
                      " by XLA's plan, which misses most of convolutions on a CPU")),
            _best('energy, estimated' if estimated else 'energy', models, spent,
                  lambda best: f'{1e3 * best:.3g} mJ', 'of an example' + _of_time(models)),
            _faithful(models)]
  return ([axis for axis in found if axis],
          [name for name, axis in zip(AXES, found[1:], strict=True) if not axis])


def drawn(report: Report) -> str:
  """The radar with its legend as SVG, or '' of too few axes or one model."""
  found, names = axes(report)[0], [model['name'] for model in report['models']]
  return _drawn(found, names) if len(found) >= LEAST and len(names) > 1 else ''


def _best(name: str, models: list[Model], value: Callable[[Model], float | None],
          said: Callable[[float], str], about: str, higher: bool = False) -> Axis | None:
  """An axis of shares of the best; less than nothing is nothing."""
  values = {m['name']: value(m) for m in models}
  there = [v for v in values.values() if v is not None]
  if not there:
    return None
  best = max(there) if higher else min(there)
  measured = lambda v: {'only': {'value': v, 'higher_is_better': higher}}
  share = lambda v: 1.0 if v == best else quality.retention(
      measured(v), measured(best))['only'] or 0.0
  return {'name': name, 'whole': said(best), 'about': about,
          'shares': {n: None if v is None else share(v) for n, v in values.items()}}


def _of_time(models: list[Model]) -> str:
  """What an energy is worth that is only an estimate."""
  known = wording.estimate(models)
  if known is None:
    return ''
  power = f'{known["watts_per_core"] * known["cores"]:g} W' if {
      'watts_per_core', 'cores'} <= known.keys() else 'a power'
  return f'; it is time × {power} here, an estimate that tells nothing beyond speed'


def _faithful(models: list[Model]) -> Axis | None:
  """How near answers are to the teacher's: equal classes, or correlated numbers."""
  alike = lambda m: next((m['faithfulness'][name]['value'] for name in ALIKE
                          if name in m['faithfulness']), None)
  shares = {m['name']: alike(m) for m in models}
  if not any(share is not None for share in shares.values()):
    return None
  teacher = next((m['name'] for m in models if m['role'] == 'teacher'), None)
  shares |= {teacher: 1.0} if teacher else {}
  about = next(said for name, said in ALIKE.items() for m in models if name in m['faithfulness'])
  return {'name': 'faithfulness', 'whole': "the\nteacher's answers", 'about': about,
          'shares': {n: s if s is None else max(0.0, s) for n, s in shares.items()}}


def _drawn(found: list[Axis], names: list[str]) -> str:
  import matplotlib
  from matplotlib import figure
  way = [math.pi / 2 - 2 * math.pi * i / len(found) for i in range(len(found))]
  round_trip = lambda shares: [*shares, shares[0]]
  across = lambda shares: [RADIUS * s * math.cos(a) for s, a in zip(shares, way, strict=True)]
  up = lambda shares: [RADIUS * s * math.sin(a) for s, a in zip(shares, way, strict=True)]
  columns = 2 if len(names) > 4 else 1
  rows = math.ceil(len(names) / columns)
  bottom = min(up([1] * len(found))) - 3 * LINE
  top, low = RADIUS + 2.6 * LINE, bottom - (rows + 0.5) * LINE
  with matplotlib.rc_context(charts.STYLE | {'figure.constrained_layout.use': False}):
    drawing = figure.Figure(figsize=(WIDTH / 72, (top - low) / 72))
    axes = drawing.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-WIDTH / 2, WIDTH / 2), ylim=(low, top))
    axes.axis('off')
    for ring in 0.25, 0.5, 0.75, 1:
      axes.plot(*(round_trip(of([ring] * len(found))) for of in (across, up)), linewidth=0.8,
                color='#9aa3ad' if ring == 1 else '#dfe3e8')
    for x, y in zip(across([1] * len(found)), up([1] * len(found)), strict=True):
      axes.plot((0, x), (0, y), color='#dfe3e8', linewidth=0.8)
    axes.text(3, RADIUS / 2, '50 %', color='#4b5563', va='center', zorder=9, bbox={
        'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.85, 'pad': 0.5})
    look = charts.styles(names)
    for name in names:
      shares = [math.nan if axis['shares'][name] is None else axis['shares'][name]
                for axis in found]
      axes.plot(*(round_trip(of(shares)) for of in (across, up)), marker='.', markersize=5,
                **look[name])
    for axis, angle in zip(found, way, strict=True):
      _label(axes, axis, RADIUS * math.cos(angle), RADIUS * math.sin(angle))
    for i, name in enumerate(names):
      left = -WIDTH / 2 + 4 + (i // rows) * WIDTH / 2
      y = bottom - (i % rows + 0.5) * LINE
      axes.plot((left, left + 24), (y, y), **look[name])
      axes.text(left + 29, y, charts.cut(name, 19 if columns == 2 else 40), va='center',
                color=look[name]['color'], parse_math=False)
    return charts.svg(drawing, 'radar', transparent=False, facecolor='white')


def _label(axes: Any, axis: Axis, x: float, y: float) -> None:
  """What an axis is, beside its end, inside the drawing's edges and outside the web."""
  side = (x > 1) - (x < -1)
  if not side:
    across, up, grows, hangs = 0, y + math.copysign(6, y), 'center', 'bottom' if y > 0 else 'top'
  elif y > -RADIUS / 4:
    across, up = side * (WIDTH / 2 - 2), max(0.52 * RADIUS, y + 0.34 * RADIUS)
    grows, hangs = 'right' if side > 0 else 'left', 'bottom'
  else:
    across, up, grows, hangs = side * 8, y - 6, 'left' if side > 0 else 'right', 'top'
  lines = [axis['name'], *f'100 % = {axis["whole"]}'.split('\n')]
  for i, line in enumerate(lines):
    down = i if hangs == 'top' else i + 1 - len(lines)
    axes.text(across, up - down * LINE, line, ha=grows, va=hangs, parse_math=False,
              weight='normal' if i else 'bold', color='#4b5563' if i else '#1b1f24')
