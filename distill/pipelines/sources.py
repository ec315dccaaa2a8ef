"""Sources of views that a stage reads: teachers without a model, augments, projectors' inputs."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill import lookup, objective
from distill.modalities import Modality
from distill.models.functional import Functional
from distill.pipelines import checks, nodes
from distill.pipelines.judge import Judge
from distill.teachers import Cached, Moving, Teacher
from distill.types import Batch, Schedule, Status, Stop


def moving_averages(specs: Mapping[str, nodes.TeacherNode]) -> set[str]:
  """Returns the names of the teachers that are averages of the student."""
  found = {name for name, spec in specs.items() if spec.source.startswith('carry:')}
  for name in found:
    check_modelless(specs[name], f"teachers.{name}.source={specs[name].source!r}: its model is the "
                    "student's")
  return found


def moving_teacher(name: str, spec: nodes.TeacherNode, config: nodes.Config, model: Functional,
                   judge: Judge, prepare: Callable[[Batch], Batch]) -> Moving:
  """Returns a teacher that is an average of the student; `model` is the student's model."""
  where, carry = f'teachers.{name}', spec.source.removeprefix('carry:')
  checks.check_average(carry, config.carry, where)
  checks.check_reads(spec.reads, judge.dataset, ('train',), where)
  return lookup.call(Moving, {'dtype': spec.dtype, 'microbatch': spec.microbatch}, where, name=name,
                     model=model, reads=spec.reads, prepare=prepare, carry=carry)


def cached_teacher(name: str, spec: nodes.TeacherNode) -> Cached:
  """Returns a teacher whose outputs are fields of the data."""
  where = f"teachers.{name}.source='fields': its outputs are the data's"
  check_modelless(spec, where)
  if spec.reads:
    raise Stop(Status.CONFIG, f'{where}, so it takes no reads')
  return Cached(name)


def check_modelless(spec: nodes.TeacherNode, where: str) -> None:
  """Stops if a teacher that needs no model is given a model, weights or training."""
  if spec.init or spec.train or spec.model:
    raise Stop(Status.CONFIG, f'{where}, so it takes neither model nor init nor train')
  check_untrained(spec, where)


def check_untrained(spec: nodes.TeacherNode, where: str) -> None:
  """Stops if a teacher that isn't trained here has nodes that only training reads."""
  for key in 'before', 'projectors', 'carry', 'schedules', 'frozen':
    if getattr(spec, key):
      raise Stop(Status.CONFIG, f'{where}, and {key} is for one that is trained here')


def build_augments(specs: Sequence, where: str,
             facts: Mapping[str, Any]) -> tuple[tuple[Callable, ...], dict[str, str]]:
  """Builds a stage's augments; also returns the paths that they read, each with its node's path."""
  found, paths = [], {}
  for i, node in enumerate(specs):
    place = f'{where}.augment[{i}]'
    found.append(lookup.build('augment', node, place, **facts))
    checks.check_augment(found[-1], f'{place}={node["name"]!r}')
    paths |= dict.fromkeys(objective.path_tuple(getattr(found[-1], 'reads', ())), place)
  return tuple(found), paths


def average_paths(teachers: Sequence[Teacher]) -> set[str]:
  """Returns the paths of the carries that hold moving-average teachers."""
  return {f'carry/{teacher.carry}' for teacher in teachers if isinstance(teacher, Moving)}


def projector_inputs(model: Functional, teachers: Sequence[Teacher],
                     data: Sequence[Mapping[str, Any]], modality: Modality,
                     schedules: Mapping[str, Schedule]) -> dict[str, Any]:
  """Returns the shapes of the views that a learner's projectors may read."""
  batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in data[0].items()}
  batch = dict(jax.eval_shape(modality.prepare, batch))
  student = jax.eval_shape(lambda p, r, b: model(p, r, b, train=False, key=None)[0], *model.shapes,
                           batch)
  schedule = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in schedules}
  params, rest = ({f'model/{path}': x for path, x in part.items()} for part in model.shapes)
  state = {path.removeprefix('carry/'): params for path in average_paths(teachers)}, rest
  answer = lambda teacher: jax.eval_shape(
      lambda w, s, b: teacher(teacher.weights(w, *s), b), teacher.shapes, state, batch)
  return {'student': student, 'self': student, 'batch': batch, 'schedule': schedule,
          **{teacher.name: answer(teacher) for teacher in teachers}}
