"""Inputs in closed form and the reference values of them; and what every loss has to stand.

`reference.json` holds a value for each name, the file it comes from, and how: *executed* (the
function of that file was run in float64), *partly executed*, or a *definition* (the formula alone).
"""
import functools
import inspect
import json
import pathlib

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jax.test_util import check_grads

REFERENCE = json.loads((pathlib.Path(__file__).parent / 'reference.json').read_text())
PROVEN = set()                      # the names that this run has compared


def filled(function, *shape):
  return function(*np.indices(shape, dtype=np.float64))


STUDENT = filled(lambda i, j: 2 * np.sin(.7 * i + 1.3 * j + .2), 4, 5)
TEACHER = filled(lambda i, j: 3 * np.cos(.5 * i - .9 * j + .1), 4, 5)
STUDENT_MAPS = filled(lambda b, c, h, w: np.sin(.3*b + .7*c + 1.1*h + 1.7*w + .2), 4, 6, 4, 4)
TEACHER_MAPS = filled(lambda b, c, h, w: np.cos(.4*b - .6*c + .9*h - 1.3*w + .5), 4, 6, 4, 4)
STUDENT_HIDDEN = filled(lambda b, s, d: np.sin(.3 * b + .7 * s + 1.1 * d), 4, 4, 6)
STUDENT_VECTORS = filled(lambda i, k: np.sin(.9 * i + .6 * k + .3), 4, 6)
TEACHER_VECTORS = filled(lambda i, k: np.cos(.4 * i - 1.1 * k + .7), 4, 8)
LABEL = np.array([0, 2, 4, 1])
TEACHER_HIDDEN = filled(lambda b, s, d: np.cos(.4 * b - .6 * s + .9 * d), 4, 4, 12)
MASK = np.array([[1., 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
STUDENT_WORDS = filled(lambda b, t, v: 2 * np.sin(.5 * b + .8 * t + 1.1 * v + .1), 2, 3, 7)
TEACHER_WORDS = filled(lambda b, t, v: 2.5 * np.cos(.3 * b - .7 * t + .9 * v + .4), 2, 3, 7)
WORD_MASK = np.array([[1., 1, 0], [1, 1, 1]])


def assert_proven(name, ours, *, rtol=1e-6):
  """Ours, which should be float64, equals the reference value of that name."""
  np.testing.assert_allclose(np.ravel(ours), np.ravel(REFERENCE[name]['value']), rtol=rtol)
  PROVEN.add(name)


def masked_mean(values, mask):
  return np.sum(values * mask) / np.sum(mask)


def double(loss, *arrays, **hyper):
  """The values in float64."""
  with jax.enable_x64(True):
    return np.asarray(jax.jit(loss, static_argnames=tuple(hyper))(*arrays, **hyper))


def value_and_gradient(loss, student, *others, **hyper):
  """The values, and the gradient of their sum in the student."""
  def total(student, *others):
    values = loss(student, *others, **hyper)
    return jnp.sum(values), values
  gradient, values = jax.jit(jax.grad(total, has_aux=True))(student, *others)
  return values, gradient


def all_at_once(losses):
  """Values of many losses of student and teacher, and gradients of their sums: one compilation."""
  def value_of(loss, student, teacher):
    total = lambda s: (jnp.sum(values := loss(s, teacher)), values)
    gradient, values = jax.grad(total, has_aux=True)(student)
    return values, gradient
  return jax.jit(lambda student, teacher: {
      name: value_of(loss, student, teacher) for name, loss in losses.items()})


def assert_agrees(name, loss, *arrays, mask=1.0, **hyper):
  """The mean over the mask is the reference's in float64, and in float32."""
  mean = lambda values: masked_mean(values, np.broadcast_to(mask, values.shape))
  assert_proven(name, mean(double(loss, *arrays, **hyper)))
  narrow = jax.jit(functools.partial(loss, **hyper))(*(np.float32(x) for x in arrays))
  assert_proven(name, mean(narrow), rtol=1e-5)


def assert_gradient(loss, student, *others, **hyper):
  """Against finite differences, in float64."""
  with jax.enable_x64(True):
    others = [jnp.asarray(x) for x in others]
    check_grads(jax.jit(lambda s: loss(s, *others, **hyper)), (student,), 1, ['rev'])


def assert_finite(loss, student, *others, **hyper):
  values, gradient = value_and_gradient(loss, student, *others, **hyper)
  assert values.dtype == jnp.float32 and gradient.dtype == student.dtype
  assert np.isfinite(values).all() and np.isfinite(np.asarray(gradient, np.float32)).all()


def assert_shapes_refused(loss, *arrays, **hyper):
  """By the signature, and, where nobody checks signatures, by the function itself."""
  with pytest.raises(jaxtyping.TypeCheckError):
    loss(*arrays, **hyper)
  with pytest.raises(ValueError, match='shapes must be equal'):
    inspect.unwrap(loss)(*arrays, **hyper)
