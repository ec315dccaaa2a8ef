import numpy as np
import pytest

from distill.data import batches, images
from distill.types import Status, Stop

NOISE = np.random.default_rng(0)
RAW = NOISE.integers(0, 256, (40, 3, 5, 2)).astype(np.uint8)         # no two are equal
LABELS = np.arange(40) % 4


def made(raw=RAW, labels=LABELS, **how):
  return images.dataset({'train': raw}, {'train': labels}, **{**dict(
      name='toy', classes=tuple('abcd'), versions={}), **how})


def stored(split):
  """The pixels of a split, as they are kept."""
  return split.fetch(np.arange(len(split)))['image']


def standardised(data, split='train'):
  """The pixels of a split as a model reads them."""
  part = data.splits[split]
  return data.modality.prepare({'image': stored(part), 'valid': np.ones(len(part))})['image']


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


class TestPixels:

  def test_by_hand(self):
    # 0, 2, 4 and 10: their mean is 4, their squares about it are 16, 4, 0 and 36, on average 14.
    raw = np.array([[[0]], [[2]], [[4]], [[10]]])
    data = made(raw, [0, 1, 2, -1])
    image = standardised(data)
    assert image.shape == (4, 1, 1, 1) and image.dtype == np.float32
    np.testing.assert_allclose(image.ravel(), np.array([-4, -2, 0, 6]) / 14**0.5, rtol=1e-6)
    assert data.modality.card() == {'pixels': {
        'height': 1, 'width': 1, 'channels': 1, 'mean': [4.0], 'deviation': [14**0.5],
        'white': 255.0}}
    assert data.splits['train'].known.tolist() == [True, True, True, False]

  def test_mean_and_deviation_from_counts_are_those_of_numpy(self):
    from sklearn.datasets import load_digits
    raw = load_digits().images
    data = images.dataset({'train': raw.astype(np.uint8)}, {'train': load_digits().target},
                          name='digits', classes=tuple('0123456789'), versions={})
    assert data.modality.mean == [raw.mean()]
    np.testing.assert_allclose(data.modality.deviation, raw.std(), rtol=4e-16)

  def test_a_sum_of_16_bit_pixels_is_exact(self):
    # 3,000,000 pixels of 65,535 or 65,533: the sum of their squares is beyond float64's integers.
    count = np.zeros(2**16, int)
    count[[65_533, 65_535]] = 1_500_000
    assert images.moments([count], 'toy') == ([65_534.0], [1.0])

  def test_pixels_of_8_and_16_bits_are_kept_as_they_are(self):
    for dtype in np.uint8, np.uint16:
      data = made(RAW.astype(dtype))
      assert data.modality.dtype == data.modality.fields['image'].dtype == np.dtype(dtype).name
      np.testing.assert_array_equal(stored(data.splits['train']), RAW.astype(dtype), strict=True)
    raw = np.ascontiguousarray(RAW)
    assert np.shares_memory(raw, images._check('toy', 'train', raw, LABELS, 4)[0])

  @pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.float32, np.float64])
  def test_the_type_of_the_pixels_changes_neither_hashes_nor_what_a_model_reads(self, dtype):
    first, other = made(parts={'test': 0.3}), made(RAW.astype(dtype), parts={'test': 0.3})
    assert other.fingerprint == first.fingerprint
    for split in 'train', 'test':
      for name, column in first.splits[split].index.items():
        np.testing.assert_array_equal(other.splits[split].index[name], column, strict=True)
      if dtype in (np.uint8, np.uint16):
        np.testing.assert_array_equal(standardised(other, split), standardised(first, split))
      else:         # of floating-point numbers the mean is not summed exactly
        np.testing.assert_allclose(
            standardised(other, split), standardised(first, split), rtol=1e-6)

  def test_every_channel_of_the_training_split_has_mean_0_and_deviation_1(self):
    data = made(parts={'test': 0.3})
    train = standardised(data).astype(np.float64)
    np.testing.assert_allclose(train.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(train.std((0, 1, 2)), 1, rtol=1e-6)
    # By the training split's numbers, so the test split's own are others.
    assert abs(standardised(data, 'test').mean()) > 1e-4

  def test_a_model_must_fit_channels_and_classes(self):
    assert made().sizes == {'channels': 2, 'classes': 4}
    assert made(RAW[..., 0]).sizes['channels'] == 1
    assert made().facts == {'channels': 2, 'classes': 4, 'names': tuple('abcd')}
    assert made().modality.noun == 'images'


class TestSplits:

  def test_parts_are_shares_of_the_training_images_and_every_image_is_in_one(self):
    raw = NOISE.integers(0, 256, (4000, 2, 2)).astype(np.uint8)
    data = made(raw, np.zeros(4000, int), parts={'test': 0.25, 'validation': 0.1})
    sizes = {name: len(split) for name, split in data.splits.items()}
    # Standard deviations of the counts: sqrt(4000 · 0.25 · 0.75) = 27 and 19.
    assert abs(sizes['test'] - 1000) < 110 and abs(sizes['validation'] - 400) < 76
    assert sum(sizes.values()) == 4000

  def test_a_part_does_not_depend_on_the_ones_after_it_nor_on_the_order(self):
    found = lambda data, name: {image.tobytes() for image in stored(data.splits[name])}
    single, both = made(parts={'test': 0.3}), made(parts={'test': 0.3, 'validation': 0.3})
    turned = made(RAW[::-1], LABELS[::-1], parts={'test': 0.3})
    assert len(single.splits['test']) == len(both.splits['test']) > 0
    assert len(found(single, 'test')) == len(single.splits['test'])
    assert found(single, 'test') == found(turned, 'test')
    assert (single.splits['test'].index['label'] == both.splits['test'].index['label']).all()

  def test_equal_images_stay_together(self):
    data = made(np.repeat(RAW, 3, 0), np.repeat(LABELS, 3), parts={'test': 0.4})
    for split in data.splits.values():
      _, counts = np.unique(stored(split), axis=0, return_counts=True)
      assert (counts % 3 == 0).all()

  def test_who_is_held_out_says_nothing_about_whose_label_is_seen(self):
    raw = NOISE.integers(0, 256, (4000, 2, 2)).astype(np.uint8)
    data = made(raw, np.zeros(4000, int), parts={'test': 0.5})
    for split in data.splits.values():
      place = split.index['hash01']
      assert abs((place < 0.5).mean() - 0.5) < 0.06 and 0 <= place.min() <= place.max() < 1

  def test_the_fingerprint_is_of_pixels_labels_classes_and_splits(self):
    first = made()
    other = RAW.copy()
    other[7, 0, 0, 0] ^= 1
    labels = np.where(np.arange(40) == 7, (LABELS + 1) % 4, LABELS)
    assert first.fingerprint == made(RAW.astype(np.float64)).fingerprint
    changed = [made(other), made(labels=labels), made(classes=tuple('abdc')),
               made(parts={'test': 0.3}), made(parts={'validation': 0.3})]
    assert len({data.fingerprint for data in (first, *changed)}) == 6


class TestBatches:
  split = made(labels=[*LABELS[:-1], -1]).splits['train']

  def test_hold_an_image_s_fields_and_empty_rows(self):
    found = list(batches.in_order(self.split, batch_size=16))
    assert [batch['valid'].sum() for batch in found] == [16, 16, 8]
    last = found[-1]
    assert {name: (x.shape, x.dtype.name) for name, x in last.items()} == {
        'id': ((16,), 'int32'), 'image': ((16, 3, 5, 2), 'uint8'), 'label': ((16,), 'int32'),
        'labelled': ((16,), 'float32'), 'valid': ((16,), 'float32')}
    assert last['id'].tolist() == [*range(32, 40)] + [-1] * 8
    np.testing.assert_array_equal(last['image'][:8], RAW[32:])
    assert not last['image'][8:].any() and last['label'][7:].tolist() == [-1] * 9
    assert last['labelled'].tolist() == [1] * 7 + [0] * 9

  def test_are_a_function_of_seed_and_place_and_resume(self):
    how = dict(batch_size=6, steps=30, labelled=0.5, drawn=0.3)
    ds = batches.shuffled(self.split, seed=0, **how)
    straight = list(ds)
    assert all(same(ds[i], straight[i]) for i in reversed(range(30)))
    assert all(same(ds[13:][i], straight[13 + i]) for i in range(17))
    assert not same(straight[0], batches.shuffled(self.split, seed=1, **how)[0])

  def test_an_epoch_shows_every_image_once(self):
    steps = batches.epoch_steps(self.split, batch_size=6)
    ds = batches.shuffled(self.split, batch_size=6, seed=3, steps=2 * steps)
    for epoch in (range(steps), range(steps, 2 * steps)):
      shown = [i for k in epoch for i in ds[k]['id'].tolist() if i >= 0]
      assert sorted(shown) == list(range(40))

  def test_are_drawn_from_labelled_images(self):
    seen = set(np.flatnonzero(self.split.known & (self.split.index['hash01'] < 0.4)).tolist())
    assert 4 < len(seen) < 30
    for batch in batches.shuffled(self.split, batch_size=8, seed=0, steps=20, labelled=0.4,
                                  drawn=0.5):
      assert set(batch['id'][-4:].tolist()) <= seen and batch['labelled'][-4:].all()
      assert all((k == 1) == (i in seen) for i, k in zip(
          batch['id'].tolist(), batch['labelled'].tolist(), strict=True))

  def test_processes_build_their_rows_of_the_same_batches(self):
    how = dict(batch_size=4, seed=0, steps=11, labelled=0.5, drawn=0.3)
    whole = batches.shuffled(self.split, **how)
    for rows in [0, 1], [2, 3]:
      local = batches.shuffled(self.split, rows=np.array(rows), **how)
      assert all(same(local[i], {name: x[rows] for name, x in whole[i].items()}) for i in range(11))

  def test_have_no_widths_and_no_padding(self):
    assert batches.axis_widths(self.split) == batches.axis_widths(self.split, ()) == {}
    assert batches.padding_share(self.split) is None
    with pytest.raises(ValueError, match='the examples have one size'):
      batches.shuffled(self.split, batch_size=2, seed=0, steps=1, widths=(8,))

  def test_an_empty_split_is_refused(self):
    empty = self.split.subset(np.arange(0))
    with pytest.raises(ValueError, match='empty'):
      batches.in_order(empty, batch_size=2)


class TestHostileInput:

  @pytest.mark.parametrize(('raw', 'labels', 'line'), [
      (RAW[0, 0], LABELS[:5], 'not numbers [n h w]'),
      (np.array([['a']] * 4)[None], [0], 'not numbers [n h w]'),
      (np.zeros((4, 0, 3)), LABELS[:4], 'not numbers [n h w]'),
      (RAW, LABELS[:9], 'labels are int64[9], not a class for each of 40'),
      (RAW, LABELS + 0.5, 'labels are float64[40]'),
      (RAW, np.where(np.arange(40) == 3, 4, LABELS), 'image 3 has label 4, outside the 4 classes'),
      (RAW, LABELS - 2, 'image 0 has label -2'),
      (np.where(np.arange(40)[:, None, None, None] == 2, np.nan, RAW), LABELS,
       'image 2 has pixels that are not finite'),
      (np.where(np.arange(2) == 1, 7, RAW), LABELS, 'channel 1 is 7 in all training images'),
      (RAW[:0], LABELS[:0], 'there is no training image'),
  ])
  def test_what_is_no_data_is_named(self, raw, labels, line):
    with pytest.raises(Stop) as stop:
      made(raw, labels)
    assert stop.value.status == Status.DATA and line in str(stop.value)

  def test_splits_of_several_sizes_are_refused(self):
    with pytest.raises(Stop, match=r'differ in size or type: train \[3, 5, 2\] uint8, test '
                       r'\[3, 4, 2\] uint8'):
      images.dataset({'train': RAW, 'test': RAW[:, :, 1:]}, {'train': LABELS, 'test': LABELS},
                     name='toy', classes=tuple('abcd'), versions={})

  @pytest.mark.parametrize('parts', [{'test': 1.0}, {'test': -0.1}, {'test': 0.6, 'more': 0.4},
                                     {'train': 0.1}])
  def test_parts_that_are_no_shares_are_refused(self, parts):
    with pytest.raises(ValueError, match=list(parts)[0]):
      made(parts=parts)

  def test_a_single_image_that_is_held_out_leaves_none(self):
    lone = next(RAW[i:i + 1] for i in range(40)
                if images.hash01(RAW[i:i + 1].astype('<f4'), b'parts')[0] < 0.5)
    with pytest.raises(Stop, match='test=0.5 leave no image'):
      made(lone, [0], parts={'test': 0.5})
