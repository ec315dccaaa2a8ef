"""Files that are written whole or not at all, and read as UTF-8; errors of the disk."""
import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from distill.types import Status, Stop


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
  """Turns an error of the disk into a Stop."""
  try:
    yield
  except OSError as error:
    raise Stop(Status.DISK, f'cannot write {path}: {error.strerror or error}; make room there, or '
               'name another place') from error


def replace(path: Path, content: bytes | str) -> None:
  """Writes a file under a temporary name, forces it to the disk, and renames it."""
  draft = path.with_name(f'.{path.name}.{os.getpid()}')
  with writing(path):
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with draft.open('wb') as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())
      draft.replace(path)
    finally:
      draft.unlink(missing_ok=True)


def read_text(path: Path) -> str:
  """Returns the text of a UTF-8 file without its byte-order mark.

  Raises a ValueError if the file is in another encoding.
  """
  content = path.read_bytes()
  if content.startswith((b'\xff\xfe', b'\xfe\xff')):
    raise ValueError('it is UTF-16: save it as UTF-8')
  return content.decode('utf-8-sig')


def read_json(path: Path) -> Any:
  """Returns the value of a JSON file; raises a ValueError if it holds none."""
  try:
    return json.loads(read_text(path))
  except RecursionError:
    raise ValueError('it is nested too deeply') from None


def failpoint(point: str, place: str = '') -> None:
  """Kills the process if a test asks for it: DISTILL_FAILPOINT=POINT or POINT:PLACE."""
  wanted, _, where = os.environ.get('DISTILL_FAILPOINT', '').partition(':')
  if wanted == point and where in ('', place):
    os._exit(137)
