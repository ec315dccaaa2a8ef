"""Makes experiments/README.md from the rows alone.

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
from experiments.rows import Row, arm_name
from experiments.statistics import Values, differences, t_interval

ROOT = pathlib.Path(__file__).parent
STANDS = arm_name({})
STUDENT = 'student'         # key of an arm: the student's name in a run with several
RATE = 'optimizer.rate'
UNITS = {'fraction': '%', 'correlation': '× 100'}       # in hundredths, as GLUE's are
Seeds = Mapping[int, Row]               # the rows of an arm by seed

NO_RATES = (f'No arms differ in `{RATE}` alone: nothing shows that the baseline is at its best, '
            'so no gain may be claimed.\n')


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  def files(root: pathlib.Path) -> tuple[pages.Files, list[str]]:
    page, faults = rendered(root)
    return {'README.md': page}, faults

  return pages.command('experiments.table', __doc__, ROOT, files, arguments)


def rendered(root: pathlib.Path) -> tuple[str, list[str]]:
  """Returns the page, and a sentence about each line that is no row."""
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
  """Returns by config the last row of each run of its last state, and how many rows others have."""
  states: dict[str, tuple[list[Row], int]] = {}
  for config in dict.fromkeys(row['config'] for row in found):
    rest = [row for row in found if row['config'] == config]
    mine = [row for row in rest if row['base'] == rest[-1]['base']]
    states[config] = (list({row['config_sha256']: row for row in mine}.values()),
                      len(rest) - len(mine))
  return states


def _experiment(found: Sequence[Row]) -> Iterator[dict[str, Any]]:
  """Yields a section for every state of every config: two states don't compare."""
  state = lambda row: (row['config'], row['base'])
  for config, base in dict.fromkeys(map(state, found)):
    mine = list({row['config_sha256']: row for row in found if state(row) == (config, base)
                 }.values())            # the last row of each run
    arms = summary(mine)
    splits = [arms] if arms else []
    if arms:
      splits += [summary(mine, name) for name in next(iter(arms.values())).also]
    gained = any(arm.gain for arm in arms.values())
    yield {'config': config, 'base': base, 'door': mine[0].get('door', 'experiments.run'),
           'splits': [{'judged': judged(next(iter(split.values()))), 'lines': _lines(split)}
                      for split in splits],
           'tiers': _tiers(arms), 'rates': (_rates(arms) or [NO_RATES]) if gained else [],
           'failed': failed(mine), 'circumstances': circumstances(mine)}


def _benches(found: Sequence[Row]) -> list[dict[str, Any]]:
  """Returns the last row of every bench on every machine, ready for the page."""
  last = {(row['bench'], json.dumps(row['hardware'])): row for row in found}
  return [{'bench': row['bench'], 'rounds': row['rounds'], 'table': bench.table(row),
           'circumstances': circumstances([row])} for row in last.values()]


class Arm:
  """The finished runs of an arm by seed, with their results on the main or a further split.

  Fractions are in percent, correlations in hundredths.
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
    """Returns by how much the student is better than another arm's `role`, at the seeds of both."""
    ours, theirs = self.quality('student'), other.quality(role)
    sign = 1 if self.metric['higher_is_better'] else -1
    return {seed: sign * value for seed, value in differences(ours, theirs).items()}


def summary(found: Iterable[Row], split: str = '') -> dict[str, Arm]:
  """Returns the arms by name, in the order of their first rows, with results on a further split.

  In a run with several students, each student is an arm.
  """
  seeds: dict[str, dict[int, Row]] = {}
  for row in found:
    for each in _students(row) if 'error' not in row else ():
      seeds.setdefault(arm_name(each['arm']), {})[each['seed']] = each
  return {name: Arm(runs, split) for name, runs in seeds.items()}


def _students(row: Row) -> list[Row]:
  """Returns the row, or one row a student if a run has several.

  The row of a student has no other student and only its own baseline; its seconds are those of the
  training of these two.
  """
  models = row['models']
  students = {name: m for name, m in models.items() if m['role'] == 'student'}
  if len(students) < 2:
    return [row]

  def single(name: str, model: Mapping) -> Row:
    pair = {name, *([model['gain']['of']] if model['gain'] else [])}
    return {**row, 'arm': {**row['arm'], STUDENT: name},
            'models': {n: m for n, m in models.items()
                       if n in pair or m['role'] not in ('student', 'baseline')},
            'seconds': sum(row['training'][n]['seconds'] for n in pair)}
  return [single(name, model) for name, model in students.items()]


def interval(values: Values) -> tuple[float, float] | None:
  """Returns the 95 % t interval of the mean."""
  if len(values) < 2:
    return None
  low, high = t_interval(list(values.values()))
  return float(low), float(high)


def spread(values: Values, percent: bool = True) -> str:
  """Formats mean ± standard deviation."""
  if not values:
    return '–'
  mean = number(statistics.fmean(values.values()), percent)
  if len(values) < 2:
    return mean
  return f'{mean} ± {number(statistics.stdev(values.values()), percent)}'


def difference(values: Values, percent: bool) -> str:
  """Formats mean ± standard deviation, and the interval."""
  ends = interval(values)
  bracket = ends and f' ({" to ".join(number(end, percent) for end in ends)})'
  return spread(values, percent) + (bracket or '')


def gain(values: Values, percent: bool) -> str:
  """Formats the mean and the interval."""
  ends = interval(values)
  return (number(statistics.fmean(values.values()), percent) if values else '–') + (
      f' ({" to ".join(number(end, percent) for end in ends)})' if ends else '')


def chance(p: float | None) -> str:
  """Formats a p-value."""
  return '–' if p is None else '< 0.001' if p < 0.001 else f'{p:.3f}'


def number(value: float, percent: bool) -> str:
  if abs(value) >= 1e4 and not percent:
    return f'{value:,.0f}'.replace('-', '−')
  text = f'{value:.1f}' if percent else f'{value:.4g}'
  return text.replace('-', '' if float(text) == 0 else '−')


def judged(arm: Arm) -> str:
  """Describes the metric of an arm's numbers and the examples that they are of."""
  name = metric_name(arm.metric['name'])
  return f'{name[0].upper()}{name[1:]} on {arm.n:,} ' + (
      f'examples of `{arm.split}`' if arm.split else 'held-out examples')


def _lines(arms: Mapping[str, Arm]) -> list[list[str]]:
  """Returns the table, a line an arm."""
  first = next(iter(arms.values()))
  stands = arms.get(STANDS)
  head = lambda text, unit: f'{text}, {unit}' if unit else text
  lines = [['arm', *(head(role, first.unit) for role in ('teacher', 'student', 'baseline')),
            'kept, %', *(head(text, first.points) for text in (
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
  """Returns the limits of the students' tiers, with their values and how many seeds pass."""
  lines, reached = [], []
  for arm in arms.values():
    verdicts = {seed: m['tier'] for seed, row in arm.seeds.items() for m in row['models'].values()
                if m['role'] == 'student' and 'tier' in m}
    if not verdicts:
      continue
    passed = lambda found, n=len(verdicts): f'{sum(v["passed"] for v in found)} of {n}'
    tier = next(iter(verdicts.values()))
    for name, limit in tier['limits'].items():
      each = {seed: verdict['limits'][name] for seed, verdict in verdicts.items()}
      values = {seed: v['value'] for seed, v in each.items() if v['value'] is not None}
      lines.append([cell(arm.row), tier['name'], tiers.LIMITED[name],
                    f'{tiers.BOUNDS[limit["bound"]]} {number(limit["limit"], False)}',
                    spread(values, False) if values else 'not measured', passed(each.values())])
    reached.append(f'{cell(arm.row)} reaches the tier {tier["name"]} at '
                   f'{passed(verdicts.values())}')
  heads = [['arm', 'tier', 'limited', 'limit', 'value', 'seeds that pass'],
           ['---'] * 4 + ['--:'] * 2]
  return {'lines': heads + lines, 'reached': reached} if lines else {}


def _rates(arms: Mapping[str, Arm]) -> list[str]:
  """Returns a sentence for every group of arms that differ only in the learning rate."""
  return [_best(group) for group in by_rate(arms).values() if len(group) > 1]


def by_rate(arms: Mapping[str, Arm]) -> dict[str, list[Arm]]:
  """Groups arms that differ only in the learning rate, by what they have in common."""
  groups: dict[str, list[Arm]] = {}
  for arm in arms.values():
    rest = {path: value for path, value in arm.row['arm'].items() if path != RATE}
    groups.setdefault(arm_name(rest), []).append(arm)
  return groups


def reference(arms: Mapping[str, Arm], names: Sequence[str]) -> tuple[str, Arm | None]:
  """Returns the first name that is an arm, and its arm at the baseline's best learning rate."""
  plain = next((name for name in names if name in arms), '')
  return plain, best(by_rate(arms)[plain]) if plain else None


def describe_baseline(arms: Mapping[str, Arm], names: Sequence[str]) -> str:
  """Describes what the baseline reaches, and at which of its learning rates."""
  plain, baseline = reference(arms, names)
  if not baseline:
    return f'None of {", ".join(f"`{name}`" for name in names)} has a baseline: no gains.\n'
  rates = by_rate(arms)[plain]
  unit = f' {baseline.unit}' if baseline.unit else ''
  reached, student = (spread(baseline.quality(role), baseline.percent)
                      for role in ('baseline', 'student'))
  return f'The baseline has {reached}{unit} ({counted(len(baseline.seeds))})' + (
      f', at the best of {len(rates)} learning rates: {", ".join(cell(a.row) for a in rates)}; '
      f'that is {cell(baseline.row)}, where the student has {student}{unit}. It was chosen by the '
      "held-out examples, in the baseline's favour.\n" if len(rates) > 1 else f'. {NO_RATES}')


def best(group: Sequence[Arm]) -> Arm | None:
  """Returns the arm of a group whose baseline is best, at the seeds that all have."""
  common = set.intersection(*(set(arm.quality('baseline')) for arm in group))
  arms = [Arm({seed: arm.seeds[seed] for seed in common}) for arm in group if common]
  return max(arms, default=None, key=lambda arm: (
      1 if arm.metric['higher_is_better'] else -1) * statistics.fmean(
          arm.quality('baseline').values()))


def _best(group: Sequence[Arm]) -> str:
  """Describes the baseline at its best learning rate, and the student beside it."""
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
  """Describes data, machine, commits and versions; where runs differ, all of them."""
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
  """Returns the failed runs with their errors."""
  return [{'arm': cell(row), 'seed': row['seed'], **row['error']} for row in found
          if 'error' in row]


def counted(n: int) -> str:
  return '1 seed' if n == 1 else f'{n} seeds'


def cell(row: Row) -> str:
  """Returns the arm's name for a table."""
  return f'`{arm_name(row["arm"])}`'.replace('|', '\\|') if row['arm'] else STANDS


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
