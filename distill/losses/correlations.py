"""Losses on correlations of class probabilities, over the rows and columns of a batch.

They mix examples: `where` is the path of the term's mask, or `batch/valid`.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from distill import maths
from distill.losses import mixing


@mixing
def dist(student: Float[Array, 'b c'], teacher: Float[Array, 'b c'], where: Shaped[Array, ' b'], *,
         beta: float = 1.0, gamma: float = 1.0,
         temperature: float | Float[Array, ''] = 1.0) -> Float[Array, ' b']:
  """T² (beta (1 - ρ of an example's classes) + gamma (1 - mean ρ of a class's examples)), with
  Pearson's ρ between student's and teacher's probabilities (DIST, Huang 2022).

  The first part belongs to an example, the second to the batch, and is added to each counted
  example. A constant row or column has ρ = 0, without a gradient; with one example the second part
  is 0. The 1e-8 added to the lengths is the authors': because of it, ρ is 0 for classes that have
  almost no probability, too. Their CIFAR runs take beta = gamma = 2 at temperature 4.
  """
  maths.weight(beta=beta, gamma=gamma)
  q, p, counted = _probabilities(student, teacher, where, temperature)
  inter = 1 - _pearson(q, p, jnp.ones_like(counted), axis=1)
  intra = jnp.where(jnp.sum(counted) > 1, 1 - jnp.mean(_pearson(q, p, counted, axis=0)), 0)
  return jnp.where(counted[:, 0], temperature**2 * (beta * inter + gamma * intra), 0)


@mixing
def mlkd_batch(student: Float[Array, 'b c'], teacher: Float[Array, 'b c'],
               where: Shaped[Array, ' b'], *,
               temperature: float | Float[Array, ''] = 4.0) -> Float[Array, ' b']:
  """Squared distance of the examples' similarities, a row of the Gram matrix P Pᵀ for each example
  (batch level of MLKD, Jin 2023).

  The mean is |P Pᵀ - Q Qᵀ|² / examples, without a T². The paper's loss is a sum over temperatures
  2, 3, 4, 5 and 6 of three levels, a term for each: `logits.kl` for instances, this, and
  `mlkd_class`. The authors' code means to count the half of the examples that the teacher is least
  sure of, but reduces each loss to a number before the mask: there, and so here, all count, and
  the mask halves the weight. It has two views of each image, one augmented strongly; the strong
  views' own correlations are computed and left out of the sum.
  """
  q, p, counted = _probabilities(student, teacher, where, temperature)
  gap = maths.times('ic,jc->ij', q, q) - maths.times('ic,jc->ij', p, p)
  return jnp.where(counted[:, 0], jnp.sum(jnp.square(gap), axis=1), 0)


@mixing
def mlkd_class(student: Float[Array, 'b c'], teacher: Float[Array, 'b c'],
               where: Shaped[Array, ' b'], *,
               temperature: float | Float[Array, ''] = 4.0) -> Float[Array, ' b']:
  """Squared distance of the classes' correlations: |PᵀP - QᵀQ|² / classes, for each counted example
  (class level of MLKD, Jin 2023).

  No T². PᵀP is a sum over the examples, as in the authors' code: the loss grows with the batch's
  square. `mlkd_batch` says what the whole of MLKD is.
  """
  q, p, counted = _probabilities(student, teacher, where, temperature)
  gap = maths.times('bi,bj->ij', q, q) - maths.times('bi,bj->ij', p, p)
  return jnp.where(counted[:, 0], jnp.sum(jnp.square(gap)) / student.shape[1], 0)


def _probabilities(student, teacher, where, temperature):
  """Returns both sides' probabilities, 0 in rows that don't count; and `counted` [b 1]."""
  maths.positive(temperature=temperature)
  maths.agree(examples=student.shape[:1], where=where.shape)
  counted = where.astype(bool)[:, None]
  # Masked before the softmax, too: an uncounted row may hold NaN, and its gradient would be NaN.
  q, p = (jnp.where(counted, jax.nn.softmax(jnp.where(counted, z, 0) / temperature), 0)
          for z in maths.pair(student, teacher))
  return q, p, counted


def _pearson(x, y, counted, axis):
  """Computes the correlation over counted entries along an axis; 0 if either side is constant."""
  x, y = (_centred(z, counted, axis) for z in (x, y))
  squares = [jnp.sum(jnp.square(z), axis) for z in (x, y)]
  still = jnp.minimum(*squares) < 1e-24
  lengths = [jnp.sqrt(jnp.where(still, 1, z)) for z in squares]
  return jnp.where(still, 0, jnp.sum(x * y, axis) / (lengths[0] * lengths[1] + 1e-8))


def _centred(x, counted, axis):
  # The largest is subtracted first: equal numbers then have exactly mean 0, without rounding.
  x = x - jax.lax.stop_gradient(jnp.max(x, axis, keepdims=True))
  total = jnp.sum(jnp.where(counted, x, 0), axis, keepdims=True)
  n = jnp.sum(jnp.broadcast_to(counted, x.shape), axis, keepdims=True)
  return jnp.where(counted, x - total / jnp.maximum(n, 1), 0)
