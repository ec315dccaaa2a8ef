import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill import microbatches, objective, runs, sharding, train
from distill.logs import Log
from distill.models.functional import Functional
from distill.student import Student
from distill.teachers import Live
from distill.types import Status, Stop


class TestPlan:

  def test_what_is_due(self):
    plan = train.TrainConfig(steps=10, save_every=4)
    assert [n for n in range(1, 11) if plan.is_due(plan.save_every, n)] == [4, 8, 10]
    assert [n for n in range(1, 11) if plan.is_due(0, n)] == [10]

  @pytest.mark.parametrize('wrong', [
      dict(steps=0), dict(accumulate=0), dict(log_every=-1), dict(dtype='float64'),
      dict(log_every=20, eval_every=30), dict(log_every=0, eval_every=5)])
  def test_what_cannot_be_is_refused(self, wrong):
    with pytest.raises(ValueError):
      train.TrainConfig(**{'steps': 5, **wrong})


class TestRun:

  def test_a_signal_outside_the_loop_stops_at_once(self, tmp_path):
    run = runs.Run('name', tmp_path, None)
    with pytest.raises(Stop, match='everything saved') as stop:
      run.preempt()
    assert stop.value.status == Status.PREEMPTED

  def test_inside_the_loop_it_waits_for_the_end_of_the_step(self, tmp_path):
    run, reached = runs.Run('name', tmp_path, None), []
    with pytest.raises(Stop), run.deferring():
      run.preempt()
      reached.append('saved')
    assert reached == ['saved']


class Dense(nnx.Module):

  def __init__(self, *, rngs):
    self.dense = nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': self.dense(batch['x'])}


class Batches:

  def __len__(self):
    return 5

  def __getitem__(self, i):
    x = np.random.default_rng(i).normal(size=(8, 4)).astype(np.float32)
    return {'id': np.arange(8), 'x': x, 'label': np.arange(8) % 3, 'valid': np.ones(8, np.float32)}


class Interrupted(Batches):
  """Ends the run before step `at`, or has a batch of NaN there."""

  def __init__(self, at=None, by=KeyboardInterrupt):
    self.at, self.by = at, by

  def __getitem__(self, i):
    if i == self.at and self.by:
      raise self.by
    batch = super().__getitem__(i)
    return {**batch, 'x': batch['x'] * np.float32(np.nan if i == self.at else 1)}


class Drawn:
  """A carry that starts by the seed."""
  reads = 'student/logits'

  def init(self, key, shapes, params):
    return jax.random.normal(key, (3,))

  def update(self, value, views, step, params):
    return value + views['student']['logits'].mean()


def noisy(batch, key, ask):
  return {**batch, 'x': batch['x'] + 0.1 * jax.random.normal(key, batch['x'].shape)}


class TestFit:
  """A stage with a teacher, a carry, an augment, scores and shares."""
  TEACHER = Functional(lambda rngs: Dense(rngs=rngs))

  def fitted(self, place, **how):
    student = Student(Functional(lambda rngs: Dense(rngs=rngs)))
    terms = {'hard': dict(loss='supervised.cross_entropy',
                          reads=dict(student='student/logits', label='batch/label')),
             'soft': dict(loss='logits.kl', reads=dict(
                 student='student/logits', teacher='teacher/logits'))}
    stage = train.Stage(
        name='student', student=student, start=lambda weights: student.init(1), seed=1,
        data=Interrupted(**how), terms=objective.terms_from(terms),
        layout=sharding.layout(devices=jax.devices()[:1]),
        teachers=(Live('teacher', self.TEACHER),), carries={'drawn': Drawn()}, augment=(noisy,),
        evaluate=lambda params, rest: {'sum': float(params['model/dense/kernel'].sum())},
        optimizer=dict(name='adamw', rate=0.1), train=dict(
            steps=5, log_every=1, save_every=2, eval_every=5, shares=True))
    log = Log(place, quiet=True)
    try:
      return train.fit(stage, train.prepared(stage, {'teacher': self.TEACHER.shapes}),
                       {'teacher': self.TEACHER.init(7)}, runs.Run('run', place, log, seed=1))
    finally:
      log.close()

  def test_interrupted_it_goes_on_without_hole_or_duplicate(self, tmp_path):
    params, _, cost = self.fitted(tmp_path / 'whole')
    with pytest.raises(KeyboardInterrupt):
      self.fitted(tmp_path / 'cut', at=4)
    steps = {path.name for path in tmp_path.glob('cut/checkpoints/student/*')}
    assert steps == {'2', '4'} and cost['steps'] == 5 and cost['examples'] == 40
    for _ in range(2):                  # then nothing is left to train
      found, _, _ = self.fitted(tmp_path / 'cut')
      assert all(np.array_equal(params[path], found[path]) for path in params)
      rows = TestShares.rows(tmp_path / 'cut')
      assert rows == TestShares.rows(tmp_path / 'whole')
      assert [row['step'] for row in rows] == [0, 1, 2, 3, 4, 5] and 'sum' in rows[-1]

  def test_bad_numbers_stop_it_and_what_was_saved_is_intact(self, tmp_path):
    line = r'not finite at step 3, batch ids \[0, 1, 2, 3, 4, 5, 6, 7\]; checkpoint 2 in'
    with pytest.raises(Stop, match=line) as stop:
      self.fitted(tmp_path, at=3, by=None)
    assert stop.value.status == Status.NONFINITE
    assert [row['step'] for row in TestShares.rows(tmp_path)] == [0, 1, 2, 3]


class TestShares:
  """Each term's part of the gradient before the first step."""
  LINE = 'student: gradient at step 0: twice 75 %, once 25 %, later 0 %; nothing from later\n'

  def fitted(self, place, names=('once', 'twice', 'later'), preempted=False, **plan):
    # Terms of one loss: their gradients are as their weights, 1 and 3 and a ramp's first, 0.
    hard = dict(loss='supervised.cross_entropy',
                reads=dict(student='student/logits', label='batch/label'))
    node = {'once': hard, 'twice': dict(hard, weight=3.0),
            'later': dict(hard, schedule=dict(name='ramp', steps=9))}
    student = Student(Functional(lambda rngs: Dense(rngs=rngs)))
    stage = train.Stage(
        name='student', student=student, start=lambda weights: student.init(0), data=Batches(),
        seed=5, terms=objective.terms_from({name: node[name] for name in names}),
        layout=sharding.layout(devices=jax.devices()[:1]),
        optimizer=dict(name='sgd', rate=0.1), train=dict(
            dict(steps=2, log_every=1, save_every=1, shares=True), **plan))
    log = Log(place, quiet=True)
    run = runs.Run('run', place, log, seed=5)
    run.preempted = preempted
    try:
      return train.fit(stage, train.prepared(stage, {}), {}, run)[0]
    finally:
      log.close()

  @staticmethod
  def rows(place):
    rows = [json.loads(line) for line in (place / 'metrics.jsonl').read_text().splitlines()]
    assert all(row.pop('time') for row in rows)
    return rows

  def test_they_are_printed_and_logged_once_whatever_happens_to_the_run(self, tmp_path, capsys):
    with pytest.raises(Stop, match='everything saved'):
      self.fitted(tmp_path, preempted=True)             # before anything is saved
    for _ in range(2):
      assert [row['step'] for row in self.rows(tmp_path)[:1]] == [0]
      whole = self.fitted(tmp_path)
      rows = self.rows(tmp_path)
      assert [row['step'] for row in rows] == [0, 1, 2]
      assert rows[0].keys() == {'stage', 'seed', 'step', 'share/once', 'share/twice', 'share/later'}
      np.testing.assert_allclose([rows[0][f'share/{n}'] for n in ('once', 'twice', 'later')],
                                 [.25, .75, 0], rtol=1e-6)
      assert (rows[0]['stage'], rows[0]['seed']) == ('student', 5)
      shutil.rmtree(tmp_path / 'checkpoints/student/2')         # the next begins at step 1
    assert capsys.readouterr().err == 2 * self.LINE             # of the two that began at 0
    plain = self.fitted(tmp_path / 'plain', shares=False)
    assert all(jnp.array_equal(whole[path], plain[path]) for path in whole)

  def test_a_term_alone_has_all(self, tmp_path, capsys):
    self.fitted(tmp_path, names=('once',))
    assert capsys.readouterr().err == 'student: gradient at step 0: once 100 %\n'

  def test_they_are_not_measured_unless_asked(self, tmp_path, capsys):
    self.fitted(tmp_path, shares=False)
    assert [row['step'] for row in self.rows(tmp_path)] == [1, 2] and not capsys.readouterr().err

  def test_accumulated_they_are_the_same(self, tmp_path, capsys):
    self.fitted(tmp_path, accumulate=4)
    assert capsys.readouterr().err == self.LINE


def test_the_operations_of_a_step_are_counted_in_a_loop_and_in_a_scan(monkeypatch):
  hard = dict(loss='supervised.cross_entropy',
              reads=dict(student='student/logits', label='batch/label'))
  student, found = Student(Functional(lambda rngs: Dense(rngs=rngs))), []
  for loops in True, False:
    monkeypatch.setattr(microbatches, '_convolves', lambda program, loops=loops: loops)
    stage = train.Stage(
        name='student', student=student, start=None, data=Batches(), optimizer=dict(name='sgd',
        rate=0.1), terms=objective.terms_from({'hard': hard}), train=dict(steps=2, accumulate=4),
        layout=sharding.layout(devices=jax.devices()[:1]))
    found.append(train.prepared(stage, {}).flops())
  assert 0.8 < found[1] / found[0] < 1.25       # the optimizer's, and the sums'
