"""Folders of Hugging Face `transformers`: our models that it has too, or its own."""
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from distill import disk
from distill.formats import Opened, Shipped, Trial, parameters, read_sealed
from distill.formats.safetensors import FILE, file_bytes, write_tensors
from distill.modalities import tokenizer as tokenizers
from distill.modalities.text import Text
from distill.models import huggingface
from distill.models.sizes import sizes
from distill.types import Status, Stop

KINDS = 'F64', 'F32', 'F16', 'BF16'     # types of tensors, as a file names them
CONFIG, TOKENIZER, INDEX = 'config.json', 'tokenizer_config.json', f'{FILE}.index.json'


class HuggingFace:
  """Tensors and `config.json` with the names of `transformers`, which loads the folder unchanged.

  Our exports also have a sealed card, and are verified; a folder that `transformers` wrote is read
  strictly, tensor by tensor. No pickle is read.
  """
  suffix, trainable = '.safetensors', True

  def holds(self, folder: pathlib.Path) -> bool:
    return (folder / CONFIG).is_file()

  def open(self, folder: pathlib.Path, path: str, **changes: Any) -> Opened:
    config = _json(folder / CONFIG)
    ours = 'card' in config and 'transformers_version' not in config  # saving there copies our card
    card = read_sealed(folder, FILE)['card'] if ours else {}
    found = huggingface.read(config, _tensors(folder), folder)
    if not ours:
      reads = Text.from_folder(str(folder), found.node['length'], path)
      card = {'model': {**found.node, 'classes': max(len(found.labels), 1)},
              'classes': found.labels, **reads.card()}
      if found.multilabel:
        card['task'] = {'name': 'multilabel.MultiLabel'}
    return parameters.assemble(found.params, card, folder, path, names=found.names, **changes)

  def write(self, folder: pathlib.Path, shipped: Shipped, trial: Trial | None = None,
            about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    if not knows(shipped):
      raise Stop(Status.CONFIG, f'transformers has no {shipped.card["model"]["name"]} of this kind '
                 f'that reads {shipped.modality.noun} by a tokenizer: take another format')
    tensors, config = _named(shipped)
    if halves := {array.dtype.name for array in tensors.values()} - {'float32'}:
      config = config | {'torch_dtype': min(halves)}
    files = shipped.modality.files()
    tokenizer = files['tokenizer.json']
    about = _tokenizer_config(tokenizer, shipped.card, config)
    files = files | {TOKENIZER: json.dumps(about, indent=2, allow_nan=False)}
    return write_tensors(folder, tensors, shipped, files, config)

  def sizes(self, folder: pathlib.Path, weights: parameters.Weights,
            card: Mapping[str, Any]) -> dict[str, Any]:
    return {**sizes(weights), 'hidden_bytes': 0, 'shipped_bytes': file_bytes(folder)}


def knows(shipped: Shipped) -> bool:
  """Tells whether `transformers` has such a model, and its inputs come from a tokenizer."""
  return _named(shipped) is not None and 'tokenizer.json' in shipped.modality.files()


def _named(shipped: Shipped) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  return huggingface.named(shipped.card['model'], shipped.weights[0] | shipped.weights[1],
                           shipped.card['classes'])


def _tokenizer_config(tokenizer: str, card: Mapping[str, Any],
                      config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the tokenizer config that `transformers` needs beside tokenizer.json."""
  content = json.loads(tokenizer)
  words = {i: word for word, i in content['model']['vocab'].items()} | {
      token['id']: token['content'] for token in content['added_tokens']}
  special = {f'{name.strip("[]").lower()}_token': words[i]
             for name, i in tokenizers.special_ids(tokenizer).items()}
  names = ('token_type_ids',) if 'type_vocab_size' in config else ()
  length = card.get('length', card['model']['length'])
  return {'tokenizer_class': 'PreTrainedTokenizerFast', 'model_max_length': length,
          'model_input_names': ['input_ids', *names, 'attention_mask'], **special}


def _tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads all tensors as float32, from one file or from the shards that an index names."""
  files, arrays = {FILE}, {}
  if (folder / INDEX).is_file() and not (folder / FILE).is_file():
    try:
      files = {str(name) for name in _json(folder / INDEX)['weight_map'].values()}
    except (KeyError, AttributeError):
      raise _fault(folder, f'{INDEX} maps no tensors to files') from None
  for name in sorted(files):
    if pathlib.PurePath(name).name != name or not (folder / name).is_file():
      pickles = sorted(path.name for path in folder.glob('*.bin'))
      raise _fault(folder, f'there is no {name} in it' + (
          f', but {pickles[0]}: a pickle, which can run code when it is opened; convert it by '
          "from_pretrained(DIR).save_pretrained(DIR) of the model's class in transformers"
          if pickles else ''))
    found = _read_file(folder / name)
    twice = sorted(found.keys() & arrays.keys())
    if twice:
      raise _fault(folder / name, f'another file of the folder has the tensor {twice[0]} too')
    arrays |= found
  return arrays


def _read_file(path: pathlib.Path) -> dict[str, np.ndarray]:
  """Reads the tensors of a file as float32; stops at a type that weights don't have."""
  found = {}
  try:
    with safe_open(path, 'flax') as file:       # NumPy has no bfloat16
      for name in file.keys():
        if name.endswith('position_ids'):       # the numbers from 0, which older versions saved
          continue
        kind = file.get_slice(name).get_dtype()
        if kind not in KINDS:
          raise _fault(path, f'the tensor {name} is {kind}; weights of {", ".join(KINDS)} are '
                       'known')
        with np.errstate(over='ignore'):        # beyond float32 is inf, which is refused later
          found[name] = np.asarray(file.get_tensor(name).astype(jnp.float32))
  except (SafetensorError, OSError) as error:
    raise _fault(path, f'it cannot be read: {" ".join(str(error).split())}') from error
  return found


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = disk.read_json(path)
  except OSError as error:
    raise _fault(path.parent, f'it is no checkpoint: {path.name}: {error.strerror}') from error
  except ValueError as error:
    raise _fault(path, f'it is no JSON: {error}') from error
  if not isinstance(content, dict):
    raise _fault(path, 'it holds no object')
  return content


def _fault(path: pathlib.Path, line: str) -> Stop:
  return Stop(Status.CHECKPOINT, f'{path}: {line}')
