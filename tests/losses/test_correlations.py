import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.losses import correlations

from .inputs import (
  STUDENT,
  TEACHER,
  assert_finite,
  assert_gradient,
  assert_proven,
  assert_shapes_refused,
  double,
  value_and_gradient,
)

ALL = np.ones(4)
SHARP = np.array([[50., -50], [-50, 50]])           # the logits of rows (1, 0) and (0, 1)
LOSSES = [correlations.dist, correlations.mlkd_batch, correlations.mlkd_class]


def prove(name, loss, **hyper):
  """The mean over the batch is the reference, in float64 and in float32."""
  single = jax.jit(loss, static_argnames=tuple(hyper))(
      *(jnp.float32(x) for x in (STUDENT, TEACHER, ALL)), **hyper)
  assert_proven(name, np.mean(double(loss, STUDENT, TEACHER, ALL, **hyper)))
  assert_proven(name, np.mean(single), rtol=1e-5)


class TestDIST:

  def test_by_hand(self):
    # Two classes and two examples: every row, and every column, goes the other way, so ρ = -1.
    teacher = np.log([[3., 1], [1, 3]])
    value = double(correlations.dist, -teacher, teacher, np.ones(2), beta=2.0, gamma=3.0)
    np.testing.assert_allclose(value, [2 * 2 + 3 * 2] * 2, rtol=1e-6)

  def test_rows_by_hand(self):
    # (1/2, 1/4, 1/4) and (1/4, 1/2, 1/4): -3/144 over 6/144, so ρ = -1/2. Twice the logits at T = 2
    # are these, and the value four times 3/2.
    student, teacher = np.log([[2., 1, 1]]), np.log([[1., 2, 1]])
    value = double(correlations.dist, 2 * student, 2 * teacher, np.ones(1), temperature=2.0)
    np.testing.assert_allclose(value, [4 * 1.5], rtol=1e-6)

  @pytest.mark.parametrize('name, hyper', [
      # torchdistill's, which leaves out the authors' 1e-8: 7e-7 apart.
      ('dist_b1_g1_tau1', dict()), ('dist_tau4', dict(beta=2.0, gamma=2.0, temperature=4.0))])
  def test_mean_is_the_reference(self, name, hyper):
    prove(name, correlations.dist, **hyper)

  def test_mean_correlation_is_the_authors(self):
    # Recorded is ρ itself, of the rows.
    value = double(correlations.dist, STUDENT, TEACHER, ALL, gamma=0.0)
    assert_proven('dist_official_flat', 1 - np.mean(value))

  def test_scale_and_shift_of_probabilities_do_not_matter(self):
    # The paper's point: a student half way to uniform has all of the teacher's relations.
    p = np.exp(TEACHER) / np.exp(TEACHER).sum(axis=-1, keepdims=True)
    value = double(correlations.dist, np.log(p / 2 + 1 / 10), TEACHER, ALL)
    np.testing.assert_allclose(value, 0, atol=2e-4)     # 1e-8 over the square of a rare class

  def test_a_student_without_an_opinion_has_no_gradient(self):
    # All its classes are 1/10, ten of which do not have the mean 1/10 in float32.
    teacher = jnp.float32(np.append(TEACHER, STUDENT, axis=-1))
    values, gradient = value_and_gradient(correlations.dist, 0 * teacher, teacher, ALL)
    np.testing.assert_allclose(values, 2)
    assert not np.any(gradient)


class TestMLKD:

  @pytest.mark.parametrize('loss', LOSSES[1:])
  def test_by_hand(self, loss):
    # The teacher's matrix is the identity, a uniform student's is 1/2 throughout, over examples
    # as over classes: four squares of 1/2, over two.
    value = double(loss, 0 * SHARP, SHARP, np.ones(2), temperature=1.0)
    np.testing.assert_allclose(value, [1 / 2, 1 / 2], rtol=1e-12)

  def test_mean_is_the_reference(self):
    prove('mlkd_bc_T4', correlations.mlkd_batch)
    prove('mlkd_cc_T4', correlations.mlkd_class)

  def test_an_example_has_its_own_similarities(self):
    # The student errs about the last alone, which is a quarter of the others' rows.
    student = np.append(SHARP, [[-50., 50]], axis=0)
    teacher = np.append(SHARP, [[0., 0]], axis=0)
    value = double(correlations.mlkd_batch, student, teacher, np.ones(3), temperature=1.0)
    # Similarities 0 against 1/2; 1 against 1/2; and both of these and 1 against 1/2.
    np.testing.assert_allclose(value, [1 / 4, 1 / 4, 3 / 4], rtol=1e-12)


@pytest.mark.parametrize('loss', LOSSES)
class TestAll:

  def test_gradient(self, loss):
    assert_gradient(loss, STUDENT, TEACHER, ALL, temperature=2.0)

  def test_zero_for_equals_alone_and_blind_to_a_shift(self, loss):
    # 2e-4 for DIST: 1e-8 over the square of a rare class.
    equal, others = (double(loss, z, TEACHER, ALL, temperature=1.0) for z in (TEACHER - 3, STUDENT))
    np.testing.assert_allclose(equal, 0, atol=2e-4)
    assert np.all(others > 1e-3)

  def test_uncounted_rows_are_not_there(self, loss):
    # They hold anything, and lie anywhere.
    rows, where = [3, 0, 4, 1, 5, 2], np.array([1., 1, 0, 1, 0, 1])
    student, teacher = (np.append(z, [[np.nan] * 5, [np.inf] * 5], axis=0)[rows]
                        for z in (STUDENT, TEACHER))
    with jax.enable_x64(True):
      values, gradient = value_and_gradient(loss, student, teacher, where)
      whole, its_gradient = value_and_gradient(loss, STUDENT, TEACHER, ALL)
    rows = np.array(rows)[where > 0]
    np.testing.assert_allclose(values[where > 0], whole[rows], rtol=1e-12)
    np.testing.assert_allclose(gradient[where > 0], its_gradient[rows], rtol=1e-9, atol=1e-15)
    assert not np.any(values[where == 0]) and not np.any(gradient[where == 0])

  @pytest.mark.parametrize('counted', [0, 1, 2])
  def test_finite_with_few_examples(self, loss, counted):
    where = np.float32(np.arange(4) < counted)
    assert_finite(loss, jnp.float32(STUDENT), jnp.float32(TEACHER), where)
    if not counted:
      assert not np.any(double(loss, STUDENT, TEACHER, where))

  @pytest.mark.parametrize('dtype, rows, classes', [
      (jnp.float16, 5, 3), (jnp.bfloat16, 1, 2)])
  def test_finite_for_confident_models(self, loss, dtype, rows, classes):
    student = np.array([[1e4, -1e4, 3], [1e4, -1e4, 3], [0, 0, 0], [1e4, -1e4, 0], [0, 0, 0]])
    teacher = np.array([[-1e4, 1e4, 3], [1e4, -1e4, 3], [1e4, -1e4, 0], [0, 0, 0],
                        [0, -np.inf, -np.inf]])
    assert_finite(loss, *(jnp.asarray(z[:rows, :classes], dtype) for z in (student, teacher)),
                  np.ones(rows))

  def test_it_says_that_it_mixes_examples(self, loss):
    assert loss.mixing

  def test_hyper_parameters_out_of_range(self, loss):
    weights = ('beta', 'gamma') if loss is correlations.dist else ()
    for name, values in (('temperature', (0.0,)), *((w, (-1.0, np.nan)) for w in weights)):
      for value in values:
        with pytest.raises(ValueError, match=f'{name}='):
          loss(jnp.zeros((2, 3)), jnp.zeros((2, 3)), jnp.ones(2), **{name: value})

  def test_nothing_is_broadcast(self, loss):
    eight = jnp.zeros((8, 10))
    for wrong in (jnp.zeros((1, 10)), jnp.zeros((8, 1)), jnp.zeros(10)):
      assert_shapes_refused(loss, eight, wrong, jnp.ones(8))
      assert_shapes_refused(loss, wrong, eight, jnp.ones(8))
    assert_shapes_refused(loss, eight, eight, jnp.ones(1))
