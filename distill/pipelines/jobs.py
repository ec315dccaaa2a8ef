"""Jobs of a run: each makes a model from the models before it.

Weights are arguments and results: a job receives the models made so far, by name, and returns its
model. `Train` trains stages, `Load` opens a model, `Derive` changes a model without training.
"""
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from distill import checkpoint, compress, formats, records, sharding, step, train
from distill.data.sets import Split
from distill.modalities import Modality
from distill.models.functional import Flat, Functional
from distill.pipelines.judge import Judge, Model
from distill.runs import Run
from distill.student import subtree
from distill.teachers import Weights
from distill.train import Stage
from distill.types import Batch

PreparedStages = Mapping[str, tuple[train.Prepared, float]]   # by stage: program, FLOPs in all


@dataclasses.dataclass(frozen=True)
class Setup(Judge):
  """A run before anything is trained: its data and task, and its jobs in order."""
  modality: Modality                # of the data, with the widths that examples are padded to
  rows: Mapping[str, Sequence[Batch]]       # batches of the splits of the evaluation, main first
  jobs: tuple['Job', ...]           # teachers, each after those that it reads; students, baselines

  @property
  def trained(self) -> tuple['Train', ...]:
    """Jobs that train a model."""
    return tuple(job for job in self.jobs if isinstance(job, Train))

  @property
  def loaded(self) -> dict[str, Functional]:
    """Models of the teachers that aren't trained here, by name."""
    return {job.name: job.model for job in self.jobs if isinstance(job, Load)}


class Job(Protocol):
  """A step of a run that makes one model."""

  @property
  def name(self) -> str: ...

  def run(self, models: Mapping[str, Model], setup: Setup, prepared: PreparedStages,
          run: Run) -> Model:
    """Makes the model, or takes the files that an earlier start of the run left."""


def run_jobs(setup: Setup, prepared: PreparedStages, run: Run) -> list[Model]:
  """Runs every job; returns the models in the order of the report."""
  models: dict[str, Model] = {}
  for job in setup.jobs:
    models[job.name] = job.run(models, setup, prepared, run)
  return list(models.values())


@dataclasses.dataclass(frozen=True)
class Load:
  """The job of opening a teacher; `place` is its folder, and the arguments that the config changes.

  `reads` are fields of the model, each with the field of the data that replaces it.
  """
  name: str
  model: Functional
  weights: Weights
  card: Mapping[str, Any]
  place: Mapping[str, Any]
  reads: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def run(self, models: Mapping[str, Model], setup: Setup, prepared: PreparedStages,
          run: Run) -> Model:
    del models, prepared, run
    return Model(self.name, 'teacher', self.model, self.weights, self.card, self.place,
                 setup.modality, splits_for(setup, self.reads))


@dataclasses.dataclass(frozen=True)
class Train:
  """The job of training a model: its stages in order, and facts for its report and its card.

  The role is 'teacher', 'assistant' (a teacher that learns from others), 'student' or 'baseline'.
  `seen` are the numbers of examples, by their noun, and of labels. `idle` are the model's heads
  that no stage reads or starts from: an export leaves them out. `identity` is a hash of everything
  that determines its weights. `reads` are fields of the model, each with the field of the data
  that replaces it. `baseline_of` is the student whose baseline this is.
  """
  stages: tuple[Stage, ...]
  role: str
  card: Mapping[str, Any]
  seen: Mapping[str, int]
  idle: tuple[str, ...]
  identity: str
  baseline_of: str = ''
  reads: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def stage(self) -> Stage:
    """Last stage, which gives the model its name."""
    return self.stages[-1]

  @property
  def name(self) -> str:
    """Name of the model."""
    return self.stage.name

  @property
  def teachers(self) -> tuple[str, ...]:
    """Names of the teachers that any of its stages learns from."""
    return tuple(dict.fromkeys(t.name for stage in self.stages for t in stage.teachers))

  def on_layout(self, layout: sharding.Layout) -> 'Train':
    """Returns the job with its stages on another layout."""
    return dataclasses.replace(self, stages=tuple(
        dataclasses.replace(stage, layout=layout) for stage in self.stages))

  def run(self, models: Mapping[str, Model], setup: Setup, prepared: PreparedStages,
          run: Run) -> Model:
    model, place = self.stage.student.model, stage_cache(self, run)
    if self.name not in prepared or is_in_stage_cache(self, run):
      run.log.say(f'{self.name}: taken from {place}, which an equal stage left')
      _, weights, card = formats.load(str(place))
      cost = card['training']
    else:
      weights, cost = self._train(models, setup, prepared, run)
    for folder in filter(None, (run.workdir / 'export' / self.name, place)):
      sharding.on_first_process(functools.partial(
          _export_model, folder, self, weights, {**self.card, 'training': cost}, setup.modality))
    return Model(self.name, self.role, model, weights, self.card,
                 {'place': str(run.workdir / 'export' / self.name)}, setup.modality,
                 splits_for(setup, self.reads), teachers=[n for n in self.teachers if n in models],
                 baseline_of=self.baseline_of, seen=self.seen, training_cost=cost)

  def _train(self, models: Mapping[str, Model], setup: Setup, prepared: PreparedStages,
             run: Run) -> tuple[Weights, dict[str, float]]:
    """Trains each stage from the end of the one before; returns weights and the cost of all."""
    weights = {name: model.weights for name, model in models.items()}
    evaluate = make_scorer(self.stage.student.model, setup, self.reads)
    end, costs = ({}, {}), []
    for stage in self.stages:
      *end, cost = train.fit(dataclasses.replace(stage, evaluate=evaluate),
                             prepared[stage.name][0], weights, run, end)
      costs.append(cost)
    total = {name: sum(cost[name] for cost in costs) for name in costs[0]}
    total['flops'] = sum(prepared[stage.name][1] for stage in self.stages)
    return sharding.on_host(tuple(subtree(part, 'model/') for part in end)), total


@dataclasses.dataclass(frozen=True)
class Derive:
  """The job of changing a finished model without training.

  The changed model is written first and then read, so that the report measures the shipped file.
  """
  name: str
  source: str                       # the name of the model that is changed
  change: compress.Change

  def run(self, models: Mapping[str, Model], setup: Setup, prepared: PreparedStages,
          run: Run) -> Model:
    del prepared
    source, folder = models[self.source], run.workdir / 'export' / self.name
    if not sharding.on_first_process(folder.exists):
      run.log.say(f'{self.name}: made of {self.source}')
      sharding.on_first_process(lambda: self._write(folder, source))
    model, weights, card = formats.load(str(folder))
    student = models[source.baseline_of] if source.baseline_of else source
    teachers = [source.name] if source.role == 'teacher' else student.teachers
    return Model(self.name, 'derived', model, weights, card, {'place': str(folder)},
                 setup.modality, source.splits, teachers=teachers, seen=source.seen,
                 note=f'made of {self.source} without training: {self.change.about}')

  def _write(self, folder: pathlib.Path, source: Model) -> None:
    """Writes the changed model, without heads that the source's export lacks."""
    model, weights, card = formats.load(source.place['place'], f'derive.{self.name}.of',
                                        model=source.place.get('model'))
    model, (params, rest) = self.change(model, weights)
    params = {path: array for path, array in params.items() if path not in card['fresh']}
    if 'reads' in source.card:
      card = {**card, 'reads': source.card['reads']}
    folder.parent.mkdir(parents=True, exist_ok=True)
    formats.write(folder, formats.Shipped(model, (params, rest), card, source.modality))


def stage_cache(job: Train, run: Run) -> pathlib.Path | None:
  """Returns the folder in which equal jobs of several runs share what they trained."""
  return run.shared and run.shared / f'{job.name}-{job.identity}'


def is_in_stage_cache(job: Train, run: Run) -> bool:
  """Tells whether the cache has a job's model with every head that this run reads.

  It is not taken from there if this run has trained the model itself: a student that has begun
  must continue with the same teacher.
  """
  place, steps = stage_cache(job, run), job.stage.train['steps']
  is_trained = lambda: checkpoint.latest_step(train.folder(job.stage, run)) == steps
  is_usable = lambda: place.exists() and not missing_heads(job, place) and not is_trained()
  return bool(place and sharding.on_first_process(is_usable))


def missing_heads(job: Train, folder: pathlib.Path) -> set[str]:
  """Returns the heads that this run reads and that an export of an equal job left out."""
  fresh = formats.card_of(folder).get('fresh', ())
  return {path.split('/')[0] for path in fresh} - {*job.idle}


def _export_model(folder: pathlib.Path, job: Train, weights: Weights, card: Mapping[str, Any],
                  modality: Modality) -> None:
  """Exports a model without its idle heads, which the card lists as `fresh`.

  An earlier export stays, unless it lacks heads that this run reads.
  """
  if not folder.exists() or missing_heads(job, folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    params = {path: array for path, array in weights[0].items()
              if path.split('/')[0] not in job.idle}
    if fresh := sorted(weights[0].keys() - params.keys()):
      card = {**card, 'fresh': fresh}
    formats.write(folder, formats.Shipped(
        job.stage.student.model, (params, weights[1]), card, modality))


def splits_for(setup: Setup, reads: Mapping[str, str]) -> dict[str, Split]:
  """Returns the splits as a model reads them, with the fields that `reads` replaces."""
  return {name: split.reading(reads) for name, split in setup.dataset.splits.items()}


def make_scorer(model: Functional, setup: Setup,
                reads: Mapping[str, str]) -> Callable[[Flat, Flat], dict[str, float]]:
  """Returns the call for `train.eval_every`: the task's metrics on the evaluation's split."""
  eval_step = step.make_eval_step(model, setup.task.measure, setup.layout)
  split = setup.evaluate.split
  rows = setup.rows[split]
  if reads:
    rows = setup.batches(splits_for(setup, reads)[split], setup.modality)

  def scores(params: Flat, rest: Flat) -> dict[str, float]:
    weights = subtree(params, 'model/'), subtree(rest, 'model/')
    found = setup.task.score(records.collect(eval_step, weights, rows, setup.task,
                                            setup.layout, title=split))
    return {f'{split}/{name}': value for name, value in found.items()}
  return scores
