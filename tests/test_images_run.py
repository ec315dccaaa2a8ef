"""Images through the whole house: trained with batch statistics, reported, exported, asked."""
import contextlib
import dataclasses
import re
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from distill import checkpoint, formats, modalities, predict, runs, sharding, train
from distill.data import digits
from distill.logs import Log, NullLog
from distill.modalities import text, tokenizer
from distill.pipelines import compare, explain
from distill.pipelines.judge import Model
from distill.pipelines.setup import build_setup
from distill.types import Status, Stop

DATA = digits.Digits()


def config(**more):
  """A run of six steps a stage."""
  hard = {'loss': 'supervised.cross_entropy', 'weight': 1.0,
          'reads': {'student': 'student/logits', 'label': 'batch/label'}}
  soft = {'loss': 'logits.kl', 'weight': 1.0,
          'reads': {'student': 'student/logits', 'teacher': 'teacher/logits'}}
  model = lambda *widths: {'name': 'resnet.ResNet', 'depth': 8, 'widths': widths}
  plan = {'steps': 6, 'log_every': 2, 'save_every': 3}
  adamw = {'name': 'adamw', 'rate': 3e-3}
  node = {
      'seed': 0, 'data': {'name': 'digits.Digits', 'batch_size': 8, 'seed': 0, 'labelled': 0.1,
                          'drawn': 0.5},
      'task': {'name': 'classification.Classification'},
      'teachers': {'teacher': {'model': model(4, 4, 8, 16), 'train': {
          **plan, 'objective': {'hard': hard}, 'optimizer': adamw}}},
      'student': {'model': model(2, 2, 4, 8)},
      'objective': {'hard': {**hard, 'mask': 'batch/labelled'}, 'soft': soft},
      'optimizer': adamw, 'train': {**plan, 'eval_every': 6}, 'evaluate': {'alone': False}}
  return {name: {**part, **more.get(name, {})} if isinstance(part, dict) else part
          for name, part in node.items()}


def run(workdir, node, shared=None):
  workdir.mkdir(exist_ok=True)
  with contextlib.closing(Log(workdir)) as log:
    return compare.run(node, runs.Run('digits', workdir, log, seed=node['seed'], shared=shared))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """A run over eight devices."""
  workdir = tmp_path_factory.mktemp('digits') / 'run'
  return workdir, run(workdir, config())


def weights(folder):
  return safetensors.numpy.load_file(folder / 'model.safetensors')


def stored(n):
  """The first test images as a batch holds them."""
  return DATA.splits['test'].fetch(np.arange(n)) | {'valid': np.ones(n, np.float32)}


def raw(n):
  """The first test images as the data had them, and as float64, for a float32 rounds."""
  image = DATA.modality.prepare(stored(n))['image'].astype(np.float64)
  return np.rint(image * DATA.modality.deviation + DATA.modality.mean)


class TestTheReport:

  def test_counts_images_parameters_and_bytes(self, whole):
    workdir, report = whole
    assert [model['saw'] for model in report['models']] == [
        {'images': 1327, 'labels': 1327}, {'images': 1327, 'labels': 112},
        {'images': 1327, 'labels': 112}]
    assert report['padding_share'] is None and 'scikit-learn' in report['versions']
    for model in report['models']:
      held = weights(workdir / 'export' / model['name'])
      sizes = {path: array.size for path, array in held.items()}
      statistics = [path for path in sizes if path.endswith(('/mean', '/var'))]
      assert len(statistics) >= 14                  # two each of the stem and of six convolutions
      assert model['bytes'] == 4 * sum(sizes.values())
      assert model['params'] == sum(sizes.values()) - sum(map(sizes.get, statistics))

  def test_counts_the_operations_of_the_convolutions(self, whole):
    # Of the student (2, 2, 4, 8): a 3 × 3 convolution takes 2 · 9 operations for every input,
    # output and place. Places are 64, 16 and 4; at the edges XLA leaves out what is padding.
    convolutions = 18 * (64 * (1 * 2 + 2 * 2 * 2) + 16 * (2 * 4 + 4 * 4) + 4 * (4 * 8 + 8 * 8))
    others = 2 * (16 * 2 * 4 + 4 * 4 * 8) + 2 * 8 * 10
    flops = whole[1]['models'][1]['flops']
    assert 0.6 * (convolutions + others) < flops < 1.4 * (convolutions + others)

  def test_speaks_of_images(self, whole):
    page = (whole[0] / 'report.html').read_text()
    assert '1,327 images, all labelled' in page and 'training images' in page
    text = re.sub('<style>.*?</style>|<svg.*?</svg>', '', page, flags=re.DOTALL)
    assert not re.search(r'\b(texts?|tokens?)\b', text)

  def test_says_whether_models_decide_for_the_same_reasons(self, whole):
    workdir, report = whole
    teacher, *others = report['models']
    assert teacher['faithfulness'] == {} and teacher['layers'] is None
    for model in others:
      assert list(model['faithfulness']) == ['agreement', 'agreement_on_errors', 'kl', 'saliency',
                                             'saliency_top', 'cka']
      assert model['layers']['of'] == 'teacher' and np.shape(model['layers']['cka']) == (5, 5)
      assert model['retention_over_chance']['of'] == 'teacher'
    for model in report['models']:
      assert list(model['robustness']) == ['clean', 'noise', 'blur', 'contrast', 'shift', 'fgsm']
      n = model['quality']['accuracy']['n']
      assert sum(row['support'] for row in model['classes']) == n
      assert sum(bin['n'] for bin in model['calibration']['bins']) == n
      with np.load(workdir / 'records' / 'inside' / f'{model["name"]}.npz') as kept:
        assert kept['sampled'].sum() == 48 and 48 < len(kept['id']) <= 64
        assert kept['attribution'].shape == (len(kept['id']), 8, 8)

  def test_without_a_teacher_or_when_asked_not_to_it_looks_less_deep(self, whole, tmp_path):
    workdir, _ = whole
    records = {name: dict(np.load(workdir / 'records' / f'{name}.npz'))
               for name in ('teacher', 'student')}
    models = [Model(name, name, pure, weights, card, {}, DATA.modality, DATA.splits)
              for name in records
              for pure, weights, card in [formats.load(str(workdir / 'export' / name))]]
    run = runs.Run('digits', tmp_path, NullLog(), seed=0)
    evaluate = lambda **how: build_setup({**config(), 'evaluate': dict(how, resamples=9)})
    asks = {model.name: evaluate().ask(model) for model in models}
    single = explain.explain_models(models[1:], asks, records, evaluate(), run)['student']
    assert single['faithfulness'] == {} and single['layers'] is None
    assert single['calibration'] and single['robustness']['fgsm']
    shallow = evaluate(faithfulness=False)
    found = explain.explain_models(models, asks, records, shallow, run)['student']
    assert list(found['faithfulness']) == ['agreement', 'agreement_on_errors', 'kl']
    assert found['layers'] is None and found['robustness'] is None
    assert not (tmp_path / 'records').exists()


class TestTheExport:

  def test_has_what_the_model_must_know_of_pixels_and_no_tokenizer(self, whole):
    folder = whole[0] / 'export/student'
    card = checkpoint.open_export(folder, 'model.safetensors')['card']
    assert card['pixels'] == DATA.modality.card()['pixels'] and card['modality'] == 'image.Image'
    assert card['classes'] == list(digits.CLASSES)
    assert sorted(path.name for path in folder.iterdir()) == ['config.json', 'model.safetensors']
    assert not card.keys() & {'tokenizer_sha256', 'length', 'widths'}

  def test_batch_statistics_moved_and_are_in_it(self, whole):
    held = weights(whole[0] / 'export/student')
    starts = {'mean': 0, 'var': 1}
    for path, array in held.items():
      assert (array != starts.get(path.rpartition('/')[2], np.nan)).all(), path
    assert held.keys() == weights(whole[0] / 'export/baseline').keys()

  def test_read_again_it_gives_equal_logits(self, whole):
    """The last checkpoint's parameters and statistics, beside the export's."""
    model, (params, rest), _ = formats.load(str(whole[0] / 'export/student'))
    saved = weights_of_checkpoint(whole[0] / 'checkpoints/student/6')
    batch = DATA.modality.prepare(stored(4))
    ours = model(params, rest, batch, train=False, key=None)[0]['logits']
    theirs = model({path: saved[f'params/model/{path}'] for path in params},
                   {path: saved[f'rest/model/{path}'] for path in rest}, batch,
                   train=False, key=None)[0]['logits']
    np.testing.assert_array_equal(ours, theirs)


def weights_of_checkpoint(folder):
  return safetensors.numpy.load_file(folder / checkpoint.STATE)


class TestPredict:

  def answers(self, whole, *files):
    return predict.answers(str(whole[0] / 'export/student'), list(map(str, files)))

  def test_is_what_the_records_say(self, whole, tmp_path):
    np.save(tmp_path / 'five.npy', raw(5).astype(np.uint8))
    with np.load(whole[0] / 'records/student.npz') as records:
      rows = {int(i): p for i, p in zip(records['id'], records['probabilities'], strict=True)}
    found = self.answers(whole, tmp_path / 'five.npy')
    assert [row['image'] for row in found] == [f'{tmp_path}/five.npy[{i}]' for i in range(5)]
    for i, row in enumerate(found):       # batch 1 and rounding to four places
      np.testing.assert_allclose(list(row['probabilities'].values()), rows[i], atol=1e-4)
      assert row['probabilities'][row['label']] == max(row['probabilities'].values())

  def test_takes_one_image_with_or_without_its_channel_and_a_picture(self, whole, tmp_path):
    first = raw(1)[0]
    np.save(tmp_path / 'hw.npy', first[..., 0])
    np.save(tmp_path / 'hwc.npy', first)
    Image.fromarray(np.rint(first[..., 0] * 255 / 16).astype(np.uint8)).save(tmp_path / 'one.png')
    plain, channel, picture = self.answers(
        whole, *(tmp_path / name for name in ('hw.npy', 'hwc.npy', 'one.png')))
    assert plain['image'] == f'{tmp_path}/hw.npy'
    assert plain['probabilities'] == channel['probabilities']
    for name, chance in plain['probabilities'].items():     # 16 steps of grey as 256
      assert abs(picture['probabilities'][name] - chance) < 0.01

  @pytest.mark.parametrize(('name', 'content', 'line'), [
      ('small.npy', np.zeros((7, 8)), 'shape is [7, 8], but the model takes images of [8, 8, 1]'),
      ('colour.npy', np.zeros((8, 8, 3)), 'its shape is [8, 8, 3]'),
      ('nan.npy', np.full((8, 8), np.nan), 'not all finite numbers'),
      ('objects.npy', np.array([[{}] * 8] * 8), 'its values are of type object'),
      ('colour.png', np.zeros((8, 8, 3), np.uint8), 'its shape is [8, 8, 3]'),
      ('alpha.png', np.zeros((8, 8, 4), np.uint8), 'its mode is RGBA: convert it'),
      ('text.png', b'no picture', 'it is no picture of PNG'),
      ('text.npy', b'no array', 'text.npy: '),
      ('missing.npy', None, 'No such file'), ('missing.png', None, 'No such file')])
  def test_what_cannot_be_taken_is_refused_in_one_line(self, whole, tmp_path, capsys, name, content,
                                                       line):
    path = tmp_path / name
    if isinstance(content, bytes):
      path.write_bytes(content)
    elif content is not None and name.endswith('.npy'):
      np.save(path, content)
    elif content is not None:
      Image.fromarray(content).save(path)
    assert predict.main([f'--model={whole[0]}/export/student', str(path)]) == Status.DATA
    err = capsys.readouterr().err
    assert line in err and err.startswith(f'distill.predict: {path}: ') and err.count('\n') == 1

  def test_without_pillow_it_says_what_to_install(self, whole, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__('sys').modules, 'PIL', None)
    (tmp_path / 'one.png').write_bytes(b'')
    with pytest.raises(Stop, match='pip install pillow') as stop:
      self.answers(whole, tmp_path / 'one.png')
    assert stop.value.status == Status.DATA


class TestStarting:

  def test_a_student_takes_the_statistics_of_what_it_starts_from(self, whole):
    folder = whole[0] / 'export/student'
    setup = build_setup(config(student={'init': str(folder)}))
    params, rest = setup.trained[1].stage.start({})
    assert {path.removeprefix('model/') for path in rest} == {
        path for path in weights(folder) if path.endswith(('/mean', '/var'))}
    for path, array in weights(folder).items():
      exported = (params | rest)[f'model/{path}']
      np.testing.assert_array_equal(exported, array, err_msg=path)

  def test_a_model_of_other_pixels_or_of_texts_is_refused(self, whole, tmp_path):
    folder = whole[0] / 'export/teacher'
    model, held, card = formats.load(str(folder))
    spell = tokenizer.train(['a text'], 40)
    for other, line in (
        (dataclasses.replace(DATA.modality, mean=[1.0]), 'images of 8 × 8 × 1 with mean 1 and'),
        (text.Text(length=8, widths={'s': (8,)}, tokenizer=spell), 'it takes texts')):
      formats.write(tmp_path / 'other', formats.Shipped(
          model, held, card | modalities.card(other), other))
      with pytest.raises(Stop) as stop:
        build_setup(config(teachers={'teacher': {'init': f'{tmp_path}/other'}}))
      assert stop.value.status == Status.MISFIT and line in str(stop.value)

  def test_widths_are_for_examples_that_differ_in_length(self):
    with pytest.raises(Stop, match=r'data: widths=\(8,\): the examples have one size') as stop:
      build_setup(config(data={'widths': (8,)}))
    assert stop.value.status == Status.CONFIG

  def test_without_costs_no_call_is_timed_and_the_rest_is_the_same(self, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / 'run')
    (tmp_path / 'run/report.json').unlink()
    found = run(tmp_path / 'run', {**config(), 'evaluate': {'cost': False}})
    for model, before in zip(found['models'], whole[1]['models'], strict=True):
      assert (model['latency_ms'], model['throughput_per_s'], model['flops']) == (None,) * 3
      assert before['latency_ms'] and before['throughput_per_s'] and before['flops']
      assert before['robustness'] and not model['robustness'] and not model['layers']
      assert all(model[key] == before[key] for key in ('quality', 'gain', 'params', 'bytes'))

  def test_other_pixels_are_another_run(self, whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / 'run')
    (tmp_path / 'run/report.json').unlink()
    with pytest.raises(Stop, match='begun with other images than digits now has') as stop:
      run(tmp_path / 'run', config(data={'test': 0.3}))
    assert stop.value.status == Status.DATA


class TestShared:

  @pytest.mark.slow
  def test_what_an_equal_stage_left_is_not_trained_or_traced_and_reported_alike(
      self, tmp_path, monkeypatch, capsys):
    prepared, traced = train.prepared, []
    monkeypatch.setattr(train, 'prepared', lambda stage, weights: (
        traced.append(stage.name), prepared(stage, weights))[1])
    first, other = (run(tmp_path / name, node, tmp_path / 'shared') for name, node in (
        ('first', config()), ('other', config(schedules={}, objective={
            **config()['objective'], 'soft': {**config()['objective']['soft'], 'weight': 2.0}}))))
    assert traced == ['teacher', 'student', 'baseline', 'student']
    text = capsys.readouterr().err
    for name in 'teacher', 'baseline':
      assert first['training'][name] == other['training'][name]
      assert f'plan  {name:<10} is there: an equal stage of another run left it\n' in text
      assert f'{name}: taken from {tmp_path}/shared/{name}-' in text
      assert not (tmp_path / 'other/checkpoints' / name).exists()
    assert first['training']['student']['flops'] > first['training']['baseline']['flops'] > 0
    for n, same in enumerate((True, False, True)):
      judged = [report['models'][n] for report in (first, other)]
      assert (judged[0]['quality'] == judged[1]['quality']) == same


def result(workdir):
  """What must not depend on interruptions or devices: weights and records."""
  found = {stage: weights(workdir / 'export' / stage)
           for stage in ('teacher', 'student', 'baseline')}
  for path in (workdir / 'records').glob('*.npz'):
    with np.load(path) as records:
      found[path.name] = dict(records)
  return found


@pytest.mark.slow
def test_stopped_it_resumes_bitwise(whole, tmp_path, monkeypatch):
  workdir = tmp_path / 'run'
  fit, calls = train.fit, []

  def stopped(stage, ready, *how):
    """Ends the first call for every stage after its checkpoint of step 3."""
    calls.append(stage.name)
    if calls.count(stage.name) > 1:
      return fit(stage, ready, *how)
    first = ready.train_step
    def step(state, *arguments):
      if int(state.step) == 4:
        raise KeyboardInterrupt
      return first(state, *arguments)
    return fit(stage, ready.__class__(**(vars(ready) | {'train_step': step})), *how)

  monkeypatch.setattr(train, 'fit', stopped)
  for _ in range(3):
    with pytest.raises(KeyboardInterrupt):
      run(workdir, config())
  run(workdir, config())
  assert [calls.count(name) for name in ('teacher', 'student', 'baseline')] == [4, 3, 2]
  jax.tree.map(np.testing.assert_array_equal, result(workdir), result(whole[0]))


@pytest.mark.slow
def test_one_device_is_eight(whole, tmp_path, monkeypatch):
  layout = sharding.layout
  monkeypatch.setattr(sharding, 'layout', lambda **how: layout(
      **how | {'devices': jax.devices()[:1]}))
  run(tmp_path / 'run', config())
  jax.tree.map(lambda single, eight: np.testing.assert_allclose(single, eight, atol=2e-4),
               result(tmp_path / 'run'), result(whole[0]))
