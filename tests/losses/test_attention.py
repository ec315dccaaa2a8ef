import jax
import jax.numpy as jnp
import numpy as np
import pytest
from inputs import (
  MASK,
  STUDENT_MAPS,
  TEACHER_MAPS,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  value_and_gradient,
)

from distill.losses import attention


class TestMSE:

  def test_by_hand(self):
    # One head: the squares 1 4 / 9 16, mean 30/4; with the second token padding, 1 alone.
    # Two heads, the second without a difference: half of that.
    student = jnp.array([[[1., 2.], [3., 4.]]])[None]
    zero = jnp.zeros((1, 1, 2, 2))
    both, first = jnp.ones((1, 2)), jnp.array([[1., 0.]])
    np.testing.assert_allclose(attention.mse(student, zero, both), [7.5])
    np.testing.assert_allclose(attention.mse(student, zero, first), [1.])
    heads = jnp.concatenate([student, zero], axis=1)
    np.testing.assert_allclose(attention.mse(heads, jnp.zeros((1, 2, 2, 2)), both), [3.75])

  def test_weighted_by_the_lengths_squared_it_is_the_reference(self):
    # att_mse_masked, executed (TextBrewer): pooled over the pairs of tokens of all examples and
    # over heads, so that an example of n tokens has n² shares. Ours is the paper's mean: one.
    with jax.enable_x64(True):
      value = attention.mse(jnp.asarray(STUDENT_MAPS), jnp.asarray(TEACHER_MAPS), jnp.asarray(MASK))
      pooled = np.average(value, weights=MASK.sum(-1)**2)
      np.testing.assert_allclose(pooled, 0.9405937566849971, rtol=1e-9)

  def test_unpadded_it_is_the_mean_over_everything(self):
    # TinyBERT, eq. 7: the mean over heads of the MSE of each map.
    with jax.enable_x64(True):
      value = attention.mse(jnp.asarray(STUDENT_MAPS), jnp.asarray(TEACHER_MAPS), jnp.ones((4, 4)))
      expected = ((STUDENT_MAPS - TEACHER_MAPS)**2).mean(axis=(1, 2, 3))
      np.testing.assert_allclose(value, expected, rtol=1e-12)

  def test_gradient(self):
    assert_gradient(attention.mse, STUDENT_MAPS, TEACHER_MAPS, MASK)

  def test_masked_is_the_subset(self):
    student, teacher, mask = (jnp.asarray(x, jnp.float32)
                              for x in (STUDENT_MAPS, TEACHER_MAPS, MASK))
    values, gradient = value_and_gradient(attention.mse, student, teacher, mask)
    for i, n in [(0, 3), (3, 1)]:
      part = slice(i, i + 1), slice(None), slice(n), slice(n)
      alone = value_and_gradient(attention.mse, student[part], teacher[part], jnp.ones((1, n)))
      np.testing.assert_allclose(values[i:i + 1], alone[0], rtol=1e-6)
      np.testing.assert_allclose(gradient[part], alone[1], rtol=1e-6)

  @pytest.mark.parametrize('junk', [1e30, -np.inf, np.nan])
  def test_padding_never_enters(self, junk):
    # Models put -inf, or a large negative number, where a padded key's score would be.
    pad = (MASK[:, None, :, None] * MASK[:, None, None, :] == 0)
    student, teacher, mask = (jnp.asarray(x, jnp.float32)
                              for x in (STUDENT_MAPS, TEACHER_MAPS, MASK))
    clean = value_and_gradient(attention.mse, student, teacher, mask)
    dirty = value_and_gradient(attention.mse, jnp.where(pad, junk, student),
                               jnp.where(pad, junk, teacher), mask)
    for expected, actual in zip(clean, dirty, strict=True):
      np.testing.assert_array_equal(actual, expected)

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_apart_for_equals_and_without_a_token(self, dtype):
    far = jnp.full((3, 1, 2, 2), 1e4, dtype)
    teacher = far * jnp.array([-1, 1, -1], dtype)[:, None, None, None]
    mask = jnp.array([[1., 1], [1, 1], [0, 0]])
    assert_finite(attention.mse, far, teacher, mask)
    np.testing.assert_array_equal(attention.mse(far, teacher, mask)[1:], [0., 0.])

  def test_nothing_is_broadcast(self):
    full, mask = jnp.zeros((8, 2, 3, 3)), jnp.ones((8, 3))
    for one in (full[:1], full[:, :, :1], full[..., :1], full[:, 0]):
      assert_shapes_refused(attention.mse, full, one, mask)
      assert_shapes_refused(attention.mse, one, one, mask)
    assert_shapes_refused(attention.mse, full, full[:, :1], mask)
    for one in (mask[:1], mask[:, :1]):
      assert_shapes_refused(attention.mse, full, full, one)
