"""Classification: one of c classes for every example."""
from typing import Any

import jax
import numpy as np

from distill.lookup import nearest
from distill.tasks import Ask, Explain, Measured, Task
from distill.types import Batch, Records

FRACTION = {'unit': 'fraction', 'higher_is_better': True}


class Classification(Task):
  """Classification with one label per example.

  Metrics: `accuracy`; `macro_f1`, over the classes that are a label or a prediction; `mcc`, the
  Matthews correlation, for several classes Gorodkin's (2004, eq. 8); with two classes `f1`, that
  of class 1. An undefined metric is 0, as in scikit-learn. `primary` is the metric that a report
  compares models by.

  Records, all leading with the example axis:

    id             int32 [n]      index of the example in its split
    label          int32 [n]      the class, or -1 where it isn't known
    prediction     int32 [n]      the likeliest class
    probabilities  float32 [n c]
  """
  outputs, parts, labelled = ('logits',), ('head', 'pooler'), True

  def __init__(self, *, classes: int, names: tuple[str, ...] = (), primary: str = 'accuracy'):
    if classes < 2:
      raise ValueError(f'classes={classes}: there is nothing to tell apart; of numbers instead of '
                       'classes the task is regression.Regression')
    if names and len(names) != classes:
      raise ValueError(f'{len(names)} names for {classes} classes')
    self.classes = classes
    self.names = tuple(names) or tuple(map(str, range(classes)))
    self.metrics = {'accuracy': FRACTION, 'macro_f1': FRACTION,
                    'mcc': {'unit': 'correlation', 'higher_is_better': True},
                    **({'f1': FRACTION} if classes == 2 else {})}
    if primary not in self.metrics:
      raise ValueError(f'primary={primary!r} is no metric of {classes} classes'
                       + nearest(primary, self.metrics))
    self.primary = primary
    self.explain = Explain('logits', classes, lambda records: records['prediction'], self._slope)

  def measure(self, ask: Ask, batch: Batch) -> dict[str, jax.Array]:
    """Returns the logits [b c]; the host computes the rest, in float64."""
    return {'logits': ask(batch)['logits']}

  def records(self, measured: Measured, batch: Batch) -> Records:
    """Returns the records of one batch, without the rows that only fill it."""
    logits = np.asarray(measured['logits'], np.float64)
    if logits.shape[1:] != (self.classes,):
      raise ValueError(f'logits are {list(logits.shape)}, not [b {self.classes}]')
    keep = np.asarray(batch['valid']) != 0
    logits, ids = logits[keep], np.asarray(batch['id'], np.int32)[keep]
    bad = ~np.isfinite(logits).all(-1)
    if bad.any():
      raise ValueError(f'example {ids[bad][0]} has logits that are not finite')
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return {'id': ids, 'label': np.asarray(batch['label'], np.int32)[keep],
            'prediction': logits.argmax(-1).astype(np.int32),
            'probabilities': (powers / powers.sum(-1, keepdims=True)).astype(np.float32)}

  def constant(self, records: Records) -> Records:
    """Returns the records if every answer were the most frequent class."""
    commonest = np.bincount(records['label'], minlength=self.classes).argmax()
    return {**records, 'prediction': np.full_like(records['prediction'], commonest)}

  def categories(self, records: Records) -> Records:
    return records

  def _slope(self, records: Records) -> np.ndarray:
    """Returns the gradient of the cross-entropy with respect to the logits."""
    return records['probabilities'] - np.eye(self.classes)[records['label']]

  def answer(self, measured: Measured) -> dict[str, Any]:
    """Returns the likeliest class, its probability, and all probabilities."""
    chances = np.asarray(jax.nn.softmax(measured['logits']), np.float64)
    best = int(chances.argmax())
    return {'label': self.names[best], 'probability': round(float(chances[best]), 4),
            'probabilities': {name: round(float(p), 4)
                              for name, p in zip(self.names, chances, strict=True)}}

  def score(self, records: Records) -> dict[str, float]:
    """Returns every metric's value."""
    label, prediction = records['label'], records['prediction']
    if not len(label):
      raise ValueError('there are no records to score')
    for name, values in ('label', label), ('prediction', prediction):
      if values.min() < 0 or values.max() >= self.classes:
        bad = np.flatnonzero((values < 0) | (values >= self.classes))[0]
        raise ValueError(f'example {records["id"][bad]}: {name} {values[bad]} is not one of the '
                         f'{self.classes} classes')
    if not np.isfinite(records['probabilities']).all():
      raise ValueError('records hold probabilities that are not finite')
    pairs = np.bincount(label.astype(np.int64) * self.classes + prediction,
                        minlength=self.classes**2).reshape(self.classes, self.classes)
    right, labels, predictions = np.diag(pairs), pairs.sum(1), pairs.sum(0)
    named = labels + predictions
    f1 = 2 * right / np.maximum(named, 1)
    n = float(len(label))
    spread = (n**2 - labels @ labels) * (n**2 - predictions @ predictions)
    mcc = (n * right.sum() - labels @ predictions) / np.sqrt(spread) if spread else 0.0
    found = {'accuracy': right.sum() / n, 'macro_f1': f1[named > 0].mean(), 'mcc': mcc, 'f1': f1[1]}
    return {name: float(found[name]) for name in self.metrics}
