"""Exported models, of which a teacher is made or a student starts: what they must have to fit."""
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from distill import checkpoint, formats, hub, lookup, modalities
from distill.data.sets import Dataset
from distill.models.pure import Pure, traits_of
from distill.pipelines import nodes
from distill.teachers import Weights
from distill.types import Status, Stop


def teacher(spec: nodes.TeacherNode, dataset: Dataset, seed: int,
            where: str) -> tuple[Pure, Weights, Mapping[str, Any]]:
  """The model, weights and card of `init`, which must be what `model` says, if it says it."""
  model, weights, card = formats.load(
      spec.init, f'{where}.init', model=formats.free(spec.init, spec.model, f'{where}.init'),
      fresh=spec.fresh, sizes=dataset.sizes, seed=seed)
  check_card(card, spec.init, dataset, where)
  for key, value in spec.model.items():
    if card['model'].get(key, value) != value:
      raise Stop(Status.MISFIT, f'{where}.model.{key}={value!r}, but {spec.init} has '
                 f'{card["model"][key]!r}')
  return model, weights, card


def content(init: str) -> str:
  """What an exported model holds; '' for none, and for a teacher of this run."""
  return checkpoint.sha256(formats.load(init, 'init')[1]) if init else ''


def check_sizes(node: Mapping[str, Any], dataset: Dataset, where: str) -> None:
  """Stops unless a model takes and gives what the data has; it may have rows that go unused."""
  for key, size in dataset.sizes.items():
    value = node.get(key, size)
    if value != size and not (key in dataset.modality.spare and value > size):
      raise Stop(Status.MISFIT, f'{where}.{key}={value}, but {dataset.name} has {size}: '
                 f'leave {key} out, or take the data that it was made for')


def check_card(card: Mapping[str, Any], place: str, dataset: Dataset, where: str) -> None:
  """Stops unless an exported model has the data's classes, in their order, and its inputs."""
  name, classes, its = dataset.name, dataset.names, tuple(card['classes'])
  modality = modalities.from_card(card, str(hub.folder(place, f'{where}.init')))
  if why := modality.misfit(dataset.modality):
    raise Stop(Status.MISFIT, f'{where}: {why}: take the data that it was trained on ({name} is '
               f'other data), or give data.tokenizer the place that {where}.init has')
  outputs = card['model'].get('classes', max(1, len(its)))
  if outputs != dataset.sizes.get('classes', outputs) or (
      its and its != classes and not nameless(its)):
    raise Stop(Status.MISFIT, f'{where}: its head has {outputs} outputs'
               f'{" for " * bool(its)}{", ".join(its)}; {name} has '
               f'{", ".join(classes) or "numbers"}, in this order: give '
               f"{where}.fresh=('head/*',) for a new head")
  check_sizes(card['model'], dataset, f'{where}.model')


def nameless(labels: Sequence[str]) -> bool:
  """Whether they are what `transformers` calls labels that nobody named."""
  return bool(labels) and all(re.fullmatch(r'LABEL_\d+', label) for label in labels)


def check_kin(mine: Mapping[str, Any], theirs: Mapping[str, Any], init: str,
              taken: Collection[str]) -> None:
  """Stops where equal shapes would hide that `init` computes something else than the student.

  `taken` are the modules that the student takes of it.
  """
  kind = lookup.find('models', mine['name'], 'student.model.name')
  defaults = {key: p.default for key, p in lookup.parameters(kind).items()}
  kin = traits_of(kind).kin
  for key in ('name', *(key for key, module in kin.items() if module in taken)):
    ours, others = (n.get(key, defaults.get(key)) for n in (mine, theirs))
    if ours != others:
      raise Stop(Status.MISFIT, f'student.model.{key}={ours!r}, but student.init={init!r} has '
                 f'{others!r}: give student.model {key}={others!r}')
