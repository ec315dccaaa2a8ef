"""Checks of a stage's terms and augments, made before anything is compiled."""
from collections.abc import Mapping, Sequence
from typing import Any

from distill import objective
from distill.teachers import Cached, Teacher
from distill.types import Field, Status, Stop


def check_labels(terms: Sequence[objective.Term], counts: Mapping[str, int],
                 fields: Mapping[str, Field]) -> None:
  """Stops unless terms that read targets leave out the examples whose targets may not be seen.

  `counts` are the numbers of examples, by what they are called, and of `labels`. A mask that is a
  target, 0 where it isn't known, leaves these examples out too; neither the label nor what the
  loss reads is such a mask.
  """
  targets = {f'batch/{name}': field for name, field in fields.items() if field.target}
  masks = {path for path, field in targets.items() if not field.pad and path != 'batch/label'}
  noun, n = next((noun, n) for noun, n in counts.items() if noun != 'labels')
  for term in terms:
    read = [path for path in term.paths if path in targets]
    allowed = {'batch/labelled', *(masks - {*term.reads.values()})}
    if counts['labels'] < n and read and term.mask not in allowed:
      raise Stop(Status.CONFIG, f'{term.where} reads {read[0]}, but {counts["labels"]:,} of '
                 f"{n:,} {noun} have one: give it mask='batch/labelled'")


def check_inputs(augment: Sequence[Mapping[str, Any]], teachers: Sequence[Teacher],
                 where: str) -> None:
  """Stops if a stage changes the inputs to which a teacher's stored outputs belong."""
  cached = [teacher.name for teacher in teachers if isinstance(teacher, Cached)]
  if augment and cached:
    raise Stop(Status.CONFIG, f'{where}.augment[0]={augment[0]["name"]!r} changes the inputs, but '
               f"teachers.{cached[0]}.source='fields' holds outputs for unchanged inputs: remove "
               'the augments, or take a teacher that is a model')
