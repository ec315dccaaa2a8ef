"""Examples of a modality as batches: stacked, padded, encoded from a user's arguments, symbolic."""
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from distill.modalities import Example, Modality
from distill.types import Field, Status, Stop


class ShapeError(ValueError):
  """The error of an example whose array doesn't fit its field; `row` is the example's index."""

  def __init__(self, row: int, line: str):
    super().__init__(line)
    self.row = row


def narrow(values: Any, dtype: str) -> np.ndarray:
  """Converts values [n …] to a type; raises a ShapeError at a value that it can't hold.

  NumPy would wrap integers, cut fractions and make infinities silently.
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
      raise ShapeError(int(at[0]) if len(at) else 0,
                       f'holds {values[tuple(at)]}, which {wanted} cannot hold')
  return values.astype(wanted, copy=False)


def stack(values: np.ndarray | Sequence[np.ndarray], field: Field, widths: Mapping[str, int],
          size: int, lengths: Mapping[str, np.ndarray] | None = None) -> np.ndarray:
  """Stacks arrays of examples to `size` rows, padded along named axes to their widths.

  One array of all examples may be longer along a named axis: the excess is padding, and is cut.
  `lengths` are the index's lengths of every example; a longer array in a list is an error.
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
        raise ShapeError(row, f'has {length} entries along {axis!r}, and the index says {most}')
    try:
      whole[(row, *part)] = narrow(value, field.dtype)
    except ShapeError as error:
      raise ShapeError(row, str(error)) from None
  return whole


def _common(shape: Sequence[int], field: Field, wanted: Sequence[int],
            row: int) -> tuple[slice, ...]:
  """Returns the slices that an array of an example shares with the wanted shape."""
  if len(shape) != len(wanted) or not all(
      isinstance(axis, str) or length == axis
      for axis, length in zip(field.axes, shape, strict=True)):
    raise ShapeError(row, f'is {list(shape)}, not {list(field.axes)}: an axis along which examples '
                     'differ needs a name, and a column of the index')
  return tuple(slice(min(lengths)) for lengths in zip(shape, wanted, strict=True))


def pad_one(example: Example, modality: Modality) -> dict[str, np.ndarray]:
  """Makes a batch of one example, padded to its bucket's widths and prepared."""
  lengths = {}
  for name, field in modality.fields.items():
    shape = np.shape(example[name])
    if len(shape) != len(field.axes):
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
  batch = {name: stack([example[name]], dataclasses.replace(field, dtype=str(
      np.asarray(example[name]).dtype)), widths, 1) for name, field in modality.fields.items()}
  return modality.prepare(
      batch | {'id': np.zeros(1, np.int32), 'valid': np.ones(1, np.float32)})


def encode(modality: Modality,
           arguments: Sequence[str]) -> Iterator[tuple[dict[str, str], dict[str, np.ndarray]]]:
  """Encodes arguments, each as a batch of one example; stops if the modality can't read them."""
  try:
    for about, example in modality.encode(arguments):
      yield about, pad_one(example, modality)
  except ValueError as error:
    raise Stop(Status.DATA, f'no {modality.noun}: {error}') from error


def placeholders(modality: Modality, size: int) -> dict[str, np.ndarray]:
  """Makes `size` prepared examples of the largest widths with meaningless values, for timing.

  Floating-point numbers are 1, so that masks count every position; integers are 0.
  """
  batch = {name: np.full(
      (size, *(modality.widths[axis][-1] if isinstance(axis, str) else axis
               for axis in field.axes)), np.issubdtype(field.dtype, np.floating), field.dtype)
           for name, field in modality.fields.items()}
  return modality.prepare(batch | {'id': np.arange(size, dtype=np.int32),
                                   'valid': np.ones(size, np.float32)})


def symbolic_shapes(modality: Modality) -> dict[str, jax.ShapeDtypeStruct]:
  """Returns the shapes of a prepared batch with a symbolic size and symbolic named axes."""
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
