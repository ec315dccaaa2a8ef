"""What is taken from an exported or pretrained model, what starts anew, and what is refused."""
import functools
import json

import numpy as np
import pytest
import safetensors.numpy

from distill import checkpoint, formats
from distill.models import bert, huggingface
from distill.models.functional import Functional
from distill.types import Status, Stop

NODE = dict(vocabulary=9, length=16, width=8, depth=1, heads=2, inner=16)
WORDS = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', 'a', 'b', 'c', 'd']


@functools.cache
def params(classes=3, words=False):
  """Arrays that differ in every number."""
  net = Functional(lambda rngs: bert.Bert(**NODE, classes=classes, words=words, rngs=rngs))
  noise = np.random.default_rng(0)
  return {path: noise.standard_normal(x.shape).astype(np.float32)
          for path, x in net.shapes[0].items()}


@pytest.fixture
def pretrained(tmp_path):
  """Writes a folder as `transformers` saves it, without the tensors whose names are left out."""
  def write(*left_out, labels=('x', 'y', 'z'), words=False):
    arrays, config = huggingface.named({'name': 'bert.Bert', **NODE},
                                       params(max(1, len(labels)), words), labels)
    folder = tmp_path / 'pretrained'
    folder.mkdir(exist_ok=True)
    safetensors.numpy.save_file({name: array for name, array in arrays.items()
                                 if not name.startswith(left_out)}, folder / 'model.safetensors')
    (folder / 'config.json').write_text(json.dumps(config))
    (folder / 'vocab.txt').write_text('\n'.join(WORDS) + '\n')
    return str(folder)
  return write


HEAD = ['head/bias', 'head/kernel']
POOLER = ['pooler/bias', 'pooler/kernel']


def test_a_checkpoint_is_taken_as_it_is(pretrained):
  net, (found, rest), card = formats.load(pretrained())
  assert card['fresh'] == [] and card['classes'] == ('x', 'y', 'z') and rest == {}
  assert card['model'].items() >= {'name': 'bert.Bert', **NODE, 'classes': 3}.items()
  assert card['widths'] == [4, 8, 16] and len(card['tokenizer_sha256']) == 64
  for path, value in params().items():
    np.testing.assert_array_equal(found[path], value)


@pytest.mark.parametrize(('left_out', 'fresh', 'anew'), [
    (('classifier.', 'bert.pooler.'), (), HEAD + POOLER),
    ((), ('head/*',), HEAD),
])
def test_parts_that_are_missing_or_unwanted_start_anew_with_the_classes_of_the_data(
    pretrained, left_out, fresh, anew):
  place, kept = pretrained(*left_out), params()
  found = [formats.load(place, fresh=fresh, sizes={'classes': 5, 'vocabulary': 7}, seed=seed)
           for seed in (1, 1, 2)]
  for _, (arrays, _), card in found:
    assert card['fresh'] == anew and card['classes'] == ()
    assert card['model']['classes'] == 5 and card['model']['vocabulary'] == 9
    assert arrays['head/kernel'].shape == (8, 5)
    for path in arrays.keys() - anew:
      np.testing.assert_array_equal(arrays[path], kept[path])
  first, same, other = (arrays['head/kernel'] for _, (arrays, _), _ in found)
  assert (first == same).all() and (first != other).any()


def test_a_head_that_is_taken_keeps_its_classes(pretrained):
  _, (found, _), card = formats.load(pretrained(), sizes={'classes': 5})
  assert card['model']['classes'] == 3 and found['head/bias'].shape == (3,)


def test_a_head_of_which_a_part_is_taken_keeps_its_classes(pretrained):
  _, (found, _), card = formats.load(pretrained(), fresh=('head/kernel',), sizes={'classes': 5})
  assert card['fresh'] == ['head/kernel'] and card['classes'] == ('x', 'y', 'z')
  assert card['model']['classes'] == 3 and found['head/kernel'].shape == (8, 3)
  assert (found['head/kernel'] != params()['head/kernel']).any()


def test_masked_words_are_taken_only_by_a_model_that_has_them(pretrained):
  place = pretrained(words=True)
  assert not any(path.startswith('words/') for path in formats.load(place)[1][0])
  _, (found, _), card = formats.load(place, model={'words': True})
  assert card['fresh'] == [] and found['words/bias'].shape == (9,)
  _, _, card = formats.load(pretrained(), model={'words': True})
  assert {path.split('/')[0] for path in card['fresh']} == {'words'}


def test_dropout_is_the_caller_s(pretrained):
  _, _, card = formats.load(pretrained(), model={'dropout': 0.3})
  assert card['model']['dropout'] == 0.3


def refused(status, line, *arguments, **keywords):
  with pytest.raises(Stop) as stop:
    formats.load(*arguments, **keywords)
  assert stop.value.status == status and line in str(stop.value)


def test_what_cannot_be_taken_is_refused(pretrained, tmp_path):
  place = pretrained()
  refused(Status.CONFIG, "fresh='heads/*' matches no parameter", place, fresh=('heads/*',))
  refused(Status.CONFIG, 'dropout=2.0', place, 'init', model={'dropout': 2.0})
  (tmp_path / 'pretrained' / 'vocab.txt').unlink()
  refused(Status.DATA, 'teachers.t.init: ', place, 'teachers.t.init')


def test_an_export_of_ours_is_verified_and_must_be_whole(tmp_path):
  card = {'model': {'name': 'bert.Bert', **NODE, 'classes': 3}, 'classes': ['x', 'y', 'z']}
  whole = params()
  part = {path: value for path, value in whole.items() if path != 'norm/scale'}
  more = {'model': {**card['model'], 'classes': 5}, 'classes': ['v', 'w', 'x', 'y', 'z']}
  for name, arrays, its in (('whole', whole, card), ('part', part, card), ('more', whole, more)):
    file = {'model.safetensors': safetensors.numpy.save(arrays)}
    checkpoint.write_export(tmp_path / name, file, its)
  assert formats.load(str(tmp_path / 'whole'))[2]['fresh'] == []
  refused(Status.CHECKPOINT, 'norm/scale is missing in the weights', str(tmp_path / 'part'))
  refused(Status.CHECKPOINT, 'head/bias is (3,) in the weights and (5,) in the model',
          str(tmp_path / 'more'))
  config = tmp_path / 'whole' / 'config.json'
  config.write_text(config.read_text().replace('"x"', '"w"'))
  refused(Status.CHECKPOINT, 'config.json is damaged', str(tmp_path / 'whole'))
