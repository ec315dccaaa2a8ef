"""Holds models side by side: quality, speed, memory, energy, reasons, tiers; and their report.

python -m distill.evaluate --models=DIR,DIR,… [--workdir=DIR] [--config.a.b=value …]
python -m distill.evaluate --models=DIR,… --config=configs/NAME.py[:VARIANT]
python -m distill.evaluate --render=DIR         # draws a report's page again, from what is stored

A model is a workdir (then all of its models are meant), one of its exports, a StableHLO program,
or a folder or hub id of Hugging Face. Data, task and `evaluate` are those of the config, or of the
first run among the models. The others are held against the first teacher; where none is known to
be one, against the first model. `--config.tier=edge` exits with 17 if a student misses that tier.
The same command again measures what is not yet measured.
"""
import dataclasses
import hashlib
import json
import pathlib
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from distill import hub, main
from distill.pipelines import nodes
from distill.types import Status, Stop

KEPT = 'seed', 'task', 'mesh', 'evaluate', 'tier'       # nodes of a run's config, beside its data
FREE = 'dropout', 'words'


def command(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  try:
    return _command(arguments)
  except Stop as stop:
    print(f'distill.evaluate: {stop}', file=sys.stderr)
    return int(stop.status)


def _command(arguments: Sequence[str]) -> int:
  if not arguments or {'--help', '-h'} & set(arguments):
    print(__doc__, file=sys.stderr)
    return int(Status.DONE if arguments else Status.CONFIG)
  options, fields = {}, []
  for argument in arguments:
    name, _, value = argument.partition('=')
    if name.startswith('--config.'):
      fields.append(argument)
    elif name in ('--models', '--workdir', '--config', '--render') and value:
      options[name] = value
    else:
      raise Stop(Status.CONFIG, f'{argument!r} is not --models=DIR,DIR, --workdir=DIR, '
                 '--config=FILE, --config.FIELD=VALUE or --render=DIR')
  if '--render' in options:
    from distill.evaluate import report
    report.render(pathlib.Path(options['--render']))
    return int(Status.DONE)
  if '--models' not in options:
    raise Stop(Status.CONFIG, 'give --models=DIR,DIR: workdirs, exports, Hugging Face folders')
  found = named([model for place in options['--models'].split(',') for model in listed(place)])
  config = judged_by(options.get('--config', ''), fields, found.values())
  models = {name: {key: value for key, value in model.items() if key != 'run'}
            for name, model in found.items()}
  config = {**config, 'pipeline': 'evaluate.run', 'models': models}
  workdir = pathlib.Path(
      options.get('--workdir') or f'runs/evaluate-{main.sha256(config)[:8]}')
  with main.stopped_by_signals() as stopping, main.locked(workdir):
    main.run('evaluate', config, workdir, stopping)
  return int(Status.DONE)


def listed(place: str) -> list[dict[str, Any]]:
  """The models of a place, as `nodes.ModelNode` has them, and the workdir of their `run`."""
  folder = hub.folder(place, '--models')
  if any((folder / name).exists() for name in ('export', 'checkpoints', 'report.json')):
    return [*_of_run(folder)]
  run = folder.resolve().parent.parent
  if folder.resolve().parent.name == 'export' and (run / 'report.json').is_file():
    return [model for model in _of_run(run) if model['stage'] == folder.resolve().name]
  if not any((folder / name).is_file() for name in ('config.json', 'model.stablehlo')):
    raise Stop(Status.CHECKPOINT, f'--models: {place} is no model: it is neither a workdir nor an '
               'export nor a folder with a config.json')
  name = place.partition('@')[0] if folder.name not in place else folder.resolve().name
  return [_node(place, folder, run=None, stage=name.rpartition('/')[2])]


def _of_run(run: pathlib.Path) -> Iterator[dict[str, Any]]:
  """The models of a finished run."""
  from distill.evaluate import report
  if not (run / 'report.json').is_file():
    raise Stop(Status.CHECKPOINT, f'--models: the run {run} has no report yet: run it again, it '
               f'goes on where it is; or name one of the models in {run}/export')
  told, config = report.read(run), json.loads((run / 'config.json').read_text('utf-8'))
  for model in told['models']:
    name, place, free = model['name'], str(run / 'export' / model['name']), {}
    if 'models' in config:              # of an evaluation
      place, free = config['models'][name]['place'], config['models'][name].get('model', {})
    elif not (run / 'export' / name).is_dir():
      teacher = config['teachers'][name]
      place, free = teacher['init'], {
          key: teacher['model'][key] for key in FREE if key in teacher.get('model', {})}
    yield {**_node(place, hub.folder(place, '--models'), run=run, stage=name), 'model': free,
           'role': model['role'], 'teachers': list(model.get('teachers', ())), 'saw': model['saw'],
           'spent': told['training'].get(name), 'curves': str(run / 'metrics.jsonl')}


def _node(place: str, folder: pathlib.Path, **about: Any) -> dict[str, Any]:
  digest = hashlib.sha256()
  for file in sorted((*folder.glob('*.safetensors'), *folder.glob('*.stablehlo'),
                      *folder.glob('*.json'))):
    digest.update(file.name.encode() + file.read_bytes())
  return {'place': place, 'content': digest.hexdigest(), 'role': 'student', **about}


def named(models: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
  """The models by names that tell them apart, with roles and teachers that hold among them."""
  paths = [(*pathlib.Path(m['run'] or pathlib.Path(m['place']).parent).resolve().parts, m['stage'])
           for m in models]
  if twice := {path for path in paths if paths.count(path) > 1}:
    raise Stop(Status.CONFIG, f'--models: {"/".join(min(twice)[-2:])} is named twice')
  def spelled(path):
    alike = [other for other in paths if other[-1] == path[-1]]
    k = next(k for k in range(1, len(path) + 1)
             if sum(other[-k:] == path[-k:] for other in alike) == 1)
    return re.sub(r'[^\w.-]+', '-', '-'.join(path[-k:]))
  names = [spelled(path) for path in paths]
  known = {(m['run'], m['stage']): name for m, name in zip(models, names, strict=True)}
  found, last = {}, {}
  for name, model in zip(names, models, strict=True):
    role = model['role']
    if role == 'baseline' and (last.get('role'), last.get('run')) != ('student', model['run']):
      role = 'student'                  # the model before it is not what it is the baseline of
    teachers = [known[model['run'], teacher] for teacher in model.get('teachers', ())
                if (model['run'], teacher) in known]
    found[name] = last = {**model, 'role': role, 'teachers': teachers}
  if len(found) > 1 and not any(m['role'] == 'teacher' for m in found.values()):
    found[names[0]]['role'] = 'teacher'
  return found


def judged_by(file: str, fields: Sequence[str], models: Any) -> dict[str, Any]:
  """The data, the task and how to evaluate: of a config file, or of the first run."""
  if file:
    config = main.parsed([f'--config={file}', *fields]).config.to_dict()
  else:
    runs = [m['run'] for m in models if m['run']]
    if not runs:
      raise Stop(Status.CONFIG, 'no run is among the models, whose data they could be asked about: '
                 'give --config=configs/NAME.py')
    config = _tuples(json.loads((runs[0] / 'config.json').read_text('utf-8')))
    known = {'tier': '', 'evaluate': {}} | config           # older runs may be without
    config = known | {'evaluate': dataclasses.asdict(nodes.Evaluate()) | known['evaluate']}
    values, argv = flags.FlagValues(), ['distill.evaluate', *fields]
    try:
      config_flags.DEFINE_config_dict('config', ConfigDict(config), flag_values=values,
                                      sys_argv=argv)
      values(argv)
    except Exception as error:          # as in `main.parsed`
      main.check_fields(fields, main.flat(config))
      raise Stop(Status.CONFIG, ' '.join(str(error).split())) from error
    config = values.config.to_dict()
  data = {key: value for key, value in config['data'].items()
          if key not in ('batch_size', 'seed', 'labelled', 'drawn')}
  return {'data': data, **{key: config[key] for key in KEPT if key in config}}


def _tuples(node: Any) -> Any:
  """A node as its config had it: JSON makes lists of tuples, which no flag could change."""
  if isinstance(node, Mapping):
    return {key: _tuples(value) for key, value in node.items()}
  return tuple(map(_tuples, node)) if isinstance(node, list) else node


if __name__ == '__main__':
  sys.exit(command(sys.argv[1:]))
