"""The nodes of a config: their fields, and what these are where a config leaves them out."""
import dataclasses
import math
from collections.abc import Mapping, Sequence

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
class TeacherNode:
  """`teachers.T`: `train` given: trained here; `init` given: loaded; both: fine-tuned.

  Where terms of `train.objective` read other teachers it is their assistant (TAKD, Mirzadeh 2020),
  trained after them, whatever the order of names; it may read them all (DGKD, Son 2021). Only whom
  a stage reads is run in its steps, and a teacher that is read by none is trained all the same.
  """
  model: Mapping = _empty()
  init: str = ''
  train: Mapping = _empty()
  source: str = 'live'              # or 'fields': its outputs are fields T/… of the data set
  fresh: Sequence[str] = ()         # patterns of parameters of `init` that start anew
  dtype: str = 'float32'            # or 'bfloat16' or 'mixed': `models.precision`
  microbatch: int = 0
  seed: int = 0                     # added to the run's: teachers of one kind differ
  shared: bool = False              # one for all seeds: its own seed also orders its data


@dataclasses.dataclass(frozen=True)
class TeacherTrain:
  """What `teachers.T.train` has beside the fields of `train`.

  A teacher sees all labels unless `labelled` says otherwise; of an assistant, too, only the terms
  that read labels need any. In `objective`, the model that is trained is `student/…` and `self/…`,
  another teacher `TEACHER/…`; projectors, carries and `schedule/…` are the student's alone.
  """
  objective: Mapping
  optimizer: Mapping
  labelled: float = 1.0
  drawn: float = 0.0
  batch_size: int = 0               # the data's, which is the student's
  augment: Sequence = ()


@dataclasses.dataclass(frozen=True)
class StepNode:
  """`before.S`: a stage that the student goes through before its own, which has these fields too.

  Such stages follow each other in the order of their names (a ConfigDict keeps no other), each from
  the parameters that the last one left, its projectors' too where both have them. They share
  data, schedules and projectors with the student's own stage; carries are for that alone.
  `frozen` given replaces the student's.
  """
  objective: Mapping
  optimizer: Mapping
  train: Mapping
  augment: Sequence = ()
  frozen: Sequence | None = None


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


@dataclasses.dataclass(frozen=True)
class Evaluate:
  """`evaluate`. `resamples` are those of the bootstrap.

  Without `cost` there is quality alone, as sweeps want it: calls aren't timed, and models aren't
  looked into nor their inputs corrupted (`pipelines/reasons.py`); without `faithfulness` the last.

  They are timed on one core, each model in a process of its own; if not `alone`, then here, by all
  cores, and briefly: processes take seconds to start, and tests only look whether it all works.
  `watts` is the power of a CPU's busy core, for an estimate where nothing counts joules; 0: none.
  `tiers` changes limits of `evaluate/tiers.py`.
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
