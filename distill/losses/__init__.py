"""Losses: pure functions, arrays in, values out.

A loss takes its arrays by their roles (`student`, `teacher`, `label`, and `where`, a 0/1 mask
[b s], if it mixes positions) and its hyper-parameters by keyword. It computes in float32 or
better and returns one value for each example or position, whose mean is the paper's loss.
Averaging, masking and weighting belong to `distill.objective`, so they are right once, for all.

A hyper-parameter out of range, and shapes that differ where they must not, are a ValueError when
the loss is traced: [8, 10] against [1, 10] would otherwise broadcast in silence.
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp


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
