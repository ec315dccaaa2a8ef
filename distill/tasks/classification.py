"""Classification: one of c classes for every example."""
import numpy as np

from distill.types import Records


class Classification:
  """One label an example, judged by accuracy and macro-F1.

  Records, all leading with the example axis:

    id             int32 [n]      index of the example in its split
    label          int32 [n]      the class, or -1 where it isn't known
    prediction     int32 [n]      the likeliest class
    probabilities  float32 [n c]
  """
  primary = 'accuracy'
  metrics = {'accuracy': {'unit': 'fraction', 'higher_is_better': True},
             'macro_f1': {'unit': 'fraction', 'higher_is_better': True}}

  def __init__(self, *, classes: int, names: tuple[str, ...] = ()):
    if classes < 2:
      raise ValueError(f'classes={classes}: there is nothing to tell apart')
    if names and len(names) != classes:
      raise ValueError(f'{len(names)} names for {classes} classes')
    self.classes = classes
    self.names = tuple(names) or tuple(map(str, range(classes)))

  def predict(self, outputs: Records, batch: Records) -> Records:
    """The records of one batch, without the rows that only fill it."""
    logits = np.asarray(outputs['logits'], np.float64)
    if logits.shape[1:] != (self.classes,):
      raise ValueError(f'logits are {list(logits.shape)}, not [b {self.classes}]')
    keep = np.asarray(batch['valid']) != 0
    logits, ids = logits[keep], np.asarray(batch['id'], np.int32)[keep]
    if (bad := ~np.isfinite(logits).all(-1)).any():
      raise ValueError(f'example {ids[bad][0]} has logits that are not finite')
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return {'id': ids, 'label': np.asarray(batch['label'], np.int32)[keep],
            'prediction': logits.argmax(-1).astype(np.int32),
            'probabilities': (powers / powers.sum(-1, keepdims=True)).astype(np.float32)}

  def score(self, records: Records) -> dict[str, float]:
    """Accuracy, and F1 averaged over the classes that are a label or a prediction."""
    label, prediction = records['label'], records['prediction']
    if not len(label):
      raise ValueError('there are no records to score')
    for name, values in ('label', label), ('prediction', prediction):
      if values.min() < 0 or values.max() >= self.classes:
        bad = np.flatnonzero((values < 0) | (values >= self.classes))[0]
        raise ValueError(f'example {records["id"][bad]}: {name} {values[bad]} is not one of the '
                         f'{self.classes} classes')
    if np.isnan(records['probabilities']).any():
      raise ValueError('records hold probabilities that are not numbers')
    right = np.bincount(label[label == prediction], minlength=self.classes)
    named = (np.bincount(label, minlength=self.classes)
             + np.bincount(prediction, minlength=self.classes))
    return {'accuracy': float(right.sum() / len(label)),
            'macro_f1': float(np.mean(2 * right[named > 0] / named[named > 0]))}
