"""Where teachers' outputs come from: modules, or the data."""
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from distill import objective, step
from distill.models.functional import Functional
from distill.student import Student
from distill.teachers import Cached, Live, outputs
from distill.types import Status, Stop


class Dense(nnx.Module):

  def __init__(self, *, rngs):
    self.dense = nnx.Linear(4, 3, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': self.dense(batch['x']), 'sum': batch['x'].sum(-1)}


MODEL = Functional(lambda rngs: Dense(rngs=rngs))
WEIGHTS = MODEL.init(9)


def batch(b=8, **more):
  x = np.random.default_rng(0).normal(size=(b, 4)).astype(np.float32)
  return {'x': jnp.array(x), 'label': jnp.arange(b) % 3,
          'valid': jnp.ones(b), **more}


class TestLive:

  @pytest.mark.parametrize('wrong', [{'dtype': 'float64'}, {'microbatch': -1}])
  def test_what_cannot_be_is_refused(self, wrong):
    with pytest.raises(ValueError, match=list(wrong)[0]):
      Live('big', MODEL, **wrong)


class TestCached:
  answers = {'big/logits': jnp.arange(24.).reshape(8, 3), 'big/block01/hidden': jnp.ones((8, 5)),
             'bigger/logits': jnp.zeros((8, 3))}

  def test_its_outputs_are_the_fields_of_its_name(self):
    assert Cached('big').shapes == ({}, {})
    found = outputs((Cached('big'), Live('other', MODEL)), {'big': ({}, {}), 'other': WEIGHTS},
                    batch(**self.answers))
    assert found['big'].keys() == {'logits', 'block01/hidden'} and 'logits' in found['other']
    assert (found['big']['logits'] == self.answers['big/logits']).all()

  def test_a_batch_without_them_is_refused(self):
    with pytest.raises(Stop) as stop:
      Cached('small')(({}, {}), batch(**self.answers))
    assert stop.value.status == Status.MISFIT and '\n' not in str(stop.value)
    assert str(stop.value).startswith("teachers.small.source='fields': the batch has no field "
                                      'small/…; it has x, label, valid, big/logits, ')

  def test_they_have_no_gradient(self):
    def loss(x):
      return Cached('big')(({}, {}), batch(**{'big/logits': x}))['logits'].sum()
    assert not jax.grad(loss)(jnp.ones((8, 3))).any()

  @pytest.mark.parametrize('accumulate', [1, 4])
  def test_a_student_learns_the_same_from_a_teacher_and_from_its_answers(self, accumulate):
    terms = objective.terms_from({'soft': dict(loss='logits.kl', reads=dict(
        student='student/logits', teacher='big/logits'))})
    student, seen = Student(MODEL), {}
    for teacher, weights in (Live('big', MODEL), WEIGHTS), (Cached('big'), ({}, {})):
      run = step.make_train_step(student, (teacher,), terms, optax.sgd(0.1), accumulate=accumulate)
      state = step.init_state(student, *student.init(0), optax.sgd(0.1), {})
      for _ in range(3):
        answers = Live('big', MODEL)(WEIGHTS, batch())['logits']
        state, _ = run(state, {'big': weights}, batch(**{'big/logits': answers}),
                       jax.random.key(1))
      seen[type(teacher)] = state.params
    for path, value in seen[Live].items():
      np.testing.assert_allclose(seen[Cached][path], value, atol=1e-6)
      assert (value != student.init(0)[0][path]).any()
