"""What can be said of paired differences: intervals of their mean, p-values, and of many of these.

A difference is one of a seed: both sides had the same initialisation, batches and order, so what a
seed brings to both is gone from it. The interval to judge by is the t interval; `bootstrap` asks
the same without the normal distribution.
"""
import warnings
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
  ends = _t(found).confidence_interval(level)
  return ends.low, ends.high


def t_test(found: ArrayLike) -> np.ndarray:
  """The two-sided p-value of the paired t test over the last axis: that the mean is 0.

  Differences that are all the same are 0 by their formula where they aren't 0, else 1.
  """
  return np.nan_to_num(_t(found).pvalue, nan=1.0)       # 0 / 0


def _t(found: ArrayLike):
  with warnings.catch_warnings():                       # of values that are all the same
    warnings.simplefilter('ignore', RuntimeWarning)
    return stats.ttest_1samp(_several(found), 0.0, axis=-1)


def bootstrap(found: ArrayLike, level: float = LEVEL, *, seed: int = 0) -> tuple[float, float]:
  """The BCa interval of the mean of values [n], by resampling them (Efron 1987, §3).

  BCa and not percentiles: it moves the ends for a skewed sample, and is the percentiles' interval
  where nothing is skewed. Of few values (ten or less) either is too short, for resamples spread by
  √(1 − 1/n) less than samples do, and know no tails: the t interval is the one to judge by there.
  """
  found = _several(found)
  if np.ptp(found) == 0:                                # which scipy calls degenerate
    return float(found[0]), float(found[0])
  ends = stats.bootstrap((found,), np.mean, confidence_level=level, n_resamples=RESAMPLES,
                         method='BCa', rng=np.random.default_rng(seed)).confidence_interval
  return float(ends.low), float(ends.high)


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
