import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.carry import DWA, GradNorm, Mean, Taid
from distill.types import Stop

KEY = jax.random.key(0)


def assert_same(first, other):
  jax.tree.map(np.testing.assert_array_equal, first, other)


def shapes(views):
  return jax.eval_shape(lambda: views)


class TestMean:

  def test_by_hand_and_only_valid_rows_count(self):
    mean = Mean(reads='big/logits', decay=0.9)
    views = {'big': {'logits': jnp.array([[1., 2], [3, 6], [99, 99]])},
             'batch': {'valid': jnp.array([1., 1, 0])}}
    value = mean.init(KEY, shapes(views), {})
    np.testing.assert_array_equal(value, [0, 0])
    for expected in ([.2, .4], [.38, .76]):             # 0.1 m, then 0.9 · 0.1 m + 0.1 m
      value = mean.update(value, views, 0, {})
      np.testing.assert_allclose(value, expected, rtol=1e-6)

  @pytest.mark.parametrize('decay', [-.1, 1.0])
  def test_decay_out_of_range(self, decay):
    with pytest.raises(ValueError, match='decay='):
      Mean(reads='big/logits', decay=decay)


class TestTaid:
  # The student's are those of (3/4, 1/4), and so is NEAR: whatever t is, the cross-entropy with
  # itself is 0.562335. Between them and FAR, at t = 1/2, is (1/2, 1/2): 0.836988.
  NEAR = jnp.array([[np.log(3), 0]] * 2)
  FAR = -NEAR

  def views(self, teacher, valid=(1, 1), **batch):
    student = jnp.broadcast_to(self.NEAR[0], teacher.shape)
    return {'student': {'logits': student}, 'teacher': {'logits': teacher},
            'batch': {'valid': jnp.array(valid, jnp.float32), **batch}}

  def run(self, carry, teachers, value=None, first=0):
    update = jax.jit(carry.update)
    value = value or carry.init(KEY, shapes(self.views(self.FAR)), {})
    for step, teacher in enumerate(teachers, first):
      value = update(value, self.views(teacher), jnp.int32(step), {})
    return value

  def test_by_hand(self):
    carry = Taid(teacher='teacher/logits', steps=10**6, start=.5, alpha=.4, beta=.5)
    first = self.run(carry, [self.FAR])                   # the first loss is only remembered
    np.testing.assert_allclose([first['t'], first['loss'], first['momentum']], [.5, .836988, 0],
                               atol=1e-6)
    second = self.run(carry, [self.FAR], first, 1)        # the same: .5 + .4 · σ(0) · .5
    np.testing.assert_allclose([second['t'], second['loss'], second['momentum']],
                               [.6, .836988, 0], atol=1e-6)
    # δ = 1 - .562335/.836988 = .328145, momentum half, σ = .540929; .6 + .4 · .540929 · .4
    third = self.run(carry, [self.NEAR], second, 2)
    np.testing.assert_allclose([third['t'], third['loss'], third['momentum']],
                               [.686549, .562335, .164072], atol=1e-5)

  def test_it_moves_on_after_a_loss_of_nothing(self):
    carry = Taid(teacher='teacher/logits', steps=10**6, start=0.0, alpha=.4, beta=.5)
    # At t = 0 the mixture is the student, and its KL 0; later, a student and a teacher both sure.
    sure = {'student': {'logits': 1e4 * self.NEAR}, 'teacher': {'logits': 1e4 * self.NEAR},
            'batch': {'valid': jnp.ones(2)}}
    value, ts = self.run(carry, [self.FAR]), [0.0]
    assert value['t'] == 0
    for step, views in enumerate([self.views(self.FAR)] * 3 + [sure] + 3 * [self.views(self.FAR)]):
      value = jax.jit(carry.update)(value, views, jnp.int32(step + 1), {})
      ts.append(float(value['t']))
    # δ is at least -1, and the momentum then, too: each step is .4 · σ(-1) of what is left or more.
    assert (np.diff(ts) >= .4 * .268941 * (1 - np.array(ts[:-1])) - 1e-6).all() and ts[-1] < 1

  def test_at_least_linear_and_at_most_1(self):
    carry = Taid(teacher='teacher/logits', steps=4, start=.5)
    ts = [float(self.run(carry, [self.FAR] * n)['t']) for n in range(1, 6)]
    # After step n: .5 + .5 n / 4, above which alpha = 5e-4 adds next to nothing.
    np.testing.assert_allclose(ts, [.5, .625, .75, .875, 1], atol=1e-3)
    assert float(self.run(carry, [self.FAR], first=9, value=self.run(carry, [self.FAR]))['t']) == 1

  def test_a_rising_loss_slows_it_down(self):
    carry = Taid(teacher='teacher/logits', steps=10**6, alpha=.1, beta=.5)
    rising = self.run(carry, [self.FAR, 2 * self.FAR])
    falling = self.run(carry, [2 * self.FAR, self.FAR])
    assert .4 < rising['t'] < .4 + .1 * .6 / 2 < falling['t']

  def test_resumed_is_uninterrupted(self):
    carry = Taid(teacher='teacher/logits', steps=100)
    teachers = [self.FAR * x for x in (1., .7, 1.3, .2)]
    saved = jax.tree.map(lambda x: jnp.array(np.asarray(x)), self.run(carry, teachers[:2]))
    assert_same(self.run(carry, teachers[2:], saved, 2), self.run(carry, teachers))

  def test_what_does_not_count_is_not_seen_and_of_nothing_it_learns_nothing(self):
    carry = Taid(teacher='teacher/logits', steps=10, mask='batch/counted')
    words = jnp.stack([self.FAR, jnp.array([[np.nan, 9], [9, -9]])])                   # [b s v]
    update = jax.jit(carry.update)
    views = lambda counted, valid: self.views(words, valid, counted=jnp.array(counted))
    start = carry.init(KEY, shapes(views([[1, 0], [0, 0]], (1, 1))), {})
    kept = update(start, views([[1, 0], [1, 1]], (1, 0)), jnp.int32(0), {})
    whole = Taid(teacher='teacher/logits', steps=10)
    assert_same(kept, jax.jit(whole.update)(start, self.views(self.FAR), jnp.int32(0), {}))
    for valid in ((0, 0), (0, 1)):
      assert_same(update(start, views([[1, 1], [0, 0]], valid), jnp.int32(1), {}), start)
      assert_same(update(kept, views([[1, 1], [0, 0]], valid), jnp.int32(1), {}), kept)

  def test_finite_from_a_perfect_student_to_a_sure_and_wrong_one(self):
    carry = Taid(teacher='teacher/logits', steps=10)
    value = self.run(carry, [self.NEAR, self.NEAR, 1e4 * self.FAR, self.FAR, self.NEAR])
    assert all(np.isfinite(x) for x in value.values()) and .4 < value['t'] < 1

  def test_a_path_that_is_not_there(self):
    carry = Taid(teacher='big/logits', steps=10)
    with pytest.raises(Stop, match="'big/logits' names no view"):
      carry.init(KEY, shapes(self.views(self.FAR)), {})

  @pytest.mark.parametrize('wrong', [
      {'steps': 0}, {'start': 1.5}, {'alpha': -1.0}, {'beta': 1.5}, {'temperature': 0.0}])
  def test_out_of_range(self, wrong):
    with pytest.raises(ValueError, match=f'{next(iter(wrong))}='):
      Taid(**{'teacher': 'teacher/logits', 'steps': 10} | wrong)


def moved(carry, steps, value=None, first=0):
  """A carry over terms after steps of which these are the views, and each step's weights."""
  steps = [{view: {n: jnp.float32(x) for n, x in zip(carry.terms, numbers, strict=True)}
            for view, numbers in zip(('terms', 'gradients'), step, strict=False)} for step in steps]
  value, update, weights = value or carry.init(KEY, shapes(steps[0]), {}), jax.jit(carry.update), []
  for step, views in enumerate(steps, first):
    value = update(value, views, jnp.int32(step), {})
    weights.append([float(value[name]) for name in carry.terms])
  return value, weights


class TestDWA:
  STEPS = [[(4, 1)], [(2, 3)], [(1, 2)], [(2, 2)], [(9, 9)]]

  def test_by_hand(self):
    # Windows of two steps: means 3 and 2, then 1.5 and 2: r = 1/2 and 1, halved in the softmax:
    # 2 e^¼ / (e^¼ + e^½) = 0.875647. Two windows long all are 1.
    _, weights = moved(DWA(terms=('a', 'b'), window=2), self.STEPS)
    np.testing.assert_allclose(weights[:3], 1, rtol=1e-6)
    np.testing.assert_allclose(weights[3:], [[.875647, 1.124353]] * 2, rtol=1e-6)

  def test_weights_are_as_many_and_the_slower_is_the_heavier(self):
    _, (*_, (a, b, c)) = moved(DWA(terms=('a', 'b', 'c'), window=1), [[(1, 1, 1)], [(.9, .5, 1.1)]])
    np.testing.assert_allclose(a + b + c, 3, rtol=1e-6)
    assert b < a < c

  def test_a_hot_softmax_weighs_all_alike(self):
    _, weights = moved(DWA(terms=('a', 'b'), window=2, temperature=1e6), self.STEPS)
    np.testing.assert_allclose(weights, 1, rtol=1e-5)

  def test_resumed_is_uninterrupted(self):
    carry = DWA(terms=('a', 'b'), window=2)
    whole = moved(carry, self.STEPS)
    for stop in range(1, len(self.STEPS)):
      value = jax.tree.map(lambda x: jnp.array(np.asarray(x)), moved(carry, self.STEPS[:stop])[0])
      assert_same(moved(carry, self.STEPS[stop:], value, stop)[0], whole[0])

  def test_steps_that_count_nothing_are_left_out(self):
    # Of a the first window is (4), the second has nothing: r = 1, and the third is over the first.
    nan, carry = np.nan, DWA(terms=('a', 'b'), window=2)
    _, weights = moved(carry, [[x] for x in (
        (4, 1), (nan, 1), (nan, 1), (nan, 1), (2, 1), (nan, 1))])
    np.testing.assert_allclose(weights[3], 1, rtol=1e-6)
    np.testing.assert_allclose(weights[5], [.875647, 1.124353], rtol=1e-6)      # r = 1/2 and 1

  @pytest.mark.parametrize('steps', [(0, 0), (1e30, 1e-30), (-1, 1), (1e-30, 1)])
  def test_finite_whatever_the_losses(self, steps):
    _, weights = moved(DWA(terms=('a', 'b'), window=1), [[steps], [steps[::-1]], [steps], [(1, 1)]])
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(np.sum(weights, axis=1), 2, rtol=1e-6)


class TestGradNorm:
  STEPS = [[(2, 4), (6, 2)], [(1, 4), (1.5, 4.5)]]

  def test_by_hand(self):
    # First the targets are the mean, 4: w = 1 - 0.1·6 and 1 + 0.1·2, to the sum 2: 1/2 and 3/2.
    # Then L/L(0) = 1/2 and 1, r = 2/3 and 4/3, the mean of (1.5, 4.5) is 3, targets are 2 and 4,
    # |∇L| = G/w = 3 and 3: w = 1/2 + 0.3 and 3/2 - 0.3, whose sum is 2.
    value, weights = moved(GradNorm(terms=('a', 'b'), alpha=1.0, rate=0.1), self.STEPS)
    np.testing.assert_allclose(weights, [[.5, 1.5], [.8, 1.2]], rtol=1e-6)
    assert (value['a/first'], value['b/first']) == (2, 4)

  def test_it_follows_the_gradient_of_the_papers_loss(self):
    rng, carry = np.random.default_rng(0), GradNorm(terms=tuple('abc'), alpha=1.5, rate=1e-3)
    first, losses, slopes = rng.uniform(1, 2, (3, 3)).astype(np.float32)
    value = moved(carry, [[first, slopes]])[0]
    weights = np.array([value[name] for name in 'abc'])

    def loss(w):                                          # eq. 2, the target held constant
      norms, progress = w * slopes, losses / first
      target = np.mean(weights * slopes) * (progress / progress.mean())**1.5
      return jnp.sum(jnp.abs(norms - target))
    stepped = weights - 1e-3 * jax.grad(loss)(jnp.array(weights))
    _, (found,) = moved(carry, [[losses, weights * slopes]], value, 1)
    np.testing.assert_allclose(found, stepped * 3 / stepped.sum(), rtol=1e-5)
    assert np.abs(np.array(found) - weights).max() > 1e-4

  def test_gradients_come_to_one_norm(self):
    carry, slopes = GradNorm(terms=('a', 'b'), alpha=0.0, rate=0.01), np.array([3., 1.])
    value, weights = None, np.ones(2)
    for step in range(100):
      value, (weights,) = moved(carry, [[(1, 1), weights * slopes]], value, step)
    np.testing.assert_allclose(weights, [.5, 1.5], atol=.03)          # 3·½ = 1·3/2

  def test_resumed_is_uninterrupted(self):
    carry = GradNorm(terms=('a', 'b'))
    saved = jax.tree.map(lambda x: jnp.array(np.asarray(x)), moved(carry, self.STEPS[:1])[0])
    assert_same(moved(carry, self.STEPS[1:], saved, 1)[0], moved(carry, self.STEPS)[0])

  def test_a_step_that_counted_nothing_changes_nothing(self):
    carry = GradNorm(terms=('a', 'b'))
    value = moved(carry, self.STEPS)[0]
    for losses in (np.nan, 1), (0, 1), (1, -1):
      assert_same(moved(carry, [[losses, (1, 0)]], value, 2)[0], value)
    fresh, _ = moved(carry, [[(np.nan, 1), (0, 1)]])
    assert (fresh['a'], fresh['b'], fresh['a/first'], fresh['b/first']) == (1, 1, 0, 0)

  @pytest.mark.parametrize('norms', [(1e6, 1), (0, 0), (0, 1e6), (1e-30, 1e30)])
  def test_weights_stay_positive_and_finite_whatever_the_gradients(self, norms):
    _, weights = moved(GradNorm(terms=('a', 'b'), rate=1.0), [[(1, 1), norms]] * 3)
    assert np.isfinite(weights).all() and (np.array(weights) > 0).all()
    np.testing.assert_allclose(np.sum(weights, axis=1), 2, rtol=1e-6)


@pytest.mark.parametrize('make', [DWA, GradNorm])
def test_weights_are_of_terms_that_there_are(make):
  how = {'window': 2} if make is DWA else {}
  with pytest.raises(Stop, match="'terms/b' names no output of terms, which has a"):
    make(terms=('a', 'b'), **how).init(KEY, {'terms': {'a': 0}, 'gradients': {'a': 0}}, {})
  for wrong in ((), ('a',), ('a', 'a'), 'ab'):
    with pytest.raises(ValueError, match='must name at least two terms, each once'):
      make(terms=wrong, **how)


def test_each_balanced_term_is_a_group_of_its_name():
  with pytest.raises(Stop, match="'gradients/b' names no output of gradients, which has a"):
    GradNorm(terms=('a', 'b')).init(KEY, {'terms': {'a': 0, 'b': 0}, 'gradients': {'a': 0}}, {})


@pytest.mark.parametrize(('make', 'wrong'), [
    (DWA, {'window': 0}), (DWA, {'window': 1, 'temperature': 0.0}),
    (GradNorm, {'alpha': -1.0}), (GradNorm, {'rate': 0.0})])
def test_balances_out_of_range(make, wrong):
  with pytest.raises(ValueError, match=f'{[*wrong][-1]}='):
    make(terms=('a', 'b'), **wrong)
