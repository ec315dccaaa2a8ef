"""Checks of finite numbers: in arrays that are loaded, and in JSON that is written."""
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill.types import Status, Stop


def count_nonfinite(array: Any) -> int:
  """Counts the NaN and infinite values of an array; integers have none."""
  array = np.asarray(array)
  if array.dtype.kind in 'biuSUOMm':
    return 0
  if array.dtype.kind not in 'fc':        # a type of ml_dtypes, as bfloat16
    array = array.astype(np.float32)
  return array.size - int(np.count_nonzero(np.isfinite(array)))


def nonfinite(value: Any, field: str = '') -> str:
  """Returns the path of the first number in a JSON value that is not finite, '' if all are."""
  if isinstance(value, float | np.floating):
    return '' if math.isfinite(value) else field or 'the value'
  if isinstance(value, Mapping):
    parts = value.items()
  elif isinstance(value, list | tuple):
    parts = enumerate(value)
  else:
    return ''
  return next(filter(None, (
      nonfinite(part, f'{field}.{key}' if field else str(key)) for key, part in parts)), '')


def dumps(value: Any, title: str, status: Status = Status.NONFINITE, **how: Any) -> str:
  """Returns standard JSON; raises a Stop at a number that is not finite.

  `title` names the value for the error line, `how` are keywords of `json.dumps`.
  """
  try:
    return json.dumps(value, allow_nan=False, **how)
  except ValueError:
    field = nonfinite(value)
    if not field:
      raise
    raise Stop(status, f'{title}: {field} is not a finite number') from None
