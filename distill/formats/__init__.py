"""Formats of model files. Only a format's own module knows its file names.

A folder shows its format by its files, or by the name in its card (`'mylab.gguf:GGUF'`).
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
  """A model to export; `card` names its class, its labels and its task."""
  model: Callable
  weights: Weights
  card: Mapping[str, Any]
  modality: Modality


class Trial(NamedTuple):
  """Prepared batches to check a written model on; `example(id)` names one row, `title` all."""
  batches: Sequence[Batch]
  example: Callable[[int], str]
  title: str


class Format(Protocol):
  """The contract of a format.

  `trainable`: the format has parameters that training can start from; without them it is a program,
  which only answers.
  """
  suffix: str                 # the suffix of its files
  trainable: bool

  def holds(self, folder: pathlib.Path) -> bool:
    """Tells whether the folder has a model in this format."""

  def open(self, folder: pathlib.Path, path: str, **changes: Any) -> Opened:
    """Opens the model of a folder; `path` is the option or key that names it, for error lines."""

  def write(self, folder: pathlib.Path, shipped: Shipped, trial: Trial | None = None,
            about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Writes a folder after checking that it answers like the model; returns the differences.

    Each format has its own bound. `about` are facts for a page about the model: its `name`, and its
    run's `report`, a `verdict` and a `table`; a format that has such a page writes it.
    """

  def sizes(self, folder: pathlib.Path, weights: Weights,
            card: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a report's fields of sizes; `hidden_bytes` are weights inside a program."""


def formats() -> tuple[Format, ...]:
  """Returns our formats; a format precedes those that would also claim its folders."""
  from distill.formats import huggingface, safetensors, stablehlo  # which need this module
  return stablehlo.StableHLO(), safetensors.Safetensors(), huggingface.HuggingFace()


def format_of(folder: pathlib.Path) -> Format:
  """Returns the format of a folder; Hugging Face's if no format recognises it."""
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


def is_recognised(kind: Format) -> bool:
  """Tells whether folders of this format are recognised by their files, without a card."""
  return type(kind) in map(type, formats())


def card_of(folder: pathlib.Path) -> Mapping[str, Any]:
  """Returns the card of an export, unverified; {} if there is none."""
  try:
    card = disk.read_json(folder / CARD)['card']
  except (OSError, ValueError, KeyError, TypeError):
    return {}
  return card if isinstance(card, Mapping) else {}


def read_sealed(folder: pathlib.Path, file: str) -> dict[str, Any]:
  """Returns `config.json` of an export, after verifying every file and the form of the card."""
  about = checkpoint.open_export(folder, file)
  card = about.get('card')
  wrong = _card_fault(card)
  if wrong:
    raise Stop(Status.CHECKPOINT, f'{folder}: its card {wrong}')
  return about


def _card_fault(card: Any) -> str:
  """Says why a sealed value is no card; returns '' if it is one."""
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
  """Tells whether a folder looks like that of a model."""
  return (folder / CARD).is_file() or any(kind.holds(folder) for kind in formats())


def content_hash(folder: pathlib.Path) -> str:
  """Returns the sha256 of the files of a model's folder."""
  digest = hashlib.sha256()
  suffixes = {'.json', format_of(folder).suffix, *(kind.suffix for kind in formats())}
  for file in sorted(f for suffix in suffixes for f in folder.glob(f'*{suffix}')):
    with open(file, 'rb') as stream:
      digest.update(file.name.encode() + hashlib.file_digest(stream, 'sha256').digest())
  return digest.hexdigest()


def load(place: str, path: str = '--model', **changes: Any) -> Opened:
  """Loads a trainable model: an export, a Hugging Face folder or a hub id.

  `changes` are those of `parameters.assemble`.
  """
  folder = hub.folder(place, path)
  kind = format_of(folder)
  if not kind.trainable:
    raise Stop(Status.CHECKPOINT, f'{path}: {folder} holds a program: it answers, but has neither '
               'parameters nor layers to take; name the folder that it was exported from')
  return _open(kind, folder, path, **changes)


def open_model(place: str, path: str = '--model', **changes: Any) -> Opened:
  """Loads a trainable model or a program, which contains its weights."""
  folder = hub.folder(place, path)
  return _open(format_of(folder), folder, path, **changes)


def _open(kind: Format, folder: pathlib.Path, path: str, **changes: Any) -> Opened:
  from distill.formats import parameters  # which needs JAX
  model, weights, card = kind.open(folder, path, **changes)
  if type(kind) not in map(type, formats()):      # our formats check, with the names in their files
    for part in weights:
      parameters.check_finite(part, folder)
  return model, weights, card


def modality(card: Mapping[str, Any], folder: pathlib.Path) -> Modality:
  """Returns the modality of an opened model; stops if the model is too small for its inputs."""
  found = modalities.from_card(card, str(folder))
  for name, size in found.sizes.items():
    its = card['model'].get(name, size)
    if type(its) is not int:
      raise Stop(Status.CHECKPOINT, f'{folder}: its card says {name}={str(its)[:60]!r}, which is '
                 'no size')
    if its != size and not (name in found.spare and its > size):
      raise Stop(Status.MISFIT, f'{folder}: {found.excess(name, its)}')
  return found


def load_trained(place: str, path: str = '--model') -> Opened:
  """Loads a model that can answer; stops if a part that its task needs is untrained."""
  model, weights, card = open_model(place, path)
  parts = tasks.from_card(card, f'{place}: task').parts
  lacks = {name.split('/')[0] for name in card.get('fresh', ())} & {*parts}
  if lacks:
    raise Stop(Status.CHECKPOINT, f'{place} has no {min(lacks)}: it is a '
               'pretrained encoder, which must be trained before it can answer')
  return model, weights, card


def free_arguments(place: str, node: Mapping[str, Any], path: str) -> dict[str, Any]:
  """Returns the arguments in `node` that a config may change: no parameter depends on them."""
  from distill.models.functional import traits_of
  if not node:
    return {}
  model = card_of(hub.folder(place, path)).get('model')           # faults are reported on opening
  name = model.get('name') if isinstance(model, Mapping) else 'bert.Bert'
  kind = lookup.find('models', name, f'{path}: {place}')
  return {key: node[key] for key in traits_of(kind).free if key in node}


def write(folder: pathlib.Path, shipped: Shipped) -> None:
  """Writes the export of a trained model, readable by `transformers` if it has such a model."""
  from distill.formats import huggingface, safetensors
  kind = huggingface.HuggingFace() if huggingface.knows(shipped) else safetensors.Safetensors()
  kind.write(folder, shipped)
