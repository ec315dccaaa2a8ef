"""Images of one size, standardised by the mean and the deviation of each channel."""
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill.modalities import Draw, Example, Modality, pictures
from distill.types import Batch, Field, Records, Status, Stop

STORED = ('uint8', 'uint16')        # types of pixels that are standardised in the step
NUMBERS = 'height', 'width', 'channels', 'mean', 'deviation', 'white'

USAGE = '''

def answers(images):         # [b {0} {1} {2}], pixels from 0 to {white}
  mean, deviation = (np.array(card['pixels'][name]) for name in ('mean', 'deviation'))
  return program({{'image': ((images - mean) / deviation).astype(np.float32)}})


images = np.zeros((1, {0}, {1}, {2}))
found = answers(images)'''


@dataclasses.dataclass(frozen=True)
class Image(Modality):
  """Images [h w c] whose pixels are stored as `dtype`.

  A model reads them standardised by the `mean` and `deviation` of each channel over the training
  images. Integers are pixels as the data has them; floating-point numbers are standardised already.
  `white` is the value of a bright pixel, which is 255 in a picture file of 8 bits.
  """
  height: int
  width: int
  channels: int
  mean: Sequence[float]
  deviation: Sequence[float]
  white: float = 255.0
  dtype: str = 'float32'
  widths: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)

  noun, overlap, convolved = 'images', 'top pixels shared', True
  kept = frozenset({'image', 'attribution'})    # arrays of `records/inside` that `show` needs

  @property
  def fields(self) -> dict[str, Field]:
    return {'image': Field((self.height, self.width, self.channels), self.dtype)}

  @property
  def sizes(self) -> dict[str, int]:
    return {'channels': self.channels}

  @property
  def room(self) -> dict[str, int]:
    return {}

  @property
  def corruptions(self) -> dict[str, 'Corruption']:
    return {
        'noise': Corruption('normal noise of 0.3 standard deviations', _noise),
        'blur': Corruption('each pixel the mean over 3 × 3, weighed 1 2 1 by 1 2 1', _blur),
        'contrast': Corruption('half the contrast', _contrast),
        'shift': Corruption('moved by an eighth of height and width, the edge repeated', _shift)}

  def standardised(self, pixels: np.ndarray) -> np.ndarray:
    """Standardises the data's pixels [… c], in float64; returns float32."""
    mean, deviation = np.asarray(self.mean), np.asarray(self.deviation)
    return ((pixels - mean) / deviation).astype(np.float32)

  def _table(self, dtype: np.dtype) -> np.ndarray:
    """Returns the standardised value of every pixel of a type, by channel, float32 [values · c]."""
    values = np.arange(np.iinfo(dtype).max + 1, dtype=np.float64)
    return self.standardised(np.repeat(values[:, None], self.channels, axis=1)).reshape(-1)

  def prepare(self, batch: Batch) -> Batch:
    """Standardises pixels that are stored as integers; rows that only fill the batch become 0.

    It uses a table made in float64, so that the result equals that of `standardised` bit by bit.
    """
    pixels = batch['image']
    if not np.issubdtype(pixels.dtype, np.integer):
      return batch
    xp = np if isinstance(pixels, np.ndarray) else jnp
    entry = pixels.astype(np.uint32) * self.channels + np.arange(self.channels, dtype=np.uint32)
    image = xp.asarray(self._table(pixels.dtype))[entry]
    valid = batch['valid'][:, None, None, None] > 0
    return {**batch, 'image': xp.where(valid, image, np.float32(0))}

  def arguments(self, file: str) -> list[str]:
    """Returns the file itself; `encode` reads it."""
    return [file]

  def encode(self, arguments: Sequence[str]) -> Iterator[tuple[dict[str, str], Example]]:
    """Yields the images of files: `.npy` holds pixels as the data does, others are pictures."""
    size = self.height, self.width, self.channels
    for file in arguments:
      try:
        whole = pictures.read(file, size, self.white)
      except ValueError as error:
        raise Stop(Status.DATA, f'{file}: {error}') from error
      for i, raw in enumerate(whole):
        with np.errstate(all='ignore'):
          image = self.standardised(raw)
        if not np.isfinite(image).all():
          raise Stop(Status.DATA, f'{file}: its pixels are beyond float32 once they are '
                     'standardised')
        yield {'image': f'{file}[{i}]' if len(whole) > 1 else file}, {'image': image}

  def card(self) -> dict[str, Any]:
    numbers = {name: getattr(self, name) for name in NUMBERS}
    return {'pixels': numbers | {name: list(numbers[name]) for name in ('mean', 'deviation')}}

  @staticmethod
  def knows(card: Mapping[str, Any]) -> bool:
    """Tells whether a card that doesn't name its modality is one of images."""
    return 'pixels' in card

  @classmethod
  def from_card(cls, card: Mapping[str, Any], folder: str) -> 'Image':
    found = cls(**{name: card['pixels'][name] for name in NUMBERS})
    size = found.height, found.width, found.channels
    if not all(type(n) is int and n > 0 for n in size) or not (
        len(found.mean) == len(found.deviation) == found.channels):
      raise ValueError(f'images of {size} with means {found.mean}, deviations {found.deviation}')
    if not np.isfinite([*found.mean, *found.deviation, found.white]).all() or 0 in found.deviation:
      raise ValueError('a mean, a deviation or its white is no sound number')
    return found

  def describe(self) -> str:
    numbers = lambda values: ', '.join(f'{value:.6g}' for value in values)
    return (f'images of {self.height} × {self.width} × {self.channels} with mean '
            f'{numbers(self.mean)} and deviation {numbers(self.deviation)}')

  def probe(self, model: Any, weights: Any) -> 'Probe':
    """Returns the probe of pixels, which range from black to white."""
    black, white = np.zeros(self.channels), np.full(self.channels, self.white)
    return Probe(*(tuple(self.standardised(pixels).tolist()) for pixels in (black, white)))

  def usage(self) -> dict[str, str]:
    size, white = (self.height, self.width, self.channels), f'{self.white:g}'
    return {
        'one': 'an image', 'tag': 'image-classification',
        'code': USAGE.format(*size, white=white),
        'limits': 'Images must be {} × {} × {}, with pixels from 0 to {white}, like those it was '
                  'trained on.'.format(*size, white=white)}

  @staticmethod
  def show(records: Records, row: int) -> dict[str, Any]:
    """Returns the image as grey or coloured pixels, and its attribution map."""
    image, attribution = records['image'][row], records['attribution'][row].astype(np.float64)
    image = image if image.shape[-1] == 3 else image.mean(axis=-1, keepdims=True)
    low, high = image.min(), image.max()
    pixels = np.broadcast_to((image - low) / (high - low or 1), (*image.shape[:2], 3))
    return {'picture': pixels, 'map': attribution / (np.abs(attribution).max() or 1)}


@dataclasses.dataclass(frozen=True)
class Probe:
  """The probe of a model by the standardised pixels of its images.

  `black` and `white` are the standardised ends of each channel's range.
  """
  black: Sequence[float] = (-np.inf,)
  white: Sequence[float] = (np.inf,)

  spoils = ()

  def value(self, params: Mapping, batch: Batch) -> jax.Array:
    return batch['image']

  def feed(self, params: Mapping, batch: Batch, x: jax.Array) -> tuple[Mapping, Batch]:
    return params, {**batch, 'image': x}

  def scale(self, params: Mapping) -> float:
    return 1.0

  def limits(self) -> tuple[np.ndarray, np.ndarray]:
    return np.array(self.black, np.float32), np.array(self.white, np.float32)

  def positions(self, batch: Batch) -> np.ndarray:
    return np.ones(batch['image'].shape[:3], bool)

  def pool(self, layer: jax.Array, batch: Batch) -> jax.Array:
    """Flattens maps [b h w c]; averages sequences [b s d] over positions."""
    layer = layer.mean(axis=1) if layer.ndim == 3 else layer
    return layer.reshape(len(layer), -1)

  def keep(self, batch: Batch) -> Records:
    return {'image': np.asarray(batch['image'])}

  def legend(self, kept: Records) -> Records:
    return {}


@dataclasses.dataclass(frozen=True)
class Corruption:
  """A change of an image's standardised pixels by equally many random numbers in (0, 1)."""
  about: str
  change: Callable[[np.ndarray, np.ndarray], np.ndarray]

  def __call__(self, example: dict[str, np.ndarray], draw: Draw) -> None:
    image = example['image']
    uniform = (draw(image.size) >> 11) * 2.0**-53 + 2.0**-54
    image[...] = self.change(image, uniform)


def _noise(image: np.ndarray, uniform: np.ndarray) -> np.ndarray:
  from scipy.special import ndtri  # here: only this corruption needs it
  return image + 0.3 * ndtri(uniform).reshape(image.shape)


def _contrast(image: np.ndarray, uniform: np.ndarray) -> np.ndarray:
  mean = image.mean(axis=(0, 1))
  return mean + 0.5 * (image - mean)


def _blur(image: np.ndarray, uniform: np.ndarray) -> np.ndarray:
  for axis in 0, 1:
    z = np.pad(image, [(int(a == axis),) * 2 for a in range(3)], mode='edge')
    before, here, after = (np.take(z, np.arange(image.shape[axis]) + i, axis) for i in range(3))
    image = (before + 2 * here + after) / 4
  return image


def _shift(image: np.ndarray, uniform: np.ndarray) -> np.ndarray:
  height, width, _ = image.shape
  down, right = (max(1, size // 8) * (1 if u < 0.5 else -1)
                 for size, u in zip((height, width), np.resize(uniform, 2), strict=True))
  rows = np.clip(np.arange(height) - down, 0, height - 1)
  return image[rows][:, np.clip(np.arange(width) - right, 0, width - 1)]
