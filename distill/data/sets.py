"""What a data set is once it is loaded: splits of examples, their modality, and facts."""
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
    AXIS    int [n]       for every named axis of the fields, the example's own length
    label   [n]           classes, -1 where there is none; or numbers, NaN where there is none
    known   bool [n]      which examples have targets; only where no label says so

  `fetch(rows)` brings the fields that are no columns of the index, from memory or from files:
  arrays that lead with the rows, or a list of an array for each row. Along a named axis an example
  has its own length, or is padded beyond it. `fetch` may be called by several threads.

  `room` is the most that an example may have along each named axis. `raw` are the examples as they
  were before they were encoded, if they are kept: another tokenizer can then read them.
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
      if (beyond := np.flatnonzero(self.index[axis] > self.room[axis])).size:
        raise Stop(Status.DATA, f'data: example {beyond[0]} has {self.index[axis][beyond[0]]} '
                   f'entries along {axis!r}, and room says {self.room[axis]} at most')

  def __len__(self) -> int:
    return len(self.index['hash01'])

  @property
  def known(self) -> np.ndarray:
    """Bool [n]: which examples have targets."""
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
    """The examples of some rows, in their order."""
    return dataclasses.replace(
        self, index={name: column[rows] for name, column in self.index.items()},
        fetch=lambda chosen: self.fetch(rows[chosen]),
        raw=[self.raw[row] for row in rows] if len(self.raw) else ())


  def reading(self, reads: Mapping[str, str]) -> 'Split':
    """The examples as a model reads them that takes other fields: {its field: the one it takes}.

    The fields that are taken stay there, too. What the raw examples become is another field, so
    that they can't be encoded anew.
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
  """A `fetch` from arrays that lead with the examples; they may be memory-mapped."""
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

  `facts` reach models, tasks, augments and carries alike, by the names of their parameters:
  `classes` (how many outputs a model has; 1 where labels are numbers), `names` (those of the
  classes), the sizes of the modality, and what else a source knows, such as `special` tokens.
  """
  name: str
  modality: Modality
  splits: Mapping[str, Split]
  fingerprint: str                  # sha256 over splits, examples, labels and the order of classes
  versions: Mapping[str, str]       # of the packages or the builder that the examples come from
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  notes: tuple[str, ...] = ()       # lines to be said once

  @property
  def names(self) -> tuple[str, ...]:
    """The names of the classes; () where there are none."""
    return tuple(self.facts.get('names', ()))

  @property
  def sizes(self) -> dict[str, int]:
    """What a model must fit: the sizes of the inputs, and the number of classes."""
    classes = {'classes': self.facts['classes']} if 'classes' in self.facts else {}
    return {**self.modality.sizes, **classes}
