import json
import warnings

import numpy as np
import pytest
from scipy import special

from distill.tasks.classification import Classification


def records(label, prediction, classes=3):
  label, prediction = np.array(label, np.int32), np.array(prediction, np.int32)
  return {'id': np.arange(len(label), dtype=np.int32), 'label': label, 'prediction': prediction,
          'probabilities': np.full((len(label), classes), 1 / classes, np.float32)}


def batch(n, **fields):
  return {'id': np.arange(n), 'label': np.zeros(n), 'valid': np.ones(n)} | fields


def kept(task, outputs, batch):
  """The records of a batch for which a model has these outputs."""
  return task.records(task.measure(lambda asked: outputs, batch), batch)


class TestRecords:

  def test_by_hand(self):
    # softmax of (ln 1, ln 3) is (1/4, 3/4); the second row only fills the batch.
    logits = np.log([[1., 3.], [1., 1.], [4., 1.]]).astype(np.float32)
    found = kept(Classification(classes=2), {'logits': logits},
                 batch(3, id=[7, 8, 9], label=[1, 0, 1], valid=[1., 0., 1.]))
    np.testing.assert_array_equal(found['id'], [7, 9])
    np.testing.assert_array_equal(found['label'], [1, 1])
    np.testing.assert_array_equal(found['prediction'], [1, 0])
    np.testing.assert_allclose(found['probabilities'], [[.25, .75], [.8, .2]], rtol=1e-6)
    assert {name: v.dtype.name for name, v in found.items()} == {
        'id': 'int32', 'label': 'int32', 'prediction': 'int32', 'probabilities': 'float32'}

  def test_equals_scipy_and_of_equal_logits_takes_the_first(self):
    logits = np.random.default_rng(0).normal(scale=20, size=(30, 5)).astype(np.float32)
    logits[::3] = logits[::3].round(-1)                     # ties
    found = kept(Classification(classes=5), {'logits': logits}, batch(30))
    wanted = special.softmax(logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(found['probabilities'], wanted, rtol=1e-6)
    np.testing.assert_array_equal(found['prediction'], [row.index(max(row)) for row in
                                                        logits.tolist()])

  def test_huge_logits_give_probabilities(self):
    found = kept(Classification(classes=2), {'logits': np.array([[1e38, -1e38]])}, batch(1))
    np.testing.assert_array_equal(found['probabilities'], [[1., 0.]])

  @pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
  def test_logits_that_are_not_finite_are_refused_by_the_id_of_their_example(self, bad):
    with pytest.raises(ValueError, match='example 12 '):
      kept(Classification(classes=2), {'logits': np.array([[0., 0.], [bad, 0.]])},
           batch(2, id=[11, 12]))

  def test_bad_logits_of_a_row_that_only_fills_the_batch_do_not_matter(self):
    found = kept(Classification(classes=2), {'logits': np.array([[0., 1.], [np.nan, 0.]])},
                 batch(2, valid=[1., 0.]))
    assert len(found['id']) == 1

  def test_logits_of_another_number_of_classes_are_refused(self):
    with pytest.raises(ValueError, match=r'\[1, 4\], not \[b 2\]'):
      kept(Classification(classes=2), {'logits': np.zeros((1, 4))}, batch(1))


class TestScore:

  def test_by_hand(self):
    # Classes 0 and 1: precision 1/2 and 1, recall 1 and 1/2, so F1 is 2/3 for both. Class 2 is
    # predicted and never a label: F1 0. Class 3 is neither and doesn't count.
    scores = Classification(classes=4).score(records([0, 1, 1, 1, 0], [0, 1, 0, 2, 0], 4))
    # accuracy 3/5; F1: class 0 = 2·2/(2+3), class 1 = 2·1/(3+1), class 2 = 0
    # MCC: labels 2, 3, 0; predictions 3, 1, 1: (5·3 − 9) / √((25 − 13) (25 − 11))
    assert scores['accuracy'] == pytest.approx(3 / 5)
    assert scores['macro_f1'] == pytest.approx((4 / 5 + 1 / 2 + 0) / 3)
    assert scores['mcc'] == pytest.approx(6 / 168**0.5)
    assert 'f1' not in scores

  def test_of_two_classes_f1_is_that_of_class_1(self):
    # 3 of class 1, of which 2 are found, and 1 false alarm: precision 2/3, recall 2/3.
    scores = Classification(classes=2).score(records([1, 1, 1, 0, 0, 0], [1, 1, 0, 1, 0, 0], 2))
    # MCC = (TP TN − FP FN) / √(3 · 3 · 3 · 3) = (2 · 2 − 1 · 1) / 9
    assert scores['f1'] == pytest.approx(2 / 3) and scores['mcc'] == pytest.approx(1 / 3)
    # Were class 0 the positive one, this would be 2/3: all six called 0.
    assert Classification(classes=2).score(records([1, 1, 1, 0, 0, 0], [0] * 6, 2))['f1'] == 0

  @pytest.mark.parametrize('seed', range(5))
  def test_equals_scikit_learn(self, seed):
    metrics = pytest.importorskip('sklearn.metrics')
    random = np.random.default_rng(seed)
    found = records(random.integers(4, size=30), random.integers(1, 6, size=30), 7)
    scores = Classification(classes=7).score(found)
    label, prediction = found['label'], found['prediction']
    assert scores['accuracy'] == pytest.approx(metrics.accuracy_score(label, prediction))
    assert scores['macro_f1'] == pytest.approx(
        metrics.f1_score(label, prediction, average='macro', zero_division=0))
    assert scores['mcc'] == pytest.approx(metrics.matthews_corrcoef(label, prediction))

  @pytest.mark.parametrize('label, prediction', [
      ([0, 0, 0], [0, 0, 0]), ([1, 1, 1], [1, 1, 1]), ([0, 0], [1, 1]), ([1, 1], [0, 0]),
      ([0, 1, 1], [1, 1, 1]), ([0, 1, 1], [0, 0, 0]), ([1, 1, 1], [0, 1, 1]), ([1], [0]),
      ([0, 1], [1, 0]), ([0, 1, 1, 0, 1], [0, 1, 0, 1, 1])])
  def test_two_classes_equal_scikit_learn_however_degenerate(self, label, prediction):
    metrics = pytest.importorskip('sklearn.metrics')
    scores = Classification(classes=2).score(records(label, prediction, 2))
    assert scores['f1'] == pytest.approx(metrics.f1_score(label, prediction, zero_division=0))
    assert scores['accuracy'] == pytest.approx(metrics.accuracy_score(label, prediction))
    assert scores['macro_f1'] == pytest.approx(
        metrics.f1_score(label, prediction, average='macro', zero_division=0))
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')           # it warns of a single class
      assert scores['mcc'] == pytest.approx(metrics.matthews_corrcoef(label, prediction))

  def test_one_class_always_right_is_perfect(self):
    assert Classification(classes=3).score(records([2, 2], [2, 2])) == {
        'accuracy': 1.0, 'macro_f1': 1.0, 'mcc': 0.0}     # nothing to correlate with

  def test_a_large_sample_does_not_overflow(self):
    # QQP has 40,430 examples to judge by: n⁴ is beyond 64-bit whole numbers.
    label = np.arange(80_000) % 2
    assert Classification(classes=2).score(records(label, label, 2))['mcc'] == pytest.approx(1)
    assert Classification(classes=2).score(records(label, 1 - label, 2))['mcc'] == pytest.approx(-1)

  @pytest.mark.parametrize('classes', [2, 3])
  def test_every_metric_says_its_unit_and_direction(self, classes):
    task = Classification(classes=classes)
    assert set(task.score(records([0], [1]))) == set(task.metrics) and task.primary in task.metrics
    assert all(set(about) == {'unit', 'higher_is_better'} for about in task.metrics.values())

  def test_no_records_are_refused(self):
    with pytest.raises(ValueError, match='no records'):
      Classification(classes=3).score(records([], []))

  @pytest.mark.parametrize('label', [-1, 3])
  def test_a_label_out_of_range_is_refused_by_the_id_of_its_example(self, label):
    with pytest.raises(ValueError, match=f'example 1: label {label} '):
      Classification(classes=3).score(records([0, label], [0, 0]))

  def test_a_prediction_out_of_range_is_refused(self):
    with pytest.raises(ValueError, match='example 0: prediction 3 '):
      Classification(classes=3).score(records([0], [3]))

  @pytest.mark.parametrize('bad', [np.nan, np.inf])
  def test_probabilities_that_are_not_finite_are_refused(self, bad):
    found = records([0, 1], [0, 1])
    found['probabilities'][1, 2] = bad
    with pytest.raises(ValueError, match='not finite'):
      Classification(classes=3).score(found)


def test_a_task_of_one_class_and_names_that_do_not_fit_are_refused():
  with pytest.raises(ValueError, match='classes=1.*regression.Regression'):
    Classification(classes=1)
  with pytest.raises(ValueError, match='2 names for 3 classes'):
    Classification(classes=3, names=('a', 'b'))
  assert Classification(classes=2).names == ('0', '1')


def test_the_primary_metric_is_chosen_among_those_that_there_are():
  assert Classification(classes=2).primary == 'accuracy'
  assert Classification(classes=2, primary='f1').primary == 'f1'
  with pytest.raises(ValueError, match="primary='acuracy' .* did you mean 'accuracy'"):
    Classification(classes=2, primary='acuracy')
  with pytest.raises(ValueError, match="primary='f1' is no metric of 3 classes"):
    Classification(classes=3, primary='f1')


class TestAnswer:

  def test_by_hand(self):
    # softmax of (ln 1, ln 3, ln 4) is (1/8, 3/8, 1/2).
    task = Classification(classes=3, names=('no', 'perhaps', 'yes'))
    measured = {'logits': np.log(np.array([1., 3., 4.], np.float32))}
    assert task.answer(measured) == {'label': 'yes', 'probability': 0.5, 'probabilities': {
        'no': 0.125, 'perhaps': 0.375, 'yes': 0.5}}

  def test_is_json_and_rounded_to_four_places(self):
    found = Classification(classes=2).answer({'logits': np.array([0., 1.], np.float32)})
    # 1 / (1 + e⁻¹) = 0.731058…
    assert json.loads(json.dumps(found)) == {
        'label': '1', 'probability': 0.7311, 'probabilities': {'0': 0.2689, '1': 0.7311}}


class TestExplain:

  def test_the_slope_is_that_of_cross_entropy_by_finite_differences(self):
    task, random = Classification(classes=4), np.random.default_rng(0)
    logits, label = random.normal(scale=2, size=(9, 4)), random.integers(4, size=9)
    found = kept(task, {'logits': logits.astype(np.float32)}, batch(9, label=label))
    loss = lambda z: special.logsumexp(z, axis=1) - z[np.arange(9), label]
    for column, step in enumerate(1e-4 * np.eye(4)):
      slope = (loss(logits + step) - loss(logits - step)) / 2e-4
      np.testing.assert_allclose(task.explain.slope(found)[:, column], slope, atol=1e-6)

  def test_the_predicted_class_is_explained(self):
    task = Classification(classes=3)
    assert (task.explain.output, task.explain.columns) == ('logits', 3)
    assert task.explain.target(records([0, 1], [2, 1])).tolist() == [2, 1]


def test_bootstrap_scores_every_resample():
  task, random = Classification(classes=3), np.random.default_rng(0)
  whole = records(random.integers(3, size=40), random.integers(3, size=40))
  resamples = [random.integers(40, size=40) for _ in range(7)]
  found = task.bootstrap(whole, iter(resamples))
  assert found.keys() == task.metrics.keys()
  for i, rows in enumerate(resamples):
    resample = records(whole['label'][rows], whole['prediction'][rows])
    assert {name: values[i] for name, values in found.items()} == task.score(resample)
