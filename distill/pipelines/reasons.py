"""Whether models decide for the same reasons: what the report says beyond quality and cost.

What costs little comes from the records of the whole split; models are explained, and their
inputs corrupted, on fixed samples of it. What was seen inside stays in records/inside/NAME.npz,
from which a page draws without the models.
"""
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distill import modalities
from distill import records as records_of
from distill.data import batches
from distill.measure import faithfulness, inside, quality, robustness
from distill.pipelines.judging import Judging, Model, teacher_of
from distill.runs import Run
from distill.tasks import Task
from distill.types import Batch, Records

SEED = 0                # of the samples: the same examples in every run over the same split
CORRUPTED = 256         # examples
DRAWN, DISAGREED = 48, 16       # … that are explained, and those that are shown beside them


def reasons(models: Sequence[Model], asks: Mapping[str, Callable], records: Mapping[str, Records],
            told: Judging, run: Run) -> dict[str, dict[str, Any]]:
  """`classes`, `calibration`, `faithfulness`, `layers` and `robustness` of every model, by name.

  `asks` are their `Judging.ask`, `records` theirs of the split of the evaluation. Without a teacher
  there is nothing to be faithful to. A program answers, and cannot be explained.
  """
  evaluate, names = told.evaluate, told.dataset.names
  resamples = evaluate.resamples
  explained, robust = {}, {}
  if evaluate.cost and evaluate.faithfulness and told.task.explain:
    explained, robust = _explained(models, asks, records, told, run)

  def of(model: Model) -> dict[str, Any]:
    own, teacher = records[model.name], teacher_of(model, models)
    found = {**faithfulness.from_records(told.task, own, teacher and records[teacher.name], names,
                                         resamples=resamples),
             'layers': None, 'robustness': robust.get(model.name)}
    if name := modalities.outside(model.modality):
      found['modality'] = name
    if teacher and {model.name, teacher.name} <= explained.keys():
      pair = explained[model.name], explained[teacher.name]
      found['faithfulness'] |= faithfulness.insights(*pair, resamples=resamples)
      alike = faithfulness.layers(*pair)
      found['layers'] = alike and {'of': teacher.name, **alike}
    return found
  return {model.name: of(model) for model in models}


def _explained(models: Sequence[Model], asks: Mapping[str, Callable],
               records: Mapping[str, Records], told: Judging,
               run: Run) -> tuple[dict[str, Records], dict[str, dict[str, Any]]]:
  """Explains every model on some examples, if there is a teacher, and measures its robustness.

  What is explained is the column of the teacher's answer, by which a student is compared with it.
  """
  order = np.random.default_rng(SEED).permutation(len(told.dataset.splits[told.evaluate.split]))
  shown, explain = _shown(told.task, order, models, records), told.task.explain

  def target(model: Model) -> dict[int, int]:
    answers = records[(teacher_of(model, models) or model).name]
    return {} if explain.target is None else dict(zip(
        answers['id'].tolist(), explain.target(answers).tolist(), strict=True))
  explained, robust = {}, {}
  for model in models:
    probe = model.modality.probe(model.pure, model.weights) if model.pure.differentiable else None
    within = inside.Inside(model.pure, model.weights, told.layout, probe, told.task
                           ) if probe else None
    if len(shown) and within:
      run.log.say(f'{model.name}: looked into on {len(shown)} {model.modality.noun}')
      explained[model.name] = records_of.kept(
          run.workdir / 'records' / 'inside' / f'{model.name}.npz', functools.partial(
              inside.explained, within, _batches(model, shown, told), target=target(model),
              drawn=order[:DRAWN], modality=modalities.outside(model.modality)))
    some = order[:CORRUPTED]
    run.log.say(f'{model.name}: answers {len(some)} corrupted {model.modality.noun}')
    robust[model.name] = _robustness(model, asks[model.name], within, _batches(model, some, told),
                                     records[model.name], told)
    run.stop_if_preempted()
  return explained, robust


def _shown(task: Task, order: np.ndarray, models: Sequence[Model],
           records: Mapping[str, Records]) -> np.ndarray:
  """Chooses the examples to explain: the first of the order, and some of the others on which the
  first student and its teacher name different classes. None without a teacher.
  """
  if not any(m.role == 'teacher' for m in models):
    return order[:0]
  student = next((m for m in models if m.role == 'student'), None)
  teacher = student and teacher_of(student, models)
  if not teacher:
    return order[:DRAWN]
  ours, theirs = map(task.categories, quality.aligned(
      records[student.name], records[teacher.name]))
  if ours is None or theirs is None:
    return order[:DRAWN]
  apart = ours['id'][ours['prediction'] != theirs['prediction']]
  others = order[DRAWN:]
  return np.concatenate([order[:DRAWN], others[np.isin(others, apart)][:DISAGREED]])


def _robustness(model: Model, ask: Callable, within: inside.Inside | None, some: Sequence[Batch],
                records: Records, told: Judging) -> dict[str, Any] | None:
  """Measures the quality of a model on corrupted and, if it can be explained, attacked examples.

  None where the modality knows no corruption, and the model can't be attacked.
  """
  task, about, found = told.task, {}, {}
  for kind, corruption in model.modality.corruptions.items():
    about[kind] = corruption.about
    changed = [robustness.corrupted(batch, corruption, model.modality) for batch in some]
    found[kind] = records_of.records(ask, model.weights, changed, task, told.layout,
                                     title=f'{model.name}, {corruption.about}')
  if within:
    about['fgsm'] = robustness.FGSM
    found['fgsm'] = robustness.attacked(within, some, records)
  if not found:
    return None
  ids = next(iter(found.values()))['id']
  clean = {name: values[np.isin(records['id'], ids)] for name, values in records.items()}
  return robustness.compared(task, clean, found, about, resamples=told.evaluate.resamples)


def _batches(model: Model, ids: np.ndarray, told: Judging) -> list[Batch]:
  """The examples of the main split in batches of one shape, as the model reads them."""
  part = model.splits[told.evaluate.split].subset(ids)
  widest = {axis: sizes[-1:] for axis, sizes in model.modality.widths.items()}
  rows = batches.in_order(part, batch_size=told.evaluate.batch_size, widths=widest)
  return [{**batch, 'id': np.where(batch['valid'] > 0, ids[batch['id']], -1).astype(np.int32)}
          for batch in map(model.modality.prepare, map(rows.__getitem__, range(len(rows))))]
