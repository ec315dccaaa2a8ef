"""Forecasts of a sweep: its remaining runs, and about how long they take, from recorded rows."""
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from experiments.rows import Row, arm_name


def lines(trials: Sequence[Any], found: Sequence[Row], jobs: int) -> Iterator[str]:
  """Yields a line for every arm of the trials, and one for all of them."""
  file, base = trials[0].file, trials[0].base
  finished = {row['config_sha256'] for row in found if 'error' not in row}
  failed = {row['config_sha256'] for row in found if 'error' in row} - finished
  like = [row for row in found
          if row['config'] == file and 'error' not in row and _student_steps(row)]
  whole, taught = 0.0, {row['seed'] for row in like if row['base'] == base}
  arms = {}
  for trial in trials:
    arms.setdefault(arm_name(trial.arm), []).append(trial)
  width = max(map(len, arms))
  for name, runs in arms.items():
    left = [trial for trial in runs if trial.sha256 not in finished]
    mine = [row for row in like if row['base'] == base and arm_name(row['arm']) == name]
    minutes = _minutes(left, mine or like)
    whole += minutes
    again = sum(trial.sha256 in failed for trial in left)
    yield '  '.join(filter(None, (
        f'{name:<{width}}', f'{len(runs) - len(left)} there', f'{len(left)} to run',
        f'{sum(map(_steps, left)):,} steps',
        f'about {minutes:.1f} minutes' if left and like else '',
        f'{again} failed before' if again else '')))
  whole += len({trial.seed for trial in trials} - taught) * _shared_minutes(like)
  left = [trial for trial in trials if trial.sha256 not in finished]
  known = (f'about {whole / jobs:.0f} minutes' + f' with --jobs={jobs}' * (jobs > 1)
           + f', by {len(like)} rows of {file}' if like else f'no row of {file} to tell how long')
  yield (f'{file}: {len(trials)} runs, {len(trials) - len(left)} there, {len(left)} to run, '
         f'{sum(map(_steps, left)):,} steps of students; {known}')


def _steps(trial: Any) -> int:
  """Counts the steps of a trial's student, or of all students of a matrix."""
  config = trial.config
  if 'students' in config:
    return sum(node.get('train', config['train'])['steps'] for node in config['students'].values())
  return config['train']['steps']


def _minutes(left: Sequence[Any], like: Sequence[Row]) -> float:
  """Returns the minutes of trials without teachers and baselines, by the seconds a step of rows."""
  if not like:
    return 0.0
  step_seconds = statistics.fmean((row['seconds'] - sum(_shared_seconds(row))) / _student_steps(row)
                                  for row in like)
  return sum(map(_steps, left)) * step_seconds / 60


def _shared_minutes(like: Sequence[Row]) -> float:
  """Returns the minutes of what the runs of a seed share: teachers and baselines."""
  found = [sum(stages) for row in like if (stages := list(_shared_seconds(row)))]
  return statistics.fmean(found) / 60 if found else 0.0


def _shared_seconds(row: Row) -> Iterable[float]:
  """Returns the seconds of each stage that the run trained for a teacher or a baseline."""
  return (stage['seconds'] for name, stage in row['training'].items()
          if row['models'][name]['role'] != 'student' and not stage['shared'])


def _student_steps(row: Row) -> int:
  """Counts the steps of a row's students; 0 in a row of another command."""
  return sum(stage['steps'] for name, stage in row['training'].items()
             if row['models'][name]['role'] == 'student')
