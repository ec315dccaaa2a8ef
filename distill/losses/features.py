"""Hints: losses on hidden representations of one width, which a projector may produce."""
import jax.numpy as jnp
from jaxtyping import Array, Float

from distill import maths


def mse(student: Float[Array, '*b d'], teacher: Float[Array, '*b d']) -> Float[Array, '*b']:
  """Mean over the width of the squared difference (TinyBERT 2020, eq. 8).

  FitNet's hint (Romero 2015, eq. 3) is this times d/2, summed over the positions of a map; its
  later users, and SimKD (Chen 2022), take the mean over everything, as it is here.
  """
  s, t = maths.pair(student, teacher)
  return jnp.mean(jnp.square(s - t), axis=-1)


def cosine(student: Float[Array, '*b d'], teacher: Float[Array, '*b d']) -> Float[Array, '*b']:
  """1 - cos(student, teacher) (DistilBERT 2019, §2). A zero vector has cosine 0, gradient 0."""
  s, t = (maths.unit(z) for z in maths.pair(student, teacher))
  return 1 - jnp.sum(s * t, axis=-1)


def pkd(student: Float[Array, 'b s d'], teacher: Float[Array, 'b s d']) -> Float[Array, ' b']:
  """Squared distance of the first positions, each at length 1 (PKD, Sun 2019).

  The paper sums these over the layers it pairs: a term for each. Its authors' code takes the mean
  over layers and width instead, so their weight is ours times layers times width. It is computed as
  2 (1 - cos), which is equal but for zero vectors: these are at distance √2 from all others.
  """
  maths.pair(student, teacher)                 # all positions must agree, not only the first
  return 2 * cosine(student[:, 0], teacher[:, 0])


def standardised(student: Float[Array, '*b d'],
                 teacher: Float[Array, '*b d']) -> Float[Array, '*b']:
  """`mse` of vectors at mean 0 and deviation 1 (MobileBERT, Sun 2020: feature map transfer).

  Both sides pass a LayerNorm without parameters; a constant vector and its gradient are 0. The
  authors' code trains each layer in turn with this, `moments` and `attention.kl`.
  """
  s, t = maths.pair(student, teacher)
  centre = lambda x: maths.unit(x - jnp.mean(x, axis=-1, keepdims=True))
  return jnp.sum(jnp.square(centre(s) - centre(t)), axis=-1)


def moments(student: Float[Array, '*b d'], teacher: Float[Array, '*b d'], *, beta: float = 1.0,
            gamma: float = 1.0) -> Float[Array, '*b']:
  """beta (Δ mean)² + gamma |Δ variance| over the width (MobileBERT, Sun 2020: feature statistics).

  It fits the two moments that `standardised` removes, with the authors' exponents: the mean's
  difference is squared, the variance's isn't.
  """
  maths.weight(beta=beta, gamma=gamma)
  s, t = maths.pair(student, teacher)
  means = jnp.mean(s, axis=-1) - jnp.mean(t, axis=-1)
  variances = jnp.var(s, axis=-1) - jnp.var(t, axis=-1)
  return beta * jnp.square(means) + gamma * jnp.abs(variances)
