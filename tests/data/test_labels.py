"""Labels of one table, however it is written, are the same classes in the same order."""
import csv
import io
import json
import math
import pathlib
import tempfile
import unicodedata

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import tensorflow_datasets

from distill import types
from distill.data import files, images, labels, text, tfds
from distill.modalities.examples import ShapeError, narrow, stack
from distill.types import Field
from tests.data.test_tfds import FIELDS, prepare


def column(*splits):
  """Labels in one split, or in several where each is a list."""
  splits = splits if all(isinstance(split, list) for split in splits) else [list(splits)]
  return {f'split{i}' if i else 'train': [
      labels.Raw(f'my.csv:{row}', value) for row, value in enumerate(values, 2)]
          for i, values in enumerate(splits)}


def found(*splits, names=()):
  """The classes, the labels of all rows, and the notes."""
  read = labels.classes(column(*splits), names)
  return read.classes, [label for rows in read.labels.values() for label in rows], read.notes


def stopped(call, *args, **how):
  with pytest.raises(types.Stop) as stop:
    call(*args, **how)
  assert stop.value.status == types.Status.DATA and '\n' not in str(stop.value)
  return str(stop.value)


class TestWholeNumbers:

  def test_written_in_any_way_are_integers(self):
    ones, zero = [1, 1.0, '1', '1.0', ' 1 ', '1.', '+1', '1e0'], [0, 0.0, '0.0', '-0', -0.0]
    assert found(*ones, *zero) == (('0', '1'), ['1'] * 8 + ['0'] * 5, [])

  def test_are_floats_in_one_file_of_a_folder_and_not_in_another(self):
    classes, rows, _ = found(['0.0', '1.0', ''], ['0', '1'])
    assert classes == ('0', '1') and rows == ['0', '1', None, '0', '1']

  def test_are_ordered_as_numbers(self):
    assert found('10', '9.0', 2)[0] == ('2', '9', '10')

  def test_beside_names_stay_as_they_are_written(self):
    assert found('1.0', '2.0', 'beta')[0] == ('1.0', '2.0', 'beta')

  def test_with_leading_zeros_are_codes(self):
    assert found('007', '1.0', '7')[0] == ('007', '1.0', '7')

  @pytest.mark.parametrize('value', [2.5, '2.5', '25e-1', '.5', '1e-300', -0.5])
  def test_with_a_fraction_are_no_classes(self, value):
    line = stopped(found, 1, value)
    assert line.startswith('my.csv:3: the label') and 'has a fraction' in line

  @pytest.mark.parametrize('value', ['1e999', '9' * 5000, 1e300, '1_0', '１', 10**400])
  def test_beyond_all_measure_are_names(self, value):
    assert len(found(0, value)[0]) == 2


class TestTruthValues:

  def test_written_in_any_way_are_two(self):
    ways = [True, 'true', 'True', 'TRUE', ' true ', False, 'false', 'False', 'FALSE']
    assert found(*ways) == (('false', 'true'), ['true'] * 5 + ['false'] * 4, [])

  def test_are_the_same_beside_other_names(self):
    assert found(True, 'TRUE', 'mixed')[0] == ('mixed', 'true')


class TestMissing:

  @pytest.mark.parametrize('mark', ['nan', 'NaN', 'null', 'None', 'NA', 'N/A', ' nan ', '\xa0NA'])
  def test_words_are_no_label_in_a_note_with_the_count(self, mark):
    classes, rows, notes = found('a', mark, 'b', mark)
    assert classes == ('a', 'b') and rows == ['a', None, 'b', None]
    assert notes == [f'no label: {mark.strip()!r} (2); if such a word is a class, name all in '
                     'data.labels']

  @pytest.mark.parametrize('blank', ['', ' ', '\t', '\xa0', '\u200b', '\ufeff \u3000'])
  def test_blanks_are_no_label_in_a_note_with_the_count(self, blank):
    assert found('a', blank, 'b', '') == (('a', 'b'), ['a', None, 'b', None],
                                          ['no label: empty (2)'])

  def test_rows_without_the_column_need_no_note(self):
    assert found('a', None, 'b') == (('a', 'b'), ['a', None, 'b'], [])

  def test_numbers_that_are_none_are_no_label(self):
    classes, rows, notes = found(0, math.nan, 1)
    assert classes == ('0', '1') and rows == ['0', None, '1'] and "'NaN' (1)" in notes[0]

  def test_words_that_the_user_names_are_classes(self):
    classes, rows, notes = found('NA', 'EU', 'nan', names=('NA', 'EU'))
    assert classes == ('NA', 'EU') and rows == ['NA', 'EU', None] and "'nan' (1)" in notes[0]

  def test_other_spellings_are_classes(self):
    assert found('none', 'NONE', 'nil')[0] == ('NONE', 'nil', 'none')     # of stance, say


class TestMinusOne:

  @pytest.mark.parametrize(('mark', 'written'), [(-1, '-1'), ('-1.0', '-1'), (-100, '-100')])
  def test_beside_classes_from_0_is_no_label_in_a_note_with_the_count(self, mark, written):
    classes, rows, [note] = found(0, mark, 1, 2, mark)
    assert classes == ('0', '1', '2') and rows == ['0', None, '1', '2', None]
    assert note.startswith(f'labels {written} (2) mean "no label"')
    assert f"""--config.data.labels="('{written}','0','1','2')\"""" in note

  def test_beside_0_and_1_may_be_a_sentiment_and_the_note_says_so(self):
    assert 'negative, neutral, positive' in found(0, 1, -1)[2][0]
    assert 'negative, neutral, positive' not in found(0, 1, 2, -1)[2][0]
    assert 'negative, neutral, positive' not in found([0, 1], [-1, -1])[2][0]

  def test_is_a_class_where_the_user_names_it(self):
    assert found(0, 1, -1, names=('-1', '0', '1')) == (('-1', '0', '1'), ['0', '1', '-1'], [])

  def test_is_no_label_where_the_user_names_the_others(self):
    classes, rows, notes = found(1, -1, 2, names=('1', '2'))
    assert classes == ('1', '2') and rows == ['1', None, '2']
    assert notes == ['labels -1 (1) mean "no label"']

  @pytest.mark.parametrize('values', [(-1, 1), (-1, 0), (-1, 1, 2, 3), ('neg', -1), (-1, -100)])
  def test_that_is_ambiguous_stays_a_class_and_a_note_says_so(self, values):
    classes, _, [note] = found(*values)
    assert len(classes) == len(values) and 'stay a class' in note and 'data.labels' in note

  def test_on_a_scale_is_a_class_like_others(self):
    assert found(-2, -1, 0, 1, 2) == (('-2', '-1', '0', '1', '2'), ['-2', '-1', '0', '1', '2'], [])

  def test_as_a_whole_split_is_no_label_wherever_the_others_start(self):
    classes, rows, [note] = found([1, 2, 5], [-1, -1])
    assert classes == ('1', '2', '5') and rows == ['1', '2', '5', None, None]
    assert 'labels -1 (2) mean' in note

  def test_as_a_whole_split_is_no_label_beside_names(self):
    assert found(['neg', 'pos'], [-1, -1])[1] == ['neg', 'pos', None, None]

  def test_as_all_there_is_teaches_nothing(self):
    assert "every label is '-1'" in stopped(found, -1, -1)
    assert "every label is '1'" in stopped(found, [1, 1], [-1])


class TestNames:
  ways = ['café', 'cafe\u0301', 'café\u200b', '\ufeffcafé', ' café ', 'caf\u200dé\xad']

  def test_that_print_alike_are_one_class_in_a_note(self):
    classes, rows, [note] = found(*self.ways, 'tea')
    assert classes == ('café', 'tea') and rows == ['café'] * 6 + ['tea']
    assert note == "'café' is written in 5 ways that print alike: one class"

  def test_have_one_space_for_any_white_space(self):
    assert found('very good', 'very\xa0good', ' very \t good\n', 'bad')[0] == ('bad', 'very good')

  def test_keep_joiners_that_print(self):
    persian, family = 'می\u200cخواهم', '👨\u200d👩\u200d👧'
    assert found(persian, persian.replace('\u200c', ''), family, 'x\u200dy')[0] == tuple(sorted(
        [persian, persian.replace('\u200c', ''), family, 'xy']))

  def test_written_in_one_way_need_no_note(self):
    assert found('cafe\u0301', 'tea') == (('café', 'tea'), ['café', 'tea'], [])

  @pytest.mark.parametrize(('value', 'line'), [
      ('neg\ud83d', r"my.csv:3: the label 'neg\ud83d' holds U+D83D, half a character"),
      ('a\x07', r"my.csv:3: the label 'a\x07' holds U+0007, a control character"),
      ('\x7f', 'holds U+007F, a control character'), ('a\x85', 'holds U+0085')])
  @pytest.mark.parametrize('read', [labels.classes, labels.numbers])
  def test_that_cannot_be_written_are_refused_with_their_line(self, value, line, read):
    assert line in stopped(read, column('1', value))

  def test_that_the_user_gives_are_met_by_whatever_prints_alike(self):
    names = ('cafe\u0301', '1.0', 'True')
    assert found('café', 1, '1', True, 'true', names=names)[1] == [
        names[i] for i in (0, 1, 1, 2, 2)]

  def test_that_the_user_gives_and_print_alike_are_refused(self):
    with pytest.raises(ValueError, match='two names that print alike'):
      found('a', names=('a', 'a\u200b'))

  def test_of_any_length_leave_an_error_line_short(self):
    assert len(stopped(found, 'a', 'b' * 200_000, names=('a', 'c'))) < 200

  def test_that_a_file_lists_must_differ(self):
    assert labels.declared(['b', 'cafe\u0301', 'TRUE'], 'f') == ('b', 'café', 'true')
    assert labels.declared(['1.0', '0.0'], 'f') == ('1', '0')
    for names in (['café', 'cafe\u0301'], ['a', 'a\u200b'], ['1', '1.0'], ['true', 'True']):
      assert 'f: the classes' in stopped(labels.declared, names, 'f')
    assert 'f: the label' in stopped(labels.declared, ['a\ud83d', 'b'], 'f')


class TestNumbers:

  def values(self, *splits):
    read = labels.numbers(column(*splits))
    assert read.classes == ()
    return [value for rows in read.labels.values() for value in rows], read.notes

  def test_are_read_from_any_format(self):
    assert self.values(1, 1.5, '2', ' 2.5 ', '1e3', -1)[0] == [1, 1.5, 2, 2.5, 1000, -1]

  def test_that_are_missing_are_counted(self):
    values, notes = self.values(1, 'nan', math.nan, '', None, 2)
    assert values == [1, None, None, None, None, 2]
    assert notes[0].startswith("no label: empty (1), 'NaN' (1), 'nan' (1)")

  @pytest.mark.parametrize('value', [1e308, '1e308', -3.5e38, '1e999', 10**400, '9' * 400])
  def test_beyond_float32_are_refused_with_their_line(self, value):
    line = stopped(self.values, 1, value)
    assert line.startswith('my.csv:3: the label ') and line.endswith(' is beyond float32')

  def test_beyond_float32_are_quoted_as_they_are_written(self):
    assert 'the label 1e308 is beyond float32' in stopped(self.values, 1, 1e308)
    assert 'the label 1e308 is beyond float32' in stopped(self.values, 1, '1e308')

  @pytest.mark.parametrize('value', [
      True, 'x', 'inf', '-Infinity', math.inf, '1_000', 'NAN', '1,5'])
  def test_that_are_none_are_refused_with_their_line(self, value):
    assert 'my.csv:3: the label' in (line := stopped(self.values, 1, value))
    assert 'is no number, which regression=True asks for' in line

  def test_the_largest_of_float32_is_read(self):
    largest = float(np.finfo(np.float32).max)
    assert self.values(largest, '1e-50')[0] == [largest, 1e-50]

  def test_a_split_of_minus_one_has_no_labels_as_in_glue(self):
    values, [note] = self.values([0.5, -1], [-1, -1])
    assert values == [0.5, -1, None, None] and 'all labels of split1 are -1' in note


class TestNarrow:

  @pytest.mark.parametrize(('values', 'dtype', 'row'), [
      ([0, 2**31], 'int32', 1), ([-2**31 - 1], 'int32', 0), ([0, 2**70], 'int32', 1),
      ([0.0, 0.5], 'int32', 1), ([0, math.nan], 'int32', 1), ([1, 2, 1e308], 'float32', 2),
      ([[0, 0], [0, 256]], 'uint8', 1), ([10**400], 'float32', 0), (2**40, 'int32', 0)])
  def test_what_a_type_cannot_hold_is_named_by_its_row(self, values, dtype, row):
    with pytest.raises(ShapeError, match=f'which {dtype} cannot hold') as error:
      narrow(values, dtype)
    assert error.value.row == row

  @pytest.mark.parametrize(('values', 'dtype'), [
      ([1, -2**31, 2**31 - 1], 'int32'), ([1.0, 2.0], 'int32'),
      ([1e-300], 'float32'), ([True, False], 'int32'), ([], 'int32'), ([2**24 + 1], 'float32'),
      ([1, math.nan, -math.inf], 'float32')])
  def test_what_it_holds_is_given_in_it(self, values, dtype):
    given = narrow(values, dtype)
    assert given.dtype == dtype
    np.testing.assert_array_equal(given, np.asarray(values, np.float64).astype(dtype))

  def test_batches_texts_and_images_go_through_it(self, tmp_path):
    with pytest.raises(ShapeError, match='holds 4294967297'):
      stack(np.array([1, 2**32 + 1]), Field((), 'int32'), {}, 2)
    with pytest.raises(ShapeError, match=r'holds 1e\+300') as error:
      stack([np.ones(1), np.array([1e300])], Field((1,), 'float32'), {}, 2)
    assert error.value.row == 1
    make = lambda label: text.dataset(
        {'train': ['a', 'b']}, {'train': [0, label]}, name='toy', classes=('a', 'b'), length=8,
        vocabulary=64, versions={}, cache=str(tmp_path))
    assert "toy: 'train': the label of row 1 holds 4294967296" in stopped(make, 2**32)
    assert "toy: 'train': the label of row 1 holds 1e+300" in stopped(make, 1e300)
    pixels = np.ones((2, 2, 2)) * np.array([[[1.0]], [[1e300]]])
    assert 'image 1 holds 1e+300' in stopped(images._check, 'toy', 'train', pixels, [0, 1], 2)


NAMES = ['café', 'thé', 'no', 'very good', 'Ü', 'ok']
MARKS = ['', ' ', 'nan', 'NaN', 'null', 'None', 'NA', 'N/A']


def spellings(kind, label):
  """How JSON and a table may write a label: (values, texts)."""
  if label is None:
    numbers = [-1, -1.0, -100, '-1'] if kind == 'numbered' else []
    return ([None, math.nan, *MARKS, *numbers],
            [*MARKS, *(['-1', '-1.0', '-100'] if kind == 'numbered' else [])])
  if kind == 'truth':
    texts = [f'{label}', f'{label}'.lower(), f'{label}'.upper(), f' {label}']
    return [label, *texts], texts
  if kind in ('whole', 'numbered'):
    texts = [f'{label}', f'{label}.0', f' {label} ', f'{label}.']
    return [label, float(label), *texts], texts
  texts = [label, unicodedata.normalize('NFD', label), f'{label}\u200b', f'\xa0{label} ',
           label.replace(' ', '\xa0')]
  return texts, texts


@st.composite
def tables(draw):
  """Rows (text, label, how JSON writes it, how a table does), and the classes in their order."""
  kind = draw(st.sampled_from(['whole', 'numbered', 'truth', 'names']))
  values = {'whole': st.integers(1, 30), 'numbered': st.integers(0, 12), 'truth': st.booleans(),
            'names': st.sampled_from(NAMES)}[kind]
  column = draw(st.lists(st.none() | values, min_size=2, max_size=12))
  column += {'whole': [3, 20], 'numbered': [0, 1], 'truth': [True, False],
             'names': ['café', 'no']}[kind]
  rows = []
  for i, label in enumerate(column):
    json_values, texts = spellings(kind, label)
    rows.append((f'text {i}', label, draw(st.sampled_from(json_values)),
                 draw(st.sampled_from(texts)), draw(st.sampled_from(texts))))
  present = sorted({label for label in column if label is not None})
  return rows, tuple(str(label).lower() if kind == 'truth' else str(label) for label in present), {
      label: i for i, label in enumerate(present)}


def table(rows, **how):
  file = io.StringIO()
  csv.writer(file, lineterminator='\n', **how).writerows([('text', 'label'), *rows])
  return file.getvalue()


def write(root, rows):
  """The table as a file of each kind and as a folder of all; the paths."""
  contents = {
      'jsonl': lambda rows: ''.join(json.dumps({'text': text, 'label': value}) + '\n'
                                    for text, _, value, _, _ in rows),
      'csv': lambda rows: table((text, label) for text, _, _, label, _ in rows),
      'tsv': lambda rows: table(((text, label) for text, _, _, _, label in rows), delimiter='\t',
                                quoting=csv.QUOTE_NONE)}
  for suffix, content in contents.items():
    (root / f'my.{suffix}').write_text(content(rows))
  (root / 'folder').mkdir()
  parts = {'train.csv': rows[::3], 'validation.jsonl': rows[1::3], 'test.tsv': rows[2::3]}
  for name, part in parts.items():
    (root / 'folder' / name).write_text(contents[name.rpartition('.')[2]](part))
  return [*(root / f'my.{suffix}' for suffix in contents), root / 'folder']


def labels_of(data):
  return {row: int(k) for split in data.splits.values()
          for row, k in zip(split.raw, split.index['label'], strict=True)}


def examples(count):
  return hypothesis.settings(max_examples=count, deadline=None, derandomize=True, database=None)


@examples(60)
@hypothesis.given(tables())
def test_a_table_has_the_same_classes_and_labels_in_every_format(generated):
  rows, classes, number = generated
  expected = {row: number.get(label, -1) for row, label, *_ in rows}
  with tempfile.TemporaryDirectory() as folder:
    for path in write(pathlib.Path(folder), rows):
      data = files.Text(path=str(path), length=8, vocabulary=64, shares=(1.0, 0.0, 0.0),
                        cache=folder)
      assert data.names == classes and labels_of(data) == expected, path


@examples(4)
@hypothesis.given(tables())
def test_a_table_has_the_same_classes_and_labels_in_tfds(generated):
  rows, classes, number = generated
  with tempfile.TemporaryDirectory() as folder:
    path, *_ = write(pathlib.Path(folder), rows)
    here = files.Text(path=str(path), length=8, vocabulary=64, shares=(1.0, 0.0, 0.0),
                      cache=folder)
    # The names as a builder that read the CSV by pandas may have written them.
    names = [f'{name}.0' if name.isdigit() else name.title() if name in labels.TRUTH else
             unicodedata.normalize('NFD', name) for name in classes]
    prepare(pathlib.Path(folder), {'train': [
        {'sentence': row, 'other': '', 'label': number.get(label, -1)} for row, label, *_ in rows]},
            label=tensorflow_datasets.features.ClassLabel(names=names))
    other = tfds.Text(dataset='tiny', fields=FIELDS, data_dir=folder, length=8, vocabulary=64,
                      cache=folder)
    assert other.names == here.names == classes and labels_of(other) == labels_of(here)
