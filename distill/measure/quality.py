"""How good a model is, how sure that is, and what it kept or gained beside another.

Everything comes from the saved records of a split. An interval is the 95 % percentile interval
of a bootstrap over examples (Efron 1979): it says what another sample of such examples could
show, not what another seed of the training could. The draws depend on the number of examples and
the seed alone, so models whose records are `aligned` are paired by example.
"""
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from distill.tasks import Task
from distill.types import Records

Metrics = Mapping[str, Mapping[str, Any]]       # as the report holds them
TAILS = (2.5, 97.5)     # percent
NORMAL = 1.959963984540054      # what 95 % of a normal distribution lie within


class Resampled(NamedTuple):
  """Every metric with its interval, and its values on the resamples."""
  metrics: Metrics
  draws: Mapping[str, np.ndarray]


def resampled(task: Task, records: Records, *, resamples: int = 1000, seed: int = 0) -> Resampled:
  """The metrics of records, by a bootstrap."""
  values = task.score(records)
  n = len(records['id'])
  draws = task.bootstrap(records, _draws(n, resamples, seed))
  return Resampled({name: {'value': value, **bounds(draws[name]), 'n': n, **task.metrics[name]}
                    for name, value in values.items()}, draws)


def side_by_side(task: Task, records: Mapping[str, Records], teachers: Mapping[str, str],
                 baselines: Mapping[str, str], *, resamples: int) -> dict[str, dict[str, Any]]:
  """Returns every model's `quality`, `retention` against its teacher, and `gain` over its baseline.

  `records` are those of models of the same examples; `teachers` and `baselines` name for each model
  the one that it is compared with, if there is one.
  """
  ordered = aligned(*records.values())
  least = chance(task, ordered[0])
  scores = {name: resampled(task, part, resamples=resamples)
            for name, part in zip(records, ordered, strict=True)}

  def against(name: str, teacher: str) -> dict[str, Any]:
    ours, theirs = scores[name], scores[teacher]
    kept, led = shares(ours, theirs, least)
    over = {metric: {**share, 'interval': led[metric]} for metric, share in
            over_chance(ours.metrics, theirs.metrics, least).items()} if least else {}
    return {'retention': {'of': teacher, **retention(ours.metrics, theirs.metrics)},
            'retention_interval': {'of': teacher, **kept},
            'retention_over_chance': {'of': teacher, **over} if least else None}

  def entry(name: str) -> dict[str, Any]:
    baseline = baselines.get(name)
    kept = against(name, teachers[name]) if name in teachers else dict.fromkeys(
        ('retention', 'retention_interval', 'retention_over_chance'))
    gained = {'of': baseline, **gain(scores[name], scores[baseline])} if baseline else None
    return {'quality': scores[name].metrics, **kept, 'gain': gained}
  return {name: entry(name) for name in records}


def gain(ours: Resampled, theirs: Resampled) -> dict[str, dict[str, float]]:
  """How much better `ours` is than `theirs`, of aligned records; better is positive."""
  def gap(name):
    own, other = ours.metrics[name], theirs.metrics[name]
    sign = 1 if own['higher_is_better'] else -1
    return {'value': sign * (own['value'] - other['value']),
            **bounds(sign * (ours.draws[name] - theirs.draws[name]))}
  return {name: gap(name) for name in ours.metrics}


def retention(quality: Metrics, reference: Metrics) -> dict[str, float | None]:
  """The share of the reference's quality that is left: 1 is all of it, whatever the direction.

  None where the ratio has no meaning: of or by a number below 0, as a correlation may be, or by 0.
  """
  def ratio(ours, theirs):
    above, below = (ours, theirs) if ours['higher_is_better'] else (theirs, ours)
    sound = above['value'] >= 0 and below['value'] > 0
    return above['value'] / below['value'] if sound else None
  return {name: ratio(quality[name], reference[name]) for name in quality}


def chance(task: Task, records: Records) -> dict[str, float] | None:
  """What the best answer that is always the same scores: the commonest class of these examples
  (of several the first), or their mean number. None where a task knows no such answer.
  """
  return task.score(task.constant(records)) if task.constant else None


def over_chance(quality: Metrics, reference: Metrics,
                chance: Mapping[str, float]) -> dict[str, dict[str, float | None]]:
  """The share of the reference's lead over chance that is left: (a - chance) / (t - chance).

  It is below 0 for a model that is worse than chance, and None where the reference doesn't lead.
  """
  def left(metric):
    ours, theirs = (of[metric]['value'] - chance[metric] for of in (quality, reference))
    sign = 1 if quality[metric]['higher_is_better'] else -1
    return ours / theirs if sign * theirs > 1e-9 else None
  return {name: {'value': left(name), 'chance': chance[name]} for name in quality}


def shares(ours: Resampled, theirs: Resampled, chance: Mapping[str, float] | None) -> tuple[
    dict[str, dict[str, float] | None], dict[str, dict[str, float] | None]]:
  """The intervals of `retention` and of `over_chance`, of aligned records.

  None where a resample has no such ratio; none of the latter without a `chance`.
  """
  kept, led = {}, {}
  for name, about in ours.metrics.items():
    mine, others, higher = ours.draws[name], theirs.draws[name], about['higher_is_better']
    above, below = (mine, others) if higher else (others, mine)
    sound = (above >= 0).all() and (below > 0).all()
    kept[name] = bounds(above / below) if sound else None
    if chance:
      lead = others - chance[name]
      sound = ((lead if higher else -lead) > 1e-9).all()
      led[name] = bounds((mine - chance[name]) / lead) if sound else None
  return kept, led


def per_class(records: Records, names: tuple[str, ...], *, resamples: int = 1000,
              seed: int = 0) -> list[dict[str, Any]]:
  """Precision, recall, F1 with its interval, and number of examples of every class.

  `records` are a task's `categories`. What isn't defined is 0, as in scikit-learn.
  """
  label, prediction, c = records['label'], records['prediction'], len(names)
  _some(len(label))
  for name, of in ('label', label), ('prediction', prediction):
    if of.min() < 0 or of.max() >= c:
      raise ValueError(f'records hold a {name} that is not among the {c} classes')

  def counted(rows):
    ours, theirs = label[rows], prediction[rows]
    return np.bincount(ours[ours == theirs], minlength=c), *(
        np.bincount(of, minlength=c) for of in (ours, theirs))

  share = lambda part, whole: part / np.maximum(1, whole)
  f1 = lambda right, labels, predictions: share(2 * right, labels + predictions)
  whole = right, labels, predictions = counted(np.arange(len(label)))
  scores = np.array([f1(*counted(rows)) for rows in _draws(len(label), resamples, seed)])
  columns = share(right, predictions), share(right, labels), f1(*whole), scores.T, labels
  return [{'name': name, 'precision': float(precision), 'recall': float(recall),
           'f1': {'value': float(value), **bounds(drawn)}, 'support': int(support)}
          for name, precision, recall, value, drawn, support in zip(names, *columns, strict=True)]


def classified(records: Records) -> bool:
  """Tells whether stored records are those of one class an example.

  A page is drawn from files, without the task that could say so: their shapes decide.
  """
  shapes = [np.shape(records.get(name)) for name in ('label', 'prediction', 'probabilities')]
  return [len(shape) for shape in shapes] == [1, 1, 2] and len({shape[0] for shape in shapes}) == 1


def confusions(records: Records, classes: int) -> np.ndarray:
  """How many examples of a class (row) are taken for one (column), int [c c]."""
  at = records['label'] * classes + records['prediction']
  return np.bincount(at, minlength=classes**2).reshape(classes, classes)


def wilson(hits: int, n: int) -> tuple[float, float]:
  """Returns the 95 % interval of a share of n >= 1 examples (Wilson 1927, eq. 6).

  Written out: `scipy.stats`, which has it too, takes a second to import.
  """
  share, centre = hits / n, (hits + NORMAL**2 / 2) / (n + NORMAL**2)
  half = NORMAL / (n + NORMAL**2) * math.sqrt(n * share * (1 - share) + NORMAL**2 / 4)
  return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap(statistic: Callable[[np.ndarray], float], n: int, *, resamples: int = 1000,
              seed: int = 0) -> dict[str, float]:
  """A statistic of n examples, as a function of their rows, with its interval."""
  _some(n)
  scores = [statistic(rows) for rows in _draws(n, resamples, seed)]
  return {'value': float(statistic(np.arange(n))), **bounds(np.array(scores))}


def aligned(*several: Records) -> list[Records]:
  """Records of the same examples in the same order, or an error."""
  ordered = [_rows(r, np.argsort(r['id'], kind='stable')) for r in several]
  ids, labels = ([r[name] for r in ordered] for name in ('id', 'label'))
  if (np.diff(ids[0]) == 0).any():
    raise ValueError('records hold an example twice')
  if not all(np.array_equal(ids[0], other) for other in ids):
    raise ValueError('records of different examples cannot be paired')
  if not all(np.array_equal(labels[0], other) for other in labels):
    raise ValueError('records disagree about the labels of the same examples')
  return ordered


def _rows(records: Records, rows: np.ndarray) -> Records:
  return {name: values[rows] for name, values in records.items()}


def _some(n: int) -> None:
  if not n:
    raise ValueError('there are no records to judge by')


def _draws(n: int, resamples: int, seed: int):
  if resamples < 1:
    raise ValueError(f'resamples={resamples}: an interval needs at least one')
  random = np.random.default_rng(seed)
  return (random.integers(n, size=n) for _ in range(resamples))


def bounds(scores: np.ndarray) -> dict[str, float]:
  """The interval of a bootstrap's values."""
  low, high = np.percentile(scores, TAILS)
  return {'low': float(low), 'high': float(high)}
