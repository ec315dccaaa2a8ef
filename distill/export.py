"""Exports a trained model as a StableHLO program, once it answers as its module does.

python -m distill.export --model=runs/NAME/export/student --to=DIR
python -m distill.export --model=DIR --to=DIR --inputs=FILE
python -m distill.export … --format=mylab.gguf:GGUF         # another format, of one's own

The first is tried on the split that its run was judged by, in the fields that the model reads. The
second is for any folder that `distill.predict` takes: FILE holds texts, one a line, a tab between
those of a pair for a model of pairs, or the pixels of images (.npy). DIR gets the program, the
tokenizer, a sealed card and README.md, and runs without this package.
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
SIZE = 64               # of the batches of --inputs


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
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
  """Writes the folder `to`, unless it has the same model in that format already."""
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
    trial = _given(inputs, modality)
  elif of_run:
    trial = _judged(workdir, card, modality)
  else:
    raise Stop(Status.CONFIG, f'--model={place} is in no workdir whose data it could be tried on: '
               f'give --inputs=FILE, of {modality.noun}')
  if not formats.is_recognised(kind):
    card = {**card, 'format': format}
  say(f'{place}: trying it on {trial.title}')
  about = {'name': name, **_measured(workdir if of_run else None, name)}
  measured = kind.write(to, formats.Shipped(model, weights, card, modality), trial, about)
  if 'examples' in measured:
    line = (f'{measured["examples"]:,} examples of {trial.title} answered as by the module, its '
            f'outputs within {measured["largest_difference"]:.2g}')
  else:
    line = f'what was written is within {measured["largest_difference"]:.2g} of the module'
  if (to / 'README.md').is_file():
    line += f'; {to}/README.md says how to run it'
  print(f'{to}: {line}')


def _measured(workdir: pathlib.Path | None, name: str) -> dict[str, Any]:
  """What the report of a run, if there is one, says of a model beside the others."""
  if workdir is None or not (workdir / 'report.json').is_file():
    return {}
  whole = report.read(workdir)
  if not any(model['name'] == name for model in whole['models']):
    return {}
  alone = [m for m in whole['models'] if m['name'] == name or m['role'] != 'student']
  return {'report': whole, 'verdict': report.summary({**whole, 'models': alone}),
          'table': report.table(whole)}


def _judged(workdir: pathlib.Path, card: Mapping[str, Any],
            modality: modalities.Modality) -> formats.Trial:
  """The split that a run was judged by."""
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


def _given(file: str, modality: modalities.Modality) -> formats.Trial:
  """The examples of a file, as the command `distill.predict` reads them."""
  names, alike = [], {}
  for about, batch in examples.encode(modality, modality.arguments(file)):
    shape = tuple(x.shape for x in batch.values())
    alike.setdefault(shape, []).append({**batch, 'id': np.array([len(names)], np.int32)})
    names.append(next(iter(about.values())))
  if not names:
    raise Stop(Status.DATA, f'--inputs={file} is empty')
  rows = [{name: np.concatenate([one[name] for one in some[start:start + SIZE]])
           for name in some[0]} for some in alike.values() for start in range(0, len(some), SIZE)]
  return formats.Trial(rows, lambda i: repr(names[i][:60]), pathlib.Path(file).name)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
