"""Multi-label classification: of several labels an example may have any, each by a sigmoid."""
from typing import Any, NoReturn

import jax
import numpy as np
from scipy.special import expit

from distill.tasks import Ask, Measured, Task
from distill.types import Batch, Records, Status, Stop

LEAST = 0.5             # probability of a label that an example has


class MultiLabel(Task):
  """Any of several labels an example, by a sigmoid of each output of a head.

  It answers; no data set here has several labels an example, so it judges nothing.
  """
  outputs, parts = ('logits',), ('head', 'pooler')
  metrics, primary, exclusive = {}, '', False

  def __init__(self, *, classes: int, names: tuple[str, ...] = ()):
    if names and len(names) != classes:
      raise ValueError(f'{len(names)} names for {classes} classes')
    self.names = tuple(names) or tuple(map(str, range(classes)))

  def measure(self, ask: Ask, batch: Batch) -> dict[str, jax.Array]:
    """The logits [b c]."""
    return {'logits': ask(batch)['logits']}

  def records(self, measured: Measured, batch: Batch) -> NoReturn:
    raise Stop(Status.MISFIT, 'several labels an example are answered, not judged: no data set '
               'here has them')

  def score(self, records: Records) -> NoReturn:
    self.records(records, {})

  def answer(self, measured: Measured) -> dict[str, Any]:
    """The labels whose probability is above 0.5, and the probabilities of all."""
    chances = expit(np.asarray(measured['logits'], np.float64)).tolist()
    return {'labels': [name for name, p in zip(self.names, chances, strict=True) if p > LEAST],
            'probabilities': {name: round(p, 4)
                              for name, p in zip(self.names, chances, strict=True)}}
