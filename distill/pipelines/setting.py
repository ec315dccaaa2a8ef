"""From a config to what it describes: data, task, and the stages to train, checked to fit."""
import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill import checkpoint, lookup, modalities, objective, tasks
from distill.carry import Carry
from distill.data import batches
from distill.modalities import Modality
from distill.models.pure import Flat, Pure
from distill.pipelines import exported, fields, heads, identities, nodes
from distill.pipelines.baseline import without
from distill.pipelines.checks import check_inputs, check_labels
from distill.pipelines.epochs import in_steps
from distill.pipelines.heads import check_heads
from distill.pipelines.identities import digest
from distill.pipelines.judging import BATCHING, Judging, judging, source
from distill.student import Student, with_projectors
from distill.teachers import Cached, Live, Teacher, Weights
from distill.train import Stage
from distill.types import SEEDS, Batch, Schedule, Status, Stop

MOST_NUMBERS = 2**40    # of one parameter: 4 TiB
TAKEN = ('student', 'baseline', *objective.OWN_VIEWS)               # no names for teachers


@dataclasses.dataclass(frozen=True)
class Trained:
  """A stage; its part of the report; its model's card; and a name for all that determines it.

  The role is 'teacher', 'assistant' (a teacher that learns from others), 'student' or 'baseline'.
  `before` are the stages that come first, in order; their models are no part of the report.
  `idle` are the model's heads that no stage reads or starts from: an export leaves them out.
  """
  stage: Stage
  role: str
  card: Mapping[str, Any]
  saw: Mapping[str, int]            # examples, by what they are called, and labels
  idle: tuple[str, ...]
  identity: str
  before: tuple[Stage, ...] = ()

  @property
  def stages(self) -> tuple[Stage, ...]:
    return *self.before, self.stage

  @property
  def teachers(self) -> tuple[str, ...]:
    """Whom it learns from, in any of its stages."""
    return tuple(dict.fromkeys(t.name for stage in self.stages for t in stage.teachers))


@dataclasses.dataclass(frozen=True)
class Setting(Judging):
  """All of a run before anything is trained.

  The stages of student and baseline share `weights`, which fills as teachers finish.
  """
  modality: Modality                # of the data, with the widths that examples are padded to
  rows: Mapping[str, Sequence[Batch]]       # the batches of the splits to judge by, the main first
  loaded: Mapping[str, Pure]        # teachers that aren't trained here
  trained: tuple[Trained, ...]      # teachers, each after those that it reads; student, baseline
  weights: dict[str, Weights]


def setting(node: Mapping[str, Any], beside: Setting | None = None) -> Setting:
  """Reads a resolved config, loads its data and builds its stages; nothing is compiled.

  It shares data and `weights` with the setting that it stands `beside`, which has the same.
  """
  config = lookup.call(nodes.Config, node, 'config')
  told = judging(config, beside.dataset if beside else None)
  dataset = told.dataset
  if not len(dataset.splits.get('train', ())):
    raise Stop(Status.DATA, f"data: {dataset.name} has no examples in a split 'train'"
               + lookup.nearest('train', dataset.splits))
  build = _Builder(config, told, beside.weights if beside else {})
  for name in config.teachers:
    build.teacher(name)
  students = build.students()
  trained = (*build.read_teachers(), *students)
  rows = {name: told.batches(dataset.splits[name], build.modality) for name in told.splits}
  return Setting(dataset, told.task, told.task_node, told.evaluate, told.layout, build.modality,
                 rows, build.loaded, trained, build.weights)


class _Builder:
  """Stages over one data set."""

  def __init__(self, config: nodes.Config, told: Judging, weights: dict[str, Weights]):
    self.config, self.told = config, told
    self.dataset, self.layout = told.dataset, told.layout
    self.batching = {key: config.data[key] for key in BATCHING if key in config.data}
    self.labelled = self.batching.pop('labelled', 1.0)
    self.drawn = self.batching.pop('drawn', 0.0)
    widths = lookup.call(batches.checked_widths, {k: v for k, v in self.batching.items()
                                                  if k == 'widths'}, 'data',
                         split=self.dataset.splits['train'])
    self.modality = modalities.bucketed(self.dataset.modality, widths)
    self.nodes = {}                   # of models, by where they are described
    self.specs, self.teachers, self.identities = {}, {}, {}     # of teachers, by name
    self.contents = {}                # the sha256 of what was loaded of them, by name
    self.trained, self.loaded, self.weights = [], {}, weights   # of those, as `Setting` has them
    self.fresh, self.paths = {}, set()      # what loaded teachers lack, by name; what stages read
    for name, spec in config.teachers.items():
      if name in TAKEN or name.startswith(('student-', 'baseline-')):
        raise Stop(Status.CONFIG, f'teachers.{name}: {name!r} is taken; call the teacher something '
                   'else')
      self.specs[name] = lookup.call(nodes.TeacherNode, spec, f'teachers.{name}')

  def teacher(self, name: str, readers: tuple[str, ...] = ()) -> Teacher:
    """Adds a teacher, after those that it reads itself; each of `readers` reads the next one."""
    spec, where = self.specs[name], f'teachers.{name}'
    if name in readers:
      circle = ' reads '.join((*readers[readers.index(name):], name))
      raise Stop(Status.CONFIG, f'{where}: {circle}: a teacher can read those that are trained '
                 'before it, and itself as student/…')
    if name in self.teachers:
      return self.teachers[name]
    seed = spec.seed + (0 if spec.shared else self.config.seed)
    if not 0 <= seed < SEEDS:
      raise Stop(Status.CONFIG, f'{where}.seed={spec.seed}: with the seed of the run it makes '
                 f'{seed}, which must be from 0 to {SEEDS - 1}')
    if spec.source == 'fields':
      return self.cached(name, spec)
    if spec.source != 'live':
      raise Stop(Status.CONFIG, f"{where}.source={spec.source!r} must be 'live' or 'fields'")
    if spec.init:
      model, weights, card = exported.teacher(spec, self.dataset, seed, where)
      self.nodes[where], self.contents[name] = card['model'], checkpoint.sha256(weights)
      inside = tuple({f'model/{k}': v for k, v in part.items()} for part in weights)
      start = lambda: inside
    elif spec.train:
      model, _ = self.model(spec.model, f'{where}.model')
      start = lambda: Student(model).init(seed)
    else:
      raise Stop(Status.CONFIG, f'{where} has neither train nor init: nothing gives it weights')
    if spec.train:
      self.trained.append(self.learner(name, Student(model), start, seed, readers))
      self.identities[name] = self.trained[-1].identity
    else:
      self.loaded[name], self.weights[name] = model, weights
      self.fresh[name] = card['fresh']
      check_heads(name, spec, card['fresh'], heads.idle(self.told.task, model), self.dataset)
      self.identities[name] = digest([spec.dtype, self.contents[name]])
    self.teachers[name] = lookup.call(Live, {
        'dtype': spec.dtype, 'microbatch': spec.microbatch}, where, name=name, model=model)
    return self.teachers[name]

  def cached(self, name: str, spec: nodes.TeacherNode) -> Teacher:
    """A teacher whose outputs the data has: it has no weights, and is no part of the report."""
    if spec.init or spec.train or spec.model:
      raise Stop(Status.CONFIG, f"teachers.{name}.source='fields': its outputs are the data's, so "
                 'it takes neither model nor init nor train')
    self.weights[name] = {}, {}
    self.identities[name] = digest(['fields', name, source(self.config.data)])
    self.teachers[name] = Cached(name)
    return self.teachers[name]

  def read_teachers(self) -> list[Trained]:
    """Returns the trained teachers with the heads that any stage reads, once all are built."""
    idle = lambda name, model: heads.idle(self.told.task, model, self.paths, (name,))
    for name, model in self.loaded.items():
      check_heads(name, self.specs[name], self.fresh[name], idle(name, model), self.dataset)
    found = []
    for trained in self.trained:
      name = trained.stage.name
      unread = {*trained.idle} & {*idle(name, trained.stage.student.model)}
      if self.config.student.get('init') == name:
        unread &= {*self.student_idle}        # the student starts from the others
      found.append(dataclasses.replace(trained, idle=tuple(sorted(unread))))
    return found

  def learner(self, name: str, student: Student, start: Callable[[], tuple[Flat, Flat]], seed: int,
              readers: tuple[str, ...]) -> Trained:
    """The stage that trains a teacher."""
    spec, where = self.specs[name], f'teachers.{name}'
    own = {key: spec.train[key] for key in lookup.parameters(nodes.TeacherTrain)
           if key in spec.train}
    plan = {key: value for key, value in spec.train.items() if key not in own}
    own = lookup.call(nodes.TeacherTrain, own, f'{where}.train')
    order = ({'seed': spec.seed} if spec.shared else {}) | (
        {'batch_size': own.batch_size} if own.batch_size else {})
    data, saw, epoch = self.data(plan, own.labelled, own.drawn, where, **order)
    there = f'{where}.train.objective'
    terms = objective.terms_from(in_steps(own.objective, epoch, there), there)
    check_labels(terms, saw, self.dataset.splits['train'].fields)
    paths = {path: term.where for term in terms for path in term.paths}
    self.paths |= paths.keys()
    read = self.among_teachers(paths)
    teachers = tuple(self.teacher(other, (*readers, name)) for other in read)
    if spec.shared and (alone := [other for other in read if not self.specs[other].shared
                                  and other not in self.loaded]):
      raise Stop(Status.CONFIG, f'{where}.shared: it reads {alone[0]}, of which every seed has its '
                 f'own: give teachers.{alone[0]} shared=True too')
    stage = Stage(name=name, student=student, start=start, data=data, train=plan, where=where,
                  seed=seed, terms=terms, teachers=teachers, weights=self.weights,
                  optimizer=own.optimizer, prepare=self.modality.prepare, layout=self.layout,
                  augment=self.augment(own.augment, f'{where}.train', teachers))
    return Trained(stage, 'assistant' if teachers else 'teacher', self.card(self.nodes[where]), saw,
                   heads.idle(self.told.task, student.model, paths),
                   self.identity({'teachers': {name: dataclasses.asdict(spec)}},
                                 init=self.contents.get(name, ''), batching=self.batching | order,
                                 teachers={other: self.identities[other] for other in read},
                                 **({'seed': 0} if spec.shared else {})))

  def among_teachers(self, paths: Mapping[str, str]) -> list[str]:
    """The teachers whose views are among these paths, each given with where it is read."""
    views = {path.partition('/')[0] for path in paths}
    known = {*objective.OWN_VIEWS, *self.specs}
    for path, where in paths.items():
      if (view := path.partition('/')[0]) not in known:
        raise Stop(Status.MISFIT, f'{where}: {path!r} names no view' + lookup.nearest(view, known))
    return [name for name in self.specs if name in views]

  def students(self) -> list[Trained]:
    """The stages of the student and, where any term reads no teacher, of the baseline.

    The baseline goes through the same stages, as far as they have terms that read no teacher.
    """
    config, node = self.config, lookup.call(nodes.StudentNode, self.config.student, 'student')
    model, spelled = self.model(node.model, 'student.model')
    start, content = exported.start(
        node, model, spelled, dataset=self.dataset, seed=config.seed, weights=self.weights,
        teachers={name: (teacher.model, self.nodes[f'teachers.{name}'])
                  for name, teacher in self.teachers.items() if isinstance(teacher, Live)},
        idle=heads.idle(self.told.task, model))
    steps = {f'student-{name}': (f'before.{name}', lookup.call(
        nodes.StepNode, config.before[name], f'before.{name}')) for name in sorted(config.before)}
    steps['student'] = '', nodes.StepNode(config.objective, config.optimizer, config.train,
                                          config.augment)
    stages, views, used = [], None, set()
    for name, (where, step) in steps.items():
      data, saw, epoch = self.data(step.train, self.labelled, self.drawn, where or 'config')
      schedules = {name: lookup.build('schedules', spec, f'schedules.{name}') for name, spec in
                   in_steps(config.schedules, epoch, 'schedules').items()}
      there = f'{where}.objective'.lstrip('.')
      terms = objective.terms_from(in_steps(step.objective, epoch, there), there)
      check_labels(terms, saw, self.dataset.splits['train'].fields)
      read = {path: term.where for term in terms for path in term.paths}
      carries = {} if where else self.carries(read)
      read |= {path: f'carry.{name}' for name, carry in carries.items()
               for path in objective.paths(carry.reads)}
      views = views or self.views(model, data, schedules)
      projectors = {name: spec for name, spec in node.projectors.items()
                    if objective.among('projected', name, read)}
      student = with_projectors(model, projectors,
                                node.frozen if step.frozen is None else step.frozen, views)
      read |= {path: f'student.projectors.{name}' for name, projector in
               student.projectors.items() for path in projector.reads}
      used |= read.keys()
      teachers = tuple(self.teachers[teacher] for teacher in self.among_teachers(read))
      stages.append(Stage(
          name=name, seed=config.seed, student=student, terms=terms, data=data, train=step.train,
          start=functools.partial(start, student), weights=self.weights, teachers=teachers,
          optimizer=step.optimizer, schedules=schedules, where=where or 'config', carries=carries,
          prepare=self.modality.prepare, layout=self.layout,
          augment=self.augment(step.augment, where or 'config', teachers)))
    self.paths |= used
    self.student_idle = heads.idle(self.told.task, model, used)
    self.check_judged(model, views)
    inits = [content, *self.contents.values()]
    described = {k: v for k, v in dataclasses.asdict(config).items() if k != 'pipeline'}
    student = Trained(stages[-1], 'student', self.card(spelled), saw, self.student_idle,
                      self.identity(described, inits=inits), tuple(stages[:-1]))
    return [student, *self.baseline(student, [step for _, step in steps.values()],
                                    inits if node.init else [])]

  def baseline(self, student: Trained, steps: Sequence[nodes.StepNode],
               inits: Sequence[str]) -> list[Trained]:
    """Returns the student's baseline, if any of its own terms reads no teacher."""
    config, stages = self.config, [without(stage, {*self.specs}) for stage in student.stages]
    if not stages[-1]:
      return []
    kept = [{**dataclasses.asdict(step), 'objective': {
        term.name: {k: v for k, v in step.objective[term.name].items()
                    if k not in ('weight', 'schedule')} for term in stage.terms}}
            for stage, step in zip(stages, steps, strict=True) if stage]
    *before, last = kept
    identity = self.identity(
        {**last, 'before': dict(enumerate(before)), 'data': config.data, 'student': config.student,
         'carry': config.carry, 'schedules': config.schedules,
         'teachers': config.teachers if inits else {}}, inits=inits)
    return [dataclasses.replace(student, stage=stages[-1], role='baseline', identity=identity,
                                before=tuple(filter(None, stages[:-1])))]

  def check_judged(self, model: Pure, views: Mapping[str, Any]) -> None:
    """Stops unless the task can judge the student and the teachers that have weights."""
    split = self.dataset.splits[self.told.evaluate.split]
    live = {name: self.teachers[name].model for name, spec in self.specs.items()
            if spec.source == 'live'}
    for name, each in {'student': model, **live}.items():
      for output in self.told.task.outputs:
        objective.at(views, f'{name}/{output}', f'task={self.config.task["name"]!r}')
      self.told.check(each, each.shapes, split, self.modality, name)

  def carries(self, read: Collection[str]) -> dict[str, Carry]:
    """What the terms that are there read of `carry`."""
    index = self.dataset.splits['train'].index
    facts = dict(self.dataset.facts)
    if 'label' in index:
      facts['labels'] = np.where(index['hash01'] < self.labelled, index['label'], -1)
    return {name: lookup.build('carry', spec, f'carry.{name}', **facts)
            for name, spec in self.config.carry.items() if objective.among('carry', name, read)}

  def data(self, plan: Mapping[str, Any], labelled: float, drawn: float, where: str, **order):
    """A stage's batches, how many examples and labels they show, a call for an epoch's steps."""
    split, steps = self.dataset.splits['train'], plan.get('steps')
    if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps < 2**31:
      raise Stop(Status.CONFIG, f'{where}.train.steps={steps!r} must be an int of at least 1, and '
                 'below 2**31')
    how = {**self.batching, **order, 'labelled': labelled, 'drawn': drawn}
    size = how.get('batch_size')          # its absence is for `call` to say
    rows = lookup.call(batches.batches, how, 'data', split=split, steps=steps,
                       rows=self.layout.rows(size) if isinstance(size, int) else None)
    labels = int(((split.index['hash01'] < labelled) & split.known).sum())
    saw = {self.modality.noun: labels if drawn == 1 else len(split), 'labels': labels}
    return rows, saw, functools.partial(batches.epoch_steps, split, **{
        key: value for key, value in how.items() if key != 'seed'})

  def model(self, node: Mapping[str, Any], where: str) -> tuple[Pure, dict[str, Any]]:
    """A model that fits the data, and its node with every size spelled out."""
    function = lookup.find('models', node.get('name', ''), f'{where}.name')
    taken = lookup.parameters(function)
    node = {**{k: tasks.plain(v) for k, v in self.dataset.facts.items() if k in taken}, **node}
    exported.check_sizes(node, self.dataset, where)
    if 'members' in node:
      node['members'] = {name: self.model(member, f'{where}.members.{name}')[1]
                         for name, member in node['members'].items()}
    self.nodes[where.removesuffix('.model')] = node
    model = Pure(lambda rngs: lookup.build('models', node, where, rngs=rngs))
    for path, like in model.shapes[0].items():
      if math.prod(like.shape) >= MOST_NUMBERS:
        raise Stop(Status.CONFIG, f'{where}: {path} {list(like.shape)} is too large')
    return model, node

  def augment(self, nodes: Sequence, where: str,
              teachers: Sequence[Teacher]) -> tuple[Callable, ...]:
    check_inputs(nodes, teachers, where)
    return tuple(lookup.build('augment', node, f'{where}.augment[{i}]', **self.dataset.facts)
                 for i, node in enumerate(nodes))

  def card(self, node: Mapping[str, Any]) -> dict[str, Any]:
    """What a model's export says about it."""
    data = self.dataset
    return {'model': dict(node), 'classes': list(data.names), **modalities.card(self.modality),
            'task': dict(self.told.task_node), 'data': data.name, 'fingerprint': data.fingerprint}

  def identity(self, part: Mapping[str, Any], **of: Any) -> str:
    """Returns a name for all that determines a stage; `part` is what of the config describes it."""
    part = {'data': {'name': self.config.data['name']}, 'task': self.config.task, **part}
    modules = {__name__, Stage.__module__, type(self.modality).__module__, *fields.modules(part)}
    return digest({
        'seed': self.config.seed, 'data': self.dataset.fingerprint, 'sizes': self.dataset.sizes,
        'inputs': self.modality.card(), 'task': dict(self.told.task_node),
        'batching': self.batching, 'jax': jax.__version__, 'config': fields.essential(part),
        'code': identities.sources(modules), **of})

  def views(self, model: Pure, data, schedules: Mapping[str, Schedule]) -> dict[str, Any]:
    """The shapes of the views that projectors may read."""
    batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in data[0].items()}
    batch = dict(jax.eval_shape(self.modality.prepare, batch))
    own = jax.eval_shape(lambda p, r, b: model(p, r, b, train=False, key=None)[0], *model.shapes,
                         batch)
    moving = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in schedules}
    return {'student': own, 'self': own, 'batch': batch, 'schedule': moving,
            **{name: jax.eval_shape(lambda w, b, teacher=teacher: teacher(w, b), teacher.shapes,
                                    batch) for name, teacher in self.teachers.items()}}
