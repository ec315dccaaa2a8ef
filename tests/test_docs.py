"""The pages for readers: every Python block runs as it is, and the pages say what the code says."""
import ast
import json
import pathlib
import re
import shlex
import socket
import sys

import pytest

from distill import export, lookup, main, predict
from distill.data import batches
from distill.types import Status
from experiments import fields

ROOT = pathlib.Path(__file__).parent.parent
# The page of the notebook has a test file of its own.
PAGES = [ROOT / 'README.md', *sorted(p for p in (ROOT / 'docs').glob('*.md')
                                     if p.stem != 'notebook')]


def blocks(page: pathlib.Path, language: str = 'python') -> list[str]:
  text = page.read_text('utf-8')
  return re.findall(rf'^```{language}\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def empty(tmp_path, monkeypatch):
  """An empty folder to work in, without a network, that Python imports from."""
  def refuse(*arguments):
    raise OSError('there is no network')
  monkeypatch.setattr(socket.socket, 'connect', refuse)
  monkeypatch.chdir(tmp_path)
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  for name in [name for name in sys.modules if name.split('.')[0] == 'mylab']:
    del sys.modules[name]


@pytest.mark.parametrize(('page', 'number'), [
    pytest.param(page, i, id=f'{page.name}-{i}')
    for page in PAGES for i in range(len(blocks(page)))])
def test_every_block_runs_as_it_is(empty, page, number):
  name = f'{page.name}, block {number}'
  exec(compile(blocks(page)[number], name, 'exec', dont_inherit=True), {'__name__': '__main__'})


def test_a_package_of_the_blocks_trains_exports_and_answers(empty, capsys):
  page = ROOT / 'docs' / 'adding.md'
  for block in blocks(page):
    file = empty / re.match('# (\\S+\\.py)\n', block)[1]
    file.parent.mkdir(exist_ok=True)
    file.write_text(block)
  scans = lookup.build('data', {'name': 'mylab.scans:Scans'}, 'data')
  first = next(iter(batches.in_order(scans.splits['test'], batch_size=4, widths={})))
  assert first['image'].shape == (4, 8, 8, 1) and scans.names == ('left', 'right')
  commands = {'distill.main': main.main, 'distill.export': export.main,
              'distill.predict': predict.main}
  shell, = blocks(page, 'bash')
  for line in shell.splitlines():
    python, flag, module, *arguments = shlex.split(line)
    assert (python, flag) == ('python', '-m') and commands[module](arguments) == 0, line
  answer = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert answer['signal'].startswith('0,0.6') and isinstance(answer['frequency'], float)
  models = json.loads((empty / 'runs' / 'lab' / 'report.json').read_text())['models']
  assert [m['name'] for m in models] == ['teacher', 'student', 'baseline']
  assert list(models[1]['faithfulness']) == ['correlation', 'distance']


def test_the_fields_of_the_report_are_those_of_its_schema():
  text = fields.PAGE.read_text('utf-8')
  assert fields.with_fields(text) == text, 'python -m experiments.fields'


def test_every_chart_of_the_report_is_explained():
  page = (ROOT / 'distill' / 'report' / 'page.html').read_text('utf-8')
  text = (ROOT / 'docs' / 'report.md').read_text('utf-8')
  headings = re.findall(r'<h2>\s*([A-Z][\w -]*)', page)
  assert len(headings) >= 10
  assert [heading for heading in headings if f'\n### {heading.strip()}\n' not in text] == []


def lines_of_stops() -> list[tuple[str, str]]:
  """Returns status and pattern of the line of every Stop in the package."""
  found = []
  for path in (ROOT / 'distill').rglob('*.py'):
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
      if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'Stop' and len(
          node.args) == 2 and isinstance(node.args[0], ast.Attribute):
        found.append((node.args[0].attr, pattern(node.args[1])))
      elif isinstance(node, ast.JoinedStr) and path.name == 'tiers.py':
        found.append(('TIER', pattern(node)))           # which is raised elsewhere
  return found


def pattern(node: ast.AST) -> str:
  """Returns a regular expression of the strings that an expression may give."""
  if isinstance(node, ast.Constant):
    return re.escape(str(node.value))
  if isinstance(node, ast.JoinedStr):
    return ''.join(map(pattern, node.values))
  if isinstance(node, ast.BinOp):
    return pattern(node.left) + pattern(node.right)
  return '.*'


def test_every_exit_status_is_explained_with_a_line_that_a_command_may_print():
  text = (ROOT / 'docs' / 'exit_status.md').read_text('utf-8')
  sections = re.findall(r'^## (\d+): (\w+)\n(.*?)(?=^## |\Z)', text, re.DOTALL | re.MULTILINE)
  known = {int(number): name for number, name, _ in sections if name != 'BUG'}
  assert known == {status.value: status.name for status in Status}
  patterns = lines_of_stops()
  for number, name, section in sections:
    if number in ('0', '1'):
      continue
    assert '**When.**' in section and '**What to do.**' in section, name
    line, = re.findall(r'^```\n(.*)\n```$', section, re.MULTILINE)
    command, line = line.split(': ', 1)
    assert command.startswith('distill')
    assert any(status == name and len(known_text) > 12 and re.fullmatch(known_text, line)
               for status, known_text in patterns), line
