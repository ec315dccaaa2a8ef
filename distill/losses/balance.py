"""What a sum of losses pays for how it is weighed."""
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from distill import maths


def penalty(value: Float[Array, ''], like: Shaped[Array, 'b ...']) -> Float[Array, ' b']:
  """A number of the whole sum, for every example (Kendall 2018, eq. 7: the log σ of a loss).

  `like` is any array of the batch and gives no more than its length. In a term of its own beside
  the loss that `weights.Uncertainty` weighs, with that loss's mask. Let it be what that loss reads
  of a teacher, if it reads one: where a baseline goes without the loss, its penalty goes, too.
  """
  maths.scalar(value=value)
  return jnp.broadcast_to(maths.wide(value), like.shape[:1])
