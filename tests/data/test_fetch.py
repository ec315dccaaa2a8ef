"""What a split brings from memory and from files, and what is said where these don't fit it."""
import numpy as np
import pytest

from distill.data import batches
from distill.data.sets import InMemory, Split
from distill.types import Field, Status, Stop

FIELDS = {'x': Field((2,), 'float32')}


def split(fetch, n=6):
  return Split({'hash01': np.zeros(n)}, FIELDS, fetch)


def first(fetch):
  return batches.in_order(split(fetch), batch_size=4)[0]


def test_memory_mapped_arrays_are_read_row_by_row(tmp_path):
  np.save(tmp_path / 'x.npy', np.arange(12, dtype=np.float32).reshape(6, 2))
  mapped = np.load(tmp_path / 'x.npy', mmap_mode='r')
  np.testing.assert_array_equal(first(InMemory({'x': mapped}))['x'], mapped[:4])


def test_an_index_longer_than_its_arrays_is_refused():
  with pytest.raises(Stop, match='the index has 6 rows, and its files or arrays fewer') as stop:
    first(lambda rows: {'x': np.zeros((3, 2), np.float32)[rows]})
  assert stop.value.status == Status.DATA


@pytest.mark.parametrize('held', [3, 8])
def test_an_index_shorter_or_longer_than_arrays_in_memory_is_refused(held):
  with pytest.raises(Stop, match=f'the index has 6 rows, and the arrays that it is of {held}'):
    split(InMemory({'x': np.zeros((held, 2), np.float32)}))
  with pytest.raises(Stop, match='arrays of the same examples differ in length: x 6, y 5'):
    split(InMemory({'x': np.zeros((6, 2), np.float32), 'y': np.zeros(5)}))


def test_a_file_that_went_away_is_one_line():
  def fetch(rows):
    raise FileNotFoundError(2, 'No such file or directory', 'x.bin')
  with pytest.raises(Stop, match='rows 0 to 3 cannot be read: .*x.bin') as stop:
    first(fetch)
  assert stop.value.status == Status.DATA


def test_targets_without_a_word_on_who_has_them_are_refused():
  with pytest.raises(Stop, match="neither a label nor a column 'known'"):
    Split({'hash01': np.zeros(2)}, {'y': Field((), 'float32', target=True)}, lambda rows: {})


def test_an_axis_has_a_name_of_its_own():
  for axis in 'b', 'two words':
    with pytest.raises(Stop, match="an axis can't be called"):
      Split({'hash01': np.zeros(2), axis: np.ones(2, int)}, {'x': Field((axis,), 'float32')},
            lambda rows: {}, room={axis: 1})


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
