"""Pretrained encoders in the format of Hugging Face `transformers`: a table of names, both ways.

BERT (and MiniLM, which is one), RoBERTa and DistilBERT. A checkpoint is read strictly: every
tensor has a place or is known to have none, and a part — encoder, pooler, head, masked-word
head — is there whole or not at all.
"""
import dataclasses
import fnmatch
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from distill.lookup import nearest
from distill.models.pure import Flat
from distill.types import Status, Stop

CONFIG, WEIGHTS = 'config.json', 'model.safetensors'
INDEX = f'{WEIGHTS}.index.json'
PARTS = ('pooler', 'head', 'words')         # that a checkpoint may lack


@dataclasses.dataclass(frozen=True)
class Family:
  """How `transformers` names one kind of encoder.

  `names` maps our modules to theirs: `{}` is the number of a block, names with `prefix` are the
  encoder's own. `fields` maps the arguments of `bert.Bert` to the fields of their config, and
  `fixed` holds those that have one value. `unused` are tensors that `bert.Bert` has no place for.
  """
  prefix: str
  names: Mapping[str, str]
  fields: Mapping[str, str]
  fixed: Mapping[str, Any]
  unused: tuple[str, ...]
  architecture: str


_ENCODER = {
    'token': 'PREFIX.embeddings.word_embeddings',
    'position': 'PREFIX.embeddings.position_embeddings',
    'type': 'PREFIX.embeddings.token_type_embeddings',
    'norm': 'PREFIX.embeddings.LayerNorm',
    'blocks/{}/query': 'PREFIX.encoder.layer.{}.attention.self.query',
    'blocks/{}/key': 'PREFIX.encoder.layer.{}.attention.self.key',
    'blocks/{}/value': 'PREFIX.encoder.layer.{}.attention.self.value',
    'blocks/{}/out': 'PREFIX.encoder.layer.{}.attention.output.dense',
    'blocks/{}/attention_norm': 'PREFIX.encoder.layer.{}.attention.output.LayerNorm',
    'blocks/{}/up': 'PREFIX.encoder.layer.{}.intermediate.dense',
    'blocks/{}/down': 'PREFIX.encoder.layer.{}.output.dense',
    'blocks/{}/norm': 'PREFIX.encoder.layer.{}.output.LayerNorm',
}
_FIELDS = {'vocabulary': 'vocab_size', 'length': 'max_position_embeddings', 'width': 'hidden_size',
           'depth': 'num_hidden_layers', 'heads': 'num_attention_heads',
           'inner': 'intermediate_size', 'types': 'type_vocab_size',
           'dropout': 'hidden_dropout_prob', 'eps': 'layer_norm_eps', 'std': 'initializer_range'}

FAMILIES = {
    'bert': Family(
        prefix='bert', architecture='BertForSequenceClassification',
        names={**_ENCODER, 'pooler': 'PREFIX.pooler.dense', 'head': 'classifier',
               'words/dense': 'cls.predictions.transform.dense',
               'words/norm': 'cls.predictions.transform.LayerNorm', 'words': 'cls.predictions'},
        fields=_FIELDS, fixed={'first': 0, 'pooling': 'tanh'},
        unused=('*.position_ids', 'cls.seq_relationship.*', 'cls.predictions.decoder.*')),
    # Its classifier drops out the first position once more, before the dense layer.
    'roberta': Family(
        prefix='roberta', architecture='RobertaForSequenceClassification',
        names={**_ENCODER, 'pooler': 'classifier.dense', 'head': 'classifier.out_proj',
               'words/dense': 'lm_head.dense', 'words/norm': 'lm_head.layer_norm',
               'words': 'lm_head'},
        fields=_FIELDS, fixed={'first': 2, 'pooling': 'tanh'},
        unused=('*.position_ids', 'roberta.pooler.*', 'pooler.*', 'lm_head.decoder.*')),
    'distilbert': Family(
        prefix='distilbert', architecture='DistilBertForSequenceClassification',
        names={'token': 'PREFIX.embeddings.word_embeddings',
               'position': 'PREFIX.embeddings.position_embeddings',
               'norm': 'PREFIX.embeddings.LayerNorm',
               'blocks/{}/query': 'PREFIX.transformer.layer.{}.attention.q_lin',
               'blocks/{}/key': 'PREFIX.transformer.layer.{}.attention.k_lin',
               'blocks/{}/value': 'PREFIX.transformer.layer.{}.attention.v_lin',
               'blocks/{}/out': 'PREFIX.transformer.layer.{}.attention.out_lin',
               'blocks/{}/attention_norm': 'PREFIX.transformer.layer.{}.sa_layer_norm',
               'blocks/{}/up': 'PREFIX.transformer.layer.{}.ffn.lin1',
               'blocks/{}/down': 'PREFIX.transformer.layer.{}.ffn.lin2',
               'blocks/{}/norm': 'PREFIX.transformer.layer.{}.output_layer_norm',
               'pooler': 'pre_classifier', 'head': 'classifier', 'words/dense': 'vocab_transform',
               'words/norm': 'vocab_layer_norm', 'words': 'vocab_projector'},
        fields={'vocabulary': 'vocab_size', 'length': 'max_position_embeddings', 'width': 'dim',
                'depth': 'n_layers', 'heads': 'n_heads', 'inner': 'hidden_dim',
                'dropout': 'dropout', 'std': 'initializer_range'},
        fixed={'first': 0, 'pooling': 'relu', 'types': 0, 'eps': 1e-12},
        unused=('*.position_ids', 'vocab_projector.weight')),
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """What a folder holds: the node of the model, its parameters by our paths, its head's labels.

  `params` lacks the parts that the folder lacks; `labels` is () without a head. A model may do
  without the masked-word head.
  """
  node: Mapping[str, Any]
  params: Mapping[str, np.ndarray]
  labels: tuple[str, ...]


def read(folder: pathlib.Path) -> Checkpoint:
  """The checkpoint in a folder; what is wrong with it is named: file, field or tensor."""
  told = config(folder)
  family = _family(told, folder)
  node, arrays = _node(told, family, folder), _tensors(folder)
  arrays = {_canonical(name, family): array for name, array in arrays.items()}
  table = _table(family, node['depth'], node['types'])
  found, missing = {}, []
  for path, name in table.items():
    array = arrays.pop(name, None)
    if array is None:
      missing.append((path, name))
    else:
      found[path] = np.ascontiguousarray(array.T) if path.endswith('kernel') else array
  for path, name in missing:
    part = path.split('/')[0]
    if part not in PARTS or any(p.split('/')[0] == part for p in found):
      raise Stop(Status.CHECKPOINT, f'{folder}: the tensor {name} is missing'
                 + nearest(name, arrays))
  tied = [array for name, array in arrays.items() if name.endswith('decoder.weight')]
  if any(not np.array_equal(array, found['token/embedding']) for array in tied):
    raise Stop(Status.CHECKPOINT, f'{folder}: the masked-word head has a decoder of its own, not '
               'the token embedding; only tied ones are known')
  extra = [name for name in arrays
           if not any(fnmatch.fnmatchcase(f'.{name}', f'*{p}') for p in family.unused)]
  if extra:
    raise Stop(Status.CHECKPOINT, f'{folder}: there is no place for the tensor {sorted(extra)[0]} '
               f'({len(extra)} in all) in a {told["model_type"]} encoder with its heads')
  _check_shapes(found, node, table, folder)
  return Checkpoint(node, found, _labels(told, found, folder))


def config(folder: pathlib.Path) -> dict[str, Any]:
  """What `config.json` says."""
  return _json(folder / CONFIG)


def named(node: Mapping[str, Any], params: Flat,
          labels: tuple[str, ...]) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  """Tensors and config as `transformers` has them, or None if it has no such model."""
  fits = lambda family: all(
      node.get(key, _DEFAULTS[key]) == value for key, value in family.fixed.items())
  kind = next((kind for kind, family in FAMILIES.items()
               if node['name'] == 'bert.Bert' and fits(family)), None)
  if kind is None:
    return None
  family = FAMILIES[kind]
  value = lambda key: node.get(key, _DEFAULTS.get(key))
  told = {theirs: value(ours) for ours, theirs in family.fields.items()}
  told |= {family.fields['inner']: value('inner') or 4 * node['width'],
             family.fields['length']: node['length'] + family.fixed['first'],
             'architectures': [family.architecture], 'model_type': kind, 'torch_dtype': 'float32',
             'pad_token_id': family.fixed['first'] // 2, 'id2label': dict(enumerate(labels)),
             'label2id': {label: i for i, label in enumerate(labels)}}
  told |= ({'attention_dropout': value('dropout'), 'seq_classif_dropout': value('dropout'),
              'activation': 'gelu'} if kind == 'distilbert' else
             {'attention_probs_dropout_prob': value('dropout'), 'hidden_act': 'gelu'})
  if len(labels) < 2:
    told |= {'num_labels': 1, 'problem_type': 'regression'}
    del told['id2label'], told['label2id']
  table = _table(family, node['depth'], value('types'))
  there = {path: np.asarray(params[path]) for path in table if path in params}
  return {table[path]: np.ascontiguousarray(array.T) if path.endswith('kernel') else array
          for path, array in there.items()}, told


_DEFAULTS = {'first': 0, 'pooling': 'tanh', 'types': 2, 'eps': 1e-12, 'dropout': 0.1, 'std': 0.02}


def _table(family: Family, depth: int, types: int) -> dict[str, str]:
  """Our paths and their names."""
  table = {}
  for ours, theirs in family.names.items():
    theirs = theirs.replace('PREFIX', family.prefix)
    if ours in ('token', 'position', 'type'):
      leaves = {'embedding': 'weight'} if ours != 'type' or types else {}
    elif ours == 'words':
      leaves = {'bias': 'bias'}
    else:
      leaves = {'scale' if 'norm' in ours else 'kernel': 'weight', 'bias': 'bias'}
    for i in range(depth) if '{}' in ours else (0,):
      table |= {f'{ours.format(i)}/{leaf}': f'{theirs.format(i)}.{name}'
                for leaf, name in leaves.items()}
  return table


def _canonical(name: str, family: Family) -> str:
  """A tensor's name with the encoder's prefix, and as PyTorch says it."""
  name = re.sub(r'\.gamma$', '.weight', re.sub(r'\.beta$', '.bias', name))
  inside = ('embeddings.', 'encoder.', 'transformer.') + (
      ('pooler.',) if family.prefix == 'bert' else ())
  return f'{family.prefix}.{name}' if name.startswith(inside) else name


def _family(told: Mapping[str, Any], folder: pathlib.Path) -> Family:
  kind = told['model_type'] if 'model_type' in told else None
  if kind not in FAMILIES:
    raise Stop(Status.CHECKPOINT, f'{folder}: {CONFIG} says model_type={kind!r}; known are '
               + ', '.join(FAMILIES))
  for field, wanted in {'hidden_act': 'gelu', 'activation': 'gelu', 'is_decoder': False,
                        'position_embedding_type': 'absolute'}.items():
    if field in told and told[field] not in (wanted, None):
      raise Stop(Status.CHECKPOINT, f'{folder}: {CONFIG} says {field}={told[field]!r}; only '
                 f'{wanted!r} is known')
  return FAMILIES[kind]


def _node(told: Mapping[str, Any], family: Family, folder: pathlib.Path) -> dict[str, Any]:
  """The node of `bert.Bert` without what only the data and the user know."""
  node = {'name': 'bert.Bert', **family.fixed}
  for ours, theirs in family.fields.items():
    if theirs not in told and ours not in _DEFAULTS:
      raise Stop(Status.CHECKPOINT, f'{folder}: {CONFIG} lacks {theirs}')
    node[ours] = told[theirs] if theirs in told else _DEFAULTS[ours]
  node['length'] -= node['first']
  return node


def _labels(told: Mapping[str, Any], found: Flat, folder: pathlib.Path) -> tuple[str, ...]:
  if 'head/kernel' not in found:
    return ()
  classes = found['head/kernel'].shape[1]
  named = told['id2label'] if 'id2label' in told else {str(i): f'LABEL_{i}' for i in range(classes)}
  if sorted(map(int, named)) != list(range(classes)):
    raise Stop(Status.CHECKPOINT, f'{folder}: the head has {classes} outputs, but id2label names '
               f'{len(named)}: {", ".join(map(str, named.values()))}')
  return tuple(str(named[key]) for key in sorted(named, key=int))


def _check_shapes(found: Flat, node: Mapping[str, Any], table: Mapping[str, str],
                  folder: pathlib.Path) -> None:
  width, inner = node['width'], node['inner']
  sides = {'query': (width, width), 'key': (width, width), 'value': (width, width),
           'out': (width, width), 'up': (width, inner), 'down': (inner, width),
           'pooler': (width, width), 'dense': (width, width)}
  rows = {'token': node['vocabulary'], 'position': node['length'] + node['first'],
          'type': node['types']}
  for path, array in found.items():
    *_, module, leaf = path.split('/')
    if leaf == 'embedding':
      shape = (rows[module], width)
    elif path == 'words/bias':
      shape = (node['vocabulary'],)
    elif module == 'head':
      shape = (width, found['head/bias'].shape[0])[-array.ndim:]
    else:
      shape = sides.get(module, (width, width))[-1:] if array.ndim == 1 else sides.get(module)
    if array.shape != shape:
      theirs = array.shape[::-1] if leaf == 'kernel' else array.shape
      raise Stop(Status.CHECKPOINT, f'{folder}: {table[path]} is {list(theirs)}, but {CONFIG} '
                 f'asks for {list(shape[::-1] if leaf == "kernel" else shape)}')


def _tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors as float32, of one file or of the shards that an index names."""
  files = [WEIGHTS]
  if (folder / INDEX).is_file():
    files = sorted(set(_json(folder / INDEX)['weight_map'].values()))
  arrays = {}
  for name in files:
    if pathlib.PurePath(name).name != name or not (folder / name).is_file():
      pickled = sorted(p.name for p in folder.glob('*.bin'))
      raise Stop(Status.CHECKPOINT, f'{folder} has no {name}' + (
          f'; {pickled[0]} is a pickle, which can run code when it is opened: convert it with '
          'safetensors.torch.save_file(torch.load(FILE, weights_only=True), FILE)'
          if pickled else ''))
    try:
      with safe_open(folder / name, 'flax') as file:       # NumPy has no bfloat16
        arrays |= {key: np.asarray(file.get_tensor(key).astype(jnp.float32))
                   for key in file.keys()}
    except (SafetensorError, OSError) as error:
      raise Stop(Status.CHECKPOINT, f'{folder / name} cannot be read: {error}') from error
  return arrays


def _json(path: pathlib.Path) -> dict[str, Any]:
  try:
    content = json.loads(path.read_bytes())
  except OSError as error:
    raise Stop(Status.CHECKPOINT, f'{path.parent} is no checkpoint: {path.name}: {error.strerror}'
               ) from error
  except ValueError as error:
    raise Stop(Status.CHECKPOINT, f'{path} is no JSON: {error}') from error
  if not isinstance(content, dict):
    raise Stop(Status.CHECKPOINT, f'{path} holds no object')
  return content
