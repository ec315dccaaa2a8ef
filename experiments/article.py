"""Makes experiments/article/README.md and its drawings only from the rows in that folder.

python -m experiments.article             writes them
python -m experiments.article --check     exits 11 if they aren't what the rows make

The claims and the rule for a verdict are in claims.py.
"""
import dataclasses
import math
import pathlib
import re
import statistics
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.report import charts
from distill.types import Status, Stop
from experiments import claims, pages, rows, table
from experiments.claims import BASELINE, FASTER, MARGIN, PARTS, PLAIN, SURE, Claim, Part, T
from experiments.rows import VARIANT, Row
from experiments.statistics import Values, differences, holm, t_test
from experiments.table import Arm, counted, gain, interval, number

FOLDER = pathlib.Path(__file__).parent / 'article'
CONFIG = 'configs/article.py'
EDGES, LINE = 84, 13.5          # of the drawing of gains, in points

Curve = Sequence[Sequence[float]]       # (step, value)


@dataclasses.dataclass(frozen=True)
class Side:
  """Results of an arm's student or baseline: quality and curve by seed, training time and steps."""
  quality: Values
  curves: Mapping[int, Curve]
  seconds: float
  steps: int


@dataclasses.dataclass(frozen=True)
class Finding:
  """Evidence for a claim: by seed the difference in points, or the log ratio of steps."""
  claim: Claim
  values: Values
  p: float | None = None

  @property
  def verdict(self) -> str:
    if self.p is None:
      return claims.NOT_RUN
    if self.claim.sooner:
      return claims.verdict_of_ratio(_ratios(self.values)[1:], self.p)
    return claims.verdict(interval(self.values), self.p)


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return pages.command('experiments.article', __doc__, FOLDER, rendered, arguments)


def rendered(folder: pathlib.Path) -> tuple[pages.Files, list[str]]:
  """Returns the page and its drawings by name, and a sentence about each line that is no row."""
  path = folder / 'results.jsonl'
  found, faults = rows.read(path) if path.exists() else ([], [])
  states = table.last_states([row for row in found if row.get('config') == CONFIG])
  mine, others = states.get(CONFIG, ([], 0))
  arms = table.summary(mine)
  if not arms:
    raise Stop(Status.DATA, f'{path} has no finished run of {CONFIG}: python -m experiments.run '
               f'{CONFIG} --out={folder} --seeds=8')
  found_sides = sides(arms, mine)
  results = findings(found_sides)
  files, first = dict(_drawings(found_sides, arms)), next(iter(arms.values()))
  page = pages.rendered(
      'article', sure=SURE, margin=MARGIN, faster=FASTER, files=files, config=CONFIG,
      tally=_tally(results), judged=table.judged(first),
      teacher=f'{table.spread(first.quality("teacher"), first.percent)} {first.unit}',
      held=table.describe_baseline(arms, [PLAIN]), verdicts=_verdicts(results, found_sides, first),
      parts=[_part(part, results, found_sides, first) for part in PARTS],
      **_missing(found_sides),
      failed=table.failed(mine), others=others, circumstances=table.circumstances(mine))
  return {'README.md': page, **files}, faults


def sides(arms: Mapping[str, Arm], found: Sequence[Row]) -> dict[str, Side]:
  """Returns the students of the arms by name, and the baseline at its best learning rate."""
  students = {name: _side(arm, 'student', found) for name, arm in arms.items()}
  _, baseline = table.reference(arms, [PLAIN])
  return students | ({BASELINE: _side(baseline, 'baseline', found)} if baseline else {})


def _side(arm: Arm, role: str, found: Sequence[Row]) -> Side:
  """Returns a side; a baseline's curve is in the row of the first arm that trains it alike."""
  alike = lambda row: {path: value for path, value in row['arm'].items()
                       if path != VARIANT and not path.startswith('objective.')}
  curves, runs = {}, arm.seeds.values()
  for row in runs if role == 'student' else found:
    stage = row['training'].get(role, {}) if 'error' not in row else {}
    if row['seed'] in arm.seeds and 'curve' in stage and alike(row) == alike(arm.row):
      curves.setdefault(row['seed'], [
          (step, value * (100 if arm.percent else 1)) for step, value in stage['curve']])
  costs = [row['training'][role] for row in runs]
  return Side(arm.quality(role), curves, statistics.fmean(cost['seconds'] for cost in costs),
              costs[0]['steps'])


def findings(found_sides: Mapping[str, Side]) -> list[Finding]:
  """Returns the evidence for every claim; p-values are corrected for all claims with two seeds."""
  found = {claim: _values(claim, found_sides) for part in PARTS for claim in part.claims}
  # The test is against FASTER, not against 1: that is the claim.
  shift = lambda claim: math.log(FASTER) if claim.sooner else 0.0
  chances = holm({claim: float(t_test([x - shift(claim) for x in values.values()]))
                  for claim, values in found.items() if len(values) > 1})
  return [Finding(claim, values, chances.get(claim)) for claim, values in found.items()]


def _values(claim: Claim, found_sides: Mapping[str, Side]) -> Values:
  if not {claim.ours, claim.theirs} <= found_sides.keys():
    return {}
  ours, theirs = found_sides[claim.ours], found_sides[claim.theirs]
  if claim.sooner:
    return {seed: math.log(ratio) for seed, (ratio, _) in speeds(ours, theirs).items()}
  return differences(ours.quality, theirs.quality)


def speeds(ours: Side, theirs: Side) -> dict[int, tuple[float, bool]]:
  """Returns by seed our share of their steps to their last value, and whether ours reaches it.

  A curve that never reaches it counts as reaching it at its last step, which favours the claim.
  """
  found = {}
  for seed in sorted(ours.curves.keys() & theirs.curves.keys()):
    level, curve = theirs.curves[seed][-1][1], ours.curves[seed]
    first = reached(curve, level)
    found[seed] = (first or curve[-1][0]) / reached(theirs.curves[seed], level), first is not None
  return found


def reached(curve: Curve, level: float) -> float | None:
  """Returns the first step at which a curve is at a level or above it."""
  return next((step for step, value in curve if value >= level), None)


def _ratios(values: Values) -> tuple[float, ...]:
  """Returns the geometric mean of ratios, given by their logarithms, and its interval."""
  return tuple(math.exp(x) for x in (statistics.fmean(values.values()), *interval(values)))


def _estimate(f: Finding, percent: bool) -> str:
  """Formats the difference or ratio, with its interval."""
  if f.claim.sooner and len(f.values) > 1:
    mean, *ends = _ratios(f.values)
    return f'{mean:.2f} × ({" to ".join(f"{end:.2f}" for end in ends)})'
  return '–' if f.claim.sooner else gain(f.values, percent)


def _verdicts(results: Sequence[Finding], found_sides: Mapping[str, Side], first: Arm
              ) -> list[list[str]]:
  """Returns the table of all claims."""
  lines = [['claim', 'first arm', 'second', f'difference, {first.points}', 'p', 'verdict',
            'minutes', 'steps'], ['---'] * 3 + ['--:'] * 2 + ['---'] + ['--:'] * 2]
  for f in results:
    pair = [found_sides[name] for name in (f.claim.ours, f.claim.theirs) if name in found_sides]
    whole = len(pair) == 2
    lines.append([
        f.claim.says, spoken(f.claim.ours), spoken(f.claim.theirs), _estimate(f, first.percent),
        table.chance(f.p), f'**{f.verdict}**',
        ' / '.join(f'{side.seconds / 60:.2f}' for side in pair) if whole else '–',
        ' / '.join(str(side.steps) for side in pair) if whole else '–'])
  return lines


def _tally(results: Sequence[Finding]) -> str:
  several = {claims.HOLDS: 'hold', claims.FAILS: "don't"}
  counts = [(sum(f.verdict == word for f in results), word) for word in claims.VERDICTS]
  return f'{len(results)} hypotheses: ' + ', '.join(
      f'{n} {several.get(word, word) if n > 1 else word}' for n, word in counts if n)


def spoken(name: str) -> str:
  """Returns an arm's name as the page has it."""
  for path, short in ((T, 'T'), ('data.batch_size', 'batch'), ('train.steps', 'steps')):
    name = name.replace(f'{path}=', f'{short} = ')
  return 'the baseline' if name == BASELINE else f'`{name.removesuffix(".0")}`'


def _part(part: Part, results: Sequence[Finding], found_sides: Mapping[str, Side], first: Arm
          ) -> dict[str, Any]:
  """Returns a group of claims with its tables and sentences, for the page."""
  mine = [f for f in results if f.claim in part.claims]
  heads = f'student, {first.unit}', 'over the baseline', f'over `{PLAIN}`'
  lines = [['', *(f'{head}{", " * bool(column)}{column}'
                  for column in part.columns for head in heads), 'steps', 'minutes']]
  lines.append(['---', *['--:'] * (len(lines[0]) - 1)])
  for label, names in part.shown.items():
    cells = [cell for i, name in enumerate(names) for cell in _cells(
        found_sides, name, (BASELINE, part.against(i)), first.percent)]
    last = found_sides.get(names[-1])
    lines.append([label, *cells, *((str(last.steps), f'{last.seconds / 60:.2f}') if last
                                   else ('–', '–'))])
  sooner = any(claim.sooner for claim in part.claims)
  return {'title': part.title, 'text': part.text, 'tally': _tally(mine), 'lines': lines,
          'anchor': re.sub(r'[^\w-]', '', part.title.lower().replace(' ', '-')),
          'sentences': [_sentence(f, first) for f in mine],
          'speeds': list(_speeds(part, found_sides)) if sooner else []}


def _cells(found_sides: Mapping[str, Side], name: str, against: Sequence[str], percent: bool
           ) -> Iterator[str]:
  """Yields an arm's quality, and by how much it is above others; '–' for an arm without rows."""
  quality = lambda arm: found_sides[arm].quality if arm in found_sides else {}
  yield table.spread(quality(name), percent)
  for other in against:
    yield '–' if other == name else gain(differences(quality(name), quality(other)), percent)


def _speeds(part: Part, found_sides: Mapping[str, Side]) -> Iterator[list[str]]:
  """Yields the table of steps that the arms of a group need to the baseline's last accuracy."""
  yield ["steps to the baseline's last accuracy", 'steps', "as a share of the baseline's",
         'seeds that get there']
  yield ['---', *['--:'] * 3]
  theirs = found_sides.get(BASELINE)
  for label, (name,) in part.shown.items():
    found = speeds(found_sides[name], theirs) if theirs and name in found_sides else {}
    steps = {seed: ratio * reached(theirs.curves[seed], theirs.curves[seed][-1][1])
             for seed, (ratio, _) in found.items()}
    f = Finding(Claim('', name, BASELINE, sooner=True),
                {seed: math.log(ratio) for seed, (ratio, _) in found.items()})
    yield [label, table.spread({seed: round(x) for seed, x in steps.items()}, percent=True),
           '–' if name == BASELINE else _estimate(f, percent=True),
           f'{sum(is_reached for _, is_reached in found.values())} of {len(found)}']


def _sentence(f: Finding, first: Arm) -> str:
  """Describes the evidence for a claim."""
  ours, theirs = spoken(f.claim.ours), spoken(f.claim.theirs)
  head = f'*{f.claim.says[0].upper()}{f.claim.says[1:]}*: **{f.verdict}**'
  if f.p is None:
    return f'{head}. {ours} and {theirs} need two seeds in common.'
  estimate, p = _estimate(f, first.percent), table.chance(f.p)
  p = f'p {p}' if '<' in p else f'p = {p}'
  if f.claim.sooner:
    return f'{head}. {ours} takes {estimate.replace(" ×", " of the steps", 1)}, {p}.'
  mean = statistics.fmean(f.values.values())
  size = number(abs(mean), first.percent)
  _, _, ends = estimate.partition(' ')
  way = 'level with' if float(size) == 0 else 'above' if mean > 0 else 'below'
  return (f'{head}. {ours} is {f"{size} {first.points} " * (way != "level with")}{way} {theirs} '
          f'{ends}, {p}, {counted(len(f.values))}.')


def _missing(found_sides: Mapping[str, Side]) -> dict[str, Any]:
  """Returns the arms without rows, and those with fewer seeds than others."""
  wanted = dict.fromkeys(name for part in PARTS for names in (
      *part.shown.values(), *((c.ours, c.theirs) for c in part.claims)) for name in names)
  most = max(len(side.quality) for side in found_sides.values())
  return {'lacking': [spoken(name) for name in wanted if name not in found_sides],
          'most': counted(most),
          'fewer': [f'{spoken(n)} ({counted(len(found_sides[n].quality))})' for n in wanted
                    if n in found_sides and len(found_sides[n].quality) < most]}


# An arm's temperature: its text in the legend, its mark, its colour, its shift from the line.
MARKS = {1: ('T = 1', 'o', charts.COLOURS[0], -0.17), 4: ('T = 4', '^', charts.COLOURS[1], 0.17),
         0: ('T by its name, or none', 's', charts.COLOURS[2], 0.0)}
DRAWN = BASELINE, PLAIN, 'ramp-tenth-0.7', 'attention'          # their curves


def _drawings(found_sides: Mapping[str, Side], arms: Mapping[str, Arm]
              ) -> Iterator[tuple[str, str]]:
  first = next(iter(arms.values()))
  theirs = found_sides[BASELINE].quality if BASELINE in found_sides else {}
  lines: dict[str, dict[int, Values]] = {}
  drawn = {BASELINE}
  for label, name in ((label, name) for part in PARTS for label, names in part.shown.items()
                      for name in names if name in found_sides):
    values = differences(found_sides[name].quality, theirs)
    if name not in drawn and len(values) > 1:
      lines.setdefault(label, {})[_kind(name)] = values
      drawn.add(name)
  if lines:
    yield 'gains.svg', gains(lines, first)
  curves = {name: drawn for name in DRAWN if name in found_sides
            and (drawn := _band(found_sides[name].curves.values()))}
  if curves:
    yield 'curves.svg', approach(curves, first)


def _kind(name: str) -> int:
  """Returns the key of MARKS for an arm."""
  if T in name or name == 'attention':
    return 1 if name.endswith(f'{T}=1.0') else 0
  return 4


def _band(curves: Sequence[Curve]) -> list[tuple[float, float, float]]:
  """Returns (step, mean, sd) at the steps that all curves have; [] with fewer than two curves."""
  values = [dict(curve) for curve in curves]
  if len(values) < 2:
    return []
  return [(step, statistics.fmean(each), statistics.stdev(each)) for step in values[0]
          if len(each := [curve[step] for curve in values if step in curve]) == len(values)]


def gains(lines: Mapping[str, Mapping[int, Values]], first: Arm) -> str:
  """Draws gains over the baseline and their intervals, a line for each label."""
  import matplotlib
  from matplotlib import figure, ticker
  with matplotlib.rc_context(pages.FOREST):
    height = LINE * len(lines) + EDGES
    whole = figure.Figure(figsize=(pages.WIDTH / 72, height / 72))
    axes = whole.subplots()
    axes.axvline(0, color='#9aa3ad', linewidth=1)
    for kind, (text, mark, colour, shift) in MARKS.items():
      found = [(i + shift * (len(kinds) > 1), kinds[kind]) for i, kinds in enumerate(lines.values())
               if kind in kinds]
      if found:
        places = [place for place, _ in found]
        axes.hlines(places, *zip(*(interval(v) for _, v in found), strict=True), color=colour)
        axes.plot([statistics.fmean(v.values()) for _, v in found], places, mark, color=colour,
                  markersize=4.5, label=text)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_yticks(range(len(lines)), lines, parse_math=False)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(5, steps=charts.ROUND))
    axes.set_xlabel(f'gain over the baseline, {first.points}')
    whole.legend(loc='outside lower left', ncols=2, frameon=False, fontsize=8, handlelength=1.5,
                 columnspacing=1)
    numbers = '; '.join(f'{label}, {MARKS[kind][0]}: {gain(values, first.percent)}'
                        for label, kinds in lines.items() for kind, values in kinds.items())
    return pages.svg(whole, 'Gains over the baseline', numbers)


def approach(curves: Mapping[str, Sequence[tuple[float, float, float]]], first: Arm) -> str:
  """Draws the mean by step, with a band of a standard deviation on both sides."""
  import matplotlib
  from matplotlib import figure
  with matplotlib.rc_context(pages.STYLE):
    whole = figure.Figure(figsize=(pages.WIDTH / 72, 230 / 72))
    axes = whole.subplots()
    for name, style in charts.styles(list(curves)).items():
      steps, means, sds = zip(*curves[name], strict=True)
      axes.plot(steps, means, label=name, **style)
      edges = ([m + sign * sd for m, sd in zip(means, sds, strict=True)] for sign in (-1, 1))
      axes.fill_between(steps, *edges, color=style['color'], alpha=0.15, linewidth=0)
    axes.set_xlabel('step')
    axes.set_ylabel(f'{first.metric["name"]}, {first.unit}')
    whole.legend(loc='outside lower left', ncols=2, frameon=False, fontsize=8, handlelength=3,
                 columnspacing=1)
    numbers = '; '.join(f'{name}: ' + ', '.join(
        f'{step:g} {number(mean, first.percent)} ± {number(sd, first.percent)}'
        for step, mean, sd in curve) for name, curve in curves.items())
    return pages.svg(whole, 'By step', numbers)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
