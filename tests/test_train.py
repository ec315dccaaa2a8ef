import json
import shutil
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from distill import microbatches, objective, runs, sharding, train
from distill.logs import Log
from distill.models.functional import Functional
from distill.student import Student
from distill.teachers import Live
from distill.types import Status, Stop


class TestPlan:

  def test_what_is_due(self):
    plan = train.Plan(steps=10, save_every=4)
    assert [n for n in range(1, 11) if plan.due(plan.save_every, n)] == [4, 8, 10]
    assert [n for n in range(1, 11) if plan.due(0, n)] == [10]

  @pytest.mark.parametrize('wrong', [
      dict(steps=0), dict(accumulate=0), dict(log_every=-1), dict(dtype='float64'),
      dict(log_every=20, eval_every=30), dict(log_every=0, eval_every=5)])
  def test_what_cannot_be_is_refused(self, wrong):
    with pytest.raises(ValueError):
      train.Plan(**{'steps': 5, **wrong})


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

  def __init__(self, seed, at=None, by=KeyboardInterrupt):
    self.seed, self.at, self.by = seed, at, by

  def __getitem__(self, i):
    if i == self.at and self.by:
      raise self.by
    batch = super().__getitem__(10 * self.seed + i)
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


class TestTogether:
  """Stages that differ in their seeds alone, by one program: what each would be alone."""
  LAYOUT = sharding.layout(devices=jax.devices()[:1])
  TEACHER = Functional(lambda rngs: Dense(rngs=rngs))
  SEEDS = 0, 1, 2

  def stage(self, seed, layout=LAYOUT, **how):
    student = Student(Functional(lambda rngs: Dense(rngs=rngs)))
    terms = {'hard': dict(loss='supervised.cross_entropy',
                          reads=dict(student='student/logits', label='batch/label')),
             'soft': dict(loss='logits.kl', reads=dict(
                 student='student/logits', teacher='teacher/logits'))}
    return train.Stage(
        name='student', student=student, start=lambda weights: student.init(seed), seed=seed,
        data=Interrupted(seed, **how), terms=objective.terms_from(terms), layout=layout,
        teachers=(Live('teacher', self.TEACHER),), carries={'drawn': Drawn()}, augment=(noisy,),
        evaluate=lambda params, rest: {'sum': float(params['model/dense/kernel'].sum())},
        optimizer=dict(name='adamw', rate=0.1), train=dict(
            steps=5, log_every=1, save_every=2, eval_every=5, shares=True))

  def trained(self, place, stages, alone=False, common=False):
    """By one program, or each by its own."""
    logs = [Log(place / str(s.seed), quiet=True) for s in stages]
    seeds = [runs.Run('run', place / str(s.seed), log, seed=s.seed)
             for s, log in zip(stages, logs, strict=True)]
    weights = [{'teacher': self.TEACHER.init(9 if common else 7 + s.seed)} for s in stages]
    ready = train.prepared(stages[0], {'teacher': self.TEACHER.shapes})
    try:
      if alone:
        return [train.fit(s, ready, theirs, run)
                for s, theirs, run in zip(stages, weights, seeds, strict=True)]
      return train.together(stages, ready, weights, seeds, [({}, {}) for _ in stages])
    finally:
      for log in logs:
        log.close()

  @pytest.fixture(scope='class')
  @classmethod
  def alone(cls, tmp_path_factory):
    place = tmp_path_factory.mktemp('alone')
    cls().trained(place, [cls().stage(seed) for seed in cls.SEEDS], alone=True)
    return place

  def assert_equal(self, place, other, seeds=SEEDS):
    for seed in seeds:
      ours, theirs = (TestShares.rows(p / str(seed)) for p in (place, other))
      assert [row['step'] for row in ours] == [0, 1, 2, 3, 4, 5]
      assert all(a.keys() == b.keys() for a, b in zip(ours, theirs, strict=True))
      numbers = [[v for row in rows for v in row.values() if v != 'student']
                 for rows in (ours, theirs)]
      np.testing.assert_allclose(*numbers, rtol=1e-5)
      states = [safetensors.numpy.load_file(p / f'{seed}/checkpoints/student/5/state.safetensors')
                for p in (place, other)]
      assert states[0].keys() == states[1].keys()
      for path, array in states[0].items():
        np.testing.assert_allclose(array, states[1][path], rtol=1e-5, atol=1e-6)

  def test_each_leaves_and_gives_what_it_would_alone(self, alone, tmp_path):
    stages = [self.stage(seed) for seed in self.SEEDS]
    found = self.trained(tmp_path, stages)
    self.assert_equal(tmp_path, alone)
    assert len({float(params['model/dense/bias'][0]) for params, _, _ in found}) == 3
    again = self.trained(tmp_path, stages, alone=True)          # nothing is left to train
    for (params, _, cost), (same, _, before) in zip(again, found, strict=True):
      assert all(np.array_equal(params[path], same[path]) for path in params)
      assert cost == before and cost['examples'] == 40

  def test_a_teacher_in_common_is_not_copied_and_gives_the_same(self, tmp_path):
    stages = [self.stage(seed) for seed in self.SEEDS]
    self.trained(tmp_path / 'together', stages, common=True)
    self.trained(tmp_path / 'alone', stages, alone=True, common=True)
    self.assert_equal(tmp_path / 'together', tmp_path / 'alone')

  @pytest.mark.parametrize('first', [True, False])
  @pytest.mark.parametrize('then', [True, False])
  def test_interrupted_it_goes_on_without_hole_or_duplicate(self, alone, tmp_path, first, then):
    """Begun and gone on with alone (True) or together."""
    for seed in self.SEEDS if first else (2,):
      stages = [self.stage(s, at=4 if s == seed else None) for s in self.SEEDS]
      with pytest.raises(KeyboardInterrupt):
        self.trained(tmp_path, stages[seed:seed + 1] if first else stages, alone=first)
    assert {path.name for path in tmp_path.glob('*/checkpoints/student/*')} == {'2', '4'}
    self.trained(tmp_path, [self.stage(seed) for seed in self.SEEDS], alone=then)
    self.assert_equal(tmp_path, alone)

  def test_those_at_another_step_are_trained_alone(self, alone, tmp_path):
    self.trained(tmp_path, [self.stage(1)], alone=True)
    with pytest.raises(KeyboardInterrupt):
      self.trained(tmp_path, [self.stage(0, at=3)], alone=True)
    shutil.copytree(alone / '2', tmp_path / '2')
    shutil.rmtree(tmp_path / '2/checkpoints/student/5')         # begins at 4, by the one before
    self.trained(tmp_path, [self.stage(seed) for seed in self.SEEDS])
    self.assert_equal(tmp_path, alone)

  def test_bad_numbers_stop_one_and_the_others_go_on(self, alone, tmp_path):
    stages = [self.stage(seed, **(dict(at=3, by=None) if seed == 1 else {})) for seed in self.SEEDS]
    lines = []
    for at_once in (False, True):
      with pytest.raises(Stop, match='not finite at step 3, batch ids') as stop:
        self.trained(tmp_path, stages[1:2] if at_once else stages, alone=at_once)
      assert stop.value.status == Status.NONFINITE
      lines.append(str(stop.value))
      assert [row['step'] for row in TestShares.rows(tmp_path / '1')] == [0, 1, 2, 3]
    assert lines[0] == lines[1] and 'checkpoint 2 in' in lines[0]
    self.assert_equal(tmp_path, alone, seeds=(0, 2))

  def test_it_takes_one_device(self, tmp_path):
    stages = [self.stage(seed, layout=sharding.layout()) for seed in self.SEEDS]
    with pytest.raises(Stop, match='one device') as stop:
      self.trained(tmp_path, stages)
    assert stop.value.status == Status.CONFIG

  def test_what_is_computed_again_is_refused(self, tmp_path):
    stages = [self.stage(seed) for seed in self.SEEDS]
    ready = types.SimpleNamespace(plan=train.Plan(steps=5, remat='dots'))
    line = "train.remat='dots': seeds that are trained together need their memory"
    with pytest.raises(Stop, match=line) as stop:
      train.together(stages, ready, [], [], [])
    assert stop.value.status == Status.CONFIG

  def test_the_time_is_divided(self, tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(train.time, 'monotonic', lambda: next(clock))
    found = self.trained(tmp_path, [self.stage(seed) for seed in self.SEEDS])
    assert sum(cost['seconds'] for _, _, cost in found) <= next(clock)


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

  def test_they_are_said_and_logged_once_whatever_happens_to_the_run(self, tmp_path, capsys):
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
