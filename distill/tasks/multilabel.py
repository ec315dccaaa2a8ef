"""Multi-label classification: an example may have any of several labels, each by a sigmoid."""
from typing import Any, NoReturn

import jax
import numpy as np
from scipy.special import expit

from distill.tasks import Ask, Measured, Task
from distill.types import Batch, Records, Status, Stop

THRESHOLD = 0.5         # an example has the labels with a larger probability


class MultiLabel(Task):
  """Multi-label classification by a sigmoid of each output of a head.

  It only answers: no data set here has several labels per example, so it scores nothing.
  """
  outputs, parts = ('logits',), ('head', 'pooler')
  metrics, primary, exclusive = {}, '', False

  def __init__(self, *, classes: int, names: tuple[str, ...] = ()):
    if names and len(names) != classes:
      raise ValueError(f'{len(names)} names for {classes} classes')
    self.names = tuple(names) or tuple(map(str, range(classes)))

  def measure(self, ask: Ask, batch: Batch) -> dict[str, jax.Array]:
    """Returns the logits [b c]."""
    return {'logits': ask(batch)['logits']}

  def records(self, measured: Measured, batch: Batch) -> NoReturn:
    raise Stop(Status.MISFIT, 'several labels an example are answered, not judged: no data set '
               'here has them')

  def score(self, records: Records) -> NoReturn:
    self.records(records, {})

  def answer(self, measured: Measured) -> dict[str, Any]:
    """Returns the labels whose probability is above 0.5, and all probabilities."""
    chances = expit(np.asarray(measured['logits'], np.float64)).tolist()
    return {'labels': [name for name, p in zip(self.names, chances, strict=True) if p > THRESHOLD],
            'probabilities': {name: round(p, 4)
                              for name, p in zip(self.names, chances, strict=True)}}
