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


def bucketed(modality: Modality, widths: Mapping[str, Sequence[int]]) -> Modality:
  """The modality with the widths of its own axes, among those that a split's fields have."""
  own = {axis for field in modality.fields.values() for axis in field.axes}
  return dataclasses.replace(modality, widths={
      axis: tuple(map(int, sizes)) for axis, sizes in widths.items() if axis in own})


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
