"""Dynamic loss scaling, for training in float16.

Small gradients are 0 in float16, so the gradient of a multiple of the loss is computed, and divided
by the same factor in float32 (Micikevicius 2018, §3.2). A step whose gradients overflow is skipped
and halves the factor; many good steps in a row double it.
"""
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from distill.models import precision

# Powers of 2, by which scaling rounds nothing.
START, LEAST, MOST = 2.0**15, 1.0, 2.0**24
GROW_AFTER = 2_000        # good steps in a row


@flax.struct.dataclass
class LossScale:
  """The factor of the loss, and how many steps in a row were good since it changed."""
  factor: jax.Array       # float32
  good_steps: jax.Array   # int32


def initial(dtype: str) -> LossScale | None:
  """Returns the loss scale before step 0, or None for a precision that needs none."""
  if dtype != precision.FLOAT16:
    return None
  return LossScale(jnp.float32(START), jnp.int32(0))


def scale(tree: Any, by: LossScale | None) -> Any:
  """Multiplies a tree by the factor; without a loss scale it is unchanged."""
  return tree if by is None else jax.tree.map(lambda x: x * by.factor.astype(x.dtype), tree)


def unscale(tree: Any, by: LossScale | None) -> Any:
  """Divides a tree of float32 by the factor; without a loss scale it is unchanged."""
  return tree if by is None else jax.tree.map(lambda x: x / by.factor.astype(x.dtype), tree)


def may_fall(current: LossScale) -> jax.Array:
  """Tells whether a smaller factor is left to try after an overflow."""
  return current.factor > LEAST


def update(current: LossScale, sound: jax.Array) -> LossScale:
  """Returns the loss scale after a step; `sound` tells whether all its numbers were finite."""
  good = jnp.where(sound, current.good_steps + 1, 0)
  grows = good >= GROW_AFTER
  factor = jnp.where(grows, jnp.minimum(2 * current.factor, MOST), current.factor)
  factor = jnp.where(sound, factor, jnp.maximum(current.factor / 2, LEAST))
  return LossScale(factor, jnp.where(grows, 0, good))


def step_metrics(metrics: dict[str, tuple], current: LossScale,
                 sound: jax.Array) -> dict[str, tuple]:
  """Returns a step's {name: (sum, count)} with the factor; a skipped step counts for no other."""
  zero = lambda x: jnp.where(sound, x, 0)
  return {**{name: (zero(total), zero(count)) for name, (total, count) in metrics.items()},
          'loss_scale': (current.factor, 1.0)}
