"""Sealed folders: written whole or not at all, and verified to the last bit.

The file `index` of a folder holds the size and sha256 of every other file, and the sha256 of its
own content. A folder is made under a temporary name, so that a reader finds all of it or nothing:

  payload -> fsync -> seal -> fsync -> rename -> fsync of the parent -> verify

This module follows no links, and deletes only files that it wrote.
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
from distill.disk import failpoint, writing
from distill.logs import say
from distill.types import Status, Stop

SCHEMA = 1
MANIFEST = 'MANIFEST.json'          # the index of a checkpoint, which says of which step it is
UNSEALED = ('README.md',)              # not sealed: whoever passes a model on may write there
MAX_BYTES = 2**26                     # bytes of a seal


def publish(path: Path, index: str, files: Mapping[str, bytes], content: dict[str, Any]) -> None:
  """Writes the folder `path`: `files`, and `content` sealed in the file `index`."""
  tmp = temporary_path(path, 'new')
  content = json.loads(json.dumps(content))   # keys as they will be read: they must sort alike
  content |= {'schema': SCHEMA, 'versions': _versions(), 'files': {
      name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()
      if name not in UNSEALED}}
  with writing(path):
    try:
      new = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
      path.parent.mkdir(parents=True, exist_ok=True)
      sweep(path.parent, 'new')
      tmp.mkdir()
      failpoint('begun', path.name)
      for name, data in {**files, index: encode(content)}.items():
        failpoint('seal' if name == index else 'payload', path.name)
        with open(tmp / name, 'wb') as file:
          file.write(data)
          file.flush()
          os.fsync(file.fileno())
      failpoint('sealed', path.name)
      _sync(tmp)
      failpoint('whole', path.name)
      if path.exists():
        os.rename(path, temporary_path(path, 'old'))
      os.rename(tmp, path)
      failpoint('renamed', path.name)
      for parent in (path.parent, *(p.parent for p in new)):
        _sync(parent)
      failpoint('durable', path.name)
      fault = inspect(path, index)[1]
      if fault:
        raise OSError(errno.EIO, f'written, but {fault}')
      failpoint('verified', path.name)
      sweep(path.parent, 'old')
    finally:
      shutil.rmtree(tmp, ignore_errors=True)


def inspect(path: Path, index: str, *, exclusive: bool = True) -> tuple[dict[str, Any], str]:
  """Returns the content of a sealed folder, and its fault in words, '' if it has none.

  With `exclusive` a link, or a file that the seal doesn't name, is a fault.
  """
  try:
    if path.is_symlink() or not path.is_dir():
      return {}, 'it is missing or no folder'
    entries = {p.relative_to(path).as_posix(): p for p in path.rglob('*')}
    for name, p in sorted(entries.items()):
      if (exclusive and p.is_symlink()) or not (p.is_file() or p.is_dir()):
        return {}, f'{name} is no plain file'
    if index not in entries:
      return {}, f'{index} is missing'
    seal = entries.pop(index)
    content = _decode(seal.read_bytes()) if seal.stat().st_size < MAX_BYTES else None
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
    extra = [name for name, p in sorted(entries.items()) if p.is_file() and name not in UNSEALED]
    return (content, f'{extra[0]} is not part of it') if exclusive and extra else (content, '')
  except OSError as error:
    return {}, f'it cannot be read: {error.strerror}'


def encode(content: Mapping[str, Any]) -> bytes:
  """Returns the content of a seal as JSON, with the sha256 of the rest in it."""
  written = lambda c: (json.dumps(c, indent=1, sort_keys=True) + '\n').encode()
  return written({**content, 'sha256': hashlib.sha256(written(content)).hexdigest()})


def _decode(raw: bytes) -> dict[str, Any] | None:
  """Returns the content of a seal, or None if a bit of it has changed."""
  try:
    content = json.loads(raw)
    content.pop('sha256')
    return content if encode(content) == raw else None
  except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
    return None


def set_aside(path: Path, fault: str) -> None:
  """Renames a folder that cannot be used, and prints why; it stays if renaming isn't allowed."""
  names = (path.with_name(f'bad-{path.name}-{i}') for i in itertools.count())
  new = next(name for name in names if not os.path.lexists(name))
  try:
    os.rename(path, new)
    say(f'{path} does not verify: {fault}; it is now {new.name}')
  except OSError as error:
    say(f'{path} does not verify: {fault}; it stays there: {error.strerror}')


def temporary_path(path: Path, kind: str) -> Path:
  """Returns the place beside `path` where this process writes, or sets aside, before a rename."""
  return path.with_name(f'.distill-{kind}-{path.name}-{os.getpid()}')


def sweep(folder: Path, kind: str) -> None:
  """Removes the temporary folders of this process and of processes that have ended."""
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
