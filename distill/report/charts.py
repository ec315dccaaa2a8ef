"""Charts of the report as SVG: training curves, reliability diagrams, matrices; models' colours."""
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.measure import quality

Rows = Sequence[Mapping[str, Any]]              # of metrics.jsonl
Lines = Mapping[str, tuple[Sequence[float], Sequence[float]]]          # name -> steps, values

# Okabe and Ito's colours, which colour-blind readers can distinguish, dark enough for text.
COLOURS = ('#0072B2', '#BF5300', '#4D4D4D', '#007A5A', '#A34A80', '#8A6500')
DOTS = (0, (1.2, 1.2))
DASHES = ((0, (5, 1.5)), '-', DOTS, '-.', (0, (8, 2)), (0, (6, 1, 1, 1, 1, 1)))
ROUND = (1, 2, 5, 10)
DARKEST = '#005A8E'     # of a matrix; numbers can be read on all that is lighter
POINTS = 200            # of a line at most; no screen shows more
WIDTH, HEIGHT = 300, 190        # in points; the page never draws them narrower than 300 pixels
NAMED = 20              # a matrix with more rows or columns has no room for names
UNDRAWN = ('stage', 'seed', 'step', 'time', 'grad_norm', 'loss_scale')    # fields without a curve

STYLE = {
    'svg.hashsalt': 'distill', 'svg.fonttype': 'none', 'font.family': 'DejaVu Sans',
    'font.size': 11, 'axes.titlesize': 11, 'axes.titleweight': 'bold',
    'axes.titlelocation': 'left', 'text.color': '#1b1f24', 'axes.labelcolor': '#4b5563',
    'xtick.color': '#4b5563', 'ytick.color': '#4b5563', 'axes.edgecolor': '#9aa3ad',
    'axes.spines.top': False, 'axes.spines.right': False, 'axes.grid': True,
    'axes.grid.axis': 'y', 'grid.color': '#e5e8ec', 'lines.linewidth': 1.6,
    'figure.constrained_layout.use': True}


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
  """Returns the colour and the line style of every model, the same in all drawings.

  NAME-baseline has the colour of NAME and a dotted line, which no other model then has.
  """
  student_of = {name: name.removesuffix('-baseline') for name in names
                if name.endswith('-baseline') and name.removesuffix('-baseline') in names}
  others = [name for name in names if name not in student_of]
  dashes = [dash for dash in DASHES if dash != DOTS or not student_of]
  found = {name: {'color': COLOURS[i % len(COLOURS)],
                  'linestyle': dashes[(i + i // len(COLOURS)) % len(dashes)]}
           for i, name in enumerate(others)}
  for name, student in student_of.items():
    found[name] = {'color': found[student]['color'], 'linestyle': DOTS}
  return {name: found[name] for name in names}


def forest(qualities: Sequence[Mapping[str, Any]], scale: float) -> dict[str, list]:
  """Places a metric of several models on one axis with round ticks; better is to the right.

  Places are percentages of the axis' width; `left` and `right` are the ends of the interval.
  """
  from matplotlib import ticker
  ends = [scale * metric[name] for metric in qualities for name in ('low', 'value', 'high')]
  margin = 1 if min(ends) == max(ends) else 0         # room on both sides of a single place
  ticks = ticker.MaxNLocator(5, steps=ROUND).tick_values(min(ends) - margin, max(ends) + margin)
  start, stop = ticks[[0, -1] if qualities[0]['higher_is_better'] else [-1, 0]]
  place = lambda value: round(float(100 * (value - start) / (stop - start)), 2)
  points = []
  for metric in qualities:
    left, right = sorted(place(scale * metric[name]) for name in ('low', 'high'))
    points.append({'left': left, 'value': place(scale * metric['value']), 'right': right})
  return {'ticks': [(f'{tick:g}'.replace('-', '−'), place(tick)) for tick in ticks],
          'points': points}


def lines(rows: Rows) -> dict[str, dict[str, tuple[list, list]]]:
  """Returns for every logged name a line per stage, (steps, values), without gaps."""
  found: dict[str, dict[str, tuple[list, list]]] = {}
  for row in rows:
    for name, value in row.items():
      if name not in UNDRAWN and value is not None and not name.startswith('share/'):
        steps, values = found.setdefault(name, {}).setdefault(row['stage'], ([], []))
        steps.append(row['step'])
        values.append(value)
  return found


def curves(title: str, lines: Lines, look: Mapping[str, Mapping[str, Any]]) -> str:
  """Draws values over steps as SVG, with every name where its line ends."""
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
    for name, height in _spread(ends, gap=0.11).items():
      axes.annotate(cut(name, 19), (1.03, height), xycoords='axes fraction', va='center',
                    weight='bold', color=look[name]['color'], parse_math=False)
    return svg(drawing, f'curves {title}')


def reliability(title: str, about: str, bins: Sequence[Mapping[str, Any]],
                look: Mapping[str, Any]) -> str:
  """Draws a reliability diagram: accuracy by confidence, with 95 % intervals; counts below it."""
  import matplotlib
  from matplotlib import figure
  bins = [part for part in bins if part['n']]
  confidence, accuracy = ([100 * part[name] for part in bins]
                          for name in ('confidence', 'accuracy'))
  lower, upper = [], []                 # lengths of the intervals' arms
  for value, part in zip(accuracy, bins, strict=True):
    low, high = quality.wilson(round(part['accuracy'] * part['n']), part['n'])
    lower.append(max(0, value - 100 * low))
    upper.append(max(0, 100 * high - value))
  with matplotlib.rc_context(STYLE):
    drawing = figure.Figure(figsize=(WIDTH / 72, 280 / 72))
    axes, below = drawing.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.plot((0, 100), (0, 100), color='#9aa3ad', linewidth=1)
    axes.plot(confidence, accuracy, color=look['color'], linewidth=1, alpha=0.45)
    axes.errorbar(confidence, accuracy, (lower, upper), fmt='o', markersize=4, color=look['color'],
                  elinewidth=1.2)
    axes.set(xlim=(0, 100), ylim=(-3, 103), xticks=range(0, 101, 25), yticks=range(0, 101, 25),
             ylabel='accuracy, %')
    _set_title(axes, title, about, look['color'])
    counts = [part['n'] for part in bins]
    below.bar([100 * part['low'] for part in bins], counts, align='edge', color=look['color'],
              width=[100 * (part['high'] - part['low']) - 0.6 for part in bins])
    below.set(xlabel='confidence, %', ylabel='n', yticks=(0, max(counts)),
              ylim=(0, 1.08 * max(counts)))
    below.yaxis.set_major_formatter(lambda n, _: f'{n:,.0f}')
    below.grid(False)
    return svg(drawing, f'reliability {title}')


def matrix(title: str, about: str, shades: np.ndarray, cells: Sequence[Sequence[str]],
           names: tuple[Sequence[str], Sequence[str]], labels: tuple[str, str], colour: str) -> str:
  """Draws a matrix of numbers in [0, 1] as shades of blue, with the cells' texts if they fit.

  `names` are the names of rows and of columns, left out if they are too many; `labels` say what
  rows and columns are.
  """
  import matplotlib
  from matplotlib import colors, figure
  rows, columns = shades.shape
  named = max(rows, columns) <= NAMED
  names = [[cut(name, 12) for name in axis] for axis in names]
  room = (WIDTH - 45 - 7 * max(map(len, names[0])) * named) / columns
  upright = max(map(len, names[1])) * 7 > room
  fits = max(len(cell) for line in cells for cell in line) * 7.5 < room and named
  tall = min(30, max(room, 14)) * rows if named else WIDTH - 60
  with matplotlib.rc_context(STYLE | {'axes.grid': False, 'xtick.bottom': False,
                                      'ytick.left': False}):
    drawing = figure.Figure(figsize=(WIDTH / 72, (
        tall + 90 + upright * named * 7 * max(map(len, names[1]))) / 72))
    axes = drawing.subplots()
    blues = colors.LinearSegmentedColormap.from_list('blues', ('#ffffff', DARKEST))
    axes.imshow(np.clip(shades, 0, 1), cmap=blues, vmin=0, vmax=1, aspect='auto',
                interpolation='none')
    axes.set_xlabel(cut(labels[1], 24), parse_math=False)
    axes.set_ylabel(cut(labels[0], 12), parse_math=False)
    axes.set_xticks(range(columns * named), names[1][:columns * named], parse_math=False,
                    rotation=90 if upright else 0)
    axes.set_yticks(range(rows * named), names[0][:rows * named], parse_math=False)
    for i, line in enumerate(cells if fits else ()):
      for j, cell in enumerate(line):
        axes.text(j, i, cell, ha='center', va='center',
                  color='#ffffff' if shades[i, j] > 0.795 else '#000000')
    _set_title(axes, title, about, colour)
    return svg(drawing, f'matrix {title} {about}')


def svg(drawing: Any, key: str, **options: Any) -> str:
  """Returns a figure as SVG for a page; the `key` makes its ids unique on that page."""
  buffer = io.StringIO()
  drawing.savefig(buffer, format='svg', **({'transparent': True} | options))
  found, prefix = buffer.getvalue(), f'i{zlib.crc32(key.encode()):08x}-'
  found = re.sub(r'( id="|url\(#|href="#)', rf'\g<1>{prefix}', found[found.index('<svg'):])
  return re.sub(r'<metadata>.*?</metadata>', '', found, flags=re.DOTALL)


def cut(name: str, most: int) -> str:
  """Shortens a name to the room that a drawing has."""
  return name if len(name) <= most else f'{name[:most - 1]}…'


def _set_title(axes: Any, title: str, about: str, colour: str) -> None:
  """Writes a model's name, and a note about it on a second line."""
  axes.set_title(cut(title, 24) + '\n' * bool(about), color=colour, parse_math=False)
  axes.annotate(about, (0, 1), (0, 7), xycoords='axes fraction', textcoords='offset points',
                parse_math=False)


def _thin(values: Sequence[float]) -> np.ndarray:
  """Averages neighbours until at most POINTS values are left."""
  values = np.asarray(values, float)
  return np.array([part.mean() for part in np.array_split(values, min(POINTS, len(values)))])


def _spread(heights: Mapping[str, float], gap: float) -> dict[str, float]:
  """Moves heights, as little as possible, until they are `gap` apart and within [0, 1]."""
  placed, ceiling = {}, 1.0
  for name in sorted(heights, key=heights.get, reverse=True):
    placed[name] = min(heights[name], ceiling)
    ceiling = placed[name] - gap
  lift = max(0.0, -min(placed.values()))
  return {name: height + lift for name, height in placed.items()}
