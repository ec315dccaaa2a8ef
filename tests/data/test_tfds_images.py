"""Images of the TFDS catalogue, from record files that TFDS writes here."""
import io
import os
import pathlib
import re

import numpy as np
import pytest
import tensorflow_datasets
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2 as protos

from distill import lookup, main
from distill.data import batches, images, tfds
from distill.types import Status, Stop

NOISE = np.random.default_rng(0)
SIZES = {'train': 40, 'test': 10}
PIXELS = {split: NOISE.integers(256, size=(n, 8, 8, 3), dtype=np.uint8)
          for split, n in SIZES.items()}
LABELS = {split: np.arange(n) % 3 for split, n in SIZES.items()}
CLASSES = ('ant', 'bee', 'cat')


def encoded(pixels, kind='png', **how):
  """A picture file of some pixels; `how` is Pillow's."""
  file = io.BytesIO()
  picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels.squeeze())
  picture.save(file, kind, **how)
  return file.getvalue()


def prepare(root, pictures=PIXELS, labels=LABELS, feature=None, name='tiny', version='1.0.0', *,
            shard=16, **more):
  """A data set written by TFDS, in the order given and in several files; its folder.

  `pictures` are arrays or the bytes of picture files, by split; `more` further fields.
  """
  core, features = tensorflow_datasets.core, tensorflow_datasets.features
  folder = root / name / version
  folder.mkdir(parents=True)
  info = core.DatasetInfo(
      builder=core.DatasetIdentity(name=name, version=core.Version(version),
                                   data_dir=str(folder), module_name=name),
      features=features.FeaturesDict({
          'image': feature or features.Image(shape=(8, 8, 3)),
          'label': features.ClassLabel(names=CLASSES), 'number': features.Scalar(np.int64)}))
  writer = core.SequentialWriter(info, max_examples_per_shard=shard, file_format='array_record')
  writer.initialize_splits(list(pictures))
  for split, rows in pictures.items():
    writer.add_examples({split: [
        {'image': row if isinstance(row, bytes) else encoded(row), 'label': label, 'number': i}
        for i, (row, label) in enumerate(zip(rows, labels[split], strict=True))]})
  writer.close_all()
  return folder


def files(folder, split='train'):
  return sorted(folder.glob(f'*-{split}.array_record*'))


def rewrite(file, row, change):
  """Changes a record of a file."""
  reader = ArrayRecordReader(str(file))
  records = reader.read_all()
  reader.close()
  example = protos.Example.FromString(records[row])
  change(example.features.feature)
  records[row] = example.SerializeToString()
  writer = ArrayRecordWriter(str(file), 'group_size:1')
  for record in records:
    writer.write(record)
  writer.close()


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


def load(root, **how):
  return tfds.Images(dataset='tiny', data_dir=str(root), **how)


def in_memory(pixels=PIXELS, labels=LABELS, **how):
  """The same images as arrays."""
  return images.dataset(pixels, labels, name='tiny', classes=CLASSES, versions={}, **how)


def pixels(split):
  return np.asarray(split.fetch(np.arange(len(split)))['image'])


def stopped(root, **how):
  with pytest.raises(Stop) as stop:
    load(root, **how)
  assert stop.value.status == Status.DATA and '\n' not in str(stop.value)
  return str(stop.value)


def same(first, other):
  """Asserts that two data sets have the same images, labels, hashes and statistics."""
  assert first.modality.card() == other.modality.card()
  assert first.sizes == other.sizes and first.names == other.names
  assert [*first.splits] == [*other.splits]
  for name, split in first.splits.items():
    assert split.fields == other.splits[name].fields
    np.testing.assert_array_equal(pixels(split), pixels(other.splits[name]), strict=True)
    for column in 'hash01', 'label':
      np.testing.assert_array_equal(split.index[column], other.splits[name].index[column],
                                    strict=True)


class TestLoading:

  def test_all_is_as_of_the_same_images_in_memory(self, prepared):
    data = load(prepared)
    assert len(files(prepared / 'tiny/1.0.0')) == 3
    same(data, in_memory())
    np.testing.assert_array_equal(pixels(data.splits['train']), PIXELS['train'], strict=True)
    assert data.name == 'tiny' and data.versions == {'tiny': '1.0.0'} and data.names == CLASSES

  def test_the_validation_share_is_that_of_the_same_images_in_memory(self, prepared):
    data = load(prepared, validation=0.3)
    same(data, in_memory(parts={'validation': 0.3}))
    assert 0 < len(data.splits['validation']) < 20
    assert len(data.splits['validation']) + len(data.splits['train']) == SIZES['train']

  def test_only_rows_that_are_asked_for_are_read(self, prepared):
    split = load(prepared).splits['train']
    rows = np.array([39, 3, 3, 17])                   # of three files, in any order
    np.testing.assert_array_equal(split.fetch(rows)['image'], PIXELS['train'][rows])
    some = split.subset(np.array([5, 30]))
    np.testing.assert_array_equal(some.fetch(np.array([1]))['image'], PIXELS['train'][[30]])

  def test_grey_images(self, tmp_path):
    grey = {split: array[..., :1] for split, array in PIXELS.items()}
    prepare(tmp_path, grey, feature=tensorflow_datasets.features.Image(shape=(8, 8, 1)))
    same(load(tmp_path), in_memory(grey))

  def test_grey_images_of_16_bits(self, tmp_path):
    deep = {split: array[..., :1].astype(np.uint16) * 257 for split, array in PIXELS.items()}
    prepare(tmp_path, deep, feature=tensorflow_datasets.features.Image(
        shape=(8, 8, 1), dtype=np.uint16))
    same(load(tmp_path, white=65_535.0), in_memory(deep, white=65_535.0))

  def test_pictures_of_other_formats_and_modes_have_the_channels_of_the_data_set(self, tmp_path):
    grey = Image.fromarray(PIXELS['train'][0, ..., 0])
    few = Image.fromarray((PIXELS['train'][1] // 128 * 255).astype(np.uint8))     # eight colours
    palette = few.convert('P', palette=Image.Palette.ADAPTIVE)
    assert palette.mode == 'P'
    rows = [encoded(grey), encoded(palette), encoded(few, 'bmp'), encoded(few)]
    prepare(tmp_path, {'train': rows}, {'train': [0, 1, 2, 0]})
    grey, *others = pixels(load(tmp_path).splits['train'])
    np.testing.assert_array_equal(grey, np.repeat(PIXELS['train'][0, ..., :1], 3, axis=-1))
    for found in others:
      np.testing.assert_array_equal(found, few)

  def test_an_image_without_a_label_is_kept(self, tmp_path):
    prepare(tmp_path, labels={**LABELS, 'test': [-1] * SIZES['test']})
    split = load(tmp_path).splits['test']
    assert len(split) == SIZES['test'] and not split.known.any()

  def test_a_split_without_examples_is_left_out(self, mine):
    root, folder = mine
    info = folder / 'dataset_info.json'
    assert '"10"' in info.read_text()
    [file] = files(folder, 'test')
    ArrayRecordWriter(str(file), 'group_size:1').close()
    info.write_text(info.read_text().replace('"10"', '"0"'))
    assert [*load(root).splits] == ['train']

  def test_batches_resume_to_the_bit(self, prepared):
    rows = batches.shuffled(load(prepared).splits['train'], batch_size=8, seed=1, steps=12)
    whole = list(batches.read_ahead(rows))
    again = batches.shuffled(load(prepared).splits['train'], batch_size=8, seed=1, steps=12)
    for first, other in zip(whole[7:], batches.read_ahead(again, 7), strict=True):
      for name, column in first.items():
        np.testing.assert_array_equal(column, other[name], strict=True)
    np.testing.assert_array_equal(whole[3]['image'], PIXELS['train'][whole[3]['id']])

  def test_a_config_can_name_it(self, prepared):
    node = {'name': 'tfds.Images', 'dataset': 'tiny', 'data_dir': str(prepared)}
    assert lookup.build('data', node, 'data').sizes == {'channels': 3, 'classes': 3}


class TestSurvey:

  @pytest.fixture
  def survey(self, monkeypatch):
    """Counts surveys."""
    seen, make = [], tfds._survey
    monkeypatch.setattr(tfds, '_survey', lambda *a: (seen.append(1), make(*a))[1])
    return seen

  def test_is_made_once(self, prepared, survey):
    cold, warm = load(prepared), load(prepared)
    assert len(survey) == 1 and warm.fingerprint == cold.fingerprint
    same(cold, warm)

  def test_is_made_anew_by_other_code(self, prepared, survey, monkeypatch):
    load(prepared)
    monkeypatch.setattr(tfds, 'source_sha256', lambda file: 'another version of ' + file)
    load(prepared)
    assert len(survey) == 2

  def test_is_made_anew_of_other_files(self, mine, survey):
    root, folder = mine
    before = load(root)
    rewrite(files(folder)[0], 0, lambda features: features['label'].int64_list.value.__setitem__(
        0, 2))
    after = load(root)
    assert len(survey) == 2 and after.fingerprint != before.fingerprint
    assert after.splits['train'].index['label'][0] == 2

  def test_of_another_share_has_another_fingerprint(self, prepared):
    fingerprints = {load(prepared, validation=share).fingerprint for share in (0.0, 0.2, 0.4)}
    assert len(fingerprints) == 3

  def test_damage_to_what_is_kept_is_mended(self, prepared, survey, tmp_path):
    load(prepared)
    [kept] = (tmp_path / 'cache').glob('tfds-images-*')
    kept.write_bytes(kept.read_bytes()[:-9])
    same(load(prepared), in_memory())
    assert len(survey) == 2


class TestDamage:

  def test_a_file_that_is_cut(self, mine):
    root, folder = mine
    file = files(folder)[1]
    file.write_bytes(file.read_bytes()[:1000])
    assert f"{folder}: 'train': {file.name} cannot be read" in stopped(root)

  def test_a_file_that_is_gone(self, mine):
    root, folder = mine
    file = files(folder)[2]
    file.unlink()
    assert f"{folder}: 'train': {file.name} cannot be read" in stopped(root)

  def test_a_record_whose_bytes_are_not_those_that_were_written(self, mine):
    root, folder = mine
    file, picture = files(folder)[1], encoded(PIXELS['train'][20])
    content = file.read_bytes()
    at = content.find(picture[50:90])                # noise is stored as it is
    assert at > 0
    file.write_bytes(content[:at] + bytes(40) + content[at + 40:])
    line = stopped(root)
    assert f"{folder}: 'train': record 20 " in line and 'repare the data set again' in line

  def test_a_file_that_is_damaged_after_the_survey(self, mine):
    root, folder = mine
    split = load(root).splits['train']
    file, picture = files(folder)[1], encoded(PIXELS['train'][20])
    content = file.read_bytes()
    at = content.find(picture[50:90])
    with open(file, 'r+b') as opened:
      opened.seek(at)
      opened.write(bytes(40))
    split.fetch(np.array([19, 21]))
    with pytest.raises(Stop, match="'train': record 20 "):
      split.fetch(np.array([19, 20, 21]))

  @pytest.mark.parametrize('promised', ['41', '39'])
  def test_other_counts_of_records_than_promised(self, mine, promised):
    root, folder = mine
    info = (folder / 'dataset_info.json').read_text()
    assert '"8"' in info                              # of the last of three files
    (folder / 'dataset_info.json').write_text(info.replace('"8"', f'"{int(promised) - 32}"'))
    assert f"'train' holds 40 records, but dataset_info.json says {promised}" in stopped(root)

  @pytest.mark.parametrize('split, row', [('train', 20), ('test', 0)])
  def test_an_image_of_another_size(self, tmp_path, split, row):
    rows = {name: list(map(encoded, array)) for name, array in PIXELS.items()}
    rows[split][row] = encoded(PIXELS['train'][0][:7])
    prepare(tmp_path, rows)
    line = stopped(tmp_path)
    assert f"{split!r}: record {row} is [7, 8, 3]" in line or (
        row == 0 and f"{split!r}: record 1 is [8, 8, 3], and record 0 [7, 8, 3]" in line)
    assert 'only images of one size' in line

  def test_a_label_outside_the_classes(self, mine):
    root, folder = mine
    path, three = folder / 'features.json', '"numClasses": "3"'
    assert three in path.read_text()
    path.write_text(path.read_text().replace(three, '"numClasses": "2"'))
    (folder / 'label.labels.txt').write_text('ant\nbee\n')
    assert "'train': record 2 has label 2, outside the 2 classes" in stopped(root)

  def test_a_picture_that_is_none(self, tmp_path):
    rows = {name: list(map(encoded, array)) for name, array in PIXELS.items()}
    rows['train'][7] = rows['train'][7][:60]
    rows['train'][9] = b'no picture'
    prepare(tmp_path, rows)
    assert "'train': record 7 is no image with a label" in stopped(tmp_path)
    rows['train'][7] = rows['train'][6]
    prepare(tmp_path / 'other', rows)
    assert "'train': record 9 is no image with a label" in stopped(tmp_path / 'other')

  @pytest.mark.parametrize('field', ['image', 'label'])
  def test_a_record_without_its_image_or_label(self, mine, field):
    root, folder = mine
    rewrite(files(folder)[1], 3, lambda features: features.pop(field))
    assert "'train': record 19 is no image with a label" in stopped(root)

  def test_pixels_of_another_type_than_promised(self, tmp_path):
    rows = [*map(encoded, PIXELS['train'][:3, ..., 0].astype(np.uint16) * 257),
            encoded(PIXELS['train'][3, ..., 0])]
    prepare(tmp_path, {'train': rows}, {'train': [0, 1, 2, 0]},
            tensorflow_datasets.features.Image(shape=(8, 8, 1), dtype=np.uint16))
    assert "'train': record 3 is no image with a label (its pixels are uint8" in stopped(tmp_path)

  def test_images_of_floating_point_numbers(self, tmp_path):
    grey = {split: array[..., :1] for split, array in PIXELS.items()}
    folder = prepare(tmp_path, grey, feature=tensorflow_datasets.features.Image(shape=(8, 8, 1)))
    features = folder / 'features.json'               # TFDS needs TensorFlow to write these
    assert '"uint8"' in features.read_text()
    features.write_text(features.read_text().replace('"uint8"', '"float32"'))
    assert 'its images are float32, and only uint8 and uint16 can be read' in stopped(tmp_path)

  def test_a_channel_that_is_constant(self, tmp_path):
    flat = PIXELS['train'].copy()
    flat[..., 1] = 7
    prepare(tmp_path, {'train': flat}, {'train': LABELS['train']})
    assert 'channel 1 is 7 in all training images' in stopped(tmp_path)


class TestFields:

  def test_that_are_called_otherwise(self, prepared):
    data = load(prepared, fields={'image': 'image'})
    assert data.fingerprint == load(prepared).fingerprint

  @pytest.mark.parametrize('fields, line', [
      ({'image': 'imige'}, "'imige'; did you mean 'image'"),
      ({'label': 'lable'}, "'lable'; did you mean 'label'"),
      ({'image': 'label'}, "fields.image: 'label' of tiny is no Image"),
      ({'label': 'number'}, "fields.label: 'number' of tiny is no ClassLabel"),
      ({'picture': 'image'}, 'must be like'), ({'label': 3}, 'must be like')])
  def test_that_do_not_fit_are_named(self, prepared, fields, line):
    with pytest.raises(ValueError, match=re.escape(line)):
      load(prepared, fields=fields)

  def test_a_share_that_is_none(self, prepared):
    for share in -0.1, 1.0:
      with pytest.raises(ValueError, match='must be a share below 1'):
        load(prepared, validation=share)

  def test_a_share_beside_a_split_of_that_name(self, tmp_path):
    prepare(tmp_path, {'train': PIXELS['train'], 'validation': PIXELS['test']},
            {'train': LABELS['train'], 'validation': LABELS['test']})
    with pytest.raises(ValueError, match='there is a split validation already'):
      load(tmp_path, validation=0.1)

  def test_a_data_set_that_is_not_there(self, prepared):
    with pytest.raises(Stop, match="'tyny' is not prepared in .*did you mean 'tiny'"):
      tfds.Images(dataset='tyny', data_dir=str(prepared))

  def test_a_data_set_without_training_images(self, tmp_path):
    prepare(tmp_path, {'test': PIXELS['test']})
    assert 'there is no split train; there is test' in stopped(tmp_path)


CONFIG = '''
from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  soft = dict(loss='logits.kl', weight=1.0,
              reads=dict(student='student/logits', teacher='teacher/logits'))
  model = lambda width: dict(name='resnet.ResNet', depth=8, widths=(width,) * 4)
  train = dict(steps=3, log_every=1, save_every=3)
  sgd = dict(name='sgd', rate=0.05, momentum=0.9)
  return ConfigDict(dict(
      seed=0, train=train, task=dict(name='classification.Classification'), optimizer=sgd,
      data=dict(name='tfds.Images', dataset='tiny', data_dir=ROOT, validation=0.2,
                batch_size=8, seed=0),
      student=dict(model=model(2)), objective=dict(hard=hard, soft=soft),
      teachers=dict(teacher=dict(model=model(4), train=dict(
          **train, optimizer=sgd, objective=dict(hard=hard)))),
      evaluate=dict(batch_size=8, resamples=5, alone=False)))
'''


@pytest.mark.slow
def test_a_run_from_a_config_to_its_report(prepared, tmp_path):
  file, workdir = tmp_path / 'tiny.py', tmp_path / 'run'
  file.write_text(CONFIG.replace('ROOT', repr(str(prepared))))
  assert main.main([f'--config={file}', f'--workdir={workdir}']) == Status.DONE
  report = (workdir / 'report.html').read_text()
  assert 'teacher' in report and 'student' in report and 'images' in report
  assert (workdir / 'export/student/model.safetensors').is_file()


REAL = pathlib.Path(os.environ.get('TFDS_DATA_DIR') or 'nowhere')


@pytest.mark.slow
def test_cifar_100():
  if not (REAL / 'cifar100').is_dir():
    pytest.skip(f'TFDS_DATA_DIR={REAL} holds no cifar100')
  data = tfds.Images(dataset='cifar100')
  assert {name: len(split) for name, split in data.splits.items()} == {
      'train': 50_000, 'test': 10_000}
  assert np.bincount(data.splits['train'].index['label']).tolist() == [500] * 100
  # The usual numbers: (0.5071, 0.4865, 0.4409) and (0.2673, 0.2564, 0.2762) of pixels in [0, 1].
  np.testing.assert_allclose(np.array(data.modality.mean) / 255, (0.5071, 0.4865, 0.4409),
                             atol=1e-4)
  np.testing.assert_allclose(np.array(data.modality.deviation) / 255, (0.2673, 0.2564, 0.2762),
                             atol=1e-4)
  source = tensorflow_datasets.builder_from_directory(
      REAL / 'cifar100' / data.versions['cifar100']).as_data_source('train')
  for row in 0, 24_999, 49_999:
    np.testing.assert_array_equal(data.splits['train'].fetch(np.array([row]))['image'][0],
                                  source[row]['image'])
    assert data.splits['train'].index['label'][row] == source[row]['label']
