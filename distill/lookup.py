"""Lookup of the thing that a name in a config means, checked; the only dynamic import.

A name is an import path inside a room: `bert.Bert` in the room `models` is
`distill.models.bert.Bert`. With a colon it is a module that Python can import and a name in it:
`mylab.nets:MobileNet`, in any room. A config node is splatted into what it names, so the keyword
defaults of that function are the config's defaults, and its annotations are its types.
"""
import ast
import dataclasses
import difflib
import importlib
import inspect
import pkgutil
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from distill.types import Status, Stop

MAX_FLOAT32 = float.fromhex('0x1.fffffep127')       # the largest finite float32
MODULES = {'models', 'projectors'}                  # rooms of nnx modules
PROTOCOLS = {'formats': 'Format', 'modalities': 'Modality', 'tasks': 'Task'}  # by room
METHODS = {         # methods without a default in their protocol
    'formats': ('holds', 'open', 'write', 'sizes'), 'modalities': ('encode',),
    'tasks': ('measure', 'records', 'score', 'answer')}


def find(room: str, name: str, where: str) -> Callable:
  """Returns the function or class `distill.ROOM.NAME`, or `NAME` of a module for 'MODULE:NAME'.

  `where` is the config path for the error line.
  """
  if not isinstance(name, str):
    raise Stop(Status.CONFIG, f'{where}={name!r} must be a name, such as those in {_place(room)}')
  if ':' in name:
    return _find_outside(room, name, f'{where}={name!r}')
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
  if not callable(found) or not _is_kind(room, found):
    raise Stop(Status.CONFIG, f'{where}={name!r} names nothing in {_place(room)}'
               + nearest(name, names(room)))
  return found


def _place(room: str) -> str:
  """Returns the folder or the file of a room, for error lines."""
  is_folder = hasattr(importlib.import_module(f'distill.{room}'), '__path__')
  return f'distill/{room}' if is_folder else f'distill/{room}.py'


def _find_outside(room: str, name: str, field: str) -> Callable:
  """Returns the function or class at 'MODULE:NAME'; an error line begins with `field`."""
  module_name, _, attribute = name.partition(':')
  if not all(part.isidentifier() for part in (*module_name.split('.'), attribute)):
    raise Stop(Status.CONFIG, f"{field} must be MODULE:NAME, such as 'mylab.nets:MobileNet'")
  try:
    module = importlib.import_module(module_name)
    known = hasattr(module, attribute)            # may import, where a package does so lazily
    found = getattr(module, attribute, None)
  except Stop:                                    # a signal's
    raise
  except (Exception, SystemExit) as error:
    raise Stop(Status.CONFIG, f'{field}: {_import_failure(error, module_name)}') from error
  if not known:
    public = [key for key, value in vars(module).items()
              if callable(value) and not key.startswith('_')]
    raise Stop(Status.CONFIG, f'{field}: {module_name} has no {attribute!r}'
               + nearest(attribute, _public(module) or public))
  if not callable(found):
    raise Stop(Status.CONFIG, f'{field} is a {type(found).__name__}, not a function or a class')
  try:
    kind = _is_module(found) if room in MODULES else _is_kind(room, found)
    parameters(found)
  except (TypeError, ValueError):
    raise Stop(Status.CONFIG, f'{field} has no signature that Python can read: wrap it in a '
               'function with named arguments') from None
  if not kind:
    raise Stop(Status.CONFIG, f'{field} is no {_requirement(room)}{_lacking(room, found)}')
  return found


def _import_failure(error: BaseException, module_name: str) -> str:
  """Says in one line why a module could not be imported."""
  missing = error.name if isinstance(error, ModuleNotFoundError) else None
  if missing and f'{module_name}.'.startswith(f'{missing}.'):
    parent = sys.modules.get(missing.rpartition('.')[0])
    if parent:
      siblings = pkgutil.iter_modules(getattr(parent, '__path__', ()), f'{parent.__name__}.')
      return f'there is no module {missing!r}' + nearest(missing, [info.name for info in siblings])
    return (f'there is no module {missing!r}: the folder that holds it must be on PYTHONPATH, or '
            'the command be run from that folder')
  if missing:
    return f'{module_name} needs the module {missing!r}, which is not installed'
  reason = ': '.join([type(error).__name__, *str(error).splitlines()[:1]])
  return f'importing {module_name} raises {reason}; python -c "import {module_name}" shows where'


def _requirement(room: str) -> str:
  """Describes what a room requires of a name, for rooms that don't take every callable."""
  function = 'or a function whose annotation says that it returns one'
  if room in MODULES:
    return f'{room[:-1]}: it must be a class derived from nnx.Module {function}'
  protocol = f'distill.{room}.{PROTOCOLS[room]}'
  kind = f'must be a class derived from {protocol}, or with all its members'
  return f'modality: it {kind}' if room == 'modalities' else f'{room[:-1]}: it {kind}, {function}'


def _result_type(function: Callable) -> Any:
  """Returns the type of a call's result: the class itself, or a function's return annotation."""
  return function if isinstance(function, type) else _signature(function).return_annotation


def _is_module(function: Callable) -> bool:
  """Tells whether a call returns a model.

  The card of an export, which a stranger may have written, names a model too: it must not be able
  to call any other function (`os:system`).
  """
  made = _result_type(function)
  nnx = sys.modules.get('flax.nnx')       # not imported here: mistakes are answered without JAX
  return isinstance(made, type) and nnx is not None and issubclass(made, nnx.Module)


def _is_kind(room: str, function: Callable) -> bool:
  """Tells whether a call returns a thing of the room, by its members, for the same reason."""
  if room not in PROTOCOLS:
    return True
  made = function if room == 'modalities' else _result_type(function)
  return isinstance(made, type) and not _missing(room, made)


def _missing(room: str, made: type) -> list[str]:
  """Returns the members of a room's protocol that a class neither has nor inherits.

  A member that is only annotated may be set by the constructor: `build` looks for it.
  """
  protocol = _protocol(room)
  if made is protocol:            # the return annotation of a function
    return []
  if protocol in made.__mro__:
    return [name for name in METHODS[room] if getattr(made, name) is getattr(protocol, name)]
  return [name for name in vars(protocol) if not name.startswith('_') and not hasattr(made, name)]


def _protocol(room: str) -> type:
  return getattr(importlib.import_module(f'distill.{room}'), PROTOCOLS[room])


def _lacking(room: str, function: Callable) -> str:
  """Returns the end of an error line: the members that a class lacks for its room."""
  made = _result_type(function)
  if room not in PROTOCOLS or not isinstance(made, type) or made is inspect.Signature.empty:
    return ''
  return f'; {made.__name__} lacks {", ".join(_missing(room, made))}'


def names(room: str) -> list[str]:
  """Returns every name that a config may use for a room."""
  package = importlib.import_module(f'distill.{room}')
  if not hasattr(package, '__path__'):
    return sorted(_public(package))
  found = []
  for info in pkgutil.iter_modules(package.__path__):
    module = importlib.import_module(f'distill.{room}.{info.name}')
    found += [f'{info.name}.{name}' for name in _public(module)
              if _is_kind(room, getattr(module, name))]
  return sorted(found)


def _public(module) -> list[str]:
  return [name for name, value in vars(module).items()
          if callable(value) and not name.startswith('_')
          and getattr(value, '__module__', None) == module.__name__]      # a ufunc has none


def nearest(name: str, known: Iterable[str]) -> str:
  """Returns the end of an error line: the nearest known names, or all of them if they are few."""
  known = sorted(known)
  close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
  if close:
    return f'; did you mean {" or ".join(map(repr, close))}?'
  return f'; there is {", ".join(known)}' if 0 < len(known) <= 40 else ''


def build(room: str, node: Mapping[str, Any], where: str, **given) -> Any:
  """Calls what `node['name']` names with the rest of the node and with `given`.

  `given` fills the keywords that the node leaves out, where the function takes them. A
  ValueError or OverflowError from the function is the user's mistake and becomes one line.
  """
  if not isinstance(node, Mapping) or 'name' not in node:
    raise Stop(Status.CONFIG, f'{where}={node!r} must have a name, of something in {_place(room)}')
  node = dict(node)
  function = find(room, node.pop('name'), f'{where}.name')
  taken = parameters(function)
  made = call(function, node, where,
              **{k: v for k, v in given.items() if k in taken and k not in node})
  members = _protocol(room).__annotations__ if room in PROTOCOLS else ()
  missing = [name for name in members if not hasattr(made, name)]
  if missing:
    raise Stop(Status.CONFIG, f'{where}: {type(made).__name__} lacks {", ".join(missing)}')
  return made


def call(function: Callable, node: Mapping[str, Any], where: str, **given) -> Any:
  """Calls `function(**node, **given)`, after checking the node's keys and types."""
  check(function, node, where, skip=given)
  try:
    return function(**node, **given)
  except (ValueError, OverflowError) as error:
    raise Stop(Status.CONFIG, f'{where}: {error}') from error


def parameters(function: Callable) -> dict[str, inspect.Parameter]:
  """Returns the named parameters of a function or of a class's constructor."""
  # The constructor is asked: the signature of an `nnx.Module` class is that of its metaclass.
  signature = _signature(function.__init__ if isinstance(function, type) else function)
  return {name: p for name, p in signature.parameters.items()
          if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) and name != 'self'}


def defaults(function: Callable) -> dict[str, Any]:
  """Returns the keyword defaults of a function or of a class's constructor."""
  made = {field.name: field.default_factory() for field in (
      dataclasses.fields(function) if dataclasses.is_dataclass(function) else ())
          if field.default_factory is not dataclasses.MISSING}
  return {name: made.get(name, p.default) for name, p in parameters(function).items()
          if p.default is not p.empty}


def _signature(function: Callable) -> inspect.Signature:
  """Returns the signature; annotations that are strings are evaluated where possible."""
  try:
    return inspect.signature(function, eval_str=True)
  except Exception:                       # they use names that only a type checker imports
    return inspect.signature(function)


def check(function: Callable, node: Mapping[str, Any], where: str,
          skip: Iterable[str] = ()) -> None:
  """Stops unless `function(**node)` has all its keywords, no other, and of the right types.

  `skip` names parameters that come from elsewhere: they may neither be set nor be missing.
  """
  if not isinstance(node, Mapping):
    raise Stop(Status.CONFIG, f'{where}={node!r} is not a node with fields')
  taken = {k: p for k, p in parameters(function).items() if k not in set(skip)}
  title = getattr(function, '__name__', type(function).__name__)      # a partial has none
  for key, value in node.items():
    if key not in taken:
      raise Stop(Status.CONFIG, f'{where}.{key}: {title} has no such field'
                 + nearest(key, taken))
    check_type(value, taken[key].annotation, f'{where}.{key}')
  missing = [k for k, p in taken.items() if p.default is p.empty and k not in node]
  if missing:
    raise Stop(Status.CONFIG, f'{where} lacks {", ".join(missing)}, which {title} needs')


def check_type(value: Any, expected: Any, field: str) -> None:
  """Stops unless a value is what the annotation of its parameter says."""
  if not _fits(value, expected):
    raise Stop(Status.CONFIG, f'{field}={value!r} is a {type(value).__name__}, '
               f'not a {_type_string(expected)}')


def check_leaves(node: Any, field: str = '') -> None:
  """Stops at the first leaf of a config that no run can have, by its dotted path.

  Numbers must be finite in float32 or fit int64; others are texts, booleans, None and lists.
  """
  if isinstance(node, Mapping):
    for key, value in node.items():
      check_leaves(value, f'{field}.{key}' if field else str(key))
  elif isinstance(node, list | tuple):
    for i, value in enumerate(node):
      check_leaves(value, f'{field}[{i}]')
  elif isinstance(node, float):
    if not abs(node) <= MAX_FLOAT32:
      raise Stop(Status.CONFIG, f'{field}={node} must be a finite number, as float32 has it')
  elif isinstance(node, int):
    if not -2**63 <= node < 2**63:
      raise Stop(Status.CONFIG, f'{field} is a whole number of {node.bit_length()} bits, and int64 '
                 'holds 63')
  elif not isinstance(node, str | None):
    raise Stop(Status.CONFIG, f'{field} is a {type(node).__name__}, which no JSON can hold')


def parse_value(text: str, expected: Any) -> Any:
  """Converts a text of the command line to the type that a parameter is annotated with.

  A text that is no literal of Python, or not of the type, stays a text; `check_type` reports it.
  """
  if expected is str:
    return text
  try:
    value = ast.literal_eval({'true': 'True', 'false': 'False'}.get(text, text))
  except (ValueError, SyntaxError, MemoryError, RecursionError):
    return text
  kinds = typing.get_args(expected) or (expected,)
  if type(value) is int and float in kinds and int not in kinds:
    return float(value)
  return text if _fits(text, expected) and not _fits(value, expected) else value


def _fits(value: Any, expected: Any) -> bool:
  if expected is inspect.Parameter.empty or expected is Any:
    return True
  origin, arguments = typing.get_origin(expected), typing.get_args(expected)
  if origin in (typing.Union, types.UnionType):
    return any(_fits(value, e) for e in arguments)
  kind = origin or expected
  if kind in (types.NoneType, None):
    return value is None
  if not isinstance(kind, type):          # a Literal, a string that couldn't be evaluated, …
    return True
  if kind is bool or isinstance(value, bool):
    return isinstance(value, bool) and kind is bool
  if kind is float:
    return isinstance(value, (int, float))
  if issubclass(kind, Sequence) and not issubclass(kind, (str, bytes)):
    inner = [a for a in arguments if a is not ...]
    return isinstance(value, (list, tuple)) and all(_fits(v, inner[0]) for v in value if inner)
  return isinstance(value, kind)


def _type_string(expected: Any) -> str:
  return expected.__name__ if isinstance(expected, type) else str(expected).replace('typing.', '')
