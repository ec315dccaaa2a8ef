"""Teachers, each after those that it learns from → student → the same student without a teacher →
report.

Each stage resumes from its last checkpoint; a finished run says where its report is.
"""
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from distill import formats, launch, records, sharding, step, train
from distill.data import batches
from distill.evaluate import tiers
from distill.models.pure import Flat, Pure
from distill.pipelines import plan, reported
from distill.pipelines.judging import Model
from distill.pipelines.setting import Setting, Trained, setting
from distill.student import under
from distill.teachers import Weights
from distill.train import Run


def run(config: Mapping[str, Any], this: Run) -> dict[str, Any]:
  """Trains what is not yet trained, measures every model, writes the report and returns it."""
  asked = {'student': config['tier']} if 'tier' in config else {}
  return carried_out(config, setting(config), asked, this)


def carried_out(config: Mapping[str, Any], told: Setting, asked: Mapping[str, str],
                this: Run) -> dict[str, Any]:
  """The same of a setting with one student or several, each followed by its baseline if it has one.

  `asked` are the tiers that students are to reach, '' for none.
  """
  tiers.limits(told.evaluate.tiers, asked)          # before anything is trained
  sharding.once(lambda: plan.same_corpus(told.dataset, this))
  if there := reported.before(this):
    return there
  for note in told.dataset.notes:
    this.log.say(f'{told.dataset.name}: {note}')
  announced = plan.announce(told, this)
  with launch.compiled_ahead(plan.programs(announced, this)):
    models = trained_in(config, told, announced, this)
  return reported.reported(config, models, told, asked, this, padding_share=batches.padding_share(
      told.dataset.splits['train'], widths=dict(told.modality.widths)))


def trained_in(config: Mapping[str, Any], told: Setting,
               announced: Mapping[str, tuple[train.Prepared, float]], this: Run) -> list[Model]:
  """Trains what is not yet trained; all models, in the order of the report."""
  models = [Model(name, 'teacher', pure, told.weights[name], {}, _loaded(
      config['teachers'][name], name), told.modality, told.splits_of(name))
            for name, pure in told.loaded.items()]
  reported_on = {*told.loaded, *(trained.stage.name for trained in told.trained)}
  for trained in told.trained:
    name = trained.stage.name
    weights, spent = finished(trained, announced, told, this)
    if trained.role in ('teacher', 'assistant'):
      told.weights[name] = weights
    models.append(Model(
        name, trained.role, trained.stage.student.model, weights, trained.card,
        {'place': str(this.workdir / 'export' / name)}, told.modality, told.splits_of(name),
        teachers=[name for name in trained.teachers if name in reported_on],
        saw=trained.saw, spent=spent))
  return models


def _loaded(node: Mapping[str, Any], name: str) -> dict[str, Any]:
  """Where a teacher that isn't trained here comes from."""
  return {'place': node['init'],
          'model': formats.free(node['init'], node.get('model', {}), f'teachers.{name}.init')}


def finished(trained: Trained, announced: Mapping[str, tuple[train.Prepared, float]],
             told: Setting, run: Run) -> tuple[Weights, dict[str, float]]:
  """The stage's weights and what training took; they are exported, and shared if asked.

  The stages before it are trained first, each from what the last one left.
  """
  stage, shared = trained.stage, plan.shared(trained, run)
  if stage.name not in announced or plan.left(trained, run):
    run.log.say(f'{stage.name}: taken from {shared}, which an equal stage left')
    _, weights, card = formats.load(str(shared))
    spent = card['training']
  else:
    evaluate, left, costs = scoring(stage.student.model, told, stage.name), ({}, {}), []
    for part in trained.stages:
      start = functools.partial(following, part, left)
      *left, cost_of_it = train.fit(dataclasses.replace(part, evaluate=evaluate, start=start),
                                    announced[part.name][0], run)
      costs.append(cost_of_it)
    spent = {name: sum(cost[name] for cost in costs) for name in costs[0]}
    spent['flops'] = sum(announced[part.name][1] for part in trained.stages)
    weights = sharding.on_host(tuple(under(part, 'model/') for part in left))
  for folder in (run.workdir / 'export' / stage.name, shared):
    if folder:
      sharding.once(lambda folder=folder: shipped(
          folder, trained, weights, {**trained.card, 'training': spent}, told))
  return weights, spent


def following(stage: train.Stage, left: tuple[Flat, Flat]) -> tuple[Flat, Flat]:
  """How a stage starts: as it says, but with what the stage before it left."""
  return tuple(own | {path: there[path] for path in own if path in there}
               for own, there in zip(stage.start(), left, strict=True))


def shipped(folder: pathlib.Path, trained: Trained, weights: Weights, card: Mapping[str, Any],
            told: Setting) -> None:
  """Exports a model without its idle heads, which the card lists as `fresh`.

  An export that is there stays, unless it lacks heads that this run reads.
  """
  if not folder.exists() or plan.lacking(trained, folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    params = {path: array for path, array in weights[0].items()
              if path.split('/')[0] not in trained.idle}
    if fresh := sorted(weights[0].keys() - params.keys()):
      card = {**card, 'fresh': fresh}
    formats.write(folder, formats.Shipped(
        trained.stage.student.model, (params, weights[1]), card, told.modality))


def scoring(model: Pure, told: Setting, name: str) -> Callable[[Flat, Flat], dict[str, float]]:
  """What `train.eval_every` logs: the task's metrics on the split of the evaluation.

  `name` is the model's: a teacher may read other fields than the student.
  """
  eval_step = step.make_eval_step(model, told.task.measure, told.layout)
  split = told.evaluate.split
  rows = (told.batches(told.splits_of(name)[split], told.modality) if name in told.reads
          else told.rows[split])

  def scores(params: Flat, rest: Flat) -> dict[str, float]:
    weights = under(params, 'model/'), under(rest, 'model/')
    found = told.task.score(records.records(eval_step, weights, rows, told.task, told.layout,
                                            title=told.evaluate.split))
    return {f'{told.evaluate.split}/{name}': value for name, value in found.items()}
  return scores
