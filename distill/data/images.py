"""Data sets of labelled images: splits, statistics of the pixels, fingerprint."""
import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from distill.data.sets import Dataset, InMemory, Split
from distill.modalities.examples import ShapeError, narrow
from distill.modalities.image import STORED, Image
from distill.types import Field, Status, Stop

CHUNK_BYTES = 2**22     # bytes of pixels that are processed at once


def dataset(images: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[int]], *, name: str,
            classes: Sequence[str], versions: Mapping[str, str],
            parts: Mapping[str, float] | None = None, white: float = 255.0,
            notes: Iterable[str] = ()) -> Dataset:
  """Makes a data set of labelled images in memory.

  A model reads every channel standardised by the mean and the deviation of `train`. Unsigned pixels
  of 8 or 16 bits are stored unchanged and standardised in the step; others are stored standardised,
  as float32. Arrays are copied only if necessary.

  Args:
    images: by split [n h w] or [n h w c], of any number type, all of one size.
    labels: classes, or -1 for none.
    parts: the shares of `train` that become further splits, by a hash of the pixels: equal images
      stay together, and a part doesn't depend on the parts after it.
    white: the value of a bright pixel, which a picture file of 8 bits has as 255.
  """
  parts = parts or {}
  if any(share < 0 for share in parts.values()) or sum(parts.values()) >= 1:
    raise ValueError(f'{_describe(parts)} must be shares of the training images, below 1 in all')
  if not len(images.get('train', ())):
    raise Stop(Status.DATA, f'{name}: there is no training image; the splits are '
               + (', '.join(f'{s} ({len(x)})' for s, x in images.items()) or 'none'))
  found = {split: _check(name, split, pixels, labels[split], len(classes))
           for split, pixels in images.items()}
  if len({(pixels.shape[1:], pixels.dtype) for pixels, _ in found.values()}) > 1:
    raise Stop(Status.DATA, f'{name}: the images differ in size or type: ' + ', '.join(
        f'{split} {list(pixels.shape[1:])} {pixels.dtype}'
        for split, (pixels, _) in found.items()))
  found = _split_train(found, parts)
  if not len(found['train'][0]):
    raise Stop(Status.DATA, f'{name}: {_describe(parts)} leave no image to train on')
  mean, deviation = _moments(found['train'][0], name)
  height, width, channels = found['train'][0].shape[1:]
  dtype = found['train'][0].dtype.name
  modality = Image(height, width, channels, mean, deviation, float(white),
                   dtype if dtype in STORED else 'float32')
  digest = hashlib.sha256(repr(tuple(classes)).encode())
  fields = {**modality.fields, 'label': Field((), 'int32', -1, target=True)}
  splits = {}
  for split, (raw, label) in found.items():
    digest.update(f'{split} {raw.shape}'.encode())
    for chunk in chunks(raw):
      digest.update(chunk.data)
    digest.update(label.tobytes())
    stored = raw if dtype in STORED else modality.standardised(raw)
    splits[split] = Split({'hash01': hash01(raw), 'label': label}, fields,
                          InMemory({'image': stored}))
  facts = {**modality.sizes, 'classes': len(classes), 'names': tuple(classes)}
  return Dataset(name=name, modality=modality, splits=splits, fingerprint=digest.hexdigest(),
                 versions=versions, facts=facts, notes=tuple(notes))


def _check(name: str, split: str, pixels: np.ndarray, labels: Sequence[int],
           classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Checks images and labels; returns pixels [n h w c] and labels int32 [n]."""
  pixels, label = np.asarray(pixels), np.asarray(labels)
  wrong = lambda line: Stop(Status.DATA, f'{name}: {split}: {line}')
  if pixels.ndim not in (3, 4) or not all(pixels.shape[1:]) or pixels.dtype.kind not in 'buif':
    raise wrong(f'images are {pixels.dtype}{list(pixels.shape)}, not numbers [n h w] or [n h w c]')
  if label.shape != (len(pixels),) or (len(label) and label.dtype.kind not in 'iu'):
    raise wrong(f'labels are {label.dtype}{list(label.shape)}, not a class for each of '
                f'{len(pixels)} images')
  bad = np.flatnonzero((label < -1) | (label >= classes))
  if bad.size:
    raise wrong(f'image {bad[0]} has label {label[bad[0]]}, outside the {classes} classes')
  if pixels.dtype.kind == 'f':
    bad = np.flatnonzero(~np.isfinite(pixels).reshape(len(pixels), -1).all(1))
    if bad.size:
      raise wrong(f'image {bad[0]} has pixels that are not finite')
  pixels = pixels if pixels.ndim == 4 else pixels[..., None]
  try:
    pixels = pixels if pixels.dtype.name in STORED else narrow(pixels, '<f4')
  except ShapeError as error:
    raise wrong(f'image {error.row} {error}') from error
  return np.ascontiguousarray(pixels), narrow(label, '<i4')


def _moments(train: np.ndarray, name: str) -> tuple[list[float], list[float]]:
  """Returns the mean and the deviation of each channel of the training images.

  For integers these come from exact sums over the counts of values, for any number of pixels.
  """
  if train.dtype.name in STORED:
    return moments(counts(train), name)
  wide = train.astype(np.float64)
  return _check_varied(wide.mean((0, 1, 2)).tolist(), wide.std((0, 1, 2)).tolist(), name)


def moments(found: np.ndarray, name: str) -> tuple[list[float], list[float]]:
  """Returns the mean and the deviation of each channel, from the counts of its values."""
  means, deviations = [], []
  for count in found:
    values = [(value, int(n)) for value, n in enumerate(count) if n]
    n, first, second = (sum(value**power * n for value, n in values) for power in range(3))
    means.append(first / n)
    deviations.append(math.sqrt((n * second - first * first) / (n * n)))
  return _check_varied(means, deviations, name)


def _check_varied(means: list[float], deviations: list[float],
                  name: str) -> tuple[list[float], list[float]]:
  """Returns its arguments, or stops at a constant channel."""
  if 0 in deviations:
    channel = deviations.index(0)
    raise Stop(Status.DATA, f'{name}: channel {channel} is {means[channel]:g} in all '
               'training images, which tells nothing: leave it out')
  return means, deviations


def counts(pixels: np.ndarray) -> np.ndarray:
  """Counts how often each channel has each value, int [c values]."""
  size = np.iinfo(pixels.dtype).max + 1
  found = np.zeros((pixels.shape[-1], size), np.int64)
  for part in _chunks(pixels):
    for channel in range(len(found)):
      found[channel] += np.bincount(part[..., channel].reshape(-1), minlength=size)
  return found


def _chunks(images: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the images in chunks."""
  size = at_once(images.nbytes // max(1, len(images)))
  return (images[start:start + size] for start in range(0, len(images), size))


def at_once(nbytes: int) -> int:
  """Returns the number of images of `nbytes` bytes that are processed at once."""
  return max(1, CHUNK_BYTES // max(1, nbytes))


def chunks(images: np.ndarray) -> Iterator[np.ndarray]:
  """Yields the images in chunks as float32, which hashes are computed from."""
  return (part.astype('<f4') for part in _chunks(images))


def _split_train(found: Mapping[str, tuple[np.ndarray, np.ndarray]], parts: Mapping[str, float]):
  """Splits parts off `train`, as further splits."""
  if not any(parts.values()):
    return dict(found)
  place, start, parted = hash01(found['train'][0], b'parts'), 0.0, dict(found)
  for name, share in parts.items():
    if not share:
      continue
    if name in found:
      raise ValueError(f'{name}={share}, but there is a split {name} already')
    rows = (place >= start) & (place < start + share)
    parted[name] = tuple(column[rows] for column in found['train'])
    start += share
  parted['train'] = tuple(column[place >= start] for column in found['train'])
  return parted


def hash01(images: np.ndarray, salt: bytes = b'') -> np.ndarray:
  """Hashes every image to [0, 1)."""
  digests = b''.join(hashlib.blake2b(image, digest_size=8, salt=salt).digest()
                     for chunk in chunks(images) for image in chunk.reshape(len(chunk), -1))
  return (np.frombuffer(digests, '<u8') >> 11) * 2.0**-53


def _describe(parts: Mapping[str, float]) -> str:
  return ' and '.join(f'{name}={share}' for name, share in parts.items())
