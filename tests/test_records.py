"""Records of a split: every example once, whatever the batches and devices; made once."""
import jax
import numpy as np
import pytest
from flax import nnx

from distill import records, sharding, step
from distill.models.functional import Functional
from distill.tasks.classification import Classification


class Dense(nnx.Module):

  def __init__(self, *, rngs):
    self.dense = nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': self.dense(batch['x']) * (2 if train else 1), 'hidden': batch['x']}


MODEL = Functional(lambda rngs: Dense(rngs=rngs))
WEIGHTS = MODEL.init(0)
X = np.random.default_rng(0).normal(size=(19, 4)).astype(np.float32)
TASK = Classification(classes=3)


def batches(size):
  """All 19 examples; the last batch has rows that only fill it."""
  found = []
  for start in range(0, 19, size):
    ids = np.arange(start, start + size)
    valid = (ids < 19).astype(np.float32)
    found.append({'id': np.where(valid > 0, ids, -1).astype(np.int32), 'valid': valid,
                  'x': X[np.minimum(ids, 18)], 'label': (ids % 3).astype(np.int32)})
  return found


def made(size, devices=1):
  layout = sharding.layout(devices=jax.devices()[:devices])
  return records.collect(step.make_eval_step(MODEL, TASK.measure, layout), WEIGHTS, batches(size),
                         TASK, layout)


@pytest.mark.parametrize(('size', 'devices'), [(8, 1), (19, 1), (8, 8)])
def test_every_example_is_there_once_and_as_by_itself(size, devices):
  found = made(size, devices)
  assert found['id'].tolist() == list(range(19)) and found['label'].tolist() == [
      i % 3 for i in range(19)]
  logits = X @ np.asarray(WEIGHTS[0]['dense/kernel']) + np.asarray(WEIGHTS[0]['dense/bias'])
  np.testing.assert_array_equal(found['prediction'], logits.argmax(1))


def test_outputs_alone_are_those_of_the_model_in_evaluation():
  [batch] = batches(19)
  found = step.make_eval_step(MODEL, step.select_outputs(('logits', 'hidden')))(*WEIGHTS, batch)
  assert found.keys() == {'logits', 'hidden'}
  np.testing.assert_array_equal(found['hidden'], X)
  wanted = MODEL(*WEIGHTS, batch, train=False, key=None)[0]['logits']
  np.testing.assert_allclose(found['logits'], wanted, atol=1e-6)


def test_what_is_measured_is_computed_on_the_device_from_what_the_model_is_asked():
  [batch] = batches(19)

  def measure(ask, batch):
    plain, turned = ask(batch)['logits'], ask({**batch, 'x': -batch['x']})['logits']
    return {'sum': plain.sum(1) + turned.sum(1)}
  found = step.make_eval_step(MODEL, measure)(*WEIGHTS, batch)
  bias = np.asarray(WEIGHTS[0]['dense/bias'])
  np.testing.assert_allclose(found['sum'], np.full(19, 2 * bias.sum()), atol=1e-5)


def test_kept_records_are_made_once(tmp_path):
  first = records.cached(tmp_path / 'test.npz', lambda: made(8))
  again = records.cached(tmp_path / 'test.npz', lambda: 1 / 0)
  assert first.keys() == again.keys() == made(8).keys()
  for name, column in made(8).items():
    np.testing.assert_array_equal(again[name], column, strict=True)
