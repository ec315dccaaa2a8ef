"""Tokenizers that are trained here, and those of pretrained models: which are read, and to what."""
import codecs
import json
import pathlib

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from distill.modalities import tokenizer
from distill.types import Status, Stop

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'the', 'cat', 'sat', '##s', 'cafe', 'café',
         '我', '们', '##们', '.', '[', ']', 'sep']
CASED = [*WORDS, 'The', 'É']


def vocabulary(folder, words=WORDS, **about):
  folder.mkdir(exist_ok=True)
  (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
  if about:
    (folder / 'tokenizer_config.json').write_text(json.dumps(about))
  return folder


def wordpiece(words=WORDS, *, special=True, lowercase=True, post=True):
  """A BERT tokenizer as `transformers` saves it: with special tokens, padding and truncation."""
  ids = {word: i for i, word in enumerate(words)}
  made = Tokenizer(models.WordPiece(ids, unk_token='[UNK]'))
  made.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
  made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
  if post:
    made.post_processor = processors.BertProcessing(('[SEP]', 3), ('[CLS]', 2))
  if special:
    made.add_special_tokens(list(tokenizer.SPECIAL))
  made.enable_padding(length=7)
  made.enable_truncation(5)
  return made


def byte_pairs(post=True):
  """A RoBERTa tokenizer, trained on a few words."""
  made = Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.train_from_iterator(['the cat sat'] * 3, trainers.BpeTrainer(
      vocab_size=280, special_tokens=['<s>', '<pad>', '</s>', '<unk>', '<mask>'],
      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
  if post:
    made.post_processor = processors.RobertaProcessing(('</s>', 2), ('<s>', 0))
  return made


def saved(folder, made):
  folder.mkdir(exist_ok=True)
  (folder / 'tokenizer.json').write_text(made.to_str())
  return str(folder)


def tokens(made, *texts):
  return Tokenizer.from_str(made).encode(*texts).tokens


def pieces(made):
  """The entries of a tokenizer, in the order of their ids."""
  ids = json.loads(made)['model']['vocab']
  return sorted(ids, key=ids.get)


class TestTrained:

  def test_merges_by_hand(self):
    # hug 10, pug 5, pun 12, bun 4, hugs 5. Pairs: ##u##g 20, ##u##n 16; then h##ug 15 (p##un 12).
    counts = {'hug': 10, 'pug': 5, 'pun': 12, 'bun': 4, 'hugs': 5}
    words = [w for w, n in counts.items() for _ in range(n)]
    assert pieces(tokenizer.train(words, 64))[:16] == [
        '[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]',
        '##g', '##n', '##s', '##u', 'b', 'h', 'p', '##ug', '##un', 'hug', 'pun']

  def test_ties_are_broken_by_code_points(self):
    # Ten pairs, each seen once: the merges come in the order of their characters.
    assert pieces(tokenizer.train(['zj yi xh wg vf ue td sc rb qa'], 64))[25:] == [
        'qa', 'rb', 'sc', 'td', 'ue', 'vf', 'wg', 'xh', 'yi', 'zj']

  def test_rare_characters_of_a_large_alphabet_are_unknown(self):
    frequent, rare = 'abcdef', [chr(0x4E00 + i) for i in range(500)]
    made = tokenizer.train([frequent] * 9 + rare, 64)
    assert len(pieces(made)) <= 64
    found = tokenizer.encode(made, ['abcdef ' + rare[-1]], length=8)
    assert found['tokens'][0, 2] == tokenizer.SPECIAL.index('[UNK]') != found['tokens'][0, 1]

  def test_characters_beyond_the_basic_plane_are_pieces_too(self):
    made = tokenizer.train(['x\U0001F600\U0010FFFD' * 3], 64)
    assert tokenizer.SPECIAL.index('[UNK]') not in tokenizer.encode(
        made, ['x\U0001F600\U0010FFFD'], length=8)['tokens'][0]


class TestEncode:
  made = tokenizer.train(['ab cd'] * 3, 64)
  ids = {piece: i for i, piece in enumerate(pieces(made))}

  def encoded(self, row, length=8):
    found = tokenizer.encode(self.made, [row], length=length)
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


def test_a_folder_a_file_and_both_forms_give_the_same_tokenizer(tmp_path):
  both = {tokenizer.read(place) for place in (
      str(vocabulary(tmp_path / 'words')), str(tmp_path / 'words' / 'vocab.txt'),
      saved(tmp_path / 'json', wordpiece()), str(tmp_path / 'json' / 'tokenizer.json'))}
  assert len(both) == 1
  made = both.pop()
  assert tokens(made, 'The cats') == ['[CLS]', 'the', 'cat', '##s', '[SEP]']
  assert tokenizer.read(saved(tmp_path / 'again', Tokenizer.from_str(made))) == made


def test_what_is_trained_here_is_read_back_as_it_is(tmp_path):
  made = tokenizer.train(['the cat sat on the mat'] * 4, 64)
  assert tokenizer.read(saved(tmp_path / 'x', Tokenizer.from_str(made))) == made


def test_a_pair_has_two_types(tmp_path):
  made = tokenizer.read(str(vocabulary(tmp_path / 'x')))
  read = tokenizer.encode(made, [('the cat', 'sat'), 'cat'], length=8)
  np.testing.assert_array_equal(read['tokens'][0], [2, 5, 6, 3, 7, 3, 0, 0])
  np.testing.assert_array_equal(read['types'][0], [0, 0, 0, 0, 1, 1, 0, 0])
  assert read['length'].tolist() == [6, 3]


def test_a_special_token_spelled_in_a_text_is_no_special_token(tmp_path):
  made = tokenizer.read(saved(tmp_path / 'x', wordpiece()))
  assert tokens(made, 'the [SEP] cat') == ['[CLS]', 'the', '[', 'sep', ']', 'cat', '[SEP]']


@pytest.mark.parametrize(('words', 'about', 'text', 'wanted'), [
    (WORDS, {}, 'The CAFÉ', ['the', 'cafe']),
    (CASED, {}, 'The É', ['The', 'É']),             # a vocabulary with capitals tells them apart
    (CASED, {'do_lower_case': True}, 'The', ['the']),
    (WORDS, {'do_lower_case': False}, 'The cat', ['[UNK]', 'cat']),
    (WORDS, {'strip_accents': False}, 'Café', ['café']),
    (WORDS, {}, '我们', ['我', '们']),
    (WORDS, {'tokenize_chinese_chars': False}, '我们', ['我', '##们']),
])
def test_case_accents_and_chinese_are_as_the_model_has_them(tmp_path, words, about, text, wanted):
  made = tokenizer.read(str(vocabulary(tmp_path / 'x', words, **about)))
  assert tokens(made, text)[1:-1] == wanted


def test_lines_may_end_as_windows_ends_them(tmp_path):
  folder = vocabulary(tmp_path / 'x')
  unix = tokenizer.read(str(folder))
  (folder / 'vocab.txt').write_bytes(('\r\n'.join(WORDS) + '\r\n').encode())
  assert tokenizer.read(str(folder)) == unix


def test_byte_pairs_are_taken_as_they_are(tmp_path):
  made = byte_pairs()
  made.enable_padding(length=9)
  made.enable_truncation(3)
  read = tokenizer.read(saved(tmp_path / 'x', made))
  assert tokens(read, 'the cat')[0] == '<s>' and tokens(read, 'the cat')[-1] == '</s>'
  assert len(tokens(read, 'the cat sat')) != 9 and len(tokens(read, 'the cat sat the')) > 3
  assert tokenizer.read(saved(tmp_path / 'y', Tokenizer.from_str(read))) == read
  assert tokenizer.special_ids(read) == {
      '[PAD]': 1, '[UNK]': 3, '[CLS]': 0, '[SEP]': 2, '[MASK]': 4}


def test_words_that_were_added_stay(tmp_path):
  made = wordpiece()
  made.add_tokens(['covid19'])
  read = tokenizer.read(saved(tmp_path / 'x', made))
  assert 'covid19' in tokens(read, 'the covid19 cat')
  assert tokenizer.vocabulary_size(read) == len(WORDS) + 1


def test_a_tokenizer_that_does_something_else_is_not_taken_for_berts(tmp_path):
  made = wordpiece()
  made.normalizer = None
  assert '[UNK]' in tokens(tokenizer.read(saved(tmp_path / 'x', made)), 'The')
  made = wordpiece()
  made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  assert tokens(tokenizer.read(saved(tmp_path / 'y', made)), 'cat.')[1:-1] == ['[UNK]']


def refused(place, *lines):
  with pytest.raises(Stop) as stop:
    tokenizer.read(str(place), 'teachers.t.init')
  assert stop.value.status == Status.DATA
  line = str(stop.value)
  assert line.startswith('teachers.t.init: ') and str(place) in line and '\n' not in line
  for part in lines:
    assert part in line


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
  with pytest.raises(Stop, match='is no checkpoint: it has neither config.json nor a tokenizer'):
    tokenizer.read(str(tmp_path))
  (tmp_path / 'config.json').write_text('{}')
  refused(tmp_path, 'has neither tokenizer.json nor vocab.txt')


@pytest.mark.parametrize(('content', 'line'), [
    (b'', 'is no tokenizer'), (b'{', 'is no tokenizer'), (b'{}', 'is no tokenizer'),
    (b'[1]', 'is no tokenizer'), (b'\xff\xfe{}', 'it is UTF-16: save it as UTF-8'),
    (b'{"version": "1.0", "model": {"type": "Nothing"}}', 'is no tokenizer')])
def test_a_broken_tokenizer_is_refused(tmp_path, content, line):
  (tmp_path / 'tokenizer.json').write_bytes(content)
  refused(tmp_path, line)


@pytest.mark.parametrize(('content', 'line'), [
    (b'', 'each once: line 1 is empty'), ('\n'.join(WORDS[3:]).encode(), '[CLS], [SEP]'),
    ('\n'.join([*WORDS, 'cat']).encode(), "line 19 repeats 'cat' of line 7"),
    (b'[PAD]\n\xff\xfe\n', 'utf-8'),
    ('\n\n'.join(WORDS).encode(), 'each once: line 2 is empty'),
    ('\n'.join(WORDS).encode('utf-16'), 'it is UTF-16')])
def test_a_broken_vocabulary_is_refused(tmp_path, content, line):
  (tmp_path / 'vocab.txt').write_bytes(content)
  refused(tmp_path, line)


@pytest.mark.parametrize(('content', 'line'), [
    (b'{', 'it is no JSON'), (b'[]', 'it holds no object'),
    (b'\xff\xfe{\0}\0', 'it is no JSON: it is UTF-16'),
    (b'[' * 99999, 'it is no JSON: it is nested too deeply'),
    (b'{"do_lower_case": "yes"}', "do_lower_case is 'yes', neither true nor false"),
    (b'{"strip_accents": 1}', "strip_accents is '1', neither true nor false")])
def test_a_broken_file_beside_the_vocabulary_is_refused_by_its_own_name(tmp_path, content, line):
  vocabulary(tmp_path)
  (tmp_path / 'tokenizer_config.json').write_bytes(content)
  refused(tmp_path, f'{tmp_path}/tokenizer_config.json: {line}')


def test_a_byte_order_mark_is_no_part_of_a_tokenizer_s_files(tmp_path):
  plain = tokenizer.read(str(vocabulary(tmp_path / 'plain', do_lower_case=False)))
  marked = vocabulary(tmp_path / 'marked', do_lower_case=False)
  for file in [*marked.iterdir(), pathlib.Path(saved(tmp_path / 'json', wordpiece(
      lowercase=False))) / 'tokenizer.json']:
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
  assert tokenizer.read(str(marked)) == plain == tokenizer.read(str(tmp_path / 'json'))


@pytest.mark.parametrize('strip', [True, False, None])
def test_null_leaves_accents_to_capitals(tmp_path, strip):
  made = tokenizer.read(str(vocabulary(tmp_path / 'x', strip_accents=strip, do_lower_case=None)))
  assert tokens(made, 'Café')[1:-1] == ['café' if strip is False else 'cafe']


def test_marks_around_a_text_that_are_no_tokens_are_refused(tmp_path):
  made = wordpiece()
  made.post_processor = processors.BertProcessing(('[SEP]', 999), ('[CLS]', 2))
  refused(saved(tmp_path / 'x', made), 'it gives the id 999, which is that of no token')


def test_what_cannot_be_read_without_an_unknown_token_is_refused_before_any_text(tmp_path):
  made = json.loads(wordpiece().to_str())
  made['model']['unk_token'] = '<nothing>'
  (tmp_path / 'tokenizer.json').write_text(json.dumps(made))
  refused(tmp_path, 'is no tokenizer for an encoder')


def test_no_room_for_the_marks_around_a_pair_is_refused():
  with pytest.raises(Stop, match='3 tokens are no room for a text') as stop:
    tokenizer.encode(tokenizer.train(['ab'], 64), ['ab'], length=3)
  assert stop.value.status == Status.MISFIT


def test_a_tokenizer_of_no_encoder_is_refused(tmp_path):
  refused(saved(tmp_path / 'gpt2', byte_pairs(post=False)), 'no tokens around a text')
  refused(saved(tmp_path / 'bare', wordpiece(post=False)), 'no tokens around a text')
  unigram = Tokenizer(models.Unigram([('a', -1.0), ('b', -2.0)], unk_id=0))
  refused(saved(tmp_path / 'unigram', unigram), 'its model is Unigram; WordPiece and BPE are known')


def test_special_tokens_have_one_name_in_both_families(tmp_path):
  ours = tokenizer.train(['the cat sat on the mat'] * 4, 64)
  assert tokenizer.special_ids(ours) == {
      '[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3, '[MASK]': 4}
  moved = vocabulary(tmp_path / 'moved', WORDS[5:] + WORDS[:5])
  assert tokenizer.special_ids(tokenizer.read(str(moved))) == {
      name: len(WORDS) - 5 + i for i, name in enumerate(tokenizer.SPECIAL)}
  assert tokenizer.special_ids(byte_pairs().to_str()) == {
      '[PAD]': 1, '[UNK]': 3, '[CLS]': 0, '[SEP]': 2, '[MASK]': 4}
