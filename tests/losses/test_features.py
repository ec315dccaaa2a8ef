import jax.numpy as jnp
import numpy as np
import pytest

from distill.losses import features

from .inputs import (
  MASK,
  STUDENT_HIDDEN,
  STUDENT_MAPS,
  TEACHER_HIDDEN,
  TEACHER_MAPS,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  double,
  filled,
  masked_mean,
  value_and_gradient,
)


@pytest.mark.parametrize('loss', [features.mse, features.cosine])
class TestBoth:

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_apart_and_for_equals(self, loss, dtype):
    far, near = [1e4, -1e4], [1e-4, 1e-4]
    assert_finite(loss, jnp.array([far, far, near, near, far], dtype),
                  jnp.array([near, far, near, far, [-1e4, 1e4]], dtype))

  def test_zero_for_equals(self, loss):
    value = double(loss, STUDENT_HIDDEN, STUDENT_HIDDEN)
    np.testing.assert_allclose(value, np.zeros((4, 4)), atol=1e-12)

  def test_gradient(self, loss):
    assert_gradient(loss, STUDENT_HIDDEN, TEACHER_HIDDEN[..., :6])

  def test_a_position_does_not_see_the_others(self, loss):
    student, teacher = STUDENT_HIDDEN, TEACHER_HIDDEN[..., :6]
    np.testing.assert_allclose(double(loss, student, teacher)[1:2, :2],
                               double(loss, student[1:2, :2], teacher[1:2, :2]), rtol=1e-12)

  def test_nothing_is_broadcast(self, loss):
    for one in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
      assert_shapes_refused(loss, jnp.zeros((8, 10)), one)


class TestMSE:

  def test_by_hand(self):
    # (1² + 3²) / 2 = 5
    value = double(features.mse, np.array([[1., -1.]]), np.array([[2., 2.]]))
    np.testing.assert_allclose(value, [5.])

  def test_mean_is_the_reference(self):
    # fitnet_hint, executed (RepDistiller): the mean over everything.
    value = double(features.mse, STUDENT_MAPS, TEACHER_MAPS)
    np.testing.assert_allclose(np.mean(value), 0.8950219739195445, rtol=1e-9)

  def test_masked_mean_is_the_reference(self):
    # hid_mse_masked, executed (TextBrewer): the mean over tokens of all examples, and the width.
    value = double(features.mse, STUDENT_HIDDEN, TEACHER_HIDDEN[..., :6])
    np.testing.assert_allclose(masked_mean(value, MASK), 0.6406384871638579, rtol=1e-9)


class TestCosine:

  def test_by_hand(self):
    # (3, 4)·(4, 3) / 25 = 24/25; then at right angles, and opposite.
    student = np.array([[3., 4.], [1., 0.], [1., 2.]])
    teacher = np.array([[4., 3.], [0., 7.], [-2., -4.]])
    np.testing.assert_allclose(double(features.cosine, student, teacher), [0.04, 1, 2], rtol=1e-12)

  def test_masked_mean_is_the_reference(self):
    # distilbert_cos_masked, a definition: the mean over tokens of 1 - cos.
    value = double(features.cosine, STUDENT_HIDDEN, TEACHER_HIDDEN[..., :6])
    np.testing.assert_allclose(masked_mean(value, MASK), 0.6328541071820781, rtol=1e-9)

  def test_length_changes_neither_value_nor_the_gradient_s_direction(self):
    student, teacher = np.array([1, 2, -1]), np.array([0.5, 1, 3])
    factor = np.array([[1], [1e-3], [1e3]])
    value, gradient = value_and_gradient(features.cosine, factor * student, teacher / factor)
    np.testing.assert_allclose(value, np.full(3, value[0]), rtol=1e-5)
    np.testing.assert_allclose(gradient * factor, np.tile(gradient[0], (3, 1)), rtol=1e-5)
    np.testing.assert_allclose(gradient @ student, 0, atol=1e-4)

  def test_a_zero_vector_is_at_right_angles_to_all_and_stays(self):
    zero, other = [0., 0, 0], [1., 2, 2]
    student, teacher = jnp.array([zero, other, zero]), jnp.array([other, zero, zero])
    value, gradient = value_and_gradient(features.cosine, student, teacher)
    np.testing.assert_array_equal(value, [1., 1., 1.])
    np.testing.assert_array_equal(gradient, np.zeros((3, 3)))

  def test_the_gradient_is_bounded_for_vectors_next_to_zero(self):
    # It is at most 1/norm, and 0 below the norm 1e-12.
    student = jnp.outer(jnp.logspace(-30, -8, 45), jnp.array([1., 0]))
    assert_finite(features.cosine, student, jnp.ones((45, 2)))
    _, gradient = value_and_gradient(features.cosine, student, jnp.ones((45, 2)))
    assert 1e11 < jnp.abs(gradient).max() < 1.1e12


class TestPKD:

  def test_by_hand(self):
    # First positions (3, 4) and (4, 3), at length 1: (0.2² + 0.2²) = 0.08; then opposite: 2².
    student = np.array([[[3., 4.], [9, 9]], [[1, 2], [0, 0]]])
    teacher = np.array([[[4., 3.], [0, 1]], [[-2, -4], [5, 5]]])
    np.testing.assert_allclose(double(features.pkd, student, teacher), [0.08, 4], rtol=1e-12)

  def test_mean_is_the_reference(self):
    # pkd_bert, executed (TextBrewer), on [CLS] vectors: the sum over the width.
    student = filled(lambda i, s, k: np.sin(.9 * i + .6 * k + .3 + s), 4, 2, 6)
    teacher = filled(lambda i, s, k: np.cos(.4 * i - 1.1 * k + .7 - s), 4, 2, 6)
    value = double(features.pkd, student, teacher)
    np.testing.assert_allclose(np.mean(value), 1.3848655309069473, rtol=1e-9)

  def test_gradient_is_the_first_position_s_alone(self):
    student, teacher = STUDENT_HIDDEN, TEACHER_HIDDEN[..., :6]
    assert_gradient(features.pkd, student, teacher)
    _, gradient = value_and_gradient(features.pkd, student, teacher)
    assert (gradient[:, 1:] == 0).all() and (np.abs(gradient[:, 0]).sum(-1) > 0).all()

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_apart_for_equals_and_for_zero(self, dtype):
    far, near, zero = [[1e4, -1e4]], [[1e-4, 1e-4]], [[0, 0]]
    assert_finite(features.pkd, jnp.array([far, far, near, zero, zero], dtype),
                  jnp.array([near, far, near, near, zero], dtype))

  def test_nothing_is_broadcast(self):
    for one in (jnp.zeros((1, 3, 10)), jnp.zeros((8, 1, 10)), jnp.zeros((8, 3, 1))):
      assert_shapes_refused(features.pkd, jnp.zeros((8, 3, 10)), one)
