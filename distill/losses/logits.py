"""Losses on output distributions: logits, never probabilities, over classes or words.

A label below 0 is one that the run may not see: value and gradient are 0, and the term's mask keeps
it out of the count. A label beyond the classes gives NaN: wrong data must not train.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill import maths
from distill.losses.supervised import cross_entropy


def kl(student: Float[Array, '*b c'], teacher: Float[Array, '*b c'], *,
       temperature: float | Float[Array, ''] | Float[Array, '*b'] = 1.0,
       standardised: bool = False) -> Float[Array, '*b']:
  """KL(teacher || student) at a temperature, times temperature² (Hinton 2015, §2).

  The T² keeps the gradient's size independent of T, so the weight of this term need not be
  retuned with it. A temperature that varies with the step is read from `schedule/`, one that is
  learned, or one for each example, from `projected/`. The teacher may rule a class out with a
  logit of -inf.

  `standardised` takes the logits' z-scores first (logit standardisation, Sun 2024): (z - mean) /
  (std + 1e-7) over the classes, which must be finite, with the unbiased std. The T² stays.

  Born-again networks (Furlanello 2018) are this term with a teacher of the student's own shape;
  self-distillation (BYOT, Zhang 2019) with `self/logits` as the teacher of shallow heads; mutual
  learning (Zhang 2018) with the other student's logits under `self/`.
  """
  s, t, square = _softened(student, teacher, temperature, standardised)
  return square * _kl(s, t)


def mse(student: Float[Array, '*b c'], teacher: Float[Array, '*b c']) -> Float[Array, '*b']:
  """Mean over the classes of the squared difference of logits (Ba & Caruana 2014, eq. 1).

  The paper's is this times c/2. Unlike `kl` it sees a shift common to all logits. On logits that
  were stored beside a replayed example it is DER's term, and DER++'s first (Buzzega 2020).
  """
  s, t = maths.pair(student, teacher)
  return jnp.mean(jnp.square(s - t), axis=-1)


def dkd(student: Float[Array, '*b c'], teacher: Float[Array, '*b c'], label: Int[Array, '*b'], *,
        alpha: float = 1.0, beta: float = 8.0,
        temperature: float | Float[Array, ''] | Float[Array, '*b'] = 4.0,
        standardised: bool = False) -> Float[Array, '*b']:
  """Decoupled KD: alpha·TCKD + beta·NCKD, times temperature² (Zhao 2022, eq. 7).

  TCKD is the KL of (target, all others), NCKD that of the others among themselves; `kl` is TCKD +
  (1 - p of the target) NCKD. With two classes NCKD is 0. If the teacher gives all other classes
  probability 0, they count as equally likely. `standardised` is that of `kl`.

  The authors ramp the weight up over 20 epochs, and exclude the target by subtracting 1000, which
  fails for larger logits.
  """
  maths.weight(alpha=alpha, beta=beta)
  maths.agree(student=student.shape[:-1], label=label.shape)
  s, t, square = _softened(student, teacher, temperature, standardised)
  (s_binary, s_rest), (t_binary, t_rest) = _decoupled(s, label), _decoupled(t, label)
  return _seen(square * (alpha * _kl(s_binary, t_binary) + beta * _kl(s_rest, t_rest)),
               label, student.shape[-1])


def nkd(student: Float[Array, '*b c'], teacher: Float[Array, '*b c'], label: Int[Array, '*b'], *,
        gamma: float = 1.5,
        temperature: float | Float[Array, ''] | Float[Array, '*b'] = 1.0) -> Float[Array, '*b']:
  """Normalised KD: -p log q of the target, and gamma·T² times the others' (NKD, Yang 2023).

  The others are normalised among themselves at the temperature, the target's p and q are at 1.
  Both parts are cross-entropies, so the least value isn't 0.
  """
  maths.weight(gamma=gamma)
  maths.agree(student=student.shape[:-1], label=label.shape)
  s, t, square = _softened(student, teacher, temperature)
  p = jnp.exp(-cross_entropy(teacher, label))
  others = _cross(_decoupled(s, label)[1], _decoupled(t, label)[1])
  return _seen(p * cross_entropy(student, label) + gamma * square * others,
               label, student.shape[-1])


def wsld(student: Float[Array, '*b c'], teacher: Float[Array, '*b c'], label: Int[Array, '*b'], *,
         temperature: float | Float[Array, ''] | Float[Array, '*b'] = 2.0) -> Float[Array, '*b']:
  """Weighted soft labels: (1 - exp(-CE_s / CE_t)) T² CE(teacher, student) (WSLD, Zhou 2021).

  CE_s and CE_t are the cross-entropies with the label, at temperature 1: an example that the
  student knows better than the teacher does counts less. No gradient goes through this weight.
  The soft part is a cross-entropy, as in the paper, so the least value isn't 0.
  """
  maths.agree(student=student.shape[:-1], label=label.shape)
  s, t, square = _softened(student, teacher, temperature)
  hard_s, hard_t = (jax.lax.stop_gradient(cross_entropy(z, label)) for z in (student, teacher))
  weight = 1 - jnp.exp(-hard_s / (hard_t + 1e-7))
  return _seen(weight * square * _cross(s, t), label, student.shape[-1])


def lwf(student: Float[Array, '*b c'], teacher: Float[Array, '*b e'], *, units: Sequence[int],
        temperature: float | Float[Array, ''] = 2.0) -> Float[Array, '*b']:
  """KL(teacher || student) among only the outputs of old tasks, times T² (LwF, Li 2016).

  `units` are the indices of the old classes. The teacher is the model before the new task, and may
  have fewer outputs than the student. The paper and its public codes have no T²: their weight is
  ours times temperature².
  """
  maths.positive(temperature=temperature)
  maths.agree(student=student.shape[:-1], teacher=teacher.shape[:-1])
  least = min(student.shape[-1], teacher.shape[-1])
  if len(set(units)) < max(len(units), 2) or not all(0 <= unit < least for unit in units):
    raise ValueError(f'units={list(units)} must be two or more different outputs below {least}')
  old = jnp.asarray(units)
  return kl(student[..., old], teacher[..., old], temperature=temperature)


def teacher_free(student: Float[Array, '*b c'], label: Int[Array, '*b'], *, correct: float = 0.99,
                 temperature: float = 20.0) -> Float[Array, '*b']:
  """KL(virtual teacher || student), the teacher made of the label alone (Tf-KD_reg, Yuan 2020).

  The virtual teacher gives the label the probability `correct` and divides the rest among the
  others; it is softened as in the authors' code, softmax(probabilities / temperature). The
  student stays at temperature 1, and there is no T². The authors' code also divides by the number
  of classes, and multiplies by `multiplier`: our weight is alpha · multiplier / classes.
  """
  maths.agree(student=student.shape[:-1], label=label.shape)
  maths.positive(temperature=temperature)
  maths.share(correct=correct)
  classes = student.shape[-1]
  if classes < 2:
    raise ValueError('one class leaves none to share the rest among')
  p = jnp.where(_is(label, classes), correct, (1 - correct) / (classes - 1))
  s = maths.wide(student)
  return _seen(_kl(s, p.astype(s.dtype) / temperature), label, classes)


def _softened(student, teacher, temperature, standardised=False):
  """Returns both logits over the temperature, a number or one per example; and its square."""
  s, t = maths.pair(student, teacher)
  if standardised:
    s, t = _standardised(s), _standardised(t)
  if not jnp.ndim(temperature):
    maths.positive(temperature=temperature)
    return s / temperature, t / temperature, temperature**2
  maths.agree(logits=s.shape[:-1], temperature=temperature.shape)
  each = maths.wide(temperature)
  return s / each[..., None], t / each[..., None], each**2


def _standardised(logits):
  """Computes z-scores over the classes; equal logits become 0, without a gradient."""
  shifted = logits - jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
  centred = shifted - jnp.mean(shifted, axis=-1, keepdims=True)     # exactly 0 for equal logits
  variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / max(logits.shape[-1] - 1, 1)
  equal = variance == 0
  return jnp.where(equal, 0, centred / (jnp.sqrt(jnp.where(equal, 1, variance)) + 1e-7))


def _decoupled(logits, label):
  """Returns logits of (target, all others), [*b 2], and of the others among themselves, [*b c]."""
  # Logits of -inf become finite, and the target's is lower still: no intermediate is NaN.
  logits = jnp.maximum(logits, -1e15)
  is_target = _is(label, logits.shape[-1])
  rest = jnp.where(is_target, -1e30, logits)
  target = jnp.sum(jnp.where(is_target, logits, 0), axis=-1)
  return jnp.stack([target, jax.nn.logsumexp(rest, axis=-1)], axis=-1), rest


def _is(label, classes):
  return label[..., None] == jnp.arange(classes)


def _seen(values, label, classes):
  return jnp.where(label < 0, 0, jnp.where(label < classes, values, jnp.nan))


def _kl(student, teacher):
  log_s, log_t = jax.nn.log_softmax(student), jax.nn.log_softmax(teacher)
  p = jnp.exp(log_t)
  return jnp.sum(p * jnp.where(p > 0, log_t - log_s, 0), axis=-1)


def _cross(student, teacher):
  """Computes the cross-entropy -Σ p log q."""
  p = jax.nn.softmax(teacher)
  return -jnp.sum(p * jnp.where(p > 0, jax.nn.log_softmax(student), 0), axis=-1)
