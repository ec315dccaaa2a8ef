"""Training jobs built from the nodes of learners, each checked to fit before any training."""
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from distill import lookup, modalities, objective, tasks
from distill.carry import Carry
from distill.data import batches
from distill.modalities import Modality
from distill.models.functional import Functional
from distill.pipelines import checks, fields, fits, heads, identities, nodes, sources
from distill.pipelines.epochs import in_steps
from distill.pipelines.identities import digest
from distill.pipelines.jobs import Train
from distill.pipelines.judge import BATCHING, Judge
from distill.student import build_student
from distill.teachers import Teacher
from distill.train import Stage
from distill.types import Batch, Status, Stop

MOST_NUMBERS = 2**40    # of one parameter: 4 TiB
Find = Callable[[Iterable[str]], tuple[Teacher, ...]]       # teachers by their names


@dataclasses.dataclass(frozen=True)
class Common:
  """Data, task and batching that the learners of a run have in common.

  `batching` are the fields of the node `data` that order batches.
  """
  config: nodes.EvalConfig
  judge: Judge
  modality: Modality
  batching: Mapping[str, Any]

  def data(self, learner: nodes.Learner, train: Mapping[str, Any],
           where: str) -> tuple[Sequence[Batch], dict[str, int], Callable[[], int]]:
    """Returns a stage's batches, its numbers of examples and labels, and a call: steps an epoch.

    `train` is the stage's node of that name.
    """
    split, steps = self.judge.dataset.splits['train'].reading(learner.reads), train.get('steps')
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps < 2**31:
      raise Stop(Status.CONFIG, f'{where}.train.steps={steps!r} must be an int of at least 1, and '
                 'below 2**31')
    batching = {**self.batching, **learner.batching, 'labelled': learner.labelled,
                'drawn': learner.drawn}
    size = batching.get('batch_size')     # `call` stops if it is missing
    rows = lookup.call(batches.shuffled, batching, 'data', split=split, steps=steps,
                       rows=self.judge.layout.local_rows(size) if isinstance(size, int) else None)
    labels = int(((split.index['hash01'] < learner.labelled) & split.known).sum())
    seen = {self.modality.noun: labels if learner.drawn == 1 else len(split), 'labels': labels}
    return rows, seen, functools.partial(batches.epoch_steps, split, **{
        key: value for key, value in batching.items() if key != 'seed'})

  def model(self, node: Mapping[str, Any], where: str) -> tuple[Functional, dict[str, Any]]:
    """Returns a model that fits the data, and its node with every size."""
    dataset = self.judge.dataset
    taken = lookup.parameters(lookup.find('models', node.get('name', ''), f'{where}.name'))
    node = {**{k: tasks.plain(v) for k, v in dataset.facts.items() if k in taken}, **node}
    fits.check_sizes(node, dataset, where)
    if 'members' in node:
      node['members'] = {name: self.model(member, f'{where}.members.{name}')[1]
                         for name, member in node['members'].items()}
    model = Functional(lambda rngs: lookup.build('models', node, where, rngs=rngs))
    for path, like in model.shapes[0].items():
      if math.prod(like.shape) >= MOST_NUMBERS:
        raise Stop(Status.CONFIG, f'{where}: {path} {list(like.shape)} is too large')
    return model, node

  def carries(self, learner: nodes.Learner, read: Collection[str]) -> dict[str, Carry]:
    """Builds the carries that are among the paths that a stage reads."""
    dataset = self.judge.dataset
    index, facts = dataset.splits['train'].index, dict(dataset.facts)
    if 'label' in index:
      facts['labels'] = np.where(index['hash01'] < learner.labelled, index['label'], -1)
    where = _prefixed(learner.where, 'carry')
    found = {name: lookup.build('carry', spec, f'{where}.{name}', **facts)
             for name, spec in learner.carry.items() if objective.names_view('carry', name, read)}
    for name, carry in found.items():
      checks.check_carry(carry, f'{where}.{name}')
    return found

  def card(self, node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the card of a model's export."""
    data = self.judge.dataset
    return {'model': dict(node), 'classes': list(data.names), **modalities.card(self.modality),
            'task': dict(self.judge.task_node), 'data': data.name, 'fingerprint': data.fingerprint}

  def identity(self, part: Mapping[str, Any], **more: Any) -> str:
    """Returns a hash of everything that determines weights; `part` is the part of the config."""
    data = self.judge.dataset
    part = {'data': {'name': self.config.data['name']}, 'task': self.config.task, **part}
    modules = {f'{__package__}.setup', Stage.__module__, type(self.modality).__module__,
               *fields.modules(part)}
    return digest({
        'seed': self.config.seed, 'data': data.fingerprint, 'sizes': data.sizes,
        'inputs': self.modality.card(), 'task': dict(self.judge.task_node),
        'batching': self.batching, 'jax': jax.__version__, 'config': fields.essential(part),
        'code': identities.sources(modules), **more})


def common(config: nodes.EvalConfig, judge: Judge) -> Common:
  """Reads how batches are ordered, and the widths that examples are padded to."""
  split = judge.dataset.splits['train']
  batching = {key: config.data[key] for key in BATCHING
              if key in config.data and key not in ('labelled', 'drawn')}
  widths = lookup.call(batches.axis_widths, {k: v for k, v in batching.items() if k == 'widths'},
                       'data', split=split)
  return Common(config, judge, modalities.with_widths(judge.dataset.modality, widths), batching)


def train(learner: nodes.Learner, model: Functional, node: Mapping[str, Any], start: fits.Start,
          find: Find, known: Collection[str], common: Common) -> Train:
  """Builds the job that trains a learner, as a teacher or an assistant, without an identity.

  The caller sets the identity, and the role of a student.

  Args:
    node: the node of its model.
    start: makes the parameters with which a stage's student begins.
    find: returns teachers by name.
    known: the names that teachers may have.
  """
  stages = [_stage(learner, where, model, start, find, known, common) for where in learner.stages]
  stages, seen = zip(*stages, strict=True)
  teachers = any(stage.teachers for stage in stages)
  card = common.card(node)
  if learner.reads:
    card['reads'] = dict(learner.reads)
  idle = heads.idle(common.judge.task, model,
                    {path for stage in stages for path in views_read(stage)})
  return Train(stages, 'assistant' if teachers else 'teacher', card, seen[-1], idle, identity='',
               reads=learner.reads)


def views_read(stage: Stage) -> dict[str, str]:
  """Returns the paths of the views that a stage reads, each with the config path that says so."""
  found = {path: term.where for term in stage.terms for path in term.paths}
  for name, carry in stage.carries.items():
    found |= {path: f'carry.{name}' for path in objective.path_tuple(carry.reads)}
  for change in stage.augment:
    read = objective.path_tuple(getattr(change, 'reads', ()))
    found |= dict.fromkeys(read, f'{stage.where}.augment')
  for name, projector in stage.student.projectors.items():
    found |= {path: f'{stage.student.where}.projectors.{name}' for path in projector.reads}
  return found


def _stage(learner: nodes.Learner, where: str, model: Functional, start: fits.Start, find: Find,
           known: Collection[str], common: Common) -> tuple[Stage, dict[str, int]]:
  """Builds one stage; also returns its numbers of examples and labels."""
  node, last = learner.stages[where], where == next(reversed(learner.stages))
  node_path, where = (learner.node_path if last else where), where or 'config'
  data, seen, epoch = common.data(learner, node.train, where)
  path = _prefixed(learner.where, 'schedules')
  schedules = {name: lookup.build('schedules', spec, f'{path}.{name}')
               for name, spec in in_steps(learner.schedules, epoch, path).items()}
  path = _prefixed(node_path, 'objective')
  terms = objective.terms_from(in_steps(node.objective, epoch, path), path)
  checks.check_labels(terms, seen, common.judge.dataset.splits['train'].fields)
  augment, asked = sources.build_augments(node.augment, node_path or 'config',
                                          common.judge.dataset.facts)
  paths = {path: term.where for term in terms for path in term.paths} | asked
  carries = common.carries(learner, paths) if last else {}
  paths |= {path: f'carry.{name}' for name, carry in carries.items()
            for path in objective.path_tuple(carry.reads)}
  specs = {name: spec for name, spec in learner.projectors.items()
           if objective.names_view('projected', name, paths)}
  paths |= {path: f'{learner.where}.projectors.{name}' for name, spec in specs.items()
            for path in objective.path_tuple(spec.get('reads', ()))}
  teachers = find(_among_teachers(paths, known))
  checks.check_inputs(augment, [change['name'] for change in node.augment], teachers,
                      node_path or 'config')
  averages = sources.average_paths(teachers)
  if averages and not last:
    raise Stop(Status.CONFIG, f'{where}: it reads the teacher of {min(averages)}, and carries are '
               'for the last stage alone')
  carries |= common.carries(learner, averages)
  views = (sources.projector_inputs(model, teachers, data, common.modality, schedules)
           if specs else {})
  student = build_student(model, specs, learner.frozen if node.frozen is None else node.frozen,
                          views, learner.where)
  if augment:                         # which may perturb the student's inputs
    student = dataclasses.replace(student, probe=common.modality.probe(model, model.shapes))
  return Stage(
      name=learner.name if last else f'{learner.name}-{where.rpartition(".")[2]}',
      seed=learner.seed, student=student, terms=terms, data=data, train=node.train,
      start=functools.partial(start, student), teachers=teachers, optimizer=node.optimizer,
      schedules=schedules, where=where, node_path=node_path or 'config', carries=carries,
      prepare=common.modality.prepare, layout=common.judge.layout, augment=augment), seen


def _among_teachers(paths: Mapping[str, str], known: Collection[str]) -> list[str]:
  """Returns the teachers whose views are among these paths; values say where a path is written."""
  views = {path.partition('/')[0] for path in paths}
  names = {*objective.BUILT_IN_VIEWS, *known}
  for path, where in paths.items():
    view = path.partition('/')[0]
    if view not in names:
      raise Stop(Status.MISFIT, f'{where}: {path!r} names no view' + lookup.nearest(view, names))
  return [name for name in known if name in views]


def _prefixed(where: str, name: str) -> str:
  """Returns the path of a learner's node; a student's nodes are at the top of the config."""
  return f'{where}.{name}' if where not in ('', 'student') else name
