"""The penalty of learned loss weights: uncertainty weighting (Kendall 2018)."""
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from distill import maths


def penalty(value: Float[Array, ''], like: Shaped[Array, 'b ...']) -> Float[Array, ' b']:
  """The penalty log σ of a learned loss weight, repeated for every example (Kendall 2018, eq. 7).

  Add it as a term beside the loss that `weights.Uncertainty` weighs, with that loss's mask. Only
  the length of `like`, any array of the batch, is used. Let `like` be the teacher's array that the
  loss reads, if it reads one: a baseline that drops the loss then drops its penalty too.
  """
  maths.scalar(value=value)
  return jnp.broadcast_to(maths.wide(value), like.shape[:1])
