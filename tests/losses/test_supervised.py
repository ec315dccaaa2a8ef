import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import objective
from distill.losses import logits
from distill.losses.supervised import cross_entropy, mse

from .inputs import (
  STUDENT,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  double,
  value_and_gradient,
)

LABEL = np.array([0, 2, 4, 1])
QUARTERS = np.log([[1., 3.]])        # the logits of q = (1/4, 3/4)


class TestCrossEntropy:

  @pytest.mark.parametrize('label, expected', [(0, 1.386294), (1, 0.287682)])   # ln 4, ln 4/3
  def test_by_hand(self, label, expected):
    value = double(cross_entropy, QUARTERS, np.array([label]))
    np.testing.assert_allclose(value, [expected], atol=1e-6)

  def test_smoothing_by_hand(self):
    # The target is 0.8 (0, 1) + 0.2 (1/2, 1/2) = (0.1, 0.9): 0.1 ln 4 + 0.9 ln 4/3 = 0.397543
    value = double(cross_entropy, QUARTERS, np.array([1]), smoothing=0.2)
    np.testing.assert_allclose(value, [0.397543], atol=1e-6)

  @pytest.mark.parametrize('smoothing', [0.0, 0.3])
  def test_gradient_is_student_minus_target(self, smoothing):
    with jax.enable_x64(True):
      _, gradient = value_and_gradient(cross_entropy, STUDENT, LABEL, smoothing=smoothing)
    q = np.exp(STUDENT) / np.exp(STUDENT).sum(-1, keepdims=True)
    target = (1 - smoothing) * np.eye(5)[LABEL] + smoothing / 5
    np.testing.assert_allclose(gradient, q - target, atol=1e-12)
    assert_gradient(cross_entropy, STUDENT, LABEL, smoothing=smoothing)

  def test_smoothed_is_the_divergence_from_the_target_plus_its_entropy(self):
    target = 0.7 * np.eye(5)[LABEL] + 0.06
    entropy = -np.sum(target * np.log(target), axis=-1)
    value = double(cross_entropy, STUDENT, LABEL, smoothing=0.3)
    expected = double(logits.kl, STUDENT, np.log(target)) + entropy
    np.testing.assert_allclose(value, expected, rtol=1e-12)

  @pytest.mark.parametrize('smoothing', [0.0, 0.3])
  def test_a_hidden_label_has_neither_value_nor_gradient(self, smoothing):
    # -1 is this project's; -100 is what files prepared for PyTorch have.
    hidden = np.array([0, -1, -100, 1])
    seen = value_and_gradient(cross_entropy, STUDENT, LABEL, smoothing=smoothing)
    part = value_and_gradient(cross_entropy, STUDENT, hidden, smoothing=smoothing)
    for whole, left in zip(seen, part, strict=True):
      np.testing.assert_array_equal(left[1:3], 0 * whole[1:3])
      np.testing.assert_array_equal(left[::3], whole[::3])

  def test_a_label_beyond_the_classes_is_not_trained_on(self):
    value = cross_entropy(jnp.zeros((2, 3)), jnp.array([3, 2]))
    assert np.isnan(value[0]) and np.isfinite(value[1])

  def test_words_are_examples_with_one_more_axis(self):
    value = double(cross_entropy, STUDENT.reshape(2, 2, 5), np.array([[-1, 2], [4, -1]]))
    each = [double(cross_entropy, STUDENT[i], np.array(label)) for i, label in [(1, 2), (2, 4)]]
    np.testing.assert_allclose(value, [[0, each[0]], [each[1], 0]], rtol=1e-12)

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_for_a_student_surely_wrong(self, dtype):
    student = jnp.array([[1e4, -1e4]], dtype)
    assert_finite(cross_entropy, student, jnp.array([1]), smoothing=0.1)
    np.testing.assert_allclose(cross_entropy(student, jnp.array([1])), [2e4], rtol=4e-3)

  def test_finite_where_another_class_is_ruled_out(self):
    assert_finite(cross_entropy, jnp.array([[0., 1., -jnp.inf]]), jnp.array([0]))

  @pytest.mark.parametrize('smoothing', [-0.1, 1.0, float('nan')])
  def test_smoothing_out_of_range(self, smoothing):
    with pytest.raises(ValueError, match='smoothing='):
      cross_entropy(jnp.zeros((1, 2)), jnp.array([0]), smoothing=smoothing)

  def test_nothing_is_broadcast(self):
    assert_shapes_refused(cross_entropy, jnp.zeros((8, 10)), jnp.zeros(1, int))
    assert_shapes_refused(cross_entropy, jnp.zeros((1, 10)), jnp.zeros(8, int))
    assert_shapes_refused(cross_entropy, jnp.zeros((8, 10)), jnp.zeros((8, 1), int))


HEAD = STUDENT[:, :1]                   # [b 1]
NUMBER = np.array([4.2, 0., 2.5, 5.])


class TestMse:

  def test_by_hand(self):
    value = double(mse, np.array([[1.5], [-2.]]), np.array([1., 0.]))
    np.testing.assert_array_equal(value, [0.25, 4.])

  def test_gradient_is_twice_the_error(self):
    with jax.enable_x64(True):
      _, gradient = value_and_gradient(mse, HEAD, NUMBER)
    np.testing.assert_allclose(gradient, 2 * (HEAD - NUMBER[:, None]), atol=1e-12)
    assert_gradient(mse, HEAD, NUMBER)

  def test_equals_the_distance_of_logits_from_labels(self):
    np.testing.assert_allclose(double(mse, HEAD, NUMBER),
                               double(logits.mse, HEAD, NUMBER[:, None]), rtol=1e-12)

  def test_a_masked_label_has_neither_value_nor_gradient_nor_count(self):
    # Labels of examples 1 and 3 may not be seen; a batch then has 0 there.
    term, = objective.terms_from({'hard': {
        'loss': 'supervised.mse', 'mask': 'batch/labelled',
        'reads': {'student': 'student/logits', 'label': 'batch/label'}}})
    seen = jnp.array([1., 0., 1., 0.])
    batch = {'label': jnp.float32(NUMBER) * seen, 'labelled': seen, 'valid': jnp.ones(4)}

    def total(head):
      totals, sums, _ = objective.compute((term,), {'student': {'logits': head}, 'batch': batch},
                                         objective.counts((term,), batch), jnp.zeros(()))
      return totals[''], sums['hard']
    head = jnp.float32(HEAD)
    (value, (_, count)), gradient = jax.value_and_grad(total, has_aux=True)(head)
    error = (HEAD[:, 0] - NUMBER)[::2]
    assert count == 2
    np.testing.assert_allclose(value, np.mean(error**2), rtol=1e-6)
    np.testing.assert_allclose(gradient[::2, 0], error, rtol=1e-6)      # 2 error / 2
    np.testing.assert_array_equal(gradient[1::2], 0)

  def test_a_label_that_is_no_number_is_not_trained_on(self):
    value = mse(jnp.zeros((2, 1)), jnp.array([jnp.nan, 1.]))
    assert np.isnan(value[0]) and value[1] == 1

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_off(self, dtype):
    # The square of 1e4 is beyond float16.
    assert_finite(mse, jnp.array([[1e4]], dtype), jnp.array([-1e4]))
    np.testing.assert_allclose(mse(jnp.array([[1e4]], dtype), jnp.array([-1e4])), [4e8], rtol=4e-3)

  def test_nothing_is_broadcast(self):
    assert mse(jnp.zeros((8, 1)), jnp.zeros(8)).shape == (8,)           # and never [8 8]
    assert_shapes_refused(mse, jnp.zeros((8, 1)), jnp.zeros((8, 1)))
    assert_shapes_refused(mse, jnp.zeros((8, 1)), jnp.zeros(1))
    assert_shapes_refused(mse, jnp.zeros((8, 2)), jnp.zeros(8))
    assert_shapes_refused(mse, jnp.zeros((8, 8)), jnp.zeros(8))
