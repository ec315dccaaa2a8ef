"""Loaded data sets: splits of examples, their modality, and facts."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distill.modalities import Modality
from distill.types import Field, Status, Stop

Columns = Mapping[str, np.ndarray | Sequence[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Split:
  """Examples of a data set; a row of the index is an example, its number the example's id.

  `index` has the small columns, all of n rows, that decide order, buckets and labels:

    hash01  float64 [n]   a hash of the example in [0, 1): it decides whose label may be seen
    AXIS    int [n]       for every named axis of the fields, the example's length
    label   [n]           classes, or -1 for none; or numbers, or NaN for none
    known   bool [n]      which examples have targets; needed only without a label

  `fetch(rows)` brings the fields that are no columns of the index, from memory or from files:
  arrays that lead with the rows, or a list of an array for each row. Along a named axis an example
  has its own length, or is padded beyond it. `fetch` may be called by several threads.

  `room` is the largest length along each named axis. `raw` are the examples before encoding, if
  they are kept: another tokenizer can then read them.
  """
  index: Mapping[str, np.ndarray]
  fields: Mapping[str, Field]
  fetch: Callable[[np.ndarray], Columns]
  room: Mapping[str, int] = dataclasses.field(default_factory=dict)
  raw: Sequence[Any] = ()

  def __post_init__(self):
    lengths = {name: len(column) for name, column in self.index.items()}
    if len(self.raw):
      lengths['raw'] = len(self.raw)
    for name, length in lengths.items():
      if length != lengths['hash01']:
        raise Stop(Status.DATA, f'data: the index has {lengths["hash01"]} rows of hash01 and '
                   f'{length} of {name}: a row is an example in all columns')
    if any(field.target for field in self.fields.values()) and not {
        'label', 'known'} & self.index.keys():
      raise Stop(Status.DATA, 'data: a field is a target, and the index has neither a label nor a '
                 "column 'known', bool, that says which examples have one")
    fetched = self.fields.keys() - self.index.keys()
    held = len(self.fetch) if fetched and hasattr(self.fetch, '__len__') else lengths['hash01']
    if held != lengths['hash01']:
      raise Stop(Status.DATA, f'data: the index has {lengths["hash01"]} rows, and the arrays that '
                 f'it is of {held}: make the index anew')
    for axis in self.axes:
      if axis == 'b' or not axis.isidentifier():
        raise Stop(Status.DATA, f"data: an axis can't be called {axis!r}: it must be a word, and "
                   "'b' are the examples of a batch")
      if axis not in self.index or axis not in self.room:
        raise Stop(Status.DATA, f'data: a field has the axis {axis!r}: the index needs a column '
                   f'{axis!r} with the length of every example, and room its largest')
      beyond = np.flatnonzero(self.index[axis] > self.room[axis])
      if beyond.size:
        raise Stop(Status.DATA, f'data: example {beyond[0]} has {self.index[axis][beyond[0]]} '
                   f'entries along {axis!r}, and room says {self.room[axis]} at most')

  def __len__(self) -> int:
    return len(self.index['hash01'])

  @property
  def known(self) -> np.ndarray:
    """A mask of the examples that have targets, bool [n]."""
    if 'known' in self.index:
      return np.asarray(self.index['known'], bool)
    if 'label' not in self.index:
      return np.zeros(len(self), bool)
    label = self.index['label']
    return label >= 0 if np.issubdtype(label.dtype, np.integer) else ~np.isnan(label)

  @property
  def axes(self) -> tuple[str, ...]:
    """The named axes, in the order of the fields."""
    return tuple(dict.fromkeys(axis for field in self.fields.values() for axis in field.axes
                               if isinstance(axis, str)))

  def subset(self, rows: np.ndarray) -> 'Split':
    """Returns the examples of some rows, in their order."""
    return dataclasses.replace(
        self, index={name: column[rows] for name, column in self.index.items()},
        fetch=lambda chosen: self.fetch(rows[chosen]),
        raw=[self.raw[row] for row in rows] if len(self.raw) else ())

  def reading(self, reads: Mapping[str, str]) -> 'Split':
    """Renames fields for a model that takes others: `reads` is {its field: field of the split}.

    The original fields stay, too. Raw examples are dropped: encoding them again would fill the
    original fields.
    """
    if not reads:
      return self
    of_index = {mine: self.index[theirs] for mine, theirs in reads.items() if theirs in self.index}

    def fetch(rows: np.ndarray) -> Columns:
      columns = self.fetch(rows)
      return {**columns, **{mine: columns[theirs] for mine, theirs in reads.items()
                            if mine not in of_index}}
    index = {name: column for name, column in self.index.items() if name not in reads}
    fields = {mine: self.fields[theirs] for mine, theirs in reads.items()}
    return dataclasses.replace(self, index=index | of_index, fields={**self.fields, **fields},
                               fetch=fetch, raw=())


@dataclasses.dataclass(frozen=True)
class InMemory:
  """A `fetch` from arrays that lead with the examples and may be memory-mapped."""
  columns: Mapping[str, np.ndarray]

  def __len__(self) -> int:
    lengths = {len(column) for column in self.columns.values()}
    if len(lengths) > 1:
      raise Stop(Status.DATA, 'data: arrays of the same examples differ in length: ' + ', '.join(
          f'{name} {len(column)}' for name, column in self.columns.items()))
    return lengths.pop()

  def __call__(self, rows: np.ndarray) -> Columns:
    return {name: column[rows] for name, column in self.columns.items()}


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Splits, with what identifies them (`fingerprint`) and what is known of them (`facts`).

  `facts` are passed to models, tasks, augments and carries, by the names of their parameters:
  `classes` (the number of a model's outputs; 1 if labels are numbers), `names` (those of the
  classes), the sizes of the modality, and further facts of a source, such as `special` tokens.
  """
  name: str
  modality: Modality
  splits: Mapping[str, Split]
  fingerprint: str                  # sha256 over splits, examples, labels and the order of classes
  versions: Mapping[str, str]       # of the packages or the builder that the examples come from
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()       # lines to print once

  @property
  def names(self) -> tuple[str, ...]:
    """The names of the classes; () if there are none."""
    return tuple(self.facts.get('names', ()))

  @property
  def sizes(self) -> dict[str, int]:
    """The sizes that a model must fit: those of the inputs, and the number of classes."""
    classes = {'classes': self.facts['classes']} if 'classes' in self.facts else {}
    return {**self.modality.sizes, **classes}
