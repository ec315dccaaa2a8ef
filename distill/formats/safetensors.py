"""Our export: parameters by our paths in a safetensors file, sealed with their card."""
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from distill import checkpoint, disk
from distill.formats import Opened, Shipped, Trial, parameters, read_sealed
from distill.models.sizes import sizes
from distill.types import Status, Stop

FILE = 'model.safetensors'
METADATA = {'format': 'pt'}         # without it `transformers` refuses the file


class Safetensors:
  """A model of ours whose class is named in its card; only `distill` reads the folder."""
  suffix, trainable = '.safetensors', True

  def holds(self, folder: pathlib.Path) -> bool:
    try:
      about = disk.read_json(folder / checkpoint.CARD)
    except (OSError, ValueError):
      return False
    return isinstance(about, dict) and 'card' in about and 'model_type' not in about

  def open(self, folder: pathlib.Path, path: str, **changes: Any) -> Opened:
    card = read_sealed(folder, FILE)['card']
    try:
      with safe_open(folder / FILE, 'np') as file, safe_open(folder / FILE, 'flax') as wide:
        arrays = {name: (wide if file.get_slice(name).get_dtype() == 'BF16' else file
                         ).get_tensor(name) for name in file.keys()}      # NumPy has no bfloat16
    except (SafetensorError, OSError) as error:
      raise Stop(Status.CHECKPOINT, f'{folder} is no intact exported model: {FILE} cannot be read: '
                 f'{error}') from error
    arrays = {name: np.asarray(array, np.float32)
              if jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize == 2 else array
              for name, array in arrays.items()}
    return parameters.assemble(arrays, card, folder, path, **changes)

  def write(self, folder: pathlib.Path, shipped: Shipped, trial: Trial | None = None,
            about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    arrays = shipped.weights[0] | shipped.weights[1]
    return write_tensors(folder, arrays, shipped, shipped.modality.files())

  def sizes(self, folder: pathlib.Path, weights: parameters.Weights,
            card: Mapping[str, Any]) -> dict[str, Any]:
    return {**sizes(weights), 'hidden_bytes': 0, 'shipped_bytes': file_bytes(folder)}


def write_tensors(folder: pathlib.Path, arrays: Mapping[str, Any], shipped: Shipped,
                  files: Mapping[str, str],
                  config: Mapping[str, Any] | None = None) -> dict[str, Any]:
  """Writes tensors, card and text files, after checking that the tensors are read bit by bit.

  `config` are further fields of `config.json`, for other libraries.
  """
  arrays = {name: checkpoint.to_export_array(array) for name, array in arrays.items()}
  content = safetensors.numpy.save(arrays, METADATA)
  read = {name: (tuple(tensor['shape']), bytes(tensor['data']))
          for name, tensor in safetensors.deserialize(content)}
  for name, array in arrays.items():
    if read[name] != (array.shape, array.tobytes()):
      raise Stop(Status.CHECKPOINT, f'{folder}: {name} is read otherwise than it is, so nothing '
                 f'was written: safetensors {safetensors.__version__} is not sound here')
  checkpoint.write_export(folder, {FILE: content} | {k: v.encode() for k, v in files.items()},
                          shipped.card, config)
  return {'tolerance': 0, 'largest_difference': 0}


def file_bytes(folder: pathlib.Path) -> int | None:
  """Counts the bytes of the weights in a folder, in one file or several shards."""
  files = [*folder.glob('*.safetensors')]
  return sum(file.stat().st_size for file in files) if files else None
