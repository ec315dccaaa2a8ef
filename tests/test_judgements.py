"""From records to verdicts: whichever way is better, and claiming nothing without a baseline."""
import types

import numpy as np
import pytest

from distill.evaluate import tiers
from distill.pipelines import reported
from distill.tasks.classification import Classification
from distill.tasks.regression import Regression

LABEL = np.arange(40) % 5


def judged(task, **records):
  """The judgements of models called after their roles, in the order given; student2 is one, too."""
  models = [types.SimpleNamespace(name=name, role=name.rstrip('2')) for name in records]
  told = types.SimpleNamespace(task=task, evaluate=types.SimpleNamespace(resamples=50))
  return reported.judgements(models, records, told)


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
      {'name': name, 'role': name, **about, **of} for name, of in found.items()]}
  student = tiers.judged(report, tiers.limits({}, {}), {})['models'][1]
  return next(v for v in student['tiers'] if v['name'] == 'cloud')


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
    (Regression(primary='mse'), wrong_by(.4), wrong_by(.42), wrong_by(.43)),      # 90.7 %, 86.5 %
    (Classification(classes=5), right(40), right(36), right(35))])
def test_a_tier_passes_the_better_one(task, teacher, near, far):
  for student, passes in (near, True), (far, False), (teacher, True):
    assert cloud(task, judged(task, teacher=teacher, student=student))['passed'] == passes


def test_without_a_baseline_there_is_no_gain_and_without_a_teacher_nothing_is_kept():
  found = judged(Classification(classes=5), teacher=right(36), student=right(30),
                 student2=right(24))
  assert found['student']['gain'] is None and found['student']['retention'] is not None
  assert found['teacher']['gain'] is found['teacher']['retention'] is None
  found = judged(Classification(classes=5), student=right(30), baseline=right(24))
  assert found['student']['retention'] is found['student']['retention_over_chance'] is None
  assert found['student']['gain'] is not None and found['baseline']['gain'] is None
