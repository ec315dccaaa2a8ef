"""Which format a folder has, what may be changed of its model, and what is no folder of ours."""
import json

import numpy as np
import pytest

from distill import checkpoint, evaluate, formats, modalities, predict, report
from distill import export as door
from distill.data import digits
from distill.formats.safetensors import FILE, Safetensors
from distill.lookup import build
from distill.models.functional import Functional
from distill.types import Status, Stop

DATA = digits.Digits()
RESNET = {'name': 'resnet.ResNet', 'depth': 8, 'widths': [2, 2, 4, 8], **DATA.sizes}
COHORT = {'name': 'cohort.Cohort', 'members': {'a': RESNET, 'b': RESNET}}
TASK = {'name': 'classification.Classification', 'classes': 10}


def shipped(node, **more):
  """A model of the digits as it starts, with the card that a run gives it."""
  model = Functional(lambda rngs: build('models', node, 'model', rngs=rngs))
  card = {'model': node, 'classes': list(DATA.names), 'task': TASK, 'data': DATA.name,
          'fingerprint': DATA.fingerprint, **modalities.card(DATA.modality), **more}
  return formats.Shipped(model, model.init(0), card, DATA.modality)


def export(folder, **more):
  formats.write(folder, shipped(RESNET, **more))
  return folder


@pytest.fixture(scope='module')
def images(tmp_path_factory):
  file = tmp_path_factory.mktemp('images') / 'three.npy'
  np.save(file, np.random.default_rng(0).integers(0, 17, (3, 8, 8)))
  return str(file)


class TestUnknown:
  """What an export of a later version, or of a package that isn't here, may say."""

  @pytest.mark.parametrize(('card', 'line'), [
      ({'format': 'gguf.GGUF'}, "its format is not known here: format='gguf.GGUF' names nothing in "
       'distill/formats; there is huggingface.HuggingFace, safetensors.Safetensors, '),
      ({'format': 'nolab.gguf:GGUF'}, 'its format is not known here: format=\'nolab.gguf:GGUF\': '
       "there is no module 'nolab'"),
      ({'format': 5}, 'its format is not known here: format=5 must be a name'),
      ({'format': 'pathlib:Path'}, "format='pathlib:Path' is no format"),
      ({'modality': 'cloud.PointCloud'}, "its inputs are of a modality that is not known here: "
       "modality='cloud.PointCloud' names nothing in distill/modalities; there is image.Image, "),
      ({'modality': 'nolab.clouds:Cloud'}, "known here: modality='nolab.clouds:Cloud': there is no "
       "module 'nolab'"),
      ({'modality': 'os:mkdir'}, "modality='os:mkdir' is no modality"),
      ({'modality': 'text.Text'}, "its card does not describe texts: lacks 'length'"),
      ({'task': {'name': 'os:mkdir', 'path': 'made'}}, "task='os:mkdir' is no task"),
      ({'task': {'name': 'boxes.Boxes'}}, "task='boxes.Boxes' names nothing in distill/task")])
  def test_is_one_line_and_nothing_is_called(self, tmp_path, monkeypatch, capsys, images, card,
                                             line):
    monkeypatch.chdir(tmp_path)
    place = export(tmp_path / 'export', **card)
    assert predict.main([f'--model={place}', images]) in (Status.CHECKPOINT, Status.CONFIG)
    lines = capsys.readouterr().err
    assert line in lines and str(place) in lines and lines.count('\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['export']

  def test_is_one_line_of_an_evaluation_too(self, tmp_path, capsys):
    for i, card in enumerate(({'format': 'gguf.GGUF'}, {'modality': 'cloud.PointCloud'})):
      place = export(tmp_path / str(i), **card)
      assert evaluate.command([f'--models={place}', '--config=configs/digits.py:test',
                               f'--workdir={tmp_path}/out']) == Status.CHECKPOINT
      lines = capsys.readouterr().err.splitlines()
      assert str(place) in lines[-1] and 'not known here' in lines[-1]

  def test_inputs_that_no_card_speaks_of_are_named(self, tmp_path, images):
    node = shipped(RESNET)
    card = {k: v for k, v in node.card.items() if k not in ('modality', 'pixels')}
    formats.write(tmp_path / 'export', node._replace(card=card))
    with pytest.raises(Stop, match='export: config.json does not say what its inputs are'):
      predict.answers(str(tmp_path / 'export'), [images])


class TestTheFormatOfAFolder:

  def test_is_recognised_by_its_files_or_by_its_card(self, tmp_path):
    assert type(formats.format_of(export(tmp_path / 'ours'))).__name__ == 'Safetensors'
    (tmp_path / 'theirs').mkdir()
    (tmp_path / 'theirs/config.json').write_text('{"model_type": "bert"}')
    assert type(formats.format_of(tmp_path / 'theirs')).__name__ == 'HuggingFace'
    (tmp_path / 'program').mkdir()
    (tmp_path / 'program/model.stablehlo').write_bytes(b'')
    assert type(formats.format_of(tmp_path / 'program')).__name__ == 'StableHLO'
    named = export(tmp_path / 'named', format=f'{__name__}:Mine')
    assert type(formats.format_of(named)) is Mine and not formats.is_recognised(Mine())
    assert all(formats.is_model(tmp_path / name)
               for name in ('ours', 'theirs', 'program', 'named'))
    assert not formats.is_model(tmp_path)

  def test_of_one_s_own_is_opened_and_its_files_are_its_content(self, tmp_path):
    folder = export(tmp_path / 'named', format=f'{__name__}:Mine')
    before = formats.content_hash(folder)
    assert formats.load(str(folder))[2]['opened'] == 'by mine'
    (folder / 'more.mine').write_text('x')
    assert formats.content_hash(folder) != before


class Mine(Safetensors):
  suffix = '.mine'

  def holds(self, folder):
    return (folder / FILE).is_file()

  def open(self, folder, path, **changes):
    model, weights, card = super().open(folder, path, **changes)
    return model, weights, {**card, 'opened': 'by mine'}


class TestFree:
  """What a config may change of a loaded model: nothing that a parameter depends on."""

  def test_is_what_its_class_says(self, tmp_path):
    node = {'dropout': 0.3, 'words': True, 'width': 9}
    place = export(tmp_path / 'images')
    assert formats.free_arguments(str(place), node, 'models.x') == {'dropout': 0.3}
    encoder = tmp_path / 'encoder'
    checkpoint.write_export(encoder, {FILE: b''}, {'model': {'name': 'bert.Bert'}})
    assert formats.free_arguments(str(encoder), node, 'models.x') == {'dropout': 0.3, 'words': True}

  def test_of_a_folder_without_a_card_is_an_encoder_s(self, tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps({'model_type': 'bert'}))
    node = {'words': True, 'depth': 3}
    assert formats.free_arguments(str(tmp_path), node, 'x') == {'words': True}

  def test_of_nothing_asks_no_folder(self):
    assert formats.free_arguments('no/such/place', {}, 'x') == {}

  def test_of_a_class_that_is_not_here_is_one_line(self, tmp_path):
    place = tmp_path / 'export'
    checkpoint.write_export(place, {FILE: b''}, {'model': {'name': 'later.Later'}})
    with pytest.raises(Stop, match=f"teachers.t.init: {place}='later.Later' names nothing"):
      formats.free_arguments(str(place), {'dropout': 0.3}, 'teachers.t.init')

  @pytest.mark.parametrize('model', [[1], 'bert.Bert', None])
  def test_of_a_card_that_is_none_is_one_line(self, tmp_path, model):
    place = tmp_path / 'export'
    checkpoint.write_export(place, {FILE: b''}, {'model': model})
    with pytest.raises(Stop, match='export: its card says of its model') as stop:
      formats.load(str(place))
    assert stop.value.status == Status.CHECKPOINT


@pytest.fixture(scope='module')
def cohort(tmp_path_factory):
  place = tmp_path_factory.mktemp('cohort') / 'cohort'
  formats.write(place, shipped(COHORT))
  return place


class TestACohort:
  """The node of its model has no `classes`: its members' have."""

  def test_is_answered_with_the_classes_of_its_first_member(self, cohort, images):
    answers = predict.answers(str(cohort), [images])
    model, weights, _ = formats.load(str(cohort))
    batch = DATA.modality.prepare({'image': np.load(images)[..., None].astype(np.uint8),
                                   'valid': np.ones(3, np.float32)})
    logits = np.asarray(model(*weights, batch, train=False, key=None)[0]['a/logits'])
    assert [row['label'] for row in answers] == [DATA.names[i] for i in logits.argmax(-1)]
    assert all(tuple(row['probabilities']) == DATA.names for row in answers)

  def test_is_evaluated(self, cohort, tmp_path):
    assert evaluate.command([
        f'--models={cohort}', '--config=configs/digits.py:test', f'--workdir={tmp_path}/out',
        '--config.evaluate.batch_size=64', '--config.evaluate.resamples=9']) == Status.DONE
    model, = report.read(tmp_path / 'out')['models']
    assert 0 <= model['quality']['accuracy']['value'] < 0.5
    assert [row['name'] for row in model['classes']] == list(DATA.names)


@pytest.mark.parametrize('kind', ['stablehlo.StableHLO', 'safetensors.Safetensors'])
def test_the_command_writes_any_format(tmp_path, images, capsys, kind):
  place, to = export(tmp_path / 'export'), tmp_path / 'to'
  arguments = [f'--model={place}', f'--to={to}', f'--inputs={images}', f'--format={kind}']
  assert door.main(arguments) == Status.DONE
  assert predict.answers(str(to), [images]) == predict.answers(str(place), [images])
  assert (to / 'README.md').is_file() == (kind == 'stablehlo.StableHLO')
  assert 'README.md' in capsys.readouterr().out or kind != 'stablehlo.StableHLO'


def test_a_format_that_has_no_such_model_says_so(tmp_path, images, capsys):
  place = export(tmp_path / 'export')
  assert door.main([f'--model={place}', f'--to={tmp_path}/to', f'--inputs={images}',
                    '--format=huggingface.HuggingFace']) == Status.CONFIG
  assert 'transformers has no resnet.ResNet of this kind' in capsys.readouterr().err
  assert not (tmp_path / 'to').exists()
