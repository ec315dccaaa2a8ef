import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import maths
from distill.losses.contrastive import crd, infonce

from .inputs import (
  STUDENT_VECTORS,
  TEACHER_VECTORS,
  assert_finite,
  assert_gradient,
  assert_shapes_refused,
  double,
  filled,
  value_and_gradient,
)

STUDENT, OTHERS = STUDENT_VECTORS, TEACHER_VECTORS[:, :6]
ALL = np.ones(4)
SOME = np.array([1., 0, 1, 1])
JUNK = np.array([1e30, np.inf, np.nan, -np.inf, np.nan, 0])
unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)

# Eight examples of three classes, of 2, 4 and 2: by their class they are 1 6, 0 2 5 7, 3 4.
PLACES = np.array([[2, 2, 4], [0, 0, 2], [3, 2, 4], [6, 6, 2], [7, 6, 2], [4, 2, 4], [1, 0, 2],
                   [5, 2, 4]], np.int32)
BANK = unit(filled(lambda v, n, d: np.sin(2.3 * v + 1.7 * n + .9 * n * d + .4), 2, 8, 6))
ID = np.array([5, 1, 3, 0], np.int32)
DRAWS = np.array([[0, 3, 7], [5, 6, 1], [2**32 - 1, 4, 0], [3, 2, 9]], np.uint32)
# The k-th negative is the k-th row after the class's own, counted around; k is taken modulo the
# 4, 6, 6, 4 there are. 2³² - 1 is 3 modulo 6.
NEGATIVES = np.array([[6, 1, 1], [7, 2, 3], [3, 4, 0], [1, 0, 7]])
UNSET = np.full(2, np.inf)
MEMORY = ID, BANK, PLACES, DRAWS


@functools.cache
def compiled(loss):
  """`value_and_gradient` that is compiled once for all tests."""
  return jax.jit(functools.partial(value_and_gradient, loss))


def precisely(loss, *arrays):
  """Values and gradient in float64."""
  with jax.enable_x64(True):
    return [np.asarray(x) for x in compiled(loss)(*arrays)]


def contrast(*arrays):
  return crd(*arrays, temperature=0.3)


def as_the_authors(student, teacher, z, temperature=0.3):
  """criterion.py and memory.py, by what they compute: the loss of each example and both Z."""
  eps, pn, m, values = 1e-7, 1 / 8, 3, np.zeros(4)
  for i, (vectors, bank) in enumerate([(unit(student), BANK[1]), (unit(teacher), BANK[0])]):
    rows = np.concatenate([PLACES[ID, :1], NEGATIVES], axis=1)
    out = np.exp(np.einsum('bkd,bd->bk', bank[rows], vectors) / temperature)
    z[i] = z[i] if z[i] > 0 else out.mean() * 8
    out = out / z[i]
    values -= np.log(out[:, 0] / (out[:, 0] + m * pn + eps))
    values -= np.log(m * pn / (out[:, 1:] + m * pn + eps)).sum(-1)
  return values


class TestCRD:

  def test_by_hand(self):
    # Two examples of two classes, one negative each, K/n = 1/2; cosines of 1 and -1, Z = 1. A side
    # is ln(1 + 1/2e) + ln(1 + 2/e), and both sides are alike.
    bank = np.array([[[1.], [-1]]] * 2)
    value = double(crd, np.array([[2.]]), np.array([[5.]]), np.ones(1), np.array([0], np.int32),
                   bank, np.array([[0, 0, 1], [1, 1, 1]], np.int32), np.zeros((1, 1), np.uint32),
                   np.zeros(2), temperature=1.0)
    e = np.e
    np.testing.assert_allclose(value, [2 * np.log((1 + 1 / (2 * e)) * (1 + 2 / e))], atol=1e-6)

  def test_negatives_are_of_other_classes(self):
    # A bank of unit vectors: the cosines of (1, 2, …, 8) tell which row was chosen.
    rows = np.arange(1., 9)
    vectors, bank = np.stack([rows] * 4), np.stack([np.eye(8)] * 2)
    with jax.enable_x64(True):
      cosines = jax.jit(maths.bank_cosines)(vectors, vectors, ALL, ID, bank, PLACES, DRAWS)
    chosen = np.round(np.asarray(cosines) * np.linalg.norm(rows)).astype(int) - 1
    np.testing.assert_array_equal(chosen[0], np.concatenate([PLACES[ID, :1], NEGATIVES], axis=1))
    np.testing.assert_array_equal(chosen[0], chosen[1])
    classes = np.array([0, 0, 1, 1, 1, 1, 2, 2])            # of the rows
    assert (classes[chosen[0, :, 1:]] != classes[chosen[0, :, :1]]).all()

  def test_first_batch_and_later_are_as_the_authors_code(self):
    z = np.array([-1., -1])
    value, _ = precisely(contrast, STUDENT, OTHERS, ALL, *MEMORY, UNSET)
    np.testing.assert_allclose(value, as_the_authors(STUDENT, OTHERS, z), rtol=1e-6)
    assert (z > 0).all() and z[0] != z[1]
    z *= [3, 0.2]
    value, _ = precisely(contrast, STUDENT, OTHERS, ALL, *MEMORY, np.log(z))
    np.testing.assert_allclose(value, as_the_authors(STUDENT, OTHERS, z), rtol=1e-6)

  def test_gradient_in_either_side_and_none_in_the_bank(self):
    rest = SOME, *MEMORY, np.array([1.5, 2.0])
    assert_gradient(contrast, STUDENT, OTHERS, *rest)
    assert_gradient(lambda t, s, *rest: contrast(s, t, *rest), OTHERS, STUDENT, *rest)
    with jax.enable_x64(True):
      arrays = [jnp.asarray(x) for x in (STUDENT, OTHERS, SOME, ID, PLACES, DRAWS)]
      loss = lambda bank, z: contrast(*arrays[:4], bank, *arrays[4:], z).sum()
      gradients = jax.jit(jax.grad(loss, (0, 1)))(BANK, np.array([1.5, 2.0]))
    assert not any(np.any(g) for g in gradients)

  def test_masked_is_the_subset_and_junk_never_enters(self):
    kept = SOME > 0
    for z in (UNSET, np.array([1.5, 2.0])):
      clean = precisely(contrast, STUDENT, OTHERS, SOME, *MEMORY, z)
      subset = precisely(contrast, STUDENT[kept], OTHERS[kept], np.ones(3), ID[kept], BANK, PLACES,
                         DRAWS[kept], z)
      for whole, part in zip(clean, subset, strict=True):
        np.testing.assert_allclose(whole[kept], part, rtol=1e-9)
        assert not whole[~kept].any()
      dirty = precisely(contrast, *(np.where(kept[:, None], x, JUNK) for x in (STUDENT, OTHERS)),
                        SOME, np.where(kept, ID, -77).astype(np.int32), *MEMORY[1:], z)
      for expected, actual in zip(clean, dirty, strict=True):
        np.testing.assert_array_equal(actual, expected)

  def test_nothing_counted_is_nothing(self):
    value, gradient = precisely(contrast, STUDENT, OTHERS, 0 * ALL, *MEMORY, UNSET)
    assert not value.any() and not gradient.any()

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_for_whatever_vectors(self, dtype):
    # As cold as 0.01 exp(cos / temperature) is beyond float32.
    student = jnp.array([[1e4] * 6, [-1e4] * 6, [0] * 6, [1] * 6], dtype)
    teacher = student[::-1]
    bank = jnp.asarray(BANK, jnp.float32)
    both = jax.vmap(lambda *a: crd(*a, temperature=0.01), (None,) * 7 + (0,))
    assert_finite(both, student, teacher, jnp.asarray(SOME), ID, bank, PLACES, DRAWS,
                  jnp.array([UNSET, [-90, 90.]], jnp.float32))

  def test_nothing_is_broadcast(self):
    full, bank, z = jnp.zeros((4, 6)), jnp.asarray(BANK, jnp.float32), jnp.zeros(2)
    good = [full, full, jnp.ones(4), *map(jnp.asarray, (ID, bank, PLACES, DRAWS)), z]
    for i, wrong in [(0, full[:1]), (1, full[:1]), (1, full[:, :1]), (2, jnp.ones(1)),
                     (3, good[3][:1]), (4, bank[..., :1]), (5, good[5][:1]), (6, good[6][:1])]:
      assert_shapes_refused(crd, *good[:i], wrong, *good[i + 1:], temperature=0.1)

  def test_a_temperature_out_of_range(self):
    with pytest.raises(ValueError, match='temperature=0'):
      crd(*(jnp.asarray(x) for x in (STUDENT, OTHERS, ALL, *MEMORY, UNSET)), temperature=0.0)

  def test_it_says_that_it_mixes(self):
    assert crd.mixing


class TestInfoNCE:

  def test_by_hand(self):
    # The students' cosines with the teachers (1, 0) and (0, 1): 1, 0 and 1, 0. At T = 1/ln 3 the
    # rows are 3/4, 1/4: -ln 3/4 and -ln 1/4; the columns 1/2: ln 2. The mean of both.
    student, teacher = np.array([[2., 0], [1, 0]]), np.eye(2)
    value = double(infonce, student, teacher, np.ones(2), temperature=1 / np.log(3))
    np.testing.assert_allclose(value, [np.log(4/3 * 2) / 2, np.log(4 * 2) / 2])

  def test_a_student_that_tells_nothing_apart_has_the_logarithm_of_the_number(self):
    value = double(infonce, np.ones((4, 6)), OTHERS * 0 + 1, SOME)
    np.testing.assert_allclose(value, np.log(3) * SOME)
    # The bound of the mutual information, log n - loss, is reached by one that tells all.
    value = double(infonce, np.eye(4), np.eye(4), ALL, temperature=0.01)
    np.testing.assert_allclose(value, 0, atol=1e-12)

  def test_either_side_may_be_called_the_student(self):
    value, _ = precisely(infonce, STUDENT, OTHERS, SOME)
    np.testing.assert_allclose(precisely(infonce, OTHERS, STUDENT, SOME)[0], value, rtol=1e-12)

  def test_gradient(self):
    assert_gradient(infonce, STUDENT, OTHERS, SOME, temperature=0.3)

  def test_masked_is_the_subset_in_any_order_and_junk_never_enters(self):
    kept, order = SOME > 0, np.array([2, 0, 3, 1])
    clean = precisely(infonce, STUDENT, OTHERS, SOME)
    subset = precisely(infonce, STUDENT[kept], OTHERS[kept], np.ones(3))
    moved = precisely(infonce, STUDENT[order], OTHERS[order], SOME[order])
    dirty = precisely(infonce, *(np.where(kept[:, None], x, JUNK) for x in (STUDENT, OTHERS)), SOME)
    for i, whole in enumerate(clean):
      np.testing.assert_allclose(whole[kept], subset[i], rtol=1e-9, atol=1e-12)
      np.testing.assert_allclose(whole[order], moved[i], rtol=1e-9, atol=1e-12)
      np.testing.assert_array_equal(whole, dirty[i])
      assert not whole[~kept].any()

  @pytest.mark.parametrize('dtype', [jnp.float16, jnp.bfloat16, jnp.float32])
  def test_finite_for_whatever_vectors(self, dtype):
    student = jnp.array([[1e4, 1e4], [-1e4, 1e4], [0, 0], [1e4, 1e4]], dtype)
    where = jnp.array([[1., 1, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]])
    for teacher in (student, student[::-1]):
      assert_finite(jax.vmap(infonce, (None, None, 0)), student, teacher, where)
    np.testing.assert_array_equal(infonce(student, student, where[1]), jnp.zeros(4))

  def test_nothing_is_broadcast(self):
    full, where = jnp.zeros((8, 10)), jnp.ones(8)
    for arrays in ((full, full[:1], where), (full[:1], full, where), (full, full[:, :1], where),
                   (full, full, where[:1])):
      assert_shapes_refused(infonce, *arrays)

  def test_a_temperature_out_of_range(self):
    with pytest.raises(ValueError, match='temperature=-1'):
      infonce(jnp.eye(2), jnp.eye(2), jnp.ones(2), temperature=-1.0)

  def test_it_says_that_it_mixes(self):
    assert infonce.mixing
