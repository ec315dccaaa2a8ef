"""Checks of a stage's terms, augments and teachers, made before anything is compiled."""
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill import lookup, objective
from distill.data.sets import Dataset
from distill.teachers import Cached, Teacher
from distill.types import Field, Status, Stop


def check_labels(terms: Sequence[objective.Term], counts: Mapping[str, int],
                 fields: Mapping[str, Field]) -> None:
  """Stops unless terms that read targets leave out the examples whose targets may not be seen.

  `counts` are the numbers of examples, by their noun, and of `labels`. A target that is 0 where
  it isn't known may be the mask too, but not the label, nor a field that the loss reads.
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


def check_inputs(augment: Sequence[Callable], names: Sequence[str], teachers: Sequence[Teacher],
                 where: str) -> None:
  """Stops if a stage with a teacher's stored outputs changes the inputs that these belong to.

  `names` are those of the augments, which change inputs unless they say `adds_only`.
  """
  cached = [teacher.name for teacher in teachers if isinstance(teacher, Cached)]
  for i, (change, name) in enumerate(zip(augment, names, strict=True)):
    if cached and not getattr(change, 'adds_only', False):
      raise Stop(Status.CONFIG, f'{where}.augment[{i}]={name!r} changes the inputs, but '
                 f"teachers.{cached[0]}.source='fields' holds outputs for unchanged inputs: remove "
                 'the augment, or take a teacher that is a model; one that only adds fields has '
                 'the attribute adds_only')


def check_augment(change: Callable, where: str) -> None:
  """Stops unless an augment accepts the arguments that it is called with."""
  try:
    inspect.signature(change).bind(None, None, None)
  except TypeError:
    raise Stop(Status.CONFIG, f'{where}: an augment is called with (batch, key, ask), and this one '
               f'takes {inspect.signature(change)}') from None


def check_carry(carry: Any, where: str) -> None:
  """Stops unless a carry's `init` and `update` accept the arguments that they are called with."""
  for call, contract in ((carry.init, ('key', 'shapes', 'params')),
                         (carry.update, ('value', 'views', 'step', 'params'))):
    try:
      inspect.signature(call).bind(*contract)
    except TypeError:
      raise Stop(Status.CONFIG, f'{where}: {call.__name__} is called with ({", ".join(contract)}), '
                 f'and this one takes {inspect.signature(call)}') from None


def check_average(name: str, carries: Mapping[str, Any], where: str) -> None:
  """Stops unless a carry exists and holds an average of the student's parameters."""
  field = f"{where}.source='carry:{name}'"
  if name not in carries:
    raise Stop(Status.CONFIG, f'{field}: there is no carry.{name}' + lookup.nearest(name, carries))
  kind = carries[name].get('name', '') if isinstance(carries[name], Mapping) else ''
  if not kind:
    raise Stop(Status.CONFIG, f'carry.{name} has no name, of something in distill/carry.py')
  if not getattr(lookup.find('carry', kind, f'carry.{name}.name'), 'average', False):
    raise Stop(Status.CONFIG, f"{field}: carry.{name}.name={kind!r} holds no average of the "
               "student's parameters: take 'Average'")


def check_reads(reads: Any, dataset: Dataset, splits: Sequence[str], where: str) -> None:
  """Stops unless the fields of the data set that replace a model's fields exist and fit."""
  expected = dataset.modality.fields
  if not isinstance(reads, Mapping):
    raise Stop(Status.CONFIG, f'{where}.reads={reads!r} must be a node: a field of the model and '
               'the field that it takes')
  for field, path in reads.items():
    if field not in expected:
      raise Stop(Status.MISFIT, f'{where}.reads.{field}: a model of {dataset.modality.noun} reads '
                 f'{", ".join(expected)}')
    for split in splits:
      fields = dataset.splits[split].fields
      if path not in fields:
        raise Stop(Status.MISFIT, f'{where}.reads.{field}={path!r}: {dataset.name} has no such '
                   f'field in its split {split!r}, which has {", ".join(fields)}')
      if fields[path].axes != expected[field].axes:
        raise Stop(Status.MISFIT, f'{where}.reads.{field}={path!r} is {list(fields[path].axes)}, '
                   f'and {field} {list(expected[field].axes)}: a teacher may read another field of '
                   'the same shape')


def check_replaced_fields(name: str, others: Sequence[str],
                          reads: Mapping[str, Mapping[str, str]],
                          fields: Mapping[str, Field]) -> None:
  """Stops if a teacher replaces a field that another teacher, which it learns from, reads."""
  for other in others:
    for field in fields:
      taken = reads.get(other, {}).get(field, field)
      if taken in reads.get(name, {}):
        raise Stop(Status.CONFIG, f'teachers.{name}.reads.{taken}: it learns from {other}, which '
                   f'reads the {taken} that it replaces: give teachers.{other}.reads.{field}')
