"""The streams of a command, in any encoding, also closed or full ones.

Input texts are UTF-8, as data files are, whatever the locale. Output has the encoding of its
stream: a character that the stream can't hold becomes an escape. If the reader of a pipe has gone
away (`| head -1`), the work goes on and the output is lost.
"""
import codecs
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TextIO

from distill.types import Status, Stop

MEMORY_HINT = 'take a smaller model, or fewer examples at once (batch_size, microbatch, length)'


def run(name: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str],
        failed: Callable[[int], int] = int) -> int:
  """Runs a command, whose error lines begin with `name`; returns its exit status.

  A Stop, a lack of memory, a number that is too large and a file that the system refuses are one
  line on stderr; any other exception is a traceback and status 1. The status of a command that
  fails is what `failed` returns for it. A command that succeeds ends with 14 if stdout couldn't
  take all of its output.
  """
  with contextlib.ExitStack() as closing:
    _reopen()
    out, err = (Writer(stream or closing.enter_context(open(os.devnull, 'w', encoding='utf-8')))
                for stream in (sys.stdout, sys.stderr))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      status = _status(name, command, arguments, failed)
      error = out.finish()
      if error and not isinstance(error, BrokenPipeError):
        why = getattr(error, 'strerror', None) or error
        print(f'{name}: cannot write to stdout: {why}', file=err)
        status = status or int(Status.DISK)
      err.finish()
  return status


def _status(name: str, command: Callable[[Sequence[str]], int], arguments: Sequence[str],
            failed: Callable[[int], int]) -> int:
  try:
    if any('\0' in argument for argument in arguments):
      raise Stop(Status.CONFIG, 'an argument holds a NUL byte')
    return command(arguments)
  except SystemExit as end:             # argparse, after printing help
    if end.code:
      raise
    return int(Status.DONE)
  except Stop as stop:
    status, line = stop.status, str(stop)
  except Exception as error:
    # XLA has one type for all its errors; their kind is in the text.
    if isinstance(error, MemoryError) or str(error).startswith('RESOURCE_EXHAUSTED'):
      status, line = Status.DISK, f'not enough memory: {_first_line(error)}: {MEMORY_HINT}'
    elif isinstance(error, OSError) and error.filename is not None:
      status, line = Status.DISK, f'{error.filename}: {error.strerror}'
    elif isinstance(error, OverflowError) or 'INVALID_ARGUMENT: overflow' in str(error):
      status, line = Status.CONFIG, f'a number is too large: {_first_line(error)}'
    else:
      traceback.print_exc()
      return failed(1)
  print(f'{name}: {one_line(line)}', file=sys.stderr, flush=True)
  return failed(int(status))


def _first_line(error: Exception) -> str:
  return (str(error) or type(error).__name__).splitlines()[0]


def one_line(text: str) -> str:
  """Returns the text with escapes for unprintable characters: ends of lines, terminal codes."""
  return ''.join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Writer:
  """A text stream that takes any text, and raises nothing if the system refuses it."""

  def __init__(self, stream: TextIO):
    self._stream, self._error = stream, None

  def __getattr__(self, name: str) -> Any:
    return getattr(self._stream, name)

  def write(self, text: str) -> int:
    encoding = _encoding(self._stream)
    with self._remembering():
      self._stream.write(text.encode(encoding, 'backslashreplace').decode(encoding))
    return len(text)

  def flush(self) -> None:
    with self._remembering():
      self._stream.flush()

  def finish(self) -> Exception | None:
    """Flushes the stream; returns the first error that it ever had, or None.

    Python flushes again when it exits: output that is left then goes to the null device.
    """
    try:
      self._stream.flush()
    except (OSError, ValueError) as error:          # a ValueError: the stream is closed
      self._error = self._error or error
      with contextlib.suppress(OSError, ValueError):
        number = self._stream.fileno()
        with open(os.devnull, 'wb') as null:
          os.dup2(null.fileno(), number)
        self._stream.flush()
    return self._error

  @contextlib.contextmanager
  def _remembering(self) -> Iterator[None]:
    try:
      yield
    except OSError as error:
      self._error = self._error or error


def _encoding(stream: TextIO) -> str:
  return getattr(stream, 'encoding', None) or 'utf-8'


def _reopen() -> None:
  """Opens the null device for closed descriptors, which the next file would take otherwise."""
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      opened = os.open(os.devnull, os.O_RDWR)       # takes the lowest free number
      os.set_inheritable(opened, True)              # processes that the command starts get it


def json_line(value: Any) -> str:
  """Returns a value as JSON that stdout can hold: its characters, or else their escapes."""
  text = json.dumps(value, ensure_ascii=False, allow_nan=False)
  try:
    text.encode(_encoding(sys.stdout))
  except UnicodeError:
    return json.dumps(value)
  return text


def stdin() -> bytes:
  """Returns all of stdin; nothing if it is a terminal or closed."""
  if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
    return b''
  try:
    content = getattr(sys.stdin, 'buffer', sys.stdin).read()
  except OSError as error:
    raise Stop(Status.DATA, f'stdin cannot be read: {error.strerror}') from error
  return content if isinstance(content, bytes) else content.encode('utf-8', 'surrogateescape')


def lines(content: bytes, title: str) -> Iterator[tuple[str, str]]:
  """Yields each line's place and text, with its end; stops at a line that is not UTF-8 text.

  A line ends with LF, CR LF or CR, the last one with nothing too. A byte order mark is left out.
  """
  encoding = _wide(content[:64])
  if encoding:
    raise Stop(Status.DATA, f'{title} is {encoding}: save the file as UTF-8')
  content = content.removeprefix(codecs.BOM_UTF8)
  for number, line in enumerate(content.splitlines(keepends=True), 1):
    where = f'{title}:{number}'
    try:
      text = line.decode()
    except UnicodeDecodeError as error:
      raise Stop(Status.DATA, f'{where}: byte {error.start + 1} of the line, '
                 f'0x{line[error.start]:02x}, is not UTF-8: save the file as UTF-8') from None
    if '\0' in text:
      raise Stop(Status.DATA, f'{where} holds a NUL byte: is it a text file, saved as UTF-8?')
    yield where, text


def _wide(start: bytes) -> str:
  """Returns the name of a file's encoding if it has two or four bytes a character, else ''."""
  marks = {codecs.BOM_UTF32_LE: 'UTF-32', codecs.BOM_UTF32_BE: 'UTF-32',
           codecs.BOM_UTF16_LE: 'UTF-16', codecs.BOM_UTF16_BE: 'UTF-16'}
  for mark, name in marks.items():
    if start.startswith(mark):
      return name
  every_other = len(start) > 3 and (not any(start[::2]) or not any(start[1::2]))
  return 'UTF-16' if every_other and any(start) else ''


def argument(text: str, title: str) -> str:
  """Decodes a text of the command line: from UTF-8, or else by the locale.

  The name of a file may be any bytes, and stays as it is.
  """
  if os.path.exists(text):
    return text
  with contextlib.suppress(UnicodeError):
    return os.fsencode(text).decode()
  try:
    text.encode()
  except UnicodeError:
    raise Stop(Status.DATA, f'{title} is not UTF-8: {text[:60]!r}') from None
  return text
