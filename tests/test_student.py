import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill.models import bert
from distill.models.functional import Functional
from distill.pipelines import fits, nodes
from distill.projectors import projectors
from distill.student import Student, block_map, build_student, start_from
from distill.types import Status, Stop

SIZES = dict(vocabulary=20, length=8, classes=3, heads=2, dropout=0.0)
BATCH = {'tokens': jnp.arange(12).reshape(2, 6), 'types': jnp.zeros((2, 6), jnp.int32),
         'mask': jnp.ones((2, 6)), 'valid': jnp.ones(2)}
SHAPES = {'student': {'block01/hidden': jax.ShapeDtypeStruct((2, 6, 8), jnp.float32)}}
WIDER = {'wider': dict(module=dict(name='projectors.Linear', outputs=12),
                       reads='student/block01/hidden')}


def model(width=8, depth=2):
  return Functional(lambda rngs: bert.Bert(**SIZES, width=width, depth=depth, rngs=rngs))


@functools.cache        # compiling an initialisation is what these tests would spend their time on
def params(width=8, depth=2, seed=0):
  return model(width, depth).init(seed)[0]


def projecting(node, frozen=()):
  student = build_student(model(), node, frozen, SHAPES)
  return student, *student.init(3)


def test_a_projector_is_the_view_projected():
  student, params, rest = projecting(WIDER)
  views, _ = student(params, rest, BATCH, {'batch': BATCH}, train=False, key=None)
  kernel, bias = (params[f'projectors/wider/dense/{n}'] for n in ('kernel', 'bias'))
  assert views['projected']['wider'].shape == (2, 6, 12)
  np.testing.assert_allclose(views['projected']['wider'],
                             views['student']['block01/hidden'] @ kernel + bias, atol=1e-5)


class Gauge(nnx.Module):
  """Tells what it was given, and counts the examples that it saw in training."""

  def __init__(self, *, inputs, rngs):
    del rngs
    self.inputs, self.seen = inputs, nnx.BatchStat(jnp.zeros(()))

  def __call__(self, *arrays, valid, train):
    if train:
      self.seen[...] += valid.sum()
    return {'inputs': jnp.asarray(self.inputs), 'sum': sum(x.sum() for x in arrays)}


def test_a_projector_may_read_several_views_and_give_several(monkeypatch):
  monkeypatch.setattr(projectors, 'Gauge', Gauge, raising=False)
  shapes = {**SHAPES, 'schedule': {'rate': jax.ShapeDtypeStruct((), jnp.float32)}}
  node = {'gauge': dict(module=dict(name='projectors.Gauge'),
                        reads=('student/block01/hidden', 'schedule/rate'))}
  student = build_student(model(), node, (), shapes)
  views, rest = student(*student.init(3), BATCH, {'batch': BATCH, 'schedule': {
      'rate': jnp.float32(0.5)}}, train=True, key=jax.random.key(0))
  assert views['projected']['gauge/inputs'].tolist() == [8, 1]        # widths; a scalar's is 1
  np.testing.assert_allclose(views['projected']['gauge/sum'],
                             views['student']['block01/hidden'].sum() + 0.5, rtol=1e-5)
  assert rest['projectors/gauge/seen'] == 2


def test_a_projector_that_reads_two_views_where_it_takes_one_is_refused():
  node = {'wider': dict(WIDER['wider'], reads=('student/block01/hidden',) * 2)}
  with pytest.raises(Stop, match='wider.reads=.*: projectors.Linear reads one view alone') as stop:
    build_student(model(), node, (), SHAPES)
  assert stop.value.status == Status.CONFIG


def test_a_view_that_a_projector_cannot_take_is_one_line_with_its_shape():
  node = {'map': dict(module=dict(name='projectors.Head', width=4, classes=3),
                      reads='student/block01/hidden')}
  student = build_student(model(), node, (), SHAPES)
  line = r'projectors.map \(student/block01/hidden \[2, 6, 8\]\): '
  with pytest.raises(Stop, match=line) as stop:
    jax.eval_shape(lambda params, rest: student(
        params, rest, BATCH, {'batch': BATCH}, train=False, key=None)[0], *student.shapes())
  assert stop.value.status == Status.MISFIT and '\n' not in str(stop.value)


def test_adding_a_projector_changes_no_other_parameter():
  _, more, _ = projecting(WIDER)
  assert all((more[f'model/{path}'] == value).all() for path, value in params(seed=3).items())


def test_the_view_self_passes_no_gradient():
  student, flat = Student(model()), {f'model/{path}': value for path, value in params().items()}
  loss = lambda p: student(p, {}, BATCH, {}, train=False, key=None)[0]['self']['logits'].sum()
  assert all((g == 0).all() for g in jax.tree.leaves(jax.grad(loss)(flat)))


def test_frozen_patterns_choose_by_path():
  student = build_student(model(), {}, ('token/*', 'blocks/0/*'), SHAPES)
  moved, still = student.split_trained(student.shapes()[0])
  assert set(still) == {p for p in (*moved, *still)
                        if p.startswith(('model/token/', 'model/blocks/0/'))}
  assert moved and still


def test_a_pattern_that_matches_nothing_is_refused():
  with pytest.raises(Stop, match="'block/0/\\*' matches no parameter") as stop:
    build_student(model(), {}, ('block/0/*',), SHAPES)
  assert stop.value.status == Status.CONFIG


def test_a_projector_that_reads_nothing_lists_what_there_is():
  node = {'p': dict(WIDER['wider'], reads='student/block07/hidden')}
  with pytest.raises(Stop, match='which has block01/hidden') as stop:
    build_student(model(), node, (), SHAPES)
  assert stop.value.status == Status.MISFIT


class TestStartingFromATeacher:

  def test_blocks_are_those_that_layers_name(self):
    teacher, student = params(depth=4), params(seed=2)
    started = start_from(student, teacher, block_map((1, 3), student, 'student'), 'student')
    for path, value in started.items():
      source = path.replace('blocks/1/', 'blocks/3/').replace('blocks/0/', 'blocks/1/')
      assert (value == teacher[source]).all(), path

  def test_all_layers_give_the_teacher_itself(self):
    teacher = params()
    started = start_from(params(seed=2), teacher, {}, 'student')
    outputs = [model()(p, {}, BATCH)[0]['logits'] for p in (started, teacher)]
    assert (outputs[0] == outputs[1]).all()

  def test_rows_that_a_padded_vocabulary_or_a_longer_model_has_beyond_are_left(self):
    teacher, student = params(), params(seed=2)
    longer = {path: jnp.concatenate([value, value[:1]]) if path in (
        'token/embedding', 'position/embedding') else value for path, value in teacher.items()}
    started = start_from(student, longer, {}, 'student', model().traits.cut)
    assert all((started[path] == teacher[path]).all() for path in student)
    with pytest.raises(Stop, match=r'embedding is \[') as stop:
      start_from(student, longer, {}, 'student')
    assert stop.value.status == Status.MISFIT

  @pytest.mark.parametrize(('layers', 'width', 'line'), [
      ((0, 1, 2), 8, 'names 3 blocks, but the student has 2'),
      ((0, 9), 8, 'the source has no blocks/9/'),
      ((0, 1), 16, r'is \[8'),
  ])
  def test_what_does_not_fit_is_refused_by_name(self, layers, width, line):
    with pytest.raises(Stop, match=line) as stop:
      shapes = model(width=width).shapes[0]
      start_from(shapes, params(depth=4), block_map(layers, shapes, 'student'), 'student')
    assert stop.value.status == Status.MISFIT


  def test_an_error_of_layers_speaks_of_layers(self):
    node = nodes.StudentNode(model={'name': 'bert.Bert'}, init='big', layers=(3,),
                             fresh=('blocks/0/*',))
    line = 'student.layers: blocks/0 matches no parameter that is to be started'
    with pytest.raises(Stop, match=line):
      fits.make_start(node, model(), node.model, dataset=None, seed=0, idle=(),
                     teachers={'big': (model(depth=4), node.model)})


class TestAPathMap:

  @pytest.mark.parametrize(('take', 'sources'), [
      ({'blocks/{0,1}': 'blocks/{0,3}'}, {'blocks/0': 'blocks/0', 'blocks/1': 'blocks/3'}),
      ({'blocks/{0,1}/*': 'blocks/{ 3, 2 }'}, {'blocks/0': 'blocks/3', 'blocks/1': 'blocks/2'}),
      ({'blocks/1': 'blocks/2', 'blocks/1/query': 'blocks/3/key'},      # the longest counts
       {'blocks/1/query': 'blocks/3/key', 'blocks/1': 'blocks/2'}),
      ({'blocks/{0,1}/{query,key}': 'blocks/{2,3}/{key,query}'},
       {f'blocks/{i}/{a}': f'blocks/{i + 2}/{b}' for i in (0, 1)
        for a, b in (('query', 'key'), ('key', 'query'))}),
      ({'head/bias': 'head/bias'}, {})])
  def test_every_parameter_starts_from_the_one_that_its_entry_names(self, take, sources):
    teacher, student = params(depth=4), params(seed=2)
    for path, value in start_from(student, teacher, take, 'student').items():
      ours = next((ours for ours in sources if path.startswith(f'{ours}/')), None)
      source = path.replace(ours, sources[ours], 1) if ours else path
      assert (value == teacher[source]).all(), path

  def test_a_whole_model_may_lie_deeper_in_the_source(self):
    teacher = {f'encoder/bert/{path}': value for path, value in params().items()}
    started = start_from(params(seed=2), teacher, {'*': 'encoder/bert/*'}, 'student')
    assert all((value == teacher[f'encoder/bert/{path}']).all() for path, value in started.items())

  @pytest.mark.parametrize(('take', 'line', 'status'), [
      ({'blocks/2': 'blocks/3'}, 'student.take: blocks/2 matches no parameter', Status.CONFIG),
      ({'block/{0,1}': 'blocks/{0,1}'}, 'student.take: block/0 matches no', Status.CONFIG),
      ({'blocks/{0,1}': 'blocks/{0,9}'}, 'the source has no blocks/9/.* to start blocks/1/',
       Status.MISFIT),
      ({'blocks/{0,1}': 'blocks/{0,1,2}'}, 'equally many lists in braces, of the same lengths',
       Status.CONFIG),
      ({'blocks/{0,1}': 'blocks/0'}, 'equally many lists', Status.CONFIG),
      ({'blocks/{0,0}': 'blocks/{0,1}'}, 'student.take names blocks/0 twice', Status.CONFIG),
      ({'blocks/*/query': 'blocks/0/query'}, "'blocks/\\*/query' is no path", Status.CONFIG),
      ({'head*': 'head'}, "'head\\*' is no path", Status.CONFIG),
      ({'blocks/{0': 'blocks/{0'}, 'is no path of parameters', Status.CONFIG),
      ({'blocks/0': 3}, '3 is no path of parameters', Status.CONFIG),
      ({'blocks/0': ''}, "'' is no path of parameters", Status.CONFIG),
      ({'head': 'pooler'}, r'pooler/bias is \[8\] in the source', Status.MISFIT)])
  def test_what_names_nothing_or_does_not_fit_is_one_line(self, take, line, status):
    with pytest.raises(Stop, match=line) as stop:
      jax.eval_shape(lambda source: start_from(model().shapes[0], source, take, 'student'),
                     model(depth=4).shapes[0])
    assert stop.value.status == status and '\n' not in str(stop.value)
