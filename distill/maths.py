"""Arithmetic, and checks of arguments, that losses, projectors and carries share.

A check is a ValueError when it is traced: shapes that differ, or a hyper-parameter out of range.
"""
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

LOG_MIN_PROBABILITY = math.log(1e-30)


def pair(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns student and teacher, which must have one shape, in float32 or wider."""
  agree(student=student.shape, teacher=teacher.shape)
  return wide(student), wide(teacher)


def wide(array: jax.Array) -> jax.Array:
  """Returns an array in float32, or as it is if it is wider."""
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def agree(**shapes: Sequence[int]) -> None:
  """Raises a ValueError that names every shape, unless all are equal."""
  if len(set(shapes.values())) > 1:
    named = ', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())
    raise ValueError(f'shapes must be equal: {named}')


def scalar(**hyper: float | jax.Array) -> None:
  """Raises a ValueError unless each is one number: an array would broadcast over the classes."""
  for name, value in hyper.items():
    if jnp.ndim(value):
      raise ValueError(f'{name} must be one number, not {list(jnp.shape(value))}')


def positive(**hyper: float | jax.Array) -> None:
  """Raises a ValueError unless each is one number, finite and above 0; traced ones pass."""
  scalar(**hyper)
  for name, value in hyper.items():
    if not isinstance(value, jax.Array) and not 0 < value < math.inf:
      raise ValueError(f'{name}={value} is not a finite number above 0')


def weight(**hyper: float | jax.Array) -> None:
  """Raises a ValueError unless each is one number, finite and at least 0."""
  scalar(**hyper)
  for name, value in hyper.items():
    if not 0 <= value < math.inf:
      raise ValueError(f'{name}={value} is not a finite number of at least 0')


def share(**hyper: float | jax.Array) -> None:
  """Raises a ValueError unless each is one number in [0, 1]; traced ones pass."""
  scalar(**hyper)
  for name, value in hyper.items():
    if not isinstance(value, jax.Array) and not 0 <= value <= 1:
      raise ValueError(f'{name}={value} is not in [0, 1]')


def times(subscripts: str, *arrays: jax.Array) -> jax.Array:
  """Computes an einsum in full precision: TF32 is too coarse for the difference of two results."""
  return jnp.einsum(subscripts, *arrays, precision='highest')


def unit(vectors: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
  """Scales vectors to length 1; a zero vector and its gradient stay 0."""
  squares = jnp.sum(jnp.square(vectors), axis=axis, keepdims=True)
  zero = squares < 1e-24      # the norm 1e-12 at which others stop dividing, too
  # The inner `where` keeps the gradient of a zero vector 0: the outer one alone would leave it NaN.
  return jnp.where(zero, 0, vectors / jnp.sqrt(jnp.where(zero, 1, squares)))


def log_probabilities(logits, temperature):
  """Computes log-probabilities, of at least log(1e-30)."""
  positive(temperature=temperature)
  log = jax.nn.log_softmax(wide(logits) / temperature)
  return jnp.where(jnp.isneginf(log), LOG_MIN_PROBABILITY, log)


def logs_of_both(student, teacher, temperature):
  """Returns `log_probabilities` of student and teacher, which must have one shape."""
  return tuple(log_probabilities(z, temperature) for z in pair(student, teacher))


def kl(log_a: Float[Array, '*b v'], log_b: Float[Array, '*b v']) -> Float[Array, '*b']:
  """Returns KL(a || b), given log-probabilities."""
  return jnp.sum(jnp.exp(log_a) * (log_a - log_b), axis=-1)


def between(student, teacher, t, temperature):
  """Returns the log-probabilities of TAID's mixture at t, and the student's."""
  share(t=t)
  log_q, log_p = logs_of_both(student, teacher, temperature)
  return jax.nn.log_softmax((1 - t) * jax.lax.stop_gradient(log_q) + t * log_p), log_q


def bank_cosines(student, teacher, where, id, bank, places, draws) -> jax.Array:
  """Returns cosines [2 b 1+K] of student's and teacher's vectors with rows of the other's bank.

  The first row is the example itself, the others are its K negatives. The products with the whole
  bank are computed and these are taken of them, which moves fewer bytes than gathering K rows of d
  numbers for each example.
  """
  n = bank.shape[1]
  vectors = unit(jnp.where(where[:, None] > 0, jnp.stack(pair(student, teacher)), 0))
  row, first, size = places[id].T[..., None]            # each [b 1]
  # The rows of a class are side by side: an example's negatives are all others, counted around.
  negatives = (first + size + (draws % (n - size).astype(jnp.uint32)).astype(jnp.int32)) % n
  chosen = jnp.concatenate([row, negatives], axis=1)
  cosines = times('vbd,vnd->vbn', vectors, jax.lax.stop_gradient(bank[::-1]))
  return jnp.take_along_axis(cosines, jnp.broadcast_to(chosen, (2, *chosen.shape)), axis=-1)


def log_mean(scores, where) -> jax.Array:
  """Returns log mean exp(scores) over the examples that count, [2]; +inf if none counts."""
  counted = (where > 0)[:, None]
  total = jax.nn.logsumexp(jnp.where(counted, scores, -1e9), axis=(1, 2))
  number = jnp.sum(counted) * scores.shape[-1]
  return jnp.where(number > 0, total - jnp.log(jnp.maximum(number, 1)), jnp.inf)
