"""Prepared data sets of the TFDS catalogue: their folders and descriptions."""
import json
import os
import pathlib
import re
from typing import Any

from distill.data.labels import declared
from distill.lookup import nearest
from distill.types import Status, Stop


def first_line(error: Exception) -> str:
  """Returns the first line of an error's message, or the name of its type."""
  return (str(error).splitlines() or [type(error).__name__])[0]


def prepared_folder(dataset: str, data_dir: str) -> pathlib.Path:
  """Returns the folder of the newest prepared version.

  It is searched here because TFDS would blame the file format, or wait minutes for a network.
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
  kind = _json(info).get('fileFormat')
  if kind != 'array_record':
    raise Stop(Status.DATA, f'{info.parent} is prepared as {kind}, which cannot be read without '
               f'TensorFlow' + how)
  return info.parent


def _json(file: pathlib.Path) -> dict[str, Any]:
  """Returns the object that a file of TFDS holds."""
  try:
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict):
      raise ValueError('it holds no object')
  except (OSError, ValueError, RecursionError) as error:
    raise Stop(Status.DATA, f'{file} is no JSON ({first_line(error)}): is it cut? Prepare the '
               'data set again') from error
  return content


def opened(folder: pathlib.Path) -> Any:
  """Returns the builder of a prepared data set, once all its metadata are read.

  TFDS reads some of them late, and raises exceptions of many kinds.
  """
  import tensorflow_datasets as tfds
  _json(folder / 'features.json')
  try:
    builder = tfds.builder_from_directory(folder)
    if not all(info.num_examples >= 0 and info.filepaths for info in builder.info.splits.values()):
      raise ValueError('a split has no files')
    len(builder.info.features)
  except Exception as error:
    raise Stop(Status.DATA, f'{folder}: TFDS cannot read dataset_info.json and features.json '
               f'({first_line(error)}): prepare the data set again') from error
  return builder


def class_names(folder: pathlib.Path, label: str, kind: Any) -> list[str]:
  """Returns the names of the classes of a field.

  Where TFDS can't read their file it calls them by their numbers, and of a file that was cut it
  takes fewer.
  """
  file = folder / f'{label}.labels.txt'
  if not file.is_file():
    return list(declared(kind.names, f'{folder}: {label!r}'))
  try:
    names = [line.strip() for line in file.read_bytes().decode().split('\n') if line.strip()]
  except (OSError, ValueError) as error:
    raise Stop(Status.DATA, f'{file} cannot be read ({error}): prepare the data set again'
               ) from error
  features = _json(folder / 'features.json').get('featuresDict', {}).get('features', {})
  count = int(features.get(label, {}).get('classLabel', {}).get('numClasses', len(names)))
  if count != len(names):
    raise Stop(Status.DATA, f'{file} has {len(names)} names, but features.json says that there are '
               f'{count} classes: is it cut? Prepare the data set again')
  return list(declared(names, str(file)))


def count_records(path) -> int:
  """Counts the records of a file; the length of TFDS's source is only what its info says."""
  from array_record.python.array_record_module import ArrayRecordReader

  reader = ArrayRecordReader(str(path))
  count = reader.num_records()
  reader.close()
  return count
