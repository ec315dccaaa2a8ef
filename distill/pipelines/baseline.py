"""Baseline: the same student without a teacher."""
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from distill import objective
from distill.train import Stage


def without_teachers(stage: Stage, teachers: set[str], name: str) -> Stage | None:
  """Returns the baseline's stage `name`: only the terms that read no teacher, at weight 1.

  Weights that a carry computes from terms are dropped too, and augments that read a teacher. None
  if no term is left, or if there is no teacher.
  """
  parts = {'projected': stage.student.projectors, 'carry': stage.carries}
  weights = tuple(f'carry/{name}/' for name, carry in stage.carries.items()
                  if any(path.startswith('terms/') for path in objective.path_tuple(carry.reads)))
  terms = [dataclasses.replace(term, weight=lambda step: 1.0,
                               scale='' if term.scale.startswith(weights) else term.scale)
           for term in stage.terms]
  taught = tuple(_taught_paths(parts, terms, teachers))
  kept = [term for term in terms if not _any_under(term.paths, taught)]
  if not kept or not teachers:
    return None
  read = {path for term in kept for path in term.paths}
  still_read = lambda view, parts: {name: part for name, part in parts.items()
                                    if objective.names_view(view, name, read)}
  carries = still_read('carry', stage.carries)
  read |= {path for carry in carries.values() for path in objective.path_tuple(carry.reads)}
  projectors = still_read('projected', stage.student.projectors)
  student = dataclasses.replace(stage.student, projectors=projectors)
  shapes = student.shapes()
  start = lambda weights: tuple({path: value for path, value in part.items() if path in wanted}
                                for part, wanted in zip(stage.start(weights), shapes, strict=True))
  augment = tuple(change for change in stage.augment
                  if not _any_under(objective.path_tuple(getattr(change, 'reads', ())), taught))
  return dataclasses.replace(stage, name=name, student=student, start=start, teachers=(),
                             carries=carries, terms=tuple(kept), augment=augment)


def _taught_paths(parts: Mapping[str, Mapping[str, Any]], terms: Sequence[objective.Term],
                  teachers: set[str]) -> set[str]:
  """Returns prefixes of all paths that depend on a teacher, through parts and terms too.

  `parts` are projectors and carries, by the view that they make. They read each other and terms,
  and terms read them, so the search repeats until it finds no more.
  """
  found, before = {f'{teacher}/' for teacher in teachers}, None
  while found != before:
    before, taught = found, tuple(found)
    for view, several in parts.items():
      found = found | {f'{view}/{name}/' for name, part in several.items()
                       if _any_under(objective.path_tuple(part.reads), taught)}
    for term in terms:
      if _any_under(term.paths, taught):
        found = found | {f'terms/{term.name}/', f'gradients/{term.group}/'}
  return found


def _any_under(paths: Iterable[str], prefixes: tuple[str, ...]) -> bool:
  """Tells whether any path begins with any of the prefixes."""
  return any(f'{path}/'.startswith(prefixes) for path in paths)
