import jax.numpy as jnp
import numpy as np
import pytest

from distill.losses import features

from .inputs import (
  MASK,
  STUDENT_HIDDEN,
  STUDENT_MAPS,
  STUDENT_VECTORS,
  TEACHER_HIDDEN,
  TEACHER_MAPS,
  TEACHER_VECTORS,
  assert_agrees,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  double,
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
    for wrong in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
      assert_shapes_refused(loss, jnp.zeros((8, 10)), wrong)


class TestMSE:

  def test_by_hand(self):
    # (1² + 3²) / 2 = 5
    value = double(features.mse, np.array([[1., -1.]]), np.array([[2., 2.]]))
    np.testing.assert_allclose(value, [5.])

  def test_mean_is_the_reference(self):
    # FitNet's, as RepDistiller has it, over feature maps: the mean over everything.
    student, teacher = (np.moveaxis(x, 1, -1) for x in (STUDENT_MAPS, TEACHER_MAPS))
    assert_agrees('fitnet_hint', features.mse, student, teacher)

  def test_masked_mean_is_the_reference(self):
    # TextBrewer's: the mean over tokens of all examples, and the width.
    assert_agrees('hid_mse_masked', features.mse, STUDENT_HIDDEN, TEACHER_HIDDEN[..., :6],
                  mask=MASK)


class TestCosine:

  def test_by_hand(self):
    # (3, 4)·(4, 3) / 25 = 24/25; then at right angles, and opposite.
    student = np.array([[3., 4.], [1., 0.], [1., 2.]])
    teacher = np.array([[4., 3.], [0., 7.], [-2., -4.]])
    np.testing.assert_allclose(double(features.cosine, student, teacher), [0.04, 1, 2], rtol=1e-12)

  def test_masked_mean_is_the_reference(self):
    # A definition: the mean over tokens of 1 - cos.
    assert_agrees('distilbert_cos_masked', features.cosine, STUDENT_HIDDEN,
                  TEACHER_HIDDEN[..., :6], mask=MASK)

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
    # TextBrewer's, on [CLS] vectors: the sum over the width.
    student, teacher = (np.stack([x[:, :6], 0 * x[:, :6]], axis=1)
                        for x in (STUDENT_VECTORS, TEACHER_VECTORS))
    assert_agrees('pkd_bert', features.pkd, student, teacher)

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
    for wrong in (jnp.zeros((1, 3, 10)), jnp.zeros((8, 1, 10)), jnp.zeros((8, 3, 1))):
      assert_shapes_refused(features.pkd, jnp.zeros((8, 3, 10)), wrong)


class TestStandardised:

  def test_by_hand(self):
    # (1, -1) against (-1, 1), wherever they are and however large: the mean of 2² and 2².
    student, teacher = np.array([[3., 1], [3, 1]]), np.array([[-20., 40], [80, 0]])
    np.testing.assert_allclose(double(features.standardised, student, teacher), [4, 0], atol=1e-12)

  def test_gradient(self):
    assert_gradient(features.standardised, STUDENT_HIDDEN[0], TEACHER_HIDDEN[0, :, :6])

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_apart_and_for_constant_vectors(self, dtype):
    student = jnp.array([[1e4, -1e4], [1e4, 1e4], [0, 0]], dtype)
    assert_finite(features.standardised, student, student[::-1])
    assert not features.standardised(student, student).any()

  def test_nothing_is_broadcast(self):
    for loss in (features.standardised, features.moments):
      for wrong in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
        assert_shapes_refused(loss, jnp.zeros((8, 10)), wrong)


class TestMoments:

  def test_by_hand(self):
    # Means 2 and 5, variances 1 and 4: 3² and 3.
    student, teacher = np.array([[1., 3]]), np.array([[3., 7]])
    np.testing.assert_allclose(double(features.moments, student, teacher), [12])
    np.testing.assert_allclose(double(features.moments, student, teacher, beta=2.0, gamma=0.5),
                               [19.5])

  @pytest.mark.parametrize('name', ['beta', 'gamma'])
  def test_weights_out_of_range(self, name):
    for value in (-1.0, np.nan, np.inf):
      with pytest.raises(ValueError, match=f'{name}='):
        features.moments(jnp.zeros((1, 2)), jnp.zeros((1, 2)), **{name: value})

  def test_gradient(self):
    assert_gradient(features.moments, STUDENT_HIDDEN[0], TEACHER_HIDDEN[0, :, :6], gamma=0.3)

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_apart_and_for_equals(self, dtype):
    student = jnp.array([[1e4, -1e4], [0, 0]], dtype)
    assert_finite(features.moments, student, student[::-1])
    assert_finite(features.moments, student, student)
