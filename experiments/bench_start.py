"""Start-up times of commands: with empty caches, and with caches that an earlier run filled."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from experiments.bench_turns import ROOT, spread

CONFIG = 'configs/bert.py:test'
TEXT = 'Return the indices that would sort an array.'


def start(rounds: int, config: str = CONFIG, others: bool = True) -> dict[str, Any]:
  """Measures the seconds until commands have started and ended.

  They are those of `distill.main` until the first logged step and until its end, of
  `distill.predict` on the student's export until its first answer, and, with full caches, of every
  other config's `:test` until its end.
  """
  found, answers, ended = {'cold': [], 'warm': []}, [], {}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as folder:
      for name, values in found.items():
        values.append(_time_run(config, pathlib.Path(folder), name))
      export = pathlib.Path(folder) / 'warm' / 'export' / 'student'
      answers.append([_time_predict(export, pathlib.Path(folder)) for _ in range(2)][1])
  tests = [f'configs/{path.name}:test' for path in sorted((ROOT / 'configs').glob('*.py'))]
  with tempfile.TemporaryDirectory() as folder:
    for test in tests if others else []:
      if test != config:
        runs = [_time_run(test, pathlib.Path(folder), f'{test[8:-8]}-{i}')
                for i in range(1 + rounds)]
        ended[test] = [end for _, end in runs[1:]]
  ends = ('first step', 'end')
  return {'sizes': {'config': config}, 'numbers': {
      **{f'{name}, to the {end}': spread([v[i] for v in values], 's')
         for name, values in found.items() for i, end in enumerate(ends)},
      'predict, warm, to the first answer': spread(answers, 's'),
      **{f'{test}, warm, to the end': spread(values, 's') for test, values in ended.items()},
      'cold / warm': spread([cold[1] / warm[1] for cold, warm in zip(*found.values(), strict=True)],
                            '×')}}


def _time_run(config: str, folder: pathlib.Path, name: str) -> tuple[float, float]:
  """Returns the seconds to the first logged step and to the end; the caches are in the folder."""
  workdir, began = folder / name, time.time()
  _run_to_end([sys.executable, '-m', 'distill.main', f'--config={config}',
               f'--workdir={workdir}'], folder)
  ended = time.time()
  with (workdir / 'metrics.jsonl').open() as rows:
    first = json.loads(rows.readline())['time']
  return first - began, ended - began


def _time_predict(export: pathlib.Path, folder: pathlib.Path) -> float:
  """Returns the seconds until a process has answered one text."""
  began = time.time()
  _run_to_end([sys.executable, '-m', 'distill.predict', f'--model={export}', TEXT], folder)
  return time.time() - began


def _run_to_end(command: list[str], folder: pathlib.Path) -> None:
  """Runs a command to its end with the caches of a folder."""
  caches = {'JAX_COMPILATION_CACHE_DIR': str(folder / 'xla'), 'DISTILL_CACHE': str(folder / 'data')}
  done = subprocess.run(command, cwd=ROOT, env=os.environ | caches, text=True, capture_output=True)
  if done.returncode:
    raise RuntimeError(f'{" ".join(command[1:])} ended with {done.returncode}: '
                       f'{done.stderr.strip()[-500:]}')
