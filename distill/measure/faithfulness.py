"""Whether a student decides as its teacher does, and whether either knows how sure it may be.

Everything comes from saved records: answers side by side, calibration, and what `inside` kept of
a few examples: attributions, attention and layers. Intervals are those of `quality`, but for CKA.
"""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.measure import quality
from distill.tasks import Task
from distill.tasks.regression import correlation
from distill.types import Records

Metric = dict[str, Any]         # value, low, high, n, unit, higher_is_better
BINS = 15               # of the reliability curve (Guo 2017, §5)
TOP = 0.2               # the share of an example's places that are its top
SEEN = {'id', 'sampled', 'target', 'places', 'attribution', 'rollout', 'layers', 'grams'}
# … arrays of `inside.explained` that every modality has; the others are of the inputs
LEAST = float(np.finfo(np.float32).tiny)      # a probability below, as 0, counts as this


def from_records(task: Task, records: Records, teacher: Records | None, names: Sequence[str], *,
                 resamples: int = 1000) -> dict[str, Any]:
  """Returns what a report says of a model by its records beside `quality`.

  `classes` and `calibration`, None unless the task has `categories`; and `faithfulness`, the
  `answers` against those of a teacher. `names` are the classes' names, if there are as many.
  """
  found = {'classes': None, 'calibration': None, 'faithfulness': {}}
  if (categories := task.categories(records)) is not None:
    n = categories['probabilities'].shape[1]      # a task of ours has as many as the data has names
    titles = tuple(names) if len(names) == n else tuple(map(str, range(n)))
    found |= {'classes': quality.per_class(categories, titles, resamples=resamples),
              'calibration': calibration(categories, resamples=resamples)}
  if teacher is not None:
    found['faithfulness'] = answers(task, records, teacher, resamples=resamples)
  return found


def answers(task: Task, records: Records, teacher: Records, *, resamples: int = 1000,
            seed: int = 0) -> dict[str, Metric]:
  """Compares a model's answers with the teacher's on the same examples.

  If the task has `categories`: `agreement`, the share of equal predictions; `agreement_on_errors`,
  the share of equal predictions among the examples on which the teacher is wrong, left out if it
  is never wrong; `kl`, the mean KL(teacher || model) at T = 1. If the task has `numbers`:
  `correlation` (Pearson) and `distance`, the mean absolute difference. Otherwise nothing.
  """
  pair = quality.aligned(records, teacher)
  how = dict(resamples=resamples, seed=seed)
  ours, theirs = map(task.categories, pair)
  if ours is not None and theirs is not None:
    q, p = _checked(ours), _checked(theirs)
    if p.shape != q.shape:
      raise ValueError(f'{p.shape[1]} and {q.shape[1]} classes cannot be compared')
    same = ours['prediction'] == theirs['prediction']
    on_errors = same[theirs['prediction'] != theirs['label']]
    kl = np.sum(p * (_log(p) - _log(q)), axis=1)
    return {'agreement': _mean(same, 'fraction', True, **how),
            **({'agreement_on_errors': _mean(on_errors, 'fraction', True, **how)}
               if len(on_errors) else {}),
            'kl': _mean(kl, 'nats', False, **how)}
  ours, theirs = map(task.numbers, pair)
  if ours is not None and theirs is not None:
    ours, theirs = (_finite(of, 'predictions') for of in (ours, theirs))
    pearson = lambda rows: correlation(ours[rows], theirs[rows])
    return {'correlation': _metric(pearson, len(ours), 'correlation', True, **how),
            'distance': _mean(np.abs(ours - theirs), '', False, **how)}
  return {}


def calibration(records: Records, *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
  """Measures whether a model is right as often as it is sure, by `Task.categories` of its records.

  `ece` (Guo 2017, eq. 3) over 15 equally wide bins, and `adaptive_ece`, over as many that hold
  about equally many examples (Nguyen and O'Connor 2015); `nll` in nats; `brier`, Brier's of 1950,
  the squared distance of the probabilities from the label, summed over classes: from 0 to 2.
  `bins` are the reliability curve's, (low, high]; an empty one has no confidence and no accuracy.

  A finite sample's ECE is above the truth, that of a resample still more: its interval may lie
  above its value.
  """
  p, label = _checked(records), records['label']
  n, how = len(p), dict(resamples=resamples, seed=seed)
  confidence, right = p.max(axis=1), (records['prediction'] == label).astype(np.float64)
  inner = np.arange(1, BINS) / BINS
  evenly = np.quantile(confidence, inner)
  error = lambda edges: lambda rows: ece(confidence[rows], right[rows], edges)
  at = np.searchsorted(inner, confidence)
  count, sure, hit = (np.bincount(at, weights, BINS) for weights in (None, confidence, right))
  target = np.eye(p.shape[1])[label]
  return {
      'ece': _metric(error(inner), n, 'fraction', False, **how),
      'adaptive_ece': _metric(error(evenly), n, 'fraction', False, **how),
      'nll': _mean(-_log(p[np.arange(n), label]), 'nats', False, **how),
      'brier': _mean(np.sum((p - target)**2, axis=1), '', False, **how),
      'bins': [{'low': m / BINS, 'high': (m + 1) / BINS, 'n': int(k),
                'confidence': float(sure[m] / k) if k else None,
                'accuracy': float(hit[m] / k) if k else None} for m, k in enumerate(count)]}


def ece(confidence: np.ndarray, right: np.ndarray, edges: np.ndarray) -> float:
  """Σ |B|/n · |accuracy(B) - confidence(B)| over the bins between `edges` (Guo 2017, eq. 3).

  A bin has its upper edge; the first and the last are open.
  """
  gaps = np.bincount(np.searchsorted(edges, confidence), right - confidence)
  return float(np.abs(gaps).sum() / len(confidence))


def insights(ours: Records, theirs: Records, *, resamples: int = 1000,
             seed: int = 0) -> dict[str, Metric]:
  """How alike two models are inside, by what `inside.explained` kept of each on the same examples.

  `saliency`: Spearman's correlation of |attribution| over an example's places, its mean over the
  examples; `saliency_top`: the share of the top fifth of places that is the other's, too (0.2 by
  chance); `rollout`: the same correlation of attention rollouts; `cka`: the mean over the student's
  layers of the linear CKA with the teacher's layer that is most alike, its interval ± 1.96 standard
  errors of the jackknife over examples (a bootstrap's twins would count as alike). Only the
  examples that were drawn count (`sampled`), and of them those with two places at least. Models
  that read a text by other tokens have no places in common: of them there is `cka` alone.
  """
  from scipy.stats import rankdata  # here: a run that looks into no model doesn't wait for it
  if not all(np.array_equal(ours[name], theirs[name]) for name in ('id', 'target', 'sampled')):
    raise ValueError('what was kept of different examples cannot be compared')
  sampled, found, how = ours['sampled'], {}, dict(resamples=resamples, seed=seed)
  same = all(name in theirs and np.array_equal(ours[name], theirs[name])
             for name in ours.keys() - SEEN)       # what the models read
  places = [place.ravel() for place in ours['places'][sampled]]

  def compared(name, alike):
    pairs = ((np.abs(a.ravel()[at]), np.abs(b.ravel()[at])) for a, b, at in zip(
        *(_finite(of[name][sampled], name) for of in (ours, theirs)), places, strict=True))
    return np.array([alike(a, b) for a, b in pairs if len(a) > 1])

  ranked = lambda a, b: correlation(rankdata(a), rankdata(b))
  for name, of, alike, unit in (('saliency', 'attribution', ranked, 'correlation'),
                                ('saliency_top', 'attribution', top, 'fraction'),
                                ('rollout', 'rollout', ranked, 'correlation')):
    if same and of in ours and of in theirs and len(values := compared(of, alike)):
      found[name] = _mean(values, unit, True, **how)
  n = int(sampled.sum())
  if n > 4 and len(ours['layers']) and len(theirs['layers']):
    best = lambda rows: float(cka(*(
        of['grams'][:, rows][:, :, rows] for of in (ours, theirs))).max(axis=1).mean())
    value = best(np.arange(n))
    without = [best(np.delete(np.arange(n), i)) for i in range(n)]
    width = 1.96 * float(np.sqrt((n - 1) * np.var(without)))
    low, high = max(value - width, -1.0), min(value + width, 1.0)
    found['cka'] = {'value': value, 'low': low, 'high': high, 'n': n, 'unit': 'correlation',
                    'higher_is_better': True}
  return found


def layers(ours: Records, theirs: Records) -> dict[str, Any] | None:
  """The CKA of every layer of a model (rows) with every one of the teacher's (columns)."""
  if ours['sampled'].sum() < 4 or not len(ours['layers']) or not len(theirs['layers']):
    return None
  return {'rows': ours['layers'].tolist(), 'columns': theirs['layers'].tolist(),
          'cka': cka(ours['grams'], theirs['grams']).tolist()}


def cka(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
  """Linear CKA (Kornblith 2019, eq. 4) of layers by their Gram matrices [l n n], [m n n]: [l m].

  With the unbiased HSIC (Song 2012, eq. 5; as Nguyen 2021, eq. 3): on few examples the plain one
  takes wide layers that have nothing in common for alike. A layer that is the same for all
  examples is like none, 0. At least four examples.
  """
  if ours.shape[-1] < 4:
    raise ValueError(f'{ours.shape[-1]} examples: CKA needs at least 4')
  a, b = (_centred(_finite(grams, 'layers')) for grams in (ours, theirs))
  return a @ b.T


def _centred(grams: np.ndarray) -> np.ndarray:
  """Grams [l n n] as unit vectors [l n²] whose products are those of the unbiased HSIC.

  U-centring (Székely and Rizzo 2014, eq. 2.4), which drops the diagonal.
  """
  n = grams.shape[-1]
  off = ~np.eye(n, dtype=bool)
  k = np.where(off, grams, 0)
  rows = k.sum(-1) / (n - 2)
  k = k - rows[:, :, None] - rows[:, None, :] + k.sum((1, 2))[:, None, None] / ((n - 1) * (n - 2))
  flat = np.where(off, k, 0).reshape(len(k), -1)
  size = np.linalg.norm(flat, axis=1, keepdims=True)
  noise = 1e-12 * np.linalg.norm(grams.reshape(len(k), -1), axis=1, keepdims=True)
  return np.where(size > noise, flat / np.where(size > noise, size, 1), 0)


def top(ours: np.ndarray, theirs: np.ndarray) -> float:
  """The share of the largest fifth of `ours`, at least one place, that `theirs` has as well.

  Of equal ones the first is taken.
  """
  k = max(1, round(TOP * len(ours)))
  first, second = (np.argsort(-x, kind='stable')[:k] for x in (ours, theirs))
  return len(np.intersect1d(first, second)) / k


def _checked(records: Records) -> np.ndarray:
  """The probabilities as float64 [n c], with labels that are among them."""
  p, label = _finite(records['probabilities'], 'probabilities'), records['label']
  if not len(label):
    raise ValueError('there are no records to judge by')
  if label.min() < 0 or label.max() >= p.shape[1]:
    raise ValueError(f'records hold labels that are not among the {p.shape[1]} classes')
  return p


def _finite(values: np.ndarray, what: str) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if not np.isfinite(values).all():
    raise ValueError(f'records hold {what} that are not finite')
  return values


def _log(p: np.ndarray) -> np.ndarray:
  return np.log(np.maximum(p, LEAST))


def _mean(values: np.ndarray, unit: str, higher: bool, **how: int) -> Metric:
  return _metric(lambda rows: values[rows].mean(), len(values), unit, higher, **how)


def _metric(statistic: Callable[[np.ndarray], float], n: int, unit: str, higher: bool,
            **how: int) -> Metric:
  return {**quality.bootstrap(statistic, n, **how), 'n': n, 'unit': unit,
          'higher_is_better': higher}
