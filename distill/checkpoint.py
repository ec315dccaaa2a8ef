"""What a run keeps on disk: verified checkpoints, and the folder that a student ships in.

A checkpoint is a folder CHECKPOINTS/STAGE/STEP of everything that changes in a run, with its
`MANIFEST.json`. An export is a folder of `model.safetensors` or another file that holds a model,
texts, and `config.json`. Both are sealed: that JSON file has size and sha256 of every other file,
and its own sha256. Both come into being in a temporary folder beside, so that a reader finds the
whole or nothing:

  payload -> fsync -> seal -> fsync -> rename -> fsync of the parent -> verify -> remove older ones

Nothing here unpickles, follows links, or deletes what it did not write.
"""
import errno
import hashlib
import itertools
import json
import os
import re
import shutil
import weakref
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from distill import __version__, numbers, sharding
from distill.disk import reach, writing
from distill.logs import say
from distill.types import Status, Stop

SCHEMA = 1
MANIFEST, STATE = 'MANIFEST.json', 'state.safetensors'      # of a checkpoint
CARD = 'config.json'                                        # of an export
KEPT = 2                                                    # checkpoints of a stage that stay
LOOSE = ('README.md',)              # not sealed: whoever passes a model on may write there
LARGEST = 2**26                                             # bytes of a seal

# Hashes of trees by the paths and ids of their arrays; an entry goes when the first of them does.
_hashed: dict[Any, tuple[str, list[weakref.ref]]] = {}


def save(folder: Path, step: int, tree: Any, facts: Mapping[str, Any] | None = None) -> Path:
  """Writes checkpoint `step` of any pytree of arrays, verifies it, then removes older ones.

  `facts` is what else the resumed run must know, as JSON. A step that is there already stays as
  it is if it holds the same arrays; if it holds others, that is an error. Of several processes,
  all call this, with room for the whole tree on their hosts, and the first writes.
  """
  path, arrays = folder.absolute() / str(step), _arrays(tree)
  sharding.once(lambda: _save(path, arrays, facts or {}))
  return path


def _save(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
  digest = sha256(arrays)
  if os.path.lexists(path):
    content, fault = _inspect(path, MANIFEST)
    if not fault and content['state'] == digest:
      return
    if not fault:
      raise Stop(Status.CHECKPOINT, f'{path} holds another state of that step; remove '
                 f'{path.parent} to train this stage from its start')
    _set_aside(path, fault)
  _publish(path, MANIFEST, {STATE: safetensors.numpy.save(arrays)}, {
      'step': int(path.name), 'tree': _spec(arrays), 'state': digest, 'facts': dict(facts)})
  with writing(path):
    _prune(path)


def restore(folder: Path, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
  """Step, tree and facts of the newest checkpoint that verifies; None if there has been none.

  `like` is a tree of arrays or of `jax.ShapeDtypeStruct`: what is restored has exactly its paths,
  shapes and dtypes, and its shardings where it has any. Checkpoints that don't verify are set
  aside, each with a line saying why; if none does, the run stops.
  """
  folder, found = folder.absolute(), {}

  def newest() -> int:
    for step in sorted(_steps(folder), reverse=True):
      found[step], fault = _inspect(folder / str(step), MANIFEST)
      if not fault:
        return step
      _set_aside(folder / str(step), fault)
    if _steps(folder) or any(folder.glob('bad-*')):
      raise Stop(Status.CHECKPOINT, f'{folder} has checkpoints but none that verifies; remove it '
                 'to train this stage from its start')
    return -1

  step = sharding.once(newest)
  if step < 0:
    return None
  path = folder / str(step)
  content = found[step] if step in found else _inspect(path, MANIFEST)[0]
  if not content:
    raise Stop(Status.CHECKPOINT, f'{path} is not what the first process sees there: the workdir '
               'must be on storage that all processes share')
  return step, _read(path, content, like), content['facts']


def latest(folder: Path) -> int | None:
  """The step that a run would resume at, told by names alone."""
  return max((s for s in _steps(folder) if (folder / str(s) / MANIFEST).is_file()), default=None)


def export(folder: Path, files: Mapping[str, bytes], card: Mapping[str, Any],
           config: Mapping[str, Any] | None = None) -> None:
  """Writes the folder that a model ships in: its files and its card, sealed.

  `config` is what else `config.json` says, for other libraries. An export that is there already
  is replaced; anything else that is there is set aside.
  """
  folder = folder.absolute()
  numbers.dumps([config, card], f'the card of {folder}')
  if os.path.lexists(folder) and (fault := _inspect(folder, CARD)[1]):
    _set_aside(folder, fault)
  _publish(folder, CARD, files, {**(config or {}), 'card': dict(card)})


def wide(array: Any) -> np.ndarray:
  """An array as an export holds it: on the host, in C order, and float32 if it has fractions."""
  array = np.asarray(sharding.on_host(array), order='C')
  return array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def ship(folder: Path, files: Mapping[str, bytes], card: Mapping[str, Any]) -> None:
  """Writes an export of any files; one whose place is taken is refused."""
  folder = folder.absolute()
  if os.path.lexists(folder):
    raise Stop(Status.CONFIG, f'{folder} is there already, and nothing is overwritten: remove it, '
               'or name another place')
  numbers.dumps(card, f'the card of {folder}')
  _publish(folder, CARD, files, {'card': dict(card)})


def opened(folder: Path, file: str) -> dict[str, Any]:
  """What `config.json` of an export says, after verifying every file, `file` among them."""
  content, fault = _inspect(folder, CARD, alone=False)
  if fault or file not in content['files']:
    raise Stop(Status.CHECKPOINT, f'{folder} is no intact exported model, a folder with {CARD} and '
               f'{file}: {fault or f"{file} is missing"}')
  return content


def sha256(tree: Any) -> str:
  """Returns a hash of all leaves of a pytree: paths, dtypes, shapes, bytes.

  That of JAX's arrays, which never change, is computed once: a teacher is large, and every stage
  that reads it asks. Nothing is kept alive for that.
  """
  leaves = _paths(tree)
  # What other processes hold a part of they bring together with us, or not at all.
  fixed = all(isinstance(leaf, jax.Array) and leaf.is_fully_addressable
              for leaf in leaves.values())
  known = tuple(sorted((path, id(leaf)) for path, leaf in leaves.items()))
  if fixed and known in _hashed:
    return _hashed[known][0]
  digest = hashlib.sha256()
  for path, array in sorted(_arrays(tree).items()):
    digest.update(f'{path} {_shape(array)}\n'.encode())
    digest.update(array.reshape(-1).view(np.uint8))
  found = digest.hexdigest()
  if fixed and leaves:
    gone = lambda _, hashed=_hashed: hashed.pop(known, None)      # at the end of Python, too
    _hashed[known] = found, [weakref.ref(leaf, gone) for leaf in leaves.values()]
  return found


# ---- trees

def _paths(tree: Any) -> dict[str, Any]:
  leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
  named = {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}
  if len(named) != len(leaves):
    raise ValueError('two leaves of the tree have the same path')
  return named


def _arrays(tree: Any) -> dict[str, np.ndarray]:
  # In C order: safetensors writes the bytes of any other order as if they were.
  return {path: np.asarray(sharding.on_host(leaf), order='C')
          for path, leaf in _paths(tree).items()}


def _shape(leaf: Any) -> str:
  return f'{leaf.dtype}[{",".join(map(str, leaf.shape))}]'


def _spec(tree: Any) -> dict[str, str]:
  return {path: _shape(leaf) for path, leaf in _paths(tree).items()}


def _read(path: Path, content: Mapping[str, Any], like: Any) -> Any:
  """The tree of a checkpoint that verifies, if it is one like `like`."""
  leaves, spec = _paths(like), _spec(like)
  for name in sorted(spec.keys() | content['tree'].keys()):
    here, there = spec.get(name, 'missing'), content['tree'].get(name, 'missing')
    if here != there:
      raise Stop(Status.CHECKPOINT, f'{path} does not fit this run: {name} is {there} there and '
                 f'{here} here; run the config that wrote it, or take another --workdir')
  try:
    arrays = _tensors(path / STATE)
  except SafetensorError:
    arrays = {}
  if sha256(arrays) != content['state']:
    raise Stop(Status.CHECKPOINT, f'{path} is whole, but what is read from it is not what was '
               f'saved with {content["versions"]}')
  return jax.tree.unflatten(jax.tree.structure(like),
                            [_placed(arrays[name], leaf) for name, leaf in leaves.items()])


def _tensors(path: Path) -> dict[str, np.ndarray]:
  with safe_open(path, 'np') as file:
    return {name: file.get_tensor(name) for name in file.keys()}


def _placed(array: np.ndarray, like: Any) -> Any:
  if isinstance(like, np.ndarray | np.generic):
    return array
  if getattr(like, 'sharding', None) is None or not getattr(like, 'committed', True):
    return jax.device_put(array)
  return sharding.placed(array, like.sharding)


# ---- sealed folders

def _publish(path: Path, index: str, files: Mapping[str, bytes], content: dict[str, Any]) -> None:
  """Makes the folder `path` of `files` and of `content`, sealed in the file `index`."""
  tmp = _beside(path, 'new')
  content = json.loads(json.dumps(content))   # keys as they will be read: they must sort alike
  content |= {'schema': SCHEMA, 'versions': _versions(), 'files': {
      name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()
      if name not in LOOSE}}
  with writing(path):
    try:
      new = [p for p in (path.parent, *path.parent.parents) if not p.exists()]
      path.parent.mkdir(parents=True, exist_ok=True)
      _sweep(path.parent, 'new')
      tmp.mkdir()
      reach('begun', path.name)
      for name, data in {**files, index: _sealed(content)}.items():
        reach('seal' if name == index else 'payload', path.name)
        with open(tmp / name, 'wb') as file:
          file.write(data)
          file.flush()
          os.fsync(file.fileno())
      reach('sealed', path.name)
      _sync(tmp)
      reach('whole', path.name)
      if path.exists():
        os.rename(path, _beside(path, 'old'))
      os.rename(tmp, path)
      reach('renamed', path.name)
      for parent in (path.parent, *(p.parent for p in new)):
        _sync(parent)
      reach('durable', path.name)
      if fault := _inspect(path, index)[1]:
        raise OSError(errno.EIO, f'written, but {fault}')
      reach('verified', path.name)
      _sweep(path.parent, 'old')
    finally:
      shutil.rmtree(tmp, ignore_errors=True)


def _inspect(path: Path, index: str, *, alone: bool = True) -> tuple[dict[str, Any], str]:
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


def _sealed(content: Mapping[str, Any]) -> bytes:
  written = lambda c: (json.dumps(c, indent=1, sort_keys=True) + '\n').encode()
  return written({**content, 'sha256': hashlib.sha256(written(content)).hexdigest()})


def _unsealed(raw: bytes) -> dict[str, Any] | None:
  """What was sealed, if not one bit of it has changed since."""
  try:
    content = json.loads(raw)
    content.pop('sha256')
    return content if _sealed(content) == raw else None
  except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
    return None


def _set_aside(path: Path, fault: str) -> None:
  """Renames what cannot be used, and says so; where that isn't allowed it stays."""
  names = (path.with_name(f'bad-{path.name}-{i}') for i in itertools.count())
  new = next(name for name in names if not os.path.lexists(name))
  try:
    os.rename(path, new)
    say(f'{path} does not verify: {fault}; it is now {new.name}')
  except OSError as error:
    say(f'{path} does not verify: {fault}; it stays there: {error.strerror}')


def _steps(folder: Path) -> list[int]:
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  return [int(name) for name in names if re.fullmatch('0|[1-9][0-9]{0,17}', name)]


def _prune(path: Path) -> None:
  """Removes what is older than `path` and than the newest others that verify."""
  kept = 1
  for step in sorted(_steps(path.parent), reverse=True):
    older = path.parent / str(step)
    if step < int(path.name) and not _inspect(older, MANIFEST)[1]:
      kept += 1
      if kept > KEPT:
        os.rename(older, _beside(older, 'old'))     # a half-removed one has no step's name
        reach('pruning', path.name)
  _sweep(path.parent, 'old')
  reach('pruned', path.name)


def _beside(path: Path, kind: str) -> Path:
  return path.with_name(f'.distill-{kind}-{path.name}-{os.getpid()}')


def _sweep(folder: Path, kind: str) -> None:
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
