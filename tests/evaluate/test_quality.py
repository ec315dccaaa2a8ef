import time

import numpy as np
import pytest

from distill.evaluate import quality
from distill.tasks.classification import Classification

BINARY = Classification(classes=2)


def records(right, ids=None, classes=2):
  """Records of class 1 throughout, predicted right or wrong as `right` says."""
  right = np.asarray(right, bool)
  return {'id': np.arange(len(right)) if ids is None else np.asarray(ids),
          'label': np.ones(len(right), np.int32), 'prediction': right.astype(np.int32),
          'probabilities': np.full((len(right), classes), 1 / classes, np.float32)}


class Error:
  """A task where less is better: the mean absolute error."""
  metrics = {'error': {'unit': 'm', 'higher_is_better': False}}

  def score(self, found):
    return {'error': float(np.mean(np.abs(found['label'] - found['prediction'])))}


class TestIntervals:

  def test_is_what_the_report_wants(self):
    found = quality.intervals(BINARY, records([1, 1, 0, 1]))['accuracy']
    assert found['value'] == 0.75 and found['low'] <= 0.75 <= found['high']
    assert (found['n'], found['unit'], found['higher_is_better']) == (4, 'fraction', True)
    assert all(type(found[name]) is float for name in ('value', 'low', 'high'))

  def test_width_is_the_binomial_one(self):
    # 400 examples, 80 % right: standard error √(0.8 · 0.2 / 400) = 0.02, so ± 1.96 · 0.02.
    found = quality.intervals(BINARY, records([1] * 320 + [0] * 80), resamples=4000)['accuracy']
    assert found['low'] == pytest.approx(0.8 - 0.0392, abs=0.004)
    assert found['high'] == pytest.approx(0.8 + 0.0392, abs=0.004)

  def test_covers_the_truth_as_often_as_it_says(self):
    # 150 samples of 100 examples, each right with probability 0.7. The percentile interval covers
    # 0.7 in about 94 % of samples at this size; below 86 % or always would be far outside noise.
    random, covered = np.random.default_rng(0), []
    for seed in range(150):
      found = quality.intervals(BINARY, records(random.random(100) < 0.7), resamples=200,
                                seed=seed)['accuracy']
      covered.append(found['low'] <= 0.7 <= found['high'])
    assert 0.86 < np.mean(covered) < 1

  def test_is_the_same_for_the_same_seed_and_another_for_another(self):
    found = records(np.arange(50) % 3 > 0)
    first, again, other = (quality.intervals(BINARY, found, resamples=50, seed=seed)
                           for seed in (0, 0, 1))
    assert first == again != other

  def test_a_perfect_model_has_no_width(self):
    found = quality.intervals(BINARY, records([1, 1, 1]))['accuracy']
    assert (found['low'], found['value'], found['high']) == (1, 1, 1)

  def test_refuses_no_records_and_no_resamples(self):
    with pytest.raises(ValueError, match='no records'):
      quality.intervals(BINARY, records([]))
    with pytest.raises(ValueError, match='resamples=0'):
      quality.intervals(BINARY, records([1]), resamples=0)

  def test_three_models_of_2800_examples_take_two_seconds_at_most(self):
    random = np.random.default_rng(0)
    task, models = Classification(classes=9), []
    for _ in range(3):
      label = random.integers(9, size=2800).astype(np.int32)
      models.append({'id': np.arange(2800), 'label': label, 'prediction': label[::-1],
                     'probabilities': np.full((2800, 9), 1 / 9, np.float32)})
    start = time.process_time()
    for found in models:
      quality.intervals(task, found)
    assert time.process_time() - start < 2


class TestGain:

  def test_by_hand(self):
    # 3 of 4 right against 1 of 4.
    found = quality.gain(BINARY, records([1, 1, 0, 1]), records([0, 1, 0, 0]))['accuracy']
    assert found['value'] == 0.5 and found['low'] <= 0.5 <= found['high']

  def test_pairs_examples_by_id_whatever_their_order(self):
    # The same answers in another order: every resample's difference is exactly zero.
    right = np.arange(40) % 3 > 0
    order = np.random.default_rng(0).permutation(40)
    found = quality.gain(BINARY, records(right), records(right[order], ids=order))
    assert found['accuracy'] == {'value': 0, 'low': 0, 'high': 0}

  def test_pairing_makes_the_interval_narrower_than_either_models(self):
    # The models differ on 4 of 200 examples: sd of the difference √(0.02/200) = 0.01, while each
    # model alone has √(0.5 · 0.5 / 200) = 0.035.
    right = np.arange(200) % 2 > 0
    better = right.copy()
    better[:8:2] = True
    found = quality.gain(BINARY, records(better), records(right))['accuracy']
    assert found['value'] == pytest.approx(0.02) and 0 <= found['low'] < found['high'] < 0.05

  def test_better_is_positive_where_less_is_better(self):
    close, far = records([1, 1, 1, 0]), records([0, 0, 0, 0])
    assert quality.gain(Error(), close, far)['error']['value'] == 0.75
    assert quality.gain(Error(), far, close)['error']['value'] == -0.75

  @pytest.mark.parametrize('ids', [[0, 1, 3], [0, 1]])
  def test_refuses_other_examples(self, ids):
    with pytest.raises(ValueError, match='different examples'):
      quality.gain(BINARY, records([1, 0, 1]), records([1] * len(ids), ids=ids))

  def test_refuses_an_example_that_is_there_twice(self):
    twice = records([1, 0, 1], ids=[0, 1, 1])
    with pytest.raises(ValueError, match='twice'):
      quality.gain(BINARY, twice, twice)

  def test_refuses_other_labels(self):
    other = records([1, 0])
    other['label'] = np.array([1, 0], np.int32)
    with pytest.raises(ValueError, match='labels'):
      quality.gain(BINARY, records([1, 0]), other)


def test_retention_is_the_share_that_is_left_in_either_direction():
  found = lambda value, up: {'m': {'value': value, 'higher_is_better': up}}
  assert quality.retention(found(0.6, True), found(0.8, True))['m'] == pytest.approx(0.75)
  assert quality.retention(found(4.0, False), found(3.0, False))['m'] == pytest.approx(0.75)
  assert quality.retention(found(0.0, True), found(0.8, True))['m'] == 0
  for ours, theirs in (0.6, 0.0), (0.6, -0.1), (-0.1, 0.6), (-0.2, -0.1):
    assert quality.retention(found(ours, True), found(theirs, True))['m'] is None
  assert quality.retention(found(0.0, False), found(3.0, False))['m'] is None
