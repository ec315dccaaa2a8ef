"""A model over a split, as per-example records, which are made once and kept."""
import io
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from distill import sharding
from distill.disk import replace
from distill.tasks import Task
from distill.teachers import Weights
from distill.types import Batch, Records


def records(eval_step: Callable, weights: Weights, batches: Sequence[Batch], task: Task,
            layout: sharding.Layout) -> Records:
  """What the task keeps of every example, in the order of the prepared batches.

  `eval_step` is that of `step.make_eval_step` with the task's `measure`.
  """
  rows = layout.rows(len(batches[0]['valid']), 'evaluate.batch_size')
  weights = sharding.placed(weights, layout.weights(weights))
  found = []
  for batch in map(batches.__getitem__, range(len(batches))):
    measured = eval_step(*weights, layout.fed({name: x[rows] for name, x in batch.items()}))
    found.append(task.records(sharding.on_host(measured), batch))
  return joined(found)


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
