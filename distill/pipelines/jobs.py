"""The jobs of a run: each makes a model, of the models before it.

Weights are arguments and results: a job is given the models that there are, by name, and returns
its own. `Train` goes through stages, `Load` opens a model, `Derive` changes one without training.
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
from distill.pipelines.judging import Judging, Model
from distill.runs import Run
from distill.student import subtree
from distill.teachers import Weights
from distill.train import Stage
from distill.types import Batch

Announced = Mapping[str, tuple[train.Prepared, float]]    # by stage: its program, its FLOPs in all


@dataclasses.dataclass(frozen=True)
class Setting(Judging):
  """A run before anything is trained: its data and task, and its jobs in order."""
  modality: Modality                # of the data, with the widths that examples are padded to
  rows: Mapping[str, Sequence[Batch]]       # the batches of the splits to judge by, the main first
  jobs: tuple['Job', ...]           # teachers, each after those that it reads; students, baselines

  @property
  def trained(self) -> tuple['Train', ...]:
    return tuple(job for job in self.jobs if isinstance(job, Train))

  @property
  def loaded(self) -> dict[str, Functional]:
    """The teachers that aren't trained here."""
    return {job.name: job.model for job in self.jobs if isinstance(job, Load)}


class Job(Protocol):
  """What makes one model of a run."""

  @property
  def name(self) -> str: ...

  def run(self, models: Mapping[str, Model], setting: Setting, announced: Announced,
          run: Run) -> Model:
    """Makes the model, or takes what an earlier start of the run left of it."""


def run_jobs(setting: Setting, announced: Announced, run: Run) -> list[Model]:
  """Runs every job; returns the models in the order of the report."""
  models: dict[str, Model] = {}
  for job in setting.jobs:
    models[job.name] = job.run(models, setting, announced, run)
  return list(models.values())


@dataclasses.dataclass(frozen=True)
class Load:
  """A teacher that is there; `place` is where, and the arguments that the config changes.

  `reads` are fields of the model, each with the field of the data that it takes instead.
  """
  name: str
  model: Functional
  weights: Weights
  card: Mapping[str, Any]
  place: Mapping[str, Any]
  reads: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def run(self, models: Mapping[str, Model], setting: Setting, announced: Announced,
          run: Run) -> Model:
    del models, announced, run
    return Model(self.name, 'teacher', self.model, self.weights, self.card, self.place,
                 setting.modality, reading(setting, self.reads))


@dataclasses.dataclass(frozen=True)
class Train:
  """A model that is trained here: its stages in order, and what its report and its card say.

  The role is 'teacher', 'assistant' (a teacher that learns from others), 'student' or 'baseline'.
  `idle` are the model's heads that no stage reads or starts from: an export leaves them out.
  `identity` is a name for all that determines its weights, `reads` are fields of the model, each
  with the field of the data that it takes instead.
  """
  stages: tuple[Stage, ...]
  role: str
  card: Mapping[str, Any]
  saw: Mapping[str, int]            # examples, by what they are called, and labels
  idle: tuple[str, ...]
  identity: str
  baseline_of: str = ''             # the student whose baseline this is
  reads: Mapping[str, str] = dataclasses.field(default_factory=dict)

  @property
  def stage(self) -> Stage:
    """The last stage, by which the model is called."""
    return self.stages[-1]

  @property
  def name(self) -> str:
    return self.stage.name

  @property
  def teachers(self) -> tuple[str, ...]:
    """Whom it learns from, in any of its stages."""
    return tuple(dict.fromkeys(t.name for stage in self.stages for t in stage.teachers))

  def laid_out(self, layout: sharding.Layout) -> 'Train':
    """The same with its stages on another layout."""
    return dataclasses.replace(self, stages=tuple(
        dataclasses.replace(stage, layout=layout) for stage in self.stages))

  def run(self, models: Mapping[str, Model], setting: Setting, announced: Announced,
          run: Run) -> Model:
    model, place = self.stage.student.model, shared(self, run)
    if self.name not in announced or left(self, run):
      run.log.say(f'{self.name}: taken from {place}, which an equal stage left')
      _, weights, card = formats.load(str(place))
      spent = card['training']
    else:
      weights, spent = self._trained(models, setting, announced, run)
    for folder in filter(None, (run.workdir / 'export' / self.name, place)):
      sharding.on_first_process(functools.partial(
          _ship, folder, self, weights, {**self.card, 'training': spent}, setting.modality))
    return Model(self.name, self.role, model, weights, self.card,
                 {'place': str(run.workdir / 'export' / self.name)}, setting.modality,
                 reading(setting, self.reads), teachers=[n for n in self.teachers if n in models],
                 baseline_of=self.baseline_of, saw=self.saw, spent=spent)

  def _trained(self, models: Mapping[str, Model], setting: Setting, announced: Announced,
               run: Run) -> tuple[Weights, dict[str, float]]:
    """Trains each stage from what the one before it left; the weights and what all of them took."""
    weights = {name: model.weights for name, model in models.items()}
    evaluate, before, costs = scoring(self.stage.student.model, setting, self.reads), ({}, {}), []
    for stage in self.stages:
      *before, cost = train.fit(dataclasses.replace(stage, evaluate=evaluate),
                                announced[stage.name][0], weights, run, before)
      costs.append(cost)
    spent = {name: sum(cost[name] for cost in costs) for name in costs[0]}
    spent['flops'] = sum(announced[stage.name][1] for stage in self.stages)
    return sharding.on_host(tuple(subtree(part, 'model/') for part in before)), spent


@dataclasses.dataclass(frozen=True)
class Derive:
  """A model that a change makes of another, without training.

  It is written first, and then read: what the report measures is the file as it ships.
  """
  name: str
  of: str
  change: compress.Change

  def run(self, models: Mapping[str, Model], setting: Setting, announced: Announced,
          run: Run) -> Model:
    del announced
    of, folder = models[self.of], run.workdir / 'export' / self.name
    if not sharding.on_first_process(folder.exists):
      run.log.say(f'{self.name}: made of {self.of}')
      sharding.on_first_process(lambda: self._write(folder, of))
    model, weights, card = formats.load(str(folder))
    learnt = models[of.baseline_of] if of.baseline_of else of
    teachers = [of.name] if of.role == 'teacher' else learnt.teachers
    return Model(self.name, 'derived', model, weights, card, {'place': str(folder)},
                 setting.modality, of.splits, teachers=teachers, saw=of.saw,
                 note=f'made of {self.of} without training: {self.change.about}')

  def _write(self, folder: pathlib.Path, of: Model) -> None:
    """Writes what the change makes of a model as it ships, without the heads that it lacks."""
    model, weights, card = formats.load(of.place['place'], f'derive.{self.name}.of',
                                        model=of.place.get('model'))
    model, (params, rest) = self.change(model, weights)
    params = {path: array for path, array in params.items() if path not in card['fresh']}
    if 'reads' in of.card:
      card = {**card, 'reads': of.card['reads']}
    folder.parent.mkdir(parents=True, exist_ok=True)
    formats.write(folder, formats.Shipped(model, (params, rest), card, of.modality))


def shared(job: Train, run: Run) -> pathlib.Path | None:
  """Returns where a job and its equals of other runs leave for each other what they trained."""
  return run.shared and run.shared / f'{job.name}-{job.identity}'


def left(job: Train, run: Run) -> bool:
  """Returns whether an equal job left all that this run reads, and it has not trained its own.

  A student that has begun goes on with the very teacher that it began with.
  """
  place, steps = shared(job, run), job.stage.train['steps']
  own = lambda: checkpoint.latest_step(train.folder(job.stage, run)) == steps
  return bool(place and sharding.on_first_process(lambda: place.exists() and not lacking(job, place)
                                                  and not own()))


def lacking(job: Train, folder: pathlib.Path) -> set[str]:
  """Returns the heads that this run reads and that an export of an equal job left out."""
  fresh = formats.card_of(folder).get('fresh', ())
  return {path.split('/')[0] for path in fresh} - {*job.idle}


def _ship(folder: pathlib.Path, job: Train, weights: Weights, card: Mapping[str, Any],
          modality: Modality) -> None:
  """Exports a model without its idle heads, which the card lists as `fresh`.

  An export that is there stays, unless it lacks heads that this run reads.
  """
  if not folder.exists() or lacking(job, folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    params = {path: array for path, array in weights[0].items()
              if path.split('/')[0] not in job.idle}
    if fresh := sorted(weights[0].keys() - params.keys()):
      card = {**card, 'fresh': fresh}
    formats.write(folder, formats.Shipped(
        job.stage.student.model, (params, weights[1]), card, modality))


def reading(setting: Setting, reads: Mapping[str, str]) -> dict[str, Split]:
  """Returns the splits as a model reads them that takes other fields instead of its own."""
  return {name: split.reading(reads) for name, split in setting.dataset.splits.items()}


def scoring(model: Functional, setting: Setting,
            reads: Mapping[str, str]) -> Callable[[Flat, Flat], dict[str, float]]:
  """Returns what `train.eval_every` logs: the task's metrics on the split of the evaluation."""
  eval_step = step.make_eval_step(model, setting.task.measure, setting.layout)
  split = setting.evaluate.split
  rows = (setting.batches(reading(setting, reads)[split], setting.modality) if reads
          else setting.rows[split])

  def scores(params: Flat, rest: Flat) -> dict[str, float]:
    weights = subtree(params, 'model/'), subtree(rest, 'model/')
    found = setting.task.score(records.collect(eval_step, weights, rows, setting.task,
                                               setting.layout, title=split))
    return {f'{split}/{name}': value for name, value in found.items()}
  return scores
