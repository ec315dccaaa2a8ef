"""Teachers: sources of outputs that are views; most are frozen modules.

A module runs in evaluation mode, under `stop_gradient`, outside the differentiated function.
Its weights are an argument of the step: never a constant of it, never donated, never saved
with the student (their sha256 is).
"""
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from distill.models import precision
from distill.models.functional import Flat, Functional, check_computing
from distill.sharding import Layout
from distill.types import Batch, Outputs, Status, Stop

Weights = tuple[Flat, Flat]        # parameters and the rest


class Teacher(Protocol):
  """A source of outputs, which are the view `NAME/…` of a step."""
  name: str

  @property
  def shapes(self) -> tuple[Any, Any]:
    """The shapes of the weights that a step takes for this teacher."""

  def weights(self, given: Weights, carry: Mapping[str, Any], rest: Flat) -> Weights:
    """Returns its weights in a step: those given, or some that the student's state holds."""

  def __call__(self, weights: Weights, batch: Batch, layout: Layout | None = None) -> Outputs:
    """Returns its outputs for a prepared batch."""


@dataclasses.dataclass(frozen=True)
class Live:
  """A teacher that is a module, run in every step.

  `microbatch` is the largest number of examples that it takes at once (0: the whole batch), but at
  least one on every device: so the student's batch can be larger than fits beside the teacher. It
  computes in `dtype`. `reads` maps fields of the model to fields of the batch that it takes
  instead; these are stored fields, which `prepare` turns into the model's.
  """
  name: str
  model: Functional
  dtype: str = 'float32'
  microbatch: int = 0
  reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
  prepare: Callable[[Batch], Batch] | None = None

  def __post_init__(self):
    if self.dtype not in precision.DTYPES:
      raise ValueError(f'dtype={self.dtype!r} is not one of {", ".join(precision.DTYPES)}')
    check_computing(self.model, f'teachers.{self.name}', dtype=self.dtype)
    if self.microbatch < 0:
      raise ValueError(f'microbatch={self.microbatch} must be 0 or more')

  @property
  def shapes(self) -> tuple[Any, Any]:
    return self.model.shapes

  def weights(self, given: Weights, carry: Mapping[str, Any], rest: Flat) -> Weights:
    return given

  def __call__(self, weights: Weights, batch: Batch, layout: Layout | None = None) -> Outputs:
    if self.reads:
      batch = {**batch, **{field: batch[path] for field, path in self.reads.items()}}
      batch = self.prepare(batch) if self.prepare else batch
    params, rest = precision.cast(weights, self.dtype)
    size, replicas = len(batch['valid']), 1
    if layout:
      params, replicas = layout.all_gather(params), layout.replicas
    # The fewest parts that are small enough and equal on every device.
    each = size // replicas
    fewest = min(-(-size // self.microbatch), each) if self.microbatch else 1
    n = next(n for n in range(fewest, each + 1) if each % n == 0)
    outputs = [self.model(params, rest, microbatch(batch, i, n), train=False, key=None,
                          dtype=self.dtype)[0] for i in range(n)]
    return jax.lax.stop_gradient(join(outputs))


@dataclasses.dataclass(frozen=True)
class Moving(Live):
  """A teacher that is the student's model at a moving average of its parameters.

  `carry` names the `carry.Average` that holds them (mean teacher, Tarvainen 2017). Running
  statistics of batches are the student's.
  """
  carry: str = ''

  @property
  def shapes(self) -> tuple[Any, Any]:
    return {}, {}

  def weights(self, given: Weights, carry: Mapping[str, Any], rest: Flat) -> Weights:
    return tuple({path.removeprefix('model/'): value for path, value in flat.items()
                  if path.startswith('model/')} for flat in (carry[self.carry], rest))


@dataclasses.dataclass(frozen=True)
class Cached:
  """A teacher whose outputs the data set has, as the fields `NAME/…` of every batch."""
  name: str

  @property
  def shapes(self) -> tuple[Any, Any]:
    return {}, {}

  def weights(self, given: Weights, carry: Mapping[str, Any], rest: Flat) -> Weights:
    return given

  def __call__(self, weights: Weights, batch: Batch, layout: Layout | None = None) -> Outputs:
    prefix = f'{self.name}/'
    outputs = {field.removeprefix(prefix): value for field, value in batch.items()
               if field.startswith(prefix)}
    if not outputs:
      raise Stop(Status.MISFIT, f"teachers.{self.name}.source='fields': the batch has no field "
                 f'{prefix}…; it has {", ".join(batch)}')
    return jax.lax.stop_gradient(outputs)


def current_weights(teachers: tuple[Teacher, ...], given: Mapping[str, Weights],
                    carry: Mapping[str, Any], rest: Flat) -> dict[str, Weights]:
  """Returns every teacher's weights in a step; carry and rest are the student's."""
  return {teacher.name: teacher.weights(given[teacher.name], carry, rest) for teacher in teachers}


def outputs(teachers: tuple[Teacher, ...], weights: Mapping[str, Weights], batch: Batch,
            layout: Layout | None = None) -> dict[str, Outputs]:
  """Computes the outputs of every teacher, by its name."""
  return {teacher.name: teacher(weights[teacher.name], batch, layout) for teacher in teachers}


def microbatch(tree, i: int, n: int):
  """Returns micro-batch i of n: every n-th row of all arrays but `weights/…`, which have no rows.

  Consecutive rows would lie on a few devices only; of every n-th row each device has some.
  """
  if n == 1:
    return tree
  if isinstance(tree, Mapping):
    return {name: x if name.startswith('weights/') else microbatch(x, i, n)
            for name, x in tree.items()}
  return tree.reshape(-1, n, *tree.shape[1:])[:, i]


def join(parts: list[Outputs]) -> Outputs:
  """Joins the outputs of all micro-batches; `weights/…` are the same in each."""
  if len(parts) == 1:
    return parts[0]
  whole = lambda arrays: jnp.stack(arrays, 1).reshape(-1, *arrays[0].shape[1:])
  return {name: value if name.startswith('weights/') else whole([p[name] for p in parts])
          for name, value in parts[0].items()}
