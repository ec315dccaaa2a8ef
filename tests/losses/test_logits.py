import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from jax.test_util import check_grads

from distill.losses import logits

from .inputs import (
  LABEL,
  STUDENT,
  STUDENT_WORDS,
  TEACHER,
  TEACHER_WORDS,
  WORD_MASK,
  assert_finite,
  assert_gradient,
  assert_proven,
  assert_shapes_refused,
  double,
  masked_mean,
  value_and_gradient,
)

QUARTERS = np.log([[3., 1.]])       # the logits of p = (3/4, 1/4)
softmax = lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
some_logits = arrays(np.float64, (5,), elements=st.floats(-30, 30))
# p = (1/2, 1/4, 1/4), q = (1/4, 1/2, 1/4), label 0: the others are (1/2, 1/2) and (2/3, 1/3).
HALF_QUARTERS, OTHER_QUARTERS, FIRST = np.log([[2., 1, 1]]), np.log([[1., 2, 1]]), np.array([0])
FAR = np.array([[1e4, -1e4, 3], [1e4, -1e4, 3], [0, 0, 0], [1e4, -1e4, 0], [-1e4, -1e4, -1e4]])
FAR_TEACHER = np.array([[-1e4, 1e4, 3], [1e4, -1e4, 3], [1e4, -1e4, 0], [0, 0, 0], [1, 2, 3]])
FAR_LABEL = np.array([0, 0, 1, 2, -1])


def prove(name, loss, *arrays, by=1.0, mask=None, **hyper):
  """The mean over what the mask counts, times `by`, is the reference in float64 and float32."""
  single = [np.float32(x) if x.dtype == np.float64 else x for x in arrays]
  values = np.asarray(jax.jit(loss, static_argnames=tuple(hyper))(*single, **hyper))
  assert values.dtype == np.float32
  mask = np.ones(values.shape) if mask is None else mask
  assert_proven(name, by * masked_mean(double(loss, *arrays, **hyper), mask))
  assert_proven(name, by * masked_mean(values, mask), rtol=1e-5)


class TestKL:

  def test_by_hand(self):
    # p = (3/4, 1/4), q = (1/2, 1/2): 3/4 ln 3/2 + 1/4 ln 1/2 = 0.130812
    value = double(logits.kl, 0 * QUARTERS, QUARTERS)
    np.testing.assert_allclose(value, [0.130812], atol=1e-6)

  def test_temperature_by_hand(self):
    # Logits of (9/10, 1/10) at T = 2 are those of (3/4, 1/4): 2² times the value above.
    value = double(logits.kl, 0 * QUARTERS, 2 * QUARTERS, temperature=2)
    np.testing.assert_allclose(value, [4 * 0.130812], atol=4e-6)

  @pytest.mark.parametrize('name, temperature', [
      ('kd_T1', 1.0), ('kd_T4', 4.0),               # RepDistiller: sum / b, times T²
      ('camkd_kl_T4', 4.0), ('modelopt_logits_batchmean_T2', 2.0)])         # the same convention
  def test_mean_is_the_reference(self, name, temperature):
    prove(name, logits.kl, STUDENT, TEACHER, temperature=temperature)

  def test_others_reduce_otherwise(self):
    # ModelOpt's default mean divides by the five classes, too. TextBrewer's `kd_ce` is a
    # cross-entropy, KL + the teacher's entropy, and has no T².
    prove('modelopt_logits_mean_T2', logits.kl, STUDENT, TEACHER, temperature=2.0, by=1 / 5)
    p = softmax(TEACHER / 4)
    entropy = -np.mean(np.sum(p * np.log(p), axis=-1))
    value = double(logits.kl, STUDENT, TEACHER, temperature=4.0)
    assert_proven('tb_kd_ce_T4', np.mean(value) / 4**2 + entropy)

  @pytest.mark.parametrize('name', ['gkd_jsd_beta0.0', 'fkl', 'full_fkl'])
  def test_masked_mean_over_words_is_the_reference(self, name):
    prove(name, logits.kl, STUDENT_WORDS, TEACHER_WORDS, mask=WORD_MASK)

  def test_masked_mean_over_words_is_that_of_distilbert(self):
    prove('distilbert_ce_T2', logits.kl, STUDENT_WORDS, TEACHER_WORDS, temperature=2.0,
          mask=WORD_MASK)

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
    # Our divergence is smallest for the perfect student.
    built = [np.mean(double(logits.kl, student, TEACHER, temperature=temperature))
             for student in (TEACHER, 100 * choice, STUDENT)]
    np.testing.assert_allclose(built[0], 0, atol=1e-12)
    assert min(built[1:]) > 1

  def test_a_temperature_may_vary_with_the_step(self):
    scheduled = double(lambda s, t, temperature: logits.kl(s, t, temperature=temperature),
                       STUDENT, TEACHER, np.float64(3))
    constant = double(logits.kl, STUDENT, TEACHER, temperature=3.0)
    np.testing.assert_allclose(scheduled, constant, rtol=1e-12)

  def test_a_temperature_for_each_example(self):
    heated = lambda s, t, temperature: logits.kl(s, t, temperature=temperature)
    value = double(heated, STUDENT, TEACHER, np.array([1., 2, 3, 4]))
    for i in (0, 3):
      np.testing.assert_allclose(
          value[i], double(logits.kl, STUDENT, TEACHER, temperature=i + 1.0)[i], rtol=1e-12)
    words = double(heated, STUDENT_WORDS, TEACHER_WORDS, np.full((2, 3), 2.0))
    np.testing.assert_allclose(
        words, double(logits.kl, STUDENT_WORDS, TEACHER_WORDS, temperature=2.0), rtol=1e-12)

  def test_a_temperature_learns(self):
    # Its gradient, too: CTKD's is trained by it.
    with jax.enable_x64(True):
      check = lambda heat: logits.kl(jnp.asarray(STUDENT), jnp.asarray(TEACHER), temperature=heat)
      check_grads(jax.jit(check), (jnp.asarray(3.0),), 1, ['rev'])

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
    for wrong in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
      assert_shapes_refused(logits.kl, jnp.zeros((8, 10)), wrong)
      assert_shapes_refused(logits.kl, wrong, jnp.zeros((8, 10)))
    for heat in (jnp.ones(1), jnp.ones(10), jnp.ones((8, 1))):
      assert_shapes_refused(logits.kl, jnp.zeros((8, 10)), jnp.zeros((8, 10)), temperature=heat)


class TestStandardised:

  def test_by_hand(self):
    # Mean 2 and unbiased deviation 1: (1, 2, 3) is (-1, 0, 1); the 1e-7 beside it is below this.
    value = double(logits.kl, np.array([[1., 2, 3]]), np.array([[3., 1, 2]]), standardised=True)
    expected = double(logits.kl, np.array([[-1., 0, 1]]), np.array([[1., -1, 0]]))
    np.testing.assert_allclose(value, expected, rtol=1e-6)

  def test_mean_is_the_reference(self):
    prove('logit_std_kd_T2', logits.kl, STUDENT, TEACHER, temperature=2.0, standardised=True)

  @pytest.mark.parametrize('loss, more', [(logits.kl, ()), (logits.dkd, (LABEL,))])
  def test_scale_and_shift_of_either_side_do_not_matter(self, loss, more):
    # Sun 2024, §4: only the relations of the logits are left. 1e-7 / std is below this.
    value = double(loss, STUDENT, TEACHER, *more, standardised=True)
    moved = double(loss, 3 * STUDENT + 7, TEACHER / 2 - 1, *more, standardised=True)
    np.testing.assert_allclose(moved, value, rtol=2e-6)
    assert np.max(np.abs(value - double(loss, STUDENT, TEACHER, *more))) > 0.1

  def test_gradient(self):
    assert_gradient(logits.kl, STUDENT, TEACHER, temperature=2.0, standardised=True)

  @pytest.mark.parametrize('equal', [0.0, 0.1, 1e4])
  def test_equal_logits_say_nothing(self, equal):
    # Ten of 0.1 do not have the mean 0.1 in float32.
    student, teacher = np.full((4, 10), equal), np.append(TEACHER, STUDENT, axis=-1)
    values, gradient = value_and_gradient(logits.kl, jnp.float32(student), jnp.float32(teacher),
                                          standardised=True)
    uniform = double(logits.kl, 0 * student, teacher, standardised=True)
    np.testing.assert_allclose(values, uniform, rtol=1e-5)
    assert not np.any(gradient)

  @pytest.mark.parametrize('dtype, classes', [
      (jnp.float16, 3), (jnp.bfloat16, 2)])
  def test_finite_for_confident_models(self, dtype, classes):
    student, teacher = (jnp.asarray(z[:, :classes], dtype) for z in (FAR, FAR_TEACHER))
    assert_finite(logits.kl, student, teacher, standardised=True)


class TestMSE:

  def test_by_hand(self):
    # (1² + 3²) / 2 = 5
    value = double(logits.mse, np.array([[1., -1.]]), np.array([[2., 2.]]))
    np.testing.assert_allclose(value, [5.])

  def test_mean_is_the_reference(self):
    # The mean over examples and classes, of TextBrewer; and DER++'s of stored logits.
    prove('tb_kd_mse_T1', logits.mse, STUDENT, TEACHER)
    prove('derpp_mse', logits.mse, STUDENT, TEACHER)

  def test_gradient(self):
    with jax.enable_x64(True):
      _, gradient = value_and_gradient(logits.mse, STUDENT, TEACHER)
    np.testing.assert_allclose(gradient, 2 / 5 * (STUDENT - TEACHER), atol=1e-12)
    assert_gradient(logits.mse, STUDENT, TEACHER)

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_apart(self, dtype):
    assert_finite(logits.mse, jnp.array([[1e4, -1e4]], dtype), jnp.array([[-1e4, 1e4]], dtype))

  def test_nothing_is_broadcast(self):
    for wrong in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
      assert_shapes_refused(logits.mse, jnp.zeros((8, 10)), wrong)


class TestDKD:

  def test_by_hand(self):
    # TCKD = 1/2 ln 2 + 1/2 ln 2/3 = 0.143841; NCKD = 1/2 ln 3/4 + 1/2 ln 3/2 = 0.058892
    value = double(logits.dkd, OTHER_QUARTERS, HALF_QUARTERS, FIRST,
                   alpha=2.0, beta=3.0, temperature=1.0)
    np.testing.assert_allclose(value, [2 * 0.143841 + 3 * 0.058892], atol=3e-6)

  @pytest.mark.parametrize('name, alpha, beta', [
      ('dkd_a1_b8_T4', 1.0, 8.0), ('dkd_tckd_T4', 1.0, 0.0), ('dkd_nckd_T4', 0.0, 1.0)])
  def test_mean_is_the_reference(self, name, alpha, beta):
    prove(name, logits.dkd, STUDENT, TEACHER, LABEL, alpha=alpha, beta=beta)

  def test_kd_is_tckd_and_a_share_of_nckd(self):
    # Zhao 2022, eq. 6: KD = TCKD + (1 - p of the target) NCKD
    target, others = (double(logits.dkd, STUDENT, TEACHER, LABEL, alpha=alpha, beta=1 - alpha)
                      for alpha in (1.0, 0.0))
    p = softmax(TEACHER / 4)[np.arange(4), LABEL]
    np.testing.assert_allclose(target + (1 - p) * others,
                               double(logits.kl, STUDENT, TEACHER, temperature=4.0), rtol=1e-12)

  def test_with_two_classes_it_is_kd(self):
    student, teacher, label = STUDENT[:, :2], TEACHER[:, :2], LABEL % 2
    np.testing.assert_allclose(double(logits.dkd, student, teacher, label, temperature=2.0),
                               double(logits.kl, student, teacher, temperature=2.0), rtol=1e-12)
    with jax.enable_x64(True):
      values, gradient = value_and_gradient(logits.dkd, student, teacher, label, alpha=0.0)
    assert not np.any(values) and not np.any(gradient)

  def test_however_large_the_target_s_logit_the_others_do_not_see_it(self):
    # The authors' code subtracts 1000 from it.
    larger = STUDENT + 5000 * np.eye(5)[LABEL]
    value = double(logits.dkd, larger, TEACHER, LABEL, alpha=0.0, beta=1.0)
    np.testing.assert_allclose(
        value, double(logits.dkd, STUDENT, TEACHER, LABEL, alpha=0.0, beta=1.0), rtol=1e-12)

  def test_a_teacher_that_rules_all_others_out_takes_them_as_equal(self):
    values = [double(logits.dkd, STUDENT[:1], teacher, FIRST, alpha=0.0, beta=1.0)
              for teacher in (np.array([[0.] + 4 * [-np.inf]]), np.zeros((1, 5)))]
    np.testing.assert_allclose(*values, rtol=1e-12)

  def test_gradient(self):
    assert_gradient(logits.dkd, STUDENT, TEACHER, LABEL)

  @given(some_logits, some_logits, st.floats(-100, 100))
  @settings(max_examples=30, deadline=None, derandomize=True)
  def test_at_least_zero_zero_for_equals_and_blind_to_a_shift(self, s, t, shift):
    value, moved, equal = double(logits.dkd, np.stack([s, s + shift, s]),
                                 np.stack([t, t - shift, s]), LABEL[:3] * 0)
    assert value >= -1e-12 and abs(equal) < 1e-12
    np.testing.assert_allclose(moved, value, atol=1e-9)


class TestNKD:

  def test_by_hand(self):
    # -1/2 ln 1/4 = 0.693147; of the others -1/2 ln 2/3 - 1/2 ln 1/3 = 0.752039
    value = double(logits.nkd, OTHER_QUARTERS, HALF_QUARTERS, FIRST, gamma=1.5)
    np.testing.assert_allclose(value, [0.693147 + 1.5 * 0.752039], atol=3e-6)

  def test_mean_is_the_reference(self):
    # The paper's: the target is removed. One old commit of the authors' left it in: 4.04.
    prove('nkd_paper_T1_g1.5', logits.nkd, STUDENT, TEACHER, LABEL)

  def test_temperature_is_of_the_others_alone(self):
    # As T² times the cross-entropy of the others, whose KL is NCKD.
    target, hot = (double(logits.nkd, STUDENT, TEACHER, LABEL, gamma=gamma, temperature=4.0)
                   for gamma in (0.0, 1.0))
    p, log_q = softmax(TEACHER), np.log(softmax(STUDENT))
    rows = np.arange(4), LABEL
    np.testing.assert_allclose(target, -p[rows] * log_q[rows], rtol=1e-12)
    others = [np.delete(TEACHER[i], LABEL[i]) / 4 for i in range(4)]
    entropy = [-np.sum(softmax(z) * np.log(softmax(z))) for z in others]
    nckd = double(logits.dkd, STUDENT, TEACHER, LABEL, alpha=0.0, beta=1.0)
    np.testing.assert_allclose(hot - target, nckd + 16 * np.array(entropy), rtol=1e-12)

  def test_gradient(self):
    assert_gradient(logits.nkd, STUDENT, TEACHER, LABEL, temperature=3.0)


class TestWSLD:

  def test_by_hand(self):
    # CE_s / CE_t = ln 4 / ln 2 = 2, so the weight is 1 - e^-2 = 0.864665; the cross-entropy is
    # 1/2 ln 4 + 1/4 ln 2 + 1/4 ln 4 = 1.213008
    value = double(logits.wsld, OTHER_QUARTERS, HALF_QUARTERS, FIRST, temperature=1.0)
    np.testing.assert_allclose(value, [0.864665 * 1.213008], rtol=3e-6)

  def test_mean_is_the_reference(self):
    # mmrazor's, whose guard in the ratio is 1e-20 where the authors' is 1e-7.
    prove('wsld_tau2', logits.wsld, STUDENT, TEACHER, LABEL)

  def test_no_gradient_goes_through_the_weight(self):
    with jax.enable_x64(True):
      _, gradient = value_and_gradient(logits.wsld, STUDENT, TEACHER, LABEL)
    hard_s, hard_t = (-np.log(softmax(z)[np.arange(4), LABEL]) for z in (STUDENT, TEACHER))
    weight = 1 - np.exp(-hard_s / (hard_t + 1e-7))
    expected = weight[:, None] * 2 * (softmax(STUDENT / 2) - softmax(TEACHER / 2))
    np.testing.assert_allclose(gradient, expected, atol=1e-12)

  def test_what_the_student_knows_does_not_count(self):
    # CE_s = 0, and CE_t = 1e4.
    student, teacher = np.array([[1e4, 0, 0]]), np.array([[0, 1e4, 0]])
    assert double(logits.wsld, student, teacher, FIRST) == 0


class TestLwF:

  def test_mean_is_the_reference(self):
    # A definition, as avalanche has it: without T².
    prove('lwf_T2_units012', logits.lwf, STUDENT, TEACHER, units=(0, 1, 2), by=1 / 2**2)

  def test_only_the_old_units_matter(self):
    with jax.enable_x64(True):
      values, gradient = value_and_gradient(logits.lwf, STUDENT, TEACHER, units=(2, 0))
    np.testing.assert_allclose(
        values, double(logits.kl, STUDENT[:, [2, 0]], TEACHER[:, [2, 0]], temperature=2.0),
        rtol=1e-12)
    assert np.array_equal(np.any(np.asarray(gradient), axis=0), [True, False, True, False, False])

  def test_the_old_model_may_have_fewer_outputs(self):
    np.testing.assert_allclose(double(logits.lwf, STUDENT, TEACHER[:, :3], units=(0, 1, 2)),
                               double(logits.lwf, STUDENT, TEACHER, units=(0, 1, 2)), rtol=1e-12)

  @pytest.mark.parametrize('units', [(), (1,), (0, 0, 1), (0, 5), (-1, 0)])
  def test_units_out_of_range(self, units):
    with pytest.raises(ValueError, match='units='):
      logits.lwf(jnp.zeros((2, 6)), jnp.zeros((2, 5)), units=units)

  def test_finite_for_confident_models(self):
    assert_finite(logits.lwf, jnp.float16(FAR), jnp.float16(FAR_TEACHER), units=(0, 1))

  def test_nothing_is_broadcast(self):
    for wrong in (jnp.zeros((1, 10)), jnp.zeros(10)):
      assert_shapes_refused(logits.lwf, jnp.zeros((8, 10)), wrong, units=(0, 1))
      assert_shapes_refused(logits.lwf, wrong, jnp.zeros((8, 10)), units=(0, 1))


class TestTeacherFree:

  def test_by_hand(self):
    # The virtual teacher is (0.99, 0.01). Softened at 0.98 / ln 3 it is (3/4, 1/4), as for `kl`.
    value = double(logits.teacher_free, 0 * QUARTERS, FIRST, temperature=0.98 / np.log(3))
    np.testing.assert_allclose(value, [0.130812], atol=1e-6)

  def test_the_authors_code_divides_by_the_classes(self):
    # Its KLDivLoss() is a mean over examples and classes of p (log p - log q).
    virtual = np.where(np.eye(5)[LABEL] > 0, 0.99, 0.01 / 4)
    p, q = softmax(virtual / 20), softmax(STUDENT)
    np.testing.assert_allclose(np.mean(double(logits.teacher_free, STUDENT, LABEL)) / 5,
                               np.mean(p * (np.log(p) - np.log(q))), rtol=1e-12)

  def test_gradient(self):
    assert_gradient(logits.teacher_free, STUDENT, LABEL, correct=0.9, temperature=2.0)

  @pytest.mark.parametrize('hyper', [dict(correct=1.5), dict(correct=-0.1), dict(temperature=0.0)])
  def test_out_of_range(self, hyper):
    with pytest.raises(ValueError, match=next(iter(hyper))):
      logits.teacher_free(jnp.zeros((1, 3)), jnp.zeros(1, int), **hyper)

  def test_one_class_is_refused(self):
    with pytest.raises(ValueError, match='one class'):
      logits.teacher_free(jnp.zeros((1, 1)), jnp.zeros(1, int))

  def test_nothing_is_broadcast(self):
    for wrong in (jnp.zeros(1, int), jnp.zeros((8, 1), int)):
      assert_shapes_refused(logits.teacher_free, jnp.zeros((8, 10)), wrong)
    assert_shapes_refused(logits.teacher_free, jnp.zeros((1, 10)), jnp.zeros(8, int))


def teacher_free(student, teacher, label, **hyper):
  """As the others are called; it takes no teacher."""
  return logits.teacher_free(student, label, **hyper)


@pytest.mark.parametrize('loss', [logits.dkd, logits.nkd, logits.wsld, teacher_free])
class TestWithALabel:

  def test_a_label_that_may_not_be_seen_gives_nothing(self, loss):
    hidden = np.where([True, False, False, True], [-1, 0, 0, -100], LABEL)
    with jax.enable_x64(True):
      values, gradient, seen, its_gradient = (np.asarray(z) for label in (hidden, LABEL) for z in
                                              value_and_gradient(loss, STUDENT, TEACHER, label))
    assert not np.any(values[[0, 3]]) and not np.any(gradient[[0, 3]])
    np.testing.assert_allclose(values[1:3], seen[1:3], rtol=1e-12)
    np.testing.assert_allclose(gradient[1:3], its_gradient[1:3], rtol=1e-12)
    assert np.all(seen != 0) and np.all(np.any(its_gradient != 0, axis=-1))

  def test_a_label_beyond_the_classes_is_nan(self, loss):
    values = double(loss, STUDENT, TEACHER, np.array([0, 5, 4, 1]))
    assert np.array_equal(np.isnan(values), [False, True, False, False])

  def test_an_example_or_a_position_does_not_see_the_others(self, loss):
    part = [z[None, :3] for z in (STUDENT, TEACHER, LABEL)]
    np.testing.assert_allclose(double(loss, *part),
                               double(loss, STUDENT, TEACHER, LABEL)[None, :3], rtol=1e-12)

  @pytest.mark.parametrize('dtype, rows, classes', [
      (jnp.float16, 5, 3), (jnp.bfloat16, 1, 2)])
  def test_finite_for_confident_models(self, loss, dtype, rows, classes):
    student, teacher = (jnp.asarray(z[:rows, :classes], dtype) for z in (FAR, FAR_TEACHER))
    assert_finite(loss, student, teacher, FAR_LABEL[:rows])


@pytest.mark.parametrize('loss', [logits.dkd, logits.nkd, logits.wsld])
class TestWithALabelAndATeacher:

  def test_finite_for_a_teacher_that_rules_classes_out(self, loss):
    teacher = np.array([[0, -np.inf, -np.inf], [-np.inf, 0, -np.inf], [0, -np.inf, 1.]])
    assert_finite(loss, jnp.float32(STUDENT[:3, :3]), jnp.float32(teacher), np.array([0, 0, 1]))

  def test_a_temperature_for_each_example(self, loss):
    heated = lambda s, t, label, temperature: loss(s, t, label, temperature=temperature)
    value = double(heated, STUDENT, TEACHER, LABEL, np.array([1., 2, 3, 4]))
    np.testing.assert_allclose(
        value[2], double(loss, STUDENT, TEACHER, LABEL, temperature=3.0)[2], rtol=1e-12)

  def test_hyper_parameters_out_of_range(self, loss):
    weights = {logits.dkd: ('alpha', 'beta'), logits.nkd: ('gamma',), logits.wsld: ()}[loss]
    for name, values in (('temperature', (0.0, np.nan)), *((w, (-1.0, np.nan)) for w in weights)):
      for value in values:
        with pytest.raises(ValueError, match=f'{name}='):
          loss(jnp.zeros((1, 3)), jnp.zeros((1, 3)), jnp.zeros(1, int), **{name: value})

  def test_nothing_is_broadcast(self, loss):
    eight, label = jnp.zeros((8, 10)), jnp.zeros(8, int)
    for wrong in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
      assert_shapes_refused(loss, eight, wrong, label)
      assert_shapes_refused(loss, wrong, eight, label)
    assert_shapes_refused(loss, eight[:1], eight[:1], label)
    assert_shapes_refused(loss, eight, eight, label[:1])
    assert_shapes_refused(loss, eight, eight, label, temperature=jnp.ones(1))
