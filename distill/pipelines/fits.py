"""Checks that an exported model fits the run: as a teacher, or as the start of a student."""
import fnmatch
import re
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from distill import checkpoint, formats, hub, lookup, tasks
from distill.data.sets import Dataset
from distill.models.functional import Flat, Functional, traits_of
from distill.pipelines import nodes
from distill.student import Student, block_map, start_from
from distill.teachers import Weights
from distill.types import Status, Stop

# Makes parameters and rest before step 0, of a student and the weights of the models before it.
Start = Callable[[Student, Mapping[str, Weights]], tuple[Flat, Flat]]


class _Opened(NamedTuple):
  """A model that was read, with weak references to its arrays: callers own the arrays."""
  seed: int
  model: Functional
  arrays: tuple[Mapping[str, weakref.ref], ...]
  card: Mapping[str, Any]


_open: dict[str, list[_Opened]] = {}    # by path and arguments; an entry goes when its arrays do


def open_model(place: str, where: str, *, seed: int,
               **changes: Any) -> tuple[Functional, Weights, Mapping[str, Any]]:
  """Returns the model, weights and card of a folder or hub id, which is read once.

  A second call returns the same arrays as long as any caller holds them. A folder whose files have
  changed is read again. `changes` are those of `formats.load`; `seed` initialises parameters that
  the folder lacks.
  """
  folder = hub.folder(place, where).resolve()
  stats = {file.name: file.stat() for file in folder.iterdir() if file.is_file()}
  files = sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats.items())
  key = repr((folder, files, sorted(changes.items())))
  for entry in _open.get(key, ()):
    weights = tuple({path: array() for path, array in part.items()} for part in entry.arrays)
    if entry.seed == seed or not entry.card.get('fresh'):
      return entry.model, weights, entry.card
  model, weights, card = formats.load(place, where, seed=seed, **changes)
  gone = lambda _: _open.pop(key, None)
  _open.setdefault(key, []).append(_Opened(seed, model, tuple(
      {path: weakref.ref(array, gone) for path, array in part.items()} for part in weights), card))
  return model, weights, card


def load_teacher(spec: nodes.TeacherNode, dataset: Dataset, seed: int,
                 where: str) -> tuple[Functional, Weights, Mapping[str, Any]]:
  """Returns the model, weights and card of `init`, which must agree with the fields of `model`."""
  model, weights, card = open_model(
      spec.init, f'{where}.init', model=free_arguments(spec, where),
      fresh=spec.fresh, sizes=dataset.sizes, seed=seed)
  check_card(card, spec.init, dataset, where)
  for key, value in spec.model.items():
    value = list(value) if isinstance(value, tuple) else value        # as a card has it
    if card['model'].get(key, value) != value:
      raise Stop(Status.MISFIT, f'{where}.model.{key}={value!r}, but {spec.init} has '
                 f'{card["model"][key]!r}')
  return model, weights, card


def free_arguments(spec: nodes.TeacherNode, where: str) -> dict[str, Any]:
  """Returns the arguments of a loaded model that a teacher's node may change."""
  return formats.free_arguments(spec.init, spec.model, f'{where}.init')


def make_start(node: nodes.StudentNode, model: Functional, spelled: Mapping[str, Any], *,
               dataset: Dataset, seed: int,
               teachers: Mapping[str, tuple[Functional, Mapping[str, Any]]],
               idle: Collection[str]) -> tuple[Start, str]:
  """Returns the call that makes parameters before step 0, and the sha256 of the arrays it read.

  Parameters are initialised by the seed, or taken from a teacher or an exported model; the sha256
  is '' if no file was read.

  Args:
    spelled: the node of the student's model with every size.
    teachers: models and full nodes of the run's teachers, by name.
    idle: heads that nothing trains.
  """
  if node.layers and node.take:
    raise Stop(Status.CONFIG, 'student has both layers and take: give take alone')
  if not node.init:
    if node.layers or node.take:
      key = 'layers' if node.layers else 'take'
      raise Stop(Status.CONFIG, f'student.{key} without student.init: parts of which model?')
    return lambda student, weights: student.init(seed), ''
  fresh = lambda path: any(fnmatch.fnmatchcase(path, pattern) for pattern in node.fresh)
  shapes = [{path: shape for path, shape in part.items() if not fresh(path)}
            for part in model.shapes]
  if node.init in teachers:
    loaded, (source, source_node) = None, teachers[node.init]
  else:
    source, loaded, card = open_model(node.init, 'student.init', fresh=node.fresh, seed=seed,
                                      sizes=dataset.sizes)
    check_card(card, node.init, dataset, 'student')
    source_node = card['model']
  modules = {path.split('/')[0] for part in shapes for path in part} - {*idle}
  if len(modules) > 1:                # one module, such as a teacher's head, may be in any model
    check_same_architecture(spelled, source_node, node.init, modules)
  wanted = shapes[0] | shapes[1]
  path_map = node.take or block_map(node.layers, wanted, 'student')

  def take(found: Weights) -> tuple[Flat, ...]:
    taken = start_from(wanted, found[0] | found[1], path_map, 'student', model.traits.cut,
                       key='take' if node.take else 'layers')
    return tuple({path: taken[path] for path in part} for part in shapes)
  jax.eval_shape(take, source.shapes)

  def start(student: Student, weights: Mapping[str, Weights]) -> tuple[Flat, Flat]:
    return initial_weights(student, seed, take(loaded or weights[node.init]))
  return start, checkpoint.sha256(loaded) if loaded else ''


def initial_weights(student: Student, seed: int, taken: Weights) -> tuple[Flat, Flat]:
  """Returns a student's parameters and rest: the taken ones, and the others by the seed."""
  given = [{f'model/{path}': value for path, value in part.items()} for part in taken]
  if all(whole.keys() == part.keys() for whole, part in zip(student.shapes(), given, strict=True)):
    return tuple(given)
  return tuple(new | part for new, part in zip(student.init(seed), given, strict=True))


def check_sizes(node: Mapping[str, Any], dataset: Dataset, where: str) -> None:
  """Stops unless a model's sizes are the data's; spare rows, as of a vocabulary, are allowed."""
  for key, size in dataset.sizes.items():
    value = node.get(key, size)
    if value != size and not (key in dataset.modality.spare and value > size):
      raise Stop(Status.MISFIT, f'{where}.{key}={value}, but {dataset.name} has {size}: '
                 f'leave {key} out, or take the data that it was made for')


def check_card(card: Mapping[str, Any], place: str, dataset: Dataset, where: str) -> None:
  """Stops unless an exported model has the data's classes, in their order, and its inputs."""
  name, classes, its = dataset.name, dataset.names, tuple(card['classes'])
  tasks.check_exclusive(card, f'{where}.init={place!r}', 'take a model of single labels, or give '
                        f"{where}.fresh=('head/*',) for a new head")
  modality = formats.modality(card, hub.folder(place, f'{where}.init'))
  why = modality.misfit(dataset.modality)
  if why:
    raise Stop(Status.MISFIT, f'{where}: {why}: take the data that it was trained on '
               f'({name} is other data), or data that is encoded for it')
  outputs = card['model'].get('classes', max(1, len(its)))
  if outputs != dataset.sizes.get('classes', outputs) or (
      its and its != classes and not are_unnamed(its)):
    labels = ' for ' + ', '.join(its) if its else ''
    raise Stop(Status.MISFIT, f'{where}: its head has {outputs} outputs{labels}; {name} has '
               f'{", ".join(classes) or "numbers"}, in this order: give '
               f"{where}.fresh=('head/*',) for a new head")
  check_sizes(card['model'], dataset, f'{where}.model')


def are_unnamed(labels: Sequence[str]) -> bool:
  """Tells whether labels are the names that `transformers` gives to unnamed labels."""
  return bool(labels) and all(re.fullmatch(r'LABEL_\d+', label) for label in labels)


def check_same_architecture(mine: Mapping[str, Any], theirs: Mapping[str, Any], init: str,
                            taken: Collection[str]) -> None:
  """Stops where equal shapes would hide that `init` computes something else than the student.

  `taken` are the modules that the student takes from `init`.
  """
  kind = lookup.find('models', mine['name'], 'student.model.name')
  defaults = {key: p.default for key, p in lookup.parameters(kind).items()}
  kin = traits_of(kind).kin
  for key in ('name', *(key for key, module in kin.items() if module in taken)):
    ours, others = (n.get(key, defaults.get(key)) for n in (mine, theirs))
    if ours != others:
      raise Stop(Status.MISFIT, f'student.model.{key}={ours!r}, but student.init={init!r} has '
                 f'{others!r}: give student.model {key}={others!r}')
