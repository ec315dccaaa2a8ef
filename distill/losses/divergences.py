"""Divergences between the student's and the teacher's distribution over words or classes.

They take logits [*b v] and return values [*b], whose mean over the counted tokens is the paper's
loss. A temperature divides both sides' logits; as in the papers there is no factor T², which only
the forward KL, `logits.kl`, has.

A word with a logit of -inf on one side counts as a word of probability 1e-30, so that the loss
stays finite whatever the other side says.
"""
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill import maths

LOG_MIN_PROBABILITY = math.log(1e-30)


def _mixed(log_a: Float[Array, '*b v'], log_b: Float[Array, '*b v'],
           share: float | Float[Array, '']) -> Float[Array, '*b v']:
  """Returns log(share · a + (1 - share) · b)."""
  return jnp.logaddexp(jnp.log(share) + log_a, jnp.log1p(-share) + log_b)


def reverse_kl(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *,
               temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """KL(student || teacher): the student avoids what the teacher finds unlikely (MiniLLM, Gu 2024,
  §2.1).

  MiniLLM takes it over sequences that the student samples, by policy gradient. This is the
  divergence of one token given its predecessors, as in GKD and DistiLLM.
  """
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  return maths.kl(log_q, log_p)


def symmetric_kl(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *,
                 lam: float | Float[Array, ''] = 0.5,
                 temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """(1 - lam) KL(teacher || student) + lam KL(student || teacher) (DistiLLM's code, Ko 2024).

  At 1/2 it is half of Jeffreys' divergence. That code has lam = 0.9 and a cross-entropy for the
  first part: larger by (1 - lam) times the teacher's entropy, of the same gradient.
  """
  maths.share(lam=lam)
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  return (1 - lam) * maths.kl(log_p, log_q) + lam * maths.kl(log_q, log_p)


def tvd(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *,
        temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """Total variation, half the sum of |p - q|: between 0 and 1 (f-distill, Wen 2023)."""
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  return jnp.sum(jnp.abs(jnp.exp(log_p) - jnp.exp(log_q)), axis=-1) / 2


def jsd(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *,
        beta: float | Float[Array, ''] = 0.5, normalised: bool = False,
        temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """beta KL(p || m) + (1 - beta) KL(q || m) with m = beta p + (1 - beta) q, of teacher p and
  student q (GKD, Agarwal 2024, eq. 1).

  The formula is 0 at beta = 0 and 1. As in TRL the loss is KL(p || q) and KL(q || p) there, so it
  jumps. `normalised` divides by beta (1 - beta), which has these two as its limits: a beta from
  `schedule/` then moves from one KL to the other without a jump. DistiLLM's
  `js_distance(lam)` is beta = 1 - lam.
  """
  maths.share(beta=beta)
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  beta = jnp.asarray(beta, log_p.dtype)
  # a is the side with the smaller share of m, so only one end needs care, share = 0.
  share = jnp.minimum(beta, 1 - beta)
  log_a, log_b = (jnp.where(beta <= 0.5, x, y) for x, y in ((log_p, log_q), (log_q, log_p)))
  # log(m / b), not log m: where the share is small, that would be a difference of equals.
  rise = _mixed(log_a - log_b, jnp.zeros_like(log_b), share)
  to_a = jnp.sum(jnp.exp(log_a) * (log_a - log_b - rise), axis=-1) / (1 - share)
  to_b = jnp.sum(jnp.exp(log_b) * -rise, axis=-1) / jnp.where(share > 0, share, 1)
  return (to_a + to_b) * (1 if normalised else jnp.where(share > 0, share * (1 - share), 1))


def skew_kl(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *,
            alpha: float | Float[Array, ''] = 0.1,
            temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """KL(p || alpha p + (1 - alpha) q), of teacher p and student q (DistiLLM, Ko 2024, §3.1).

  At most -log alpha. The authors' code gives the cross-entropy: the teacher's entropy more.
  """
  maths.share(alpha=alpha)
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  return maths.kl(log_p, _mixed(log_p, log_q, alpha))


def skew_reverse_kl(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *,
                    alpha: float | Float[Array, ''] = 0.1,
                    temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """KL(q || alpha q + (1 - alpha) p), of teacher p and student q (DistiLLM, Ko 2024, §3.1)."""
  maths.share(alpha=alpha)
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  return maths.kl(log_q, _mixed(log_q, log_p, alpha))


def akl(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *, mu: float = 0.5,
        temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """Forward and reverse KL, weighted by how much student and teacher differ in the head and in the
  tail of the teacher's distribution (AKL, Wu 2024).

  The head is the teacher's likeliest words while their probabilities sum to at most `mu`, and at
  least the first, as in the authors' code. The two weights have no gradient. The variant in TAID's
  repository applies the head's mask, in sorted order, to unsorted words, and takes a cross-entropy
  for the forward KL: other values, and other gradients.
  """
  maths.share(mu=mu)
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  p, gap = jnp.exp(log_p), jnp.abs(jnp.exp(log_p) - jnp.exp(log_q))
  order = jnp.argsort(-p, axis=-1)
  p, gap = (jnp.take_along_axis(x, order, axis=-1) for x in (p, gap))
  head = (jnp.cumsum(p, axis=-1) <= mu).at[..., 0].set(True)
  whole = jnp.sum(gap, axis=-1)
  share = jax.lax.stop_gradient(
      jnp.sum(gap, axis=-1, where=head) / jnp.where(whole > 0, whole, 1))
  return share * maths.kl(log_p, log_q) + (1 - share) * maths.kl(log_q, log_p)


def taid(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *,
         t: float | Float[Array, ''],
         temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """KL(softmax((1 - t) z + t teacher) || student), where z are the student's logits without
  their gradient (TAID, Shing 2025).

  t rises from a start to 1: by `carry.Taid`, read from `carry/NAME/t`, or by a `schedule/`. The
  authors' code gives the cross-entropy, larger by the mixture's entropy, of the same gradient.
  """
  return maths.kl(*maths.between(student, teacher, t, temperature))


def mft(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], label: Int[Array, '*b'], *,
        tau: float = 0.2, temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """KL to the teacher's distribution after it is moved towards the label (minifinetuning,
  Belcak 2025).

  The target gives the label `tau` more than the teacher's first choice; if the label is that
  choice, `tau` more than the teacher gives it, up to 1. The teacher is the student before the run.
  ModelOpt's loss is this times temperature², with 1e-7 in the denominators, which is left out here.
  A negative label has value 0.
  """
  maths.share(tau=tau)
  maths.agree(student=student.shape[:-1], label=label.shape)
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  p = jnp.exp(log_p)
  word = jnp.maximum(label, 0)[..., None]       # for a hidden label any word in range, or NaN
  label_probability = jnp.take_along_axis(p, word, axis=-1)
  lead = jnp.max(p, axis=-1, keepdims=True) - label_probability
  chosen = jnp.argmax(p, axis=-1, keepdims=True) == word
  wanting = jnp.maximum(1 - label_probability, jnp.finfo(p.dtype).tiny)
  move = jnp.where(chosen, jnp.minimum(tau / wanting, 1), (lead + tau) / (1 + lead))
  target = (1 - move) * p + move * (word == jnp.arange(p.shape[-1]))
  log_target = jnp.log(jnp.where(target > 0, target, 1))
  return jnp.where(label < 0, 0, jnp.sum(target * (log_target - log_q), axis=-1))


# f(r) of the ratio r = p / q, teacher over student, as a function of u = log r; and the power of r
# that f grows with.
GENERATORS = {
    'kl': (lambda u: jnp.exp(u) * u, 1),
    'reverse_kl': (lambda u: -u, 0),
    'jsd': (lambda u: (jnp.exp(u) * (math.log(2) - jax.nn.softplus(-u))
                       + math.log(2) - jax.nn.softplus(u)) / 2, 1),
    'tvd': (lambda u: jnp.abs(jnp.expm1(u)) / 2, 1),
    'hellinger': (lambda u: jnp.square(jnp.expm1(u / 2)) / 2, 1),
    'pearson': (lambda u: jnp.square(jnp.expm1(u)), 2),         # Σ (p - q)² / q
    'neyman': (lambda u: jnp.square(2 * jnp.sinh(u / 2)), -1),  # Σ (p - q)² / p
}


def f_divergence(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *, name: str,
                 temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """Σ q f(p / q) of teacher p and student q, by the name of f: kl, reverse_kl, jsd, tvd,
  hellinger, pearson or neyman (f-distill, Wen 2023; Csiszár 1967).

  hellinger is the squared distance, (Σ (√p - √q)²) / 2; pearson and neyman are the χ² with q and
  with p in the denominator. Where p / q is beyond e^±40, f continues as its tangent: still convex,
  and finite. For float16 logits, whose gradient has less range, pearson and neyman do so at e^±10.
  """
  if name not in GENERATORS:
    raise ValueError(f'name={name!r} is not one of {", ".join(GENERATORS)}')
  return _f_divergence(student, teacher, temperature, *GENERATORS[name])


def alpha_divergence(student: Float[Array, '*b v'], teacher: Float[Array, '*b v'], *,
                     alpha: float,
                     temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """(Σ p^alpha q^(1 - alpha) - 1) / (alpha (alpha - 1)), of teacher p and student q (Cressie &
  Read 1984; Amari 1985).

  Its limits at 1 and 0 are KL(p || q) and KL(q || p); at 1/2 it is 4 times f_divergence's
  hellinger, at 2 and -1 half its pearson and neyman. A power of p / q continues as its tangent
  beyond e^±(80 / max(2, |alpha|, |1 - alpha|)), where it is still finite in float32; for float16
  logits and an alpha outside [0, 1], beyond e^±(10 / max(1, alpha - 1, -alpha)).
  """
  maths.scalar(alpha=alpha)
  if alpha in (0, 1) or not math.isfinite(alpha):
    raise ValueError(f'alpha={alpha} must be finite and neither 0 nor 1, which are reverse_kl and '
                     'logits.kl')
  generator = lambda u: (
      jnp.exp(alpha * u) - alpha * jnp.exp(u) + alpha - 1) / (alpha * (alpha - 1))
  return _f_divergence(student, teacher, temperature, generator, alpha)


def _f_divergence(student, teacher, temperature, generator, power):
  log_q, log_p = maths.logs_of_both(student, teacher, temperature)
  bound = 80 / max(2, abs(power), abs(1 - power))
  if jnp.float16 in (student.dtype, teacher.dtype) and not 0 <= power <= 1:
    bound = min(bound, 10 / max(1, power - 1, -power))
  u = jnp.clip(log_p - log_q, -bound, bound)
  f, slope = jax.jvp(generator, (u,), (jnp.ones_like(u),))      # in u: times r what it is in r
  # q f(p / q) where the ratio is within the bound, and q (f(r) + slope/r · (p / q - r)) beyond.
  return jnp.sum(jnp.exp(log_q) * (f - slope) + jnp.exp(log_p) * slope * jnp.exp(-u), axis=-1)
