"""Files that are there whole or not at all, and what is said when a disk refuses them."""
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from distill.types import Status, Stop


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
  """Turns what the disk refuses into the end of the run."""
  try:
    yield
  except OSError as error:
    raise Stop(Status.DISK, f'cannot write {path}: {error.strerror or error}; make room there, or '
               'name another place') from error


def replace(path: Path, content: bytes | str) -> None:
  """Writes a file beside its place, forces it to the disk, and renames it."""
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


def reach(point: str, place: str = '') -> None:
  """Dies here if a test says so: DISTILL_FAILPOINT=POINT or POINT:PLACE."""
  wanted, _, where = os.environ.get('DISTILL_FAILPOINT', '').partition(':')
  if wanted == point and where in ('', place):
    os._exit(137)
