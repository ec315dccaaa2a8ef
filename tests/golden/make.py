"""Makes what lies in this folder. It was run once, at 7fc13de, and that code isn't here any more.

git worktree add ../base 7fc13de                # then copy this folder there, and in ../base:
PYTHONPATH=. python tests/golden/make.py

  text/ numbers/ images/    exports, by the runs of config.py; answers.json has what `predict` says
  words/                    an export of masked words; words.npz has the records by `evaluate`
  program.tar.xz            program/: text/ as a StableHLO program
  workdirs.tar.xz           resumed/: a workdir whose run was killed after its checkpoint 3 of 6
                            whole/: what the same run ends with if nothing stops it
                            report/: the report of such a run, with measured calls
  machine.json              what the bits of whole/ depend on
"""
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile

import numpy as np

FOLDER = pathlib.Path(__file__).parent
ROOT = FOLDER.parent.parent
CONFIG = 'tests/golden/config.py'
TEXTS = ['a good film about a dog', 'the poor city is dull', 'a bad idea\tgreat food', 'Zebra ¿?']
IMAGES = ['tests/golden/digits.npy']
INPUTS = {'text': TEXTS, 'numbers': TEXTS, 'program': TEXTS, 'images': IMAGES}
# As in conftest.py: which program is compiled depends on it.
FLAGS = '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0'


def main() -> None:
  """Makes everything, each run in a process of its own."""
  for path in FOLDER.iterdir():
    if path.name not in ('make.py', 'config.py', '__pycache__'):
      shutil.rmtree(path) if path.is_dir() else path.unlink()
  write_texts()
  write_digits()
  with tempfile.TemporaryDirectory() as temporary:
    workdirs = pathlib.Path(temporary)
    for name in ('text', 'numbers', 'images', 'words'):
      run('main', f'--config={CONFIG}:{name}', f'--workdir={workdirs / name}')
      shutil.copytree(workdirs / name / 'export' / 'student', FOLDER / name)
    (workdirs / 'inputs.txt').write_text('\n'.join(TEXTS) + '\n')
    run('export', '--model=tests/golden/text', f'--to={workdirs / "program"}',
        f'--inputs={workdirs / "inputs.txt"}')
    run('evaluate', '--models=tests/golden/words', f'--config={CONFIG}:words',
        f'--workdir={workdirs / "judged"}')
    shutil.copy(workdirs / 'judged/records/words.npz', FOLDER / 'words.npz')
    places = {name: FOLDER / name for name in INPUTS} | {'program': workdirs / 'program'}
    write_json('answers.json', {name: answered(places[name], INPUTS[name]) for name in INPUTS})
    write_json('machine.json', machine(FLAGS))

    resumed = f'--config={CONFIG}:resumed'
    run('main', resumed, f'--workdir={workdirs / "whole"}')
    run('main', resumed, f'--workdir={workdirs / "resumed"}', failpoint='pruned:3')
    run('main', resumed, f'--workdir={workdirs / "report"}', '--config.evaluate.cost=True')
    archive('program', workdirs, 'program/*')
    archive('workdirs', workdirs, 'resumed/*.json*', 'resumed/checkpoints/*/*/*',
            'whole/metrics.jsonl', 'whole/export/*/*.safetensors', 'whole/records/*.npz',
            'report/report.json', 'report/metrics.jsonl')


def run(module: str, *arguments: str, failpoint: str = '') -> str:
  """Runs a command of the package; returns what it prints."""
  env = {**os.environ, 'XLA_FLAGS': FLAGS, 'DISTILL_FAILPOINT': failpoint}
  process = subprocess.run([sys.executable, '-m', f'distill.{module}', *arguments], cwd=ROOT,
                           env=env, stdout=subprocess.PIPE, text=True)
  if process.returncode != (137 if failpoint else 0):
    sys.exit(f'distill.{module} {arguments}: exit status {process.returncode}')
  return process.stdout


def answered(place: pathlib.Path, inputs: list[str]) -> list[dict]:
  return [json.loads(line) for line in run('predict', f'--model={place}', *inputs).splitlines()]


def archive(name: str, root: pathlib.Path, *patterns: str) -> None:
  with tarfile.open(FOLDER / f'{name}.tar.xz', 'w:xz', preset=9) as tar:
    for path in sorted(path for pattern in patterns for path in root.glob(pattern)):
      tar.add(path, path.relative_to(root))


def write_texts() -> None:
  """Writes 80 short texts, each with a class and a number."""
  words = {'good': ('good', 'great', 'fine', 'lovely'), 'bad': ('bad', 'poor', 'dull', 'weak')}
  things = 'film', 'book', 'meal', 'city', 'idea', 'song', 'dog', 'game', 'plan', 'house'
  lines = []
  for i in range(80):
    label = ('good', 'bad')[i % 2]
    word, thing = words[label][i // 2 % 4], things[i * 7 % 10]
    text = (f'a {word} {thing}', f'the {thing} is {word}', f'{word} {thing}, they say {i}',
            f'I saw a {thing} and it was {word}')[i // 3 % 4]
    lines.append(json.dumps({'text': text, 'label': label, 'stars': i % 2 + i % 4 / 4 + 0.5}))
  (FOLDER / 'texts.jsonl').write_text('\n'.join(lines) + '\n')


def write_digits() -> None:
  from sklearn.datasets import load_digits
  np.save(FOLDER / 'digits.npy', load_digits().images[:3].astype(np.uint8))


def write_json(name: str, content: object) -> None:
  (FOLDER / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + '\n')


def machine(xla: str) -> dict[str, str]:
  """Returns what the bits of a result depend on: packages, XLA's flags, the processor."""
  from importlib.metadata import version
  names = 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'tokenizers', 'scikit-learn'
  cpu = [line for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines()
         if line.startswith(('model name', 'flags'))][:2]
  return {**{name: version(name) for name in names},
          'xla': xla, 'cpu': cpu[0].partition(': ')[2],
          'flags': hashlib.sha256(''.join(cpu).encode()).hexdigest()[:16]}


if __name__ == '__main__':
  main()
