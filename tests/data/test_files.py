import csv
import io
import json
import math
import os
import pathlib
import re

import numpy as np
import pytest

from distill import lookup, types
from distill.data import batches, files

TWENTY = [{'text': f'{("bad", "good")[i % 2]} film number {i}', 'label': ('neg', 'pos')[i % 2]}
          for i in range(20)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('DISTILL_CACHE', str(tmp_path / 'cache'))


def jsonl(rows):
  return ''.join(json.dumps(row) + '\n' for row in rows)


def table(rows, **how):
  file = io.StringIO()
  csv.writer(file, lineterminator='\n', **how).writerows(rows)
  return file.getvalue()


@pytest.fixture
def write(tmp_path):
  """Writes a file and returns its path."""

  def write(content, name='my.jsonl'):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)
  return write


def load(path, **how):
  return files.Text(path=path, **{'length': 8, 'vocabulary': 100, **how})


def rows_of(data, split=None):
  """(text, label) of a split, or of all: the name of the class, the number, or None."""
  found = []
  for name, part in data.splits.items():
    if split in (None, name):
      label = [None if not known else data.names[int(k)] if data.names else float(k)
               for k, known in zip(part.index['label'], part.known, strict=True)]
      found += zip(part.raw, label, strict=True)
  return found


def stopped(path, status=types.Status.DATA, **how):
  """The line that a config naming such data ends with."""
  with pytest.raises(types.Stop) as stop:
    lookup.build('data', {'name': 'files.Text', 'path': path, **how}, 'data')
  assert stop.value.status == status and '\n' not in str(stop.value)
  return str(stop.value)


class TestKindsOfFiles:
  rows = [['text', 'label'], ['a "good", long film', 'pos'], ['two\tparts', 'neg'], ['é 好', 'pos']]
  expected = [('a "good", long film', 'pos'), ('two\tparts', 'neg'), ('é 好', 'pos')]

  def read(self, path):
    return sorted(rows_of(load(path, shares=(1.0, 0.0, 0.0))))

  def test_jsonl_and_csv_hold_the_same(self, write):
    objects = [dict(zip(self.rows[0], row, strict=True)) for row in self.rows[1:]]
    assert self.read(write(jsonl(objects))) == sorted(self.expected)
    assert self.read(write(table(self.rows), 'my.csv')) == sorted(self.expected)

  def test_a_quotation_mark_in_tsv_is_a_character(self, write):
    path = write('text\tlabel\n"never closed\tpos\n5" wide\tneg\n', 'my.tsv')
    assert self.read(path) == [('"never closed', 'pos'), ('5" wide', 'neg')]

  @pytest.mark.parametrize('end', ['\n', '\r\n', '\r'])
  @pytest.mark.parametrize('mark', [b'', b'\xef\xbb\xbf'])
  def test_ends_of_lines_and_the_byte_order_mark_are_no_part_of_a_text(self, write, mark, end):
    expected = [('a b', 'neg'), ('c d', 'pos')]
    lines = lambda *lines: mark + end.join([*lines, '', '']).encode()
    assert self.read(write(lines('text,label', 'a b,neg', 'c d,pos'), 'my.csv')) == expected
    assert self.read(write(lines('text\tlabel', 'a b\tneg', 'c d\tpos'), 'my.tsv')) == expected
    assert self.read(write(lines('{"text":"a b","label":"neg"}',
                                 '{"text":"c d","label":"pos"}'))) == expected
    assert self.read(write(lines('a b', 'c d'), 'my.txt')) == [('a b', None), ('c d', None)]

  def test_a_quoted_text_may_have_lines(self, write):
    path = write('text,label\n"one\ntwo",pos\nthree,neg\n', 'my.csv')
    assert self.read(path) == [('one\ntwo', 'pos'), ('three', 'neg')]


class TestFolders:

  def test_files_are_splits_whatever_their_kind(self, write):
    write(jsonl(TWENTY), 'my/train.jsonl')
    write('label,text\npos,fine\n', 'my/dev.csv')
    path = write('text\tlabel\npoor\tneg\n', 'my/test.tsv')
    write('not data', 'my/README.md')
    data = load(path.removesuffix('/test.tsv'))
    assert data.name == 'my' and data.names == ('neg', 'pos')
    assert {split: len(found) for split, found in data.splits.items()} == {
        'dev': 1, 'test': 1, 'train': 20}
    assert rows_of(data, 'dev') == [('fine', 'pos')] and rows_of(data, 'test') == [('poor', 'neg')]

  def test_a_split_may_lack_labels(self, write):
    write(jsonl(TWENTY), 'my/train.jsonl')
    path = write('a b\nc d\n', 'my/test.txt')
    data = load(path.removesuffix('/test.txt'))
    assert rows_of(data, 'test') == [('a b', None), ('c d', None)]

  def test_texts_of_two_splits_are_counted(self, write):
    write(jsonl(TWENTY), 'my/train.jsonl')
    path = write(jsonl([TWENTY[3], {'text': 'GOOD film  number 5', 'label': 'pos'}, {
        'text': 'new', 'label': 'pos'}]), 'my/test.jsonl')
    assert '2 texts of test are in train too' in load(path.removesuffix('/test.jsonl')).notes

  def test_two_files_of_a_split_and_no_train_stop(self, write):
    path = write(jsonl(TWENTY), 'my/train.jsonl').removesuffix('/train.jsonl')
    write('text,label\n', 'my/train.csv')
    assert 'has train.csv and train.jsonl: a split is one file' in stopped(path)
    path = write(jsonl(TWENTY), 'other/trian.jsonl').removesuffix('/trian.jsonl')
    assert 'has no file train' in stopped(path) and "'trian.jsonl'" in stopped(path)


class TestDealing:

  def test_shares_are_met_and_nothing_is_lost(self, write):
    rows = [{'text': f'text {i}', 'label': i % 3} for i in range(2000)]
    data = load(write(jsonl(rows)))
    sizes = {split: len(found) for split, found in data.splits.items()}
    # Standard deviation of a tenth: sqrt(2000 · 0.1 · 0.9) = 13.
    assert abs(sizes['validation'] - 200) < 60 and abs(sizes['test'] - 200) < 60
    assert sorted(text for text, _ in rows_of(data)) == sorted(row['text'] for row in rows)

  def test_equal_texts_share_a_split_whatever_their_capitals_and_space(self, write):
    rows = [{'text': text.format(i), 'label': k} for i in range(100)
            for k, text in enumerate(('Some film {}', 'some  FILM {} '))]
    data = load(write(jsonl(rows)))
    for found in data.splits.values():
      assert len(found) == 2 * len({' '.join(text.lower().split()) for text in found.raw})

  def test_a_text_keeps_its_split_when_others_come_and_go(self, write):
    where = lambda rows: {text: split for split, found in load(write(jsonl(rows))).splits.items()
                          for text in found.raw}
    rows = [{'text': f'text {i}', 'label': i % 2} for i in range(100)]
    few, many = where(rows[:50]), where(rows[::-1])
    assert few == {text: many[text] for text in few} and len(set(few.values())) == 3

  def test_the_split_says_nothing_of_whose_label_is_seen(self, write):
    rows = [{'text1': 'a', 'text2': f'text {i}', 'label': i % 2} for i in range(2000)]
    data = load(write(jsonl(rows)))
    # The mean of 1,600 uniform numbers: standard deviation sqrt(1 / 12 / 1600) = 0.007.
    assert abs(data.splits['train'].index['hash01'].mean() - 0.5) < 0.03

  @pytest.mark.parametrize('gap', [{}, {'label': None}, {'label': ''}, {'label': ' '},
                                   {'label': math.nan}])
  def test_texts_without_a_label_go_to_train(self, write, gap):
    rows = [*TWENTY, *({'text': f'so so {i}', **gap} for i in range(30))]
    data = load(write(jsonl(rows)))
    assert sum(label is None for _, label in rows_of(data, 'train')) == 30
    assert all(label is not None for _, label in rows_of(data, 'test'))
    assert '30 texts without a label go to train' in data.notes
    everything = batches.shuffled(data.splits['train'], batch_size=64, steps=1, seed=0, widths=(8,))
    assert everything[0]['labelled'].sum() == len(rows_of(data, 'train')) - 30

  def test_further_texts_go_to_train_unless_they_are_known(self, write):
    path, further = write(jsonl(TWENTY)), write('new\nNEW\nbad FILM number 0\nother\n', 'more.txt')
    before, data = load(path), load(path, unlabelled=further)
    assert sorted(rows_of(data, 'train')[-2:]) == [('NEW', None), ('other', None)]
    assert rows_of(data, 'train')[:-2] == rows_of(before, 'train')
    assert rows_of(data, 'test') == rows_of(before, 'test')
    [note] = [note for note in data.notes if 'without' in note]
    assert note == ('2 texts without a label go to train; 2 more are there or in another split '
                    'already')

  def test_labels_of_further_texts_stay_unseen(self, write):
    path = write(jsonl(TWENTY))
    further = write(jsonl([{'text': 'new', 'label': 'x'}]), 'more.jsonl')
    assert rows_of(load(path, unlabelled=further), 'train')[-1] == ('new', None)

  def test_further_texts_may_lie_beside_the_splits(self, write):
    write(jsonl(TWENTY), 'my/train.jsonl')
    further = write('new\n', 'my/more.txt')
    data = load(further.removesuffix('/more.txt'), unlabelled=further)
    assert set(data.splits) == {'train'} and len(data.splits['train']) == 21

  def test_plain_text_is_dealt_out_and_has_no_classes(self, write):
    data = load(write('\n'.join(f'some text {i}' for i in range(100)), 'my.txt'))
    assert data.names == () and data.sizes['classes'] == 1
    assert set(data.splits) == {'train', 'validation', 'test'}
    assert all(found.index['label'].tolist() == [-1] * len(found)
               and found.index['label'].dtype == np.int32 for found in data.splits.values())

  @pytest.mark.parametrize('shares', [(0.8, 0.1), (0.8, 0.3, -0.1), (0.0, 0.5, 0.5), (1, 1, 1)])
  def test_shares_that_are_none_are_refused(self, write, shares):
    assert 'sum up to 1' in stopped(write(jsonl(TWENTY)), types.Status.CONFIG, shares=shares)


class TestColumns:

  @pytest.mark.parametrize('row, text, note', [
      ({'text': 'a', 'id': 'x', 'label': 0}, 'a', "text from 'text', label from 'label'"),
      ({'Sentence': 'a', 'idx': 1, 'Class': 0}, 'a', "text from 'Sentence', label from 'Class'"),
      ({'premise': 'a', 'hypothesis': 'b', 'label': 0}, ('a', 'b'),
       "text from 'premise' and 'hypothesis', label from 'label'"),
      ({'id': 7, 'anything': 'a', 'label': 0}, 'a', "text from 'anything', label from 'label'")])
  def test_are_found(self, write, row, text, note):
    label = list(row)[-1]
    data = load(write(jsonl([row, {**row, label: 1}])), shares=(1, 0, 0))
    assert data.splits['train'].raw == [text] * 2
    assert data.notes[0] == note and data.names == ('0', '1')

  def test_given_columns_are_taken_without_a_note(self, write):
    rows = [{'a': 'one', 'b': 'two', 'text': 'no', 'label': 'no', 'k': k} for k in ('x', 'y')]
    data = load(write(jsonl(rows)), fields={'text': ['b', 'a'], 'label': 'k'}, shares=(1, 0, 0))
    assert data.splits['train'].raw == [('two', 'one')] * 2 and data.names == ('x', 'y')
    assert data.notes == ('texts: train 2',)

  def test_numbers_in_a_table_are_no_texts(self, write):
    path = write('id,phrase,label\n1,a,x\n2.5,b,y\n', 'my.csv')
    assert load(path, shares=(1, 0, 0)).notes[0] == "text from 'phrase', label from 'label'"

  @pytest.mark.parametrize('columns, fields, parts', [
      (['title', 'text', 'label'], {}, ['fields.text: which column is it?', 'label, text, title']),
      (['a', 'b'], {}, ['fields.text: which column is it?', 'a, b']),
      (['a', 'b', 'label'], {}, ['fields.text: which', 'a, b, label']),
      (['text', 'label', 'score'], {}, ['fields.label: which column is it?', 'label, score']),
      (['text', 'kind'], {'label': 'knd'}, ["no column is called 'knd'", "did you mean 'kind'?"]),
      (['txet', 'label'], {'text': ('text',)}, ["is called 'text'", "did you mean 'txet'?"])])
  def test_that_are_unclear_are_listed_with_the_flags(self, write, columns, fields, parts):
    row = {name: 'x' for name in columns}
    line = stopped(write(jsonl([row])), types.Status.CONFIG, fields=fields)
    assert all(part in line for part in parts), line
    assert '--config.data.fields.text="(\'COLUMN\',)" --config.data.fields.label=COLUMN' in line
    assert 'line 1' not in line
    line = stopped(write(table([columns, columns]), 'my.csv'), types.Status.CONFIG, fields=fields)
    assert all(part in line for part in parts) and 'line 1 must hold the names' in line

  @pytest.mark.parametrize('columns', [['text', ' Text', 'label'], ['text', 'label', 'LABEL']])
  def test_that_differ_in_capitals_or_space_alone_must_be_named(self, write, columns):
    rows = [[f'{name} {i}' for name in columns] for i in range(4)]
    path = write(table([columns, *rows]), 'my.csv')
    assert 'which column is' in stopped(path, types.Status.CONFIG)
    named = {'text': (columns[0],), 'label': columns[-1]}
    data = load(path, fields=named, shares=(1, 0, 0))
    assert rows_of(data) == [(row[0], row[-1]) for row in rows]

  def test_a_table_without_names_is_refused(self, write):
    line = stopped(write('a good film,1\na bad film,0\n', 'my.csv'), types.Status.CONFIG)
    assert 'there is 1, a good film' in line and 'line 1 must hold the names of the columns' in line
    line = stopped(write('text;label\na film;0\n', 'my.csv'), types.Status.CONFIG)
    assert "text;label" in line and 'parted by commas' in line

  @pytest.mark.parametrize('fields', [
      {'text': 'sentence'}, {'texts': ('a',)}, {'text': ('text', 'label', 'text')}])
  def test_fields_of_another_form_are_refused(self, write, fields):
    assert 'fields' in stopped(write(jsonl(TWENTY)), types.Status.CONFIG, fields=fields)


class TestLabels:

  def classes(self, write, *labels, **how):
    rows = [{'text': f'text {i}', 'label': label} for i, label in enumerate(labels)]
    data = load(write(jsonl(rows)), shares=(1, 0, 0), **how)
    assert rows_of(data) == [(f'text {i}', data.names[k]) for i, k in enumerate(
        data.splits['train'].index['label'])]
    return data.names

  def test_names_are_sorted_and_whole_numbers_as_numbers(self, write):
    assert self.classes(write, 'b', 'a', 'B', 'é') == ('B', 'a', 'b', 'é')
    assert self.classes(write, 10, 9, -1, 2) == ('-1', '2', '9', '10')
    assert self.classes(write, '10', '9', '2x') == ('10', '2x', '9')
    assert self.classes(write, True, False) == ('false', 'true')
    assert self.classes(write, 1.0, 0.0, 1) == ('0', '1')           # pandas, with gaps

  def test_names_that_are_given_keep_their_order(self, write):
    assert self.classes(write, 'pos', 'neg', labels=('pos', 'neg')) == ('pos', 'neg')
    assert self.classes(write, 0.5, 1.5, labels=('1.5', '0.5')) == ('1.5', '0.5')

  def test_numbers_are_a_regression_where_it_is_asked_for(self, write):
    rows = [{'text': f'text {i}', 'label': label} for i, label in enumerate([0.5, -2, '3', None])]
    data = load(write(jsonl(rows)), regression=True, shares=(1, 0, 0))
    assert data.names == () and data.sizes['classes'] == 1
    assert [label for _, label in rows_of(data)] == [0.5, -2, 3, None]
    [batch] = batches.in_order(data.splits['train'], batch_size=4, widths=(8,))
    assert batch['label'].dtype == np.float32 and batch['label'].tolist() == [0.5, -2, 3, 0]
    assert batch['labelled'].tolist() == [1, 1, 1, 0]

  @pytest.mark.parametrize('label, line, how', [
      ('posi', "the label 'posi' is not among data.labels; did you mean 'pos'?",
       {'labels': ('pos', 'neg')}),
      (2.5, 'the label 2.5 has a fraction: are labels numbers (data.regression=True, as in', {}),
      (['pos'], "'label' is a list, not a label", {}),
      ('high', "the label 'high' is no number", {'regression': True}),
      (math.inf, 'the label inf is no number', {'regression': True}),
      (True, 'the label True is no number', {'regression': True})])
  def test_that_do_not_fit_are_named_with_their_line(self, write, label, line, how):
    first = 1 if 'regression' in how else 'neg'
    path = write(jsonl([{'text': 'a', 'label': first}, {'text': 'b', 'label': label}]))
    assert f'{path}:2: {line}' in stopped(path, **how)

  def test_a_single_class_is_nothing_to_learn(self, write):
    path = write(jsonl([{'text': 'a', 'label': 'pos'}, {'text': 'b'}]))
    assert "every label is 'pos'" in stopped(path)
    assert "every label is 'pos'" in stopped(path, labels=('neg', 'pos'))

  @pytest.mark.parametrize('how', [{'labels': ('a',)}, {'labels': ('a', 'a')},
                                   {'labels': ('a', 'b'), 'regression': True}])
  def test_names_that_are_none_are_refused(self, write, how):
    assert 'must be two names or more' in stopped(write(jsonl(TWENTY)), types.Status.CONFIG, **how)

  def test_a_regression_without_labels_is_refused(self, write):
    line = stopped(write('a\nb\n', 'my.txt'), types.Status.CONFIG, regression=True)
    assert 'no text has a label' in line

  def test_a_class_without_training_texts_has_a_note(self, write):
    write(jsonl(TWENTY), 'my/train.jsonl')
    path = write('text,label\nso so,mixed\n', 'my/test.csv')
    assert 'no text of train is labelled mixed' in load(path.removesuffix('/test.csv')).notes


class TestTexts:

  @pytest.mark.parametrize('row, line', [
      ({'txt': 'b', 'label': 1}, "has no 'text'; did you mean 'txt'?"),
      ({'text': 7, 'label': 1}, "'text' is a number, not a text"),
      ({'text': None, 'label': 1}, "'text' is null, not a text"),
      ({'text': True, 'label': 1}, "'text' is true or false, not a text"),
      ({'text': {'a': 1}, 'label': 1}, "'text' is an object, not a text")])
  def test_that_are_none_are_named_with_their_line(self, write, row, line):
    path = write(jsonl([TWENTY[0], row]))
    found = stopped(path)
    assert found.startswith(f'{path}:2') and line in found


class TestPlaces:

  def test_that_are_not_there_name_the_nearest(self, write):
    path = write(jsonl(TWENTY))
    assert "there is no " in (line := stopped(path.replace('my', 'mi')))
    assert "did you mean 'my.jsonl'?" in line
    assert 'did you mean' not in stopped('/no/such/folder/my.jsonl')
    assert 'data.unlabelled: there is no' in stopped(path, unlabelled=path + 'x')

  def test_an_empty_path_says_what_to_give(self):
    line = stopped('', types.Status.CONFIG)
    assert 'path is empty: name a file, as in --config.data.path=my.jsonl' in line

  def test_a_pair_cannot_be_a_line_of_plain_text(self, write):
    rows = [{'text1': 'a', 'text2': 'b', 'label': k} for k in range(2)]
    path, further = write(jsonl(rows)), write('c\n', 'more.txt')
    assert re.search(r'is a pair, but .*more.txt:1 is one text',
                     stopped(path, types.Status.CONFIG, unlabelled=further))

  def test_the_same_file_is_the_same_data_and_another_is_not(self, write):
    first = load(write(jsonl(TWENTY))).fingerprint
    assert load(write(jsonl(TWENTY))).fingerprint == first
    assert load(write(jsonl(TWENTY[:-1]))).fingerprint != first
    assert load(write(jsonl(TWENTY)), labels=('pos', 'neg')).fingerprint != first

  @pytest.mark.parametrize('spelled', [str, lambda path: os.path.relpath(path)])
  def test_further_texts_in_the_folder_are_no_split_however_they_are_spelled(self, write, spelled):
    train = pathlib.Path(write(jsonl(TWENTY), 'train.jsonl'))
    further = write(jsonl([{'text': 'quite another text'}]), 'more.jsonl')
    found = load(str(train.parent), unlabelled=spelled(further))
    assert set(found.splits) == {'train'} and len(found.splits['train']) == len(TWENTY) + 1
