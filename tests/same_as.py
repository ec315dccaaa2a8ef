"""Compares what two revisions train: every `configs/*.py:test`, by bytes and by jaxprs.

python tests/same_as.py BASE [CONFIG …]       # python tests/same_as.py 7fc13de bert matrix:digits

The working tree, with changes that aren't committed, is compared with the commit BASE. Each config
runs in both, one process at a time, from the same caches. Then these must be equal:

  arrays          of exports, checkpoints and records: names, dtypes, shapes, bytes
  metrics.jsonl   without times
  report.json     without times, energy, memory, versions, hardware and the config's hash
  jaxprs          of every stage's train step, as text

Scores and float records of masked words may differ by 1e-5. A jaxpr of images may differ: its diff
is printed, and the exit status stays 0.
"""
import argparse
import difflib
import itertools
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import safetensors.numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent
JAXPRS = 'jaxprs.jsonl'
TOLERANCE = 1e-5
CARD = 4096             # bytes by which `shipped_bytes` may differ: texts beside the weights
SHOWN = 60              # lines of a diff
# What depends on the clock or the machine; `edge` limits the latency.
VOLATILE = re.compile(r'\.(versions|hardware|latency_ms|energy_j_per_example)\b'
                      r'|\.(config_sha256|seconds|time|throughput_per_s|throughput_batch|process_bytes'
                      r'|peak_memory_bytes|p95_ms\.value|p95_ms\.passed|(edge|tier)\.passed)$')
SCORES = re.compile(r'^records|^metrics.*/|\.(quality|retention\w*|gain|also|tiers?)\.')


def main() -> int:
  """Runs and compares all configs; returns 1 if any differs."""
  parser = argparse.ArgumentParser(usage=__doc__)
  parser.add_argument('base', help='a commit')
  parser.add_argument('configs', nargs='*', help='bert, configs/bert.py or matrix:digits')
  parser.add_argument('--keep', type=pathlib.Path, help='a new folder that keeps the workdirs')
  parser.add_argument('--fresh', action='store_true',
                      help='each revision makes its data anew, in a cache of its own')
  options = parser.parse_args()
  failed = []
  with tempfile.TemporaryDirectory(prefix='same_as-') as temporary:
    folder = (options.keep or pathlib.Path(temporary)).resolve()
    roots = {'base': pathlib.Path(temporary, 'revision'), 'tree': ROOT}
    check_out(options.base, roots['base'])
    everything = {path.stem for root in roots.values() for path in root.glob('configs/*.py')}
    configs = options.configs or sorted(everything)
    for config in configs:
      file, _, variant = config.partition(':')
      name, places, seconds = f'{pathlib.Path(file).stem}:{variant or "test"}', {}, {}
      for side, root in roots.items():
        places[side], began = folder / side / name.replace(':', '-'), time.monotonic()
        run(name, root, places[side], folder / side / 'cache' if options.fresh else None)
        seconds[side] = time.monotonic() - began
      differences, changed = compare(*places.values())
      failed += [name] if differences else []
      verdict = 'DIFFERS' if differences else 'jaxpr differs (images)' if changed else 'equal'
      print(f'{name:<18} {verdict:<24} {seconds["base"]:3.0f} s, {seconds["tree"]:3.0f} s')
      print(''.join(f'  {line}\n' for line in differences + changed), end='', flush=True)
  print(f'{len(configs)} configs; different from {options.base}:', *failed or ['none'])
  return int(bool(failed))


def check_out(commit: str, folder: pathlib.Path) -> None:
  """Writes the files of a commit to a folder."""
  folder.mkdir()
  archive = subprocess.run(['git', 'archive', commit], cwd=ROOT, check=True, capture_output=True)
  subprocess.run(['tar', '-x', '-C', folder], input=archive.stdout, check=True)


def run(name: str, root: pathlib.Path, workdir: pathlib.Path, cache: pathlib.Path | None) -> None:
  """Runs a config by the code in `root`; its output is in output.txt."""
  workdir.mkdir(parents=True)
  # Code that isn't optimised, as in conftest.py: compiling is most of the time.
  env = {'XLA_FLAGS': '--xla_backend_optimization_level=0', **os.environ, 'PYTHONPATH': str(root)}
  env |= {'DISTILL_CACHE': str(cache)} if cache else {}
  with open(workdir / 'output.txt', 'w') as output:
    subprocess.run([sys.executable, '-P', __file__, '--child', 'configs/{}.py:{}'.format(
        *name.split(':')), str(workdir)], cwd=root, env=env, stdout=output, stderr=output)


def child(config: str, workdir: str) -> int:
  """Runs a config by the package in the current folder, and writes down its steps' jaxprs."""
  import distill
  from distill import main, train
  assert pathlib.Path(distill.__file__).is_relative_to(pathlib.Path.cwd()), distill.__file__
  original = train.prepared

  def prepared(stage, *arguments, **keywords):
    ready = original(stage, *arguments, **keywords)
    text = re.sub(r'0x[0-9a-f]+', '0x…', str(ready.traced.jaxpr))
    with open(pathlib.Path(workdir, JAXPRS), 'a') as file:
      print(json.dumps({'stage': stage.name, 'images': 'image' in ready.batch, 'jaxpr': text}),
            file=file)
    return ready
  train.prepared = prepared
  return main.main([f'--config={config}', f'--workdir={workdir}'])


def compare(base: pathlib.Path, tree: pathlib.Path) -> tuple[list[str], list[str]]:
  """Returns lines on what must be equal and isn't, and on jaxprs of images that differ."""
  for workdir in (base, tree):
    if not (workdir / 'report.json').is_file():
      return [f'no report by {workdir.parent.name}; its output ends with',
              *(workdir / 'output.txt').read_text().splitlines()[-5:]], []
  words = json.loads((base / 'config.json').read_text())['task']['name'] == 'words.MaskedWords'
  before, after = contents(base), contents(tree)
  lines = [f'{name}: only in {"base" if name in before else "tree"}'
           for name in sorted(before.keys() ^ after.keys())]
  lines += [f'{name}: {before[name]!s:.60} became {after[name]!s:.60}'.replace('\n', ' ')
            for name in before
            if name in after and not same(name, before[name], after[name], words)]
  strict, changed = compare_jaxprs(jaxprs(base), jaxprs(tree))
  for _, group in itertools.groupby(lines, lambda line: line.split()[0]):
    first, *more = group
    strict.append(first + (f'; and {len(more)} more in this file' if more else ''))
  return strict, changed


def contents(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns all that must be equal, but for the jaxprs, by its file and its name there."""
  found = {}
  for path in sorted((*workdir.glob('**/*.safetensors'), *workdir.glob('records/**/*.npz'))):
    read = safetensors.numpy.load_file if path.suffix == '.safetensors' else np.load
    found |= {f'{path.relative_to(workdir)} {name}': array for name, array in read(path).items()}
  for i, line in enumerate((workdir / 'metrics.jsonl').read_text().splitlines(), 1):
    found |= {f'metrics.jsonl line {i} {name}': value for name, value in leaves(json.loads(line))}
  found |= {f'report.json {name}': value
            for name, value in leaves(json.loads((workdir / 'report.json').read_text()))}
  return {name: value for name, value in found.items() if not VOLATILE.search(name)}


def leaves(node: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Yields dotted paths and values; entries of a list go by their `name` if they have one."""
  if isinstance(node, list) and node:
    node = {item['name'] if isinstance(item, dict) and 'name' in item else str(i): item
            for i, item in enumerate(node)}
  if not isinstance(node, dict) or not node:
    yield path, node
  else:
    for key, value in node.items():
      yield from leaves(value, f'{path}.{key}')


def same(name: str, before: Any, after: Any, words: bool) -> bool:
  """Compares arrays or values of JSON; scores of masked words by the tolerance."""
  a, b = np.asarray(before), np.asarray(after)
  if type(before) is not type(after) or (a.dtype, a.shape) != (b.dtype, b.shape):
    return False
  if name.endswith('.shipped_bytes') and before is not None:
    return abs(before - after) < CARD
  if words and a.dtype.kind == 'f' and SCORES.search(name):
    return np.allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True)
  return a.tobytes() == b.tobytes() if isinstance(before, np.ndarray) else before == after


def jaxprs(workdir: pathlib.Path) -> dict[str, Mapping[str, Any]]:
  found = {}
  for row in map(json.loads, (workdir / JAXPRS).read_text().splitlines()):
    earlier = found.get(row['stage'], {'jaxpr': ''})['jaxpr']
    found[row['stage']] = {**row, 'jaxpr': earlier + row['jaxpr']}
  return found


def compare_jaxprs(before: Mapping, after: Mapping) -> tuple[list[str], list[str]]:
  """Returns starts of diffs: of steps that must be equal, and of steps with images."""
  lines = {False: [f'train step of {stage}: only in one'
                   for stage in sorted(before.keys() ^ after.keys())], True: []}
  for stage in before:
    texts = [found[stage]['jaxpr'] for found in (before, after) if stage in found]
    if len(texts) == 2 and texts[0] != texts[1]:
      diff = [*difflib.unified_diff(*map(equations, texts), 'base', 'tree', lineterm='', n=1)]
      lines[before[stage]['images']] += [f'train step of {stage} differs in {len(diff)} lines:',
                                         *(line[:160] for line in diff[:SHOWN])]
  return lines[False], lines[True]


def equations(jaxpr: str) -> list[str]:
  """Returns the equations without names: these all shift where an equation is added."""
  names = set(re.findall(r'\b([a-z]+):', jaxpr))
  text = re.sub(r'(?<!= )\b[a-z]+\b(?![=\[])', lambda m: '_' if m[0] in names else m[0], jaxpr)
  text = re.sub(r'((?:jaxpr=|let )\w*?)\d+\b', r'\1', ' '.join(text.split()))
  return re.split(r' (?=(?:_:\S+ )+= )', text)


if __name__ == '__main__':
  sys.exit(child(*sys.argv[2:]) if sys.argv[1:2] == ['--child'] else main())
