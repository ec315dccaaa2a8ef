"""Compares models in one report: quality, speed, memory, energy, explanations and tiers.

python -m distill.evaluate --models=DIR,DIR,… [--workdir=DIR] [--config.a.b=value …]
python -m distill.evaluate --models=DIR,… --config=configs/NAME.py[:VARIANT]
python -m distill.evaluate --render=DIR         # draws a report's page again, from stored results

A model is a workdir (which stands for all of its models), one of its exports, a StableHLO program,
or a folder or hub id of Hugging Face. Data, task and `evaluate` are those of the config, or of the
first run among the models. All models are compared with the first teacher; if none is known to be
a teacher, with the first model. `--config.tier=edge` exits with 17 if a student misses that tier.
The same command again measures only what is missing.
"""
import argparse
import dataclasses
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from distill import command_line, flags, launch, streams, workdir
from distill.types import Status, Stop

NODES = 'seed', 'task', 'mesh', 'evaluate', 'tier'      # taken from a run's config, beside data


def command(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('distill.evaluate', _command, arguments)


def _command(arguments: Sequence[str]) -> int:
  options, fields = _parsed(arguments)
  if options.render:
    if fields or any((options.models, options.workdir, options.config)):
      raise Stop(Status.CONFIG, '--render=DIR draws what is there: it takes nothing else')
    from distill import report
    report.render(pathlib.Path(options.render))
    return int(Status.DONE)
  from distill.pipelines import locate  # JAX, after what can be refused without it
  found = locate.find_models(options.models.split(','))
  config = evaluation_config(options.config or '', fields,
                             [model.run for model in found.values() if model.run])
  models = {name: dataclasses.asdict(model.node) for name, model in found.items()}
  config = {**config, 'pipeline': 'evaluate.run', 'models': models}
  place = pathlib.Path(options.workdir) if options.workdir else workdir.default('evaluate', config)
  with launch.stopped_by_signals() as stopping, workdir.locked(place):
    workdir.run('evaluate', config, place, stopping)
  return int(Status.DONE)


def _parsed(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
  """Returns the options, and the overrides of config fields."""
  parser = command_line.Parser(
      'distill.evaluate', __doc__, '--models=DIR,DIR [--workdir=DIR] [--config=FILE] '
      '[--config.FIELD=VALUE …] | --render=DIR')
  parser.add_argument('--models', metavar='DIR,DIR', help='workdirs, exports, other models')
  parser.add_argument('--workdir', metavar='DIR', help='where records and report go')
  parser.add_argument('--config', metavar='FILE', help='a config with the data and the task')
  parser.add_argument('--render', metavar='DIR', help='the workdir whose page to draw again')
  options, rest = parser.parse_known_args(arguments)
  fields = [argument for argument in rest if argument.startswith('--config.')]
  empty = [f'--{name}=' for name, value in vars(options).items() if value == '']
  wrong = [*(argument for argument in rest if argument not in fields), *empty]
  if wrong:
    raise Stop(Status.CONFIG, f'{wrong[0]!r} is not --models=DIR,DIR, --workdir=DIR, '
               '--config=FILE, --config.FIELD=VALUE or --render=DIR')
  if not options.render and not options.models:
    raise Stop(Status.CONFIG, 'give --models=DIR,DIR: workdirs, exports, Hugging Face folders')
  return options, fields


def evaluation_config(file: str, fields: Sequence[str],
                      runs: Sequence[pathlib.Path]) -> dict[str, Any]:
  """Returns the nodes to evaluate by, of a config file or of the first run, with overrides."""
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
  known = {'tier': '', 'evaluate': {}} | config         # a config may leave out these two
  evaluate = dataclasses.asdict(nodes.Evaluate()) | known['evaluate']
  limits = {tier: {**defaults, **evaluate['tiers'].get(tier, {})}
            for tier, defaults in tiers.TIERS.items()}
  known |= {'evaluate': evaluate | {'tiers': evaluate['tiers'] | limits}}
  config = flags.overridden(known, fields, '--config')
  data = {key: value for key, value in config['data'].items()
          if key not in BATCHING or key == 'widths'}
  return {'data': data, **{key: config[key] for key in NODES if key in config}}


def _tuples(node: Any) -> Any:
  """Returns a node with its lists as tuples, which JSON made lists: no flag can change a list."""
  if isinstance(node, Mapping):
    return {key: _tuples(value) for key, value in node.items()}
  return tuple(map(_tuples, node)) if isinstance(node, list) else node


if __name__ == '__main__':
  sys.exit(command(sys.argv[1:]))
