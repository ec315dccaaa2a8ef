"""Fields of a config: the functions that take them, and those that make a difference.

A node's fields are the keywords of the function that it names, or of a dataclass of `nodes`; this
module finds these functions. From them follow the part of a config that identifies a run
(`essential`), the modules that it names (`modules`), and the fields that `--config.a.b=` may set.
"""
import functools
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from distill import lookup, objective, sharding, train
from distill.data import batches
from distill.pipelines import nodes
from distill.pipelines.judge import BATCHING
from distill.pipelines.unread import child, children, without_unread
from distill.types import Status, Stop

NOT_IDENTITY = 'mesh', 'tier'       # no result depends on these nodes
# What our data sets know: it fills the keywords that models, tasks, augments and carries leave out.
FACTS = frozenset(('classes', 'names', 'channels', 'length', 'vocabulary', 'special', 'labels'))
PIPELINES = {'compare.run': nodes.Config, 'matrix.run': nodes.Config,
             'evaluate.run': nodes.Evaluation}
Path = tuple[str | int, ...]
# A sweep asks for the same functions hundreds of times.
_parameters, _defaults = functools.cache(lookup.parameters), functools.cache(lookup.defaults)


class _Every:
  """The set of all keywords."""

  def __contains__(self, name: object) -> bool:
    return True


EVERY = _Every()


class Configured(NamedTuple):
  """The functions that a node configures: its fields are their keywords.

  `apart` are keywords that a config may not set. `filled` are keywords that the code fills if the
  node lacks them, so that their default means nothing.
  """
  functions: tuple[Callable, ...]
  module: str = ''                      # in which a name of the node was found
  apart: Collection[str] = ()
  filled: Any = ()

  @property
  def keywords(self) -> dict[str, inspect.Parameter]:
    """Keywords that the node may have."""
    return {name: parameter for function in self.functions
            for name, parameter in _parameters(function).items() if name not in self.apart}

  @property
  def defaults(self) -> dict[str, Any]:
    """Defaults of the keywords that the node may leave out."""
    return {name: value for function in self.functions
            for name, value in _defaults(function).items()
            if name not in self.apart and name not in self.filled}


def configured(config: Mapping[str, Any]) -> dict[Path, Configured]:
  """Returns the nodes of a config, or of a part of one, by their paths.

  A node that names nothing is left out: to say so is for those who build it. A pipeline outside of
  distill reads its config itself, so that nothing is known of its nodes.
  """
  kind = PIPELINES.get(config['pipeline'] if 'pipeline' in config else 'compare.run')
  return dict(_config(config, kind)) if kind else {}


def essential(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns what of a config makes a difference, as JSON has it.

  Left out are the nodes `NOT_IDENTITY`; terms of weight 0, which a step leaves out whatever their
  schedule, with what nothing else reads (`pipelines/unread.py`); and fields that have the keyword
  default of what they configure.
  """
  config = without_unread({key: value for key, value in config.items() if key not in NOT_IDENTITY})
  return _without_defaults(config, (), configured(config))


def modules(config: Mapping[str, Any]) -> set[str]:
  """Returns the modules of all that a config names, without what makes no difference."""
  return {node.module for node in configured(without_unread(config)).values() if node.module}


def _without_defaults(value: Any, path: Path, known: Mapping[Path, Configured]) -> Any:
  """Returns a value without the fields that have their default, tuples as lists."""
  if isinstance(value, list | tuple):
    return [_without_defaults(part, (*path, i), known) for i, part in enumerate(value)]
  if not isinstance(value, Mapping):
    return value
  defaults = known[path].defaults if path in known else {}
  kept = {}
  for key, part in value.items():
    part = _without_defaults(part, (*path, key), known)
    if key not in defaults or not _same(part, _without_defaults(defaults[key], (), {})):
      kept[key] = part
  return kept


def _same(value: Any, default: Any) -> bool:
  return value == default and isinstance(value, bool) == isinstance(default, bool)


# ---- what the nodes are of

def _config(config: Mapping[str, Any], kind: type) -> Iterator[tuple[Path, Configured]]:
  yield (), Configured((kind,))
  data = child(config, 'data')
  facts = EVERY if ':' in str(data.get('name')) else FACTS      # those of others aren't known
  source = tuple(_named('data', data, ('data',)))
  batching = Configured((batches.shuffled,), apart={
      *lookup.parameters(batches.shuffled)} - {*BATCHING})
  for path, found in source or [(('data',), batching)]:
    yield path, found._replace(functions=(*found.functions, batches.shuffled), apart=batching.apart)
  yield from _named('tasks', child(config, 'task'), ('task',), filled=facts)
  yield ('evaluate',), Configured((nodes.Evaluate,))
  yield ('mesh',), Configured((sharding.layout,), apart=('devices',))
  for name in child(config, 'models'):
    yield ('models', name), Configured((nodes.ModelNode,))
  for name, node in children(config, 'teachers'):
    yield from _teacher(node, ('teachers', name), facts)
  for name, node in [('', config), *children(config, 'students')]:
    path = ('students', name) if name else ()
    if name:          # what it leaves out it has in common with the others
      yield path, Configured((nodes.Config,), filled=EVERY)
    yield from _learner(node, path, facts)


def _teacher(node: Mapping[str, Any], path: Path, facts: Any):
  yield path, Configured((nodes.TeacherNode,))
  # What a loaded model leaves out its card says.
  yield from _model(child(node, 'model'), (*path, 'model'), EVERY if node.get('init') else facts)
  yield from _read(node, path, node, path, facts)
  if plan := child(node, 'train'):
    yield (*path, 'train'), Configured((nodes.TeacherTrain, train.TrainConfig))
    yield from _stage(plan, (*path, 'train'), facts)


def _learner(node: Mapping[str, Any], path: Path, facts: Any):
  """Yields the nodes of a student: its model, its stages, and what these read."""
  student = child(node, 'student')
  if student:
    yield (*path, 'student'), Configured((nodes.StudentNode,))
    yield from _model(child(student, 'model'), (*path, 'student', 'model'), facts)
  yield from _read(node, path, student, (*path, 'student'), facts)
  yield (*path, 'train'), Configured((train.TrainConfig,))
  yield from _stage(node, path, facts)
  for name, derived in children(node, 'derive'):
    yield (*path, 'derive', name), Configured((nodes.DeriveNode,))
    yield from _named('compress', child(derived, 'change'), (*path, 'derive', name, 'change'))


def _read(node: Mapping[str, Any], path: Path, model: Mapping[str, Any], where: Path, facts: Any):
  """Yields the nodes that a learner's stages read, and its stages before the last.

  `model` is the node with its projectors, `where` that node's path.
  """
  for name, projector in children(model, 'projectors'):
    yield from _model(child(projector, 'module'), (*where, 'projectors', name, 'module'),
                      ('inputs',), apart=('inputs',), room='projectors')
  for name, schedule in children(node, 'schedules'):
    yield from _named('schedules', schedule, (*path, 'schedules', name))
  for name, carry in children(node, 'carry'):
    yield from _named('carry', carry, (*path, 'carry', name), filled=facts)
  for name, before in children(node, 'before'):
    yield (*path, 'before', name), Configured((nodes.StageNode,))
    yield (*path, 'before', name, 'train'), Configured((train.TrainConfig,))
    yield from _stage(before, (*path, 'before', name), facts)


def _stage(node: Mapping[str, Any], path: Path, facts: Any):
  """Yields the nodes of an objective, an optimizer and augments."""
  if 'optimizer' in node:
    yield from _named('optimizers', {'name': 'adamw', **child(node, 'optimizer')},
                      (*path, 'optimizer'), apart=('steps',))
  for name, term in children(node, 'objective'):
    where = (*path, 'objective', name)
    yield where, Configured((objective.TermNode,))
    yield from _named('losses', {'name': term.get('loss')}, (*where, 'kwargs'),
                      apart=child(term, 'reads'))
    schedule = child(term, 'schedule') if 'schedule' in term else {'name': 'constant'}
    yield from _named('schedules', schedule, (*where, 'schedule'))
  augments = node.get('augment')
  for i, augment in enumerate(augments if isinstance(augments, list | tuple) else ()):
    if isinstance(augment, Mapping):
      yield from _named('augment', augment, (*path, 'augment', i), filled=facts)


def _model(node: Mapping[str, Any], path: Path, filled: Any, apart: Collection[str] = (),
           room: str = 'models'):
  """Yields a model or a projector, and the models inside it, which it gives what they leave out."""
  yield from _named(room, node, path, filled=filled, apart=('rngs', *apart))
  filled_parts = EVERY if ':' in str(node.get('name')) else filled
  for key, value in node.items():
    if isinstance(value, Mapping):
      parts = {(key,): value} if 'name' in value else {(key, name): part
                                                       for name, part in children(node, key)}
      for more, part in parts.items():
        yield from _model(part, (*path, *more), filled_parts)


def _named(room: str, node: Mapping[str, Any], path: Path, **how: Any):
  """Yields the node with what it names, unless it names nothing."""
  name, where = node.get('name'), '.'.join(map(str, path))
  if not isinstance(name, str):
    return
  try:
    function = lookup.find(room, name, where)
  except Stop as stop:
    if stop.status != Status.CONFIG:              # a signal's
      raise
    return
  submodule = name.rpartition('.')[0]
  module = name.partition(':')[0] if ':' in name else '.'.join(
      filter(None, ('distill', room, submodule)))
  yield path, Configured((function,), module, **how)
