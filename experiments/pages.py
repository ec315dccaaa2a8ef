"""Pages that are made of rows, and of nothing else: how they are written, checked and drawn."""
import functools
import html
import io
import pathlib
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jinja2

from distill import command_line, streams
from distill.report import charts
from distill.types import Status, Stop

Files = dict[str, str]          # name -> text
TEMPLATES = pathlib.Path(__file__).parent / 'templates'
STYLE = charts.STYLE | {'font.size': 9}         # of drawings that a telephone shows whole
FOREST = STYLE | {'axes.grid.axis': 'x', 'ytick.major.size': 0, 'ytick.color': '#1b1f24',
                  'axes.spines.left': False}    # where each line has a name
WIDTH = 290                     # of these, in points


def command(door: str, about: str, folder: pathlib.Path,
            rendered: Callable[[pathlib.Path], tuple[Files, list[str]]],
            arguments: Sequence[str]) -> int:
  """Writes the files of a folder, or with --check compares them; returns the exit status."""
  return streams.run(door, functools.partial(_command, door, about, folder, rendered), arguments)


def only_checks(door: str, about: str, arguments: Sequence[str]) -> bool:
  """Reads the command line of a page: whether it is only compared."""
  parser = command_line.Parser(door, about, '[--check]')
  parser.add_argument('--check', action='store_true', help='compare, and write nothing')
  return parser.parsed(arguments).check


def _command(door: str, about: str, folder: pathlib.Path,
             rendered: Callable[[pathlib.Path], tuple[Files, list[str]]],
             arguments: Sequence[str]) -> int:
  check = only_checks(door, about, arguments)
  files, faults = rendered(folder)
  for fault in faults:
    print(f'{door}: {fault}', file=sys.stderr)
  for name, text in files.items():
    path = folder / name
    if not check:
      path.write_text(text, 'utf-8')
    elif not path.exists() or numbers(path.read_text('utf-8')) != numbers(text):
      raise Stop(Status.DATA, f"{path} isn't what the rows make: run python -m {door}")
  return int(Status.DONE)


def rendered(name: str, **values: Any) -> str:
  """A page by templates/NAME.md, which ends with one line's end."""
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
      trim_blocks=True, lstrip_blocks=True)
  environment.filters['row'] = lambda cells: f'| {" | ".join(cells)} |'
  return environment.get_template(f'{name}.md').render(values).rstrip('\n') + '\n'


def svg(whole: Any, title: str, told: str) -> str:
  """A figure as SVG that holds its numbers, `told`; the same numbers make the same bytes."""
  buffer = io.StringIO()
  whole.savefig(buffer, format='svg', facecolor='white')
  drawn = buffer.getvalue()
  drawn = re.sub(r'<metadata>.*?</metadata>', '', drawn[drawn.index('<svg'):], flags=re.DOTALL)
  about = f'<title>{html.escape(title)}</title><desc>{html.escape(told)}</desc>'
  return drawn.replace('>', f' role="img">{about}', 1)


def numbers(text: str) -> str:
  """Those that a drawing holds, for its curves differ with the version of matplotlib; of anything
  else all of it."""
  found = re.search(r'^<svg.*?<desc>(.*?)</desc>', text, flags=re.DOTALL)
  return found[1] if found else text
