import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill.losses import features, logits
from distill.projectors import weights

from ..losses.inputs import (
  LABEL,
  REFERENCE,
  STUDENT,
  STUDENT_MAPS,
  TEACHER,
  TEACHER_MAPS,
  assert_proven,
  double,
)

ANOTHER = 0.6 * TEACHER + np.sin(np.outer(np.arange(4), np.arange(5)))
HOW = dict(valid=jnp.ones(4), train=True)


def given(module, *arrays):
  """What the module gives in float64."""
  with jax.enable_x64(True):
    result = module(*map(jnp.asarray, arrays), **HOW)
    return jax.tree.map(np.asarray, result)


class TestUncertainty:

  def test_by_hand(self):
    module = weights.Uncertainty(terms=('a', 'b'))
    module.log_variance.set_value(jnp.log(jnp.array([4., 1])))      # σ = 2 and 1
    result = module(jnp.ones(3), **HOW)
    assert sorted(result) == ['a', 'a/penalty', 'b', 'b/penalty']
    for name, expected in [('a', 1/4), ('a/penalty', np.log(2)), ('b', 1), ('b/penalty', 0)]:
      assert result[name].shape == ()
      np.testing.assert_allclose(result[name], expected, rtol=1e-6)

  def test_at_the_best_variance_a_scaled_loss_is_a_half(self):
    # exp(-s) L + s/2 has its least value where exp(-s) L = 1/2.
    losses = jnp.array([0.3, 20.0])
    graph, params = nnx.split(weights.Uncertainty(terms=('a', 'b')))

    def total(params):
      result = nnx.merge(graph, params)(**HOW)
      return sum(loss * result[name] + result[f'{name}/penalty']
                 for name, loss in zip('ab', losses, strict=True))
    best = jax.tree.map(lambda _: jnp.log(2 * losses), params)
    np.testing.assert_allclose(jax.tree.leaves(jax.grad(total)(best))[0], 0, atol=1e-6)
    assert total(best) < total(params)

  def test_its_weights_are_float32_though_its_parameters_are_not(self):
    module = weights.Uncertainty(terms=('a',))
    module.log_variance.set_value(jnp.full(1, 0.3, jnp.bfloat16))
    result = module(**HOW)
    assert all(x.dtype == jnp.float32 for x in result.values())
    np.testing.assert_allclose(result['a'], np.exp(-np.float32(jnp.bfloat16(0.3))), rtol=1e-6)

  def test_terms_must_be_named_once(self):
    for wrong in ((), ('a', 'a')):
      with pytest.raises(ValueError, match='must name terms, each once'):
        weights.Uncertainty(terms=wrong)


class TestConfidence:
  module = weights.Confidence(inputs=(5, 5, 4))

  def test_weights_and_loss_are_the_reference(self):
    # camkd_2teachers, executed: the loss, then the weights of either teacher. Its loss is of hints
    # from the student's features to (f_t, f_t/2), and divided by the two teachers once more.
    result = given(self.module, TEACHER, ANOTHER, LABEL)
    hint = lambda maps: double(features.mse, STUDENT_MAPS.reshape(4, -1), maps.reshape(4, -1))
    terms = [np.mean(result[str(k)] * hint(maps))
             for k, maps in enumerate((TEACHER_MAPS, TEACHER_MAPS / 2))]
    assert_proven('camkd_2teachers', [sum(terms) / 2, *result['0'], *result['1']])
    single = self.module(jnp.float32(TEACHER), jnp.float32(ANOTHER), jnp.asarray(LABEL), **HOW)
    np.testing.assert_allclose(jnp.concatenate([single['0'], single['1']]),
                               REFERENCE['camkd_2teachers']['value'][1:], rtol=1e-5)

  def test_what_they_weigh_is_the_reference(self):
    # camkd_kl_T4, executed: its divergence is `logits.kl`.
    assert_proven('camkd_kl_T4', np.mean(double(logits.kl, STUDENT, TEACHER, temperature=4)))

  def test_by_hand(self):
    three = weights.Confidence(inputs=(2, 2, 2, 1))
    teachers = np.log([[[1., 1]], [[3, 1]], [[3, 1]]])
    result = given(three, *teachers, np.array([0]))
    # exp(cross-entropy) is 1/p, 2 and 4/3 twice: shares 3/7, 2/7, 2/7; the rest of 1, halved.
    np.testing.assert_allclose([result[k][0] for k in '012'], [4/14, 5/14, 5/14])

  def test_an_unknown_label_weighs_all_alike(self):
    result = given(self.module, TEACHER, ANOTHER, np.full(4, -1))
    np.testing.assert_array_equal(result['0'], 0.5)
    np.testing.assert_array_equal(result['1'], 0.5)

  def test_a_teacher_that_rules_the_label_out_has_nothing(self):
    out = np.array([[-np.inf, 0.]])
    result = given(weights.Confidence(inputs=(2, 2, 1)), out, np.zeros((1, 2)), np.array([0]))
    np.testing.assert_allclose([result['0'][0], result['1'][0]], [0, 1])


class TestCertainty:

  def test_by_hand(self):
    # Entropies ln 2 and 0 and ln 2: shares 1/2, 0, 1/2; the rest of 1, halved.
    teachers = np.array([[[0., 0]], [[1e4, -1e4]], [[5, 5]]])
    result = given(weights.Certainty(inputs=(2, 2, 2)), *teachers)
    np.testing.assert_allclose([result[k][0] for k in '012'], [1/4, 1/2, 1/4], rtol=1e-6)

  def test_where_all_are_sure_all_weigh_alike(self):
    sure = np.array([[0., -np.inf]])
    result = given(weights.Certainty(inputs=(2, 2)), sure, sure[:, ::-1])
    np.testing.assert_array_equal([result['0'][0], result['1'][0]], [0.5, 0.5])


class TestEnsemble:

  def test_by_hand(self):
    # (1/2, 1/2) and (9/10, 1/10): the arithmetic mean (7/10, 3/10), the geometric 3 : 1.
    teachers = np.log([[[1., 1]], [[9, 1]]]) + [[[4.]], [[-2]]]
    softmax = lambda z: np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    for mean, expected in [('arithmetic', [[.7, .3]]), ('geometric', [[.75, .25]])]:
      result = given(weights.Ensemble(inputs=(2, 2), mean=mean), *teachers)
      np.testing.assert_allclose(softmax(result), expected, rtol=1e-6)

  def test_copies_of_one_teacher_are_that_teacher(self):
    for mean in ('arithmetic', 'geometric'):
      result = given(weights.Ensemble(inputs=(5, 5, 5), mean=mean), TEACHER, TEACHER, TEACHER)
      np.testing.assert_allclose(double(logits.kl, TEACHER, result), 0, atol=1e-6)

  def test_a_mean_that_there_is_not(self):
    with pytest.raises(ValueError, match="mean='harmonic' is not one of geometric, arithmetic"):
      weights.Ensemble(inputs=(5, 5), mean='harmonic')


@pytest.mark.parametrize('make, last', [
    (weights.Confidence, (4,)), (weights.Certainty, ()), (weights.Ensemble, ())])
def test_teachers_must_be_several_of_as_many_classes(make, last):
  for wrong in ((5,), (5, 4), ()):
    with pytest.raises(ValueError, match='at least two teachers of as many classes'):
      make(inputs=wrong + last)
