"""Robustness to corruptions: quality on inputs with fixed corruptions, and under an attack.

The corruption of an example depends on its id and a seed alone, so every model and every run sees
the same corrupted inputs.
"""
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import records as records_of
from distill import sharding
from distill.measure import quality
from distill.measure.attributions import ProbedModel
from distill.modalities import Corruption, Modality
from distill.modalities.probes import ascent
from distill.types import Batch, Records

EPSILON = 0.1           # of FGSM, in standard deviations of the numbers that it moves
FGSM = ('each number moved by 0.1 standard deviations to where the loss grows: a pixel, or one of '
        "a word's embedding")


def corrupt(batch: Batch, corruption: Corruption, modality: Modality, seed: int = 0) -> Batch:
  """Returns a prepared batch with every example's inputs corrupted, by its id and the seed."""
  changed = {name: np.array(batch[name]) for name in modality.fields}
  for row in np.flatnonzero(batch['valid']):
    random = np.random.Philox(key=(seed << 32) + int(batch['id'][row]))
    corruption({name: values[row] for name, values in changed.items()}, random.random_raw)
  return {**batch, **changed}


def attack(model: ProbedModel, batches: Sequence[Batch], records: Records) -> Records:
  """Returns a model's records of examples under FGSM: x + ε · sign of the loss's gradient.

  FGSM is Goodfellow 2015, §4. ε is a tenth of a standard deviation: of the training images'
  pixels, or of the model's token table; in a text, only words move. The loss is the task's.
  `records` are the model's records of the clean examples, from which the task computes the loss's
  gradient with regard to the output that it explains.
  """
  task = model.task
  slopes = task.explain.slope(records)
  row = {int(example): i for i, example in enumerate(records['id'])}
  parts = []
  for batch in map(batches.__getitem__, range(len(batches))):
    by = slopes[[row[int(example)] if valid else 0
                 for example, valid in zip(batch['id'], batch['valid'], strict=True)]]
    x = model.value(batch)
    gradient = sharding.on_host(model(batch, x, by)['gradient'])
    moved = x + np.asarray(ascent(model.probe, model.params, batch, gradient, EPSILON))
    parts.append(records_of.measured_records(
        task, sharding.on_host(model(batch, moved, by)['measured']), batch, 'an attacked model'))
  return records_of.concatenate(parts)


def compare(task: quality.Task, clean: Records, corrupted: Mapping[str, Records],
            about: Mapping[str, str], *, resamples: int = 1000) -> dict[str, dict[str, Any]]:
  """Compares quality on clean and corrupted inputs of the same examples, in the primary metric.

  Args:
    corrupted: records by the name of their corruption.
    about: a description of each corruption.

  Returns:
    The report's `robustness`: for every corruption the metric, the share of the clean quality that
    is left (`kept`), and the gain over the clean quality (`change`), paired by example: below 0
    is worse.
  """
  primary = task.primary
  clean, _ = quality.align(clean, clean)
  before = quality.score(task, clean, resamples=resamples)
  report = {'clean': before.metrics[primary]}
  for name, records in corrupted.items():
    records, _ = quality.align(records, clean)
    after = quality.score(task, records, resamples=resamples)
    report[name] = {**after.metrics[primary], 'about': about[name],
                    'kept': quality.retention(after.metrics, before.metrics)[primary],
                    'change': quality.gain(after, before)[primary]}
  return report
