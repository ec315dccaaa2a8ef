"""Corruptions by hand, and that they depend on the example alone."""
import numpy as np
import pytest
from scipy import ndimage
from tokenizers import Tokenizer, models

from distill.measure import robustness
from distill.modalities import image, text


def reads(special):
  """Texts of up to 24 tokens by a tokenizer with these special ones."""
  spelling = {word: i for i, word in enumerate([*special, *(f'w{i}' for i in range(40))])}
  spell = Tokenizer(models.WordPiece(spelling, unk_token=special[-1])).to_str()
  return text.Text(length=24, widths={'s': (24,)}, tokenizer=spell)


TEXT = reads(['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]'])


def pixels(batch):
  """The modality of images of a batch's shape."""
  *size, channels = batch['image'].shape[1:]
  return image.Image(*size, channels, mean=[0.] * channels, deviation=[1.] * channels)


def texts(lengths=(22, 7, 1), room=24):
  """[CLS] word … [SEP] [PAD] …; the words of each text differ, its last has type 1."""
  found = {name: np.zeros((len(lengths), room), np.int32) for name in ('tokens', 'types', 'mask')}
  for row, n in enumerate(lengths):
    found['tokens'][row, :n + 2] = [2, *range(10, 10 + n), 3]
    found['types'][row, n:n + 2], found['mask'][row, :n + 2] = 1, 1
  return {**found, 'mask': found['mask'].astype(np.float32),
          'id': np.arange(len(lengths), dtype=np.int32), 'valid': np.ones(len(lengths), np.float32)}


def images(values):
  values = np.asarray(values, np.float32)
  return {'image': values, 'id': np.arange(len(values), dtype=np.int32),
          'valid': np.ones(len(values), np.float32)}


def corrupted(batch, kind, seed=0):
  modality = pixels(batch) if 'image' in batch else TEXT
  return robustness.corrupt(batch, modality.corruptions[kind], modality, seed)


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

  @pytest.mark.parametrize('kind', TEXT.corruptions)
  def test_depend_on_id_and_seed_alone(self, kind):
    batch, turned = texts((20, 20, 20)), texts((20, 20, 20))
    turned['id'] = turned['id'][::-1]
    found, other = corrupted(batch, kind), corrupted(turned, kind)
    np.testing.assert_array_equal(found['tokens'], other['tokens'][::-1])
    assert not np.array_equal(found['tokens'][0], found['tokens'][1])
    assert not np.array_equal(found['tokens'], corrupted(batch, kind, seed=1)['tokens'])
    np.testing.assert_array_equal(batch['tokens'], texts((20, 20, 20))['tokens'])

  @pytest.mark.parametrize('kind', TEXT.corruptions)
  def test_a_text_of_one_word_and_a_row_that_fills_stay(self, kind):
    batch = texts((1, 9))
    batch['valid'][1], batch['id'][1] = 0, -1
    np.testing.assert_array_equal(corrupted(batch, kind)['tokens'], batch['tokens'])

  def test_without_an_unknown_token_there_are_two_kinds(self):
    assert list(reads(['[PAD]']).corruptions) == ['drop', 'swap']
    assert list(TEXT.corruptions) == ['drop', 'swap', 'unknown']


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
    for before, found in zip(batch['image'], corrupted(batch, 'blur')['image'], strict=True):
      by_scipy = ndimage.convolve(before, kernel, mode='nearest')
      np.testing.assert_allclose(found, by_scipy, atol=1e-6)

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
    for kind in pixels(batch).corruptions:
      assert np.isfinite(corrupted(batch, kind)['image']).all()
      if kind != 'noise':
        assert corrupted(batch, kind)['image'] == 1


def test_a_batch_keeps_what_is_no_input():
  batch = images(np.ones((2, 3, 3, 1))) | {'label': np.array([4, 5])}
  found = corrupted(batch, 'contrast')
  assert found.keys() == batch.keys() and found['label'] is batch['label']


def test_every_corruption_says_in_words_what_it_does():
  for modality in TEXT, pixels(images(np.ones((1, 2, 2, 1)))):
    assert all(len(kind.about.split()) > 2 for kind in modality.corruptions.values())
