"""A kind of input and of answer that distill has never heard of: point sets, and boxes around them.

Nobody registers it, and no file of distill changes: there are no classes, no label, no logits, no
head and two named axes, of which one is that of the targets.
"""
import dataclasses
import json
import re
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors import safe_open

from distill import export, main, predict
from distill.data.sets import Dataset, Split
from distill.evaluate import __main__ as evaluate
from distill.modalities import Modality
from distill.types import Field

MOST = 3                # boxes of a set
UNITS = {'unit': 'fraction', 'higher_is_better': True}
CONFIG = '''
"""Toy boxes."""
from ml_collections import ConfigDict


def get_config():
  term = lambda loss, mask='', **reads: dict(loss=f'{HERE}:{loss}', mask=mask, reads=reads)
  hard = dict(place=term('distance', 'batch/real', ours='student/boxes', theirs='batch/boxes'),
              tell=term('telling', 'batch/labelled', scores='student/scores', real='batch/real'))
  soft = dict(boxes=term('distance', ours='student/boxes', theirs='teacher/boxes'))
  model = lambda width: dict(name=f'{HERE}:Pooled', width=width)
  plan, adamw = dict(steps=40, log_every=20, save_every=20, eval_every=20), dict(rate=3e-2)
  return ConfigDict(dict(
      seed=0, pipeline='compare.run', optimizer=adamw, train=plan, student=dict(model=model(4)),
      data=dict(name=f'{HERE}:Rooms', batch_size=8, seed=0, labelled=0.5, widths=dict(n=(8, 15))),
      task=dict(name=f'{HERE}:Boxes'), objective=hard | soft,
      teachers=dict(teacher=dict(model=model(8), train=dict(plan, objective=hard, optimizer=adamw))),
      evaluate=dict(alone=False, resamples=20, batch_size=16)))
'''


@dataclasses.dataclass(frozen=True)
class Points(Modality):
  """Sets of at most `most` points in the plane."""
  most: int
  widths: dict = dataclasses.field(default_factory=dict)
  noun, sizes = 'point sets', {}
  fields = {'points': Field(('n', 2), 'float32'), 'mask': Field(('n',), 'float32')}

  @property
  def room(self):
    return {'n': self.most}

  def encode(self, arguments):
    for line in arguments:
      points = np.array(json.loads(line), np.float32)
      yield {'set': line}, {'points': points, 'mask': np.ones(len(points), np.float32)}

  def card(self):
    return {'most': self.most}

  @classmethod
  def from_card(cls, card, folder):
    return cls(card['most'])


def Rooms(*, count: int = 64) -> Dataset:
  """One to three boxes a set, from left to right, each with five points in it."""
  random, modality = np.random.default_rng(0), Points(5 * MOST)
  shape = {**modality.fields, 'boxes': Field(('m', 4), 'float32', target=True),
           'real': Field(('m',), 'float32', target=True)}

  def split(count):
    m = random.integers(1, MOST + 1, count)
    low = [np.c_[np.arange(k) + random.uniform(0, .3, k), random.uniform(0, 2, k)] for k in m]
    boxes = [np.c_[x, x + random.uniform(.3, .6, x.shape)] for x in low]
    points = [np.concatenate([random.uniform(b[:2], b[2:], (5, 2)) for b in of]) for of in boxes]
    arrays = lambda i: {'points': points[i], 'mask': np.ones(5 * m[i]), 'boxes': boxes[i],
                        'real': np.ones(m[i])}
    fetch = lambda rows: {name: [arrays(i)[name] for i in rows] for name in shape}
    return Split({'hash01': random.random(count), 'known': np.ones(count, bool), 'n': 5 * m,
                  'm': m}, shape, fetch, room={'n': 5 * MOST, 'm': MOST})
  return Dataset('rooms', modality, {'train': split(count), 'test': split(24)}, f'rooms {count}', {})


class Pooled(nnx.Module):
  """Points, each by itself; their mean and maximum; boxes [b k 4] and scores [b k] of those."""

  def __init__(self, *, width: int, rngs: nnx.Rngs):
    self.point = nnx.Linear(2, width, rngs=rngs)
    self.boxes = nnx.Linear(2 * width, MOST * 5, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    mask = batch['mask'][:, :, None]
    x = jax.nn.relu(self.point(batch['points'])) * mask
    pooled = jnp.concatenate([x.sum(1) / jnp.maximum(mask.sum(1), 1), x.max(1)], axis=-1)
    found = self.boxes(pooled).reshape(pooled.shape[0], MOST, 5)
    return {'pooled': pooled, 'boxes': found[:, :, :4], 'scores': found[:, :, 4]}


def distance(ours, theirs):
  """Mean absolute difference of boxes in their order, [b m]."""
  return jnp.abs(ours[:, :theirs.shape[1]] - theirs).mean(-1)


def telling(scores, real):
  """Cross-entropy of the scores as logits of whether there is such a box, [b]."""
  real = jnp.pad(real, ((0, 0), (0, scores.shape[1] - real.shape[1])))
  return (jax.nn.softplus(scores) - real * scores).mean(-1)


class Boxes:
  """Of every true box the best IoU among the answers: its mean, and how often it is a half."""
  outputs, parts, labelled, constant, explain = ('boxes', 'scores'), (), True, None, None
  metrics, primary = {'mean_IoU': UNITS, 'recall': UNITS}, 'mean_IoU'

  def prepare(self, batch):
    return batch

  def measure(self, ask, batch):
    found = ask(batch)
    return {'boxes': found['boxes'], 'sure': jax.nn.sigmoid(found['scores'])}

  def records(self, measured, batch):
    rows = np.flatnonzero(batch['valid'])
    truth = [batch['boxes'][i][batch['real'][i] > 0] for i in rows]
    best = [self._iou(true[:, None], measured['boxes'][i]).max(1)
            for i, true in zip(rows, truth, strict=True)]
    return {'id': batch['id'][rows], 'label': np.array([zlib.crc32(t.tobytes()) for t in truth]),
            'sums': np.array([[len(b), b.sum(), (b >= .5).sum()] for b in best])}

  def _iou(self, a, b):
    low, high = np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])
    area = lambda low, high: np.prod(np.maximum(high - low, 0), axis=-1)
    both = area(low, high)
    return both / (area(a[..., :2], a[..., 2:]) + area(b[..., :2], b[..., 2:]) - both)

  def score(self, records):
    boxes, iou, hits = records['sums'].sum(0)
    return {'mean_IoU': float(iou / boxes), 'recall': float(hits / boxes)}

  def bootstrap(self, records, resamples):
    boxes, *others = np.array([records['sums'][rows].sum(0) for rows in resamples]).T
    return {name: of / boxes for name, of in zip(self.metrics, others, strict=True)}

  def answer(self, measured):
    return {'boxes': np.asarray(measured['boxes'])[measured['sure'] > .5].round(2).tolist()}


SET = json.dumps([[0.2, 0.4], [0.5, 1.0], [1.1, 0.3], [1.4, 0.8], [1.2, 0.5]])


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A run from its config to its report."""
  folder = tmp_path_factory.mktemp('toy')
  (folder / 'toy.py').write_text(f'HERE = {__name__!r}\n{CONFIG}')
  return main_again(folder / 'run')


def main_again(workdir):
  assert main.main([f'--config={workdir.parent / "toy.py"}', f'--workdir={workdir}']) == 0
  return workdir


@pytest.fixture(scope='module')
def program(run):
  export.ship(str(run / 'export' / 'student'), run.parent / 'program')
  return run.parent / 'program'


def test_it_is_trained_timed_and_reported(run, capsys):
  report = json.loads((run / 'report.json').read_text())
  teacher, student, baseline = report['models']
  assert [m['role'] for m in report['models']] == ['teacher', 'student', 'baseline']
  assert teacher['saw'] == {'point sets': 64, 'labels': 64} and 20 < student['saw']['labels'] < 44
  assert set(student['quality']) == {'mean_IoU', 'recall'} and student['latency_ms']
  assert student['gain']['of'] == 'baseline' and student['faithfulness'] == {}
  page = (run / 'report.html').read_text().split('<body>')[1]
  assert 'point sets' in page and 'mean IoU' in page
  page = re.sub('<[^>]*>', ' ', page)
  assert not re.search(r'\b(texts?|tokens?|images?|pixels?|words?|None|nan)\b', page)
  main_again(run)
  assert 'finished before' in capsys.readouterr().err


def test_sets_are_padded_to_a_few_sizes(run):
  from distill.data import batches
  node = json.loads((run / 'config.json').read_text())['data']
  rows = batches.batches(Rooms().splits['train'], batch_size=8, seed=0, steps=20,
                         widths=node['widths'])
  assert {batch['points'].shape for batch in rows} == {(8, 8, 2), (8, 15, 2)}


def test_an_export_holds_every_parameter(run):
  with safe_open(run / 'export' / 'student' / 'model.safetensors', 'np') as file:
    assert {*file.keys()} == {'point/kernel', 'point/bias', 'boxes/kernel', 'boxes/bias'}


def test_a_program_of_it_answers_as_the_module(run, program):
  own, made = (predict.answers(str(place), [SET, SET]) for place in (
      run / 'export' / 'student', program))
  assert own == made and own[0]['set'] == SET and np.shape(own[0]['boxes'])[1:] in ((4,), ())


def test_run_and_program_stand_side_by_side(run, program):
  workdir = run.parent / 'both'
  assert evaluate.command([f'--models={run},{program}', f'--workdir={workdir}']) == 0
  quality = {m['name']: m['quality']['mean_IoU']['value'] for m in json.loads(
      (workdir / 'report.json').read_text())['models']}
  assert quality['program'] == pytest.approx(quality['student'], abs=1e-4) and len(quality) == 4
