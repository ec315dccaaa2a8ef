import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distill.losses import logits, vocabulary

from .inputs import (
  REFERENCE,
  STUDENT,
  STUDENT_WORDS,
  TEACHER,
  TEACHER_WORDS,
  WORD_MASK,
  all_at_once,
  assert_gradient,
  assert_proven,
  assert_shapes_refused,
  double,
  masked_mean,
)

part = functools.partial
ALL = {
    'tail': part(vocabulary.top_k, k=2),
    'renormalised': part(vocabulary.top_k, k=2, rest='renormalised'),
    'truncated': part(vocabulary.top_k, k=2, rest='truncated'),
    'mopd': part(vocabulary.mopd, k=2),
    'uld': vocabulary.uld,
}
DIVERGENCES = ('tail', 'renormalised', 'mopd')    # of what they see
P, Q = np.log([[.5, .3, .2]]), np.log([[.2, .3, .5]])
everything = all_at_once(ALL | {'kl': logits.kl})


@pytest.mark.parametrize('name, loss', [
    ('topk3_tail_fkl', part(vocabulary.top_k, k=3)),
    ('topk3_renorm_fkl', part(vocabulary.top_k, k=3, rest='renormalised')),
    ('topk3_truncated_fkl', part(vocabulary.top_k, k=3, rest='truncated')),
    ('topk3_gen_rkl_mopd', part(vocabulary.mopd, k=3)),
    ('uld_sorted_l1_V7_V9', vocabulary.uld)])
def test_token_mean_is_the_reference_in_both_precisions(name, loss):
  teacher = TEACHER_WORDS
  if name.startswith('uld'):              # a teacher of nine words
    teacher = np.concatenate([teacher, teacher[..., :2] - 1], axis=-1)
  assert_proven(name, masked_mean(double(loss, STUDENT_WORDS, teacher), WORD_MASK))
  single = jax.jit(loss)(jnp.float32(STUDENT_WORDS), jnp.float32(teacher))
  assert single.dtype == jnp.float32
  np.testing.assert_allclose(masked_mean(np.asarray(single), WORD_MASK), REFERENCE[name]['value'],
                             rtol=1e-5)


@pytest.mark.parametrize('loss, hyper, expected', [
    # p = (.5, .3, .2), q = (.2, .3, .5)
    (vocabulary.top_k, {'k': 1}, .5 * np.log(.5 / .2) + .5 * np.log(.5 / .8)),
    (vocabulary.top_k, {'k': 1, 'rest': 'renormalised'}, 0),
    (vocabulary.top_k, {'k': 2, 'rest': 'renormalised'},     # (.625, .375) and (.4, .6)
     .625 * np.log(.625 / .4) + .375 * np.log(.375 / .6)),
    (vocabulary.top_k, {'k': 2, 'rest': 'truncated'}, .5 * np.log(.5 / .2)),
    (vocabulary.mopd, {'k': 1}, .2 * np.log(.2 / .5) - .2 + .5),
    (vocabulary.uld, {}, 0),                                 # the same numbers
])
def test_by_hand(loss, hyper, expected):
  np.testing.assert_allclose(double(loss, Q, P, **hyper), [expected], atol=1e-12)


def test_uld_of_two_vocabularies_by_hand():
  # (.5, .3, .2) and (.75, .25, 0): .25 + .05 + .2, whichever is the larger vocabulary.
  two = np.log([[.25, .75]])
  np.testing.assert_allclose(double(vocabulary.uld, two, P), [.5], atol=1e-12)
  np.testing.assert_allclose(double(vocabulary.uld, P, two), [.5], atol=1e-12)


def test_temperature_divides_the_logits_and_no_more():
  for name in ('tail', 'mopd', 'uld'):
    np.testing.assert_allclose(double(ALL[name], 2 * Q, 2 * P, temperature=2.0),
                               double(ALL[name], Q, P), atol=1e-12)


@pytest.mark.parametrize('rest', ['tail', 'renormalised', 'truncated'])
def test_all_words_are_the_whole_kl(rest):
  np.testing.assert_allclose(double(vocabulary.top_k, STUDENT, TEACHER, k=5, rest=rest),
                             double(logits.kl, STUDENT, TEACHER), rtol=1e-12)


def test_truncated_is_no_divergence():
  # A student surer of the teacher's words than the teacher is beats the perfect one: 0 there.
  assert double(ALL['truncated'], 3 * P, P) < -.01


def test_mopd_does_not_see_the_other_words():
  moved = np.log([[.5, .3, .1, .1]])
  teacher = np.log([[.5, .3, .19, .01]])
  np.testing.assert_allclose(double(ALL['mopd'], moved, teacher), [0], atol=1e-12)


@pytest.mark.parametrize('name', ALL)
def test_gradient(name):
  assert_gradient(ALL[name], STUDENT, TEACHER)


some_logits = arrays(np.float64, (5,), elements=st.floats(-30, 30))


# Sixteenths: which words are likeliest hangs on no rounding, under shifts by whole numbers.
some_logits = some_logits.map(lambda z: np.round(16 * z) / 16 + np.arange(5) / 128)


@given(some_logits, some_logits, st.integers(-100, 100))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_what_is_known_of_every_pair(student, teacher, shift):
  with jax.enable_x64(True):
    found = everything(np.stack([student, teacher, student + shift, student]),
                       np.stack([teacher, teacher, teacher, teacher + shift]))
  values = {name: np.asarray(v) for name, (v, _) in found.items()}
  # Coarse graining: to see fewer words apart is to see less.
  assert values['tail'][0] <= values['kl'][0] + 1e-9
  q, p = (np.exp(z - np.logaddexp.reduce(z)) for z in (student, teacher))
  words = np.argsort(-p, kind='stable')[:2]
  apart = np.sum(np.abs(p - q)[words])
  assert values['tail'][0] >= apart**2 / 8 - 1e-9       # Pinsker's inequality, with room
  assert values['mopd'][0] >= apart**2 / 8 - 1e-9
  for name in DIVERGENCES:
    assert values[name][0] > -1e-9, name
  for name, (value, same, *moved) in values.items():
    assert abs(same) < 1e-9, name
    np.testing.assert_allclose(moved, [value, value], atol=1e-8, rtol=1e-8, err_msg=name)


@functools.cache
def hostile(dtype):
  """Sure and wrong, equal, sure against unsure, unsure against sure, a one-hot teacher, equal."""
  big = 1e4
  student = jnp.array([[big, -big, 0], [big, -big, 0], [0, 0, 0], [big, -big, 0], [0, 0, 0],
                       [1, 2, 3]], dtype)
  teacher = jnp.array([[-big, big, 0], [big, -big, 0], [big, -big, 0], [0, 0, 0],
                       [-jnp.inf, 0, -jnp.inf], [1, 2, 3]], dtype)
  return everything(student, teacher)


@pytest.mark.parametrize('name', ALL)
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
def test_finite_for_confident_models(name, dtype):
  values, gradient = hostile(dtype)[name]
  assert values.dtype == jnp.float32 and gradient.dtype == dtype
  assert np.isfinite(values).all() and np.isfinite(np.asarray(gradient, np.float32)).all()
  for row in (1, 5):                            # the teacher is the student
    np.testing.assert_allclose(values[row], 0, atol=1e-6)
    if name != 'truncated':
      np.testing.assert_allclose(np.asarray(gradient[row], np.float32), 0, atol=1e-5)
  if name != 'uld':                             # which sees that both are sure
    assert values[0] > .1 and values[4] > .1


def test_an_example_does_not_see_the_others():
  with jax.enable_x64(True):
    whole = everything(STUDENT, TEACHER)
    others = np.array([1, 0, 1, 1])[:, None]
    among = everything(np.where(others, 1 - STUDENT, STUDENT), np.where(others, 2., TEACHER))
  for name in ALL:
    for single, same in zip(whole[name], among[name], strict=True):
      np.testing.assert_allclose(single[1], same[1], rtol=1e-12)


@pytest.mark.parametrize('k', [0, -1, 4])
def test_k_is_between_1_and_the_number_of_classes(k):
  for loss in (vocabulary.top_k, vocabulary.mopd):
    with pytest.raises(ValueError, match=f'k={k} is not between 1 and the 3 classes'):
      loss(jnp.asarray(Q), jnp.asarray(P), k=k)


def test_the_rest_has_three_names():
  with pytest.raises(ValueError, match="rest='tails' is not one of tail, renormalised, truncated"):
    vocabulary.top_k(jnp.asarray(Q), jnp.asarray(P), k=2, rest='tails')
  with pytest.raises(ValueError, match="rest='tails'"):         # where there is no rest, too
    vocabulary.top_k(jnp.asarray(Q), jnp.asarray(P), k=3, rest='tails')


@pytest.mark.parametrize('loss, hyper', [
    (vocabulary.top_k, {'k': 2}), (vocabulary.mopd, {'k': 2}), (vocabulary.uld, {})])
def test_nothing_is_broadcast(loss, hyper):
  ones = [jnp.zeros((1, 10)), jnp.zeros(10)]
  if loss is not vocabulary.uld:                # whose vocabularies may differ
    ones.append(jnp.zeros((8, 1)))
  for wrong in ones:
    assert_shapes_refused(loss, jnp.zeros((8, 10)), wrong, **hyper)
    assert_shapes_refused(loss, wrong, jnp.zeros((8, 10)), **hyper)
  with pytest.raises(ValueError, match='temperature='):
    loss(jnp.asarray(Q), jnp.asarray(P), temperature=0.0, **hyper)
