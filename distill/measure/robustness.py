"""How well a model stands inputs that are a little wrong: fixed corruptions, and an attack.

What happens to an example depends on its id and a seed alone: all models and runs are asked the
same.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import records as records_of
from distill import sharding
from distill.measure import quality
from distill.measure.inside import Inside
from distill.modalities import Corruption, Modality
from distill.modalities.probes import ascent
from distill.types import Batch, Records

EPSILON = 0.1           # of FGSM, in standard deviations of the numbers that it moves
FGSM = ('each number moved by 0.1 standard deviations to where the loss grows: a pixel, or one of '
        "a word's embedding")


def corrupted(batch: Batch, corruption: Corruption, modality: Modality, seed: int = 0) -> Batch:
  """The prepared batch with the inputs of every example corrupted by its id and the seed."""
  found = {name: np.array(batch[name]) for name in modality.fields}
  for row in np.flatnonzero(batch['valid']):
    random = np.random.Philox(key=(seed << 32) + int(batch['id'][row]))
    corruption({name: values[row] for name, values in found.items()}, random.random_raw)
  return {**batch, **found}


def attacked(inside: Inside, batches: Sequence[Batch], records: Records) -> Records:
  """The records of examples under FGSM (Goodfellow 2015, §4): x + ε · sign of the loss's gradient.

  ε is a tenth of a standard deviation: of the pixels of the training images, or of the model's own
  token table; of a text the words move. The loss is the task's; `records` are the model's on clean
  examples, by which the task knows the gradient with regard to the output that is explained.
  """
  task = inside.task
  slopes = task.explain.slope(records)
  row = {int(example): i for i, example in enumerate(records['id'])}
  found = []
  for batch in map(batches.__getitem__, range(len(batches))):
    by = slopes[[row[int(example)] if valid else 0
                 for example, valid in zip(batch['id'], batch['valid'], strict=True)]]
    x = inside.value(batch)
    gradient = sharding.on_host(inside(batch, x, by)['gradient'])
    moved = x + np.asarray(ascent(inside.probe, inside.params, batch, gradient, EPSILON))
    found.append(records_of.measured_records(
        task, sharding.on_host(inside(batch, moved, by)['measured']), batch, 'an attacked model'))
  return records_of.concatenate(found)


def compared(task: quality.Task, clean: Records, found: Mapping[str, Records],
          about: Mapping[str, str], *, resamples: int = 1000) -> dict[str, dict[str, Any]]:
  """Compares the quality of the same examples clean and corrupted, in the task's primary metric.

  `kept` is the share of the clean quality that is left, `change` what was gained, paired by
  example: below 0 is worse.
  """
  primary = task.primary
  clean, _ = quality.aligned(clean, clean)
  before = quality.resampled(task, clean, resamples=resamples)
  report = {'clean': before.metrics[primary]}
  for name, records in found.items():
    records, _ = quality.aligned(records, clean)
    after = quality.resampled(task, records, resamples=resamples)
    report[name] = {**after.metrics[primary], 'about': about[name],
                    'kept': quality.retention(after.metrics, before.metrics)[primary],
                    'change': quality.gain(after, before)[primary]}
  return report
