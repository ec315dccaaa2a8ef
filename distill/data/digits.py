"""Handwritten digits that come with scikit-learn: 1,797 images of 8 × 8 pixels, no download.

They are the test part of Alpaydın and Kaynak's set (UCI, 1998): pixels from 0 to 16, each the
number of dark pixels in a block of 4 × 4. The writers aren't known, so each may be in both the
training and the test split: harder tests are possible.
"""
import importlib.metadata

import numpy as np

from distill.data import images
from distill.data.sets import Dataset
from distill.data.stored import load_or_make

CLASSES = tuple('0123456789')


def Digits(*, test: float = 0.25, validation: float = 0.0, cache: str = '') -> Dataset:
  """Loads the digits, with shares for `test` and `validation` by a hash of the pixels."""
  version = importlib.metadata.version('scikit-learn')
  # Importing scikit-learn takes seconds.
  arrays = load_or_make('digits', [version], _read, cache)
  return images.dataset({'train': arrays['images']}, {'train': arrays['labels']}, name='digits',
                        classes=CLASSES, versions={'scikit-learn': version},
                        parts={'test': test, 'validation': validation}, white=16)


def _read() -> dict[str, np.ndarray]:
  from sklearn.datasets import load_digits
  digits = load_digits()
  return {'images': digits.images.astype(np.uint8), 'labels': digits.target.astype(np.int32)}
