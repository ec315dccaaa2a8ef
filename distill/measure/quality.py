"""Quality of a model, its uncertainty, and its comparison with another: retention and gain.

Everything is computed from the saved records of a split. An interval is the 95 % percentile
interval of a bootstrap over examples (Efron 1979). It covers what another sample of such examples
could show, not what another training seed could. The resamples depend on the number of examples
and the seed alone, so models whose records are aligned by `align` are paired by example.
"""
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from distill.tasks import Task
from distill.types import Records

Metrics = Mapping[str, Mapping[str, Any]]       # as in the report
TAILS = (2.5, 97.5)     # percent
NORMAL = 1.959963984540054      # 95 % of a normal distribution lie within ± that many deviations


class Scores(NamedTuple):
  """Every metric with its interval, and the metric's values on the resamples."""
  metrics: Metrics
  samples: Mapping[str, np.ndarray]


def score(task: Task, records: Records, *, resamples: int = 1000, seed: int = 0) -> Scores:
  """Computes the task's metrics of some records, with intervals by a bootstrap."""
  values = task.score(records)
  n = len(records['id'])
  samples = task.bootstrap(records, _resamples(n, resamples, seed))
  metrics = {name: {'value': value, **interval(samples[name]), 'n': n, **task.metrics[name]}
             for name, value in values.items()}
  return Scores(metrics, samples)


def side_by_side(task: Task, records: Mapping[str, Records], teachers: Mapping[str, str],
                 baselines: Mapping[str, str], *, resamples: int) -> dict[str, dict[str, Any]]:
  """Computes every model's `quality`, `retention` of its teacher's, and `gain` over its baseline.

  Args:
    records: by model, its records of the same examples.
    teachers, baselines: by model, the name of the model that it is compared with, if there is one.
  """
  aligned = align(*records.values())
  chance = chance_level(task, aligned[0])
  scores = {name: score(task, found, resamples=resamples)
            for name, found in zip(records, aligned, strict=True)}

  def retained(name: str, teacher: str) -> dict[str, Any]:
    ours, theirs = scores[name], scores[teacher]
    plain, over_chance = retention_intervals(ours, theirs, chance)
    found = {'retention': {'of': teacher, **retention(ours.metrics, theirs.metrics)},
             'retention_interval': {'of': teacher, **plain}, 'retention_over_chance': None}
    if chance:
      shares = retention_over_chance(ours.metrics, theirs.metrics, chance)
      found['retention_over_chance'] = {'of': teacher, **{
          metric: {**share, 'interval': over_chance[metric]} for metric, share in shares.items()}}
    return found

  def entry(name: str) -> dict[str, Any]:
    found, baseline = dict.fromkeys(
        ('retention', 'retention_interval', 'retention_over_chance')), baselines.get(name)
    if name in teachers:
      found = retained(name, teachers[name])
    gained = {'of': baseline, **gain(scores[name], scores[baseline])} if baseline else None
    return {'quality': scores[name].metrics, **found, 'gain': gained}
  return {name: entry(name) for name in records}


def gain(ours: Scores, theirs: Scores) -> dict[str, dict[str, float]]:
  """Computes how much better `ours` is than `theirs`, for aligned records; better is positive."""
  def gap(name):
    first, second = ours.metrics[name], theirs.metrics[name]
    sign = 1 if first['higher_is_better'] else -1
    return {'value': sign * (first['value'] - second['value']),
            **interval(sign * (ours.samples[name] - theirs.samples[name]))}
  return {name: gap(name) for name in ours.metrics}


def retention(quality: Metrics, reference: Metrics) -> dict[str, float | None]:
  """Computes the share of the reference's quality that is left: 1 is all, in either direction.

  None where the ratio has no meaning: with a number below 0, as a correlation may be, or with a
  divisor of 0.
  """
  def ratio(ours, theirs):
    above, below = (ours, theirs) if ours['higher_is_better'] else (theirs, ours)
    if above['value'] < 0 or below['value'] <= 0:
      return None
    return above['value'] / below['value']
  return {name: ratio(quality[name], reference[name]) for name in quality}


def chance_level(task: Task, records: Records) -> dict[str, float] | None:
  """Scores the best constant answer: the most frequent class of these examples, or their mean.

  Among equally frequent classes it takes the first. None if the task knows no such answer.
  """
  return task.score(task.constant(records)) if task.constant else None


def retention_over_chance(quality: Metrics, reference: Metrics,
                          chance: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
  """Computes the share of the reference's lead over chance: (a - chance) / (t - chance).

  It is below 0 for a model that is worse than chance, and None if the reference has no lead.
  """
  def share(metric):
    ours, theirs = (metrics[metric]['value'] - chance[metric] for metrics in (quality, reference))
    sign = 1 if quality[metric]['higher_is_better'] else -1
    return ours / theirs if sign * theirs > 1e-9 else None
  return {name: {'value': share(name), 'chance': chance[name]} for name in quality}


def retention_intervals(
    ours: Scores, theirs: Scores, chance: Mapping[str, float] | None) -> tuple[
        dict[str, dict[str, float] | None], dict[str, dict[str, float] | None]]:
  """Computes the intervals of `retention` and of `retention_over_chance`, for aligned records.

  An interval is None where a resample has no such ratio. Without `chance` the second is empty.
  """
  plain, over = {}, {}
  for name, metric in ours.metrics.items():
    mine, others, higher = ours.samples[name], theirs.samples[name], metric['higher_is_better']
    above, below = (mine, others) if higher else (others, mine)
    defined = (above >= 0).all() and (below > 0).all()
    plain[name] = interval(above / below) if defined else None
    if chance:
      lead = others - chance[name]
      defined = ((lead if higher else -lead) > 1e-9).all()
      over[name] = interval((mine - chance[name]) / lead) if defined else None
  return plain, over


def per_class(records: Records, names: tuple[str, ...], *, resamples: int = 1000,
              seed: int = 0) -> list[dict[str, Any]]:
  """Computes precision, recall, F1 with its interval, and the number of examples of every class.

  `records` are a task's `categories`. An undefined value is 0, as in scikit-learn.
  """
  label, prediction, c = records['label'], records['prediction'], len(names)
  _check_not_empty(len(label))
  for name, values in ('label', label), ('prediction', prediction):
    if values.min() < 0 or values.max() >= c:
      raise ValueError(f'records hold a {name} that is not among the {c} classes')

  def counts(rows):
    labels, predictions = label[rows], prediction[rows]
    hits = np.bincount(labels[labels == predictions], minlength=c)
    return hits, np.bincount(labels, minlength=c), np.bincount(predictions, minlength=c)

  share = lambda part, whole: part / np.maximum(1, whole)
  f1 = lambda hits, labels, predictions: share(2 * hits, labels + predictions)
  hits, labels, predictions = counts(np.arange(len(label)))
  samples = np.array([f1(*counts(rows)) for rows in _resamples(len(label), resamples, seed)])
  columns = (share(hits, predictions), share(hits, labels), f1(hits, labels, predictions),
             samples.T, labels)
  return [{'name': name, 'precision': float(precision), 'recall': float(recall),
           'f1': {'value': float(value), **interval(values)}, 'support': int(support)}
          for name, precision, recall, value, values, support in zip(names, *columns, strict=True)]


def is_classification(records: Records) -> bool:
  """Tells whether stored records are those of one class an example.

  A page is drawn from files, without the task that could say so: the arrays' shapes decide.
  """
  shapes = [np.shape(records.get(name)) for name in ('label', 'prediction', 'probabilities')]
  return [len(shape) for shape in shapes] == [1, 1, 2] and len({shape[0] for shape in shapes}) == 1


def confusion_matrix(records: Records, classes: int) -> np.ndarray:
  """Counts the examples of a class (row) that are predicted as a class (column), int [c c]."""
  at = records['label'] * classes + records['prediction']
  return np.bincount(at, minlength=classes**2).reshape(classes, classes)


def wilson(hits: int, n: int) -> tuple[float, float]:
  """Returns the 95 % interval of a share of n >= 1 examples (Wilson 1927, eq. 6).

  Written out here, because importing `scipy.stats`, which has it too, takes a second.
  """
  share, centre = hits / n, (hits + NORMAL**2 / 2) / (n + NORMAL**2)
  half = NORMAL / (n + NORMAL**2) * math.sqrt(n * share * (1 - share) + NORMAL**2 / 4)
  return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, *, resamples: int = 1000,
              seed: int = 0) -> dict[str, float]:
  """Computes a statistic of n examples, a function of their rows, with its interval."""
  _check_not_empty(n)
  samples = [statistic(rows) for rows in _resamples(n, resamples, seed)]
  return {'value': float(statistic(np.arange(n))), **interval(np.array(samples))}


def align(*several: Records) -> list[Records]:
  """Returns records of the same examples in the same order.

  Raises:
    ValueError: the records are of different examples, or disagree about their labels.
  """
  ordered = [_take_rows(records, np.argsort(records['id'], kind='stable')) for records in several]
  ids, labels = ([records[name] for records in ordered] for name in ('id', 'label'))
  if (np.diff(ids[0]) == 0).any():
    raise ValueError('records hold an example twice')
  if not all(np.array_equal(ids[0], other) for other in ids):
    raise ValueError('records of different examples cannot be paired')
  if not all(np.array_equal(labels[0], other) for other in labels):
    raise ValueError('records disagree about the labels of the same examples')
  return ordered


def interval(samples: np.ndarray) -> dict[str, float]:
  """Returns the percentile interval of a bootstrap's values."""
  low, high = np.percentile(samples, TAILS)
  return {'low': float(low), 'high': float(high)}


def _take_rows(records: Records, rows: np.ndarray) -> Records:
  return {name: values[rows] for name, values in records.items()}


def _check_not_empty(n: int) -> None:
  if not n:
    raise ValueError('there are no records to judge by')


def _resamples(n: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
  """Returns the rows of every resample: n of n, drawn with replacement."""
  if resamples < 1:
    raise ValueError(f'resamples={resamples}: an interval needs at least one')
  random = np.random.default_rng(seed)
  return (random.integers(n, size=n) for _ in range(resamples))
