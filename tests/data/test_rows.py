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
      (b'"b,1', 'a quotation mark of this row is never closed, to the end of the file'),
      (b'"b,1\n"c",2', 'in line 5 a quotation mark ends a text, and more of the text follows'),
      (b'"b"c,1', 'in line 4 a quotation mark ends a text, and more of the text follows'),
      (b'"' + b'b' * 140_000 + b',1', 'a quotation mark of this row is never closed'),
      (b'b\xe9,1', 'byte 2 of the line, 0xe9, is not UTF-8'),
      (b'b\0,1', 'holds a NUL byte')])
  def test_of_csv_are_named(self, write, bad, line):
    path = write(b'text,label\n"a\na",0\n' + bad + b'\n', 'my.csv')
    found = stopped(path)
    assert found.startswith(f'{path}:4') and line in found

  def test_of_tsv_are_named(self, write):
    path = write('text\tlabel\nb\n', 'my.tsv')
    assert stopped(path) == f'{path}:2 has 1 columns, but line 1 names 2'

  @pytest.mark.parametrize('encoding', ['utf-16', 'utf-16-le', 'utf-16-be', 'utf-32'])
  @pytest.mark.parametrize('name', ['my.csv', 'my.tsv', 'my.jsonl', 'my.txt'])
  def test_wide_encodings_are_named(self, write, name, encoding):
    path = write('text,label\na,0\n'.encode(encoding), name)
    named = 'UTF-32' if encoding == 'utf-32' else 'UTF-16'
    assert stopped(path) == f'{path} is {named}: save the file as UTF-8'

  def test_a_column_named_twice_is_refused(self, write):
    path = write('text,label,text\na,0,b\n', 'my.csv')
    assert f"{path}:1 names a column 'text' twice" in stopped(path)

  def test_a_key_named_twice_is_refused_and_deeper_ones_are_not_read(self, write):
    path = write('{"text": "a", "label": 0, "text": "b"}\n', 'my.jsonl')
    assert stopped(path) == f"{path}:1 names 'text' twice"
    path = write('{"text": "a", "about": {"x": 1, "x": 2}}\n', 'my.jsonl')
    assert rows.read(path)[0].values['text'] == 'a'


class TestLongFields:

  @pytest.mark.parametrize('quoted', [True, False])
  def test_are_read_as_those_of_jsonl(self, write, quoted):
    text = 'a long text ' * 17_000
    table = [['text', 'label'], [text, '0'], ['b', '1']]
    file = io.StringIO()
    csv.writer(file, quoting=csv.QUOTE_ALL if quoted else csv.QUOTE_MINIMAL).writerows(table)
    found = [row.values for row in rows.read(write(file.getvalue(), 'my.csv'))]
    assert found == [{'text': text, 'label': '0'}, {'text': 'b', 'label': '1'}]
    lines = ''.join(json.dumps(row) + '\n' for row in found)
    assert [row.values for row in rows.read(write(lines, 'my.jsonl'))] == found
    lines = '\n'.join('\t'.join(row) for row in table)
    assert [row.values for row in rows.read(write(lines, 'my.tsv'))] == found

  def test_leave_the_limit_of_other_readers_as_it_was(self, write):
    before = csv.field_size_limit(1234)
    try:
      rows.read(write('text\n' + 'b' * 140_000 + '\n', 'my.csv'))
      stopped(write('text\n"b', 'my.csv'))
      assert csv.field_size_limit() == 1234
    finally:
      csv.field_size_limit(before)


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
