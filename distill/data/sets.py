"""What a data set is once it is loaded: named columns, and what a model must fit."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Text = str | tuple[str, str]        # a text, or a pair of them


@dataclasses.dataclass(frozen=True)
class Split:
  """Examples as columns of equal length; the row is the example's id.

  Texts have

    tokens  int32 [n s]         padded with 0 to the longest length the data set allows
    types   int32 [n s]         0 for the first text, 1 for the second
    length  int32 [n]           the example's own number of tokens

  images

    image   float32 [n h w c]   with mean 0 and deviation 1 in each channel of the training split

  and all

    label   int32 [n]           the class, or -1 where there is none; in a regression float32, NaN
    draw    float64 [n]         a hash of the text or the pixels in [0, 1): it decides whose label
                                may be seen
  """
  columns: Mapping[str, np.ndarray]
  text: Sequence[Text] = ()

  def __len__(self) -> int:
    return len(self.columns['label'])

  @property
  def known(self) -> np.ndarray:
    """Bool [n]: which examples have a label."""
    label = self.columns['label']
    return label >= 0 if np.issubdtype(label.dtype, np.integer) else ~np.isnan(label)


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Splits, with what identifies them (`fingerprint`) and what a model must fit (`sizes`).

  No classes: the labels are numbers, or there are none at all. `sizes['classes']` is then 1.
  """
  name: str
  classes: tuple[str, ...]
  splits: Mapping[str, Split]
  fingerprint: str                  # sha256 over splits, examples, labels and the order of classes
  versions: Mapping[str, str]       # of the packages or the builder that the examples come from
  sizes: Mapping[str, int]          # classes; vocabulary and length, or channels
  tokenizer: str = ''               # a `tokenizers.Tokenizer` as JSON; '' for images
  tokenizer_sha256: str = ''
  notes: tuple[str, ...] = ()       # lines to be said once
  special: Mapping[str, int] = dataclasses.field(default_factory=dict)
  # … ids of the tokens that are no words, by their names in BERT
  pixels: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  # … of images: what `images.standardised` must know, which their models' exports carry

  @property
  def what(self) -> str:
    """What its examples are called."""
    return 'images' if self.pixels else 'texts'

  def inputs(self, widths: Sequence[int]) -> dict[str, Any]:
    """What a model's export says of its inputs; texts are padded to `widths`."""
    return {'pixels': dict(self.pixels)} if self.pixels else {
        'length': self.sizes['length'], 'widths': list(widths),
        'tokenizer_sha256': self.tokenizer_sha256}
