"""Batches of any iterable of dicts of arrays (a list, a generator, a loader), checked."""
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill.types import Status, Stop

REMEMBERED = 4096       # batches whose ids are kept, for the error line about one of them
MASKS = 'id', 'valid'   # what every batch has; made where it lacks them


class IterableData:
  """The batches of an iterable in its order, repeated if it can be iterated again.

  A batch is a mapping of arrays that lead with the examples. All are to have the fields, types and
  shapes of the first; fewer rows are filled up with rows that don't count (`valid` 0, `id` -1).
  What isn't numbers is left out. `id` counts the rows, and `valid` is 1, unless a batch has them.
  A mistake in them is a `Stop` of the status DATA.

  Args:
    data: an iterable, or a function that returns one.
    title: what error lines call it.
    full: whether every batch must be full, because the model mixes the examples of a batch.
  """

  def __init__(self, data: Iterable[Mapping[str, Any]] | Callable[[], Iterable], *,
               title: str = 'data', full: bool = False):
    self._data, self.title, self.full = data, title, full
    if isinstance(data, Mapping):
      raise self._stop('is a dict of arrays: give an iterable of such dicts, one for each batch, '
                       'such as a list')
    if not callable(data) and not hasattr(data, '__iter__') and not self._seekable:
      raise self._stop(f'is a {type(data).__name__}: give an iterable of dicts of arrays')
    started = self._start()
    self.one_shot = started is data         # an iterator, which can't begin anew
    self._ids: dict[int, np.ndarray] = {}
    self._like: dict[str, Any] = {}
    try:
      first = next(started)
    except StopIteration:
      raise self._stop('is empty: it gives no batch') from None
    self._started = itertools.chain([first], started)
    self._first = self._checked(first, 0)

  @property
  def fields(self) -> dict[str, Any]:
    """First batch, checked."""
    return self._first

  @property
  def size(self) -> int:
    """Number of rows of a batch."""
    return len(self._first['valid'])

  @property
  def length(self) -> int | None:
    """Number of batches of a pass, None where the data has no length."""
    try:
      return len(self._data)
    except TypeError:
      return None

  def __getitem__(self, i: int) -> dict[str, Any]:
    """Returns the first batch, or only the ids of another one that was read lately."""
    return self._first if i == 0 else {'id': self._ids.get(i, np.zeros(0, np.int32))}

  def iterate(self, start: int = 0) -> Iterator[dict[str, Any]]:
    """Yields the batches from `start` on, without end; a `Stop` where the data ends for good."""
    if self._seekable and self.length:
      for i in itertools.count(start):
        yield self._checked(self._data[i % self.length], i)
    done = 0
    while True:
      before = done
      for batch in self._pass():
        if done >= start:
          yield self._checked(batch, done)
        done += 1
      if self.one_shot or done == before:
        raise self._stop(f'ended after {done} batches, and more are asked for: give fewer steps, '
                         'or something that can be iterated anew, such as a list or a function '
                         'that returns a generator')

  def one_pass(self) -> Iterator[dict[str, Any]]:
    """Yields the batches of one pass; those of an iterator are kept for the next pass."""
    if self.one_shot:
      self._data, self._started, self.one_shot = list(self._started), None, False
    for i, batch in enumerate(self._pass()):
      yield self._checked(batch, i)

  @property
  def _seekable(self) -> bool:
    return hasattr(self._data, '__getitem__') and hasattr(self._data, '__len__')

  def _start(self) -> Iterator[Any]:
    return iter(self._data() if callable(self._data) else self._data)

  def _pass(self) -> Iterator[Any]:
    """Returns the rest of the first pass, or a new pass."""
    started, self._started = self._started, None
    return self._start() if started is None else started

  def _checked(self, batch: Any, i: int) -> dict[str, Any]:
    """Returns a batch that has the fields and shapes of the first one, or stops."""
    if not isinstance(batch, Mapping):
      raise self._stop(f'is a {type(batch).__name__}, not a dict of arrays: give dicts such as '
                       "{'image': …, 'label': …}", i)
    found = {name: array for name, x in batch.items()
             if isinstance(name, str) and (array := _as_numbers(x)) is not None}
    lacks = self._like.keys() - found.keys() - {*MASKS}
    if lacks:
      raise self._stop(f'lacks {min(lacks)!r}, which the first batch has; it has '
                       f'{_listed(found)}', i)
    if not found.keys() - {*MASKS}:
      raise self._stop('has no array of numbers', i)
    rows = {name: x.shape[0] if x.ndim else None for name, x in found.items()}
    if None in rows.values():
      name = next(name for name, n in rows.items() if n is None)
      raise self._stop(f': {name!r} is one number, and every array must have a row an example: '
                       'leave it out, or repeat it', i)
    if len({*rows.values()}) > 1:
      raise self._stop(': its arrays have different numbers of rows: ' + ', '.join(
          f'{name} {n}' for name, n in rows.items()), i)
    return self._fill(found, next(iter(rows.values())), i)

  def _fill(self, found: dict[str, Any], n: int, i: int) -> dict[str, Any]:
    """Adds `id` and `valid` to a batch of `n` rows, and fills it up with rows that don't count."""
    size = self.size if self._like else n
    if not n or n > size:
      raise self._stop(f'has {n} rows, and the first batch {size}: give batches of one size', i)
    if n < size and self.full:
      raise self._stop(f'has {n} rows, the first batch {size}, and the student keeps statistics of '
                       'batches: leave a smaller last batch out', i)
    found.setdefault('id', np.arange(i * size, i * size + n))
    found.setdefault('valid', np.ones(n))
    found = {name: x.astype({'id': np.int32, 'valid': np.float32}.get(name) or x.dtype)
             for name, x in found.items() if name in (self._like or found)}
    if not self._like:
      self._like = {name: (x.shape[1:], x.dtype) for name, x in found.items()}
    for name, x in found.items():
      shape, dtype = self._like[name]
      if (x.shape[1:], x.dtype) != (shape, dtype):
        raise self._stop(f': {name!r} is {x.dtype} {[n, *x.shape[1:]]}, and {dtype} '
                         f'{[size, *shape]} in the first batch: pad or resize, so that all batches '
                         'have one shape', i)
      self._check_nan(name, x, found, i)
    if n < size:
      fill = lambda name, x: np.full((size - n, *x.shape[1:]), -(name == 'id'), x.dtype)
      found = {name: np.concatenate([x, fill(name, x)]) for name, x in found.items()}
    self._ids[i] = np.asarray(found['id'])
    self._ids.pop(i - REMEMBERED, None)
    return found

  def _check_nan(self, name: str, x: Any, batch: Mapping[str, Any], i: int) -> None:
    """Stops at NaN in a row that counts; what is on a device is left to the step."""
    if isinstance(x, np.ndarray) and jnp.issubdtype(x.dtype, jnp.floating) and np.isnan(x).any():
      rows = np.flatnonzero(np.isnan(x).reshape(len(x), -1).any(1) & (batch['valid'] > 0))
      if rows.size:
        raise self._stop(f': {name!r} holds NaN in {rows.size} of {len(x)} rows, the first of them '
                         f'row {rows[0]} (id {int(batch["id"][rows[0]])}): leave these out', i)

  def _stop(self, line: str, i: int | None = None) -> Stop:
    title = self.title if i is None else f'{self.title}: batch {i}'
    return Stop(Status.DATA, f'{title}{line}' if line.startswith(':') else f'{title} {line}')


def _as_numbers(x: Any) -> Any:
  """Converts to an array of a type that JAX has; None if it doesn't hold numbers."""
  if not isinstance(x, jax.Array):
    try:
      x = np.asarray(x)
    except ValueError:                  # lists of different lengths
      return None
  if not (jnp.issubdtype(x.dtype, jnp.number) or x.dtype == bool):
    return None
  return x.astype(jax.dtypes.canonicalize_dtype(x.dtype))


def _listed(names: Iterable[str]) -> str:
  return ', '.join(sorted(names)) or 'none'
