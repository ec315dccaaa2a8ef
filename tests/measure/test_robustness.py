"""FGSM by hand, and quality under corruptions."""
import jax
import numpy as np
import pytest
from flax import nnx

from distill import sharding
from distill.measure import attributions, quality, robustness
from distill.modalities import image
from distill.models.functional import Functional
from distill.tasks.classification import Classification
from distill.tasks.regression import Regression


def images(values):
  values = np.asarray(values, np.float32)
  return {'image': values, 'id': np.arange(len(values), dtype=np.int32),
          'valid': np.ones(len(values), np.float32)}


class Linear(nnx.Module):

  def __init__(self, outputs, rngs):
    self.w = nnx.Param(jax.random.normal(rngs.params(), (12, outputs)))

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': batch['image'].reshape(-1, 12) @ self.w[...]}


def answers(task, outputs, batch):
  """The task's records of a batch, from a model's outputs."""
  return task.records(task.measure(lambda _: outputs, batch), batch)


class TestFGSM:

  def batch(self, label):
    return images(np.random.default_rng(3).normal(size=(8, 2, 2, 3))) | {'label': label}

  def found(self, outputs, task, label):
    model = Functional(lambda rngs: Linear(outputs, rngs))
    weights, batch = model.init(0), self.batch(label)
    clean = answers(task, model(*weights, batch)[0], batch)
    probed = attributions.ProbedModel(model, weights, sharding.layout(), image.Probe(), task)
    return np.asarray(weights[0]['w']), clean, robustness.attack(probed, [batch], clean)

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
    model = Functional(lambda rngs: Linear(2, rngs))
    weights = model.init(0)
    probed = attributions.ProbedModel(model, weights, sharding.layout(), image.Probe(), task)
    clean = answers(task, {'logits': np.zeros((8, 2))}, batch)
    some = {name: values[:7] for name, values in clean.items()}
    with pytest.raises(KeyError, match='7'):
      robustness.attack(probed, [batch], some)
    batch['valid'][7] = 0
    assert robustness.attack(probed, [batch], some)['id'].tolist() == [*range(7)]


class TestCompare:

  def test_accuracy_by_hand(self):
    # Three of four right; then one of these and one other.
    made = lambda right: {'id': np.arange(4), 'label': np.ones(4, np.int32),
                          'prediction': np.array(right, np.int32),
                          'probabilities': np.full((4, 2), .5)}
    clean, worse = made([1, 1, 1, 0]), made([1, 0, 0, 1])
    task = Classification(classes=2)
    found = robustness.compare(task, clean, {'noise': worse}, {'noise': 'some'}, resamples=50)
    assert found['clean']['value'] == 0.75 and found['noise']['value'] == 0.5
    assert found['noise']['kept'] == pytest.approx(2 / 3) and found['noise']['about'] == 'some'
    assert found['noise']['change'] == quality.gain(*(
        quality.score(task, records, resamples=50) for records in (worse, clean)))['accuracy']
    assert found['noise']['change']['value'] == -0.25

  def test_examples_are_paired_by_id_whatever_their_order(self):
    random, task = np.random.default_rng(0), Classification(classes=2)
    clean, worse = ({'id': np.arange(30), 'label': np.arange(30) % 2, 'prediction': prediction,
                     'probabilities': np.full((30, 2), .5)}
                    for prediction in random.integers(2, size=(2, 30)))
    order = random.permutation(30)
    shuffled = {name: values[order] for name, values in worse.items()}
    found, other = (robustness.compare(task, clean, {'noise': records}, {'noise': ''}, resamples=20)
                    for records in (worse, shuffled))
    assert found == other

  def test_more_error_is_a_loss(self):
    made = lambda x: {'id': np.arange(4), 'label': np.zeros(4, np.float32),
                      'prediction': np.full(4, x, np.float32)}
    found = robustness.compare(Regression(primary='mse'), made(1), {'blur': made(2)},
                             {'blur': ''}, resamples=9)['blur']
    assert found['change'] == {'value': -3, 'low': -3, 'high': -3} and found['kept'] == 0.25

  def test_other_examples_and_none_are_refused(self):
    made = lambda ids: {'id': np.array(ids, int), 'label': np.zeros(len(ids), np.float32),
                        'prediction': np.zeros(len(ids), np.float32)}
    with pytest.raises(ValueError, match='different examples'):
      robustness.compare(Regression(), made([0, 1]), {'blur': made([0, 2])}, {'blur': ''})
    with pytest.raises(ValueError, match='no records'):
      robustness.compare(Regression(), made([]), {}, {})
