import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special
from sklearn import metrics

from distill.tasks.words import MaskedWords
from distill.types import Status, Stop

SPECIAL = {'[PAD]': 0, '[UNK]': 100, '[CLS]': 101, '[SEP]': 102, '[MASK]': 103}      # BERT's ids


def batch(texts, width=20, start=0):
  """[CLS], words from 200 on, [SEP]; the number of words of each text, None for an empty row."""
  tokens = np.zeros((len(texts), width), np.int32)
  length = np.array([0 if n is None else n + 2 for n in texts])
  for row, n in enumerate(texts):
    if n is not None:
      tokens[row, :n + 2] = [101, *range(200, 200 + n), 102]
  is_text = np.array([n is not None for n in texts])
  return {'tokens': tokens, 'mask': (np.arange(width) < length[:, None]).astype(np.float32),
          'id': np.where(is_text, start + np.arange(len(texts)), -1),
          'valid': is_text.astype(float)}


def task(**more):
  return MaskedWords(special=SPECIAL, **more)


def outputs(prepared, vocabulary=300, right=True):
  """Words with 1 more logit than all others: the target, or the word after it."""
  target = prepared['target'] + (0 if right else 1)
  return {'words': (np.arange(vocabulary) == target[..., None]).astype(np.float32)}


def kept(outputs, prepared):
  """The records of a prepared batch for which a model has these outputs."""
  measured = jax.jit(lambda outputs, batch: task().measure(lambda asked: outputs, batch))(
      outputs, prepared)
  return task().records(measured, prepared)


def test_only_words_are_hidden_and_targets_are_the_original_tokens():
  before = batch([18, 10, 4, 0, None])
  after = task(share=0.2).prepare(before)
  assert after['positions'].shape == (5, 4)                             # ⌈0.2 · 20⌉
  np.testing.assert_array_equal(after['chosen'].sum(1), [4, 2, 1, 0, 0])      # at least one
  hidden = after['tokens'] == 103
  np.testing.assert_array_equal(hidden.sum(1), after['chosen'].sum(1))
  assert (before['tokens'][hidden] >= 200).all()
  np.testing.assert_array_equal(after['tokens'][~hidden], before['tokens'][~hidden])
  rows, columns = np.nonzero(after['chosen'])
  at = after['positions'][rows, columns]
  assert (after['tokens'][rows, at] == 103).all()
  np.testing.assert_array_equal(before['tokens'][rows, at], after['target'][rows, columns])
  assert (before['tokens'] != 103).all()                  # the batch itself stays as it was


def test_what_is_hidden_depends_on_the_example_alone():
  hide = lambda rows: task().prepare(rows)['tokens']
  texts = hide(batch([18] * 8))
  np.testing.assert_array_equal(hide(batch([18] * 3, start=5)), texts[5:])
  np.testing.assert_array_equal(hide(batch([18] * 8, width=28))[:, :20], texts)
  assert len({tuple(row) for row in texts}) > 4             # and not on its text or its place


def test_records_by_hand():
  # A logit of 1 over 299 of 0: -log likelihood log(e + 299) - 1 where the target has it, else
  # log(e + 299). The empty row leaves no record, the text without a word one that counts nothing.
  prepared = task(share=0.2).prepare(batch([18, 0, None]))
  found = kept(outputs(prepared), prepared)
  assert {k: v.tolist() for k, v in found.items() if k != 'nll'} == {
      'id': [0, 1], 'label': [4, 0], 'right': [4, 0]}
  np.testing.assert_allclose(found['nll'], [4 * (np.log(np.e + 299) - 1), 0], rtol=1e-6)
  wrong = kept(outputs(prepared, right=False), prepared)
  assert wrong['right'].tolist() == [0, 0]
  np.testing.assert_allclose(wrong['nll'][0], 4 * np.log(np.e + 299), rtol=1e-6)


@pytest.mark.parametrize('texts', [[18, 7, 0, None, 1, 12], [18], [1, 1]])
def test_equals_scikit_learn_on_random_and_equal_logits(texts):
  prepared = task(share=0.3).prepare(batch(texts))
  target = prepared['target'][prepared['chosen'] > 0]
  logits = 4 * np.random.default_rng(0).normal(size=(*prepared['target'].shape, 300))
  for words in logits.astype(np.float32), np.zeros(logits.shape, np.float32):
    found = task().score(kept({'words': words}, prepared))
    logits = words[prepared['chosen'] > 0].astype(np.float64)
    assert found['accuracy'] == pytest.approx(metrics.accuracy_score(target, logits.argmax(-1)))
    assert found['cross_entropy'] == pytest.approx(metrics.log_loss(
        target, special.softmax(logits, axis=-1), labels=range(300)), rel=1e-6)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_sums_on_the_device_are_those_of_numpy_in_float64(dtype):
  # 120 texts of 90 words, a vocabulary of 2,000, logits far apart: 14 words are hidden of each.
  prepared = task().prepare(batch([90] * 120, width=96))
  noise = np.random.default_rng(0).normal(size=(*prepared['target'].shape, 2000))
  words = jnp.asarray(8 * noise.astype(np.float32), dtype)
  found = jax.jit(lambda words, batch: task().measure(lambda asked: {'words': words}, batch))(
      words, prepared)
  exact, at = np.asarray(words, np.float64), prepared['target'][..., None]
  likelihoods = np.take_along_axis(exact, at, -1)[..., 0]
  chosen = prepared['chosen'] > 0
  wanted = ((special.logsumexp(exact, axis=-1) - likelihoods) * chosen).sum(1)
  np.testing.assert_allclose(found['nll'], wanted, rtol=1e-5)
  np.testing.assert_array_equal(
      found['right'], ((exact.argmax(-1) == at[..., 0]) & chosen).sum(1))
  assert {name: x.shape for name, x in found.items()} == {'right': (120,), 'nll': (120,)}


def test_what_a_model_says_at_places_that_do_not_count_does_not_matter():
  # A text without words has places too, at which a model may overflow.
  prepared = task(share=0.2).prepare(batch([18, 0, None]))
  words = outputs(prepared)['words']
  words[prepared['chosen'] == 0] = np.nan
  clean, found = kept(outputs(prepared), prepared), kept({'words': words}, prepared)
  assert all(np.array_equal(clean[name], found[name]) for name in clean)


def test_bootstrap_scores_every_resample():
  random = np.random.default_rng(0)
  records = {'id': np.arange(20), 'label': random.integers(4, size=20),
             'right': np.zeros(20, int), 'nll': random.random(20).astype(np.float32)}
  resamples = [random.integers(20, size=20) for _ in range(5)]
  found = task().bootstrap(records, iter(resamples))
  for i, rows in enumerate(resamples):
    assert {name: values[i] for name, values in found.items()} == task().score(
        {name: column[rows] for name, column in records.items()})


def test_a_model_of_masked_words_answers_nothing():
  with pytest.raises(Stop, match='answers no text: it is an encoder') as stop:
    task().answer({'right': np.array(1), 'nll': np.array(0.5)})
  assert stop.value.status == Status.CHECKPOINT


def test_scores_are_over_words_not_texts():
  records = {'id': np.arange(3), 'label': np.array([1, 3, 0]), 'right': np.array([1, 0, 0]),
             'nll': np.array([1., 9., 0.], np.float32)}
  assert task().score(records) == {'accuracy': 0.25, 'cross_entropy': 2.5}
  without = {k: v[2:] for k, v in records.items()}
  assert task().score(without) == {'accuracy': 0, 'cross_entropy': 0}


def test_huge_logits_neither_overflow_nor_move_the_result():
  prepared = task().prepare(batch([18]))
  moved = {'words': outputs(prepared)['words'] + np.float32(2**20)}
  expected = kept(outputs(prepared), prepared)['nll']
  np.testing.assert_allclose(kept(moved, prepared)['nll'], expected)
  for bad in np.nan, np.inf:
    with pytest.raises(ValueError, match='example 0 has logits'):
      kept({'words': outputs(prepared)['words'] + bad}, prepared)


@pytest.mark.parametrize(('wrong', 'line'), [
    ({'share': 0.0}, 'share=0.0'), ({'share': 1.0}, 'share=1.0'),
    ({'primary': 'acuracy'}, "did you mean 'accuracy'"),
    ({'special': {'[PAD]': 0}}, r'no \[MASK\]')])
def test_what_makes_no_sense_is_refused(wrong, line):
  with pytest.raises(ValueError, match=line):
    MaskedWords(**{'special': SPECIAL, **wrong})


def test_nothing_and_no_numbers_are_not_scored():
  with pytest.raises(ValueError, match='no records'):
    task().score({'id': np.array([])})
  with pytest.raises(ValueError, match='not numbers'):
    task().score({'id': np.arange(1), 'label': np.ones(1), 'right': np.ones(1),
                  'nll': np.array([np.nan])})
