"""Every loss, its value and its gradient, is the same on eight devices as on one."""
import functools
import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from distill import sharding

from .test_every import LOSSES, needed

pytestmark = pytest.mark.slow         # two compilations for every loss

DIMS = {'b': 16, 'n': 32, 'K': 3}           # and 4 of everything else


def filled(name, annotation, random):
  """An array of the shape that the annotation says, and of a kind that fits its name."""
  axes = annotation.dim_str
  shape = [int(d) if d.isdigit() else DIMS.get(d, 4)
           for d in axes.replace('...', 'more').replace('*', '').split()]
  if name == 'where':
    return (random.random(shape) > 0.2).astype(np.float32)
  if name == 'label' and 'Int' in str(annotation):
    return random.integers(-1, 4, shape).astype(np.int32)
  if name == 'id':
    return random.permutation(32)[:16].astype(np.int32)
  if name == 'places':                      # of 32 examples in 4 classes of 8, row by row
    rows = np.arange(32)
    return np.stack([rows, rows // 8 * 8, np.full(32, 8)], axis=1).astype(np.int32)
  if name == 'draws':
    return random.integers(0, 2**32, shape).astype(np.uint32)
  values = random.normal(size=shape).astype(np.float32)
  if name in ('variance', 'z'):
    return np.abs(values) + 1
  if re.fullmatch(r'b h s s', axes):        # a distribution over the last axis, for one of two
    return np.exp(values) / np.exp(values).sum(-1, keepdims=True)
  return values


@pytest.mark.slow
@pytest.mark.parametrize('name', LOSSES)
def test_one_device_is_eight(name):
  loss, random = LOSSES[name], np.random.default_rng(0)
  given = {k: filled(k, p.annotation, random) for k, p in inspect.signature(loss).parameters.items()
           if p.kind is not p.KEYWORD_ONLY}
  call = functools.partial(loss, **needed(loss))
  wrt = [k for k in given if 'student' in k or k == 'value']

  @jax.jit
  def values(some, others):
    def total(some):
      values = call(**some, **others)
      return jnp.sum(values), values
    gradient, values = jax.grad(total, has_aux=True)(some)
    return values, gradient

  def on(devices):
    mesh = sharding.layout(devices=jax.devices()[:devices]).mesh
    put = lambda x: jax.device_put(x, NamedSharding(
        mesh, PartitionSpec('data') if x.ndim and len(x) == 16 else PartitionSpec()))
    return jax.device_get(values({k: put(given[k]) for k in wrt},
                                 {k: put(v) for k, v in given.items() if k not in wrt}))

  # Sums of the same float32 numbers in another order.
  jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-6), on(8), on(1))
