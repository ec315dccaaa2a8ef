import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from distill.losses import divergences, logits

from .inputs import (
  LABEL,
  REFERENCE,
  STUDENT,
  STUDENT_WORDS,
  TEACHER,
  TEACHER_WORDS,
  WORD_MASK,
  all_at_once,
  assert_finite,
  assert_gradient,
  assert_proven,
  assert_shapes_refused,
  double,
  masked_mean,
  value_and_gradient,
)

part = functools.partial
PLAIN = {
    'reverse_kl': divergences.reverse_kl,
    'symmetric_kl': divergences.symmetric_kl,
    'tvd': divergences.tvd,
    'jsd': divergences.jsd,
    'jsd_0.1': part(divergences.jsd, beta=0.1),
    'jsd_0': part(divergences.jsd, beta=0.0),
    'jsd_1': part(divergences.jsd, beta=1.0),
    'normalised_0': part(divergences.jsd, beta=0.0, normalised=True),
    'normalised_0.001': part(divergences.jsd, beta=0.001, normalised=True),
    'normalised_0.999': part(divergences.jsd, beta=0.999, normalised=True),
    'skew_kl': divergences.skew_kl,
    'skew_reverse_kl': divergences.skew_reverse_kl,
    **{name: part(divergences.f_divergence, name=name) for name in divergences.GENERATORS},
    **{f'alpha_{a}': part(divergences.alpha_divergence, alpha=a) for a in (-3., -.5, .5, 1.5, 3.)},
}
# These have a part without a gradient.
STOPPED = {'akl': part(divergences.akl, mu=0.9), 'taid': part(divergences.taid, t=0.4)}
ALL = PLAIN | STOPPED
each = pytest.mark.parametrize('name', ALL)
softmax = lambda z: np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
entropy = lambda p: -np.sum(p * np.log(p), axis=-1)
P, Q = np.log([[3., 1.]]), np.zeros((1, 2))       # the logits of (3/4, 1/4) and of (1/2, 1/2)
PAIR = jnp.zeros((1, 2)), jnp.ones((1, 2))
UNLIKELY = [[1e4, -1e4], [1e4, -1e4], [0, 0], [1e4, -1e4]]
everything = all_at_once(ALL)


@functools.cache
def at_double():
  """All at the inputs of the references, in float64."""
  with jax.enable_x64(True):
    return jax.tree.map(np.asarray, everything(STUDENT, TEACHER))


H = REFERENCE['teacher_entropy']['value']         # what a cross-entropy has over a forward KL
BETWEEN = masked_mean(entropy(softmax(.6 * STUDENT_WORDS + .4 * TEACHER_WORDS)), WORD_MASK)
jsd, trl_s = divergences.jsd, lambda beta: lambda s, t: beta * (1 - beta) * jsd(
    s, t, beta=beta, normalised=True)
# The losses that a reference is, and what it has more than they.
RECORDED = {
    **{name: (0, logits.kl, part(jsd, beta=0.), part(jsd, beta=0., normalised=True))
       for name in ('fkl', 'full_fkl', 'gkd_jsd_beta0.0')},
    **{name: (0, divergences.reverse_kl, part(jsd, beta=1.), part(jsd, beta=1., normalised=True))
       for name in ('rkl', 'gkd_jsd_beta1.0')},
    'tvd': (0, divergences.tvd),
    **{name: (0, part(jsd, beta=beta), trl_s(beta)) for name, beta in (
        ('gkd_jsd_beta0.1', .1), ('gkd_jsd_beta0.5', .5), ('gkd_jsd_beta0.9', .9))},
    'gkd_jsd_beta0.5_T2': (0, part(jsd, temperature=2.)),             # no T² there, either
    'skew_fkl_lam0.1_true': (0, divergences.skew_kl),
    'skew_rkl_lam0.1_true': (0, divergences.skew_reverse_kl),
    'akl_official_mu0.5': (0, divergences.akl),
    'taid_t0.4_kl': (0, part(divergences.taid, t=.4)),
    # In float32, and the forward forms are cross-entropies.
    'distillm_forward_kl': (H, logits.kl),
    'distillm_reverse_kl': (0, divergences.reverse_kl),
    'distillm_tv_distance': (0, divergences.tvd),
    'distillm_js_distance': (0, part(jsd, beta=.1)),         # its lam weights the student
    'distillm_skewed_forward_kl': (H, divergences.skew_kl),
    'distillm_skewed_reverse_kl': (0, divergences.skew_reverse_kl),
    'distillm_symmetric_kl': (.1 * H, part(divergences.symmetric_kl, lam=.9)),
    'taid_t0.4': (BETWEEN, part(divergences.taid, t=.4)),
    'taid_repo_fkl': (H, part(divergences.taid, t=1.)),
}


@functools.cache
def recorded(dtype):
  with jax.enable_x64(dtype == np.float64):
    words = (dtype(x) for x in (STUDENT_WORDS, TEACHER_WORDS))
    return jax.jit(lambda s, t: {name: [loss(s, t) for loss in losses]
                                 for name, (_, *losses) in RECORDED.items()})(*words)


class TestReferences:

  @pytest.mark.parametrize('name', RECORDED)
  def test_token_mean_in_both_precisions(self, name):
    rounded = name.startswith(('distillm', 'taid', 'akl'))        # the reference itself
    for value in recorded(np.float64)[name]:
      assert_proven(name, RECORDED[name][0] + masked_mean(np.asarray(value), WORD_MASK),
                    rtol=1e-5 if rounded else 1e-6)
    for value in recorded(np.float32)[name]:
      assert value.dtype == jnp.float32
      np.testing.assert_allclose(RECORDED[name][0] + masked_mean(np.asarray(value), WORD_MASK),
                                 REFERENCE[name]['value'], rtol=1e-5)

  def test_the_teacher_s_entropy_is_what_is_missing_to_a_uniform_student(self):
    to_uniform = double(logits.kl, 0 * TEACHER_WORDS, TEACHER_WORDS)
    assert_proven('teacher_entropy', np.log(7) - masked_mean(to_uniform, WORD_MASK))

  def test_akl_of_taid_s_repository(self):
    # Its shares come from a mask in rising order over gaps in the words' own, with ours as parts.
    p, q = softmax(TEACHER_WORDS), softmax(STUDENT_WORDS)
    head = np.cumsum(np.sort(p, axis=-1), axis=-1) >= 0.5
    share = np.sum(head * np.abs(p - q), axis=-1) / np.sum(np.abs(p - q), axis=-1)
    forward, reverse = (np.asarray(recorded(np.float64)[name][0]) for name in ('fkl', 'rkl'))
    values = share * (forward + entropy(p)) + (1 - share) * reverse
    assert_proven('akl_mu0.5', masked_mean(values, WORD_MASK), rtol=1e-5)

  def test_mft_but_for_modelopt_s_1e_7_in_denominators(self):
    assert_proven('mft_thr0.2_T1', np.mean(double(divergences.mft, STUDENT, TEACHER, LABEL)))
    single = divergences.mft(jnp.float32(STUDENT), jnp.float32(TEACHER), jnp.asarray(LABEL))
    np.testing.assert_allclose(np.mean(single), REFERENCE['mft_thr0.2_T1']['value'], rtol=1e-5)


@pytest.mark.parametrize('name, expected', [
    # p = (3/4, 1/4), q = (1/2, 1/2), m = (5/8, 3/8) where there is one of equal shares.
    ('reverse_kl', .5 * np.log(4 / 3)),                   # 1/2 ln 2/3 + 1/2 ln 2
    ('symmetric_kl', (.130812 + .143841) / 2),
    ('tvd', .25),
    ('jsd', .033822),               # (3/4 ln 6/5 + 1/4 ln 2/3) / 2 + (1/2 ln 4/5 + 1/2 ln 4/3) / 2
    ('akl', (.130812 + .143841) / 2),                     # gaps of 1/4 in the head and in the tail
    ('kl', .130812),
    ('hellinger', 1 - np.sqrt(3 / 8) - np.sqrt(1 / 8)),   # 1 - Σ √(p q)
    ('pearson', 1 / 4),                                   # 1/16 / (1/2), twice
    ('neyman', 1 / 3),                                    # 1/16 / (3/4) + 1/16 / (1/4)
    ('alpha_3.0', (27 / 16 + 1 / 16 - 1) / 6),            # (Σ p³ / q² - 1) / 6
])
def test_by_hand(name, expected):
  np.testing.assert_allclose(double(ALL[name], Q, P), [expected], atol=1e-6)


def test_skewed_by_hand():
  # m = (5/8, 3/8): 3/4 ln 6/5 + 1/4 ln 2/3 and 1/2 ln 4/5 + 1/2 ln 4/3
  np.testing.assert_allclose(double(divergences.skew_kl, Q, P, alpha=.5), [.035375], atol=1e-6)
  np.testing.assert_allclose(double(divergences.skew_reverse_kl, Q, P, alpha=.5), [.032269],
                             atol=1e-6)


def test_temperature_by_hand():
  # The logits of (9/10, 1/10) at T = 2 are those of (3/4, 1/4); there is no T².
  np.testing.assert_allclose(double(divergences.tvd, Q, 2 * P, temperature=2), [.25], atol=1e-12)


@functools.cache
def differences():
  """Derivatives of all in one direction, from central differences, in float64."""
  direction, step = np.cos(np.arange(20.)).reshape(4, 5), 1e-5
  with jax.enable_x64(True):
    ahead, behind = (everything(STUDENT + way * direction, TEACHER) for way in (step, -step))
    return direction, {name: np.asarray(ahead[name][0] - behind[name][0]) / (2 * step)
                       for name in PLAIN}


@pytest.mark.parametrize('name', PLAIN)
def test_gradient_is_that_of_finite_differences(name):
  direction, slopes = differences()
  np.testing.assert_allclose(np.sum(at_double()[name][1] * direction, axis=-1), slopes[name],
                             rtol=1e-6, atol=1e-8)


class TestJSD:
  BETAS = (0., 1e-8, 1e-6, 1e-4, .1, .5, .9, 1 - 1e-4, 1 - 1e-6, 1.)

  def test_normalised_is_continuous_up_to_the_ends_in_either_precision(self):
    for precise, dtype, rtol in ((True, np.float64, 1e-10), (False, np.float32, 1e-5)):
      with jax.enable_x64(precise):
        loss = jax.jit(lambda s, t, beta: divergences.jsd(s, t, beta=beta, normalised=True))
        at = {b: np.asarray(loss(dtype(STUDENT), dtype(TEACHER), dtype(b))) for b in self.BETAS}
      np.testing.assert_allclose(at[0.], at_double()['kl'][0], rtol=rtol)
      np.testing.assert_allclose(at[1.], at_double()['reverse_kl'][0], rtol=rtol)
      for near, end in ((1e-8, 0.), (1e-6, 0.), (1e-4, 0.), (1 - 1e-6, 1.), (1 - 1e-4, 1.)):
        np.testing.assert_allclose(at[near], at[end], rtol=1e-5, atol=20 * abs(near - end))

  def test_plain_jumps_at_the_ends(self):
    near, end = (double(divergences.jsd, STUDENT, TEACHER, beta=beta) for beta in (1e-6, 0.))
    np.testing.assert_allclose(near, 1e-6 * end, rtol=1e-3)

  def test_beta_may_come_from_a_schedule(self):
    with jax.enable_x64(True):
      scheduled = jax.jit(lambda s, t, beta: divergences.jsd(s, t, beta=beta))
      for beta, name in ((0., 'jsd_0'), (.1, 'jsd_0.1'), (1., 'jsd_1')):
        np.testing.assert_allclose(scheduled(STUDENT, TEACHER, np.float64(beta)),
                                   at_double()[name][0], rtol=1e-12)

  def test_swapping_sides_swaps_the_shares(self):
    np.testing.assert_allclose(double(divergences.jsd, STUDENT, TEACHER, beta=.2),
                               double(divergences.jsd, TEACHER, STUDENT, beta=.8), rtol=1e-12)

  def test_at_most_the_entropy_of_the_shares(self):
    apart = double(divergences.jsd, 1e4 * P, -1e4 * P, beta=.2)
    np.testing.assert_allclose(apart, [-.2 * np.log(.2) - .8 * np.log(.8)], rtol=1e-6)


class TestSkew:

  def test_at_alpha_0_it_is_the_kl_and_at_1_it_is_0(self):
    for loss, whole in ((divergences.skew_kl, logits.kl),
                        (divergences.skew_reverse_kl, divergences.reverse_kl)):
      np.testing.assert_allclose(double(loss, STUDENT, TEACHER, alpha=0.),
                                 double(whole, STUDENT, TEACHER), rtol=1e-12)
      np.testing.assert_allclose(double(loss, STUDENT, TEACHER, alpha=1.), 0, atol=1e-12)

  def test_bounded_by_the_logarithm_of_alpha(self):
    for loss in (divergences.skew_kl, divergences.skew_reverse_kl):
      np.testing.assert_allclose(double(loss, 1e4 * P, -1e4 * P, alpha=.1), [np.log(10)])


class TestAKL:

  def test_gradient_is_that_of_the_kls_at_fixed_shares(self):
    p, q = (softmax(z) for z in (TEACHER, STUDENT))
    order = np.argsort(-p, axis=-1)
    ordered, gap = (np.take_along_axis(x, order, -1) for x in (p, np.abs(p - q)))
    head = np.cumsum(ordered, axis=-1) <= .9
    head[:, 0] = True
    share = (np.sum(head * gap, axis=-1) / np.sum(gap, axis=-1))[:, None]
    assert 0 < head[:, 1:].sum() and head.sum() < head.size       # the head is more than the first
    reverse = at_double()['reverse_kl'][1]
    np.testing.assert_allclose(at_double()['akl'][1], share * (q - p) + (1 - share) * reverse,
                               atol=1e-12)


class TestTAID:

  def test_by_hand(self):
    # Halfway between the logits (0, 0) and (2 ln 3, 0) is (ln 3, 0): KL of (3/4, 1/4).
    np.testing.assert_allclose(double(divergences.taid, Q, 2 * P, t=.5), [.130812], atol=1e-6)

  def test_gradient_pulls_towards_the_mixture_as_it_stands(self):
    between = softmax(.6 * STUDENT + .4 * TEACHER)
    np.testing.assert_allclose(at_double()['taid'][1], softmax(STUDENT) - between, atol=1e-12)

  def test_from_nothing_to_the_whole_kl(self):
    np.testing.assert_allclose(double(divergences.taid, STUDENT, TEACHER, t=0.), 0, atol=1e-12)
    np.testing.assert_allclose(double(divergences.taid, STUDENT, TEACHER, t=1.),
                               double(logits.kl, STUDENT, TEACHER), rtol=1e-12)

  def test_t_may_come_from_a_carry(self):
    carried = double(lambda s, teacher, t: divergences.taid(s, teacher, t=t), STUDENT, TEACHER,
                     np.float64(.4))
    np.testing.assert_allclose(carried, at_double()['taid'][0], rtol=1e-12)


class TestFDivergence:

  @pytest.mark.parametrize('name, same, factor', [
      ('kl', 'normalised_0', 1), ('reverse_kl', 'reverse_kl', 1), ('jsd', 'jsd', 1),
      ('tvd', 'tvd', 1), ('hellinger', 'alpha_0.5', 1 / 4)])
  def test_named_equals_the_special_one(self, name, same, factor):
    named = double(divergences.f_divergence, STUDENT, TEACHER, name=name)
    np.testing.assert_allclose(named, factor * at_double()[same][0], rtol=1e-10)

  @pytest.mark.parametrize('name, alpha', [('pearson', 2.), ('neyman', -1.)])
  def test_the_chi_squares_are_alpha_divergences(self, name, alpha):
    np.testing.assert_allclose(at_double()[name][0], 2 * double(
        divergences.alpha_divergence, STUDENT, TEACHER, alpha=alpha), rtol=1e-10)

  def test_alpha_goes_to_the_kls(self):
    for alpha, limit in ((1 - 1e-6, 'normalised_0'), (1e-6, 'reverse_kl')):
      near = double(divergences.alpha_divergence, STUDENT, TEACHER, alpha=alpha)
      np.testing.assert_allclose(near, at_double()[limit][0], rtol=1e-4)

  @pytest.mark.parametrize('name', ['pearson', 'neyman', 'alpha_3.0'])
  def test_beyond_the_bound_it_still_grows(self, name):
    # Ratios from e^20 to e^50 on either side of the bound: a convex function of the student.
    teacher = np.zeros((5, 2))
    student = np.stack([np.array([20., 25, 30, 40, 50]), np.zeros(5)], axis=-1)
    values = double(ALL[name], *((student, teacher) if name != 'neyman' else (teacher, student)))
    assert (np.diff(values) > 0).all()

  @pytest.mark.parametrize('name, alpha', [
      ('pearson', 2.), ('neyman', -1.), ('alpha', 3.), ('alpha', -3.), ('alpha', 20.)])
  def test_up_to_the_bound_it_is_the_formula_and_beyond_its_tangent_in_single_precision(
      self, name, alpha):
    # Two of three classes are equal on both sides; the first's ratio is e^gap, but for 2/3.
    bound, way = 80 / max(2, abs(alpha), abs(1 - alpha)), 1 if alpha > 0 else -1
    loss = part(divergences.f_divergence, name=name) if name != 'alpha' else part(
        divergences.alpha_divergence, alpha=alpha)
    factor = alpha * (alpha - 1) if name == 'alpha' else 1
    gaps = way * bound * np.array([.5, .99, 1.5, 3.])
    sides = [np.stack([np.where(side * gaps > 0, 0, -np.abs(gaps)), 0 * gaps, 0 * gaps], -1)
             for side in (-1, 1)]                       # the student's and the teacher's logits
    values, gradient = map(np.float64, value_and_gradient(loss, *map(jnp.float32, sides)))
    assert np.isfinite(values).all() and np.isfinite(gradient).all()
    assert (np.diff(values[:3]) > 0).all()              # the last is where single precision is flat
    log_q, log_p = (np.log(softmax(z)) for z in sides)
    exact = np.sum(np.exp(alpha * log_p + (1 - alpha) * log_q), axis=-1) - 1
    np.testing.assert_allclose(values[:2] * factor, exact[:2], rtol=1e-3)
    assert (values[2:] * factor < exact[2:] / 100).all()

  def test_a_modest_ratio_by_hand(self):
    # p = (1e-2, .99), q = (1e-8, 1 - 1e-8): Σ p²/q - 1 = 1e4 + .9801 - 1 and Σ p³/q² - 1, over 6
    q, p = np.log([[1e-8, 1 - 1e-8]]), np.log([[1e-2, .99]])
    np.testing.assert_allclose(double(divergences.f_divergence, q, p, name='pearson'), [9999.9801])
    np.testing.assert_allclose(double(divergences.f_divergence, p, q, name='neyman'), [9999.9801])
    np.testing.assert_allclose(double(divergences.alpha_divergence, q, p, alpha=3.), [1e10 / 6],
                               rtol=1e-8)

  @pytest.mark.parametrize('name', ['pearson', 'neyman'])
  def test_in_half_precision_the_tangent_begins_where_the_gradient_would_end(self, name):
    apart = [jnp.array([[far, 0.]], jnp.float16) for far in (9., 12.)]
    zeros = jnp.zeros((1, 2), jnp.float16)
    for far, same in zip(apart, (True, False), strict=True):
      sides = (far, zeros) if name == 'pearson' else (zeros, far)
      value, gradient = value_and_gradient(ALL[name], *sides)
      assert np.isfinite(gradient).all() and gradient.dtype == jnp.float16
      wide = ALL[name](*(x.astype(jnp.bfloat16) for x in sides))
      assert np.allclose(value, wide, rtol=1e-4) == same

  def test_unknown_names_and_alphas(self):
    with pytest.raises(ValueError, match="name='chi' is not one of kl, reverse_kl"):
      divergences.f_divergence(*PAIR, name='chi')
    for alpha in (0.0, 1.0, float('inf'), float('nan')):
      with pytest.raises(ValueError, match='alpha='):
        divergences.alpha_divergence(*PAIR, alpha=alpha)


class TestMFT:

  @pytest.mark.parametrize('label, tau, expected', [
      # From p = (3/4, 1/4) by (1/2 + .2) / (1 + 1/2): (.4, .6), where it leads by .2.
      (1, .2, .4 * np.log(.8) + .6 * np.log(1.2)),
      (0, .2, .95 * np.log(1.9) + .05 * np.log(.1)),        # the first choice: .2 likelier
      (0, .3, np.log(2)),                                   # up to 1
      (1, 1., np.log(2)),
      (-1, .2, 0),
  ])
  def test_by_hand(self, label, tau, expected):
    value = double(divergences.mft, Q, P, np.array([label]), tau=tau)
    np.testing.assert_allclose(value, [expected], atol=1e-12)

  def test_gradient(self):
    assert_gradient(divergences.mft, STUDENT, TEACHER, LABEL)

  def test_a_hidden_label_has_no_gradient_and_a_wrong_one_does_not_train(self):
    for hidden in (-1, -100):
      label = jnp.array([hidden, 5, 4, 1])
      values, gradient = value_and_gradient(divergences.mft, STUDENT, TEACHER, label)
      assert values[0] == 0 and (gradient[0] == 0).all() and np.isnan(values[1])
      assert np.isfinite(values[2:]).all() and np.isfinite(gradient[2:]).all()

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_for_confident_models(self, dtype):
    student, teacher = jnp.array(UNLIKELY, dtype), jnp.array(UNLIKELY[::-1], dtype)
    assert_finite(divergences.mft, student, teacher, jnp.array([0, 1, 0, 1]))
    assert_finite(divergences.mft, student, -jnp.inf * (teacher < 0), jnp.array([0, 1, 0, 1]))

  def test_labels_and_logits_agree(self):
    with pytest.raises(ValueError, match='shapes must be equal'):
      divergences.mft.__wrapped__(jnp.zeros((8, 10)), jnp.zeros((8, 10)), jnp.zeros(1, int))


some_logits = arrays(np.float64, (5,), elements=st.floats(-30, 30))


@given(some_logits, some_logits, st.floats(-100, 100))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_divergences_are_0_for_equals_alone_and_see_no_shift_of_logits(student, teacher, shift):
  with jax.enable_x64(True):
    found = everything(np.stack([student, student, student + shift, student]),
                       np.stack([teacher, student, teacher, teacher + shift]))
  apart = np.sum(np.abs(softmax(student) - softmax(teacher))) / 2
  for name, (values, _) in found.items():
    value, same, *moved = np.asarray(values)
    assert abs(same) < 1e-9, name
    # Pinsker's inequality, with room for every constant; TAID's mixture is nearer to the student.
    assert value >= (0 if name == 'taid' else .1) * apart**2 - 1e-9, name
    np.testing.assert_allclose(moved, [value, value], atol=1e-8, rtol=1e-8, err_msg=name)


def test_taid_is_0_for_equals_alone():
  assert (at_double()['taid'][0] > .01).all()


@functools.cache
def hostile(dtype):
  """Sure and wrong, equal, sure against unsure, unsure against sure; and ruled-out words."""
  student = jnp.array([*UNLIKELY, [0, 0], [0, 0], [1, 2], [1e4, -1e4]], dtype)
  teacher = jnp.array([[-1e4, 1e4], [1e4, -1e4], [1e4, -1e4], [0, 0], [0, 0],
                       [0, -jnp.inf], [1, 2], [-jnp.inf, 0]], dtype)
  return everything(student, teacher)


@each
@pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
def test_finite_for_confident_models(name, dtype):
  values, gradient = hostile(dtype)[name]
  assert values.dtype == jnp.float32 and gradient.dtype == dtype
  assert np.isfinite(values).all() and np.isfinite(np.asarray(gradient, np.float32)).all()
  for row in (1, 4, 6):                         # the teacher is the student
    np.testing.assert_allclose(values[row], 0, atol=1e-6)
    np.testing.assert_allclose(np.asarray(gradient[row], np.float32), 0, atol=1e-5)
  assert (values > -1e-6).all()
  if name != 'taid':                            # at t = 0.4 halfway is still the student's choice
    assert values[0] > .05                      # sure and wrong
  assert values[5] > .05                        # unsure against a one-hot teacher


@functools.cache
def ruled_out():
  """A word that both rule out, against the same without that word; and one of the student's."""
  with jax.enable_x64(True):
    last = lambda z, x: np.concatenate([z, np.full((len(z), 1), x)], axis=-1)
    return (everything(last(STUDENT, -np.inf), last(TEACHER, -np.inf)),
            everything(last(STUDENT, -np.inf), last(TEACHER, 0.)))


@each
def test_a_word_that_both_rule_out_does_not_count(name):
  both, either = ruled_out()
  np.testing.assert_allclose(both[name][0], at_double()[name][0], rtol=1e-9)
  np.testing.assert_allclose(both[name][1][:, :-1], at_double()[name][1], rtol=1e-9, atol=1e-12)
  assert np.isfinite(either[name][0]).all() and np.isfinite(either[name][1]).all()


@functools.cache
def among_others():
  with jax.enable_x64(True):
    others = np.array([1, 0, 1, 1])[:, None]
    return everything(np.where(others, 1 - STUDENT, STUDENT), np.where(others, 2., TEACHER))


@each
def test_an_example_does_not_see_the_others(name):
  for single, same in zip(at_double()[name], among_others()[name], strict=True):
    np.testing.assert_allclose(single[1], same[1], rtol=1e-12)


@pytest.mark.parametrize('loss, hyper', [
    (divergences.reverse_kl, {}), (divergences.symmetric_kl, {}), (divergences.tvd, {}),
    (divergences.jsd, {}), (divergences.skew_kl, {}), (divergences.skew_reverse_kl, {}),
    (divergences.akl, {}), (divergences.taid, {'t': .5}),
    (divergences.f_divergence, {'name': 'kl'}), (divergences.alpha_divergence, {'alpha': 2.})])
def test_nothing_is_broadcast_and_hyper_parameters_have_a_range(loss, hyper):
  for wrong in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
    assert_shapes_refused(loss, jnp.zeros((8, 10)), wrong, **hyper)
    assert_shapes_refused(loss, wrong, jnp.zeros((8, 10)), **hyper)
  with pytest.raises(ValueError, match='temperature='):
    loss(*PAIR, **hyper, temperature=0.0)


@pytest.mark.parametrize('loss, hyper', [
    (divergences.jsd, 'beta'), (divergences.skew_kl, 'alpha'),
    (divergences.skew_reverse_kl, 'alpha'), (divergences.symmetric_kl, 'lam'),
    (divergences.akl, 'mu'), (divergences.taid, 't'),
    (lambda s, t, **hyper: divergences.mft(s, t, jnp.array([0]), **hyper), 'tau')])
def test_a_share_is_between_0_and_1(loss, hyper):
  for value in (-.1, 1.1, float('nan')):
    with pytest.raises(ValueError, match=f'{hyper}='):
      loss(*PAIR, **{hyper: value})
