"""Sealed folders: they come into being whole or not at all, and show every bit that has changed.

The file `index` of a folder has size and sha256 of every other file, and its own sha256. A folder
is made in a temporary one beside it, so that a reader finds the whole or nothing:

  payload -> fsync -> seal -> fsync -> rename -> fsync of the parent -> verify

Nothing here follows links, or deletes what it did not write.
"""
import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from distill import __version__
from distill.disk import reach, writing
from distill.logs import say
from distill.types import Status, Stop

SCHEMA = 1
MANIFEST = 'MANIFEST.json'          # the index of a checkpoint, which says of which step it is
LOOSE = ('README.md',)              # not sealed: whoever passes a model on may write there
LARGEST = 2**26                     # bytes of a seal


def publish(path: Path, index: str, files: Mapping[str, bytes], content: dict[str, Any]) -> None:
  """Makes the folder `path` of `files` and of `content`, sealed in the file `index`."""
  tmp = beside(path, 'new')
  content = json.loads(json.dumps(content))   # keys as they will be read: they must sort alike
  content |= {'schema': SCHEMA, 'versions': _versions(), 'files': {
      name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()
      if name not in LOOSE}}
  with writing(path):
    try:
      new = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
      path.parent.mkdir(parents=True, exist_ok=True)
      sweep(path.parent, 'new')
      tmp.mkdir()
      reach('begun', path.name)
      for name, data in {**files, index: sealed(content)}.items():
        reach('seal' if name == index else 'payload', path.name)
        with open(tmp / name, 'wb') as file:
          file.write(data)
          file.flush()
          os.fsync(file.fileno())
      reach('sealed', path.name)
      _sync(tmp)
      reach('whole', path.name)
      if path.exists():
        os.rename(path, beside(path, 'old'))
      os.rename(tmp, path)
      reach('renamed', path.name)
      for parent in (path.parent, *(p.parent for p in new)):
        _sync(parent)
      reach('durable', path.name)
      if fault := inspect(path, index)[1]:
        raise OSError(errno.EIO, f'written, but {fault}')
      reach('verified', path.name)
      sweep(path.parent, 'old')
    finally:
      shutil.rmtree(tmp, ignore_errors=True)


def inspect(path: Path, index: str, *, alone: bool = True) -> tuple[dict[str, Any], str]:
  """The content of a sealed folder, and what is wrong with the folder: '' if nothing.

  `alone` says whether a file that the seal doesn't name is wrong.
  """
  try:
    if path.is_symlink() or not path.is_dir():
      return {}, 'it is missing or no folder'
    entries = {p.relative_to(path).as_posix(): p for p in path.rglob('*')}
    for name, p in sorted(entries.items()):
      if (alone and p.is_symlink()) or not (p.is_file() or p.is_dir()):
        return {}, f'{name} is no plain file'
    if index not in entries:
      return {}, f'{index} is missing'
    seal = entries.pop(index)
    content = _unsealed(seal.read_bytes()) if seal.stat().st_size < LARGEST else None
    if content is None:
      return {}, f'{index} is damaged or not ours'
    if content['schema'] != SCHEMA:
      raise Stop(Status.CHECKPOINT, f'{path} has schema {content["schema"]}, by '
                 f'{content["versions"]}; distill {__version__} reads schema {SCHEMA}')
    if index == MANIFEST and str(content['step']) != path.name:
      return {}, f'it is a copy of step {content["step"]}'
    for name, (size, digest) in content['files'].items():
      if name not in entries:
        return {}, f'{name} is missing'
      p = entries.pop(name)
      if p.stat().st_size != size or _hash(p) != digest:
        return {}, f'{name} is damaged'
    extra = [name for name, p in sorted(entries.items()) if p.is_file() and name not in LOOSE]
    return (content, f'{extra[0]} is not part of it') if alone and extra else (content, '')
  except OSError as error:
    return {}, f'it cannot be read: {error.strerror}'


def sealed(content: Mapping[str, Any]) -> bytes:
  written = lambda c: (json.dumps(c, indent=1, sort_keys=True) + '\n').encode()
  return written({**content, 'sha256': hashlib.sha256(written(content)).hexdigest()})


def _unsealed(raw: bytes) -> dict[str, Any] | None:
  """What was sealed, if not one bit of it has changed since."""
  try:
    content = json.loads(raw)
    content.pop('sha256')
    return content if sealed(content) == raw else None
  except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
    return None


def set_aside(path: Path, fault: str) -> None:
  """Renames what cannot be used, and says so; where that isn't allowed it stays."""
  names = (path.with_name(f'bad-{path.name}-{i}') for i in itertools.count())
  new = next(name for name in names if not os.path.lexists(name))
  try:
    os.rename(path, new)
    say(f'{path} does not verify: {fault}; it is now {new.name}')
  except OSError as error:
    say(f'{path} does not verify: {fault}; it stays there: {error.strerror}')


def beside(path: Path, kind: str) -> Path:
  return path.with_name(f'.distill-{kind}-{path.name}-{os.getpid()}')


def sweep(folder: Path, kind: str) -> None:
  """Removes the temporary folders of processes that are no more, and our own."""
  for path in folder.glob(f'.distill-{kind}-*'):
    pid = path.name.rpartition('-')[2]
    if pid.isdecimal() and path.is_dir() and not path.is_symlink() and _is_over(int(pid)):
      shutil.rmtree(path)


def _is_over(pid: int) -> bool:
  try:
    os.kill(pid, 0)
  except ProcessLookupError:
    return True
  except (OSError, OverflowError):
    return False
  return pid == os.getpid()


def _hash(path: Path) -> str:
  with open(path, 'rb') as file:
    return hashlib.file_digest(file, 'sha256').hexdigest()


def _sync(folder: Path) -> None:
  """Forces the names in a folder to the disk."""
  handle = os.open(folder, os.O_RDONLY)
  try:
    os.fsync(handle)
  finally:
    os.close(handle)


def _versions() -> dict[str, str]:
  names = ('jax', 'flax', 'optax', 'safetensors')
  return {'distill': __version__, **{name: version(name) for name in names}}
