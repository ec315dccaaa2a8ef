"""How good a model is, how sure that is, and what it kept or gained beside another.

Everything comes from the saved records of a split. An interval is the 95 % percentile interval
of a bootstrap over examples (Efron 1979): it says what another sample of such examples could
show, not what another seed of the training could.
"""
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from distill.types import Records

TAILS = (2.5, 97.5)     # percent


class Task(Protocol):
  """What quality needs of a task."""
  metrics: Mapping[str, Mapping[str, Any]]      # name -> unit, higher_is_better

  def score(self, records: Records) -> dict[str, float]: ...


def intervals(task: Task, records: Records, *, resamples: int = 1000,
              seed: int = 0) -> dict[str, dict[str, Any]]:
  """Every metric's value with its interval, as the report holds it."""
  values = task.score(records)
  n = len(records['id'])
  draws = _draws(n, resamples, seed)
  scores = _columns(task.score(_rows(records, draw)) for draw in draws)
  return {name: {'value': value, **_bounds(scores[name]), 'n': n, **task.metrics[name]}
          for name, value in values.items()}


def gain(task: Task, records: Records, reference: Records, *, resamples: int = 1000,
         seed: int = 0) -> dict[str, dict[str, float]]:
  """How much better `records` are than `reference`, paired by example; better is positive."""
  records, reference = _aligned(records, reference)
  signs = {name: 1 if about['higher_is_better'] else -1 for name, about in task.metrics.items()}

  def difference(rows):
    ours, theirs = task.score(_rows(records, rows)), task.score(_rows(reference, rows))
    return {name: signs[name] * (ours[name] - theirs[name]) for name in ours}

  n = len(records['id'])
  values = difference(np.arange(n))
  scores = _columns(map(difference, _draws(n, resamples, seed)))
  return {name: {'value': value, **_bounds(scores[name])} for name, value in values.items()}


def retention(quality: Mapping[str, Mapping[str, Any]],
              reference: Mapping[str, Mapping[str, Any]]) -> dict[str, float | None]:
  """The share of the reference's quality that is left: 1 is all of it, whatever the direction.

  None where the ratio has no meaning: of or by a number below 0, as a correlation may be, or by 0.
  """
  def ratio(ours, theirs):
    above, below = (ours, theirs) if ours['higher_is_better'] else (theirs, ours)
    sound = above['value'] >= 0 and below['value'] > 0
    return above['value'] / below['value'] if sound else None
  return {name: ratio(quality[name], reference[name]) for name in quality}


def _aligned(*several: Records) -> list[Records]:
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


def _draws(n: int, resamples: int, seed: int):
  if resamples < 1:
    raise ValueError(f'resamples={resamples}: an interval needs at least one')
  random = np.random.default_rng(seed)
  return (random.integers(n, size=n) for _ in range(resamples))


def _columns(rows) -> dict[str, np.ndarray]:
  rows = list(rows)
  return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _bounds(scores: np.ndarray) -> dict[str, float]:
  low, high = np.percentile(scores, TAILS)
  return {'low': float(low), 'high': float(high)}
