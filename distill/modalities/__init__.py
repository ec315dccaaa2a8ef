"""Modalities: kinds of input, their fields, and everything that is particular to them.

A modality is an object of a data set and of an exported model: a frozen dataclass of this package
or of another (`'mylab.clouds:PointCloud'`). Other code calls its methods, and never asks which
modality it has.
"""
import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import numpy as np

from distill import lookup, streams
from distill.modalities.probes import Probe
from distill.types import Batch, Field, Records, Status, Stop

# Keys of an export's card that are not about its inputs.
RESERVED = {'model', 'classes', 'task', 'data', 'fingerprint', 'training', 'format', 'program',
            'fresh', 'modality', 'reads'}
Example = Mapping[str, np.ndarray]      # the fields of one example, neither padded nor batched
Draw = Callable[[int], np.ndarray]      # returns n random 64-bit numbers of an example


class Corruption(Protocol):
  """A slight corruption of inputs."""
  about: str                  # the change, in words

  def __call__(self, example: dict[str, np.ndarray], draw: Draw) -> None:
    """Changes the fields of one prepared example, in place."""


class Modality(Protocol):
  """The contract of a kind of input: a frozen dataclass, which may inherit the defaults here."""
  noun: ClassVar[str]                           # the word for its examples, in the plural
  overlap: ClassVar[str] = 'top places shared'  # agreement of two saliency maps, in a report
  convolved: ClassVar[bool] = False             # models read it by convolutions
  show: ClassVar[Callable[[Records, int], dict[str, Any]] | None] = None    # see `show` below
  spare: ClassVar[Sequence[str]] = ()           # sizes that a model may exceed
  fields: Mapping[str, Field]                   # the inputs, as they are stored
  sizes: Mapping[str, int] = {}                 # facts that a model must fit, by their names
  room: Mapping[str, int]                       # the most positions along each named axis
  widths: Mapping[str, Sequence[int]]           # widths of buckets, by named axis

  @property
  def corruptions(self) -> Mapping[str, Corruption]:
    """Slight corruptions of inputs, by name."""
    return {}

  def prepare(self, batch: Batch) -> Batch:
    """Turns stored fields into those that a model reads, for example standardised pixels.

    It is pure, and takes NumPy's arrays and JAX's alike: the train step traces it, an evaluation
    calls it on the host. It leaves prepared fields unchanged.
    """
    return batch

  def encode(self, arguments: Sequence[str]) -> Iterator[tuple[dict[str, str], Example]]:
    """Yields examples of the command line's arguments, each with the fields that identify it.

    It raises a ValueError that says why an argument is no input.
    """

  def arguments(self, file: str) -> list[str]:
    """Returns the inputs that a file holds (`distill.export --inputs=FILE`): its lines."""
    try:
      content = pathlib.Path(file).read_bytes()
    except (OSError, ValueError) as error:
      raise Stop(Status.DATA, f'--inputs={file}: {getattr(error, "strerror", error)}') from error
    return [text.rstrip('\r\n') for _, text in streams.lines(content, file) if text.strip()]

  def encoding(self) -> dict[str, str]:
    """Returns what decides how raw examples become fields; a resumed run must have the same."""
    return {}

  def card(self) -> dict[str, Any]:
    """Returns an export's description of its inputs, as JSON, for `from_card(card, folder)`.

    By default these are the fields of the dataclass. `widths` are written and read separately.
    """
    return {name: getattr(self, name) for name in _card_fields(self)}

  @classmethod
  def from_card(cls, card: Mapping[str, Any], folder: str) -> 'Modality':
    """Makes the modality of an export's card; `folder` has its `files`."""
    return cls(**{name: card[name] for name in _card_fields(cls)})

  def files(self) -> dict[str, str]:
    """Returns the text files that an export needs beside its card, by name."""
    return {}

  def describe(self) -> str:
    """Describes the inputs in words, for error lines."""
    fields = ', '.join(f'{name} {value}'[:60] for name, value in self.card().items())
    return f'{self.noun} ({fields})' if fields else self.noun

  def misfit(self, data: 'Modality') -> str:
    """Says why a model that was made for this modality can't read `data`; returns '' if it can."""
    plain = lambda modality: json.loads(json.dumps(modality.card()))      # tuples are lists in JSON
    same = name_of(self) == name_of(data) and plain(self) == plain(data)
    return '' if same else (
        f'it takes {self.describe()}, and the data has {data.describe()}')

  def excess(self, name: str, most: int) -> str:
    """Says why inputs don't fit a model whose size `name` is `most`."""
    return f'its inputs have {name}={self.sizes[name]}, and its model {name}={most}'

  def read(self, split: Any) -> Any:
    """Encodes a split's raw examples for this modality; returns None if it can't."""
    return None

  def limited(self, room: Mapping[str, int]) -> 'Modality':
    """Returns the modality with less room along named axes; `read` then fits examples to it."""
    return self

  def probe(self, model: Any, weights: Any) -> Probe | None:
    """Returns the probe of a model for saliency and attacks, or None if there is none."""
    return None

  def usage(self) -> dict[str, str]:
    """Returns fields of `readme.USAGE`: how a program is used without this package."""
    return {}


def with_widths(modality: Modality, widths: Mapping[str, Sequence[int]]) -> Modality:
  """Returns the modality with those `widths` whose axes its fields have."""
  axes = {axis for field in modality.fields.values() for axis in field.axes}
  return dataclasses.replace(modality, widths={
      axis: tuple(map(int, sizes)) for axis, sizes in widths.items() if axis in axes})


def name_of(modality: Modality) -> str:
  """Returns the name by which `lookup` finds the class of a modality."""
  module, name = type(modality).__module__, type(modality).__qualname__
  home = f'{__name__}.'
  return f'{module.removeprefix(home)}.{name}' if module.startswith(home) else f'{module}:{name}'


def card(modality: Modality) -> dict[str, Any]:
  """Returns the fields of an export's card for a modality: its name, its widths, its own card."""
  widths, fields = {axis: list(sizes) for axis, sizes in modality.widths.items()}, modality.card()
  taken = RESERVED & fields.keys()
  if taken:
    raise Stop(Status.CONFIG, f'{name_of(modality)}: its card says {min(taken)!r}, which an export '
               'says of the model: call that field something else')
  return {'modality': name_of(modality), **({'widths': widths} if widths else {}),
          **fields}


def from_card(card: Mapping[str, Any], folder: str = '', path: str = 'config.json') -> Modality:
  """Makes the modality of an export's card; `folder` has the files that it needs.

  A card of an earlier version, or of a foreign folder, names no modality: the first of this
  package that knows its keys is taken.
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
  """Calls `from_card` with a card that a stranger may have written."""
  try:
    found, widths = kind.from_card(card, folder), card.get('widths')
    return with_widths(found, widths) if isinstance(widths, Mapping) else found
  except (LookupError, TypeError, ValueError, AttributeError) as error:
    why = f'lacks {error}' if isinstance(error, KeyError) else error
    raise Stop(Status.CHECKPOINT, f'{folder}: its card does not describe {kind.noun}: {why}'
               ) from error


def outside(modality: Modality) -> str:
  """Returns the name of a modality outside this package, '' of one in it."""
  name = name_of(modality)
  return name if ':' in name else ''


def find_known(name: str) -> type[Modality] | None:
  """Finds a modality by its name; returns None if it isn't known here."""
  try:
    return lookup.find('modalities', name, 'modality')
  except Stop as stop:
    if stop.status != Status.CONFIG:      # a signal's
      raise
    return None


def _kind_of(records: Records) -> Any:
  """Finds the modality of explanations (records/inside); returns None if it isn't known here.

  Explanations name a modality outside this package; our modalities are known by their arrays.
  """
  if 'modality' in records:
    return find_known(str(records['modality']))
  return next((kind for kind in _ours() if kind.kept <= records.keys()), None)


def show(records: Records, row: int) -> dict[str, Any]:
  """Asks the modality of explanations for the drawing of one example, if `shows` is true.

  It is a `picture` [h w 3] in [0, 1] and a `map` [h w], or `spans`: words with their shares of the
  largest attribution in [-1, 1], None for separators.
  """
  return _kind_of(records).show(records, row)


def shows(records: Records) -> bool:
  """Tells whether the explanations can be drawn: their modality is known here, and has a `show`."""
  kind = _kind_of(records)
  return kind is not None and kind.show is not None


def by_noun(noun: str) -> type[Modality]:
  """Returns the modality of a report's noun; `Modality` itself if none is known."""
  return next((kind for kind in _ours() if kind.noun == noun), Modality)


def _card_fields(modality: Any) -> list[str]:
  """Returns the names of the fields of a modality's dataclass that its card has."""
  return [field.name for field in dataclasses.fields(modality) if field.name != 'widths']


def _ours() -> tuple[Any, ...]:
  from distill.modalities import image, text  # which need this module
  return image.Image, text.Text
