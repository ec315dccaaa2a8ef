"""Heads of teachers that others read, facts that are arrays, and stages that cannot be."""
import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx

from distill import formats, objective, runs, train
from distill.logs import Log
from distill.models.functional import Traits
from distill.pipelines import checks, compare, matrix
from distill.pipelines.jobs import is_in_stage_cache
from distill.pipelines.setup import build_setup
from distill.tasks.classification import Classification
from distill.types import Field, Status, Stop
from tests.test_defects import Pixels

ANCHORS = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)


class Auxiliary(nnx.Module):
  """A classifier of images with a head more, `aux` [b c], and perhaps anchors."""
  traits = Traits(heads={'head': ('logits',), 'side': ('aux',)})

  def __init__(self, *, classes: int, rngs: nnx.Rngs):
    self.body = nnx.Linear(16, 4, rngs=rngs)
    self.head, self.side = (nnx.Linear(4, classes, rngs=rngs) for _ in range(2))

  def __call__(self, batch, *, train=False, key=None):
    hidden = jax.nn.relu(self.body(batch['image'].reshape(-1, 16)))
    return {'logits': self.head(hidden), 'aux': self.side(hidden),
            'weights/side/kernel': self.side.kernel[...]}


class Anchored(Auxiliary):
  """The same, which takes a fact that is an array."""

  def __init__(self, *, classes: int, anchors, rngs: nnx.Rngs):
    super().__init__(classes=classes, rngs=rngs)
    self.count = len(anchors)


class AnchoredTask(Classification):
  """A task that takes it too."""

  def __init__(self, *, classes: int, names, anchors):
    super().__init__(classes=classes, names=names)
    self.anchors = np.asarray(anchors)


def WithAnchors():
  """Images whose data set knows anchors [n 2]."""
  pixels = Pixels()
  return dataclasses.replace(pixels, facts={**pixels.facts, 'anchors': ANCHORS})


def Answered(*, shift: float = 0.0):
  """Images with stored logits of a teacher `oracle`."""
  pixels = Pixels()

  def answered(split):
    logits = shift + np.eye(2, dtype=np.float32)[split.index['label']]
    return dataclasses.replace(
        split, fields={**split.fields, 'oracle/logits': Field((2,), 'float32')},
        fetch=lambda rows: {**split.fetch(rows), 'oracle/logits': logits[rows]})
  return dataclasses.replace(
      pixels, splits={name: answered(split) for name, split in pixels.splits.items()})


def Flip():
  """Mirrors images."""
  return lambda batch, *rest: {**batch, 'image': batch['image'][:, :, ::-1]}


def term(student, teacher, loss='logits.kl'):
  return {'loss': loss, 'reads': {'student': student, 'teacher': teacher}}


HARD = {'loss': 'supervised.cross_entropy', 'reads': {
    'student': 'student/logits', 'label': 'batch/label'}}


def config(*, data='Pixels', model='Auxiliary', soft='t/logits', **more):
  plan, adam = {'steps': 2, 'log_every': 1, 'save_every': 2}, {'rate': 1e-2}
  node = {'name': f'{__name__}:{model}'}
  return {
      'seed': 0, 'data': {'name': f'{__name__}:{data}', 'batch_size': 8, 'seed': 0},
      'task': {'name': 'classification.Classification'},
      'teachers': {'t': {'model': node, 'shared': True, 'train': {
          **plan, 'objective': {'hard': HARD}, 'optimizer': adam}}},
      'student': {'model': node}, 'train': plan, 'optimizer': adam,
      'objective': {'hard': HARD, 'soft': term('student/logits', soft)},
      'evaluate': {'batch_size': 8, 'resamples': 5, 'cost': False, 'alone': False}, **more}


def idle(node):
  return {trained.stage.name: trained.idle for trained in build_setup(node).trained}


class TestATeacher:

  def test_keeps_a_head_that_the_student_reads(self):
    assert idle(config())['t'] == ('side',)
    assert idle(config(soft='t/aux'))['t'] == ()

  def test_keeps_a_head_whose_weights_the_student_reads(self):
    node = config()
    node['objective']['weights'] = {'loss': 'logits.kl', 'reads': {
        'student': 'student/weights/side/kernel', 'teacher': 't/weights/side/kernel'}}
    assert idle(node)['t'] == ()

  def test_keeps_a_head_that_an_assistant_reads(self):
    node = config()
    t = node['teachers']['t']
    node['teachers']['a'] = {**t, 'train': {**t['train'], 'objective': {
        'soft': term('student/logits', 't/aux')}}}
    assert idle(node) | {'student': (), 'baseline': ()} == {
        't': (), 'a': ('side',), 'student': (), 'baseline': ()}

  def test_keeps_a_head_that_a_step_before_or_a_carry_reads(self):
    node = config()
    node['before'] = {'hints': {'objective': {'soft': term('student/logits', 't/aux')},
                                'optimizer': node['optimizer'], 'train': node['train']}}
    assert idle(node)['t'] == ()
    node = config(carry={'mean': {'name': 'Mean', 'reads': 't/aux'}})
    assert idle(node)['t'] == ('side',)
    node['objective']['soft']['scale'] = 'carry/mean'
    assert idle(node)['t'] == ()

  def test_keeps_the_heads_that_a_student_which_starts_from_it_uses(self):
    node = config()
    node['student']['init'] = 't'
    node['objective'] = {'soft': term('student/aux', 't/logits')}
    assert 'aux' not in idle(node)['t'] and 'aux' not in idle(node)['student']
    assert idle(node)['t'] == idle(node)['student']

  def test_keeps_a_head_that_any_student_of_a_matrix_reads(self):
    node = config()
    common = {key: value for key, value in node.items() if key not in ('student', 'objective')}
    students = {name: {'student': node['student'],
                       'objective': {'soft': term('student/logits', f't/{output}')}}
                for name, output in (('small', 'logits'), ('large', 'aux'))}
    setup = matrix.build_setup(common, students)
    assert next(t for t in setup.trained if t.stage.name == 't').idle == ()


def run(place, shared, node):
  place.mkdir()
  log = Log(place)
  try:
    return compare.run(node, runs.Run('heads', place, log, shared=shared))
  finally:
    log.close()


@pytest.mark.slow
def test_a_shared_stage_without_a_head_that_is_read_is_trained_again(tmp_path):
  shared = tmp_path / 'shared'
  run(tmp_path / 'logits', shared, config())
  run(tmp_path / 'same', shared, config(train={'steps': 3, 'log_every': 1, 'save_every': 3}))
  assert not (tmp_path / 'same/checkpoints/t').exists()
  left = next(shared.glob('t-*'))
  assert formats.card_of(left)['fresh'] == ['side/bias', 'side/kernel']
  run(tmp_path / 'aux', shared, config(soft='t/aux'))
  assert (tmp_path / 'aux/checkpoints/t').exists()
  assert formats.load(str(left))[2]['fresh'] == []
  assert formats.load(str(tmp_path / 'aux/export/t'))[2]['fresh'] == []
  trained = build_setup(config()).trained[0]
  assert is_in_stage_cache(trained, runs.Run('heads', tmp_path / 'new', None, shared=shared))


def test_a_loaded_teacher_without_a_head_that_is_read_is_refused(tmp_path):
  run(tmp_path / 'first', None, config())
  loaded = {'t': {'init': str(tmp_path / 'first/export/t')}}
  build_setup(config(teachers=loaded))
  with pytest.raises(Stop, match="teachers.t: .* has no module 'side' for pixels") as stop:
    build_setup(config(teachers=loaded, soft='t/aux'))
  assert stop.value.status == Status.MISFIT


ORACLE = {'oracle': {'source': 'fields'}}


class TestACachedTeacher:

  def test_differs_with_the_data_that_holds_its_outputs(self):
    def assistant(shift):
      node = config(data='Answered', soft='a/logits')
      t = node['teachers'].pop('t')
      t['train'] = {**t['train'], 'objective': {'soft': term('student/logits', 'oracle/logits')}}
      node['teachers'] = {**ORACLE, 'a': {**t, 'shared': False}}
      node['data']['shift'] = shift
      return build_setup(node).trained[0].identity
    assert assistant(0.0) == assistant(0.0) != assistant(1.0)

  def test_beside_an_augment_is_refused(self):
    node = config(data='Answered', soft='oracle/logits', teachers=ORACLE,
                  augment=[{'name': f'{__name__}:Flip'}])
    with pytest.raises(Stop, match=r"config\.augment\[0\]=.*Flip' changes the inputs, but "
                                   "teachers.oracle.source='fields'") as stop:
      build_setup(node)
    assert stop.value.status == Status.CONFIG and '\n' not in str(stop.value)

  @pytest.mark.parametrize('of', ['loss', 'student', 'oracle'])
  def test_beside_adversarial_views_stands_for_they_leave_its_inputs_as_they_are(self, of):
    pgd = {'name': 'adversarial.pgd', 'steps': 1, 'of': of}
    node = config(data='Answered', soft='oracle/logits', teachers=ORACLE, augment=[pgd])
    student = build_setup(node).trained[0].stage
    assert [t.name for t in student.teachers] == ['oracle']
    train.prepared(student, {'oracle': ({}, {})})
    with pytest.raises(Stop, match=r"config\.augment\[1\]=.*Flip' changes the inputs"):
      build_setup({**node, 'augment': [pgd, {'name': f'{__name__}:Flip'}]})


def test_a_fact_that_is_an_array_is_nested_lists_in_cards():
  node = config(data='WithAnchors', model='Anchored')
  node['task'] = {'name': f'{__name__}:AnchoredTask'}
  card = build_setup(node).trained[0].card
  for part in card['model'], card['task']:
    assert json.loads(json.dumps(part))['anchors'] == ANCHORS.tolist()


@pytest.mark.parametrize(('mask', 'allowed'), [
    ('batch/labelled', True), ('batch/real', True), ('batch/label', False), ('batch/boxes', False),
    ('batch/points', False), ('', False)])
def test_a_mask_is_labelled_or_a_target_that_the_loss_does_not_read(mask, allowed):
  fields = {'label': Field((), 'float32', target=True), 'points': Field((2,), 'float32'),
            'boxes': Field(('m', 4), 'float32', target=True),
            'real': Field(('m',), 'float32', target=True)}
  terms = [objective.Term('hard', 'objective.hard', lambda: None, mask=mask, weight=None,
                          reads={'ours': 'student/boxes', 'theirs': 'batch/boxes'})]
  check = lambda: checks.check_labels(terms, {'images': 9, 'labels': 4}, fields)
  if allowed:
    check()
  else:
    with pytest.raises(Stop, match='objective.hard reads batch/boxes, but 4 of 9 images have one'):
      check()
