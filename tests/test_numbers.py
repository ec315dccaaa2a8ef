"""Numbers that are not finite: counted in arrays, found in JSON, refused where they are written."""
import json

import jax.numpy as jnp
import numpy as np
import pytest

from distill import numbers
from distill.types import Status, Stop


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16', 'float32', 'float64'])
def test_counts_of_every_type_with_fractions(dtype):
  values = np.array([[0, np.nan, np.inf], [-np.inf, 1, 2]]).astype(jnp.dtype(dtype))
  assert numbers.count_nonfinite(values) == 3 and numbers.count_nonfinite(values[1, 1:]) == 0


@pytest.mark.parametrize('values', [np.arange(3), np.array([True]), np.zeros((0, 4)), 2.0])
def test_nothing_is_counted_where_nothing_can_be_wrong(values):
  assert numbers.count_nonfinite(values) == 0


@pytest.mark.parametrize(('value', 'field'), [
    ({'a': [1, {'b': float('nan')}]}, 'a.1.b'), ([0.0, float('inf')], '1'),
    (float('-inf'), 'the value'), ({'a': np.float32('nan')}, 'a'),
    ({'a': 1.0, 'b': ['nan', None, True, 10**400]}, '')])
def test_the_first_number_that_is_not_finite_is_named_by_its_path(value, field):
  assert numbers.nonfinite(value) == field


def test_json_has_no_word_for_nan():
  assert json.loads(numbers.dumps({'é': [1.5]}, 'x', ensure_ascii=False)) == {'é': [1.5]}
  with pytest.raises(Stop) as stop:
    numbers.dumps({'a': {'b': float('nan')}}, 'config', Status.CONFIG)
  assert stop.value.status == Status.CONFIG
  assert str(stop.value) == 'config: a.b is not a finite number'


def test_another_fault_of_json_stays_what_it_is():
  circle = []
  circle.append(circle)
  with pytest.raises((ValueError, RecursionError)):
    numbers.dumps(circle, 'x')
