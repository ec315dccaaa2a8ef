"""Images: what is standardised, where and how exactly, and which files are images."""
import jax
import numpy as np
import pytest

from distill import modalities
from distill.modalities import examples, image
from distill.types import Status, Stop

NOISE = np.random.default_rng(0)
ODD = dict(mean=(33.318421, 190.5, 7.1), deviation=(78.567489, 0.3, 1234.5))


def grey(height=8, width=6, **how):
  return image.Image(height, width, 1, (0.0,), (1.0,), **how)


def coloured(height=8, width=6, **how):
  return image.Image(height, width, 3, (0.0,) * 3, (1.0,) * 3, **how)


class TestPrepare:

  @pytest.mark.parametrize('dtype', ['uint8', 'uint16'])
  def test_is_standardised_to_the_bit_on_the_host_and_inside_jit(self, dtype):
    # All values that there are, in every channel, each in a place that differs by channel.
    values = np.iinfo(dtype).max + 1
    pixels = np.stack([NOISE.permutation(values) for _ in range(3)], -1).astype(dtype)
    batch = {'image': pixels.reshape(4, -1, 16, 3), 'valid': np.ones(4, np.float32)}
    modality = image.Image(*batch['image'].shape[1:], **ODD, dtype=dtype)
    wanted = ((batch['image'].astype(np.float64) - np.asarray(ODD['mean']))
              / np.asarray(ODD['deviation'])).astype(np.float32)
    for found in modality.prepare(batch)['image'], jax.jit(modality.prepare)(batch)['image']:
      np.testing.assert_array_equal(found, wanted, strict=True)
    np.testing.assert_array_equal(modality.standardised(batch['image']), wanted, strict=True)

  def test_stays_on_the_host_for_arrays_of_numpy(self):
    batch = {'image': np.zeros((1, 8, 6, 1), np.uint8), 'valid': np.ones(1)}
    assert isinstance(grey(dtype='uint8').prepare(batch)['image'], np.ndarray)

  def test_rows_that_only_fill_the_batch_are_0(self):
    # Pixels that are 0 have another standardised value.
    modality = image.Image(2, 2, 3, **ODD, dtype='uint8')
    batch = {'image': np.zeros((3, 2, 2, 3), np.uint8), 'valid': np.array([1, 0, 1], np.float32)}
    for found in modality.prepare(batch)['image'], jax.jit(modality.prepare)(batch)['image']:
      assert (np.asarray(found[1]) == 0).all() and (np.asarray(found)[[0, 2]] != 0).all()

  def test_leaves_what_is_prepared_as_it_is(self):
    modality = image.Image(2, 2, 3, **ODD, dtype='uint8')
    once = modality.prepare({'image': NOISE.integers(0, 256, (2, 2, 2, 3)).astype(np.uint8),
                             'valid': np.ones(2, np.float32), 'other': np.ones(2)})
    assert once['other'].tolist() == [1, 1]
    np.testing.assert_array_equal(modality.prepare(once)['image'], once['image'], strict=True)


class TestEncode:

  @pytest.mark.parametrize(('modality', 'shape', 'n'), [
      (grey(), (8, 6), 1), (grey(), (8, 6, 1), 1), (grey(), (5, 8, 6), 5),
      (grey(), (5, 8, 6, 1), 5), (coloured(), (8, 6, 3), 1), (coloured(), (5, 8, 6, 3), 5),
      (coloured(3, 3), (3, 3, 3), 1)])
  def test_reads_one_image_or_several(self, tmp_path, modality, shape, n):
    raw, file = NOISE.standard_normal(shape), str(tmp_path / 'a.npy')
    np.save(file, raw)
    found = list(modality.encode([file]))
    assert [about for about, _ in found] == (
        [{'image': f'{file}[{i}]'} for i in range(n)] if n > 1 else [{'image': file}])
    whole = np.stack([example['image'] for _, example in found])
    assert whole.shape == (n, *modality.fields['image'].axes) and whole.dtype == np.float32
    np.testing.assert_array_equal(whole.ravel(), raw.astype(np.float32).ravel())

  def test_is_standardised_as_in_training(self, tmp_path):
    modality = image.Image(2, 2, 3, **ODD, dtype='uint8')
    raw, file = NOISE.integers(0, 256, (2, 2, 3)).astype(np.uint8), str(tmp_path / 'a.npy')
    np.save(file, raw)
    [(_, example)] = modality.encode([file])
    batch = {'image': raw[None], 'valid': np.ones(1, np.float32)}
    np.testing.assert_array_equal(examples.pad_one(example, modality)['image'],
                                  modality.prepare(batch)['image'], strict=True)

  def test_a_picture_has_the_brightness_of_the_data(self, tmp_path):
    pictures = pytest.importorskip('PIL.Image')
    raw, file = NOISE.integers(0, 256, (8, 6)).astype(np.uint8), str(tmp_path / 'a.png')
    pictures.fromarray(raw).save(file)
    [(_, example)] = grey(white=16.0).encode([file])
    np.testing.assert_allclose(example['image'][..., 0], raw * (16 / 255), rtol=1e-6)

  @pytest.mark.parametrize(('modality', 'shape'), [
      (grey(), (6, 8)), (grey(), (8, 6, 3)), (grey(), (48,)), (grey(), ()), (grey(), (0, 8, 6)),
      (coloured(), (8, 6)), (coloured(), (5, 8, 6)), (coloured(), (3, 8, 6)),
      (coloured(), (1, 2, 8, 6, 3))])
  def test_another_size_is_refused(self, tmp_path, modality, shape):
    self.refused(tmp_path, modality, np.zeros(shape), 'height, width and channels')

  @pytest.mark.parametrize('raw', [np.full((8, 6), np.inf), np.full((8, 6), 1j),
                                   np.full((8, 6), 'a')])
  def test_what_is_no_number_is_refused(self, tmp_path, raw):
    self.refused(tmp_path, grey(), raw, 'finite numbers')

  def refused(self, folder, modality, raw, line):
    file = str(folder / 'a.npy')
    np.save(file, raw)
    with pytest.raises(Stop) as stop:
      list(modality.encode([file]))
    assert stop.value.status == Status.DATA and '\n' not in str(stop.value)
    assert str(stop.value).startswith(f'{file}: ') and line in str(stop.value)


def test_a_card_gives_the_same_modality_for_prepared_images():
  modality = image.Image(4, 5, 3, **ODD, white=16.0, dtype='uint8')
  again = modalities.from_card({**modalities.card(modality)})
  assert again.dtype == 'float32' and again.card() == modality.card()
  assert modality.misfit(again) == ''
  other = image.Image(4, 5, 3, ODD['mean'], (1.0, 0.3, 1234.5), white=16.0)
  assert 'it takes images of 4 × 5 × 3' in other.misfit(modality)
