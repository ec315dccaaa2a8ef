"""Augmentations: pure functions `(batch, key, ask) -> batch` that run in the train step.

An augmentation returns every field that it was given, changed or not, and may add others. An
augmentation that asks teachers names the outputs that it reads by its attribute `reads`, paths such
as 'TEACHER/logits', as a carry does: the stage then has these teachers. The baseline has none, and
trains without the augmentation.

An augmentation with `adds_only = True` returns every given field unchanged and only adds others,
and asks teachers about the unchanged batch. A stage may have it together with a teacher whose
outputs are stored.
"""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from distill.models.functional import Flat
from distill.types import Batch, Outputs, Status, Stop


class Teachers(dict):
  """The teachers of a stage as functions, by name; `where` begins the line about a missing one."""

  def __init__(self, calls: Mapping[str, Callable[[Batch], Outputs]], where: str):
    super().__init__(calls)
    self.where = where

  def __missing__(self, name: str):
    raise Stop(Status.MISFIT, f'{self.where} asks the teacher {name!r}, and its stage has '
               f'{", ".join(self) or "none"}: name what it reads of teachers in its attribute '
               f"`reads`, as ('{name}/logits',)")


@dataclasses.dataclass(frozen=True)
class Ask:
  """The functions of its step that an augmentation may call.

  They use the parameters before the step, in evaluation mode: without dropout, and with running
  batch statistics. The authors' code of TRADES (Zhang 2019) makes its adversarial examples in this
  mode too.

    student(batch)       outputs of the student's model
    teachers[T](batch)   outputs of a teacher of the stage, under stop_gradient
    loss(batch)          the step's objective for this batch, with its weights: a number that can be
                         differentiated with respect to the floating fields of the batch
    params()             parameters of the student's model
    probe                perturbs the inputs of the student's model; None if it can't
    where                the augmentation's node, for error lines
  """
  student: Callable[[Batch], Outputs]
  teachers: Mapping[str, Callable[[Batch], Outputs]]
  loss: Callable[[Batch], jax.Array]
  params: Callable[[], Flat]
  probe: Any = None
  where: str = ''


def apply_augments(augment: Sequence[Callable], batch: Batch, key: jax.Array, ask: Ask,
                   where: str) -> Batch:
  """Applies augmentations in their order, each with its own key.

  `where` is the stage's node. It is an error to drop a field or to change the number of rows.
  """
  for i, change in enumerate(augment):
    place = f'{where}: augment[{i}]'
    found = change(batch, jax.random.fold_in(key, i), dataclasses.replace(
        ask, teachers=Teachers(ask.teachers, place), where=place))
    _check(batch, found, place, getattr(change, 'adds_only', False))
    batch = found
  return batch


def _check(before: Batch, after: Any, where: str, adds_only: bool) -> None:
  """Stops unless an augmentation kept the fields and the rows of a batch.

  With `adds_only` the arrays, too, must be those that it was given.
  """
  dropped = [name for name in before if name not in after] if isinstance(after, Mapping) else ['']
  if dropped:
    lost = 'returns no batch' if dropped == [''] else f'drops {", ".join(dropped)}'
    raise Stop(Status.MISFIT, f'{where} {lost}: return {{**batch, …}}, with all fields that it was '
               'given')
  changed = [name for name, value in before.items() if after[name] is not value]
  if adds_only and changed:
    raise Stop(Status.MISFIT, f'{where} changes {", ".join(changed)}, and its attribute adds_only '
               'says that it only adds fields: return {**batch, …}, or leave out the attribute')
  rows = len(before['valid'])
  for name, value in after.items():
    if value.shape[:1] != (rows,):
      raise Stop(Status.MISFIT, f'{where} gives {name} {list(value.shape)}, and the batch has '
                 f'{rows} rows: it must change neither their number nor their order')
