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


def check_inputs(augment: Sequence[Callable], names: Sequence[str], teachers: Sequence[Teacher],
                 where: str) -> None:
  """Stops if a stage changes the inputs to which a teacher's stored outputs belong.

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
  """Stops unless an augment takes what it is called with."""
  try:
    inspect.signature(change).bind(None, None, None)
  except TypeError:
    raise Stop(Status.CONFIG, f'{where}: an augment is called with (batch, key, ask), and this one '
               f'takes {inspect.signature(change)}') from None


def check_carry(carry: Any, where: str) -> None:
  """Stops unless a carry takes what its `init` and `update` are called with."""
  for call, contract in ((carry.init, ('key', 'shapes', 'params')),
                         (carry.update, ('value', 'views', 'step', 'params'))):
    try:
      inspect.signature(call).bind(*contract)
    except TypeError:
      raise Stop(Status.CONFIG, f'{where}: {call.__name__} is called with ({", ".join(contract)}), '
                 f'and this one takes {inspect.signature(call)}') from None


def check_average(name: str, carries: Mapping[str, Any], where: str) -> None:
  """Stops unless a carry is there and holds an average of the student's parameters."""
  field = f"{where}.source='carry:{name}'"
  if name not in carries:
    raise Stop(Status.CONFIG, f'{field}: there is no carry.{name}' + lookup.nearest(name, carries))
  kind = carries[name].get('name', '') if isinstance(carries[name], Mapping) else ''
  if not kind:
    raise Stop(Status.CONFIG, f'carry.{name} has no name, of something in distill/carry')
  if not getattr(lookup.find('carry', kind, f'carry.{name}.name'), 'average', False):
    raise Stop(Status.CONFIG, f"{field}: carry.{name}.name={kind!r} holds no average of the "
               "student's parameters: take 'Average'")


def check_reads(reads: Any, dataset: Dataset, splits: Sequence[str], where: str) -> None:
  """Stops unless a model can read other fields of the data set instead of its own."""
  own = dataset.modality.fields
  if not isinstance(reads, Mapping):
    raise Stop(Status.CONFIG, f'{where}.reads={reads!r} must be a node: a field of the model and '
               'the field that it takes')
  for field, path in reads.items():
    if field not in own:
      raise Stop(Status.MISFIT, f'{where}.reads.{field}: a model of {dataset.modality.noun} reads '
                 f'{", ".join(own)}')
    for split in splits:
      there = dataset.splits[split].fields
      if path not in there:
        raise Stop(Status.MISFIT, f'{where}.reads.{field}={path!r}: {dataset.name} has no such '
                   f'field in its split {split!r}, which has {", ".join(there)}')
      if there[path].axes != own[field].axes:
        raise Stop(Status.MISFIT, f'{where}.reads.{field}={path!r} is {list(there[path].axes)}, '
                   f'and {field} {list(own[field].axes)}: a teacher may read another field of the '
                   'same shape')


def check_beside(name: str, others: Sequence[str], reads: Mapping[str, Mapping[str, str]],
                 fields: Mapping[str, Field]) -> None:
  """Stops if a teacher that reads other fields learns from one that needs those in their place."""
  for other in others:
    for field in fields:
      taken = reads.get(other, {}).get(field, field)
      if taken in reads.get(name, {}):
        raise Stop(Status.CONFIG, f'teachers.{name}.reads.{taken}: it learns from {other}, which '
                   f'reads the {taken} that it replaces: give teachers.{other}.reads.{field}')
