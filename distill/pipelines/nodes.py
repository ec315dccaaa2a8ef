"""The nodes of a config: their fields, and what these are where a config leaves them out."""
import dataclasses
import math
from collections.abc import Mapping, Sequence

from distill import lookup

MOST_RESAMPLES = 10**6          # their values are kept, of every metric


def _empty():
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Judged:
  """What every config has, and what it is where a config leaves it out."""
  seed: int
  data: Mapping
  task: Mapping
  pipeline: str = 'compare.run'
  mesh: Mapping = _empty()
  evaluate: Mapping = _empty()
  tier: str = ''                    # of `evaluate.tiers`, that the student is to reach


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(Judged):
  """The fields of a config of `compare`."""
  student: Mapping
  objective: Mapping
  optimizer: Mapping
  train: Mapping
  teachers: Mapping = _empty()
  before: Mapping = _empty()
  schedules: Mapping = _empty()
  carry: Mapping = _empty()
  augment: Sequence = ()
  derive: Mapping = _empty()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation(Judged):
  """The fields of a config of `evaluate`: models by name, the first that is a teacher is theirs."""
  models: Mapping


@dataclasses.dataclass(frozen=True)
class ModelNode:
  """`models.M` of an evaluation: a model that is there, and what its run, if known, says of it."""
  place: str
  content: str                      # sha256 of its files
  role: str = 'student'
  model: Mapping = _empty()         # fields that no weight depends on
  teachers: Sequence[str] = ()
  saw: Mapping | None = None
  spent: Mapping | None = None
  curves: str = ''                  # the metrics.jsonl of its run
  stage: str = ''                   # … and its name there


@dataclasses.dataclass(frozen=True)
class StageNode:
  """A stage of a learner: `before.S`, and with the config's own fields the last stage.

  Stages of `before` come first, in the order of their names (a ConfigDict keeps no other), each
  from the parameters that the one before it left, its projectors' too where both have them. They
  share data, schedules and projectors with the last stage; carries are for that one alone.
  `frozen` given replaces the learner's.
  """
  objective: Mapping
  optimizer: Mapping
  train: Mapping
  augment: Sequence = ()
  frozen: Sequence | None = None


@dataclasses.dataclass(frozen=True)
class TeacherNode:
  """`teachers.T`: `train` given: trained here; `init` given: loaded; both: fine-tuned.

  Where terms of `train.objective` read other teachers it is their assistant (TAKD, Mirzadeh 2020),
  trained after them, whatever the order of names; it may read them all (DGKD, Son 2021). Only whom
  a stage reads is run in its steps, and a teacher that is read by none is trained all the same.

  `source` is 'live' for a model; 'fields' for outputs that are fields T/… of the data set;
  'carry:NAME' for the student's model at the average that carry.NAME keeps of its parameters. The
  last two have no model of their own, and no part in the report.

  `reads` are fields of the model, each with the field of the data set that it takes instead, as in
  {'image': 'view2/image'}: in training, in others' steps, and where it is judged. A loaded teacher
  that reads others by itself keeps to them unless the config says otherwise.
  """
  model: Mapping = _empty()
  init: str = ''
  train: Mapping = _empty()
  source: str = 'live'
  reads: Mapping = _empty()
  fresh: Sequence[str] = ()         # patterns of parameters of `init` that start anew
  frozen: Sequence[str] = ()        # patterns of parameters that `train` leaves as they are
  projectors: Mapping = _empty()
  before: Mapping = _empty()        # S: a `StageNode`
  schedules: Mapping = _empty()
  carry: Mapping = _empty()
  dtype: str = 'float32'            # or 'bfloat16' or 'mixed': `models.precision`
  microbatch: int = 0
  seed: int = 0                     # added to the run's: teachers of one kind differ
  shared: bool = False              # one for all seeds: its own seed also orders its data


@dataclasses.dataclass(frozen=True)
class TeacherTrain:
  """What `teachers.T.train` has beside the fields of `train.TrainConfig`.

  A teacher sees all labels unless `labelled` says otherwise; of an assistant, too, only the terms
  that read labels need any. In its terms the model that is trained is `student/…` and `self/…`,
  another teacher `TEACHER/…`.
  """
  objective: Mapping
  optimizer: Mapping
  labelled: float = 1.0
  drawn: float = 0.0
  batch_size: int = 0               # the data's, which is the student's
  augment: Sequence = ()


@dataclasses.dataclass(frozen=True)
class StudentNode:
  """`student`. `init` is a teacher's name or an exported model, `take` a path map.

  The map's form is that of `student.started_from`; `layers` is the short form for blocks.
  """
  model: Mapping
  init: str = ''
  layers: Sequence[int] = ()
  take: Mapping = _empty()
  fresh: Sequence[str] = ()         # patterns of parameters that don't come from `init`
  frozen: Sequence[str] = ()
  projectors: Mapping = _empty()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learner:
  """A model that is trained, whether teacher or student, as the nodes of a config say.

  `where` is the config path of its node, for error lines, and `node_path` that of the node with the
  objective and the augments of its last stage. `stages` are by the paths of their nodes, in
  order. `how` is what orders its data otherwise than the config's node `data`.
  """
  name: str
  where: str
  node_path: str
  model: Mapping
  seed: int
  stages: Mapping[str, StageNode]
  frozen: Sequence[str]
  projectors: Mapping
  schedules: Mapping
  carry: Mapping
  labelled: float
  drawn: float
  how: Mapping = _empty()
  reads: Mapping = _empty()         # of its fields, the fields of the data that it takes instead


@dataclasses.dataclass(frozen=True)
class DeriveNode:
  """`derive.D`: a model that a change in `compress/` makes of another one, without training."""
  of: str                           # a teacher, a student or a baseline of the run
  change: Mapping                   # {name, …}


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """`evaluate`. `resamples` are those of the bootstrap.

  Without `cost` there is quality alone, as sweeps want it: calls aren't timed, and models aren't
  looked into nor their inputs corrupted (`pipelines/reasons.py`); without `faithfulness` the last.

  They are timed on one core, each model in a process of its own; if not `alone`, then here, by all
  cores, and briefly: processes take seconds to start, and tests only look whether it all works.
  `watts` is the power of a CPU's busy core, for an estimate where nothing counts joules; 0: none.
  `tiers` changes limits of `report/tiers.py`.
  """
  split: str = 'test'
  also: Sequence[str] = ()          # further splits to judge by
  batch_size: int = 64
  resamples: int = 1000
  cost: bool = True
  faithfulness: bool = True
  alone: bool = True
  watts: float = 0.0
  tiers: Mapping = _empty()

  def __post_init__(self):
    if self.batch_size < 1 or not 1 <= self.resamples <= MOST_RESAMPLES:
      raise ValueError(f'batch_size={self.batch_size} and resamples={self.resamples} must be at '
                       f'least 1, resamples at most {MOST_RESAMPLES}')
    if not 0 <= self.watts < math.inf:
      raise ValueError(f'watts={self.watts} must be 0 or more')


def teacher(name: str, node: TeacherNode, seed: int, reads: Mapping[str, str]) -> Learner:
  """Returns what `teachers.T` trains; `seed` is that of the run, `reads` what it reads instead."""
  where = f'teachers.{name}'
  own = {key: node.train[key] for key in lookup.parameters(TeacherTrain) if key in node.train}
  plan = {key: value for key, value in node.train.items() if key not in own}
  own = lookup.call(TeacherTrain, own, f'{where}.train')
  stages = _before(node.before, f'{where}.') | {
      where: StageNode(own.objective, own.optimizer, plan, own.augment)}
  how = ({'seed': node.seed} if node.shared else {}) | (
      {'batch_size': own.batch_size} if own.batch_size else {})
  return Learner(name=name, where=where, node_path=f'{where}.train', model=node.model,
                 stages=stages,
                 frozen=node.frozen, seed=node.seed + (0 if node.shared else seed),
                 projectors=node.projectors, schedules=node.schedules, carry=node.carry,
                 labelled=own.labelled, drawn=own.drawn, how=how, reads=reads)


def student(name: str, config: Config) -> Learner:
  """Returns what a config's own nodes train."""
  node = lookup.call(StudentNode, config.student, 'student')
  stages = _before(config.before, '') | {
      '': StageNode(config.objective, config.optimizer, config.train, config.augment)}
  return Learner(name=name, where='student', node_path='', model=node.model, seed=config.seed,
                 stages=stages, frozen=node.frozen, projectors=node.projectors,
                 schedules=config.schedules, carry=config.carry,
                 labelled=config.data.get('labelled', 1.0), drawn=config.data.get('drawn', 0.0))


def _before(nodes: Mapping[str, Mapping], prefix: str) -> dict[str, StageNode]:
  paths = {f'{prefix}before.{name}': node for name, node in sorted(nodes.items())}
  return {path: lookup.call(StageNode, node, path) for path, node in paths.items()}
