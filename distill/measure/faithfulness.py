"""Faithfulness: whether a student answers and explains as its teacher does; and calibration.

Everything is computed from saved records: answers side by side, calibration, and what
`attributions.explain` kept of a few examples: attributions, attention and layers. Intervals are
those of `quality`, except for CKA.
"""
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.measure import quality
from distill.tasks import Task
from distill.tasks.regression import correlation
from distill.types import Records

Metric = dict[str, Any]         # value, low, high, n, unit, higher_is_better
BINS = 15               # of the reliability diagram (Guo 2017, §5)
TOP = 0.2               # the share of an example's places that counts as its top
# Arrays of `attributions.explain` that every modality has; any other array is of the inputs.
COMMON = {'id', 'sampled', 'target', 'places', 'attribution', 'rollout', 'layers', 'grams'}
SMALLEST = float(np.finfo(np.float32).tiny)     # replaces any smaller probability in a logarithm


def compare_records(task: Task, records: Records, teacher: Records | None, names: Sequence[str],
                    *, resamples: int = 1000) -> dict[str, Any]:
  """Computes what a report says of a model by its records, beside `quality`.

  `classes` and `calibration` are None unless the task has `categories`; `faithfulness` compares
  the answers with a teacher's. `names` are the classes' names, if there are as many.
  """
  found = {'classes': None, 'calibration': None, 'faithfulness': {}}
  categories = task.categories(records)
  if categories is not None:
    # One of our tasks has as many columns as the data has names.
    n = categories['probabilities'].shape[1]
    titles = tuple(names) if len(names) == n else tuple(map(str, range(n)))
    found |= {'classes': quality.per_class(categories, titles, resamples=resamples),
              'calibration': calibration(categories, resamples=resamples)}
  if teacher is not None:
    found['faithfulness'] = compare_answers(task, records, teacher, resamples=resamples)
  return found


def compare_answers(task: Task, records: Records, teacher: Records, *, resamples: int = 1000,
                    seed: int = 0) -> dict[str, Metric]:
  """Compares a model's answers with the teacher's on the same examples.

  If the task has `categories`: `agreement`, the share of equal predictions; `agreement_on_errors`,
  the share of equal predictions among the examples on which the teacher is wrong, left out if it
  is never wrong; `kl`, the mean KL(teacher || model) at T = 1. If the task has `numbers`:
  `correlation` (Pearson) and `distance`, the mean absolute difference. Otherwise nothing.
  """
  pair = quality.align(records, teacher)
  options = dict(resamples=resamples, seed=seed)
  ours, theirs = map(task.categories, pair)
  if ours is not None and theirs is not None:
    q, p = _probabilities(ours), _probabilities(theirs)
    if p.shape != q.shape:
      raise ValueError(f'{p.shape[1]} and {q.shape[1]} classes cannot be compared')
    same = ours['prediction'] == theirs['prediction']
    on_errors = same[theirs['prediction'] != theirs['label']]
    kl = np.sum(p * (_log(p) - _log(q)), axis=1)
    metrics = {'agreement': _mean(same, 'fraction', True, **options)}
    if len(on_errors):
      metrics['agreement_on_errors'] = _mean(on_errors, 'fraction', True, **options)
    return {**metrics, 'kl': _mean(kl, 'nats', False, **options)}
  ours, theirs = map(task.numbers, pair)
  if ours is not None and theirs is not None:
    ours, theirs = _finite(ours, 'predictions'), _finite(theirs, 'predictions')
    pearson = lambda rows: correlation(ours[rows], theirs[rows])
    return {'correlation': _metric(pearson, len(ours), 'correlation', True, **options),
            'distance': _mean(np.abs(ours - theirs), '', False, **options)}
  return {}


def calibration(records: Records, *, resamples: int = 1000, seed: int = 0) -> dict[str, Any]:
  """Measures whether a model is right as often as it is confident.

  `records` are a task's `categories`. Returns

    ece           expected calibration error over 15 bins of equal width (Guo 2017, eq. 3)
    adaptive_ece  the same over 15 bins of about equal numbers of examples (Nguyen and O'Connor
                  2015)
    nll           negative log-likelihood, in nats
    brier         squared distance of the probabilities from the label, summed over classes, from 0
                  to 2 (Brier 1950)
    bins          those of the reliability diagram, (low, high]; an empty bin has no confidence and
                  no accuracy

  The ECE of a finite sample is above the true one, and that of a resample is higher still: its
  interval may lie above its value.
  """
  p, label = _probabilities(records), records['label']
  n, options = len(p), dict(resamples=resamples, seed=seed)
  confidence, right = p.max(axis=1), (records['prediction'] == label).astype(np.float64)
  equal_widths = np.arange(1, BINS) / BINS
  equal_counts = np.quantile(confidence, equal_widths)

  def metric(edges):
    statistic = lambda rows: ece(confidence[rows], right[rows], edges)
    return _metric(statistic, n, 'fraction', False, **options)

  at = np.searchsorted(equal_widths, confidence)
  count, confident, hits = (np.bincount(at, weights, BINS) for weights in (None, confidence, right))
  target = np.eye(p.shape[1])[label]
  return {
      'ece': metric(equal_widths),
      'adaptive_ece': metric(equal_counts),
      'nll': _mean(-_log(p[np.arange(n), label]), 'nats', False, **options),
      'brier': _mean(np.sum((p - target)**2, axis=1), '', False, **options),
      'bins': [{'low': m / BINS, 'high': (m + 1) / BINS, 'n': int(k),
                'confidence': float(confident[m] / k) if k else None,
                'accuracy': float(hits[m] / k) if k else None} for m, k in enumerate(count)]}


def ece(confidence: np.ndarray, right: np.ndarray, edges: np.ndarray) -> float:
  """Computes Σ |B|/n · |accuracy(B) - confidence(B)| over the bins B (Guo 2017, eq. 3).

  `edges` are the inner edges. A bin includes its upper edge; the first and the last are open.
  """
  gaps = np.bincount(np.searchsorted(edges, confidence), right - confidence)
  return float(np.abs(gaps).sum() / len(confidence))


def compare_explanations(ours: Records, theirs: Records, *, resamples: int = 1000,
                         seed: int = 0) -> dict[str, Metric]:
  """Compares what `attributions.explain` returned for two models on the same examples.

  `saliency`: Spearman's correlation of |attribution| over an example's places, its mean over
  examples. `saliency_top`: the share of the top fifth of places that both models have in common
  (0.2 by chance). `rollout`: the same correlation of attention rollouts. `cka`: for each layer of
  the student the CKA with the teacher's most similar layer, its mean over layers; the interval is
  ± 1.96 standard errors of the jackknife over examples (a bootstrap would draw examples twice, and
  these look similar).

  Only sampled examples count, and for saliency and rollout only those with at least two places.
  Models that read a text by different tokens have no places in common and get `cka` alone.
  """
  if not all(np.array_equal(ours[name], theirs[name]) for name in ('id', 'target', 'sampled')):
    raise ValueError('what was kept of different examples cannot be compared')
  options = dict(resamples=resamples, seed=seed)
  found = {**_compare_places(ours, theirs, **options)}
  n = int(ours['sampled'].sum())
  if n > 4 and len(ours['layers']) and len(theirs['layers']):
    found['cka'] = _best_cka(ours['grams'], theirs['grams'], n)
  return found


def _compare_places(ours: Records, theirs: Records, **options: int) -> dict[str, Metric]:
  """Compares attributions and rollouts of models that read the same places of an example."""
  from scipy.stats import rankdata  # here: a run that explains no model needn't wait for it
  inputs = ours.keys() - COMMON
  if not all(name in theirs and np.array_equal(ours[name], theirs[name]) for name in inputs):
    return {}
  sampled = ours['sampled']
  places = [place.ravel() for place in ours['places'][sampled]]
  ranks = lambda a, b: correlation(rankdata(a), rankdata(b))

  def compare(array, similarity):
    values = []
    first, second = (_finite(records[array][sampled], array) for records in (ours, theirs))
    for a, b, at in zip(first, second, places, strict=True):
      a, b = np.abs(a.ravel()[at]), np.abs(b.ravel()[at])
      if len(a) > 1:
        values.append(similarity(a, b))
    return np.array(values)

  found = {}
  for name, array, similarity, unit in (('saliency', 'attribution', ranks, 'correlation'),
                                        ('saliency_top', 'attribution', top_overlap, 'fraction'),
                                        ('rollout', 'rollout', ranks, 'correlation')):
    if array in ours and array in theirs:
      values = compare(array, similarity)
      if len(values):
        found[name] = _mean(values, unit, True, **options)
  return found


def _best_cka(ours: np.ndarray, theirs: np.ndarray, n: int) -> Metric:
  """Computes the mean over our layers of the CKA with the most similar of their layers."""
  def best(rows):
    similarity = cka(*(grams[:, rows][:, :, rows] for grams in (ours, theirs)))
    return float(similarity.max(axis=1).mean())
  value = best(np.arange(n))
  left_out = [best(np.delete(np.arange(n), i)) for i in range(n)]
  width = 1.96 * float(np.sqrt((n - 1) * np.var(left_out)))
  return {'value': value, 'low': max(value - width, -1.0), 'high': min(value + width, 1.0), 'n': n,
          'unit': 'correlation', 'higher_is_better': True}


def layer_similarity(ours: Records, theirs: Records) -> dict[str, Any] | None:
  """Computes the CKA of every layer of a model (rows) with every layer of the teacher (columns).

  None with fewer than four sampled examples, or for a model without layers.
  """
  if ours['sampled'].sum() < 4 or not len(ours['layers']) or not len(theirs['layers']):
    return None
  return {'rows': ours['layers'].tolist(), 'columns': theirs['layers'].tolist(),
          'cka': cka(ours['grams'], theirs['grams']).tolist()}


def cka(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
  """Computes linear CKA (Kornblith 2019, eq. 4) from layers' Gram matrices [l n n], [m n n]: [l m].

  It uses the unbiased HSIC (Song 2012, eq. 5; as Nguyen 2021, eq. 3): with few examples the biased
  one finds wide layers similar that have nothing in common. A layer that is the same for all
  examples has similarity 0 to every layer. It needs at least four examples.
  """
  if ours.shape[-1] < 4:
    raise ValueError(f'{ours.shape[-1]} examples: CKA needs at least 4')
  a, b = (_centred(_finite(grams, 'layers')) for grams in (ours, theirs))
  return a @ b.T


def _centred(grams: np.ndarray) -> np.ndarray:
  """Returns grams [l n n] as unit vectors [l n²] whose products are those of the unbiased HSIC.

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


def top_overlap(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Computes the share of the largest fifth of `ours` that is in the largest fifth of `theirs`.

  A fifth is at least one place. Among equal values the first is taken.
  """
  k = max(1, round(TOP * len(ours)))
  first, second = (np.argsort(-x, kind='stable')[:k] for x in (ours, theirs))
  return len(np.intersect1d(first, second)) / k


def _probabilities(records: Records) -> np.ndarray:
  """Returns the probabilities as float64 [n c]; a ValueError if a label isn't among the classes."""
  p, label = _finite(records['probabilities'], 'probabilities'), records['label']
  if not len(label):
    raise ValueError('there are no records to judge by')
  if label.min() < 0 or label.max() >= p.shape[1]:
    raise ValueError(f'records hold labels that are not among the {p.shape[1]} classes')
  return p


def _finite(values: np.ndarray, noun: str) -> np.ndarray:
  values = np.asarray(values, np.float64)
  if not np.isfinite(values).all():
    raise ValueError(f'records hold {noun} that are not finite')
  return values


def _log(p: np.ndarray) -> np.ndarray:
  return np.log(np.maximum(p, SMALLEST))


def _mean(values: np.ndarray, unit: str, higher: bool, **options: int) -> Metric:
  return _metric(lambda rows: values[rows].mean(), len(values), unit, higher, **options)


def _metric(statistic: Callable[[np.ndarray], float], n: int, unit: str, higher: bool,
            **options: int) -> Metric:
  return {**quality.bootstrap(statistic, n, **options), 'n': n, 'unit': unit,
          'higher_is_better': higher}
