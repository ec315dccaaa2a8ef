"""Answers of a folder, at the command line and as a function."""
import re

import numpy as np
import pytest

from distill import formats, predict
from distill.data import rows
from distill.modalities import tokenizer
from distill.modalities.text import Text
from distill.types import Status, Stop
from tests.formats.test_parameters import pretrained

__all__ = ['pretrained']            # a fixture
WORDS = tokenizer.train(['a b c'], 64)


def test_a_regression_answers_with_its_value(pretrained):
  place = pretrained(labels=())
  net, weights, card = formats.load(place, sizes={'classes': 1})
  assert card['classes'] == () and card['fresh'] == [] and card['model']['classes'] == 1
  row, = predict.answers(place, ['a b c'])
  batch = {'tokens': np.array([[2, 5, 6, 7, 3]]), 'types': np.zeros((1, 5), int),
           'mask': np.ones((1, 5), np.float32)}
  value = float(net(*weights, batch)[0]['logits'][0, 0])
  # padded to 8, and rounded to four places
  assert row == {'text': 'a b c', 'value': pytest.approx(value, abs=1e-4)}


@pytest.mark.parametrize('arguments', [
    ['--model=DIR', '-5 degrees', '-a', 'b'], ['-5 degrees', '--model=DIR', '-a', 'b'],
    ['-5 degrees', '-a', '--model', 'DIR', 'b'], ['--model=DIR', '--', '-5 degrees', '-a', 'b']])
def test_inputs_may_begin_with_a_dash_and_stand_anywhere(arguments):
  assert predict._parsed(arguments) == ('DIR', ['-5 degrees', '-a', 'b'])


class TestPairs:

  def test_a_tab_separates_two_texts_for_a_card_without_the_data_s_form(self, pretrained):
    folder = pretrained()
    single, pair = (predict.answers(folder, [text])[0] for text in ('a b', 'a\tb'))
    assert pair['text'] == 'a\tb' and pair['probabilities'] != single['probabilities']

  @pytest.mark.parametrize('text', ['a\t', '\ta', '\t', 'a\tb\tc'])
  def test_an_input_that_is_no_text_and_no_pair_is_named(self, pretrained, text):
    with pytest.raises(Stop, match='neither a text nor two') as stop:
      predict.answers(pretrained(), [text])
    assert stop.value.status == Status.DATA

  @pytest.mark.parametrize('text', ['', ' '])
  def test_an_empty_text_is_answered_as_it_is_trained_and_judged(self, pretrained, text):
    found, = predict.answers(pretrained(), [text])
    assert np.isfinite(found['probability'])


class TestReading:
  """Encoding of an argument by a modality that has its model's training data on its card."""

  def encoded(self, *arguments, pairs):
    reads = Text(length=8, widths={'s': (8,)}, tokenizer=WORDS, pairs=pairs)
    assert Text.from_card(reads.card(), '').pairs == reads.pairs
    return [(example['tokens'].tolist(), example['types'].tolist())
            for _, example in reads.encode(arguments)]

  def trained(self, *rows):
    found = tokenizer.encode(WORDS, rows, length=8)
    return [(tokens[:n].tolist(), types[:n].tolist()) for tokens, types, n in zip(
        found['tokens'], found['types'], found['length'], strict=True)]

  def test_a_tab_is_white_space_for_a_model_of_texts(self):
    texts = ['a\tb', 'a\t', '\t', 'a\tb\tc', '', ' ', 'a b']
    assert self.encoded(*texts, pairs=False) == self.trained(*texts)
    assert self.encoded('a\tb', pairs=False) == self.encoded('a b', pairs=False)

  def test_a_tab_parts_a_pair_for_a_model_of_pairs_whatever_is_empty(self):
    pairs = [('a', 'b'), ('a', ''), ('', 'b'), ('', '')]
    assert self.encoded(*map('\t'.join, pairs), pairs=True) == self.trained(*pairs)

  @pytest.mark.parametrize(('text', 'line'), [
      ('a b', "'a b' is one text, and the model was trained on pairs: put a tab between"),
      ('', "'' is one text, and the model was trained on pairs"),
      ('a\tb\tc', 'is neither a text nor two with a tab between them')])
  def test_a_model_of_pairs_asked_with_another_number_of_texts_says_so(self, text, line):
    with pytest.raises(Stop, match=re.escape(line)) as stop:
      self.encoded(text, pairs=True)
    assert stop.value.status == Status.DATA

  def test_a_card_of_an_earlier_version_says_nothing_of_pairs(self):
    card = Text(length=8, widths={'s': (8,)}, tokenizer=WORDS).card()
    assert 'pairs' not in card and Text.from_card(card, '').pairs is None


def test_inputs_of_a_file_are_the_lines_that_training_reads(tmp_path):
  content = '\ufeffone\u2028text\r\n\ntwo\x85\x0b texts\rthree'
  (tmp_path / 'my.txt').write_text(content, newline='')
  lines = Text(length=8).arguments(str(tmp_path / 'my.txt'))
  assert lines == ['one\u2028text', 'two\x85\x0b texts', 'three']
  assert lines == [row.values[''] for row in rows.read(tmp_path / 'my.txt')]
