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
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from distill import flags, launch, streams, workdir
from distill.types import Status, Stop

KEPT = 'seed', 'task', 'mesh', 'evaluate', 'tier'       # nodes of a run's config, beside its data


def command(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  return streams.run('distill.evaluate', _command, arguments)


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
  if not {'--render', '--models'} & options.keys():
    raise Stop(Status.CONFIG, 'give --models=DIR,DIR: workdirs, exports, Hugging Face folders')
  if '--render' in options:
    if len(arguments) > 1:
      raise Stop(Status.CONFIG, '--render=DIR draws what is there: it takes nothing else')
    from distill import report
    report.render(pathlib.Path(options['--render']))
    return int(Status.DONE)
  from distill.pipelines import locate  # JAX, after what can be refused without it
  found = locate.find_models(options['--models'].split(','))
  config = judged_by(options.get('--config', ''), fields, [f.run for f in found.values() if f.run])
  models = {name: dataclasses.asdict(model.node) for name, model in found.items()}
  config = {**config, 'pipeline': 'evaluate.run', 'models': models}
  place = (pathlib.Path(options['--workdir']) if '--workdir' in options else
           workdir.default('evaluate', config))
  with launch.stopped_by_signals() as stopping, workdir.locked(place):
    workdir.run('evaluate', config, place, stopping)
  return int(Status.DONE)


def judged_by(file: str, fields: Sequence[str], runs: Sequence[pathlib.Path]) -> dict[str, Any]:
  """The data, the task and how to evaluate, with their overrides: of a config, or the first run."""
  from distill.pipelines import locate, nodes
  from distill.pipelines.judge import BATCHING
  from distill.report import tiers
  if not file and not runs:
    raise Stop(Status.CONFIG, 'no run is among the models, whose data they could be asked about: '
               'give --config=configs/NAME.py')
  config = (flags.parsed([f'--config={file}']).config.to_dict() if file else
            _tuples(locate.read_config(runs[0])))
  if 'data' not in config or not isinstance(config['data'], Mapping):
    raise Stop(Status.CONFIG, f'--config={file}: it has no node data')
  known = {'tier': '', 'evaluate': {}} | config           # which may leave out what has a default
  evaluate = dataclasses.asdict(nodes.Evaluate()) | known['evaluate']
  limits = {tier: {**of, **evaluate['tiers'].get(tier, {})} for tier, of in tiers.TIERS.items()}
  known |= {'evaluate': evaluate | {'tiers': evaluate['tiers'] | limits}}
  config = flags.overridden(known, fields, '--config')
  data = {key: value for key, value in config['data'].items()
          if key not in BATCHING or key == 'widths'}
  return {'data': data, **{key: config[key] for key in KEPT if key in config}}


def _tuples(node: Any) -> Any:
  """A node as its config had it: JSON makes lists of tuples, which no flag could change."""
  if isinstance(node, Mapping):
    return {key: _tuples(value) for key, value in node.items()}
  return tuple(map(_tuples, node)) if isinstance(node, list) else node


if __name__ == '__main__':
  sys.exit(command(sys.argv[1:]))
