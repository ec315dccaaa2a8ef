import json

import numpy as np
import pytest

from distill import types
from distill.data import text
from distill.data import tokenizer as tokenizers

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


def vocabulary(tokenizer):
  pieces = json.loads(tokenizer)['model']['vocab']
  return sorted(pieces, key=pieces.get)


class TestTokenizer:

  def test_merges_by_hand(self):
    # hug 10, pug 5, pun 12, bun 4, hugs 5. Pairs: ##u##g 20, ##u##n 16; then h##ug 15 (p##un 12).
    counts = {'hug': 10, 'pug': 5, 'pun': 12, 'bun': 4, 'hugs': 5}
    words = [w for w, n in counts.items() for _ in range(n)]
    assert vocabulary(tokenizers.trained(words, 64))[:16] == [
        '[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]',
        '##g', '##n', '##s', '##u', 'b', 'h', 'p', '##ug', '##un', 'hug', 'pun']

  def test_ties_are_broken_by_code_points(self):
    # Ten pairs, each seen once: the merges come in the order of their characters.
    assert vocabulary(tokenizers.trained(['zj yi xh wg vf ue td sc rb qa'], 64))[25:] == [
        'qa', 'rb', 'sc', 'td', 'ue', 'vf', 'wg', 'xh', 'yi', 'zj']

  def test_rare_characters_of_a_large_alphabet_are_unknown(self):
    frequent, rare = 'abcdef', [chr(0x4E00 + i) for i in range(500)]
    tokenizer = tokenizers.trained([frequent] * 9 + rare, 64)
    assert len(vocabulary(tokenizer)) <= 64
    found = tokenizers.encode(tokenizer, ['abcdef ' + rare[-1]], length=8)
    assert found['tokens'][0, 2] == tokenizers.SPECIAL.index('[UNK]') != found['tokens'][0, 1]

  def test_characters_beyond_the_basic_plane_are_pieces_too(self):
    tokenizer = tokenizers.trained(['x\U0001F600\U0010FFFD' * 3], 64)
    assert tokenizers.SPECIAL.index('[UNK]') not in tokenizers.encode(
        tokenizer, ['x\U0001F600\U0010FFFD'], length=8)['tokens'][0]


class TestEncode:
  tokenizer = tokenizers.trained(['ab cd'] * 3, 64)
  ids = {piece: i for i, piece in enumerate(vocabulary(tokenizer))}

  def encoded(self, row, length=8):
    found = tokenizers.encode(self.tokenizer, [row], length=length)
    return {key: values[0].tolist() for key, values in found.items()}

  def test_a_text(self):
    assert self.encoded('AB  cd') == {
        'tokens': [2, self.ids['ab'], self.ids['cd'], 3, 0, 0, 0, 0], 'types': [0] * 8,
        'length': 4, 'cut': 0}

  def test_a_pair(self):
    assert self.encoded(('ab', 'cd ab')) == {
        'tokens': [2, self.ids['ab'], 3, self.ids['cd'], self.ids['ab'], 3, 0, 0],
        'types': [0, 0, 0, 1, 1, 1, 0, 0], 'length': 6, 'cut': 0}

  def test_too_long_a_text_keeps_its_start_and_its_end_mark(self):
    ab = self.ids['ab']
    assert self.encoded('ab ' * 9, length=5) == {
        'tokens': [2, ab, ab, ab, 3], 'types': [0] * 5, 'length': 5, 'cut': 1}

  def test_a_text_of_just_the_length_is_not_cut(self):
    assert self.encoded('ab ab ab', length=5)['cut'] == 0

  def test_too_long_a_pair_loses_from_the_longer_text(self):
    found = self.encoded(('ab ' * 9, 'cd'), length=8)
    assert found['types'] == [0] * 6 + [1] * 2 and found['cut'] == 1

  def test_an_empty_text_is_its_two_marks(self):
    assert self.encoded('')['tokens'] == [2, 3, 0, 0, 0, 0, 0, 0]

  def test_a_mark_in_a_text_is_not_a_mark(self):
    found = self.encoded('[SEP] [PAD] [CLS]', length=16)
    assert found['length'] == 2 + 9                       # three times: bracket, word, bracket
    assert found['tokens'] == [2] + [1] * 9 + [3] + [0] * 5         # no piece is like these

  def test_what_is_no_unicode_text_passes(self):
    assert self.encoded('ab \ud800 \x00')['tokens'][:2] == [2, self.ids['ab']]


class TestDataset:

  def test_columns_and_sizes(self, tmp_path):
    data = dataset(cache=tmp_path)
    assert data.sizes == {'vocabulary': len(vocabulary(data.tokenizer)), 'length': 8, 'classes': 2}
    for name, n in (('train', 60), ('test', 20)):
      split = data.splits[name]
      assert len(split) == n and all(len(c) == n for c in split.columns.values())
      assert split.columns['tokens'].shape == split.columns['types'].shape == (n, 8)
      assert {c: v.dtype.name for c, v in split.columns.items()} == {
          'tokens': 'int32', 'types': 'int32', 'length': 'int32', 'label': 'int32',
          'draw': 'float64'}
      assert ((split.columns['tokens'] > 0).sum(1) == split.columns['length']).all()
      assert split.columns['tokens'].max() < data.sizes['vocabulary']

  def test_is_the_same_again_and_reads_what_it_made(self, tmp_path, monkeypatch):
    first, fresh = dataset(cache=tmp_path / 'a'), dataset(cache=tmp_path / 'b')
    monkeypatch.setattr(tokenizers, 'trained', None)           # not called again
    warm = dataset(cache=tmp_path / 'a')
    for other in (fresh, warm):
      assert other.fingerprint == first.fingerprint and other.tokenizer == first.tokenizer
      for split in first.splits:
        for name, column in first.splits[split].columns.items():
          assert np.array_equal(column, other.splits[split].columns[name])

  def test_other_sizes_are_made_anew(self, tmp_path):
    first = dataset(cache=tmp_path)
    longer, smaller = dataset(cache=tmp_path, length=16), dataset(cache=tmp_path, vocabulary=64)
    assert longer.splits['train'].columns['tokens'].shape == (60, 16)
    assert smaller.sizes['vocabulary'] <= 64 < first.sizes['vocabulary'] <= 100

  def test_the_tokenizer_learns_from_the_training_texts_alone(self, tmp_path):
    other = dataset({'train': sentences(60), 'test': ['zzz'] * 99}, cache=tmp_path)
    assert other.tokenizer == dataset(cache=tmp_path).tokenizer
    assert other.tokenizer_sha256 == dataset(cache=tmp_path).tokenizer_sha256

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

    def draws(texts):
      split = dataset({'train': texts}, cache=tmp_path).splits['train']
      return dict(zip(split.text, split.columns['draw'].tolist(), strict=True))

    few, many = draws(sentences(5)), draws(sentences(60)[::-1])
    assert few == {row: many[row] for row in few}

  def test_draws_are_even_and_use_all_of_a_pair(self):
    draws = text._draws([f'text {i}' for i in range(4000)])
    # Standard deviation of a tenth's share: sqrt(0.1 · 0.9 / 4000) = 0.005.
    assert abs((draws < 0.1).mean() - 0.1) < 0.02 and draws.min() >= 0 and draws.max() < 1
    assert len(set(text._draws([('a', 'b'), ('a', 'c'), ('b', 'b'), 'a']).tolist())) == 4

  def test_empty_and_cut_texts_are_counted_and_said_once(self, tmp_path):
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
    assert data.classes == () and data.sizes['classes'] == 1
    label, known = data.splits['train'].columns['label'], data.splits['train'].known
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
    assert data.splits['train'].columns['label'].dtype == np.int32


class TestChinese:
  vocabulary = [*tokenizers.SPECIAL, *'酒店很好早餐不新鲜房间大小，。', 'wifi', '##s', '5']

  def test_every_character_is_a_token_of_its_own(self, tmp_path):
    place = tmp_path / 'vocab.txt'
    place.write_text('\n'.join([*self.vocabulary, '']))
    data = dataset({'train': ['酒店很好。', '早餐不新鲜，wifi好', '房间大 WiFis 5', '酒店貓好']},
                   tokenizer=str(place), length=16, cache=tmp_path)
    ids = data.splits['train'].columns['tokens']
    words = [[self.vocabulary[i] for i in row if i] for row in ids]
    assert words == [['[CLS]', *'酒店很好。', '[SEP]'],
                     ['[CLS]', *'早餐不新鲜，', 'wifi', '好', '[SEP]'],
                     ['[CLS]', *'房间大', 'wifi', '##s', '5', '[SEP]'],
                     ['[CLS]', *'酒店', '[UNK]', '好', '[SEP]']]     # one that isn't there, alone
    assert data.sizes['vocabulary'] == len(self.vocabulary)

  def test_a_vocabulary_trained_on_chinese_holds_its_characters(self, tmp_path):
    rows = ['酒店很好', '早餐不新鲜', '房间大小好'] * 5
    data = dataset({'train': rows, 'test': ['早房好']}, length=16, cache=tmp_path)
    [tokens] = data.splits['test'].columns['tokens']
    assert data.splits['test'].columns['length'] == 5
    assert tokenizers.SPECIAL.index('[UNK]') not in tokens
