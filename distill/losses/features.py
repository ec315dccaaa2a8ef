"""Hints: losses on hidden representations, of one width (a projector brings them to it)."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from distill.losses import _pair


def mse(student: Float[Array, '*b d'], teacher: Float[Array, '*b d']) -> Float[Array, '*b']:
  """Mean over the width of the squared difference (TinyBERT 2020, eq. 8).

  FitNet's hint (Romero 2015, eq. 3) is this times d/2.
  """
  s, t = _pair(student, teacher)
  return jnp.mean(jnp.square(s - t), axis=-1)


def cosine(student: Float[Array, '*b d'], teacher: Float[Array, '*b d']) -> Float[Array, '*b']:
  """1 - cos(student, teacher) (DistilBERT 2019, §2). A zero vector has cosine 0, gradient 0."""
  s, t = (_unit(z) for z in _pair(student, teacher))
  return 1 - jnp.sum(s * t, axis=-1)


def pkd(student: Float[Array, 'b s d'], teacher: Float[Array, 'b s d']) -> Float[Array, ' b']:
  """Squared distance of the first positions, each at length 1 (PKD, Sun 2019, eq. 7).

  The paper sums these over the layers it pairs: a term for each. Its authors' code takes the mean
  over layers and width instead, so their weight is ours times the one and the other. Computed as
  2 (1 - cos), which is the same but for zero vectors: these are at distance √2 of all others.
  """
  _pair(student, teacher)                 # all positions agree, not the first alone
  return 2 * cosine(student[:, 0], teacher[:, 0])


def _unit(vectors: jax.Array) -> jax.Array:
  squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
  zero = squares < 1e-24      # the norm 1e-12 at which others stop dividing, too
  # The inner `where` keeps the gradient of a zero vector 0: the outer one alone would leave it NaN.
  return jnp.where(zero, 0, vectors / jnp.sqrt(jnp.where(zero, 1, squares)))
