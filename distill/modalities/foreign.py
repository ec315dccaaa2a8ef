"""Calls of C and Rust libraries on files that strangers made."""
import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
  """Discards what a library writes to stderr itself, beside the exception that it raises."""
  try:
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
  except OSError:                   # stderr is closed, or too many files are open
    yield
    return
  try:
    os.dup2(nowhere, 2)
    yield
  finally:
    os.dup2(before, 2)
    os.close(before)
    os.close(nowhere)


@contextlib.contextmanager
def caught() -> Iterator[None]:
  """Turns a panic of Rust code, which derives from no Exception, into a ValueError."""
  try:
    yield
  except BaseException as error:
    if type(error).__name__ != 'PanicException':
      raise
    raise ValueError(str(error)) from None
