"""Temperatures that are learned, or set for each example: views for a term to read.

A term takes one as `reads.temperature='projected/NAME'`.
"""
import jax
import jax.numpy as jnp
from flax import nnx

from distill import maths


class Learned(nnx.Module):
  """One temperature, start + spread·σ(θ), trained against the student (CTKD, Li 2023).

  It reads λ from `schedule/…` and multiplies the gradient of θ by it. The schedule goes from 0 to
  -1, so that θ ascends the loss that the student descends. That is the authors' convention, whose
  reversal layer multiplies by +λ. As theirs, θ starts at 1.
  """

  def __init__(self, *, inputs: int, start: float = 1.0, spread: float = 20.0):
    if inputs != 1:
      raise ValueError(f'it reads one number, λ of a schedule, and got a width of {inputs}')
    maths.positive(start=start, spread=spread)
    self.theta, self.start, self.spread = nnx.Param(jnp.ones(())), start, spread

  def __call__(self, reversal: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    """Maps λ [] to the temperature []."""
    del valid, train
    theta = _reversed(maths.wide(self.theta[...]), reversal)
    return self.start + self.spread * jax.nn.sigmoid(theta)


@jax.custom_vjp
def _reversed(theta: jax.Array, by: jax.Array) -> jax.Array:
  return theta


_reversed.defvjp(lambda theta, by: (theta, by),
                 lambda by, gradient: (by * gradient, jnp.zeros_like(by)))


class FLSW(nnx.Module):
  """A temperature for each example, lower where student and teacher differ: T + beta (mean w - w),
  w = (1 - cos of their logits)^gamma (focal-loss-style weights, Wen 2019).

  It reads the student's logits and the teacher's, [b c], and the term's mask [b] if it has one
  (`reads=('student/logits', 'TEACHER/logits', 'batch/labelled')`); the mean is over the examples
  that count, and no gradient goes through. A temperature never falls below `least`, where
  TextBrewer's may reach 0.
  """

  mixing = True

  def __init__(self, *, inputs: tuple[int, ...], temperature: float = 4.0, beta: float = 1.0,
               gamma: float = 1.0, least: float = 1.0):
    if not isinstance(inputs, tuple) or len(inputs) not in (2, 3) or inputs[0] != inputs[1]:
      raise ValueError(f"it reads the student's and a teacher's logits, and got widths {inputs}")
    maths.positive(temperature=temperature, beta=beta, gamma=gamma, least=least)
    self.temperature, self.beta, self.gamma, self.least = temperature, beta, gamma, least

  def __call__(self, student: jax.Array, teacher: jax.Array, *mask: jax.Array, valid: jax.Array,
               train: bool) -> jax.Array:
    """Maps two logits [b c] and a mask [b] to temperatures [b]."""
    del train
    valid = _counted(valid, *mask)
    s, t = (z / (jnp.linalg.norm(z, axis=-1, keepdims=True) + 1e-4)
            for z in (_fixed(student, valid), _fixed(teacher, valid)))
    w = jnp.maximum(1 - jnp.sum(s * t, axis=-1), 0) ** self.gamma
    return _around(w, valid, self.temperature, self.beta, self.least)


class CWSM(nnx.Module):
  """A temperature for each example, lower where the student is unsure: T + beta (mean w - w),
  w = 1 / (its largest probability + 1e-3) (confidence weights by student max, Wen 2019).

  It reads the student's logits, [b c], and the term's mask if it has one; the rest is as for
  `FLSW`.
  """

  mixing = True

  def __init__(self, *, temperature: float = 4.0, beta: float = 1.0, least: float = 1.0):
    maths.positive(temperature=temperature, beta=beta, least=least)
    self.temperature, self.beta, self.least = temperature, beta, least

  def __call__(self, student: jax.Array, *mask: jax.Array, valid: jax.Array,
               train: bool) -> jax.Array:
    """Maps logits [b c] and a mask [b] to temperatures [b]."""
    del train
    valid = _counted(valid, *mask)
    w = 1 / (jnp.max(jax.nn.softmax(_fixed(student, valid)), axis=-1) + 1e-3)
    return _around(w, valid, self.temperature, self.beta, self.least)


def _counted(valid: jax.Array, mask: jax.Array | None = None) -> jax.Array:
  if mask is None:
    return valid
  if mask.shape != valid.shape:
    raise ValueError(f'a mask of shape {list(mask.shape)} is not one for {list(valid.shape)}')
  return valid * mask


def _fixed(logits: jax.Array, valid: jax.Array) -> jax.Array:
  if logits.ndim != 2 or logits.shape[:1] != valid.shape:
    raise ValueError(f'logits {list(logits.shape)} are not a row for each of {list(valid.shape)}')
  return jax.lax.stop_gradient(maths.wide(logits))


def _around(w: jax.Array, valid: jax.Array, temperature: float, beta: float,
            least: float) -> jax.Array:
  w = jnp.where(valid > 0, w, 0)
  mean = jnp.sum(w) / jnp.maximum(jnp.sum(valid > 0), 1)
  return jnp.maximum(temperature + beta * (mean - w), least)
