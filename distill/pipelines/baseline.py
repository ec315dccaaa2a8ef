"""The baseline: the student as it would be without a teacher."""
import dataclasses

from distill import objective
from distill.train import Stage


def without(stage: Stage, teachers: set[str]) -> Stage | None:
  """The baseline: the same student with the terms that read no teacher, each at weight 1.

  Nothing if no term is left, or if there was no teacher.
  """
  taught = lambda path: path.partition('/')[0] in teachers
  gone = [(view, name) for view, parts in (('carry', stage.carries),
                                           ('projected', stage.student.projectors))
          for name, part in parts.items() if any(map(taught, objective.paths(part.reads)))]
  kept = [term for term in stage.terms if not any(map(taught, term.paths))
          and not any(objective.among(view, name, term.paths) for view, name in gone)]
  if not kept or not teachers:
    return None
  read = {path for term in kept for path in term.paths}
  left = lambda view, parts: {name: part for name, part in parts.items()
                              if objective.among(view, name, read)}
  student = dataclasses.replace(stage.student,
                                projectors=left('projected', stage.student.projectors))
  shapes = student.shapes()
  start = lambda: tuple({path: value for path, value in part.items() if path in wanted}
                        for part, wanted in zip(stage.start(), shapes, strict=True))
  return dataclasses.replace(
      stage, name=stage.name.replace('student', 'baseline', 1), student=student, start=start,
      teachers=(), weights={}, carries=left('carry', stage.carries),
      terms=tuple(dataclasses.replace(term, weight=lambda step: 1.0) for term in kept))
