import inspect

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from distill.losses import balance

from .inputs import assert_finite, value_and_gradient


def test_every_example_pays_the_number():
  value, gradient = value_and_gradient(balance.penalty, jnp.float32(0.7), jnp.zeros((3, 5)))
  np.testing.assert_allclose(value, [0.7] * 3)
  assert gradient == 3                  # of the sum: the mean, which a term is, has 1


@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
def test_finite_and_wide(dtype):
  for value in (1e4, -1e4, 0):
    assert_finite(balance.penalty, jnp.asarray(value, dtype), jnp.ones(2))


def test_what_it_is_like_does_not_matter():
  like = jnp.array([jnp.nan, jnp.inf])
  value, gradient = value_and_gradient(balance.penalty, jnp.float32(2), like)
  np.testing.assert_array_equal(value, [2, 2])
  other = jax.grad(lambda like: balance.penalty(jnp.float32(2), like).sum())(like)
  assert gradient == 2 and not other.any()


def test_it_is_one_number():
  with pytest.raises(jaxtyping.TypeCheckError):
    balance.penalty(jnp.zeros(3), jnp.zeros((3, 2)))
  with pytest.raises(ValueError, match=r'value must be one number, not \[3\]'):
    inspect.unwrap(balance.penalty)(jnp.zeros(3), jnp.zeros((3, 2)))
