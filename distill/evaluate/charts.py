"""Drawings for the report: which colour is whose, round axes, and training curves as SVG."""
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Rows = Sequence[Mapping[str, Any]]              # of metrics.jsonl
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]          # name -> steps, values

# Okabe and Ito's colours, which colour-blind readers tell apart, dark enough to be read as text.
COLOURS = ('#0072B2', '#BF5300', '#4D4D4D', '#007A5A', '#A34A80', '#8A6500')
DASHES = ((0, (5, 1.5)), '-', (0, (1.2, 1.2)), '-.', (0, (8, 2)), (0, (6, 1, 1, 1, 1, 1)))
ROUND = (1, 2, 5, 10)
POINTS = 200            # more of a line no screen shows
WIDTH, HEIGHT = 300, 190        # in points; the page never draws them narrower than 300 pixels
UNDRAWN = ('stage', 'seed', 'step', 'time', 'grad_norm')        # in a row, and no curve

STYLE = {
    'svg.hashsalt': 'distill', 'svg.fonttype': 'none', 'font.family': 'DejaVu Sans',
    'font.size': 11, 'axes.titlesize': 11, 'axes.titleweight': 'bold',
    'axes.titlelocation': 'left', 'text.color': '#1b1f24', 'axes.labelcolor': '#4b5563',
    'xtick.color': '#4b5563', 'ytick.color': '#4b5563', 'axes.edgecolor': '#9aa3ad',
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True,
    'axes.grid.axis': 'y', 'grid.color': '#e5e8ec', 'lines.linewidth': 1.6,
    'figure.constrained_layout.use': True}


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
  """The colour and the dashes of every model, the same in all drawings."""
  return {name: {'color': COLOURS[i % len(COLOURS)], 'linestyle': DASHES[i % len(DASHES)]}
          for i, name in enumerate(names)}


def forest(qualities: Sequence[Mapping[str, Any]], scale: float) -> dict[str, list]:
  """A metric of several models on one axis with round ticks, what is better to the right.

  Places are percents of the axis' width; `left` and `right` are the interval's ends.
  """
  from matplotlib import ticker
  ends = [scale * quality[name] for quality in qualities for name in ('low', 'value', 'high')]
  alone = min(ends) == max(ends)        # as True, room of 1 on both sides of a single place
  ticks = ticker.MaxNLocator(5, steps=ROUND).tick_values(min(ends) - alone, max(ends) + alone)
  start, stop = ticks[[0, -1] if qualities[0]['higher_is_better'] else [-1, 0]]
  place = lambda value: round(float(100 * (value - start) / (stop - start)), 2)
  points = []
  for quality in qualities:
    left, right = sorted(place(scale * quality[name]) for name in ('low', 'high'))
    points.append({'left': left, 'value': place(scale * quality['value']), 'right': right})
  return {'ticks': [(f'{tick:g}'.replace('-', '−'), place(tick)) for tick in ticks],
          'points': points}


def lines(rows: Rows) -> dict[str, dict[str, tuple[list, list]]]:
  """What was logged: for every name a line a stage, (steps, values), without gaps."""
  found: dict[str, dict[str, tuple[list, list]]] = {}
  for row in rows:
    for name, value in row.items():
      if name not in UNDRAWN and value is not None and not name.startswith('share/'):
        steps, values = found.setdefault(name, {}).setdefault(row['stage'], ([], []))
        steps.append(row['step'])
        values.append(value)
  return found


def curves(title: str, lines: Lines, look: Mapping[str, Mapping[str, Any]]) -> str:
  """Values over steps as SVG, names where their lines end."""
  import matplotlib
  from matplotlib import figure, ticker
  with matplotlib.rc_context(STYLE):
    drawing = figure.Figure(figsize=(WIDTH / 72, HEIGHT / 72))
    axes = drawing.subplots()
    lines = {name: (_thin(steps), _thin(values)) for name, (steps, values) in lines.items()}
    for name, line in lines.items():
      axes.plot(*line, marker='o' if len(line[0]) == 1 else '', markersize=4, **look[name])
    axes.margins(x=0)
    axes.set_title(title, parse_math=False)
    axes.set_xlabel('step')
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter('{x:,.0f}'))
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=ROUND))
    bottom, top = axes.get_ylim()
    ends = {name: (values[-1] - bottom) / (top - bottom) for name, (_, values) in lines.items()}
    for name, height in _apart(ends, gap=0.11).items():
      axes.annotate(name, (1.03, height), xycoords='axes fraction', va='center', weight='bold',
                    color=look[name]['color'], parse_math=False)
    buffer = io.StringIO()
    drawing.savefig(buffer, format='svg', transparent=True)
  svg = buffer.getvalue()
  # Ids are made unique, since several drawings share a page.
  prefix = re.sub(r'\W+', '-', title)
  svg = re.sub(r'( id="|url\(#|href="#)', rf'\g<1>{prefix}-', svg[svg.index('<svg'):])
  return re.sub(r'<metadata>.*?</metadata>', '', svg, flags=re.DOTALL)


def _thin(values: Sequence[float]) -> np.ndarray:
  """At most POINTS means of neighbours."""
  values = np.asarray(values, float)
  return np.array([part.mean() for part in np.array_split(values, min(POINTS, len(values)))])


def _apart(heights: Mapping[str, float], gap: float) -> dict[str, float]:
  """Heights from top to bottom, moved as little as keeps them `gap` apart and inside [0, 1]."""
  placed, ceiling = {}, 1.0
  for name in sorted(heights, key=heights.get, reverse=True):
    placed[name] = min(heights[name], ceiling)
    ceiling = placed[name] - gap
  lift = max(0.0, -min(placed.values()))
  return {name: height + lift for name, height in placed.items()}
