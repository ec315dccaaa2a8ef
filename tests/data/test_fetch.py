"""What a split brings from memory and from files, and what is said where these don't fit it."""
import numpy as np
import pytest

from distill.data import batches
from distill.data.sets import Split, in_memory
from distill.types import Field, Status, Stop

FIELDS = {'x': Field((2,), 'float32')}


def split(fetch, n=6):
  return Split({'hash01': np.zeros(n)}, FIELDS, fetch)


def first(fetch):
  return batches.in_order(split(fetch), batch_size=4)[0]


def test_memory_mapped_arrays_are_read_row_by_row(tmp_path):
  np.save(tmp_path / 'x.npy', np.arange(12, dtype=np.float32).reshape(6, 2))
  mapped = np.load(tmp_path / 'x.npy', mmap_mode='r')
  np.testing.assert_array_equal(first(in_memory({'x': mapped}))['x'], mapped[:4])


def test_an_index_longer_than_its_arrays_is_refused():
  with pytest.raises(Stop, match='the index has 6 rows, and its files or arrays fewer') as stop:
    first(in_memory({'x': np.zeros((3, 2), np.float32)}))
  assert stop.value.status == Status.DATA


def test_fewer_rows_than_were_asked_for_are_refused():
  with pytest.raises(Stop, match="4 rows of 'x' were asked for, and 3 came"):
    first(lambda rows: {'x': np.zeros((3, 2), np.float32)})


def test_a_field_that_is_not_fetched_is_refused():
  with pytest.raises(Stop, match="a field 'x', but nothing was fetched of it; there is y"):
    first(lambda rows: {'y': np.zeros((4, 2), np.float32)})


def test_bad_rows_end_the_reading_ahead_with_their_line():
  def fetch(rows):
    if 5 in rows:
      raise Stop(Status.DATA, 'record 5 is cut')
    return {'x': np.zeros((len(rows), 2), np.float32)}
  feed = batches.read_ahead(batches.in_order(split(fetch), batch_size=2), 1)
  assert next(feed)['id'].tolist() == [2, 3]
  with pytest.raises(Stop, match='record 5 is cut'):
    next(feed)
