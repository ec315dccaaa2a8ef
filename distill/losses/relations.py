"""Losses on the relations between positions or between examples, which need no common width."""
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from distill import maths
from distill.losses import mixing
from distill.losses.logits import kl

EPS = 1e-7          # PKT adds it to the probabilities whose logarithms it takes


def minilm(student: Float[Array, 'b s d'], teacher: Float[Array, 'b s e'],
           where: Shaped[Array, 'b s'], *, heads: int) -> Float[Array, 'b s']:
  """Self-attention relations of one of queries, keys or values (MiniLMv2, Wang 2021).

  Both sides, of any width and any number of attention heads, are split into `heads` relation
  heads; the value of a position is the mean over these of KL(teacher || student) between the
  softmax over counted positions of A Aᵀ / √(width / heads). Take three terms for Q, K and V.
  With the heads of the attention, V alone is the value relation of MiniLM (Wang 2020, eq. 9).
  A position that isn't counted has the value 0: give the term the same mask.
  """
  maths.agree(student=student.shape[:2], teacher=teacher.shape[:2], where=where.shape)
  counted = where.astype(bool)
  value = kl(_scores(student, counted, heads), _scores(teacher, counted, heads))
  return jnp.mean(value, axis=1)


def _scores(vectors: Float[Array, 'b s d'], counted: Bool[Array, 'b s'],
            heads: int) -> Float[Array, 'b {heads} s s']:
  b, s, width = vectors.shape
  if heads < 1 or width % heads:
    raise ValueError(f'heads={heads} does not divide a width of {width}')
  a = jnp.where(counted[..., None], maths.wide(vectors), 0).reshape(b, s, heads, width // heads)
  scores = maths.times('bqhd,bkhd->bhqk', a, a) / math.sqrt(width // heads)
  # A counted position scores itself at 0 or more, so -1e9 has probability 0. With -inf a row
  # without a counted position would be NaN until it is masked, and `jax_debug_nans` would stop.
  return jnp.where(counted[:, None, None, :], scores, -1e9)


# ---- between examples: an example's array is flattened, [b h w c] to [b d]


@mixing
def rkd_distance(student: Float[Array, 'b ...'], teacher: Float[Array, 'b ...'],
                 where: Shaped[Array, ' b']) -> Float[Array, ' b']:
  """Huber loss of the distances between examples over their mean (RKD, Park 2019, §3.2).

  The mean is over the pairs of different examples; the student's has a gradient. As in the
  authors' code the loss is a mean over all n² pairs, an example with itself among them; the value
  of an example is the mean of its n. Examples that coincide have distance and gradient 0. The paper
  takes this 25 times, and `rkd_angle` 50 times.
  """
  counted, *sides = _examples(student, teacher, where)
  s, t = (_distances(side, counted) for side in sides)
  return _mean_of_pairs(_huber(s - t), counted)


@mixing
def rkd_angle(student: Float[Array, 'b ...'], teacher: Float[Array, 'b ...'],
              where: Shaped[Array, ' b']) -> Float[Array, ' b']:
  """Huber loss of the cosines of the angles that examples form (RKD, Park 2019, §3.2).

  The value of an example is the mean over all n² pairs of others of the angle at that example;
  where two of the three are one, the cosine is 0. Takes memory for [b b d] and [b b b] numbers.
  """
  counted, *sides = _examples(student, teacher, where)
  rays = [maths.unit(x[None] - x[:, None]) for x in sides]                   # [b b d], from i to j
  s, t = (maths.times('ijd,ikd->ijk', x, x) for x in rays)
  pairs = counted[None, :, None] & counted[None, None, :]
  angles = jnp.sum(jnp.where(pairs, _huber(s - t), 0), axis=-1)         # over k
  return _mean_of_pairs(angles, counted) / _number(counted, angles.dtype)


@mixing
def pkt(student: Float[Array, 'b ...'], teacher: Float[Array, 'b ...'],
        where: Shaped[Array, ' b']) -> Float[Array, ' b']:
  """KL(teacher || student) of an example's neighbours, by cosine (PKT, Passalis 2018).

  The probabilities of an example are (cos + 1)/2 over their sum. As in the authors' code an example
  is its own neighbour, 1e-7 is added to both probabilities, and the loss is the mean over all n²
  pairs, where the paper sums: hence weights as large as 30,000.
  """
  counted, *sides = _examples(student, teacher, where)
  s, t = (_neighbours(side, counted) for side in sides)
  return _mean_of_pairs(t * (jnp.log(t + EPS) - jnp.log(s + EPS)), counted)


@mixing
def sp(student: Float[Array, 'b ...'], teacher: Float[Array, 'b ...'],
       where: Shaped[Array, ' b']) -> Float[Array, ' b']:
  """Squared difference of the similarities A Aᵀ, each row at length 1 (SP, Tung 2019).

  The loss is the mean over all n² pairs; the value of an example is the mean of its n.
  """
  counted, *sides = _examples(student, teacher, where)
  s, t = (maths.unit(maths.times('id,jd->ij', x, x)) for x in sides)
  return _mean_of_pairs(jnp.square(s - t), counted)


@mixing
def cc(student: Float[Array, 'b ...'], teacher: Float[Array, 'b ...'],
       where: Shaped[Array, ' b'], *, gamma: float = 0.4, order: int = 2) -> Float[Array, ' b']:
  """Squared difference of Gaussian kernels, as Taylor series (CC, Peng 2019).

  exp(-γ|x - y|²) = exp(-2γ) Σ_p (2γ)^p/p! (x·y)^p for vectors at length 1, up to p = `order`. The
  loss is the mean over all n² pairs. The public code of this method, and the comparisons published
  with it, use another loss: `cc_neighbours`.
  """
  maths.positive(gamma=gamma, order=order)
  counted, *sides = _examples(student, teacher, where)
  series = lambda cosine: math.exp(-2 * gamma) * sum(
      (2 * gamma)**p / math.factorial(p) * cosine**p for p in range(order + 1))
  s, t = (series(maths.times('id,jd->ij', unit, unit)) for unit in map(maths.unit, sides))
  return _mean_of_pairs(jnp.square(s - t), counted)


@mixing
def cc_neighbours(student: Float[Array, ' b *d'], teacher: Float[Array, ' b *d'],
                  where: Shaped[Array, ' b']) -> Float[Array, ' b']:
  """Products of the absolute differences of neighbouring rows (CC as in RepDistiller, Tian 2020).

  Σ_d |s_i - t_i| |s_j - t_j|, the mean over the n - 1 pairs of a counted row i and the next one j;
  all counted rows have the value of the batch. Unlike every other loss here it depends on the order
  of the examples. RepDistiller has it from CC's authors; the paper's is `cc`. Both sides need one
  width.
  """
  maths.pair(student, teacher)
  counted, s, t = _examples(student, teacher, where)
  delta = jnp.abs(s - t)[jnp.argsort(~counted)]         # stable: the counted rows, then zeros
  products = jnp.sum(delta[:-1] * delta[1:])
  return jnp.where(counted, products / jnp.maximum(_number(counted, delta.dtype) - 1, 1), 0)


def _examples(student: jax.Array, teacher: jax.Array,
              where: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """Returns which rows count, and both sides as rows, zero where they don't count."""
  maths.agree(student=student.shape[:1], teacher=teacher.shape[:1], where=where.shape)
  counted = where > 0
  rows = lambda x: jnp.where(counted[:, None], maths.wide(x).reshape(x.shape[0], -1), 0)
  return counted, rows(student), rows(teacher)


def _number(counted: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Counts the examples, but returns at least 1."""
  return jnp.maximum(jnp.sum(counted, dtype=dtype), 1)


def _mean_of_pairs(pairs: jax.Array, counted: jax.Array) -> jax.Array:
  """Averages [b b] over the columns that count, to [b]; 0 for rows that don't."""
  both = counted[:, None] & counted
  return jnp.sum(jnp.where(both, pairs, 0), axis=-1) / _number(counted, pairs.dtype)


def _distances(rows: jax.Array, counted: jax.Array) -> jax.Array:
  """Returns distances [b b] of rows, divided by their mean over pairs of different counted rows."""
  squares = jnp.sum(jnp.square(rows[:, None] - rows), axis=-1)
  apart = counted[:, None] & counted & (squares > 0)
  distances = jnp.where(apart, jnp.sqrt(jnp.where(apart, squares, 1)), 0)
  n = jnp.sum(counted, dtype=distances.dtype)
  mean = jnp.sum(distances) / jnp.maximum(n * (n - 1), 1)
  return distances / jnp.where(mean > 0, mean, 1)


def _neighbours(rows: jax.Array, counted: jax.Array) -> jax.Array:
  unit = maths.unit(rows)
  near = jnp.where(counted, jnp.maximum((maths.times('id,jd->ij', unit, unit) + 1) / 2, 0), 0)
  total = jnp.sum(near, axis=-1, keepdims=True)         # at least 1/2 for a counted row: itself
  return near / jnp.where(total > 0, total, 1)


def _huber(difference: jax.Array) -> jax.Array:
  size = jnp.abs(difference)
  return jnp.where(size < 1, jnp.square(difference) / 2, size - 0.5)
