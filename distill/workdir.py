"""The folder of a run: its name, its lock, the config that it holds, and what runs in it."""
import contextlib
import fcntl
import glob
import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from distill import launch, lookup, numbers
from distill.disk import read_json, replace
from distill.flags import flat
from distill.types import SEEDS, Status, Stop

LISTED = 8              # fields that an error names
NOT_SET = 'not set'


def default(name: str, config: Mapping[str, Any]) -> pathlib.Path:
  """Returns where a run lives unless it is told: `runs/NAME-` and the start of its config's hash.

  Or a workdir of that name with another hash that holds the same config: until 2026-12 a field that
  had its default counted too, and a default may have become another.
  """
  from distill.pipelines import fields, identities  # JAX, after what can be refused without it
  new = pathlib.Path('runs') / f'{name}-{identities.config_sha256(config)[:8]}'
  if new.is_dir():
    return new
  for path in sorted(new.parent.glob(f'{glob.escape(name)}-{"[0-9a-f]" * 8}/config.json')):
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):     # damaged
      if fields.essential(read_json(path)) == fields.essential(config):
        return path.parent
  return new


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


def run(name: str, config: Mapping[str, Any], workdir: pathlib.Path, stopping: launch.Stopping,
        shared: pathlib.Path | None = None) -> dict[str, Any]:
  """Runs the config's pipeline in a workdir that this process has locked."""
  pipeline = lookup.find('pipelines', _pipeline(config), 'pipeline')
  with _begun(name, config, workdir, shared) as this:
    stopping.run = this
    result = pipeline(config, this)
  import jax
  if not jax.process_index():
    from distill import report
    print(f'\n{report.table(result)}\n\n{report.summary(result)}\n\n{workdir}/report.html')
  if tier := config['tier'] if 'tier' in config else '':
    from distill.report import tiers
    if line := tiers.describe_missed(result, tier):
      raise Stop(Status.TIER, line)
  return result


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
  launch.keep_memory()
  launch.sweep_seldom()
  launch.keep_programs()
  import jax  # after everything that can be refused without it

  from distill import sharding
  from distill.logs import Log, NullLog
  from distill.runs import Run
  sharding.on_first_process(lambda: same_config(config, workdir))
  log = NullLog() if jax.process_index() else Log(workdir)
  log.say(f'{name} in {workdir}')
  try:
    yield Run(name, workdir, log, seed=config['seed'], shared=shared)
  finally:
    log.close()


def same_config(config: Mapping[str, Any], workdir: pathlib.Path) -> None:
  """Writes config.json, or stops if the workdir holds another config's run.

  What makes no difference, such as a field that has its default, may differ.
  """
  from distill.pipelines import fields
  path, text = workdir / 'config.json', numbers.dumps(config, 'config', Status.CONFIG, indent=2)
  begun = any((workdir / name).exists()
              for name in ('checkpoints', 'export', 'records', 'report.json'))
  if not begun or not path.exists():
    replace(path, text)
    return
  spelled = [json.loads(t) for t in (path.read_text(), text)]
  old, new = (flat(fields.essential(each)) for each in spelled)
  there = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
  there = ['pipeline'] if 'pipeline' in there else there            # then nothing is alike
  if there:
    more = f' and {len(there) - LISTED} more' if len(there) > LISTED else ''
    was, now = map(flat, spelled)
    raise Stop(Status.CONFIG, f'{workdir} holds a run of another config; different: ' + ', '.join(
        f'{k} ({was.get(k, NOT_SET)} there, {now.get(k, NOT_SET)} here)' for k in there[:LISTED])
               + f'{more}: take another --workdir')
