"""Explanations: calibration, faithfulness to the teacher, similarity of layers, robustness.

Calibration and agreement come from the records of the whole split. Saliency and corruptions cost
much more, so models are explained, and their inputs corrupted, on fixed samples of it. Explanations
are kept in records/inside/NAME.npz, from which a page is drawn without the models.
"""
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from distill import modalities
from distill import records as records_of
from distill.data import batches
from distill.measure import attributions, faithfulness, quality, robustness
from distill.pipelines.judge import Judge, Model, teacher_of
from distill.runs import Run
from distill.tasks import Task
from distill.types import Batch, Records

SEED = 0                # of the samples: the same examples in every run over the same split
CORRUPTED = 256         # examples whose inputs are corrupted
SAMPLED, DISAGREED = 48, 16     # examples explained for the numbers, and only to be shown


def explain_models(models: Sequence[Model], asks: Mapping[str, Callable],
                   records: Mapping[str, Records], judge: Judge,
                   run: Run) -> dict[str, dict[str, Any]]:
  """Returns the report's `classes`, `calibration`, `faithfulness`, `layers` and `robustness`.

  Args:
    asks: the models' `Judge.ask`, by name.
    records: the models' records of the evaluation's split, by name.

  Without a teacher `faithfulness` is empty. A model that is a program can't be explained.
  """
  evaluate, names = judge.evaluate, judge.dataset.names
  resamples = evaluate.resamples
  explained, robust = {}, {}
  if evaluate.cost and evaluate.faithfulness and judge.task.explain:
    explained, robust = _explain_and_corrupt(models, asks, records, judge, run)

  def fields(model: Model) -> dict[str, Any]:
    ours, teacher = records[model.name], teacher_of(model, models)
    found = {**faithfulness.compare_records(
        judge.task, ours, teacher and records[teacher.name], names, resamples=resamples),
             'layers': None, 'robustness': robust.get(model.name)}
    if name := modalities.outside(model.modality):
      found['modality'] = name
    if teacher and {model.name, teacher.name} <= explained.keys():
      pair = explained[model.name], explained[teacher.name]
      found['faithfulness'] |= faithfulness.compare_explanations(*pair, resamples=resamples)
      similarity = faithfulness.layer_similarity(*pair)
      found['layers'] = similarity and {'of': teacher.name, **similarity}
    return found
  return {model.name: fields(model) for model in models}


def _explain_and_corrupt(
    models: Sequence[Model], asks: Mapping[str, Callable], records: Mapping[str, Records],
    judge: Judge, run: Run) -> tuple[dict[str, Records], dict[str, dict[str, Any]]]:
  """Explains every model on some examples, if there is a teacher, and measures its robustness.

  It explains the teacher's predicted class, for the student too, so that both saliency maps answer
  one question.
  """
  split = judge.dataset.splits[judge.evaluate.split]
  order = np.random.default_rng(SEED).permutation(len(split))
  chosen, explain = _choose_examples(judge.task, order, models, records), judge.task.explain

  def target(model: Model) -> dict[int, int]:
    if explain.target is None:
      return {}
    answers = records[(teacher_of(model, models) or model).name]
    return dict(zip(answers['id'].tolist(), explain.target(answers).tolist(), strict=True))
  explained, robust = {}, {}
  for model in models:
    probe = model.modality.probe(model.pure, model.weights) if model.pure.differentiable else None
    probed = attributions.ProbedModel(model.pure, model.weights, judge.layout, probe, judge.task
                                      ) if probe else None
    if len(chosen) and probed:
      run.log.say(f'{model.name}: explained on {len(chosen)} {model.modality.noun}')
      explained[model.name] = records_of.cached(
          run.workdir / 'records' / 'inside' / f'{model.name}.npz', functools.partial(
              attributions.explain, probed, _batches(model, chosen, judge), target=target(model),
              sampled=order[:SAMPLED], modality=modalities.outside(model.modality)))
    few = order[:CORRUPTED]
    run.log.say(f'{model.name}: answers {len(few)} corrupted {model.modality.noun}')
    robust[model.name] = _robustness_of(model, asks[model.name], probed,
                                        _batches(model, few, judge), records[model.name], judge)
    run.stop_if_preempted()
  return explained, robust


def _choose_examples(task: Task, order: np.ndarray, models: Sequence[Model],
                     records: Mapping[str, Records]) -> np.ndarray:
  """Chooses the examples to explain; none without a teacher.

  They are the first of the order, and some of the others on which the first student and its
  teacher predict different classes.
  """
  if not any(m.role == 'teacher' for m in models):
    return order[:0]
  student = next((m for m in models if m.role == 'student'), None)
  teacher = student and teacher_of(student, models)
  if not teacher:
    return order[:SAMPLED]
  ours, theirs = map(task.categories, quality.align(
      records[student.name], records[teacher.name]))
  if ours is None or theirs is None:
    return order[:SAMPLED]
  disagreed = ours['id'][ours['prediction'] != theirs['prediction']]
  others = order[SAMPLED:]
  return np.concatenate([order[:SAMPLED], others[np.isin(others, disagreed)][:DISAGREED]])


def _robustness_of(model: Model, ask: Callable, probed: attributions.ProbedModel | None,
                   clean_batches: Sequence[Batch], records: Records,
                   judge: Judge) -> dict[str, Any] | None:
  """Measures the quality of a model on corrupted and, if it can be explained, attacked examples.

  None if the modality has no corruption and the model can't be attacked.
  """
  task, about, found = judge.task, {}, {}
  for kind, corruption in model.modality.corruptions.items():
    about[kind] = corruption.about
    changed = [robustness.corrupt(batch, corruption, model.modality) for batch in clean_batches]
    found[kind] = records_of.collect(ask, model.weights, changed, task, judge.layout,
                                     title=f'{model.name}, {corruption.about}')
  if probed:
    about['fgsm'] = robustness.FGSM
    found['fgsm'] = robustness.attack(probed, clean_batches, records)
  if not found:
    return None
  ids = next(iter(found.values()))['id']
  clean = {name: values[np.isin(records['id'], ids)] for name, values in records.items()}
  return robustness.compare(task, clean, found, about, resamples=judge.evaluate.resamples)


def _batches(model: Model, ids: np.ndarray, judge: Judge) -> list[Batch]:
  """Returns examples of the main split in batches of one shape, as the model reads them."""
  part = model.splits[judge.evaluate.split].subset(ids)
  widest = {axis: sizes[-1:] for axis, sizes in model.modality.widths.items()}
  rows = batches.in_order(part, batch_size=judge.evaluate.batch_size, widths=widest)
  return [{**batch, 'id': np.where(batch['valid'] > 0, ids[batch['id']], -1).astype(np.int32)}
          for batch in map(model.modality.prepare, map(rows.__getitem__, range(len(rows))))]
