"""Labels as files hold them: a column over all splits becomes classes or numbers.

A table has the same classes in the same order whether it is CSV, TSV, JSONL, a folder of these, or
a prepared set of TFDS. A label is known by its meaning, not by how a program spelled it:

  whole numbers  1, 1.0, "1" and " 1.0 " are the class 1, where all labels of the column are whole
                 numbers: pandas writes integers as floats once a gap is among them
  truth values   true, "true", "True" and "TRUE" are the class true
  names          in NFC, with one space for any white space, without characters that don't print
  no label       nothing, white space, the marks in `MISSING`, and -1 and -100 beside classes that
                 are numbered from 0

The names that the user gives decide: a mark, or -1, is a class where they have it.
"""
import contextlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from distill.lookup import nearest
from distill.modalities.examples import ShapeError, narrow
from distill.types import Status, Stop

# As pandas reads them. Not 'none' and 'NONE', which are classes of stance and of emotion.
MISSING = frozenset({'', 'nan', 'NaN', '-nan', '-NaN', 'null', 'NULL', 'None', 'NA', '<NA>', 'N/A',
                     'n/a', '#N/A', '#NA'})
UNLABELLED = (-1, -100)         # in catalogues, and in PyTorch's losses
TRUTH = ('false', 'true')
NUMBER = re.compile(r'[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?', re.ASCII | re.IGNORECASE)
WHOLE = re.compile(r'[-+]?(0|[1-9]\d*)(\.\d*)?(e[-+]?\d+)?', re.ASCII | re.IGNORECASE)  # not 007
LONGEST = 1000                  # digits of a whole number
# Zero-width characters, marks of direction, fillers. A joiner prints between two letters that
# aren't ASCII: in Persian, in the scripts of India, in emoji.
INVISIBLE = re.compile('[\u00ad\u034f\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u202a-\u202e'
                       '\u2060-\u2064\u2066-\u206f\u3164\ufeff\uffa0]')
JOINERS = re.compile('(?<![^\0-\x7f])[\u200c\u200d]+|[\u200c\u200d]+(?![^\0-\x7f])')


class Raw(NamedTuple):
  """A label as a file holds it, and the file and line of its row."""
  where: str
  value: Any                    # None where the row has no column of labels


class Column(NamedTuple):
  """The labels of every split, None where a row has none; the classes in order; notes."""
  labels: dict[str, list]
  classes: tuple[str, ...]
  notes: list[str]


def classes(column: Mapping[str, Sequence[Raw]], names: Sequence[str] = ()) -> Column:
  """Returns the name of every label's class; `names` are the classes where the user gives them."""
  texts = _texts(column)
  if names:
    name_of = _named(column, texts, names)
    ignored = {text for text, name in name_of.items() if name is None and text not in MISSING}
    notes = [_ignored(texts, ignored, '')] if ignored else []
    order = tuple(names)
  else:
    name_of, notes = _found(column, texts)
    order = _sorted({name for name in name_of.values() if name is not None})
  found = {split: [None if text is None else name_of[text] for text in rows]
           for split, rows in texts.items()}
  _check_variety(column, found)
  marks = {text for text in MISSING if name_of.get(text, text) is None}
  return Column(found, order, _missing(texts, marks) + _merged(column, texts, name_of) + notes)


def numbers(column: Mapping[str, Sequence[Raw]]) -> Column:
  """Returns every label as a number that float32 holds.

  A split of nothing but -1 has no labels, as in GLUE, where another split has others.
  """
  texts = _texts(column)
  values = {split: [None if text is None or text in MISSING else _number(raw, text)
                    for raw, text in zip(column[split], rows, strict=True)]
            for split, rows in texts.items()}
  notes = _missing(texts, MISSING)
  kinds = {split: {value for value in found if value is not None}
           for split, found in values.items()}
  for split, kind in kinds.items():
    if kind == {-1.0} and any(other - {-1.0} for other in kinds.values()):
      values[split] = [None] * len(values[split])
      notes.append(f'all labels of {split} are -1, which is no label')
  if not any(kinds.values()):
    raise ValueError('regression=True, but no text has a label')
  _check_variety(column, values)
  return Column(values, (), notes)


def declared(names: Sequence[str], where: str) -> tuple[str, ...]:
  """Returns classes that a file lists by name, in its order; two that are one are refused."""
  try:
    texts = [spelled(name) for name in names]
  except ValueError as error:
    raise Stop(Status.DATA, f'{where}: {error}') from None
  alike = _alike(texts)
  found = tuple(alike[text] for text in texts)
  for name, count in Counter(found).items():
    if count > 1:
      first, second, *_ = (raw for raw, k in zip(names, found, strict=True) if k == name)
      raise Stop(Status.DATA, f'{where}: the classes {shown(first)} and {shown(second)} are one')
  return found


def spelled(text: str) -> str:
  """Returns the one spelling of all labels that print alike."""
  for character in text:
    kind = unicodedata.category(character)
    if kind == 'Cs' or kind == 'Cc' and character not in '\t\n\v\f\r':
      about = 'half a character' if kind == 'Cs' else 'a control character'
      raise ValueError(f'the label {shown(text)} holds U+{ord(character):04X}, {about}')
  if text.isascii():
    return ' '.join(text.split())
  visible = JOINERS.sub('', INVISIBLE.sub('', text))
  return unicodedata.normalize('NFC', ' '.join(visible.split()))


def shown(value: Any) -> str:
  """Returns a label for an error line: a number bare, a text quoted and cut."""
  if isinstance(value, str):
    return repr(value if len(value) <= 60 else value[:59] + '…')
  return str(value).replace('e+', 'e')[:60]


def _texts(column: Mapping[str, Sequence[Raw]]) -> dict[str, list[str | None]]:
  """Returns every label as a text, as a table would hold it."""
  known: dict[str, str] = {}

  def text(raw: Raw) -> str | None:
    value = raw.value
    if isinstance(value, bool):
      return TRUTH[value]
    if isinstance(value, float):
      value = int(value) if value.is_integer() and abs(value) < 2**63 else value
      return 'NaN' if value != value else str(value)
    if value is None or isinstance(value, int):
      return None if value is None else str(value)
    if value not in known:
      try:
        known[value] = spelled(value)
      except ValueError as error:
        raise Stop(Status.DATA, f'{raw.where}: {error}') from None
    return known[value]

  return {split: [text(raw) for raw in rows] for split, rows in column.items()}


def _whole(text: str) -> int | None:
  if len(text) > LONGEST or not WHOLE.fullmatch(text):
    return None
  if text.lstrip('+-').isdecimal():
    return int(text)
  value = float(text)                             # as JSON reads it
  return int(value) if value.is_integer() and abs(value) < 2**63 else None


def _alike(texts: Iterable[str]) -> dict[str, str]:
  """Returns the class of every text of a column."""
  whole = {text: _whole(text) for text in texts}
  if all(value is not None for value in whole.values()):
    return {text: str(value) for text, value in whole.items()}
  return {text: text.lower() if text.lower() in TRUTH else text for text in whole}


def _named(column: Mapping[str, Sequence[Raw]], texts: Mapping[str, Sequence[str | None]],
           names: Sequence[str]) -> dict[str, str | None]:
  """Returns the class of every text among those that the user names; None is no label."""
  exact = {spelled(name): name for name in names}
  if len(exact) < len(names):
    raise ValueError(f'labels={tuple(names)} has two names that print alike')
  meant: dict[str, str] = {}
  for text, name in exact.items():
    meant.setdefault(_meaning(text), name)
  name_of: dict[str, str | None] = {}
  for split, rows in texts.items():
    for raw, text in zip(column[split], rows, strict=True):
      if text is None or text in name_of:
        continue
      name_of[text] = exact.get(text, meant.get(_meaning(text)))
      if name_of[text] is None and text not in MISSING and _whole(text) not in UNLABELLED:
        raise Stop(Status.DATA, f'{raw.where}: the label {shown(text)} is not among data.labels'
                   + nearest(text, names))
  return name_of


def _meaning(text: str) -> str:
  value = _whole(text)
  if value is not None:
    return str(value)
  return text.lower() if text.lower() in TRUTH else text


def _found(column: Mapping[str, Sequence[Raw]], texts: Mapping[str, Sequence[str | None]]
           ) -> tuple[dict[str, str | None], list[str]]:
  """Returns the class of every text of a column whose classes nobody names, and notes."""
  places: dict[str, str] = {}           # where each text is first
  for split, rows in texts.items():
    for raw, text in zip(column[split], rows, strict=True):
      if text is not None:
        places.setdefault(text, raw.where)
  for text, where in places.items():
    value = float(text) if NUMBER.fullmatch(text) else 0.0
    if math.isfinite(value) and value % 1:
      raise Stop(Status.DATA, f'{where}: the label {text[:60]} has a fraction: are labels numbers '
                 '(data.regression=True, as in configs/files.py:regression), or classes (then '
                 'name them in data.labels)?')
  name_of: dict[str, str | None] = {**_alike(places.keys() - MISSING),
                                   **dict.fromkeys(places.keys() & MISSING)}
  negative = {text for text in places.keys() - MISSING if _whole(text) in UNLABELLED}
  ignored, notes = _unlabelled(texts, negative, name_of) if negative else (set(), [])
  return name_of | dict.fromkeys(ignored), notes


def _unlabelled(texts: Mapping[str, Sequence[str | None]], negative: Collection[str],
                name_of: Mapping[str, str | None]) -> tuple[Collection[str], list[str]]:
  """Returns the texts among `negative`, -1 and -100, that mean "no label", and a note."""
  names = _sorted({name for name in name_of.values() if name is not None})
  listed = ', '.join(names[:8]) + ', …' * (len(names) > 8)
  rest = {_whole(text) for text in name_of.keys() - MISSING - negative}
  if None not in rest and min(rest, default=0) < 0:
    return (), []                       # a scale, such as -2 … 2
  kinds = [{*rows} - MISSING - {None} for rows in texts.values()]
  apart = all(kind <= negative or not kind & negative for kind in kinds)     # as in GLUE
  numbered = None not in rest and min(rest, default=1) == 0 and len(rest) > 1
  if not rest or not (numbered or apart):
    found = ' and '.join(sorted({name_of[text] for text in negative}))
    return (), [f'labels {found} stay a class, among {listed}: if they mean "no label", name the '
                'other classes in data.labels']
  doubt = ''
  if rest == {0, 1} and not apart:
    doubt = ', though some files have -1, 0, 1 for negative, neutral, positive'
  named = repr(names).replace(' ', '') if len(names) <= 8 else '(…)'
  return negative, [_ignored(texts, negative, f'{doubt}: to make them a class, '
                             f'--config.data.labels="{named}"')]


def _ignored(texts: Mapping[str, Sequence[str | None]], ignored: Collection[str],
             rest: str) -> str:
  """Returns a note on numbers that mean "no label", with how often each occurs."""
  count = Counter(str(_whole(text)) for rows in texts.values() for text in rows if text in ignored)
  listed = ' and '.join(f'{name} ({n})' for name, n in sorted(count.items()))
  return f'labels {listed} mean "no label"{rest}'


def _sorted(names: Collection[str]) -> tuple[str, ...]:
  whole = all(len(name) <= LONGEST and re.fullmatch(r'-?\d+', name) for name in names)
  return tuple(sorted(names, key=(lambda name: (int(name), name)) if whole else None))


def _number(raw: Raw, text: str) -> float:
  number = math.nan
  if not isinstance(raw.value, bool) and '_' not in text:       # Python reads 1_000
    with contextlib.suppress(ValueError):
      number = float(text)
  beyond = math.isinf(number) and NUMBER.fullmatch(text)        # 1e999
  if not math.isfinite(number) and not beyond:
    raise Stop(Status.DATA, f'{raw.where}: the label {shown(raw.value)} is no number, which '
               'regression=True asks for')
  with contextlib.suppress(ShapeError):
    narrow([number], 'float32')
    if not beyond:
      return number
  written = raw.value if isinstance(raw.value, str) else shown(raw.value)
  raise Stop(Status.DATA, f'{raw.where}: the label {written[:60]} is beyond float32')


def _check_variety(column: Mapping[str, Sequence[Raw]],
                   labels: Mapping[str, Sequence[Any]]) -> None:
  """Stops where all labels are the same."""
  kinds = {label for found in labels.values() for label in found if label is not None}
  if len(kinds) == 1:
    file = next(raw.where for rows in column.values() for raw in rows).rpartition(':')[0]
    raise Stop(Status.DATA, f'{file}: every label is {shown(kinds.pop())}: there is nothing to '
               'learn; is data.fields.label the right column?')


def _missing(texts: Mapping[str, Sequence[str | None]], marks: Collection[str]) -> list[str]:
  """Returns a note on marks of a missing label, with how often each occurs."""
  count = Counter(text for rows in texts.values() for text in rows if text in marks)
  if not count:
    return []
  listed = ', '.join(f'{repr(mark) if mark else "empty"} ({n})'
                     for mark, n in sorted(count.items()))
  rest = '; if such a word is a class, name all in data.labels' if any(count) else ''
  return [f'no label: {listed}{rest}']


def _merged(column: Mapping[str, Sequence[Raw]], texts: Mapping[str, Sequence[str | None]],
            name_of: Mapping[str, str | None]) -> list[str]:
  """Returns notes on classes whose labels are written in several ways that print alike."""
  ways: dict[str, set[str]] = defaultdict(set)
  for split, rows in texts.items():
    for raw, text in zip(column[split], rows, strict=True):
      if isinstance(raw.value, str) and text not in MISSING and name_of[text] == text:
        ways[text].add(raw.value.strip())
  return [f'{shown(text)} is written in {len(found)} ways that print alike: one class'
          for text, found in sorted(ways.items()) if len(found) > 1 and text not in TRUTH]
