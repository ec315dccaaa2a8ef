import csv
import io
import json

import hypothesis
import hypothesis.strategies as st
import pytest

from distill import types
from distill.data import rows


@pytest.fixture
def write(tmp_path):
  """Writes a file and returns its path."""

  def write(content, name):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
  return write


def stopped(path):
  with pytest.raises(types.Stop) as stop:
    rows.read(path)
  assert stop.value.status == types.Status.DATA and '\n' not in str(stop.value)
  return str(stop.value)


@hypothesis.given(st.lists(st.text(st.characters(codec='utf-8', exclude_characters='\0')),
                           min_size=1))
@hypothesis.settings(max_examples=25, deadline=None,
                     suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_every_text_survives(write, texts):
  file = io.StringIO()
  csv.writer(file, quoting=csv.QUOTE_ALL).writerows([['text'], *([text] for text in texts)])
  read = lambda path: [row.values['text'] for row in rows.read(path)]
  assert read(write(file.getvalue(), 'my.csv')) == texts
  lines = ''.join(json.dumps({'text': text}, ensure_ascii=False) + '\n' for text in texts)
  assert read(write(lines, 'my.jsonl')) == texts


def test_rows_know_the_line_that_they_begin_in(write):
  lines = lambda path: [row.where for row in rows.read(path)]
  path = write('text,label\n"a\na",0\n\nb,1\n', 'my.csv')
  assert lines(path) == [f'{path}:2', f'{path}:5']
  path = write('a\n\nb\r\nc', 'my.txt')
  assert lines(path) == [f'{path}:1', f'{path}:3', f'{path}:4']


class TestBadLines:
  good = b'{"text": "a", "label": 0}\n'

  @pytest.mark.parametrize('bad, line', [
      (b'{"text": "b", "label": }', 'is not JSON: Expecting value, column 24'),
      (b'{"text": "b"', "is not JSON: Expecting ',' delimiter, column 13"),
      (b'[' * 100_000, 'is not JSON: '),
      (b'9' * 5_000, 'is not JSON: '),
      (b'["b", 1]', 'holds a list, not an object'),
      (b'"b"', 'holds a text, not an object'),
      (b'null', 'holds null, not an object'),
      (b'{"text": "b\xff", "label": 1}', 'byte 12 of the line, 0xff, is not UTF-8'),
      (b'{"text": "b\0", "label": 1}', 'holds a NUL byte')])
  def test_of_jsonl_are_named(self, write, bad, line):
    path = write(self.good + b'\n' + bad + b'\n' + self.good, 'my.jsonl')
    found = stopped(path)
    assert found.startswith(f'{path}:3') and line in found

  @pytest.mark.parametrize('bad, line', [
      (b'b,1,2', 'has 3 columns, but line 1 names 2: quote a text that holds a comma'),
      (b'b', 'has 1 columns, but line 1 names 2'),
      (b'"b,1', 'unexpected end of data; is a quotation mark never closed?'),
      (b'"b"c,1', "',' expected after '\"'"),
      (b'b' * 140_000 + b',1', 'field larger than field limit'),
      (b'b\xe9,1', 'byte 2 of the line, 0xe9, is not UTF-8'),
      (b'b\0,1', 'holds a NUL byte')])
  def test_of_csv_are_named(self, write, bad, line):
    path = write(b'text,label\n"a\na",0\n' + bad + b'\n', 'my.csv')
    found = stopped(path)
    assert found.startswith(f'{path}:4') and line in found

  def test_of_tsv_are_named(self, write):
    path = write('text\tlabel\nb\n', 'my.tsv')
    assert stopped(path) == f'{path}:2 has 1 columns, but line 1 names 2'

  def test_utf16_is_refused(self, write):
    path = write('text,label\na,0\n'.encode('utf-16'), 'my.csv')
    assert f'{path}:1: byte 1 of the line, 0xff, is not UTF-8' in stopped(path)

  def test_a_column_named_twice_is_refused(self, write):
    path = write('text,label,text\na,0,b\n', 'my.csv')
    assert f"{path}:1 names a column 'text' twice" in stopped(path)


class TestFiles:

  @pytest.mark.parametrize('content', ['', '\n \n', '\ufeff'])
  @pytest.mark.parametrize('name', ['my.jsonl', 'my.txt'])
  def test_that_are_empty_are_refused(self, write, content, name):
    assert f'{name} is empty' in stopped(write(content, name))

  @pytest.mark.parametrize('content', ['', 'text,label\n', '\n\n'])
  def test_tables_without_rows_are_refused(self, write, content):
    assert 'my.csv is empty' in stopped(write(content, 'my.csv'))

  @pytest.mark.parametrize('name', ['my.json', 'my.parquet', 'my'])
  def test_of_other_kinds_name_those_that_are_read(self, write, name):
    line = stopped(write('{}', name))
    assert f'{name}: what kind of file is it? Names end in .jsonl, .csv, .tsv, .txt' in line

  def test_that_cannot_be_read_say_why(self, tmp_path):
    assert 'my.csv cannot be read: No such file' in stopped(tmp_path / 'my.csv')
