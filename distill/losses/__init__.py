"""Losses: pure functions, arrays in, values out.

A loss takes its arrays by their roles (`student`, `teacher`, `label`, and `where`, a 0/1 mask
[b s], if it mixes positions) and its hyper-parameters by keyword. It computes in float32 or
better and returns one value for each example or position, whose mean is the paper's loss.
Averaging, masking and weighting belong to `distill.objective`, so they are right once, for all.

A loss that mixes examples is marked `@mixing`. It takes `where` [b], the examples that count, and
its values are 0 for the others; their mean over the examples that count is the paper's loss on
these alone. Such a term can't be accumulated over micro-batches, and says so.

A hyper-parameter out of range, and shapes that differ where they must not, are a ValueError when
the loss is traced: [8, 10] against [1, 10] would otherwise broadcast in silence.
"""
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp


def mixing(loss: Callable) -> Callable:
  """Marks a loss whose value of one example depends on others."""
  loss.mixing = True
  return loss


def _pair(student: jax.Array, teacher: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Student and teacher, which must have one shape, wide enough to compute with."""
  _agree(student=student.shape, teacher=teacher.shape)
  return _wide(student), _wide(teacher)


def _wide(array: jax.Array) -> jax.Array:
  return array.astype(jnp.promote_types(array.dtype, jnp.float32))


def _agree(**shapes: Sequence[int]) -> None:
  """ValueError that names every shape, unless all are equal."""
  if len(set(shapes.values())) > 1:
    named = ', '.join(f'{name} {list(shape)}' for name, shape in shapes.items())
    raise ValueError(f'shapes must be equal: {named}')


def _scalar(**hyper: float | jax.Array) -> None:
  """ValueError unless each is one number: as many as classes would broadcast over these."""
  for name, value in hyper.items():
    if jnp.ndim(value):
      raise ValueError(f'{name} must be one number, not {list(jnp.shape(value))}')


def _positive(**hyper: float | jax.Array) -> None:
  """ValueError unless each is one number, which is finite and above 0 where it isn't traced."""
  _scalar(**hyper)
  for name, value in hyper.items():
    if not isinstance(value, jax.Array) and not 0 < value < math.inf:
      raise ValueError(f'{name}={value} is not a finite number above 0')


def _weight(**hyper: float | jax.Array) -> None:
  """ValueError unless each is one number, finite and at least 0."""
  _scalar(**hyper)
  for name, value in hyper.items():
    if not 0 <= value < math.inf:
      raise ValueError(f'{name}={value} is not a finite number of at least 0')


def _share(**hyper: float | jax.Array) -> None:
  """ValueError unless each is one number, which is in [0, 1] where it isn't traced."""
  _scalar(**hyper)
  for name, value in hyper.items():
    if not isinstance(value, jax.Array) and not 0 <= value <= 1:
      raise ValueError(f'{name}={value} is not in [0, 1]')


def _times(subscripts: str, *arrays: jax.Array) -> jax.Array:
  """The einsum in full precision: TF32 is too coarse for the difference of two of them."""
  return jnp.einsum(subscripts, *arrays, precision='highest')


def _unit(vectors: jax.Array, axis: int | tuple[int, ...] = -1) -> jax.Array:
  """Vectors at length 1; a zero vector stays 0, and so does its gradient."""
  squares = jnp.sum(jnp.square(vectors), axis=axis, keepdims=True)
  zero = squares < 1e-24      # the norm 1e-12 at which others stop dividing, too
  # The inner `where` keeps the gradient of a zero vector 0: the outer one alone would leave it NaN.
  return jnp.where(zero, 0, vectors / jnp.sqrt(jnp.where(zero, 1, squares)))
