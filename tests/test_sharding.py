import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from distill import checkpoint, objective, sharding, step, teachers, train
from distill.models.bert import Bert
from distill.models.projectors import Linear
from distill.models.pure import Pure
from distill.student import Projector, Student
from distill.types import Status, Stop

if jax.device_count() < 8:
  pytest.skip('needs 8 devices; tests/conftest.py simulates them', allow_module_level=True)

SIZES = dict(vocabulary=64, length=8, classes=3, depth=1, heads=4, dropout=0.1, std=0.2)
BIG, SMALL = (Pure(lambda rngs, width=width: Bert(width=width, rngs=rngs, **SIZES))
              for width in (64, 32))
STUDENT = Student(SMALL, {'wide': Projector(
    Pure(lambda rngs: Linear(inputs=32, outputs=64, rngs=rngs)), 'student/block00/hidden')})
TERMS = objective.terms_from({
    'hard': dict(loss='supervised.cross_entropy', mask='batch/labelled',
                 reads=dict(student='student/logits', label='batch/label')),
    'soft': dict(loss='logits.kl', reads=dict(student='student/logits', teacher='big/logits')),
    'hint': dict(loss='features.mse', mask='batch/mask', weight=0.1,
                 reads=dict(student='projected/wide', teacher='big/block00/hidden'))})


class Batches:
  """Sixteen short texts each, a row of them empty."""

  def __init__(self, rows=slice(None)):
    self.rows = rows

  def __getitem__(self, i):
    rng, b, s = np.random.default_rng(i), 16, 8
    mask = (np.arange(s) < rng.integers(3, s + 1, (b, 1))).astype(np.float32)
    batch = {'id': np.arange(b, dtype=np.int32), 'tokens': rng.integers(0, 64, (b, s), np.int32),
             'types': np.zeros((b, s), np.int32), 'mask': mask,
             'label': rng.integers(0, 3, b, np.int32),
             'labelled': (np.arange(b) % 2).astype(np.float32),
             'valid': (np.arange(b) < b - 1).astype(np.float32)}
    return {name: x[self.rows] for name, x in batch.items()}


def on(data, model=1, fsdp=False):
  return sharding.layout(model=model, fsdp=fsdp, devices=jax.devices()[:data * model])


def ready(layout, monkeypatch, *, accumulate=1, microbatch=0, optimizer=None):
  """The step of a distillation, as `fit` would run it."""
  if optimizer:
    monkeypatch.setattr(step, 'make_optimizer', lambda *, steps: optimizer)
  stage = train.Stage(
      name='student', student=STUDENT, start=lambda: STUDENT.init(0), terms=TERMS, data=Batches(),
      optimizer={} if optimizer else dict(rate=1e-3), train=dict(steps=20, accumulate=accumulate),
      teachers=(teachers.Teacher('big', BIG, microbatch=microbatch),), layout=layout)
  return train.prepared(stage, {'big': BIG.shapes})


# Momentum, not Adam: that divides each gradient by its size, so a gradient that is 0 but for
# rounding would move a parameter by the whole rate, in one layout up and in another down.
MOMENTUM = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(0.1, momentum=0.9))


def trained(layout, monkeypatch, steps=20, **how):
  run = ready(layout, monkeypatch, optimizer=MOMENTUM, **how)
  placed = lambda tree, shardings: sharding.placed(tree, shardings)
  weights = {'big': placed(BIG.init(9), layout.weights(BIG.shapes))}
  kept = step.shardings(run.like, layout)
  params, rest = STUDENT.init(0)
  state = placed(run.init(placed(params, kept.params), placed(rest, kept.rest)), kept)
  losses = []
  for i in range(steps):
    before = state
    state, sums = run.train_step(state, weights, layout.fed(Batches()[i]), jax.random.key(1))
    assert all(x.is_deleted() for x in jax.tree.leaves(before))         # donated
    jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(f'{x.sharding}, not {s}'), state, kept)
    losses.append(float(sums['loss'][0]))
  assert run.train_step._cache_size() == 1
  return state, losses


@pytest.fixture(scope='module')
def one():
  with pytest.MonkeyPatch.context() as patch:
    yield trained(on(1), patch)


LAYOUTS = [dict(data=8), dict(data=8, fsdp=True), dict(data=4, model=2),
           dict(data=4, model=2, fsdp=True), dict(data=2, model=4, fsdp=True)]


@pytest.mark.parametrize('how', LAYOUTS, ids=str)
def test_one_device_is_eight(how, one, monkeypatch):
  state, losses = trained(on(**how), monkeypatch)
  np.testing.assert_allclose(losses, one[1], rtol=1e-5)
  for name, value in state.params.items():
    np.testing.assert_allclose(value, one[0].params[name], atol=1e-5, err_msg=name)


def test_parts_of_a_split_batch_change_nothing(one, monkeypatch):
  # The same rows make a part on every mesh, so that dropout is the same too.
  quiet = dict(steps=3, accumulate=2, microbatch=8)
  alone, theirs = trained(on(1), monkeypatch, **quiet)
  eight, ours = trained(on(4, 2, fsdp=True), monkeypatch, **quiet)
  np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  for name, value in alone.params.items():
    np.testing.assert_allclose(eight.params[name], value, atol=1e-5, err_msg=name)


class TestTheCompiledStep:
  """What XLA made of the distillation step."""

  @staticmethod
  def compiled(layout, monkeypatch, **how):
    program = ready(layout, monkeypatch, **how).traced.lower().compile()
    found = re.findall(r'= (\(.*\)|\S+) all-gather(?:-start)?\(', program.as_text())
    count = lambda shapes: sum(
        np.prod([int(n) for n in dims.split(',') if n] or [1])
        for dims in re.findall(r'\w+\[([\d,]*)\]', shapes))
    [_, weights, *_], _ = program.input_shardings
    return [int(count(shapes)) for shapes in found], weights['big'][0]

  @pytest.mark.parametrize('how', [dict(data=8, fsdp=True), dict(data=4, model=2, fsdp=True)],
                           ids=str)
  def test_gathers_parameters_one_by_one(self, how, monkeypatch):
    gathered, teacher = self.compiled(on(**how), monkeypatch)
    params = [*BIG.shapes[0].values(), *STUDENT.shapes()[0].values()]
    assert len(gathered) > len(params) / 2
    assert max(gathered) <= max(x.size for x in params)
    whole = sharding.nbytes(BIG.shapes[0])
    assert sharding.nbytes(BIG.shapes[0], teacher) <= 1.05 * whole / 8

  def test_gathers_nothing_where_each_device_has_its_part_of_every_micro_batch(self, monkeypatch):
    gathered, teacher = self.compiled(on(8), monkeypatch, accumulate=2, microbatch=8)
    assert not gathered
    assert all(s.is_fully_replicated for s in jax.tree.leaves(teacher))


@pytest.mark.parametrize('how', [dict(data=1), dict(data=2), dict(data=8),
                                 dict(data=4, model=2)], ids=str)
def test_four_devices_resume_on_any_bitwise(how, tmp_path):
  params, rest = STUDENT.init(3)
  state = step.init_state(STUDENT, params, rest, optax.adam(0.1), {'mean': jnp.arange(3.0)})
  four = sharding.placed(state, step.shardings(state, on(4, fsdp=True)))
  assert four.opt_state[0].mu['model/blocks/0/up/kernel'].sharding.spec == P(None, 'data')
  checkpoint.save(tmp_path, 7, four)
  other = step.shardings(state, on(**how, fsdp=True))
  _, back, _ = checkpoint.restore(tmp_path, sharding.shapes(state, other))
  jax.tree.map(np.testing.assert_array_equal, back, state)
  jax.tree.map(lambda x, s: x.sharding == s or pytest.fail(f'{x.sharding}, not {s}'), back, other)


def spec(path, shape, **how):
  [found] = jax.tree.leaves(on(**how).stored({path: jax.ShapeDtypeStruct(shape, jnp.float32)}))
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
  told = on(4, 2, fsdp=True).told({'teacher': tree, 'nothing': {}})
  assert told == 'mesh data=4 model=2, fsdp; a device holds: teacher 0.5 MiB (1/8.0)'
  assert on(8).told({'teacher': tree}) == 'mesh data=8 model=1; a device holds: ' \
      'teacher 4 MiB (1/1.0)'


def test_what_does_not_divide_is_refused():
  with pytest.raises(Stop, match='batch_size=12 does not divide over 8 devices') as stop:
    on(8).rows(12)
  assert stop.value.status == Status.CONFIG
  for wrong in (3, 0, -1, 16):
    with pytest.raises(ValueError, match='does not divide the 8 devices'):
      sharding.layout(model=wrong)


def test_micro_batches_that_some_devices_have_no_part_of_are_refused(monkeypatch):
  with pytest.raises(Stop, match='accumulate=4 does not divide the batch of 16 over 8 devices'):
    ready(on(8), monkeypatch, accumulate=4)
