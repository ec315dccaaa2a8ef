"""Corruptions by hand, and that they depend on the example alone."""
import jax
import numpy as np
import pytest
from flax import nnx
from scipy import ndimage

from distill import sharding
from distill.evaluate import inside, quality, robustness
from distill.models.pure import Pure
from distill.tasks.classification import Classification
from distill.tasks.regression import Regression

SPECIAL = {'[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3, '[MASK]': 4}


def texts(lengths=(22, 7, 1), room=24):
  """[CLS] word … [SEP] [PAD] …; the words of each text differ, its last has type 1."""
  found = {name: np.zeros((len(lengths), room), np.int32) for name in ('tokens', 'types', 'mask')}
  for row, n in enumerate(lengths):
    found['tokens'][row, :n + 2] = [2, *range(10, 10 + n), 3]
    found['types'][row, n:n + 2], found['mask'][row, :n + 2] = 1, 1
  return {**found, 'mask': found['mask'].astype(np.float32),
          'id': np.arange(len(lengths), dtype=np.int32), 'valid': np.ones(len(lengths), np.float32)}


def images(image):
  image = np.asarray(image, np.float32)
  return {'image': image, 'id': np.arange(len(image), dtype=np.int32),
          'valid': np.ones(len(image), np.float32)}


def corrupted(batch, kind, seed=0):
  return robustness.corrupted(batch, kind, SPECIAL, seed)


class TestTexts:

  def test_drop_leaves_out_a_fifth_of_the_words_and_closes_up(self):
    found = corrupted(texts(), 'drop')
    for row, (n, gone) in enumerate(((22, 4), (7, 1))):
      left = found['tokens'][row][found['mask'][row] > 0]
      assert len(left) == n + 2 - gone and left[0] == 2 and left[-1] == 3
      assert (np.diff(left[1:-1]) > 0).all()                                # in their order
      assert (found['tokens'][row, n + 2 - gone:] == 0).all()
      assert found['types'][row].sum() <= 2 and found['types'][row, n + 1 - gone] == 1

  def test_swap_lets_words_change_places(self):
    found = corrupted(texts(), 'swap')
    for row, moved in (0, 4), (1, 2):
      before, after = texts()['tokens'][row], found['tokens'][row]
      assert sorted(before) == sorted(after) and (before != after).sum() == moved

  def test_unknown_replaces_a_fifth_of_the_words(self):
    found = corrupted(texts(), 'unknown')['tokens']
    assert (found == 1).sum(1).tolist() == [4, 1, 0]
    assert ((found == texts()['tokens']) | (found == 1)).all()

  @pytest.mark.parametrize('kind', robustness.TEXTS)
  def test_depend_on_id_and_seed_alone(self, kind):
    batch, turned = texts((20, 20, 20)), texts((20, 20, 20))
    turned['id'] = turned['id'][::-1]
    found, other = corrupted(batch, kind), corrupted(turned, kind)
    np.testing.assert_array_equal(found['tokens'], other['tokens'][::-1])
    assert not np.array_equal(found['tokens'][0], found['tokens'][1])
    assert not np.array_equal(found['tokens'], corrupted(batch, kind, seed=1)['tokens'])
    np.testing.assert_array_equal(batch['tokens'], texts((20, 20, 20))['tokens'])

  @pytest.mark.parametrize('kind', robustness.TEXTS)
  def test_a_text_of_one_word_and_a_row_that_fills_stay(self, kind):
    batch = texts((1, 9))
    batch['valid'][1], batch['id'][1] = 0, -1
    np.testing.assert_array_equal(corrupted(batch, kind)['tokens'], batch['tokens'])

  def test_without_an_unknown_token_there_are_two_kinds(self):
    assert list(robustness.kinds(texts(), {'[PAD]': 0})) == ['drop', 'swap']
    assert list(robustness.kinds(texts(), SPECIAL)) == ['drop', 'swap', 'unknown']


class TestImages:

  def test_noise_is_normal_and_an_examples_own(self):
    batch = images(np.zeros((2, 40, 40, 3)))
    found = corrupted(batch, 'noise')['image']
    # 9,600 draws: the deviation's own error is 0.3 / √(2 · 9,600) = 0.002, the mean's 0.003.
    assert found.std() == pytest.approx(0.3, abs=0.01) and abs(found.mean()) < 0.015
    assert abs(np.corrcoef(found[0].ravel(), found[1].ravel())[0, 1]) < 0.06
    np.testing.assert_array_equal(found, corrupted(batch, 'noise')['image'])

  def test_blur_by_hand(self):
    point = np.zeros((1, 5, 5, 1))
    point[0, 2, 2] = 16
    found = corrupted(images(point), 'blur')['image'][0, :, :, 0]
    np.testing.assert_allclose(found[1:4, 1:4], [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    assert found.sum() == 16
    flat = images(np.full((1, 3, 3, 2), 7))
    np.testing.assert_allclose(corrupted(flat, 'blur')['image'], flat['image'])

  def test_blur_is_scipys(self):
    batch = images(np.random.default_rng(0).normal(size=(3, 7, 5, 2)))
    kernel = np.outer([1, 2, 1], [1, 2, 1])[:, :, None] / 16
    for image, found in zip(batch['image'], corrupted(batch, 'blur')['image'], strict=True):
      np.testing.assert_allclose(found, ndimage.convolve(image, kernel, mode='nearest'), atol=1e-6)

  def test_contrast_is_halved_around_each_channels_mean(self):
    batch = images(np.random.default_rng(0).normal(size=(3, 6, 6, 2)) + [0, 5])
    found = corrupted(batch, 'contrast')['image']
    np.testing.assert_allclose(found.mean((1, 2)), batch['image'].mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(found.std((1, 2)), batch['image'].std((1, 2)) / 2, rtol=1e-4)

  def test_shift_moves_by_an_eighth_in_one_of_four_directions(self):
    rows, columns = np.mgrid[:16, :8]
    batch = images(np.tile((100. * rows + columns)[None, :, :, None], (40, 1, 1, 1)))
    found = corrupted(batch, 'shift')['image'][..., 0]
    moved = batch['image'][:, 8, 4, 0] - found[:, 8, 4]               # 100 · down + right
    assert set(moved.tolist()) == {100. * down + right for down in (-2, 2) for right in (-1, 1)}
    assert found.min() == 0 and found.max() == 1507                   # the edge is repeated
    down = found[moved == 201][0]
    assert down[0, 0] == down[2, 1] == 0 and down[15, 7] == 100 * 13 + 6

  def test_an_image_of_one_pixel_stands_all(self):
    batch = images(np.ones((1, 1, 1, 1)))
    for kind in robustness.kinds(batch, {}):
      assert np.isfinite(corrupted(batch, kind)['image']).all()
      if kind != 'noise':
        assert corrupted(batch, kind)['image'] == 1


class Linear(nnx.Module):

  def __init__(self, outputs, rngs):
    self.w = nnx.Param(jax.random.normal(rngs.params(), (12, outputs)))

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': batch['image'].reshape(-1, 12) @ self.w[...]}


class TestFGSM:

  def batch(self, label):
    return images(np.random.default_rng(3).normal(size=(8, 2, 2, 3))) | {'label': label}

  def found(self, outputs, task, label):
    model = Pure(lambda rngs: Linear(outputs, rngs))
    weights, batch = model.init(0), self.batch(label)
    clean = task.predict({'logits': model(*weights, batch)[0]['logits']}, batch)
    within = inside.Inside(model, weights, sharding.layout())
    return np.asarray(weights[0]['w']), clean, robustness.attacked(
        within, [batch], clean, task, SPECIAL)

  def test_takes_a_tenth_of_the_weights_from_a_linear_models_margin(self):
    # Of two classes the loss grows fastest against w = w1 - w0: the margin w · x of class 1
    # falls by ε |w|₁ (Goodfellow 2015, §5), that of class 0 alike.
    label = np.arange(8, dtype=np.int32) % 2
    w, clean, found = self.found(2, Classification(classes=2), label)
    margin = lambda r: np.log(r['probabilities'].astype(np.float64)) @ [-1, 1] * (2 * label - 1)
    np.testing.assert_allclose(margin(clean) - margin(found),
                               0.1 * np.abs(w[:, 1] - w[:, 0]).sum(), rtol=1e-3)

  def test_moves_a_number_away_from_its_label(self):
    label = np.random.default_rng(0).normal(size=8).astype(np.float32)
    w, clean, found = self.found(1, Regression(), label)
    np.testing.assert_allclose(np.abs(found['prediction'] - label),
                               np.abs(clean['prediction'] - label) + 0.1 * np.abs(w).sum(),
                               rtol=1e-4)

  def test_an_example_that_has_no_record_is_no_other(self):
    task, batch = Classification(classes=2), self.batch(np.zeros(8, np.int32))
    model = Pure(lambda rngs: Linear(2, rngs))
    weights = model.init(0)
    within = inside.Inside(model, weights, sharding.layout())
    clean = task.predict({'logits': np.zeros((8, 2))}, batch)
    some = {name: values[:7] for name, values in clean.items()}
    with pytest.raises(KeyError, match='7'):
      robustness.attacked(within, [batch], some, task, SPECIAL)
    batch['valid'][7] = 0
    assert robustness.attacked(within, [batch], some, task, SPECIAL)['id'].tolist() == [*range(7)]


class TestStood:

  def test_accuracy_by_hand(self):
    # Three of four right; then one of these and one other.
    made = lambda right: {'id': np.arange(4), 'label': np.ones(4, np.int32),
                          'prediction': np.array(right, np.int32),
                          'probabilities': np.full((4, 2), .5)}
    clean, worse = made([1, 1, 1, 0]), made([1, 0, 0, 1])
    task = Classification(classes=2)
    found = robustness.stood(task, clean, {'noise': worse}, {'noise': 'some'}, resamples=50)
    assert found['clean']['value'] == 0.75 and found['noise']['value'] == 0.5
    assert found['noise']['kept'] == pytest.approx(2 / 3) and found['noise']['about'] == 'some'
    assert found['noise']['change'] == quality.gain(*(
        quality.resampled(task, records, resamples=50) for records in (worse, clean)))['accuracy']
    assert found['noise']['change']['value'] == -0.25

  def test_examples_are_paired_by_id_whatever_their_order(self):
    random, task = np.random.default_rng(0), Classification(classes=2)
    clean, worse = ({'id': np.arange(30), 'label': np.arange(30) % 2, 'prediction': prediction,
                     'probabilities': np.full((30, 2), .5)}
                    for prediction in random.integers(2, size=(2, 30)))
    order = random.permutation(30)
    shuffled = {name: values[order] for name, values in worse.items()}
    found, other = (robustness.stood(task, clean, {'noise': of}, {'noise': ''}, resamples=20)
                    for of in (worse, shuffled))
    assert found == other

  def test_more_error_is_a_loss(self):
    made = lambda x: {'id': np.arange(4), 'label': np.zeros(4, np.float32),
                      'prediction': np.full(4, x, np.float32)}
    found = robustness.stood(Regression(primary='mse'), made(1), {'blur': made(2)},
                             {'blur': ''}, resamples=9)['blur']
    assert found['change'] == {'value': -3, 'low': -3, 'high': -3} and found['kept'] == 0.25

  def test_other_examples_and_none_are_refused(self):
    made = lambda ids: {'id': np.array(ids, int), 'label': np.zeros(len(ids), np.float32),
                        'prediction': np.zeros(len(ids), np.float32)}
    with pytest.raises(ValueError, match='different examples'):
      robustness.stood(Regression(), made([0, 1]), {'blur': made([0, 2])}, {'blur': ''})
    with pytest.raises(ValueError, match='no records'):
      robustness.stood(Regression(), made([]), {}, {})
