"""Identities: hashes of JSON values, of configs, and of the code that determines a result.

The code of a stage are the modules that its config names, those that train it, and all modules
that these import, also within functions. Deliberately left out are

  formats, hub     they read models, whose arrays are hashed themselves
  measure, report  they measure finished models
  pipelines        except the code that builds stages: they run one stage after the other
  doors            and the modules they start with: flags, workdir, launch, logs, streams

and all packages but distill and those that a config names with a colon.
"""
import ast
import functools
import hashlib
import json
import pathlib
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import distill
from distill.pipelines import fields

ROOT = 'distill'
CODE = pathlib.Path(distill.__file__).parent
OUTSIDE = frozenset(('formats', 'hub', 'measure', 'report', 'flags', 'workdir', 'launch', 'logs',
                     'streams', 'main', 'predict', 'export', 'evaluate'))


def digest(value: Any, length: int = 16) -> str:
  """Returns a short name for a JSON value."""
  text = json.dumps(value, sort_keys=True, default=list)
  return hashlib.sha256(text.encode()).hexdigest()[:length]


def config_sha256(config: Mapping[str, Any]) -> str:
  """Returns the hash of a resolved config, without the fields that make no difference."""
  return digest(fields.essential(config), 64)


def sources(modules: Iterable[str], places: Mapping[str, list[pathlib.Path]] | None = None
            ) -> list[tuple[str, str]]:
  """Returns the modules that these import, transitively, each with the sha256 of its file.

  `places` are the folders or files of top-level packages. Only imports of distill and of the
  packages of `modules` are followed; the search reads files and imports none.
  """
  modules = sorted(modules)
  if places is None:
    places = {name: _places(name) for name in {module.split('.')[0] for module in modules}}
    places[ROOT] = [CODE]
  found, todo = {}, [*modules]
  while todo:
    module = todo.pop()
    if module in found or _is_outside(module):
      continue
    if not (file := _file(module, places)):
      continue
    found[module], imported = _read(file, module)
    todo += imported
    if package := module.rpartition('.')[0]:
      todo.append(package)              # its __init__ runs first
  return sorted(found.items())


def _is_outside(module: str) -> bool:
  """Tells whether a module is one of those left out."""
  package, _, path = module.partition('.')
  return package == ROOT and path.split('.')[0] in OUTSIDE


def _places(package: str) -> list[pathlib.Path]:
  """Returns the folders or the file of a package that was imported."""
  imported = sys.modules.get(package)
  found = getattr(imported, '__path__', None) or [getattr(imported, '__file__', None)]
  return [pathlib.Path(place) for place in found if place]


def _file(module: str, places: Mapping[str, list[pathlib.Path]]) -> pathlib.Path | None:
  """Returns the file of a module; None if it isn't a module of these packages."""
  package, *parts = module.split('.')
  for place in places.get(package, ()):
    if place.suffix == '.py':
      return None if parts else place
    whole = place.joinpath(*parts)
    for file in (whole / '__init__.py', whole.with_suffix('.py') if parts else None):
      if file and file.is_file():
        return file
  return None


@functools.cache
def _read(file: pathlib.Path, module: str) -> tuple[str, tuple[str, ...]]:
  """Returns a file's sha256, and every imported name that may be a module.

  A file is read once, because files may change while the code runs.
  """
  content = file.read_bytes()
  package = module.split('.') if file.name == '__init__.py' else module.split('.')[:-1]
  found = set()
  for node in ast.walk(ast.parse(content)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      above = package[:len(package) - node.level + 1] if node.level else []
      start = '.'.join([*above, *([node.module] if node.module else [])])
      found |= {start, *(f'{start}.{alias.name}' for alias in node.names)}
  return hashlib.sha256(content).hexdigest(), tuple(sorted(found))
