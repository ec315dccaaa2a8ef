"""Text sets of the TFDS catalogue, prepared as array_record; no TensorFlow."""
import json
import math
import os
import pathlib
import re
from collections.abc import Mapping

import numpy as np

from distill.data import text
from distill.data.sets import Dataset
from distill.data.stored import packed, source_sha256, stored, unpacked
from distill.lookup import nearest
from distill.types import Status, Stop


def Text(*, dataset: str, fields: Mapping, length: int = 64, vocabulary: int = 8000,
         tokenizer: str = '', held_out: float = 0.0, data_dir: str = '',
         cache: str = '') -> Dataset:
  """All splits of a prepared data set; rows without a label stay, as texts.

  A label that is a float makes it a regression. Unknown is class -1; or NaN, and -1 if all of a
  split are -1, as in GLUE's STS-B.

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
  folder = _prepared(dataset, data_dir)
  files = sorted(file for file in folder.iterdir() if file.is_file())
  made_of = [source_sha256(__file__), str(folder), list(names), fields['label'],
             [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]]
  corpus = unpacked(stored('tfds', made_of, lambda: {'corpus': packed(
      _corpus(dataset, folder, names, fields['label']))}, cache)['corpus'])
  texts = {split: [row[0] if len(names) == 1 else tuple(row) for row in rows]
           for split, rows in corpus['texts'].items()}
  return text.dataset(texts, corpus['labels'], name=dataset, classes=corpus['classes'],
                      length=length, vocabulary=vocabulary, tokenizer=tokenizer,
                      held_out=held_out, versions={dataset: folder.name}, cache=cache)


def _prepared(dataset: str, data_dir: str) -> pathlib.Path:
  """The folder of the newest prepared version.

  Looked for by hand: without it TFDS blames the file format, or waits minutes for a network.
  """
  root = pathlib.Path(data_dir or os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets')
  root = root.expanduser()
  infos = [file for file in (root / dataset).glob('*/dataset_info.json')
           if re.fullmatch(r'\d+\.\d+\.\d+', file.parent.name)]
  how = ('; to prepare it: python -c "import tensorflow_datasets as tfds; '
         f"tfds.builder('{dataset}', data_dir='{root}', file_format='array_record')"
         '.download_and_prepare()"')
  if not infos:
    known = {file.parent.parent.relative_to(root).as_posix()
             for depth in ('*/*', '*/*/*') for file in root.glob(f'{depth}/dataset_info.json')}
    raise Stop(Status.DATA, f'data.dataset={dataset!r} is not prepared in {root}'
               + nearest(dataset, known) + how)
  info = max(infos, key=lambda file: [int(n) for n in file.parent.name.split('.')])
  if (kind := json.loads(info.read_text()).get('fileFormat')) != 'array_record':
    raise Stop(Status.DATA, f'{info.parent} is prepared as {kind}, which cannot be read without '
               f'TensorFlow' + how)
  return info.parent


def _records(path) -> int:
  """The records of a file itself: the length of TFDS's source is what dataset_info.json says."""
  from array_record.python.array_record_module import ArrayRecordReader

  reader = ArrayRecordReader(str(path))
  count = reader.num_records()
  reader.close()
  return count


def _corpus(dataset: str, folder: pathlib.Path, names: list[str], label: str) -> dict:
  """Texts and labels by split, and the names of the classes, as JSON."""
  import tensorflow_datasets as tfds

  builder = tfds.builder_from_directory(folder)
  features = builder.info.features
  for name in (*names, label):
    if name not in features:
      raise ValueError(f'fields: {dataset} has no field {name!r}' + nearest(name, features))
  for name in names:
    if not isinstance(features[name], tfds.features.Text):
      raise ValueError(f'fields.text: {name!r} of {dataset} is no text but {features[name]}')
  kind = features[label]
  classes = kind.names if isinstance(kind, tfds.features.ClassLabel) else []
  if not classes and (kind.shape != () or not np.issubdtype(kind.np_dtype, np.floating)):
    raise ValueError(f'fields.label: {label!r} of {dataset} is no class and no number but {kind}')
  texts, labels = {}, {}
  for split, info in builder.info.splits.items():
    try:
      count = sum(map(_records, info.filepaths))
      rows = builder.as_data_source(split).__getitems__(range(min(count, info.num_examples)))
    except Exception as error:        # array_record has no exceptions of its own
      raise Stop(Status.DATA, f'{folder}: the records of {split!r} cannot be read ({error}); '
                 'prepare the data set again') from error
    if count != info.num_examples:
      raise Stop(Status.DATA, f'{folder}: {split!r} holds {count} rows, but dataset_info.json '
                 f'says {info.num_examples}; prepare the data set again')
    texts[split] = [[row[name].decode(errors='replace') for name in names] for row in rows]
    labels[split] = [(int if classes else float)(row[label]) for row in rows]
    for i, k in enumerate(labels[split]):
      if math.isinf(k) or classes and not -1 <= k < len(classes):
        raise Stop(Status.DATA, f'{folder}: row {i} of {split!r} has label {k}, '
                   + (f'outside the {len(classes)} classes' if classes else 'which is no number'))
    if not classes and set(labels[split]) == {-1.0}:
      labels[split] = [math.nan] * len(rows)
  return {'texts': texts, 'labels': labels, 'classes': classes}
