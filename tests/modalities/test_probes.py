"""Probes: what gradients are taken with regard to, and what a layer holds of an example."""
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, models

from distill.modalities import image, text
from distill.models import bert, resnet
from distill.models.functional import Functional

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'b', 'c']
TEXT = text.Text(length=5, widths={'s': (5,)}, tokenizer=Tokenizer(models.WordPiece(
    {word: i for i, word in enumerate(WORDS)}, unk_token='[UNK]')).to_str())
BATCH = {'tokens': np.array([[2, 5, 1, 3, 0], [2, 6, 6, 7, 3]], np.int32),
         'types': np.zeros((2, 5), np.int32),
         'mask': np.array([[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], np.float32)}


def encoder(**more):
  model = Functional(lambda rngs: bert.Bert(
      vocabulary=8, length=5, classes=3, width=4, depth=1, heads=2, std=0.3, rngs=rngs, **more))
  return model, model.init(0)


class TestTexts:

  def test_reads_the_rows_of_the_token_table_and_spreads_as_it(self):
    model, weights = encoder()
    probe, table = TEXT.probe(model, weights), np.asarray(weights[0][model.traits.tables[0]])
    np.testing.assert_array_equal(probe.value(weights[0], BATCH), table[BATCH['tokens']])
    host = {path: np.asarray(x) for path, x in weights[0].items()}
    assert probe.scale(host) == pytest.approx(table.std())
    assert float(probe.scale(weights[0])) == pytest.approx(table.std())

  @pytest.mark.parametrize('more', [{}, {'words': True}])
  def test_the_model_answers_as_before_where_it_is_fed_its_own_rows(self, more):
    model, (params, rest) = encoder(**more)
    probe = TEXT.probe(model, (params, rest))
    changed, batch = probe.feed(params, BATCH, probe.value(params, BATCH))
    found, wanted = (model(p, rest, b, train=False, key=None)[0]['logits']
                     for p, b in ((changed, batch), (params, BATCH)))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    assert changed.keys() == params.keys()

  def test_positions_are_words_and_no_padding(self):
    probe = TEXT.probe(*encoder())
    assert probe.positions(BATCH).tolist() == [[0, 1, 0, 0, 0], [0, 1, 1, 1, 0]]

  def test_a_layer_holds_the_mean_over_a_text_s_tokens(self):
    layer = jnp.arange(20.).reshape(2, 5, 2)
    found = TEXT.probe(*encoder()).pool(layer, BATCH)
    # rows (0, 1), (2, 3), (4, 5), (6, 7), of which the fifth is padding; and (10, 11) … (18, 19)
    np.testing.assert_allclose(found, [[3, 4], [14, 15]])
    np.testing.assert_allclose(TEXT.probe(*encoder()).pool(layer[:, 0], BATCH), layer[:, 0])

  def test_a_text_of_no_tokens_holds_nothing(self):
    empty = {**BATCH, 'mask': np.zeros((2, 5), np.float32)}
    assert (TEXT.probe(*encoder()).pool(jnp.ones((2, 5, 2)), empty) == 0).all()

  def test_a_model_without_a_table_has_no_probe(self):
    model = Functional(lambda rngs: resnet.ResNet(depth=6, widths=(2, 2, 2), channels=1, classes=2,
                                                  rngs=rngs))
    assert TEXT.probe(model, model.init(0)) is None

  def test_the_legend_spells_the_tokens_that_occur(self):
    probe = TEXT.probe(*encoder())
    found = probe.legend(probe.keep(BATCH))
    assert found['piece_ids'].tolist() == [0, 1, 2, 3, 5, 6, 7]
    assert found['pieces'].tolist() == [WORDS[i] for i in found['piece_ids']]


class TestImages:

  def test_reads_pixels_which_spread_by_one_deviation(self):
    batch = {'image': np.random.default_rng(0).normal(size=(2, 3, 4, 2)).astype(np.float32)}
    probe = image.Probe()
    np.testing.assert_array_equal(probe.value({}, batch), batch['image'])
    assert probe.scale({}) == 1 and probe.positions(batch).shape == (2, 3, 4)
    assert probe.positions(batch).all() and probe.legend(probe.keep(batch)) == {}
    params, fed = probe.feed({'w': 1}, batch, batch['image'] + 1)
    assert params == {'w': 1} and (fed['image'] == batch['image'] + 1).all()

  def test_a_map_is_held_whole_and_a_sequence_by_its_mean(self):
    maps, sequence = jnp.arange(24.).reshape(2, 2, 3, 2), jnp.arange(12.).reshape(2, 3, 2)
    assert image.Probe().pool(maps, {}).tolist() == maps.reshape(2, 12).tolist()
    assert image.Probe().pool(sequence, {}).tolist() == [[2, 3], [8, 9]]
    assert image.Probe().pool(maps[:, 0, 0], {}).tolist() == maps[:, 0, 0].tolist()
