"""Gradients, attributions, rollout and layers of models whose answers are known by hand."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer, models

from distill import sharding
from distill.measure import attributions
from distill.modalities import image, text
from distill.models import bert, resnet
from distill.models.functional import Functional
from distill.tasks.classification import Classification

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *(f'w{i}' for i in range(5, 30))]
TEXT = text.Text(length=6, widths={'s': (6,)}, tokenizer=Tokenizer(models.WordPiece(
    {word: i for i, word in enumerate(WORDS)}, unk_token='[UNK]')).to_str())
TABLE = bert.Bert.traits.tables[0]
LAYOUT = sharding.layout()
EXPLAIN = dict(target={}, sampled=range(8))


def encoder(seed=0, **more):
  model = Functional(lambda rngs: bert.Bert(
      vocabulary=30, length=6, classes=3, width=8, depth=2, heads=2, std=0.3, rngs=rngs, **more))
  return model, model.init(seed)


def probed_encoder(model, weights):
  return attributions.ProbedModel(model, weights, LAYOUT, TEXT.probe(model, weights),
                                  Classification(classes=3))


def probed_images(model, classes):
  return attributions.ProbedModel(model, model.init(0), LAYOUT, image.Probe(),
                                  Classification(classes=classes))


def texts():
  """Eight texts, the last only filling the batch; a word twice in each."""
  tokens = np.random.default_rng(0).integers(5, 30, size=(8, 6)).astype(np.int32)
  tokens[:, 0], tokens[:, 4], tokens[:, 5] = 2, 3, 0
  tokens[:, 2] = tokens[:, 1]
  valid = np.arange(8) < 7
  return {'id': np.where(valid, np.arange(8), -1).astype(np.int32), 'tokens': tokens,
          'types': np.zeros((8, 6), np.int32), 'valid': valid.astype(np.float32),
          'mask': (np.arange(6) < 5).astype(np.float32) * np.ones((8, 1), np.float32)}


class Linear(nnx.Module):
  """logits = x · w over all pixels."""

  def __init__(self, rngs):
    self.w = nnx.Param(jax.random.normal(rngs.params(), (2, 2, 3, 4)))

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': jnp.einsum('bhwc,hwck->bk', batch['image'], self.w[...])}


def images():
  return {'id': np.arange(8, dtype=np.int32), 'valid': np.ones(8, np.float32),
          'image': np.random.default_rng(1).normal(size=(8, 2, 2, 3)).astype(np.float32)}


@pytest.fixture(scope='module')
def explained():
  probed = probed_encoder(*encoder())
  return probed, attributions.explain(
      probed, [texts()], **EXPLAIN | {'target': {i: i % 3 for i in range(8)}, 'sampled': range(6)})


class TestIntegratedGradients:

  def test_of_a_linear_function_are_the_weights_times_the_way(self):
    w, x, start = np.random.default_rng(0).normal(size=(3, 5))
    np.testing.assert_allclose(attributions.integrated_gradients(lambda at: w, x, start, steps=1),
                               w * (x - start))

  def test_of_a_square_add_up_to_its_difference(self):
    # f = Σ x³: the midpoint rule with 16 steps misses (x - x0)³ / (4 · 16²) of each.
    x, start = np.array([1., -2., 3.]), np.array([0., 1., -1.])
    found = attributions.integrated_gradients(lambda at: 3 * at**2, x, start)
    np.testing.assert_allclose(found, x**3 - start**3 - (x - start)**3 / 1024)

  def test_of_a_linear_model_are_the_weights_times_the_pixels(self):
    model = Functional(lambda rngs: Linear(rngs))
    found = attributions.explain(probed_images(model, 4), [images()],
                                 **EXPLAIN | {'target': {i: i % 4 for i in range(8)}})
    w = np.asarray(model.init(0)[0]['w'])
    for i, pixels in enumerate(images()['image']):
      by_hand = (pixels * (w[..., i % 4] - w.mean(-1))).sum(-1)
      np.testing.assert_allclose(found['attribution'][i], by_hand, rtol=1e-4, atol=1e-5)
    assert found['attribution'].shape == (8, 2, 2) and found['places'].all()
    np.testing.assert_array_equal(found['image'], images()['image'])

  def test_of_an_encoder_add_up_to_what_its_words_change(self, explained):
    probed, found = explained
    batch = texts()
    x = probed.value(batch)
    words = probed.probe.positions(batch)[..., None]
    ends = [np.asarray(probed(batch, at, np.zeros((8, 3)))['measured']['logits'])
            for at in (x, np.where(words, 0, x))]
    target = np.arange(7) % 3
    centred = [(z - z.mean(1, keepdims=True))[np.arange(7), target] for z in (e[:7] for e in ends)]
    change = centred[0] - centred[1]
    assert np.abs(change).min() > 1e-3        # something to add up to
    np.testing.assert_allclose(found['attribution'].sum(1), change, rtol=0.05, atol=0.01)

  def test_stand_at_words_alone_and_differ_between_places_of_one_word(self, explained):
    _, found = explained
    assert (found['attribution'][:, [0, 4, 5]] == 0).all()
    assert not found['places'][:, [0, 4, 5]].any() and found['places'][:, 1:4].all()
    assert (found['attribution'][:, 1] != found['attribution'][:, 2]).all()


class TestProbedModel:

  @pytest.mark.parametrize('more', [{}, {'words': True}])
  def test_answers_as_the_model_does(self, more):
    model, weights = encoder(**more)
    batch = texts()
    probed = probed_encoder(model, weights)
    found = probed(batch, probed.value(batch), np.zeros((8, 3)))
    theirs = model(*weights, batch, train=False, key=None)[0]
    np.testing.assert_allclose(found['measured']['logits'], theirs['logits'], rtol=1e-5, atol=1e-6)
    mean = (theirs['block01/hidden'] * batch['mask'][..., None]).sum(1) / 5
    np.testing.assert_allclose(found['layers']['block01/hidden'], mean, rtol=1e-4, atol=1e-5)

  def test_gradients_are_those_of_the_table_added_up(self, explained):
    probed, _ = explained
    model, (params, rest) = encoder()
    batch, by = texts(), np.random.default_rng(2).normal(size=(8, 3)).astype(np.float32)
    whole = jax.grad(lambda table: jnp.sum(by * model(
        params | {TABLE: table}, rest, batch, train=False, key=None)[0]['logits']))(
            params[TABLE])
    found = np.asarray(probed(batch, probed.value(batch), by)['gradient'])
    summed = np.zeros(whole.shape)
    np.add.at(summed, batch['tokens'], found)
    np.testing.assert_allclose(summed, whole, rtol=1e-3, atol=1e-5)


class TestRollout:

  def test_by_hand(self):
    # Two positions, one head. Layer 1: both look at the second; layer 2: the first looks at the
    # first. With half a residual: rows (1/2, 1/2), (0, 1); then (1, 0), …. So the first position
    # draws on (1, 0) · layer 1 = (1/2, 1/2).
    first, second = jnp.array([[[[0., 1.], [0., 1.]]]]), jnp.array([[[[1., 0.], [0., 1.]]]])
    np.testing.assert_allclose(attributions.rollout([first, second]), [[.5, .5]])

  def test_is_the_product_of_all_layers(self):
    random = np.random.default_rng(0)
    layers = [random.dirichlet(np.ones(5), size=(2, 3, 5)) for _ in range(4)]
    for row in range(2):
      product = np.eye(5)
      for layer in layers:
        product = (layer[row].mean(0) / 2 + np.eye(5) / 2) @ product
      found = attributions.rollout([jnp.asarray(layer, jnp.float32) for layer in layers])[row]
      np.testing.assert_allclose(found, product[0], rtol=1e-5)

  def test_draws_on_no_padding(self, explained):
    _, found = explained
    assert (found['rollout'][:, 5] == 0).all()
    np.testing.assert_allclose(found['rollout'].sum(1), 1, rtol=1e-5)


class TestExplain:

  def test_keeps_real_examples_and_says_which_were_drawn(self, explained):
    _, found = explained
    assert found['id'].tolist() == list(range(7)) and found['sampled'].tolist() == [1] * 6 + [0]
    assert found['target'].tolist() == [0, 1, 2, 0, 1, 2, 0]
    np.testing.assert_array_equal(found['tokens'], texts()['tokens'][:7])

  def test_layers_go_from_the_input_to_the_output(self, explained):
    _, found = explained
    assert found['layers'].tolist() == ['embedding', 'block00/hidden', 'block01/hidden', 'pooled']
    assert found['grams'].shape == (4, 6, 6)
    model, weights = encoder()
    pooled = np.asarray(model(*weights, texts(), train=False, key=None)[0]['pooled'])[:6]
    pooled = pooled - pooled.mean(0)
    np.testing.assert_allclose(found['grams'][3], pooled @ pooled.T, rtol=1e-3, atol=1e-5)

  def test_a_residual_networks_layers_are_its_stages(self):
    model = Functional(lambda rngs: resnet.ResNet(
        depth=8, widths=(2, 2, 2, 2), channels=3, classes=3, rngs=rngs))
    batch = images() | {'image': np.ones((8, 4, 4, 3), np.float32)}
    found = attributions.explain(probed_images(model, 3), [batch], **EXPLAIN)
    assert found['layers'].tolist() == ['stem', 'stage1/features', 'stage2/features',
                                        'stage3/features', 'pooled']
    assert (found['grams'] == 0).all() and 'rollout' not in found     # eight equal images

  def test_an_image_model_of_patches_is_explained(self):
    # Two patches, each the mean of a column of pixels: of an image a layer [b s d] holds the mean
    # over its patches.
    model = Functional(lambda rngs: Patches(rngs))
    found = attributions.explain(probed_images(model, 3), [images()], **EXPLAIN)
    assert found['layers'].tolist() == ['block00/hidden'] and 'rollout' not in found
    mean = images()['image'].mean(axis=(1, 2))
    mean = mean - mean.mean(0)
    np.testing.assert_allclose(found['grams'][0], mean @ mean.T, rtol=1e-4, atol=1e-5)
    # Class 0 is channel 0: its logit less the mean of all is Σ w · mean (channel 0 - all channels).
    pixels = images()['image']
    by_hand = (pixels[..., 0] - pixels.mean(-1)) * np.array([1, 2]) / 2
    np.testing.assert_allclose(found['attribution'], by_hand, rtol=1e-4, atol=1e-5)


class Patches(nnx.Module):
  """An image's columns of pixels as a sequence, whose places count once and twice."""

  def __init__(self, rngs):
    self.w = nnx.Param(jnp.array([1., 2.]))

  def __call__(self, batch, *, train=False, key=None):
    hidden = batch['image'].mean(axis=1)                                # [b s d]
    return {'block00/hidden': hidden, 'logits': jnp.einsum('bsd,s->bd', hidden, self.w[...])}


def test_of_texts_the_tokens_that_occur_are_kept_as_they_are_spelled(explained):
  _, found = explained
  assert found['piece_ids'].tolist() == sorted({*found['tokens'].ravel().tolist()})
  assert found['pieces'].tolist() == [WORDS[i] for i in found['piece_ids']]
