"""Losses on attention maps."""
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from distill.losses import _agree, _pair


def mse(student: Float[Array, 'b h s s'], teacher: Float[Array, 'b h s s'],
        where: Shaped[Array, 'b s']) -> Float[Array, ' b']:
  """Mean squared difference over heads, counted queries and counted keys (TinyBERT 2020, eq. 7).

  One value for each example, so that padding enters neither the sums nor the counts; an
  example without a counted position has the value 0. The paper fits scores before the softmax;
  our models put out the probabilities, `blockNN/attention`. The loss serves either, but
  between probabilities it falls with the square of the length, and wants a larger weight.
  """
  s, t = _pair(student, teacher)
  _agree(maps=s.shape[:-3] + s.shape[-2:], where=where.shape + where.shape[1:])   # without heads
  counted = where.astype(bool)
  block = counted[:, None, :, None] & counted[:, None, None, :]
  s, t = jnp.where(block, s, 0), jnp.where(block, t, 0)
  length = jnp.maximum(jnp.sum(counted, axis=-1, dtype=s.dtype), 1)
  return jnp.sum(jnp.mean(jnp.square(s - t), axis=1), axis=(-2, -1)) / length**2
