"""Arrays kept on disk under what they are made of, so that nothing stale is ever served."""
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def stored(kind: str, made_of: Any, make: Callable[[], Arrays], directory: str = '') -> Arrays:
  """`make()`, or what an earlier call with an equal `made_of` (JSON) made.

  The archive's checksums guard every array: a damaged file is made anew. A directory that
  can't be written costs time, never the run.
  """
  root = directory or os.environ.get('DISTILL_CACHE') or '~/.cache/distill'
  key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
  path = pathlib.Path(root).expanduser() / f'{kind}-{key[:32]}.npz'
  try:
    with np.load(path, allow_pickle=False) as archive:
      return dict(archive)
  except Exception:       # not there, or whatever a damaged archive raises
    arrays = make()
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, draft = tempfile.mkstemp(dir=path.parent, suffix='.draft')
    try:
      with os.fdopen(handle, 'wb') as file:
        np.savez(file, **arrays)
      os.replace(draft, path)
    except BaseException:
      os.unlink(draft)
      raise
  except OSError:
    pass
  return arrays


def packed(value: Any) -> np.ndarray:
  """A JSON value as an array of bytes."""
  return np.frombuffer(json.dumps(value).encode(), np.uint8)


def unpacked(array: np.ndarray) -> Any:
  return json.loads(array.tobytes())


def source_sha256(*files: str) -> str:
  """Identifies code by its text: what it made is stale once it changes."""
  return hashlib.sha256(b'\0'.join(pathlib.Path(f).read_bytes() for f in files)).hexdigest()
