"""Exports a trained model as a StableHLO program, once it answers as its module does.

python -m distill.export --model=runs/NAME/export/student --to=DIR
python -m distill.export --model=DIR --to=DIR --inputs=FILE
python -m distill.export … --format=mylab.gguf:GGUF         # another format, of one's own

The first is tried on the split that its run was judged by. The second is for any folder that
`distill.predict` takes: FILE holds texts, one a line, a tab between those of a pair for a model of
pairs, or the pixels of images (.npy). DIR gets the program, the tokenizer, a sealed card and
README.md, and runs without this package.
"""
import json
import os
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import checkpoint, formats, hub, lookup, modalities, report, streams
from distill.data import batches
from distill.logs import say
from distill.modalities import examples
from distill.pipelines import judge, nodes
from distill.types import Status, Stop

USAGE = 'usage: python -m distill.export --model=DIR --to=DIR [--inputs=FILE] [--format=NAME]'
SIZE = 64               # of the batches of --inputs


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  return streams.run('distill.export', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  if {'--help', '-h'} & set(arguments):
    print(__doc__, file=sys.stderr)
    return int(Status.DONE)
  options = dict(a.removeprefix('--').split('=', 1) for a in arguments
                 if a.startswith('--') and '=' in a)
  if len(options) != len(arguments) or not {'model', 'to'} <= options.keys() <= {
      'model', 'to', 'inputs', 'format'} or not all(options.values()):
    raise Stop(Status.CONFIG, USAGE)
  ship(options['model'], pathlib.Path(options['to']), options.get('inputs', ''),
       options.get('format', 'stablehlo.StableHLO'))
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
  model, weights, card = formats.whole(place)
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
  if not formats.named_in(kind):
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
  split = dataset.splits[evaluate.split]
  rows = batches.in_order(split, batch_size=evaluate.batch_size, widths=dict(modality.widths))
  title = f'the split {evaluate.split} of {dataset.name}'
  example = lambda i: f'example {i} of {title}' + (f' ({str(split.raw[i])[:60]})' if len(split.raw)
                                                   else '')
  return formats.Trial(rows.map(dataset.modality.prepare), example, title)


def _given(file: str, modality: modalities.Modality) -> formats.Trial:
  """The examples of a file, as the command `distill.predict` reads them."""
  names, alike = [], {}
  for about, batch in examples.encoded(modality, modality.arguments(file)):
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
