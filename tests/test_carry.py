import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.carry import Mean, Taid
from distill.types import Stop

KEY = jax.random.key(0)


def assert_same(one, other):
  jax.tree.map(np.testing.assert_array_equal, one, other)


def shapes(views):
  return jax.eval_shape(lambda: views)


class TestMean:

  def test_by_hand_and_only_valid_rows_count(self):
    mean = Mean(reads='big/logits', decay=0.9)
    views = {'big': {'logits': jnp.array([[1., 2], [3, 6], [99, 99]])},
             'batch': {'valid': jnp.array([1., 1, 0])}}
    value = mean.init(KEY, shapes(views))
    np.testing.assert_array_equal(value, [0, 0])
    for expected in ([.2, .4], [.38, .76]):             # 0.1 m, then 0.9 · 0.1 m + 0.1 m
      value = mean.update(value, views, 0)
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
    value = value or carry.init(KEY, shapes(self.views(self.FAR)))
    for step, teacher in enumerate(teachers, first):
      value = update(value, self.views(teacher), jnp.int32(step))
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
      value = jax.jit(carry.update)(value, views, jnp.int32(step + 1))
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
    start = carry.init(KEY, shapes(views([[1, 0], [0, 0]], (1, 1))))
    kept = update(start, views([[1, 0], [1, 1]], (1, 0)), jnp.int32(0))
    whole = Taid(teacher='teacher/logits', steps=10)
    assert_same(kept, jax.jit(whole.update)(start, self.views(self.FAR), jnp.int32(0)))
    for valid in ((0, 0), (0, 1)):
      assert_same(update(start, views([[1, 1], [0, 0]], valid), jnp.int32(1)), start)
      assert_same(update(kept, views([[1, 1], [0, 0]], valid), jnp.int32(1)), kept)

  def test_finite_from_a_perfect_student_to_a_sure_and_wrong_one(self):
    carry = Taid(teacher='teacher/logits', steps=10)
    value = self.run(carry, [self.NEAR, self.NEAR, 1e4 * self.FAR, self.FAR, self.NEAR])
    assert all(np.isfinite(x) for x in value.values()) and .4 < value['t'] < 1

  def test_a_path_that_is_not_there(self):
    carry = Taid(teacher='big/logits', steps=10)
    with pytest.raises(Stop, match="'big/logits' names no view"):
      carry.init(KEY, shapes(self.views(self.FAR)))

  @pytest.mark.parametrize('wrong', [
      {'steps': 0}, {'start': 1.5}, {'alpha': -1.0}, {'beta': 1.5}, {'temperature': 0.0}])
  def test_out_of_range(self, wrong):
    with pytest.raises(ValueError, match=f'{next(iter(wrong))}='):
      Taid(**{'teacher': 'teacher/logits', 'steps': 10} | wrong)
