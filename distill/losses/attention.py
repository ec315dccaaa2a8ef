"""Losses on attention maps."""
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from distill import maths

MIN_PROBABILITY = 1e-30       # a smaller probability of the student counts as this one


def mse(student: Float[Array, 'b h s s'], teacher: Float[Array, 'b h s s'],
        where: Shaped[Array, 'b s']) -> Float[Array, ' b']:
  """Mean squared difference over heads, counted queries and counted keys (TinyBERT 2020, eq. 7).

  The loss is one value per example, so that padding enters neither the sums nor the counts; an
  example without a counted position has the value 0. The paper fits the scores before the softmax,
  `blockNN/scores`. On probabilities, `blockNN/attention`, the loss falls with the square of the
  length and needs a larger weight.
  """
  s, t = maths.pair(student, teacher)
  # The axis of heads is left out.
  maths.agree(maps=s.shape[:-3] + s.shape[-2:], where=where.shape + where.shape[1:])
  counted = where.astype(bool)
  block = counted[:, None, :, None] & counted[:, None, None, :]
  s, t = jnp.where(block, s, 0), jnp.where(block, t, 0)
  length = jnp.maximum(jnp.sum(counted, axis=-1, dtype=s.dtype), 1)
  return jnp.sum(jnp.mean(jnp.square(s - t), axis=1), axis=(-2, -1)) / length**2


def kl(student: Float[Array, 'b h s s'], teacher: Float[Array, 'b h s s'],
       where: Shaped[Array, 'b s']) -> Float[Array, 'b s']:
  """KL(teacher || student) of a query's attention, mean over heads (MiniLM, Wang 2020, eq. 6).

  It takes the probabilities, `blockNN/attention`, with equally many heads on both sides. A query
  that isn't counted has the value 0: give the term the same mask. `relations.minilm` on values,
  with equally many relation heads, is the paper's other half (eq. 9). With one term per block this
  is MobileBERT's attention transfer as well (Sun 2020).
  """
  s, t = maths.pair(student, teacher)
  # The axis of heads is left out.
  maths.agree(maps=s.shape[:-3] + s.shape[-2:], where=where.shape + where.shape[1:])
  counted = where.astype(bool)
  attended = counted[:, None, :, None] & counted[:, None, None, :] & (t > 0)
  p, q = jnp.where(attended, t, 1), jnp.maximum(jnp.where(attended, s, 1), MIN_PROBABILITY)
  return jnp.mean(jnp.sum(p * (jnp.log(p) - jnp.log(q)), axis=-1), axis=1)
