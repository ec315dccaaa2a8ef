"""What is left of a stage without its teachers."""
import pytest
from flax import nnx

from distill import carry, objective
from distill.models.functional import Functional
from distill.pipelines.baseline import without_teachers
from distill.student import Projector, Student
from distill.train import Stage

HARD = dict(loss='supervised.cross_entropy', weight=0.3, schedule=dict(name='ramp', steps=3),
            reads=dict(student='student/logits', label='batch/label'))
KD = dict(loss='logits.kl', reads=dict(student='student/logits', teacher='big/logits'))


class Same(nnx.Module):

  def __call__(self, x, *, valid, train):
    return x


class Reading(carry.Mean):
  """A carry of whatever it reads."""

  def __init__(self, *reads):
    self.reads = reads


def left(node, carries=None, projectors=None, teachers=('big',)):
  same = Functional(lambda rngs: Same())
  student = Student(same, {name: Projector(same, (read,))
                           for name, read in (projectors or {}).items()})
  return without_teachers(Stage(
      name='student', student=student, start=lambda weights: student.init(0), data=(), optimizer={},
      terms=objective.terms_from(node), train={}, carries=carries or {}), set(teachers), 'baseline')


def test_terms_that_read_no_teacher_at_weight_1():
  stage = left({'hard': HARD, 'kd': KD})
  assert [term.name for term in stage.terms] == ['hard'] and stage.name == 'baseline'
  assert stage.terms[0].weight(0) == stage.terms[0].weight(9) == 1


def test_there_is_none_without_a_term_or_without_a_teacher():
  assert left({'kd': KD}) is None
  assert left({'hard': HARD}, teachers=()) is None


@pytest.mark.parametrize('make', [
    lambda **how: carry.DWA(window=2, **how), lambda **how: carry.GradNorm(**how)])
def test_weights_that_a_carry_makes_of_terms_are_1_too(make):
  weighed = lambda name, node: dict(node, scale=f'carry/balance/{name}', group=name)
  carries = {'balance': make(terms=('hard', 'kd'))}
  stage = left({'hard': weighed('hard', HARD), 'kd': weighed('kd', KD)}, carries)
  assert [(term.name, term.scale) for term in stage.terms] == [('hard', '')]
  assert not stage.carries


def test_a_scale_of_another_kind_stays():
  stage = left({'hard': dict(HARD, scale='carry/mean'), 'kd': KD},
               {'mean': carry.Mean(reads='student/logits')})
  assert stage.terms[0].scale == 'carry/mean' and [*stage.carries] == ['mean']


@pytest.mark.parametrize('reads', ['terms/kd', 'gradients/soft', 'big/logits', 'projected/p'])
def test_what_comes_of_a_teacher_by_any_way_is_gone(reads):
  # By a term, its group's gradient, itself or a projector, through one carry or two.
  other = dict(KD, reads=dict(student='student/logits', teacher='self/logits',
                              temperature='carry/last'))
  node = {'hard': HARD, 'kd': dict(KD, group='soft'), 'other': other}
  projectors = {'p': 'big/logits', 'q': 'student/logits'}
  for carries in ({'last': Reading(reads)},
                  {'last': Reading('terms/between'), 'first': Reading(reads)}):
    between = {'between': dict(other, reads=dict(other['reads'], temperature='carry/first'))}
    stage = left(node | (between if 'first' in carries else {}), carries, projectors)
    assert [term.name for term in stage.terms] == ['hard']
    assert not stage.carries and not stage.student.projectors


def test_what_reads_no_teacher_s_terms_stays():
  node = {'hard': HARD, 'kd': KD, 'other': dict(KD, group='own', reads=dict(
      student='student/logits', teacher='self/logits', temperature='carry/last'))}
  node['hard'] = dict(HARD, group='task')
  stage = left(node, {'last': Reading('terms/hard', 'gradients/task')})
  assert [term.name for term in stage.terms] == ['hard', 'other'] and [*stage.carries] == ['last']
