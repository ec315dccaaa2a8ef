"""A disk cache of arrays, by a hash of everything that they are made of: never stale."""
import contextlib
import hashlib
import io
import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def load_or_make(kind: str, made_of: Any, make: Callable[[], Arrays],
                 directory: str = '') -> Arrays:
  """Loads the arrays of an earlier call with an equal `made_of` (JSON), or calls `make()`.

  A file is the sha256 of an archive, then the archive; a damaged file is made again. If the
  directory can't be written, the run goes on without a cache.
  """
  root = directory or os.environ.get('DISTILL_CACHE') or '~/.cache/distill'
  key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()
  path = pathlib.Path(root).expanduser() / f'{kind}-{key[:32]}.arrays'
  with contextlib.suppress(OSError):
    content = path.read_bytes()
    if hashlib.sha256(content[32:]).digest() == content[:32]:
      with np.load(io.BytesIO(content[32:]), allow_pickle=False) as archive:
        return dict(archive)
  arrays = make()
  with contextlib.suppress(OSError):
    _write(path, arrays)
  return arrays


def _write(path: pathlib.Path, arrays: Arrays) -> None:
  archive = io.BytesIO()
  np.savez(archive, **arrays)
  content = archive.getvalue()
  path.parent.mkdir(parents=True, exist_ok=True)
  handle, draft = tempfile.mkstemp(dir=path.parent, suffix='.draft')
  try:
    with os.fdopen(handle, 'wb') as file:
      file.write(hashlib.sha256(content).digest() + content)
    os.replace(draft, path)
  except BaseException:
    os.unlink(draft)
    raise


def pack(value: Any) -> np.ndarray:
  """Encodes a JSON value as an array of bytes."""
  return np.frombuffer(json.dumps(value).encode(), np.uint8)


def unpack(array: np.ndarray) -> Any:
  """Decodes the JSON value of an array of bytes."""
  return json.loads(array.tobytes())


def source_sha256(file: str) -> str:
  """Returns the hash of a source file: arrays that it made are stale once it changes."""
  return hashlib.sha256(pathlib.Path(file).read_bytes()).hexdigest()
