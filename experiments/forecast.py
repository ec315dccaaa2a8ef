"""What a sweep would run, and about how long that takes, by the rows that are there."""
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from experiments.rows import Row, words


def lines(planned: Sequence[Any], found: Sequence[Row], jobs: int) -> Iterator[str]:
  """A line for every arm of the planned runs, and one for all of them."""
  file, base = planned[0].file, planned[0].base
  finished = {row['config_sha256'] for row in found if 'error' not in row}
  failed = {row['config_sha256'] for row in found if 'error' in row} - finished
  like = [row for row in found if row['config'] == file and 'error' not in row and _taken(row)]
  whole, taught = 0.0, {row['seed'] for row in like if row['base'] == base}
  arms = {}
  for each in planned:
    arms.setdefault(words(each.arm), []).append(each)
  width = max(map(len, arms))
  for name, runs in arms.items():
    left = [each for each in runs if each.sha256 not in finished]
    took = _minutes(left, [row for row in like if row['base'] == base and words(row['arm']) == name
                           ] or like)
    whole += took
    again = sum(each.sha256 in failed for each in left)
    yield '  '.join(filter(None, (
        f'{name:<{width}}', f'{len(runs) - len(left)} there', f'{len(left)} to run',
        f'{sum(map(_steps, left)):,} steps', f'about {took:.1f} minutes' if left and like else '',
        f'{again} failed before' if again else '')))
  whole += len({each.seed for each in planned} - taught) * _once(like)
  left = [each for each in planned if each.sha256 not in finished]
  known = (f'about {whole / jobs:.0f} minutes' + f' with --jobs={jobs}' * (jobs > 1)
           + f', by {len(like)} rows of {file}' if like else f'no row of {file} to tell how long')
  yield (f'{file}: {len(planned)} runs, {len(planned) - len(left)} there, {len(left)} to run, '
         f'{sum(map(_steps, left)):,} steps of students; {known}')


def _steps(planned: Any) -> int:
  """Of the student, or of all that a matrix has."""
  config = planned.config
  if 'students' in config:
    return sum(node.get('train', config['train'])['steps'] for node in config['students'].values())
  return config['train']['steps']


def _minutes(left: Sequence[Any], like: Sequence[Row]) -> float:
  """Of runs whose teachers and baselines are there, by what rows took for as many steps."""
  if not like:
    return 0.0
  a_step = statistics.fmean((row['seconds'] - sum(_others(row))) / _taken(row)
                            for row in like)
  return sum(map(_steps, left)) * a_step / 60


def _once(like: Sequence[Row]) -> float:
  """Minutes of what the first run of a seed leaves to the others: teachers and baselines."""
  found = [sum(others) for row in like if (others := list(_others(row)))]
  return statistics.fmean(found) / 60 if found else 0.0


def _others(row: Row) -> Iterable[float]:
  """Seconds of the stages that the run trained beside its student's."""
  return (stage['seconds'] for name, stage in row['training'].items()
          if row['models'][name]['role'] != 'student' and not stage['shared'])


def _taken(row: Row) -> int:
  """The steps of its students; 0 in a row of another door."""
  return sum(stage['steps'] for name, stage in row['training'].items()
             if row['models'][name]['role'] == 'student')
