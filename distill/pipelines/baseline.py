"""The baseline: the student as it would be without a teacher."""
import dataclasses

from distill import objective
from distill.train import Stage


def without(stage: Stage, teachers: set[str]) -> Stage | None:
  """The baseline: the same student with the terms that read no teacher, each at weight 1.

  Nothing if no term is left, or if there was no teacher.
  """
  gone = {f'{teacher}/' for teacher in teachers}
  taught = lambda paths: any(f'{path}/'.startswith(tuple(gone)) for path in paths)
  for view, parts in (('projected', stage.student.projectors), ('carry', stage.carries)):
    gone |= {f'{view}/{name}/' for name, part in parts.items()
             if taught(objective.paths(part.reads))}
  kept = [term for term in stage.terms if not taught(term.paths)]
  if not kept or not teachers:
    return None
  read = {path for term in kept for path in term.paths}
  left = lambda view, parts: {name: part for name, part in parts.items()
                              if objective.among(view, name, read)}
  carries = left('carry', stage.carries)
  read |= {path for carry in carries.values() for path in objective.paths(carry.reads)}
  student = dataclasses.replace(stage.student,
                                projectors=left('projected', stage.student.projectors))
  shapes = student.shapes()
  start = lambda: tuple({path: value for path, value in part.items() if path in wanted}
                        for part, wanted in zip(stage.start(), shapes, strict=True))
  return dataclasses.replace(
      stage, name=stage.name.replace('student', 'baseline', 1), student=student, start=start,
      teachers=(), weights={}, carries=carries,
      terms=tuple(dataclasses.replace(term, weight=lambda step: 1.0) for term in kept))
