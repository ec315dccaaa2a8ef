import numpy as np
import pytest
from scipy import stats

from distill.measure import quality
from distill.tasks.regression import Regression

TASK = Regression()


def records(label, prediction):
  return {'id': np.arange(len(label), dtype=np.int32), 'label': np.array(label, np.float32),
          'prediction': np.array(prediction, np.float32)}


def batch(n, **fields):
  return {'id': np.arange(n), 'label': np.zeros(n), 'valid': np.ones(n)} | fields


def kept(task, outputs, batch):
  """The records of a batch for which a model has these outputs."""
  return task.records(task.measure(lambda asked: outputs, batch), batch)


class TestRecords:

  def test_by_hand(self):
    # The second row only fills the batch.
    found = kept(TASK, {'logits': np.array([[2.5], [9.], [-1.]], np.float32)},
                         batch(3, id=[7, 8, 9], label=[2., 0., 4.8], valid=[1., 0., 1.]))
    np.testing.assert_array_equal(found['id'], [7, 9])
    np.testing.assert_array_equal(found['label'], np.float32([2., 4.8]))
    np.testing.assert_array_equal(found['prediction'], [2.5, -1.])
    assert {name: v.dtype.name for name, v in found.items()} == {
        'id': 'int32', 'label': 'float32', 'prediction': 'float32'}
    assert all(v.shape == (2,) for v in found.values())

  @pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
  def test_a_logit_that_is_not_finite_is_refused_by_the_id_of_its_example(self, bad):
    with pytest.raises(ValueError, match='example 12 '):
      kept(TASK, {'logits': np.array([[0.], [bad]])}, batch(2, id=[11, 12]))

  def test_a_bad_logit_of_a_row_that_only_fills_the_batch_does_not_matter(self):
    found = kept(TASK, {'logits': np.array([[1.], [np.nan]])}, batch(2, valid=[1., 0.]))
    assert len(found['id']) == 1

  @pytest.mark.parametrize('shape', [(3, 2), (3,), (3, 1, 1)])
  def test_a_head_of_another_size_is_refused(self, shape):
    with pytest.raises(ValueError, match=r'not \[b 1\]'):
      kept(TASK, {'logits': np.zeros(shape)}, batch(3))


class TestScore:

  def test_by_hand(self):
    # Deviations (−1, 0, 1) and (−1, 1, 0): covariance 1, variances 2 and 2. Ranks 1, 2, 3 and
    # 1, 3, 2 are the same numbers. Squared errors 0, 1, 1.
    found = TASK.score(records([1, 2, 3], [1, 3, 2]))
    assert found == pytest.approx({'pearson': 0.5, 'spearman': 0.5, 'mse': 2 / 3})

  def test_ties_have_the_mean_of_their_ranks(self):
    # Ranks 1, 2.5, 2.5, 4 and 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    found = TASK.score(records([0, 1, 1, 9], [0, 1, 2, 3]))
    assert found['spearman'] == pytest.approx(4.5 / (4.5 * 5)**0.5)

  @pytest.mark.parametrize('seed', range(6))
  def test_equals_scipy(self, seed):
    random = np.random.default_rng(seed)
    label = random.integers(6, size=40).astype(np.float32)              # many ties
    prediction = (label + random.normal(size=40)).round(seed % 2)       # ties for even seeds
    found = TASK.score(records(label, prediction))
    prediction = prediction.astype(np.float32)
    assert found['pearson'] == pytest.approx(stats.pearsonr(label, prediction).statistic, abs=1e-6)
    assert found['spearman'] == pytest.approx(stats.spearmanr(label, prediction).statistic)
    assert found['mse'] == pytest.approx(np.mean((label - prediction)**2))

  @pytest.mark.parametrize('label, prediction', [
      ([1, 2, 3], [0.1, 0.1, 0.1]), ([4, 4, 4], [1, 2, 3]), ([4, 4], [4, 4]), ([3], [3])])
  def test_what_is_constant_correlates_with_nothing(self, label, prediction):
    # 0.1 isn't a sum of powers of 2: its rounded mean leaves something to correlate.
    found = TASK.score(records(label, prediction))
    assert found['pearson'] == found['spearman'] == 0 and np.isfinite(found['mse'])

  @pytest.mark.parametrize('scale', [1e-44, 1e-20, 1e20, 1e38])
  def test_a_correlation_does_not_depend_on_the_scale(self, scale):
    label = np.array([1., 3., 2., 0.])
    found = TASK.score(records(label, label * scale))
    assert found['pearson'] == pytest.approx(1, abs=0.1 if scale < 1e-40 else 1e-6)
    assert found['spearman'] == pytest.approx(1)

  def test_a_rising_function_keeps_the_ranks_and_not_the_line(self):
    label = np.linspace(0, 5, 20)
    found = TASK.score(records(label, np.exp(label)))
    assert found['spearman'] == pytest.approx(1) and found['pearson'] < 0.9
    assert TASK.score(records(label, -label))['pearson'] == pytest.approx(-1)

  def test_no_correlation_is_beyond_one(self):
    random = np.random.default_rng(0)
    for _ in range(100):
      label = random.normal(size=3)
      found = TASK.score(records(label, 3 * label + 7))
      assert found['pearson'] <= 1 and found['spearman'] <= 1

  def test_no_records_are_refused(self):
    with pytest.raises(ValueError, match='no records'):
      TASK.score(records([], []))

  @pytest.mark.parametrize('label, prediction, line', [
      ([0, np.nan], [0, 0], 'example 1: label nan'), ([0, 0], [0, np.inf], '1: prediction inf')])
  def test_what_is_no_number_is_refused_by_the_id_of_its_example(self, label, prediction, line):
    with pytest.raises(ValueError, match=line):
      TASK.score(records(label, prediction))

  def test_every_metric_says_its_unit_and_direction(self):
    assert set(TASK.score(records([0, 1], [1, 2]))) == set(TASK.metrics)
    assert TASK.primary in TASK.metrics
    assert [name for name, about in TASK.metrics.items() if about['higher_is_better']] == [
        'pearson', 'spearman']


class TestQuality:

  def test_intervals_of_few_examples_are_numbers(self):
    # Some resamples of three examples are one example thrice: nothing is defined there.
    found = quality.score(TASK, records([1, 2, 3], [1, 2, 4]), resamples=200).metrics
    assert all(np.isfinite([q['low'], q['value'], q['high']]).all() for q in found.values())
    assert found['spearman']['low'] == 0

  def test_less_error_is_a_gain(self):
    label = np.arange(50.) % 7
    found = quality.gain(*(quality.score(TASK, records(label, label + error))
                           for error in (0.1, 1)))
    assert found['mse']['value'] == pytest.approx(0.99, abs=1e-5) and found['mse']['low'] > 0


def test_a_task_for_classes_and_a_metric_that_is_not_there_are_refused():
  with pytest.raises(ValueError, match='classes=3.*classification.Classification'):
    Regression(classes=3)
  with pytest.raises(ValueError, match="primary='pearsn' is no metric; did you mean 'pearson'"):
    Regression(primary='pearsn')
  assert Regression(primary='mse').primary == 'mse'


def test_an_answer_is_the_number_rounded_to_four_places():
  assert TASK.answer({'logits': np.array([2.123449], np.float32)}) == {'value': 2.1234}


def test_the_slope_is_that_of_half_the_squared_error_by_finite_differences():
  random = np.random.default_rng(0)
  logits, label = random.normal(size=(9, 1)), random.normal(size=9)
  found = kept(TASK, {'logits': logits}, batch(9, label=label))
  loss = lambda z: (z[:, 0] - label)**2 / 2
  slope = (loss(logits + 1e-4) - loss(logits - 1e-4)) / 2e-4
  np.testing.assert_allclose(TASK.explain.slope(found)[:, 0], slope, atol=1e-6)
  assert TASK.explain.target is None and TASK.explain.columns == 1


def test_bootstrap_scores_every_resample():
  random = np.random.default_rng(0)
  whole = records(random.normal(size=30), random.normal(size=30))
  resamples = [random.integers(30, size=30) for _ in range(7)]
  found = TASK.bootstrap(whole, iter(resamples))
  assert found.keys() == TASK.metrics.keys()
  for i, rows in enumerate(resamples):
    resample = records(whole['label'][rows], whole['prediction'][rows])
    assert {name: values[i] for name, values in found.items()} == TASK.score(resample)
