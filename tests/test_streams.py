"""Streams of any encoding, closed, full, or without a reader; arguments of any bytes."""
import importlib
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from distill import flags, launch, lookup, main, predict, streams
from distill.types import Status, Stop
from tests.formats.test_parameters import pretrained

__all__ = ['pretrained']            # a fixture

ROOT = pathlib.Path(__file__).parent.parent
TEXT = 'café 😀'


@pytest.fixture
def stdin(monkeypatch):
  """Gives stdin some bytes, in an encoding."""
  return lambda content, encoding='utf-8': monkeypatch.setattr(
      sys, 'stdin', io.TextIOWrapper(io.BytesIO(content), encoding=encoding))


@pytest.fixture
def outputs(monkeypatch):
  """Replaces stdout and stderr by streams of an encoding; a call returns the bytes of both."""

  def replace(encoding='utf-8', errors='strict'):
    both = io.BytesIO(), io.BytesIO()
    for name, buffer in zip(('stdout', 'stderr'), both, strict=True):
      monkeypatch.setattr(sys, name, io.TextIOWrapper(buffer, encoding=encoding, errors=errors))
    return lambda: [buffer.getvalue() for buffer in both]
  return replace


class TestInputs:

  @pytest.mark.parametrize(('content', 'line'), [
      (b'fine\ncaf\xe9\n', 'stdin:2: byte 4 of the line, 0xe9, is not UTF-8'),
      ('fine\ncafé'.encode('utf-16'), 'stdin is UTF-16'),
      ('fine\ncafé'.encode('utf-16-le'), 'stdin is UTF-16'),
      (b'fine\r\nfine\r\na\0b', 'stdin:3 holds a NUL byte'),
      (b'\xed\xa0\x80', 'stdin:1: byte 1 of the line'),               # a surrogate
      (b'', 'nothing to answer'), (b' \r\n\n', 'nothing to answer'), (b'\xef\xbb\xbf', 'nothing')])
  @pytest.mark.parametrize('encoding', ['utf-8', 'ascii', 'latin-1'])
  def test_stdin_is_checked_before_the_model_is_loaded(self, stdin, capsys, content, line,
                                                       encoding):
    stdin(content, encoding)
    assert predict.main(['--model=nowhere']) == Status.DATA
    out, err = capsys.readouterr()
    assert line in err and err.count('\n') == 1 and not out

  @pytest.mark.parametrize('encoding', ['utf-8', 'ascii', 'latin-1', 'utf-16'])
  def test_stdin_is_utf8_whatever_the_locale_says(self, pretrained, stdin, capsys, encoding):
    stdin(b'\xef\xbb\xbfcaf\xc3\xa9\r\n\r\n  b\x0bc\n a\rd'  , encoding)
    assert predict.main([f'--model={pretrained()}']) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row['text'] for row in rows] == ['café', '  b\x0bc', ' a', 'd']

  def test_a_stdin_that_is_closed_has_nothing_and_one_without_bytes_has_its_text(self, monkeypatch):
    monkeypatch.setattr(sys, 'stdin', None)
    assert streams.stdin() == b''
    monkeypatch.setattr(sys, 'stdin', io.StringIO('é'))
    assert streams.stdin() == b'\xc3\xa9'

  @pytest.mark.parametrize('text', ['caf\udce9', '\ud800', 'a\udcffb\udcc3'])
  def test_an_argument_that_is_not_utf8_is_named(self, capsys, text):
    assert predict.main(['--model=nowhere', 'fine', text]) == Status.DATA
    assert 'input 2 is not UTF-8' in capsys.readouterr().err

  def test_an_argument_that_the_locale_could_not_read_is_read_as_utf8(self):
    assert streams.argument('caf\udcc3\udca9', 'x') == 'café'         # as ASCII has its bytes
    assert streams.argument('café', 'x') == 'café'

  def test_the_name_of_a_file_may_be_any_bytes(self, tmp_path):
    name = f'{tmp_path}/caf\udce9.png'
    pathlib.Path(name).touch()
    assert streams.argument(name, 'x') == name


class TestOutputs:

  @pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8', 'utf-16', 'cp1252'])
  def test_answers_are_json_that_the_stream_can_hold(self, pretrained, outputs, encoding):
    written = outputs(encoding)
    assert predict.main([f'--model={pretrained()}', TEXT, 'é']) == 0
    out, err = written()
    assert [json.loads(line)['text'] for line in out.decode(encoding).splitlines()] == [TEXT, 'é']
    assert err == b'' and ('é'.encode(encoding)[-1:] in out if encoding != 'ascii' else
                           b'\\u00e9' in out)

  @pytest.mark.parametrize(('encoding', 'shown'), [
      ('ascii', 'caf\\xe9 \\U0001f600 \\udce9'), ('latin-1', 'café \\U0001f600 \\udce9'),
      ('utf-8', 'café 😀 \\udce9')])
  def test_lines_and_error_lines_are_shown_in_every_encoding(self, outputs, encoding, shown):
    written = outputs(encoding)

    def command(arguments):
      print(*arguments)
      raise Stop(Status.DATA, f'no {arguments[0]}')

    assert streams.run('door', command, [f'{TEXT} \udce9']) == Status.DATA
    out, err = written()
    assert out.decode(encoding) == f'{shown}\n' and err.decode(encoding) == f'door: no {shown}\n'

  def test_an_error_is_one_line_and_no_code_of_a_terminal(self, capsys):
    def command(arguments):
      raise Stop(Status.DISK, 'a\nb\x1b[2J\r' + arguments[0])
    assert streams.run('door', command, ['é']) == Status.DISK
    assert capsys.readouterr().err == 'door: a b\\x1b[2J é\n'

  def test_streams_are_put_back(self, capsys):
    before = sys.stdout, sys.stderr
    streams.run('door', lambda arguments: 0, [])
    assert (sys.stdout, sys.stderr) == before

  @pytest.mark.parametrize('which', ['stdout', 'stderr'])
  def test_the_work_goes_on_when_the_reader_of_a_pipe_goes_away(self, monkeypatch, which):
    reader, writer = os.pipe()
    os.close(reader)
    done = []

    def command(arguments):
      for i in range(3):
        print('x' * 100_000, file=getattr(sys, which), flush=True)
        done.append(i)
      print('left in the buffer', file=getattr(sys, which))
      return 0

    with open(writer, 'w') as stream:
      monkeypatch.setattr(sys, which, stream)
      assert streams.run('door', command, []) == 0 and done == [0, 1, 2]
      stream.flush()                                # as Python does when it exits

  @pytest.mark.parametrize('text', ['x', 'x' * 100_000])
  def test_a_full_disk_under_stdout_is_a_line_and_a_status(self, monkeypatch, capsys, text):
    with open('/dev/full', 'w') as stream:
      monkeypatch.setattr(sys, 'stdout', stream)
      assert streams.run('door', lambda arguments: print(text) or 0, []) == Status.DISK
      assert capsys.readouterr().err == 'door: cannot write to stdout: No space left on device\n'
      stream.flush()

  def test_a_full_disk_under_stderr_takes_nothing_from_the_work(self, monkeypatch):
    with open('/dev/full', 'w') as stream:
      monkeypatch.setattr(sys, 'stderr', stream)
      assert streams.run('door', lambda arguments: print('x', file=sys.stderr) or 0, []) == 0
      stream.flush()

  def test_a_command_may_have_no_streams(self, monkeypatch):
    def command(arguments):
      print('x')
      print('y', file=sys.stderr, flush=True)
      return int(sys.stdout.isatty())

    for name in ('stdin', 'stdout', 'stderr'):
      monkeypatch.setattr(sys, name, None)
    assert streams.run('door', command, []) == 0

  def test_a_signal_saves_the_run_though_nobody_reads_what_it_says(self, monkeypatch):
    def gone(*_):
      raise BrokenPipeError
    monkeypatch.setattr(os, 'write', gone)
    monkeypatch.setattr(signal, 'signal', lambda *_: None)
    with pytest.raises(Stop) as stop:
      launch.Stopping()(signal.SIGTERM, None)
    assert stop.value.status == Status.PREEMPTED


class TestErrors:

  @pytest.mark.parametrize(('error', 'status', 'line'), [
      (MemoryError('Unable to allocate 8 EiB'), Status.DISK, 'not enough memory: Unable'),
      (MemoryError(), Status.DISK, 'not enough memory: MemoryError'),
      (RuntimeError('RESOURCE_EXHAUSTED: Out of memory\nmore'), Status.DISK,
       'not enough memory: RESOURCE_EXHAUSTED: Out of memory: take'),
      (OverflowError('Python int too large'), Status.CONFIG, 'a number is too large: Python int'),
      (PermissionError(13, 'Permission denied', 'a/b'), Status.DISK, 'a/b: Permission denied')])
  def test_what_the_machine_refuses_is_one_line(self, capsys, error, status, line):
    def command(arguments):
      raise error
    assert streams.run('door', command, []) == status
    err = capsys.readouterr().err
    assert err.startswith(f'door: {line}') and err.count('\n') == 1

  def test_a_fault_of_the_code_is_a_traceback(self, capsys):
    seen = []
    assert streams.run('door', lambda arguments: {}['x'], [], failed=lambda s: seen.append(s) or s
                       ) == 1 and seen == [1]
    assert 'Traceback' in capsys.readouterr().err

  def test_a_nul_byte_is_no_argument(self, capsys):
    assert main.main(['--config=a\0b']) == Status.CONFIG
    assert capsys.readouterr().err == 'distill: an argument holds a NUL byte\n'


DOORS = ('distill.predict', 'distill.export', 'distill.evaluate', 'experiments.run',
         'experiments.bench', 'experiments.bench_images', 'experiments.picture',
         'experiments.tfidf', 'experiments.table', 'experiments.losses', 'experiments.methods',
         'experiments.article')             # those that take no config


def called(door, *arguments):
  module = importlib.import_module(door)
  return getattr(module, 'command' if door == 'distill.evaluate' else 'main')(arguments)


class TestDoors:

  def test_every_door_has_its_streams_from_one_place(self):
    doors = [path for folder in ('distill', 'experiments') for path in (ROOT / folder).rglob('*.py')
             if re.search(r'sys\.exit\((main|command)\(', path.read_text())]
    assert len(doors) > 10
    for path in doors:
      assert re.search(r'return (streams\.run|pages\.command)\(', path.read_text()), path

  def test_nothing_else_reads_stdin(self):
    reading = {path.name for path in (ROOT / 'distill').rglob('*.py')
               if 'sys.stdin' in path.read_text()}
    assert reading == {'streams.py', 'timing_worker.py'}              # whose pipe is of JSON

  @pytest.mark.parametrize('door', DOORS)
  @pytest.mark.parametrize('flag', ['--help', '-h'])
  def test_help_is_no_mistake(self, capsys, door, flag):
    assert called(door, flag) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith(f'usage: python -m {door} ') and not printed.err
    assert f'\npython -m {door}' in printed.out             # an example

  @pytest.mark.parametrize('door', DOORS)
  @pytest.mark.parametrize('arguments', [['--nonsense'], ['--nonsense=1', 'a', 'b'], ['-n=1'] * 3])
  def test_a_wrong_option_is_one_line(self, capsys, door, arguments):
    if door == 'distill.predict' and arguments[0] == '-n=1':
      pytest.skip('an input')
    assert called(door, *arguments) == Status.CONFIG
    printed = capsys.readouterr()
    assert printed.err.startswith(f'{door}: ') and printed.err.count('\n') == 1 and not printed.out

  def test_an_abbreviation_is_no_option(self, capsys):
    assert called('distill.predict', '--mod=DIR', 'a') == Status.CONFIG
    assert 'usage: python -m distill.predict --model=DIR' in capsys.readouterr().err

  def test_another_exit_than_after_help_is_not_taken_for_it(self):
    def command(arguments):
      sys.exit(3)
    with pytest.raises(SystemExit):
      streams.run('door', command, [])


CONFIG = 'from ml_collections import ConfigDict\ndef get_config():\n  return ConfigDict(dict({}))\n'


@pytest.mark.parametrize(('code', 'line'), [
    (b'import sys\nsys.exit(3)', 'my.py: 3'), (b'raise RuntimeError("a\\nb")', 'my.py: a b'),
    (b'x = 1\0', 'null bytes'), (b'def get_config(:', 'invalid syntax'),
    (b'def get_config():\n  return None', 'no ConfigDict'),
    (b'\xff\xfe', 'my.py'),
    (CONFIG.format('seed=0, a=b"x"'), 'a is a bytes, which no JSON can hold'),
    (CONFIG.format('seed=0, a=(1, {2})'), 'a[1] is a set'),
    (CONFIG.format('seed=0, a=[dict(b=float("inf"))]'), 'a[0].b=inf must be a finite number'),
    (CONFIG.format('seed=2**63'), 'seed is a whole number of 64 bits'),
    (CONFIG.format('seed=0, a=1e39'), 'a=1e+39 must be a finite number, as float32'),
    (CONFIG.format('a=0'), 'needs a field seed')])
@pytest.mark.filterwarnings('ignore')
def test_a_config_that_is_none_is_one_line(tmp_path, monkeypatch, capsys, code, line):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'my.py').write_bytes(code if isinstance(code, bytes) else code.encode())
  assert main.main(['--config=my.py', '--workdir=run']) == Status.CONFIG
  err = capsys.readouterr().err
  assert line in err.splitlines()[-1] and 'Traceback' not in err


@pytest.mark.parametrize('variant', ['', ':x'])
def test_a_config_may_name_its_encoding(tmp_path, monkeypatch, variant):
  monkeypatch.chdir(tmp_path)
  code = '# coding: latin-1\nfrom typing import Literal\n'
  code += 'from ml_collections import ConfigDict\ndef get_config(v: Literal["é", "x"] = "é"):\n'
  code += '  return ConfigDict(dict(seed=0, a="é", b=v == "x"))\n'
  (tmp_path / 'my.py').write_bytes(code.encode('latin-1'))
  config = flags.parsed([f'--config=my.py{variant}']).config
  assert config.a == 'é' and config.b == bool(variant)


def test_numbers_at_the_edges_are_taken():
  lookup.check_leaves(dict(a=2**63 - 1, b=-2**63, c=3.4e38, d=[True, None, 'x', ()]))


@pytest.mark.parametrize(('fields', 'line'), [
    (['--config.seed=99999999999999999999'], 'seed is a whole number of 67 bits'),
    (['--config.evaluate.watts=nan'], 'evaluate.watts=nan must be a finite number')])
def test_an_evaluation_takes_no_other_numbers(monkeypatch, fields, line):
  monkeypatch.chdir(ROOT)
  door = importlib.import_module('distill.evaluate')
  with pytest.raises(Stop, match=line):
    door.evaluation_config('configs/bert.py:test', fields, [])


def started(*arguments, **more):
  environment = {**os.environ, 'PYTHONPATH': str(ROOT), **more.pop('environment', {})}
  return subprocess.run([sys.executable, '-m', *arguments], cwd=ROOT, env=environment, check=False,
                        **more)


C_LOCALE = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


def test_in_a_locale_of_ascii_texts_are_utf8_and_answers_are_json(pretrained):
  done = started('distill.predict', f'--model={pretrained()}', TEXT.encode(), capture_output=True,
                 environment=C_LOCALE)
  assert done.returncode == 0, done.stderr
  assert done.stdout.isascii() and json.loads(done.stdout)['text'] == TEXT


@pytest.mark.slow
def test_a_run_is_done_and_reported_though_nobody_reads(tmp_path):
  """Closed streams; then a pipe whose reader goes away, in a locale of ASCII."""
  run = ['distill.main', '--config=configs/digits.py:test']
  for name, before in (('closed', '<&- >&- 2>&-'), ('gone é', '2>&1 | head -1')):
    workdir = tmp_path / name
    command = f'{{ "$@"; echo $? > "{tmp_path}/status"; }} {before}'
    subprocess.run(['bash', '-c', command, 'x', sys.executable, '-m', *run,
                    f'--workdir={workdir}'], cwd=ROOT, check=False,
                   env={**os.environ, **C_LOCALE, 'PYTHONPATH': str(ROOT)})
    assert (tmp_path / 'status').read_text() == '0\n'
    assert (workdir / 'report.html').exists() and json.loads(
        (workdir / 'report.json').read_text('utf-8'))
