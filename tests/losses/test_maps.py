import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from distill.losses import maps

from .inputs import (
  STUDENT_MAPS,
  TEACHER_MAPS,
  assert_agrees,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  double,
  value_and_gradient,
)

# The reference inputs are [b c h w]. They are of rank 2, so that most singular vectors are any.
STUDENT, TEACHER = (np.moveaxis(x, 1, -1) for x in (STUDENT_MAPS, TEACHER_MAPS))
OTHERS = np.random.default_rng(0).normal(size=(4, 4, 4, 4, 6))
SCALE = np.array([1, .5, -1, .2, 3, .1])
BIAS = np.array([0, -.3, .5, 0, -2, 1])
VARIANCE = np.array([5, 1, .5, 2, 3, .1])


def of_pairs(loss):
  """A loss of two layers, of one: the last is a function of the first, as in the references."""
  return lambda s, t, **hyper: loss(s, 0.5 * s + 0.1, t, 0.5 * t + 0.1, **hyper)


LOSSES = {
    'at': maps.at, 'at3': functools.partial(maps.at, p=3.0), 'ft': maps.ft, 'nst': maps.nst,
    'fsp': of_pairs(maps.fsp), 'ab': maps.ab, 'hcl': maps.hcl, 'svd': of_pairs(maps.svd),
    'ofd': lambda s, t: maps.ofd(s, t, jnp.asarray(SCALE)[:s.shape[-1]],
                                 jnp.asarray(BIAS)[:s.shape[-1]]),
    'vid': lambda s, t: maps.vid(s, jnp.asarray(VARIANCE)[:s.shape[-1]], t),
}
every = pytest.mark.parametrize('loss', LOSSES.values(), ids=LOSSES)


class TestEvery:

  @every
  def test_gradient(self, loss):
    assert_gradient(loss, OTHERS[0, :2], OTHERS[1, :2])

  @every
  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_far_apart_for_equals_and_for_nothing(self, loss, dtype):
    # The gradient of FSP is of the third power of the features: float16 ends at 65504.
    far = 30 if (loss, dtype) == (LOSSES['fsp'], jnp.float16) else 1e4
    up = np.random.default_rng(1).choice([-1, 1], size=(2, 2, 2))
    near, nothing = 1e-3 * up, 0 * up
    student = [far * up, far * up, far * up, near, near, nothing, nothing, up]
    teacher = [-far * up, far * up, near, far * up, near, up, nothing, nothing]
    assert_finite(loss, jnp.asarray(np.array(student), dtype),
                  jnp.asarray(np.array(teacher), dtype))

  @every
  def test_an_example_does_not_see_the_others(self, loss):
    student, teacher = OTHERS[0].copy(), OTHERS[1].copy()
    student[:2], teacher[0], teacher[3] = np.nan, np.inf, OTHERS[2, 0]
    values = double(loss, student, teacher)
    np.testing.assert_allclose(values[2], double(loss, OTHERS[0], OTHERS[1])[2], rtol=1e-9)

  # The others are no distances: each has a test of what its least value is.
  @pytest.mark.parametrize('name', sorted(LOSSES.keys() - {'ab', 'ofd', 'vid'}))
  def test_at_least_zero_and_zero_for_equals(self, name):
    loss = LOSSES[name]
    assert (double(loss, OTHERS[0], OTHERS[1]) > 1e-4).all()
    np.testing.assert_allclose(double(loss, OTHERS[0], OTHERS[0]), np.zeros(4), atol=1e-12)

  @pytest.mark.parametrize('loss', [maps.at, maps.ft, maps.nst])
  def test_nothing_is_broadcast_over_examples(self, loss):
    for n in (1, 4):
      assert_shapes_refused(loss, jnp.zeros((8, 4, 4, 3)), jnp.zeros((n, 4, 4, 3)))
      assert_shapes_refused(loss, jnp.zeros((n, 4, 4, 3)), jnp.zeros((8, 4, 4, 3)))

  @pytest.mark.parametrize('loss', [maps.ab, maps.hcl])
  def test_nothing_is_broadcast(self, loss):
    for wrong in (jnp.zeros((1, 4, 4, 3)), jnp.zeros((8, 1, 1, 3)), jnp.zeros((8, 4, 4, 1)),
                  jnp.zeros(3)):
      assert_shapes_refused(loss, jnp.zeros((8, 4, 4, 3)), wrong)
      assert_shapes_refused(loss, wrong, jnp.zeros((8, 4, 4, 3)))

  @pytest.mark.parametrize('loss', [maps.fsp, maps.svd])
  def test_nothing_is_broadcast_between_layers(self, loss):
    arrays = [jnp.zeros((8, 4, 4, 3)), jnp.zeros((8, 2, 2, 5))] * 2
    for n in range(4):
      wide = arrays[n].shape[-1]
      for wrong in ((1, 4, 4, wide), (8, 4, 4, 1)):
        assert_shapes_refused(loss, *arrays[:n], jnp.zeros(wrong), *arrays[n + 1:])


class TestAT:

  def test_mean_is_the_reference(self):
    assert_agrees('at_p2', maps.at, STUDENT, TEACHER)      # the mean over examples and positions

  def test_by_hand(self):
    # Energies (3² + 0, 4² + 0)/2 and (1 + 1, 0)/2 are (9, 16)/√337 and (1, 0) at length 1.
    student, teacher = np.array([[[[3., 0], [0, 4]]]]), np.array([[[[-1., 1], [0, 0]]]])
    s = np.array([9, 16]) / np.sqrt(337)
    np.testing.assert_allclose(double(maps.at, student, teacher),
                               [((s[0] - 1)**2 + s[1]**2) / 2], rtol=1e-12)

  @pytest.mark.parametrize('p', [1.0, 2.0, 9.0])
  def test_scale_sign_and_number_of_channels_are_no_matter(self, p):
    student = np.concatenate([1e6 * STUDENT, -1e6 * STUDENT], axis=-1)
    np.testing.assert_allclose(double(maps.at, student, 1e-6 * TEACHER, p=p),
                               double(maps.at, STUDENT, TEACHER, p=p), rtol=1e-9)

  def test_the_larger_map_is_averaged_down(self):
    # 4×4 to 2×2: means of blocks.
    small = STUDENT.reshape(4, 2, 2, 2, 2, 6).mean(axis=(2, 4))
    expected = double(maps.at, small, TEACHER[:, :2, :2])
    np.testing.assert_allclose(double(maps.at, STUDENT, TEACHER[:, :2, :2]), expected, rtol=1e-12)
    np.testing.assert_allclose(double(maps.at, TEACHER[:, :2, :2], STUDENT), expected, rtol=1e-12)

  @pytest.mark.parametrize('p', [0.5, 0, -1.0, float('inf'), float('nan')])
  def test_power_out_of_range(self, p):
    with pytest.raises(ValueError, match='p='):
      maps.at(jnp.zeros((1, 2, 2, 2)), jnp.zeros((1, 2, 2, 2)), p=p)
    with pytest.raises(ValueError, match='p2='):
      maps.ft(jnp.zeros((1, 2, 2, 2)), jnp.zeros((1, 2, 2, 2)), p2=p)


class TestFT:

  def test_mean_is_the_reference(self):
    assert_agrees('ft_p1_2_p2_1', maps.ft, STUDENT, TEACHER)

  def test_with_the_power_2_it_is_attention_transfer(self):
    np.testing.assert_allclose(double(maps.ft, STUDENT, TEACHER, p1=3.0, p2=2.0),
                               double(maps.at, STUDENT, TEACHER, p=3.0), rtol=1e-12)

  def test_by_hand(self):
    # As AT's: the mean of absolute differences.
    student, teacher = np.array([[[[3., 0], [0, 4]]]]), np.array([[[[-1., 1], [0, 0]]]])
    s = np.array([9, 16]) / np.sqrt(337)
    np.testing.assert_allclose(double(maps.ft, student, teacher), [(1 - s[0] + s[1]) / 2],
                               rtol=1e-12)


class TestNST:

  def test_mean_is_the_reference(self):
    assert_agrees('nst', maps.nst, STUDENT, TEACHER)

  def test_by_hand(self):
    # One channel each, at length 1 (0.6, 0.8) and (1, 0): 1 + 1 - 2 · 0.6².
    student, teacher = np.array([[[[3.], [4]]]]), np.array([[[[7.], [0]]]])
    np.testing.assert_allclose(double(maps.nst, student, teacher), [2 - 2 * .36], rtol=1e-12)

  def test_it_is_the_distance_of_the_mean_outer_products(self):
    # Σ (xᵢ·yⱼ)² = ⟨Σ xᵢxᵢᵀ, Σ yⱼyⱼᵀ⟩: the kernel's features are the outer products.
    def outer(x):
      x = x.reshape(4, 16, -1)
      x = x / np.linalg.norm(x, axis=1, keepdims=True)
      return x @ x.swapaxes(1, 2) / x.shape[-1]
    teacher = OTHERS[1, ..., :5]
    np.testing.assert_allclose(double(maps.nst, OTHERS[0], teacher),
                               np.sum((outer(OTHERS[0]) - outer(teacher))**2, axis=(1, 2)),
                               rtol=1e-10)

  def test_channels_in_another_order_and_twice_are_the_same(self):
    student = np.concatenate([2 * OTHERS[0, ..., ::-1], -OTHERS[0]], axis=-1)
    np.testing.assert_allclose(double(maps.nst, student, OTHERS[0]), np.zeros(4), atol=1e-12)


class TestFSP:

  def test_mean_is_the_reference(self):
    assert_agrees('fsp', maps.fsp, STUDENT, .5 * STUDENT + .1, TEACHER, .5 * TEACHER + .1)

  def test_by_hand(self):
    # Two positions. Student: first (1, 3), last ((1, 0), (2, 2)): mean products (7/2, 3).
    # Teacher: first (1, 1), last ((1, 1), (0, 1)): (1/2, 1). (3² + 2²) / 2.
    row = lambda *x: np.array([[x]], float).reshape(1, 1, 2, -1)
    value = double(maps.fsp, row(1, 3), row(1, 0, 2, 2), row(1, 1), row(1, 1, 0, 1))
    np.testing.assert_allclose(value, [6.5], rtol=1e-12)

  def test_the_larger_layer_is_averaged_down_on_either_side(self):
    first, last = OTHERS[0], OTHERS[1, :, :2, :2, :3]
    small = first.reshape(4, 2, 2, 2, 2, 6).mean(axis=(2, 4))
    np.testing.assert_allclose(double(maps.fsp, first, last, small, last), np.zeros(4), atol=1e-12)
    np.testing.assert_allclose(double(maps.fsp, last, small, last, first), np.zeros(4), atol=1e-12)


class TestAB:

  def test_by_hand(self):
    # Above 0: (1 - 3)₊² + (1 + 2)² = 9; else: (1 + 0.5)² + (1 - 2)₊² = 2.25.
    student, teacher = np.array([[[[3., -2, .5, -2]]]]), np.array([[[[1., 9, 0, -4]]]])
    np.testing.assert_allclose(double(maps.ab, student, teacher), [11.25], rtol=1e-12)

  def test_zero_for_the_teacher_s_signs_by_a_margin(self):
    student = 0.3 * np.sign(TEACHER)
    np.testing.assert_array_equal(double(maps.ab, student, TEACHER, margin=0.3), np.zeros(4))
    # Each of 96 neurons then lacks 0.2.
    np.testing.assert_allclose(double(maps.ab, student, TEACHER, margin=0.5),
                               np.full(4, 96 * .04), rtol=1e-9)

  def test_margin_out_of_range(self):
    with pytest.raises(ValueError, match='margin='):
      maps.ab(jnp.zeros((1, 2, 2, 2)), jnp.zeros((1, 2, 2, 2)), margin=0.0)


class TestOFD:

  def margin(self, scale, bias):
    """The target of a teacher that is far below 0, read off the loss of a student at 0: m²."""
    scale, bias = np.atleast_1d(scale), np.atleast_1d(bias)
    far = np.full((1, 1, 1, 1), -1e6)
    return [-np.sqrt(double(maps.ofd, 0 * far, far, s[None], b[None])[0])
            for s, b in zip(scale, bias, strict=True)]

  def test_margin_by_hand(self):
    # N(0, 1): -φ(0) / Φ(0) = -√(2/π). A scale's sign is no matter.
    np.testing.assert_allclose(self.margin([1., -1], [0., 0]), np.full(2, -np.sqrt(2 / np.pi)),
                               rtol=1e-7)

  def test_margin_is_the_mean_of_the_values_below_zero(self):
    scale, bias = np.array([.1, .5, 2, 1]), np.array([-1., .5, -3, 3.05])
    expected = scipy.stats.truncnorm.mean(-np.inf, -bias / scale, loc=bias, scale=scale)
    np.testing.assert_allclose(self.margin(scale, bias), expected, rtol=1e-6)

  def test_margin_of_a_channel_that_is_hardly_ever_below_zero(self):
    # Φ(-3.1) = 0.00097: three deviations.
    np.testing.assert_allclose(self.margin([.5, 1], [1.55, 100.]), [-1.5, -3], rtol=1e-12)

  def test_margin_of_a_channel_that_hardly_varies(self):
    np.testing.assert_allclose(self.margin([0., 1e-30, 1e-12, 0, 0], [-2., -2, -2, 2, 0]),
                               [-2, -2, -2, 0, 0], atol=1e-12)

  def test_by_hand(self):
    # N(0, 1) has the margin m = -0.798. Teacher: 2, -0.5, -0.5, -9 (→ m), -9.
    # Student: -1 (3²), -0.6 (below a target that is below 0), 0.5 (1²), 0 (m²), -3 (below).
    teacher = np.array([2, -.5, -.5, -9, -9]).reshape(1, 1, 5, 1)
    student = np.array([-1, -.6, .5, 0, -3]).reshape(1, 1, 5, 1)
    value = double(maps.ofd, student, teacher, np.ones(1), np.zeros(1))
    np.testing.assert_allclose(value, [9 + 1 + 2 / np.pi], rtol=1e-7)

  def test_a_student_at_or_below_a_target_below_zero_costs_nothing(self):
    below = -np.abs(OTHERS[0])
    value, gradient = value_and_gradient(
        maps.ofd, np.float32(below - 3), np.float32(below), np.ones(6, np.float32),
        np.zeros(6, np.float32))
    assert (value == 0).all() and (gradient == 0).all()

  def test_widths_that_differ_are_refused(self):
    x = jnp.zeros((2, 4, 4, 6))
    for arrays in ((x, x[..., :1], jnp.ones(6), jnp.ones(6)), (x, x[:1], jnp.ones(6), jnp.ones(6)),
                   (x, x, jnp.ones(1), jnp.ones(6)), (x, x, jnp.ones(6), jnp.ones(1))):
      assert_shapes_refused(maps.ofd, *arrays)


class TestHCL:

  def test_mean_is_the_reference(self):
    assert_agrees('reviewkd_hcl_h4', maps.hcl, STUDENT, TEACHER)

  def test_a_constant_difference_is_the_same_at_every_level(self):
    np.testing.assert_allclose(double(maps.hcl, STUDENT + 3, STUDENT), np.full(4, 9), rtol=1e-9)

  def test_by_hand_where_2_does_not_divide_3(self):
    # A 9 in the middle of 3×3. The map: 81/9 = 9. The four windows of 2×2, rows 0-1 and 1-2, all
    # hold it: (9/4)². The mean: 1². Weights 1, 1/2 and 1/4.
    student = np.zeros((1, 3, 3, 1))
    student[0, 1, 1] = 9
    expected = (9 + (9 / 4)**2 / 2 + 1 / 4) / 1.75
    np.testing.assert_allclose(double(maps.hcl, student, 0 * student), [expected], rtol=1e-12)

  def test_the_levels_of_a_flat_map_are_those_smaller_than_its_lesser_side(self):
    # 2×8: the map and its mean. A difference of +1 in the upper row and -1 in the lower: 1, and 0.
    student = np.ones((1, 2, 8, 3)) * np.array([1, -1])[:, None, None]
    np.testing.assert_allclose(double(maps.hcl, student, 0 * student), [1 / 1.5], rtol=1e-12)


class TestVID:

  def test_mean_is_the_reference(self):
    # Partly executed: a regressor of identities with a ReLU between, a variance of 5.
    assert_agrees('vid_identity_regressor', maps.vid, np.maximum(STUDENT, 0), np.full(6, 5.),
                  TEACHER)

  def test_it_is_the_density_of_a_normal_distribution_without_its_constant(self):
    density = scipy.stats.norm.logpdf(TEACHER, STUDENT, np.sqrt(VARIANCE)).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(double(maps.vid, STUDENT, VARIANCE, TEACHER),
                               -density - 0.5 * np.log(2 * np.pi), rtol=1e-9)

  def test_the_best_variance_is_the_mean_squared_error(self):
    best = np.mean((STUDENT - TEACHER)**2, axis=(0, 1, 2))
    with jax.enable_x64(True):
      gradient = jax.jit(jax.grad(lambda v, s, t: jnp.mean(maps.vid(s, v, t))))
      np.testing.assert_allclose(gradient(best, STUDENT, TEACHER), np.zeros(6), atol=1e-12)

  def test_widths_that_differ_are_refused(self):
    x = jnp.zeros((2, 4, 4, 6))
    for arrays in ((x, jnp.ones(6), x[..., :1]), (x, jnp.ones(1), x), (x[:1], jnp.ones(6), x)):
      assert_shapes_refused(maps.vid, *arrays)


@pytest.mark.parametrize('loss', [
    *map(inspect.unwrap, (maps.at, maps.ft, maps.nst, maps.hcl, maps.ab)),
    of_pairs(inspect.unwrap(maps.fsp)), of_pairs(inspect.unwrap(maps.svd)),
    lambda s, t: inspect.unwrap(maps.ofd)(s, t, s[0], s[0]),
    lambda s, t: inspect.unwrap(maps.vid)(s, s[0], t)])
def test_what_is_no_map_is_refused(loss):
  flat = jnp.ones((4, 5))
  with pytest.raises(ValueError, match=r'maps must be \[b h w c\], not \[4, 5\]'):
    loss(flat, flat)


class TestSVD:

  def test_by_hand(self):
    # Rank 1: two positions, the channels' vector is (3, 4)/5, then (1, 0); the teacher's are
    # (0, 1) and (1, 0), and (-2) times them are the same.
    ranked = lambda *v: np.array([v, np.multiply(-2, v)], float).reshape(1, 1, 2, 2)
    value = double(maps.svd, ranked(3, 4), ranked(1, 0), ranked(0, 7), ranked(1, 0))
    kernel = lambda x, y: np.exp(-np.subtract.outer(np.array(x), y)**2 / 8)
    expected = np.sum((kernel([.6, .8], [1, 0]) - kernel([0, 1], [1, 0]))**2)
    np.testing.assert_allclose(value, [expected], rtol=1e-9)

  @pytest.mark.parametrize('k', [1, 3])
  def test_it_is_the_definition_with_another_decomposition(self, k):
    def vectors(student, teacher):
      (_, v, t), (_, _, s) = (np.linalg.svd(x.reshape(16, 6)) for x in (teacher, student))
      t = [x if x.sum() > 0 else -x for x in t[:k]]
      nearest = [max((*s[:k + 3], *-s[:k + 3]), key=x.dot) for x in t]
      weight = v[:k] / np.linalg.norm(v[:k])
      return np.stack(nearest, -1) * weight, np.stack(t, -1) * weight
    expected = []
    for n in range(4):
      first, last = vectors(OTHERS[0, n], OTHERS[1, n]), vectors(OTHERS[2, n], OTHERS[3, n])
      s, t = (np.exp(-(x[:, None] - y)**2 / 8) for x, y in zip(first, last, strict=True))
      expected.append(np.sum((s - t)**2))
    value = double(maps.svd, OTHERS[0], OTHERS[2], OTHERS[1], OTHERS[3], k=k)
    np.testing.assert_allclose(value, expected, rtol=1e-8)

  def test_gradient_of_several_vectors(self):
    loss = lambda first, last, *teacher: maps.svd(first, last, *teacher, k=2)
    assert_gradient(loss, OTHERS[0, :1], *OTHERS[1:, :1])

  def test_scale_and_the_order_of_positions_are_no_matter(self):
    student = 1e5 * OTHERS[0, :, ::-1, ::-1]
    np.testing.assert_allclose(double(of_pairs(maps.svd), OTHERS[0], OTHERS[1]),
                               double(maps.svd, student, .5 * OTHERS[0] + .1, OTHERS[1],
                                      .5 * OTHERS[1] + .1), rtol=1e-9)

  def test_the_gradient_of_equal_singular_values_is_finite(self):
    # The identity: every vector of channels is a singular vector.
    equal = np.eye(4, dtype=np.float32).reshape(1, 2, 2, 4)
    other = np.float32(OTHERS[0, :1, :2, :2, :4])
    for student in (equal, 0 * equal, equal + 1e-7 * other):
      values, gradient = value_and_gradient(maps.svd, student, other, other[:, ::-1], other, k=2)
      assert np.isfinite(values).all() and np.isfinite(gradient).all()
      assert np.abs(gradient).max() < 1e4

  def test_k_out_of_range(self):
    x = jnp.zeros((1, 2, 2, 3))
    for k in (0, 4):
      with pytest.raises(ValueError, match=f'k={k} is not between 1 and the width 3'):
        maps.svd(x, x, x, x, k=k)
