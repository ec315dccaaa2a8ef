"""Losses that tell an example's own pair of representations from pairs of others."""
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Shaped, UInt32

from distill.losses import _agree, _pair, _positive, _times, _unit, mixing

EPS = 1e-7          # of CRD's authors, beside K/n


@mixing
def crd(student: Float[Array, 'b d'], teacher: Float[Array, 'b d'], where: Shaped[Array, ' b'],
        id: Int[Array, ' b'], bank: Float[Array, '2 n d'], places: Int[Array, 'n 3'],
        draws: UInt32[Array, 'b K'], z: Float[Array, '2'], *,
        temperature: float | Float[Array, '']) -> Float[Array, ' b']:
  """Noise-contrastive estimation against a memory bank (CRD, Tian 2020, §3.1), exact mode.

  For a student's vector v, the teacher's `bank` row m of the same example and those m⁻ of K
  negatives, -log h(m) - Σ log(1 - h(m⁻)) with h = P / (P + K/n), P(m) = exp(v·m / temperature) / z;
  plus the same for the teacher's vector and the student's bank. Both sides are brought to length
  1; give them a linear projector each, which learns from its own half alone: nothing flows into the
  bank or z.

  From `bank` on all are parts of `carry.Bank`. Its draws name the negatives: independent ones among
  the examples of other classes, as the paper samples them (the authors' code draws an example's
  without repetition). z is, as in that code, n times the mean of exp(v·m / temperature) over the
  first batch, the example's own m among them; it is kept as its logarithm, +inf before there is
  one. The authors' 1e-7 beside K/n is kept, too.
  """
  _positive(temperature=temperature)
  _agree(where=where.shape, student=student.shape[:1], id=id.shape, draws=draws.shape[:1])
  _agree(student=student.shape[1:], teacher=teacher.shape[1:], bank=bank.shape[2:])
  _agree(places=places.shape, bank=(bank.shape[1], 3))
  scores = _scores(student, teacher, where, id, bank, places, draws) / temperature
  # Where no batch has been yet, this is the first.
  log_z = jnp.where(jnp.isfinite(z), z, _log_mean(scores, where) + math.log(bank.shape[1]))
  log_noise = math.log(draws.shape[1] / bank.shape[1])                  # of K/n
  log_p = scores - jax.lax.stop_gradient(log_z)[:, None, None]
  log_both = jnp.logaddexp(log_p, jnp.logaddexp(log_noise, math.log(EPS)))
  value = jnp.sum(log_both, axis=-1) - log_p[..., 0] - draws.shape[1] * log_noise
  return jnp.where(where > 0, jnp.sum(value, axis=0), 0)


def _scores(student, teacher, where, id, bank, places, draws) -> jax.Array:
  """Cosines [2 b 1+K] of the student's and of the teacher's vectors with the other's bank.

  The first is that with an example's own row, the others are its negatives'. A product with the
  whole bank, of which these are chosen, moves less than K rows of d numbers for each example do.
  """
  n = bank.shape[1]
  vectors = _unit(jnp.where(where[:, None] > 0, jnp.stack(_pair(student, teacher)), 0))
  row, first, size = places[id].T[..., None]            # each [b 1]
  # The rows of a class are side by side: an example's negatives are all others, counted around.
  negatives = (first + size + (draws % (n - size).astype(jnp.uint32)).astype(jnp.int32)) % n
  chosen = jnp.concatenate([row, negatives], axis=1)
  cosines = _times('vbd,vnd->vbn', vectors, jax.lax.stop_gradient(bank[::-1]))
  return jnp.take_along_axis(cosines, jnp.broadcast_to(chosen, (2, *chosen.shape)), axis=-1)


def _log_mean(scores, where) -> jax.Array:
  """log of the mean of exp(scores) over the examples that count, [2]; +inf if there is none."""
  counted = (where > 0)[:, None]
  total = jax.nn.logsumexp(jnp.where(counted, scores, -1e9), axis=(1, 2))
  number = jnp.sum(counted) * scores.shape[-1]
  return jnp.where(number > 0, total - jnp.log(jnp.maximum(number, 1)), jnp.inf)


@mixing
def infonce(student: Float[Array, 'b d'], teacher: Float[Array, 'b d'],
            where: Shaped[Array, ' b'], *, temperature: float = 0.07) -> Float[Array, ' b']:
  """Cross-entropy of finding one's own teacher in the batch, and back (CLIP, Radford 2021, fig. 3).

  CRD (Tian 2020) with the batch as its bank: the value of example i is -log softmax of
  cos(student_i, teacher_j) / temperature over the counted j, at j = i; the same over the students
  for teacher i; and the mean of both. A student that tells nothing apart has log n, n the number
  counted. Needs one width: give each side a projector, or the student alone.
  """
  _positive(temperature=temperature)
  s, t = _pair(student, teacher)
  _agree(examples=s.shape[:1], where=where.shape)
  counted = where > 0
  s, t = (_unit(jnp.where(counted[:, None], x, 0)) for x in (s, t))
  scores = _times('id,jd->ij', s, t) / temperature
  # A finite stand-in for -inf: the rows of examples that don't count have no NaN either.
  scores = jnp.where(counted[:, None] & counted, scores, -1e9)
  sides = [jnp.diagonal(jax.nn.log_softmax(scores, axis=axis)) for axis in (0, 1)]
  return jnp.where(counted, -sum(sides) / 2, 0)
