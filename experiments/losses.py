"""Makes distill/losses/README.md of the losses themselves, and of the configs that use them.

python -m experiments.losses             writes it
python -m experiments.losses --check     exits 11 if it isn't what the code makes
"""
import dataclasses
import inspect
import pathlib
import re
import runpy
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from distill import flags, lookup, streams
from distill.types import Status, Stop
from experiments import pages

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / 'distill' / 'losses' / 'README.md'
FILES = 'digits', 'docstrings'          # configs whose variants are functions, each a method
# What a config describes beside its terms: what an entry is, and the room of what it names.
PARTS = {'projectors': ('projector', 'projectors'), 'carry': ('carry', 'carry'),
         'schedules': ('schedule', 'schedules')}


@dataclasses.dataclass(frozen=True)
class Method:
  """A variant of a config that is a function of a config."""
  title: str
  function: Callable
  node: Mapping[str, Any]               # the whole config

  @property
  def losses(self) -> list[str]:
    """Names of its losses, without the cross-entropy that every variant has."""
    return list(dict.fromkeys(used({**self.node['objective'], 'hard': {}})))

  @property
  def parts(self) -> dict[str, Any]:
    """Parts that its losses read or need beside the teacher, by a name for the page."""
    found = {}
    for key, (kind, room) in PARTS.items():
      entries = self.node['student'][key] if key == 'projectors' else self.node[key]
      for entry in entries.values():
        name = entry['module']['name'] if key == 'projectors' else entry['name']
        found[f'{kind} `{name}`'] = lookup.find(room, name, key)
    if (name := self.node['student']['model']['name']) not in ('resnet.ResNet', 'bert.Bert'):
      found[f'model `{name}`'] = lookup.find('models', name, 'student.model')
    if (name := self.node['optimizer']['name']) != 'adamw':
      found[f'optimizer `{name}`'] = lookup.find('optimizers', name, 'optimizer')
    return found


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('experiments.losses', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  check = pages.only_checks('experiments.losses', __doc__, arguments)
  page = rendered()
  if not check:
    PAGE.write_text(page, 'utf-8')
  elif not PAGE.exists() or PAGE.read_text('utf-8') != page:
    raise Stop(Status.DATA, f"{PAGE} isn't what the code makes: python -m experiments.losses")
  return int(Status.DONE)


def rendered() -> str:
  """Returns the page."""
  methods, names = list(methods_of(FILES)), lookup.names('losses')
  recipes = dict(others()) if set(names) - {n for m in methods for n in used(m.node)} else {}
  by_loss = {name: [m for m in methods if name in used(m.node)] for name in names}
  parts = {name: part for m in methods for name, part in m.parts.items()}
  return pages.rendered(
      'losses',
      losses=[(link(name), *cited(lookup.find('losses', name, 'losses')),
               ', '.join(needs(name, by_loss[name]))) for name in names],
      methods=[(link(m.title), *cited(m.function), ', '.join(map(link, m.losses)),
                ', '.join(m.parts)) for m in methods],
      sections=[section(name, by_loss[name], len(methods), recipes) for name in names],
      bodies=[(m.title, body(m.function)) for m in methods],
      parts={name.replace('`', ''): inspect.getdoc(part) for name, part in sorted(parts.items())
             if not name.startswith('schedule')})


def methods_of(files: Sequence[str]) -> Iterator[Method]:
  """Yields the methods of configs; those of the first have a title without the file."""
  for file in files:
    code = runpy.run_path(str(ROOT / f'configs/{file}.py'))
    for name, function in code['METHODS'].items():
      title = name if file == files[0] else f'{file}:{name}'
      yield Method(title, function, code['get_config'](name).to_dict())


def others() -> Iterator[tuple[str, list[str]]]:
  """Yields the variants of all other configs, each with the names of its losses."""
  for path in sorted(ROOT.glob('configs/*.py')):
    if path.stem not in FILES:
      get_config = runpy.run_path(str(path))['get_config']
      for variant in flags.described(path)[1] or ():
        yield f'configs/{path.name}:{variant}', list(used(get_config(variant).to_dict()))


def used(node: Mapping[str, Any]) -> Iterator[str]:
  """Yields the losses of all terms in a node, however deep, that have a weight."""
  if 'loss' in node and node.get('weight', 1.0):
    yield node['loss']
  for value in node.values():
    if isinstance(value, Mapping):
      yield from used(value)


def body(function: Callable) -> str:
  """Returns the lines of a function after its docstring."""
  return textwrap.dedent(inspect.getsource(function).rpartition('"""')[2]).strip('\n')


def link(name: str) -> str:
  return f'[`{name}`](#{re.sub("[.:]", "", name)})'


def cited(thing: Any) -> tuple[str, str]:
  """Returns the first paragraph of a docstring without its papers, and these."""
  first = ' '.join((inspect.getdoc(thing) or '').partition('\n\n')[0].split())
  pattern = r'\s*\(([^()]*\b(?:19|20)\d\d\b(?:[^()]|\([^()]*\))*)\)'
  return re.sub(pattern, '', first), '; '.join(re.findall(pattern, first))


def needs(name: str, methods: Sequence[Method]) -> list[str]:
  """Returns what a loss needs: the parts of the first method that uses it, and other examples."""
  mixes = getattr(lookup.find('losses', name, 'losses'), 'mixing', False)
  return [*(methods[0].parts if methods else ()), *(['mixes examples'] if mixes else ())]


def section(name: str, methods: Sequence[Method], most: int,
            recipes: Mapping[str, Sequence[str]]) -> str:
  """Returns a loss in full: its docstring, its signature, and the variants that use it.

  `most` is how many methods there are.
  """
  function = lookup.find('losses', name, 'losses')
  summary, papers = cited(function)
  parameters = lookup.parameters(function)
  shapes = {k: shape for k, p in parameters.items() if (shape := _shape(p.annotation)) is not None
            and p.kind is not p.KEYWORD_ONLY}
  reads = ', '.join(f'`{k} [{shape}]`' for k, shape in shapes.items())
  kwargs = ', '.join(f'`{k}`' if p.default is p.empty else f'`{k}={p.default!r}`'
                     for k, p in parameters.items() if k not in shapes)
  wanted = ', '.join(needs(name, methods))
  lines = [f'### {name}', '', summary + (f' — {papers}.' if papers else ''), '',
           f'Reads {reads}.' + (f' Keywords {kwargs}.' if kwargs else '')
           + (f' Needs {wanted}.' if wanted else '')]
  if rest := inspect.getdoc(function).partition('\n\n')[2]:
    lines += ['', inspect.cleandoc(rest)]
  users = ['every method'] if len(methods) == most else [link(m.title) for m in methods]
  users = users or [f'`{place}`' for place, losses in recipes.items() if name in losses]
  lines += ['', f'Used by {", ".join(users)}.' if users else 'No variant of a config uses it.']
  return '\n'.join(lines)


def _shape(annotation: Any) -> str | None:
  """Returns the shape of an array's annotation, as jaxtyping writes it."""
  if typing.get_args(annotation):
    return None
  return getattr(annotation, 'dim_str', None)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
