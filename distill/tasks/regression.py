"""Regression: a number for every example."""
from typing import Any

import jax
import numpy as np

from distill.lookup import nearest
from distill.tasks import Ask, Explain, Measured, Task
from distill.types import Batch, Records

CORRELATION = {'unit': 'correlation', 'higher_is_better': True}


class Regression(Task):
  """Regression of one number per example, from a head of one output.

  Metrics: `pearson`; `spearman`, with average ranks at ties; `mse`. A correlation with a constant
  is undefined, and 0 here: a constant model distinguishes nothing. `primary` is the metric that a
  report compares models by. Spearman's, which needs no linear relation, is in BERT's table of GLUE
  for STS-B (Devlin 2018, table 1).

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
        records['prediction'] - records['label'])[:, None])     # gradient of half the square

  def measure(self, ask: Ask, batch: Batch) -> dict[str, jax.Array]:
    """Returns the numbers, as logits [b 1]."""
    return {'logits': ask(batch)['logits']}

  def records(self, measured: Measured, batch: Batch) -> Records:
    """Returns the records of one batch, without the rows that only fill it."""
    logits = np.asarray(measured['logits'], np.float32)
    if logits.shape[1:] != (1,):
      raise ValueError(f'logits are {list(logits.shape)}, not [b 1]')
    keep = np.asarray(batch['valid']) != 0
    logits, ids = logits[keep, 0], np.asarray(batch['id'], np.int32)[keep]
    bad = ~np.isfinite(logits)
    if bad.any():
      raise ValueError(f'example {ids[bad][0]} has a logit that is not finite')
    return {'id': ids, 'label': np.asarray(batch['label'], np.float32)[keep], 'prediction': logits}

  def constant(self, records: Records) -> Records:
    """Returns the records if the answer were always the mean of the labels."""
    mean = records['label'].mean(dtype=np.float64)
    return {**records, 'prediction': np.full(len(records['label']), mean)}

  def numbers(self, records: Records) -> np.ndarray:
    return records['prediction']

  def answer(self, measured: Measured) -> dict[str, Any]:
    """Returns the number."""
    return {'value': round(float(measured['logits'][0]), 4)}

  def score(self, records: Records) -> dict[str, float]:
    """Returns every metric's value."""
    from scipy.stats import rankdata  # here: it takes a second, and classes don't need it
    label, prediction = (records[name].astype(np.float64) for name in ('label', 'prediction'))
    if not len(label):
      raise ValueError('there are no records to score')
    for name, values in ('label', label), ('prediction', prediction):
      bad = ~np.isfinite(values)
      if bad.any():
        raise ValueError(f'example {records["id"][bad][0]}: {name} {values[bad][0]} is not a '
                         'finite number')
    return {'pearson': correlation(label, prediction),
            'spearman': correlation(rankdata(label), rankdata(prediction)),
            'mse': float(np.mean((label - prediction)**2))}


def correlation(x: np.ndarray, y: np.ndarray) -> float:
  """Returns Pearson's correlation, or 0 if one side is constant."""
  if np.ptp(x) == 0 or np.ptp(y) == 0:      # exactly: a rounded mean leaves noise to correlate
    return 0.0
  x, y = ((z - z.mean()) / np.ptp(z) for z in (x, y))
  return float(np.clip(x @ y / np.sqrt((x @ x) * (y @ y)), -1, 1))
