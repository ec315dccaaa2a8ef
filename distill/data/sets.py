"""What a data set is once it is loaded: named columns, and what a model must fit."""
import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

Text = str | tuple[str, str]        # a text, or a pair of them


@dataclasses.dataclass(frozen=True)
class Split:
  """Examples as columns of equal length; the row is the example's id.

  tokens  int32 [n s]     padded with 0 to the longest length the data set allows
  types   int32 [n s]     0 for the first text, 1 for the second
  length  int32 [n]       the example's own number of tokens
  label   int32 [n]       the class, or -1 where there is none; float32 and NaN in a regression
  draw    float64 [n]     a hash of the text in [0, 1): it decides whose label may be seen
  """
  columns: Mapping[str, np.ndarray]
  text: Sequence[Text]

  def __len__(self) -> int:
    return len(self.text)

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
  fingerprint: str                  # sha256 over splits, texts, labels and the order of classes
  versions: Mapping[str, str]       # of the packages or the builder that the texts come from
  sizes: Mapping[str, int]          # vocabulary, length, classes
  tokenizer: str                    # a `tokenizers.Tokenizer` as JSON
  tokenizer_sha256: str
  notes: tuple[str, ...]            # lines to be said once
  special: Mapping[str, int]        # ids of the tokens that are no words, by their names in BERT
