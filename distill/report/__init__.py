"""Report of a run: report.json for scripts, report.html for people, a table and a verdict."""
import contextlib
import json
import pathlib
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import numbers
from distill.disk import failpoint, replace
from distill.report import charts, page, radar, tables, verdict
from distill.report.contract import Report, broken
from distill.types import Records, Status, Stop

LABEL = 31              # width of a row's label in the terminal


def write(workdir: pathlib.Path, report: Report, rows: charts.Rows) -> None:
  """Writes radar.svg if there is enough to draw, report.html, and last report.json, each whole.

  `rows` are those of metrics.jsonl.

  Raises:
    ValueError: the report breaks the contract.
    Stop: it has a number that is not finite, or the disk refuses a file.
  """
  text = numbers.dumps(report, str(workdir / 'report.json'), indent=2, ensure_ascii=False)
  wrong = broken(json.loads(text))
  if wrong:
    raise ValueError(wrong)
  _draw(workdir, report, rows)
  failpoint('reporting')
  replace(workdir / 'report.json', text + '\n')


def render(workdir: pathlib.Path) -> None:
  """Draws a workdir's page again, only from the files that are stored in the workdir."""
  if not (workdir / 'report.json').is_file():
    raise Stop(Status.DATA, f'{workdir} has no report.json, from which a page could be drawn')
  logged = workdir / 'metrics.jsonl'
  lines = logged.read_bytes().splitlines() if logged.is_file() else []
  rows = [_row(line, f'{logged}, line {i}') for i, line in enumerate(lines, 1)]
  _draw(workdir, read(workdir), rows)


def read(workdir: pathlib.Path) -> Report:
  """Returns the report that `write` left in a workdir."""
  path = workdir / 'report.json'
  try:
    report = json.loads(path.read_text('utf-8'))
  except ValueError as error:
    raise Stop(Status.DATA, f'{path} is not JSON ({error}): remove it to measure again') from None
  wrong = broken(report)
  if wrong:
    raise Stop(Status.DATA, f'{path} breaks its contract ({wrong}): remove it to measure again')
  return report


def summary(report: Report) -> str:
  """Returns the verdict: for every student what distillation brought, as far as it was shown."""
  return ' '.join(line for student in verdict.sentences(report) for line in student)


def table(report: Report) -> str:
  """Returns the models side by side as plain text; three of them take about 100 columns.

  With more than five models, a student that would be the fourth or later of its table begins a new
  table.
  """
  names, lines, blocks = [model['name'] for model in report['models']], [], [[0]]
  for i, model in enumerate(report['models']):
    if len(names) > 5 and model['role'] == 'student' and len(blocks[-1]) > 3:
      blocks.append([0])
    blocks[-1].append(1 + i)
  for title, groups in tables.tables(report):
    lines += [[''] * (1 + len(names))] if lines else []
    lines.append([title, *names])
    for label, cells in (row for group in groups for row in group):
      first, *rest = textwrap.wrap(label, LABEL, subsequent_indent='  ',
                                   break_long_words=False, break_on_hyphens=False)
      lines.append([first, *(f'{main} ({small})' if small else main for main, small in cells)])
      lines += [[more, *[''] * len(names)] for more in rest]
  widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
  adjusted = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
  return '\n\n'.join('\n'.join('  '.join(line[i] for i in block).rstrip() for line in adjusted)
                     for block in blocks)


def _draw(workdir: pathlib.Path, report: Report, rows: charts.Rows) -> None:
  """Writes the radar and the page."""
  names = [model['name'] for model in report['models']]
  records, explanations = (_stored(workdir / 'records' / part, names) for part in ('', 'inside'))
  picture = radar.draw(report)
  html = page.draw(report, rows, records, explanations, picture)
  if picture:
    replace(workdir / 'radar.svg', picture)
  else:
    (workdir / 'radar.svg').unlink(missing_ok=True)
  replace(workdir / 'report.html', html)


def _stored(folder: pathlib.Path, names: Sequence[str]) -> dict[str, Records]:
  """Returns the stored arrays of every model that has a file in the folder."""
  found = {}
  for name in names:
    if (path := folder / f'{name}.npz').is_file():
      try:
        with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
          found[name] = dict(archive)
      except Exception as error:        # a damaged archive raises at least seven kinds
        why = ' '.join(str(error).split())
        raise Stop(Status.DATA, f'{path} cannot be read ({why}): remove it, and the page is drawn '
                   'without what would come from it') from None
  return found


def _row(line: bytes, where: str) -> Mapping[str, Any]:
  """Parses a line of metrics.jsonl; stops at one that is no row."""
  with contextlib.suppress(ValueError, AttributeError):
    if {'stage', 'step'} <= (row := json.loads(line)).keys():
      return row
  raise Stop(Status.DATA, f'{where}, is no row of a log: remove that line')
