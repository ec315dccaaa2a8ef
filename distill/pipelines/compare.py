"""Teachers, each after those that it learns from → student → the same student without a teacher →
report.

Each stage resumes from its last checkpoint; a finished run says where its report is.
"""
import dataclasses
import functools
import itertools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill import predict, sharding, step, train
from distill.data import batches
from distill.disk import reach
from distill.evaluate import quality, report, tiers
from distill.export import huggingface
from distill.models.pure import Flat, Pure
from distill.pipelines import costs, plan, reasons
from distill.pipelines.setting import Setting, Trained, digest, setting
from distill.student import under
from distill.teachers import Weights
from distill.train import Run
from distill.types import Records


def run(config: Mapping[str, Any], this: Run) -> dict[str, Any]:
  """Trains what is not yet trained, measures every model, writes the report and returns it."""
  asked = {'student': config['tier']} if 'tier' in config else {}
  return carried_out(config, setting(config), asked, this)


def carried_out(config: Mapping[str, Any], told: Setting, asked: Mapping[str, str],
                this: Run) -> dict[str, Any]:
  """The same of a setting with one student or several, each followed by its baseline if it has one.

  `asked` are the tiers that students are to reach, '' for none.
  """
  limits = tiers.limits(told.evaluate.tiers, asked)
  sharding.once(lambda: plan.same_corpus(told.dataset, this))
  if sharding.once((this.workdir / 'report.json').exists):
    this.log.say(f'finished before: the report is {this.workdir / "report.html"}')
    return report.read(this.workdir)
  for note in told.dataset.notes:
    this.log.say(f'{told.dataset.name}: {note}')
  announced = plan.announce(told, this)

  models = [Model(name, 'teacher', pure, told.weights[name], (), None, None)
            for name, pure in told.loaded.items()]
  for trained in told.trained:
    name = trained.stage.name
    weights, spent = finished(trained, announced, told, this)
    if trained.role in ('teacher', 'assistant'):
      told.weights[name] = weights
    models.append(Model(name, trained.role, trained.stage.student.model, weights, trained.teachers,
                        trained.saw, spent))
  records = {split: {m.name: recorded(m, split, told, this) for m in models} for split in told.rows}
  this.stop_if_preempted()
  why = reasons.reasons(models, records[told.evaluate.split], told, this)
  sharding.once(lambda: report.write(
      this.workdir, tiers.judged(measured(config, told, models, records, why, this), limits, asked),
      this.log.rows()))
  return report.read(this.workdir)


@dataclasses.dataclass(frozen=True)
class Model:
  """A model that the report speaks of."""
  name: str
  role: str
  pure: Pure
  weights: Weights
  teachers: Sequence[str]
  saw: Mapping[str, int] | None
  spent: Mapping[str, float] | None         # None: loaded, not trained here


def finished(trained: Trained, announced: Mapping[str, tuple[train.Prepared, float]],
             told: Setting, run: Run) -> tuple[Weights, dict[str, float]]:
  """The stage's weights and what training took; they are exported, and shared if asked.

  The stages before it are trained first, each from what the last one left.
  """
  stage, shared = trained.stage, plan.shared(trained, run)
  if stage.name not in announced or plan.left(trained, run):
    run.log.say(f'{stage.name}: taken from {shared}, which an equal stage left')
    _, weights, card = predict.exported(str(shared))
    spent = card['training']
  else:
    evaluate, left, costs = scoring(stage.student.model, told), ({}, {}), []
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
          folder, weights, {**trained.card, 'training': spent}, told))
  return weights, spent


def following(stage: train.Stage, left: tuple[Flat, Flat]) -> tuple[Flat, Flat]:
  """How a stage starts: as it says, but with what the stage before it left."""
  return tuple(own | {path: there[path] for path in own if path in there}
               for own, there in zip(stage.start(), left, strict=True))


def shipped(folder: pathlib.Path, weights: Weights, card: Mapping[str, Any],
            told: Setting) -> None:
  """Exports a model without the parts that nothing trained, unless that was done before."""
  if not folder.exists():
    folder.parent.mkdir(parents=True, exist_ok=True)
    params = {path: array for path, array in weights[0].items()
              if path.split('/')[0] not in told.untrained}
    huggingface.write(folder, (params, weights[1]), card, told.dataset.tokenizer)


def scoring(model: Pure, told: Setting) -> Callable[[Flat, Flat], dict[str, float]]:
  """What `train.eval_every` logs: the task's metrics on the split of the evaluation."""
  eval_step = step.make_eval_step(model, told.layout, told.task.reads)
  rows = told.rows[told.evaluate.split]

  def scores(params: Flat, rest: Flat) -> dict[str, float]:
    weights = under(params, 'model/'), under(rest, 'model/')
    found = told.task.score(predict.records(eval_step, weights, rows, told.task, told.layout))
    return {f'{told.evaluate.split}/{name}': value for name, value in found.items()}
  return scores


def measured(config: Mapping[str, Any], told: Setting, models: Sequence[Model],
             records: Mapping[str, Mapping[str, Records]],
             why: Mapping[str, Mapping[str, Any]], run: Run) -> dict[str, Any]:
  """The report: quality from the saved records, cost from compiled calls, and `reasons`."""
  evaluate, data = told.evaluate, told.dataset
  judged = {split: judgements(models, of, told) for split, of in records.items()}
  main = judged.pop(evaluate.split)
  inits = {name: config['teachers'][name] for name in told.loaded}
  spent = costs.measured(models, told, costs.places(models, inits, run))

  def entry(model: Model) -> dict[str, Any]:
    return {'name': model.name, 'role': model.role, 'teachers': list(model.teachers),
            'saw': model.saw, **main[model.name], **spent[model.name], **why[model.name],
            'tier': None,
            **({'also': {split: of[model.name] for split, of in judged.items()}}
               if judged else {})}

  return {
      'schema': 1, 'config_name': run.name, 'config_sha256': digest(
          {key: value for key, value in config.items() if key not in ('mesh', 'tier')}, 64),
      'seed': config['seed'], 'versions': {**data.versions, **plan.versions()},
      'hardware': plan.hardware(),
      'data': {'name': data.name, 'fingerprint': data.fingerprint,
               'splits': {name: len(split) for name, split in data.splits.items()}},
      'padding_share': batches.padding_share(data.splits['train'], widths=told.widths),
      'task': {'primary': told.task.primary, 'split': evaluate.split},
      'models': [entry(m) for m in models],
      'training': {m.name: m.spent for m in models if m.spent}}


def judgements(models: Sequence[Model], records: Mapping[str, Records],
               told: Setting) -> dict[str, dict[str, Any]]:
  """Every model's quality on a split, what it kept of the teacher's and gained on the baseline."""
  resamples = told.evaluate.resamples
  scores = {name: quality.intervals(told.task, r, resamples=resamples)
            for name, r in records.items()}
  teacher = next((m.name for m in models if m.role == 'teacher'), None)
  chance = quality.chance(told.task, next(iter(records.values())))
  # A student's baseline is the model that follows it.
  baselines = {m.name: after.name for m, after in itertools.pairwise(models)
               if m.role == 'student' and after.role == 'baseline'}

  def judged(model: Model) -> dict[str, Any]:
    kept = teacher and model.role != 'teacher' and {
        'of': teacher, **quality.retention(scores[model.name], scores[teacher])}
    led = kept and chance and {
        'of': teacher, **quality.over_chance(scores[model.name], scores[teacher], chance)}
    baseline = baselines.get(model.name)
    gained = baseline and {'of': baseline, **quality.gain(
        told.task, records[model.name], records[baseline], resamples=resamples)}
    return {'quality': scores[model.name], 'retention': kept or None,
            'retention_over_chance': led or None, 'gain': gained or None}
  return {model.name: judged(model) for model in models}


def recorded(model: Model, split: str, told: Setting, run: Run) -> Records:
  """The model's records of a split, kept in `records/`; made once."""
  suffix = '' if split == told.evaluate.split else f'-{split}'
  eval_step = step.make_eval_step(model.pure, told.layout, told.task.reads)
  found = predict.kept(
      run.workdir / 'records' / f'{model.name}{suffix}.npz',
      lambda: predict.records(eval_step, model.weights, told.rows[split], told.task, told.layout))
  reach('recorded', model.name)
  return found
