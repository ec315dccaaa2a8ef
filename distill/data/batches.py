"""The epoch plan: from (seed, i) to a batch whose texts are about equally long.

An epoch is a permutation of the texts, dealt into buckets by each text's own length; a
bucket's texts fill batches of one width in that order, and the batches follow each other by
the place of their last text in the permutation. So the width of a text never depends on its
neighbours, there are as many shapes as widths, and every text is shown exactly once.
Images have one size: one bucket, and no widths.
"""
import functools
import hashlib
import json
from collections.abc import Sequence

import grain
import numpy as np

from distill.data.sets import Split

MOST_WIDTHS = 4         # each is one compilation


def batches(split: Split, *, batch_size: int, seed: int, steps: int,
            widths: Sequence[int] | None = None, labelled: float = 1.0,
            drawn: float = 0.0, rows: np.ndarray | None = None) -> grain.MapDataset:
  """`steps` shuffled batches; `ds[i]` is a function of (seed, i), `ds[k:]` resumes at step k.

  A batch holds the fields of `distill.types`; an epoch's last batch of each width is filled
  with empty rows (`valid` 0, `id` -1).

  Args:
    widths: what texts are padded to, at most four; by default quarters of the longest.
    labelled: the share of labels that may be seen; a hash of the example decides which.
    drawn: the share of every batch that is drawn from the labelled examples of its width, in
      endless permutations; the rest walks through all. 1.0: the labelled examples alone.
    rows: the places in every batch, ascending, that are built: those of one of the processes
      that share the batches. By default all.
  """
  plan = _Plan(split, batch_size, widths, labelled, drawn, seed, rows)
  if steps < 1:
    raise ValueError(f'steps={steps} must be at least 1')
  return grain.MapDataset.source(range(steps)).map(plan.batch)


def in_order(split: Split, *, batch_size: int,
             widths: Sequence[int] | None = None) -> grain.MapDataset:
  """Every example once with its label, shortest width first, for evaluation."""
  plan = _Plan(split, batch_size, widths)
  return grain.MapDataset.source(range(plan.epoch_steps)).map(plan.batch)


def epoch_steps(split: Split, *, batch_size: int, widths: Sequence[int] | None = None,
                labelled: float = 1.0, drawn: float = 0.0) -> int:
  """The batches of one epoch of `batches`."""
  return _Plan(split, batch_size, widths, labelled, drawn).epoch_steps


def padding_share(split: Split, *, widths: Sequence[int] | None = None) -> float | None:
  """The share of positions that hold padding when every text is shown once; None for images."""
  widths = checked_widths(split, widths)
  if 'image' in split.columns:
    return None
  length = split.columns['length']
  return 1 - float(length.sum() / widths[np.searchsorted(widths, length)].sum())


class _Plan:
  """What batch i holds; without a seed the rows keep their order, shortest width first."""

  def __init__(self, split, batch_size, widths, labelled=1.0, drawn=0.0, seed=None, own=None):
    if batch_size < 1:
      raise ValueError(f'batch_size={batch_size} must be at least 1')
    for name, share in (('labelled', labelled), ('drawn', drawn)):
      if not 0 <= share <= 1:
        raise ValueError(f'{name}={share} must be a share between 0 and 1')
    self._split, self._size, self._seed = split, batch_size, seed
    self._own = np.arange(batch_size) if own is None else own
    self._widths = checked_widths(split, widths)
    self._seen = split.known & (split.columns['draw'] < labelled)
    self._label = split.columns['label'].dtype
    self._unseen = -1 if np.issubdtype(self._label, np.integer) else 0.0
    if drawn and not self._seen.any():
      raise ValueError(f'drawn={drawn}, but none of the {len(split)} examples is labelled')
    if drawn == 1:
      self._rows, quota = np.flatnonzero(self._seen), 0
    else:
      self._rows, quota = np.arange(len(split)), min(round(drawn * batch_size), batch_size - 1)
    self._images = 'image' in split.columns
    bucket = (np.zeros(len(split), int) if self._images
              else np.searchsorted(self._widths, split.columns['length']))
    self._bucket = bucket[self._rows]
    pools = [np.flatnonzero(self._seen & (bucket == k)) for k in range(max(1, len(self._widths)))]
    self._drawn = [quota if len(pool) else 0 for pool in pools]
    self._pools = [np.tile(pool, -(-n // max(1, len(pool))))        # at least a batch's worth
                   for pool, n in zip(pools, self._drawn, strict=True)]
    self._steps = [-(-int((self._bucket == k).sum()) // (batch_size - n))
                   for k, n in enumerate(self._drawn)]
    self.epoch_steps = sum(self._steps)
    self._epoch = functools.lru_cache(maxsize=2)(self._epoch)
    self._cycle = functools.lru_cache(maxsize=2 * len(self._pools))(self._cycle)

  def batch(self, i: int) -> dict[str, np.ndarray]:
    epoch, turn = divmod(int(i), self.epoch_steps)
    dealt, turns = self._epoch(epoch)
    k, ordinal = turns[turn]
    walk = self._size - self._drawn[k]
    rows = dealt[k][ordinal * walk:(ordinal + 1) * walk]
    if self._drawn[k]:
      rows = np.concatenate([rows, self._draw(k, epoch * self._steps[k] + ordinal)])
    rows = rows[self._own[self._own < len(rows)]]
    n, columns, seen = len(rows), self._split.columns, self._seen[rows]
    filled = lambda values, fill=0, dtype=np.int32: np.concatenate(
        [values.astype(dtype), np.full((len(self._own) - n, *values.shape[1:]), fill, dtype)])
    if self._images:
      inputs = {'image': filled(columns['image'][rows], dtype=np.float32)}
    else:
      width = self._widths[k]
      inputs = {
          'tokens': filled(columns['tokens'][rows, :width]),
          'types': filled(columns['types'][rows, :width]),
          'mask': filled(np.arange(width) < columns['length'][rows, None], dtype=np.float32)}
    return {
        'id': filled(rows, -1), **inputs,
        'label': filled(np.where(seen, columns['label'][rows], self._unseen), self._unseen,
                        self._label),
        'labelled': filled(seen, dtype=np.float32),
        'valid': filled(np.ones(n), dtype=np.float32),
    }

  def _epoch(self, epoch: int):
    """The rows of each bucket, and the batches in their order as (bucket, ordinal)."""
    order = (np.argsort(self._bucket, kind='stable') if self._seed is None
             else _permutation(len(self._rows), self._seed, 'epoch', epoch))
    dealt, last, turns = [], [], []
    for k, steps in enumerate(self._steps):
      places = np.flatnonzero(self._bucket[order] == k)
      ends = np.arange(1, steps + 1) * (self._size - self._drawn[k])
      dealt.append(self._rows[order[places]])
      last.append(places[np.minimum(ends, len(places)) - 1])
      turns += [(k, ordinal) for ordinal in range(steps)]
    return dealt, [turns[j] for j in np.argsort(np.concatenate(last))]

  def _draw(self, k: int, ordinal: int) -> np.ndarray:
    """The labelled rows of a bucket's batch, which continue where its last batch ended."""
    n = self._drawn[k]
    cycle, start = divmod(ordinal * n, len(self._pools[k]))
    rows = self._cycle(k, cycle)[start:start + n]
    if len(rows) < n:
      rows = np.concatenate([rows, self._cycle(k, cycle + 1)[:n - len(rows)]])
    return rows

  def _cycle(self, k: int, cycle: int) -> np.ndarray:
    return self._pools[k][_permutation(len(self._pools[k]), self._seed, 'drawn', k, cycle)]


def _permutation(n: int, *what) -> np.ndarray:
  """A permutation that depends on `what` alone, on every machine and with every NumPy."""
  key = hashlib.blake2b(json.dumps(what).encode(), digest_size=16).digest()
  return np.argsort(np.random.Philox(key=int.from_bytes(key, 'little')).random_raw(n),
                    kind='stable')


def checked_widths(split: Split, widths: Sequence[int] | None = None) -> np.ndarray:
  """The widths, ascending: those given, or quarters of the longest in steps of 8.

  Of images there are none.
  """
  if not len(split):
    raise ValueError('the split is empty')
  if 'image' in split.columns:
    if widths is not None and len(widths):
      raise ValueError(f'widths={tuple(widths)}: that is for texts; images have one size')
    return np.array([], int)
  longest, room = int(split.columns['length'].max()), split.columns['tokens'].shape[1]
  if widths is None:
    return np.unique([min(-(-room * quarter // 32) * 8, room) for quarter in (1, 2, 3, 4)])
  if len(widths) > MOST_WIDTHS or list(widths) != sorted(set(widths)):
    raise ValueError(f'widths={tuple(widths)} must be at most {MOST_WIDTHS}, ascending')
  if not (0 < min(widths, default=0) and longest <= max(widths) <= room):
    raise ValueError(f'widths={tuple(widths)}: the widest must be between {longest}, the longest '
                     f'text, and {room}, the room the data gives it')
  return np.asarray(widths)
