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


def _unit(vectors: jax.Array) -> jax.Array:
  squares = jnp.sum(jnp.square(vectors), axis=-1, keepdims=True)
  zero = squares < 1e-24      # the norm 1e-12 at which others stop dividing, too
  # The inner `where` keeps the gradient of a zero vector 0: the outer one alone would leave it NaN.
  return jnp.where(zero, 0, vectors / jnp.sqrt(jnp.where(zero, 1, squares)))
