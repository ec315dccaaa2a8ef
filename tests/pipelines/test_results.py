"""From records to verdicts: whichever way is better, and claiming nothing without a baseline."""
import types

import numpy as np
import pytest

from distill.pipelines import judge, results
from distill.report import tiers
from distill.tasks.classification import Classification
from distill.tasks.regression import Regression
from distill.tasks.words import MaskedWords

LABEL = np.arange(40) % 5


def judged(task, teachers=(), **records):
  """Returns quality and gain of models that are named after their roles, in the order given.

  student2 is a student too. Students have learnt from `teachers`.
  """
  models = [types.SimpleNamespace(name=name, role=name.rstrip('2'), teachers=teachers if (
      name.startswith('student')) else (), baseline_of='student' * (
          name == 'baseline' and 'student' in records)) for name in records]
  judge = types.SimpleNamespace(task=task, evaluate=types.SimpleNamespace(resamples=50))
  return results.quality_and_gain(models, records, judge)


def wrong_by(error):
  return {'id': np.arange(40), 'label': LABEL.astype(np.float64),
          'prediction': LABEL + error * (-1)**(LABEL > 2)}


def right(n):
  return {'id': np.arange(40), 'label': LABEL, 'probabilities': np.full((40, 5), .2),
          'prediction': np.where(np.arange(40) < n, LABEL, (LABEL + 1) % 5)}


def cloud(task, found):
  """The verdict of the tier that asks for 90 % of the teacher's metric."""
  about = {'params': 1, 'latency_ms': None, 'shipped_bytes': None, 'quantised': 0.}
  report = {'task': {'primary': task.primary}, 'models': [
      {'name': name, 'role': name, **about, **fields} for name, fields in found.items()]}
  student = tiers.add_verdicts(report, tiers.limits({}, {}), {})['models'][1]
  return next(v for v in student['tiers'] if v['name'] == 'cloud')


@pytest.mark.parametrize(('teachers', 'reference'), [
    ((), 'teacher'), (('teacher2',), 'teacher2'), (('teacher2', 'teacher'), 'teacher2'),
    # who isn't a teacher, or not in the report, is no reference
    (('assistant', 'teacher2'), 'teacher2'), (('assistant',), 'teacher'), (('gone',), 'teacher')])
def test_a_student_is_compared_with_its_teacher(teachers, reference):
  found = judged(Classification(classes=5), teachers, teacher=right(40), teacher2=right(20),
                 assistant=right(25), student=right(10), baseline=right(8))
  kept = {'teacher': 1 / 4, 'teacher2': 1 / 2}[reference]
  student = found['student']
  assert {student[field]['of'] for field in (
      'retention', 'retention_interval', 'retention_over_chance')} == {reference}
  assert student['retention']['accuracy'] == kept
  low, high = (student['retention_interval']['accuracy'][end] for end in ('low', 'high'))
  assert low < kept < high
  assert found['teacher']['retention'] is found['teacher2']['retention'] is None
  assert found['assistant']['retention'] == found['assistant']['retention'] | {'of': 'teacher',
                                                                              'accuracy': 25 / 40}


def test_a_model_is_resampled_once_whatever_it_is_held_against():
  class Counted(Classification):
    scored = 0

    def score(self, records):
      self.scored += 1
      return super().score(records)
  task = Counted(classes=5)
  judged(task, teacher=right(36), student=right(30), baseline=right(24))
  assert task.scored == 3 * (1 + 50) + 1      # each by all examples and by resamples; and chance


def test_the_order_of_records_changes_nothing():
  order = np.random.default_rng(0).permutation(40)
  mixed = {name: values[order] for name, values in right(30).items()}
  found = [judged(Classification(classes=5), teacher=right(36), student=student,
                  baseline=right(24)) for student in (right(30), mixed)]
  assert found[0] == found[1]


# Squared errors 0.16, 0.25 and 0.36; 36, 30 and 24 of 40 right.
@pytest.mark.parametrize(('task', 'teacher', 'student', 'baseline', 'kept', 'gained'), [
    (Regression(primary='mse'), wrong_by(.4), wrong_by(.5), wrong_by(.6), 16 / 25, .11),
    (Classification(classes=5), right(36), right(30), right(24), 30 / 36, .15)])
def test_the_better_one_has_gained_and_the_worse_one_kept_less(task, teacher, student, baseline,
                                                               kept, gained):
  found = judged(task, teacher=teacher, student=student, baseline=baseline)
  metric = task.primary
  assert found['student']['retention']['of'] == 'teacher'
  assert found['student']['retention'][metric] == pytest.approx(kept)
  assert found['student']['gain']['of'] == 'baseline'
  assert found['student']['gain'][metric]['value'] == pytest.approx(gained)
  assert found['student']['gain'][metric]['low'] > 0
  over = [found[name]['retention_over_chance'][metric]['value'] for name in ('student', 'baseline')]
  assert 1 > over[0] > over[1]
  swapped = judged(task, teacher=teacher, student=baseline, baseline=student)['student']
  assert swapped['gain'][metric]['value'] == pytest.approx(-gained)
  assert swapped['gain'][metric]['high'] < 0 and swapped['retention'][metric] < kept


@pytest.mark.parametrize(('task', 'teacher', 'near', 'far'), [
    # Labels 0 to 4: chance is their variance, 2. The teacher leads it by 1.84, of which 0.9 leaves
    # an error of 0.344: .3364 is less, .3481 is more.
    (Regression(primary='mse'), wrong_by(.4), wrong_by(.58), wrong_by(.59)),
    (Classification(classes=5), right(40), right(36), right(35))])
def test_a_tier_passes_the_better_one(task, teacher, near, far):
  for student, passes in (near, True), (far, False), (teacher, True):
    assert cloud(task, judged(task, teacher=teacher, student=student))['passed'] == passes


def test_no_tier_is_reached_by_what_nobody_has_learnt():
  """Every word is as likely as any other, to the student as to the teacher."""
  task = MaskedWords(special={'[MASK]': 0})
  untrained = lambda nll: {'id': np.arange(40), 'label': np.ones(40, np.int32),
                           'right': np.zeros(40, np.int32), 'nll': np.full(40, nll)}
  found = judged(task, teacher=untrained(7.05), student=untrained(6.9))
  assert found['student']['retention']['cross_entropy'] > 1
  verdict = cloud(task, found)
  assert verdict['limits'][0]['value'] is None and not verdict['passed']


def test_without_a_baseline_there_is_no_gain_and_without_a_teacher_nothing_is_kept():
  found = judged(Classification(classes=5), teacher=right(36), student=right(30),
                 student2=right(24))
  assert found['student']['gain'] is None and found['student']['retention'] is not None
  assert found['teacher']['gain'] is found['teacher']['retention'] is None
  found = judged(Classification(classes=5), student=right(30), baseline=right(24))
  assert found['student']['retention'] is found['student']['retention_over_chance'] is None
  assert found['student']['gain'] is not None and found['baseline']['gain'] is None


def test_every_model_is_held_against_its_own_teacher_and_a_baseline_against_its_students():
  model = lambda name, role, *teachers: types.SimpleNamespace(
      name=name, role=role, teachers=teachers,
      baseline_of=name.removesuffix('-baseline') if role == 'baseline' else '')
  models = [model('one', 'teacher'), model('two', 'teacher'), model('middle', 'assistant', 'two'),
            model('a', 'student', 'middle', 'two'), model('a-baseline', 'baseline'),
            model('b', 'student', 'middle'), model('c', 'student')]
  whose = {m.name: getattr(judge.teacher_of(m, models), 'name', None) for m in models}
  assert whose == {'one': None, 'two': None, 'middle': 'two', 'a': 'two', 'a-baseline': 'two',
                   'b': 'one', 'c': 'one'}
  assert judge.teacher_of(models[3], models[2:]) is None
