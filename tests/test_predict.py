"""Answers of a folder, at the command line and as a function."""
import numpy as np
import pytest

from distill import formats, predict
from distill.types import Status, Stop
from tests.formats.test_parameters import pretrained

__all__ = ['pretrained']            # a fixture


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


class TestPairs:

  def test_a_tab_parts_two_texts(self, pretrained):
    folder = pretrained()
    one, pair = (predict.answers(folder, [text])[0] for text in ('a b', 'a\tb'))
    assert pair['text'] == 'a\tb' and pair['probabilities'] != one['probabilities']

  @pytest.mark.parametrize('text', ['', ' ', 'a\t', '\ta', 'a\tb\tc'])
  def test_what_is_no_text_and_no_pair_is_named(self, pretrained, text):
    with pytest.raises(Stop, match='neither a text nor two') as stop:
      predict.answers(pretrained(), [text])
    assert stop.value.status == Status.DATA
