"""Fields of a config: the functions that take them, and those that make a difference.

A node's fields are the keywords of the function that it names, or of a dataclass of `nodes`; this
module finds these functions. From them follow the part of a config that identifies a run
(`essential`), the modules that it names (`modules`), and the fields that `--config.a.b=` may set.
"""
import functools
import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from distill import lookup, objective, sharding, train
from distill.data import batches
from distill.pipelines import nodes
from distill.pipelines.judge import BATCHING
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
  schedule, with the projectors, carries and schedules that nothing else reads; and fields that
  have the keyword default of what they configure.
  """
  config = _without_idle({key: value for key, value in config.items() if key not in NOT_IDENTITY})
  return _without_defaults(config, (), configured(config))


def modules(config: Mapping[str, Any]) -> set[str]:
  """Returns the modules of all that a config names, without what makes no difference."""
  return {node.module for node in configured(_without_idle(config)).values() if node.module}


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
  data = _node(config, 'data')
  facts = EVERY if ':' in str(data.get('name')) else FACTS      # those of others aren't known
  source = tuple(_named('data', data, ('data',)))
  batching = Configured((batches.batches,), apart={
      *lookup.parameters(batches.batches)} - {*BATCHING})
  for path, found in source or [(('data',), batching)]:
    yield path, found._replace(functions=(*found.functions, batches.batches), apart=batching.apart)
  yield from _named('tasks', _node(config, 'task'), ('task',), filled=facts)
  yield ('evaluate',), Configured((nodes.Evaluate,))
  yield ('mesh',), Configured((sharding.layout,), apart=('devices',))
  for name in _node(config, 'models'):
    yield ('models', name), Configured((nodes.ModelNode,))
  for name, node in _each(config, 'teachers'):
    yield from _teacher(node, ('teachers', name), facts)
  for name, node in [('', config), *_each(config, 'students')]:
    path = ('students', name) if name else ()
    if name:          # what it leaves out it has in common with the others
      yield path, Configured((nodes.Config,), filled=EVERY)
    yield from _learner(node, path, facts)


def _teacher(node: Mapping[str, Any], path: Path, facts: Any):
  yield path, Configured((nodes.TeacherNode,))
  # What a loaded model leaves out its card says.
  yield from _model(_node(node, 'model'), (*path, 'model'), EVERY if node.get('init') else facts)
  yield from _read(node, path, node, path, facts)
  if plan := _node(node, 'train'):
    yield (*path, 'train'), Configured((nodes.TeacherTrain, train.TrainConfig))
    yield from _stage(plan, (*path, 'train'), facts)


def _learner(node: Mapping[str, Any], path: Path, facts: Any):
  """Yields the nodes of a student: its model, its stages, and what these read."""
  student = _node(node, 'student')
  if student:
    yield (*path, 'student'), Configured((nodes.StudentNode,))
    yield from _model(_node(student, 'model'), (*path, 'student', 'model'), facts)
  yield from _read(node, path, student, (*path, 'student'), facts)
  yield (*path, 'train'), Configured((train.TrainConfig,))
  yield from _stage(node, path, facts)
  for name, derived in _each(node, 'derive'):
    yield (*path, 'derive', name), Configured((nodes.DeriveNode,))
    yield from _named('compress', _node(derived, 'change'), (*path, 'derive', name, 'change'))


def _read(node: Mapping[str, Any], path: Path, model: Mapping[str, Any], where: Path, facts: Any):
  """Yields the nodes that a learner's stages read, and its stages before the last.

  `model` is the node with its projectors, `where` that node's path.
  """
  for name, projector in _each(model, 'projectors'):
    yield from _model(_node(projector, 'module'), (*where, 'projectors', name, 'module'),
                      ('inputs',), apart=('inputs',))
  for name, schedule in _each(node, 'schedules'):
    yield from _named('schedules', schedule, (*path, 'schedules', name))
  for name, carry in _each(node, 'carry'):
    yield from _named('carry', carry, (*path, 'carry', name), filled=facts)
  for name, before in _each(node, 'before'):
    yield (*path, 'before', name), Configured((nodes.StageNode,))
    yield (*path, 'before', name, 'train'), Configured((train.TrainConfig,))
    yield from _stage(before, (*path, 'before', name), facts)


def _stage(node: Mapping[str, Any], path: Path, facts: Any):
  """Yields the nodes of an objective, an optimizer and augments."""
  if 'optimizer' in node:
    yield from _named('optimizers', {'name': 'adamw', **_node(node, 'optimizer')},
                      (*path, 'optimizer'), apart=('steps',))
  for name, term in _each(node, 'objective'):
    where = (*path, 'objective', name)
    yield where, Configured((objective.TermNode,))
    yield from _named('losses', {'name': term.get('loss')}, (*where, 'kwargs'),
                      apart=_node(term, 'reads'))
    schedule = _node(term, 'schedule') if 'schedule' in term else {'name': 'constant'}
    yield from _named('schedules', schedule, (*where, 'schedule'))
  augments = node.get('augment')
  for i, augment in enumerate(augments if isinstance(augments, list | tuple) else ()):
    if isinstance(augment, Mapping):
      yield from _named('augment', augment, (*path, 'augment', i), filled=facts)


def _model(node: Mapping[str, Any], path: Path, filled: Any, apart: Collection[str] = ()):
  """Yields a model, and those inside it: a model gives its parts what they leave out."""
  yield from _named('models', node, path, filled=filled, apart=('rngs', *apart))
  filled_parts = EVERY if ':' in str(node.get('name')) else filled
  for key, value in node.items():
    if isinstance(value, Mapping):
      parts = {(key,): value} if 'name' in value else {(key, name): part
                                                       for name, part in _each(node, key)}
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


def _node(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
  value = node.get(key)
  return value if isinstance(value, Mapping) else {}


def _each(node: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
  return [(name, part) for name, part in _node(node, key).items() if isinstance(part, Mapping)]


# ---- terms of weight 0

def _without_idle(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config without terms of weight 0, and what only they read.

  A teacher stays: it is trained, or at least judged, whoever reads it.
  """
  config = _trained(config)
  learners = [config, *(node for _, node in _each(config, 'students'))]
  stages = [stage for learner in learners
            for stage in (learner, *(node for _, node in _each(learner, 'before')))]
  read = {text for stage in stages for _, term in _each(stage, 'objective')
          for text in _texts(term)}
  carries = {name: node for learner in learners for name, node in _each(learner, 'carry')}
  held = {str(node.get('source', '')).removeprefix('carry:')      # by teachers that are averages
          for _, node in _each(config, 'teachers')}
  kept = {'carry': {name for name in carries
                    if name in held or objective.among('carry', name, read)}}
  # A class of others may read what its node doesn't say.
  every = any(':' in str(carries[name].get('name')) for name in kept['carry'])
  among = lambda view, name: every or objective.among(view, name, read)
  read |= {text for name in kept['carry'] for text in _texts(carries[name])}
  projectors = {name: node for learner in learners
                for name, node in _each(_node(learner, 'student'), 'projectors')}
  kept['projectors'] = {name for name in projectors if among('projected', name)}
  read |= {text for name in kept['projectors'] for text in _texts(projectors[name].get('reads'))}
  schedules = {name for learner in learners for name in _node(learner, 'schedules')}
  kept['schedules'] = {name for name in schedules if among('schedule', name)}

  def learner(node):
    node = _only(_only(node, 'carry', kept['carry']), 'schedules', kept['schedules'])
    return _mapped(node, 'student', lambda model: _only(model, 'projectors', kept['projectors']))
  return _mapped(learner(config), 'students', lambda students: {
      name: learner(node) if isinstance(node, Mapping) else node
      for name, node in students.items()})


def _trained(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config whose objectives, at any depth, have no terms of weight 0."""
  found = {}
  for key, value in config.items():
    if key == 'objective' and isinstance(value, Mapping):
      value = {name: term for name, term in value.items()
               if not (isinstance(term, Mapping) and _is_zero(term.get('weight')))}
    elif isinstance(value, Mapping):
      value = _trained(value)
    found[key] = value
  return found


def _is_zero(weight: Any) -> bool:
  return isinstance(weight, int | float) and not isinstance(weight, bool) and weight == 0


def _only(node: Mapping[str, Any], key: str, names: Collection[str]) -> dict[str, Any]:
  """Returns a node whose mapping `key` has these names alone."""
  return _mapped(node, key, lambda parts: {
      name: part for name, part in parts.items()
      if name in names or not isinstance(part, Mapping)})


def _mapped(node: Mapping[str, Any], key: str, change: Callable) -> dict[str, Any]:
  return {name: change(value) if name == key and isinstance(value, Mapping) else value
          for name, value in node.items()}


def _texts(value: Any) -> Iterable[str]:
  """Yields every text in a value, however deep."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, Mapping | list | tuple):
    for part in value.values() if isinstance(value, Mapping) else value:
      yield from _texts(part)
