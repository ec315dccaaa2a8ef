"""Kinds of files that a model lives in. A format's file names are known in its own module alone.

A folder carries its format: by its files, or by the name in its card (`'mylab.gguf:GGUF'`).
"""
import hashlib
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from distill import checkpoint, disk, hub, lookup, modalities, tasks
from distill.checkpoint import CARD
from distill.modalities import Modality
from distill.teachers import Weights
from distill.types import Batch, Status, Stop

Opened = tuple[Callable, Weights, Mapping[str, Any]]      # a model, its weights, its card


class Shipped(NamedTuple):
  """A model with all that its export says: `card` names its class, its classes and its task."""
  model: Callable
  weights: Weights
  card: Mapping[str, Any]
  modality: Modality


class Trial(NamedTuple):
  """Prepared batches that a written model is tried on; `example(id)` names one, `title` all."""
  batches: Sequence[Batch]
  example: Callable[[int], str]
  title: str


class Format(Protocol):
  """A kind of file.

  `trainable` says whether it has parameters that training can go on from; one that hasn't is a
  program, which answers.
  """
  suffix: str                 # of its files
  trainable: bool

  def holds(self, folder: pathlib.Path) -> bool:
    """Whether the folder has a model in this format."""

  def open(self, folder: pathlib.Path, path: str, **changes: Any) -> Opened:
    """The model of a folder; `path` is what names it, for error lines."""

  def write(self, folder: pathlib.Path, shipped: Shipped, trial: Trial | None = None,
            about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Writes a folder, once what it holds answers as the model; how far it is from that.

    The bound is the format's own. `about` is what a page about the model says: its `name`, and of
    its run the `report`, a `verdict` and a `table`; a format that has such a page writes it.
    """

  def sizes(self, folder: pathlib.Path, weights: Weights,
            card: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says of sizes; `hidden_bytes` are weights that no call takes as arguments."""


def formats() -> tuple[Format, ...]:
  """Ours, each before those that would take its folders for theirs."""
  from distill.formats import huggingface, safetensors, stablehlo  # which need this module
  return stablehlo.StableHLO(), safetensors.Safetensors(), huggingface.HuggingFace()


def at(folder: pathlib.Path) -> Format:
  """The format of a folder; that of Hugging Face where nothing says so."""
  if name := card_of(folder).get('format'):
    try:
      kind = lookup.find('formats', name, 'format')
    except Stop as stop:
      raise Stop(Status.CHECKPOINT, f'{folder}: its format is not known here: {stop}') from None
    if not (isinstance(kind, type) and callable(getattr(kind, 'open', None))):
      raise Stop(Status.CHECKPOINT, f'{folder}: {name!r}, which its format is, is no format')
    return kind()
  known = formats()
  return next((kind for kind in known if kind.holds(folder)), known[-1])


def named_in(kind: Format) -> bool:
  """Whether a folder's files tell that it is of this format, so that its card needn't."""
  return type(kind) in map(type, formats())


def card_of(folder: pathlib.Path) -> Mapping[str, Any]:
  """The card of an export, not yet verified; {} where there is none."""
  try:
    card = disk.read_json(folder / CARD)['card']
  except (OSError, ValueError, KeyError, TypeError):
    return {}
  return card if isinstance(card, Mapping) else {}


def sealed(folder: pathlib.Path, file: str) -> dict[str, Any]:
  """What `config.json` of an export says, once every file is verified, and the card is one."""
  about = checkpoint.open_export(folder, file)
  card = about.get('card')
  if wrong := _no_card(card):
    raise Stop(Status.CHECKPOINT, f'{folder}: its card {wrong}')
  return about


def _no_card(card: Any) -> str:
  """Says why a sealed value is no card, '' if it is one."""
  if not isinstance(card, dict):
    return 'is no table of names'
  for name in 'model', 'task':
    if name in card or name == 'model':
      node = card.get(name)
      if not isinstance(node, dict) or not isinstance(node.get('name'), str):
        return f'says of its {name} {str(node)[:60]!r}, which has no name'
  program = card.get('program', {})
  rows = program.get('rows', {}) if isinstance(program, dict) else None
  if not isinstance(rows, dict) or not all(type(count) is int for count in rows.values()):
    return f'says of its program {str(program)[:60]!r}, which is not what an export writes'
  classes, count = card.get('classes'), card['model'].get('classes')
  if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes):
    return f'says of its classes {str(classes)[:60]!r}, which are no names'
  if twice := [name for name in classes if classes.count(name) > 1]:
    return f'calls two classes by one name, {twice[0][:60]!r}'
  if classes and type(count) is int and count != len(classes):
    return f'names {len(classes)} classes, and its model has {count}'
  return ''


def is_model(folder: pathlib.Path) -> bool:
  """Whether a folder looks like that of a model."""
  return (folder / CARD).is_file() or any(kind.holds(folder) for kind in formats())


def content(folder: pathlib.Path) -> str:
  """The sha256 of the files of a model's folder."""
  digest = hashlib.sha256()
  suffixes = {'.json', at(folder).suffix, *(kind.suffix for kind in formats())}
  for file in sorted(f for suffix in suffixes for f in folder.glob(f'*{suffix}')):
    with open(file, 'rb') as opened:
      digest.update(file.name.encode() + hashlib.file_digest(opened, 'sha256').digest())
  return digest.hexdigest()


def load(place: str, path: str = '--model', **changes: Any) -> Opened:
  """The model of an export, of a Hugging Face folder or hub id, that training can go on from.

  `changes` are those of `parameters.assembled`.
  """
  folder = hub.folder(place, path)
  kind = at(folder)
  if not kind.trainable:
    raise Stop(Status.CHECKPOINT, f'{path}: {folder} holds a program: it answers, but has neither '
               'parameters nor layers to take; name the folder that it was exported from')
  return _opened(kind, folder, path, **changes)


def open_model(place: str, path: str = '--model', **changes: Any) -> Opened:
  """The same, or a program, which has its weights inside."""
  folder = hub.folder(place, path)
  return _opened(at(folder), folder, path, **changes)


def _opened(kind: Format, folder: pathlib.Path, path: str, **changes: Any) -> Opened:
  from distill.formats import parameters  # which needs JAX
  model, weights, card = kind.open(folder, path, **changes)
  if type(kind) not in map(type, formats()):      # ours check by the names that their files have
    for part in weights:
      parameters.check_finite(part, folder)
  return model, weights, card


def modality(card: Mapping[str, Any], folder: pathlib.Path) -> Modality:
  """The inputs of a model that was opened; a Stop where the model has no room for them."""
  found = modalities.from_card(card, str(folder))
  for name, size in found.sizes.items():
    its = card['model'].get(name, size)
    if type(its) is not int:
      raise Stop(Status.CHECKPOINT, f'{folder}: its card says {name}={str(its)[:60]!r}, which is '
                 'no size')
    if its != size and not (name in found.spare and its > size):
      raise Stop(Status.MISFIT, f'{folder}: {found.excess(name, its)}')
  return found


def whole(place: str, path: str = '--model') -> Opened:
  """A model that can answer, its weights, and its card."""
  model, weights, card = open_model(place, path)
  parts = tasks.from_card(card, f'{place}: task').parts
  if lacks := {name.split('/')[0] for name in card.get('fresh', ())} & {*parts}:
    raise Stop(Status.CHECKPOINT, f'{place} has no {min(lacks)}: it is a '
               'pretrained encoder, which must be trained before it can answer')
  return model, weights, card


def free(place: str, node: Mapping[str, Any], path: str) -> dict[str, Any]:
  """What a config may change of a loaded model: arguments that no parameter depends on."""
  from distill.models.functional import traits_of
  if not node:
    return {}
  model = card_of(hub.folder(place, path)).get('model')           # what is wrong is said on opening
  name = model.get('name') if isinstance(model, Mapping) else 'bert.Bert'
  kind = lookup.find('models', name, f'{path}: {place}')
  return {key: node[key] for key in traits_of(kind).free if key in node}


def write(folder: pathlib.Path, shipped: Shipped) -> None:
  """Writes the folder that a trained model ships in, for `transformers` too if it has the model."""
  from distill.formats import huggingface, safetensors
  kind = huggingface.HuggingFace() if huggingface.knows(shipped) else safetensors.Safetensors()
  kind.write(folder, shipped)
