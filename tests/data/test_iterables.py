"""Batches of any iterable: begun again, filled up, checked."""
import itertools

import grain
import jax.numpy as jnp
import numpy as np
import pytest

from distill.data.batches import read_ahead
from distill.data.iterables import IterableData
from distill.types import Status, Stop


def batch(*values):
  return {'x': np.array(values, np.float32)}


def some(batches, n, start=0):
  return [b['x'].tolist() for b in itertools.islice(read_ahead(batches, start), n)]


DATA = [batch(1, 2), batch(3, 4), batch(5)]


@pytest.mark.parametrize('data', [
    DATA, lambda: iter(DATA), grain.MapDataset.source(range(3)).map(DATA.__getitem__),
    dict.fromkeys(DATA[:0]) or tuple(DATA)], ids=['list', 'function', 'grain', 'tuple'])
def test_what_can_be_begun_again_has_no_end_and_starts_anywhere(data):
  whole = some(IterableData(data), 7)
  assert whole == [[1, 2], [3, 4], [5, 0], [1, 2], [3, 4], [5, 0], [1, 2]]
  assert some(IterableData(data), 4, start=3) == whole[3:]


def test_a_generator_ends_with_a_line():
  batches = IterableData(iter(DATA))
  with pytest.raises(Stop, match='data ended after 3 batches') as stop:
    some(batches, 4)
  assert stop.value.status == Status.DATA


def test_a_pass_is_every_batch_once_also_of_a_generator_and_again():
  for data in DATA, iter(DATA):
    batches = IterableData(data)
    passes = [[b['x'].tolist() for b in batches.one_pass()] for _ in range(3)]
    assert passes == [[[1, 2], [3, 4], [5, 0]]] * 3


def test_rows_that_fill_do_not_count_and_ids_go_on():
  *_, last = IterableData(DATA).one_pass()
  assert last['valid'].tolist() == [1, 0] and last['id'].tolist() == [4, -1]
  assert last['valid'].dtype == np.float32 and last['id'].dtype == np.int32


def test_what_a_batch_says_of_itself_stays():
  batches = IterableData([{**batch(1, np.nan), 'valid': [1, 0], 'id': [7, 9]}])
  assert batches[0]['valid'].tolist() == [1, 0] and batches[0]['id'].tolist() == [7, 9]


def test_arrays_are_of_types_that_jax_has_and_texts_are_left_out():
  batches = IterableData([{'x': np.ones(2), 'n': [1, 2], 'b': np.ones(2, np.uint8),
                           'j': jnp.ones(2), 'name': ['a', 'b'], 'ragged': [[1], [2, 3]],
                           'raw': np.array([b'a', b'b'])}])
  assert {name: str(x.dtype) for name, x in batches[0].items()} == {
      'x': 'float32', 'n': 'int32', 'b': 'uint8', 'j': 'float32', 'id': 'int32', 'valid': 'float32'}


def test_ids_of_a_batch_are_remembered_for_the_error_line(monkeypatch):
  monkeypatch.setattr('distill.data.iterables.REMEMBERED', 2)
  batches = IterableData(DATA)
  some(batches, 5)
  assert batches[4]['id'].tolist() == [8, 9] and batches[1]['id'].tolist() == []
