"""Exported models, of which a teacher is made or a student starts: what they must have to fit."""
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill import checkpoint, lookup, predict
from distill.data.images import told
from distill.data.sets import Dataset
from distill.models.pure import Pure
from distill.pipelines import nodes
from distill.teachers import Weights
from distill.types import Status, Stop

FREE = 'dropout', 'words'           # fields of a loaded model that a config may change


def free(node: Mapping[str, Any]) -> dict[str, Any]:
  """What a config changes of a loaded model."""
  return {key: node[key] for key in FREE if key in node}


def teacher(spec: nodes.TeacherNode, dataset: Dataset, seed: int,
            where: str) -> tuple[Pure, Weights, Mapping[str, Any]]:
  """The model, weights and card of `init`, which must be what `model` says, if it says it."""
  model, weights, card = predict.exported(
      spec.init, f'{where}.init', model=free(spec.model), fresh=spec.fresh, sizes=dataset.sizes,
      seed=seed)
  check_card(card, dataset, where)
  for key, value in spec.model.items():
    if card['model'].get(key, value) != value:
      raise Stop(Status.MISFIT, f'{where}.model.{key}={value!r}, but {spec.init} has '
                 f'{card["model"][key]!r}')
  return model, weights, card


def content(init: str) -> str:
  """What an exported model holds; '' for none, and for a teacher of this run."""
  return checkpoint.sha256(predict.exported(init, 'init')[1]) if init else ''


def check_sizes(node: Mapping[str, Any], dataset: Dataset, where: str) -> None:
  """Stops unless a model takes and gives what the data has; it may have rows that go unused."""
  larger = 'length', 'vocabulary'
  for key, size in dataset.sizes.items():
    value = node.get(key, size)
    if value != size and not (key in larger and value > size):
      raise Stop(Status.MISFIT, f'{where}.{key}={value}, but {dataset.name} has {size}: '
                 f'leave {key} out, or take the data that it was made for')


def check_card(card: Mapping[str, Any], dataset: Dataset, where: str) -> None:
  """Stops unless an exported model has the data's classes, in their order, and its inputs."""
  name, classes, its = dataset.name, dataset.classes, tuple(card['classes'])
  if card.get('pixels', {}) != dataset.pixels:
    raise Stop(Status.MISFIT, f'{where}: it takes {told(card.get("pixels", {}))}; {name} has '
               f'{told(dataset.pixels)}: take the data that it was trained on')
  if card.get('tokenizer_sha256', '') != dataset.tokenizer_sha256:
    raise Stop(Status.MISFIT, f'{where}: its tokenizer ({card["tokenizer_sha256"][:8]}) is not '
               f'that of {name} ({dataset.tokenizer_sha256[:8]}): the same ids are other '
               f'words: give data.tokenizer the place that {where}.init has')
  outputs = card['model'].get('classes', 0)
  if outputs != dataset.sizes['classes'] or (its and its != classes and not nameless(its)):
    raise Stop(Status.MISFIT, f'{where}: its head has {outputs} outputs'
               f'{" for " * bool(its)}{", ".join(its)}; {name} has '
               f'{", ".join(classes) or "numbers"}, in this order: give '
               f"{where}.fresh=('head/*',) for a new head")
  check_sizes(card['model'], dataset, f'{where}.model')


def nameless(labels: Sequence[str]) -> bool:
  """Whether they are what `transformers` calls labels that nobody named."""
  return bool(labels) and all(re.fullmatch(r'LABEL_\d+', label) for label in labels)


def check_kin(mine: Mapping[str, Any], theirs: Mapping[str, Any], init: str,
              pooled_anew: bool) -> None:
  """Stops where equal shapes would hide that `init` computes something else than the student."""
  defaults = {key: p.default for key, p in lookup.parameters(
      lookup.find('models', mine['name'], 'student.model.name')).items()}
  for key in ('name', 'heads', 'first', 'eps', *(() if pooled_anew else ('pooling',))):
    ours, others = (n.get(key, defaults.get(key)) for n in (mine, theirs))
    if ours != others:
      raise Stop(Status.MISFIT, f'student.model.{key}={ours!r}, but student.init={init!r} has '
                 f'{others!r}: give student.model {key}={others!r}')
