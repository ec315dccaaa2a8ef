"""Parts of a config without an effect: terms of weight 0, and parts that only such terms read."""
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from distill import objective


def without_unread(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config without terms of weight 0, and without the parts that only these read.

  A teacher that is a model stays: it is trained, or at least evaluated, even if no term reads it.
  """
  config, before = _trained(config), {}
  while config != before:               # parts read each other
    before = config
    config = _without_sources(_without_parts(config))
  return config


def _without_parts(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config without the projectors, carries and schedules that nothing reads."""
  averages = {str(node.get('source', '')).removeprefix('carry:')        # read by teachers
              for _, node in children(config, 'teachers')}
  students = [config, *(node for _, node in children(config, 'students'))]
  kept = _kept(students, [child(node, 'student') for node in students], averages)

  def learner(node):
    node = _only(_only(node, 'carry', kept['carry']), 'schedules', kept['schedules'])
    return _mapped(node, 'student', lambda model: _only(
        model, 'projectors', kept['projectors']))

  def teacher(node):
    kept = _kept([node], [node], ())
    for key, names in kept.items():
      node = _only(node, key, names)
    return node
  config = _mapped(learner(config), 'students', lambda nodes: _parts_mapped(nodes, learner))
  return _mapped(config, 'teachers', lambda nodes: _parts_mapped(nodes, teacher))


def _kept(learners: Sequence[Mapping], models: Sequence[Mapping],
          averages: Collection[str]) -> dict[str, set[str]]:
  """Returns the names of the projectors, carries and schedules that learners' stages read.

  `models` are the nodes that have their projectors, `averages` are carries that a teacher reads,
  even if no term does.
  """
  stages = [stage for learner in learners for stage in _stages(learner)]
  read = {text for stage in stages for _, term in children(stage, 'objective')
          for text in _texts(term)}
  carries = {name: node for learner in learners for name, node in children(learner, 'carry')}
  kept = {'carry': {name for name in carries
                    if name in averages or objective.names_view('carry', name, read)}}
  every = any(_is_foreign(carries[name]) for name in kept['carry'])
  among = lambda view, name: every or objective.names_view(view, name, read)
  read |= {text for name in kept['carry'] for text in _texts(carries[name])}
  projectors = {name: node for model in models for name, node in children(model, 'projectors')}
  kept['projectors'] = {name for name in projectors if among('projected', name)}
  read |= {text for name in kept['projectors'] for text in _texts(projectors[name].get('reads'))}
  schedules = {name for learner in learners for name in child(learner, 'schedules')}
  kept['schedules'] = {name for name in schedules if among('schedule', name)}
  return kept


def _without_sources(config: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a config without the teachers that are no models and that no text of it names.

  One teacher stays, because a run with a teacher also trains a baseline.
  """
  learners = [config, *(node for key in ('students', 'teachers')
                        for _, node in children(config, key))]
  parts = [node for learner in learners for _, node in children(learner, 'carry')]
  for stage in (stage for learner in learners for stage in _stages(learner)):
    augment = stage.get('augment')
    parts += [node for node in (augment if isinstance(augment, list | tuple) else ())
              if isinstance(node, Mapping)]
  if any(map(_is_foreign, parts)):
    return dict(config)
  read = {text.partition('/')[0] for text in _texts(config)}
  unread = {name for name, node in children(config, 'teachers')
            if node.get('source', 'live') != 'live' and name not in read}
  if unread == child(config, 'teachers').keys():
    return dict(config)
  return _mapped(config, 'teachers', lambda nodes: {
      name: node for name, node in nodes.items() if name not in unread})


def _is_foreign(node: Mapping[str, Any]) -> bool:
  """Returns whether a node names a part outside of distill, which may read undeclared parts."""
  return ':' in str(node.get('name'))


def _stages(learner: Mapping[str, Any]) -> list[Mapping[str, Any]]:
  """Returns the nodes of a learner's stages; a teacher's last one is its `train`."""
  return [learner, child(learner, 'train'), *(node for _, node in children(learner, 'before'))]


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
  """Returns a node whose mapping `key` has only these names."""
  return _mapped(node, key, lambda parts: {
      name: part for name, part in parts.items()
      if name in names or not isinstance(part, Mapping)})


def _parts_mapped(nodes: Mapping[str, Any], change: Callable) -> dict[str, Any]:
  """Returns nodes by name, each changed."""
  return {name: change(node) if isinstance(node, Mapping) else node
          for name, node in nodes.items()}


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


def child(node: Mapping[str, Any], key: str) -> Mapping[str, Any]:
  """Returns the node below a key, {} if there is none."""
  value = node.get(key)
  return value if isinstance(value, Mapping) else {}


def children(node: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
  """Returns the nodes below a key by their names."""
  return [(name, part) for name, part in child(node, key).items() if isinstance(part, Mapping)]
