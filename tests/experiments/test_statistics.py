import numpy as np
import pytest
from scipy import stats

from experiments.statistics import bootstrap, differences, holm, t_interval, t_test

SIMULATIONS = 2000


def simulated(n, *, effect=0.0, of='normal', seed=0):
  """Paired runs [2,000, n]: a seed's own share, in both sides, is four times what differs."""
  draw = np.random.default_rng(seed)
  shared = 4 * draw.normal(size=(SIMULATIONS, n))
  noise = {'normal': draw.normal, 'uniform': lambda size: draw.uniform(-1, 1, size)}[of]
  theirs = shared + noise(size=shared.shape)
  return shared + effect + noise(size=shared.shape), theirs


def covered(ends, value):
  return ((ends[0] <= value) & (value <= ends[1])).mean()


class TestDifferences:

  def test_are_of_the_seeds_that_both_have(self):
    assert differences({2: 5.0, 0: 3.0, 9: 1.0}, {0: 1.0, 1: 7.0, 2: 1.0}) == {0: 2.0, 2: 4.0}


class TestTInterval:

  def test_by_hand(self):
    # 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.302653: 2 ± 4.302653 / √3 = 2 ± 2.484138.
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx((-0.484138, 4.484138), abs=1e-6)

  @pytest.mark.parametrize('n', [3, 8])
  @pytest.mark.parametrize('of', ['normal', 'uniform'])
  def test_holds_the_true_difference_in_95_of_100_simulations(self, n, of):
    ours, theirs = simulated(n, effect=0.7, of=of)
    assert 0.93 <= covered(t_interval(ours - theirs), 0.7) <= 0.97

  def test_another_level_is_covered_as_often_as_it_says(self):
    ours, theirs = simulated(8)
    assert 0.77 <= covered(t_interval(ours - theirs, level=0.8), 0.0) <= 0.83

  def test_pairing_makes_it_shorter_where_seeds_share_much(self):
    # Var of a difference is 2 when paired, 2 (16 + 1) when not: √17 times as long on average.
    ours, theirs = simulated(8)
    length = lambda ends: np.mean(ends[1] - ends[0])
    apart = length(t_interval(ours - theirs[::-1])) / length(t_interval(ours - theirs))
    assert apart == pytest.approx(17**0.5, rel=0.05)

  @pytest.mark.parametrize('function', [t_interval, t_test, bootstrap])
  @pytest.mark.parametrize('found', [[], [1.0], 1.0])
  def test_one_value_has_no_spread(self, function, found):
    with pytest.raises(ValueError, match='at least two'):
      function(found)


class TestTTest:

  def test_by_hand(self):
    # Of two values t has one degree of freedom: P(|T| > t) = 1 − 2 arctan(t) / π. 1 and 3: t = 2.
    assert t_test([1.0, 3.0]) == pytest.approx(1 - 2 * np.arctan(2) / np.pi, rel=1e-9)

  def test_claims_what_is_not_there_in_5_of_100_simulations_and_finds_what_is(self):
    ours, theirs = simulated(8)
    assert 0.03 <= (t_test(ours - theirs) < 0.05).mean() <= 0.07
    ours, theirs = simulated(8, effect=5.0)
    assert (t_test(ours - theirs) < 0.05).mean() > 0.99

  def test_is_below_a_level_where_the_interval_is_off_zero(self):
    ours, theirs = simulated(5, effect=1.0)
    low, high = t_interval(ours - theirs)
    assert np.array_equal((low > 0) | (high < 0), t_test(ours - theirs) < 0.05)

  def test_of_values_without_a_spread(self):
    same, apart = t_test([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    assert same == 1.0
    assert apart < 1e-15                  # their mean is off by a last bit, and so is their spread


class TestBootstrap:

  def test_leans_to_the_long_tail(self):
    low, high = bootstrap(found := np.random.default_rng(0).gamma(0.5, size=30))
    assert high - found.mean() > 1.2 * (found.mean() - low)

  def test_is_the_same_again_and_another_by_another_seed(self):
    found = np.random.default_rng(0).normal(size=8)
    assert bootstrap(found) == bootstrap(found) != bootstrap(found, seed=1)

  def test_covers_when_there_are_many_and_too_seldom_when_there_are_few(self):
    draw = np.random.default_rng(0)
    often = lambda n, times: np.mean([low <= 0 <= high for low, high in (
        bootstrap(draw.normal(size=n), seed=i) for i in range(times))])
    assert often(50, 100) > 0.9             # 0.95 ± 0.04
    assert often(4, 100) < 0.9              # as the docstring says

  def test_of_equal_values_is_their_value(self):
    assert bootstrap([0.3] * 5) == pytest.approx((0.3, 0.3))

  def test_of_two_values_is_finite(self):
    low, high = bootstrap([1.0, 2.0])
    assert 1.0 <= low < high <= 2.0


class TestHolm:

  def test_by_hand(self):
    # In order 0.01, 0.02, 0.03, 0.4 times 4, 3, 2, 1: 0.04, 0.06, 0.06, 0.4.
    assert holm({'a': 0.03, 'b': 0.01, 'c': 0.4, 'd': 0.02}) == pytest.approx(
        {'a': 0.06, 'b': 0.04, 'c': 0.4, 'd': 0.06})

  def test_none_is_below_the_one_before_nor_above_1(self):
    # 0.3 × 3 = 0.9, 0.31 × 2 = 0.62 < 0.9, 0.95 × 1; and 0.6 × 2 > 1.
    assert holm({'a': 0.3, 'b': 0.31, 'c': 0.95}) == pytest.approx({'a': 0.9, 'b': 0.9, 'c': 0.95})
    assert holm({'a': 0.6, 'b': 0.7}) == {'a': 1.0, 'b': 1.0}

  def test_of_one_test_and_of_none_changes_nothing(self):
    assert holm({'a': 0.04}) == {'a': 0.04} and holm({}) == {}

  def test_keeps_the_order_of_the_names(self):
    assert list(holm({'b': 0.5, 'a': 0.1})) == ['b', 'a']

  def test_one_false_claim_in_twenty_families_of_ten(self):
    # 2,000 families of ten true hypotheses: uncorrected 1 − 0.95¹⁰ = 40 % would make a claim.
    p = stats.norm.sf(np.random.default_rng(0).normal(size=(SIMULATIONS, 10)))
    claims = [min(holm(dict(enumerate(family))).values()) < 0.05 for family in p]
    assert 0.03 <= np.mean(claims) <= 0.07
    assert (p.min(1) < 0.05).mean() > 0.35
