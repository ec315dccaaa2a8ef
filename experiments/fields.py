"""Writes the fields of report.json into docs/report.md, from the schema that they keep.

python -m experiments.fields             writes them
python -m experiments.fields --check     exits 11 if the page has others
"""
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill import streams
from distill.report import contract
from distill.types import Status, Stop
from experiments import pages

PAGE = pathlib.Path(__file__).parent.parent / 'docs' / 'report.md'
BEGIN, END = '<!-- fields -->\n', '<!-- end of fields -->\n'
REF = '#/$defs/'
ANY = '*'               # a name that depends on the run: of a metric, a split, a model


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('experiments.fields', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  check = pages.only_checks('experiments.fields', __doc__, arguments)
  text = PAGE.read_text('utf-8')
  if not check:
    PAGE.write_text(with_fields(text), 'utf-8')
  elif with_fields(text) != text:
    raise Stop(Status.DATA, f"{PAGE} hasn't the fields of the schema: python -m experiments.fields")
  return int(Status.DONE)


def with_fields(text: str) -> str:
  """Returns the page with the fields that the schema has now."""
  before, found, rest = text.partition(BEGIN)
  _, end, after = rest.partition(END)
  if not (found and end):
    raise Stop(Status.DATA, f'{PAGE} lacks a line {BEGIN.strip()} or {END.strip()}')
  return before + BEGIN + tables(contract.schema()) + END + after


def tables(schema: Mapping[str, Any]) -> str:
  """Renders a table of the report's fields, and a table for each object that fields refer to."""
  parts = [_table('report', schema), *(_table(name, schema['$defs'][name])
                                       for name in schema['$defs'])]
  return '\n' + '\n'.join(parts) + '\n'


def _table(name: str, node: Mapping[str, Any]) -> str:
  more = f' It also has the fields of {_link(node)}.' if '$ref' in node else ''
  lines = [f'#### {name}', '', f'{node["title"]}. {_escape(node["description"])}{more}', '',
           '| field | what it is |', '|---|---|']
  lines += [f'| `{path}` | {_cell(field)} |' for path, field in _fields(node)]
  return '\n'.join(lines) + '\n'


def _fields(node: Mapping[str, Any], path: str = '') -> Iterator[tuple[str, Mapping[str, Any]]]:
  """Yields the path and the schema of every field, those of nested objects too."""
  named = {**node.get('properties', {})}
  if isinstance(node.get('additionalProperties'), Mapping):
    named[ANY] = node['additionalProperties']
  for name, field in named.items():
    if name != ANY or (_target(field) and not _target(node)):
      yield path + name, field
    yield from _fields(field, f'{path}{name}.')


def _target(field: Mapping[str, Any]) -> str:
  """Returns the name of the object that a field, or its items, refers to; '' without one."""
  nodes = [field, field.get('items', {}), field.get('additionalProperties', {}),
           *field.get('anyOf', ())]
  found = [node['$ref'].removeprefix(REF) for node in nodes
           if isinstance(node, Mapping) and '$ref' in node]
  return found[0] if found else ''


def _cell(field: Mapping[str, Any]) -> str:
  title, about = field.get('title', ''), _escape(field.get('description', ''))
  parts = [f'**{title}.**' if title else '', about, f'→ {_link(field)}' if _target(field) else '']
  if 'enum' in field:
    parts.append('One of ' + ', '.join(f'`{value}`' for value in field['enum']) + '.')
  return ' '.join(filter(None, parts))


def _link(field: Mapping[str, Any]) -> str:
  return f'[{_target(field)}](#{_target(field)})'


def _escape(text: str) -> str:
  """Escapes what Markdown would read as the end of a cell, or as a tag."""
  return re.sub(r'[|<>]', lambda found: f'\\{found[0]}', text)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
