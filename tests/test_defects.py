"""Tests for defects D1–D6 and D13 of the review at 7fc13de: each was red there by its defect alone.

The toys come first: data, models and tasks of this module, which stands outside of the package.
"""
import dataclasses
import pathlib

import jax
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx

from distill import evaluate as door
from distill import launch, main, predict
from distill import workdir as workdirs
from distill.data import images, text
from distill.data.sets import Dataset
from distill.modalities.image import Image
from distill.models import layers
from distill.models.functional import Traits
from distill.pipelines.setup import build_setup
from distill.tasks import Explain, Task, score_resamples
from distill.tasks.classification import FRACTION
from distill.types import Status

ROOT = pathlib.Path(__file__).parent.parent
CLASSES = ('cat', 'dog')
SIZES = {'train': 32, 'test': 16}


# Toys: data.

def Pixels(*, seed: int = 0) -> Dataset:
  """Random images of 4 × 4 pixels."""
  draw = np.random.default_rng(seed).integers
  return images.dataset(
      {split: draw(256, size=(n, 4, 4)) for split, n in SIZES.items()},
      {split: np.arange(n) % 2 for split, n in SIZES.items()},
      name='pixels', classes=CLASSES, versions={})


class Clip(Image):
  """Examples that are called neither texts nor images."""
  noun = 'clips'


def Films() -> Dataset:
  """The images of `Pixels`, called clips."""
  pixels = Pixels()
  return dataclasses.replace(pixels, modality=Clip(**vars(pixels.modality)))


def Texts() -> Dataset:
  """Short texts that name their class."""
  return text.dataset(
      {split: [f'{split} {CLASSES[i % 2]} {i}' for i in range(n)]
       for split, n in SIZES.items()},
      {split: [i % 2 for i in range(n)] for split, n in SIZES.items()},
      name='texts', classes=CLASSES, length=8, vocabulary=64, versions={})


# Toys: models.

class Scorer(nnx.Module):
  """A classifier of images with a head and without logits: `scores` [b c]."""
  traits = Traits(heads={'head': ('scores',)})

  def __init__(self, *, classes: int, rngs: nnx.Rngs):
    self.body, self.head = nnx.Linear(16, 4, rngs=rngs), nnx.Linear(4, classes, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    hidden = jax.nn.relu(self.body(batch['image'].reshape(-1, 16)))
    return {'scores': self.head(hidden)}


class TwoHeads(Scorer):
  """A classifier of images with a head more, whose `logits` nothing reads."""
  traits = Traits(heads={'head': ('scores',), 'unread': ('logits',)})

  def __init__(self, *, classes: int, rngs: nnx.Rngs):
    super().__init__(classes=classes, rngs=rngs)
    self.unread = nnx.Linear(classes, classes, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    outputs = super().__call__(batch)
    return {**outputs, 'logits': self.unread(outputs['scores'])}


class Rows(nnx.Module):
  """A classifier of images that reads rows as positions: `block00/hidden` [b s d], `logits`."""

  def __init__(self, *, classes: int, rngs: nnx.Rngs):
    self.body, self.head = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, classes, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    hidden = jax.nn.relu(self.body(batch['image'][..., 0]))
    return {'block00/hidden': hidden, 'logits': self.head(hidden.mean(1))}


class Tagger(nnx.Module):
  """A tagger of texts: `logits` [b s c] at every position, and their `mean` [b c]."""
  traits = Traits(tables=('token/embedding',))

  def __init__(self, *, vocabulary: int, classes: int, rngs: nnx.Rngs):
    self.token = layers.Embedding(vocabulary, 4, std=0.3, rngs=rngs)
    self.head = nnx.Linear(4, classes, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    logits = self.head(self.token(batch['tokens']))
    return {'logits': logits, 'mean': logits.mean(1)}


class Counting(Tagger):
  """A classifier of texts that reads which rows of a batch are examples: `logits` [b c]."""

  def __call__(self, batch, *, train=False, key=None):
    rows = batch['valid'] * (batch['id'] > -2)
    return {'logits': super().__call__(batch)['mean'] * rows[:, None]}


# Toys: tasks.

class Hits(Task):
  """The share of images whose highest score is their label's; records `hit` float32 [n]."""
  outputs, parts, labelled, constant, explain = ('scores',), (), True, None, None
  metrics, primary = {'hits': FRACTION}, 'hits'

  def prepare(self, batch):
    return batch

  def measure(self, ask, batch):
    return {'hit': ask(batch)['scores'].argmax(-1) == batch['label']}

  def records(self, measured, batch):
    keep = np.asarray(batch['valid']) != 0
    return {name: np.asarray(column)[keep] for name, column in (
        ('id', batch['id']), ('label', batch['label']),
        ('hit', np.asarray(measured['hit'], np.float32)))}

  def score(self, records):
    return {'hits': float(records['hit'].mean())}

  def bootstrap(self, records, resamples):
    return score_resamples(self.score, records, resamples)

  def answer(self, measured):
    return {'hit': bool(measured['hit'])}


class Tags(Hits):
  """The share of a text's positions whose likeliest class is its label; explains their mean."""
  outputs = ('logits',)
  explain = Explain('mean', len(CLASSES), lambda records: records['label'],
                    lambda records: -np.eye(len(CLASSES))[records['label']])

  def measure(self, ask, batch):
    right = ask(batch)['logits'].argmax(-1) == batch['label'][:, None]
    return {'hit': (right * batch['mask']).sum(1) / batch['mask'].sum(1).clip(1)}


# Runs.

def config(data, model, *, task='classification.Classification', output='logits', teacher=False,
           **evaluate):
  """A run of two steps; its teacher, if any, is of the student's kind and read by nothing."""
  part = {
      'objective': {'hard': {'loss': 'supervised.cross_entropy', 'weight': 1.0, 'reads': {
          'student': f'student/{output}', 'label': 'batch/label'}}},
      'optimizer': {'name': 'adamw', 'rate': 1e-2}}
  plan, model = {'steps': 2, 'log_every': 1, 'save_every': 2}, {'name': f'{__name__}:{model}'}
  return {
      'seed': 0, 'data': {'name': f'{__name__}:{data}', 'batch_size': 8, 'seed': 0},
      'task': {'name': task}, 'student': {'model': model}, 'train': plan, **part,
      'teachers': {'teacher': {'model': model, 'train': {**plan, **part}}} if teacher else {},
      'evaluate': {'batch_size': 8, 'resamples': 5, 'cost': False, 'alone': False, **evaluate}}


def run(workdir, node):
  """Runs a config as the command does, and returns its report."""
  workdir.mkdir()
  return workdirs.run('toys', node, workdir, launch.Stopping())


def evaluated(run, workdir):
  """The exit status of the command that holds a run's models side by side."""
  return door.command([f'--models={run}', f'--workdir={workdir}'])


@pytest.fixture(scope='module')
def mutual(tmp_path_factory):
  """The workdir of a run of two students that teach each other."""
  workdir = tmp_path_factory.mktemp('mutual') / 'run'
  fields = {'data.batch_size': 8, 'train.steps': 6, 'train.eval_every': 0}
  for member in 'ab':
    fields |= {f'student.model.members.{member}.{key}': value
               for key, value in (('depth', 4), ('widths', '(2,2)'))}
  assert main.main([f'--config={ROOT}/configs/digits.py:mutual', f'--workdir={workdir}',
                    *(f'--config.{key}={value}' for key, value in fields.items())]) == Status.DONE
  return workdir


def shipped(run):
  """The names of the parameters in a student's export."""
  return sorted(safetensors.numpy.load_file(run / 'export/student/model.safetensors'))


def test_a_head_is_shipped_whatever_output_the_task_reads(tmp_path):
  """D1."""
  run(tmp_path / 'run', config('Pixels', 'Scorer', task=f'{__name__}:Hits', output='scores'))
  assert shipped(tmp_path / 'run') == ['body/bias', 'body/kernel', 'head/bias', 'head/kernel']


class TestACohort:
  """D2."""

  def test_answers_with_a_class(self, mutual, tmp_path):
    np.save(tmp_path / 'digit.npy', np.zeros((8, 8)))
    answer, = predict.answers(str(mutual / 'export/student'), [str(tmp_path / 'digit.npy')])
    assert sorted(answer) == ['image', 'label', 'probabilities', 'probability']

  def test_is_evaluated(self, mutual, tmp_path, capsys):
    status = evaluated(mutual, tmp_path / 'out')
    assert status == Status.DONE, capsys.readouterr().err

  def test_teaches(self, mutual):
    node = config('Pixels', 'Rows')
    node |= {'data': {'name': 'digits.Digits', 'batch_size': 8, 'seed': 0},
             'student': {'model': {'name': 'resnet.ResNet', 'depth': 8, 'widths': (2, 2, 2, 2)}},
             'teachers': {'teacher': {'init': str(mutual / 'export/student')}}}
    assert list(build_setup(node).loaded) == ['teacher']


def test_logits_at_every_position_are_reported(tmp_path):
  """D3."""
  report = run(tmp_path / 'run', config('Texts', 'Tagger', task=f'{__name__}:Tags', output='mean',
                                        teacher=True, cost=True))
  assert list(report['models'][1]['quality']) == ['hits']


def test_hidden_positions_of_an_image_are_reported(tmp_path):
  """D4."""
  report = run(tmp_path / 'run', config('Pixels', 'Rows', teacher=True, cost=True))
  assert report['models'][1]['layers']['rows'] == ['block00/hidden']


def test_examples_of_another_noun_are_reported(tmp_path):
  """D5."""
  report = run(tmp_path / 'run', config('Films', 'Rows'))
  assert report['models'][0]['saw'] == {'clips': 32, 'labels': 32}


def test_images_are_evaluated_whatever_output_the_task_reads(tmp_path, capsys):
  """D6: where an export lacks a head, which D1 alone brought about then."""
  run(tmp_path / 'run', config('Pixels', 'TwoHeads', task=f'{__name__}:Hits', output='scores'))
  assert shipped(tmp_path / 'run') == ['body/bias', 'body/kernel', 'head/bias', 'head/kernel']
  status = evaluated(tmp_path / 'run', tmp_path / 'out')
  assert status == Status.DONE, capsys.readouterr().err


class TestATextModelThatReadsWhichRowsAreExamples:
  """D13."""

  def test_is_timed(self, tmp_path):
    report = run(tmp_path / 'run', config('Texts', 'Counting', cost=True, faithfulness=False))
    assert report['models'][0]['latency_ms']['p50'] > 0

  def test_answers(self, tmp_path):
    run(tmp_path / 'run', config('Texts', 'Counting'))
    answer, = predict.answers(str(tmp_path / 'run/export/student'), ['test cat 1'])
    assert answer['label'] in CLASSES
