"""The command line of a run: its config with overrides, and the list of all configs."""
import inspect
import os
import pathlib
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from distill import lookup
from distill.types import Status, Stop

CONFIGS = pathlib.Path('configs')
OVERRIDE = re.compile(r'--?config\.(?P<field>[^=]+)(?P<equals>=?)(?P<text>.*)', re.DOTALL)


class Command(NamedTuple):
  """A parsed command line: `config` is that of the file, locked, with its overrides."""
  file: str                   # configs/NAME.py[:VARIANT]
  config: ConfigDict
  workdir: str
  print_config: bool


def parsed(arguments: Sequence[str]) -> Command:
  """Reads a command line; a Stop says in one line what is wrong with it, or with the file."""
  try:
    arguments = flags.FlagValues().read_flags_from_files([*arguments], force_gnu=False)
  except flags.Error as error:
    raise Stop(Status.CONFIG, _line(error)) from error
  files = [a for a in arguments if a.startswith('--config=')]
  file = files[-1].removeprefix('--config=') if files else ''
  if not file:
    raise Stop(Status.CONFIG, 'give --config=configs/NAME.py; --list shows what there is')
  _check_file(file)
  rest = [a for a in arguments if a not in files]
  values = _overridden(config_flags.DEFINE_config_file, [f'--config={file}', *rest],
                       f'--config={file}')
  lookup.check_leaves(values.config.to_dict())
  return Command(file, values.config, values.workdir, values.print_config)


def overridden(node: Mapping[str, Any], overrides: Sequence[str], where: str) -> dict[str, Any]:
  """Returns a config after overrides, as `parsed` takes them; `where` begins an error line."""
  define = lambda name, **how: config_flags.DEFINE_config_dict(name, ConfigDict(node), **how)
  config = _overridden(define, overrides, where).config.to_dict()
  lookup.check_leaves(config)
  return config


def _check_file(file: str) -> None:
  """Stops unless there is such a config, and such a variant of it."""
  path, _, variant = file.partition(':')
  if not os.path.isfile(path):
    raise Stop(Status.CONFIG, f'--config={file}: there is no file {path}'
               + lookup.nearest(path, map(str, CONFIGS.glob('*.py'))))
  if not variant:
    return
  known = described(pathlib.Path(path))[1]
  if known is not None and variant not in known:
    raise Stop(Status.CONFIG, f'--config={file}: {path} has no variant {variant!r}'
               + lookup.nearest(variant, known))


def _overridden(define: Callable, arguments: Sequence[str], where: str) -> flags.FlagValues:
  """Returns the flags of a command line; `define` defines the one of the config.

  A field that the config spells keeps its type. One that it leaves out is set if what its node
  configures has such a keyword, to a value of the type that this says.
  """
  overrides = [match for match in map(OVERRIDE.fullmatch, arguments) if match]
  try:
    return _values(define, arguments)
  except Stop:                        # a signal's
    raise
  except (Exception, SystemExit) as error:      # a config file is code, and may raise anything
    stop = Stop(Status.CONFIG, f'{where}: {_line(error)}')
    if isinstance(error, flags.Error) or not overrides:
      raise stop from error
  # An overridden field may be absent from the file; a file that can't be read is an error here.
  plain = _overridden(define, [a for a in arguments if not OVERRIDE.fullmatch(a)], where).config
  unspelled = {match[0]: match for match in overrides if not _has(plain, match['field'])}
  if not unspelled:
    raise stop
  values = _overridden(define, [a for a in arguments if a not in unspelled], where)
  for match in unspelled.values():
    _set(values.config, match)
  return values


def _values(define: Callable, arguments: Sequence[str]) -> flags.FlagValues:
  """Returns the flags of a command line whose overrides are all of fields that are spelled."""
  values, argv = flags.FlagValues(), ['distill.main', *arguments]
  define('config', flag_values=values, sys_argv=argv)
  flags.DEFINE_string('workdir', '', 'where the run lives', flag_values=values)
  flags.DEFINE_bool('print_config', False, 'print the resolved config', flag_values=values)
  left = values(argv)[1:]
  if not callable(getattr(values.config, 'to_dict', None)):
    raise TypeError('get_config returns no ConfigDict')
  if left:
    raise flags.Error(f'{left[0]!r} is not a flag: write --config.FIELD=VALUE')
  return values


def _has(config: ConfigDict, field: str) -> bool:
  """Tells whether a config spells a field; an index is for ml_collections to judge."""
  node = config
  for part in field.partition('[')[0].split('.'):
    if not isinstance(node, Mapping | ConfigDict) or part not in node:
      return False
    node = node[part]
  return True


def _set(config: ConfigDict, override: re.Match) -> None:
  """Sets a keyword that a config doesn't spell, and the nodes in which it is."""
  from distill.pipelines import fields  # loads JAX: only if a field isn't in the file
  known, (*path, key) = fields.configured(config.to_dict()), override['field'].split('.')
  keywords = known[tuple(path)].keywords if tuple(path) in known else {}
  if key not in keywords:
    spelled = flat(config.to_dict())
    names = {name[:i] for name in spelled for i, c in enumerate(f'{name}.') if c == '.'} | {
        '.'.join(map(str, (*parents, name)))
        for parents, node in known.items() for name in node.keywords}
    raise Stop(Status.CONFIG, f'{override[0]}: the config has no field {override["field"]!r}'
               + lookup.nearest(override['field'], names))
  if not override['equals']:
    raise Stop(Status.CONFIG, f'{override[0]}: write --config.{override["field"]}=VALUE')
  expected = keywords[key].annotation
  value = lookup.parse_value(override['text'], expected)
  lookup.check_type(value, expected, f'--config.{override["field"]}')
  with config.unlocked():
    node = config
    for i, part in enumerate(path):
      if part not in node:
        node[part] = dict(known[tuple(path[:i])].defaults.get(part, {}))
      node = node[part]
    node[key] = value


def flat(node: Any, prefix: str = '') -> dict[str, Any]:
  """Returns the leaves of a config by their dotted paths."""
  if not isinstance(node, Mapping) or not node:
    return {prefix: node}
  return {path: leaf for key, value in node.items()
          for path, leaf in flat(value, f'{prefix}.{key}' if prefix else key).items()}


def _line(error: BaseException) -> str:
  return ' '.join(str(error).split()) or type(error).__name__


def listing() -> list[str]:
  """Returns a line for every config and variant, with a sentence from its docstring."""
  lines = []
  for path in sorted(CONFIGS.glob('*.py')):
    about, variants = described(path)
    named = {str(path): about}
    named |= {f'{path}:{name}': text for name, text in (variants or {}).items()}
    width = max([24, *(len(name) for name, text in named.items() if text)])
    lines += [f'{name:<{width}} {text}'.rstrip() for name, text in named.items()]
  if not lines:
    raise Stop(Status.CONFIG, f'there is no {CONFIGS}/ here: run from the root of the project')
  return lines


def described(path: pathlib.Path) -> tuple[str, dict[str, str] | None]:
  """Runs a config file; returns a sentence about it, and about each variant of `get_config`.

  Variants are the texts of the `Literal` that annotates its argument; None if it takes any text. A
  variant's sentence is from the docstring of the function of its name.
  """
  code = {'__name__': path.stem, '__file__': str(path)}
  try:
    exec(compile(path.read_bytes(), path, 'exec', dont_inherit=True), code)
    variants = _variants(code['get_config']) if 'get_config' in code else ()
  except Stop:                        # a signal's
    raise
  except OSError as error:
    raise Stop(Status.CONFIG, f'{path} cannot be read: {error.strerror or error}') from error
  except (Exception, SystemExit) as error:      # a config file is code, and may raise anything
    line = f':{error.lineno}' if isinstance(error, SyntaxError) and error.lineno else ''
    raise Stop(Status.CONFIG, f'{path}{line}: {_line(error)}') from error
  return _sentence(code.get('__doc__')), None if variants is None else {
      name: _sentence(code[name].__doc__) if inspect.isfunction(code.get(name)) else ''
      for name in variants}


def _variants(function: Callable) -> tuple[str, ...] | None:
  parameters = list(inspect.signature(function, eval_str=True).parameters.values())
  if not parameters:
    return ()
  if typing.get_origin(parameters[0].annotation) is not typing.Literal:
    return None
  return tuple(name for name in typing.get_args(parameters[0].annotation) if isinstance(name, str))


def _sentence(about: str | None) -> str:
  """Returns the first paragraph of a docstring in a line."""
  return ' '.join((about or '').strip().partition('\n\n')[0].split())


def name_of(path: str) -> str:
  """Returns a run's name: `bert-test` for `configs/bert.py:test`."""
  file, _, variant = path.partition(':')
  return '-'.join(filter(None, (pathlib.Path(file).stem, re.sub(r'\W+', '-', variant))))
