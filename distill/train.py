"""The only training loop."""
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill import checkpoint, lookup, loss_scale, microbatches, objective, sharding, step
from distill.carry import Carry
from distill.data import batches
from distill.logs import means
from distill.models import layers, precision
from distill.models.functional import Flat, check_computing
from distill.runs import Run
from distill.step import State
from distill.student import Student
from distill.teachers import Teacher, Weights
from distill.types import Schedule, Status, Stop

FitResult = tuple[Flat, Flat, dict[str, float]]    # parameters, the rest, and the training cost


@dataclasses.dataclass(frozen=True)
class Stage:
  """The training of one call of `fit`: model, data, objective, optimizer."""
  name: str
  student: Student
  # Makes parameters and rest before step 0 from the weights of the models trained so far.
  start: Callable[[Mapping[str, Weights]], tuple[Flat, Flat]]
  terms: tuple[objective.Term, ...]
  data: Sequence[Mapping[str, Any]]               # data[i]: this process's rows of batch i
  optimizer: Any                                  # a config node, or an optax transformation
  train: Mapping[str, Any]                        # a config node
  seed: int = 0                                   # of dropout and whatever else is random
  where: str = 'config'                           # config path of its node, for error lines
  node_path: str = ''                             # config path of the node with its optimizer
  teachers: tuple[Teacher, ...] = ()
  schedules: Mapping[str, Schedule] = dataclasses.field(default_factory=dict)
  carries: Mapping[str, Carry] = dataclasses.field(default_factory=dict)
  prepare: Callable | None = None                 # makes models' inputs of stored fields
  augment: tuple[Callable, ...] = ()
  evaluate: Callable[[Flat, Flat], Mapping[str, float]] | None = None
  layout: sharding.Layout = dataclasses.field(default_factory=sharding.layout)


@dataclasses.dataclass(frozen=True)
class TrainConfig:
  """The `train` node of a config.

  `log_every`, `save_every` and `eval_every` are in steps; 0 means at the last step only. `shares`:
  print and log each term's share of the sum of all terms' gradient norms before step 0. `dtype` is
  the precision of the model's computation (`models.precision`), 'float16' with a dynamic scale of
  the loss (`loss_scale`); `remat` is the part of its blocks that the backward pass computes again
  (`models.layers.REMAT`).
  """
  steps: int
  accumulate: int = 1
  dtype: str = 'float32'
  remat: str = layers.NOTHING
  log_every: int = 50
  save_every: int = 500
  eval_every: int = 0
  shares: bool = False

  def __post_init__(self):
    if self.steps < 1 or self.accumulate < 1:
      raise ValueError(f'steps={self.steps} and accumulate={self.accumulate} must be at least 1')
    if min(self.log_every, self.save_every, self.eval_every) < 0:
      raise ValueError('log_every, save_every and eval_every must be 0 or more')
    if self.eval_every and (not self.log_every or self.eval_every % self.log_every):
      raise ValueError(f'eval_every={self.eval_every} must be a multiple of log_every='
                       f'{self.log_every}')
    for key, known in ('dtype', precision.DTYPES), ('remat', layers.REMAT):
      value = getattr(self, key)
      if value not in known:
        raise ValueError(f'{key}={value!r} is not one of {", ".join(known)}')

  def is_due(self, every: int, done: int) -> bool:
    """Tells whether an action of every so many steps is due after `done` steps."""
    return done == self.steps or bool(every and done % every == 0)


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A stage as a program that is traced, but not compiled; no array is allocated."""
  config: TrainConfig
  train_step: Callable
  norms: Callable | None              # every term's gradient norm, if the config wants shares
  init: Callable[[Flat, Flat, int], State]        # from parameters, the rest and a seed
  like: State                         # shapes and shardings
  batch: Mapping[str, Any]            # the shapes of the first batch, whole
  traced: Any
  prepare: Callable | None = None     # the step's first action on a batch

  def flops(self) -> float:
    """Counts the floating-point operations of one step at the first batch's shapes, by XLA.

    It counts models, objective and optimizer, but not the making of inputs from stored fields.
    """
    count = lambda lowered: float((lowered.cost_analysis() or {}).get('flops', 0.0))
    before = count(jax.jit(self.prepare).lower(self.batch)) if self.prepare else 0.0
    repeated = microbatches.repeated_operations(self.traced.jaxpr.jaxpr, count)
    return count(self.traced.lower()) + repeated - before


def prepared(stage: Stage, weights: Mapping[str, Any]) -> Prepared:
  """Builds and traces a stage's step, so that parts that don't fit stop before any compilation.

  `weights` are the shapes of the teachers' weights.
  """
  config = lookup.call(TrainConfig, stage.train, f'{stage.where}.train')
  check_computing(stage.student.model, f'{stage.where}.train', dtype=config.dtype,
                  remat=config.remat)
  optimizer = stage.optimizer
  if isinstance(optimizer, Mapping):
    optimizer = lookup.build('optimizers', {'name': 'adamw', **optimizer},
                             f'{stage.node_path or stage.where}.optimizer', steps=config.steps)
  parts = stage.student, stage.teachers, stage.terms
  options = dict(schedules=stage.schedules, prepare=stage.prepare, augment=stage.augment,
                 accumulate=config.accumulate, dtype=config.dtype, remat=config.remat,
                 layout=stage.layout, where=stage.where)
  train_step = step.make_train_step(*parts, optimizer, carries=stage.carries, **options)
  # Norms are of step 0, before the loss scale has found a factor for float16.
  wide = 'float32' if config.dtype == precision.FLOAT16 else config.dtype
  norms = (step.make_gradient_norms(*parts, **{**options, 'dtype': wide}) if config.shares
           else None)
  # With the run's shardings, so that the first step needn't be traced again.
  batch = stage.layout.batch_shapes(stage.data[0])
  weights = {name: sharding.shapes(w, stage.layout.weight_shardings(w))
             for name, w in weights.items()}
  params, rest = stage.student.shapes()

  shapes = step.view_shapes(
      stage.student, stage.teachers, (params, rest, weights, batch), schedules=stage.schedules,
      prepare=stage.prepare, augment=stage.augment, carries=stage.carries, where=stage.where)
  number = jax.ShapeDtypeStruct((), jnp.float32)
  shapes |= {'terms': {term.name: number for term in stage.terms},
             'gradients': {term.group: number for term in stage.terms}}
  init = lambda params, rest, seed: step.init_state(stage.student, params, rest, optimizer, {
      name: carry.init(jax.random.key(seed), shapes, params)
      for name, carry in stage.carries.items()}, loss_scale.initial(config.dtype))
  like = jax.eval_shape(init, params, rest, stage.seed)
  homes = step.state_shardings(like, stage.layout)
  init, like = jax.jit(init, static_argnums=2, out_shardings=homes), sharding.shapes(like, homes)
  traced = train_step.trace(like, weights, batch, jax.eval_shape(lambda: jax.random.key(0)))
  return Prepared(config, train_step, norms, init, like, batch, traced, stage.prepare)


def folder(stage: Stage, run: Run) -> pathlib.Path | None:
  """Returns the folder of a stage's checkpoints; None for a run that keeps nothing."""
  return run.workdir and run.workdir / 'checkpoints' / stage.name


def fit(stage: Stage, ready: Prepared, weights: Mapping[str, Weights], run: Run,
        previous: tuple[Flat, Flat] = ({}, {})) -> FitResult:
  """Trains a stage, resuming from the workdir's last checkpoint if there is one.

  Args:
    weights: by name, the weights of its teachers and of the model that it starts from.
    previous: parameters and rest at the end of an earlier stage; the stage starts from these where
      it has the same paths.
  """
  with run.deferring():
    return _fit(TrainSession(stage, ready, weights, run, previous), ready, run)


class TrainSession:
  """The progress of a stage: its state, its checkpoints, and sums until the next logged row."""

  def __init__(self, stage: Stage, ready: Prepared, weights: Mapping[str, Weights], run: Run,
               previous: tuple[Flat, Flat]):
    self.stage, self.run, self.folder = stage, run, folder(stage, run)
    homes = step.state_shardings(ready.like, stage.layout)
    found = checkpoint.restore(self.folder, ready.like) if self.folder else None
    teachers = {t.name: weights.get(t.name, ({}, {})) for t in stage.teachers}
    hashes = {name: checkpoint.sha256(teacher) for name, teacher in teachers.items()}
    self.is_new = found is None
    if self.is_new:
      params, rest = (
          {path: old.get(path, value) for path, value in part.items()}
          for part, old in zip(stage.start(weights), previous, strict=True))
      state = ready.init(sharding.device_put(params, homes.params),
                         sharding.device_put(rest, homes.rest), stage.seed)
      self.facts = {'seconds': 0.0, 'window': {}, 'teachers': hashes}
    else:
      state, self.facts = found[1], dict(found[2])
      for name, digest in hashes.items():
        if self.facts['teachers'].get(name) != digest:
          raise Stop(Status.MISFIT, f'{stage.name}: the teacher {name!r} is not the one this run '
                     'began with: take another workdir, or restore the teacher')
    self.state = sharding.device_put(state, homes)        # before the first step
    self.weights = {name: sharding.device_put(teacher, stage.layout.weight_shardings(teacher))
                    for name, teacher in teachers.items()}
    self.saved = int(state.step)
    run.log.rewind(stage.name, -1 if self.is_new else self.saved)
    self.window = {name: list(pair) for name, pair in self.facts['window'].items()}
    self.before = time.monotonic()

  def settle(self, pending: list[Any]) -> None:
    """Waits for the steps under way, adds up their sums, and stops at non-finite numbers."""
    for sums in jax.device_get(pending):
      for name, (total, count) in sums.items():
        pair = self.window.setdefault(name, [0.0, 0.0])
        pair[0] += float(total)
        pair[1] += float(count)
    pending.clear()
    bad = int(self.state.first_bad)
    if bad >= 0:
      batch = self.stage.layout.to_devices(self.stage.data[bad])
      ids = [int(i) for i in sharding.on_host(batch['id']) if i >= 0]
      intact = (f'checkpoint {self.saved} in {self.folder} is intact'
                if self.saved and self.folder else 'nothing was saved yet')
      raise Stop(Status.NONFINITE, f'{self.stage.name}: loss or gradient is not finite at step '
                 f'{bad}, batch ids {ids}; {intact}: lower the learning rate '
                 '(optimizer.rate), or look at these examples')

  def log_row(self, done: int, scores: Mapping[str, float]) -> dict[str, float]:
    """Logs the means since the last row, and the scores; returns both."""
    row = {**means(self.window), **scores}
    self.run.log.row(self.stage.name, self.run.seed, done, row)
    self.window.clear()
    return row

  def save(self, done: int) -> None:
    """Writes a checkpoint."""
    now = time.monotonic()
    self.facts['seconds'] += now - self.before
    self.before, self.saved = now, done
    if self.folder:
      checkpoint.save(self.folder, done, self.state, {**self.facts, 'window': self.window})


def _fit(session: TrainSession, ready: Prepared, run: Run) -> FitResult:
  """Trains a stage from its current step to its last one."""
  stage, config, done, pending = session.stage, ready.config, session.saved, []
  feed, seed = batches.read_ahead(stage.data, done), jax.random.key(stage.seed)
  single_process, stop = jax.process_count() == 1, sharding.any_process(run.preempted)
  if ready.norms and session.is_new:
    first = stage.layout.to_devices(stage.data[0])
    norms = ready.norms(session.state, session.weights, first, seed)
    run.tell_shares(stage.name, jax.device_get(norms))
  while done < config.steps and not stop:
    session.state, sums = ready.train_step(session.state, session.weights,
                                           stage.layout.to_devices(next(feed)), seed)
    done += 1
    pending.append(sums)
    if len(pending) > 2:                # two steps ahead of the device, never more
      jax.block_until_ready(pending[-3])
    is_logged, is_saved = (config.is_due(every, done)
                           for every in (config.log_every, config.save_every))
    if is_logged:
      session.settle(pending)
      scores = {}
      if stage.evaluate and config.eval_every and config.is_due(config.eval_every, done):
        scores = stage.evaluate(session.state.params, session.state.rest)
      row = session.log_row(done, scores)
      run.log.progress(stage.name, done, config.steps, row)
    if is_saved:
      session.settle(pending)
      session.save(done)
    if single_process or is_logged or is_saved:
      stop = sharding.any_process(run.preempted)
  if session.saved < done:
    session.settle(pending)
    session.save(done)
  run.stop_if_preempted()
  return session.state.params, session.state.rest, {
      'seconds': session.facts['seconds'], 'steps': config.steps,
      'examples': config.steps * ready.batch['valid'].shape[0]}
