"""Exports a trained model as a StableHLO program, once it answers as its module does.

python -m distill.export --model=runs/NAME/export/student --to=DIR
python -m distill.export --model=DIR --to=DIR --inputs=FILE

The first is tried on the split that its run was judged by. The second is for any folder that
`distill.predict` takes: FILE holds texts, one a line, a tab between those of a pair, or the pixels
of images (.npy). DIR gets the program, the tokenizer, a sealed card and README.md, and runs without
this package.
"""
import json
import os
import pathlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from distill import checkpoint, hub, lookup, predict
from distill.data import batches, tokenizer
from distill.evaluate import cost, report
from distill.export import card as cards
from distill.export import stablehlo
from distill.logs import say
from distill.models.stablehlo import PROGRAM, Program
from distill.pipelines import judging, nodes
from distill.types import Batch, Status, Stop

USAGE = 'usage: python -m distill.export --model=DIR --to=DIR [--inputs=FILE]'
SIZE = 64               # of the batches of --inputs

Tried = tuple[Sequence[Batch], Callable[[int], str], str]     # batches, an example's name, all's


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  try:
    options = dict(a.removeprefix('--').split('=', 1) for a in arguments
                   if a.startswith('--') and '=' in a)
    if len(options) != len(arguments) or not {'model', 'to'} <= options.keys() <= {
        'model', 'to', 'inputs'} or not all(options.values()):
      raise Stop(Status.CONFIG, USAGE)
    ship(options['model'], pathlib.Path(options['to']), options.get('inputs', ''))
  except Stop as stop:
    print(f'distill.export: {stop}', file=sys.stderr)
    return int(stop.status)
  return int(Status.DONE)


def ship(place: str, to: pathlib.Path, inputs: str = '') -> None:
  """Writes the folder `to`, unless it has the same model's program already."""
  folder = hub.folder(place, '--model')
  if (folder / 'export').is_dir():
    raise Stop(Status.CONFIG, f'--model={place} is a workdir: name one of its models, '
               + ' or '.join(sorted(str(p) for p in (folder / 'export').iterdir())))
  if (folder / PROGRAM).is_file():
    raise Stop(Status.CONFIG, f'--model={place} is a program already')
  model, weights, card = predict.whole(place)
  identity = checkpoint.sha256(weights)
  if os.path.lexists(to):
    if (to / PROGRAM).is_file() and checkpoint.opened(
        to, PROGRAM)['card']['program']['weights'] == identity:
      say(f'{to} has this program already')
      return
    raise Stop(Status.CONFIG, f'--to={to} is there already, and nothing is overwritten: remove it, '
               'or name another place')
  workdir = folder.resolve().parent.parent
  name = pathlib.Path(place).resolve().name           # a hub id's folder has another
  of_run = folder.resolve().parent.name == 'export' and (workdir / 'config.json').is_file()
  if inputs:
    rows, named, on = _given(inputs, card, place)
  elif of_run:
    rows, named, on = _judged(workdir, card)
  else:
    raise Stop(Status.CONFIG, f'--model={place} is in no workdir whose data it could be tried on: '
               'give --inputs=FILE, of texts, one a line, or of images')
  written = stablehlo.serialized(model, weights, card)
  program = Program(written, str(to), jax.__version__)
  say(f'{place}: {len(written):,} bytes for {", ".join(program.platforms)}; trying it on {on}')
  measured = stablehlo.parity(program, model, weights, rows, card, named)
  card = {key: value for key, value in card.items() if key != 'fresh'} | {'program': {
      'platforms': list(program.platforms), 'weights': identity, 'parity': measured,
      'params': cost.params(weights[0]),
      'params_outside_embeddings': cost.params(weights[0], embeddings=False),
      'bytes': cost.nbytes(weights), 'quantised': cost.quantised(weights[0])}}
  texts = {'README.md': cards.readme(name, card, size=len(written), on=on,
                                     **_measured(workdir if of_run else None, name))}
  if 'pixels' not in card:
    texts['tokenizer.json'] = tokenizer.read(place, '--model')
  checkpoint.ship(to, {PROGRAM: written} | {k: v.encode() for k, v in texts.items()}, card)
  print(f'{to}: {measured["examples"]:,} examples of {on} answered as by the module, logits within '
        f'{measured["largest_difference"]:.2g}; {to}/README.md says how to run it')


def _measured(workdir: pathlib.Path | None, name: str) -> dict[str, Any]:
  """What the report of a run, if there is one, says of a model beside the others."""
  if workdir is None or not (workdir / 'report.json').is_file():
    return {}
  told = report.read(workdir)
  if not any(model['name'] == name for model in told['models']):
    return {}
  alone = [m for m in told['models'] if m['name'] == name or m['role'] != 'student']
  return {'report': told, 'verdict': report.verdict({**told, 'models': alone}),
          'table': report.table(told)}


def _judged(workdir: pathlib.Path, card: Mapping[str, Any]) -> Tried:
  """The split that a run was judged by."""
  path = workdir / 'config.json'
  try:
    config = json.loads(path.read_text('utf-8'))
    source = judging.source(config['data'])
  except (ValueError, LookupError, AttributeError) as error:
    raise Stop(Status.CONFIG, f'{path} is no config of a run: give --inputs=FILE') from error
  dataset = lookup.build('data', source, 'data')
  if dataset.fingerprint != card.get('fingerprint'):
    raise Stop(Status.DATA, f'{dataset.name} is not what the model was trained on (fingerprint '
               f'{dataset.fingerprint[:8]}, not {card.get("fingerprint", "")[:8]}): give '
               '--inputs=FILE')
  evaluate = lookup.call(nodes.Evaluate, config['evaluate'] if 'evaluate' in config else {},
                         'evaluate')
  split = dataset.splits[evaluate.split]
  rows = batches.in_order(split, batch_size=evaluate.batch_size, widths=card.get('widths'))
  on = f'the split {evaluate.split} of {dataset.name}'
  named = lambda i: f'example {i} of {on}' + (f' ({str(split.text[i])[:60]})' if split.text else '')
  return rows, named, on


def _given(file: str, card: Mapping[str, Any], place: str) -> Tried:
  """The examples of a file, as the command `distill.predict` reads them."""
  if 'pixels' in card:
    inputs = [file]
  else:
    try:
      inputs = [line for line in pathlib.Path(file).read_text('utf-8').splitlines() if line.strip()]
    except (OSError, ValueError) as error:
      raise Stop(Status.DATA, f'--inputs={file}: {error}') from error
  names, alike = [], {}
  for said, batch in predict.asked(inputs, card, place):
    shape = next(iter(batch.values())).shape
    alike.setdefault(shape, []).append({**batch, 'id': np.array([len(names)], np.int32),
                                        'valid': np.ones(1, np.float32)})
    names.append(next(iter(said.values())))
  if not names:
    raise Stop(Status.DATA, f'--inputs={file} is empty')
  rows = [{name: np.concatenate([one[name] for one in some[start:start + SIZE]])
           for name in some[0]} for some in alike.values() for start in range(0, len(some), SIZE)]
  return rows, lambda i: repr(names[i][:60]), pathlib.Path(file).name


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
