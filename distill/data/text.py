"""From labelled texts to a data set: WordPiece trained on the corpus, token ids, fingerprint."""
import collections
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from distill.data.sets import Dataset, Split, Text
from distill.data.stored import packed, source_sha256, stored, unpacked
from distill.types import Status, Stop

SPECIAL = ('[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]')      # ids 0 to 4


def dataset(texts: Mapping[str, Sequence[Text]], labels: Mapping[str, Sequence[int]], *,
            name: str, classes: Sequence[str], length: int, vocabulary: int,
            versions: Mapping[str, str], notes: Iterable[str] = (), cache: str = '') -> Dataset:
  """Tokenizes splits of texts with labels; the tokenizer learns from the split `train`.

  Tokenizer and token ids are kept on disk under the content's fingerprint.
  """
  if length < 8:
    raise ValueError(f'length={length}: a text needs room for at least 8 tokens')
  if vocabulary < 64:
    raise ValueError(f'vocabulary={vocabulary} must be at least 64')
  if not len(texts.get('train', ())):
    raise Stop(Status.DATA, f'{name}: there is no training text; the splits are '
               + (', '.join(f'{s} ({len(t)})' for s, t in texts.items()) or 'none'))
  content = [[split, list(texts[split]), [int(k) for k in labels[split]]] for split in texts]
  fingerprint = hashlib.sha256(json.dumps([list(classes), content]).encode()).hexdigest()

  def make():
    tokenizer = _trained(texts['train'], vocabulary)
    arrays = {'tokenizer': packed(tokenizer)}
    for split, rows in texts.items():
      encoded = {**encode(tokenizer, rows, length=length), 'draw': _draws(rows)}
      arrays |= {f'{split}/{column}': values for column, values in encoded.items()}
    return arrays

  arrays = stored('text', [fingerprint, length, vocabulary, source_sha256(__file__),
                           importlib.metadata.version('tokenizers')], make, cache)
  splits, notes = {}, list(notes)
  for split, rows in texts.items():
    column = {c: arrays[f'{split}/{c}'] for c in ('tokens', 'types', 'length', 'draw')}
    splits[split] = Split({**column, 'label': np.asarray(labels[split], np.int32)}, rows)
    empty = sum(not ''.join(row).strip() for row in rows)
    cut = int(arrays[f'{split}/cut'].sum())
    notes += [f'{split}: {empty} of {len(rows)} texts are empty'] if empty else []
    notes += [f'{split}: {cut} of {len(rows)} texts cut to {length} tokens'] if cut else []
  tokenizer = unpacked(arrays['tokenizer'])
  return Dataset(
      name=name, classes=tuple(classes), splits=splits, fingerprint=fingerprint, versions=versions,
      sizes={'vocabulary': len(json.loads(tokenizer)['model']['vocab']), 'length': length,
             'classes': len(classes)},
      tokenizer=tokenizer, tokenizer_sha256=hashlib.sha256(tokenizer.encode()).hexdigest(),
      notes=tuple(notes))


def encode(tokenizer: str, texts: Sequence[Text], *, length: int) -> dict[str, np.ndarray]:
  """Token ids [n s] of texts or pairs, as columns of a `Split`; `cut` is 1 where a text was cut."""
  import tokenizers  # not at the top: a warm start needs no tokenizer

  wordpiece = tokenizers.Tokenizer.from_str(tokenizer)
  wordpiece.enable_truncation(length)
  rows = wordpiece.encode_batch([_utf8(row) for row in texts])
  tokens, types = np.zeros((2, len(rows), length), np.int32)
  for i, row in enumerate(rows):
    tokens[i, :len(row.ids)], types[i, :len(row.ids)] = row.ids, row.type_ids
  return {'tokens': tokens, 'types': types,
          'length': np.array([len(row.ids) for row in rows], np.int32),
          'cut': np.array([len(row.overflowing) > 0 for row in rows], np.int32)}


def _utf8(text: Text) -> Text:
  """Lone surrogates, which the tokenizer doesn't take, become question marks."""
  return (text.encode(errors='replace').decode() if isinstance(text, str)
          else tuple(map(_utf8, text)))


def _draws(texts: Sequence[Text]) -> np.ndarray:
  digests = b''.join(hashlib.blake2b(json.dumps(text).encode(), digest_size=8).digest()
                     for text in texts)
  return (np.frombuffer(digests, '<u8') >> 11) * 2.0**-53


def _trained(texts: Iterable[Text], vocabulary: int) -> str:
  """WordPiece (lower case, BERT's words) by merging the texts' most frequent pairs, as JSON.

  The library's WordPiece trainer breaks ties by the order of a randomised hash table, its
  BPE trainer by the order of code points, and they merge by the same rule. So BPE is trained
  on words whose symbols, ##-symbols too, are code points of their own.
  """
  from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

  normalizer = normalizers.BertNormalizer(lowercase=True)
  splitter = pre_tokenizers.BertPreTokenizer()
  counts = collections.Counter()
  for text in texts:
    for part in (text,) if isinstance(text, str) else text:
      normal = normalizer.normalize_str(_utf8(part))
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
  wordpiece = Tokenizer(models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token='[UNK]'))
  wordpiece.normalizer, wordpiece.pre_tokenizer = normalizer, splitter
  wordpiece.post_processor = processors.TemplateProcessing(
      single='[CLS] $A [SEP]', pair='[CLS] $A [SEP] $B:1 [SEP]:1',
      special_tokens=[(token, SPECIAL.index(token)) for token in ('[CLS]', '[SEP]')])
  return wordpiece.to_str()
