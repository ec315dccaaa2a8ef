"""Asks an exported model: a line of JSON for every input, or a table on a terminal.

python -m distill.predict --model=DIR "a text" "another"
python -m distill.predict --model=DIR < texts.txt        # one text a line
python -m distill.predict --model=DIR digit.npy scan.png        # a model of images

The folder is an export, also one of StableHLO, or a Hugging Face folder. A model of texts takes
texts, with a tab between the two of a pair if it was trained on pairs. A model of images takes
files: a .npy file holds the pixels of one or several images as the data had them, [h w], [h w c] or
[n h w c]; any other file is a picture. If the model was trained to read other fields of its data
(`teachers.T.reads`), an input is a value of those fields.

Texts are UTF-8, whatever the locale. All inputs are read before the first is answered. An input
that can't be read ends the command with status 11: the error line has its line or argument, and no
input is answered. Characters that stdout can't encode are escaped as in JSON. If the reader of a
pipe goes away (`| head -1`) the status is 0; if stdout can't be written, as on a full disk, it is
14.
"""
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from distill import command_line, formats, hub, launch, numbers, step, streams, tasks
from distill.modalities import examples
from distill.models.functional import check_ids
from distill.types import Status, Stop

DOOR = 'distill.predict'
USAGE = '--model=DIR ["a text" … | FILE.npy FILE.png …], or one a line on stdin'
TITLE = 200             # letters of an input in an error line


def answers(folder: str, inputs: Sequence[str]) -> list[dict[str, Any]]:
  """Returns every input with the model's answer, in the form that its task gives.

  A classifier answers with `label`, `probability` and `probabilities`, a regression with `value`; a
  model of several labels an example answers with `labels` and `probabilities`.
  """
  return [{**about, **answer} for about, answer in _answered(folder, inputs)]


def _answered(folder: str, inputs: Sequence[str]) -> Iterator[tuple[dict[str, str], dict]]:
  model, weights, card = formats.load_trained(folder)
  modality = formats.modality(card, hub.folder(folder, '--model'))
  task = tasks.from_card(card, f'{folder}: task')
  eval_step = step.make_eval_step(model, task.measure)
  for about, batch in examples.encode(modality, inputs):   # one at a time: no other matters
    title = ' '.join(map(repr, about.values()))[:TITLE]
    check_ids(model, batch, title)
    measured = eval_step(*weights, batch)
    tasks.check_finite(measured, batch['valid'] > 0, lambda row, title=title: title)
    answer = task.answer(jax.tree.map(lambda x: x[0], measured))
    numbers.dumps(answer, title)
    yield about, answer


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run(DOOR, _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  folder, inputs = _parsed(arguments)
  if inputs:
    inputs = [streams.argument(text, f'input {i}') for i, text in enumerate(inputs, 1)]
  else:
    inputs = [line.rstrip('\r\n') for _, line in streams.lines(streams.stdin(), 'stdin')
              if line.strip()]
  if not inputs:
    raise Stop(Status.DATA, f'there is nothing to answer; usage: python -m {DOOR} {USAGE}')
  launch.collect_garbage_rarely()
  launch.keep_programs()
  rows = list(_answered(folder, inputs))
  if sys.stdout.isatty():
    print('\n'.join(_table(rows)))
  else:
    for about, answer in rows:
      print(streams.json_line({**about, **answer}))
  return int(Status.DONE)


def _parsed(arguments: Sequence[str]) -> tuple[str, list[str]]:
  """Returns the folder of the model, and the inputs, which may begin with a dash."""
  parser = command_line.Parser(DOOR, __doc__, USAGE, f'usage: python -m {DOOR} {USAGE}')
  parser.add_argument('--model', metavar='DIR', required=True, help='an export')
  parser.add_argument('inputs', nargs='*', metavar='INPUT', help='a text, or a file of images')
  marked = ['\0' + a if re.match('-(?!-|h$)', a) else a for a in arguments]       # of one dash
  found = parser.parsed(marked)
  if not found.model:
    parser.error('--model is empty')
  return found.model, [text.removeprefix('\0') for text in found.inputs]


def _table(rows: Sequence[tuple[dict[str, str], dict[str, Any]]]) -> Iterator[str]:
  """Yields a line an answer: its plain values in columns, then the input."""
  cells = [[_cell(value) for value in answer.values() if isinstance(value, str | int | float)]
           for _, answer in rows]
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  for row, (about, _) in zip(cells, rows, strict=True):
    columns = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
    yield '  '.join((*columns, *(text[:76] for text in about.values())))


def _cell(value: str | float) -> str:
  return value if isinstance(value, str) else f'{value:.3f}' if isinstance(value, float) else str(
      value)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
