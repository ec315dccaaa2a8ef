import os

import numpy as np
import pytest

from distill.data import stored

ARRAYS = {'a': np.arange(5, dtype=np.int32), 'b': stored.pack({'words': ['é', 'x']})}


class Maker:
  """Counts how often it was asked."""

  def __init__(self):
    self.asked = 0

  def __call__(self):
    self.asked += 1
    return dict(ARRAYS)


def equal(found):
  return found.keys() == ARRAYS.keys() and all(
      np.array_equal(found[k], v) and found[k].dtype == v.dtype for k, v in ARRAYS.items())


def test_what_was_made_once_is_read_again(tmp_path):
  make = Maker()
  assert equal(stored.load_or_make('kind', [1, 'x'], make, str(tmp_path)))
  assert equal(stored.load_or_make('kind', [1, 'x'], make, str(tmp_path)))
  assert make.asked == 1
  assert stored.unpack(stored.load_or_make('kind', [1, 'x'], make, str(tmp_path))['b']) == {
      'words': ['é', 'x']}


def test_another_origin_or_kind_is_made_anew(tmp_path):
  make = Maker()
  for kind, made_of in (('kind', [1]), ('kind', [2]), ('other', [1]), ('kind', {'a': 1})):
    stored.load_or_make(kind, made_of, make, str(tmp_path))
  assert make.asked == 4


def test_damage_anywhere_is_noticed_and_repaired(tmp_path):
  stored.load_or_make('kind', [], Maker(), str(tmp_path))
  [path] = tmp_path.iterdir()
  good = path.read_bytes()
  for place in range(0, len(good), 3):
    path.write_bytes(good[:place] + bytes([good[place] ^ 0xFF]) + good[place + 1:])
    assert equal(stored.load_or_make('kind', [], Maker(), str(tmp_path))), place


@pytest.mark.parametrize('rest', [b'', b'PK', b'\x80\x04]', b'{"a": 1}'])
def test_what_is_no_archive_is_replaced(tmp_path, rest):
  stored.load_or_make('kind', [], Maker(), str(tmp_path))
  [path] = tmp_path.iterdir()
  path.write_bytes(rest)
  make = Maker()
  assert equal(stored.load_or_make('kind', [], make, str(tmp_path)))
  assert equal(stored.load_or_make('kind', [], make, str(tmp_path))) and make.asked == 1


def test_a_truncated_archive_is_replaced(tmp_path):
  stored.load_or_make('kind', [], Maker(), str(tmp_path))
  [path] = tmp_path.iterdir()
  path.write_bytes(path.read_bytes()[:-30])
  make = Maker()
  assert equal(stored.load_or_make('kind', [], make, str(tmp_path))) and make.asked == 1


def test_a_directory_that_cannot_be_written_costs_time_only(tmp_path):
  (tmp_path / 'file').write_text('')
  make = Maker()
  for _ in range(2):
    assert equal(stored.load_or_make('kind', [], make, str(tmp_path / 'file' / 'folder')))
  assert make.asked == 2


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):

  def full(draft, path):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(os, 'replace', full)
  assert equal(stored.load_or_make('kind', [], Maker(), str(tmp_path)))
  assert not list(tmp_path.iterdir())


def test_an_error_while_making_is_the_callers(tmp_path):
  with pytest.raises(ZeroDivisionError):
    stored.load_or_make('kind', [], lambda: 1 / 0, str(tmp_path))
  assert not list(tmp_path.iterdir())


def test_the_environment_names_the_directory(tmp_path, monkeypatch):
  monkeypatch.setenv('DISTILL_CACHE', str(tmp_path / 'deep' / 'er'))
  stored.load_or_make('kind', [], Maker())
  assert [p.suffix for p in (tmp_path / 'deep' / 'er').iterdir()] == ['.arrays']


def test_code_is_identified_by_its_text(tmp_path):
  (tmp_path / 'a').write_text('one')
  first = stored.source_sha256(str(tmp_path / 'a'))
  (tmp_path / 'a').write_text('two')
  assert stored.source_sha256(str(tmp_path / 'a')) != first
