"""Text of one's own: a file, or a folder of files; columns, classes and splits given or found."""
import hashlib
import json
import math
import pathlib
import re
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill.data import rows, sets, text
from distill.lookup import nearest
from distill.modalities import tokenizer as tokenizers
from distill.types import Status, Stop

PARTS = ('train', 'validation', 'test')
TEXTS = ('text', 'sentence', 'content', 'review', 'comment', 'message', 'document', 'question',
         'query', 'utterance', 'title')
PAIRS = (('sentence1', 'sentence2'), ('premise', 'hypothesis'), ('question1', 'question2'),
         ('text1', 'text2'), ('text_a', 'text_b'))
LABELS = ('label', 'class', 'category', 'target', 'sentiment', 'intent', 'score')


class _Example(NamedTuple):
  where: str
  text: tokenizers.Text
  label: Any                        # None where there is none


def Text(*, path: str, fields: Mapping = types.MappingProxyType({}), labels: Sequence[str] = (),
         regression: bool = False, unlabelled: str = '',
         shares: Sequence[float] = (0.8, 0.1, 0.1), length: int = 64, vocabulary: int = 8000,
         tokenizer: str = '', held_out: float = 0.0, cache: str = '') -> sets.Dataset:
  """JSONL, CSV, TSV or plain text; a row without a label, or an empty one, stays as a text.

  Args:
    path: a file (`.jsonl`, `.csv`, `.tsv`, `.txt`), or a folder of files that are named by their
      splits. A file is dealt out by a hash of the text, so equal texts share a split; its texts
      without a label go to train, unless none has one.
    fields: {'text': ('sentence',), 'label': 'label'}; two names are a pair of texts. What is
      left out or empty is found by its name (`TEXTS`, `PAIRS`, `LABELS`), or is the only column
      of texts beside the label; a note says so.
    labels: the classes in their order; else those of the files, sorted.
    regression: the labels are numbers.
    unlabelled: a further file; its texts go to train where they are in no split yet.
    shares: of train, validation and test, where a file is dealt out.
    tokenizer, held_out: as of `text.dataset`.
  """
  if fields.keys() - {'text', 'label'} or isinstance(fields.get('text', ()), str):
    raise ValueError(f"fields={dict(fields)} must be like {{'text': ('sentence',), 'label': "
                     "'label'}, with one name or two in 'text'")
  if len(shares) != 3 or min(shares) < 0 or not shares[0] or not math.isclose(sum(shares), 1):
    raise ValueError(f'shares={tuple(shares)} must be three that sum up to 1: of train, '
                     'validation and test')
  if labels and (regression or len({*labels}) < max(2, len(labels))):
    raise ValueError(f'labels={tuple(labels)} must be two names or more, all different, and none '
                     'for a regression')
  read = {split: rows.read(file) for split, file in _files(path, unlabelled).items()}
  names, label, notes = _columns(read, tuple(fields.get('text', ())), fields.get('label', ''))
  examples = {split: [_example(row, names, label) for row in found]
              for split, found in read.items()}
  classes = _judge(examples, labels, regression)
  further = []
  if '' in examples:
    examples, further = _dealt(examples[''], shares)
  if unlabelled:
    further += [_example(row, names, '')
                for row in rows.read(_existing(unlabelled, 'unlabelled'))]
  notes += _added(further, examples) + _remarks(examples, classes)

  number, unknown = {name: i for i, name in enumerate(classes)}, math.nan if regression else -1
  return text.dataset(
      {split: [e.text for e in found] for split, found in examples.items()},
      {split: [unknown if e.label is None else number.get(e.label, e.label) for e in found]
       for split, found in examples.items()},
      name=pathlib.Path(path).resolve().name, classes=classes, length=length,
      vocabulary=vocabulary, versions={}, tokenizer=tokenizer, held_out=held_out, notes=notes,
      cache=cache)


def _files(path: str, unlabelled: str) -> dict[str, pathlib.Path]:
  """The file of each split of a folder; '' for a file, which is yet to be dealt out."""
  root, files = _existing(path, 'path'), {}
  further = pathlib.Path(unlabelled).expanduser().resolve()
  if root.is_file():
    return {'': root}
  for file in sorted(root.iterdir()):
    if file.suffix in rows.READERS and file.resolve() != further:
      if file.stem in files:
        raise Stop(Status.DATA, f'data.path: {root} has {files[file.stem].name} and {file.name}: '
                   'a split is one file')
      files[file.stem] = file
  if 'train' not in files:
    raise Stop(Status.DATA, f'data.path: {root} has no file train ({", ".join(rows.READERS)}): '
               'name files by their splits, or give one file'
               + nearest('train', (file.name for file in files.values())))
  return files


def _existing(path: str, field: str) -> pathlib.Path:
  found = pathlib.Path(path).expanduser()
  if not path:
    raise ValueError(f'{field} is empty: name a file, as in --config.data.{field}=my.jsonl')
  if not found.exists():
    beside = [p.name for p in found.parent.iterdir()] if found.parent.is_dir() else []
    raise Stop(Status.DATA, f'data.{field}: there is no {path}' + nearest(found.name, beside))
  return found


def _columns(read: Mapping[str, Sequence[rows.Row]], names: tuple[str, ...],
             label: str) -> tuple[tuple[str, ...], str, list[str]]:
  """The columns of the text and of the label, given or found; a note on those found."""
  every = [row for found in read.values() for row in found]
  columns = [name for name in {name: None for row in every for name in row.values} if name]
  if not columns:
    return names or ('text',), '', []

  def wrong(line: str, known: Collection[str], name: str = '') -> ValueError:
    table = not every[0].where.rpartition(':')[0].endswith('.jsonl')
    return ValueError(f'fields{line}' + (nearest(name, known) or f'; there is {", ".join(known)}')
                      + ': choose with --config.data.fields.text="(\'COLUMN\',)" '
                      '--config.data.fields.label=COLUMN' + (f'; {rows.HEADER}' if table else ''))

  for name in (*names, *([label] if label else [])):
    if name not in columns:
      raise wrong(f': no column is called {name!r}', columns, name)
  given = names, label
  called = {name.strip().casefold(): name for name in columns if name not in names}
  if not label:
    found = [called[name] for name in LABELS if name in called]
    if len(found) > 1:
      raise wrong('.label: which column is it?', found)
    label = ''.join(found)
  if not names:
    called = {key: name for key, name in called.items() if name != label}
    found = [tuple(called[name] for name in pair) for pair in PAIRS if called.keys() >= {*pair}]
    found = found or [(called[name],) for name in TEXTS if name in called]
    if label and not found:
      found = [(name,) for name in called.values() if _speaks(name, every)]
    if len(found) != 1:
      raise wrong('.text: which column is it?', columns)
    [names] = found
  if len(names) > 2:
    raise ValueError(f'fields.text={names} must be one column, or two for pairs of texts')
  note = (f'text from {" and ".join(map(repr, names))}, '
          + (f'label from {label!r}' if label else 'no label'))
  return names, label, [note] if given != (names, label) else []


def _speaks(column: str, every: Iterable[rows.Row]) -> bool:
  """Whether a column holds texts: strings, not all of them numbers."""
  values = [row.values[column] for row in every if column in row.values]
  return (all(isinstance(value, str) for value in values)
          and any(_number(value) is None for value in values))


def _number(value: Any) -> float | None:
  try:
    return None if isinstance(value, bool) else float(value)
  except (ValueError, OverflowError):
    return None


def _example(row: rows.Row, names: Sequence[str], label: str) -> _Example:
  where, values = row
  if values.keys() == {rows.PLAIN}:
    if len(names) > 1:
      raise ValueError(f'fields.text={tuple(names)} is a pair, but {where} is one text')
    return _Example(where, values[rows.PLAIN], None)
  for name in names:
    if name not in values:
      raise Stop(Status.DATA, f'{where} has no {name!r}' + nearest(name, values))
    if not isinstance(values[name], str):
      raise Stop(Status.DATA, f'{where}: {name!r} is {rows.kind(values[name])}, not a text')
  parts = tuple(values[name] for name in names)
  value = values.get(label) if label else None
  if isinstance(value, list | dict):
    raise Stop(Status.DATA, f'{where}: {label!r} is {rows.kind(value)}, not a label')
  value = value.strip() if isinstance(value, str) else value
  empty = value == '' or value != value           # NaN is how pandas writes a gap
  return _Example(where, parts[0] if len(parts) == 1 else parts, None if empty else value)


def _judge(examples: dict[str, list[_Example]], names: Sequence[str],
           regression: bool) -> tuple[str, ...]:
  """Replaces every label by its value, or by the name of its class; returns the classes."""
  read = _value if regression else lambda example: _class(example, names)
  for split, found in examples.items():
    examples[split] = [e if e.label is None else e._replace(label=read(e)) for e in found]
  there = {e.label for found in examples.values() for e in found if e.label is not None}
  if regression and not there:
    raise ValueError('regression=True, but no text has a label')
  if len(there) == 1:
    file = next(e.where for found in examples.values() for e in found).rpartition(':')[0]
    raise Stop(Status.DATA, f'{file}: every label is {there.pop()!r}: there is nothing to learn; '
               'is data.fields.label the right column?')
  whole = not regression and all(re.fullmatch(r'-?\d+', name) for name in there)
  order = sorted(there, key=(lambda name: (int(name), name)) if whole else None)
  return () if regression else tuple(names or order)


def _value(example: _Example) -> float:
  value = _number(example.label)
  if value is None or not math.isfinite(value):
    raise Stop(Status.DATA, f'{example.where}: the label {example.label!r} is no number, which '
               'regression=True asks for')
  return value


def _class(example: _Example, names: Sequence[str]) -> str:
  value = example.label
  if isinstance(value, float) and value.is_integer():
    value = int(value)                            # pandas writes integers with gaps as floats
  name = json.dumps(value) if isinstance(value, bool) else str(value)
  if names and name not in names:
    raise Stop(Status.DATA, f'{example.where}: the label {name!r} is not among data.labels'
               + nearest(name, names))
  if not names and re.fullmatch(r'[-+]?\d*\.\d*[1-9]\d*', name):
    raise Stop(Status.DATA, f'{example.where}: the label {name} has a fraction: are labels numbers '
               '(data.regression=True, as in configs/files.py:regression), or classes (then name '
               'them in data.labels)?')
  return name


def _key(row: tokenizers.Text) -> str:
  """Equal for texts that differ only in capitals and space."""
  return json.dumps([' '.join(part.casefold().split())
                     for part in ((row,) if isinstance(row, str) else row)])


def _dealt(examples: Sequence[_Example],
           shares: Sequence[float]) -> tuple[dict[str, list[_Example]], list[_Example]]:
  """Examples by split, and those without a label; if none has a label, all are dealt out."""
  labelled, splits = [e for e in examples if e.label is not None], {part: [] for part in PARTS}
  for example in labelled or examples:
    digest = hashlib.blake2b(_key(example.text).encode(), digest_size=8, salt=b'split').digest()
    draw = (int.from_bytes(digest, 'little') >> 11) * 2.0**-53
    splits[PARTS[np.searchsorted(np.cumsum(shares[:2]), draw, side='right')]].append(example)
  return ({part: found for part, found in splits.items() if found},
          [e for e in examples if e.label is None] if labelled else [])


def _added(further: Sequence[_Example], examples: dict[str, list[_Example]]) -> list[str]:
  """Adds texts to train that are in no split; a note says how many."""
  there = {_key(e.text) for found in examples.values() for e in found}
  new = {_key(e.text): e._replace(label=None) for e in further}
  new = [e for key, e in new.items() if key not in there]
  examples['train'] = [*examples.get('train', ()), *new]
  left = len(further) - len(new)
  return [f'{len(new)} texts without a label go to train'
          + (f'; {left} more are there or in another split already' if left else '')
          ] if further else []


def _remarks(examples: Mapping[str, Sequence[_Example]], classes: Sequence[str]) -> list[str]:
  """Notes: how many texts and labels a split has, the classes, and what is amiss with them."""
  notes = ['texts: ' + ', '.join(f'{split} {len(found)}' for split, found in examples.items())]
  train = examples['train']
  if missing := {*classes} - {e.label for e in train}:
    notes.append(f'no text of train is labelled {", ".join(sorted(missing))}')
  seen = {_key(e.text) for e in train}
  for split, found in examples.items():
    shared = sum(_key(e.text) in seen for e in found)
    if shared and split != 'train':
      notes.append(f'{shared} texts of {split} are in train too')
  return notes
