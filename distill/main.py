"""Runs an experiment: a config in, a report out.

python -m distill.main --config=configs/NAME.py[:VARIANT] [--workdir=DIR] [--config.a.b=value …]

  --list           the configs and their variants
  --print_config   the resolved config as JSON, without running it

Several processes are one run if each is told JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and
JAX_PROCESS_ID, or is started by a cluster that JAX knows: SLURM, Open MPI, Kubernetes, TPUs. They
share the workdir, where the first alone writes.
"""
import ast
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import re
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from distill import launch, lookup, numbers, streams
from distill.disk import replace
from distill.types import SEEDS, Status, Stop

CONFIGS = pathlib.Path('configs')
BESIDE = 'mesh', 'tier'         # nodes of a config that nothing in a workdir depends on
LISTED = 8              # fields that an error names
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4           # of glibc's malloc.h


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  return streams.run('distill', _main, arguments, failed=_ended)


def _ended(status: int) -> int:
  """The status; but one of several processes ends here, for the others may not get to the end,
  where they would meet."""
  if 'jax' in sys.modules and sys.modules['jax'].distributed.is_initialized():
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
  return status


def _main(arguments: Sequence[str]) -> int:
  if not arguments or {'--help', '-h', '--helpfull'} & set(arguments):
    print(__doc__, file=sys.stderr)
    return int(Status.DONE if arguments else Status.CONFIG)
  if '--list' in arguments:
    print('\n'.join(listing()))
    return int(Status.DONE)
  values = parsed(arguments)
  config = values.config.to_dict()
  if values.print_config:
    print(numbers.dumps(config, 'config', Status.CONFIG, indent=2))
    return int(Status.DONE)
  name = name_of(values['config'].config_filename)
  workdir = pathlib.Path(values.workdir or f'runs/{name}-{sha256(config)[:8]}')
  with stopped_by_signals() as stopping, contextlib.ExitStack() as held:
    if joined():
      from distill import sharding
      sharding.once(lambda: held.enter_context(locked(workdir)))
    else:
      held.enter_context(locked(workdir))
    run(name, config, workdir, stopping)
  return int(Status.DONE)


def joined() -> bool:
  """Joins the other processes of this run, if there are any; before JAX looks for devices."""
  told = {name: os.environ.get(f'JAX_{name}', '') for name in (
      'COORDINATOR_ADDRESS', 'NUM_PROCESSES', 'PROCESS_ID')}
  if any(told.values()):
    address, count, place = told.values()
    if not (re.fullmatch(r'.+:\d+', address) and count.isdecimal() and place.isdecimal()
            and int(place) < int(count)):
      raise Stop(Status.CONFIG, 'one of several processes needs '
                 + ', '.join(f'JAX_{name}={value!r}' for name, value in told.items())
                 + ': say HOST:PORT of process 0, how many there are, and which this is, from 0')
    settings = dict(coordinator_address=address, num_processes=int(count), process_id=int(place))
  elif _in_a_cluster():
    settings = {}
  else:
    return False
  import jax
  jax.config.update('jax_enable_preemption_service', False)     # it would take SIGTERM from us
  try:
    jax.distributed.initialize(**settings)
  except (RuntimeError, ValueError) as error:
    raise Stop(Status.CONFIG, f'cannot join the other processes: {error}') from error
  return True


def _in_a_cluster() -> bool:
  """Whether JAX finds that a cluster started this process and others."""
  from jax._src.clusters import ClusterEnv  # `initialize` looks there, and fails without one
  for cluster in ClusterEnv._cluster_types:
    # In any pod JAX asks Kubernetes for the job; only an indexed job's pods are numbered.
    numbered = cluster.name != 'k8s' or 'JOB_COMPLETION_INDEX' in os.environ
    if numbered and not cluster.opt_in_only_method and cluster.is_env_present():
      return cluster.get_process_count() > 1
  return False


def parsed(arguments: Sequence[str]) -> flags.FlagValues:
  """The flags; `.config` is the ConfigDict of the file, locked, with its overrides."""
  values = flags.FlagValues()
  argv = ['distill.main', *arguments]
  try:
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
  except flags.Error as error:                      # of a --flagfile, which it reads at once
    raise Stop(Status.CONFIG, ' '.join(str(error).split())) from error
  flags.DEFINE_string('workdir', '', 'where the run lives', flag_values=values)
  flags.DEFINE_bool('print_config', False, 'print the resolved config', flag_values=values)
  file = next((a.removeprefix('--config=') for a in arguments if a.startswith('--config=')), '')
  if not file:
    raise Stop(Status.CONFIG, 'give --config=configs/NAME.py; --list shows what there is')
  path, _, variant = file.partition(':')
  if not os.path.isfile(path):
    raise Stop(Status.CONFIG, f'--config={file}: there is no file {path}'
               + lookup.nearest(path, map(str, CONFIGS.glob('*.py'))))
  if variant and variant not in (known := variants(_tree(pathlib.Path(path)))):
    raise Stop(Status.CONFIG, f'--config={file}: {path} has no variant {variant!r}'
               + lookup.nearest(variant, known))
  try:
    left = values(argv)[1:]
    if not callable(getattr(values.config, 'to_dict', None)):
      raise TypeError('get_config returns no ConfigDict')
  except Stop:                        # a signal's
    raise
  except (Exception, SystemExit) as error:      # a config file is code, and may raise anything
    fields = [a for a in arguments if a.startswith('--config.')]
    if fields and not isinstance(error, flags.Error):
      check_fields(fields, flat(parsed([f'--config={file}']).config.to_dict()))
    line = ' '.join(str(error).split()) or type(error).__name__
    raise Stop(Status.CONFIG, f'--config={file}: {line}') from error
  if left:
    raise Stop(Status.CONFIG, f'{left[0]!r} is not a flag: write --config.FIELD=VALUE')
  lookup.check_leaves(values.config.to_dict())
  return values


def check_fields(overrides: Sequence[str], leaves: Mapping[str, Any]) -> None:
  """Stops at the first override of a field that the config doesn't have."""
  nodes = {path[:i] for path in leaves for i, c in enumerate(f'{path}.') if c == '.'}
  for override in overrides:
    field = override.partition('=')[0].removeprefix('--config.')
    if field not in nodes:
      raise Stop(Status.CONFIG, f'{override}: the config has no field {field!r}'
                 + lookup.nearest(field, nodes))


def keep_memory() -> None:
  """Has glibc keep freed memory for the next allocation, instead of giving it back.

  XLA on a CPU allocates the buffers of every step anew. Large ones would be mapped, and the kernel
  would clear their pages each time: rows of `experiments.bench peers` are from before and after.
  """
  mallopt = getattr(ctypes.CDLL(None), 'mallopt', None) if os.name == 'posix' else None
  if mallopt:
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, -1)


def run(name: str, config: Mapping[str, Any], workdir: pathlib.Path, stopping: 'Stopping',
        shared: pathlib.Path | None = None) -> dict[str, Any]:
  """Runs the config's pipeline in a workdir that this process has locked."""
  pipeline = lookup.find('pipelines', _pipeline(config), 'pipeline')
  with _begun(name, config, workdir, shared) as this:
    stopping.run = this
    result = pipeline(config, this)
  import jax
  if not jax.process_index():
    from distill.evaluate import report
    print(f'\n{report.table(result)}\n\n{report.verdict(result)}\n\n{workdir}/report.html')
  if tier := config['tier'] if 'tier' in config else '':
    from distill.evaluate import tiers
    if line := tiers.missed(result, tier):
      raise Stop(Status.TIER, line)
  return result


def together(name: str, configs: Sequence[Mapping[str, Any]], workdirs: Sequence[pathlib.Path],
             stopping: 'Stopping', shared: pathlib.Path | None = None) -> None:
  """Trains runs that differ in their seeds alone by one program; `run` then finds them trained."""
  if (pipeline := _pipeline(configs[0])) != 'compare.run':
    raise Stop(Status.CONFIG, f'pipeline={pipeline!r} takes a seed at a time')
  with contextlib.ExitStack() as begun:
    runs = [begun.enter_context(_begun(name, config, workdir, shared))
            for config, workdir in zip(configs, workdirs, strict=True)]
    stopping.run = runs[0]
    from distill.pipelines import seeds
    seeds.together(configs, runs)


def _pipeline(config: Mapping[str, Any]) -> str:
  if 'seed' not in config or type(config['seed']) is not int:
    raise Stop(Status.CONFIG, 'the config needs a field seed, a whole number')
  if not 0 <= config['seed'] < SEEDS:
    raise Stop(Status.CONFIG, f'seed={config["seed"]} must be from 0 to {SEEDS - 1}')
  return config['pipeline'] if 'pipeline' in config else 'compare.run'


@contextlib.contextmanager
def _begun(name: str, config: Mapping[str, Any], workdir: pathlib.Path,
           shared: pathlib.Path | None) -> Iterator[Any]:
  """A run with its log, in a workdir that holds no other config's."""
  keep_memory()
  launch.sweep_seldom()
  launch.keep_programs()
  import jax  # after everything that can be refused without it

  from distill import sharding
  from distill.logs import Log, Silence
  from distill.runs import Run
  sharding.once(lambda: same_config(config, workdir))
  log = Silence() if jax.process_index() else Log(workdir)
  log.say(f'{name} in {workdir}')
  try:
    yield Run(name, workdir, log, seed=config['seed'], shared=shared)
  finally:
    log.close()


def same_config(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
  """Writes config.json, or stops if the workdir holds another config's run.

  Where a run lives may change (`mesh`), and what it is to reach (`tier`): what it holds doesn't
  depend on that.
  """
  path, text = workdir / 'config.json', numbers.dumps(config, 'config', Status.CONFIG, indent=2)
  begun = any((workdir / name).exists()
              for name in ('checkpoints', 'export', 'records', 'report.json'))
  if not begun or not path.exists():
    replace(path, text)
    return
  old, new = (flat(json.loads(t)) for t in (path.read_text(), text))
  there = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k)
                 and k.partition('.')[0] not in BESIDE)
  there = ['pipeline'] if 'pipeline' in there else there            # then nothing is alike
  if there:
    more = f' and {len(there) - LISTED} more' if len(there) > LISTED else ''
    raise Stop(Status.CONFIG, f'{workdir} holds a run of another config; different: '
               + ', '.join(f'{k} ({old.get(k)} there, {new.get(k)} here)' for k in there[:LISTED])
               + f'{more}: take another --workdir')


def flat(node: Any, prefix: str = '') -> dict[str, Any]:
  """The leaves of a config by their dotted paths."""
  if not isinstance(node, Mapping) or not node:
    return {prefix: node}
  return {path: leaf for key, value in node.items()
          for path, leaf in flat(value, f'{prefix}.{key}' if prefix else key).items()}


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[None]:
  """Holds the workdir. The kernel lets go of the lock when its process ends, however it ends."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    lock = open(workdir / 'lock', 'a+')
  except OSError as error:
    raise Stop(Status.DISK, f'cannot write to {workdir}: {error.strerror}: take another --workdir'
               ) from error
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      lock.seek(0)
      raise Stop(Status.LOCKED, f'{workdir} is held by process {lock.read().strip() or "?"}: wait '
                 'for it, or take another --workdir') from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    yield


class Stopping:
  """What a signal does: the first ends the run with everything saved, a second one at once."""

  def __init__(self):
    self.run = None             # a `train.Run`, once there is one

  def __call__(self, number: int, frame: Any) -> None:
    del frame
    for each in SIGNALS:
      signal.signal(each, signal.SIG_DFL)
    # Not print: the signal may have come in the middle of one.
    with contextlib.suppress(OSError):            # of a pipe that nobody reads any more
      os.write(2, f'\n{signal.Signals(number).name}: saving; once more to stop at once\n'.encode())
    if self.run is None:
      raise Stop(Status.PREEMPTED, 'stopped before anything was begun')
    self.run.preempt()


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[Stopping]:
  """SIGTERM, SIGINT and SIGUSR1 end a run with everything saved."""
  stopping = Stopping()
  before = {number: signal.signal(number, stopping) for number in SIGNALS}
  try:
    yield stopping
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


def listing() -> list[str]:
  """A line for every config and variant, from the files' docstrings and get_config's tests."""
  lines = []
  for path in sorted(CONFIGS.glob('*.py')):
    tree = _tree(path)
    about = (ast.get_docstring(tree) or '').split('\n')[0]
    lines.append(f'{path!s:<24} {about}')
    lines += [f'{f"{path}:{v}":<24}' for v in variants(tree)]
  if not lines:
    raise Stop(Status.CONFIG, f'there is no {CONFIGS}/ here: run from the root of the project')
  return lines


def _tree(path: pathlib.Path) -> ast.Module:
  """Returns the code of a config, whose encoding it may name itself."""
  try:
    return ast.parse(path.read_bytes())
  except (SyntaxError, ValueError) as error:        # a ValueError: it holds NUL bytes
    line = getattr(error, 'lineno', None)
    raise Stop(Status.CONFIG, f'{path}{f":{line}" if line else ""} is not Python: '
               f'{getattr(error, "msg", error)}') from error
  except OSError as error:
    raise Stop(Status.CONFIG, f'{path} cannot be read: {error.strerror}') from error


def variants(tree: ast.Module) -> list[str]:
  """The strings that `get_config` compares its argument to: its own, or a table's of the file."""
  def keys(table: ast.expr) -> list[str]:
    if isinstance(table, ast.Dict):
      return [k.value for k in table.keys if isinstance(getattr(k, 'value', None), str)]
    made = isinstance(table, ast.Call) and getattr(table.func, 'id', '') == 'dict'
    return [k.arg for k in table.keywords] if made else []

  function = next((n for n in tree.body
                   if isinstance(n, ast.FunctionDef) and n.name == 'get_config'), None)
  if not function or not function.args.args:
    return []
  tables = {n.targets[0].id: keys(n.value) for n in tree.body
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)}
  argument = function.args.args[0].arg
  sides = [x for n in ast.walk(function) if isinstance(n, ast.Compare)
           and isinstance(n.left, ast.Name) and n.left.id == argument for x in n.comparators]
  return sorted({c.value for x in sides for c in ast.walk(x) if isinstance(c, ast.Constant)
                 and isinstance(c.value, str)}.union(
                     *(tables.get(x.id, ()) for x in sides if isinstance(x, ast.Name))))


def name_of(path: str) -> str:
  """`bert-test` for `configs/bert.py:test`."""
  file, _, variant = path.partition(':')
  return '-'.join(filter(None, (pathlib.Path(file).stem, re.sub(r'\W+', '-', variant))))


def sha256(config: Mapping[str, Any]) -> str:
  """Of a resolved config, wherever it runs (`mesh`) and whatever it is to reach (`tier`)."""
  told = {key: value for key, value in config.items() if key not in BESIDE}
  return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


if __name__ == '__main__':
  launch.leave(main(sys.argv[1:]))
