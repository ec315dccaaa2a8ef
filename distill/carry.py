"""What methods remember between steps; part of State, so saved and resumed with it.

A carry is the view `carry/NAME`. `init(key, shapes)` gives its first value from the shapes of the
views, `update(value, views, step)` the next one, after the student's update.
"""
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from distill.objective import Views, at


class Carry(Protocol):
  """The contract."""

  def init(self, key: jax.Array, shapes: Mapping[str, Mapping[str, Any]]) -> Any: ...

  def update(self, value: Any, views: Views, step: jax.Array) -> Any: ...


class Mean:
  """A moving mean of a view over the batch's valid rows: m ← decay·m + (1 − decay)·mean.

  With `reads='TEACHER/logits'` it is DINO's centre (Caron 2021, eq. 4). Starts at 0.
  """

  def __init__(self, *, reads: str, decay: float = 0.9):
    if not 0 <= decay < 1:
      raise ValueError(f'decay={decay} is not in [0, 1)')
    self.reads, self.decay = reads, decay

  def init(self, key: jax.Array, shapes: Mapping[str, Mapping[str, Any]]) -> jax.Array:
    del key
    return jnp.zeros(at(shapes, self.reads, 'carry: reads').shape[1:], jnp.float32)

  def update(self, value: jax.Array, views: Views, step: jax.Array) -> jax.Array:
    del step
    read = at(views, self.reads, 'carry: reads').astype(jnp.float32)
    valid = views['batch']['valid']
    mean = jnp.tensordot(valid, read, 1) / jnp.maximum(jnp.sum(valid), 1.0)
    return self.decay * value + (1 - self.decay) * mean
