"""Pretrained encoders in the format of Hugging Face `transformers`: a table of names, both ways.

BERT (also MiniLM), RoBERTa and DistilBERT. A checkpoint is read strictly: every tensor has a path
or is known to be unused, and a part — encoder, pooler, head, masked-word head — is complete or
missing. `formats/huggingface.py` reads and writes the files.
"""
import dataclasses
import fnmatch
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill.lookup import nearest
from distill.models import labels as labels_of
from distill.models.bert import Bert
from distill.models.functional import MAX_BLOCKS, Flat
from distill.models.labels import CONFIG, fault, short

PARTS = tuple(Bert.traits.heads)            # that a checkpoint may lack
MAX_SIZE = 2**31 - 1                        # the largest size in a config


@dataclasses.dataclass(frozen=True)
class Family:
  """One kind of encoder in `transformers`, and its names.

  `names` maps our modules to theirs: `{}` is the number of a block, PREFIX the encoder's prefix.
  `fields` maps arguments of `bert.Bert` to fields of their config. `fixed` are arguments that have
  one value, `only` are fields that must have one value. `tied` are tensors that repeat one of ours,
  `unused` those that `bert.Bert` doesn't have. `dropouts` are fields of further dropout rates.
  """
  prefix: str
  architecture: str
  names: Mapping[str, str]
  fields: Mapping[str, str]
  fixed: Mapping[str, Any]
  only: Mapping[str, Any]
  tied: Mapping[str, str]
  unused: str = ''
  dropouts: tuple[str, ...] = ('attention_probs_dropout_prob',)


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
_ONLY = {'hidden_act': 'gelu', 'position_embedding_type': 'absolute', 'is_decoder': False}
# Defaults of fields that are left out, in their configs and in our nodes.
_DEFAULTS = {'first': 0, 'pooling': 'tanh', 'types': 2, 'eps': 1e-12, 'dropout': 0.1, 'std': 0.02}

FAMILIES = {
    'bert': Family(
        prefix='bert', architecture='BertForSequenceClassification',
        names={**_ENCODER, 'pooler': 'PREFIX.pooler.dense', 'head': 'classifier',
               'words/dense': 'cls.predictions.transform.dense',
               'words/norm': 'cls.predictions.transform.LayerNorm', 'words': 'cls.predictions'},
        fields=_FIELDS, fixed={'first': 0, 'pooling': 'tanh'}, only=_ONLY,
        tied={'cls.predictions.decoder.weight': 'token/embedding',
              'cls.predictions.decoder.bias': 'words/bias'},
        unused='cls.seq_relationship.*'),
    # Positions start after that of the padding. The classifier has a pooler of its own, and one
    # more dropout of the first position before it.
    'roberta': Family(
        prefix='roberta', architecture='RobertaForSequenceClassification',
        names={**_ENCODER, 'pooler': 'classifier.dense', 'head': 'classifier.out_proj',
               'words/dense': 'lm_head.dense', 'words/norm': 'lm_head.layer_norm',
               'words': 'lm_head'},
        fields=_FIELDS, fixed={'first': 2, 'pooling': 'tanh'}, only={**_ONLY, 'pad_token_id': 1},
        tied={'lm_head.decoder.weight': 'token/embedding', 'lm_head.decoder.bias': 'words/bias'},
        unused='roberta.pooler.*'),
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
        only={'activation': 'gelu'}, tied={'vocab_projector.weight': 'token/embedding'},
        dropouts=('attention_dropout', 'seq_classif_dropout')),
}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A model read from a folder: its node, its parameters by our paths, its head's labels.

  `params` lacks the parts that the folder lacks. `labels` is () without a head, and for a head of
  one output, which is a regression. The node is that of `bert.Bert` without `classes` and `words`.
  `names` are the tensors' names by our paths. `multilabel`: an example may have several labels,
  each with a sigmoid.
  """
  node: Mapping[str, Any]
  params: Mapping[str, np.ndarray]
  labels: tuple[str, ...]
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)
  multilabel: bool = False


def read(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray],
         folder: pathlib.Path) -> Checkpoint:
  """Reads a checkpoint from a config and tensors; stops at a wrong field or tensor, by its name.

  `folder` is their place, for error lines.
  """
  family = _family(config, folder)
  node, arrays = _node(config, family, folder), {}
  for name, array in tensors.items():
    if arrays.setdefault(_canonical(name, family), array) is not array:
      raise fault(folder, f'it has the tensor {name} twice, by two names')
  table = _table(family, node['depth'], node['types'])
  found = {path: arrays.pop(name) for path, name in table.items() if name in arrays}
  parts = {path.split('/')[0] for path in found}
  for path, name in table.items():
    part = path.split('/')[0]
    if path not in found and (part in parts or part not in PARTS):
      raise fault(folder, f'the tensor {name} is missing{nearest(name, arrays)}')
  for name, path in family.tied.items():
    if name in arrays and path in found and not np.array_equal(
        arrays.pop(name), found[path], equal_nan=True):
      raise fault(folder, f'{name} differs from {table[path]}; only a masked-word head that '
                  'shares it is known')
  arrays.pop(f'{family.prefix}.embeddings.position_ids', None)         # the numbers from 0
  extra = sorted(name for name in arrays if not fnmatch.fnmatchcase(name, family.unused))
  if extra:
    raise fault(folder, f'there is no place for the tensor {extra[0]} ({len(extra)} such)')
  classes = found['head/bias'].size if 'head/bias' in found else 0
  for path, array in found.items():
    shape = _shape(path, node, classes)
    if array.shape != shape:
      raise fault(folder, f'{table[path]} is {list(array.shape)}, but {CONFIG} asks for '
                  f'{list(shape)}')
  labels, multilabel = labels_of.read(config, classes, folder)
  return Checkpoint(node, {path: _transposed(path, array) for path, array in found.items()}, labels,
                    {path: table[path] for path in found}, multilabel)


def named(node: Mapping[str, Any], params: Flat,
          labels: Sequence[str]) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
  """Returns tensors and config in the format of `transformers`, or None if it has no such model.

  Its classes for classification and for masked words each take their part of the tensors.
  """
  value = lambda key: node[key] if key in node else _DEFAULTS[key]
  kinds = [kind for kind, family in FAMILIES.items()
           if node['name'] == 'bert.Bert' and ('type' not in family.names or value('types'))
           and all(value(key) == fixed for key, fixed in family.fixed.items())]
  if not kinds:
    return None
  family = FAMILIES[kinds[0]]
  sizes = {**node, 'inner': node.get('inner', 0) or 4 * node['width'],
           'length': node['length'] + value('first')}
  config = {theirs: sizes[ours] if ours in sizes else _DEFAULTS[ours]
            for ours, theirs in family.fields.items()}
  architecture = (family.architecture if 'head/kernel' in params else
                  family.architecture.replace('SequenceClassification', 'MaskedLM'))
  config |= {**family.only, **dict.fromkeys(family.dropouts, value('dropout')),
             'model_type': kinds[0], 'architectures': [architecture]}
  config |= ({'id2label': dict(enumerate(labels)), 'label2id': {k: i for i, k in enumerate(labels)}}
             if labels else {'num_labels': 1, 'problem_type': 'regression'})
  table = _table(family, node['depth'], value('types'))
  return {name: _transposed(path, np.asarray(params[path])) for path, name in table.items()
          if path in params}, config


def _transposed(path: str, array: np.ndarray) -> np.ndarray:
  """Transposes a dense layer's kernel: [inputs outputs] is [outputs inputs] in `transformers`."""
  return np.ascontiguousarray(array.T) if path.endswith('kernel') else array


def _table(family: Family, depth: int, types: int) -> dict[str, str]:
  """Returns the name in `transformers` of every path."""
  table = {}
  for ours, theirs in family.names.items():
    if ours in ('token', 'position', 'type'):
      leaves = {'embedding': 'weight'} if ours != 'type' or types else {}
    elif ours == 'words':
      leaves = {'bias': 'bias'}
    else:
      leaves = {'scale' if 'norm' in ours else 'kernel': 'weight', 'bias': 'bias'}
    for i in range(depth) if '{}' in ours else (0,):
      at = theirs.replace('PREFIX', family.prefix).format(i)
      table |= {f'{ours.format(i)}/{leaf}': f'{at}.{name}' for leaf, name in leaves.items()}
  return table


def _canonical(name: str, family: Family) -> str:
  """Returns a tensor's name with the encoder's prefix and in PyTorch's spelling."""
  name = re.sub(r'\.gamma$', '.weight', re.sub(r'\.beta$', '.bias', name))
  is_encoder = name.startswith(('embeddings.', 'encoder.', 'transformer.', 'pooler.'))
  return f'{family.prefix}.{name}' if is_encoder else name


def _family(config: Mapping[str, Any], folder: pathlib.Path) -> Family:
  kind = config['model_type'] if 'model_type' in config else None
  if kind not in list(FAMILIES):
    raise fault(folder, f'{CONFIG} says model_type={short(kind)}; known are '
                + ', '.join(FAMILIES))
  for field, only in FAMILIES[kind].only.items():
    if field in config and config[field] not in (only, None):
      raise fault(folder, f'{CONFIG} says {field}={short(config[field])}; only {only!r} is known')
  return FAMILIES[kind]


def _node(config: Mapping[str, Any], family: Family, folder: pathlib.Path) -> dict[str, Any]:
  """Builds the node of `bert.Bert`, without arguments that only data and user know."""
  node = {'name': 'bert.Bert', **family.fixed}
  for ours, theirs in family.fields.items():
    if theirs not in config and ours not in _DEFAULTS:
      raise fault(folder, f'{CONFIG} lacks {theirs}')
    node[ours] = config[theirs] if theirs in config else _DEFAULTS[ours]
    kind = float if ours in ('dropout', 'eps', 'std') else int
    if isinstance(node[ours], bool) or not isinstance(node[ours], int | kind):
      raise fault(folder, f'{CONFIG} says {theirs}={short(node[ours])}, which is no '
                  + kind.__name__)
    wrong = _out_of_range(ours, node[ours])
    if wrong:
      raise fault(folder, f'{CONFIG} says {theirs}={short(node[ours])}, which {wrong}')
  width, heads = (family.fields[ours] for ours in ('width', 'heads'))
  if node['width'] % node['heads']:
    raise fault(folder, f'{CONFIG} says {width}={node["width"]}, which {heads}={node["heads"]} '
                'does not divide')
  node['length'] -= node['first']
  if node['length'] < 1:
    raise fault(folder, f'{CONFIG} says {family.fields["length"]}='
                f'{node["length"] + node["first"]}, of which {node["first"]} hold no token')
  return node


def _out_of_range(name: str, value: float) -> str:
  """Says why an argument of `bert.Bert` can't have a value; returns '' if it can."""
  if name in ('dropout', 'eps', 'std'):
    sound = {'dropout': 0 <= value < 1, 'eps': 0 <= value < 1, 'std': 0 < value < math.inf}[name]
    return '' if sound else f'is no {"share below 1" if name == "dropout" else "sound number"}'
  least, most = int(name != 'types'), MAX_BLOCKS if name == 'depth' else MAX_SIZE
  return '' if least <= value <= most else f'is not between {least} and {most}'


def _shape(path: str, node: Mapping[str, Any], classes: int) -> tuple[int, ...]:
  """Returns the shape that the tensor at a path must have in the file."""
  *_, module, leaf = path.split('/')
  width = node['width']
  if leaf == 'embedding':
    return ({'token': node['vocabulary'], 'position': node['length'] + node['first'],
             'type': node['types']}[module], width)
  outputs = {'up': node['inner'], 'head': classes, 'words': node['vocabulary']}.get(module, width)
  inputs = node['inner'] if module == 'down' else width
  return (outputs, inputs) if leaf == 'kernel' else (outputs,)
