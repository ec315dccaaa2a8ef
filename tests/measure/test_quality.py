import functools
import time
import types
import warnings

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics
from sklearn.dummy import DummyClassifier, DummyRegressor

from distill import tasks
from distill.measure import quality
from distill.tasks.classification import Classification
from distill.tasks.regression import Regression

BINARY = Classification(classes=2)


def records(right, ids=None, classes=2):
  """Records of class 1 throughout, predicted right or wrong as `right` says."""
  right = np.asarray(right, bool)
  return {'id': np.arange(len(right)) if ids is None else np.asarray(ids),
          'label': np.ones(len(right), np.int32), 'prediction': right.astype(np.int32),
          'probabilities': np.full((len(right), classes), 1 / classes, np.float32)}


def classes(label, prediction, n=3):
  label, prediction = np.array(label, np.int32), np.array(prediction, np.int32)
  return {'id': np.arange(len(label)), 'label': label, 'prediction': prediction,
          'probabilities': np.full((len(label), n), 1 / n)}


def numbers(label, prediction):
  return {'id': np.arange(len(label)), 'label': np.array(label), 'prediction': np.array(prediction)}


class Error:
  """A task where less is better: the mean absolute error."""
  metrics = {'error': {'unit': 'm', 'higher_is_better': False}}

  def score(self, found):
    return {'error': float(np.mean(np.abs(found['label'] - found['prediction'])))}

  def bootstrap(self, found, resamples):
    return tasks.score_resamples(self.score, found, resamples)


def intervals(task, found, **how):
  return quality.score(task, found, **how).metrics


def gain(task, ours, theirs, **how):
  """As a report makes it, of records in any order."""
  return quality.gain(*(quality.score(task, each, **how)
                        for each in quality.align(ours, theirs)))


def drawn_by_scipy(data, statistic, resamples, seed):
  """The percentile interval of `scipy.stats.bootstrap`, paired."""
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')           # it warns where all draws are alike
    return stats.bootstrap(
        data, statistic, paired=True, vectorized=False, method='percentile',
        n_resamples=resamples, rng=np.random.default_rng(seed)).confidence_interval


class TestIntervals:

  def test_is_what_the_report_wants(self):
    found = intervals(BINARY, records([1, 1, 0, 1]))['accuracy']
    assert found['value'] == 0.75 and found['low'] <= 0.75 <= found['high']
    assert (found['n'], found['unit'], found['higher_is_better']) == (4, 'fraction', True)
    assert all(type(found[name]) is float for name in ('value', 'low', 'high'))

  def test_width_is_the_binomial_one(self):
    # 400 examples, 80 % right: standard error √(0.8 · 0.2 / 400) = 0.02, so ± 1.96 · 0.02.
    found = intervals(BINARY, records([1] * 320 + [0] * 80), resamples=4000)['accuracy']
    assert found['low'] == pytest.approx(0.8 - 0.0392, abs=0.004)
    assert found['high'] == pytest.approx(0.8 + 0.0392, abs=0.004)

  @pytest.mark.parametrize('right', [np.arange(70) % 3 > 0, [1] * 9, [0, 1]])
  def test_is_scipys(self, right):
    # With the same generator scipy draws the same rows.
    found = intervals(BINARY, records(right), resamples=300, seed=5)['accuracy']
    theirs = drawn_by_scipy((np.array(right, float),), np.mean, 300, 5)
    assert (found['low'], found['high']) == pytest.approx(tuple(theirs))

  def test_covers_the_truth_as_often_as_it_says(self):
    # 150 samples of 100 examples, each right with probability 0.7. The percentile interval covers
    # 0.7 in about 94 % of samples at this size; below 86 % or always would be far outside noise.
    random, covered = np.random.default_rng(0), []
    for seed in range(150):
      found = intervals(BINARY, records(random.random(100) < 0.7), resamples=200,
                                seed=seed)['accuracy']
      covered.append(found['low'] <= 0.7 <= found['high'])
    assert 0.86 < np.mean(covered) < 1

  def test_is_the_same_for_the_same_seed_and_another_for_another(self):
    found = records(np.arange(50) % 3 > 0)
    first, again, other = (intervals(BINARY, found, resamples=50, seed=seed)
                           for seed in (0, 0, 1))
    assert first == again != other

  def test_a_perfect_model_has_no_width(self):
    found = intervals(BINARY, records([1, 1, 1]))['accuracy']
    assert (found['low'], found['value'], found['high']) == (1, 1, 1)

  def test_refuses_no_records_and_no_resamples(self):
    with pytest.raises(ValueError, match='no records'):
      intervals(BINARY, records([]))
    with pytest.raises(ValueError, match='resamples=0'):
      intervals(BINARY, records([1]), resamples=0)

  def test_three_models_of_2800_examples_take_two_seconds_at_most(self):
    random = np.random.default_rng(0)
    task, models = Classification(classes=9), []
    for _ in range(3):
      label = random.integers(9, size=2800).astype(np.int32)
      models.append({'id': np.arange(2800), 'label': label, 'prediction': label[::-1],
                     'probabilities': np.full((2800, 9), 1 / 9, np.float32)})
    start = time.process_time()
    for found in models:
      intervals(task, found)
    assert time.process_time() - start < 2


class TestGain:

  def test_by_hand(self):
    # 3 of 4 right against 1 of 4.
    found = gain(BINARY, records([1, 1, 0, 1]), records([0, 1, 0, 0]))['accuracy']
    assert found['value'] == 0.5 and found['low'] <= 0.5 <= found['high']

  def test_pairs_examples_by_id_whatever_their_order(self):
    # The same answers in another order: every resample's difference is exactly zero.
    right = np.arange(40) % 3 > 0
    order = np.random.default_rng(0).permutation(40)
    found = gain(BINARY, records(right), records(right[order], ids=order))
    assert found['accuracy'] == {'value': 0, 'low': 0, 'high': 0}

  def test_pairing_makes_the_interval_narrower_than_either_models(self):
    # The models differ on 4 of 200 examples: sd of the difference √(0.02/200) = 0.01, while each
    # model alone has √(0.5 · 0.5 / 200) = 0.035.
    right = np.arange(200) % 2 > 0
    better = right.copy()
    better[:8:2] = True
    found = gain(BINARY, records(better), records(right))['accuracy']
    assert found['value'] == pytest.approx(0.02) and 0 <= found['low'] < found['high'] < 0.05

  def test_is_scipys(self):
    random = np.random.default_rng(2)
    label, ours, theirs = random.normal(size=(3, 50))
    found = gain(Regression(), numbers(label, ours), numbers(label, theirs),
                 resamples=300, seed=5)['mse']
    gap = lambda y, a, b: np.mean((y - b)**2) - np.mean((y - a)**2)        # less is better
    assert found['value'] == pytest.approx(gap(label, ours, theirs))
    assert (found['low'], found['high']) == pytest.approx(
        tuple(drawn_by_scipy((label, ours, theirs), gap, 300, 5)))

  def test_better_is_positive_where_less_is_better(self):
    close, far = records([1, 1, 1, 0]), records([0, 0, 0, 0])
    assert gain(Error(), close, far)['error']['value'] == 0.75
    assert gain(Error(), far, close)['error']['value'] == -0.75

  @pytest.mark.parametrize('ids', [[0, 1, 3], [0, 1]])
  def test_refuses_other_examples(self, ids):
    with pytest.raises(ValueError, match='different examples'):
      quality.align(records([1, 0, 1]), records([1] * len(ids), ids=ids))

  def test_refuses_an_example_that_is_there_twice(self):
    twice = records([1, 0, 1], ids=[0, 1, 1])
    with pytest.raises(ValueError, match='twice'):
      quality.align(twice, twice)

  def test_refuses_other_labels(self):
    other = records([1, 0])
    other['label'] = np.array([1, 0], np.int32)
    with pytest.raises(ValueError, match='labels'):
      quality.align(records([1, 0]), other)


def test_retention_is_the_share_that_is_left_in_either_direction():
  found = lambda value, up: {'m': {'value': value, 'higher_is_better': up}}
  assert quality.retention(found(0.6, True), found(0.8, True))['m'] == pytest.approx(0.75)
  assert quality.retention(found(4.0, False), found(3.0, False))['m'] == pytest.approx(0.75)
  assert quality.retention(found(0.0, True), found(0.8, True))['m'] == 0
  for ours, theirs in (0.6, 0.0), (0.6, -0.1), (-0.1, 0.6), (-0.2, -0.1):
    assert quality.retention(found(ours, True), found(theirs, True))['m'] is None
  assert quality.retention(found(0.0, False), found(3.0, False))['m'] is None

class TestOverChance:

  def test_by_hand(self):
    # Three of four are class 1: always saying so is right in 3/4. A teacher with 19/20 leads by
    # 1/5, a student with 17/20 by 1/10: half of it is left.
    metric = lambda value: {'accuracy': {'value': value, 'higher_is_better': True}}
    chance = quality.chance_level(BINARY, classes([1, 1, 0, 1], [0, 0, 0, 0], 2))
    assert chance['accuracy'] == 0.75 and chance['mcc'] == 0
    found = quality.retention_over_chance(metric(.85), metric(.95), chance)
    assert found['accuracy'] == {'value': pytest.approx(0.5), 'chance': 0.75}
    assert quality.retention_over_chance(metric(.65), metric(.95), chance)['accuracy']['value'] == (
        pytest.approx(-0.5))
    found = quality.retention_over_chance(metric(.85), metric(.75), chance)
    assert found['accuracy']['value'] is None

  def test_of_errors_less_is_more(self):
    # Labels 0 and 2: their mean, 1, has an error of 1. The teacher's is 0.2, the student's 0.6.
    task = Regression()
    chance = quality.chance_level(task, {
        'id': np.arange(2), 'label': np.array([0, 2.], np.float32),
        'prediction': np.zeros(2, np.float32)})
    assert chance == {'pearson': 0, 'spearman': 0, 'mse': 1}
    metric = lambda value: {'mse': {'value': value, 'higher_is_better': False}}
    assert quality.retention_over_chance(metric(.6), metric(.2), chance)['mse']['value'] == (
        pytest.approx(0.5))
    assert quality.retention_over_chance(metric(.6), metric(1.5), chance)['mse']['value'] is None

  def test_chance_is_scikit_learns_dummy(self):
    random = np.random.default_rng(0)
    x, task = np.zeros((60, 1)), Classification(classes=4)
    for label in random.integers(4, size=60), np.full(60, 2), np.arange(60) % 4:
      dummy = DummyClassifier(strategy='most_frequent').fit(x, label).predict(x)
      assert quality.chance_level(task, classes(label, random.integers(4, size=60), 4)) == (
          task.score(classes(label, dummy, 4)))
    label = random.normal(size=60)
    dummy = DummyRegressor().fit(x, label).predict(x)
    assert quality.chance_level(Regression(), numbers(label, label))['mse'] == pytest.approx(
        metrics.mean_squared_error(label, dummy))

  def test_words_have_no_answer_that_is_always_the_same(self):
    class Words:
      constant = None
    assert quality.chance_level(Words(), {}) is None


class TestPerClass:

  def test_by_hand(self):
    # Of three 0s two are taken for 0 and one for 1; the 1 is taken for 0; there is no 2 anywhere.
    found = quality.per_class(classes([0, 0, 0, 1], [0, 0, 1, 0]), ('a', 'b', 'c'))
    two_thirds = pytest.approx(2 / 3)
    assert [{**row, 'f1': row['f1']['value']} for row in found] == [
        {'name': 'a', 'precision': two_thirds, 'recall': two_thirds, 'f1': two_thirds,
         'support': 3},
        {'name': 'b', 'precision': 0, 'recall': 0, 'f1': 0, 'support': 1},
        {'name': 'c', 'precision': 0, 'recall': 0, 'f1': 0, 'support': 0}]
    assert found[2]['f1'] == {'value': 0, 'low': 0, 'high': 0}

  @pytest.mark.parametrize(('label', 'prediction'), [
      *np.random.default_rng(0).integers(5, size=(4, 2, 40)),
      ([2] * 5, [2] * 5), ([2] * 5, [0] * 5), ([0, 1, 2, 3, 4], [1, 2, 3, 4, 0]), ([3], [3])])
  def test_is_scikit_learns(self, label, prediction):
    found = quality.per_class(classes(label, prediction, 5), tuple('abcde'), resamples=3)
    precision, recall, f1, support = metrics.precision_recall_fscore_support(
        label, prediction, labels=range(5), zero_division=0)
    np.testing.assert_allclose([row['precision'] for row in found], precision)
    np.testing.assert_allclose([row['recall'] for row in found], recall)
    np.testing.assert_allclose([row['f1']['value'] for row in found], f1)
    assert [row['support'] for row in found] == support.tolist()

  def test_an_interval_is_that_of_the_same_draws_as_all_others(self):
    # Of two classes F1 of class 1 is a metric of the task, too.
    random = np.random.default_rng(1)
    found = classes(random.integers(2, size=90), random.integers(2, size=90), 2)
    wanted = intervals(BINARY, found, resamples=200, seed=3)['f1']
    assert quality.per_class(found, ('no', 'yes'), resamples=200, seed=3)[1]['f1'] == {
        name: pytest.approx(wanted[name]) for name in ('value', 'low', 'high')}

  def test_what_is_no_class_and_nothing_are_refused(self):
    with pytest.raises(ValueError, match='no records'):
      quality.per_class(classes([], []), ('a', 'b', 'c'))
    for bad in -1, 3:
      with pytest.raises(ValueError, match='a label that is not among the 3 classes'):
        quality.per_class(classes([0, bad], [0, 0]), ('a', 'b', 'c'))
      with pytest.raises(ValueError, match='a prediction that is not among the 3 classes'):
        quality.per_class(classes([0, 0], [0, bad]), ('a', 'b', 'c'))


@pytest.mark.parametrize('higher', [True, False])
def test_the_intervals_of_what_is_kept_are_those_of_paired_resamples(higher):
  """Held against a loop over the same draws; of equal models everything is kept at every draw."""
  noise = np.random.default_rng(1)
  values = {name: noise.uniform(1, 2, 30) for name in ('ours', 'theirs')}
  records = {name: {'id': np.arange(30), 'label': np.zeros(30), 'value': v}
             for name, v in values.items()}
  score = lambda records: {'m': float(records['value'].mean())}
  task = types.SimpleNamespace(
      metrics={'m': {'unit': '', 'higher_is_better': higher}}, primary='m', constant=None,
      score=score, bootstrap=functools.partial(tasks.score_resamples, score))
  chance = {'m': 0.5 if higher else 3.0}
  ours, theirs = (quality.score(task, records[name], resamples=200)
                  for name in ('ours', 'theirs'))
  kept, led = quality.retention_intervals(ours, theirs, chance)
  draws = np.random.default_rng(0)
  means = np.array([[values[name][rows].mean() for name in ('ours', 'theirs')]
                    for rows in (draws.integers(30, size=30) for _ in range(200))])
  ratio = means[:, 0] / means[:, 1] if higher else means[:, 1] / means[:, 0]
  over = (means[:, 0] - chance['m']) / (means[:, 1] - chance['m'])
  for found, expected in ((kept, ratio), (led, over)):
    np.testing.assert_allclose([found['m']['low'], found['m']['high']],
                               np.percentile(expected, [2.5, 97.5]))
  kept, led = quality.retention_intervals(ours, ours, chance)
  assert kept['m'] == led['m'] == {'low': 1, 'high': 1}
  around_0 = {**records['theirs'], 'value': values['theirs'] - 1.5}
  kept, led = quality.retention_intervals(ours, quality.score(task, around_0, resamples=200), None)
  assert kept == {'m': None} and led == {}
