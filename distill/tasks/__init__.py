"""Tasks: from a model's outputs to records, and from records to metrics."""
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from distill import lookup
from distill.types import Batch, Outputs, Records, Status, Stop

Measured = Mapping[str, Any]        # the result of `measure`; arrays lead with the batch axis
Ask = Callable[[Batch], Outputs]    # a model with its weights, in evaluation mode


class Explain(NamedTuple):
  """The output of a model whose gradient explains an answer, [b c] with c `columns`.

  `target(records)` are the columns that are explained, int [n]; it is None if there is one column.
  `slope(records)` is the gradient of each example's loss with respect to the output, [n c].
  """
  output: str
  columns: int
  target: Callable[[Records], np.ndarray] | None
  slope: Callable[[Records], np.ndarray]


class Task(Protocol):
  """The contract of a task: its measurements, records, metrics and answers.

  A class may inherit the members that have a body or a value here. `outputs` are the outputs of a
  model that `measure` reads, `parts` the top-level modules that an exported model must have if its
  class has them. `labelled`: examples need targets. `constant(records)` returns the records of the
  best constant answer; it is None if no such answer is known. `explain` is None if saliency and
  attacks mean nothing. `exclusive`: an example has one answer; with several, as by sigmoids, no
  data set here has labels.
  """
  metrics: Mapping[str, Mapping[str, Any]]      # name -> unit, higher_is_better
  primary: str                                  # the metric that a report compares models by
  outputs: tuple[str, ...]
  parts: tuple[str, ...] = ()
  labelled: bool = True
  constant: Callable[[Records], Records] | None = None
  explain: Explain | None = None
  exclusive: bool = True

  def prepare(self, batch: Batch) -> Batch:
    """Prepares a batch on the host, for example by hiding inputs from the model."""
    return batch

  def measure(self, ask: Ask, batch: Batch) -> Mapping[str, jax.Array]:
    """Returns the numbers to keep of every example, of a fixed width; a pure function, in jit."""

  def records(self, measured: Measured, batch: Batch) -> Records:
    """Returns the records of one batch on the host, without the rows that only fill it.

    `id` is the example's; `label` shows whether two records are of the same examples.
    """

  def score(self, records: Records) -> dict[str, float]:
    """Returns every metric's value."""

  def bootstrap(self, records: Records,
                resamples: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Returns every metric's values, one per resample; a resample is the rows that it takes."""
    return score_resamples(self.score, records, resamples)

  def categories(self, records: Records) -> Records | None:
    """Returns records with one class per example; None if answers are something else.

    `id`, `label` int [n], `prediction` int [n] and `probabilities` float [n c]: a report then has
    a table of classes, calibration, and the agreement with a teacher.
    """
    return None

  def numbers(self, records: Records) -> np.ndarray | None:
    """Returns the answers as one number per example, [n]; None if they are something else.

    A report then has the correlation and the distance between a student's and a teacher's.
    """
    return None

  def answer(self, measured: Measured) -> dict[str, Any]:
    """Returns the JSON that `distill.predict` prints for one example."""


def score_resamples(score: Callable[[Records], dict[str, float]], records: Records,
                    resamples: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
  """Scores every resample by itself: the `bootstrap` of a task whose metrics are cheap."""
  values = [score({name: column[rows] for name, column in records.items()}) for rows in resamples]
  return {name: np.array([value[name] for value in values]) for name in values[0]}


def inferred(label: Any, answers: Any) -> str:
  """Returns the task whose labels [b …] and answers are like these, '' if there is none.

  Whole numbers beside two columns or more are classes; other numbers beside one are values.
  """
  columns = answers.shape[-1] if len(answers.shape) == 2 else 1
  whole = np.issubdtype(label.dtype, np.integer)
  if len(label.shape) != 1 or len(answers.shape) > 2 or whole != (columns > 1):
    return ''
  return 'classification.Classification' if whole else 'regression.Regression'


def card_node(node: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a task's node with the facts that it takes, for a card; class names stay out of it."""
  taken = lookup.parameters(lookup.find('tasks', node['name'], 'task.name'))
  return {**{k: plain(v) for k, v in facts.items() if k in taken and k != 'names'}, **node}


def plain(value: Any) -> Any:
  """Returns an array as nested lists, so that a card can hold it; any other value as it is."""
  return value.tolist() if isinstance(value, np.ndarray | np.generic | jax.Array) else value


def from_card(card: Mapping[str, Any], path: str) -> Task:
  """Builds the task of an exported model from its card.

  A card of an earlier version names no task: it is a classification, or without classes a
  regression.
  """
  names = tuple(card['classes'])
  node = card['task'] if 'task' in card else {
      'name': 'classification.Classification' if names else 'regression.Regression'}
  try:
    kind = lookup.find('tasks', node['name'], path) if 'name' in node else None
  except Stop as stop:
    raise Stop(Status.CHECKPOINT if stop.status == Status.CONFIG else stop.status, str(stop)
               ) from None
  if kind and not (isinstance(kind, type) and callable(getattr(kind, 'measure', None))):
    raise Stop(Status.CHECKPOINT, f'{path}={node["name"]!r} is no task')      # nor is it called
  return lookup.build('tasks', node, path, classes=max(1, len(names)), names=names)


def check_exclusive(card: Mapping[str, Any], where: str, advice: str) -> None:
  """Stops at a model whose labels don't exclude each other; a model of an unknown task passes.

  `advice` ends the error line: what to do.
  """
  try:
    kind = lookup.find('tasks', card['task']['name'], where) if 'task' in card else None
  except Stop:
    return
  if not getattr(kind, 'exclusive', True):
    raise Stop(Status.MISFIT, f'{where} gives each of its labels a sigmoid, as its problem_type='
               "'multi_label_classification' says, and the data has one label an example: "
               + advice)


def check_finite(measured: Measured, keep: np.ndarray, title: Callable[[int], str]) -> None:
  """Stops at an answer that holds a number that is not finite.

  `keep` are the rows that are answers, bool [b]; `title(row)` names one for the error line.
  """
  for name, values in measured.items():
    values = np.asarray(values)
    if values.dtype.kind not in 'biu':
      bad = np.flatnonzero(keep & ~np.isfinite(values.astype(np.float64)).reshape(
          len(values), -1).all(1))
      if bad.size:
        raise Stop(Status.NONFINITE, f'{title(int(bad[0]))}: the answer has {name} that are not '
                   f'finite ({bad.size} such in its batch): the inputs or the weights are beyond '
                   'what float32 can compute')
