"""A program answers as its module does, without it; what isn't so, or isn't whole, is refused."""
import copy
import errno
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from jax import export

from distill import checkpoint, formats, hub, modalities, predict, records, sharding, step
from distill import export as door
from distill.data import batches, digits
from distill.formats import stablehlo
from distill.formats.stablehlo import FILE, Program
from distill.modalities import text, tokenizer
from distill.models import bert, resnet
from distill.models.functional import Functional
from distill.tasks import classification
from distill.types import Status, Stop

WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *'abcdefgh', '##b', '##c', '.', ',']
TEXTS = ['a b', 'a bb, .', 'h\tg f e', 'a b c d e f g h\tc b a', 'zz', 'c ' * 30]
ENCODER = dict(vocabulary=len(WORDS), length=16, width=8, depth=1, heads=2, inner=12)
DIGITS = digits.Digits()


def noisy(model, seed=0):
  """Weights away from their start; statistics of batches too, their variances positive."""
  noise = np.random.default_rng(seed)
  draw = lambda path, shape: np.asarray(
      0.5 + noise.random(shape) if 'var' in path else
      ('scale' in path) + 0.3 * noise.standard_normal(shape), np.float32)
  return tuple({path: draw(path, x.shape) for path, x in sorted(part.items())}
               for part in model.shapes)


def encoder(folder, labels, widths=(8, 16)):
  """An exported folder of an encoder."""
  sizes = ENCODER | {'classes': max(1, len(labels))}
  words = folder.parent / 'words'
  words.mkdir(exist_ok=True)
  (words / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
  model = Functional(lambda rngs: bert.Bert(**sizes, rngs=rngs))
  modality = text.Text(length=16, widths={'s': widths}, tokenizer=tokenizer.read(str(words)))
  card = {'model': {'name': 'bert.Bert', **sizes}, 'classes': list(labels), **modality.card()}
  formats.write(folder, formats.Shipped(model, noisy(model), card, modality))
  return folder


def written(model, to, **more):
  """The exit status of the command."""
  return door.main([f'--model={model}', f'--to={to}', *(f'--{k}={v}' for k, v in more.items())])


def shipped(folder):
  """A folder's model with all that its export says."""
  model, weights, card = formats.load_trained(str(folder))
  return formats.Shipped(model, weights, card, modalities.from_card(card, str(folder)))


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  place = tmp_path_factory.mktemp('stablehlo')
  (place / 'texts.txt').write_text('\n'.join(TEXTS * 2) + '\n')
  return place


@pytest.fixture(scope='module')
def texts(place):
  """The folders of a module and of its program."""
  module = encoder(place / 'texts', ('no', 'perhaps', 'yes'))
  assert written(module, place / 'program', inputs=place / 'texts.txt') == Status.DONE
  return module, place / 'program'


@pytest.fixture(scope='module')
def numbers(place):
  module = encoder(place / 'numbers', (), widths=(16,))
  assert written(module, place / 'number', inputs=place / 'texts.txt') == Status.DONE
  return module, place / 'number'


def quality(value):
  return {'accuracy': {'value': value, 'low': value - .02, 'high': value + .02, 'n': 360,
                       'unit': 'fraction', 'higher_is_better': True}}


def reported(*names):
  """The report of a run on the digits."""
  student = {'saw': {'images': 1078, 'labels': 100}, 'params_outside_embeddings': 900,
             'params': 900, 'bytes': 3600, 'energy_j_per_example': None, 'faithfulness': {},
             'retention': None, 'gain': None, 'tier': None, 'latency_ms': None,
             'throughput_per_s': None, 'flops': None, 'peak_memory_bytes': None}
  models = [{**student, 'name': name, 'role': name, 'quality': quality(.5 + .1 * i)}
            for i, name in enumerate(names)]
  return {'schema': 1, 'config_name': 'digits', 'config_sha256': 'c0ffee', 'seed': 0,
          'versions': {}, 'hardware': {'device': 'cpu', 'cpu': 'Xeon', 'cores': 2},
          'data': {'name': 'digits.Digits', 'fingerprint': DIGITS.fingerprint,
                   'splits': {name: len(split) for name, split in DIGITS.splits.items()}},
          'padding_share': None, 'task': {'primary': 'accuracy', 'split': 'test'},
          'models': models, 'training': {}}


def images_run(place, name='student'):
  """The workdir of a run on the digits that has left one model."""
  sizes = {'depth': 8, 'widths': [2, 2, 4, 8], **DIGITS.sizes}
  model = Functional(lambda rngs: resnet.ResNet(**sizes, rngs=rngs))
  card = {'model': {'name': 'resnet.ResNet', **sizes}, 'classes': list(DIGITS.names),
          **modalities.card(DIGITS.modality), 'data': DIGITS.name,
          'fingerprint': DIGITS.fingerprint}
  formats.write(place / 'export' / name, formats.Shipped(
      model, noisy(model), card, DIGITS.modality))
  (place / 'config.json').write_text(json.dumps({
      'data': {'name': 'digits.Digits', 'batch_size': 8, 'seed': 0}, 'evaluate': {}}))
  (place / 'report.json').write_text(json.dumps(reported('student', 'teacher')))
  return place / 'export' / name


@pytest.fixture(scope='module')
def images(place):
  module = images_run(place / 'run')
  assert written(module, place / 'image') == Status.DONE
  return module, place / 'image'


def pixels(place, n):
  np.save(place / 'digits.npy', np.random.default_rng(n).integers(0, 17, (n, 8, 8)))
  return [str(place / 'digits.npy')]


class TestAnswers:

  def test_of_texts_and_pairs_are_those_of_the_module(self, texts):
    module, program = (predict.answers(str(folder), TEXTS) for folder in texts)
    assert program == module and len({row['probability'] for row in module}) == len(TEXTS)

  def test_of_numbers_are_those_of_the_module(self, numbers):
    module, program = (predict.answers(str(folder), TEXTS) for folder in numbers)
    assert program == module and len({row['value'] for row in module}) == len(TEXTS)

  def test_of_images_are_those_of_the_module(self, images, tmp_path):
    module, program = (predict.answers(str(folder), pixels(tmp_path, 5)) for folder in images)
    assert program == module and len({row['probability'] for row in module}) == 5


def test_over_many_devices_the_records_are_the_module_s(images):
  rows = batches.in_order(DIGITS.splits['test'], batch_size=64).map(DIGITS.modality.prepare)
  task, layout = classification.Classification(classes=10), sharding.layout()
  module, program = (
      records.collect(step.make_eval_step(model, task.measure), weights, rows, task, layout)
      for model, weights, _ in map(formats.load_trained, map(str, images)))
  np.testing.assert_array_equal(program['prediction'], module['prediction'])
  np.testing.assert_allclose(program['probabilities'], module['probabilities'], atol=1e-5)


@pytest.mark.parametrize(('size', 'width'), [(1, 16), (3, 5), (64, 1)])
def test_any_batch_and_any_width_go_through_one_program(texts, size, width):
  module, weights, _ = formats.load_trained(str(texts[0]))
  program, none, _ = formats.load_trained(str(texts[1]))
  noise = np.random.default_rng(size)
  batch = {'tokens': noise.integers(0, len(WORDS), (size, width)).astype(np.int32),
           'types': noise.integers(0, 2, (size, width)).astype(np.int32),
           'mask': (noise.random((size, width)) < 0.7).astype(np.float32)}
  wanted, got = (step.make_eval_step(m, step.select_outputs(('logits',)))(*w, batch)['logits']
                 for m, w in ((module, weights), (program, none)))
  assert got.shape == (size, 3)
  np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_the_folder_says_what_it_was_compared_with(texts, numbers, images):
  cards = [checkpoint.open_export(folder, FILE)['card'] for _, folder in (texts, numbers, images)]
  assert all(card['program']['platforms'] == ['cpu', 'cuda', 'tpu'] for card in cards)
  text, number, image = (card['program']['parity'] for card in cards)
  # twelve texts: of every six, four of up to 8 tokens, two above
  assert text['examples'] == 12 and text['batches'] == [1, 2, 4, 8]
  assert text['widths'] == [8, 16] and text['agreement'] == 1
  assert number['agreement'] is None
  n = len(DIGITS.splits['test'])
  assert image['examples'] == n and image['widths'] == []
  assert image['batches'] == [1, 2, 64]           # the last is filled with empty rows
  assert all(p['largest_difference'] <= p['tolerance'] for p in (text, number, image))


def test_the_folder_says_what_the_program_holds(texts, images):
  for module, folder in texts, images:
    _, weights, _ = formats.load_trained(str(module))
    program = checkpoint.open_export(folder, FILE)['card']['program']
    sizes, kept = (sum(x.size for x in part.values()) for part in weights)
    assert program['params'] == sizes and program['quantised'] == 0
    assert program['bytes'] == 4 * (sizes + kept) <= (folder / FILE).stat().st_size    # all float32
  assert kept         # an image model's statistics


def test_a_width_that_no_example_has_is_tried_too(texts, place, tmp_path):
  (tmp_path / 'short.txt').write_text('a b\n')
  assert written(texts[0], tmp_path / 'to', inputs=tmp_path / 'short.txt') == Status.DONE
  parity = checkpoint.open_export(tmp_path / 'to', FILE)['card']['program']['parity']
  assert parity['widths'] == [8, 16] and parity['batches'] == [1]


class TestReadme:

  def code(self, folder):
    found, = re.findall(r'```python\n(.*?)```', (folder / 'README.md').read_text(), re.DOTALL)
    return found

  def test_its_lines_give_the_answers(self, texts, numbers, images, monkeypatch, tmp_path):
    for module, folder in (texts, numbers, images):
      monkeypatch.chdir(folder)
      exec(self.code(folder), names := {})
      inputs = names['texts'] if 'texts' in names else pixels(tmp_path, 1)
      if 'texts' not in names:
        names['found'] = names['answers'](np.load(*inputs)[..., None])
      rows, found = predict.answers(str(module), inputs), names['found']['logits']
      for row, logits in zip(rows, found, strict=True):
        answer = names['card']['classes'][logits.argmax()] if 'label' in row else float(logits[0])
        assert row.get('label', row.get('value')) == (
            answer if 'label' in row else pytest.approx(answer, abs=1e-3))

  @pytest.mark.slow
  def test_its_lines_need_nothing_of_this_package(self, texts):
    made = subprocess.run(
        [sys.executable, '-c', 'import sys\nsys.modules["distill"] = None\n'
         + self.code(texts[1])], cwd=texts[1], capture_output=True, text=True,
        env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'})
    wanted = predict.answers(str(texts[0]), [
        'How do I run this?', 'A second text, of another length.'])
    assert made.stdout.strip() == str([row['label'] for row in wanted]), made.stderr

  def test_it_says_how_good_the_model_is_and_that_nothing_is_known(self, texts, images):
    known, unknown = ((folder / 'README.md').read_text() for _, folder in (images, texts))
    assert '50.0 % (48.0–52.0)' in known and 'split `test`' in known and '1,078 images' in known
    assert 'student of the teacher' in known and 'keeps' not in known       # nothing was kept there
    assert 'nothing is claimed' in unknown and 'no, perhaps, yes' in unknown
    for page in (known, unknown):
      assert 'None' not in page and '\n\n\n\n' not in page and page.count('# ') >= 5

  def test_whoever_writes_in_it_breaks_nothing(self, images, tmp_path):
    with (images[1] / 'README.md').open('a') as file:
      file.write('Mine.\n')
    assert predict.answers(str(images[1]), pixels(tmp_path, 1))


class TestParity:

  @pytest.fixture
  def broken(self, monkeypatch):
    """Has the program made of other weights than the module has."""
    whole = stablehlo.serialize

    def breaks(path, value, part=0):
      def serialized(shipped, outputs):
        weights = copy.deepcopy(shipped.weights)
        weights[part][path] = np.full(weights[part][path].shape, value, np.float32)
        return whole(shipped._replace(weights=weights), outputs)
      monkeypatch.setattr(stablehlo, 'serialize', serialized)
    return breaks

  @pytest.mark.parametrize('value', [0.0, np.nan])
  def test_one_other_weight_is_refused_by_the_worst_example(self, texts, place, broken, tmp_path,
                                                            capsys, value):
    broken('blocks/0/query/bias', value)
    assert written(texts[0], tmp_path / 'to', inputs=place / 'texts.txt') == Status.CHECKPOINT
    line = capsys.readouterr().err.splitlines()[-1]
    assert 'nothing was written' in line and not list(tmp_path.iterdir())
    assert any(repr(text[:60]) in line for text in TEXTS) and 'where the module has [' in line

  def test_other_statistics_are_refused(self, images, broken, tmp_path, capsys):
    broken('stem_norm/mean', 0.0, part=1)
    assert written(images[0], tmp_path / 'to') == Status.CHECKPOINT
    assert re.search(r'of example \d+ of the split test of digits', capsys.readouterr().err)
    assert not list(tmp_path.iterdir())


class TestRefused:

  def test_what_is_there_is_never_overwritten(self, texts, numbers, place, tmp_path, capsys):
    kept = (texts[1] / FILE).stat()
    assert written(texts[0], texts[1]) == Status.DONE           # the same again: skipped
    assert 'has this program already' in capsys.readouterr().err
    assert (texts[1] / FILE).stat() == kept
    (tmp_path / 'file').write_text('mine')
    (tmp_path / 'folder').mkdir()
    for to in texts[1], tmp_path / 'file', tmp_path / 'folder':
      assert written(numbers[0], to, inputs=place / 'texts.txt') == Status.CONFIG
      assert 'nothing is overwritten' in capsys.readouterr().err
    assert (tmp_path / 'file').read_text() == 'mine'

  def test_a_full_disk_leaves_nothing(self, images, place, tmp_path, monkeypatch, capsys):
    def full(_):
      raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(checkpoint.os, 'fsync', full)
    np.save(place / 'one.npy', np.zeros((8, 8)))
    assert written(images[0], tmp_path / 'to', inputs=place / 'one.npy') == Status.DISK
    assert 'No space left' in capsys.readouterr().err and not list(tmp_path.iterdir())

  def test_what_cannot_be_exported_is_named(self, texts, images, place, tmp_path, capsys,
                                            monkeypatch):
    empty, lines = tmp_path / 'empty', place / 'texts.txt'
    empty.mkdir()
    (tmp_path / 'nothing.txt').write_text('\n')

    def absent(name, where):
      raise Stop(Status.CHECKPOINT, f'{where}={name!r} is no folder here')
    monkeypatch.setattr(hub, '_from_hub', absent)
    for model, more, status, line in (
        (empty, {}, Status.CHECKPOINT, 'config.json'),
        ('org/name', {}, Status.CHECKPOINT, "--model='org/name' is no folder here"),
        (tmp_path / 'none.bin', {}, Status.CHECKPOINT, 'can run code'),
        (texts[0], {}, Status.CONFIG, 'give --inputs=FILE'),
        (texts[0], {'inputs': tmp_path / 'nothing.txt'}, Status.DATA, 'is empty'),
        (texts[0], {'inputs': tmp_path / 'none.txt'}, Status.DATA, 'No such file'),
        (texts[0], {'input': lines}, Status.CONFIG, 'usage: '),
        (texts[1], {}, Status.CONFIG, 'is a program already'),
        (images[0].parent.parent, {}, Status.CONFIG, 'export/student'),
        (images[0], {'inputs': lines}, Status.DATA, 'texts.txt')):
      assert written(model, tmp_path / 'to', **more) == status, model
      assert line in capsys.readouterr().err
    assert door.main([]) == door.main([f'--model={empty}', '--to=']) == Status.CONFIG
    assert not (tmp_path / 'to').exists()

  def test_other_data_than_the_model_s_is_named(self, tmp_path, capsys):
    module = images_run(tmp_path / 'run')
    config = tmp_path / 'run' / 'config.json'
    config.write_text(config.read_text().replace('"seed"', '"test": 0.3, "seed"'))
    assert written(module, tmp_path / 'to') == Status.DATA
    assert 'is not what the model was trained on' in capsys.readouterr().err

  def test_an_altered_program_is_named(self, texts, tmp_path):
    for name in FILE, 'tokenizer.json', 'config.json':
      folder = tmp_path / name
      folder.mkdir()
      for file in texts[1].iterdir():
        content = bytearray(file.read_bytes())
        if file.name == name:
          content[len(content) // 2] ^= 1
        (folder / file.name).write_bytes(content)
      with pytest.raises(Stop, match=f'{name} is damaged') as stop:
        predict.answers(str(folder), TEXTS)
      assert stop.value.status == Status.CHECKPOINT

  def test_another_platform_is_named(self, texts):
    made = stablehlo.serialize(shipped(texts[0]), ['logits'], platforms=('tpu',))
    with pytest.raises(Stop, match='PLACE runs on tpu, and this is cpu: set JAX_PLATFORMS=tpu'):
      Program(made, 'PLACE', '0.10.2')

  def test_what_this_jax_cannot_read_is_named(self, texts, monkeypatch):
    made = (texts[1] / FILE).read_bytes()
    with pytest.raises(Stop, match=r'cannot read what jax 9\.9 wrote .*pip install jax==9\.9'):
      Program(made[:100], 'PLACE', '9.9')
    monkeypatch.setattr(export, 'minimum_supported_calling_convention_version', 99)
    with pytest.raises(Stop, match='its calling convention is'):
      Program(made, 'PLACE', '0.4.30')

  def test_a_program_is_nobody_s_start(self, texts):
    with pytest.raises(Stop, match='neither parameters nor layers') as stop:
      formats.load(str(texts[1]), 'student.init')
    assert stop.value.status == Status.CHECKPOINT

  def test_a_missing_package_is_named_by_its_extra(self, texts, monkeypatch):
    monkeypatch.setitem(sys.modules, 'flatbuffers', None)
    with pytest.raises(Stop, match=r'distill\[export\]'):
      stablehlo.serialize(shipped(texts[0]), ['logits'])
