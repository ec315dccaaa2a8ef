"""Heads of models, and which ones a run reads."""
from collections.abc import Collection, Sequence
from typing import Any

from distill import objective
from distill.models.functional import Functional
from distill.pipelines import nodes
from distill.tasks import Task
from distill.types import Status, Stop


def idle(task: Task, model: Functional, paths: Collection[str] = (),
         views: Sequence[str] = ('student', 'self')) -> tuple[str, ...]:
  """Returns the heads of a model that neither the task nor any path of these views reads."""
  parted = [path.partition('/') for path in paths]
  read = {*task.outputs, *(name for view, _, name in parted if view in views)}
  return tuple(part for part, outputs in model.traits.heads.items()
               if part not in task.parts and read.isdisjoint(outputs)
               and not objective.names_view('weights', part, read))


def check_heads(name: str, spec: nodes.TeacherNode, fresh: Collection[str],
                idle: Collection[str], dataset: Any) -> None:
  """Stops if a loaded teacher lacks a head that isn't idle; `fresh` are parameters it lacks."""
  lacks = {path.split('/')[0] for path in fresh} - ({*idle} - {*spec.model})
  if lacks:
    raise Stop(Status.MISFIT, f'teachers.{name}: {spec.init} has no module {min(lacks)!r} for '
               f'{dataset.name}: give teachers.{name}.train, to fine-tune it, or a checkpoint that '
               'has one')
