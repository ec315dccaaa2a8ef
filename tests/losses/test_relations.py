import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.losses.relations import (
  cc,
  cc_neighbours,
  minilm,
  pkt,
  rkd_angle,
  rkd_distance,
  sp,
)

from .inputs import (
  MASK,
  STUDENT_HIDDEN,
  STUDENT_MAPS,
  STUDENT_VECTORS,
  TEACHER_HIDDEN,
  TEACHER_MAPS,
  TEACHER_VECTORS,
  assert_finite,
  assert_gradient,
  assert_proven,
  assert_shapes_refused,
  double,
  masked_mean,
  value_and_gradient,
)

ALL = np.ones(4)
SOME = np.array([1., 0, 1, 1])
RIGHT = np.eye(2)                       # two vectors at a right angle
SAME = np.ones((2, 2))                  # two that are one
EVERY = [rkd_distance, rkd_angle, pkt, sp, cc, cc_neighbours]
every = pytest.mark.parametrize('loss', EVERY, ids=lambda loss: loss.__name__)


@functools.cache
def compiled(loss):
  """`value_and_gradient` that is compiled once for all tests."""
  return jax.jit(functools.partial(value_and_gradient, loss))


def precisely(loss, *arrays):
  """Values and gradient in float64."""
  with jax.enable_x64(True):
    return [np.asarray(x) for x in compiled(loss)(*arrays)]


def single(loss, *arrays, **hyper):
  """The values in float32."""
  return np.asarray(jax.jit(lambda *a: loss(*a, **hyper))(*map(jnp.float32, arrays)))


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

  @pytest.mark.parametrize('name, mask', [
      ('minilmv2_rel_R3', np.ones((4, 4))), ('minilmv2_rel_R3_masked', MASK)])
  def test_masked_mean_is_the_reference(self, name, mask):
    # There is no public code of this loss; the mean is over positions of all examples.
    for run, rtol in ((double, 1e-6), (single, 1e-5)):
      value = run(minilm, STUDENT_HIDDEN, TEACHER_HIDDEN, mask, heads=3)
      assert_proven(name, masked_mean(value, mask), rtol=rtol)

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
      subset = value_and_gradient(minilm, student[part], teacher[part], np.ones((1, n)), heads=3)
      np.testing.assert_allclose(values[part], subset[0], atol=1e-6)
      np.testing.assert_allclose(gradient[part], subset[1], atol=1e-6)
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
    for wrong in (full[:1], full[:, :1], full[0]):
      assert_shapes_refused(minilm, full, wrong, mask, heads=2)
      assert_shapes_refused(minilm, wrong, full, mask, heads=2)
    for wrong in (mask[:1], mask[:, :1]):
      assert_shapes_refused(minilm, full, full, wrong, heads=2)

  def test_heads_must_be_merged(self):
    apart = jnp.zeros((8, 2, 3, 2))       # [b h s d]: neither signature nor function takes it
    with pytest.raises(ValueError, match='shapes must be equal'):
      inspect.unwrap(minilm)(apart, apart, jnp.ones((8, 3)), heads=2)


class TestEveryLossBetweenExamples:
  student, teacher = STUDENT_VECTORS, TEACHER_VECTORS[:, :6]

  @pytest.mark.parametrize('loss, name, student, teacher', [
      (rkd_distance, 'rkd_dist_only', STUDENT_VECTORS, TEACHER_VECTORS),
      (rkd_angle, 'rkd_angle_only', STUDENT_VECTORS, TEACHER_VECTORS),
      (lambda *a: 25 * rkd_distance(*a) + 50 * rkd_angle(*a), 'rkd_25_50', STUDENT_VECTORS,
       TEACHER_VECTORS),
      # Executed with 1e-7 beside the norms, which ours does without: 5e-7 of the value.
      (pkt, 'pkt', STUDENT_VECTORS, TEACHER_VECTORS),
      # Flattened as [c h w] there and as [h w c] here, which no scalar product sees.
      (sp, 'sp', np.moveaxis(STUDENT_MAPS, 1, -1), np.moveaxis(TEACHER_MAPS, 1, -1)),
      # RepDistiller's, which has this name.
      (cc_neighbours, 'cc', STUDENT_VECTORS, TEACHER_VECTORS[:, :6]),
  ])
  def test_mean_is_the_reference(self, loss, name, student, teacher):
    for run, rtol in ((double, 1e-6), (single, 1e-5)):
      assert_proven(name, np.mean(run(loss, student, teacher, ALL)), rtol=rtol)

  @every
  def test_gradient(self, loss):
    assert_gradient(loss, self.student, self.teacher, SOME)

  @every
  def test_masked_is_the_subset(self, loss):
    kept = SOME > 0
    values, gradient = precisely(loss, self.student, self.teacher, SOME)
    subset = precisely(loss, self.student[kept], self.teacher[kept], np.ones(3))
    np.testing.assert_allclose(values[kept], subset[0], rtol=1e-12)
    np.testing.assert_allclose(gradient[kept], subset[1], rtol=1e-9, atol=1e-15)
    assert np.all(values[~kept] == 0) and np.all(gradient[~kept] == 0)
    assert np.abs(subset[1]).max() > 1e-4

  @every
  def test_what_does_not_count_never_enters(self, loss):
    junk = lambda x: np.where(SOME[:, None] > 0, x, [1e30, np.inf, np.nan, -np.inf, np.nan, 0])
    clean = precisely(loss, self.student, self.teacher, SOME)
    dirty = precisely(loss, junk(self.student), junk(self.teacher), SOME)
    for expected, actual in zip(clean, dirty, strict=True):
      np.testing.assert_array_equal(actual, expected)

  @every
  def test_the_order_of_examples_does_not_matter(self, loss):
    order = np.array([2, 0, 3, 1])
    value, _ = precisely(loss, self.student, self.teacher, SOME)
    moved, _ = precisely(loss, self.student[order], self.teacher[order], SOME[order])
    if loss is cc_neighbours:           # the order is its idea
      assert np.abs(moved - value[order]).max() > 1e-2
    else:
      np.testing.assert_allclose(moved, value[order], rtol=1e-12)

  @every
  def test_zero_for_equals_and_above_zero_otherwise(self, loss):
    value, gradient = precisely(loss, self.student, self.student, ALL)
    np.testing.assert_allclose(value, 0, atol=1e-15)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)        # PKT: its 1e-7
    value, _ = precisely(loss, self.student, self.teacher, SOME)
    assert value[1] == 0 and (value[SOME > 0] > 0).all()

  @every
  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_for_whatever_rows(self, loss, dtype):
    large = [[1e4, -1e4], [1e4, -1e4], [0, 0], [-1e4, 1e4]]             # two are one
    small = [[0, 0], [1, 0], [1, 1e-3], [0, 0]]
    student = jnp.array([large, small, large, np.zeros((4, 2))], dtype)
    teacher = jnp.array([small, large, large, small], dtype)
    mixed = jax.vmap(jax.vmap(loss, (0, 0, None)), (None, None, 0))
    where = jnp.array([[1., 1, 1, 1], [0, 1, 0, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    assert_finite(mixed, student, teacher, where)

  @every
  def test_too_few_to_relate_give_nothing(self, loss):
    for where in ([0., 0, 1, 0], [0, 0, 0, 0]):
      values, gradient = precisely(loss, self.student, self.teacher, np.array(where))
      np.testing.assert_allclose(values, 0, atol=1e-15)
      np.testing.assert_allclose(gradient, 0, atol=1e-15)
    values, _ = precisely(loss, self.student[:1], self.teacher[:1], np.ones(1))
    assert values.shape == (1,) and abs(values[0]) < 1e-15

  @every
  def test_nothing_is_broadcast(self, loss):
    full, where = jnp.zeros((8, 10)), jnp.ones(8)
    for arrays in ((full, full[:1], where), (full[:1], full, where), (full, full, where[:1])):
      assert_shapes_refused(loss, *arrays)
    if loss is cc_neighbours:
      assert_shapes_refused(loss, full, full[:, :1], where)

  @every
  def test_it_says_that_it_mixes(self, loss):
    assert loss.mixing


class TestRKDDistance:

  def test_by_hand(self):
    # On a line at 0, 1, 3: distances 1, 3, 2 of mean 2, so 1/2, 3/2, 1; the teacher's all 1.
    # Differences of 1/2 between the first and either other: 1/8 by Huber, of three pairs a row.
    student = np.array([[0.], [1], [3]])
    value = double(rkd_distance, student, np.eye(3), np.ones(3))
    np.testing.assert_allclose(value, [1/12, 1/24, 1/24])

  def test_far_apart_and_coincident_by_hand(self):
    # Three are one, the last is apart: distances 0 and 1 of mean 1/2, so 0 and 2; the teacher's
    # first is the one apart. Four of the six pairs differ by 2: 3/2 by Huber, two in each row.
    student, teacher = np.array([[0.], [0], [0], [1]]), np.array([[5.], [0], [0], [0]])
    np.testing.assert_allclose(double(rkd_distance, student, teacher, ALL), 3 / 4)

  def test_size_place_and_direction_change_nothing(self):
    turn, _ = np.linalg.qr(np.cos(np.arange(36.)**2).reshape(6, 6))
    for loss in (rkd_distance, rkd_angle):
      value = double(loss, 7 * STUDENT_VECTORS @ turn - 3, STUDENT_VECTORS, ALL)
      np.testing.assert_allclose(value, 0, atol=1e-14)


class TestRKDAngle:

  def test_by_hand(self):
    # A right angle with cosines 0, √½, √½; the teacher's three on a line: 1, -1, 1. The differences
    # 1, 1 + √½, 1 - √½ are 1/2, 1/2 + √½, (1 - √½)²/2 by Huber; two of the nine pairs at a vertex.
    student, teacher = np.array([[0., 0], [1, 0], [0, 1]]), np.array([[0.], [1], [2]])
    value, root = double(rkd_angle, student, teacher, np.ones(3)), np.sqrt(1 / 2)
    np.testing.assert_allclose(value, np.array([1/2, 1/2 + root, (1 - root)**2 / 2]) * 2 / 9)


class TestPKT:

  def test_by_hand(self):
    # (cos + 1)/2 is 1 and 1/2: probabilities 2/3 and 1/3; the teacher's 1/2 and 1/2. The divergence
    # is (ln 3/4 + ln 3/2)/2 = ln(9/8)/2, the mean over two columns half of it.
    np.testing.assert_allclose(double(pkt, RIGHT, SAME, np.ones(2)), np.log(9/8) / 4, atol=1e-6)

  def test_opposites_are_no_neighbours(self):
    # Probabilities 1 and 0; the teacher's 1/2 and 1/2: ln(1/2)/2 + ln(1/2 / 1e-7)/2, halved.
    value = double(pkt, np.array([[1., 2], [-1, -2]]), SAME, np.ones(2))
    np.testing.assert_allclose(value, (np.log(1/2) + np.log(1/2 / 1e-7)) / 4, rtol=1e-6)


class TestSP:

  def test_by_hand(self):
    # Rows (1, 0) and (√½, √½): ((1 - √½)² + ½) / 2 = 1 - √½.
    np.testing.assert_allclose(double(sp, 3 * RIGHT, SAME, np.ones(2)), 1 - np.sqrt(1/2))


class TestCC:

  def test_by_hand(self):
    # To the first order exp(-1) (1 + cos), with cosines 0 and 1 off the diagonal: exp(-2) / 2.
    value = double(cc, 3 * RIGHT, SAME, np.ones(2), gamma=0.5, order=1)
    np.testing.assert_allclose(value, np.exp(-2) / 2)

  def test_the_series_is_the_gaussian_kernel(self):
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    kernel = lambda x: np.exp(-.7 * np.sum(np.square(x[:, None] - x), axis=-1))
    expected = np.square(kernel(unit(STUDENT_VECTORS)) - kernel(unit(TEACHER_VECTORS))).mean(-1)
    value = double(cc, STUDENT_VECTORS, TEACHER_VECTORS, ALL, gamma=0.7, order=20)
    np.testing.assert_allclose(value, expected, rtol=1e-10)

  @pytest.mark.parametrize('hyper', [dict(gamma=0.0), dict(gamma=-1.0), dict(order=0)])
  def test_out_of_range(self, hyper):
    with pytest.raises(ValueError, match=f'{next(iter(hyper))}='):
      cc(jnp.eye(2), jnp.eye(2), jnp.ones(2), **hyper)


class TestCCNeighbours:

  def test_by_hand(self):
    # |s - t| is (1, 2), (3, 1), (0, 2): 3 + 2 and 0 + 2, the mean of two pairs.
    difference = np.array([[1., -2], [3, -1], [0, 2]])
    value = double(cc_neighbours, difference, 0 * difference, np.ones(3))
    np.testing.assert_allclose(value, 7 / 2)

  def test_the_next_row_is_the_next_that_counts(self):
    difference = np.array([[1., -2], [3, -1], [0, 2]])
    value = double(cc_neighbours, difference, 0 * difference, np.array([1., 0, 1]))
    np.testing.assert_allclose(value, [4, 0, 4])
