"""Statistics of paired differences: intervals of their mean, p-values, and corrections of these.

Differences are paired by seed: both sides have the same initialisation, batches and order, so the
effect of a seed on both cancels. The interval to decide by is the t interval; `bootstrap` estimates
it without the normal distribution.
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
  """Subtracts theirs from ours, at the seeds that both have."""
  return {seed: ours[seed] - theirs[seed] for seed in sorted(ours) if seed in theirs}


def t_interval(found: ArrayLike, level: float = LEVEL) -> tuple[np.ndarray, np.ndarray]:
  """Returns the t interval of the mean over the last axis (Student 1908), of two values or more."""
  ends = _t(found).confidence_interval(level)
  return ends.low, ends.high


def t_test(found: ArrayLike) -> np.ndarray:
  """Returns the two-sided p-value of the paired t test over the last axis: that the mean is 0.

  Where all differences are equal, it is 1 if they are 0, else 0.
  """
  return np.nan_to_num(_t(found).pvalue, nan=1.0)       # 0 / 0


def _t(found: ArrayLike):
  with warnings.catch_warnings():                       # values may be all the same
    warnings.simplefilter('ignore', RuntimeWarning)
    return stats.ttest_1samp(_several(found), 0.0, axis=-1)


def bootstrap(found: ArrayLike, level: float = LEVEL, *, seed: int = 0) -> tuple[float, float]:
  """Returns the BCa interval of the mean of values [n], by resampling them (Efron 1987, §3).

  BCa corrects the percentile interval for a skewed sample. With few values (ten or less) both are
  too short, for resamples spread by √(1 − 1/n) less than samples do and have no tails: decide by
  the t interval then.
  """
  found = _several(found)
  if np.ptp(found) == 0:                                # degenerate for scipy
    return float(found[0]), float(found[0])
  ends = stats.bootstrap((found,), np.mean, confidence_level=level, n_resamples=RESAMPLES,
                         method='BCa', rng=np.random.default_rng(seed)).confidence_interval
  return float(ends.low), float(ends.high)


def holm(found: Mapping[str, float]) -> dict[str, float]:
  """Corrects the p-values of several tests, so that any false claim has the level's chance.

  By Holm (1979): the smallest is multiplied by the number of tests, the next by one less, and so
  on; none is below the one before.
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
