"""The epoch plan: a map from (seed, i) to a batch whose examples are about equally long.

An epoch is a permutation of the examples. Each goes to a bucket by its own lengths; a bucket's
examples fill batches of one shape in the order of the permutation, and batches are ordered by the
position of their last example in it. So the width of an example never depends on its neighbours,
there are as many shapes as buckets, and every example is shown exactly once. Examples of one size,
such as images, have one bucket and no widths.
"""
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from distill.data.iterables import IterableData
from distill.data.sets import Columns, Split
from distill.modalities import examples
from distill.types import Status, Stop

MAX_WIDTHS = 4          # widths of an axis; each is one compilation
MAX_ROWS = 2**16        # rows of a batch, even if there are fewer examples
THREADS, AHEAD = 2, 4   # threads that read batches while a step runs; batches read in advance

Widths = Mapping[str, np.ndarray]       # ascending, by the axis
WidthsNode = Sequence[int] | Mapping[str, Sequence[int]] | None      # as a config has them


def shuffled(split: Split, *, batch_size: int, seed: int, steps: int, widths: WidthsNode = None,
             labelled: float = 1.0, drawn: float = 0.0,
             rows: np.ndarray | None = None) -> grain.MapDataset:
  """Makes `steps` shuffled batches; `ds[i]` depends on (seed, i), `ds[k:]` resumes at step k.

  A batch holds the split's fields and those of `distill.types`; an epoch's last batch of each
  bucket is filled with empty rows (`valid` 0, `id` -1).

  Args:
    widths: the widths that a named axis is padded to, at most four: of the first axis, or by the
      names of axes. By default quarters of the longest for the first axis, and the longest for any
      other.
    labelled: the share of labels that may be seen; a hash of the example decides which.
    drawn: the share of every batch that is sampled from the labelled examples of its bucket, in
      endless permutations; the rest goes through all examples. 1.0: only labelled examples.
    rows: the positions in every batch, ascending, that are built: those of one of the processes
      that share the batches. By default all.
  """
  plan = _EpochPlan(split, batch_size, widths, labelled, drawn, seed, rows)
  if steps < 1:
    raise ValueError(f'steps={steps} must be at least 1')
  return grain.MapDataset.source(range(steps)).map(plan.batch)


def in_order(split: Split, *, batch_size: int, widths: WidthsNode = None) -> grain.MapDataset:
  """Makes batches of every example once, with targets, narrowest bucket first, to evaluate."""
  plan = _EpochPlan(split, batch_size, widths)
  return grain.MapDataset.source(range(plan.epoch_steps)).map(plan.batch)


def epoch_steps(split: Split, *, batch_size: int, widths: WidthsNode = None,
                labelled: float = 1.0, drawn: float = 0.0) -> int:
  """Counts the batches of one epoch of `shuffled`."""
  return _EpochPlan(split, batch_size, widths, labelled, drawn).epoch_steps


def read_ahead(batches: Sequence[Any], start: int = 0) -> Iterator[Any]:
  """Iterates over the batches from `start` on, read by threads while the caller computes.

  It yields `batches[start]`, `batches[start + 1]`, …, in this order. Batches of an iterable come in
  its order and are read as they are asked for.
  """
  if isinstance(batches, IterableData):
    return batches.iterate(start)
  if not isinstance(batches, grain.MapDataset):
    batches = grain.MapDataset.source(batches)
  options = grain.ReadOptions(num_threads=THREADS, prefetch_buffer_size=AHEAD)
  return iter(batches[start:].to_iter_dataset(options))


def padding_share(split: Split, *, widths: WidthsNode = None) -> float | None:
  """Returns the share of padding along the first named axis over an epoch, None without one."""
  for axis, sizes in axis_widths(split, widths).items():
    length = split.index[axis]
    return 1 - float(length.sum() / sizes[np.searchsorted(sizes, length)].sum())
  return None


class _EpochPlan:
  """The content of batch i; without a seed rows keep their order, narrowest bucket first."""

  def __init__(self, split, batch_size, widths, labelled=1.0, drawn=0.0, seed=None, places=None):
    if batch_size < 1:
      raise ValueError(f'batch_size={batch_size} must be at least 1')
    if batch_size > max(len(split), MAX_ROWS):
      raise ValueError(f'batch_size={batch_size} is more than {MAX_ROWS} and than the {len(split)} '
                       'examples: the rest of a batch would be empty')
    for name, share in (('labelled', labelled), ('drawn', drawn)):
      if not 0 <= share <= 1:
        raise ValueError(f'{name}={share} must be a share between 0 and 1')
    self._split, self._size, self._seed = split, batch_size, seed
    self._positions = np.arange(batch_size) if places is None else places
    self._widths = axis_widths(split, widths)
    self._visible = split.known & (split.index['hash01'] < labelled)
    if drawn and not self._visible.any():
      raise ValueError(f'drawn={drawn}, but none of the {len(split)} examples is labelled')
    if drawn == 1:
      self._rows, quota = np.flatnonzero(self._visible), 0
    else:
      self._rows, quota = np.arange(len(split)), min(round(drawn * batch_size), batch_size - 1)
    self._shape = tuple(len(sizes) for sizes in self._widths.values())
    bucket = np.zeros(len(split), int)
    for axis, sizes in self._widths.items():
      bucket = bucket * len(sizes) + np.searchsorted(sizes, split.index[axis])
    self._bucket = bucket[self._rows]
    pools = [np.flatnonzero(self._visible & (bucket == k))
             for k in range(int(np.prod(self._shape)))]
    self._quotas = [quota if len(pool) else 0 for pool in pools]
    self._pools = [np.tile(pool, -(-n // max(1, len(pool))))        # at least a batch's worth
                   for pool, n in zip(pools, self._quotas, strict=True)]
    self._steps = [-(-int((self._bucket == k).sum()) // (batch_size - n))
                   for k, n in enumerate(self._quotas)]
    self.epoch_steps = sum(self._steps)
    self._epoch = functools.lru_cache(maxsize=2)(self._epoch)
    self._cycle = functools.lru_cache(maxsize=2 * len(self._pools))(self._cycle)

  def batch(self, i: int) -> dict[str, np.ndarray]:
    epoch, turn = divmod(int(i), self.epoch_steps)
    dealt, turns = self._epoch(epoch)
    k, ordinal = turns[turn]
    walk = self._size - self._quotas[k]
    rows = dealt[k][ordinal * walk:(ordinal + 1) * walk]
    if self._quotas[k]:
      rows = np.concatenate([rows, self._labelled_rows(k, epoch * self._steps[k] + ordinal)])
    return self._build(rows[self._positions[self._positions < len(rows)]], k)

  def _build(self, rows: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """Builds the batch of some rows of bucket k, filled up with empty rows."""
    split, size, visible = self._split, len(self._positions), self._visible[rows]
    widths = {axis: int(sizes[at]) for (axis, sizes), at in zip(
        self._widths.items(), np.unravel_index(k, self._shape) if self._shape else (),
        strict=True)}
    filled = lambda values, fill, dtype: np.concatenate(
        [values.astype(dtype), np.full(size - len(rows), fill, dtype)])
    fetched = _fetch(split, rows)
    batch = {'id': filled(rows, -1, np.int32)}
    for name, field in split.fields.items():
      values = split.index[name][rows] if name in split.index else fetched[name]
      lengths = {axis: split.index[axis][rows] for axis in field.axes if axis in widths}
      try:
        whole = examples.stack(values, field, widths, size, lengths)
      except examples.ShapeError as error:
        raise Stop(Status.DATA, f'data: example {rows[error.row]}: its {name} {error}') from error
      if field.target:
        whole[:len(rows)][~visible] = field.pad
      batch[name] = whole
    return batch | {'labelled': filled(visible, 0, np.float32),
                    'valid': filled(np.ones(len(rows)), 0, np.float32)}

  def _epoch(self, epoch: int):
    """Returns the rows of each bucket, and the batches in order as (bucket, ordinal)."""
    order = (np.argsort(self._bucket, kind='stable') if self._seed is None
             else _permutation(len(self._rows), self._seed, 'epoch', epoch))
    dealt, last, turns = [], [], []
    for k, steps in enumerate(self._steps):
      places = np.flatnonzero(self._bucket[order] == k)
      ends = np.arange(1, steps + 1) * (self._size - self._quotas[k])
      dealt.append(self._rows[order[places]])
      last.append(places[np.minimum(ends, len(places)) - 1])
      turns += [(k, ordinal) for ordinal in range(steps)]
    return dealt, [turns[j] for j in np.argsort(np.concatenate(last))]

  def _labelled_rows(self, k: int, ordinal: int) -> np.ndarray:
    """Returns the labelled rows of a bucket's batch, which continue those of its last batch."""
    n = self._quotas[k]
    cycle, start = divmod(ordinal * n, len(self._pools[k]))
    rows = self._cycle(k, cycle)[start:start + n]
    if len(rows) < n:
      rows = np.concatenate([rows, self._cycle(k, cycle + 1)[:n - len(rows)]])
    return rows

  def _cycle(self, k: int, cycle: int) -> np.ndarray:
    return self._pools[k][_permutation(len(self._pools[k]), self._seed, 'drawn', k, cycle)]


def _fetch(split: Split, rows: np.ndarray) -> Columns:
  """Fetches the fields of some rows; stops unless every field has all of the rows."""
  wanted = split.fields.keys() - split.index.keys()
  if not wanted:
    return {}
  try:
    fetched = split.fetch(rows)
  except IndexError as error:
    raise Stop(Status.DATA, f'data: the index has {len(split)} rows, and its files or arrays fewer '
               f'({error}): make the index anew') from error
  except OSError as error:
    raise Stop(Status.DATA, f'data: rows {rows[0]} to {rows[-1]} cannot be read: {error}'
               ) from error
  for name in sorted(wanted):
    if name not in fetched:
      raise Stop(Status.DATA, f'data: there is a field {name!r}, but nothing was fetched of it; '
                 f'there is {", ".join(fetched)}')
    if len(fetched[name]) != len(rows):
      raise Stop(Status.DATA, f'data: {len(rows)} rows of {name!r} were asked for, and '
                 f'{len(fetched[name])} came: are the index and the files of one length?')
  return fetched


def _permutation(n: int, *parts) -> np.ndarray:
  """Returns a permutation that depends only on `parts`, on any machine with any NumPy."""
  key = hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).digest()
  return np.argsort(np.random.Philox(key=int.from_bytes(key, 'little')).random_raw(n),
                    kind='stable')


def axis_widths(split: Split, widths: WidthsNode = None) -> dict[str, np.ndarray]:
  """Returns the widths of every named axis of a split, ascending; {} if no axis is named.

  They are those given. By default the first axis has quarters of the longest in steps of 8, and any
  other axis the longest.
  """
  if not len(split):
    raise ValueError('the split is empty')
  given = widths if isinstance(widths, Mapping) else {}
  if widths is not None and not isinstance(widths, Mapping):
    if split.axes:
      given = {split.axes[0]: widths}
    elif len(widths):
      raise ValueError(f'widths={tuple(widths)}: the examples have one size, and need none')
  unknown = given.keys() - {*split.axes}
  if unknown:
    raise ValueError(f'widths.{min(unknown)}: the examples have no axis of that name; there is '
                     + (', '.join(split.axes) or 'none'))
  return {axis: _checked_axis(split, axis, given[axis]) if axis in given else np.unique(
      [min(-(-split.room[axis] * quarter // 32) * 8, split.room[axis])
       for quarter in ((1, 2, 3, 4) if axis == split.axes[0] else (4,))]) for axis in split.axes}


def _checked_axis(split: Split, axis: str, widths: Sequence[int]) -> np.ndarray:
  longest, room = int(split.index[axis].max()), split.room[axis]
  if len(widths) > MAX_WIDTHS or list(widths) != sorted(set(widths)):
    raise ValueError(f'widths={tuple(widths)} must be at most {MAX_WIDTHS}, ascending')
  if not (0 < min(widths, default=0) and longest <= max(widths) <= room):
    raise ValueError(f'widths={tuple(widths)}: the widest must be between {longest}, the longest '
                     f'example, and {room}, the room the data gives it')
  return np.asarray(widths)
