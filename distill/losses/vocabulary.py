"""Losses for large vocabularies, or for two different ones.

They take logits [*b v] and return values [*b], without a factor T², as in `divergences`.
"""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from distill import maths

RESTS = 'tail', 'renormalised', 'truncated'


def top_k(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *, k: int,
          rest: str = 'tail', temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """KL(teacher || student) on the k words that the teacher finds likeliest (TRL's server
  distillation, with its tail; MaxText, renormalised; verl, truncated).

  `rest` treats the other words. 'tail': they become one more word, with their summed probability;
  the value is a KL, at most the whole one. 'renormalised': they are ignored on both sides, so that
  k = 1 is always 0. 'truncated': the sum stops at k, which is no divergence: it may be negative,
  and its best student puts all probability on the k words. verl clamps that at 0 for each token,
  which ends the gradient; this doesn't. With k = v all three are the whole KL.
  """
  if rest not in RESTS:
    raise ValueError(f'rest={rest!r} is not one of {", ".join(RESTS)}')
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  words, chosen = _top_words(log_p, k)
  take = lambda log: jnp.take_along_axis(log, words, axis=-1)
  others = lambda log: jax.nn.logsumexp(log, axis=-1, keepdims=True, where=~chosen)
  if rest == 'truncated' or k == log_p.shape[-1]:
    return maths.kl(take(log_p), take(log_q))
  if rest == 'renormalised':
    return maths.kl(jax.nn.log_softmax(take(log_p)), jax.nn.log_softmax(take(log_q)))
  return maths.kl(*(jnp.concatenate([take(log), others(log)], axis=-1) for log in (log_p, log_q)))


def mopd(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *, k: int,
         temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """Σ q log(q / p) - q + p over the k words that the teacher finds likeliest, of teacher p and
  student q (MOPD 2026, eq. 5, as quoted in ms-swift's issue 10079).

  The generalised reverse KL of what isn't normalised: at least 0, and 0 only where the two agree
  on the k words, whatever they say of the others.
  """
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  words, _ = _top_words(log_p, k)
  log_q, log_p = (jnp.take_along_axis(log, words, axis=-1) for log in (log_q, log_p))
  return maths.kl(log_q, log_p) + jnp.sum(jnp.exp(log_p) - jnp.exp(log_q), axis=-1)


def _top_words(log_p: Float[Array, '*b v'], k: int):
  """Returns the k likeliest words, and a mask of them."""
  if not 1 <= k <= log_p.shape[-1]:
    raise ValueError(f'k={k} is not between 1 and the {log_p.shape[-1]} classes')
  _, words = jax.lax.top_k(log_p, k)
  chosen: Bool[Array, '*b v'] = jnp.put_along_axis(
      jnp.zeros(log_p.shape, bool), words, True, axis=-1, inplace=False)
  return words, chosen


def uld(student: Float[Array, '*b v'], teacher: Float[Array, '*b w'], *,
        temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """Σ |p - q| of the probabilities in falling order, the shorter vocabulary padded with zeros
  (ULD, Boizard 2024).

  The two vocabularies may differ, and need no common words. The loss sees only the probabilities,
  not their words: it is 0 for any permutation.
  """
  maths.agree(student=student.shape[:-1], teacher=teacher.shape[:-1])
  q, p = (jnp.exp(maths.log_probabilities(z, temperature)) for z in (student, teacher))
  width = max(q.shape[-1], p.shape[-1])
  falling = lambda x: jnp.pad(jnp.flip(jnp.sort(x, axis=-1), axis=-1),
                              [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])
  return jnp.sum(jnp.abs(falling(p) - falling(q)), axis=-1)
