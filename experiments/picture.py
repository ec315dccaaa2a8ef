"""Takes a picture of a page, such as a run's report.html, with a headless Chromium.

python -m experiments.picture PAGE.html PICTURE.png [--width=1440] [--height=PIXELS] [--scale=1]

python -m experiments.picture runs/bert-1a2b3c4d/report.html phone.png --width=360 --scale=2

The picture shows the whole page unless a height is given; `--scale` is the number of the picture's
pixels for each of the page. The browser is $CHROME, or the first of `NAMES` on the PATH.
"""
import html
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import PIL.Image

from distill import command_line, streams
from distill.types import Status, Stop

NAMES = 'chromium', 'chromium-browser', 'google-chrome', 'chrome'
FLAGS = ('--headless', '--disable-gpu', '--disable-quic', '--disable-sync', '--no-first-run',
         '--disable-background-networking', '--disable-component-update', '--hide-scrollbars')
# A frame may be narrower than a window, as on a telephone, and knows the height of its page.
FRAME = ('<!doctype html><meta charset="utf-8"><body style="margin:0"><iframe srcdoc="{page}" '
         'style="display:block;border:0;width:{width}px;height:{height}px" onload="document.title='
         'this.contentDocument.documentElement.scrollHeight"></iframe>')


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('experiments.picture', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser('experiments.picture', __doc__, 'PAGE.html PICTURE.png '
                               '[--width=1440] [--height=PIXELS] [--scale=1]')
  parser.add_argument('page', metavar='PAGE.html', type=pathlib.Path)
  parser.add_argument('picture', metavar='PICTURE.png', type=pathlib.Path)
  for name, default in ('width', 1440), ('height', 0), ('scale', 1):
    parser.add_argument(f'--{name}', type=command_line.positive, default=default, metavar='PIXELS')
  try:
    take(**vars(parser.parsed(arguments)))
  except (OSError, ValueError, subprocess.TimeoutExpired) as error:
    raise Stop(Status.DATA, str(error)) from error
  return int(Status.DONE)


def take(page: pathlib.Path, picture: pathlib.Path, *, width: int = 1440, height: int = 0,
         scale: int = 1) -> None:
  """Writes the picture with 256 colours, whole or not at all."""
  program, source = browser(), html.escape(page.read_text('utf-8'))
  # Beside the picture: a browser that is a snap sees no /tmp.
  with tempfile.TemporaryDirectory(prefix=picture.stem, dir=picture.parent) as place:
    frame, drawn = (pathlib.Path(place).absolute() / name for name in ('page.html', 'page.png'))

    def shown(height: int, asked: str) -> str:
      frame.write_text(FRAME.format(page=source, width=width, height=height), 'utf-8')
      return subprocess.run([
          program, *FLAGS, *(['--no-sandbox'] if os.geteuid() == 0 else []), asked,
          f'--user-data-dir={frame.parent}/profile', f'--window-size={width},{height}',
          f'--force-device-scale-factor={scale}', frame.as_uri(),
      ], capture_output=True, text=True, timeout=120, check=False).stdout

    if not height:
      title = re.search(r'<title>(\d+)</title>', shown(1, '--dump-dom'))
      height = int(title[1]) if title else 0
    shown(height, f'--screenshot={drawn}')
    if not height or not drawn.exists():
      raise Stop(Status.DATA, f'{program} showed nothing of {page}: try it, or CHROME=another')
    with PIL.Image.open(drawn) as image:
      whole = image.convert('RGB').crop((0, 0, scale * width, scale * height))
    whole.quantize(256, dither=PIL.Image.Dither.NONE).save(drawn, optimize=True)
    os.replace(drawn, picture)


def browser() -> str:
  """Returns the Chromium of this machine."""
  names = [os.environ['CHROME']] if os.environ.get('CHROME') else NAMES
  if found := next(filter(None, map(shutil.which, names)), None):
    return found
  raise Stop(Status.CONFIG, f'there is no {" or ".join(names)} to draw the page: install Chromium, '
             'as by apt install chromium, or say where it is by CHROME=PATH')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
