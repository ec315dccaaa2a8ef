"""Texts, or pairs of texts, as the ids of their tokens."""
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill.modalities import Draw, Example, Modality, tokenizer
from distill.types import Batch, Field, Records, Status, Stop

SHARE = 0.2             # the share of a text's words that a corruption changes
AXIS = 's'              # positions of a sequence
SHOWN = 120             # words of a text that are shown; the rest of a longer text is left out
INPUTS = ('tokens', 'types', 'mask')
USAGE = '''tokenizer = Tokenizer.from_file('tokenizer.json')
tokenizer.enable_truncation(card['length'])
tokenizer.enable_padding()


def answers(texts):          # 'a text', or ('one', 'the other') for a pair
  rows = tokenizer.encode_batch(texts)
  column = lambda name, dtype: np.array([getattr(row, name) for row in rows], dtype)
  return program({'tokens': column('ids', np.int32), 'types': column('type_ids', np.int32),
                  'mask': column('attention_mask', np.float32)})


texts = ['How do I run this?', 'A second text, of another length.']
found = answers(texts)'''


@dataclasses.dataclass(frozen=True)
class Text(Modality):
  """Texts of at most `length` tokens, padded to one of `widths['s']`.

  Fields:
    tokens  int32 [s]    token ids
    types   int32 [s]    0 for the first text, 1 for the second
    mask    float32 [s]  1 for a token, 0 for padding

  The tokenizer is a `tokenizers.Tokenizer` as JSON; without one it is read from `folder`, a place
  as `tokenizer.read` takes it, when it is first needed. `sha256` is the tokenizer's. `pairs` tells
  whether examples are pairs of texts; it is None if an export or a folder doesn't say so.
  """
  length: int
  widths: Mapping[str, Sequence[int]] = dataclasses.field(default_factory=dict)
  tokenizer: str = dataclasses.field(default='', repr=False)
  folder: str = ''
  sha256: str = ''
  pairs: bool | None = None

  noun, overlap = 'texts', 'top words shared'
  spare = ('length', 'vocabulary')
  kept = frozenset({'tokens', 'pieces'})        # arrays of `records/inside` that `show` needs
  fields = {'tokens': Field((AXIS,), 'int32'), 'types': Field((AXIS,), 'int32'),
            'mask': Field((AXIS,), 'float32')}

  def __post_init__(self):
    if self.tokenizer:
      digest = hashlib.sha256(self.tokenizer.encode()).hexdigest()
      object.__setattr__(self, 'sha256', digest)

  @functools.cached_property
  def json(self) -> str:
    """The tokenizer."""
    return self.tokenizer or tokenizer.read(self.folder, '--model')

  @functools.cached_property
  def special(self) -> dict[str, int]:
    """The ids of the tokens that are no words, by their names in BERT."""
    return tokenizer.special_ids(self.json)

  @functools.cached_property
  def sizes(self) -> dict[str, int]:
    return {'vocabulary': tokenizer.vocabulary_size(self.json), 'length': self.length}

  @property
  def room(self) -> dict[str, int]:
    return {AXIS: self.length}

  @property
  def corruptions(self) -> dict[str, 'Corruption']:
    kinds = {'drop': (_drop, 'a fifth of the words left out'),
             'swap': (_swap, "a fifth of the words, two at least, in each other's places"),
             'unknown': (_unknown, 'a fifth of the words become [UNK]')}
    return {name: Corruption(about, change, self.special, least=1 + (name == 'swap'))
            for name, (change, about) in kinds.items()
            if name != 'unknown' or '[UNK]' in self.special}

  def encode(self, arguments: Sequence[str]) -> Iterator[tuple[dict[str, str], Example]]:
    """Yields texts as examples; a tab separates a pair, if the model was trained on pairs.

    For a model of single texts a tab is white space, as in training.
    """
    columns = tokenizer.encode(self.json, [_read(text, self.pairs) for text in arguments],
                               length=self.widths[AXIS][-1])
    for row, text in enumerate(arguments):
      length = columns['length'][row]
      yield {'text': text}, {
          'tokens': columns['tokens'][row, :length], 'types': columns['types'][row, :length],
          'mask': np.ones(length, np.float32)}

  def read(self, split: Any) -> Any:
    """Encodes a split's texts by this tokenizer; returns None if the split has no raw texts."""
    if not len(split.raw):
      return None
    encoded = tokenizer.encode(self.json, list(split.raw), length=self.length)
    return dataclasses.replace(
        split, index={**split.index, AXIS: encoded['length']}, fetch=fetch(encoded),
        room={**split.room, AXIS: self.length})

  def encoding(self) -> dict[str, str]:
    return {'tokenizer_sha256': self.sha256}

  def limited(self, room: Mapping[str, int]) -> 'Text':
    return dataclasses.replace(self, length=room.get(AXIS, self.length))

  def card(self) -> dict[str, Any]:
    return {'length': self.length, 'widths': list(self.widths[AXIS]),
            'tokenizer_sha256': self.sha256,
            **({} if self.pairs is None else {'pairs': self.pairs})}

  @staticmethod
  def knows(card: Mapping[str, Any]) -> bool:
    """Tells whether a card that doesn't name its modality is one of texts."""
    return 'tokenizer_sha256' in card

  @classmethod
  def from_card(cls, card: Mapping[str, Any], folder: str) -> 'Text':
    length, widths = card['length'], tuple(card['widths'])
    if not (all(type(n) is int for n in (length, *widths)) and widths == (*sorted({*widths}),)
            and widths and 1 <= widths[0] <= widths[-1] <= length):
      raise ValueError(f'texts of length={length} in widths={widths}')
    return cls(length=length, widths={AXIS: widths}, folder=folder,
               sha256=card['tokenizer_sha256'], pairs=card.get('pairs'))

  @classmethod
  def from_folder(cls, folder: str, length: int, path: str) -> 'Text':
    """Makes the modality of a folder that has only a tokenizer and a largest length."""
    widths = dict.fromkeys(max(1, width) for width in (length // 4, length // 2, length))
    return cls(length=length, widths={AXIS: tuple(widths)},
               tokenizer=tokenizer.read(folder, path), folder=folder)

  def files(self) -> dict[str, str]:
    return {'tokenizer.json': self.json}

  def describe(self) -> str:
    return f'texts of at most {self.length} tokens'

  def excess(self, name: str, most: int) -> str:
    found = tokenizer.tokens_beyond(self.json, most) if name == 'vocabulary' else ()
    if not found:
      return super().excess(name, most)
    others = f' ({len(found)} such tokens)' if len(found) > 1 else ''
    return (f'its tokenizer has the token {found[0][1]!r} with the id {found[0][0]}{others}, and '
            f'its model a table of {most} tokens, from 0')

  def misfit(self, data: Any) -> str:
    if not isinstance(data, Text):
      return f'it takes texts, and the data has {data.describe()}'
    if self.sha256 != data.sha256:
      return (f'its tokenizer ({self.sha256[:8]}) is not that of the data ({data.sha256[:8]}): the '
              'same ids are other words; data.tokenizer names the one that reads the data')
    return ''

  def probe(self, model: Any, weights: Any) -> 'Probe | None':
    """Returns the probe of word embeddings, or None if the model has no table of them."""
    tables, heads = model.traits.tables, model.traits.heads
    if not tables or tables[0] not in weights[0]:
      return None
    spoilt = [output for path in tables[1:] for output in heads.get(path.split('/')[0], ())]
    return Probe(tables, self.special, self.json, tuple(spoilt))

  def usage(self) -> dict[str, str]:
    return {'one': 'a text, or a pair of texts', 'tag': 'text-classification',
            'requires': ' tokenizers', 'imports': 'from tokenizers import Tokenizer', 'code': USAGE,
            'limits': f'Texts are cut after {self.length} tokens. Its words are those of '
                      '`tokenizer.json`.'}

  @staticmethod
  def show(records: Records, row: int) -> dict[str, Any]:
    """Returns the words of a text, with their shares of the largest attribution."""
    pieces = dict(zip(records['piece_ids'].tolist(), records['pieces'].tolist(), strict=True))
    found = words(records['tokens'][row], records['places'][row],
                  records['attribution'][row].astype(np.float64), pieces)
    return {'spans': found[:SHOWN] + [('…', None)] * (len(found) > SHOWN)}


def fetch(encoded: Mapping[str, np.ndarray]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
  """Returns the `fetch` of a split, given its texts as `tokenizer.encode` returns them."""
  tokens, types, length = (encoded[name] for name in ('tokens', 'types', 'length'))
  positions = np.arange(tokens.shape[1])
  return lambda rows: {'tokens': tokens[rows], 'types': types[rows],
                       'mask': (positions < length[rows, None]).astype(np.float32)}


def words(tokens: np.ndarray, places: np.ndarray, attribution: np.ndarray,
          pieces: Mapping[int, str]) -> list[tuple[str, float | None]]:
  """Returns a text's words with their shares of the largest attribution, in [-1, 1].

  Word pieces ('##') are joined and their attributions added. Special tokens have no share: those at
  the ends are left out, and the separator of two texts is '·'.
  """
  at, found = np.flatnonzero(places), []
  for i in range(at[0], at[-1] + 1) if len(at) else ():
    piece = pieces[int(tokens[i])]
    if not places[i]:
      found.append(('·' if 'SEP' in piece or '/s' in piece else piece, None))
    elif piece.startswith('##') and found and found[-1][1] is not None:
      found[-1] = found[-1][0] + piece[2:], found[-1][1] + float(attribution[i])
    else:
      found.append((piece.removeprefix('##'), float(attribution[i])))
  most = max((abs(value) for _, value in found if value is not None), default=0) or 1
  return [(word, None if value is None else value / most) for word, value in found]


def _read(text: str, pairs: bool | None) -> str | tuple[str, str]:
  """Returns an argument as a text, or as a pair of texts."""
  first, *more = text.split('	')
  if pairs is False or not more and not pairs:
    return text
  if not more:
    raise Stop(Status.DATA, f'{text[:60]!r} is one text, and the model was trained on pairs: put a '
               'tab between the two texts')
  if len(more) > 1 or pairs is None and not all(part.strip() for part in (first, *more)):
    raise Stop(Status.DATA, f'{text[:60]!r} is neither a text nor two with a tab between them')
  return first, *more


def _positions(batch: Batch, special: Mapping[str, int]) -> Any:
  """Returns the positions of words, bool [b s]; takes NumPy's arrays and JAX's."""
  xp = np if isinstance(batch['tokens'], np.ndarray) else jnp
  return (batch['mask'] > 0) & ~xp.isin(batch['tokens'], np.array([*special.values()], np.int32))


@dataclasses.dataclass(frozen=True)
class Probe:
  """The probe of a model by the embeddings of words.

  It replaces the model's token table by one with a row for every position of the batch, so that
  every position has its own gradient, and the model needs no change. `tables` are the paths of the
  parameters with a row for each token, that table first. `spoils` are the outputs of the heads that
  use the other tables: their columns are then no words.
  """
  tables: tuple[str, ...]
  special: Mapping[str, int]
  tokenizer: str
  spoils: tuple[str, ...] = ()

  def value(self, params: Mapping, batch: Batch) -> jax.Array:
    return params[self.tables[0]][batch['tokens']]

  def feed(self, params: Mapping, batch: Batch, x: jax.Array) -> tuple[Mapping, Batch]:
    rows = x.reshape(-1, x.shape[-1])
    first, *others = self.tables
    changed = {first: rows} | {path: jnp.zeros((len(rows), *params[path].shape[1:]))
                               for path in others if path in params}
    return params | changed, {**batch, 'tokens': jnp.arange(len(rows)).reshape(x.shape[:2])}

  def scale(self, params: Mapping) -> float | jax.Array:
    """Computes in float64 on the host, for a report, and in float32 in a step."""
    table = params[self.tables[0]]
    if isinstance(table, np.ndarray):
      return float(np.std(np.asarray(table, np.float64)))
    return jnp.std(table.astype(jnp.float32))

  def limits(self) -> tuple[float, float]:
    return -np.inf, np.inf

  def positions(self, batch: Batch) -> jax.Array:
    return _positions(batch, self.special)

  def pool(self, layer: jax.Array, batch: Batch) -> jax.Array:
    """Averages a layer over a text's tokens."""
    if layer.ndim == 3:
      mask = batch['mask'][:, :, None]
      layer = (layer * mask).sum(1) / jnp.maximum(mask.sum(1), 1)
    return layer.reshape(len(layer), -1)

  def keep(self, batch: Batch) -> Records:
    return {'tokens': np.asarray(batch['tokens'])}

  def legend(self, kept: Records) -> Records:
    """Returns the tokens that occur (`piece_ids`) and their spelling (`pieces`)."""
    from tokenizers import Tokenizer  # here: a run of images doesn't need it
    spell, ids = Tokenizer.from_str(self.tokenizer).id_to_token, np.unique(kept['tokens'])
    return {'piece_ids': ids.astype(np.int32),
            'pieces': np.array([spell(i) or '' for i in ids.tolist()])}


@dataclasses.dataclass(frozen=True)
class Corruption:
  """A change of a share of a text's words, at least `least`; a text of one word stays."""
  about: str
  change: Callable[[dict[str, np.ndarray], np.ndarray, Mapping[str, int]], None]
  special: Mapping[str, int]
  least: int = 1

  def __call__(self, example: dict[str, np.ndarray], draw: Draw) -> None:
    at = np.flatnonzero(_positions(example, self.special))
    if len(at) > 1:
      quota = max(self.least, round(SHARE * len(at)))
      chosen = np.sort(np.argsort(draw(len(at)), kind='stable')[:quota])
      self.change(example, at[chosen], self.special)


def _unknown(text: dict[str, np.ndarray], chosen: np.ndarray, special: Mapping[str, int]) -> None:
  text['tokens'][chosen] = special['[UNK]']


def _swap(text: dict[str, np.ndarray], chosen: np.ndarray, special: Mapping[str, int]) -> None:
  text['tokens'][chosen] = np.roll(text['tokens'][chosen], 1)


def _drop(text: dict[str, np.ndarray], chosen: np.ndarray, special: Mapping[str, int]) -> None:
  """Deletes words of a text, which is then padded at its end."""
  for name in INPUTS:
    values = text[name]
    left = np.delete(values, chosen)
    values[:len(left)], values[len(left):] = left, special['[PAD]'] if name == 'tokens' else 0
