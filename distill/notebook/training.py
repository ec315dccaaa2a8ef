"""`distill.distill`: a student learns from its teachers, by a call."""
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from distill import checkpoint, logs, lookup, objective, sharding, step, teachers, train
from distill.data.iterables import IterableData
from distill.disk import replace
from distill.losses import logits
from distill.models import custom
from distill.notebook import terms
from distill.runs import Run
from distill.student import Projector, Student, build_student, subtree
from distill.teachers import Live
from distill.types import SEEDS, Schedule, Status, Stop

RESERVED = objective.BUILT_IN_VIEWS             # no names for teachers
ROW_LABELS = 'stage', 'seed', 'time'         # of a row, and not of the history
ROWS = 20                               # of the history, unless `log_every` says otherwise
KEEP_EVERY = 500                        # steps between checkpoints, if there is a workdir
HINTON = functools.partial(logits.kl, temperature=4.0)


def distill(student: Any, teacher: Any, data: Iterable[Mapping[str, Any]], *,
            optimizer: optax.GradientTransformation, steps: int = 0, epochs: float = 0,
            losses: terms.Losses = HINTON, projectors: Mapping[str, tuple] | None = None,
            schedules: Mapping[str, Schedule] | None = None,
            validation: Iterable[Mapping[str, Any]] | None = None,
            metrics: terms.Losses | None = None, eval_every: int = 0, log_every: int = 0,
            inputs: custom.Inputs = None, frozen: Sequence[str] = (), accumulate: int = 1,
            seed: int = 0, progress: bool = True,
            workdir: str | pathlib.Path | None = None) -> tuple[Any, list[dict[str, float]]]:
  """Trains a student on what its teachers answer; returns its parameters and a history.

    params, history = distill.distill(student, teacher, data, optimizer=optax.adam(1e-3), epochs=5)
    nnx.update(student, params)

  Nothing that is given is changed: `params` are the student's after training. Those of a module are
  an `nnx.State` for `nnx.update`, running statistics included; those of a pair are a tree like the
  given one. `history` has a dict of numbers for each of about 20 steps: `step`, `loss`, the mean of
  each loss since the row before, `grad_norm`, and `validation/METRIC`.

  Args:
    student: an `nnx.Module`, called `model(x)` or `model(batch)`, or a pair `(apply, params)` with
      `apply(params, x)`. It returns an array, or a dict of named arrays. Arguments `train`,
      `deterministic`, `key` and `rngs` are given what their names say; a module is in train mode
      in training, and in evaluation mode in validation.
    teacher: the same, or a function of a batch, or a dict of several by name. A module must be in
      evaluation mode. None: the losses read the batch alone, for example stored answers.
    data: batches, dicts of arrays that lead with the examples: a list, a generator, a loader. It is
      begun again as often as needed. A batch of fewer rows than the first is filled up with rows
      that don't count. The arrays may have `valid` (0: a row that doesn't count) and `id`.
    optimizer: any of optax. It sees the parameters as a flat dict, 'model/' before their paths.
    steps, epochs: how long; one of them. Epochs are of data that has a length.
    losses: a function of arguments `student`, `teacher` (what they answer), or of a teacher's, a
      field's, a schedule's, a projector's or an output's name, which returns a value for each
      example. Or a dict of such by name; or, in its place, a dict with the keys of a term in a
      config: `loss`, `reads` (argument → 'student/OUTPUT', 'TEACHER/OUTPUT', 'batch/FIELD',
      'projected/P', 'schedule/S'), `weight`, `schedule` (of the weight, a function of the step),
      `kwargs`, `mask`. By default Hinton's KL divergence at temperature 4.
    projectors: by name a pair of a path, or several, and a module that is trained with the student:
      `{'hint': ('student/hidden', nnx.Linear(16, 64, rngs=rngs))}`. A loss reads `projected/hint`.
    schedules: functions of the step that losses read, by name.
    validation: batches of which `metrics` are the means, each `eval_every` steps; by default with
      every row of the history.
    metrics: what losses are: values of examples, such as `lambda student, label: student.argmax(-1)
      == label`. By default the losses themselves.
    log_every: the steps between rows of the history.
    inputs: the field that models take, or several, where their signatures don't say it; 'batch' for
      the whole dict.
    frozen: patterns of paths of parameters that stay as they are, such as 'backbone/*'.
    accumulate: micro-batches that a batch is computed in, for less memory.
    seed: of dropout and whatever else is random.
    progress: whether a bar is shown.
    workdir: a folder for checkpoints and rows; the same call goes on from there.

  Raises:
    ValueError: one line that says what is wrong, where, and what to do.
  """
  with as_value_errors():
    source = IterableData(data)
    held_out = None if validation is None else IterableData(validation, title='validation')
    node = _train_node(steps, epochs, log_every, eval_every, source, held_out, accumulate)
    models = _models(student, teacher, source.fields, inputs)
    source.full = models.student.mixing
    learner = _learner(models.student, projectors or {}, frozen)
    schedules = {name: terms.check_schedule(schedule, f'schedules[{name!r}]')
                 for name, schedule in (schedules or {}).items()}
    shapes = _shapes(learner, models, schedules, source.fields, 'data')
    found = _terms(losses, shapes, models, 'losses')
    stage = train.Stage(
        name='student', student=learner, start=lambda weights: learner.init(stage.seed),
        terms=found, data=source, optimizer=_check_optimizer(optimizer), train=node,
        seed=_check_seed(seed), where='distill', teachers=models.teachers, schedules=schedules,
        layout=layout_for([source.size // accumulate or 1, *([held_out.size] if held_out else [])]))
    if held_out:
      shapes = _shapes(learner, models, schedules, held_out.fields, 'validation')
      scored = found if metrics is None else _terms(metrics, shapes, models, 'metrics')
      stage = _with_validation(stage, held_out, scored, models.weights)
    elif metrics is not None:
      raise Stop(Status.CONFIG, 'metrics are of validation data: give validation=…')
    return _fit(stage, models, progress, workdir and pathlib.Path(workdir))


class Models(NamedTuple):
  """The student and the teachers of a call, and the teachers' weights by name."""
  student: custom.Custom
  teachers: tuple[Live, ...]
  weights: Mapping[str, teachers.Weights]


@contextlib.contextmanager
def as_value_errors() -> Iterator[None]:
  """Turns a `Stop` into a ValueError of one line."""
  try:
    yield
  except Stop as stop:
    raise ValueError(str(stop)) from stop.__cause__


def _models(student: Any, teacher: Any, fields: Mapping[str, Any],
            inputs: custom.Inputs) -> Models:
  """Wraps the student and the teachers."""
  learner = custom.model(student, 'the student', fields, inputs)
  if not learner.weights[0]:
    raise Stop(Status.CONFIG, 'the student has no parameters to train: give an nnx.Module with '
               'nnx.Param, or a pair (apply, params)')
  several = teacher if isinstance(teacher, Mapping) else {} if teacher is None else {
      'teacher': teacher}
  found = []
  for name, given in several.items():
    title = 'the teacher' if several is not teacher else f'the teacher {name!r}'
    if name in RESERVED or not isinstance(name, str) or '/' in name:
      raise Stop(Status.CONFIG, f'{title}: call it something else; taken are '
                 + ', '.join(RESERVED))
    custom.check_eval_mode(given, title)
    found.append(Live(name, custom.model(given, title, fields, inputs)))
  return Models(learner, tuple(found), {live.name: live.model.weights for live in found})


def _learner(model: custom.Custom, projectors: Mapping[str, tuple],
             frozen: Sequence[str]) -> Student:
  """Returns the student with its projectors, its patterns of frozen parameters checked."""
  if isinstance(frozen, str):
    raise Stop(Status.CONFIG, f'frozen={frozen!r} must be several patterns, such as ({frozen!r},)')
  found = {}
  for name, given in projectors.items():
    if not isinstance(given, tuple) or len(given) != 2:
      raise Stop(Status.CONFIG, f'projectors[{name!r}] must be a pair of what it reads and a '
                 "module, such as ('student/hidden', nnx.Linear(16, 64, rngs=rngs))")
    reads, module = given
    model_of = custom.projector(module, f'projectors[{name!r}]')
    found[name] = Projector(model_of, objective.path_tuple(reads))
  return dataclasses.replace(build_student(model, {}, frozen, {}), projectors=found)


def _shapes(learner: Student, models: Models, schedules: Mapping[str, Schedule],
            fields: Mapping[str, Any], title: str) -> dict[str, dict[str, Any]]:
  """Returns the shapes of all views for the first batch; stops at a model that can't take it."""
  batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in fields.items()}
  key = jax.eval_shape(lambda: jax.random.key(0))
  named = {'the student': models.student} | {
      f'the teacher {live.name!r}' if len(models.teachers) > 1 else 'the teacher': live.model
      for live in models.teachers}
  for name, model in named.items():
    outputs = output_shapes(model, batch, name, title)
    for path, x in outputs.items():
      if not path.startswith('weights/') and x.shape[:1] != batch['valid'].shape:
        raise Stop(Status.MISFIT, f'{name} gives {path!r} {list(x.shape)} for a batch of '
                   f'{batch["valid"].shape[0]}: outputs lead with the examples, but for '
                   "those named 'weights/…'")
  output_shapes(models.student, batch, 'the student', title, train=True, key=key)

  def views(params, rest, weights, batch):
    outputs = teachers.outputs(models.teachers, weights, batch)
    return step.make_views(learner, schedules)(
        params, rest, outputs, {}, batch, jnp.zeros((), jnp.int32), train=False, key=None)[0]
  found = jax.eval_shape(views, *learner.shapes(), {
      live.name: live.shapes for live in models.teachers}, batch)
  return {**found, 'projected': found.get('projected', {})}


def output_shapes(model: custom.Custom, batch: Mapping[str, Any], title: str, data: str, *,
                  train: bool = False, key: Any = None) -> dict[str, Any]:
  """Returns the shapes of a model's outputs; stops where the model can't take the batch."""
  sizes = ', '.join(f'{name} {list(x.shape)}' for name, x in batch.items())
  try:
    return jax.eval_shape(lambda params, rest, batch, key: model(
        params, rest, batch, train=train, key=key)[0], *model.shapes, batch, key)
  except Stop:
    raise
  except KeyError as error:
    raise Stop(Status.MISFIT, f'{title} reads {error}, which {data} has not: a batch has {sizes}'
               ) from error
  except Exception as error:
    line = next(iter(str(error).splitlines()), '')
    raise Stop(Status.MISFIT, f'{title} cannot be called with a batch of {data} ({sizes}): '
               f'{type(error).__name__}: {line}') from error


def _train_node(steps: int, epochs: float, log_every: int, eval_every: int, source: IterableData,
                held_out: IterableData | None, accumulate: int) -> dict[str, int]:
  """Returns the fields of `train.TrainConfig`."""
  if bool(steps) == bool(epochs):
    raise Stop(Status.CONFIG, f'steps={steps} and epochs={epochs}: say how long by one of them')
  if epochs:
    if not source.length:
      raise Stop(Status.CONFIG, f'epochs={epochs}: this data has no length: say steps=…')
    steps = math.ceil(epochs * source.length)
  log_every = log_every or eval_every or max(1, steps // ROWS)
  node = {'steps': steps, 'accumulate': accumulate, 'log_every': log_every,
          'save_every': KEEP_EVERY, 'eval_every': eval_every or (log_every if held_out else 0)}
  lookup.call(train.TrainConfig, node, 'distill')
  return node


def _terms(losses: terms.Losses, shapes: terms.Shapes, models: Models,
           where: str) -> tuple[objective.Term, ...]:
  """Builds terms, and checks that each gives values for the examples of a batch."""
  names = [live.name for live in models.teachers]
  found = terms.terms(losses, shapes, names, where)
  for term in found:
    terms.check(term, shapes, names)
  return found


def _check_optimizer(optimizer: Any) -> optax.GradientTransformation:
  if not isinstance(optimizer, optax.GradientTransformation):
    raise Stop(Status.CONFIG, f'optimizer is a {type(optimizer).__name__}: give one of optax, such '
               'as optax.adamw(1e-3)')
  return optimizer


def _check_seed(seed: Any) -> int:
  if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < SEEDS:
    raise Stop(Status.CONFIG, f'seed={seed!r} must be a whole number from 0, below 2**31')
  return seed


def layout_for(sizes: Sequence[int]) -> sharding.Layout:
  """Returns a layout on as many devices as divide batches of these sizes."""
  devices = jax.devices()
  return sharding.layout(devices=devices[:math.gcd(len(devices), *sizes)])


def _with_validation(stage: train.Stage, held_out: IterableData, scored: tuple[objective.Term, ...],
                     weights: Mapping[str, teachers.Weights]) -> train.Stage:
  """Adds an evaluation to a stage: the means of terms over validation batches, without weights."""
  views_of, layout = step.make_views(stage.student, stage.schedules), stage.layout
  weights = {name: sharding.device_put(part, layout.weight_shardings(part))
             for name, part in weights.items()}
  last = jnp.int32(stage.train['steps'])

  @jax.jit
  def sums(params, rest, weights, batch):
    outputs = teachers.outputs(stage.teachers, weights, batch, layout)
    views, _ = views_of(layout.all_gather(params), rest, outputs, {}, batch, last, train=False,
                        key=None)
    return objective.compute(scored, views, objective.counts(scored, batch), last)[1]

  def evaluate(params, rest):
    whole: dict[str, list[float]] = {}
    for batch in held_out.one_pass():
      found = jax.device_get(sums(params, rest, weights, layout.to_devices(batch)))
      for name, (value, count) in found.items():
        total = whole.setdefault(name, [0.0, 0.0])
        total[0], total[1] = total[0] + float(value), total[1] + float(count)
    return {f'validation/{name}': value for name, value in logs.means(whole).items()}
  return dataclasses.replace(stage, evaluate=evaluate)


def _fit(stage: train.Stage, models: Models, progress: bool,
         workdir: pathlib.Path | None) -> tuple[Any, list[dict[str, float]]]:
  """Trains a stage; returns the student's parameters and the history."""
  ready = train.prepared(stage, {live.name: live.shapes for live in models.teachers})
  if workdir:
    _check_same(workdir, ready, models, stage)
  log = logs.Log(workdir, quiet=not progress) if workdir else logs.Memory(quiet=not progress)
  try:
    params, rest, _ = train.fit(stage, ready, models.weights,
                                Run('distill', workdir, log, seed=stage.seed))
    history = [{name: value for name, value in row.items() if name not in ROW_LABELS}
               for row in log.rows()]
  finally:
    log.close()
  return models.student.restore(subtree(params, 'model/'), subtree(rest, 'model/')), history


def _check_same(workdir: pathlib.Path, ready: train.Prepared, models: Models,
                stage: train.Stage) -> None:
  """Stops if a workdir was begun by another call: another program, number of steps or student."""
  program = re.sub('0x[0-9a-f]+', '', str(ready.traced.jaxpr))
  now = {'steps': ready.config.steps, 'seed': stage.seed,
         'program': hashlib.sha256(program.encode()).hexdigest(),
         'student': checkpoint.sha256(models.student.weights)}
  path = workdir / 'distill.json'
  workdir.mkdir(parents=True, exist_ok=True)
  if not path.exists():
    replace(path, json.dumps(now, indent=2))
  before = json.loads(path.read_text())
  differ = [name for name, value in now.items() if before.get(name) != value]
  if differ:
    raise Stop(Status.CONFIG, f'{workdir} was begun with another {" and another ".join(differ)} (a '
               'program is models, losses and optimizer): take another workdir')
