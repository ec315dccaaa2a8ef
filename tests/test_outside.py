"""A run whose data, models, losses and all the rest are of a package outside of distill."""
import contextlib
import importlib
import pathlib
import shutil
import sys

import numpy as np
import pytest

from distill import checkpoint, flags, formats, lookup, objective, predict, runs
from distill.formats import safetensors
from distill.logs import Log
from distill.pipelines import identities as names
from distill.pipelines.setup import build_setup
from distill.types import Status, Stop

LAB = '''
"""Parts of every room."""
import jax
import jax.numpy as jnp
import optax
from flax import nnx

from distill.data import digits
from distill.losses import mixing
from distill.pipelines import compare
from distill.tasks.classification import Classification


def Few(*, test: float = 0.25):
  return digits.Digits(test=test)


class Net(nnx.Module):
  def __init__(self, *, width: int, channels: int, classes: int, rngs: nnx.Rngs):
    self.dense = nnx.Linear(64 * channels, width, rngs=rngs)
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    x = jax.nn.relu(self.dense(batch['image'].reshape(batch['image'].shape[0], -1)))
    return {'pooled': x, 'logits': self.head(x)}


class Widen(nnx.Module):
  def __init__(self, *, inputs: int, outputs: int, rngs: nnx.Rngs):
    self.dense = nnx.Linear(inputs, outputs, rngs=rngs)

  def __call__(self, x, *, valid, train):
    return self.dense(x)


def hint(student, teacher):
  return jnp.square(student - teacher).mean(-1)


def centred(student, teacher, centre, heat, *, power: float = 2.0):
  return (jnp.abs((student - teacher + centre) / heat) ** power).mean(-1)


@mixing
def spread(student, where=None):
  return jnp.square(student - student.mean(0)).mean(-1)


class Centre:
  def __init__(self, *, reads: str):
    self.reads = reads

  def init(self, key, shapes, params):
    view, _, name = self.reads.partition('/')
    return jnp.zeros(shapes[view][name].shape[1:])

  def update(self, value, views, step, params):
    view, _, name = self.reads.partition('/')
    return views[view][name].mean(0)


def half(*, steps: int):
  return lambda step: jnp.where(step < steps, 1.0, 0.5)


def brighter(*, channels: int, by: float = 0.1):
  return lambda batch, key, ask: {**batch, 'image': batch['image'] + by * channels}


def lion(*, rate: float, steps: int, **others):
  assert not others
  return optax.lion(optax.linear_schedule(rate, 0.0, steps))


class Judge(Classification):
  pass


def run(config, this):
  return {**compare.run(config, this), 'mine': True}
'''
PLAN = {'steps': 4, 'log_every': 2, 'save_every': 2}
HARD = {'loss': 'supervised.cross_entropy', 'reads': {
    'student': 'student/logits', 'label': 'batch/label'}}
ADAMW = {'rate': 3e-3}                                  # AdamW needs no name
LION = {'name': 'mylab.parts:lion', 'rate': 1e-3}
NODE = {
    'seed': 0, 'pipeline': 'mylab.parts:run',
    'data': {'name': 'mylab.parts:Few', 'batch_size': 8, 'seed': 0},
    'task': {'name': 'mylab.parts:Judge'},
    'teachers': {'teacher': {'model': {'name': 'mylab.parts:Net', 'width': 6}, 'train': {
        **PLAN, 'objective': {'hard': HARD}, 'optimizer': ADAMW}}},
    'student': {
        'model': {'name': 'mylab.parts:Net', 'width': 3}, 'projectors': {'wide': {
            'module': {'name': 'mylab.parts:Widen', 'outputs': 6}, 'reads': 'student/pooled'}}},
    'carry': {'centre': {'name': 'mylab.parts:Centre', 'reads': 'teacher/logits'}},
    'schedules': {'heat': {'name': 'mylab.parts:half', 'steps': 2}},
    'augment': ({'name': 'mylab.parts:brighter', 'by': 0.2},),
    'objective': {
        'hard': HARD,
        'soft': {'loss': 'mylab.parts:centred', 'kwargs': {'power': 2.0},
                 'schedule': {'name': 'mylab.parts:half', 'steps': 3},
                 'reads': {'student': 'student/logits', 'teacher': 'teacher/logits',
                           'centre': 'carry/centre', 'heat': 'schedule/heat'}},
        'hint': {'loss': 'mylab.parts:hint', 'reads': {
            'student': 'projected/wide', 'teacher': 'teacher/pooled'}}},
    'optimizer': LION, 'train': PLAN, 'evaluate': {'cost': False, 'resamples': 10}}


@contextlib.contextmanager
def importable(folder):
  """Lets Python find the package in a folder, and then forget it."""
  sys.path.insert(0, str(folder))
  importlib.invalidate_caches()
  try:
    yield
  finally:
    sys.path.remove(str(folder))
    for name in [name for name in sys.modules if name.split('.')[0] == 'mylab']:
      del sys.modules[name]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('lab')
  (folder / 'mylab').mkdir()
  (folder / 'mylab' / 'parts.py').write_text(LAB)
  return folder


@pytest.fixture
def lab(folder):
  with importable(folder):
    yield folder


@pytest.fixture(scope='module')
def whole(folder):
  """A run from its first step to its report, in a workdir."""
  workdir = folder / 'run'
  workdir.mkdir()
  with importable(folder), contextlib.closing(Log(workdir)) as log:
    pipeline = lookup.find('pipelines', NODE['pipeline'], 'pipeline')
    report = pipeline(NODE, runs.Run('lab', workdir, log, seed=0))
  return workdir, report


def test_a_run_of_parts_outside_trains_and_reports(whole):
  workdir, report = whole
  assert [m['name'] for m in report['models']] == ['teacher', 'student', 'baseline']
  assert report['mine']
  rows = (workdir / 'metrics.jsonl').read_text()
  assert '"soft"' in rows and '"hint"' in rows


def image(folder) -> str:
  np.save(folder / 'one.npy', np.zeros((8, 8), np.float32))
  return str(folder / 'one.npy')


def test_an_export_of_a_model_outside_answers_where_python_finds_it(whole, lab):
  answer, = predict.answers(str(whole[0] / 'export' / 'student'), [image(lab)])
  assert answer['label'] in '0123456789'


def test_an_export_whose_model_python_does_not_find_says_which_folder_names_it(whole, folder):
  place = whole[0] / 'export' / 'student'
  with pytest.raises(Stop, match=f"{place}.name='mylab.parts:Net': there is no module 'mylab': "
                     'the folder that holds it must be on PYTHONPATH') as stop:
    predict.answers(str(place), [image(folder)])
  assert stop.value.status == Status.CONFIG


def test_an_export_that_names_another_function_does_not_call_it(whole, folder, tmp_path):
  export = whole[0] / 'export' / 'student'
  place, made = tmp_path / 'hostile', tmp_path / 'made'
  model = {'name': 'os:mkdir', 'path': str(made)}
  checkpoint.write_export(place, {safetensors.FILE: (export / safetensors.FILE).read_bytes()},
                          {**formats.card_of(export), 'model': model})
  with pytest.raises(Stop, match="hostile.name='os:mkdir' is no model"):
    predict.answers(str(place), [image(folder)])
  assert not made.exists()


def test_a_student_starts_from_a_model_outside(lab):
  """And `check_same_architecture` compares the defaults of both."""
  student = {'model': {'name': 'mylab.parts:Net', 'width': 6}, 'init': 'teacher'}
  soft = {'loss': 'logits.kl', 'reads': {'student': 'student/logits', 'teacher': 'teacher/logits'}}
  node = {**NODE, 'student': student, 'carry': {}, 'objective': {'hard': HARD, 'soft': soft}}
  assert [t.stage.name for t in build_setup(node).trained] == ['teacher', 'student', 'baseline']
  model = {'name': 'mylab.parts:Nett', 'width': 6}
  with pytest.raises(Stop, match="student.model.name='mylab.parts:Nett': mylab.parts has no"):
    build_setup({**node, 'student': {**student, 'model': model}})


def identities():
  return {t.stage.name: t.identity for t in build_setup(NODE).trained}


def test_a_stage_is_another_when_the_code_outside_is_another(folder, tmp_path, monkeypatch):
  monkeypatch.setattr(names, '_places', lambda package: [])
  with importable(folder):
    without = identities()
  monkeypatch.undo()
  with importable(folder):
    first = identities()
  shutil.copytree(folder / 'mylab', tmp_path / 'mylab')
  with importable(tmp_path):
    assert identities() == first                # wherever it lies
  shutil.rmtree(tmp_path / 'mylab')
  for place in ('more', 'other'):
    shutil.copytree(folder / 'mylab', tmp_path / place / 'mylab')
    (tmp_path / place / 'mylab' / 'more.py').write_text('MORE = 1\n')
  with importable(tmp_path / 'more'):
    assert identities() == first                # which imports no such module
  with open(tmp_path / 'other' / 'mylab' / 'parts.py', 'a') as file:
    file.write('from mylab import more\n')
  with importable(tmp_path / 'other'):
    other = identities()
  assert all(len({x[name] for x in (without, first, other)}) == 3 for name in first)


@pytest.mark.parametrize(('term', 'line'), [
    ({'reads': {'student': 'student/pooled'}}, 'reads.where=None: mylab.parts:spread mixes'),
    ({'reads': {'student': 'student/pooled', 'where': 'batch/mask'}}, "where='batch/mask'"),
    ({'loss': 'mylab.parts:hint', 'reads': {'student': 'student/pooled'}}, 'lacks teacher'),
    ({'loss': 'mylab.parts:hint', 'reads': {'pupil': 'student/pooled'}},
     'reads.pupil: mylab.parts:hint has no such argument'),
    ({'loss': 'mylab.parts:hints', 'reads': {}}, "mylab.parts has no 'hints'; did you mean 'hint'"),
])
def test_losses_outside_are_checked_as_ours_are(lab, term, line):
  with pytest.raises(Stop, match=line):
    objective.terms_from({'x': {'loss': 'mylab.parts:spread', **term}})


def test_a_loss_outside_may_be_marked_as_mixing_and_be_a_partial(lab):
  (lab / 'mylab' / 'partial.py').write_text(
      'import functools\nfrom mylab import parts\nspread = functools.partial(parts.spread)\n')
  importlib.invalidate_caches()
  reads = {'student': 'student/pooled', 'where': 'batch/valid'}
  for name, mixes in (('parts:spread', True), ('partial:spread', True)):
    term, = objective.terms_from({'x': {'loss': f'mylab.{name}', 'reads': reads}})
    assert term.mixing == mixes


def test_a_name_with_a_colon_is_an_override_as_any_other(lab, monkeypatch):
  monkeypatch.chdir(pathlib.Path(__file__).parent.parent)
  parsed = flags.parsed(['--config=configs/digits.py:test',
                        '--config.student.model.name=mylab.parts:Net',
                        '--config.optimizer.name=mylab.parts:lion'])
  assert parsed.config.student.model.name == 'mylab.parts:Net'
  assert parsed.config.optimizer.name == 'mylab.parts:lion'
