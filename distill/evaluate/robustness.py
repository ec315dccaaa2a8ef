"""How well a model stands inputs that are a little wrong: fixed corruptions, and an attack.

What happens to an example depends on its id and a seed alone: all models and runs are asked the
same.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from distill import sharding
from distill.evaluate import quality
from distill.evaluate.inside import Inside, places
from distill.types import Batch, Records

SHARE = 0.2             # of a text's words
EPSILON = 0.1           # of FGSM, in standard deviations of the numbers that it moves

# What is done to texts (a text of a single word stays as it is) and to images, in words.
TEXTS = {'drop': 'a fifth of the words left out',
         'swap': 'a fifth of the words, two at least, in each other\'s places',
         'unknown': 'a fifth of the words become [UNK]'}
IMAGES = {'noise': 'normal noise of 0.3 standard deviations',
          'blur': 'each pixel the mean over 3 × 3, weighed 1 2 1 by 1 2 1',
          'contrast': 'half the contrast',
          'shift': 'moved by an eighth of height and width, the edge repeated'}
FGSM = ('each number moved by 0.1 standard deviations to where the loss grows: a pixel, or one of '
        "a word's embedding")


def kinds(batch: Batch, special: Mapping[str, int]) -> dict[str, str]:
  """The corruptions of what a batch holds, and what they do."""
  if 'image' in batch:
    return IMAGES
  return {name: about for name, about in TEXTS.items()
          if name != 'unknown' or '[UNK]' in special}


def corrupted(batch: Batch, kind: str, special: Mapping[str, int], seed: int = 0) -> Batch:
  """The batch with every example corrupted by its id and the seed."""
  draws = lambda example, n: np.random.Philox(key=(seed << 32) + int(example)).random_raw(n)
  rows = np.flatnonzero(batch['valid'])
  if 'image' in batch:
    image = np.array(batch['image'])
    for row in rows:
      raw = draws(batch['id'][row], image[row].size)
      image[row] = _image(image[row], kind, (raw >> 11) * 2.0**-53 + 2.0**-54)
    return {**batch, 'image': image}
  found = {name: np.array(batch[name]) for name in ('tokens', 'types', 'mask')}
  words = places(batch, special)
  for row in rows:
    at = np.flatnonzero(words[row])
    if len(at) > 1:
      quota = max(1 + (kind == 'swap'), round(SHARE * len(at)))
      chosen = at[np.sort(np.argsort(draws(batch['id'][row], len(at)), kind='stable')[:quota])]
      _text({name: value[row] for name, value in found.items()}, kind, chosen, special)
  return {**batch, **found}


def _text(text: dict[str, np.ndarray], kind: str, chosen: np.ndarray,
          special: Mapping[str, int]) -> None:
  """Corrupts the words at `chosen`, in place."""
  tokens = text['tokens']
  if kind == 'unknown':
    tokens[chosen] = special['[UNK]']
  elif kind == 'swap':
    tokens[chosen] = np.roll(tokens[chosen], 1)
  else:
    for name, values in text.items():       # the text closes up, and is padded at its end
      left = np.delete(values, chosen)
      values[:len(left)], values[len(left):] = left, special['[PAD]'] if name == 'tokens' else 0


def _image(image: np.ndarray, kind: str, uniform: np.ndarray) -> np.ndarray:
  """The image [h w c] corrupted, by as many numbers in (0, 1)."""
  h, w, _ = image.shape
  if kind == 'noise':
    return image + 0.3 * ndtri(uniform).reshape(image.shape)
  if kind == 'contrast':
    mean = image.mean(axis=(0, 1))
    return mean + 0.5 * (image - mean)
  if kind == 'blur':
    for axis in 0, 1:
      z = np.pad(image, [(int(a == axis),) * 2 for a in range(3)], mode='edge')
      before, here, after = (np.take(z, np.arange(image.shape[axis]) + i, axis) for i in range(3))
      image = (before + 2 * here + after) / 4
    return image
  down, right = (max(1, size // 8) * (1 if u < 0.5 else -1)
                 for size, u in zip((h, w), np.resize(uniform, 2), strict=True))
  return image[np.clip(np.arange(h) - down, 0, h - 1)][:, np.clip(np.arange(w) - right, 0, w - 1)]


def attacked(inside: Inside, batches: Sequence[Batch], records: Records, task: Any,
             special: Mapping[str, int]) -> Records:
  """The records of examples under FGSM (Goodfellow 2015, §4): x + ε · sign of the loss's gradient.

  ε is a tenth of a standard deviation: of the pixels of the training images, or of the model's own
  token table; of a text the words move. The loss is cross-entropy or the squared error; `records`
  are the model's on clean examples, which gives its gradient with regard to the logits.
  """
  slopes, row = _slopes(records), {int(example): i for i, example in enumerate(records['id'])}
  found = []
  for batch in map(batches.__getitem__, range(len(batches))):
    by = slopes[[row[int(example)] if valid else 0
                 for example, valid in zip(batch['id'], batch['valid'], strict=True)]]
    x = inside.inputs(batch)
    gradient = sharding.on_host(inside(batch, x, by)['gradient'])
    moved = x + EPSILON * inside.spread() * np.sign(gradient) * places(batch, special)[..., None]
    found.append(task.predict({'logits': sharding.on_host(inside(batch, moved, by)['logits'])},
                              batch))
  return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _slopes(records: Records) -> np.ndarray:
  """The direction of the loss's gradient with regard to the logits, [n c]."""
  if 'probabilities' in records:
    p = records['probabilities']
    return p - np.eye(p.shape[1])[records['label']]
  return (records['prediction'] - records['label'])[:, None]


def stood(task: quality.Task, clean: Records, found: Mapping[str, Records],
          about: Mapping[str, str], *, resamples: int = 1000) -> dict[str, dict[str, Any]]:
  """The quality of the same examples clean and by each corruption, in the task's primary metric.

  `kept` is the share of the clean quality that is left, `change` what was gained, paired by
  example: below 0 is worse.
  """
  primary = task.primary
  clean, _ = quality.aligned(clean, clean)
  before = quality.resampled(task, clean, resamples=resamples)
  report = {'clean': before.metrics[primary]}
  for name, records in found.items():
    records, _ = quality.aligned(records, clean)
    after = quality.resampled(task, records, resamples=resamples)
    report[name] = {**after.metrics[primary], 'about': about[name],
                    'kept': quality.retention(after.metrics, before.metrics)[primary],
                    'change': quality.gain(after, before)[primary]}
  return report
