"""Measures speed and memory, and writes a row for every bench to results.jsonl.

python -m experiments.bench [NAME …] [--rounds=5] [--json] [--out=experiments/bench]

  step     the distillation step against the teacher's forward pass plus the supervised step
  peers    the same step beside PyTorch eager with transformers; needs the extra `peers`
  start    a run's start with empty caches, and with full ones
  data     the data pipeline against the step that it feeds
  memory   XLA's plan for the step beside a count by hand
  images   memory that images take, and the time that training waits for them

python -m experiments.bench step --rounds=9         # one bench, in nine rounds

Without a name, all benches run. Compared calls take turns, round by round: a ratio is that of one
round, and the median over rounds is compared with its limit. `--json` prints the rows.
"""
import argparse
import datetime
import importlib
import importlib.metadata
import pathlib
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from distill import command_line, lookup, streams
from distill.types import Status, Stop
from experiments import rows
from experiments.rows import Row

# The function of a bench. Imported when it runs: a wrong name is an error without loading JAX.
BENCHES = {'step': 'bench_step.overhead', 'peers': 'bench_peers.peers',
           'start': 'bench_start.start', 'data': 'bench_step.pipeline',
           'memory': 'bench_step.memory', 'images': 'bench_images.measure'}


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('experiments.bench', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  names, values = _parsed(arguments)
  path = pathlib.Path(values.out) / 'results.jsonl'
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.open('a').close()
  except OSError as error:
    raise Stop(Status.DISK, f'cannot write {path}: {error.strerror}: take another --out'
               ) from error
  for name in names:
    row = run_bench(name, values.rounds)
    rows.append(path, row)
    print(streams.json_line(row) if values.json else table(row), flush=True)
  return int(Status.DONE)


def _parsed(arguments: Sequence[str]) -> tuple[list[str], argparse.Namespace]:
  parser = command_line.Parser('experiments.bench', __doc__,
                               '[NAME …] [--rounds=5] [--json] [--out=experiments/bench]')
  parser.add_argument('names', nargs='*', metavar='NAME', help='a bench')
  parser.add_argument('--rounds', type=command_line.positive, default=5, metavar='N',
                      help='how many')
  parser.add_argument('--json', action='store_true', help='print rows instead of tables')
  parser.add_argument('--out', default='experiments/bench', metavar='DIR',
                      help='the folder of the rows')
  values = parser.parsed(arguments)
  for name in values.names:
    if name not in BENCHES:
      raise Stop(Status.CONFIG, f'{name!r} is no bench' + lookup.nearest(name, BENCHES))
  return list(dict.fromkeys(values.names)) or list(BENCHES), values


def run_bench(name: str, rounds: int) -> Row:
  """Runs a bench; returns its row."""
  file, _, function = BENCHES[name].partition('.')
  module = importlib.import_module(f'experiments.{file}')
  started, now = time.monotonic(), datetime.datetime.now(datetime.UTC)
  found = getattr(module, function)(rounds)
  seconds = time.monotonic() - started
  from distill.measure import machine
  versions = machine.versions() | {
      package: importlib.metadata.version(package)
      for package in getattr(module, 'PACKAGES', ())}
  return rows.rounded({
      'schema': 1, 'bench': name, 'time': now.isoformat(timespec='seconds'),
      'commit': rows.commit(), 'seconds': seconds, 'rounds': rounds, **found,
      'hardware': machine.hardware(), 'versions': versions})


def table(row: Row) -> str:
  """Returns a row's numbers as a Markdown table, which a terminal can show too."""
  lines = [[row['bench'], 'unit', 'min', 'median', 'max', 'must hold'], []]
  for name, number in row['numbers'].items():
    values = (_format_number(number[key]) for key in ('min', 'median', 'max'))
    lines.append([name, number['unit'], *values, _verdict(number)])
  widths = [max(len(line[i]) for line in lines if line) for i in range(6)]
  lines[1] = ['-' * n if i in (0, 1, 5) else '-' * (n - 1) + ':' for i, n in enumerate(widths)]
  padded = lambda line: (cell.rjust(n) if i in (2, 3, 4) else cell.ljust(n)
                         for i, (cell, n) in enumerate(zip(line, widths, strict=True)))
  return ''.join(f'| {" | ".join(padded(line))} |\n' for line in lines)


def _format_number(value: float) -> str:
  return f'{value:,.0f}' if value >= 1000 else f'{value:.3g}' if value < 100 else f'{value:.0f}'


def _verdict(number: Mapping[str, Any]) -> str:
  """Returns the limit of a median, and whether it is met."""
  if 'at_most' in number:
    return f'≤ {number["at_most"]}: {_yes(number["median"] <= number["at_most"])}'
  if 'at_least' in number:
    return f'≥ {number["at_least"]}: {_yes(number["median"] >= number["at_least"])}'
  return ''


def _yes(passed: bool) -> str:
  return 'yes' if passed else 'no'


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
