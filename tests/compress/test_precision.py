"""Weights in 16 bits."""
import ml_dtypes
import numpy as np
import pytest

from distill.compress.precision import Half
from distill.types import Status, Stop


def test_numbers_go_to_the_nearest_and_ties_to_even():
  weights = {'w': np.float32([1, 1 + 2**-8, 1 + 3 * 2**-8, -3.14159])}, {'n': np.int32([7])}
  _, (params, rest) = Half()(None, weights)
  assert params['w'].dtype == ml_dtypes.bfloat16 and rest['n'].dtype == np.int32
  # 8 bits of precision: above 1 numbers lie 2^-7 apart, and the two between lie in the middle.
  np.testing.assert_array_equal(params['w'].astype(np.float32), [1, 1, 1 + 2**-6, -3.140625])


def test_float16_has_no_place_for_large_weights():
  with pytest.raises(Stop, match='w holds 7e.04, which float16 has no place for') as stop:
    Half(dtype='float16')(None, ({'w': np.float32([7e4])}, {}))
  assert stop.value.status == Status.NONFINITE
  assert Half()(None, ({'w': np.float32([7e4])}, {}))[1][0]['w'][0] > 6.9e4


def test_other_types_are_refused():
  with pytest.raises(ValueError, match="dtype='int8' is not one of bfloat16, float16"):
    Half(dtype='int8')
