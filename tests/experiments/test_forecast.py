"""Forecasts of runs with several students; test_run.py has those with one."""
import types

from experiments import forecast


def trial(seed):
  # 10 steps, and 30 for another student.
  config = {'train': {'steps': 10}, 'students': {'a': {}, 'b': {'train': {'steps': 30}}}}
  return types.SimpleNamespace(file='m.py', base='0', arm={}, seed=seed, config=config,
                               sha256=str(seed))


def row(seed):
  """Returns the row of a run of ten minutes, of which the teacher took two."""
  stage = lambda seconds, steps: {'seconds': seconds, 'steps': steps, 'shared': False}
  return {'config': 'm.py', 'base': '0', 'arm': {}, 'seed': seed, 'config_sha256': str(seed),
          'seconds': 600.0, 'models': {'t': {'role': 'teacher'}, 'a': {'role': 'student'},
                                       'b': {'role': 'student'}},
          'training': {'t': stage(120.0, 50), 'a': stage(100.0, 10), 'b': stage(300.0, 30)}}


def test_the_steps_of_all_students_count():
  # Two seeds to run: 40 steps each at 480 / 40 s, 16 minutes; and their teachers, 4.
  found = [*forecast.lines([trial(seed) for seed in range(3)], [row(0)], 1)]
  assert found == [
      'as it stands  1 there  2 to run  80 steps  about 16.0 minutes',
      'm.py: 3 runs, 1 there, 2 to run, 80 steps of students; about 20 minutes, by 1 rows of m.py']
