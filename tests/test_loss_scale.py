import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from distill import checkpoint, loss_scale, objective, step, student
from distill.loss_scale import LossScale
from distill.models.functional import Functional
from tests.test_step import HARD, Tiny, batch

MODEL = Functional(lambda rngs: Tiny(rngs=rngs))
LEARNER = student.Student(MODEL)


def begun(factor=loss_scale.START, good=0):
  scale = None if factor is None else LossScale(jnp.float32(factor), jnp.int32(good))
  return step.init_state(LEARNER, *LEARNER.init(0), OPTIMIZER, {}, scale)


OPTIMIZER = optax.adam(0.05)
TERMS = objective.terms_from({'hard': HARD})


@pytest.fixture(scope='module')
def run():
  """The step in float16; a factor grows after 3 good steps."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(loss_scale, 'GROW_AFTER', 3)
    narrow = step.make_train_step(LEARNER, (), TERMS, OPTIMIZER, dtype='float16')

    def steps(state, first, last, change=lambda data: data):
      rows = []
      for i in range(first, last):
        data = batch(i)
        state, metrics = narrow(state, {}, change(data | {'x': data['x'].astype(jnp.float16)}),
                                jax.random.key(1))
        rows.append(metrics)
      return state, rows
    steps(begun(), 0, 1)                # traced with these 3
    yield steps


def test_the_scale_by_hand(monkeypatch):
  monkeypatch.setattr(loss_scale, 'GROW_AFTER', 2)
  scale, found = LossScale(jnp.float32(8), jnp.int32(0)), []
  for sound in (True, True, True, False, False, False, False, False, True):
    scale = loss_scale.update(scale, jnp.bool_(sound))
    found.append((float(scale.factor), int(scale.good_steps)))
  # Two good steps double it, an overflow halves it and forgets good steps, and it ends at 1.
  assert found == [(8, 1), (16, 0), (16, 1), (8, 0), (4, 0), (2, 0), (1, 0), (1, 0), (1, 1)]
  most = LossScale(jnp.float32(loss_scale.MOST), jnp.int32(1))
  assert loss_scale.update(most, jnp.bool_(True)).factor == loss_scale.MOST
  assert loss_scale.may_fall(most) and not loss_scale.may_fall(scale)


def test_only_float16_has_a_scale_and_a_state_without_is_as_before():
  assert loss_scale.initial('float16').factor == loss_scale.START
  assert [loss_scale.initial(dtype) for dtype in ('float32', 'bfloat16', 'mixed')] == [None] * 3
  paths = lambda state: {jax.tree_util.keystr(path, simple=True, separator='/')
                         for path, _ in jax.tree_util.tree_leaves_with_path(state)}
  assert paths(begun()) - paths(begun(None)) == {'loss_scale/factor', 'loss_scale/good_steps'}


def test_scaled_gradients_are_the_gradients(run):
  # Powers of 2: only gradients below float16's least number, 6e-8, may differ.
  results = [run(begun(factor), 0, 2) for factor in (1.0, 2.0**12)]
  (a, rows), (b, scaled) = results
  for path, value in a.params.items():
    np.testing.assert_allclose(b.params[path], value, atol=1e-5)
  np.testing.assert_allclose(scaled[0]['grad_norm'][0], rows[0]['grad_norm'][0], rtol=1e-5)


def test_small_gradients_survive_by_the_scale(run):
  # An example that the model is sure of: its gradient, about 1e-9, is 0 in float16.
  def gradient(factor):
    state = begun(factor)
    state = state.replace(params=state.params | {
        'model/dense/kernel': jnp.zeros((4, 3)), 'model/dense/bias': jnp.array([20.0, 0.0, 0.0])})
    sure = lambda data: data | {'label': jnp.zeros(8, jnp.int32), 'labelled': jnp.ones(8)}
    return float(run(state, 0, 1, sure)[1][0]['grad_norm'][0])
  assert gradient(1.0) == 0 < gradient(2.0**24) < 1e-7


def test_an_overflow_halves_the_factor_and_skips_the_step(run):
  start = begun(2.0**24, good=2)
  before = jax.tree.map(np.asarray, start)
  state, (row,) = run(start, 0, 1)
  assert state.loss_scale.factor == 2.0**23 and state.loss_scale.good_steps == 0
  assert state.step == 1 and state.first_bad == -1
  for kept in 'params', 'opt_state':
    jax.tree.map(np.testing.assert_array_equal, getattr(state, kept), getattr(before, kept))
  # It counts for no mean; the factor is that of the step.
  assert {name: (float(s), float(n)) for name, (s, n) in row.items()} == {
      'hard': (0, 0), 'loss': (0, 0), 'grad_norm': (0, 0), 'loss_scale': (2.0**24, 1)}
  state, rows = run(state, 1, 12)               # and falls until nothing overflows
  factors = [float(row['loss_scale'][0]) for row in rows]
  assert min(factors) > 2.0**10 and factors[-1] < 2.0**23 and state.first_bad == -1
  assert (state.params['model/dense/kernel'] != before.params['model/dense/kernel']).any()


def test_good_steps_double_the_factor(run):
  state, rows = run(begun(2.0**8), 0, 7)
  assert [float(row['loss_scale'][0]) for row in rows] == [2.0**8] * 3 + [2.0**9] * 3 + [2.0**10]
  assert state.loss_scale.good_steps == 1


def test_only_an_overflow_at_the_least_factor_ends_the_run(run):
  infinite = lambda data: data | {'x': data['x'].at[1].set(jnp.inf)}
  state, _ = run(begun(4.0), 0, 2, infinite)
  assert state.loss_scale.factor == 1 and state.first_bad == -1
  state, _ = run(state, 2, 4, infinite)
  assert state.first_bad == 2                   # the first that no smaller factor could save


def test_resumed_is_uninterrupted(run, tmp_path):
  # The second half begins within a row of good steps, after a doubling.
  whole, _ = run(begun(2.0**8), 0, 8)
  half, _ = run(begun(2.0**8), 0, 5)
  assert half.loss_scale.good_steps == 2 and half.loss_scale.factor == 2.0**9
  checkpoint.save(tmp_path, 5, half, {})
  _, saved, _ = checkpoint.restore(tmp_path, jax.eval_shape(lambda: begun()))
  jax.tree.map(np.testing.assert_array_equal,
               run(jax.tree.map(jnp.asarray, saved), 5, 8)[0], whole)


def test_it_trains_nearly_as_float32(run):
  wide, state = step.make_train_step(LEARNER, (), TERMS, optax.sgd(0.1)), None
  narrow = step.make_train_step(LEARNER, (), TERMS, optax.sgd(0.1), dtype='float16')
  found = []
  for train_step, dtype, scale in (wide, 'float32', None), (narrow, 'float16',
                                                            loss_scale.initial('float16')):
    state = step.init_state(LEARNER, *LEARNER.init(0), optax.sgd(0.1), {}, scale)
    for i in range(4):
      data = batch(i)
      state, _ = train_step(state, {}, data | {'x': data['x'].astype(dtype)}, jax.random.key(1))
    found.append(state.params)
  for path, value in found[0].items():
    assert found[1][path].dtype == jnp.float32
    # Numbers of 11 bits: products of order 1 are wrong by 1e-3, four steps of 0.1 by half of it.
    np.testing.assert_allclose(found[1][path], value, atol=5e-4)
  assert any((found[1][path] != value).any() for path, value in found[0].items())
