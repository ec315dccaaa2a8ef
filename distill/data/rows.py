"""JSONL, CSV, TSV and plain text as rows; every bad line is named.

All are UTF-8, with or without a byte order mark. `.jsonl`: one object per line. `.csv`: columns
separated by commas, quoted if necessary. `.tsv`: columns separated by tabs, never quoted. Both have
the names of the columns in line 1. `.txt`: one text per line. Blank lines are no rows.
"""
import csv
import json
import pathlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from distill import streams
from distill.types import Status, Stop

PLAIN = ''                          # the column of a `.txt`
HEADER = ('line 1 must hold the names of the columns, parted by commas in a .csv, by tabs in a '
          '.tsv')


class Row(NamedTuple):
  """A row, and the file and line that it begins in."""
  where: str
  values: Mapping[str, Any]


def read(path: pathlib.Path) -> list[Row]:
  """Reads all rows of a file, in the format of its suffix."""
  if path.suffix not in READERS:
    raise Stop(Status.DATA, f'{path}: what kind of file is it? Names end in {", ".join(READERS)}')
  limit = csv.field_size_limit(2**31 - 1)         # a long text is no mistake
  try:
    rows = list(READERS[path.suffix](path))
  except OSError as error:
    raise Stop(Status.DATA, f'{path} cannot be read: {error.strerror}') from error
  finally:
    csv.field_size_limit(limit)
  if not rows:
    raise Stop(Status.DATA, f'{path} is empty: it has no row')
  return rows


def kind(value: Any) -> str:
  """Returns the kind of a JSON value, in words."""
  return {str: 'a text', bool: 'true or false', type(None): 'null', list: 'a list',
          dict: 'an object'}.get(type(value), 'a number')


def _lines(path: pathlib.Path) -> Iterator[tuple[str, str]]:
  """Returns each line's place, and the line with its end."""
  return streams.lines(path.read_bytes(), str(path))


class _Twice(dict):
  """A JSON object that names a key twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  values = dict(pairs)
  return values if len(values) == len(pairs) else _Twice(values)


def _jsonl(path: pathlib.Path) -> Iterator[Row]:
  for where, line in _lines(path):
    if line.strip():
      try:
        values = json.loads(line.rstrip(), object_pairs_hook=_object)
      except (ValueError, RecursionError) as error:
        about = (f'{error.msg}, column {error.colno}' if isinstance(error, json.JSONDecodeError)
                 else error)
        raise Stop(Status.DATA, f'{where} is not JSON: {about}') from None
      if not isinstance(values, dict):
        raise Stop(Status.DATA, f'{where} holds {kind(values)}, not an object like '
                   '{"text": "…", "label": "…"}')
      if isinstance(values, _Twice):
        keys = Counter(key for key, _ in json.loads(line.rstrip(), object_pairs_hook=list))
        raise Stop(Status.DATA, f'{where} names {keys.most_common(1)[0][0]!r} twice')
      yield Row(where, values)


def _table(path: pathlib.Path, **how) -> Iterator[Row]:
  reader = csv.reader((line for _, line in _lines(path)), strict=True, **how)
  names, number = None, 1
  while True:
    where = f'{path}:{number}'
    try:
      row = next(reader, None)
    except csv.Error as error:
      raise Stop(Status.DATA, f'{where}: {_quotation(error, reader.line_num)}') from None
    number = reader.line_num + 1
    if row is None:
      return
    if not row:
      continue
    if names is None:
      names = row
      twice = [name for name, n in Counter(names).items() if n > 1]
      if twice:
        raise Stop(Status.DATA, f'{where} names a column {twice[0]!r} twice; {HEADER}')
    elif len(row) != len(names):
      raise Stop(Status.DATA, f'{where} has {len(row)} columns, but line 1 names {len(names)}'
                 + ('' if how else ': quote a text that holds a comma'))
    else:
      yield Row(where, dict(zip(names, row, strict=True)))


def _quotation(error: csv.Error, line: int) -> str:
  """Returns what is wrong with the quotation marks of a row, found in `line`."""
  if 'unexpected end' in str(error):
    return 'a quotation mark of this row is never closed, to the end of the file'
  return (f'in line {line} a quotation mark ends a text, and more of the text follows: within a '
          'quoted text double it')


def _plain(path: pathlib.Path) -> Iterator[Row]:
  for where, line in _lines(path):
    if line.strip():
      yield Row(where, {PLAIN: line.rstrip('\r\n')})


READERS = {'.jsonl': _jsonl, '.csv': _table,
           '.tsv': lambda path: _table(path, delimiter='\t', quoting=csv.QUOTE_NONE),
           '.txt': _plain}
