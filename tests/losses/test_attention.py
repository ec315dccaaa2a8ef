import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.losses import attention, logits

from .inputs import (
  MASK,
  STUDENT_MAPS,
  TEACHER_MAPS,
  assert_finite,
  assert_gradient,
  assert_proven,
  assert_shapes_refused,
  double,
  value_and_gradient,
)


class TestMSE:

  def test_by_hand(self):
    # One head: the squares 1 4 / 9 16, mean 30/4; with the second token padding, 1 alone.
    # Two heads, the second without a difference: half of that.
    student, zero = np.array([[[[1., 2], [3, 4]]]] * 2), np.zeros((2, 1, 2, 2))
    mask = np.array([[1., 1], [1, 0]])
    np.testing.assert_allclose(double(attention.mse, student, zero, mask), [7.5, 1])
    student, zero = np.append(student, zero, axis=1), np.zeros((2, 2, 2, 2))
    np.testing.assert_allclose(double(attention.mse, student, zero, mask), [3.75, 0.5])

  def test_weighted_by_the_lengths_squared_it_is_the_reference(self):
    # TextBrewer's is pooled over the pairs of tokens of all examples and over heads, so that an
    # example of n tokens has n² shares. Ours is the paper's mean: one.
    pooled = lambda values: np.average(values, weights=MASK.sum(-1)**2)
    assert_proven('att_mse_masked', pooled(double(attention.mse, STUDENT_MAPS, TEACHER_MAPS, MASK)))
    narrow = jax.jit(attention.mse)(np.float32(STUDENT_MAPS), np.float32(TEACHER_MAPS), MASK)
    assert_proven('att_mse_masked', pooled(narrow), rtol=1e-5)

  def test_unpadded_it_is_the_mean_over_everything(self):
    # TinyBERT, eq. 7: the mean over heads of the MSE of each map.
    value = double(attention.mse, STUDENT_MAPS, TEACHER_MAPS, np.ones((4, 4)))
    expected = ((STUDENT_MAPS - TEACHER_MAPS)**2).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(value, expected, rtol=1e-12)

  def test_gradient(self):
    assert_gradient(attention.mse, STUDENT_MAPS, TEACHER_MAPS, MASK)

  def test_masked_is_the_subset(self):
    student, teacher = STUDENT_MAPS, TEACHER_MAPS
    values, gradient = value_and_gradient(attention.mse, student, teacher, MASK)
    for i, n in [(0, 3), (3, 1)]:
      part = slice(i, i + 1), slice(None), slice(n), slice(n)
      subset = value_and_gradient(attention.mse, student[part], teacher[part], np.ones((1, n)))
      np.testing.assert_allclose(values[i:i + 1], subset[0], rtol=1e-6)
      np.testing.assert_allclose(gradient[part], subset[1], rtol=1e-6)

  def test_padding_never_enters(self):
    # Models put -inf, or a large negative number, where a padded key's score would be.
    junk = np.array([-1e30, -np.inf, np.nan, -np.inf])[:, None, None, None]
    pad = MASK[:, None, :, None] * MASK[:, None, None, :] == 0
    student, teacher = (np.where(pad, junk, maps) for maps in (STUDENT_MAPS, TEACHER_MAPS))
    clean = value_and_gradient(attention.mse, STUDENT_MAPS, TEACHER_MAPS, MASK)
    dirty = value_and_gradient(attention.mse, student, teacher, MASK)
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
    for wrong in (full[:1], full[:, :, :1], full[..., :1], full[:, 0]):
      assert_shapes_refused(attention.mse, full, wrong, mask)
      assert_shapes_refused(attention.mse, wrong, wrong, mask)
    assert_shapes_refused(attention.mse, full, full[:, :1], mask)
    for wrong in (mask[:1], mask[:, :1]):
      assert_shapes_refused(attention.mse, full, full, wrong)


def softmax(scores, mask=MASK):
  """Probabilities of models: those of padded keys are 0."""
  powers = np.exp(scores) * mask[:, None, None, :]
  return powers / powers.sum(-1, keepdims=True)


class TestKL:
  student, teacher = softmax(STUDENT_MAPS), softmax(TEACHER_MAPS)

  def test_by_hand(self):
    # Head 1: (3/4, 1/4) against (1/2, 1/2) is 0.130812 (see `logits.kl`), then equal; head 2 equal.
    teacher = np.array([[[[3., 1], [1, 1]], [[1, 1], [1, 1]]]]) / [[4], [2]]
    teacher[0, 1] = 0.5
    value = double(attention.kl, np.full((1, 2, 2, 2), 0.5), teacher, np.ones((1, 2)))
    np.testing.assert_allclose(value, [[0.130812 / 2, 0]], atol=1e-6)

  def test_it_is_the_divergence_of_the_scores(self):
    # Per head and query, over the counted keys alone.
    expected = np.zeros((4, 4))
    for i, n in enumerate(MASK.sum(-1).astype(int)):
      scores = (maps[i, :, :n, :n] for maps in (STUDENT_MAPS, TEACHER_MAPS))
      expected[i, :n] = double(logits.kl, *scores).mean(0)
    value = double(attention.kl, self.student, self.teacher, MASK)
    np.testing.assert_allclose(value, expected, atol=1e-12)

  def test_zero_for_equals_and_at_least_zero(self):
    np.testing.assert_allclose(double(attention.kl, self.teacher, self.teacher, MASK), 0,
                               atol=1e-12)
    assert (double(attention.kl, self.student, self.teacher, MASK) >= 0).all()

  def test_gradient(self):
    assert_gradient(attention.kl, self.student + 0.01, self.teacher, MASK)

  def test_padding_never_enters(self):
    junk = np.array([-1e30, np.inf, np.nan, np.nan])[:, None, None, None]
    pad = MASK[:, None, :, None] * MASK[:, None, None, :] == 0
    student, teacher = (np.where(pad, junk, maps) for maps in (self.student, self.teacher))
    clean = value_and_gradient(attention.kl, self.student, self.teacher, MASK)
    dirty = value_and_gradient(attention.kl, student, teacher, MASK)
    for expected, actual in zip(clean, dirty, strict=True):
      np.testing.assert_array_equal(actual, expected)
    assert (clean[0][MASK == 0] == 0).all()

  @pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
  def test_finite_where_either_side_has_a_probability_of_zero(self, dtype):
    same, other = [[1, 0], [0, 1]], [[0, 1], [1, 0]]
    student = jnp.array([[same], [same], [same]], dtype)
    teacher = jnp.array([[other], [same], [other]], dtype)
    mask = jnp.array([[1., 1], [1, 1], [0, 0]])
    assert_finite(attention.kl, student, teacher, mask)
    largest = -np.log(attention.MIN_PROBABILITY)
    np.testing.assert_allclose(attention.kl(student, teacher, mask),
                               [[largest] * 2, [0, 0], [0, 0]], rtol=1e-6)

  def test_nothing_is_broadcast(self):
    full, mask = jnp.ones((8, 2, 3, 3)) / 3, jnp.ones((8, 3))
    for wrong in (full[:1], full[:, :, :1], full[..., :1], full[:, 0], full[:, :1]):
      assert_shapes_refused(attention.kl, full, wrong, mask)
    for wrong in (mask[:1], mask[:, :1]):
      assert_shapes_refused(attention.kl, full, full, wrong)
