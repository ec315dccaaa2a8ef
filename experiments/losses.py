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
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill import lookup, objective, streams
from distill.types import Status, Stop
from experiments import pages

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / 'distill' / 'losses' / 'README.md'
WIDTH = 100
# Where a loss is shown: in the first of these that uses it.
CONFIGS = {'configs/digits.py': (), 'configs/minilm.py': ('',), 'configs/mobilebert.py': ('',),
           'configs/pkd.py': ('',), 'configs/distilbert.py': ('',), 'configs/bert.py': ('test',),
           'configs/files.py': ('regression',)}

# Views that a config describes: what an entry is, its node, and the room of what it names.
KINDS = {'projected': ('projector', 'student.projectors', 'projectors'),
         'carry': ('carry', 'carry', 'carry'), 'schedule': ('schedule', 'schedules', 'schedules')}


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
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
  """The page."""
  used, parts = dict(uses()), {}
  variants, methods = of_methods(), []
  for name, config in variants.items():
    losses, own = composed(config)
    found = [cited(x)[1] for x in (*own.values(), *losses.values())]
    methods.append([f'[`{name}`](#{name})', '; '.join(filter(None, dict.fromkeys(found))),
                    ', '.join(map(link, losses)), ', '.join(own)])
    parts |= own
  return pages.rendered(
      'losses', losses={name: told(name, *used[name]) for name in lookup.names('losses')},
      link=link, methods=methods,
      variants=[(config.place, pasted(config)) for config in variants.values()],
      parts={part.replace('`', ''): inspect.getdoc(thing) for part, thing in sorted(parts.items())
             if not part.startswith('schedule')})


def of_methods() -> dict[str, 'Used']:
  """The variants of configs/digits.py."""
  file = runpy.run_path(str(ROOT / 'configs/digits.py'))
  return {method: Used(method, file['get_config'](method).to_dict()) for method in file['METHODS']}


def pasted(config: 'Used') -> list[str]:
  """What a variant of configs/digits.py has beside the cross-entropy and a usual student."""
  balanced = config.at('objective.hard.scale') or 'group' in config.at('objective.hard')
  lines = [line for where, _ in config.terms() if where != 'objective.hard' or balanced
           for line in config.fragment(where)]
  if config.at('optimizer.name') != 'adamw':
    lines.insert(0, assigned('c.optimizer', config.at('optimizer')))
  if config.at('student.model.name') != 'resnet.ResNet':
    lines.insert(0, assigned('c.student', {
        k: v for k, v in config.at('student').items() if v and k != 'projectors'}))
  return list(dict.fromkeys(lines))


def link(name: str) -> str:
  return f'[`{name}`](#{name.replace(".", "")})'


def composed(config: 'Used') -> tuple[dict[str, Any], dict[str, Any]]:
  """The losses of a variant of configs/digits.py, and its parts, by their names."""
  terms = [(where, loss) for where, loss in config.terms() if where != 'objective.hard']
  parts = {said: thing for where, _ in terms for _, said, thing in config.parts(where)}
  if (optimizer := config.at('optimizer.name')) != 'adamw':
    parts[f'optimizer `{optimizer}`'] = lookup.find(
        'optimizers', optimizer, 'optimizer.name')
  if (model := config.at('student.model.name')) != 'resnet.ResNet':
    parts[f'model `{model}`'] = lookup.find('models', model, 'student.model')
  return {loss: lookup.find('losses', loss, 'losses') for _, loss in terms}, parts


def cited(thing: Any) -> tuple[str, str]:
  """The first sentence of a docstring, or more of them, and the papers that it names."""
  first = ' '.join((inspect.getdoc(thing) or '').partition('\n\n')[0].split())
  pattern = r'\s*\(([^()]*\b(?:19|20)\d\d\b(?:[^()]|\([^()]*\))*)\)'
  return re.sub(pattern, '', first), '; '.join(re.findall(pattern, first))


@dataclasses.dataclass(frozen=True)
class About:
  """What the page says of a loss."""
  what: str
  paper: str
  rest: str                     # of the docstring
  reads: Sequence[str]          # each argument with its shape
  kwargs: Sequence[str]         # each keyword with its default
  needs: tuple[str, ...]
  config: str                   # that uses it
  fragment: str


def told(name: str, config: 'Used', term: str) -> About:
  """A loss by its name, its signature, its docstring and a term of a config that uses it."""
  function = lookup.find('losses', name, 'losses')
  what, papers = cited(function)
  rest = inspect.cleandoc(inspect.getdoc(function).partition('\n\n')[2])
  parameters = lookup.parameters(function)
  shapes = {k: shape for k, p in parameters.items() if (shape := _shape(p.annotation)) is not None
            and p.kind is not p.KEYWORD_ONLY}
  needs = list(dict.fromkeys(said for _, said, _ in config.parts(term)))
  if getattr(function, 'mixing', False):
    needs.append('mixes examples')
  return About(what, papers, rest, [f'{k} [{shape}]' for k, shape in shapes.items()],
               [k if p.default is p.empty else f'{k}={p.default!r}'
                for k, p in parameters.items() if k not in shapes], tuple(needs),
               config.place, '\n'.join(config.fragment(term)))


def _shape(annotation: Any) -> str | None:
  """The shape of an array's annotation, as jaxtyping writes it."""
  if typing.get_args(annotation):
    return None
  return getattr(annotation, 'dim_str', None)


@dataclasses.dataclass(frozen=True)
class Used:
  """A config, and the terms of it that have a weight."""
  place: str
  node: Mapping[str, Any]

  def terms(self) -> Iterator[tuple[str, str]]:
    """Where a term is, and its loss."""
    objectives = {'objective': self.node['objective'], **{
        f'before.{stage}.objective': spec['objective']
        for stage, spec in self.node.get('before', {}).items()}}
    for where, terms in objectives.items():
      for term, spec in terms.items():
        if spec.get('weight', 1.0):
          yield f'{where}.{term}', spec['loss']

  def at(self, where: str) -> Any:
    node = self.node
    for key in where.split('.'):
      node = node[key]
    return node

  def parts(self, term: str) -> Iterator[tuple[str, str, Any]]:
    """The projectors, carries and schedules that a term needs, and these: node, name, thing."""
    node = self.at(term)
    wanted, seen = [*node['reads'].values(), node.get('scale', '')], set()
    while wanted:
      view, _, name = wanted.pop(0).partition('/')
      if view not in KINDS:
        continue
      kind, place, room = KINDS[view]
      where = f'{place}.{name.split("/")[0]}'
      if where not in seen:
        seen.add(where)
        spec = self.at(where)
        called = spec['module']['name'] if kind == 'projector' else spec['name']
        yield where, f'{kind} `{called}`', lookup.find(room, called, where)
        wanted += [path for value in spec.values() if isinstance(value, str | tuple)
                   for path in objective.path_tuple(value) if '/' in str(path)]

  def fragment(self, term: str) -> list[str]:
    """The lines to paste: the term, and what else it reads that a config describes."""
    return [assigned(f'c.{where}', self.at(where))
            for where in (term, *(where for where, *_ in self.parts(term)))]


def uses() -> Iterator[tuple[str, tuple[Used, str]]]:
  """For every loss, the config and the term that show it, the simplest variant first."""
  found = {}
  for path, variants in CONFIGS.items():
    file = runpy.run_path(str(ROOT / path))
    for variant in (*variants, *file.get('METHODS', ())):
      node = file['get_config'](*filter(None, (variant,))).to_dict()
      config = Used(f'{path}:{variant}'.rstrip(':'), node)
      for term, loss in config.terms():
        found.setdefault(loss, (config, term))
  yield from found.items()


def assigned(target: str, value: Mapping[str, Any]) -> str:
  """`target = value` in lines that fit, without the fields that are at their defaults."""
  empty = {'kwargs': {}, 'mask': '', 'scale': '', 'group': '', 'schedule': {'name': 'constant'}}
  said = spelled({k: v for k, v in value.items() if k not in empty or v != empty[k]})
  return '\n'.join(textwrap.wrap(f'{target} = {said}', WIDTH, subsequent_indent=' ' * 4,
                                 break_long_words=False, break_on_hyphens=False))


def spelled(value: Any) -> str:
  """A config's value as Python."""
  if isinstance(value, Mapping):
    return f'dict({", ".join(f"{k}={spelled(v)}" for k, v in value.items())})'
  return repr(value)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
