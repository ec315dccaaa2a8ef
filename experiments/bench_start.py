"""How long a run takes to start: with every cache empty, and with what the first one left there."""
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


def start(rounds: int, config: str = CONFIG) -> dict[str, Any]:
  """Seconds of `distill.main` until the first logged step, and until it ends."""
  found = {'cold': [], 'warm': []}
  for _ in range(rounds):
    with tempfile.TemporaryDirectory() as folder:
      for name, values in found.items():
        values.append(_started(config, pathlib.Path(folder), name))
  ends = ('first step', 'end')
  return {'sizes': {'config': config}, 'numbers': {
      **{f'{name}, to the {end}': spread([v[i] for v in values], 's')
         for name, values in found.items() for i, end in enumerate(ends)},
      'cold / warm': spread([cold[1] / warm[1] for cold, warm in zip(*found.values(), strict=True)],
                            '×')}}


def _started(config: str, folder: pathlib.Path, name: str) -> tuple[float, float]:
  """Seconds to the first logged step and to the end; the caches are in the folder."""
  workdir, began = folder / name, time.time()
  caches = {'JAX_COMPILATION_CACHE_DIR': str(folder / 'xla'), 'DISTILL_CACHE': str(folder / 'data')}
  done = subprocess.run(
      [sys.executable, '-m', 'distill.main', f'--config={config}', f'--workdir={workdir}'],
      cwd=ROOT, env=os.environ | caches, text=True, capture_output=True)
  ended = time.time()
  if done.returncode:
    raise RuntimeError(f'{config} ended with {done.returncode}: {done.stderr.strip()[-500:]}')
  with (workdir / 'metrics.jsonl').open() as rows:
    first = json.loads(rows.readline())['time']
  return first - began, ended - began
