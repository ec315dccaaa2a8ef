"""What may happen to a batch inside the step: `(batch, key, ask) -> batch`, pure.

It returns every field that it was given, changed or not, and may add others. One that asks teachers
names the outputs that it reads by its attribute `reads`, paths such as 'TEACHER/logits', as a carry
does: the stage then has these teachers, and the baseline, which has none, goes without it.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from distill.models.functional import Flat
from distill.types import Batch, Outputs, Status, Stop


class Teachers(dict):
  """The teachers of a stage as calls, by name; `where` begins the line about a missing one."""

  def __init__(self, calls: Mapping[str, Callable[[Batch], Outputs]], where: str):
    super().__init__(calls)
    self.where = where

  def __missing__(self, name: str):
    raise Stop(Status.MISFIT, f'{self.where} asks the teacher {name!r}, and its stage has '
               f'{", ".join(self) or "none"}: name what it reads of teachers in its attribute '
               f"`reads`, as ('{name}/logits',)")


@dataclasses.dataclass(frozen=True)
class Ask:
  """What an augmentation may ask of the step that it is part of.

  Answers are given with the parameters that the step began with, in evaluation mode: without
  dropout, and with the running statistics of batches. The authors' code of TRADES (Zhang 2019)
  makes its adversarial examples in this mode too.

    student(batch)       outputs of the student's model
    teachers[T](batch)   outputs of a teacher of the stage, under stop_gradient
    loss(batch)          the step's objective for this batch, with its weights: a number that can be
                         differentiated with regard to the floating fields of the batch
    params()             parameters of the student's model
    probe                how the inputs of the student's model are perturbed, None if they can't be
    where                the augmentation's node, for error lines
  """
  student: Callable[[Batch], Outputs]
  teachers: Mapping[str, Callable[[Batch], Outputs]]
  loss: Callable[[Batch], jax.Array]
  params: Callable[[], Flat]
  probe: Any = None
  where: str = ''


def augmented(augment: Sequence[Callable], batch: Batch, key: jax.Array, ask: Ask,
              where: str) -> Batch:
  """Applies augmentations in their order, each with a key of its own.

  `where` is the stage's node. One that drops a field, or changes the number of rows, is an error.
  """
  for i, change in enumerate(augment):
    place = f'{where}: augment[{i}]'
    found = change(batch, jax.random.fold_in(key, i), dataclasses.replace(
        ask, teachers=Teachers(ask.teachers, place), where=place))
    _check(batch, found, place)
    batch = found
  return batch


def _check(before: Batch, after: Any, where: str) -> None:
  """Stops unless an augmentation kept the fields and the rows of a batch."""
  dropped = [name for name in before if name not in after] if isinstance(after, Mapping) else ['']
  if dropped:
    lost = 'returns no batch' if dropped == [''] else f'drops {", ".join(dropped)}'
    raise Stop(Status.MISFIT, f'{where} {lost}: return {{**batch, …}}, with all fields that it was '
               'given')
  rows = len(before['valid'])
  for name, value in after.items():
    if value.shape[:1] != (rows,):
      raise Stop(Status.MISFIT, f'{where} gives {name} {list(value.shape)}, and the batch has '
                 f'{rows} rows: it must change neither their number nor their order')
