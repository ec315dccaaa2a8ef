"""A task that reads two outputs, none of them logits, of a model whose `head` gives both."""
import copy
import re

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from distill import evaluate, export, formats, main, predict, report
from distill.data import digits
from distill.formats import stablehlo
from distill.models.functional import Functional
from distill.tasks.classification import Classification
from distill.types import Status, Stop

DATA = digits.Digits()
CONFIG = '''
from ml_collections import ConfigDict
def get_config():
  scores = dict(loss='supervised.cross_entropy', reads=dict(
      student='student/scores', label='batch/label'))
  return ConfigDict(dict(
      data=dict(name='digits.Digits', batch_size=8, seed=0), seed=0,
      task=dict(name=f'{HERE}:Doubtful'), student=dict(model=dict(name=f'{HERE}:Net', width=4)),
      objective=dict(scores=scores), optimizer=dict(rate=1e-2),
      train=dict(steps=4, log_every=2, save_every=4),
      evaluate=dict(cost=False, resamples=9)))
'''


class Net(nnx.Module):
  """Scores of the classes and how doubtful each answer is, both from one head."""

  def __init__(self, *, width: int, classes: int, channels: int, rngs: nnx.Rngs):
    self.body = nnx.Linear(64 * channels, width, rngs=rngs)
    self.head = nnx.Linear(width, classes + 1, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    x = jax.nn.relu(self.body(batch['image'].reshape(batch['image'].shape[0], -1)))
    found = self.head(x)
    return {'scores': found[:, :-1], 'doubt': found[:, -1]}


class Doubtful(Classification):
  """Classes by their scores; of every answer its doubt is kept too."""
  outputs, parts = ('scores', 'doubt'), ()

  def __init__(self, *, classes: int, names: tuple[str, ...] = ()):
    super().__init__(classes=classes, names=names)
    self.explain = self.explain._replace(output='scores')

  def measure(self, ask, batch):
    outputs = ask(batch)
    return {'logits': outputs['scores'], 'doubt': outputs['doubt']}

  def records(self, measured, batch):
    doubt = np.asarray(measured['doubt'])[np.asarray(batch['valid']) != 0]
    return {**super().records(measured, batch), 'doubt': doubt}

  def answer(self, measured):
    return {**super().answer(measured), 'doubt': round(float(measured['doubt']), 4)}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """The folder of a run, of its student's program, and of a file of images."""
  place = tmp_path_factory.mktemp('outputs')
  (place / 'config.py').write_text(f'HERE = {__name__!r}\n{CONFIG}')
  assert main.main([f'--config={place}/config.py', f'--workdir={place}/run']) == Status.DONE
  export.ship(str(place / 'run/export/student'), place / 'program')
  np.save(place / 'three.npy', np.random.default_rng(0).integers(0, 17, (3, 8, 8)))
  return place


def test_a_head_is_shipped_whatever_its_outputs_are_called(place):
  names = load_file(place / 'run/export/student/model.safetensors').keys()
  assert names == {f'{module}/{leaf}' for module in ('body', 'head') for leaf in ('kernel', 'bias')}


def test_a_program_gives_both_outputs_and_is_answered_as_the_module(place):
  module, program = (predict.answers(str(place / name), [str(place / 'three.npy')])
                     for name in ('run/export/student', 'program'))
  assert len({row['doubt'] for row in module}) == 3
  for ours, theirs in zip(module, program, strict=True):
    assert ours['label'] == theirs['label']
    assert theirs['doubt'] == pytest.approx(ours['doubt'], abs=2e-4)
  model, weights, card = formats.open_model(str(place / 'program'))
  outputs, _ = model(*weights, {'image': np.zeros((2, 8, 8, 1), np.float32)})
  assert {name: x.shape for name, x in outputs.items()} == {'scores': (2, 10), 'doubt': (2,)}
  assert card['program']['parity']['agreement'] == 1 and not model.differentiable


def test_a_run_and_its_program_stand_side_by_side(place, tmp_path):
  assert evaluate.command([f'--models={place}/run,{place}/program', f'--workdir={tmp_path}/out',
                           '--config.evaluate.faithfulness=True']) == Status.DONE
  student, program = report.read(tmp_path / 'out')['models']
  assert program['quality'] == student['quality'] and program['params'] == student['params']
  with np.load(tmp_path / 'out/records/program.npz') as kept:
    assert kept['doubt'].shape == kept['label'].shape


def test_the_lines_of_the_readme_name_the_output_by_which_it_decides(place, monkeypatch):
  text = (place / 'program/README.md').read_text()
  code, = re.findall(r'```python\n(.*?)```', text, re.DOTALL)
  assert "found['scores'].argmax(-1)" in code and 'logits' not in text
  monkeypatch.chdir(place / 'program')
  exec(code, names := {})
  found = names['answers'](np.load(place / 'three.npy')[..., None])
  rows = predict.answers(str(place / 'program'), [str(place / 'three.npy')])
  assert [names['card']['classes'][i] for i in found['scores'].argmax(-1)] == [
      row['label'] for row in rows]
  assert [float(x) for x in found['doubt']] == pytest.approx([row['doubt'] for row in rows],
                                                             abs=1e-4)


@pytest.mark.parametrize(('at', 'name'), [(3, 'scores'), (-1, 'doubt')])
def test_a_program_that_is_wrong_in_one_output_is_refused_by_its_name(
    place, tmp_path, monkeypatch, capsys, at, name):
  whole = stablehlo.serialize

  def serialized(shipped, outputs):
    params, rest = copy.deepcopy(shipped.weights)
    params['head/bias'] = params['head/bias'].at[at].add(0.01)
    return whole(shipped._replace(weights=(params, rest)), outputs)
  monkeypatch.setattr(stablehlo, 'serialize', serialized)
  assert export.main([f'--model={place}/run/export/student', f'--to={tmp_path}/to']) == (
      Status.CHECKPOINT)
  line = capsys.readouterr().err.splitlines()[-1]
  assert f'its {name} are [' in line and 'nothing was written' in line
  assert not list(tmp_path.iterdir())


def test_an_output_that_the_model_lacks_is_one_line(place, tmp_path, monkeypatch, capsys):
  monkeypatch.setattr(Doubtful, 'outputs', ('scores', 'dout'))
  assert export.main([f'--model={place}/run/export/student', f'--to={tmp_path}/to']) == (
      Status.CONFIG)
  line = capsys.readouterr().err.splitlines()[-1]
  assert 'cannot be exported for any batch: it has no dout' in line


class Counted(Net):

  def __call__(self, batch, *, train=False, key=None):
    return {name: x * len(x) for name, x in super().__call__(batch).items()}


def test_a_model_that_counts_its_batch_is_refused_with_advice(place):
  model, weights, card = formats.load(str(place / 'run/export/student'))
  model = Functional(lambda rngs: Counted(width=4, classes=10, channels=1, rngs=rngs))
  shipped = formats.Shipped(model, weights, card, DATA.modality)
  with pytest.raises(Stop, match=r'cannot be exported for any batch: .*take it from x\.shape') as (
      stop):
    stablehlo.serialize(shipped, ['scores'])
  assert '\n' not in str(stop.value)
