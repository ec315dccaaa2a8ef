"""Judge: data, task and splits by which models are evaluated; and a model of the report."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from distill import lookup, objective, sharding, step, tasks
from distill.data import batches
from distill.data.sets import Dataset, Split
from distill.modalities import Modality
from distill.models.functional import check_ids
from distill.pipelines import nodes
from distill.tasks import Task
from distill.teachers import Weights
from distill.types import Batch, Status, Stop

# Fields of the node `data` that order batches; its other fields say what the examples are.
BATCHING = ('batch_size', 'seed', 'labelled', 'drawn', 'widths')


@dataclasses.dataclass(frozen=True)
class Judge:
  """A task over splits of a data set, the main split first."""
  dataset: Dataset
  task: Task
  task_node: Mapping[str, Any]      # the task's node with the facts that it takes, for cards
  evaluate: nodes.Evaluate
  layout: sharding.Layout

  @property
  def splits(self) -> tuple[str, ...]:
    """Names of the splits on which models are evaluated."""
    return tuple(dict.fromkeys((self.evaluate.split, *self.evaluate.also)))

  def ask(self, model: 'Model') -> Callable:
    """Returns the compiled call by which a model answers a batch."""
    return step.make_eval_step(model.pure, self.task.measure, self.layout)

  def batches(self, split: Split, modality: Modality) -> Sequence[Batch]:
    """Returns a split's batches, prepared for model and task, padded to the modality's widths."""
    rows = lookup.call(batches.in_order, {'widths': dict(modality.widths)}, 'data', split=split,
                       batch_size=self.evaluate.batch_size)
    return rows.map(modality.prepare).map(self.task.prepare)

  def check(self, model: Callable, weights: Any, split: Split, modality: Modality,
            where: str) -> None:
    """Stops unless the task can evaluate a model's outputs; `weights` may be shapes.

    The task is tried on outputs of zeros, so an output that it lacks is known before training.
    """
    batch, task = self.batches(split, modality)[0], f'task={self.task_node["name"]!r}'

    def measure(weights, batch):
      def ask(given):
        outputs = model(*weights, given, train=False, key=None)[0]
        for name in self.task.outputs:
          objective.find_array({where: outputs}, f'{where}/{name}', task)
        return outputs
      return self.task.measure(ask, batch)
    check_ids(model, batch, where)
    try:
      found = jax.eval_shape(measure, weights, batch)
      with np.errstate(all='ignore'):
        self.task.records(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), found), batch)
    except KeyError as error:
      raise Stop(Status.MISFIT, f'{where}: {task} reads {error}, which is neither a field of '
                 f'{self.dataset.name} nor an output of the model') from error
    except ValueError as error:
      raise Stop(Status.MISFIT, f'{where}: {task}: {error}') from error


@dataclasses.dataclass(frozen=True)
class Model:
  """A model of the report.

  `place` is what `formats.open_model` takes. `splits` are the examples as the model reads them, by
  its `modality`, which has the widths that they are padded to. `seen` are the numbers of examples
  and labels that it was trained on, `training_cost` its seconds, steps, examples and FLOPs; both
  are None if its training isn't known. `note` is for the report's readers. `baseline_of` is the
  student whose baseline the model is.
  """
  name: str
  role: str
  pure: Callable
  weights: Weights
  card: Mapping[str, Any]
  place: Mapping[str, Any]
  modality: Modality
  splits: Mapping[str, Split]
  teachers: Sequence[str] = ()
  seen: Mapping[str, int] | None = None
  training_cost: Mapping[str, float] | None = None
  note: str = ''
  baseline_of: str = ''


def teacher_of(model: Model, models: Sequence[Model]) -> Model | None:
  """Returns the teacher that a model is compared with; None for a teacher, or if there is none.

  It is the first teacher among `models` that the model learnt from, or else the first of all. A
  baseline is compared with its student's teacher.
  """
  if model.role == 'teacher':
    return None
  if model.baseline_of:
    model = next(m for m in models if m.name == model.baseline_of)
  teachers = {m.name: m for m in models if m.role == 'teacher'}
  learnt_from = (teachers[name] for name in model.teachers if name in teachers)
  return next(learnt_from, next(iter(teachers.values()), None))


def source(data: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the part of a node `data` that says what the examples are."""
  return {key: value for key, value in data.items() if key not in BATCHING}


def make_judge(config: nodes.EvalConfig, dataset: Dataset | None = None) -> Judge:
  """Reads the data, unless it is given, and checks that models can be evaluated on it."""
  layout = lookup.call(sharding.layout, config.mesh, 'mesh', devices=None)
  dataset = dataset or lookup.build('data', source(config.data), 'data')
  evaluate = lookup.call(nodes.Evaluate, config.evaluate, 'evaluate')
  splits = {evaluate.split: 'evaluate.split', **dict.fromkeys(evaluate.also, 'evaluate.also')}
  for name, where in splits.items():
    if name not in dataset.splits or not len(dataset.splits[name]):
      raise Stop(Status.DATA, f'{where}: {dataset.name} has no examples in a split {name!r}'
                 + lookup.nearest(name, dataset.splits))
  task = _task(config.task, dataset)
  for name, where in splits.items():
    if task.labelled and not dataset.splits[name].known.all():
      raise Stop(Status.DATA, f'{where}={name!r} of {dataset.name} has no labels to judge by: '
                 f'choose one of {", ".join(dataset.splits)} that has')
  layout.local_rows(evaluate.batch_size, 'evaluate.batch_size')
  return Judge(dataset, task, tasks.card_node(config.task, dataset.facts), evaluate, layout)


def _task(node: Mapping[str, Any], dataset: Dataset) -> Task:
  """Builds the task of a config after checking that the data has the facts that it needs."""
  if 'name' in node:
    for name, parameter in lookup.parameters(
        lookup.find('tasks', node['name'], 'task.name')).items():
      if parameter.default is parameter.empty and name not in (*node, *dataset.facts):
        raise Stop(Status.CONFIG, f'task={node["name"]!r} needs {name}, and {dataset.name} '
                   f'({dataset.modality.noun}) has none: choose a task that can judge them')
  return lookup.build('tasks', node, 'task', **dataset.facts)
