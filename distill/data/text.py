"""Data sets of labelled texts: token ids, splits, fingerprint."""
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from distill.data.sets import Dataset, Split
from distill.data.stored import load_or_make, pack, source_sha256, unpack
from distill.modalities import text as modality
from distill.modalities import tokenizer as tokenizers
from distill.modalities.examples import ShapeError, narrow
from distill.modalities.tokenizer import Text
from distill.types import Field, Status, Stop


def dataset(texts: Mapping[str, Sequence[Text]], labels: Mapping[str, Sequence[float]], *,
            name: str, classes: Sequence[str], length: int, vocabulary: int,
            versions: Mapping[str, str], tokenizer: str = '', held_out: float = 0.0,
            notes: Iterable[str] = (), cache: str = '') -> Dataset:
  """Tokenizes splits of texts with labels; tokenizer and ids are cached on disk.

  Args:
    labels: classes, or -1 for none; or numbers if any is a float, or NaN for none.
    tokenizer: that of a pretrained model, a place as `tokenizer.read` takes it; '' trains one of
      `vocabulary` entries on the split `train`.
    held_out: the share of `train` that becomes the split `held_out`, by a hash of the text.
  """
  if length < 8:
    raise ValueError(f'length={length}: a text needs room for at least 8 tokens')
  if vocabulary < 64:
    raise ValueError(f'vocabulary={vocabulary} must be at least 64')
  if max(length, vocabulary) > 2**20:
    raise ValueError(f'length={length} and vocabulary={vocabulary} must be at most 2**20')
  if not 0 <= held_out < 1:
    raise ValueError(f'held_out={held_out} must be a share below 1')
  if not len(texts.get('train', ())):
    raise Stop(Status.DATA, f'{name}: there is no training text; the splits are '
               + (', '.join(f'{s} ({len(t)})' for s, t in texts.items()) or 'none'))
  if held_out:
    texts, labels = _hold_out(texts, labels, held_out)
  numbers = any(isinstance(k, float) for rows in labels.values() for k in rows)
  label = {split: _column(rows, 'float32' if numbers else 'int32', f'{name}: {split!r}')
           for split, rows in labels.items()}
  content = [[split, list(texts[split]), label[split].tolist()] for split in texts]
  fingerprint = hashlib.sha256(json.dumps([list(classes), content]).encode()).hexdigest()

  given = tokenizers.read(tokenizer) if tokenizer else ''

  def make():
    made = given or tokenizers.train(texts['train'], vocabulary)
    arrays = {'tokenizer': pack(made)}
    for split, rows in texts.items():
      encoded = {**tokenizers.encode(made, rows, length=length), 'draw': _hash01(rows)}
      arrays |= {f'{split}/{column}': values for column, values in encoded.items()}
    return arrays

  code = [source_sha256(file) for file in (__file__, tokenizers.__file__)]
  arrays = load_or_make('text', [fingerprint, length, given or vocabulary, code,
                                 importlib.metadata.version('tokenizers')], make, cache)
  made = unpack(arrays['tokenizer'])
  pairs = any(not isinstance(row, str) for rows in texts.values() for row in rows[:1])
  reader = modality.Text(length=length, tokenizer=made, pairs=pairs)
  target = Field((), *(('float32', 0.0) if numbers else ('int32', -1)), target=True)
  splits, notes = {}, list(notes)
  for split, rows in texts.items():
    column = {c: arrays[f'{split}/{c}'] for c in ('tokens', 'types', 'length', 'draw', 'cut')}
    index = {'hash01': column['draw'], modality.AXIS: column['length'], 'label': label[split]}
    splits[split] = Split(index, {**reader.fields, 'label': target}, modality.fetch(column),
                          room=reader.room, raw=rows)
    empty = sum(not ''.join(row).strip() for row in rows)
    cut = int(column['cut'].sum())
    notes += [f'{split}: {empty} of {len(rows)} texts are empty'] if empty else []
    notes += [f'{split}: {cut} of {len(rows)} texts cut to {length} tokens'] if cut else []
  facts = {**reader.sizes, 'classes': max(1, len(classes)), 'names': tuple(classes),
           'special': reader.special}
  return Dataset(name=name, modality=reader, splits=splits, fingerprint=fingerprint,
                 versions=versions, facts=facts, notes=tuple(notes))


def _column(labels: Sequence[float], dtype: str, where: str) -> np.ndarray:
  try:
    return narrow(labels, dtype)
  except ShapeError as error:
    raise Stop(Status.DATA, f'{where}: the label of row {error.row} {error}') from error


def _hold_out(texts: Mapping[str, Sequence[Text]], labels: Mapping[str, Sequence], share: float):
  """Moves a part of `train` to the split `held_out`; equal texts stay together."""
  if 'held_out' in texts:
    raise ValueError(f'held_out={share}, but there is a split held_out already')
  out = _hash01(texts['train'], b'held out') < share
  part = lambda values, rows: [values[i] for i in np.flatnonzero(rows)]
  return tuple({**whole, 'train': part(whole['train'], ~out), 'held_out': part(whole['train'], out)}
               for whole in (texts, labels))


def _hash01(texts: Sequence[Text], salt: bytes = b'') -> np.ndarray:
  """Hashes every text to [0, 1)."""
  digests = b''.join(hashlib.blake2b(json.dumps(text).encode(), digest_size=8, salt=salt).digest()
                     for text in texts)
  return (np.frombuffer(digests, '<u8') >> 11) * 2.0**-53
