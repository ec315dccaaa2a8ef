"""Exports a trained model as a StableHLO program, after checking that both give the same outputs.

python -m distill.export --model=runs/NAME/export/student --to=DIR
python -m distill.export --model=DIR --to=DIR --inputs=FILE
python -m distill.export … --format=mylab.gguf:GGUF         # a format from another package

The first form checks the program on the split that its run was evaluated on, in the fields that the
model reads. The second form takes any folder that `distill.predict` takes: FILE holds texts, one a
line, with a tab between the two of a pair for a model of pairs, or the pixels of images (.npy). DIR
gets the program, the tokenizer, a sealed card and README.md, and runs without this package.
"""
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import checkpoint, command_line, formats, hub, lookup, modalities, report, streams
from distill.data import batches
from distill.logs import say
from distill.modalities import examples
from distill.pipelines import checks, judge, nodes
from distill.types import Status, Stop

DOOR = 'distill.export'
USAGE = '--model=DIR --to=DIR [--inputs=FILE] [--format=NAME]'
BATCH_SIZE = 64         # of --inputs


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run(DOOR, _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser(DOOR, __doc__, USAGE, f'usage: python -m {DOOR} {USAGE}')
  parser.add_argument('--model', metavar='DIR', required=True, help='an export, or another model')
  parser.add_argument('--to', metavar='DIR', required=True, help='the folder to write')
  parser.add_argument('--inputs', metavar='FILE', help='examples to try it on')
  parser.add_argument('--format', metavar='NAME', default='stablehlo.StableHLO',
                      help='what to write: of distill.formats, or MODULE:NAME')
  options = parser.parsed(arguments)
  for name, value in vars(options).items():
    if value == '':
      parser.error(f'--{name} is empty')
  ship(options.model, pathlib.Path(options.to), options.inputs or '', options.format)
  return int(Status.DONE)


def ship(place: str, to: pathlib.Path, inputs: str = '',
         format: str = 'stablehlo.StableHLO') -> None:
  """Writes a model to the folder `to`, unless it holds the same model in that format already."""
  kind = lookup.find('formats', format, '--format')()
  folder = hub.folder(place, '--model')
  if (folder / 'export').is_dir():
    raise Stop(Status.CONFIG, f'--model={place} is a workdir: name one of its models, '
               + ' or '.join(sorted(str(p) for p in (folder / 'export').iterdir())))
  if kind.holds(folder) and not kind.trainable:
    raise Stop(Status.CONFIG, f'--model={place} is a program already')
  model, weights, card = formats.load_trained(place)
  if os.path.lexists(to):
    program = formats.card_of(to).get('program', {}) if kind.holds(to) else {}
    if program.get('weights') == checkpoint.sha256(weights):
      say(f'{to} has this program already')
      return
    raise Stop(Status.CONFIG, f'--to={to} is there already, and nothing is overwritten: remove it, '
               'or name another place')
  modality = formats.modality(card, folder)
  workdir = folder.resolve().parent.parent
  name = pathlib.Path(place).resolve().name           # a hub id's folder has another
  of_run = folder.resolve().parent.name == 'export' and (workdir / 'config.json').is_file()
  if inputs:
    trial = _trial_of_file(inputs, modality)
  elif of_run:
    trial = _trial_of_run(workdir, card, modality)
  else:
    raise Stop(Status.CONFIG, f'--model={place} is in no workdir whose data it could be tried on: '
               f'give --inputs=FILE, of {modality.noun}')
  if not formats.is_recognised(kind):
    card = {**card, 'format': format}
  say(f'{place}: trying it on {trial.title}')
  about = {'name': name, **_results(workdir if of_run else None, name)}
  measured = kind.write(to, formats.Shipped(model, weights, card, modality), trial, about)
  if 'examples' in measured:
    line = (f'{measured["examples"]:,} examples of {trial.title} answered as by the module, its '
            f'outputs within {measured["largest_difference"]:.2g}')
  else:
    line = f'what was written is within {measured["largest_difference"]:.2g} of the module'
  if (to / 'README.md').is_file():
    line += f'; {to}/README.md says how to run it'
  print(f'{to}: {line}')


def _results(workdir: pathlib.Path | None, name: str) -> dict[str, Any]:
  """Returns a model's results from the report of its run; {} if there is none."""
  if workdir is None or not (workdir / 'report.json').is_file():
    return {}
  whole = report.read(workdir)
  if not any(model['name'] == name for model in whole['models']):
    return {}
  models = [m for m in whole['models'] if m['name'] == name or m['role'] != 'student']
  return {'report': whole, 'verdict': report.summary({**whole, 'models': models}),
          'table': report.table(whole)}


def _trial_of_run(workdir: pathlib.Path, card: Mapping[str, Any],
                  modality: modalities.Modality) -> formats.Trial:
  """Returns the split that a run was evaluated on."""
  path = workdir / 'config.json'
  try:
    config = json.loads(path.read_text('utf-8'))
    source = judge.source(config['data'])
  except (ValueError, LookupError, AttributeError) as error:
    raise Stop(Status.CONFIG, f'{path} is no config of a run: give --inputs=FILE') from error
  dataset = lookup.build('data', source, 'data')
  if dataset.fingerprint != card.get('fingerprint'):
    raise Stop(Status.DATA, f'{dataset.name} is not what the model was trained on (fingerprint '
               f'{dataset.fingerprint[:8]}, not {card.get("fingerprint", "")[:8]}): give '
               '--inputs=FILE')
  evaluate = lookup.call(nodes.Evaluate, config['evaluate'] if 'evaluate' in config else {},
                         'evaluate')
  reads = card.get('reads', {})
  checks.check_reads(reads, dataset, (evaluate.split,), 'its card')
  split = dataset.splits[evaluate.split].reading(reads)
  rows = batches.in_order(split, batch_size=evaluate.batch_size, widths=dict(modality.widths))
  title = f'the split {evaluate.split} of {dataset.name}'
  example = lambda i: f'example {i} of {title}' + (f' ({str(split.raw[i])[:60]})' if len(split.raw)
                                                   else '')
  return formats.Trial(rows.map(dataset.modality.prepare), example, title)


def _trial_of_file(file: str, modality: modalities.Modality) -> formats.Trial:
  """Returns the examples of a file, read as `distill.predict` reads them."""
  names, by_shape = [], {}
  for about, batch in examples.encode(modality, modality.arguments(file)):
    shape = tuple(x.shape for x in batch.values())
    by_shape.setdefault(shape, []).append({**batch, 'id': np.array([len(names)], np.int32)})
    names.append(next(iter(about.values())))
  if not names:
    raise Stop(Status.DATA, f'--inputs={file} is empty')
  rows = [{name: np.concatenate([row[name] for row in some[start:start + BATCH_SIZE]])
           for name in some[0]}
          for some in by_shape.values() for start in range(0, len(some), BATCH_SIZE)]
  return formats.Trial(rows, lambda i: repr(names[i][:60]), pathlib.Path(file).name)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
