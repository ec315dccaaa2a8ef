"""Regression: a number for every example."""
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from distill.lookup import nearest
from distill.tasks import Ask, Explain, Measured, rescored
from distill.types import Batch, Records

CORRELATION = {'unit': 'correlation', 'higher_is_better': True}


class Regression:
  """One number an example, from a head of one output.

  Metrics: `pearson`; `spearman`, with average ranks at ties; `mse`. A correlation with what is
  constant isn't defined, and 0 here: such a model tells nothing apart. `primary` is the one that
  a report speaks of; Spearman's is what BERT's table of GLUE has of STS-B (Devlin 2018, table 1),
  and doesn't ask for a linear relation.

  Records, all leading with the example axis:

    id             int32 [n]      index of the example in its split
    label          float32 [n]    the number, or NaN where it isn't known
    prediction     float32 [n]
  """
  outputs, parts, labelled = ('logits',), ('head', 'pooler'), True
  metrics = {'pearson': CORRELATION, 'spearman': CORRELATION,
             'mse': {'unit': '', 'higher_is_better': False}}

  def __init__(self, *, classes: int = 1, primary: str = 'spearman'):
    if classes != 1:
      raise ValueError(f'classes={classes}: the labels are classes, not numbers; their task is '
                       'classification.Classification')
    if primary not in self.metrics:
      raise ValueError(f'primary={primary!r} is no metric' + nearest(primary, self.metrics))
    self.primary = primary
    self.explain = Explain('logits', 1, None, lambda records: (
        records['prediction'] - records['label'])[:, None])       # of half the squared error

  def prepare(self, batch: Batch) -> Batch:
    return batch

  def measure(self, ask: Ask, batch: Batch) -> dict[str, jax.Array]:
    """The numbers, as logits [b 1]."""
    return {'logits': ask(batch)['logits']}

  def records(self, measured: Measured, batch: Batch) -> Records:
    """The records of one batch, without the rows that only fill it."""
    logits = np.asarray(measured['logits'], np.float32)
    if logits.shape[1:] != (1,):
      raise ValueError(f'logits are {list(logits.shape)}, not [b 1]')
    keep = np.asarray(batch['valid']) != 0
    logits, ids = logits[keep, 0], np.asarray(batch['id'], np.int32)[keep]
    if (bad := ~np.isfinite(logits)).any():
      raise ValueError(f'example {ids[bad][0]} has a logit that is not finite')
    return {'id': ids, 'label': np.asarray(batch['label'], np.float32)[keep], 'prediction': logits}

  def constant(self, records: Records) -> Records:
    """The same examples when the answer is always the mean of their labels."""
    mean = records['label'].mean(dtype=np.float64)
    return {**records, 'prediction': np.full(len(records['label']), mean)}

  def answer(self, measured: Measured) -> dict[str, Any]:
    """The number."""
    return {'value': round(float(measured['logits'][0]), 4)}

  def bootstrap(self, records: Records, resamples: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    return rescored(self.score, records, resamples)

  def score(self, records: Records) -> dict[str, float]:
    """Every metric's value."""
    from scipy.stats import rankdata  # here: it takes a second, and classes don't need it
    label, prediction = (records[name].astype(np.float64) for name in ('label', 'prediction'))
    if not len(label):
      raise ValueError('there are no records to score')
    for name, values in ('label', label), ('prediction', prediction):
      if (bad := ~np.isfinite(values)).any():
        raise ValueError(f'example {records["id"][bad][0]}: {name} {values[bad][0]} is not a '
                         'finite number')
    return {'pearson': correlation(label, prediction),
            'spearman': correlation(rankdata(label), rankdata(prediction)),
            'mse': float(np.mean((label - prediction)**2))}


def correlation(x: np.ndarray, y: np.ndarray) -> float:
  """Pearson's, or 0 where one side is constant."""
  if np.ptp(x) == 0 or np.ptp(y) == 0:      # exactly: a rounded mean leaves noise to correlate
    return 0.0
  x, y = ((z - z.mean()) / np.ptp(z) for z in (x, y))
  return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))
