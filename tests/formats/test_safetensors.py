"""Our own folder: tensors as float32 to the bit, hostile files refused, nothing executed."""
import os
import pickle

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from distill import checkpoint
from distill.formats import Shipped
from distill.formats.safetensors import Safetensors, file_bytes, write_tensors
from distill.types import Status, Stop

PARAMS = {'blocks/0/kernel': jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], jnp.bfloat16),
          'bias': np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
          'scale': jnp.float32(0.1), 'levels': np.arange(3, dtype=np.int8)}
TEXTS = {'tokenizer.json': '{"é": 1}\r\n', 'README.md': ''}
CARD = {'model': {'name': 'bert.Bert', 'layers': 2}, 'classes': ['json', 'ast']}
SHIPPED = Shipped(None, ({}, {}), CARD, None)


class Canary:
  def __reduce__(self):
    return os.mkdir, ('executed',)


def test_what_ships_is_what_was_given_in_float32_at_most(tmp_path):
  folder = tmp_path / 'export'
  assert write_tensors(folder, PARAMS, SHIPPED, TEXTS) == {'tolerance': 0, 'largest_difference': 0}
  params = safetensors.numpy.load_file(folder / 'model.safetensors')
  assert checkpoint.open_export(folder, 'model.safetensors')['card'] == CARD
  assert {k: str(a.dtype) for k, a in params.items()} == {
      'blocks/0/kernel': 'bfloat16', 'bias': 'float32', 'scale': 'float32', 'levels': 'int8'}
  for name, array in PARAMS.items():
    np.testing.assert_array_equal(np.asarray(params[name], np.float32),
                                  np.asarray(array, np.float32))
  assert params['scale'].shape == ()
  assert {n: (folder / n).read_bytes().decode() for n in TEXTS} == TEXTS
  assert {p.name for p in folder.iterdir()} == {'config.json', 'model.safetensors', *TEXTS}
  assert Safetensors().holds(folder)


@pytest.mark.parametrize('change', [
    lambda x: x + np.float32(2**-20), lambda x: np.where(x == 0, np.float32(-0.0), x),
    lambda x: x.T, lambda x: x.astype(np.float16)])
def test_a_library_that_changes_one_bit_is_noticed_and_nothing_is_written(
    tmp_path, monkeypatch, change):
  save = safetensors.numpy.save
  monkeypatch.setattr(safetensors.numpy, 'save', lambda arrays, metadata: save(
      {**arrays, 'bias': np.ascontiguousarray(change(arrays['bias']))}, metadata))
  with pytest.raises(Stop, match='bias is read otherwise than it is') as stop:
    write_tensors(tmp_path / 'export', PARAMS, SHIPPED, {})
  assert stop.value.status == Status.CHECKPOINT and not list(tmp_path.iterdir())


def test_numbers_that_are_none_are_kept_to_the_bit(tmp_path):
  odd = np.array([0xFFC00001, 0x7F800000, 0x80000000], np.uint32).view(np.float32)
  write_tensors(tmp_path / 'export', {'odd': odd}, SHIPPED, {})
  found = safetensors.numpy.load_file(tmp_path / 'export' / 'model.safetensors')['odd']
  assert found.view(np.uint32).tolist() == odd.view(np.uint32).tolist()


def test_what_ships_is_as_large_as_all_files_of_tensors(tmp_path):
  assert file_bytes(tmp_path) is None
  (tmp_path / 'a.safetensors').write_bytes(b'1234')
  (tmp_path / 'b.safetensors').write_bytes(b'56')
  (tmp_path / 'config.json').write_text('{}')
  assert file_bytes(tmp_path) == 6
  assert Safetensors().sizes(tmp_path, ({'a/embedding': np.zeros(3, np.float32)}, {}), {}) == {
      'params': 3, 'params_outside_embeddings': 0, 'bytes': 12, 'quantised': 0,
      'hidden_bytes': 0, 'shipped_bytes': 6}


@pytest.mark.parametrize('weights', [
    pickle.dumps(Canary()), (2**63 - 1).to_bytes(8, 'little') + b'{}', b'', b'\0' * 100,
    len(header := b'{"w":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}')
    .to_bytes(8, 'little') + header,
], ids=['pickle', 'a header longer than the file', 'nothing', 'zeros', 'a shape that lies'])
def test_hostile_weights_are_refused_and_nothing_is_executed(tmp_path, monkeypatch, weights):
  monkeypatch.chdir(tmp_path)
  checkpoint.write_export(tmp_path / 'export', {'model.safetensors': weights}, CARD)
  with pytest.raises(Stop, match='model.safetensors cannot be read') as stop:
    Safetensors().open(tmp_path / 'export', '--model')
  assert stop.value.status == Status.CHECKPOINT and '\n' not in str(stop.value)
  assert not (tmp_path / 'executed').exists()
