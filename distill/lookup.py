"""From a name in a config to the thing it names, checked; the only dynamic import.

A name is an import path inside a room: `bert.Bert` in the room `models` is
`distill.models.bert.Bert`. A config node is splatted into what it names, so the keyword
defaults of that function are the config's defaults, and its annotations are its types.
"""
import difflib
import importlib
import inspect
import pkgutil
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distill.types import Status, Stop


def find(room: str, name: str, where: str) -> Callable:
  """The public object `distill.ROOM.NAME`; `where` is the config path for the error line."""
  if not isinstance(name, str):
    raise Stop(Status.CONFIG, f'{where}={name!r} must be a name, such as those in distill/{room}')
  module_name, _, attribute = name.rpartition('.')
  path = f'distill.{room}.{module_name}' if module_name else f'distill.{room}'
  try:
    module = importlib.import_module(path)
  except ModuleNotFoundError as error:
    if error.name and not path.startswith(error.name):
      raise Stop(Status.CONFIG, f'{where}={name!r} needs the package {error.name!r}, which is not '
                 'installed: see the extras in setup.py') from None
    module = None
  found = None if attribute.startswith('_') else getattr(module, attribute, None)
  if not callable(found):
    raise Stop(Status.CONFIG, f'{where}={name!r} names nothing in distill/{room}'
               + nearest(name, names(room)))
  return found


def names(room: str) -> list[str]:
  """Every name that a config may use for a room."""
  package = importlib.import_module(f'distill.{room}')
  if not hasattr(package, '__path__'):
    return sorted(_public(package))
  found = []
  for info in pkgutil.iter_modules(package.__path__):
    module = importlib.import_module(f'distill.{room}.{info.name}')
    found += [f'{info.name}.{name}' for name in _public(module)]
  return sorted(found)


def _public(module) -> list[str]:
  return [name for name, value in vars(module).items()
          if callable(value) and not name.startswith('_') and value.__module__ == module.__name__]


def nearest(name: str, known: Iterable[str]) -> str:
  """The end of an error line: the nearest known names, or all of them if they are few."""
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  if close:
    return f'; did you mean {" or ".join(map(repr, close))}?'
  return f'; there is {", ".join(known)}' if 0 < len(known) <= 40 else ''


def build(room: str, node: Mapping[str, Any], where: str, **given) -> Any:
  """Calls what `node['name']` names with the rest of the node and with `given`.

  `given` fills the keywords that the node leaves out, where the function takes them. A
  ValueError from the function is the user's mistake and becomes one line.
  """
  if not isinstance(node, Mapping) or 'name' not in node:
    raise Stop(Status.CONFIG, f'{where}={node!r} must have a name, of something in distill/{room}')
  node = dict(node)
  function = find(room, node.pop('name'), f'{where}.name')
  taken = parameters(function)
  return call(function, node, where,
              **{k: v for k, v in given.items() if k in taken and k not in node})


def call(function: Callable, node: Mapping[str, Any], where: str, **given) -> Any:
  """`function(**node, **given)`, after checking the node's keys and types."""
  check(function, node, where, skip=given)
  try:
    return function(**node, **given)
  except ValueError as error:
    raise Stop(Status.CONFIG, f'{where}: {error}') from error


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
  """The named parameters of a function or of a class's constructor."""
  # Of the constructor itself: the signature of an `nnx.Module` class is its metaclass's.
  signature = inspect.signature(function.__init__ if isinstance(function, type) else function)
  return {name: p for name, p in signature.parameters.items()
          if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and name != 'self'}


def check(function: Callable, node: Mapping[str, Any], where: str,
          skip: Iterable[str] = ()) -> None:
  """Stops unless `function(**node)` has all its keywords, no other, and of the right types.

  `skip` names parameters that come from elsewhere: they may neither be set nor be missing.
  """
  if not isinstance(node, Mapping):
    raise Stop(Status.CONFIG, f'{where}={node!r} is not a node with fields')
  taken = {k: p for k, p in parameters(function).items() if k not in set(skip)}
  for key, value in node.items():
    if key not in taken:
      raise Stop(Status.CONFIG, f'{where}.{key}: {function.__name__} has no such field'
                 + nearest(key, taken))
    expected = taken[key].annotation
    if not _fits(value, expected):
      raise Stop(Status.CONFIG, f'{where}.{key}={value!r} is a {type(value).__name__}, '
                 f'not a {_spelled(expected)}')
  missing = [k for k, p in taken.items() if p.default is p.empty and k not in node]
  if missing:
    raise Stop(Status.CONFIG,
               f'{where} lacks {", ".join(missing)}, which {function.__name__} needs')


def _fits(value: Any, expected: Any) -> bool:
  if expected is inspect.Parameter.empty or expected is Any:
    return True
  origin, arguments = typing.get_origin(expected), typing.get_args(expected)
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, e) for e in arguments)
  kind = origin or expected
  if kind in (types.NoneType, None):
    return value is None
  if kind is bool or isinstance(value, bool):
    return isinstance(value, bool) and kind is bool
  if kind is float:
    return isinstance(value, (int, float))
  if isinstance(kind, type) and issubclass(kind, Sequence) and not issubclass(kind, (str, bytes)):
    inner = [a for a in arguments if a is not ...]
    return isinstance(value, (list, tuple)) and all(_fits(v, inner[0]) for v in value if inner)
  if isinstance(kind, type):
    return isinstance(value, kind)
  return True


def _spelled(expected: Any) -> str:
  return expected.__name__ if isinstance(expected, type) else str(expected).replace('typing.', '')
