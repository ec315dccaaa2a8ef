"""Teachers: frozen modules whose outputs are views.

A teacher runs in evaluation mode, under `stop_gradient`, outside the differentiated function.
Its weights are an argument of the step: never a constant of it, never donated, never saved
with the student (their sha256 is).
"""
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from distill.models.pure import Flat, Pure
from distill.types import Batch, Outputs

Weights = tuple[Flat, Flat]        # parameters and the rest
DTYPES = ('float32', 'bfloat16')    # that models compute in


@dataclasses.dataclass(frozen=True)
class Teacher:
  """A module and how to run it.

  `microbatch` is the largest number of examples it takes at once (0: the whole batch), so the
  student's batch can be larger than what fits beside the teacher. `dtype` is what it computes in.
  """
  name: str
  model: Pure
  dtype: str = 'float32'
  microbatch: int = 0

  def __post_init__(self):
    if self.dtype not in DTYPES:
      raise ValueError(f'dtype={self.dtype!r} is not one of {", ".join(DTYPES)}')
    if self.microbatch < 0:
      raise ValueError(f'microbatch={self.microbatch} must be 0 or more')

  def __call__(self, weights: Weights, batch: Batch) -> Outputs:
    params, rest = cast(weights, self.dtype)
    size = len(batch['valid'])
    step = self.microbatch or size
    parts = [self.model(params, rest, jax.tree.map(lambda x, i=i: x[i:i + step], dict(batch)),
                        train=False, key=None)[0] for i in range(0, size, step)]
    return jax.lax.stop_gradient(joined(parts))


def outputs(teachers: tuple[Teacher, ...], weights: Mapping[str, Weights],
            batch: Batch) -> dict[str, Outputs]:
  """The view of every teacher."""
  return {teacher.name: teacher(weights[teacher.name], batch) for teacher in teachers}


def joined(parts: list[Outputs]) -> Outputs:
  """Outputs of consecutive micro-batches as one; `weights/…` are the same in each."""
  if len(parts) == 1:
    return parts[0]
  return {name: parts[0][name] if name.startswith('weights/')
          else jnp.concatenate([part[name] for part in parts]) for name in parts[0]}


def cast(tree, dtype: str):
  """Floating-point leaves in `dtype`."""
  return jax.tree.map(
      lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)
