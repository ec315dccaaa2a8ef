"""Makes experiments/methods/README.md and its drawings only from the rows in that folder.

python -m experiments.methods             writes them
python -m experiments.methods --check     exits 11 if they aren't what the rows make

`--check` compares the numbers of a drawing, which its description holds, and not the curves: these
differ between versions of matplotlib.
"""
import dataclasses
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from distill.report import charts
from distill.types import Status, Stop
from experiments import pages, rows, table
from experiments.rows import Row, arm_name
from experiments.statistics import Values, bootstrap, holm, t_test
from experiments.table import Arm, cell, circumstances, interval

FOLDER = pathlib.Path(__file__).parent / 'methods'
PLAIN = 'kd', table.STANDS              # the others are compared with the first that has rows
SURE = 0.05             # the share of pages that may make a false claim, by column
LINE, EDGES = 13.5, 78          # of a drawing, in points


@dataclasses.dataclass(frozen=True)
class Method:
  """An arm with its gains over the baseline and over plain KD, and their p-values."""
  arm: Arm
  gain: Values
  over: Values
  p_gain: float | None = None
  p_over: float | None = None

  @property
  def name(self) -> str:
    return arm_name(self.arm.row['arm'])

  @property
  def against_kd(self) -> str:
    return verdict(self.over, self.p_over)


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return pages.command('experiments.methods', __doc__, FOLDER, rendered, arguments)


def rendered(folder: pathlib.Path) -> tuple[dict[str, str], list[str]]:
  """Returns the page and its drawings by name, and a sentence about each line that is no row."""
  path = folder / 'results.jsonl'
  found, faults = rows.read(path) if path.exists() else ([], [])
  if not found:
    raise Stop(Status.DATA, f'{path} has no rows: python -m experiments.run configs/digits.py '
               f'--out={folder}')
  files, sections = {}, []
  for config, (mine, others) in table.last_states(found).items():
    name = re.sub(r'\W+', '-', pathlib.Path(config).name.replace('.py', '')) + '.svg'
    compared = methods(mine)
    if drawn := [m for m in compared if len(m.gain) > 1]:
      files[name] = drawing(drawn)
    sections.append({
        'config': config, 'base': mine[0]['base'], 'image': name if drawn else '',
        'others': others, **_compared(mine, compared), 'failed': table.failed(mine),
        'circumstances': circumstances(mine)})
  return {'README.md': pages.rendered('methods', sections=sections, sure=SURE), **files}, faults


def methods(found: Sequence[Row]) -> list[Method]:
  """Returns the methods among the arms, the best gain first; a learning rate is no method."""
  arms = table.summary(found)
  plain, baseline = table.reference(arms, PLAIN)
  compared = []
  for name, arm in arms.items():
    if table.RATE not in arm.row['arm']:
      gain = arm.better(baseline, 'baseline') if baseline else {}
      compared.append(Method(arm, gain, arm.better(arms[plain]) if plain not in ('', name) else {}))
  column = lambda values: holm({m.name: float(t_test(list(values(m).values())))
                                for m in compared if len(values(m)) > 1})
  gains, overs = column(lambda m: m.gain), column(lambda m: m.over)
  compared = [dataclasses.replace(m, p_gain=gains.get(m.name), p_over=overs.get(m.name))
              for m in compared]
  return sorted(compared, key=lambda m: -_mean(m.gain, float('-inf')))


def verdict(values: Values, p: float | None) -> str:
  """Returns the verdict that the test allows."""
  if p is None or p >= SURE:
    return 'open'
  return 'better' if _mean(values) > 0 else 'worse'


def _mean(values: Values, none: float = 0.0) -> float:
  return statistics.fmean(values.values()) if values else none


def _compared(found: Sequence[Row], compared: Sequence[Method]) -> dict[str, Any]:
  """Returns the comparison of methods with the baseline and plain KD, for the page."""
  if not compared:
    return {'compared': False}
  several = [m for m in compared if len(m.gain) > 1]
  apart = [m.name for m in several if _side(bootstrap(list(m.gain.values())))
           != _side(interval(m.gain))]
  return {'compared': True, 'held': table.describe_baseline(table.summary(found), PLAIN),
          'verdicts': list(_verdicts(compared)), 'several': len(several), 'apart': apart,
          'judged': table.judged(compared[0].arm), 'lines': _lines(compared)}


def _verdicts(compared: Sequence[Method]) -> Iterator[dict[str, Any]]:
  """Yields the methods whose difference a test shows, by what they are compared with."""
  for reference, test in (('the baseline', lambda m: (m.gain, m.p_gain)),
                          ('plain KD', lambda m: (m.over, m.p_over))):
    tested = [m for m in compared if test(m)[1] is not None]
    if tested:
      yield {'what': reference, 'tests': len(tested), **{
          mark: [m.name for m in tested if verdict(*test(m)) == mark] for mark in MARKS}}


def _side(ends: tuple[float, float]) -> int:
  """Returns 1 for an interval above 0, −1 for one below 0, else 0."""
  return (ends[0] > 0) - (ends[1] < 0)


def _lines(compared: Sequence[Method]) -> list[list[str]]:
  """Returns the table, a line a method."""
  first = compared[0].arm
  head = lambda text, unit: f'{text}, {unit}' if unit else text
  lines = [['method', head('student', first.unit), head('gain over the baseline', first.points),
            'p', head('over plain KD', first.points), 'p', 'seeds', 'minutes'],
           ['---', *['--:'] * 7]]
  for m in compared:
    percent, minutes = m.arm.percent, sum(row['seconds'] for row in m.arm.seeds.values()) / 60
    lines.append([
        cell(m.arm.row), table.spread(m.arm.quality('student'), percent),
        table.gain(m.gain, percent), table.chance(m.p_gain), table.gain(m.over, percent),
        table.chance(m.p_over), str(len(m.arm.seeds)), f'{minutes:.1f}'])
  return lines


# A verdict against plain KD: its text in the legend, its mark and its colour.
MARKS = {'better': ('better than plain KD', '^', charts.COLOURS[0]),
         'worse': ('worse', 'v', charts.COLOURS[1]),
         'open': ('not to be told apart', 'o', charts.COLOURS[2])}


def drawing(compared: Sequence[Method]) -> str:
  """Draws gains and their intervals as SVG, a line a method."""
  import matplotlib
  from matplotlib import figure, ticker
  ends = [interval(m.gain) for m in compared]
  with matplotlib.rc_context(pages.FOREST):
    height = LINE * len(compared) + EDGES
    whole = figure.Figure(figsize=(pages.WIDTH / 72, height / 72))
    axes = whole.subplots()
    axes.axvline(0, color='#9aa3ad', linewidth=1)
    for m in compared:
      if m.name in PLAIN:
        axes.axvline(_mean(m.gain), color=charts.COLOURS[3], linewidth=1, linestyle=(0, (4, 2)),
                     label='plain KD')
    for says, (label, mark, colour) in MARKS.items():
      places = [i for i, m in enumerate(compared) if m.against_kd == says]
      if places:
        axes.hlines(places, *zip(*(ends[i] for i in places), strict=True), color=colour)
        axes.plot([_mean(compared[i].gain) for i in places], places, mark, color=colour,
                  markersize=5, label=label)
    axes.set_ylim(len(compared) - 0.4, -0.6)
    axes.set_yticks(range(len(compared)), [m.name for m in compared], parse_math=False)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=charts.ROUND))
    points = compared[0].arm.points
    axes.set_xlabel('gain over the baseline' + f', {points}' * bool(points))
    whole.legend(loc='outside lower left', ncols=2, frameon=False, fontsize=8, handlelength=1.5,
                 columnspacing=1)
    numbers = '; '.join(f'{m.name} {table.gain(m.gain, m.arm.percent)}' for m in compared)
    return pages.svg(whole, 'Gains over the baseline', numbers)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
