"""What "good" means: from a model's outputs to records, and from records to metrics."""
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from distill import lookup
from distill.types import Batch, Outputs, Records, Status, Stop

Measured = Mapping[str, Any]        # what `measure` gives, leading with the batch axis
Ask = Callable[[Batch], Outputs]    # a model with its weights, in evaluation mode


class Explain(NamedTuple):
  """How an answer is explained: by the gradient of an output of a model, [b c] with c `columns`.

  `target(records)` are the columns that are explained, int [n]; None: there is one column.
  `slope(records)` is the gradient of each example's loss with regard to the output, [n c].
  """
  output: str
  columns: int
  target: Callable[[Records], np.ndarray] | None
  slope: Callable[[Records], np.ndarray]


class Task(Protocol):
  """What a model is to do, and how well it does it. A class may inherit what is written out here.

  `outputs` are the outputs of a model that `measure` asks for, `parts` the top-level modules that a
  shipped model must have where its class has them. `labelled` says whether examples need targets.
  `constant` gives the records of the best answer that is always the same, None if no such answer is
  known; `explain` is None where saliency and attacks mean nothing. `exclusive` says whether an
  example has one answer; where it may have several, as by sigmoids, no data set here has labels.
  """
  metrics: Mapping[str, Mapping[str, Any]]      # name -> unit, higher_is_better
  primary: str                                  # the metric that a report speaks of
  outputs: tuple[str, ...]
  parts: tuple[str, ...] = ()
  labelled: bool = True
  constant: Callable[[Records], Records] | None = None
  explain: Explain | None = None
  exclusive: bool = True

  def prepare(self, batch: Batch) -> Batch:
    """What examples are asked: the batch on the host, with inputs hidden from the model, say."""
    return batch

  def measure(self, ask: Ask, batch: Batch) -> Mapping[str, jax.Array]:
    """What is kept of every answer, of a fixed width an example; pure, inside jit."""

  def records(self, measured: Measured, batch: Batch) -> Records:
    """The records of one batch, without the rows that only fill it; on the host.

    `id` is the example's, `label` what tells whether records are of the same examples.
    """

  def score(self, records: Records) -> dict[str, float]:
    """Every metric's value."""

  def bootstrap(self, records: Records,
                resamples: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
    """Every metric's value on each resample, which is the rows that it takes of the records."""
    return rescored(self.score, records, resamples)

  def categories(self, records: Records) -> Records | None:
    """Returns records as those of one class an example; None where answers are something else.

    `id`, `label` int [n], `prediction` int [n] and `probabilities` float [n c]: a report then has
    a table of classes, calibration, and the agreement with a teacher.
    """
    return None

  def numbers(self, records: Records) -> np.ndarray | None:
    """Returns the answers as one number an example, [n]; None where they are something else.

    A report then has their correlation with a teacher's and their distance from them.
    """
    return None

  def answer(self, measured: Measured) -> dict[str, Any]:
    """What `distill.predict` prints of one example's answer, as JSON."""


def rescored(score: Callable[[Records], dict[str, float]], records: Records,
             resamples: Iterable[np.ndarray]) -> dict[str, np.ndarray]:
  """The `bootstrap` of a task whose metrics cost little: every resample is scored by itself."""
  values = [score({name: column[rows] for name, column in records.items()}) for rows in resamples]
  return {name: np.array([value[name] for value in values]) for name in values[0]}


def inferred(label: Any, answers: Any) -> str:
  """Names the task whose targets are labels [b …] and whose answers are like these, '' for none.

  Whole numbers beside two columns or more are classes; other numbers beside one are values.
  """
  columns = answers.shape[-1] if len(answers.shape) == 2 else 1
  whole = np.issubdtype(label.dtype, np.integer)
  if len(label.shape) != 1 or len(answers.shape) > 2 or whole != (columns > 1):
    return ''
  return 'classification.Classification' if whole else 'regression.Regression'


def spelled(node: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
  """A task's node with the facts that it takes, as an export carries it; the names are its card's.
  """
  taken = lookup.parameters(lookup.find('tasks', node['name'], 'task.name'))
  return {**{k: plain(v) for k, v in facts.items() if k in taken and k != 'names'}, **node}


def plain(value: Any) -> Any:
  """Returns an array as nested lists, so that a card can hold it; any other value as it is."""
  return value.tolist() if isinstance(value, np.ndarray | np.generic | jax.Array) else value


def from_card(card: Mapping[str, Any], path: str) -> Task:
  """The task that an exported model was made for.

  A card of an earlier version doesn't say: then it classifies, or without classes it regresses.
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
  """Stops at a model whose labels don't exclude each other; one of an unknown task passes.

  `advice` says what to do.
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
