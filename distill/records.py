"""Per-example records of a model over a split, made once and cached in a file."""
import io
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from distill import sharding, tasks
from distill.disk import replace
from distill.models.functional import check_ids
from distill.tasks import Measured, Task
from distill.teachers import Weights
from distill.types import Batch, Records


def collect(eval_step: Callable, weights: Weights, batches: Sequence[Batch], task: Task,
            layout: sharding.Layout, *, model: Callable | None = None,
            title: str = 'the model') -> Records:
  """Returns the task's records of every example, in the order of the prepared batches.

  `eval_step` is that of `step.make_eval_step` with the task's `measure`. `title` names the model
  for error lines. If `model` is given, the batches' indices are checked against its tables.
  """
  rows = layout.local_rows(len(batches[0]['valid']), 'evaluate.batch_size')
  weights = sharding.device_put(weights, layout.weight_shardings(weights))
  found = []
  for batch in map(batches.__getitem__, range(len(batches))):
    check_ids(model, batch, title)
    measured = eval_step(*weights, layout.to_devices({name: x[rows] for name, x in batch.items()}))
    found.append(measured_records(task, sharding.on_host(measured), batch, title))
  return concatenate(found)


def measured_records(task: Task, measured: Measured, batch: Batch, title: str) -> Records:
  """Returns the task's records of one batch; raises a Stop if a measured number is not finite."""
  name = lambda row: f'{title}: example {batch["id"][row]}'
  tasks.check_finite(measured, np.asarray(batch['valid']) != 0, name)
  return task.records(measured, batch)


def concatenate(parts: Sequence[Records]) -> Records:
  """Concatenates the records of several batches."""
  return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def cached(path: pathlib.Path, make: Callable[[], Records]) -> Records:
  """Reads records from a file, which `make` fills the first time; every process must call this."""
  if not sharding.on_first_process(path.exists):
    found, file = make(), io.BytesIO()
    np.savez(file, **found)
    sharding.on_first_process(lambda: replace(path, file.getvalue()))
  with np.load(path, allow_pickle=False) as archive:
    return dict(archive)
