"""Whether models decide for the same reasons: what the report says beyond quality and cost.

What costs little comes from the records of the whole split; models are looked into, and their
inputs corrupted, on fixed samples of it. What was seen inside stays in records/inside/NAME.npz,
from which a page draws without the models.
"""
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distill import predict, step
from distill.data import batches
from distill.data.sets import Split
from distill.evaluate import faithfulness, inside, quality, robustness
from distill.pipelines.setting import Setting
from distill.train import Run
from distill.types import Batch, Records

SEED = 0                # of the samples: the same examples in every run over the same split
CORRUPTED = 256         # examples
DRAWN, DISAGREED = 48, 16       # … that are looked into, and those that are shown beside them


def reasons(models: Sequence[Any], records: Mapping[str, Records], told: Setting,
            run: Run) -> dict[str, dict[str, Any]]:
  """`classes`, `calibration`, `faithfulness`, `layers` and `robustness` of every model, by name.

  `models` are `compare.Model`s, `records` theirs of the split of the evaluation. Without a teacher
  there is nothing to be faithful to.
  """
  resamples, names = told.evaluate.resamples, told.dataset.classes
  teacher = next((m.name for m in models if m.role == 'teacher'), None)
  seen, stood = {}, {}
  evaluate = told.evaluate
  if evaluate.cost and evaluate.faithfulness and 'logits' in told.task.reads:
    able = [m for m in models if told.dataset.pixels or inside.TABLE in m.weights[0]]
    seen, stood = _looked_into(able, records, teacher, told, run)

  def of(model) -> dict[str, Any]:
    own, theirs = records[model.name], records.get(teacher)
    judged = 'probabilities' in own
    found = {'classes': quality.per_class(own, names) if judged else None,
             'calibration': faithfulness.calibration(own, resamples=resamples),
             'faithfulness': {}, 'layers': None, 'robustness': stood.get(model.name)}
    if teacher and model.role != 'teacher':
      found['faithfulness'] = faithfulness.answers(own, theirs, resamples=resamples)
      if {model.name, teacher} <= seen.keys():
        pair = seen[model.name], seen[teacher]
        found['faithfulness'] |= faithfulness.insights(*pair, resamples=resamples)
        alike = faithfulness.layers(*pair)
        found['layers'] = alike and {'of': teacher, **alike}
    return found
  return {model.name: of(model) for model in models}


def _looked_into(models: Sequence[Any], records: Mapping[str, Records], teacher: str | None,
                 told: Setting, run: Run) -> tuple[dict[str, Records], dict[str, dict[str, Any]]]:
  """What is inside every model, if there is a teacher to explain, and what each stands."""
  split, special = told.dataset.splits[told.evaluate.split], told.dataset.special
  order = np.random.default_rng(SEED).permutation(len(split))
  some = _batches(split, order[:CORRUPTED], told)
  shown = _shown(order, models, records, teacher) if teacher else ()
  answers = records.get(teacher, {})
  target = dict(zip(answers['id'].tolist(), answers['prediction'].tolist(), strict=True)) if (
      'probabilities' in answers) else {}
  seen, stood = {}, {}
  for model in models:
    within = inside.Inside(model.pure, model.weights, told.layout)
    if teacher:
      seen[model.name] = predict.kept(
          run.workdir / 'records' / 'inside' / f'{model.name}.npz', functools.partial(
              inside.looked, within, _batches(split, shown, told), target=target, special=special,
              classes=told.dataset.sizes['classes'], drawn=order[:DRAWN]))
    stood[model.name] = _stood(model, within, some, records[model.name], told)
    run.stop_if_preempted()
  return seen, stood


def _shown(order: np.ndarray, models: Sequence[Any], records: Mapping[str, Records],
           teacher: str) -> np.ndarray:
  """The examples to look into: the first of the order, and of the others some on which the first
  student and the teacher disagree.
  """
  student = next((m.name for m in models if m.role == 'student'), teacher)
  ours, theirs = quality.aligned(records[student], records[teacher])
  if 'probabilities' not in ours:
    return order[:DRAWN]
  apart = ours['id'][ours['prediction'] != theirs['prediction']]
  others = order[DRAWN:]
  return np.concatenate([order[:DRAWN], others[np.isin(others, apart)][:DISAGREED]])


def _stood(model: Any, within: inside.Inside, some: Sequence[Batch], records: Records,
           told: Setting) -> dict[str, Any]:
  """The quality of a model on corrupted and attacked examples."""
  task, special = told.task, told.dataset.special
  about = dict(robustness.kinds(some[0], special))
  eval_step = step.make_eval_step(model.pure, told.layout, task.reads)
  found = {}
  for kind in about:
    changed = [robustness.corrupted(batch, kind, special) for batch in some]
    found[kind] = predict.records(eval_step, model.weights, changed, task, told.layout)
  found['fgsm'] = robustness.attacked(within, some, records, task, special)
  ids = found['fgsm']['id']
  clean = {name: values[np.isin(records['id'], ids)] for name, values in records.items()}
  return robustness.stood(task, clean, found, about | {'fgsm': robustness.FGSM},
                          resamples=told.evaluate.resamples)


def _batches(split: Split, ids: np.ndarray, told: Setting) -> list[Batch]:
  """The examples of a split in batches of one shape."""
  part = Split({name: column[ids] for name, column in split.columns.items()})
  rows = batches.in_order(part, batch_size=told.evaluate.batch_size, widths=told.widths[-1:])
  return [{**batch, 'id': np.where(batch['valid'] > 0, ids[batch['id']], -1).astype(np.int32)}
          for batch in map(rows.__getitem__, range(len(rows)))]
