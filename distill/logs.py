"""The log of a run: `metrics.jsonl`, TensorBoard files, and a line of progress.

`metrics.jsonl` has one row per logged step, each (stage, seed, step) exactly once: a run that
resumes first drops the rows that it will log again. This needs every step to be logged before it
is saved. TensorBoard files hold the same numbers.
"""
import collections
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from distill.disk import replace, writing

CLEAR = '\r\x1b[K'                      # back to the start of the terminal's line, and empty it


def say(line: str) -> None:
  """Prints a status line, in place of the progress that a terminal may be showing."""
  print((CLEAR if sys.stderr.isatty() else '') + line, file=sys.stderr, flush=True)


def means(sums: Mapping[str, tuple[Any, Any]]) -> dict[str, float]:
  """Returns the means of {name: (sum, count)}, on the host, without names whose count is 0."""
  return {name: float(total) / float(count)
          for name, (total, count) in jax.device_get(dict(sums)).items() if count}


class Progress:
  """The line of progress of a run; `quiet` silences it."""

  say = staticmethod(say)
  bar = 0                               # letters of a bar before a line that is redrawn

  def __init__(self, *, quiet: bool = False):
    self._quiet, self._drawn = quiet, False
    self._stage, self._marks = '', collections.deque(maxlen=20)     # (time, step)

  def progress(self, stage: str, step: int, steps: int, metrics: Mapping[str, Any]) -> None:
    """Shows how far a stage is: redrawn on a terminal or in a notebook, else a line a call."""
    if self._quiet:
      return
    if stage != self._stage:
      self._stage = stage
      self._marks.clear()
    self._marks.append((time.monotonic(), step))
    (before, done), (now, _) = self._marks[0], self._marks[-1]
    parts = [f'{stage} {step}/{steps}']
    if step > done and now > before:
      speed = (step - done) / (now - before)
      minutes, seconds = divmod(round((steps - step) / speed), 60)
      parts += [f'{speed:.3g} steps/s', f'{minutes}:{seconds:02} left']
    line = '  '.join(parts + [f'{name} {float(value):.4g}' for name, value in metrics.items()])
    redrawn = sys.stderr.isatty() or 'ipykernel' in sys.modules
    if redrawn:
      bar = ('█' * (self.bar * step // steps)).ljust(self.bar, '░')
      line = CLEAR + f'{bar} {line}'.lstrip()[:shutil.get_terminal_size().columns - 1]
    self._drawn = redrawn and step < steps
    print(line, end='' if self._drawn else '\n', file=sys.stderr, flush=True)

  def close(self) -> None:
    """Ends the line of progress."""
    if self._drawn:
      print(file=sys.stderr)
      self._drawn = False


class Log(Progress):
  """The log of a run on disk; `quiet` silences the progress."""

  def __init__(self, workdir: Path, *, quiet: bool = False):
    super().__init__(quiet=quiet)
    self._rows, self._board = workdir / 'metrics.jsonl', workdir / 'tensorboard'
    self._boards: dict[tuple[str, int], EventsWriter] = {}
    self._first: dict[str, int] = {}                # stage -> the first step it will log again
    self._keep(lambda row: True)

  def row(self, stage: str, seed: int, step: int, metrics: Mapping[str, Any]) -> None:
    """Logs a step and forces it to the disk. A number that is not finite becomes null."""
    numbers = {name: float(value) for name, value in metrics.items()}
    where = {'stage': stage, 'seed': seed, 'step': step, 'time': round(time.time(), 3)}
    finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
    with writing(self._rows):
      with open(self._rows, 'ab') as file:
        file.write(json.dumps(where | finite | where, allow_nan=False).encode() + b'\n')
        file.flush()
        os.fsync(file.fileno())
      board = self._boards.get((stage, seed)) or self._open(stage, seed)
      board.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=[
          Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()])))
      board.flush()

  def rewind(self, stage: str, step: int) -> None:
    """Drops the rows that a stage logged after `step`, before it is trained from there."""
    self._keep(lambda row: row['stage'] != stage or row['step'] <= step)
    self._close(stage)
    self._first[stage] = step + 1

  def rows(self) -> list[dict[str, Any]]:
    """Returns all rows, including those that earlier sessions of the run logged."""
    if not self._rows.exists():
      return []
    return [json.loads(line) for line in self._rows.read_bytes().splitlines()]

  def close(self) -> None:
    """Ends the line of progress and the TensorBoard files."""
    super().close()
    for stage in {stage for stage, _ in self._boards}:
      self._close(stage)

  def _keep(self, wanted: Callable[[dict], bool]) -> None:
    """Rewrites the file atomically, without unwanted rows and rows that a crash cut off."""
    with writing(self._rows):
      self._rows.parent.mkdir(parents=True, exist_ok=True)
      before = self._rows.read_bytes() if self._rows.exists() else b''
      lines = before.splitlines(keepends=True)
      rows = [_parse(line) for line in lines]
      after = b''.join(line for line, row in zip(lines, rows, strict=True) if row and wanted(row))
      if after == before:
        return
      if torn := rows.count(None):
        say(f'{self._rows}: dropped {torn} line(s) that cannot be read')
      replace(self._rows, after)

  def _open(self, stage: str, seed: int) -> EventsWriter:
    folder = self._board / stage / str(seed)
    folder.mkdir(parents=True, exist_ok=True)
    # Synchronous, unlike SummaryWriter, whose thread would swallow a full disk and then hang.
    board = EventsWriter(str(folder / 'events'), f'.{time.time_ns()}')
    if stage in self._first:
      board.write_event(Event(step=self._first[stage],
                              session_log=SessionLog(status=SessionLog.START)))
    self._boards[stage, seed] = board
    return board

  def _close(self, stage: str) -> None:
    for key in [key for key in self._boards if key[0] == stage]:
      self._boards.pop(key).close()


class Memory(Progress):
  """The log of a run that keeps nothing on disk: its rows are lost with it."""
  bar = 20

  def __init__(self, *, quiet: bool = False):
    super().__init__(quiet=quiet)
    self._logged: list[dict[str, Any]] = []

  def row(self, stage: str, seed: int, step: int, metrics: Mapping[str, Any]) -> None:
    """Keeps a step."""
    numbers = {name: float(value) for name, value in metrics.items()}
    self._logged.append({'stage': stage, 'seed': seed, 'step': step, **numbers})

  def rewind(self, stage: str, step: int) -> None:
    """Forgets what a stage logged after `step`, before it is trained from there."""
    self._logged = [row for row in self._logged if row['stage'] != stage or row['step'] <= step]

  def rows(self) -> list[dict[str, Any]]:
    """Returns all that was logged."""
    return list(self._logged)


class NullLog:
  """The log of every process but the first: it prints and writes nothing."""

  def say(self, line: str) -> None: ...

  def row(self, stage: str, seed: int, step: int, metrics: Mapping[str, Any]) -> None: ...

  def rewind(self, stage: str, step: int) -> None: ...

  def progress(self, stage: str, step: int, steps: int, metrics: Mapping[str, Any]) -> None: ...

  def rows(self) -> list[dict[str, Any]]:
    return []

  def close(self) -> None: ...


def _parse(line: bytes) -> dict | None:
  """Returns the row of a line, or None if a crash cut the line off."""
  try:
    row = json.loads(line)
    return row if line.endswith(b'\n') and {'stage', 'seed', 'step'} <= row.keys() else None
  except (ValueError, AttributeError):
    return None
