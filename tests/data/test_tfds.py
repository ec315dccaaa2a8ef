import json
import os
import pathlib
import re
import sys
import time

import numpy as np
import pytest
import tensorflow_datasets

from distill import lookup, types
from distill.data import batches, tfds

FIELDS = {'text': ('sentence',), 'label': 'label'}
ROWS = {
    'train': [{'sentence': f'good film {i}' if i % 2 else f'bad film {i}', 'other': f'no {i}',
               'label': i % 2} for i in range(20)],
    'test': [{'sentence': 'so so', 'other': 'é', 'label': -1}]}


def prepare(folder, rows=None, version='1.0.0', label=None):
  """A data set `tiny` in array_record, written by TFDS itself."""
  rows, features = ROWS if rows is None else rows, tensorflow_datasets.features
  label = label or features.ClassLabel(names=['negative', 'positive'])

  class Tiny(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tensorflow_datasets.core.Version(version)

    def _info(self):
      return tensorflow_datasets.core.DatasetInfo(builder=self, features=features.FeaturesDict({
          'sentence': features.Text(), 'other': features.Text(), 'label': label}))

    def _split_generators(self, downloads):
      return {split: iter(enumerate(examples)) for split, examples in rows.items()}

    def _generate_examples(self):
      """Abstract in TFDS; the splits are generators already."""

  tensorflow_datasets.disable_progress_bar()
  Tiny(data_dir=str(folder), file_format='array_record').download_and_prepare()
  return folder / 'tiny' / version


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  root = tmp_path_factory.mktemp('tfds')
  prepare(root)
  return root


@pytest.fixture
def mine(tmp_path):
  """A copy to damage: its root and the folder of its version."""
  return tmp_path / 'data', prepare(tmp_path / 'data')


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('DISTILL_CACHE', str(tmp_path / 'cache'))


def load(root, dataset='tiny', fields=FIELDS, **how):
  return tfds.Text(dataset=dataset, fields=fields, data_dir=str(root), length=8, **how)


def stopped(*args, **how):
  with pytest.raises(types.Stop) as stop:
    load(*args, **how)
  assert stop.value.status == types.Status.DATA and '\n' not in str(stop.value)
  return str(stop.value)


class TestLoading:

  def test_texts_labels_and_classes(self, prepared):
    data = load(prepared)
    assert data.name == 'tiny' and data.names == ('negative', 'positive')
    assert data.versions == {'tiny': '1.0.0'}
    train = data.splits['train']
    assert sorted(zip(train.raw, train.index['label'].tolist(), strict=True)) == sorted(
        (row['sentence'], row['label']) for row in ROWS['train'])

  def test_a_row_without_a_label_is_kept_as_a_text(self, prepared):
    test = load(prepared).splits['test']
    assert test.raw == ['so so'] and test.index['label'].tolist() == [-1]
    [batch] = batches.in_order(test, batch_size=1)
    assert batch['label'].tolist() == [-1] and batch['labelled'].tolist() == [0]

  def test_two_names_are_a_pair(self, prepared):
    data = load(prepared, fields={'text': ['sentence', 'other'], 'label': 'label'})
    assert data.splits['test'].raw == [('so so', 'é')]
    types_of = data.splits['train'].fetch(np.arange(len(data.splits['train'])))['types']
    assert (types_of.max(axis=1) == 1).all() and (types_of[:, 0] == 0).all()

  def test_the_environment_names_the_directory(self, prepared, monkeypatch):
    monkeypatch.setenv('TFDS_DATA_DIR', str(prepared))
    data = tfds.Text(dataset='tiny', fields=FIELDS)
    assert data.fingerprint == load(prepared).fingerprint

  def test_the_newest_version_is_taken(self, mine):
    root, _ = mine
    for version in ('1.9.0', '1.10.0'):
      prepare(root, {'train': ROWS['train'][:3]}, version)
    (root / 'tiny' / 'incomplete.X_2.0.0').mkdir()
    (root / 'tiny' / 'incomplete.X_2.0.0' / 'dataset_info.json').write_text('{}')
    assert load(root).versions == {'tiny': '1.10.0'}

  def test_warm_is_cold_and_opens_no_record(self, prepared, monkeypatch):
    cold = load(prepared)
    monkeypatch.setattr(tensorflow_datasets, 'builder_from_directory', None)
    warm = load(prepared)
    assert (warm.fingerprint, warm.modality.json) == (cold.fingerprint, cold.modality.json)
    assert warm.splits['train'].raw == cold.splits['train'].raw

  def test_data_prepared_anew_is_read_anew(self, mine, tmp_path):
    root, folder = mine
    before = load(root)
    other = prepare(tmp_path / 'other', {**ROWS, 'train': ROWS['train'][:-1] + [
        {'sentence': 'good show', 'other': '', 'label': 1}]})
    for file in other.iterdir():
      (folder / file.name).write_bytes(file.read_bytes())
    assert 'good show' in load(root).splits['train'].raw
    assert load(root).fingerprint != before.fingerprint

  def test_tensorflow_stays_out(self, prepared):
    load(prepared)
    assert 'tensorflow' not in sys.modules

  def test_a_config_can_name_it(self, prepared):
    node = {'name': 'tfds.Text', 'dataset': 'tiny', 'fields': FIELDS, 'data_dir': str(prepared)}
    assert lookup.build('data', node, 'data').sizes['classes'] == 2


class TestRegression:

  def load(self, tmp_path, label=tensorflow_datasets.features.Scalar(np.float32), **labels):
    rows = {split: [{'sentence': f'{split} {i}', 'other': 'so', 'label': value}
                    for i, value in enumerate(values)] for split, values in labels.items()}
    prepare(tmp_path / 'data', rows, label=label)
    return load(tmp_path / 'data')

  def labels(self, data, split):
    rows = data.splits[split]
    return dict(zip(rows.raw, rows.index['label'].tolist(), strict=True))

  def test_a_label_that_is_a_float_makes_one(self, tmp_path):
    data = self.load(tmp_path, train=[2.5, -1.0, np.nan], test=[-1.0, -1.0])
    assert data.names == () and data.sizes['classes'] == 1
    assert data.splits['train'].index['label'].dtype == np.float32
    train = self.labels(data, 'train')
    assert (train['train 0'], train['train 1']) == (2.5, -1) and np.isnan(train['train 2'])
    assert not data.splits['test'].known.any()            # GLUE's way to keep labels secret

  def test_what_is_no_number_is_refused(self, tmp_path):
    with pytest.raises(types.Stop, match="of 'train' has label inf, which is no number"):
      self.load(tmp_path, train=[1.0, np.inf])

  def test_what_is_beyond_float32_is_refused(self, tmp_path):
    wide = tensorflow_datasets.features.Scalar(np.float64)
    with pytest.raises(types.Stop, match="row 1 of 'train' has label inf, which is no number"):
      self.load(tmp_path, wide, train=[1.0, 1e308])

  @pytest.mark.parametrize('label', [
      tensorflow_datasets.features.Scalar(np.int32),
      tensorflow_datasets.features.Tensor(shape=(2,), dtype=np.float32)])
  def test_whole_numbers_and_vectors_are_neither_class_nor_number(self, tmp_path, label):
    value = np.ones(label.shape, label.np_dtype)
    with pytest.raises(ValueError, match="'label' of tiny is no class and no number but"):
      self.load(tmp_path, label, train=[value, value])


def test_tokenizer_and_held_out_are_passed_on(prepared, tmp_path):
  place = tmp_path / 'vocab.txt'
  place.write_text('\n'.join(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'good', 'bad']))
  data = load(prepared, tokenizer=str(place), held_out=0.5)
  assert data.sizes['vocabulary'] == 7
  assert len(data.splits['train']) + len(data.splits['held_out']) == 20


class TestMissing:

  def test_says_what_where_and_how_within_two_seconds(self, prepared):
    start = time.monotonic()
    line = stopped(prepared, 'tyny')
    assert time.monotonic() - start < 2
    assert "data.dataset='tyny' is not prepared in " + str(prepared) in line
    assert "did you mean 'tiny'?" in line
    command = re.search(r'python -c "(.*)"$', line)[1]
    compile(command, 'command', 'exec')
    assert f"builder('tyny', data_dir='{prepared}', file_format='array_record')" in command

  def test_a_directory_that_is_not_there(self, tmp_path):
    line = stopped(tmp_path / 'nowhere', 'glue/sst2')
    assert str(tmp_path / 'nowhere') in line and 'did you mean' not in line

  def test_a_family_without_its_config_names_the_configs(self, tmp_path):
    folder = tmp_path / 'glue' / 'sst2' / '2.0.0'
    folder.mkdir(parents=True)
    (folder / 'dataset_info.json').write_text('{}')
    assert "did you mean 'glue/sst2'?" in stopped(tmp_path, 'glue')

  def test_another_file_format_is_named(self, mine):
    root, folder = mine
    info = json.loads((folder / 'dataset_info.json').read_text())
    (folder / 'dataset_info.json').write_text(json.dumps({**info, 'fileFormat': 'tfrecord'}))
    line = stopped(root)
    assert 'tfrecord' in line and "file_format='array_record'" in line


class TestDamage:

  def test_a_label_out_of_range_names_its_row(self, mine):
    root, folder = mine
    # 20 rows of two classes, of which the features then know one.
    path, two = folder / 'features.json', '"numClasses": "2"'
    assert two in path.read_text()
    path.write_text(path.read_text().replace(two, '"numClasses": "1"'))
    (folder / 'label.labels.txt').write_text('negative\n')
    source = tensorflow_datasets.builder_from_directory(folder).as_data_source('train')
    first = next(i for i in range(20) if source[i]['label'] == 1)
    assert f"row {first} of 'train' has label 1, outside the 1 classes" in stopped(root)

  @pytest.mark.parametrize('promised', ['21', '19'])
  def test_other_counts_of_rows_than_promised(self, mine, promised):
    root, folder = mine
    info = (folder / 'dataset_info.json').read_text()
    assert '"20"' in info
    (folder / 'dataset_info.json').write_text(info.replace('"20"', f'"{promised}"'))
    assert f"'train' holds 20 rows, but dataset_info.json says {promised}" in stopped(root)

  @pytest.mark.parametrize('rest', [b'', b'no records' * 99])
  def test_records_that_are_none(self, mine, rest):
    root, folder = mine
    [path] = folder.glob('*train*')
    path.write_bytes(rest)
    assert "records of 'train' cannot be read" in stopped(root)

  @pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
  @pytest.mark.parametrize('change', [
      lambda text: '', lambda text: text[:len(text) // 2], lambda text: '[]',
      lambda text: '[' * 100_000])
  def test_metadata_that_are_no_json_name_their_file(self, mine, file, change):
    root, folder = mine
    (folder / file).write_text(change((folder / file).read_text()))
    assert stopped(root).startswith(f'{folder / file} is no JSON (')

  @pytest.mark.parametrize('file', ['dataset_info.json', 'features.json'])
  @pytest.mark.parametrize('change', [
      lambda text: '{}', lambda text: '{"fileFormat": "array_record"}',
      lambda text: text.replace('"20"', '"x"').replace('classLabel', 'other')])
  def test_metadata_that_tfds_does_not_take_name_their_file(self, mine, file, change):
    root, folder = mine
    text = (folder / file).read_text()
    (folder / file).write_text(change(text))
    line = stopped(root)
    assert str(folder) in line and (file in line or 'is prepared as None' in line)

  def test_metadata_that_are_gone_name_their_file(self, mine):
    root, folder = mine
    (folder / 'features.json').unlink()
    assert stopped(root).startswith(f'{folder}/features.json')

  @pytest.mark.parametrize(('content', 'parts'), [
      (b'', ['has 0 names', 'there are 2 classes']), (b'negative\n', ['has 1 names']),
      (b'negative\npositive\nmixed', ['has 3 names']), (b'neg\xe9\npos\n', ['cannot be read']),
      (b'good\ngood\n', ["the classes 'good' and 'good' are one"]),
      ('é\ne\u0301\n'.encode(), ['are one']), (b'1\n1.0\n', ["'1' and '1.0' are one"]),
      (b'a\x07\nb\n', ['a control character'])])
  def test_names_of_classes_that_are_none_name_their_file(self, mine, content, parts):
    root, folder = mine
    (folder / 'label.labels.txt').write_bytes(content)
    line = stopped(root)
    assert str(folder / 'label.labels.txt') in line and all(part in line for part in parts), line

  def test_classes_may_have_no_names(self, mine):
    root, folder = mine
    (folder / 'label.labels.txt').unlink()
    assert load(root).names == ('0', '1')

  def test_records_that_are_gone(self, mine):
    root, folder = mine
    [path] = folder.glob('*train*')
    path.unlink()
    assert "records of 'train' cannot be read" in stopped(root)


class TestFields:

  @pytest.mark.parametrize('fields, line', [
      ({'text': ('sentense',), 'label': 'label'}, "'sentense'; did you mean 'sentence'"),
      ({'text': ('sentence',), 'label': 'lable'}, "'lable'; did you mean 'label'"),
      ({'text': ('label',), 'label': 'label'}, "'label' of tiny is no text"),
      ({'text': ('sentence',), 'label': 'other'}, "'other' of tiny is no class"),
      ({'text': 'sentence', 'label': 'label'}, 'must be like'),
      ({'text': (), 'label': 'label'}, 'must be like'),
      ({'text': ('sentence',)}, 'must be like'),
      ({'text': ('sentence',), 'label': 'label', 'more': 'other'}, 'must be like')])
  def test_that_do_not_fit_are_named(self, prepared, fields, line):
    with pytest.raises(ValueError, match=re.escape(line)):
      load(prepared, fields=fields)


REAL = pathlib.Path(os.environ.get('TFDS_DATA_DIR') or 'nowhere')


def real(dataset, **how):
  if not (REAL / dataset).is_dir():
    pytest.skip(f'TFDS_DATA_DIR={REAL} holds no {dataset}')
  return tfds.Text(dataset=dataset, **how)


@pytest.mark.parametrize('dataset, text, sizes, labels', [
    ('glue/mrpc', ('sentence1', 'sentence2'),
     {'train': 3668, 'validation': 408, 'test': 1725}, [-1, 0, 1]),
    ('ag_news_subset', ('description',), {'train': 10_001, 'test': 7_600}, [0, 1, 2, 3])])
def test_real_sets_of_the_catalogue(dataset, text, sizes, labels):
  data = real(dataset, fields={'text': text, 'label': 'label'})
  assert {name: len(split) for name, split in data.splits.items()} == sizes
  found = np.unique(np.concatenate([s.index['label'] for s in data.splits.values()]))
  assert found.tolist() == labels
  assert all(isinstance(row, str if len(text) == 1 else tuple) for row in data.splits['train'].raw)


def test_sts_b_is_a_regression_of_pairs():
  data = real('glue/stsb', fields={'text': ('sentence1', 'sentence2'), 'label': 'label'})
  assert data.names == () and {name: (len(split), int(split.known.sum()))
                                 for name, split in data.splits.items()} == {
      'train': (5749, 5749), 'validation': (1500, 1500), 'test': (1379, 0)}
  label = data.splits['train'].index['label']
  assert label.dtype == np.float32 and (label.min(), label.max()) == (0, 5)


def test_chinese_with_the_chinese_vocabulary():
  place = REAL.parent / 'data' / 'vocab' / 'bert-base-chinese-vocab.txt'
  if not place.is_file():
    pytest.skip(f'there is no {place}')
  data = real('chnsenticorp_htl', fields={'text': ('text',), 'label': 'label'},
              tokenizer=str(place), length=128)
  split, words = data.splits['test'], place.read_text().split('\n')
  tokens = split.fetch(np.arange(len(split)))['tokens']
  whole = tokens[:, -1] == 0              # not cut
  assert data.sizes['vocabulary'] == 21_128 and whole.sum() > len(split) / 2
  assert (tokens == words.index('[UNK]')).sum() < 0.01 * (tokens != 0).sum()
  known = {word for word in words if '\u4e00' <= word <= '\u9fff'}
  for row in np.flatnonzero(whole):
    assert known & {*split.raw[row]} <= {words[i] for i in tokens[row]}
