"""Every method of configs/digits.py trains; all of them in one sum, on devices and resumed."""
import dataclasses
import functools
import json
import pathlib
import runpy
import shutil

import jax
import numpy as np
import pytest

from distill import checkpoint, flags, lookup, runs, sharding, train
from distill.data import docstrings
from distill.logs import Log
from distill.pipelines import judge
from distill.pipelines.jobs import make_scorer
from distill.pipelines.setup import build_setup
from distill.types import Stop
from experiments import losses

ROOT = pathlib.Path(__file__).parent.parent
SCOPE = runpy.run_path(str(ROOT / 'configs' / 'digits.py'))
METHODS = SCOPE['METHODS']
OTHERS = 'simkd', 'mutual'          # students of their own, which can't be in one sum with others
STEPS = 300
# An untrained student is nearly uniform, which is where these have little to say.
RISING = {'teacher_free': 'it holds the cross-entropy back',
          'early_kd': 'its teacher is the student', 'early_hint': 'so is this one'}


def terms(method):
  """The weights of a method's terms."""
  return weights(SCOPE['get_config'](method))


def weights(node):
  return {name: term.get('weight', 1.0) for name, term in node['objective'].items()
          if name != 'hard'}


def config(method, steps=STEPS, **changes):
  node = SCOPE['get_config'](method)
  node.train.update(steps=steps, log_every=min(25, steps), save_every=0, eval_every=0)
  node = node.to_dict()
  for teacher in node['teachers'].values():
    teacher['train'].update(steps=STEPS, log_every=100, save_every=0, eval_every=0)
  return node | changes


def ready(stage):
  return train.prepared(stage, {teacher.name: teacher.shapes for teacher in stage.teachers})


def fitted(stage, place, weights=None):
  """Parameters and rest after a stage, and its rows of metrics.jsonl."""
  log = Log(place)
  params, rest, _ = train.fit(stage, ready(stage), weights or {}, runs.Run('run', place, log))
  log.close()
  rows = [json.loads(line) for line in (place / 'metrics.jsonl').read_text().splitlines()]
  return params, rest, rows


def on(devices, stage):
  return dataclasses.replace(stage, layout=sharding.layout(devices=jax.devices()[:devices]))


@pytest.fixture(scope='module')
def taught(tmp_path_factory):
  """The weights of both teachers."""
  found = {}
  for trained in build_setup(config('confidence')).trained:
    if trained.role == 'teacher':
      name = trained.stage.name
      params, rest, _ = fitted(on(1, trained.stage), tmp_path_factory.mktemp(name))
      found[name] = tuple({path.removeprefix('model/'): np.asarray(value)
                           for path, value in part.items()} for part in (params, rest))
  return found


def student(node, devices=1):
  """Returns the student's stage, and the set-up."""
  setup = build_setup(node)
  stage = next(t.stage for t in setup.trained if t.role == 'student')
  return on(devices, stage), dataclasses.replace(setup, layout=on(1, stage).layout)


@pytest.mark.slow
@pytest.mark.parametrize('method', METHODS)
def test_it_lowers_its_own_sum_and_the_student_learns(method, taught, tmp_path):
  stage, setup = student(config(method))
  params, rest, rows = fitted(stage, tmp_path, taught)
  for term in {*terms(method)} - RISING.keys():
    assert rows[-1][term] < rows[0][term], (term, [row[term] for row in rows])
  assert rows[-1]['loss'] < rows[0]['loss']
  accuracy = make_scorer(stage.student.model, setup, {})(params, rest)['test/accuracy']
  assert accuracy > 0.2             # of ten classes; 450 images, so chance has a deviation of 0.014


@pytest.mark.parametrize('method', METHODS)
def test_its_parts_are_those_that_its_terms_read(method):
  assert_parts(config(method))


@pytest.mark.slow
def test_a_method_for_text_has_the_parts_that_its_terms_read(monkeypatch):
  scope = runpy.run_path(str(ROOT / 'configs' / 'docstrings.py'))
  small = scope['get_config']('test').to_dict()['data']
  source = {key: value for key, value in small.items() if key not in judge.BATCHING}
  found = lookup.build('data', source, 'data')              # once, for it takes seconds
  monkeypatch.setattr(docstrings, 'Docstrings',
                      functools.wraps(docstrings.Docstrings)(lambda **_: found))
  for method in scope['METHODS']:
    node = scope['get_config'](method).to_dict()
    node['data'] = dict(node['data'], widths=small['widths'])
    assert_parts(node)


def assert_parts(node):
  setup = build_setup(node)
  stage = next(t.stage for t in setup.trained if t.role == 'student')
  assert {t.name: t.weight(0) for t in stage.terms if t.name != 'hard'} == weights(node)
  read = {path.split('/')[1] for term in stage.terms for path in term.paths
          if path.startswith(('projected/', 'carry/'))}
  assert read == {*stage.student.projectors, *stage.carries}
  assert read == {*node['student']['projectors'], *node['carry']}       # and nothing else is in it
  inputs = {path for projector in stage.student.projectors.values() for path in projector.reads}
  assert {f'schedule/{name}' for name in node['schedules']} <= inputs
  for baseline in (t.stage for t in setup.trained if t.role == 'baseline'):
    assert [term.name for term in baseline.terms] == ['hard']
    assert not baseline.student.projectors and not baseline.carries and not baseline.teachers


@pytest.mark.parametrize('file', ['digits', 'docstrings'])
def test_one_more_method_is_a_variant_and_changes_no_other(file, tmp_path):
  text = (ROOT / f'configs/{file}.py').read_text()
  place, mark = tmp_path / f'{file}.py', '# All functions of this file so far.\n'
  assert text.count(mark) == 1
  place.write_text(text.replace(mark, f'''def new(c):
  """Compares logits."""
  c.student.projectors.new = dict(
      module=dict(name='projectors.Linear', outputs=10), reads='student/pooled')
  c.objective.new = dict(loss='logits.mse', reads=dict(
      student='projected/new', teacher='teacher/logits'))


{mark}'''))
  before, after = runpy.run_path(str(ROOT / f'configs/{file}.py')), runpy.run_path(str(place))
  assert {*after['METHODS']} == {*before['METHODS'], 'new'}
  assert flags.described(place)[1]['new'] == 'Compares logits.'
  for method in *before['METHODS'], 'test':
    node = after['get_config'](method)
    assert node.to_dict() == before['get_config'](method).to_dict()
    assert 'new' not in node.objective and 'new' not in node.student.projectors


def test_every_loss_is_some_method_s_or_some_recipe_s():
  methods = [losses.used(method.node) for method in losses.methods_of(losses.FILES)]
  assert set().union(*methods, *dict(losses.others()).values()) == set(lookup.names('losses'))


def one_sum(steps, only='', **changes):
  """The config of all methods' terms at once, but for those of other students; or of `only` one.

  Plain gradient descent: where a gradient is nearly 0, Adam's steps are its sign's.
  """
  node = config(only or 'confidence', steps)
  for method in () if only else METHODS:
    if method not in OTHERS:
      more = SCOPE['get_config'](method).to_dict()
      more['objective'].pop('hard')
      node['objective'] |= more['objective']
      for key in 'schedules', 'carry':
        node[key] |= more[key]
      node['student']['projectors'] |= more['student']['projectors']
  node['data']['batch_size'] = 16
  node['optimizer'] = dict(name='sgd', rate=0.01, schedule='constant', warmup=0.0, clip=1.0)
  node['train'].update(changes)
  return node


@pytest.mark.slow
@pytest.mark.parametrize('method', ['one sum', *OTHERS])
def test_one_device_is_eight(method, taught, tmp_path):
  # Sums of the same float32 numbers in another order, also of whole Gram matrices. A small term's
  # gradient hides behind a large one's here: tests/losses/test_devices.py has each alone.
  node = one_sum(5, '' if method == 'one sum' else method, log_every=1)
  (params, rest, rows), (others, left, eight) = (
      fitted(student(node, taught, n)[0], tmp_path / str(n)) for n in (1, 8))
  logged = {name for name in rows[0] if name.partition('/')[0] in (
      'loss', 'grad_norm', *node['objective'])}
  assert {*logged} > {'loss', 'grad_norm'}
  for name in logged:
    np.testing.assert_allclose(eight[0][name], rows[0][name], rtol=1e-4, atol=1e-6, err_msg=name)
  for ours, theirs in ((params, others), (rest, left)):
    for path, value in ours.items():
      np.testing.assert_allclose(theirs[path], value, atol=1e-5, err_msg=path)


@pytest.mark.slow
def test_resumed_is_uninterrupted_for_all_methods_in_one_sum(taught, tmp_path):
  stage = student(one_sum(6, save_every=3), taught)[0]
  run = train.folder(stage, runs.Run('run', tmp_path, None))
  last = []
  for _ in range(2):
    fitted(stage, tmp_path, taught)
    last.append(checkpoint.restore(run, ready(stage).like)[1])
    shutil.rmtree(max(run.iterdir(), key=lambda place: int(place.name)))
  whole, resumed = map(jax.tree.leaves, last)
  assert all((np.asarray(a) == np.asarray(b)).all() for a, b in zip(whole, resumed, strict=True))


@pytest.mark.parametrize(('method', 'field', 'value', 'line'), [
    ('kd', 'objective.kd.loss', 'logits.kll', "objective.kd.loss='logits.kll' names nothing"),
    ('kd', 'objective.kd.kwargs.temperature', 0.0,
     'objective.kd (student [64, 10], teacher [64, 10]): temperature=0.0 is not a finite number'),
    ('top_k', 'objective.top_k.kwargs.k', 11, 'k=11 is not between 1 and the 10 classes'),
    ('fitnet', 'objective.fitnet.reads.student', 'student/stage2/features',
     'objective.fitnet (student [64, 4, 4, 8], teacher [64, 4, 4, 32]): '),
    ('fitnet', 'objective.fitnet.reads.student', 'projected/hihg',
     "objective.fitnet.reads.student: 'projected/hihg' names no output of projected"),
    ('taid', 'carry', {}, "objective.taid.reads.t: 'carry/pace/t' names no output of carry"),
    ('crd', 'carry.bank.negatives', 0, 'carry.bank: negatives=0 must be at least 1'),
    ('sp', 'objective.sp.reads.where', 'batch/labelled', 'objective.sp.reads.where='),
    ('sp', 'train.accumulate', 2, 'accumulate=2: objective.sp mixes the examples'),
    ('fsp', 'student.projectors.low.module.outputs', 8, 'objective.fsp'),
])
def test_a_mistake_is_one_line_that_says_where_before_anything_is_compiled(
    method, field, value, line, taught_shapes):
  node = config(method)
  *path, last = field.split('.')
  place = node
  for key in path:
    place = place[key]
  place[last] = value
  with pytest.raises(Stop) as stop:
    stage = next(t.stage for t in build_setup(node).trained if t.role == 'student')
    train.prepared(on(1, stage), taught_shapes)
  assert line in str(stop.value) and '\n' not in str(stop.value)


@pytest.fixture(scope='module')
def taught_shapes():
  teacher = build_setup(config('kd')).trained[0].stage.student.model
  return {'teacher': teacher.shapes}
