"""Runs an experiment: a config in, a report out.

python -m distill.main --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.a.b=value …]

  --list           the configs and their variants
  --print_config   the resolved config as JSON, without running it

Several processes are one run if JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID are
set for each, or if a cluster that JAX knows started them: SLURM, Open MPI, Kubernetes, TPUs. They
share the workdir; only the first process writes to it.
"""
import contextlib
import os
import pathlib
import sys
from collections.abc import Sequence

from distill import flags, launch, numbers, streams, workdir
from distill.types import Status


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('distill', _main, arguments, failed=_end)


def _end(status: int) -> int:
  """Returns the status of a command that failed; ends the process if it is one of several.

  A process that left in the normal way would wait for the others, which may never get there.
  """
  if 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


def _main(arguments: Sequence[str]) -> int:
  if not arguments or {'--help', '-h', '--helpfull'} & set(arguments):
    print(__doc__, file=sys.stdout if arguments else sys.stderr)
    return int(Status.DONE if arguments else Status.CONFIG)
  if '--list' in arguments:
    print('\n'.join(flags.listing()))
    return int(Status.DONE)
  command = flags.parsed(arguments)
  config = command.config.to_dict()
  if command.print_config:
    print(numbers.dumps(config, 'config', Status.CONFIG, indent=2))
    return int(Status.DONE)
  name = flags.name_of(command.file)
  with launch.stopped_by_signals() as stopping, contextlib.ExitStack() as locks:
    several = launch.join_processes()
    place = pathlib.Path(command.workdir) if command.workdir else workdir.default(name, config)
    if several:
      from distill import sharding
      sharding.on_first_process(lambda: locks.enter_context(workdir.locked(place)))
    else:
      locks.enter_context(workdir.locked(place))
    workdir.run(name, config, place, stopping)
  return int(Status.DONE)


if __name__ == '__main__':
  launch.leave(main(sys.argv[1:]))
