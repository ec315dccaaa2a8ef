"""The baseline: the student as it would be without a teacher."""
import dataclasses

from distill import objective
from distill.train import Stage


def without(stage: Stage, teachers: set[str], name: str) -> Stage | None:
  """The baseline, called `name`: the same student with the terms that read no teacher, at weight 1.

  That is without the weights, too, that a carry makes of terms, and without augments that ask a
  teacher. Nothing if no term is left, or if there was no teacher.
  """
  parts = {'projected': stage.student.projectors, 'carry': stage.carries}
  weights = tuple(f'carry/{name}/' for name, carry in stage.carries.items()
                  if any(path.startswith('terms/') for path in objective.path_tuple(carry.reads)))
  terms = [dataclasses.replace(term, weight=lambda step: 1.0,
                               scale='' if term.scale.startswith(weights) else term.scale)
           for term in stage.terms]
  gone, before = {f'{teacher}/' for teacher in teachers}, None
  taught = lambda paths: any(f'{path}/'.startswith(tuple(gone)) for path in paths)
  while gone != before:             # parts read each other, terms, and terms them
    before, gone = gone, gone | {
        f'{view}/{name}/' for view, of in parts.items() for name, part in of.items()
        if taught(objective.path_tuple(part.reads))} | {
        path for term in terms if taught(term.paths)
        for path in (f'terms/{term.name}/', f'gradients/{term.group}/')}
  kept = [term for term in terms if not taught(term.paths)]
  if not kept or not teachers:
    return None
  read = {path for term in kept for path in term.paths}
  left = lambda view, parts: {name: part for name, part in parts.items()
                              if objective.names_view(view, name, read)}
  carries = left('carry', stage.carries)
  read |= {path for carry in carries.values() for path in objective.path_tuple(carry.reads)}
  student = dataclasses.replace(stage.student,
                                projectors=left('projected', stage.student.projectors))
  shapes = student.shapes()
  start = lambda weights: tuple({path: value for path, value in part.items() if path in wanted}
                                for part, wanted in zip(stage.start(weights), shapes, strict=True))
  augment = tuple(change for change in stage.augment
                  if not taught(objective.path_tuple(getattr(change, 'reads', ()))))
  return dataclasses.replace(stage, name=name, student=student, start=start, teachers=(),
                             carries=carries, terms=tuple(kept), augment=augment)
