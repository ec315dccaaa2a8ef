"""Data sets of the TFDS catalogue, prepared as array_record; without TensorFlow.

Texts are read once and tokenized. Images stay in their files, and are read when a batch needs
them.
"""
import hashlib
import io
import math
import os
import pathlib
import types
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.data import images, labels, prepared, text
from distill.data.prepared import class_names, count_records, first_line, opened, prepared_folder
from distill.data.sets import Dataset, Split
from distill.data.stored import Arrays, load_or_make, pack, source_sha256, unpack
from distill.lookup import nearest
from distill.modalities.examples import ShapeError, narrow
from distill.modalities.image import STORED, Image
from distill.types import Field, Status, Stop

MODES = {1: 'L', 3: 'RGB', 4: 'RGBA'}   # Pillow's, of 8 bits, by the channels


def Text(*, dataset: str, fields: Mapping, length: int = 64, vocabulary: int = 8000,
         tokenizer: str = '', held_out: float = 0.0, data_dir: str = '',
         cache: str = '') -> Dataset:
  """Loads all splits of a prepared data set; rows without a label stay, as unlabelled texts.

  Labels that are floats make it a regression. An unknown label is class -1, or the number NaN, or
  -1 if all labels of a split are -1, as in GLUE's STS-B.

  Args:
    dataset: its name in the catalogue, 'ag_news_subset' or 'glue/sst2'; the newest version.
    fields: {'text': ('sentence',), 'label': 'label'}; two names are a pair of texts.
    tokenizer, held_out: as of `text.dataset`.
    data_dir: where it was prepared; else $TFDS_DATA_DIR, else ~/tensorflow_datasets.
  """
  names = fields.get('text', ())
  if set(fields) != {'text', 'label'} or isinstance(names, str) or len(names) not in (1, 2):
    raise ValueError(f"fields={dict(fields)} must be like {{'text': ('sentence',), 'label': "
                     "'label'}, with one name or two in 'text'")
  folder = prepared_folder(dataset, data_dir)
  files = sorted(file for file in folder.iterdir() if file.is_file())
  code = [source_sha256(file) for file in (__file__, labels.__file__, prepared.__file__)]
  made_of = [code, str(folder), list(names), fields['label'],
             [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]]
  corpus = unpack(load_or_make('tfds', made_of, lambda: {'corpus': pack(
      _corpus(dataset, folder, names, fields['label']))}, cache)['corpus'])
  texts = {split: [row[0] if len(names) == 1 else tuple(row) for row in rows]
           for split, rows in corpus['texts'].items()}
  return text.dataset(texts, corpus['labels'], name=dataset, classes=corpus['classes'],
                      length=length, vocabulary=vocabulary, tokenizer=tokenizer,
                      held_out=held_out, versions={dataset: folder.name}, cache=cache)


def Images(*, dataset: str, fields: Mapping = types.MappingProxyType({}), validation: float = 0.0,
           white: float = 255.0, data_dir: str = '', cache: str = '') -> Dataset:
  """Loads all splits of a prepared data set of images of one size, each with a class.

  The images stay in their files: memory holds labels and hashes. The first time, every image is
  read once, for the statistics of the training images and the fingerprint, which are cached on
  disk.

  Args:
    dataset: its name in the catalogue, 'cifar100'; the newest version.
    fields: {'image': 'image', 'label': 'label'}, the names of the fields; these are the defaults.
    validation: the share of `train` that becomes the split `validation`, by a hash of the pixels.
    white: the value of a bright pixel.
    data_dir: where it was prepared; else $TFDS_DATA_DIR, else ~/tensorflow_datasets.
  """
  names = {'image': 'image', 'label': 'label', **fields}
  if len(names) != 2 or not all(isinstance(name, str) for name in names.values()):
    raise ValueError(f"fields={dict(fields)} must be like {{'image': 'image', 'label': 'label'}}")
  if not 0 <= validation < 1:
    raise ValueError(f'validation={validation} must be a share below 1')
  folder = prepared_folder(dataset, data_dir)
  classes, files = _image_files(dataset, folder, names)
  if 'train' not in files:
    raise Stop(Status.DATA, f'{folder}: there is no split train; there is {", ".join(files)}')
  if validation and 'validation' in files:
    raise ValueError(f'validation={validation}, but there is a split validation already')
  made_of = [source_sha256(__file__), source_sha256(images.__file__), names, classes, validation,
             {split: [(path, os.stat(path).st_size, os.stat(path).st_mtime_ns)
                      for path in file.paths] for split, file in files.items()}]
  arrays = load_or_make('tfds-images', made_of, lambda: _survey(files, classes, validation), cache)
  about = unpack(arrays['about'])
  if not arrays['counts'].any():
    raise ValueError(f'validation={validation} leaves no image to train on')
  modality = Image(*about['shape'], *images.moments(
      arrays['counts'], f'{dataset}: train'), float(white), about['dtype'])
  target = Field((), 'int32', -1, target=True)
  splits = {}
  for split, file in files.items():
    splits[split] = Split(
        {'hash01': arrays[f'{split}/hash01'], 'label': arrays[f'{split}/label']},
        {**modality.fields, 'label': target}, lambda rows, file=file: {'image': file.images(rows)})
  if validation:
    out = arrays['train/parts'] < validation
    splits |= {'validation': splits['train'].subset(np.flatnonzero(out)),
               'train': splits['train'].subset(np.flatnonzero(~out))}
  facts = {**modality.sizes, 'classes': len(classes), 'names': tuple(classes)}
  return Dataset(name=dataset, modality=modality, splits=splits, fingerprint=about['fingerprint'],
                 versions={dataset: folder.name}, facts=facts)


class _ImageFiles:
  """The images of a split in its record files, read by their numbers, by any number of threads.

  `feature` is TFDS's description of the images.
  """

  def __init__(self, folder: pathlib.Path, split: str, info: Any, names: Mapping[str, str],
               feature: Any):
    from array_record.python.array_record_data_source import ArrayRecordDataSource
    self.paths, self.names = [str(path) for path in info.filepaths], names
    self.dtype = np.dtype(feature.np_dtype).name
    self._mode = MODES.get(feature.shape[-1]) if self.dtype == 'uint8' else None
    self._format = None               # the last picture's, for the next one
    self._about = f'{folder}: {split!r}'
    count = 0
    for path in self.paths:
      try:
        count += count_records(path)
      except Exception as error:      # array_record has no exceptions of its own
        raise Stop(Status.DATA, f'{self._about}: {os.path.basename(path)} cannot be read '
                   f'({first_line(error)}): is it cut? Prepare the data set again') from error
    if count != info.num_examples:
      raise Stop(Status.DATA, f'{self._about} holds {count} records, but dataset_info.json '
                 f'says {info.num_examples}; prepare the data set again')
    self._records = ArrayRecordDataSource(self.paths)

  def __len__(self) -> int:
    return len(self._records)

  def examples(self, rows: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Reads the images [n h w c] and labels [n] of some records."""
    from tensorflow_datasets.proto import tf_example_pb2 as protos
    pixels, found = [], []
    for row, record in zip(rows, self._read([int(row) for row in rows]), strict=True):
      try:
        features = protos.Example.FromString(record).features.feature
        pixels.append(self._decode(features[self.names['image']].bytes_list.value[0]))
        found.append(features[self.names['label']].int64_list.value[0])
      except Exception as error:      # protobuf and Pillow have many kinds
        raise Stop(Status.DATA, f'{self._about}: record {row} is no image with a label '
                   f'({first_line(error)}); prepare the data set again') from error
      if pixels[-1].shape != pixels[0].shape:
        raise Stop(Status.DATA, f'{self._about}: record {row} is {list(pixels[-1].shape)}, and '
                   f'record {rows[0]} {list(pixels[0].shape)}: only images of one size can be read')
    return np.stack(pixels), self._narrow(found, rows)

  def _narrow(self, found: Sequence[int], rows: Sequence[int]) -> np.ndarray:
    try:
      return narrow(found, 'int32')
    except ShapeError as error:
      raise Stop(Status.DATA, f'{self._about}: record {rows[error.row]}: its label {error}'
                 ) from error

  def images(self, rows: np.ndarray) -> list[np.ndarray]:
    return self.examples(rows)[0] if len(rows) else []

  def _decode(self, content: bytes) -> np.ndarray:
    """Decodes a picture file to pixels [h w c].

    The format of the last picture is tried first: Pillow would try all formats, which takes longer
    than reading a small picture.
    """
    from PIL import Image as pictures
    try:
      picture = pictures.open(io.BytesIO(content), formats=self._format and (self._format,))
    except pictures.UnidentifiedImageError:
      if not self._format:
        raise
      picture = pictures.open(io.BytesIO(content))
    with picture:
      self._format = picture.format
      if self._mode and picture.mode != self._mode:     # grey among coloured ones, a palette, …
        picture = picture.convert(self._mode)
      pixels = np.asarray(picture)
    if pixels.dtype.name != self.dtype:
      raise ValueError(f'its pixels are {pixels.dtype}, and those of the data set {self.dtype}')
    return pixels if pixels.ndim == 3 else pixels[..., None]

  def _read(self, rows: Sequence[int]) -> Sequence[bytes]:
    try:
      return self._records.__getitems__(rows)
    except Exception:                 # find the damaged record
      for row in rows:
        try:
          self._records.__getitems__([row])
        except Exception as error:
          raise Stop(Status.DATA, f'{self._about}: record {row} cannot be read '
                     f'({first_line(error)}): is a file cut or damaged? Prepare the data set again'
                     ) from error
      raise


def _image_files(dataset: str, folder: pathlib.Path,
                 names: Mapping[str, str]) -> tuple[list[str], dict[str, _ImageFiles]]:
  """Returns the names of the classes, and the files of every split that has examples."""
  import tensorflow_datasets as tfds
  info = opened(folder).info
  for name in names.values():
    if name not in info.features:
      raise ValueError(f'fields: {dataset} has no field {name!r}' + nearest(name, info.features))
  for key, kind in ('image', tfds.features.Image), ('label', tfds.features.ClassLabel):
    if not isinstance(info.features[names[key]], kind):
      raise ValueError(f'fields.{key}: {names[key]!r} of {dataset} is no {kind.__name__} but '
                       f'{info.features[names[key]]}')
  feature = info.features[names['image']]
  kind = np.dtype(feature.np_dtype).name
  if kind not in STORED:
    raise Stop(Status.DATA, f'{folder}: its images are {kind}, and only {" and ".join(STORED)} can '
               'be read')
  return class_names(folder, names['label'], info.features[names['label']]), {
      split: _ImageFiles(folder, split, about, names, feature)
      for split, about in info.splits.items() if about.num_examples}


def _survey(files: Mapping[str, _ImageFiles], classes: Sequence[str],
            validation: float) -> Arrays:
  """Reads every image once, for labels, hashes and statistics."""
  arrays, digest = {}, hashlib.sha256(repr((tuple(classes), validation)).encode())
  first = files['train'].examples([0])[0]
  shape, counts = first.shape[1:], 0
  for split, file in files.items():
    digest.update(f'{split} {(len(file), *shape)}'.encode())
    columns: dict[str, list[np.ndarray]] = {'label': [], 'hash01': []}
    size = images.at_once(first.nbytes)
    for start in range(0, len(file), size):
      pixels, label = file.examples(range(start, min(start + size, len(file))))
      if pixels.shape[1:] != shape:
        raise Stop(Status.DATA, f'{file._about}: record {start} is {list(pixels.shape[1:])}, and '
                   f'the first of train {list(shape)}: only images of one size can be read')
      bad = np.flatnonzero((label < -1) | (label >= len(classes)))
      if bad.size:
        raise Stop(Status.DATA, f'{file._about}: record {start + bad[0]} has label '
                   f'{label[bad[0]]}, outside the {len(classes)} classes')
      for part in images.chunks(pixels):
        digest.update(part.data)
      columns['label'].append(label)
      columns['hash01'].append(images.hash01(pixels))
      if split == 'train' and validation:
        columns.setdefault('parts', []).append(images.hash01(pixels, b'parts'))
        pixels = pixels[columns['parts'][-1] >= validation]
      if split == 'train':
        counts = counts + images.counts(pixels)
    whole = {name: np.concatenate(column) for name, column in columns.items()}
    digest.update(whole['label'].tobytes())
    arrays |= {f'{split}/{name}': column for name, column in whole.items()}
  about = {'fingerprint': digest.hexdigest(), 'shape': shape, 'dtype': files['train'].dtype}
  return arrays | {'counts': counts, 'about': pack(about)}


def _corpus(dataset: str, folder: pathlib.Path, names: list[str], label: str) -> dict:
  """Reads texts and labels by split, and the names of the classes, as JSON."""
  import tensorflow_datasets as tfds

  builder = opened(folder)
  features = builder.info.features
  for name in (*names, label):
    if name not in features:
      raise ValueError(f'fields: {dataset} has no field {name!r}' + nearest(name, features))
  for name in names:
    if not isinstance(features[name], tfds.features.Text):
      raise ValueError(f'fields.text: {name!r} of {dataset} is no text but {features[name]}')
  kind = features[label]
  classed = isinstance(kind, tfds.features.ClassLabel)
  classes = class_names(folder, label, kind) if classed else []
  if not classes and (kind.shape != () or not np.issubdtype(kind.np_dtype, np.floating)):
    raise ValueError(f'fields.label: {label!r} of {dataset} is no class and no number but {kind}')
  texts, targets = {}, {}
  for split, info in builder.info.splits.items():
    try:
      count = sum(map(count_records, info.filepaths))
      rows = builder.as_data_source(split).__getitems__(range(min(count, info.num_examples)))
    except Exception as error:        # array_record has no exceptions of its own
      raise Stop(Status.DATA, f'{folder}: the records of {split!r} cannot be read '
                 f'({first_line(error)}); prepare the data set again') from error
    if count != info.num_examples:
      raise Stop(Status.DATA, f'{folder}: {split!r} holds {count} rows, but dataset_info.json '
                 f'says {info.num_examples}; prepare the data set again')
    texts[split] = [[row[name].decode(errors='replace') for name in names] for row in rows]
    targets[split] = [(int if classes else float)(row[label]) for row in rows]
    for i, k in enumerate(targets[split]):          # TFDS writes what float32 can't hold as inf
      if math.isinf(k) or classes and not -1 <= k < len(classes):
        raise Stop(Status.DATA, f'{folder}: row {i} of {split!r} has label {k}, '
                   + (f'outside the {len(classes)} classes' if classes else 'which is no number'))
    if not classes and set(targets[split]) == {-1.0}:
      targets[split] = [math.nan] * len(rows)
  return {'texts': texts, 'labels': targets, 'classes': classes}
