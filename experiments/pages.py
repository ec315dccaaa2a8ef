"""Pages that are made only from rows: writing, checking and drawing them."""
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
STYLE = charts.STYLE | {'font.size': 9}         # for drawings as wide as a telephone
FOREST = STYLE | {'axes.grid.axis': 'x', 'ytick.major.size': 0, 'ytick.color': '#1b1f24',
                  'axes.spines.left': False}    # a line a name
WIDTH = 290                     # of drawings, in points


def command(door: str, about: str, folder: pathlib.Path,
            rendered: Callable[[pathlib.Path], tuple[Files, list[str]]],
            arguments: Sequence[str]) -> int:
  """Writes the files of a folder, or with --check compares them; returns the exit status."""
  return streams.run(door, functools.partial(_command, door, about, folder, rendered), arguments)


def only_checks(door: str, about: str, arguments: Sequence[str]) -> bool:
  """Reads the command line of a page; returns whether the page is only compared."""
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
  """Returns a page made from templates/NAME.md; it ends with one newline."""
  environment = jinja2.Environment(
      loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined,
      trim_blocks=True, lstrip_blocks=True)
  environment.filters['row'] = lambda cells: f'| {" | ".join(cells)} |'
  return environment.get_template(f'{name}.md').render(values).rstrip('\n') + '\n'


def svg(whole: Any, title: str, description: str) -> str:
  """Returns a figure as SVG with its numbers as the description; equal numbers give equal bytes."""
  buffer = io.StringIO()
  whole.savefig(buffer, format='svg', facecolor='white')
  drawn = buffer.getvalue()
  drawn = re.sub(r'<metadata>.*?</metadata>', '', drawn[drawn.index('<svg'):], flags=re.DOTALL)
  about = f'<title>{html.escape(title)}</title><desc>{html.escape(description)}</desc>'
  return drawn.replace('>', f' role="img">{about}', 1)


def numbers(text: str) -> str:
  """Returns a drawing's numbers, for its curves differ between versions of matplotlib.

  Any other text is returned whole.
  """
  found = re.search(r'^<svg.*?<desc>(.*?)</desc>', text, flags=re.DOTALL)
  return found[1] if found else text
