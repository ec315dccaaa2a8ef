"""Weights and answers that are not finite, through every command and in every format."""
import json

import numpy as np
import pytest
import safetensors.numpy

from distill import checkpoint, export, formats, main, modalities, numbers, predict
from distill import evaluate as door
from distill.formats import safetensors as ours
from distill.modalities.image import Image
from distill.types import Status, Stop
from tests import broken
from tests.test_pretrained import CONFIG, pretrained

QUERY = 'bert.encoder.layer.1.attention.self.query.weight'
LABELS = 'animal0', 'animal1'


def spoilt(folder, name, value=np.nan, count=3):
  """The folder with some numbers of a tensor changed."""
  file = folder / 'model.safetensors'
  arrays = safetensors.numpy.load_file(file)
  arrays[name].reshape(-1)[:count] = value
  safetensors.numpy.save_file(arrays, file)
  return folder


@pytest.fixture
def command(tmp_path, capsys):
  """Gives a folder to one of the commands; its status and what it said."""
  (tmp_path / 'mine.py').write_text(CONFIG)
  (tmp_path / 'my.jsonl').write_text('\n'.join(json.dumps(
      {'text': f'the {"cat" if i % 2 else "dog"} sat {i}', 'label': LABELS[i % 2]})
      for i in range(60)))
  (tmp_path / 'texts.txt').write_text('the cat\n')

  def run(name, place, **fields):
    fields = {'data.path': tmp_path / 'my.jsonl', 'data.tokenizer': place} | {
        key.replace('__', '.'): value for key, value in fields.items()}
    config = [f'--config={tmp_path}/mine.py', f'--workdir={tmp_path}/run']
    given = lambda **more: [f'--config.{k}={v}' for k, v in (fields | more).items()]
    train = {'teachers.teacher.init': place} if name == 'teacher' else {
        'teachers.teacher.init': pretrained(tmp_path / name, LABELS), 'student.init': place}
    code = {
        'predict': lambda: predict.main([f'--model={place}', 'the cat']),
        'evaluate': lambda: door.command([*config, f'--models={place}', *given()]),
        'export': lambda: export.main([f'--model={place}', f'--to={tmp_path}/to',
                                       f'--inputs={tmp_path}/texts.txt']),
        'teacher': lambda: main.main([*config, *given(**train)]),
        'student': lambda: main.main([*config, *given(**train), '--config.student.layers=(1,)']),
    }[name]()
    out, err = capsys.readouterr()
    return code, out, err
  return run


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('name', ['predict', 'evaluate', 'export', 'teacher', 'student'])
def test_every_command_names_the_tensor_where_it_is_read(command, tmp_path, name, value):
  place = spoilt(pretrained(tmp_path / 'model', LABELS), QUERY, value)
  code, out, err = command(name, place)
  assert code == Status.CHECKPOINT and not out and 'Traceback' not in err
  assert f'{place}: the tensor {QUERY} holds 3 of 64 values that are not finite' in (
      err.splitlines()[-1])


def test_a_tensor_beyond_float32_is_refused_as_infinite(tmp_path):
  place = pretrained(tmp_path / 'model', LABELS)
  file = place / 'model.safetensors'
  wide = {k: v.astype(np.float64) for k, v in safetensors.numpy.load_file(file).items()}
  wide['classifier.bias'][0] = 1e300
  safetensors.numpy.save_file(wide, file)
  with pytest.raises(Stop, match='the tensor classifier.bias holds 1 of 2') as stop:
    formats.load(str(place))
  assert stop.value.status == Status.CHECKPOINT


@pytest.mark.parametrize('dtype', ['int8', 'uint8', 'bool', 'int64'])
def test_weights_of_another_kind_are_refused(tmp_path, dtype):
  place = pretrained(tmp_path / 'model', LABELS)
  file = place / 'model.safetensors'
  arrays = safetensors.numpy.load_file(file)
  arrays['classifier.bias'] = arrays['classifier.bias'].astype(dtype)
  safetensors.numpy.save_file(arrays, file)
  with pytest.raises(Stop, match='the tensor classifier.bias is .*weights of F64, F32') as stop:
    formats.load(str(place))
  assert stop.value.status == Status.CHECKPOINT


def shipped(folder, change=lambda params: None, kind=None, **card):
  """An export of images, its parameters changed."""
  net = broken.Functional(lambda rngs: broken.ResNet(**broken.RESNET, rngs=rngs))
  params, rest = broken.weights(net)
  change(params)
  modality = Image(8, 8, 1, (4.0,), (2.0,), white=16.0)
  card = {'model': {'name': 'resnet.ResNet', **broken.RESNET}, 'classes': ['a', 'b', 'c'],
          **modalities.card(modality), **card}
  (kind or ours.Safetensors()).write(folder, formats.Shipped(net, (params, rest), card, modality))
  return folder


class Other(ours.Safetensors):
  """A format of one's own, which looks at nothing that it reads."""

  def open(self, folder, path, **changes):
    card = checkpoint.open_export(folder, ours.FILE)['card']
    net = broken.Functional(lambda rngs: broken.ResNet(**broken.RESNET, rngs=rngs))
    arrays = safetensors.numpy.load_file(folder / ours.FILE)
    return net, tuple({p: arrays[p] for p in part} for part in net.shapes), card


@pytest.mark.parametrize('kind', [None, Other()])
def test_exports_in_any_format_are_checked_too(tmp_path, kind):
  card = {'format': f'{__name__}:Other'} if kind else {}
  spoil = lambda params: params['head/bias'].__setitem__(1, np.nan)
  assert formats.load(str(shipped(tmp_path / 'sound', kind=kind, **card)))
  place = shipped(tmp_path / 'spoilt', spoil, kind, **card)
  with pytest.raises(Stop, match='the tensor head/bias holds 1 of 3 values') as stop:
    formats.load(str(place))
  assert stop.value.status == Status.CHECKPOINT


def large(params):
  """Finite weights whose products are not."""
  for name in params:
    if name.endswith('kernel'):
      params[name][...] = 1e30


def test_finite_weights_without_a_finite_answer_answer_nothing(tmp_path, capsys):
  place, file = shipped(tmp_path / 'large', large), tmp_path / 'x.npy'
  np.save(file, np.arange(64.0).reshape(8, 8))
  assert predict.main([f'--model={place}', str(file)]) == Status.NONFINITE
  out, err = capsys.readouterr()
  assert not out and len(err.splitlines()) == 1
  assert f'{str(file)!r}: the answer has logits that are not finite' in err
  assert export.main([f'--model={place}', f'--to={tmp_path}/to', f'--inputs={file}']) == (
      Status.NONFINITE)
  assert 'the answer has logits that are not finite: nothing was written' in capsys.readouterr().err
  assert not (tmp_path / 'to').exists()


def test_a_program_whose_answers_are_not_finite_is_not_evaluated(tmp_path, capsys, monkeypatch):
  """A program has its weights inside: its answers are what is looked at."""
  monkeypatch.setattr('distill.formats.stablehlo.parity', lambda *args: {})
  net, weights, card = formats.load_trained(str(shipped(tmp_path / 'large', large)))
  modality = modalities.from_card(card)
  from distill.formats.stablehlo import StableHLO
  StableHLO().write(tmp_path / 'program', formats.Shipped(net, weights, card, modality))
  file = tmp_path / 'x.npy'
  np.save(file, np.arange(64.0).reshape(8, 8))
  assert predict.main([f'--model={tmp_path}/program', str(file)]) == Status.NONFINITE
  out, err = capsys.readouterr()
  assert not out and 'logits that are not finite' in err and len(err.splitlines()) == 1


def test_records_of_answers_that_are_not_finite_end_in_a_line_with_the_example(command, tmp_path):
  place = pretrained(tmp_path / 'model', LABELS)
  for name in ('bert.pooler.dense.weight', 'classifier.weight'):
    spoilt(place, name, 1e38, 10**6)
  code, out, err = command('evaluate', place)
  assert code == Status.NONFINITE and 'Traceback' not in err
  assert 'model, test: example 0: the answer has logits that are not finite' in err.splitlines()[-1]


def test_a_config_with_nan_is_refused(command, tmp_path):
  place = pretrained(tmp_path / 'model', LABELS)
  code, _, err = command('student', place, optimizer__rate='nan')
  assert code == Status.CONFIG
  assert err.splitlines()[-1] == (
      'distill: optimizer.rate=nan must be a finite number, as float32 has it')


def test_nothing_of_a_card_is_nan(tmp_path):
  with pytest.raises(Stop, match='the card of .*: 1.share is not a finite number') as stop:
    shipped(tmp_path / 'x', share=float('nan'))
  assert stop.value.status == Status.NONFINITE and not (tmp_path / 'x').exists()
  assert not numbers.nonfinite(formats.card_of(shipped(tmp_path / 'y', share=0.5)))
