"""Your own texts: a file or a folder of files; columns, classes and splits given or found."""
import hashlib
import json
import math
import pathlib
import types
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from distill.data import rows, sets, text
from distill.data.labels import Raw, classes, numbers
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
  """Loads JSONL, CSV, TSV or plain text; rows without a label stay, as unlabelled texts.

  Args:
    path: a file (`.jsonl`, `.csv`, `.tsv`, `.txt`), or a folder of files that are named by their
      splits. A single file is split by a hash of the text, so equal texts share a split; its texts
      without a label go to train, unless no text has a label.
    fields: {'text': ('sentence',), 'label': 'label'}; two names are a pair of texts. A column that
      is left out or empty is found by its name (`TEXTS`, `PAIRS`, `LABELS`), or is the only column
      of texts beside the label; a note names it.
    labels: the classes in their order; else those of the files, sorted. `distill.data.labels` says
      which labels are one class, and which are none.
    regression: the labels are numbers.
    unlabelled: a further file; its texts go to train where they are in no split yet.
    shares: of train, validation and test, if a single file is split.
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
  column = {split: [Raw(e.where, e.label) for e in found] for split, found in examples.items()}
  column = numbers(column) if regression else classes(column, labels)
  examples = {split: [e._replace(label=label) for e, label in zip(
      found, column.labels[split], strict=True)] for split, found in examples.items()}
  further = []
  if '' in examples:
    examples, further = _deal_out(examples[''], shares)
  if unlabelled:
    further += [_example(row, names, '')
                for row in rows.read(_existing(unlabelled, 'unlabelled'))]
  notes += _add_unlabelled(further, examples) + column.notes + _remarks(examples, column.classes)

  unknown = math.nan if regression else -1
  number = {name: i for i, name in enumerate(column.classes)}
  return text.dataset(
      {split: [e.text for e in found] for split, found in examples.items()},
      {split: [unknown if e.label is None else number.get(e.label, e.label) for e in found]
       for split, found in examples.items()},
      name=pathlib.Path(path).resolve().name, classes=column.classes, length=length,
      vocabulary=vocabulary, versions={}, tokenizer=tokenizer, held_out=held_out, notes=notes,
      cache=cache)


def _files(path: str, unlabelled: str) -> dict[str, pathlib.Path]:
  """Returns the file of each split of a folder; '' is the name for a single file."""
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
  """Returns the columns of text and label, given or found, and a note on found ones."""
  every = [row for found in read.values() for row in found]
  columns = [name for name in {name: None for row in every for name in row.values} if name]
  if not columns:
    return names or ('text',), '', []

  def wrong(line: str, known: Collection[str], name: str = '') -> ValueError:
    table = not every[0].where.rpartition(':')[0].endswith('.jsonl')
    known = [column[:60] for column in known]
    return ValueError(f'fields{line}' + (nearest(name, known) or f'; there is {", ".join(known)}')
                      + ': choose with --config.data.fields.text="(\'COLUMN\',)" '
                      '--config.data.fields.label=COLUMN' + (f'; {rows.HEADER}' if table else ''))

  for name in (*names, *([label] if label else [])):
    if name not in columns:
      raise wrong(f': no column is called {name!r}', columns, name)
  given = names, label
  called = {}
  for name in columns:
    if name not in names:
      called.setdefault(name.strip().casefold(), []).append(name)

  def column(key: str) -> str:
    if len(called[key]) > 1:
      raise wrong(f': which column is {key!r}?', called[key])
    return called[key][0]

  if not label:
    found = [column(key) for key in LABELS if key in called]
    if len(found) > 1:
      raise wrong('.label: which column is it?', found)
    label = ''.join(found)
  if not names:
    rest = {key: [name for name in found if name != label] for key, found in called.items()}
    called = {key: found for key, found in rest.items() if found}
    found = [tuple(map(column, pair)) for pair in PAIRS if called.keys() >= {*pair}]
    found = found or [(column(key),) for key in TEXTS if key in called]
    if label and not found:
      found = [(name,) for name in sum(called.values(), []) if _holds_texts(name, every)]
    if len(found) != 1:
      raise wrong('.text: which column is it?', columns)
    [names] = found
  if len(names) > 2:
    raise ValueError(f'fields.text={names} must be one column, or two for pairs of texts')
  note = (f'text from {" and ".join(map(repr, names))}, '
          + (f'label from {label!r}' if label else 'no label'))
  return names, label, [note] if given != (names, label) else []


def _holds_texts(column: str, every: Iterable[rows.Row]) -> bool:
  """Tells whether a column holds texts: strings, not all of them numbers."""
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
  if label and value is None and label in values:
    value = ''                                    # as a table has it
  return _Example(where, parts[0] if len(parts) == 1 else parts, value)


def _key(row: tokenizers.Text) -> str:
  """Returns a key that is equal for texts that differ only in capitals and space."""
  return json.dumps([' '.join(part.casefold().split())
                     for part in ((row,) if isinstance(row, str) else row)])


def _deal_out(examples: Sequence[_Example],
              shares: Sequence[float]) -> tuple[dict[str, list[_Example]], list[_Example]]:
  """Splits examples by a hash; returns unlabelled ones apart, unless all are unlabelled."""
  labelled, splits = [e for e in examples if e.label is not None], {part: [] for part in PARTS}
  for example in labelled or examples:
    digest = hashlib.blake2b(_key(example.text).encode(), digest_size=8, salt=b'split').digest()
    draw = (int.from_bytes(digest, 'little') >> 11) * 2.0**-53
    splits[PARTS[np.searchsorted(np.cumsum(shares[:2]), draw, side='right')]].append(example)
  return ({part: found for part, found in splits.items() if found},
          [e for e in examples if e.label is None] if labelled else [])


def _add_unlabelled(further: Sequence[_Example], examples: dict[str, list[_Example]]) -> list[str]:
  """Adds texts that are in no split to train; returns a note with their number."""
  known_texts = {_key(e.text) for found in examples.values() for e in found}
  new = {_key(e.text): e._replace(label=None) for e in further}
  new = [e for key, e in new.items() if key not in known_texts]
  examples['train'] = [*examples.get('train', ()), *new]
  left = len(further) - len(new)
  return [f'{len(new)} texts without a label go to train'
          + (f'; {left} more are there or in another split already' if left else '')
          ] if further else []


def _remarks(examples: Mapping[str, Sequence[_Example]], classes: Sequence[str]) -> list[str]:
  """Returns notes on the numbers of texts, on missing classes, and on texts in two splits."""
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
