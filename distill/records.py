"""A model over a split, as per-example records, which are made once and kept."""
import io
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from distill import sharding, tasks
from distill.disk import replace
from distill.models.pure import check_ids
from distill.tasks import Measured, Task
from distill.teachers import Weights
from distill.types import Batch, Records


def records(eval_step: Callable, weights: Weights, batches: Sequence[Batch], task: Task,
            layout: sharding.Layout, *, model: Callable | None = None,
            title: str = 'the model') -> Records:
  """What the task keeps of every example, in the order of the prepared batches.

  `eval_step` is that of `step.make_eval_step` with the task's `measure`. `title` names the model
  for error lines; `model` given, its inputs are checked against its tables.
  """
  rows = layout.rows(len(batches[0]['valid']), 'evaluate.batch_size')
  weights = sharding.placed(weights, layout.weights(weights))
  found = []
  for batch in map(batches.__getitem__, range(len(batches))):
    check_ids(model, batch, title)
    measured = eval_step(*weights, layout.fed({name: x[rows] for name, x in batch.items()}))
    found.append(kept_of(task, sharding.on_host(measured), batch, title))
  return joined(found)


def kept_of(task: Task, measured: Measured, batch: Batch, title: str) -> Records:
  """What the task keeps of the answers to one batch, which must be finite."""
  name = lambda row: f'{title}: example {batch["id"][row]}'
  tasks.check_finite(measured, np.asarray(batch['valid']) != 0, name)
  return task.records(measured, batch)


def joined(parts: Sequence[Records]) -> Records:
  """The records of several batches as those of one."""
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def kept(path: pathlib.Path, make: Callable[[], Records]) -> Records:
  """The records in a file, which `make` gives the first time; every process must take part."""
  if not sharding.once(path.exists):
    found, file = make(), io.BytesIO()
    np.savez(file, **found)
    sharding.once(lambda: replace(path, file.getvalue()))
  with np.load(path, allow_pickle=False) as archive:
    return dict(archive)
