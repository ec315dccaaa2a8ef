"""Radar chart: quality, speed, memory, energy and faithfulness, 100 % being the best model."""
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill.measure import quality
from distill.report import charts, tables, text
from distill.report.contract import Model, Report

WIDTH, RADIUS = 320, 100        # in points; the page never draws it narrower
FEWEST = 3              # axes that make a radar
LINE = 15               # from one line of text to the next
GREY = '#4b5563'
AGREEMENT = {'agreement': "share of answers that are the teacher's",
             'correlation': "correlation with the teacher's answers"}
AXES = 'speed', 'memory', 'energy', 'faithfulness'       # beside the primary metric

# name, whole (what 100 % is), about (what was measured), shares (by a model's name; None: unknown)
Axis = Mapping[str, Any]


def axes(report: Report) -> tuple[list[Axis], list[str]]:
  """Returns the axes on which models have values, and the names of those without any.

  On every axis 100 % is the best of the models, and more is better, whatever the direction of the
  measured value. For faithfulness, 100 % are the teacher's answers.
  """
  models, metric = report['models'], report['task']['primary']
  first = models[0]['quality'][metric]
  latency = lambda m: m['latency_ms'] and m['latency_ms']['p50']
  joules = lambda m: m['energy_j_per_example'] and m['energy_j_per_example']['value']
  estimated = any(m['energy_j_per_example'] and m['energy_j_per_example']['method'].startswith(
      'estimated') for m in models)
  memory = 'per call'
  if tables.memory_is_underestimated(report):
    memory += " by XLA's plan, which misses most of convolutions on a CPU"
  found = [_axis(text.metric_name(metric), models, lambda m: m['quality'][metric]['value'],
                 lambda best: text.with_unit(best, first['unit']), '', first['higher_is_better']),
           _axis('speed', models, latency, text.milliseconds, 'median time at batch 1'),
           _axis('memory', models, lambda m: m['peak_memory_bytes'],
                 lambda best: text.short(best, 'B'), memory),
           _axis('energy, estimated' if estimated else 'energy', models, joules,
                 lambda best: f'{1e3 * best:.3g} mJ', 'per example' + _estimate_note(models)),
           _faithfulness_axis(models)]
  return ([axis for axis in found if axis],
          [name for name, axis in zip(AXES, found[1:], strict=True) if not axis])


def pareto_optimal(axes: Sequence[Axis]) -> list[str]:
  """Returns the models that no other model dominates, on the axes that all models have.

  A model dominates another if it is at least as good on every axis and better on one. With fewer
  than two such axes there is no trade-off, and the list is empty.
  """
  complete = [axis['shares'] for axis in axes if None not in axis['shares'].values()]
  if len(complete) < 2:
    return []
  points = {name: [shares[name] for shares in complete] for name in complete[0]}

  def dominates(a: Sequence[float], b: Sequence[float]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))
  return [name for name, point in points.items()
          if not any(dominates(other, point) for other in points.values())]


def draw(report: Report) -> str:
  """Draws the radar with its legend as SVG; '' with too few axes or one model."""
  found, names = axes(report)[0], [model['name'] for model in report['models']]
  if len(found) < FEWEST or len(names) < 2:
    return ''
  import matplotlib
  from matplotlib import figure
  angles = [math.pi / 2 - 2 * math.pi * i / len(found) for i in range(len(found))]
  columns = 2 if len(names) > 4 else 1
  rows = math.ceil(len(names) / columns)
  bottom = RADIUS * min(map(math.sin, angles)) - 3 * LINE
  top, low = RADIUS + 2.6 * LINE, bottom - (rows + 0.5) * LINE
  with matplotlib.rc_context(charts.STYLE | {'figure.constrained_layout.use': False}):
    drawing = figure.Figure(figsize=(WIDTH / 72, (top - low) / 72))
    plot = drawing.add_axes((0, 0, 1, 1))
    plot.set(xlim=(-WIDTH / 2, WIDTH / 2), ylim=(low, top))
    plot.axis('off')
    _draw_web(plot, angles)
    look = charts.styles(names)
    for name in names:
      shares = [math.nan if axis['shares'][name] is None else axis['shares'][name]
                for axis in found]
      plot.plot(*_closed(shares, angles), marker='.', markersize=5, **look[name])
    for axis, angle in zip(found, angles, strict=True):
      _label(plot, axis, RADIUS * math.cos(angle), RADIUS * math.sin(angle))
    for i, name in enumerate(names):
      left = -WIDTH / 2 + 4 + (i // rows) * WIDTH / 2
      y = bottom - (i % rows + 0.5) * LINE
      plot.plot((left, left + 24), (y, y), **look[name])
      plot.text(left + 29, y, charts.cut(name, 19 if columns == 2 else 40), va='center',
                color=look[name]['color'], parse_math=False)
    return charts.svg(drawing, 'radar', transparent=False, facecolor='white')


def _axis(name: str, models: list[Model], value: Callable[[Model], float | None],
          spell: Callable[[float], str], about: str, higher: bool = False) -> Axis | None:
  """Returns an axis of shares of the best model; None if no model has a value.

  A share below 0 becomes 0.
  """
  values = {m['name']: value(m) for m in models}
  known = [v for v in values.values() if v is not None]
  if not known:
    return None
  best = max(known) if higher else min(known)
  as_metric = lambda v: {'value': {'value': v, 'higher_is_better': higher}}

  def share(v):
    if v is None:
      return None
    return 1.0 if v == best else quality.retention(as_metric(v), as_metric(best))['value'] or 0.0
  return {'name': name, 'whole': spell(best), 'about': about,
          'shares': {n: share(v) for n, v in values.items()}}


def _estimate_note(models: list[Model]) -> str:
  """Returns a note that estimated energies are times in another unit; '' if any was measured."""
  inputs = text.shared_estimate(models)
  if inputs is None:
    return ''
  power = 'a power'
  if {'watts_per_core', 'cores'} <= inputs.keys():
    power = f'{inputs["watts_per_core"] * inputs["cores"]:g} W'
  return f'; it is time × {power} here, an estimate that tells nothing beyond speed'


def _faithfulness_axis(models: list[Model]) -> Axis | None:
  """Returns the axis of agreement with the teacher: equal classes, or correlated numbers."""
  def value(model):
    return next((model['faithfulness'][name]['value'] for name in AGREEMENT
                 if name in model['faithfulness']), None)
  shares = {m['name']: value(m) for m in models}
  if not any(share is not None for share in shares.values()):
    return None
  teacher = next((m['name'] for m in models if m['role'] == 'teacher'), None)
  if teacher:
    shares[teacher] = 1.0
  about = next(about for name, about in AGREEMENT.items() for m in models
               if name in m['faithfulness'])
  return {'name': 'faithfulness', 'whole': "the\nteacher's answers", 'about': about,
          'shares': {n: s if s is None else max(0.0, s) for n, s in shares.items()}}


def _closed(shares: Sequence[float], angles: Sequence[float]) -> tuple[list[float], list[float]]:
  """Returns the x and y of a closed line through one point per axis."""
  pairs = [*zip(shares, angles, strict=True)]
  pairs.append(pairs[0])
  return ([RADIUS * share * math.cos(angle) for share, angle in pairs],
          [RADIUS * share * math.sin(angle) for share, angle in pairs])


def _draw_web(plot: Any, angles: Sequence[float]) -> None:
  """Draws the rings at 25, 50, 75 and 100 %, and the axes."""
  for ring in 0.25, 0.5, 0.75, 1:
    plot.plot(*_closed([ring] * len(angles), angles), linewidth=0.8,
              color='#9aa3ad' if ring == 1 else '#dfe3e8')
  for angle in angles:
    plot.plot((0, RADIUS * math.cos(angle)), (0, RADIUS * math.sin(angle)), color='#dfe3e8',
              linewidth=0.8)
  plot.text(3, RADIUS / 2, '50 %', color=GREY, va='center', zorder=9, bbox={
      'facecolor': 'white', 'edgecolor': 'none', 'alpha': 0.85, 'pad': 0.5})


def _label(plot: Any, axis: Axis, x: float, y: float) -> None:
  """Writes an axis' name beside its end, inside the drawing's edges and outside the web."""
  side = (x > 1) - (x < -1)
  if not side:
    across, up, ha, va = 0, y + math.copysign(6, y), 'center', 'bottom' if y > 0 else 'top'
  elif y > -RADIUS / 4:
    across, up = side * (WIDTH / 2 - 2), max(0.52 * RADIUS, y + 0.34 * RADIUS)
    ha, va = 'right' if side > 0 else 'left', 'bottom'
  else:
    across, up, ha, va = side * 8, y - 6, 'left' if side > 0 else 'right', 'top'
  lines = [axis['name'], *f'100 % = {axis["whole"]}'.split('\n')]
  for i, line in enumerate(lines):
    down = i if va == 'top' else i + 1 - len(lines)
    plot.text(across, up - down * LINE, line, ha=ha, va=va, parse_math=False,
              weight='normal' if i else 'bold', color=GREY if i else '#1b1f24')
