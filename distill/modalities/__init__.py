"""What a kind of input is: the fields that a model reads, and what is particular to them.

A modality is an object that a data set and an exported model carry, a frozen dataclass of this
package or of any other (`'mylab.clouds:PointCloud'`). The rest of the house asks it, and never asks
which one it is.
"""
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from distill import lookup, streams
from distill.modalities.probes import Probe
from distill.types import Batch, Field, Records, Status, Stop

# What an export's card says beside its inputs.
RESERVED = {'model', 'classes', 'task', 'data', 'fingerprint', 'training', 'format', 'program',
            'fresh', 'modality', 'reads'}
Example = Mapping[str, np.ndarray]      # the fields of one example, neither padded nor batched
Draw = Callable[[int], np.ndarray]      # as many 64-bit random numbers of an example as are asked


class Corruption(Protocol):
  """A way in which inputs are a little wrong."""
  about: str                  # what is done to an example, in words

  def __call__(self, example: dict[str, np.ndarray], draw: Draw) -> None:
    """Changes the fields of one prepared example, in place."""


class Modality(Protocol):
  """A kind of input: a frozen dataclass, which may take over what is written out here."""
  noun: ClassVar[str]                           # what its examples are called, in the plural
  overlap: ClassVar[str] = 'top places shared'  # where two models look alike, in a report
  convolved: ClassVar[bool] = False             # whether models read it by convolutions
  show: ClassVar[Callable[[Records, int], dict[str, Any]] | None] = None    # see `show` below
  spare: ClassVar[Sequence[str]] = ()           # sizes of which a model may have more
  fields: Mapping[str, Field]                   # the inputs, as they are stored
  sizes: Mapping[str, int] = {}                 # facts that a model must fit, by their names
  room: Mapping[str, int]                       # the most positions along each named axis
  widths: Mapping[str, Sequence[int]]           # of the buckets, by the named axis

  @property
  def corruptions(self) -> Mapping[str, Corruption]:
    """Ways in which inputs are a little wrong, by name."""
    return {}

  def prepare(self, batch: Batch) -> Batch:
    """Stored fields as a model reads them: pixels standardised, say.

    It is pure, and takes NumPy's arrays and JAX's alike: the train step traces it, an evaluation
    calls it on the host. What is prepared already it leaves as it is.
    """
    return batch

  def encode(self, arguments: Sequence[str]) -> Iterator[tuple[dict[str, str], Example]]:
    """What the command line names, as examples, each with what an answer to it is about.

    Its ValueError says why an argument is no input.
    """

  def arguments(self, file: str) -> list[str]:
    """Returns the inputs that a file holds (`distill.export --inputs=FILE`): its lines."""
    try:
      content = pathlib.Path(file).read_bytes()
    except (OSError, ValueError) as error:
      raise Stop(Status.DATA, f'--inputs={file}: {getattr(error, "strerror", error)}') from error
    return [text.rstrip('\r\n') for _, text in streams.lines(content, file) if text.strip()]

  def encoding(self) -> dict[str, str]:
    """What decides how raw examples become fields: a workdir goes on only with the same."""
    return {}

  def card(self) -> dict[str, Any]:
    """What an export says of its inputs, as JSON; `from_card(card, folder)` reads it.

    By default the fields of the dataclass. `widths` are written and read beside it.
    """
    return {name: getattr(self, name) for name in _card_fields(self)}

  @classmethod
  def from_card(cls, card: Mapping[str, Any], folder: str) -> 'Modality':
    """The modality that an export says it has; `folder` is where its `files` are."""
    return cls(**{name: card[name] for name in _card_fields(cls)})

  def files(self) -> dict[str, str]:
    """Text files that an export needs beside its card, by name."""
    return {}

  def describe(self) -> str:
    """The inputs, in words, for error lines."""
    fields = ', '.join(f'{name} {value}'[:60] for name, value in self.card().items())
    return f'{self.noun} ({fields})' if fields else self.noun

  def misfit(self, data: 'Modality') -> str:
    """Why a model that was made for this modality can't read `data`; '' if it can."""
    plain = lambda modality: json.loads(json.dumps(modality.card()))      # tuples are lists in JSON
    same = name_of(self) == name_of(data) and plain(self) == plain(data)
    return '' if same else (
        f'it takes {self.describe()}, and the data has {data.describe()}')

  def excess(self, name: str, most: int) -> str:
    """Why inputs don't fit a model whose size `name` is `most`, in words."""
    return f'its inputs have {name}={self.sizes[name]}, and its model {name}={most}'

  def read(self, split: Any) -> Any:
    """A split encoded anew from its raw examples for this modality, or None if it can't be."""
    return None

  def limited(self, room: Mapping[str, int]) -> 'Modality':
    """The same with less room along named axes, into which `read` then fits the examples."""
    return self

  def probe(self, model: Any, weights: Any) -> Probe | None:
    """How this model is looked into, or None if it can't be."""
    return None

  def usage(self) -> dict[str, str]:
    """How a program is used without this package: parts of its README, as `readme.USAGE` has them.
    """
    return {}


class Misshapen(ValueError):
  """An example whose array its field can't hold, for its shape or its values; `row` is its place.
  """

  def __init__(self, row: int, line: str):
    super().__init__(line)
    self.row = row


def narrow(values: Any, dtype: str) -> np.ndarray:
  """Returns values [n …] as an array of a type; one that the type can't hold is an error.

  NumPy wraps integers, cuts fractions and makes infinities without a word.
  """
  values, wanted = np.asarray(values), np.dtype(dtype)
  if (not np.can_cast(values.dtype, wanted) and wanted.kind in 'iuf'
      and values.dtype.kind in 'iufO'):
    with np.errstate(invalid='ignore'):
      if wanted.kind == 'f':
        fits = ~(np.abs(values) > np.finfo(wanted).max) | (np.abs(values) == np.inf)
      else:
        limits = np.iinfo(wanted)
        fits = (values >= limits.min) & (values <= limits.max) & (values % 1 == 0)
    if not np.all(fits):
      at = np.argwhere(~np.asarray(fits, bool))[0]
      raise Misshapen(int(at[0]) if len(at) else 0,
                      f'holds {values[tuple(at)]}, which {wanted} cannot hold')
  return values.astype(wanted, copy=False)


def stacked(values: np.ndarray | Sequence[np.ndarray], field: Field, widths: Mapping[str, int],
            size: int, lengths: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
  """The arrays of some examples as one of `size` rows, padded along named axes to their widths.

  An array of all examples may be longer along a named axis: that is padding, and is cut. `lengths`
  are what the index says of every example; an example of a list that is longer is an error.
  """
  shape = tuple(widths[axis] if isinstance(axis, str) else axis for axis in field.axes)
  whole = np.full((size, *shape), field.pad, field.dtype)
  if isinstance(values, np.ndarray) and values.dtype != object:
    part = _common(values.shape[1:], field, shape, 0)
    whole[(slice(len(values)), *part)] = narrow(values[(slice(None), *part)], field.dtype)
    return whole
  for row, value in enumerate(values):
    value = np.asarray(value)
    part = _common(value.shape, field, shape, row)
    for axis, length, width in zip(field.axes, value.shape, shape, strict=True):
      most = int(lengths[axis][row]) if lengths and axis in lengths else width
      if length > most:
        raise Misshapen(row, f'has {length} entries along {axis!r}, and the index says {most}')
    try:
      whole[(row, *part)] = narrow(value, field.dtype)
    except Misshapen as error:
      raise Misshapen(row, str(error)) from None
  return whole


def _common(shape: Sequence[int], field: Field, wanted: Sequence[int],
            row: int) -> tuple[slice, ...]:
  """The part that an array of an example has in common with the wanted shape."""
  if len(shape) != len(wanted) or not all(
      isinstance(axis, str) or length == axis
      for axis, length in zip(field.axes, shape, strict=True)):
    raise Misshapen(row, f'is {list(shape)}, not {list(field.axes)}: an axis along which examples '
                    'differ needs a name, and a column of the index')
  return tuple(slice(min(lengths)) for lengths in zip(shape, wanted, strict=True))


def padded(example: Example, modality: Modality) -> dict[str, np.ndarray]:
  """A batch of one example, padded to its buckets' widths and prepared."""
  lengths = {}
  for name, field in modality.fields.items():
    if len(shape := np.shape(example[name])) != len(field.axes):
      raise ValueError(f'{name} is {list(shape)}, not {list(field.axes)}')
    for axis, length in zip(field.axes, shape, strict=True):
      if isinstance(axis, str):
        lengths[axis] = max(length, lengths.get(axis, 0))
  widths = {}
  for axis, length in lengths.items():
    widths[axis] = next((int(w) for w in modality.widths[axis] if w >= length), 0)
    if not widths[axis]:
      raise Stop(Status.DATA, f'an example has {length} entries along {axis!r}, and the model has '
                 f'room for {max(modality.widths[axis])}')
  batch = {name: stacked([example[name]], dataclasses.replace(field, dtype=str(
      np.asarray(example[name]).dtype)), widths, 1) for name, field in modality.fields.items()}
  return modality.prepare(
      batch | {'id': np.zeros(1, np.int32), 'valid': np.ones(1, np.float32)})


def encoded(modality: Modality,
            arguments: Sequence[str]) -> Iterator[tuple[dict[str, str], dict[str, np.ndarray]]]:
  """What `encode` makes of arguments, each as a batch of one; a Stop where it can't read them."""
  try:
    for about, example in modality.encode(arguments):
      yield about, padded(example, modality)
  except ValueError as error:
    raise Stop(Status.DATA, f'no {modality.noun}: {error}') from error


def full(modality: Modality, size: int) -> dict[str, np.ndarray]:
  """`size` prepared examples of the largest widths, whose values mean nothing: to time a model.

  Numbers are 1, so that a mask says that every position counts, integers are 0.
  """
  batch = {name: np.full(
      (size, *(modality.widths[axis][-1] if isinstance(axis, str) else axis
               for axis in field.axes)), np.issubdtype(field.dtype, np.floating), field.dtype)
           for name, field in modality.fields.items()}
  return modality.prepare(batch | {'id': np.arange(size, dtype=np.int32),
                                   'valid': np.ones(size, np.float32)})


def bucketed(modality: Modality, widths: Mapping[str, Sequence[int]]) -> Modality:
  """The modality with the widths of its own axes, among those that a split's fields have."""
  own = {axis for field in modality.fields.values() for axis in field.axes}
  return dataclasses.replace(modality, widths={
      axis: tuple(map(int, sizes)) for axis, sizes in widths.items() if axis in own})


def symbolic(modality: Modality) -> dict[str, jax.ShapeDtypeStruct]:
  """The shapes of a prepared batch of any number of examples and any length of named axes."""
  from jax import export  # here: only an export needs it
  axes = [axis for field in modality.fields.values() for axis in field.axes
          if isinstance(axis, str)]
  names = ('b', *dict.fromkeys(axes))
  sizes = dict(zip(names, export.symbolic_shape(', '.join(names), constraints=[
      f'{axis} <= {modality.room[axis]}' for axis in names[1:]]), strict=True))
  stored = {name: jax.ShapeDtypeStruct(
      (sizes['b'], *(sizes.get(axis, axis) for axis in field.axes)), field.dtype)
            for name, field in modality.fields.items()}
  valid = jax.ShapeDtypeStruct((sizes['b'],), 'float32')
  ready = jax.eval_shape(modality.prepare, stored | {'valid': valid})
  return {name: ready[name] for name in stored}


def name_of(modality: Modality) -> str:
  """The name by which `lookup` finds the class of a modality."""
  module, name = type(modality).__module__, type(modality).__qualname__
  home = f'{__name__}.'
  return f'{module.removeprefix(home)}.{name}' if module.startswith(home) else f'{module}:{name}'


def card(modality: Modality) -> dict[str, Any]:
  """What an export's card says of a modality; its widths too, where that doesn't in its own way."""
  widths, says = {axis: list(sizes) for axis, sizes in modality.widths.items()}, modality.card()
  if taken := RESERVED & says.keys():
    raise Stop(Status.CONFIG, f'{name_of(modality)}: its card says {min(taken)!r}, which an export '
               'says of the model: call that field something else')
  return {'modality': name_of(modality), **({'widths': widths} if widths else {}),
          **says}


def from_card(card: Mapping[str, Any], folder: str = '', path: str = 'config.json') -> Modality:
  """The modality that an export carries; `folder` has the files that it needs.

  A card of an earlier version, or of a folder that isn't ours, doesn't name it: the first of this
  package is taken that knows its keys.
  """
  if 'modality' not in card:
    found = next((kind for kind in _ours() if kind.knows(card)), None)
    if found is None:
      raise Stop(Status.CHECKPOINT, f'{folder}: {path} does not say what its inputs are')
    return _read(found, card, folder)
  try:
    kind = lookup.find('modalities', card['modality'], 'modality')
  except Stop as stop:
    raise Stop(Status.CHECKPOINT, f'{folder}: its inputs are of a modality that is not known here: '
               f'{stop}') from None
  return _read(kind, card, folder)


def _read(kind: Any, card: Mapping[str, Any], folder: str) -> Modality:
  """What `from_card` makes of a card, which a stranger may have written."""
  try:
    found, widths = kind.from_card(card, folder), card.get('widths')
    return bucketed(found, widths) if isinstance(widths, Mapping) else found
  except (LookupError, TypeError, ValueError, AttributeError) as error:
    why = f'lacks {error}' if isinstance(error, KeyError) else error
    raise Stop(Status.CHECKPOINT, f'{folder}: its card does not describe {kind.noun}: {why}'
               ) from error


def outside(modality: Modality) -> str:
  """Returns the name of a modality outside this package, '' of one in it."""
  name = name_of(modality)
  return name if ':' in name else ''


def named(name: str) -> type[Modality] | None:
  """Finds a modality by its name; None if it isn't known here."""
  try:
    return lookup.find('modalities', name, 'modality')
  except Stop as stop:
    if stop.status != Status.CONFIG:      # a signal's
      raise
    return None


def _kind(records: Records) -> Any:
  """Finds the modality of explanations, as records/inside keeps them; None if it isn't known here.

  Those of a modality outside this package name it, those of ours are told by their arrays.
  """
  if 'modality' in records:
    return named(str(records['modality']))
  return next((kind for kind in _ours() if kind.kept <= records.keys()), None)


def show(records: Records, row: int) -> dict[str, Any]:
  """Asks the modality of explanations for what is drawn of one example, where `shows` says yes.

  `picture` [h w 3] in [0, 1] and a `map` [h w], or `spans`: words with their shares of the largest
  attribution in [-1, 1], None for what is no word.
  """
  return _kind(records).show(records, row)


def shows(records: Records) -> bool:
  """Tells whether the explanations can be drawn: their modality is known here, and has a `show`."""
  kind = _kind(records)
  return kind is not None and kind.show is not None


def by_noun(noun: str) -> type[Modality]:
  """The modality whose examples a report calls so; one that says no more where it isn't known."""
  return next((kind for kind in _ours() if kind.noun == noun), Modality)


def _card_fields(modality: Any) -> list[str]:
  """The fields of a modality's dataclass that its card has, by name."""
  return [field.name for field in dataclasses.fields(modality) if field.name != 'widths']


def _ours() -> tuple[Any, ...]:
  from distill.modalities import image, text  # which need this module
  return image.Image, text.Text
