"""Makes experiments/README.md of the rows, and of nothing else.

python -m experiments.table             writes it
python -m experiments.table --check     exits 11 if it isn't what the rows make
"""
import json
import pathlib
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from distill.report import tiers
from distill.report.text import metric_name
from experiments import bench, pages, rows
from experiments.rows import Row, words
from experiments.statistics import Values, differences, t_interval

ROOT = pathlib.Path(__file__).parent
STANDS = words({})
STUDENT = 'student'         # in an arm: which of its run's it is
RATE = 'optimizer.rate'
UNITS = {'fraction': '%', 'correlation': '× 100'}       # told in hundredths, as GLUE's are
Seeds = Mapping[int, Row]               # the rows of an arm by seed

NO_RATES = (f'No arms differ in `{RATE}` alone: nothing shows that the baseline is at its best, '
            'so no gain may be claimed.\n')


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  def files(root: pathlib.Path) -> tuple[pages.Files, list[str]]:
    page, faults = rendered(root)
    return {'README.md': page}, faults

  return pages.command('experiments.table', __doc__, ROOT, files, arguments)


def rendered(root: pathlib.Path) -> tuple[str, list[str]]:
  """The page, and a sentence about each line that is no row."""
  experiments, faults = [], []
  for path in sorted(root.glob('*/results.jsonl')):
    found, wrong = rows.read(path)
    faults += wrong
    if found:
      experiments.append({
          'name': path.parent.name, 'page': (path.parent / 'README.md').exists(),
          'configs': list(_experiment([row for row in found if 'bench' not in row])),
          'benches': _benches([row for row in found if 'bench' in row])})
  return pages.rendered('table', experiments=experiments), faults


def last_states(found: Sequence[Row]) -> dict[str, tuple[list[Row], int]]:
  """By config: the rows of the state that was run last, of a run the last; how many others have."""
  states: dict[str, tuple[list[Row], int]] = {}
  for config in dict.fromkeys(row['config'] for row in found):
    rest = [row for row in found if row['config'] == config]
    mine = [row for row in rest if row['base'] == rest[-1]['base']]
    states[config] = (list({row['config_sha256']: row for row in mine}.values()),
                      len(rest) - len(mine))
  return states


def _experiment(found: Sequence[Row]) -> Iterator[dict[str, Any]]:
  """Every config, and every state that a config was in: they don't compare."""
  of = lambda row: (row['config'], row['base'])
  for config, base in dict.fromkeys(map(of, found)):
    mine = list({row['config_sha256']: row for row in found if of(row) == (config, base)
                 }.values())            # of several rows of a run the last
    arms = summary(mine)
    splits = [arms, *(summary(mine, split) for split in next(iter(arms.values())).also)
              ] if arms else []
    gained = any(arm.gain for arm in arms.values())
    yield {'config': config, 'base': base, 'door': mine[0].get('door', 'experiments.run'),
           'splits': [{'judged': judged(next(iter(of.values()))), 'lines': _lines(of)}
                      for of in splits],
           'tiers': _tiers(arms), 'rates': (_rates(arms) or [NO_RATES]) if gained else [],
           'failed': failed(mine), 'circumstances': circumstances(mine)}


def _benches(found: Sequence[Row]) -> list[dict[str, Any]]:
  """The last row of every bench on every machine."""
  last = {(row['bench'], json.dumps(row['hardware'])): row for row in found}
  return [{'bench': row['bench'], 'rounds': row['rounds'], 'table': bench.table(row),
           'circumstances': circumstances([row])} for row in last.values()]


class Arm:
  """The finished runs of an arm by seed: what they measured, on a further split if one is named.

  In percent where it is a fraction, in hundredths where it is a correlation.
  """

  def __init__(self, seeds: Seeds, split: str = ''):
    self.seeds, self._further = dict(sorted(seeds.items())), split
    self.row = next(iter(seeds.values()))
    self.metric = self.row['metric']
    unit = self.metric['unit']
    self.percent, self.unit = unit in UNITS, UNITS.get(unit, unit)
    self.points = 'points' if self.percent else unit
    self.split = split or self.metric.get('split', '')

  @property
  def _first(self) -> Mapping:
    return next(iter(self.row['models'].values()))

  @property
  def also(self) -> list[str]:
    return list(self._first.get('also', {}))

  @property
  def n(self) -> int:
    return self._judged(self._first)['n']

  def _judged(self, model: Mapping) -> Mapping | None:
    return model.get('also', {}).get(self._further) if self._further else model

  def _values(self, role: str, value, percent: bool) -> Values:
    models = {seed: next((self._judged(m) for m in row['models'].values() if m['role'] == role),
                         None) for seed, row in self.seeds.items()}
    found = {seed: value(model) for seed, model in models.items() if model}
    return {seed: (100 if percent else 1) * x for seed, x in found.items() if x is not None}

  def quality(self, role: str) -> Values:
    return self._values(role, lambda m: m['quality'].get(self.metric['name']), self.percent)

  @property
  def kept(self) -> Values:
    return self._values('student', lambda m: (m['retention'] or {}).get(self.metric['name']), True)

  @property
  def gain(self) -> Values:
    return self._values('student', lambda m: m['gain'] and m['gain'][self.metric['name']]['value'],
                        self.percent)

  def better(self, other: 'Arm', role: str = 'student') -> Values:
    """By how much the student is better than `role` of another arm, at the seeds of both."""
    ours, theirs = self.quality('student'), other.quality(role)
    sign = 1 if self.metric['higher_is_better'] else -1
    return {seed: sign * value for seed, value in differences(ours, theirs).items()}


def summary(found: Iterable[Row], split: str = '') -> dict[str, Arm]:
  """The arms by name, in the order of their first rows; judged on a further split if given.

  Of runs with several students each of these is an arm.
  """
  seeds: dict[str, dict[int, Row]] = {}
  for row in found:
    for each in _students(row) if 'error' not in row else ():
      seeds.setdefault(words(each['arm']), {})[each['seed']] = each
  return {name: Arm(of, split) for name, of in seeds.items()}


def _students(row: Row) -> list[Row]:
  """The row; of a run with several students one for each, with its baseline and no others', and the
  seconds in which the two were trained.
  """
  models = row['models']
  students = {name: m for name, m in models.items() if m['role'] == 'student'}
  if len(students) < 2:
    return [row]

  def own(name: str, model: Mapping) -> Row:
    pair = {name, *([model['gain']['of']] if model['gain'] else [])}
    return {**row, 'arm': {**row['arm'], STUDENT: name},
            'models': {n: m for n, m in models.items()
                       if n in pair or m['role'] not in ('student', 'baseline')},
            'seconds': sum(row['training'][n]['seconds'] for n in pair)}
  return [own(*named) for named in students.items()]


def interval(values: Values) -> tuple[float, float] | None:
  """The 95 % t interval of the mean."""
  if len(values) < 2:
    return None
  low, high = t_interval(list(values.values()))
  return float(low), float(high)


def spread(values: Values, percent: bool = True) -> str:
  """Mean ± standard deviation."""
  if not values:
    return '–'
  mean = number(statistics.fmean(values.values()), percent)
  if len(values) < 2:
    return mean
  return f'{mean} ± {number(statistics.stdev(values.values()), percent)}'


def difference(values: Values, percent: bool) -> str:
  """Mean ± standard deviation, and the interval."""
  ends = interval(values)
  bracket = ends and f' ({" to ".join(number(end, percent) for end in ends)})'
  return spread(values, percent) + (bracket or '')


def gain(values: Values, percent: bool) -> str:
  """Mean, and the interval."""
  ends = interval(values)
  return (number(statistics.fmean(values.values()), percent) if values else '–') + (
      f' ({" to ".join(number(end, percent) for end in ends)})' if ends else '')


def chance(p: float | None) -> str:
  """A p-value."""
  return '–' if p is None else '< 0.001' if p < 0.001 else f'{p:.3f}'


def number(value: float, percent: bool) -> str:
  if abs(value) >= 1e4 and not percent:
    return f'{value:,.0f}'.replace('-', '−')
  said = f'{value:.1f}' if percent else f'{value:.4g}'
  return said.replace('-', '' if float(said) == 0 else '−')


def judged(arm: Arm) -> str:
  """By what, and on which examples, its numbers are."""
  name = metric_name(arm.metric['name'])
  return f'{name[0].upper()}{name[1:]} on {arm.n:,} ' + (
      f'examples of `{arm.split}`' if arm.split else 'held-out examples')


def _lines(arms: Mapping[str, Arm]) -> list[list[str]]:
  """The table, a line an arm."""
  first = next(iter(arms.values()))
  stands = arms.get(STANDS)
  of = lambda what, unit: f'{what}, {unit}' if unit else what
  lines = [['arm', *(of(role, first.unit) for role in ('teacher', 'student', 'baseline')),
            'kept, %', *(of(what, first.points) for what in (
                'gain over baseline', 'over the student as it stands')), 'seeds',
            'minutes of training' if STUDENT in first.row['arm'] else 'minutes'],
           ['---', *['--:'] * 8]]
  for name, arm in arms.items():
    over = arm.better(stands) if stands and name != STANDS else {}
    fewer = f', {counted(len(over))}' if 0 < len(over) < len(arm.seeds) else ''
    lines.append([
        cell(arm.row), *(spread(arm.quality(role), arm.percent)
                          for role in ('teacher', 'student', 'baseline')),
        spread(arm.kept), difference(arm.gain, arm.percent),
        difference(over, arm.percent) + fewer, str(len(arm.seeds)),
        f'{sum(row["seconds"] for row in arm.seeds.values()) / 60:.1f}'])
  return lines


def _tiers(arms: Mapping[str, Arm]) -> dict[str, Any]:
  """Of students that were to reach a tier: its limits, what they have, at how many seeds they pass.
  """
  lines, reached = [], []
  for arm in arms.values():
    told = {seed: m['tier'] for seed, row in arm.seeds.items() for m in row['models'].values()
            if m['role'] == 'student' and 'tier' in m}
    if not told:
      continue
    passed = lambda verdicts, n=len(told): f'{sum(v["passed"] for v in verdicts)} of {n}'
    tier = next(iter(told.values()))
    for name, limit in tier['limits'].items():
      each = {seed: of['limits'][name] for seed, of in told.items()}
      values = {seed: v['value'] for seed, v in each.items() if v['value'] is not None}
      lines.append([cell(arm.row), tier['name'], tiers.LIMITED[name],
                    f'{tiers.BOUNDS[limit["bound"]]} {number(limit["limit"], False)}',
                    spread(values, False) if values else 'not measured', passed(each.values())])
    reached.append(f'{cell(arm.row)} reaches the tier {tier["name"]} at {passed(told.values())}')
  heads = [['arm', 'tier', 'limited', 'limit', 'value', 'seeds that pass'],
           ['---'] * 4 + ['--:'] * 2]
  return {'lines': heads + lines, 'reached': reached} if lines else {}


def _rates(arms: Mapping[str, Arm]) -> list[str]:
  """A sentence for every set of arms that differ in the learning rate alone."""
  return [_best(group) for group in by_rate(arms).values() if len(group) > 1]


def by_rate(arms: Mapping[str, Arm]) -> dict[str, list[Arm]]:
  """Arms that differ in the learning rate alone, by what they have in common."""
  groups: dict[str, list[Arm]] = {}
  for arm in arms.values():
    rest = {path: value for path, value in arm.row['arm'].items() if path != RATE}
    groups.setdefault(words(rest), []).append(arm)
  return groups


def reference(arms: Mapping[str, Arm], names: Sequence[str]) -> tuple[str, Arm | None]:
  """The first of the names that is there, and of it the arm whose baseline has the best rate."""
  plain = next((name for name in names if name in arms), '')
  return plain, best(by_rate(arms)[plain]) if plain else None


def held_against(arms: Mapping[str, Arm], names: Sequence[str]) -> str:
  """What the baseline reaches, and at which of its rates."""
  plain, baseline = reference(arms, names)
  if not baseline:
    return f'None of {", ".join(f"`{name}`" for name in names)} has a baseline: no gains.\n'
  rates = by_rate(arms)[plain]
  unit = f' {baseline.unit}' if baseline.unit else ''
  said, student = (spread(baseline.quality(role), baseline.percent)
                   for role in ('baseline', 'student'))
  return f'The baseline has {said}{unit} ({counted(len(baseline.seeds))})' + (
      f', at the best of {len(rates)} learning rates: {", ".join(cell(a.row) for a in rates)}; '
      f'that is {cell(baseline.row)}, where the student has {student}{unit}. It was chosen by the '
      "held-out examples, in the baseline's favour.\n" if len(rates) > 1 else f'. {NO_RATES}')


def best(group: Sequence[Arm]) -> Arm | None:
  """Of arms that differ in the learning rate the one whose baseline is best, at common seeds."""
  common = set.intersection(*(set(arm.quality('baseline')) for arm in group))
  arms = [Arm({seed: arm.seeds[seed] for seed in common}) for arm in group if common]
  return max(arms, default=None, key=lambda arm: (
      1 if arm.metric['higher_is_better'] else -1) * statistics.fmean(
          arm.quality('baseline').values()))


def _best(group: Sequence[Arm]) -> str:
  """The baseline at its best rate, and the student beside it."""
  names, found = ', '.join(cell(arm.row) for arm in group), best(group)
  if not found:
    return f'The rates {names} have no baselines at the same seed: no gain may be claimed yet.\n'
  student = next((arm for arm in group if RATE not in arm.row['arm']), group[0])
  unit, points = (f' {word}' if word else '' for word in (found.unit, found.points))
  return (f'**The baseline at its best of {len(group)} learning rates** ({names}), '
          f'{counted(len(found.seeds))}: {spread(found.quality("baseline"), found.percent)}{unit}, '
          f'{cell(found.row)}. The student, {cell(student.row)}, is better by '
          f'{difference(student.better(found, "baseline"), found.percent)}{points}.\n')


def circumstances(found: Sequence[Row]) -> str:
  """Data, machine, commits and versions; where runs differ, all that there were."""
  done = [row for row in found if 'error' not in row]
  each = lambda values: ' and '.join(dict.fromkeys(values))
  hardware = lambda h: f'{h["device"]}, {h["cpu"]}, {h["cores"]} cores'
  commits = each(part[:8] + '-dirty' * part.endswith('-dirty') if part != 'unknown' else part
                 for row in found for part in row['commit'].split(', '))
  packages = sorted({name for row in done for name in row['versions']})
  versions = ', '.join(f'{name} {each(r["versions"][name] for r in done if name in r["versions"])}'
                       for name in packages)
  return '. '.join(filter(None, [
      f'{len(found)} {"run" if len(found) == 1 else "runs"}, '
      f'{sum(row["seconds"] for row in found) / 60:.0f} minutes in all',
      each(f'Data: {r["data"]["name"]}, {r["data"]["fingerprint"][:8]}' for r in done
           if 'data' in r),
      each(f'Machine: {hardware(r["hardware"])}' for r in done), f'Commit: {commits}',
      versions and f'Versions: {versions}'])) + '.\n'


def failed(found: Iterable[Row]) -> list[dict[str, Any]]:
  """The runs that failed: which, and how."""
  return [{'arm': cell(row), 'seed': row['seed'], **row['error']} for row in found
          if 'error' in row]


def counted(n: int) -> str:
  return '1 seed' if n == 1 else f'{n} seeds'


def cell(row: Row) -> str:
  """The arm's name for a table."""
  return f'`{words(row["arm"])}`'.replace('|', '\\|') if row['arm'] else STANDS


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
