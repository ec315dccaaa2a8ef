"""Builds the learners of a run from their nodes, each checked to fit before anything is trained."""
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
from distill.models.pure import Pure
from distill.pipelines import checks, exported, fields, heads, identities, nodes, sources
from distill.pipelines.epochs import in_steps
from distill.pipelines.identities import digest
from distill.pipelines.jobs import Train
from distill.pipelines.judging import BATCHING, Judging
from distill.student import with_projectors
from distill.teachers import Teacher
from distill.train import Stage
from distill.types import Batch, Status, Stop

MOST_NUMBERS = 2**40    # of one parameter: 4 TiB
Find = Callable[[Iterable[str]], tuple[Teacher, ...]]       # teachers by their names


@dataclasses.dataclass(frozen=True)
class Common:
  """What the learners of a run have in common.

  `batching` are the fields of the node `data` that order batches, whoever learns.
  """
  config: nodes.Judged
  judge: Judging
  modality: Modality
  batching: Mapping[str, Any]

  def data(self, learner: nodes.Learner, plan: Mapping[str, Any],
           where: str) -> tuple[Sequence[Batch], dict[str, int], Callable[[], int]]:
    """A stage's batches, how many examples and labels they show, a call for an epoch's steps."""
    split, steps = self.judge.dataset.splits['train'].reading(learner.reads), plan.get('steps')
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps < 2**31:
      raise Stop(Status.CONFIG, f'{where}.train.steps={steps!r} must be an int of at least 1, and '
                 'below 2**31')
    how = {**self.batching, **learner.how, 'labelled': learner.labelled, 'drawn': learner.drawn}
    size = how.get('batch_size')          # its absence is for `call` to say
    rows = lookup.call(batches.batches, how, 'data', split=split, steps=steps,
                       rows=self.judge.layout.rows(size) if isinstance(size, int) else None)
    labels = int(((split.index['hash01'] < learner.labelled) & split.known).sum())
    saw = {self.modality.noun: labels if learner.drawn == 1 else len(split), 'labels': labels}
    return rows, saw, functools.partial(batches.epoch_steps, split, **{
        key: value for key, value in how.items() if key != 'seed'})

  def model(self, node: Mapping[str, Any], where: str) -> tuple[Pure, dict[str, Any]]:
    """A model that fits the data, and its node with every size spelled out."""
    dataset, function = self.judge.dataset, lookup.find('models', node.get('name', ''),
                                                        f'{where}.name')
    taken = lookup.parameters(function)
    node = {**{k: tasks.plain(v) for k, v in dataset.facts.items() if k in taken}, **node}
    exported.check_sizes(node, dataset, where)
    if 'members' in node:
      node['members'] = {name: self.model(member, f'{where}.members.{name}')[1]
                         for name, member in node['members'].items()}
    model = Pure(lambda rngs: lookup.build('models', node, where, rngs=rngs))
    for path, like in model.shapes[0].items():
      if math.prod(like.shape) >= MOST_NUMBERS:
        raise Stop(Status.CONFIG, f'{where}: {path} {list(like.shape)} is too large')
    return model, node

  def carries(self, learner: nodes.Learner, read: Collection[str]) -> dict[str, Carry]:
    """Builds the carries that are among the paths which a stage reads."""
    dataset = self.judge.dataset
    index, facts = dataset.splits['train'].index, dict(dataset.facts)
    if 'label' in index:
      facts['labels'] = np.where(index['hash01'] < learner.labelled, index['label'], -1)
    where = _prefixed(learner.where, 'carry')
    found = {name: lookup.build('carry', spec, f'{where}.{name}', **facts)
             for name, spec in learner.carry.items() if objective.among('carry', name, read)}
    for name, carry in found.items():
      checks.check_carry(carry, f'{where}.{name}')
    return found

  def card(self, node: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's export says about it."""
    data = self.judge.dataset
    return {'model': dict(node), 'classes': list(data.names), **modalities.card(self.modality),
            'task': dict(self.judge.task_node), 'data': data.name, 'fingerprint': data.fingerprint}

  def identity(self, part: Mapping[str, Any], **of: Any) -> str:
    """A name for all that determines weights; `part` is what of the config describes them."""
    data = self.judge.dataset
    part = {'data': {'name': self.config.data['name']}, 'task': self.config.task, **part}
    modules = {f'{__package__}.setting', Stage.__module__, type(self.modality).__module__,
               *fields.modules(part)}
    return digest({
        'seed': self.config.seed, 'data': data.fingerprint, 'sizes': data.sizes,
        'inputs': self.modality.card(), 'task': dict(self.judge.task_node),
        'batching': self.batching, 'jax': jax.__version__, 'config': fields.essential(part),
        'code': identities.sources(modules), **of})


def common(config: nodes.Judged, judge: Judging) -> Common:
  """Reads how batches are ordered, and what examples are padded to."""
  split = judge.dataset.splits['train']
  batching = {key: config.data[key] for key in BATCHING
              if key in config.data and key not in ('labelled', 'drawn')}
  widths = lookup.call(batches.checked_widths, {k: v for k, v in batching.items() if k == 'widths'},
                       'data', split=split)
  return Common(config, judge, modalities.bucketed(judge.dataset.modality, widths), batching)


def train(learner: nodes.Learner, model: Pure, node: Mapping[str, Any], start: exported.Start,
          find: Find, known: Collection[str], of: Common) -> Train:
  """Builds the stages of a learner; `known` are the names that teachers may have.

  `node` is that of its model, and `start` gives what a stage's student begins with. The identity
  is left to the caller, and so is the role of all but teachers.
  """
  stages = tuple(
      _stage(learner, where, model, start, find, known, of) for where in learner.stages)
  stages, saws = zip(*stages, strict=True)
  teachers = any(stage.teachers for stage in stages)
  card = of.card(node) | ({'reads': dict(learner.reads)} if learner.reads else {})
  return Train(stages, 'assistant' if teachers else 'teacher', card, saws[-1],
               heads.idle(of.judge.task, model, {path for stage in stages for path in read(stage)}),
               identity='', reads=learner.reads)


def read(stage: Stage) -> dict[str, str]:
  """Returns the paths of the views that a stage reads, each with where that is written."""
  found = {path: term.where for term in stage.terms for path in term.paths}
  for name, carry in stage.carries.items():
    found |= {path: f'carry.{name}' for path in objective.paths(carry.reads)}
  for change in stage.augment:
    found |= dict.fromkeys(objective.paths(getattr(change, 'reads', ())), f'{stage.where}.augment')
  for name, projector in stage.student.projectors.items():
    found |= {path: f'{stage.student.where}.projectors.{name}' for path in projector.reads}
  return found


def _stage(learner: nodes.Learner, where: str, model: Pure, start: exported.Start, find: Find,
           known: Collection[str], of: Common) -> tuple[Stage, dict[str, int]]:
  """One stage, and how many examples and labels it shows."""
  node, last = learner.stages[where], where == next(reversed(learner.stages))
  node_path, where = (learner.node_path if last else where), where or 'config'
  data, saw, epoch = of.data(learner, node.train, where)
  path = _prefixed(learner.where, 'schedules')
  schedules = {name: lookup.build('schedules', spec, f'{path}.{name}')
               for name, spec in in_steps(learner.schedules, epoch, path).items()}
  path = _prefixed(node_path, 'objective')
  terms = objective.terms_from(in_steps(node.objective, epoch, path), path)
  checks.check_labels(terms, saw, of.judge.dataset.splits['train'].fields)
  augment, asked = sources.augments(node.augment, node_path or 'config', of.judge.dataset.facts)
  paths = {path: term.where for term in terms for path in term.paths} | asked
  carries = of.carries(learner, paths) if last else {}
  paths |= {path: f'carry.{name}' for name, carry in carries.items()
            for path in objective.paths(carry.reads)}
  specs = {name: spec for name, spec in learner.projectors.items()
           if objective.among('projected', name, paths)}
  paths |= {path: f'{learner.where}.projectors.{name}' for name, spec in specs.items()
            for path in objective.paths(spec.get('reads', ()))}
  teachers = find(_among_teachers(paths, known))
  checks.check_inputs(node.augment, teachers, node_path or 'config')
  averages = sources.averages(teachers)
  if averages and not last:
    raise Stop(Status.CONFIG, f'{where}: it reads the teacher of {min(averages)}, and carries are '
               'for the last stage alone')
  carries |= of.carries(learner, averages)
  views = sources.views(model, teachers, data, of.modality, schedules) if specs else {}
  student = with_projectors(model, specs, learner.frozen if node.frozen is None else node.frozen,
                            views, learner.where)
  if augment:                         # they may perturb what it reads
    student = dataclasses.replace(student, probe=of.modality.probe(model, model.shapes))
  return Stage(
      name=learner.name if last else f'{learner.name}-{where.rpartition(".")[2]}',
      seed=learner.seed, student=student, terms=terms, data=data, train=node.train,
      start=functools.partial(start, student), teachers=teachers, optimizer=node.optimizer,
      schedules=schedules, where=where, node_path=node_path or 'config', carries=carries,
      prepare=of.modality.prepare, layout=of.judge.layout, augment=augment), saw


def _among_teachers(paths: Mapping[str, str], known: Collection[str]) -> list[str]:
  """The teachers whose views are among these paths, each given with where it is read."""
  views = {path.partition('/')[0] for path in paths}
  names = {*objective.OWN_VIEWS, *known}
  for path, where in paths.items():
    if (view := path.partition('/')[0]) not in names:
      raise Stop(Status.MISFIT, f'{where}: {path!r} names no view' + lookup.nearest(view, names))
  return [name for name in known if name in views]


def _prefixed(where: str, name: str) -> str:
  """The path of a node of a learner: a student's are those of the config itself."""
  return f'{where}.{name}' if where not in ('', 'student') else name
