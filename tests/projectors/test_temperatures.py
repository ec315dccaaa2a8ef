import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import schedules
from distill.losses import logits
from distill.models.functional import Functional
from distill.projectors.temperatures import CWSM, FLSW, Learned
from tests.losses.inputs import REFERENCE, STUDENT, TEACHER, assert_proven

S, T = jnp.float32(STUDENT), jnp.float32(TEACHER)
ALL = np.ones(4, np.float32)


def heat(theta, reversal):
  """From θ and λ to the learned temperature."""
  return Functional(lambda rngs: Learned(inputs=1))(
      {'theta': theta}, {}, reversal, valid=ALL, train=True)[0]


class TestLearned:

  def test_theta_is_trained_and_starts_at_one(self):
    params, rest = Functional(lambda rngs: Learned(inputs=1)).init(0)
    assert params == {'theta': 1} and not rest

  def test_by_hand(self):
    # 1 + 20 σ(1) = 1 + 20 · 0.7310586
    for reversal in (0.0, -0.5, 1.0):
      np.testing.assert_allclose(heat(jnp.ones(()), jnp.float32(reversal)), 15.621172, rtol=1e-6)

  def test_the_gradient_is_multiplied_by_what_the_schedule_says(self):
    # 20 σ(1) (1 - σ(1)) = 20 · 0.1966119
    slope = jax.jit(jax.grad(heat, argnums=(0, 1)))
    for reversal in (0.0, -0.5, -1.0, 1.0):
      theta, theta_slope = slope(jnp.ones(()), jnp.float32(reversal))
      np.testing.assert_allclose(theta, reversal * 3.932239, rtol=1e-6)
      assert theta_slope == 0

  def test_it_is_float32_though_theta_is_not(self):
    value, slope = jax.value_and_grad(heat)(jnp.ones((), jnp.bfloat16), jnp.float32(1))
    assert value.dtype == jnp.float32 and slope.dtype == jnp.bfloat16
    np.testing.assert_allclose(value, 15.621172, rtol=1e-6)
    np.testing.assert_allclose(np.float32(slope), 3.932239, rtol=1e-2)

  def test_it_climbs_what_the_student_descends(self):
    def loss(student, theta):
      return jnp.mean(logits.kl(student, T, temperature=heat(theta, jnp.float32(-1))))
    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    before, (student, theta) = both(S, jnp.ones(()))
    assert both(S, 1 - theta)[0] > before               # a descent's step, in θ alone
    assert both(S - 0.1 * student, jnp.ones(()))[0] < before

  def test_the_schedule_is_a_cosine(self):
    # The authors' is the same, of the epoch: it holds for an epoch, and they count from 1, so that
    # λ never is 0. Ours moves with each step; ten epochs are `steps` = 10 · steps of an epoch.
    cosine = schedules.cosine(start=0.0, stop=-1.0, steps=10)
    assert_proven('ctkd_cosine_0_-1_10', [cosine(step) for step in (0, 2, 5, 8, 10, 20)])

  @pytest.mark.parametrize('hyper', [
      dict(start=0.0), dict(spread=-1.0), dict(inputs=10), dict(inputs=(1, 1))])
  def test_out_of_range(self, hyper):
    with pytest.raises(ValueError):
      Learned(**dict(inputs=1) | hyper)


def each(module, *arrays, valid=ALL):
  return jax.jit(lambda *arrays: module(*arrays, valid=valid, train=True))(*arrays)


@jax.jit
def both(student, teacher, valid):
  """Returns the temperatures of FLSW and of CWSM."""
  flsw = FLSW(inputs=2 * student.shape[1:], gamma=0.5)
  return (flsw(student, teacher, valid=valid, train=True),
          CWSM()(student, valid=valid, train=True))


class TestForEachExample:

  def test_they_are_the_references(self):
    with jax.enable_x64(True):
      assert_proven('flsw_b1_g2_T4', each(FLSW(inputs=(5, 5), gamma=2.0), STUDENT, TEACHER))
      assert_proven('cwsm_b1_T4', each(CWSM(), STUDENT))
    np.testing.assert_allclose(each(FLSW(inputs=(5, 5), gamma=2.0), S, T),
                               REFERENCE['flsw_b1_g2_T4']['value'], rtol=1e-5)
    np.testing.assert_allclose(each(CWSM(), S), REFERENCE['cwsm_b1_T4']['value'], rtol=1e-5)

  def test_flsw_by_hand(self):
    # cos = 1 and -1: w = 0 and 2, mean 1. The 1e-4 beside the norms, 10, is below this.
    student = jnp.array([[6., 8], [6, 8]])
    np.testing.assert_allclose(each(FLSW(inputs=(2, 2)), student, student * jnp.array([[1], [-1]]),
                                    valid=ALL[:2]), [5, 3], atol=1e-4)

  def test_cwsm_by_hand(self):
    # Largest probabilities 1/2 and 1: w = 1 / 0.501 and 1 / 1.001, 1.996008 and 0.999001
    value = each(CWSM(beta=2.0), jnp.array([[0., 0], [99, 0]]), valid=ALL[:2])
    np.testing.assert_allclose(value, [4 - 0.997007, 4 + 0.997007], atol=1e-5)

  def test_rows_that_are_not_valid_do_not_matter(self):
    valid = np.float32([1, 0, 1, 1])
    holes = [np.where(valid[:, None] > 0, z, np.nan) for z in (S, T)]
    kept = [z[valid > 0] for z in holes]
    for holed, subset in zip(both(*holes, valid), both(*kept, ALL[:3]), strict=True):
      np.testing.assert_allclose(holed[valid > 0], subset, rtol=1e-6)
      assert np.all(np.isfinite(holed))

  def test_the_term_s_mask_says_whose_mean_it_is(self):
    valid, mask = np.float32([1, 1, 0, 1]), np.float32([1, 0, 1, 1])
    flsw, cwsm = FLSW(inputs=(5, 5, 4)), CWSM()
    only = np.float32([1, 0, 0, 1])
    rows = only > 0
    np.testing.assert_allclose(each(flsw, S, T, mask, valid=valid)[rows],
                               each(flsw, S[rows], T[rows], valid=ALL[:2]), rtol=1e-6)
    np.testing.assert_allclose(each(cwsm, S, mask, valid=valid)[rows],
                               each(cwsm, S[rows], valid=ALL[:2]), rtol=1e-6)
    assert not np.allclose(each(cwsm, S, mask, valid=valid), each(cwsm, S, valid=valid))
    for module, logits_ in ((flsw, (S, T)), (cwsm, (S,))):
      with pytest.raises(ValueError, match=r'a mask of shape \[3\]'):
        module(*logits_, mask[:3], valid=valid, train=True)

  def test_none_falls_below_the_least(self):
    heats = each(FLSW(inputs=(5, 5), beta=100.0, least=0.5), S, T)
    assert np.min(heats) == 0.5 and np.max(heats) > 4
    assert np.min(each(CWSM(beta=100.0), S)) == 1

  def test_no_gradient_goes_through(self):
    total = lambda student: sum(jnp.sum(jnp.square(z)) for z in both(student, T, ALL))
    assert not np.any(jax.grad(total)(S))

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16])
  def test_finite_for_confident_and_for_empty_models(self, dtype):
    far = jnp.array([[1e4, -1e4], [0, 0], [-1e4, -1e4], [1e4, 1e4]], dtype)
    for valid in (ALL, 0 * ALL):
      for heats in both(far, far, valid):
        assert heats.dtype == jnp.float32 and np.all(np.isfinite(heats))

  @pytest.mark.parametrize('make', [
      lambda: FLSW(inputs=5), lambda: FLSW(inputs=(5, 6)), lambda: FLSW(inputs=(5, 5, 5, 5)),
      lambda: FLSW(inputs=(5, 5), gamma=0.0), lambda: CWSM(temperature=-1.0),
      lambda: CWSM()(jnp.zeros((4, 3, 5)), valid=ALL, train=True)])
  def test_out_of_range(self, make):
    with pytest.raises(ValueError):
      make()
