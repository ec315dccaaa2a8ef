import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distill.losses import logits

from .inputs import (
  STUDENT,
  STUDENT_WORDS,
  TEACHER,
  TEACHER_WORDS,
  WORD_MASK,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  double,
  masked_mean,
  value_and_gradient,
)

QUARTERS = np.log([[3., 1.]])       # the logits of p = (3/4, 1/4)
softmax = lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
some_logits = arrays(np.float64, (5,), elements=st.floats(-30, 30))


class TestKL:

  def test_by_hand(self):
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812
    value = double(logits.kl, 0 * QUARTERS, QUARTERS)
    np.testing.assert_allclose(value, [0.130812], atol=1e-6)

  def test_temperature_by_hand(self):
    # Logits of (9/10, 1/10) at T = 2 are those of (3/4, 1/4): 2² times the value above.
    value = double(logits.kl, 0 * QUARTERS, 2 * QUARTERS, temperature=2)
    np.testing.assert_allclose(value, [4 * 0.130812], atol=4e-6)

  @pytest.mark.parametrize('temperature, expected', [
      (1, 1.2959855993006912),       # kd_T1, executed (RepDistiller): sum / b, times T²
      (2, 1.8242439519242541),       # modelopt_logits_batchmean_T2, executed: the same convention
      (4, 2.180253155612525),        # kd_T4, executed (RepDistiller)
  ])
  def test_mean_is_the_reference(self, temperature, expected):
    value = double(logits.kl, STUDENT, TEACHER, temperature=temperature)
    np.testing.assert_allclose(np.mean(value), expected, rtol=1e-9)

  def test_masked_mean_over_words_is_the_reference(self):
    # gkd_jsd_beta0.0, executed (TRL): mean over valid tokens, T = 1; fkl, a definition, agrees.
    value = double(logits.kl, STUDENT_WORDS, TEACHER_WORDS)
    np.testing.assert_allclose(masked_mean(value, WORD_MASK), 0.7126012246030511, rtol=1e-9)

  def test_masked_mean_over_words_is_that_of_distilbert(self):
    # distilbert_ce_T2, a definition: mean over the masked words, times temperature².
    value = double(logits.kl, STUDENT_WORDS, TEACHER_WORDS, temperature=2)
    np.testing.assert_allclose(masked_mean(value, WORD_MASK), 1.0424571695999363, rtol=1e-9)

  def test_gradient_is_temperature_times_the_difference_of_probabilities(self):
    with jax.enable_x64(True):
      _, gradient = value_and_gradient(logits.kl, STUDENT, TEACHER, temperature=4.0)
    expected = 4 * (softmax(STUDENT / 4) - softmax(TEACHER / 4))
    np.testing.assert_allclose(gradient, expected, atol=1e-12)
    # Recorded beside kd_T4, of the mean over four examples, to eight places.
    recorded = [-.15914044, .01746426, .06545296, .03400217, .04222105]
    np.testing.assert_allclose(np.asarray(gradient)[0] / 4, recorded, atol=5e-9)
    assert_gradient(logits.kl, STUDENT, TEACHER, temperature=4.0)

  def test_hot_limit_is_half_the_mse_of_centred_logits(self):
    # Hinton 2015, eq. 4: at high T the gradient is that of matching zero-mean logits. The next
    # term of the expansion is of relative size |z| / T = 3e-5.
    student, teacher = (z - z.mean(-1, keepdims=True) for z in (STUDENT, TEACHER))
    hot = double(logits.kl, student, teacher, temperature=1e5)
    np.testing.assert_allclose(hot, double(logits.mse, student, teacher) / 2, rtol=1e-4)

  @given(some_logits, some_logits)
  @settings(max_examples=60, deadline=None, derandomize=True)
  def test_at_least_zero_and_zero_only_for_equals(self, student, teacher):
    # Pinsker: KL >= |p - q|² / 2, which is zero for equal distributions only.
    distance = np.sum(np.abs(softmax(student) - softmax(teacher)))
    assert double(logits.kl, student, teacher) >= distance**2 / 2 - 1e-12
    assert abs(double(logits.kl, student, student)) < 1e-12

  @given(some_logits, st.floats(-100, 100))
  @settings(max_examples=30, deadline=None, derandomize=True)
  def test_a_common_shift_of_logits_changes_nothing(self, teacher, shift):
    s, t = STUDENT[0], teacher
    value, *moved = double(logits.kl, np.stack([s, s + shift, s]), np.stack([t, t, t + shift]))
    np.testing.assert_allclose(moved, [value, value], atol=1e-10)

  @pytest.mark.parametrize('temperature, some, perfect', [
      (1.0, -1.1714, -1.4057), (4.0, -27.3051, -27.8722)])
  def test_the_article_s_literal_form_is_no_divergence(self, temperature, some, perfect):
    # The article hands probabilities to a KL that wants the student's log-probabilities:
    # T² Σ p (log p - q), mean over examples.
    literal = lambda q: temperature**2 * np.mean(np.sum(p * (np.log(p) - q), axis=-1))
    q, p = softmax(STUDENT / temperature), softmax(TEACHER / temperature)
    np.testing.assert_allclose([literal(q), literal(p)], [some, perfect], atol=5e-5)
    # Linear in q: a student that knows the teacher's first choice alone beats the perfect one.
    choice = np.eye(5)[np.argmax(p, axis=-1)]
    assert literal(choice) < literal(p) < 0
    # What is built instead knows the perfect student, and no better one.
    built = [np.mean(double(logits.kl, student, TEACHER, temperature=temperature))
             for student in (TEACHER, 100 * choice, STUDENT)]
    np.testing.assert_allclose(built[0], 0, atol=1e-12)
    assert min(built[1:]) > 1

  def test_a_temperature_may_vary_with_the_step(self):
    scheduled = double(lambda s, t, temperature: logits.kl(s, t, temperature=temperature),
                       STUDENT, TEACHER, np.float64(3))
    constant = double(logits.kl, STUDENT, TEACHER, temperature=3.0)
    np.testing.assert_allclose(scheduled, constant, rtol=1e-12)

  @pytest.mark.parametrize('temperature', [0, 0.0, -1.0, float('inf'), float('nan')])
  def test_temperature_out_of_range(self, temperature):
    with pytest.raises(ValueError, match='temperature='):
      logits.kl(jnp.zeros((1, 2)), jnp.zeros((1, 2)), temperature=temperature)

  @pytest.mark.parametrize('dtype, temperature', [
      (jnp.float16, 1.0), (jnp.bfloat16, 1.0), (jnp.float32, 0.1), (jnp.float32, 100.0)])
  def test_finite_for_confident_models(self, dtype, temperature):
    student = jnp.array([[1e4, -1e4], [1e4, -1e4], [0, 0], [1e4, -1e4]], dtype)
    teacher = jnp.array([[-1e4, 1e4], [1e4, -1e4], [1e4, -1e4], [0, 0]], dtype)
    assert_finite(logits.kl, student, teacher, temperature=temperature)

  def test_a_one_hot_teacher_is_a_label(self):
    teacher = np.array([[0, -np.inf]])
    np.testing.assert_allclose(double(logits.kl, QUARTERS, teacher), [np.log(4 / 3)], rtol=1e-12)
    assert_finite(logits.kl, jnp.asarray(QUARTERS), jnp.asarray(teacher))

  def test_a_class_that_both_rule_out_does_not_count(self):
    student, teacher = (np.append(z, [[-np.inf]], axis=-1) for z in (0 * QUARTERS, QUARTERS))
    np.testing.assert_allclose(double(logits.kl, student, teacher), [0.130812], atol=1e-6)
    assert_finite(logits.kl, jnp.asarray(student), jnp.asarray(teacher))

  def test_an_example_does_not_see_the_others(self):
    np.testing.assert_allclose(double(logits.kl, STUDENT, TEACHER)[1:2],
                               double(logits.kl, STUDENT[1:2], TEACHER[1:2]), rtol=1e-12)

  def test_nothing_is_broadcast(self):
    for one in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
      assert_shapes_refused(logits.kl, jnp.zeros((8, 10)), one)
      assert_shapes_refused(logits.kl, one, jnp.zeros((8, 10)))


class TestMSE:

  def test_by_hand(self):
    # (1² + 3²) / 2 = 5
    value = double(logits.mse, np.array([[1., -1.]]), np.array([[2., 2.]]))
    np.testing.assert_allclose(value, [5.])

  def test_mean_is_the_reference(self):
    # tb_kd_mse_T1, executed (TextBrewer): the mean over examples and classes.
    value = double(logits.mse, STUDENT, TEACHER)
    np.testing.assert_allclose(np.mean(value), 5.383853965930195, rtol=1e-9)

  def test_gradient(self):
    with jax.enable_x64(True):
      _, gradient = value_and_gradient(logits.mse, STUDENT, TEACHER)
    np.testing.assert_allclose(gradient, 2 / 5 * (STUDENT - TEACHER), atol=1e-12)
    assert_gradient(logits.mse, STUDENT, TEACHER)

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_apart(self, dtype):
    assert_finite(logits.mse, jnp.array([[1e4, -1e4]], dtype), jnp.array([[-1e4, 1e4]], dtype))

  def test_nothing_is_broadcast(self):
    for one in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
      assert_shapes_refused(logits.mse, jnp.zeros((8, 10)), one)
