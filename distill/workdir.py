"""Workdirs, the folders of runs: their names, locks and configs, and the run itself."""
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
  """Returns the default workdir: `runs/NAME-` and the start of the config's hash.

  An older workdir of that name that holds the same config is taken, though its hash differs: until
  2026-12 a field at its default was part of the hash, and a default may have changed.
  """
  from distill.pipelines import fields, identities  # loads JAX: after all checks that don't need it
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
  """Locks the workdir. The kernel releases the lock when the process ends, however it ends."""
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
  with _open_run(name, config, workdir, shared) as opened:
    stopping.run = opened
    result = pipeline(config, opened)
  import jax
  if not jax.process_index():
    from distill import report
    print(f'\n{report.table(result)}\n\n{report.summary(result)}\n\n{workdir}/report.html')
  if tier := config['tier'] if 'tier' in config else '':
    from distill.report import tiers
    line = tiers.describe_missed(result, tier)
    if line:
      raise Stop(Status.TIER, line)
  return result


def _pipeline(config: Mapping[str, Any]) -> str:
  if 'seed' not in config or type(config['seed']) is not int:
    raise Stop(Status.CONFIG, 'the config needs a field seed, a whole number')
  if not 0 <= config['seed'] < SEEDS:
    raise Stop(Status.CONFIG, f'seed={config["seed"]} must be from 0 to {SEEDS - 1}')
  return config['pipeline'] if 'pipeline' in config else 'compare.run'


@contextlib.contextmanager
def _open_run(name: str, config: Mapping[str, Any], workdir: pathlib.Path,
              shared: pathlib.Path | None) -> Iterator[Any]:
  """Opens a run with its log, after a check that the workdir holds no other config's run."""
  launch.keep_memory()
  launch.collect_garbage_rarely()
  launch.keep_programs()
  import jax  # after all checks that don't need it

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

  Differences without an effect, such as a spelled field that has its default, are allowed.
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
  changed = sorted(k for k in old.keys() | new.keys() if old.get(k) != new.get(k))
  if 'pipeline' in changed:             # then all else differs too
    changed = ['pipeline']
  if changed:
    more = f' and {len(changed) - LISTED} more' if len(changed) > LISTED else ''
    was, now = map(flat, spelled)
    raise Stop(Status.CONFIG, f'{workdir} holds a run of another config; different: ' + ', '.join(
        f'{k} ({was.get(k, NOT_SET)} there, {now.get(k, NOT_SET)} here)' for k in changed[:LISTED])
               + f'{more}: take another --workdir')
