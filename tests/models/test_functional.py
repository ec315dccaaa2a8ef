"""A module as pure functions: any of its methods."""
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from distill.models.functional import Functional


class Counter(nnx.Module):
  """A linear layer that counts its calls, and what it was asked to decode."""

  def __init__(self, *, rngs):
    self.dense, self.calls = nnx.Linear(2, 3, rngs=rngs), nnx.Variable(jnp.zeros(()))

  def __call__(self, x, *, train=False):
    return self.dense(x)

  def decode(self, y, *, shift):
    self.calls[...] += 1
    return (y - self.dense.bias[...]) @ self.dense.kernel[...].T + shift


def test_a_method_is_called_by_its_name_and_changes_the_rest():
  pure = Functional(lambda rngs: Counter(rngs=rngs))
  params, rest = pure.init(0)
  x = jnp.ones((4, 2))
  y, same = pure(params, rest, x, train=True)
  found, left = jax.jit(lambda p, r, y: pure(p, r, y, method='decode', shift=1.0))(params, rest, y)
  kernel = np.asarray(params['dense/kernel'])
  np.testing.assert_allclose(found, np.ones((4, 2)) @ kernel @ kernel.T + 1, rtol=1e-5)
  assert same == {'calls': 0} and left == {'calls': 1}
