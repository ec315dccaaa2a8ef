"""What models are judged by, and a model that is."""
import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill import lookup, sharding, step
from distill.data import batches
from distill.data.sets import Dataset, Split
from distill.models.pure import Pure
from distill.models.stablehlo import Program
from distill.pipelines import nodes
from distill.teachers import Weights
from distill.types import Batch, Status, Stop

BATCHING = ('batch_size', 'seed', 'labelled', 'drawn', 'widths')    # of `data`, beside its source's


@dataclasses.dataclass(frozen=True)
class Judging:
  """A task over splits of a data set, the main one first."""
  dataset: Dataset
  task: Any
  evaluate: nodes.Evaluate
  layout: sharding.Layout

  @property
  def splits(self) -> tuple[str, ...]:
    """The names of those to judge by."""
    return tuple(dict.fromkeys((self.evaluate.split, *self.evaluate.also)))

  @property
  def untrained(self) -> tuple[str, ...]:
    """The parts of a model that nothing trains, for the task doesn't look at them."""
    return () if 'logits' in self.task.reads else ('head', 'pooler')

  def ask(self, model: 'Model') -> Callable:
    """The compiled call by which a model answers a batch."""
    return step.make_eval_step(model.pure, self.layout, self.task.reads)

  def batches(self, split: Split, widths: Sequence[int]) -> Sequence[Batch]:
    """A split's batches as the task wants them."""
    rows = lookup.call(batches.in_order, {'widths': widths}, 'data', split=split,
                       batch_size=self.evaluate.batch_size)
    return rows.map(self.task.prepare) if self.task.prepare else rows


@dataclasses.dataclass(frozen=True)
class Model:
  """A model that the report speaks of.

  `place` is what `predict.opened` takes, `dataset` has the examples as the model reads them,
  and texts are padded to `widths`. `spent` is None for a model whose training isn't known,
  `program` what a program's card says of its weights, `note` what readers must know.
  """
  name: str
  role: str
  pure: Pure | Program
  weights: Weights
  place: Mapping[str, Any]
  dataset: Dataset
  widths: tuple[int, ...] = ()
  teachers: Sequence[str] = ()
  saw: Mapping[str, int] | None = None
  spent: Mapping[str, float] | None = None
  program: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  note: str = ''


def teacher_of(model: Model, models: Sequence[Model]) -> Model | None:
  """Whom a model is held against: of the teachers among `models` the first that it learnt from, or
  else the first; of a baseline, its student's. None for a teacher, and where there is none.
  """
  if model.role == 'teacher':
    return None
  if model.role == 'baseline':
    model = next((m for m, after in itertools.pairwise(models) if after.name == model.name), model)
  teachers = {m.name: m for m in models if m.role == 'teacher'}
  own = (teachers[name] for name in model.teachers if name in teachers)
  return next(own, next(iter(teachers.values()), None))


def source(data: Mapping[str, Any]) -> dict[str, Any]:
  """The part of a node `data` that says what the examples are."""
  return {key: value for key, value in data.items() if key not in BATCHING}


def judging(config: nodes.Judged, dataset: Dataset | None = None) -> Judging:
  """Reads the data, unless it is there, and checks that it can be judged by."""
  layout = lookup.call(sharding.layout, config.mesh, 'mesh', devices=None)
  dataset = dataset or lookup.build('data', source(config.data), 'data')
  evaluate = lookup.call(nodes.Evaluate, config.evaluate, 'evaluate')
  judged = {evaluate.split: 'evaluate.split', **dict.fromkeys(evaluate.also, 'evaluate.also')}
  for name, where in judged.items():
    if name not in dataset.splits or not len(dataset.splits[name]):
      raise Stop(Status.DATA, f'{where}: {dataset.name} has no examples in a split {name!r}'
                 + lookup.nearest(name, dataset.splits))
  task = lookup.build('tasks', config.task, 'task', classes=dataset.sizes['classes'],
                      names=dataset.classes, special=dataset.special)
  for name, where in judged.items():
    if task.labelled and not dataset.splits[name].known.all():
      raise Stop(Status.DATA, f'{where}={name!r} of {dataset.name} has no labels to judge by: '
                 f'choose one of {", ".join(dataset.splits)} that has')
  layout.rows(evaluate.batch_size, 'evaluate.batch_size')
  return Judging(dataset, task, evaluate, layout)
