"""Names for all that determines a result: hashes of JSON values and of the code that runs."""
import functools
import hashlib
import json
import pathlib
from typing import Any

import distill
from distill.data.stored import source_sha256

CODE = pathlib.Path(distill.__file__).parent


def digest(value: Any, length: int = 16) -> str:
  """Returns a short name for a JSON value."""
  text = json.dumps(value, sort_keys=True, default=list)
  return hashlib.sha256(text.encode()).hexdigest()[:length]


@functools.cache
def code(place: pathlib.Path = CODE) -> list[str]:
  """Returns the hashes of the code that runs: read once, for files may change while it does."""
  files = sorted(place.rglob('*.py')) if place.is_dir() else [place]
  return [source_sha256(str(file)) for file in files]
