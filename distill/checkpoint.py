"""Verified checkpoints of a run, and the folders that models are exported to.

A checkpoint is a folder CHECKPOINTS/STAGE/STEP of everything that changes in a run, with its
`MANIFEST.json`. An export is a folder of `model.safetensors` or another file that holds a model,
texts, and `config.json`. Both are sealed (`distill.seal`). Once a checkpoint verifies, older ones
are removed. This module unpickles nothing, follows no links, and deletes only what it wrote.
"""
import hashlib
import os
import re
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from distill import numbers, seal, sharding
from distill.disk import failpoint, writing
from distill.seal import MANIFEST
from distill.types import Status, Stop

STATE = 'state.safetensors'         # a checkpoint's tensors
CARD = 'config.json'                # an export's card
RETAINED = 2                        # checkpoints of a stage that stay

# Hashes of trees by the paths and ids of their arrays; an entry goes when the first of them does.
_hashed: dict[Any, tuple[str, list[weakref.ref]]] = {}


def save(folder: Path, step: int, tree: Any, facts: Mapping[str, Any] | None = None) -> Path:
  """Writes checkpoint `step` of any pytree of arrays, verifies it, then removes older ones.

  `facts` are JSON that the resumed run needs too. A checkpoint of that step that exists already
  stays if it holds the same arrays; other arrays are an error. If a run has several processes, all
  call this, with room for the whole tree on their hosts, and the first writes.
  """
  path, arrays = folder.absolute() / str(step), _arrays(tree)
  sharding.on_first_process(lambda: _save(path, arrays, facts or {}))
  return path


def _save(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> None:
  digest = sha256(arrays)
  if os.path.lexists(path):
    content, fault = seal.inspect(path, MANIFEST)
    if not fault and content['state'] == digest:
      return
    if not fault:
      raise Stop(Status.CHECKPOINT, f'{path} holds another state of that step; remove '
                 f'{path.parent} to train this stage from its start')
    seal.set_aside(path, fault)
  seal.publish(path, MANIFEST, {STATE: safetensors.numpy.save(arrays)}, {
      'step': int(path.name), 'tree': _spec(arrays), 'state': digest, 'facts': dict(facts)})
  with writing(path):
    _prune(path)


def restore(folder: Path, like: Any) -> tuple[int, Any, dict[str, Any]] | None:
  """Reads step, tree and facts of the newest checkpoint that verifies; returns None without any.

  `like` is a tree of arrays or of `jax.ShapeDtypeStruct`. The restored tree has exactly its paths,
  shapes and dtypes, and its shardings where it has any. Checkpoints that don't verify are set
  aside, each with a line that says why; if none verifies, the run stops.
  """
  folder, found = folder.absolute(), {}

  def newest() -> int:
    for step in sorted(_saved_steps(folder), reverse=True):
      found[step], fault = seal.inspect(folder / str(step), MANIFEST)
      if not fault:
        return step
      seal.set_aside(folder / str(step), fault)
    if _saved_steps(folder) or any(folder.glob('bad-*')):
      raise Stop(Status.CHECKPOINT, f'{folder} has checkpoints but none that verifies; remove it '
                 'to train this stage from its start')
    return -1

  step = sharding.on_first_process(newest)
  if step < 0:
    return None
  path = folder / str(step)
  content = found[step] if step in found else seal.inspect(path, MANIFEST)[0]
  if not content:
    raise Stop(Status.CHECKPOINT, f'{path} is not what the first process sees there: the workdir '
               'must be on storage that all processes share')
  return step, _read(path, content, like), content['facts']


def latest_step(folder: Path) -> int | None:
  """Returns the step that a run would resume at, by the names of folders only."""
  steps = (s for s in _saved_steps(folder) if (folder / str(s) / MANIFEST).is_file())
  return max(steps, default=None)


def write_export(folder: Path, files: Mapping[str, bytes], card: Mapping[str, Any],
                 config: Mapping[str, Any] | None = None) -> None:
  """Writes the export of a model: its files and its card, sealed.

  `config` are further fields of `config.json`, for other libraries. An existing export at `folder`
  is replaced; anything else at that place is set aside.
  """
  folder = folder.absolute()
  numbers.dumps([config, card], f'the card of {folder}')
  if os.path.lexists(folder) and (fault := seal.inspect(folder, CARD)[1]):
    seal.set_aside(folder, fault)
  seal.publish(folder, CARD, files, {**(config or {}), 'card': dict(card)})


def to_export_array(array: Any) -> np.ndarray:
  """Returns an array as an export holds it: on the host, in C order, fractions at most float32."""
  array = np.asarray(sharding.on_host(array), order='C')
  is_wide = jnp.issubdtype(array.dtype, jnp.floating) and array.dtype.itemsize != 2
  return array.astype(np.float32) if is_wide else array


def write_new_export(folder: Path, files: Mapping[str, bytes], card: Mapping[str, Any]) -> None:
  """Writes an export of any files; stops if `folder` exists already."""
  folder = folder.absolute()
  if os.path.lexists(folder):
    raise Stop(Status.CONFIG, f'{folder} is there already, and nothing is overwritten: remove it, '
               'or name another place')
  numbers.dumps(card, f'the card of {folder}')
  seal.publish(folder, CARD, files, {'card': dict(card)})


def open_export(folder: Path, file: str) -> dict[str, Any]:
  """Returns the content of an export's `config.json`, after verifying every file, also `file`."""
  content, fault = seal.inspect(folder, CARD, exclusive=False)
  if fault or file not in content['files']:
    raise Stop(Status.CHECKPOINT, f'{folder} is no intact exported model, a folder with {CARD} and '
               f'{file}: {fault or f"{file} is missing"}')
  return content


def sha256(tree: Any) -> str:
  """Returns a hash of all leaves of a pytree: paths, dtypes, shapes, bytes.

  JAX's arrays never change, so their hash is computed once: a teacher is large, and every stage
  that reads it asks for the hash. The table of hashes keeps no array alive.
  """
  leaves = _paths(tree)
  # An array of which other processes hold a part is gathered by all of them, or by none.
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
  """Reads the tree of a checkpoint that verifies; stops unless it is like `like`."""
  leaves, spec = _paths(like), _spec(like)
  for name in sorted(spec.keys() | content['tree'].keys()):
    expected, found = spec.get(name, 'missing'), content['tree'].get(name, 'missing')
    if expected != found:
      raise Stop(Status.CHECKPOINT, f'{path} does not fit this run: {name} is {found} there and '
                 f'{expected} here; run the config that wrote it, or take another workdir')
  try:
    arrays = _tensors(path / STATE)
  except SafetensorError:
    arrays = {}
  if sha256(arrays) != content['state']:
    raise Stop(Status.CHECKPOINT, f'{path} is whole, but what is read from it is not what was '
               f'saved with {content["versions"]}')
  return jax.tree.unflatten(jax.tree.structure(like),
                            [_put_like(arrays[name], leaf) for name, leaf in leaves.items()])


def _tensors(path: Path) -> dict[str, np.ndarray]:
  with safe_open(path, 'np') as file:
    return {name: file.get_tensor(name) for name in file.keys()}


def _put_like(array: np.ndarray, like: Any) -> Any:
  if isinstance(like, np.ndarray | np.generic):
    return array
  if getattr(like, 'sharding', None) is None or not getattr(like, 'committed', True):
    return jax.device_put(array)
  return sharding.device_put(array, like.sharding)


# ---- steps

def _saved_steps(folder: Path) -> list[int]:
  names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
  return [int(name) for name in names if re.fullmatch('0|[1-9][0-9]{0,17}', name)]


def _prune(path: Path) -> None:
  """Removes the checkpoints older than `path`, but for the newest of them that verify."""
  retained = 1
  for step in sorted(_saved_steps(path.parent), reverse=True):
    older = path.parent / str(step)
    if step < int(path.name) and not seal.inspect(older, MANIFEST)[1]:
      retained += 1
      if retained > RETAINED:
        # A folder that is half removed must not have the name of a step.
        os.rename(older, seal.temporary_path(older, 'old'))
        failpoint('pruning', path.name)
  seal.sweep(path.parent, 'old')
  failpoint('pruned', path.name)
