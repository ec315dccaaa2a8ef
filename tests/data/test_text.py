import json

import numpy as np
import pytest

from distill import types
from distill.data import text
from distill.modalities import tokenizer as tokenizers

WORDS = 'the quick brown fox jumps over the lazy dog while a slow red cat sleeps'.split()


def sentences(n, start=0):
  return [' '.join(WORDS[(i * k) % len(WORDS)] for k in range(1, 3 + i % 5))
          for i in range(start, start + n)]


def dataset(texts=None, labels=None, *, cache, **how):
  if texts is None:
    texts = {'train': sentences(60), 'test': sentences(20, 100)}
  if labels is None:
    labels = {split: [i % 2 for i in range(len(rows))] for split, rows in texts.items()}
  how = {'name': 'toy', 'classes': ('no', 'yes'), 'length': 8, 'vocabulary': 100,
         'versions': {'toy': '1'}, **how}
  return text.dataset(texts, labels, cache=str(cache), **how)


def fields(split):
  """The fields that are no columns of the index, of all examples."""
  return split.fetch(np.arange(len(split)))


def vocabulary(tokenizer):
  pieces = json.loads(tokenizer)['model']['vocab']
  return sorted(pieces, key=pieces.get)


class TestDataset:

  def test_columns_and_sizes(self, tmp_path):
    data = dataset(cache=tmp_path)
    words = len(vocabulary(data.modality.json))
    assert data.sizes == {'vocabulary': words, 'length': 8, 'classes': 2}
    for name, n in (('train', 60), ('test', 20)):
      split = data.splits[name]
      columns = {**split.index, **fields(split)}
      assert len(split) == n and all(len(c) == n for c in (*columns.values(), split.raw))
      assert columns['tokens'].shape == columns['types'].shape == columns['mask'].shape == (n, 8)
      assert {c: v.dtype.name for c, v in columns.items()} == {
          'tokens': 'int32', 'types': 'int32', 'mask': 'float32', 's': 'int32', 'label': 'int32',
          'hash01': 'float64'}
      assert ((columns['tokens'] > 0).sum(1) == columns['s']).all()
      np.testing.assert_array_equal(columns['mask'], columns['tokens'] > 0)
      assert columns['tokens'].max() < data.sizes['vocabulary']
      assert split.axes == ('s',) and split.room == {'s': 8}
    assert data.facts == {**data.sizes, 'names': ('no', 'yes'), 'special': {
        name: i for i, name in enumerate(tokenizers.SPECIAL)}}

  def test_says_whether_its_examples_are_pairs(self, tmp_path):
    pairs = {'train': [(a, a) for a in sentences(20)]}
    assert dataset(cache=tmp_path).modality.pairs is False
    assert dataset(pairs, cache=tmp_path).modality.pairs is True

  def test_is_the_same_again_and_reads_what_it_made(self, tmp_path, monkeypatch):
    first, fresh = dataset(cache=tmp_path / 'a'), dataset(cache=tmp_path / 'b')
    monkeypatch.setattr(tokenizers, 'train', None)           # not called again
    warm = dataset(cache=tmp_path / 'a')
    for other in (fresh, warm):
      assert other.fingerprint == first.fingerprint and other.modality == first.modality
      for name, split in first.splits.items():
        for wanted, found in (split.index, other.splits[name].index), (
            fields(split), fields(other.splits[name])):
          assert all(np.array_equal(column, found[c]) for c, column in wanted.items())

  def test_other_sizes_are_made_anew(self, tmp_path):
    first = dataset(cache=tmp_path)
    longer, smaller = dataset(cache=tmp_path, length=16), dataset(cache=tmp_path, vocabulary=64)
    assert fields(longer.splits['train'])['tokens'].shape == (60, 16)
    assert smaller.sizes['vocabulary'] <= 64 < first.sizes['vocabulary'] <= 100

  def test_the_tokenizer_learns_from_the_training_texts_alone(self, tmp_path):
    other = dataset({'train': sentences(60), 'test': ['zzz'] * 99}, cache=tmp_path)
    assert other.modality.json == dataset(cache=tmp_path).modality.json
    assert other.modality.sha256 == dataset(cache=tmp_path).modality.sha256

  def test_the_fingerprint_names_the_content(self, tmp_path):
    texts = {'train': ['a b', 'c d'], 'test': ['e f']}
    labels = {'train': [0, 1], 'test': [0]}
    print_of = lambda t=texts, k=labels, **how: dataset(t, k, cache=tmp_path, **how).fingerprint
    others = [
        print_of({'train': ['a b', 'c dd'], 'test': ['e f']}),          # another text
        print_of(k={'train': [1, 1], 'test': [0]}),                     # another label
        print_of({'train': ['a b', 'e f'], 'test': ['c d']}),           # another membership
        print_of({'train': ['c d', 'a b'], 'test': ['e f']}),           # another order: other ids
        print_of({'train': ['a b', 'c d'], 'dev': ['e f']}, {'train': [0, 1], 'dev': [0]}),
        print_of(classes=('yes', 'no'))]
    assert len({print_of(), *others}) == 7
    assert print_of() == print_of(length=16) == print_of(vocabulary=64, name='other')

  def test_whether_a_label_is_seen_depends_on_the_text_alone(self, tmp_path):

    def hashes(texts):
      split = dataset({'train': texts}, cache=tmp_path).splits['train']
      return dict(zip(split.raw, split.index['hash01'].tolist(), strict=True))

    few, many = hashes(sentences(5)), hashes(sentences(60)[::-1])
    assert few == {row: many[row] for row in few}

  def test_hashes_are_even_and_use_all_of_a_pair(self):
    hashes = text._hash01([f'text {i}' for i in range(4000)])
    # Standard deviation of a tenth's share: sqrt(0.1 · 0.9 / 4000) = 0.005.
    assert abs((hashes < 0.1).mean() - 0.1) < 0.02 and hashes.min() >= 0 and hashes.max() < 1
    assert len(set(text._hash01([('a', 'b'), ('a', 'c'), ('b', 'b'), 'a']).tolist())) == 4

  def test_empty_and_cut_texts_are_counted_in_notes(self, tmp_path):
    data = dataset({'train': ['', ' \n', 'fox ' * 20, 'fox'], 'test': ['fox']}, cache=tmp_path)
    assert data.notes == ('train: 2 of 4 texts are empty', 'train: 1 of 4 texts cut to 8 tokens')

  def test_one_empty_half_is_no_empty_pair(self, tmp_path):
    data = dataset({'train': [('', 'fox'), ('', '')]}, cache=tmp_path)
    assert data.notes == ('train: 1 of 2 texts are empty',)

  @pytest.mark.parametrize('texts', [{}, {'test': ['a b']}, {'train': [], 'test': ['a b']}])
  def test_nothing_to_train_on_stops(self, tmp_path, texts):
    with pytest.raises(types.Stop, match='no training text') as stop:
      dataset(texts, cache=tmp_path)
    assert stop.value.status == types.Status.DATA

  @pytest.mark.parametrize('wrong', [{'length': 4}, {'vocabulary': 5}])
  def test_sizes_too_small_to_work_are_refused(self, tmp_path, wrong):
    with pytest.raises(ValueError, match=list(wrong)[0]):
      dataset(cache=tmp_path, **wrong)

  def test_numbers_are_a_regression(self, tmp_path):
    numbers = lambda *train: dataset({'train': ['a', 'b', 'c'], 'test': ['d']}, {
        'train': train, 'test': [2.0]}, classes=(), cache=tmp_path)
    data = numbers(0.5, -1.0, np.nan)
    assert data.names == () and data.sizes['classes'] == 1
    label, known = data.splits['train'].index['label'], data.splits['train'].known
    assert label.dtype == np.float32 and known.tolist() == [True, True, False]
    np.testing.assert_array_equal(label, [0.5, -1, np.nan])
    assert numbers(0.5, -1.0, np.nan).fingerprint == data.fingerprint
    assert numbers(0.5, -1.0, 0.0).fingerprint != data.fingerprint

  def test_classes_are_known_from_0_on(self, tmp_path):
    data = dataset({'train': ['a', 'b', 'c']}, {'train': [0, -1, 1]}, cache=tmp_path)
    assert data.splits['train'].known.tolist() == [True, False, True]

  def test_texts_without_any_label_are_no_regression(self, tmp_path):
    data = dataset({'train': ['a', 'b']}, {'train': [-1, -1]}, classes=(), cache=tmp_path)
    assert data.sizes['classes'] == 1 and not data.splits['train'].known.any()
    assert data.splits['train'].index['label'].dtype == np.int32


class TestChinese:
  vocabulary = [*tokenizers.SPECIAL, *'酒店很好早餐不新鲜房间大小，。', 'wifi', '##s', '5']

  def test_every_character_is_a_token_of_its_own(self, tmp_path):
    place = tmp_path / 'vocab.txt'
    place.write_text('\n'.join([*self.vocabulary, '']))
    data = dataset({'train': ['酒店很好。', '早餐不新鲜，wifi好', '房间大 WiFis 5', '酒店貓好']},
                   tokenizer=str(place), length=16, cache=tmp_path)
    ids = fields(data.splits['train'])['tokens']
    words = [[self.vocabulary[i] for i in row if i] for row in ids]
    assert words == [['[CLS]', *'酒店很好。', '[SEP]'],
                     ['[CLS]', *'早餐不新鲜，', 'wifi', '好', '[SEP]'],
                     ['[CLS]', *'房间大', 'wifi', '##s', '5', '[SEP]'],
                     ['[CLS]', *'酒店', '[UNK]', '好', '[SEP]']]     # one that isn't there, alone
    assert data.sizes['vocabulary'] == len(self.vocabulary)

  def test_a_vocabulary_trained_on_chinese_holds_its_characters(self, tmp_path):
    rows = ['酒店很好', '早餐不新鲜', '房间大小好'] * 5
    data = dataset({'train': rows, 'test': ['早房好']}, length=16, cache=tmp_path)
    [tokens] = fields(data.splits['test'])['tokens']
    assert data.splits['test'].index['s'] == 5
    assert tokenizers.SPECIAL.index('[UNK]') not in tokens
