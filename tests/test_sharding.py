import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from distill import checkpoint, objective, optimizers, sharding, step, teachers, train
from distill.carry import Average
from distill.models.bert import Bert
from distill.models.functional import Functional, splits_of
from distill.projectors.projectors import Linear
from distill.student import Projector, Student
from distill.types import Status, Stop

if jax.device_count() < 8:
  pytest.skip('needs 8 devices; tests/conftest.py simulates them', allow_module_level=True)

SIZES = dict(vocabulary=64, length=8, classes=3, depth=1, heads=4, dropout=0.1, std=0.2)
BIG, SMALL = (Functional(lambda rngs, width=width: Bert(width=width, rngs=rngs, **SIZES))
              for width in (64, 32))
STUDENT = Student(SMALL, {'wide': Projector(
    Functional(lambda rngs: Linear(inputs=32, outputs=64, rngs=rngs)),
    ('student/block00/hidden',))})
TERMS = objective.terms_from({
    'hard': dict(loss='supervised.cross_entropy', mask='batch/labelled',
                 reads=dict(student='student/logits', label='batch/label')),
    'soft': dict(loss='logits.kl', reads=dict(student='student/logits', teacher='big/logits')),
    'hint': dict(loss='features.mse', mask='batch/mask', weight=0.1,
                 reads=dict(student='projected/wide', teacher='big/block00/hidden'))})


class Batches:
  """Sixteen short texts each, a row of them empty."""

  def __getitem__(self, i):
    rng, b, s = np.random.default_rng(i), 16, 8
    mask = (np.arange(s) < rng.integers(3, s + 1, (b, 1))).astype(np.float32)
    return {'id': np.arange(b, dtype=np.int32), 'tokens': rng.integers(0, 64, (b, s), np.int32),
            'types': np.zeros((b, s), np.int32), 'mask': mask,
            'label': rng.integers(0, 3, b, np.int32),
            'labelled': (np.arange(b) % 2).astype(np.float32),
            'valid': (np.arange(b) < b - 1).astype(np.float32)}


def on(data, model=1, fsdp=False):
  layout = sharding.layout(model=model, fsdp=fsdp, devices=jax.devices()[:data * model])
  return dataclasses.replace(layout, splits=splits_of([BIG]))


def ready(layout, accumulate=1, microbatch=0):
  """The step of a distillation, as `fit` would run it."""
  stage = train.Stage(
      name='student', student=STUDENT, start=lambda weights: STUDENT.init(0), terms=TERMS,
      data=Batches(), optimizer={}, train=dict(steps=20, accumulate=accumulate),
      teachers=(teachers.Live('big', BIG, microbatch=microbatch),), layout=layout)
  with pytest.MonkeyPatch.context() as patch:
    # Momentum, not Adam: that divides each gradient by its size, so a gradient that is 0 but for
    # rounding would move a parameter by the whole rate, in one layout up and in another down.
    patch.setattr(optimizers, 'adamw', lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9)))
    return train.prepared(stage, {'big': BIG.shapes})


@functools.cache
def compiled(*layout, **how):
  run = ready(on(*layout), **how)
  return run, run.traced.lower().compile()


def trained(*layout, **how):
  """State and losses after 20 steps of one compiled program."""
  (run, program), layout = compiled(*layout, **how), on(*layout)
  weights = {'big': sharding.device_put(BIG.init(9), layout.weight_shardings(BIG.shapes))}
  kept = step.state_shardings(run.like, layout)
  params, rest = STUDENT.init(0)
  state = run.init(sharding.device_put(params, kept.params),
                   sharding.device_put(rest, kept.rest), 0)
  state, losses = sharding.device_put(state, kept), []
  for i in range(20):
    before = state
    # The program, unlike a jitted function, refuses a state that is laid out otherwise.
    state, sums = program(state, weights, layout.to_devices(Batches()[i]), jax.random.key(1))
    assert all(x.is_deleted() for x in jax.tree.leaves(before))         # donated
    losses.append(float(sums['loss'][0]))
  jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(f'{x.sharding}, not {s}'), state, kept)
  return state, losses


def assert_same(ours, theirs):
  np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-5)
  for name, value in theirs[0].params.items():
    np.testing.assert_allclose(ours[0].params[name], value, atol=1e-5, err_msg=name)


@pytest.fixture(scope='module')
def single():
  return trained(1)


@pytest.mark.parametrize('layout', [
    (4, 2, True), *(pytest.param(layout, marks=pytest.mark.slow) for layout in (
        (8,), (8, 1, True), (4, 2), (2, 4), (2, 4, True)))], ids=str)
def test_one_device_is_eight(layout, single):
  assert_same(trained(*layout), single)


@pytest.mark.slow
def test_parts_of_a_split_batch_change_nothing():
  # The same rows make a part on every mesh, so that dropout is the same too.
  unsharded = trained(1, accumulate=2, microbatch=8)
  assert_same(trained(8, accumulate=2, microbatch=8), unsharded)


class TestTheCompiledStep:
  """What XLA made of the distillation step."""

  @staticmethod
  def shares_held(*layout, **how):
    """The elements of all that is moved whole, and where the teacher's parameters are."""
    program = compiled(*layout, **how)[1]
    moves = r'= (\(.*\)|\S+) (?:all-gather|all-to-all|collective-permute)(?:-start)?\('
    found = re.findall(moves, program.as_text())
    size = lambda shapes: sum(math.prod(int(n) for n in dims.split(',') if n)
                              for dims in re.findall(r'\w+\[([\d,]*)\]', shapes))
    return [size(shapes) for shapes in found], program.input_shardings[0][1]['big'][0]

  @pytest.mark.parametrize('layout', [(8, 1, True), (4, 2, True)], ids=str)
  def test_gathers_parameters_one_by_one(self, layout):
    moved, teacher = self.shares_held(*layout)
    params = [*BIG.shapes[0].values(), *STUDENT.shapes()[0].values()]
    assert len(moved) > len(params) / 2
    assert max(moved) <= max(x.size for x in params)
    whole = sharding.nbytes(BIG.shapes[0])
    assert sharding.nbytes(BIG.shapes[0], teacher) <= 1.05 * whole / 8

  @pytest.mark.slow
  def test_moves_nothing_where_each_device_has_its_part_of_every_micro_batch(self):
    moved, teacher = self.shares_held(8, accumulate=2, microbatch=8)
    assert not moved
    assert all(s.is_fully_replicated for s in jax.tree.leaves(teacher))


@pytest.mark.parametrize('layout', [(1,), (2,), (8,), (4, 2)], ids=str)
def test_four_devices_resume_on_any_bitwise(layout, tmp_path):
  params, rest = STUDENT.init(3)
  state = step.init_state(STUDENT, params, rest, optax.adam(0.1), {'mean': jnp.arange(3.0)})
  four = sharding.device_put(state, step.state_shardings(state, on(4, fsdp=True)))
  assert four.opt_state[0].mu['model/blocks/0/up/kernel'].sharding.spec == P(None, 'data')
  checkpoint.save(tmp_path, 7, four)
  other = step.state_shardings(state, on(*layout, fsdp=True))
  _, back, _ = checkpoint.restore(tmp_path, sharding.shapes(state, other))
  jax.tree.map(np.testing.assert_array_equal, back, state)
  jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(f'{x.sharding}, not {s}'), back, other)


class Net(nnx.Module):
  """A linear classifier of eight numbers."""

  def __init__(self, *, rngs):
    self.head = nnx.Linear(8, 16, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': self.head(batch['x'])}


class Numbers:
  """Batches of sixteen."""

  def __getitem__(self, i):
    draw = np.random.default_rng(i)
    return {'x': draw.normal(size=(16, 8)).astype(np.float32), 'valid': np.ones(16, np.float32),
            'id': np.arange(16, dtype=np.int32), 'label': draw.integers(16, size=16)}


def followed(layout):
  """The state after three steps of a student that is held to its moving average."""
  model = Functional(lambda rngs: Net(rngs=rngs))
  student = Student(model)
  terms = objective.terms_from({
      'hard': dict(loss='supervised.cross_entropy',
                   reads=dict(student='student/logits', label='batch/label')),
      'same': dict(loss='logits.mse', reads=dict(student='student/logits',
                                                 teacher='ema/logits'))})
  ready = train.prepared(train.Stage(
      name='student', student=student, start=lambda weights: student.init(0), terms=terms,
      data=Numbers(), optimizer=dict(name='sgd', rate=0.1), train=dict(steps=3), layout=layout,
      teachers=(teachers.Moving('ema', model, carry='mean'),),
      carries={'mean': Average(decay=0.5)}), {'ema': ({}, {})})
  homes, (params, rest) = step.state_shardings(ready.like, layout), student.init(0)
  state = sharding.device_put(ready.init(sharding.device_put(params, homes.params), rest, 0), homes)
  for i in range(3):
    state, _ = ready.train_step(state, {'ema': ({}, {})}, layout.to_devices(Numbers()[i]),
                                jax.random.key(1))
  return state


def test_a_moving_average_of_the_parameters_lives_where_they_do():
  split, whole = followed(on(8, fsdp=True)), followed(on(1))
  mean = split.carry['mean']
  assert mean['model/head/kernel'].sharding.spec == P(None, 'data')
  assert mean['model/head/kernel'].addressable_shards[0].data.shape == (8, 2)
  for path, value in mean.items():
    assert value.sharding == split.params[path].sharding, path
    np.testing.assert_allclose(value, whole.carry['mean'][path], rtol=1e-5, atol=1e-6)


def test_a_carry_that_is_no_average_is_whole_on_every_device():
  params = {'model/kernel': jnp.zeros((8, 8))}
  state = step.State(step=jnp.int32(0), params=params, rest={}, opt_state=(), first_bad=-1, carry={
      'mean': jnp.zeros(8), 'other': {'model/kernel': jnp.zeros((4, 8))},
      'more': {**params, 'bank': jnp.zeros(8)}, 'same': params})
  found = step.state_shardings(state, on(8, fsdp=True)).carry
  assert {name for name, part in found.items()
          if not all(s.spec == P() for s in jax.tree.leaves(part))} == {'same'}


def spec(path, shape, **how):
  tree = {path: jax.ShapeDtypeStruct(shape, jnp.float32)}
  [found] = jax.tree.leaves(on(**how).param_shardings(tree))
  return found.spec


def test_what_is_split_over_the_model_axis():
  for path, shape, split in [
      ('blocks/0/query/kernel', (6, 4), P(None, 'model')),
      ('opt_state/1/0/mu/model/blocks/3/up/bias', (8,), P('model')),
      ('model/blocks/0/down/kernel', (8, 5), P('model')),
      ('blocks/0/down/bias', (8,), P()),
      ('token/embedding', (10, 7), P('model')),           # by words
      ('token/embedding', (9, 6), P(None, 'model')),      # or by width
      ('blocks/0/key/kernel', (6, 5), P()),               # does not divide
      ('pooler/kernel', (8, 8), P())]:
    assert spec(path, shape, data=4, model=2) == split, path
    assert spec(path, shape, data=8) == P()


def test_fsdp_takes_the_longest_axis_that_is_left():
  four = dict(data=4, model=2, fsdp=True)
  assert spec('blocks/0/query/kernel', (12, 4), **four) == P('data', 'model')
  assert spec('pooler/kernel', (8, 16), **four) == P(None, ('data', 'model'))
  assert spec('pooler/kernel', (4, 6), **four) == P('data')             # 8 divides no axis, 4 does
  assert spec('head/kernel', (6, 3), **four) == P()
  assert spec('pooler/kernel', (8, 8), data=1, fsdp=True) == P()


def test_the_plan_says_what_a_device_holds():
  tree = {'up/kernel': jax.ShapeDtypeStruct((1024, 1024), jnp.float32)}
  line = on(4, 2, fsdp=True).describe({'teacher': tree, 'nothing': {}})
  assert line == 'mesh data=4 model=2, fsdp; a device holds: teacher 0.5 MiB (1/8.0)'
  assert on(8).describe({'teacher': tree}) == 'mesh data=8 model=1; a device holds: ' \
      'teacher 4 MiB (1/1.0)'


def test_what_does_not_divide_is_refused():
  with pytest.raises(Stop, match='batch_size=12 does not divide over 8 devices') as stop:
    on(8).local_rows(12)
  assert stop.value.status == Status.CONFIG
  for wrong in (3, 0, -1, 16):
    with pytest.raises(ValueError, match='does not divide the 8 devices'):
      sharding.layout(model=wrong)


def test_micro_batches_that_some_devices_have_no_part_of_are_refused():
  with pytest.raises(Stop, match='accumulate=4 does not divide the batch of 16 over 8 devices'):
    ready(on(8), accumulate=4)
