"""Tokenizers: a WordPiece trained here, or the tokenizer of a pretrained model."""
import collections
import json
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from distill import disk, hub
from distill.modalities import foreign
from distill.types import Status, Stop

Text = str | tuple[str, str]        # a text, or a pair of them
SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')  # the first ids of tokenizers trained here
MAX_IDS = 2**24                     # a hundred times the ids of large tables
# Fields of tokenizer_config.json, each with its name in the library's normalizer.
NORMALIZER_FIELDS = {'do_lower_case': 'lowercase', 'strip_accents': 'strip_accents',
                     'tokenize_chinese_chars': 'handle_chinese_chars'}


def read(place: str, where: str = 'data.tokenizer') -> str:
  """Returns the tokenizer of a pretrained model as JSON.

  `place` is a folder with `tokenizer.json` or `vocab.txt`, one of these files, or a hub id. A
  BERT tokenizer comes out the same whichever of the two files it is read from; a text that spells
  [SEP] or another special token gets its pieces, not the token.
  """
  path = pathlib.Path(place).expanduser()
  if not path.is_file():
    root = hub.folder(place, where)
    path = next((p for p in (root / 'tokenizer.json', root / 'vocab.txt') if p.is_file()), None)
    if path is None:
      if not (root / 'config.json').is_file():
        raise Stop(Status.CHECKPOINT, f'{where}: {root} is no checkpoint: it has neither '
                   'config.json nor a tokenizer')
      raise Stop(Status.DATA, f'{where}: {root} has neither tokenizer.json nor vocab.txt')
  about = path.with_name('tokenizer_config.json')
  how = _normalizer_fields(about, where) if path.suffix == '.txt' and about.is_file() else {}
  try:
    content = disk.read_text(path)
    with foreign.silenced(), foreign.caught():
      return _from_vocabulary(content, how) if path.suffix == '.txt' else _from_json(content)
  except OSError as error:
    raise Stop(Status.DATA, f'{where}: {path}: {error.strerror}') from error
  except Exception as error:        # the library raises plain Exception
    raise Stop(Status.DATA, f'{where}: {path} is no tokenizer for an encoder: '
               + ' '.join(str(error).split())) from error


def _normalizer_fields(path: pathlib.Path, where: str) -> dict[str, bool | None]:
  """Reads the fields on capitals, accents and Chinese from tokenizer_config.json, by our names."""
  wrong = lambda line: Stop(Status.DATA, f'{where}: {path}: {line}')
  try:
    settings = disk.read_json(path)
  except OSError as error:
    raise wrong(error.strerror) from error
  except ValueError as error:
    raise wrong(f'it is no JSON: {error}') from error
  if not isinstance(settings, dict):
    raise wrong('it holds no object')
  for key in NORMALIZER_FIELDS.keys() & settings.keys():
    if settings[key] is None and key != 'strip_accents':
      del settings[key]
    elif not isinstance(settings[key], bool | None):
      raise wrong(f'{key} is {str(settings[key])[:40]!r}, neither true nor false')
  return {NORMALIZER_FIELDS[key]: settings[key] for key in NORMALIZER_FIELDS if key in settings}


def _from_json(content: str) -> str:
  from tokenizers import Tokenizer

  _check_ids(json.loads(content))
  made = Tokenizer.from_str(content)
  made.no_padding()
  made.no_truncation()
  parts = json.loads(made.to_str())
  kind, normalizer = parts['model']['type'], parts['normalizer'] or {'type': None}
  if kind not in ('WordPiece', 'BPE'):
    raise ValueError(f'its model is {kind}; WordPiece and BPE are known')
  if not made.encode('').ids:
    raise ValueError('it puts no tokens around a text, such as [CLS] and [SEP]')
  words = parts['model']['vocab']
  known_ids = {*words.values(), *(token['id'] for token in parts['added_tokens'])}
  for tried in ('', ''), ('a \U0010fffd', '.'):       # a character that no vocabulary has
    odd = sorted({*made.encode(*tried).ids} - known_ids)
    if odd:
      raise ValueError(f'it gives the id {odd[0]}, which is that of no token')
  if normalizer['type'] == 'BertNormalizer' and set(SPECIAL) <= words.keys():
    ours = _wordpiece(words, **{key: normalizer[key] for key in NORMALIZER_FIELDS.values()})
    again, pair = Tokenizer.from_str(ours), ('a', 'b')
    if ({token['content'] for token in parts['added_tokens']} <= set(SPECIAL)
        and all(parts[part] == json.loads(ours)[part]
                for part in ('normalizer', 'pre_tokenizer', 'model'))
        and made.encode(*pair).ids == again.encode(*pair).ids
        and made.encode(*pair).type_ids == again.encode(*pair).type_ids):
      return ours
  return made.to_str()


def _check_ids(content: Any) -> None:
  """Raises a ValueError at an id beyond any table: the library allocates up to the largest."""
  words = content['model'].get('vocab', {})
  ids = [*(words.items() if isinstance(words, dict) else ()),
         *((token['content'], token['id']) for token in content.get('added_tokens') or ())]
  for token, i in ids:
    if isinstance(i, int) and not 0 <= i < MAX_IDS:
      raise ValueError(f'the id of {token!r:.40} is {i!r:.20}, not from 0 to {MAX_IDS}')


def _from_vocabulary(content: str, how: Mapping[str, bool | None]) -> str:
  lines = [line.rstrip('\r') for line in content.removesuffix('\n').split('\n')]
  words, wanted = {}, 'one word a line is wanted, each once'
  for i, word in enumerate(lines):
    if not word:
      raise ValueError(f'{wanted}: line {i + 1} is empty')
    if word in words:
      raise ValueError(f'{wanted}: line {i + 1} repeats {word[:40]!r} of line {words[word] + 1}')
    words[word] = i
  lacks = [word for word in SPECIAL if word not in words]
  if lacks:
    raise ValueError(f'{wanted}, {", ".join(SPECIAL)} among them: {", ".join(lacks)} are missing')
  capitals = any(w.lower() != w for w in words if not w.startswith('['))
  return _wordpiece(words, **{'lowercase': not capitals, **how})


def encode(tokenizer: str, texts: Sequence[Text], *, length: int) -> dict[str, np.ndarray]:
  """Encodes texts or pairs as columns of token ids [n s]; `cut` is 1 if a text was cut."""
  import tokenizers  # not at the top: a warm start needs no tokenizer

  made = tokenizers.Tokenizer.from_str(tokenizer)
  if length <= made.num_special_tokens_to_add(True):
    raise Stop(Status.MISFIT, f'{length} tokens are no room for a text: its tokenizer puts '
               f'{made.num_special_tokens_to_add(True)} around a pair')
  made.enable_truncation(length)
  try:
    with foreign.caught():
      rows = made.encode_batch([replace_surrogates(row) for row in texts])
  except Exception as error:        # as above
    raise Stop(Status.DATA, 'the tokenizer cannot read the texts: '
               + ' '.join(str(error).split())) from error
  tokens, types = np.zeros((2, len(rows), length), np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row.ids)], types[i, :len(row.ids)] = row.ids, row.type_ids
  return {'tokens': tokens, 'types': types,
          'length': np.array([len(row.ids) for row in rows], np.int32),
          'cut': np.array([len(row.overflowing) > 0 for row in rows], np.int32)}


def vocabulary_size(tokenizer: str) -> int:
  """Returns the number of rows that a model's table of tokens needs."""
  return 1 + max(_ids(tokenizer).values())


def special_ids(tokenizer: str) -> dict[str, int]:
  """Returns the ids of special tokens by BERT's names, also for RoBERTa's tokens."""
  ids = _ids(tokenizer)
  named = zip(SPECIAL, ('<pad>', '<unk>', '<s>', '</s>', '<mask>'), strict=True)
  return {ours: ids[name] for ours, theirs in named
          for name in (ours, theirs) if name in ids}


def tokens_beyond(tokenizer: str, entries: int) -> list[tuple[int, str]]:
  """Returns the tokens whose ids are beyond a table of `entries` rows, ordered by id."""
  return sorted((i, token) for token, i in _ids(tokenizer).items() if i >= entries)


def _ids(tokenizer: str) -> dict[str, int]:
  read = json.loads(tokenizer)
  return {**read['model']['vocab'], **{t['content']: t['id'] for t in read['added_tokens']}}


def replace_surrogates(text: Text) -> Text:
  """Replaces lone surrogates, which the tokenizer refuses, by question marks."""
  return (text.encode(errors='replace').decode() if isinstance(text, str)
          else tuple(map(replace_surrogates, text)))


def train(texts: Iterable[Text], vocabulary: int) -> str:
  """Trains a WordPiece (lower case, BERT's words) by merging frequent pairs; returns JSON.

  The library's WordPiece trainer breaks ties by the order of a randomised hash table, its
  BPE trainer by the order of code points, and they merge by the same rule. So BPE is trained
  on words whose symbols, ##-symbols too, are code points of their own.
  """
  from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

  normalizer = normalizers.BertNormalizer(lowercase=True)
  splitter = pre_tokenizers.BertPreTokenizer()
  counts = collections.Counter()
  for text in texts:
    for part in (text,) if isinstance(text, str) else text:
      normal = normalizer.normalize_str(replace_surrogates(part))
      counts.update(word for word, _ in splitter.pre_tokenize_str(normal))
  words = {(word[0], *('##' + c for c in word[1:])): n for word, n in counts.items()}
  symbols = collections.Counter()
  for word, n in words.items():
    for symbol in word:
      symbols[symbol] += n
  room = (vocabulary - len(SPECIAL)) // 2         # rarer symbols of a large alphabet are [UNK]
  kept = sorted(sorted(symbols, key=lambda s: (-symbols[s], s))[:room])
  point = {symbol: chr(0xF0000 + i) for i, symbol in enumerate(kept)}

  bpe = Tokenizer(models.BPE())
  bpe.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  lines = (' '.join([''.join(point[s] for s in word)] * n) for word, n in words.items()
           if all(s in point for s in word))
  bpe.train_from_iterator(lines, trainers.BpeTrainer(
      vocab_size=vocabulary, special_tokens=list(SPECIAL), limit_alphabet=len(kept),
      show_progress=False))
  ids, pieces = bpe.get_vocab(), list(SPECIAL)
  for token in sorted(ids, key=ids.get)[len(SPECIAL):]:
    first, *rest = (kept[ord(c) - 0xF0000] for c in token)
    pieces.append(first + ''.join(s.removeprefix('##') for s in rest))
  return _wordpiece({piece: i for i, piece in enumerate(pieces)}, lowercase=True)


def _wordpiece(vocabulary: Mapping[str, int], *, lowercase: bool, strip_accents: bool | None = None,
               handle_chinese_chars: bool = True) -> str:
  """Makes BERT's tokenizer over a vocabulary, as JSON."""
  from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

  made = Tokenizer(models.WordPiece(dict(vocabulary), unk_token='[UNK]'))
  made.normalizer = normalizers.BertNormalizer(
      lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=handle_chinese_chars)
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  made.post_processor = processors.TemplateProcessing(
      single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1',
      special_tokens=[(token, vocabulary[token]) for token in ('[CLS]', '[SEP]')])
  return made.to_str()
