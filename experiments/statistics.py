"""What can be said of paired differences: intervals of their mean, p-values, and of many of these.

A difference is one of a seed: both sides had the same initialisation, batches and order, so what a
seed brings to both is gone from it. The interval to judge by is the t interval; `bootstrap` asks
the same without the normal distribution.
"""
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

Values = Mapping[int, float]            # by seed
LEVEL = 0.95
RESAMPLES = 10_000


def differences(ours: Values, theirs: Values) -> dict[int, float]:
  """Ours less theirs, at the seeds that both have."""
  return {seed: ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs}


def t_interval(found: ArrayLike, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
  """The t interval of the mean over the last axis (Student 1908), which has at least two values."""
  found = _several(found)
  mean, error = found.mean(-1), stats.sem(found, axis=-1)
  half = stats.t.ppf((1 + level) / 2, found.shape[-1] - 1) * error
  return mean - half, mean + half


def t_test(found: ArrayLike) -> np.ndarray:
  """The two-sided p-value of the paired t test over the last axis: that the mean is 0.

  Differences that are all the same are 0 by their formula where they aren't 0, else 1.
  """
  found = _several(found)
  mean, error = np.abs(found.mean(-1)), stats.sem(found, axis=-1)
  spread = np.ptp(found, axis=-1) > 0           # the error of equal values is not quite 0
  ratio = mean / np.where(spread, error, 1.0)
  return np.where(spread, 2 * stats.t.sf(ratio, found.shape[-1] - 1), np.where(mean > 0, 0.0, 1.0))


def bootstrap(found: ArrayLike, level: float = LEVEL, *, seed: int = 0) -> tuple[float, float]:
  """The BCa interval of the mean of values [n], by resampling them (Efron 1987, §3).

  BCa and not percentiles: it moves the ends for a skewed sample, and is the percentiles' interval
  where nothing is skewed. Of few values (ten or less) either is too short, for resamples spread by
  √(1 − 1/n) less than samples do, and know no tails: the t interval is the one to judge by there.
  """
  found = _several(found)
  n, mean = found.shape[-1], found.mean()
  if np.ptp(found) == 0:
    return float(mean), float(mean)
  draws = np.random.default_rng(seed).integers(n, size=(RESAMPLES, n))
  means = np.sort(found[draws].mean(-1))
  less, same = (means < mean).mean(), (means == mean).mean()
  bias = stats.norm.ppf(less + same / 2)        # of the median, ties by halves
  left = (found.sum() - found) / (n - 1)        # the mean without each of them
  off = left.mean() - left
  skew = (off**3).sum() / (6 * (off**2).sum()**1.5)
  z = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
  low, high = np.quantile(means, stats.norm.cdf(bias + z / (1 - skew * z)))
  return float(low), float(high)


def holm(found: Mapping[str, float]) -> dict[str, float]:
  """p-values of a family of tests, corrected so that one false claim has the level's chance (Holm
  1979): the smallest times their number, the next times one less, and none below the one before.
  """
  corrected, least = {}, 0.0
  for rank, name in enumerate(sorted(found, key=found.get)):
    least = max(least, min(1.0, (len(found) - rank) * found[name]))
    corrected[name] = least
  return {name: corrected[name] for name in found}


def _several(found: ArrayLike) -> np.ndarray:
  found = np.asarray(found, float)
  if not found.ndim or found.shape[-1] < 2:
    raise ValueError(f'values {list(found.shape)}: a spread needs at least two')
  return found
