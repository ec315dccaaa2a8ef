"""Folders of `transformers` as files: every form of the weights, and bad files by their names."""
import codecs
import json

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.flax
import safetensors.numpy

from distill.formats.huggingface import HuggingFace
from distill.types import Status, Stop
from tests.models.test_huggingface import (
    computed,
    golden,
    live,
    ours,
    peers,
    read,
    theirs,
    write,
)

__all__ = ['peers']                 # a fixture


def opened(folder):
  """The parameters of a folder, beside whose weights a tokenizer is put."""
  words = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *(f'word{i}' for i in range(35))]
  (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
  _, (params, rest), card = HuggingFace().open(folder, '--model')
  assert card['fresh'] == [] and rest == {}
  return params


def same(found, wanted):
  assert found.keys() == wanted.keys()
  for path, value in wanted.items():
    np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize('how', ['shards', 'bfloat16', 'float16', 'old names'])
def test_every_form_of_the_weights_gives_the_same_parameters(tmp_path, how):
  config, arrays, _ = golden('Bert')
  narrow = lambda x: np.asarray(jnp.asarray(x, how).astype(jnp.float32))
  wide = {k: narrow(x) for k, x in arrays.items()} if '16' in how else arrays
  wanted = read(write(tmp_path / 'wide', config, wide)).params
  folder = write(tmp_path / 'form', config, arrays)
  file = folder / 'model.safetensors'
  if '16' in how:
    safetensors.flax.save_file({k: jnp.asarray(x, how) for k, x in arrays.items()}, file)
  elif how == 'shards':
    names = sorted(arrays)
    for i in range(3):
      safetensors.numpy.save_file({k: arrays[k] for k in names[i::3]}, folder / f'part{i}')
    file.unlink()
    (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': {
        name: f'part{i % 3}' for i, name in enumerate(names)}}))
  else:                             # as TensorFlow's BERT says it
    old = {name.replace('Norm.weight', 'Norm.gamma').replace('Norm.bias', 'Norm.beta'): array
           for name, array in arrays.items()}
    old['bert.embeddings.position_ids'] = np.arange(14)[None]
    safetensors.numpy.save_file(old, file)
  same(opened(folder), wanted)


@live
@pytest.mark.parametrize('how', ['shards', 'bfloat16', 'float16', 'one file'])
def test_every_form_that_transformers_writes_is_read(peers, how, tmp_path):
  model = theirs('Bert', 'ForSequenceClassification')
  if '16' in how:
    import torch
    model = model.to(getattr(torch, how))
  model.save_pretrained(tmp_path / 'form', max_shard_size='5KB' if how == 'shards' else '1GB')
  assert (tmp_path / 'form' / 'model.safetensors').exists() == (how != 'shards')
  model.float().save_pretrained(tmp_path / 'wide')
  same(opened(tmp_path / 'form'), opened(tmp_path / 'wide'))
  np.testing.assert_allclose(ours(tmp_path / 'wide')['logits'], computed(model)['logits'],
                             atol=1e-5)


@pytest.fixture
def tiny(tmp_path):
  """A folder, and what writes it anew with other tensors."""
  config, arrays, _ = golden('Bert')
  return lambda arrays=arrays: write(tmp_path / 'tiny', config, arrays)


def refused(folder, *lines):
  with pytest.raises(Stop) as stop:
    HuggingFace().open(folder, '--model')
  assert stop.value.status == Status.CHECKPOINT and str(folder) in str(stop.value)
  assert '\n' not in str(stop.value)
  for line in lines:
    assert line in str(stop.value)


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
  refused(tmp_path, 'it is no checkpoint: config.json')
  (tmp_path / 'config.json').write_text('[]')
  refused(tmp_path, 'holds no object')
  for content in (b'\xff{', b'[' * 99999, '{"a": 1}'.encode('utf-16')):
    (tmp_path / 'config.json').write_bytes(content)
    refused(tmp_path, 'is no JSON')


def test_a_byte_order_mark_is_no_part_of_a_config(tmp_path):
  config, arrays, _ = golden('Bert')
  folder = write(tmp_path / 'x', config, arrays)
  wanted = opened(folder)
  (folder / 'config.json').write_bytes(codecs.BOM_UTF8 + (folder / 'config.json').read_bytes())
  same(opened(folder), wanted)


def test_a_tensor_in_two_shards_is_refused(tiny):
  folder = tiny()
  (folder / 'model.safetensors').rename(folder / 'a')
  (folder / 'b').write_bytes((folder / 'a').read_bytes())
  (folder / 'model.safetensors.index.json').write_text('{"weight_map": {"x": "a", "y": "b"}}')
  refused(folder, f'{folder}/b: another file of the folder has the tensor bert.embeddings')


def test_weights_that_are_cut_off_are_refused(tiny):
  folder = tiny()
  whole = (folder / 'model.safetensors').read_bytes()
  for size in (0, 4, 200, len(whole) - 1):
    (folder / 'model.safetensors').write_bytes(whole[:size])
    refused(folder, 'model.safetensors: it cannot be read')


def test_pickles_are_refused_with_what_to_do(tiny):
  folder = tiny()
  (folder / 'model.safetensors').rename(folder / 'pytorch_model.bin')
  refused(folder, 'pytorch_model.bin: a pickle', 'save_pretrained')
  (folder / 'pytorch_model.bin').unlink()
  refused(folder, 'there is no model.safetensors in it')


@pytest.mark.parametrize(('index', 'line'), [
    ({'weight_map': {'a': '../tiny/shard-1'}}, 'no ../tiny/shard-1 in it'),
    ({'weight_map': {'a': 'shard-1', 'b': 'shard-2'}}, 'no shard-2 in it'),
    ({'weight_map': {'a': 'shard-1'}}, 'the tensor bert.embeddings.word_embeddings.weight is miss'),
    ({'weight_map': {'a': 7}}, 'no 7 in it'),
    ({'weight_map': ['a']}, 'maps no tensors to files'),
    ({}, 'maps no tensors to files'),
])
def test_an_index_of_shards_that_is_wrong_is_refused(tiny, index, line):
  folder = tiny({'classifier.bias': np.zeros(3)})
  (folder / 'model.safetensors').rename(folder / 'shard-1')
  (folder / 'model.safetensors.index.json').write_text(json.dumps(index))
  refused(folder, line)
