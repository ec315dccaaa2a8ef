"""From a config to what it describes: data, task, and the stages to train, all checked to fit."""
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from distill import checkpoint, lookup, objective, predict
from distill.data import batches
from distill.data.sets import Dataset
from distill.models.pure import Pure
from distill.student import Student, started_from, under, with_projectors
from distill.teachers import Teacher, Weights
from distill.train import Stage
from distill.types import Status, Stop

BATCHING = ('batch_size', 'seed', 'labelled', 'drawn', 'widths')
NAMES = ('student', 'baseline', 'report', *objective.OWN_VIEWS)      # not for teachers


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """The `evaluate` node of a config."""
  split: str = 'test'
  batch_size: int = 64
  resamples: int = 1000               # of the bootstrap


@dataclasses.dataclass(frozen=True)
class Trained:
  """A stage with what its model's card says and what determines its result."""
  stage: Stage
  role: str
  card: Mapping[str, Any]
  identity: Mapping[str, Any]
  saw: Mapping[str, int]            # texts and labels


@dataclasses.dataclass(frozen=True)
class Setting:
  """All of a run before anything is trained.

  `weights` is shared with the stages of student and baseline, and filled as teachers finish.
  """
  dataset: Dataset
  task: Any
  evaluate: Evaluate
  widths: tuple[int, ...]             # of padded texts
  teachers: Mapping[str, Trained]
  loaded: Mapping[str, tuple[Pure, Mapping[str, Any]]]         # teachers that aren't trained here
  student: Trained
  baseline: Trained | None
  weights: dict[str, Weights]

  @property
  def trained(self) -> list[Trained]:
    return [*self.teachers.values(), self.student, *([self.baseline] if self.baseline else [])]


def _fields(*, seed: int, pipeline: str, data: Mapping, task: Mapping, student: Mapping,
            objective: Mapping, optimizer: Mapping, train: Mapping, evaluate: Mapping,
            teachers: Mapping | None = None, schedules: Mapping | None = None,
            carry: Mapping | None = None, augment: Sequence = ()):
  """The fields of a config, for `lookup.check`."""


def _teacher_fields(*, model: Mapping | None = None, init: str = '', train: Mapping | None = None,
                    dtype: str = 'float32', microbatch: int = 0):
  """The fields of `teachers.T`."""


def _teacher_train(*, objective: Mapping, optimizer: Mapping, labelled: float = 1.0, **plan):
  """The fields of `teachers.T.train` beside those of `train`."""


def _student_fields(*, model: Mapping, init: str = '', layers: Sequence[int] = (),
                    frozen: Sequence[str] = (), projectors: Mapping | None = None):
  """The fields of `student`."""


def setting(config: Mapping[str, Any]) -> Setting:
  """Reads a resolved config, loads its data and builds its stages; nothing is compiled."""
  lookup.check(_fields, config, 'config')
  data = dict(config['data'])
  batching = {key: data.pop(key) for key in BATCHING if key in data}
  dataset = lookup.build('data', data, 'data')
  task = lookup.build('tasks', config['task'], 'task', classes=dataset.sizes['classes'],
                      names=dataset.classes)
  evaluate = lookup.call(Evaluate, config['evaluate'], 'evaluate')
  _check_split(dataset, 'train', 'data')
  _check_split(dataset, evaluate.split, 'evaluate.split')
  build = Builder(config, dataset, batching)

  weights, trained, loaded, teachers = {}, {}, {}, {}
  for name, node in (config.get('teachers') or {}).items():
    where = f'teachers.{name}'
    lookup.check(_teacher_fields, node, where)
    if name in NAMES:
      raise Stop(Status.CONFIG, f'{where}: the name is taken; call the teacher something else')
    if node.get('train'):
      trained[name] = build.teacher(name, node)
      model = trained[name].stage.student.model
    elif node.get('init'):
      model, weights[name], card = predict.exported(node['init'])
      build.check_card(card, where)
      loaded[name] = (model, card)
    else:
      raise Stop(Status.CONFIG, f'{where} has neither train nor init: nothing gives it weights')
    how = {key: node[key] for key in ('dtype', 'microbatch') if key in node}
    teachers[name] = lookup.call(Teacher, how, where, name=name, model=model)
  return Setting(dataset, task, evaluate, build.widths, trained, loaded,
                 *build.student(teachers, trained, weights), weights)


def _check_split(dataset: Dataset, name: str, where: str) -> None:
  if name not in dataset.splits:
    raise Stop(Status.DATA, f'{where}: {dataset.name} has no split {name!r}'
               + lookup.nearest(name, dataset.splits))
  if not len(dataset.splits[name]):
    raise Stop(Status.DATA, f'{where}: the split {name!r} of {dataset.name} is empty')


class Builder:
  """Stages from config nodes over one data set."""

  def __init__(self, config: Mapping[str, Any], dataset: Dataset, batching: Mapping[str, Any]):
    self.config, self.dataset, self.batching = config, dataset, dict(batching)

  def data(self, steps: int, labelled: float, drawn: float, where: str):
    """The batches of a stage, and how many texts and labels it sees."""
    split = self.dataset.splits['train']
    node = {**self.batching, 'labelled': labelled, 'drawn': drawn}
    rows = lookup.call(batches.batches, node, where, split=split, steps=steps)
    seen = int((split.columns['draw'] < labelled).sum())
    return rows, {'texts': seen if drawn == 1 else len(split), 'labels': seen}

  def model(self, node: Mapping[str, Any], where: str) -> tuple[Pure, dict[str, Any]]:
    """A model that fits the data, and its node with every size spelled out."""
    if not isinstance(node.get('name'), str):
      raise Stop(Status.CONFIG, f'{where}.name must be the name of a model')
    taken = lookup.parameters(lookup.find('models', node['name'], f'{where}.name'))
    sizes = {key: size for key, size in self.dataset.sizes.items() if key in taken}
    node = {**sizes, **node}
    self.check_sizes(node, where)
    return Pure(lambda rngs: lookup.build('models', node, where, rngs=rngs)), node

  def check_sizes(self, node: Mapping[str, Any], where: str) -> None:
    for key, size in self.dataset.sizes.items():
      value = node.get(key, size)
      if value != size and not (key == 'length' and value > size):
        raise Stop(Status.MISFIT, f'{where}.{key}={value}, but {self.dataset.name} has {size}: '
                   f'leave {key} out, or take the data it was made for')

  def check_card(self, card: Mapping[str, Any], where: str) -> None:
    """Stops unless an exported model speaks of the same classes and words as the data."""
    self.check_sizes(card['model'], f'{where}.model')
    if tuple(card['classes']) != self.dataset.classes:
      raise Stop(Status.MISFIT, f'{where}: its classes are {", ".join(card["classes"])}, those of '
                 f'{self.dataset.name} {", ".join(self.dataset.classes)}, in this order')
    if card['tokenizer_sha256'] != self.dataset.tokenizer_sha256:
      raise Stop(Status.MISFIT, f'{where}: it was trained with another tokenizer '
                 f'({card["tokenizer_sha256"][:8]}) than {self.dataset.name} has '
                 f'({self.dataset.tokenizer_sha256[:8]}): the same token ids mean other words')

  def card(self, node: Mapping[str, Any]) -> dict[str, Any]:
    data = self.dataset
    return {'model': dict(node), 'classes': list(data.classes), 'length': data.sizes['length'],
            'widths': list(self.widths), 'data': data.name, 'fingerprint': data.fingerprint,
            'tokenizer_sha256': data.tokenizer_sha256}

  @property
  def widths(self) -> tuple[int, ...]:
    return tuple(int(width) for width in batches.checked_widths(
        self.dataset.splits['train'], self.batching.get('widths')))

  def identity(self, **of: Any) -> dict[str, Any]:
    """What determines a stage's result: equal identities, equal weights."""
    return {'seed': self.config['seed'], 'fingerprint': self.dataset.fingerprint,
            'tokenizer': self.dataset.tokenizer_sha256, 'batching': self.batching, **of}

  def teacher(self, name: str, node: Mapping[str, Any]) -> Trained:
    """The stage that trains a teacher, from scratch or from `init`."""
    where = f'teachers.{name}'
    train = dict(node['train'])
    lookup.check(_teacher_train, {k: v for k, v in train.items()
                                  if k in ('objective', 'optimizer', 'labelled')}, f'{where}.train')
    terms, optimizer = train.pop('objective'), train.pop('optimizer')
    labelled = train.pop('labelled', 1.0)
    if node.get('init'):
      model, weights, card = predict.exported(node['init'])
      self.check_card(card, where)
      spelled, digest = card['model'], checkpoint.sha256(weights)
      start = lambda: ({f'model/{k}': v for k, v in weights[0].items()},
                       {f'model/{k}': v for k, v in weights[1].items()})
    else:
      if not node.get('model'):
        raise Stop(Status.CONFIG, f'{where}.model is missing: there is nothing to train')
      model, spelled = self.model(node['model'], f'{where}.model')
      digest, start = '', lambda: Student(model).init(self.config['seed'])
    rows, saw = self.data(_steps(train, where), labelled, 0.0, 'data')
    stage = Stage(name=name, student=Student(model), start=start, data=rows, train=train,
                  terms=objective.terms_from(terms, f'{where}.train.objective'),
                  optimizer=optimizer)
    identity = self.identity(model=spelled, init=digest, objective=terms, optimizer=optimizer,
                             train=train, labelled=labelled)
    return Trained(stage, 'teacher', self.card(spelled), identity, saw)

  def student(self, teachers: Mapping[str, Teacher], trained: Mapping[str, Trained],
              weights: dict[str, Weights]) -> tuple[Trained, Trained | None]:
    """The stages of student and baseline."""
    config, node = self.config, self.config['student']
    lookup.check(_student_fields, node, 'student')
    model, spelled = self.model(node['model'], 'student.model')
    student = with_projectors(model, node.get('projectors') or {}, node.get('frozen', ()),
                              self.views(model, teachers))
    labelled = self.batching.get('labelled', 1.0)
    rows, saw = self.data(_steps(config['train'], 'config'), labelled,
                          self.batching.get('drawn', 0.0), 'data')
    terms = objective.terms_from(config['objective'])
    for term in terms:
      if labelled < 1 and 'batch/label' in term.reads.values() and term.mask != 'batch/labelled':
        raise Stop(Status.CONFIG, f'objective.{term.name} reads batch/label, but data.labelled='
                   f"{labelled} hides labels: give it mask='batch/labelled'")
    build = lambda room, nodes, where: {
        name: lookup.build(room, spec, f'{where}.{name}') for name, spec in (nodes or {}).items()}
    stage = Stage(
        name='student', student=student, terms=terms, data=rows, train=config['train'],
        start=self.start(student, teachers, weights), teachers=tuple(teachers.values()),
        weights=weights, optimizer=config['optimizer'],
        schedules=build('schedules', config.get('schedules'), 'schedules'),
        carries=build('carry', config.get('carry'), 'carry'),
        augment=tuple(lookup.build('augment', spec, f'augment[{i}]', **self.dataset.sizes)
                      for i, spec in enumerate(config.get('augment', ()))))
    taught = {name: t.identity for name, t in trained.items()} | {
        name: checkpoint.sha256(w) for name, w in weights.items()}
    identity = lambda names: self.identity(
        model=spelled, student=node, optimizer=config['optimizer'], train=config['train'],
        augment=config.get('augment', ()),
        objective={n: config['objective'][n] for n in names})
    whole = {**identity([t.name for t in terms]), 'teachers': taught,
             'schedules': config.get('schedules'), 'carry': config.get('carry')}
    card = self.card(spelled)
    alone = self.alone(stage, teachers)
    baseline = alone and Trained(alone, 'baseline', card, {
        **identity([t.name for t in alone.terms]), 'teachers': taught if node.get('init') else {},
        'alone': True}, saw)
    return Trained(stage, 'student', card, whole, saw), baseline

  def start(self, student: Student, teachers: Mapping[str, Teacher],
            weights: Mapping[str, Weights]) -> Callable:
    """Parameters before step 0: by the seed, or from a teacher's or an exported model's."""
    node, seed = self.config['student'], self.config['seed']
    init, layers = node.get('init', ''), node.get('layers', ())
    if not init:
      if layers:
        raise Stop(Status.CONFIG, 'student.layers is given without student.init: of which model?')
      return lambda: student.init(seed)
    shapes = under(student.shapes()[0], 'model/')
    if init in teachers:
      source = lambda: weights[init][0]
      there = teachers[init].model.shapes[0]
    else:
      found = predict.exported(init)
      self.check_card(found[2], 'student.init')
      source = lambda: found[1][0]
      there = found[0].shapes[0]
    jax.eval_shape(lambda there: started_from(shapes, there, layers, 'student'), there)

    def start():
      params, rest = student.init(seed)
      taken = started_from(shapes, source(), layers, 'student')
      return params | {f'model/{path}': value for path, value in taken.items()}, rest
    return start

  def alone(self, stage: Stage, teachers: Mapping[str, Teacher]) -> Stage | None:
    """The baseline: the same student with only the terms that read no teacher, at weight 1."""
    taught = lambda reads: any(path.partition('/')[0] in teachers for path in reads)
    carries = {n: c for n, c in stage.carries.items() if not taught([c.reads])}
    projectors = {n: p for n, p in stage.student.projectors.items() if not taught([p.reads])}
    gone = {f'carry/{n}' for n in stage.carries.keys() - carries.keys()} | {
        f'projected/{n}' for n in stage.student.projectors.keys() - projectors.keys()}
    kept = [t for t in stage.terms if not taught(t.paths) and not gone & set(t.paths)]
    read = {path for term in kept for path in term.paths}
    projectors = {n: p for n, p in projectors.items() if f'projected/{n}' in read}
    if not kept or not teachers:
      return None
    student = dataclasses.replace(stage.student, projectors=projectors)
    start = lambda: tuple({path: value for path, value in part.items()
                           if path in shapes} for part, shapes in
                          zip(stage.start(), student.shapes(), strict=True))
    return dataclasses.replace(
        stage, name='baseline', student=student, start=start, teachers=(), weights={},
        carries={n: c for n, c in carries.items() if f'carry/{n}' in read},
        terms=tuple(dataclasses.replace(t, weight=lambda step: 1.0) for t in kept))

  def views(self, model: Pure, teachers: Mapping[str, Teacher]) -> dict[str, Any]:
    """The shapes of the views that projectors may read."""
    rows, _ = self.data(1, 1.0, 0.0, 'data')
    spec = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    batch = jax.tree.map(spec, dict(rows[0]))
    shapes = lambda m: jax.eval_shape(
        lambda p, r, b: m(p, r, b, train=False, key=None)[0], *m.shapes, batch)
    return {'student': shapes(model), 'batch': batch,
                   **{name: shapes(t.model) for name, t in teachers.items()}}


def _steps(train: Mapping[str, Any], where: str) -> int:
  steps = train.get('steps', 0)
  if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
    raise Stop(Status.CONFIG, f'{where}.train.steps={steps!r} must be an int of at least 1')
  return steps


def digest(of: Any, length: int = 16) -> str:
  """A short name for a JSON value."""
  text = json.dumps(of, sort_keys=True, default=list)
  return hashlib.sha256(text.encode()).hexdigest()[:length]
