import numpy as np
import pytest

from distill.data import digits


def test_they_are_scikit_learn_s():
  from sklearn.datasets import load_digits
  theirs, data = load_digits(), digits.Digits()
  assert {name: len(split) for name, split in data.splits.items()} == {'train': 1327, 'test': 470}
  assert data.names == tuple(map(str, theirs.target_names)) and data.modality.white == 16
  raw = {}
  for split in data.splits.values():
    pixels = split.fetch(np.arange(len(split)))['image'][..., 0]
    for image, label in zip(pixels, split.index['label'], strict=True):
      raw.setdefault((image.astype(int).tobytes(), int(label)), 0)
  assert raw.keys() == {(image.astype(int).tobytes(), int(label)) for image, label in zip(
      theirs.images, theirs.target, strict=True)}


def test_every_split_has_every_class():
  for split in digits.Digits(validation=0.1).splits.values():
    assert (np.bincount(split.index['label'], minlength=10) > 5).all()


def test_a_validation_split_leaves_the_test_split_as_it_is():
  without, with_it = digits.Digits(), digits.Digits(validation=0.1)
  assert len(with_it.splits['validation']) == 173
  assert np.array_equal(*(d.splits['test'].index['hash01'] for d in (without, with_it)))
  assert without.fingerprint != with_it.fingerprint


def test_the_second_time_scikit_learn_is_not_asked(tmp_path, monkeypatch):
  first = digits.Digits(cache=str(tmp_path))
  monkeypatch.setattr(digits, '_read', None)
  assert digits.Digits(cache=str(tmp_path)).fingerprint == first.fingerprint


@pytest.mark.parametrize('share', [1.0, -0.5])
def test_a_share_out_of_range_is_named(share):
  with pytest.raises(ValueError, match=f'test={share}'):
    digits.Digits(test=share)
