"""Pictures by a fake browser that records its arguments."""
import json
import sys

import PIL.Image
import pytest

from distill.types import Status
from experiments import picture

FAKE = """#!{python}
import json, pathlib, sys
sys.path.insert(0, {site!r})
import PIL.Image
options = dict(a[2:].partition('=')[::2] for a in sys.argv[1:-1])
with open({log!r}, 'a') as log:
  page = pathlib.Path(sys.argv[-1].removeprefix('file://')).read_text()
  print(json.dumps([options, page]), file=log)
if 'dump-dom' in options:
  print('<head><title>{tall}</title></head>')
elif {draws}:
  size = [int(options['force-device-scale-factor']) * n
          for n in map(int, options['window-size'].split(','))]
  size = [max(500, size[0]), max(1, size[1])]           # no window is narrower
  PIL.Image.new('RGB', size, 'white').save(options['screenshot'])
"""


@pytest.fixture
def browser(tmp_path, monkeypatch):
  """Makes a browser for a page of a height; returns a function that reads its recorded calls."""
  (tmp_path / 'page.html').write_text('<!doctype html><p class="é">&amp;</p>', 'utf-8')
  log, site = tmp_path / 'log', str(next(iter(PIL.__path__))).removesuffix('PIL')
  program = tmp_path / 'browser'

  def made(tall, draws=True):
    program.write_text(FAKE.format(python=sys.executable, site=site, log=str(log), tall=tall,
                                   draws=draws))
    program.chmod(0o755)
    monkeypatch.setenv('CHROME', str(program))
    monkeypatch.chdir(tmp_path)
    return lambda: [json.loads(line) for line in log.read_text().splitlines()]
  return made


def test_the_page_is_asked_for_its_height_and_drawn_whole(browser, tmp_path):
  asked = browser(tall=1234)
  assert picture.main(['page.html', 'picture.png', '--width=360', '--scale=2']) == Status.DONE
  (first, _), (second, frame) = asked()
  assert 'dump-dom' in first and first['window-size'] == '360,1'
  assert second['window-size'] == '360,1234' and second['force-device-scale-factor'] == '2'
  assert 'headless' in second and 'hide-scrollbars' in second
  assert 'width:360px;height:1234px' in frame
  assert 'srcdoc="&lt;!doctype html&gt;&lt;p class=&quot;é&quot;&gt;&amp;amp;&lt;/p&gt;"' in frame
  with PIL.Image.open(tmp_path / 'picture.png') as image:
    assert image.size == (720, 2468) and image.mode == 'P'
  assert {path.name for path in tmp_path.iterdir()} == {
      'page.html', 'picture.png', 'browser', 'log'}


def test_a_height_that_is_given_is_not_asked_for(browser, tmp_path):
  asked = browser(tall=1234)
  assert picture.main(['page.html', 'picture.png', '--height=800']) == Status.DONE
  (only, _), = asked()
  assert only['window-size'] == '1440,800'
  with PIL.Image.open(tmp_path / 'picture.png') as image:
    assert image.size == (1440, 800)


@pytest.mark.parametrize('tall, draws', [('', True), (9, False)])
def test_a_browser_that_shows_nothing_leaves_the_picture_as_it_was(browser, tmp_path, capsys, tall,
                                                                   draws):
  browser(tall, draws)
  (tmp_path / 'picture.png').write_text('mine')
  assert picture.main(['page.html', 'picture.png']) == Status.DATA
  line, = capsys.readouterr().err.splitlines()
  assert 'browser showed nothing of page.html' in line
  assert (tmp_path / 'picture.png').read_text() == 'mine'
  assert len([*tmp_path.iterdir()]) == 4


def test_without_a_browser_a_line_says_what_to_install(tmp_path, monkeypatch, capsys):
  monkeypatch.setenv('PATH', str(tmp_path))
  for chrome, name in ('', 'chromium or chromium-browser or google-chrome or chrome'), ('no', 'no'):
    monkeypatch.setenv('CHROME', chrome)
    assert picture.main([str(tmp_path / 'page.html'), 'picture.png']) == Status.CONFIG
    line, = capsys.readouterr().err.splitlines()
    assert line.startswith(f'experiments.picture: there is no {name} to draw the page: install')
  (tmp_path / 'google-chrome').write_text('')
  (tmp_path / 'google-chrome').chmod(0o755)
  monkeypatch.delenv('CHROME')
  assert picture.browser() == str(tmp_path / 'google-chrome')


@pytest.mark.parametrize('arguments', [
    [], ['page.html'], ['page.html', 'a.png', 'b.png'], ['page.html', 'a.png', '--width=wide'],
    ['page.html', 'a.png', '--scale=0'], ['page.html', 'a.png', '--heigth=9']])
def test_a_wrong_command_is_a_line_with_the_usage(browser, capsys, arguments):
  browser(tall=9)
  assert picture.main(arguments) == Status.CONFIG
  line, = capsys.readouterr().err.splitlines()
  assert 'say: python -m experiments.picture PAGE.html PICTURE.png [--width=1440]' in line


def test_a_missing_page_or_folder_is_named(browser, capsys):
  browser(tall=9)
  for files in ('none.html', 'a.png'), ('page.html', 'none/a.png'):
    assert picture.main(files) == Status.DATA
    line, = capsys.readouterr().err.splitlines()
    assert 'none' in line
