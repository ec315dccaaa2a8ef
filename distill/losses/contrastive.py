"""Contrastive losses: pairs of student and teacher of one example against other pairs."""
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt32

from distill import maths
from distill.losses import mixing

EPS = 1e-7          # added to K/n in the code of CRD's authors


@mixing
def crd(student: Float[Array, 'b d'], teacher: Float[Array, 'b d'], where: Shaped[Array, ' b'],
        id: Int[Array, ' b'], bank: Float[Array, '2 n d'], places: Int[Array, 'n 3'],
        draws: UInt32[Array, 'b K'], z: Float[Array, '2'], *,
        temperature: float | Float[Array, '']) -> Float[Array, ' b']:
  """Noise-contrastive estimation against a memory bank (CRD, Tian 2020, §3.1), exact mode.

  For a student's vector v, the teacher's `bank` row m of the same example and those m⁻ of K
  negatives, -log h(m) - Σ log(1 - h(m⁻)) with h = P / (P + K/n), P(m) = exp(v·m / temperature) / z;
  plus the same for the teacher's vector and the student's bank. Both sides are scaled to length 1.
  Give each side a linear projector, which learns from its own half only: no gradient flows into
  the bank or z.

  The arguments from `bank` on are entries of `carry.Bank`. Its draws choose the negatives,
  independently among the examples of other classes, as the paper samples them (the authors' code
  draws an example's negatives without repetition). As in that code, z is n times the mean of
  exp(v·m / temperature) over the first batch, with each example's own m; it is stored as its
  logarithm, +inf before the first batch. The authors' 1e-7 beside K/n is used here, too.
  """
  maths.positive(temperature=temperature)
  maths.agree(where=where.shape, student=student.shape[:1], id=id.shape, draws=draws.shape[:1])
  maths.agree(student=student.shape[1:], teacher=teacher.shape[1:], bank=bank.shape[2:])
  maths.agree(places=places.shape, bank=(bank.shape[1], 3))
  scores = maths.bank_cosines(student, teacher, where, id, bank, places, draws) / temperature
  # Without a stored z, this is the first batch.
  log_z = jnp.where(jnp.isfinite(z), z, maths.log_mean(scores, where) + math.log(bank.shape[1]))
  log_noise = math.log(draws.shape[1] / bank.shape[1])                  # log(K/n)
  log_p = scores - jax.lax.stop_gradient(log_z)[:, None, None]
  log_both = jnp.logaddexp(log_p, jnp.logaddexp(log_noise, math.log(EPS)))
  value = jnp.sum(log_both, axis=-1) - log_p[..., 0] - draws.shape[1] * log_noise
  return jnp.where(where > 0, jnp.sum(value, axis=0), 0)


@mixing
def infonce(student: Float[Array, 'b d'], teacher: Float[Array, 'b d'],
            where: Shaped[Array, ' b'], *, temperature: float = 0.07) -> Float[Array, ' b']:
  """Symmetric cross-entropy of matching both sides in a batch (CLIP, Radford 2021, fig. 3).

  CRD (Tian 2020) with the batch as its bank: the value of example i is -log softmax of
  cos(student_i, teacher_j) / temperature over the counted j, at j = i; the same over the students
  for teacher i; and the mean of both. A student whose vectors are all equal has log n, with n the
  number counted. Both sides need one width: give each a projector, or only the student.
  """
  maths.positive(temperature=temperature)
  s, t = maths.pair(student, teacher)
  maths.agree(examples=s.shape[:1], where=where.shape)
  counted = where > 0
  s, t = (maths.unit(jnp.where(counted[:, None], x, 0)) for x in (s, t))
  scores = maths.times('id,jd->ij', s, t) / temperature
  # A finite stand-in for -inf: the rows of examples that don't count have no NaN either.
  scores = jnp.where(counted[:, None] & counted, scores, -1e9)
  sides = [jnp.diagonal(jax.nn.log_softmax(scores, axis=axis)) for axis in (0, 1)]
  return jnp.where(counted, -sum(sides) / 2, 0)
