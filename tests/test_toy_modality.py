"""Point sets and boxes around them, unknown to distill: no class, no label, no logits, no head."""
import dataclasses
import json
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from distill import evaluate, export, main, predict, report
from distill.data import batches, sets
from distill.modalities import Modality
from distill.tasks import Task
from distill.types import Field

CONFIG = '''
from ml_collections import ConfigDict
def get_config():
  model = lambda width: dict(name=f'{HERE}:Pooled', width=width)
  term = lambda theirs, mask='': dict(loss=f'{HERE}:distance', mask=mask, reads=dict(
      ours='student/boxes', theirs=theirs))
  hard, soft = dict(hard=term('batch/boxes', 'batch/real')), dict(soft=term('teacher/boxes'))
  plan, adam = dict(steps=20, log_every=10, save_every=10, eval_every=10), dict(rate=3e-2)
  return ConfigDict(dict(
      data=dict(name=f'{HERE}:Rooms', batch_size=8, seed=0, labelled=0.5, widths=dict(n=(8, 15))),
      teachers=dict(teacher=dict(model=model(8), train=dict(plan, objective=hard, optimizer=adam))),
      student=dict(model=model(4)), seed=0, objective=hard | soft, optimizer=adam, train=plan,
      task=dict(name=f'{HERE}:Boxes'), evaluate=dict(alone=False, resamples=20, batch_size=16)))
'''


@dataclasses.dataclass(frozen=True)
class Points(Modality):
  """Sets of at most `most` points in the plane."""
  most: int
  widths: dict = dataclasses.field(default_factory=dict)
  noun, room = 'point sets', property(lambda self: {'n': self.most})
  fields = {'points': Field(('n', 2), 'float32'), 'mask': Field(('n',), 'float32')}

  def encode(self, arguments):
    for line in arguments:
      points = np.array(json.loads(line), np.float32)
      yield {'set': line}, {'points': points, 'mask': np.ones(len(points), np.float32)}


def Rooms():
  """One to three boxes [m 4] a set, from left to right, and five points in each."""
  fields = {**Points.fields, 'boxes': Field(('m', 4), 'float32', target=True),
            'real': Field(('m',), 'float32', target=True)}

  def split(count, random):
    m = random.integers(1, 4, count)
    low = [np.c_[np.arange(k) + random.uniform(0, .3, k), random.uniform(0, 2, k)] for k in m]
    boxes = [np.c_[corner, corner + random.uniform(.3, .6, corner.shape)] for corner in low]
    points = [np.concatenate([random.uniform(b[:2], b[2:], (5, 2)) for b in rooms])
              for rooms in boxes]
    whole = {'points': points, 'mask': [np.ones(5 * k) for k in m], 'boxes': boxes,
             'real': [np.ones(k) for k in m]}
    fetch = lambda rows: {name: [column[i] for i in rows] for name, column in whole.items()}
    index = {'hash01': random.random(count), 'known': np.ones(count, bool), 'n': 5 * m, 'm': m}
    return sets.Split(index, fields, fetch, room={'n': 15, 'm': 3})
  splits = {name: split(n, np.random.default_rng(n)) for name, n in (('train', 64), ('test', 24))}
  return sets.Dataset('rooms', Points(15), splits, fingerprint='rooms', versions={})


class Pooled(nnx.Module):
  """Three boxes with scores, of the maximum over points."""

  def __init__(self, *, width: int, rngs: nnx.Rngs):
    self.point = nnx.Linear(2, width, rngs=rngs)
    self.out = nnx.Linear(width, 15, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    x = (jax.nn.relu(self.point(batch['points'])) * batch['mask'][:, :, None]).max(1)
    found = self.out(x).reshape(x.shape[0], 3, 5)
    return {'boxes': found[:, :, :4], 'scores': found[:, :, 4]}


def distance(ours, theirs):
  """The mean absolute difference of boxes in their order, [b m]."""
  return jnp.abs(ours[:, :theirs.shape[1]] - theirs).mean(-1)


class Boxes(Task):
  """The mean over all true boxes of the best intersection over union of an answer."""
  outputs, primary = ('boxes', 'scores'), 'mean_IoU'
  metrics = {'mean_IoU': {'unit': 'fraction', 'higher_is_better': True}}

  def measure(self, ask, batch):
    return {name: ask(batch)[name] for name in self.outputs}

  def records(self, measured, batch):
    rows = np.flatnonzero(batch['valid'])
    truth = [batch['boxes'][i][batch['real'][i] > 0] for i in rows]
    best = [iou(b[:, None], measured['boxes'][i]).max(1) for i, b in zip(rows, truth, strict=True)]
    return {'id': batch['id'][rows], 'label': np.array([zlib.crc32(b.tobytes()) for b in truth]),
            'sums': np.array([[b.sum(), len(b)] for b in best])}

  def score(self, records):
    return {'mean_IoU': float(np.divide(*records['sums'].sum(0)))}

  def bootstrap(self, records, resamples):
    return {'mean_IoU': np.array([np.divide(*records['sums'][rows].sum(0)) for rows in resamples])}

  def answer(self, measured):
    return {'boxes': np.asarray(measured['boxes'], float).round(2).tolist()}


def iou(a, b):
  area = lambda low, high: np.maximum(high - low, 0).prod(-1)
  both = area(np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:]))
  return both / (area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - both)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  folder = tmp_path_factory.mktemp('toy')
  (folder / 'toy.py').write_text(f'HERE = {__name__!r}\n{CONFIG}')
  assert main.main([f'--config={folder / "toy.py"}', f'--workdir={folder / "run"}']) == 0
  return folder / 'run'


def test_a_run_trains_times_and_reports(run, capsys):
  teacher, student, baseline = report.read(run)['models']
  assert teacher['saw'] == {'point sets': 64, 'labels': 64} and 20 < student['saw']['labels'] < 44
  assert student['gain']['of'] == baseline['name'] == 'baseline' and student['latency_ms']
  page = re.sub('<[^>]*>', ' ', (run / 'report.html').read_text().split('<body>')[1])
  assert 'point sets' in page and 'mean IoU' in page
  assert not re.search(r'\b(texts?|tokens?|images?|pixels?|words?|None|nan)\b', page)
  assert main.main([f'--config={run.parent / "toy.py"}', f'--workdir={run}']) == 0
  assert 'finished before' in capsys.readouterr().err
  rows = batches.in_order(Rooms().splits['train'], batch_size=8, widths={'n': (8, 15)})
  assert {batch['points'].shape for batch in rows} == {(8, 8, 2), (8, 15, 2)}


def test_export_program_answers_and_evaluation(run):
  student, program, both = run / 'export' / 'student', run.parent / 'program', run.parent / 'both'
  assert len(load_file(student / 'model.safetensors')) == 4      # two layers: nothing is left out
  export.ship(str(student), program)
  lines = '[[0.2, 0.4], [0.5, 1.0], [1.1, 0.3]]', json.dumps([[0.1, 0.2]] * 9)
  answers = predict.answers(str(program), lines)
  assert answers == predict.answers(str(student), lines) and len(answers[1]['boxes']) == 3
  assert evaluate.command([f'--models={run},{program}', f'--workdir={both}']) == 0
  quality = {m['name']: m['quality']['mean_IoU']['value'] for m in report.read(both)['models']}
  assert quality['program'] == pytest.approx(quality['student'], abs=1e-4)
