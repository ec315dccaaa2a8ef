import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.losses.relations import minilm

from .inputs import (
  MASK,
  STUDENT_HIDDEN,
  TEACHER_HIDDEN,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  double,
  masked_mean,
  value_and_gradient,
)


class TestMiniLM:

  def test_by_hand(self):
    # Teacher (√ln 3, 0), one head of width 1. The first position relates by (3/4, 1/4), the
    # second by (1/2, 1/2); a student of zeros by (1/2, 1/2): 0.130812 (see `logits.kl`), and 0.
    teacher = np.sqrt(np.log([[[3.], [1.]]]))
    value = double(minilm, 0 * teacher, teacher, np.ones((1, 2)), heads=1)
    np.testing.assert_allclose(value, [[0.130812, 0]], atol=1e-6)

  def test_heads_and_their_width_by_hand(self):
    # Two heads of width 4. In the first (x, x, x, x) with x² = ln 3 / 2 scores 4x² / √4 = ln 3 as
    # above; the second is zero, as the student's two heads of width 1 are: half of that.
    x = np.sqrt(np.log(3) / 2)
    teacher = np.array([[[x, x, x, x, 0, 0, 0, 0], [0] * 8]])
    value = double(minilm, np.zeros((1, 2, 2)), teacher, np.ones((1, 2)), heads=2)
    np.testing.assert_allclose(value, [[0.130812 / 2, 0]], atol=1e-6)

  @pytest.mark.parametrize('mask, expected', [
      (np.ones((4, 4)), 0.012295598157585288),      # minilmv2_rel_R3, a definition
      (MASK, 0.007294120780230581),                 # minilmv2_rel_R3_masked, a definition
  ])
  def test_masked_mean_is_the_reference(self, mask, expected):
    # There is no public code of this loss; the mean is over positions of all examples.
    value = double(minilm, STUDENT_HIDDEN, TEACHER_HIDDEN, mask, heads=3)
    np.testing.assert_allclose(masked_mean(value, mask), expected, rtol=1e-9)

  def test_gradient(self):
    assert_gradient(minilm, STUDENT_HIDDEN, TEACHER_HIDDEN, MASK, heads=3)

  def test_a_rotation_of_a_head_changes_nothing(self):
    # Relations are scalar products, so each head may be turned: the student is free to.
    turn, _ = np.linalg.qr(np.cos(np.arange(16.)**2).reshape(4, 4))
    turned = np.concatenate([TEACHER_HIDDEN[..., :4] @ turn, TEACHER_HIDDEN[..., 4:]], axis=-1)
    value = lambda s, t, heads: double(minilm, s, t, MASK, heads=heads)
    np.testing.assert_allclose(value(STUDENT_HIDDEN, turned, 3),
                               value(STUDENT_HIDDEN, TEACHER_HIDDEN, 3), atol=1e-12)
    np.testing.assert_allclose(value(turned, TEACHER_HIDDEN, 3), 0, atol=1e-12)
    assert value(turned, TEACHER_HIDDEN, 4).max() > 1e-3      # it mixes these heads

  def test_masked_is_the_subset(self):
    student, teacher = STUDENT_HIDDEN, TEACHER_HIDDEN
    values, gradient = value_and_gradient(minilm, student, teacher, MASK, heads=3)
    for i, n in [(0, 3), (3, 1)]:
      part = slice(i, i + 1), slice(n)
      alone = value_and_gradient(minilm, student[part], teacher[part], np.ones((1, n)), heads=3)
      np.testing.assert_allclose(values[part], alone[0], atol=1e-6)
      np.testing.assert_allclose(gradient[part], alone[1], atol=1e-6)
    assert np.all(values[MASK == 0] == 0) and np.all(gradient[MASK == 0] == 0)

  def test_padding_never_enters(self):
    pad, junk = MASK[..., None] == 0, np.array([1e30, np.inf, np.nan, np.nan])[:, None, None]
    student, teacher = (np.where(pad, junk, hidden) for hidden in (STUDENT_HIDDEN, TEACHER_HIDDEN))
    clean = value_and_gradient(minilm, STUDENT_HIDDEN, TEACHER_HIDDEN, MASK, heads=3)
    dirty = value_and_gradient(minilm, student, teacher, MASK, heads=3)
    for expected, actual in zip(clean, dirty, strict=True):
      np.testing.assert_array_equal(actual, expected)

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_for_large_vectors_for_equals_and_without_a_token(self, dtype):
    large, zero, mixed = [[1e4, -1e4], [-1e4, 1e4]], [[0, 0], [0, 0]], [[1e4, 1e4], [1e4, -1e4]]
    student = jnp.array([large, large, zero, mixed, large, large], dtype)
    teacher = jnp.array([large, zero, large, large, mixed, mixed], dtype)
    mask = jnp.array([[1., 1], [1, 1], [1, 1], [1, 1], [1, 0], [0, 0]])
    assert_finite(minilm, student, teacher, mask, heads=1)
    with jax.debug_nans(True):
      value = minilm(student, teacher, mask, heads=1)
    np.testing.assert_array_equal(value[jnp.array([0, 4, 5])], np.zeros((3, 2)))

  @pytest.mark.parametrize('heads', [0, -1, 4, 12])
  def test_heads_must_divide_both_widths(self, heads):
    for student, teacher in [(6, 12), (12, 6)]:
      with pytest.raises(ValueError, match=f'heads={heads} does not divide'):
        minilm(jnp.zeros((2, 3, student)), jnp.zeros((2, 3, teacher)), jnp.ones((2, 3)),
               heads=heads)

  def test_nothing_is_broadcast(self):
    full, mask = jnp.zeros((8, 3, 4)), jnp.ones((8, 3))
    for one in (full[:1], full[:, :1], full[0]):
      assert_shapes_refused(minilm, full, one, mask, heads=2)
      assert_shapes_refused(minilm, one, full, mask, heads=2)
    for one in (mask[:1], mask[:, :1]):
      assert_shapes_refused(minilm, full, full, one, heads=2)

  def test_heads_must_be_merged(self):
    apart = jnp.zeros((8, 2, 3, 2))       # [b h s d]: neither signature nor function takes it
    with pytest.raises(ValueError, match='shapes must be equal'):
      inspect.unwrap(minilm)(apart, apart, jnp.ones((8, 3)), heads=2)
