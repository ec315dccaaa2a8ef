"""What a training step computes again in its backward pass."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from distill import objective, step
from distill.models import bert, layers, resnet
from distill.models.functional import Functional, check_computing
from distill.student import Student
from distill.types import Status, Stop

AGAIN = [kind for kind in layers.REMAT if kind != layers.NOTHING]


def encoder(depth=2, width=8, dropout=0.1, **more):
  return Functional(lambda rngs: bert.Bert(
      vocabulary=30, length=32, classes=3, width=width, depth=depth, heads=2, dropout=dropout,
      **more, rngs=rngs))


def texts(b=4, s=32):
  return {'tokens': jnp.arange(b * s).reshape(b, s) % 30, 'types': jnp.zeros((b, s), jnp.int32),
          'mask': jnp.ones((b, s)), 'valid': jnp.ones(b)}


def images(b=4):
  return {'image': jax.random.normal(jax.random.key(3), (b, 8, 8, 3)), 'valid': jnp.ones(b)}


ENCODER = encoder(), texts(s=12), 'block01/hidden'
NETWORK = (Functional(
    lambda rngs: resnet.ResNet(depth=8, widths=(4, 4, 4, 4), classes=3, rngs=rngs)),
           images(), 'stage2/features')


def slope(model, batch, output, remat, dtype='float32'):
  def loss(params, rest):
    outputs, rest = model(params, rest, batch, train=True, key=jax.random.key(0), remat=remat,
                          dtype=dtype)
    return jnp.square(outputs['logits']).mean() + jnp.square(outputs[output]).mean(), rest
  return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize('remat', AGAIN)
@pytest.mark.parametrize('dtype', [
    'float32', pytest.param('mixed', marks=pytest.mark.slow)])
@pytest.mark.parametrize('case', [
    pytest.param(ENCODER, marks=pytest.mark.slow, id='encoder'),
    pytest.param(NETWORK, id='network')])
def test_no_value_changes(case, dtype, remat):
  weights = case[0].init(0)
  (loss, rest), grads = slope(*case, remat, dtype)(*weights)
  (wanted, kept), exact = slope(*case, layers.NOTHING, dtype)(*weights)
  np.testing.assert_allclose(loss, wanted, rtol=1e-6)
  for mine, theirs in (grads, exact), (rest, kept):
    assert mine.keys() == theirs.keys()
    for path, value in theirs.items():
      np.testing.assert_allclose(mine[path], value, atol=1e-6, err_msg=path)
  changed = [path for path in rest if (rest[path] != weights[1][path]).any()]
  assert bool(changed) == (case is NETWORK)             # batch statistics move


def count(jaxpr, kind):
  """How many equations of a kind there are, at any depth."""
  inner = (sub for equation in jaxpr.eqns for sub in jaxprs_in_params(equation.params))
  return sum(equation.primitive.name == kind for equation in jaxpr.eqns) + sum(
      count(sub, kind) for sub in inner)


@pytest.mark.parametrize('case', [ENCODER, NETWORK], ids=['encoder', 'network'])
def test_unless_asked_nothing_is_computed_again(case):
  weights = case[0].init(0)
  blocks = lambda remat: count(slope(*case, remat).trace(*weights).jaxpr.jaxpr, 'remat2')
  assert blocks(layers.NOTHING) == 0 and blocks('everything') >= 2


def machine(model, remat):
  """A training step and the state before it."""
  learner, optimizer = Student(model), optax.sgd(0.1)
  terms = objective.terms_from({'hard': dict(loss='supervised.cross_entropy', reads=dict(
      student='student/logits', label='batch/label'))})
  run = step.make_train_step(learner, (), terms, optimizer, remat=remat)
  return run, lambda: step.init_state(learner, *learner.init(0), optimizer, {})


def temporary(model, remat, batch):
  """The bytes of XLA's temporary buffers for a training step."""
  run, start = machine(model, remat)
  compiled = run.lower(jax.eval_shape(start), {}, batch, jax.random.key(0)).compile()
  return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.slow
def test_memory_falls():
  batch = texts(b=16) | {'label': jnp.arange(16) % 3}
  deep = encoder(depth=6, width=32, dropout=0.0)
  found = {remat: temporary(deep, remat, batch) for remat in layers.REMAT}
  assert found['everything'] < 0.5 * found['nothing']
  assert found['everything'] < found['dots'] < 0.8 * found['nothing']


@pytest.mark.slow
def test_a_training_step_gives_the_same():
  found = {}
  for remat in layers.REMAT:
    run, start = machine(ENCODER[0], remat)
    state = start()
    for _ in range(3):
      state, _ = run(state, {}, ENCODER[1] | {'label': jnp.arange(4) % 3}, jax.random.key(1))
    found[remat] = state
  for remat in AGAIN:
    for path, value in found['nothing'].params.items():
      np.testing.assert_allclose(found[remat].params[path], value, atol=1e-6, err_msg=path)
  assert found['everything'].first_bad == -1


class Dense(nnx.Module):

  def __init__(self, *, rngs):
    self.dense = nnx.Linear(4, 3, rngs=rngs)


def test_a_model_without_blocks_is_refused_before_it_runs():
  model = Functional(lambda rngs: Dense(rngs=rngs))
  line = "^config.train.remat='dots': the model has no blocks to compute again: "
  with pytest.raises(Stop, match=line) as stop:
    check_computing(model, 'config.train', dtype='float32', remat='dots')
  assert stop.value.status == Status.CONFIG and '\n' not in str(stop.value)
  check_computing(model, 'config.train', dtype='float32', remat='nothing')
