import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from distill.models.functional import Functional
from distill.models.norm import BatchNorm

NORM = Functional(lambda rngs: BatchNorm(3))
RNG = np.random.default_rng(0)
PARAMS = {'scale': jnp.array([0.5, -1.0, 2.0]), 'bias': jnp.array([0.1, 0.0, -3.0])}
REST = {'mean': jnp.array([1.0, 0.0, -1.0]), 'var': jnp.array([2.0, 1.0, 0.5])}
IMAGES = RNG.normal(2, 3, (6, 4, 5, 3)).astype(np.float32)
VALID = np.array([1, 1, 0, 1, 1, 0], np.float32)


@functools.partial(jax.jit, static_argnames='train')
def normed(params, rest, x, valid, train=True):
  return NORM(params, rest, x, valid=valid, train=train)


@jax.jit
def slopes(params, rest, x, valid, dy):
  """The gradients of Σ dy·y in the parameters and in x."""
  return jax.grad(lambda p, x: jnp.sum(
      dy * NORM(p, rest, x, valid=valid, train=True)[0].astype(jnp.float32)), (0, 1))(params, x)


def finite(tree):
  return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


def test_by_hand():
  # One channel, values 1, 3, 5, 7: mean 4, biased variance (9 + 1 + 1 + 9) / 4 = 5, unbiased 20/3.
  # Scale 2, bias 1: 1 + 2 (x - 4) / √5. Running: 0.9·0 + 0.1·4 and 0.9·1 + 0.1·20/3.
  single = Functional(lambda rngs: BatchNorm(1, eps=1e-12))
  y, rest = single({'scale': jnp.array([2.0]), 'bias': jnp.array([1.0])}, single.init(0)[1],
                   jnp.array([[1.0], [3.0], [5.0], [7.0]]), valid=jnp.ones(4), train=True)
  np.testing.assert_allclose(y[:, 0], 1 + np.array([-6, -2, 2, 6]) / 5**0.5, rtol=1e-6)
  np.testing.assert_allclose([rest['mean'][0], rest['var'][0]], [0.4, 0.9 + 2 / 3], rtol=1e-6)


def test_it_starts_as_the_identity_of_standard_values():
  params, rest = NORM.init(0)
  assert {**params, **rest}.keys() == {'scale', 'bias', 'mean', 'var'}
  for name, value in (*params.items(), *rest.items()):
    assert (value == (name in ('scale', 'var'))).all(), name


def test_momentum_is_the_weight_of_the_new_batch():
  norm = Functional(lambda rngs: BatchNorm(3, momentum=1.0))
  _, rest = norm(PARAMS, REST, jnp.array(IMAGES), valid=jnp.ones(6), train=True)
  np.testing.assert_allclose(rest['mean'], IMAGES.mean((0, 1, 2)), rtol=1e-5)
  np.testing.assert_allclose(rest['var'], IMAGES.var((0, 1, 2), ddof=1), rtol=1e-5)


def test_rows_that_do_not_count_are_not_there():
  dirty, dy = IMAGES.copy(), RNG.normal(size=IMAGES.shape).astype(np.float32)
  dirty[VALID == 0] = np.nan
  kept = VALID > 0
  y, rest = normed(PARAMS, REST, dirty, VALID)
  y_kept, rest_kept = normed(PARAMS, REST, IMAGES[kept], VALID[kept])
  np.testing.assert_allclose(y[kept], y_kept, rtol=1e-5, atol=1e-6)
  assert (np.asarray(y)[~kept] == PARAMS['bias']).all()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), rest, rest_kept)
  (params, x), (params_kept, x_kept) = (slopes(PARAMS, REST, dirty, VALID, dy * kept[
      :, None, None, None]), slopes(PARAMS, REST, IMAGES[kept], VALID[kept], dy[kept]))
  np.testing.assert_allclose(x[kept], x_kept, atol=1e-5)
  assert (np.asarray(x)[~kept] == 0).all()
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), params, params_kept)


def test_gradient():
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda v: jnp.asarray(v, jnp.float64), (PARAMS, REST))
    x = jnp.asarray(IMAGES[:, :2, :1], jnp.float64)
    dy = jnp.asarray(RNG.normal(size=x.shape))          # of Σy alone it would be 0
    check_grads(jax.jit(lambda p, x: dy * NORM(p, wide[1], x, valid=VALID, train=True)[0]),
                (wide[0], x), 1, ['rev'])


def test_outside_training_the_running_statistics_serve_and_stay():
  x = IMAGES.copy()
  y, rest = normed(PARAMS, REST, x, VALID * 0, train=False)
  wanted = (x - REST['mean']) / np.sqrt(REST['var'] + 1e-5) * PARAMS['scale'] + PARAMS['bias']
  np.testing.assert_allclose(y, wanted, rtol=1e-5, atol=1e-5)
  jax.tree.map(np.testing.assert_array_equal, rest, REST)


def test_the_running_statistics_pass_no_gradient():
  def after(x):
    return sum(map(jnp.sum, NORM(PARAMS, REST, x, valid=VALID, train=True)[1].values()))
  assert (jax.jit(jax.grad(after))(IMAGES) == 0).all()


def test_vectors_are_images_of_one_pixel():
  y, rest = normed(PARAMS, REST, IMAGES[:, 0, 0], VALID)
  z, same = normed(PARAMS, REST, IMAGES[:, :1, :1], VALID)
  np.testing.assert_allclose(y, z[:, 0, 0], rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), rest, same)


@pytest.mark.parametrize('valid', [[0, 0], [1, 0]], ids=['none', 'one'])
def test_fewer_than_two_values_leave_the_running_statistics_and_give_the_bias(valid):
  x, valid = IMAGES[:2, 0, 0] * 1e4, np.array(valid, np.float32)
  y, rest = normed(PARAMS, REST, x, valid)
  np.testing.assert_array_equal(y, np.broadcast_to(PARAMS['bias'], y.shape))
  jax.tree.map(np.testing.assert_array_equal, rest, REST)
  assert finite(slopes(PARAMS, REST, x, valid, np.ones_like(x)))


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
def test_narrow_values_are_normalised_in_float32(dtype):
  # 6·20 values about 2,000: their sum would overflow float16, their spread drown in bfloat16.
  x = jnp.asarray(IMAGES + 2000, dtype)
  params = jax.tree.map(lambda v: v.astype(dtype), PARAMS)
  y, rest = normed(params, REST, x, np.ones(6, np.float32))
  exact, _ = normed(jax.tree.map(lambda v: v.astype(jnp.float32), params), REST,
                    x.astype(jnp.float32), np.ones(6, np.float32))
  assert y.dtype == dtype and rest['var'].dtype == rest['mean'].dtype == jnp.float32
  np.testing.assert_allclose(np.asarray(y, np.float32), exact, rtol=1e-2, atol=1e-3)
  grads, dx = slopes(params, REST, x, np.ones(6, np.float32), np.ones(x.shape, np.float32))
  assert dx.dtype == grads['scale'].dtype == dtype and finite((grads, dx))


@pytest.mark.parametrize('size', [0.0, 1e4, 1e15])
def test_huge_and_constant_channels_are_finite(size):
  x = np.full_like(IMAGES, size)
  x[0, ..., 1] = -size
  y, rest = normed(PARAMS, REST, x, VALID)
  assert finite((y, rest, slopes(PARAMS, REST, x, VALID, np.ones_like(x))))


def test_a_channel_without_spread_comes_out_as_the_bias():
  y, _ = normed(PARAMS, REST, np.full_like(IMAGES, 2), VALID)
  # The mean of many 2s may be off by a unit in the last place, which 1/sqrt(epsilon) multiplies.
  off = np.spacing(np.float32(2)) / np.sqrt(1e-5)
  np.testing.assert_allclose(y, np.broadcast_to(PARAMS['bias'], y.shape), rtol=0,
                             atol=off * abs(PARAMS['scale']).max())


def test_one_device_is_eight():
  if jax.device_count() < 8:
    pytest.skip('needs 8 devices; tests/conftest.py simulates them')
  mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
  x = np.concatenate([IMAGES, IMAGES + 1, IMAGES[:4] * 2])
  valid = np.concatenate([VALID, VALID, np.zeros(4, np.float32)])      # two devices hold no example
  split = jax.device_put((x, valid), jax.NamedSharding(mesh, jax.P('data')))
  assert len(split[0].sharding.device_set) == 8
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
               normed(PARAMS, REST, *split), normed(PARAMS, REST, x, valid))


@pytest.mark.parametrize('shapes', [((6, 4, 1), 6), ((6, 4, 3), 1), ((6, 1), 6)], ids=str)
def test_shapes_that_would_broadcast_are_refused(shapes):
  with pytest.raises(ValueError, match='width 3'):
    NORM(PARAMS, REST, jnp.ones(shapes[0]), valid=jnp.ones(shapes[1]), train=True)


@pytest.mark.parametrize('wrong', [dict(width=0), dict(eps=0.0), dict(momentum=1.5),
                                   dict(momentum=-0.1)])
def test_what_it_cannot_be_is_refused(wrong):
  with pytest.raises(ValueError, match='must be at least 1'):
    BatchNorm(**{'width': 3, **wrong})
