"""Command lines of commands that take no config: argparse with our statuses and error lines."""
import argparse
from collections.abc import Sequence

from distill.types import Status, Stop


class Parser(argparse.ArgumentParser):
  """A parser whose errors are one line each, and whose help is the command's docstring."""

  def __init__(self, door: str, about: str, usage: str, wrong: str = ''):
    """Describes a command.

    `usage` follows `python -m DOOR`; `wrong` begins an error line, by default with the usage.
    """
    self.wrong = wrong or f'say: python -m {door} {usage}'
    super().__init__(prog=f'python -m {door}', usage=f'python -m {door} {usage}',
                     description=about, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)

  def parsed(self, arguments: Sequence[str]) -> argparse.Namespace:
    """Reads options and other arguments in any order."""
    return self.parse_intermixed_args(arguments)

  def error(self, message: str) -> None:
    """Stops with status 10, where argparse would exit with 2."""
    raise Stop(Status.CONFIG, f'{self.wrong} ({message})')


def positive(text: str) -> int:
  """Reads a whole number from 1 on."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(f'{text!r} is no whole number above 0')
  return int(text)
