"""Setup of a run from its config: data, task and jobs, all checked to fit."""
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from distill import checkpoint, lookup, objective
from distill.models.functional import Functional, splits_of
from distill.pipelines import build, checks, fits, heads, nodes, sources
from distill.pipelines.baseline import without_teachers
from distill.pipelines.build import Common
from distill.pipelines.heads import check_heads
from distill.pipelines.identities import digest
from distill.pipelines.jobs import Derive, Job, Load, Setup, Train
from distill.pipelines.judge import make_judge, source
from distill.teachers import Live, Teacher
from distill.types import SEEDS, Status, Stop

TAKEN = ('student', 'baseline', *objective.BUILT_IN_VIEWS)       # reserved: no teacher's name


@dataclasses.dataclass(frozen=True)
class Built:
  """A teacher: the source of its outputs, a hash of all that determines them, and its job.

  `content` is the sha256 of loaded weights, `node` the node of its model with every size. `reads`
  are fields of the model, each with the field of the data that replaces it. A teacher without a
  job has its outputs from fields of the data, or from an average of the student.
  """
  spec: nodes.TeacherNode
  source: Teacher
  identity: str
  content: str = ''
  node: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  reads: Mapping[str, str] = dataclasses.field(default_factory=dict)
  job: Load | Train | None = None


def build_setup(node: Mapping[str, Any]) -> Setup:
  """Reads a resolved config, loads its data and builds its jobs; nothing is compiled."""
  return setup_of({'student': lookup.call(nodes.Config, node, 'config')}, 'baseline')


def setup_of(configs: Mapping[str, nodes.Config], baseline: str) -> Setup:
  """Builds the jobs of a run with one student or several.

  Args:
    configs: a config for each student, by name; data, task and teachers are the same in all.
    baseline: the name of a student's baseline, with '{}' for the student's name.
  """
  config = next(iter(configs.values()))
  judge = make_judge(config)
  dataset = judge.dataset
  if not len(dataset.splits.get('train', ())):
    raise Stop(Status.DATA, f"data: {dataset.name} has no examples in a split 'train'"
               + lookup.nearest('train', dataset.splits))
  common = build.common(config, judge)
  built, students = _teachers(config, common), []
  for name, student_config in configs.items():
    try:
      students += _student(name, baseline.format(name), student_config, built, common)
    except Stop as stop:
      if len(configs) == 1:
        raise
      raise Stop(stop.status, f'students.{name}: {stop}') from stop
  jobs = (*_with_idle_heads(built, students, configs, common), *students)
  _check_names(jobs)
  rows = {name: judge.batches(dataset.splits[name], common.modality) for name in judge.splits}
  layout = dataclasses.replace(judge.layout, splits=splits_of(
      job.stage.student.model if isinstance(job, Train) else job.model for job in jobs))
  jobs = [job.on_layout(layout) if isinstance(job, Train) else job for job in jobs]
  return Setup(**{**vars(judge), 'layout': layout}, modality=common.modality, rows=rows,
               jobs=(*jobs, *_derived(config, jobs)))


def _teachers(config: nodes.Config, common: Common) -> dict[str, Built]:
  """Builds all teachers, each after those that it reads."""
  specs, built = {}, {}
  for name, spec in config.teachers.items():
    if name in TAKEN or name.startswith(('student-', 'baseline-')):
      raise Stop(Status.CONFIG, f'teachers.{name}: {name!r} is taken; call the teacher something '
                 'else')
    specs[name] = lookup.call(nodes.TeacherNode, spec, f'teachers.{name}')
  averages = sources.moving_averages(specs)
  for name in specs:
    if name not in averages:            # which come from the student
      _teacher(name, (), specs, built, common)
  return built


def _teacher(name: str, readers: tuple[str, ...], specs: Mapping[str, nodes.TeacherNode],
             built: dict[str, Built], common: Common) -> Teacher:
  """Adds a teacher to `built`, after those that it reads; returns its source of outputs.

  Each of `readers` reads the next one. This is no closure, because a closure that calls itself
  would hold the weights until Python collects cycles.
  """
  field = f'teachers.{name}.source={specs[name].source!r}'
  if name in readers:
    circle = ' reads '.join((*readers[readers.index(name):], name))
    raise Stop(Status.CONFIG, f'teachers.{name}: {circle}: a teacher can read those that are '
               'trained before it, and itself as student/…')
  if specs[name].source.startswith('carry:'):
    raise Stop(Status.CONFIG, f'{field}: only the stage of the student, whose carry this is, can '
               f'read it, and teachers.{readers[-1]} does')
  if name not in built:
    make = {'live': _live, 'fields': _fields}.get(specs[name].source)
    if not make:
      raise Stop(Status.CONFIG, f"{field} must be 'live', 'fields' or 'carry:NAME'")
    find = lambda names: tuple(
        _teacher(other, (*readers, name), specs, built, common) for other in names)
    made = make(name, specs[name], find, built, common)
    built[name] = made                  # after those that it reads
  return built[name].source


def _fields(name: str, spec: nodes.TeacherNode, find: build.Find, built: Mapping[str, Built],
            common: Common) -> Built:
  """Builds a teacher whose outputs are fields of the data; it isn't in the report."""
  del find, built
  return Built(spec, sources.cached_teacher(name, spec),
               digest(['fields', name, source(common.config.data)]))


def _live(name: str, spec: nodes.TeacherNode, find: build.Find, built: Mapping[str, Built],
          common: Common) -> Built:
  """Builds a teacher that is a model: loaded, trained here, or both."""
  where, config, dataset = f'teachers.{name}', common.config, common.judge.dataset
  seed = spec.seed + (0 if spec.shared else config.seed)
  if not 0 <= seed < SEEDS:
    raise Stop(Status.CONFIG, f'{where}.seed={spec.seed}: with the seed of the run it makes '
               f'{seed}, which must be from 0 to {SEEDS - 1}')
  content, reads = '', dict(spec.reads)
  if spec.init:
    model, weights, card = fits.load_teacher(spec, dataset, seed, where)
    content, reads = checkpoint.sha256(weights), reads or dict(card.get('reads', {}))
    node, start = card['model'], lambda student, _: fits.initial_weights(student, seed, weights)
  elif spec.train:
    model, node = common.model(spec.model, f'{where}.model')
    start = lambda student, _: student.init(seed)
  else:
    raise Stop(Status.CONFIG, f'{where} has neither train nor init: nothing gives it weights')
  checks.check_reads(reads, dataset, ('train', *common.judge.splits), where)
  if spec.train:
    learner = nodes.teacher(name, spec, config.seed, reads)
    job = build.train(learner, model, node, start, find, config.teachers, common)
    per_seed = [other for other in job.teachers if not built[other].spec.shared
                and isinstance(built[other].job, Train)]
    if spec.shared and per_seed:
      raise Stop(Status.CONFIG, f'{where}.shared: it reads {per_seed[0]}, of which every seed has '
                 f'its own: give teachers.{per_seed[0]} shared=True too')
    replaced = {name: reads, **{other: built[other].reads for other in job.teachers}}
    checks.check_replaced_fields(name, job.teachers, replaced, common.modality.fields)
    identity = common.identity(
        {'teachers': {name: dataclasses.asdict(spec)}}, init=content,
        batching={**common.batching, **learner.batching},
        teachers={other: built[other].identity for other in job.teachers},
        **({'seed': 0} if spec.shared else {}))
    job = dataclasses.replace(job, identity=identity)
  else:
    sources.check_untrained(spec, f'{where} is loaded')
    place = {'place': spec.init, 'model': fits.free_arguments(spec, where)}
    job = Load(name, model, weights, {**card, **({'reads': reads} if reads else {})}, place, reads)
    check_heads(name, spec, card['fresh'], heads.idle(common.judge.task, model), dataset)
    identity = digest([spec.dtype, content, *filter(None, [reads])])
  live = lookup.call(Live, {'dtype': spec.dtype, 'microbatch': spec.microbatch}, where, name=name,
                     model=model, reads=reads, prepare=common.modality.prepare)
  _check_judged(name, model, reads, common)
  return Built(spec, live, identity, content, node, reads, job)


def _student(name: str, baseline: str, config: nodes.Config, built: Mapping[str, Built],
             common: Common) -> list[Train]:
  """Builds the job of a student and, if any of its terms reads no teacher, of its baseline."""
  node = lookup.call(nodes.StudentNode, config.student, 'student')
  model, spelled = common.model(node.model, 'student.model')
  live = {name: (teacher.source.model, teacher.node) for name, teacher in built.items()
          if teacher.job}
  start, content = fits.make_start(
      node, model, spelled, dataset=common.judge.dataset, seed=config.seed, teachers=live,
      idle=heads.idle(common.judge.task, model))

  def find(names):
    return tuple(built[other].source if other in built else sources.moving_teacher(
        other, lookup.call(nodes.TeacherNode, config.teachers[other], f'teachers.{other}'), config,
        model, common.judge, common.modality.prepare) for other in names)
  learner = nodes.student(name, config)
  job = build.train(learner, model, spelled, start, find, config.teachers, common)
  _check_judged('student', model, {}, common)
  inits = [content, *(teacher.content for teacher in built.values() if teacher.content)]
  described = {key: value for key, value in dataclasses.asdict(config).items()
               if key not in ('pipeline', 'derive')}
  student = dataclasses.replace(job, role='student', identity=common.identity(
      described, inits=inits))
  return [student, *_baseline(student, baseline, config, inits if node.init else [], common)]


def _baseline(student: Train, name: str, config: nodes.Config, inits: Sequence[str],
              common: Common) -> list[Train]:
  """Builds the job of a student's baseline, if any term of its last stage reads no teacher.

  The baseline has the same stages, except those whose terms all read a teacher.
  """
  learner = nodes.student(student.name, config)
  baseline_name = lambda stage: name + stage.name.removeprefix(student.name)
  stages = [without_teachers(stage, {*config.teachers}, baseline_name(stage))
            for stage in student.stages]
  if not stages[-1]:
    return []
  kept = []
  for stage, node in zip(stages, learner.stages.values(), strict=True):
    if stage:
      terms = {term.name: {k: v for k, v in node.objective[term.name].items()
                           if k not in ('weight', 'schedule')} for term in stage.terms}
      kept.append({**dataclasses.asdict(node), 'objective': terms})
  *before, last = kept
  identity = common.identity(
      {**last, 'before': dict(enumerate(before)), 'data': config.data, 'student': config.student,
       'carry': config.carry, 'schedules': config.schedules,
       'teachers': config.teachers if inits else {}}, inits=inits)
  return [dataclasses.replace(student, stages=tuple(filter(None, stages)), role='baseline',
                              identity=identity, baseline_of=student.name)]


def _with_idle_heads(built: Mapping[str, Built], students: Sequence[Train],
                     configs: Mapping[str, nodes.Config], common: Common) -> list[Load | Train]:
  """Returns the teachers' jobs with their idle heads: those that no stage of the run reads.

  A head that a student trains is not idle in the teacher that this student starts from.
  """
  task, jobs = common.judge.task, [teacher.job for teacher in built.values() if teacher.job]
  paths = {path for job in (*jobs, *students) if isinstance(job, Train)
           for stage in job.stages for path in build.views_read(stage)}
  found = []
  for name, teacher in built.items():
    job = teacher.job
    if isinstance(job, Train):
      unread = {*job.idle} & {*heads.idle(task, job.stage.student.model, paths, (name,))}
      for student in students:
        config = configs.get(student.name)
        if config and config.student.get('init') == name:
          unread &= {*student.idle}
      found.append(dataclasses.replace(job, idle=tuple(sorted(unread))))
    elif job:
      check_heads(name, teacher.spec, job.card['fresh'],
                  heads.idle(task, job.model, paths, (name,)), common.judge.dataset)
      found.append(job)
  return found


def _derived(config: nodes.Config, jobs: Sequence[Job]) -> list[Derive]:
  """Builds the jobs that make models from other models without training."""
  found, names = [], [job.name for job in jobs]
  for name, spec in config.derive.items():
    where = f'derive.{name}'
    node = lookup.call(nodes.DeriveNode, spec, where)
    if not re.fullmatch(r'\w[\w.-]*', name) or name in (
        f'{model}-{split}' for model in names for split in config.evaluate.get('also', ())):
      raise Stop(Status.CONFIG, f'{where}: {name!r} is no name for a folder, or is that of a '
                 "model's records of another split: call it something else")
    if name in (*TAKEN, *names):
      raise Stop(Status.CONFIG, f'{where}: {name!r} is taken; call the model something else')
    if node.of not in names:
      raise Stop(Status.CONFIG, f'{where}.of={node.of!r} names no model of the run'
                 + lookup.nearest(node.of, names))
    found.append(Derive(name, node.of, lookup.build('compress', node.change, f'{where}.change')))
  return found


def _check_names(jobs: Sequence[Job]) -> None:
  """Stops if two stages, or a stage and a model, would have one name."""
  names = [stage.name for job in jobs if isinstance(job, Train) for stage in job.stages]
  names += [job.name for job in jobs if not isinstance(job, Train)]
  twice = sorted(name for name in {*names} if names.count(name) > 1)
  if twice:
    raise Stop(Status.CONFIG, f'two stages would be called {twice[0]!r}, for one of `before` is '
               'called MODEL-STAGE and a baseline MODEL-baseline: rename a model or a stage')


def _check_judged(name: str, model: Functional, reads: Mapping[str, str], common: Common) -> None:
  """Stops unless the task can evaluate a model of these shapes."""
  split = common.judge.dataset.splits[common.judge.evaluate.split]
  common.judge.check(model, model.shapes, split.reading(reads), common.modality, name)
