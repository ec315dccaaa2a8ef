import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inputs import (
  STUDENT,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  value_and_gradient,
)

from distill.losses import logits
from distill.losses.supervised import cross_entropy

LABEL = np.array([0, 2, 4, 1])
QUARTERS = np.log([[1., 3.]])        # the logits of q = (1/4, 3/4)


class TestCrossEntropy:

  @pytest.mark.parametrize('label, expected', [(0, 1.386294), (1, 0.287682)])   # ln 4, ln 4/3
  def test_by_hand(self, label, expected):
    value = cross_entropy(jnp.asarray(QUARTERS), jnp.array([label]))
    np.testing.assert_allclose(value, [expected], atol=1e-6)

  def test_smoothing_by_hand(self):
    # The target is 0.8 (0, 1) + 0.2 (1/2, 1/2) = (0.1, 0.9): 0.1 ln 4 + 0.9 ln 4/3 = 0.397543
    value = cross_entropy(jnp.asarray(QUARTERS), jnp.array([1]), smoothing=0.2)
    np.testing.assert_allclose(value, [0.397543], atol=1e-6)

  @pytest.mark.parametrize('smoothing', [0.0, 0.3])
  def test_gradient_is_student_minus_target(self, smoothing):
    with jax.enable_x64(True):
      student, label = jnp.asarray(STUDENT), jnp.asarray(LABEL)
      _, gradient = value_and_gradient(cross_entropy, student, label, smoothing=smoothing)
      target = (1 - smoothing) * np.eye(5)[LABEL] + smoothing / 5
      np.testing.assert_allclose(gradient, jax.nn.softmax(student) - target, atol=1e-12)
    assert_gradient(cross_entropy, STUDENT, LABEL, smoothing=smoothing)

  def test_smoothed_is_the_divergence_from_the_target_plus_its_entropy(self):
    with jax.enable_x64(True):
      target = 0.7 * np.eye(5)[LABEL] + 0.06
      expected = (logits.kl(jnp.asarray(STUDENT), jnp.log(jnp.asarray(target)))
                  - np.sum(target * np.log(target), axis=-1))
      value = cross_entropy(jnp.asarray(STUDENT), jnp.asarray(LABEL), smoothing=0.3)
      np.testing.assert_allclose(value, expected, rtol=1e-12)

  @pytest.mark.parametrize('smoothing', [0.0, 0.3])
  @pytest.mark.parametrize('hidden', [-1, -100])
  def test_a_hidden_label_has_neither_value_nor_gradient(self, hidden, smoothing):
    student = jnp.asarray(STUDENT, jnp.float32)
    seen = value_and_gradient(cross_entropy, student, jnp.asarray(LABEL), smoothing=smoothing)
    part = value_and_gradient(cross_entropy, student, jnp.asarray([0, hidden, 4, 1]),
                              smoothing=smoothing)
    for whole, left in zip(seen, part, strict=True):
      assert np.all(left[1] == 0)
      np.testing.assert_array_equal(left[np.array([0, 2, 3])], whole[np.array([0, 2, 3])])

  def test_a_label_beyond_the_classes_is_not_trained_on(self):
    value = cross_entropy(jnp.zeros((2, 3)), jnp.array([3, 2]))
    assert np.isnan(value[0]) and np.isfinite(value[1])

  def test_words_are_examples_with_one_more_axis(self):
    student = jnp.asarray(STUDENT.reshape(2, 2, 5), jnp.float32)
    value = cross_entropy(student, jnp.array([[-1, 2], [4, -1]]))
    alone = [cross_entropy(student[0, 1], jnp.array(2)), cross_entropy(student[1, 0], jnp.array(4))]
    np.testing.assert_allclose(value, [[0, alone[0]], [alone[1], 0]], rtol=1e-6)

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  @pytest.mark.parametrize('smoothing', [0.0, 0.1])
  def test_finite_for_a_student_surely_wrong(self, dtype, smoothing):
    student = jnp.array([[1e4, -1e4]], dtype)
    assert_finite(cross_entropy, student, jnp.array([1]), smoothing=smoothing)
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
