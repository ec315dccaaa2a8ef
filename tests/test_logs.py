"""Logs: each step exactly once, whatever a crash left; a line of progress; a full disk."""
import errno
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from distill import logs
from distill.types import Status, Stop

ROOT = Path(__file__).parents[1]


def rows(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def keys(workdir):
  return [(row['stage'], row['seed'], row['step']) for row in rows(workdir)]


def logged(workdir, *steps, stage='student', seed=0):
  log = logs.Log(workdir, quiet=True)
  for step in steps:
    log.row(stage, seed, step, {'loss': step / 10})
  log.close()
  return workdir


def events(workdir, run):
  """The events of a TensorBoard run: u64 length, u32 crc, the event, u32 crc."""
  found = []
  for path in sorted((workdir / 'tensorboard' / run).iterdir()):
    data = path.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')
      found.append(Event.FromString(data[12:12 + size]))
      data = data[16 + size:]
  return found


def shown(workdir, run):
  """What TensorBoard shows of it: a restart hides what came before it from its step on."""
  points = []
  for event in events(workdir, run):
    if event.session_log.status == SessionLog.START:
      points = [point for point in points if point[0] < event.step]
    points += [(event.step, v.tag, round(v.simple_value, 6)) for v in event.summary.value]
  return points


class TestRows:

  def test_a_row_is_on_disk_when_it_has_been_logged(self, tmp_path, monkeypatch):
    log = logs.Log(tmp_path / 'run')
    before, forced, fsync = time.time(), [], os.fsync
    monkeypatch.setattr(os, 'fsync', lambda f: (fsync(f), forced.append(os.fstat(f).st_size)))
    log.row('student', 3, 20, {'loss': jnp.float32(0.5), 'count': np.int64(7)})
    assert forced[0] == (tmp_path / 'run/metrics.jsonl').stat().st_size         # the board follows
    row, = rows(tmp_path / 'run')
    assert row.pop('time') >= before - 0.001        # seconds since 1970, rounded to thousandths
    assert row == {'stage': 'student', 'seed': 3, 'step': 20, 'loss': 0.5, 'count': 7.0}
    assert shown(tmp_path / 'run', 'student/3') == [(20, 'loss', 0.5), (20, 'count', 7.0)]
    log.close()

  def test_what_is_not_finite_is_null_and_valid_json(self, tmp_path):
    log = logs.Log(tmp_path)
    log.row('student', 0, 1, {'a': float('nan'), 'b': jnp.inf, 'c': -np.inf, 'd': 1e-300})
    log.close()
    refuse = lambda name: pytest.fail(f'{name} is not JSON')
    row = json.loads((tmp_path / 'metrics.jsonl').read_text(), parse_constant=refuse)
    assert [row[k] for k in 'abcd'] == [None, None, None, 1e-300]

  def test_no_metric_can_take_the_place_of_the_step(self, tmp_path):
    log = logs.Log(tmp_path)
    log.row('student', 0, 1, {'step': 99.0, 'stage': 1.0})
    log.close()
    assert keys(tmp_path) == [('student', 0, 1)]

  def test_a_new_log_goes_on_where_the_last_one_ended(self, tmp_path):
    logged(tmp_path, 1, 2)
    before = (tmp_path / 'metrics.jsonl').read_bytes()
    logged(tmp_path, 3)
    assert (tmp_path / 'metrics.jsonl').read_bytes().startswith(before)
    assert [step for *_, step in keys(tmp_path)] == [1, 2, 3]


class TestRewind:

  def test_it_forgets_later_steps_of_that_stage_alone(self, tmp_path):
    logged(tmp_path, 10, 20, stage='teacher')
    logged(tmp_path, 10, 20, 30)
    logged(tmp_path, 20, 30, seed=1)
    log = logs.Log(tmp_path)
    log.rewind('student', 20)
    assert keys(tmp_path) == [('teacher', 0, 10), ('teacher', 0, 20), ('student', 0, 10),
                              ('student', 0, 20), ('student', 1, 20)]
    log.rewind('student', 0)
    assert keys(tmp_path) == [('teacher', 0, 10), ('teacher', 0, 20)]
    log.close()

  def test_a_resumed_run_logs_each_step_exactly_once(self, tmp_path):
    # Killed after logging 40, saved at 25: 30 and 40 come again, from a run that goes on to 50.
    logged(tmp_path, 10, 20, 30, 40)
    log = logs.Log(tmp_path)
    log.rewind('student', 25)
    for step in (30, 40, 50):
      log.row('student', 0, step, {'loss': 0.5})
    log.close()
    points = [(10, 1.0), (20, 2.0), (30, 0.5), (40, 0.5), (50, 0.5)]
    assert [(row['step'], row['loss']) for row in rows(tmp_path)] == points
    assert [(step, value) for step, _, value in shown(tmp_path, 'student/0')] == points

  def test_within_one_process_too(self, tmp_path):
    log = logs.Log(tmp_path)
    for step in (1, 2, 3):
      log.row('student', 0, step, {'loss': 0.0})
    log.rewind('student', 1)
    log.row('student', 0, 2, {'loss': 1.0})
    log.close()
    assert [(row['step'], row['loss']) for row in rows(tmp_path)] == [(1, 0.0), (2, 1.0)]
    assert [(s, v) for s, _, v in shown(tmp_path, 'student/0')] == [(1, 0.0), (2, 1.0)]

  @pytest.mark.parametrize('cut', [1, 2, 20, 60])
  def test_a_torn_last_line_is_dropped_and_nothing_is_glued_to_it(self, tmp_path, capsys, cut):
    path = logged(tmp_path, 1, 2, 3) / 'metrics.jsonl'
    os.truncate(path, path.stat().st_size - cut)
    logged(tmp_path, 4)
    assert [step for *_, step in keys(tmp_path)] == [1, 2, 4]
    assert str(path) in capsys.readouterr().err

  @pytest.mark.parametrize('line', [b'\0' * 50 + b'\n', b'{"stage": "student"\n', b'[1]\n',
                                    b'null\n', b'{}\n', b'\xff\xfe\n', b'\n'])
  def test_a_line_that_is_no_row_is_dropped(self, tmp_path, line, capsys):
    path = logged(tmp_path, 1) / 'metrics.jsonl'
    path.write_bytes(line + path.read_bytes())
    logged(tmp_path, 2)
    assert [step for *_, step in keys(tmp_path)] == [1, 2]
    assert 'dropped 1 line' in capsys.readouterr().err

  def test_it_is_all_or_nothing(self, tmp_path, monkeypatch):
    logged(tmp_path, 1, 2, 3)
    before = (tmp_path / 'metrics.jsonl').read_bytes()
    log = logs.Log(tmp_path)
    def refuses(*_):
      raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', refuses)
    with pytest.raises(Stop):
      log.rewind('student', 1)
    assert (tmp_path / 'metrics.jsonl').read_bytes() == before


class TestFullDisk:

  def test_it_ends_the_run_and_costs_no_row(self, tmp_path):
    child = '''
import pathlib, resource, sys
from distill.logs import Log
from distill.types import Stop
log = Log(pathlib.Path(sys.argv[1]))
log.row('student', 0, 1, {'loss': 1.0})
resource.setrlimit(resource.RLIMIT_FSIZE, (500, 500))
try:
  for step in range(2, 100):
    log.row('student', 0, step, {'loss': 1.0})
except Stop as stop:
  print(stop)
  sys.exit(stop.status)
'''
    run = subprocess.run([sys.executable, '-c', child, tmp_path], capture_output=True, text=True,
                         env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'})
    assert run.returncode == Status.DISK, run.stderr
    assert run.stdout.count('\n') == 1 and 'metrics.jsonl' in run.stdout and not run.stderr
    logged(tmp_path, 1000)
    steps = [row['step'] for row in rows(tmp_path)]
    assert len(steps) >= 4 and steps == [*range(1, len(steps)), 1000]

  def test_a_workdir_that_cannot_be_made_ends_the_run(self, tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(Stop) as caught:
      logs.Log(tmp_path / 'file/run')
    assert caught.value.status == Status.DISK and 'file/run' in str(caught.value)


def test_means_divide_on_the_host_and_leave_out_what_counted_nothing():
  # (6, 4) -> 1.5;  (0, 0) has no mean;  (0, 2) -> 0
  found = logs.means({'a': (jnp.float32(6), jnp.float32(4)), 'b': (jnp.float32(0), jnp.int32(0)),
                      'c': (0.0, 2.0)})
  assert found == {'a': 1.5, 'c': 0.0} and all(type(v) is float for v in found.values())


class Terminal(io.StringIO):
  def isatty(self):
    return True


class TestProgress:

  def log(self, tmp_path, monkeypatch, stream, **keywords):
    clock = iter([100.0, 110.0, 120.0, 130.0])
    monkeypatch.setattr(logs.time, 'monotonic', lambda: next(clock))
    monkeypatch.setattr(sys, 'stderr', stream)
    return logs.Log(tmp_path, **keywords)

  def test_plain_lines_have_step_speed_time_left_and_metrics(self, tmp_path, monkeypatch):
    log = self.log(tmp_path, monkeypatch, io.StringIO())
    log.progress('student', 50, 400, {'loss': jnp.float32(1.25)})
    log.progress('student', 100, 400, {'loss': 0.00123456, 'hard': 2.0})
    log.progress('baseline', 200, 400, {})
    # 50 steps in 10 s are 5 steps/s: the 300 that are left take 60 s. Another stage, a new clock.
    assert sys.stderr.getvalue() == (
        'student 50/400  loss 1.25\n'
        'student 100/400  5 steps/s  1:00 left  loss 0.001235  hard 2\n'
        'baseline 200/400\n')

  def test_a_terminal_has_one_line_redrawn_and_never_wrapped(self, tmp_path, monkeypatch):
    log = self.log(tmp_path, monkeypatch, Terminal())
    monkeypatch.setenv('COLUMNS', '30')
    log.progress('student', 1, 3, {'a_long_name': 1.0, 'another': 2.0})
    log.say('a status line')
    log.progress('student', 3, 3, {})
    assert sys.stderr.getvalue() == (
        '\r\x1b[Kstudent 1/3  a_long_name 1  a'              # 29 columns
        '\r\x1b[Ka status line\n'                            # in its place
        '\r\x1b[Kstudent 3/3  0.2 steps/s  0:0\n')           # 2 steps in 10 s, and an end

  def test_a_line_that_is_being_drawn_ends_with_the_log(self, tmp_path, monkeypatch):
    log = self.log(tmp_path, monkeypatch, Terminal())
    log.progress('student', 1, 3, {})
    log.close()
    log.close()
    assert sys.stderr.getvalue() == '\r\x1b[Kstudent 1/3\n'

  def test_quiet_silences_only_progress(self, tmp_path, monkeypatch):
    log = self.log(tmp_path, monkeypatch, io.StringIO(), quiet=True)
    log.progress('student', 1, 3, {})
    log.say('set aside')
    assert sys.stderr.getvalue() == 'set aside\n'

  def test_a_run_without_a_workdir_has_a_bar_and_keeps_its_rows(self, monkeypatch):
    monkeypatch.setattr(sys, 'stderr', Terminal())
    log = logs.Memory()
    log.progress('student', 1, 4, {})
    log.row('student', 0, 1, {'loss': np.float32(2)})
    log.row('student', 0, 2, {'loss': 1})
    log.rewind('student', 1)
    log.close()
    assert sys.stderr.getvalue() == '\r\x1b[K' + '█' * 5 + '░' * 15 + ' student 1/4\n'
    assert log.rows() == [{'stage': 'student', 'seed': 0, 'step': 1, 'loss': 2.0}]
