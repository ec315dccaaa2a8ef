"""Nodes of a config: their fields and defaults."""
import dataclasses
import math
from collections.abc import Mapping, Sequence

from distill import lookup

MOST_RESAMPLES = 10**6          # every metric's value of each is kept in memory


def _empty():
  return dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
  """The fields that every config has: data, task and evaluation."""
  seed: int
  data: Mapping
  task: Mapping
  pipeline: str = 'compare.run'
  mesh: Mapping = _empty()
  evaluate: Mapping = _empty()
  tier: str = ''                    # the tier of `evaluate.tiers` that the student is to reach


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(EvalConfig):
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
class Evaluation(EvalConfig):
  """The fields of a config of `evaluate`: models by name; their reference is the first teacher."""
  models: Mapping


@dataclasses.dataclass(frozen=True)
class ModelNode:
  """`models.M` of an evaluation: a finished model, and facts from the report of its run.

  `saw` and `spent` are the examples and the training cost that the report of its run has.
  """
  place: str
  content: str                      # sha256 of its files
  role: str = 'student'
  model: Mapping = _empty()         # fields that no weight depends on
  teachers: Sequence[str] = ()
  saw: Mapping | None = None
  spent: Mapping | None = None
  curves: str = ''                  # the metrics.jsonl of its run
  stage: str = ''                   # its name in that file
  reads: Mapping = _empty()         # fields of the data in place of its own: before its card's


@dataclasses.dataclass(frozen=True)
class StageNode:
  """A stage of a learner: `before.S`, or the last stage, whose fields are the config's.

  Stages of `before` come first, in the order of their names (a ConfigDict keeps no other). Each
  starts from the parameters at the end of the stage before it, and from its projectors where both
  stages have them. All stages share data, schedules and projectors; only the last has carries. A
  given `frozen` replaces the learner's.
  """
  objective: Mapping
  optimizer: Mapping
  train: Mapping
  augment: Sequence = ()
  frozen: Sequence | None = None


@dataclasses.dataclass(frozen=True)
class TeacherNode:
  """`teachers.T`: `train` given: trained here; `init` given: loaded; both: fine-tuned.

  A teacher whose terms of `train.objective` read other teachers is their assistant (TAKD, Mirzadeh
  2020). It is trained after them, whatever the order of names, and may read all of them (DGKD, Son
  2021). A stage's step runs only the teachers that the stage reads; a teacher that no stage reads
  is trained all the same.

  `source` is 'live' for a model; 'fields' for outputs that are fields T/… of the data set;
  'carry:NAME' for the student's model at the average that carry.NAME keeps of its parameters. The
  last two need no model, and are not in the report.

  `reads` are fields of the model, each with the field of the data set that replaces it, as in
  {'image': 'view2/image'}: in training, in other models' steps, and in the evaluation. A loaded
  teacher whose card has `reads` keeps them unless the config gives others.
  """
  model: Mapping = _empty()
  init: str = ''
  train: Mapping = _empty()
  source: str = 'live'
  reads: Mapping = _empty()
  fresh: Sequence[str] = ()         # patterns of parameters of `init` that are reinitialised
  frozen: Sequence[str] = ()        # patterns of parameters that `train` doesn't change
  projectors: Mapping = _empty()
  before: Mapping = _empty()        # S: a `StageNode`
  schedules: Mapping = _empty()
  carry: Mapping = _empty()
  dtype: str = 'float32'            # or another of `models.precision.DTYPES`
  microbatch: int = 0
  seed: int = 0                     # added to the run's, so that equal teachers differ
  shared: bool = False              # one model for all seeds; `seed` then also orders its data


@dataclasses.dataclass(frozen=True)
class TeacherTrain:
  """The fields of `teachers.T.train` beside those of `train.TrainConfig`.

  A teacher sees all labels unless `labelled` is below 1; an assistant needs labels only for terms
  that read them. In the terms, `student/…` and `self/…` are the model that is trained, `TEACHER/…`
  is another teacher.
  """
  objective: Mapping
  optimizer: Mapping
  labelled: float = 1.0
  drawn: float = 0.0
  batch_size: int = 0               # 0: the data's, which is the student's
  augment: Sequence = ()


@dataclasses.dataclass(frozen=True)
class StudentNode:
  """`student`. `init` is a teacher's name or an exported model, `take` a path map.

  The map's form is that of `student.start_from`; `layers` is the short form for blocks.
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
  """A model to train, teacher or student, with the nodes that describe it.

  `where` is the config path of its node, for error lines, and `node_path` that of the node with the
  objective and the augments of its last stage. `stages` are by the config paths of their nodes,
  in order. `batching` are fields that replace those of the config's node `data`.
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
  batching: Mapping = _empty()
  reads: Mapping = _empty()         # fields of the model, and the fields of the data replacing them


@dataclasses.dataclass(frozen=True)
class DeriveNode:
  """`derive.D`: a model that a change of `compress/` makes from another, without training."""
  of: str                           # name of a teacher, a student or a baseline of the run
  change: Mapping                   # {name, …}


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """`evaluate`. `resamples` are those of the bootstrap.

  Without `cost`, only quality is measured, as sweeps want it: calls aren't timed, models aren't
  explained, and inputs aren't corrupted (`pipelines/explain.py`). Without `faithfulness`, calls are
  timed, but models aren't explained and inputs aren't corrupted.

  With `alone`, calls are timed on one core, each model in a process of its own. Otherwise they are
  timed briefly in this process, on all cores: starting processes takes seconds, too long for tests.
  `watts` is the power of a CPU's busy core, for an estimate where no meter counts joules; 0 means
  no estimate. `tiers` changes limits of `report/tiers.py`.
  """
  split: str = 'test'
  also: Sequence[str] = ()          # further splits
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
  """Returns the learner of `teachers.T`; `seed` is the run's, `reads` are its replaced fields."""
  where = f'teachers.{name}'
  spec = {key: node.train[key] for key in lookup.parameters(TeacherTrain) if key in node.train}
  train = {key: value for key, value in node.train.items() if key not in spec}
  spec = lookup.call(TeacherTrain, spec, f'{where}.train')
  stages = _before(node.before, f'{where}.') | {
      where: StageNode(spec.objective, spec.optimizer, train, spec.augment)}
  batching = {}
  if node.shared:
    batching['seed'] = node.seed
  if spec.batch_size:
    batching['batch_size'] = spec.batch_size
  return Learner(name=name, where=where, node_path=f'{where}.train', model=node.model,
                 stages=stages, frozen=node.frozen,
                 seed=node.seed + (0 if node.shared else seed), projectors=node.projectors,
                 schedules=node.schedules, carry=node.carry, labelled=spec.labelled,
                 drawn=spec.drawn, batching=batching, reads=reads)


def student(name: str, config: Config) -> Learner:
  """Returns the learner that a config's top-level nodes describe: its student."""
  node = lookup.call(StudentNode, config.student, 'student')
  stages = _before(config.before, '') | {
      '': StageNode(config.objective, config.optimizer, config.train, config.augment)}
  return Learner(name=name, where='student', node_path='', model=node.model, seed=config.seed,
                 stages=stages, frozen=node.frozen, projectors=node.projectors,
                 schedules=config.schedules, carry=config.carry,
                 labelled=config.data.get('labelled', 1.0), drawn=config.data.get('drawn', 0.0))


def _before(nodes: Mapping[str, Mapping], prefix: str) -> dict[str, StageNode]:
  """Returns the stages before the last by their config paths, in the order of their names."""
  paths = {f'{prefix}before.{name}': node for name, node in sorted(nodes.items())}
  return {path: lookup.call(StageNode, node, path) for path, node in paths.items()}
