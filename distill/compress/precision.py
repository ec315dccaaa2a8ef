"""Weights in fewer bits of floating point."""
import jax
import jax.numpy as jnp
import numpy as np

from distill.compress import Weights
from distill.models.functional import Functional
from distill.types import Status, Stop

HALVES = 'bfloat16', 'float16'


class Half:
  """Weights stored in 16 bits, rounded to the nearest; the model still computes in float32.

  `dtype` is 'bfloat16' (8 bits of exponent, as float32 has, and 8 of precision) or 'float16' (5
  and 11), which can't hold a weight beyond 65,504. Batch statistics are rounded too.
  """

  def __init__(self, *, dtype: str = 'bfloat16'):
    if dtype not in HALVES:
      raise ValueError(f'dtype={dtype!r} is not one of {", ".join(HALVES)}')
    self.dtype, self.about = dtype, f'weights stored in {dtype}'

  def __call__(self, model: Functional, weights: Weights) -> tuple[Functional, Weights]:
    def half(path, array):
      if not jnp.issubdtype(array.dtype, jnp.floating):
        return array
      with np.errstate(over='ignore'):          # larger values become inf
        rounded = np.asarray(array).astype(jnp.dtype(self.dtype))
      if not np.isfinite(rounded.astype(np.float32)).all():
        name = jax.tree_util.keystr(path[1:], simple=True, separator='/')
        raise Stop(Status.NONFINITE, f'{name} holds {np.abs(np.asarray(array)).max():.4g}, which '
                   f'{self.dtype} has no place for: take bfloat16')
      return rounded
    return model, jax.tree.map_with_path(half, weights)
