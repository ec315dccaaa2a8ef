"""From labelled images to a data set: standardised pixels, splits, fingerprint."""
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distill.data.sets import Dataset, Split
from distill.types import Status, Stop


def dataset(images: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[int]], *, name: str,
            classes: Sequence[str], versions: Mapping[str, str],
            parts: Mapping[str, float] | None = None, white: float = 255.0,
            notes: Iterable[str] = ()) -> Dataset:
  """Standardises splits of images with labels: every channel by the mean and the deviation of
  `train`.

  Args:
    images: by split [n h w] or [n h w c], of any number type, all of one size.
    labels: classes, -1 where there is none.
    parts: the shares of `train` that become splits of their own, by a hash of the pixels: equal
      images stay together, and a part doesn't depend on those named after it.
    white: the value of a bright pixel, which a picture file of 8 bits has as 255.
  """
  parts = parts or {}
  if any(share < 0 for share in parts.values()) or sum(parts.values()) >= 1:
    raise ValueError(f'{_said(parts)} must be shares of the training images, below 1 in all')
  if not len(images.get('train', ())):
    raise Stop(Status.DATA, f'{name}: there is no training image; the splits are '
               + (', '.join(f'{s} ({len(x)})' for s, x in images.items()) or 'none'))
  found = {split: _checked(name, split, pixels, labels[split], len(classes))
           for split, pixels in images.items()}
  if len({pixels.shape[1:] for pixels, _ in found.values()}) > 1:
    raise Stop(Status.DATA, f'{name}: the images differ in size: ' + ', '.join(
        f'{split} {list(pixels.shape[1:])}' for split, (pixels, _) in found.items()))
  found = _parted(found, parts)
  if not len(found['train'][0]):
    raise Stop(Status.DATA, f'{name}: {_said(parts)} leave no image to train on')
  train = found['train'][0].astype(np.float64)
  mean, deviation = train.mean((0, 1, 2)), train.std((0, 1, 2))
  if (constant := np.flatnonzero(deviation == 0)).size:
    raise Stop(Status.DATA, f'{name}: channel {constant[0]} is {mean[constant[0]]:g} in all '
               'training images, which tells nothing: leave it out')
  height, width, channels = train.shape[1:]
  pixels = {'height': height, 'width': width, 'channels': channels, 'mean': mean.tolist(),
            'deviation': deviation.tolist(), 'white': float(white)}
  digest = hashlib.sha256(repr(tuple(classes)).encode())
  for split, (raw, label) in found.items():
    digest.update(f'{split} {raw.shape}'.encode() + raw.tobytes() + label.tobytes())
  splits = {split: Split({'image': standardised(raw, pixels), 'label': label, 'draw': _draws(raw)})
            for split, (raw, label) in found.items()}
  return Dataset(name=name, classes=tuple(classes), splits=splits, fingerprint=digest.hexdigest(),
                 versions=versions, sizes={'channels': channels, 'classes': len(classes)},
                 notes=tuple(notes), pixels=pixels)


def standardised(raw: np.ndarray, pixels: Mapping[str, Any]) -> np.ndarray:
  """Float32 [n h w c] of raw pixels."""
  mean, deviation = (np.asarray(pixels[name]) for name in ('mean', 'deviation'))
  return ((raw - mean) / deviation).astype(np.float32)


def stacked(raw: np.ndarray, pixels: Mapping[str, Any]) -> np.ndarray:
  """[n h w c] of one image or several, where a single channel needn't be an axis.

  A ValueError unless they have the size that a model was made for.
  """
  size = height, width, channels = tuple(pixels[k] for k in ('height', 'width', 'channels'))
  whole = raw[..., None] if channels == 1 and raw.shape[-2:] == (height, width) else raw
  whole = whole[None] if whole.ndim == 3 else whole
  if whole.ndim != 4 or whole.shape[1:] != size or not len(whole):
    raise ValueError(f'its shape is {list(raw.shape)}, but the model takes images of {list(size)}, '
                     'height, width and channels, one or several')
  if raw.dtype.kind not in 'buif' or not np.isfinite(raw).all():
    raise ValueError('its pixels are not all finite numbers')
  return whole


def told(pixels: Mapping[str, Any]) -> str:
  """What a model takes, by `pixels`, in words."""
  numbers = lambda name: ', '.join(f'{value:.6g}' for value in pixels[name])
  return (f'images of {pixels["height"]} × {pixels["width"]} × {pixels["channels"]} with mean '
          f'{numbers("mean")} and deviation {numbers("deviation")}' if pixels else 'texts')


def _checked(name: str, split: str, pixels: np.ndarray, labels: Sequence[int],
             classes: int) -> tuple[np.ndarray, np.ndarray]:
  """Raw pixels as float32 [n h w c], and labels as int32 [n]."""
  pixels, label = np.asarray(pixels), np.asarray(labels)
  wrong = lambda line: Stop(Status.DATA, f'{name}: {split}: {line}')
  if pixels.ndim not in (3, 4) or not all(pixels.shape[1:]) or pixels.dtype.kind not in 'buif':
    raise wrong(f'images are {pixels.dtype}{list(pixels.shape)}, not numbers [n h w] or [n h w c]')
  if label.shape != (len(pixels),) or (len(label) and label.dtype.kind not in 'iu'):
    raise wrong(f'labels are {label.dtype}{list(label.shape)}, not a class for each of '
                f'{len(pixels)} images')
  if (bad := np.flatnonzero((label < -1) | (label >= classes))).size:
    raise wrong(f'image {bad[0]} has label {label[bad[0]]}, outside the {classes} classes')
  if (bad := np.flatnonzero(~np.isfinite(pixels).reshape(len(pixels), -1).all(1))).size:
    raise wrong(f'image {bad[0]} has pixels that are not finite')
  pixels = np.ascontiguousarray(pixels if pixels.ndim == 4 else pixels[..., None], '<f4')
  return pixels, label.astype('<i4')


def _parted(found: Mapping[str, tuple[np.ndarray, np.ndarray]], parts: Mapping[str, float]):
  """The splits with parts of `train` as further ones."""
  place, start, parted = _draws(found['train'][0], b'parts'), 0.0, dict(found)
  for name, share in parts.items():
    if not share:
      continue
    if name in found:
      raise ValueError(f'{name}={share}, but there is a split {name} already')
    inside = (place >= start) & (place < start + share)
    parted[name] = tuple(column[inside] for column in found['train'])
    start += share
  parted['train'] = tuple(column[place >= start] for column in found['train'])
  return parted


def _draws(images: np.ndarray, salt: bytes = b'') -> np.ndarray:
  """A hash of every image in [0, 1)."""
  digests = b''.join(hashlib.blake2b(image.tobytes(), digest_size=8, salt=salt).digest()
                     for image in images)
  return (np.frombuffer(digests, '<u8') >> 11) * 2.0**-53


def _said(parts: Mapping[str, float]) -> str:
  return ' and '.join(f'{name}={share}' for name, share in parts.items())
