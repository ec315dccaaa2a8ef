"""Makes experiments/methods/README.md and its drawings of the rows there, and of nothing else.

python -m experiments.methods             writes them
python -m experiments.methods --check     exits 11 if they aren't what the rows make

Of a drawing `--check` compares the numbers, which it holds as its description, and not the curves:
these differ with the version of matplotlib.
"""
import dataclasses
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator, Sequence

from distill.report import charts
from distill.types import Status, Stop
from experiments import pages, rows, table
from experiments.rows import Row, words
from experiments.statistics import Values, bootstrap, holm, t_test
from experiments.table import Arm, cell, circumstances, interval

FOLDER = pathlib.Path(__file__).parent / 'methods'
PLAIN = 'kd', table.STANDS              # the first that is there: the others are held against it
SURE = 0.05             # the share of pages that may make a false claim, by column
LINE, EDGES = 13.5, 78          # of a drawing, in points

HEAD = """# What each method is worth

Made by `python -m experiments.methods` from the rows of `results.jsonl`, one for every run; a test
fails where this page says anything else. All methods of a table have the same data and steps, and
the weights and the rate of the config; nothing was tuned for any of them. Student and optimizer are
the same, too, but where the method is about these: DOT, with `sgd` beside it, SimKD and mutual
learning. Losses that read labels (DKD, NKD, WSLD, MFT) learn from the labelled tenth alone, those
that read the teacher from all. [The methods](../../distill/losses/README.md#by-method).

A number is the mean ± the sample standard deviation over seeds. Gains are paired by seed, both
sides having the same initialisation, batches and order; in brackets is the 95 % t interval of their
mean, and p is of the paired t test, two-sided and corrected by Holm for all tests of its column.
Gains are positive where the method is better. The baseline is the same student without a teacher.
"""


@dataclasses.dataclass(frozen=True)
class Method:
  """An arm; by how much it is better than the baseline and than plain KD; and p of the two."""
  arm: Arm
  gain: Values
  over: Values
  p_gain: float | None = None
  p_over: float | None = None

  @property
  def name(self) -> str:
    return words(self.arm.row['arm'])

  @property
  def against_kd(self) -> str:
    return verdict(self.over, self.p_over)


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  return pages.command('experiments.methods', __doc__, FOLDER, rendered, arguments)


def rendered(folder: pathlib.Path) -> tuple[dict[str, str], list[str]]:
  """The page and its drawings by name, and a sentence about each line that is no row."""
  path = folder / 'results.jsonl'
  found, faults = rows.read(path) if path.exists() else ([], [])
  if not found:
    raise Stop(Status.DATA, f'{path} has no rows: python -m experiments.run configs/digits.py '
               f'--out={folder}')
  files, parts = {}, [HEAD]
  for config, (mine, others) in table.last_states(found).items():
    name = re.sub(r'\W+', '-', pathlib.Path(config).name.replace('.py', '')) + '.svg'
    compared = methods(mine)
    if drawn := [m for m in compared if len(m.gain) > 1]:
      files[name] = drawing(drawn)
    parts += _section(config, mine, compared, name if drawn else '')
    parts += [f'{others} rows of other states of {config} are left out.\n'] if others else []
  return {'README.md': '\n'.join(parts), **files}, faults


def methods(found: Sequence[Row]) -> list[Method]:
  """The methods among the arms, the best gain first; a rate of the baseline's is none."""
  arms = table.summary(found)
  plain, baseline = table.reference(arms, PLAIN)
  compared = []
  for name, arm in arms.items():
    if table.RATE not in arm.row['arm']:
      gain = arm.better(baseline, 'baseline') if baseline else {}
      compared.append(Method(arm, gain, arm.better(arms[plain]) if plain not in ('', name) else {}))
  column = lambda of: holm({m.name: float(t_test(list(of(m).values())))
                            for m in compared if len(of(m)) > 1})
  gains, overs = column(lambda m: m.gain), column(lambda m: m.over)
  compared = [dataclasses.replace(m, p_gain=gains.get(m.name), p_over=overs.get(m.name))
              for m in compared]
  return sorted(compared, key=lambda m: -_mean(m.gain, float('-inf')))


def verdict(values: Values, p: float | None) -> str:
  """What the test allows to say."""
  if p is None or p >= SURE:
    return 'open'
  return 'better' if _mean(values) > 0 else 'worse'


def _mean(values: Values, none: float = 0.0) -> float:
  return statistics.fmean(values.values()) if values else none


def _section(config: str, found: Sequence[Row], compared: Sequence[Method],
             image: str) -> Iterator[str]:
  yield f'## {config}\n'
  yield (f'As of {found[0]["base"]}, run by `python -m experiments.run {config} '
         f'--out=experiments/methods`.\n')
  if compared:
    yield table.held_against(table.summary(found), PLAIN)
    if image:
      yield f'![Gains over the baseline with their intervals]({image})\n'
    yield from _verdicts(compared)
    yield _table(compared)
  yield from [f'Failed: {cell(row)}, seed {row["seed"]}, with exit status '
              f'{row["error"]["status"]}: {row["error"]["line"]}\n'
              for row in found if 'error' in row]
  yield circumstances(found)


def _verdicts(compared: Sequence[Method]) -> Iterator[str]:
  """Which differences the tests show, and whether the bootstrap agrees."""
  for what, of in (('the baseline', lambda m: (m.gain, m.p_gain)),
                   ('plain KD', lambda m: (m.over, m.p_over))):
    tested = [m for m in compared if of(m)[1] is not None]
    named = lambda says, tested=tested, of=of: ', '.join(
        f'`{m.name}`' for m in tested if verdict(*of(m)) == says) or 'none'
    if tested:
      yield (f'**Against {what}**, {len(tested)} tests, p < {SURE}: better {named("better")}; '
             f'worse {named("worse")}; not to be told apart {named("open")}.\n')
  several = [m for m in compared if len(m.gain) > 1]
  apart = [m for m in several if _side(bootstrap(list(m.gain.values())))
           != _side(interval(m.gain))]
  if several:
    yield ('Without the normal distribution: the bootstrap (BCa) has the interval of the gain over '
           'the baseline on the same side of 0 as the t interval '
           + (f'but for {", ".join(f"`{m.name}`" for m in apart)}.\n' if apart else
              f'for all {len(several)}.\n'))


def _side(ends: tuple[float, float]) -> int:
  """1 where an interval is above 0, −1 below, else 0."""
  return (ends[0] > 0) - (ends[1] < 0)


def _table(compared: Sequence[Method]) -> str:
  first = compared[0].arm
  of = lambda what, unit: f'{what}, {unit}' if unit else what
  lines = [['method', of('student', first.unit), of('gain over the baseline', first.points), 'p',
            of('over plain KD', first.points), 'p', 'seeds', 'minutes'], ['---', *['--:'] * 7]]
  for m in compared:
    percent, minutes = m.arm.percent, sum(row['seconds'] for row in m.arm.seeds.values()) / 60
    lines.append([
        cell(m.arm.row), table.spread(m.arm.quality('student'), percent),
        table.gain(m.gain, percent), table.chance(m.p_gain), table.gain(m.over, percent),
        table.chance(m.p_over), str(len(m.arm.seeds)), f'{minutes:.1f}'])
  return '\n'.join([table.judged(first), '', *(f'| {" | ".join(line)} |' for line in lines), ''])


# How a method stands to plain KD: what the legend says, its mark and its colour.
MARKS = {'better': ('better than plain KD', '^', charts.COLOURS[0]),
         'worse': ('worse', 'v', charts.COLOURS[1]),
         'open': ('not to be told apart', 'o', charts.COLOURS[2])}


def drawing(compared: Sequence[Method]) -> str:
  """Gains and their intervals as SVG, a line a method."""
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
    told = '; '.join(f'{m.name} {table.gain(m.gain, m.arm.percent)}' for m in compared)
    return pages.svg(whole, 'Gains over the baseline', told)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
