"""The only training loop."""
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill import checkpoint, lookup, microbatches, objective, sharding, step
from distill.carry import Carry
from distill.data import batches
from distill.logs import means
from distill.models import layers, precision
from distill.models.pure import Flat, check_computing
from distill.runs import Run
from distill.step import State
from distill.student import Student
from distill.teachers import Teacher, Weights
from distill.types import Schedule, Status, Stop

NONE: Weights = ({}, {})        # of a teacher that is no module
Fitted = tuple[Flat, Flat, dict[str, float]]    # parameters, the rest, and what training cost


@dataclasses.dataclass(frozen=True)
class Stage:
  """What one call of `fit` trains, and on what."""
  name: str
  student: Student
  # Parameters and rest before step 0, of the weights of the models that there are by then.
  start: Callable[[Mapping[str, Weights]], tuple[Flat, Flat]]
  terms: tuple[objective.Term, ...]
  data: Sequence[Mapping[str, Any]]               # data[i]: this process's rows of batch i
  optimizer: Mapping[str, Any]                    # config nodes
  train: Mapping[str, Any]
  seed: int = 0                                   # of dropout and whatever else is random
  where: str = 'config'                           # of its node, for error lines …
  inside: str = ''                                # … and of the node that has its optimizer
  teachers: tuple[Teacher, ...] = ()
  schedules: Mapping[str, Schedule] = dataclasses.field(default_factory=dict)
  carries: Mapping[str, Carry] = dataclasses.field(default_factory=dict)
  prepare: Callable | None = None                 # stored fields as models read them
  augment: tuple[Callable, ...] = ()
  evaluate: Callable[[Flat, Flat], Mapping[str, float]] | None = None
  layout: sharding.Layout = dataclasses.field(default_factory=sharding.layout)


@dataclasses.dataclass(frozen=True)
class Plan:
  """The `train` node of a config.

  `log_every`, `save_every` and `eval_every` are in steps; 0 means never, beside the last step.
  `shares`: say and log each term's part of the sum of the terms' gradient norms before step 0.
  `dtype` and `remat` say what the model computes in, and what of its blocks again in the backward
  pass: `models.precision`, `models.layers.REMAT`.
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
      if (value := getattr(self, key)) not in known:
        raise ValueError(f'{key}={value!r} is not one of {", ".join(known)}')

  def due(self, every: int, done: int) -> bool:
    return done == self.steps or bool(every and done % every == 0)


@dataclasses.dataclass(frozen=True)
class Prepared:
  """A stage as a program: traced, not compiled, nothing allocated."""
  plan: Plan
  train_step: Callable
  norms: Callable | None              # of every term's gradient, if the plan wants their shares
  init: Callable[[Flat, Flat, int], State]        # of parameters, the rest and a seed
  like: State                         # shapes, and where they live
  batch: Mapping[str, Any]            # the shapes of the first batch, whole
  traced: Any
  prepare: Callable | None = None     # what the step does first to a batch

  def flops(self) -> float:
    """Floating-point operations of one step at the first batch's shapes, by XLA's count.

    Those of models, objective and optimizer: what makes inputs of stored fields isn't counted.
    """
    count = lambda lowered: float((lowered.cost_analysis() or {}).get('flops', 0.0))
    before = count(jax.jit(self.prepare).lower(self.batch)) if self.prepare else 0.0
    repeated = microbatches.repeated(self.traced.jaxpr.jaxpr, count)
    return count(self.traced.lower()) + repeated - before


def prepared(stage: Stage, weights: Mapping[str, Any]) -> Prepared:
  """Builds and traces a stage's step: what doesn't fit stops here, before any compilation.

  `weights` are the shapes of the teachers' weights.
  """
  plan = lookup.call(Plan, stage.train, f'{stage.where}.train')
  check_computing(stage.student.model, f'{stage.where}.train', dtype=plan.dtype, remat=plan.remat)
  optimizer = lookup.build('optimizers', {'name': 'adamw', **stage.optimizer},
                           f'{stage.inside or stage.where}.optimizer', steps=plan.steps)
  what = stage.student, stage.teachers, stage.terms
  how = dict(schedules=stage.schedules, prepare=stage.prepare, augment=stage.augment,
             accumulate=plan.accumulate, dtype=plan.dtype, remat=plan.remat, layout=stage.layout,
             where=stage.where)
  train_step = step.make_train_step(*what, optimizer, carries=stage.carries, **how)
  norms = step.make_norms(*what, **how) if plan.shares else None
  # With the layouts of the run, so that the first step needn't be traced again.
  batch = stage.layout.batch(stage.data[0])
  weights = {name: sharding.shapes(w, stage.layout.weights(w)) for name, w in weights.items()}
  params, rest = stage.student.shapes()

  shapes = step.view_shapes(
      stage.student, stage.teachers, (params, rest, weights, batch), schedules=stage.schedules,
      prepare=stage.prepare, augment=stage.augment, carries=stage.carries, where=stage.where)
  number = jax.ShapeDtypeStruct((), jnp.float32)
  shapes |= {'terms': {term.name: number for term in stage.terms},
             'gradients': {term.group: number for term in stage.terms}}
  init = lambda params, rest, seed: step.init_state(stage.student, params, rest, optimizer, {
      name: carry.init(jax.random.key(seed), shapes, params)
      for name, carry in stage.carries.items()})
  like = jax.eval_shape(init, params, rest, stage.seed)
  homes = step.shardings(like, stage.layout)
  init, like = jax.jit(init, static_argnums=2, out_shardings=homes), sharding.shapes(like, homes)
  traced = train_step.trace(like, weights, batch, jax.eval_shape(lambda: jax.random.key(0)))
  return Prepared(plan, train_step, norms, init, like, batch, traced, stage.prepare)


def folder(stage: Stage, run: Run) -> pathlib.Path:
  """Where a stage's checkpoints are."""
  return run.workdir / 'checkpoints' / stage.name


def fit(stage: Stage, ready: Prepared, weights: Mapping[str, Weights], run: Run,
        left: tuple[Flat, Flat] = ({}, {})) -> Fitted:
  """Trains a stage, resuming whatever the workdir holds.

  `weights` are those of the models that there are, by name: its teachers' and what it starts from.
  `left` are parameters and rest that an earlier stage left: it starts from these where it has them.
  """
  with run.deferring():
    return _fit(_Progress(stage, ready, weights, run, left), ready, run)


class _Progress:
  """How far a stage is: its state, its checkpoints, and sums until the next row."""

  def __init__(self, stage: Stage, ready: Prepared, weights: Mapping[str, Weights], run: Run,
               left: tuple[Flat, Flat]):
    self.stage, self.run, self.place = stage, run, folder(stage, run)
    homes, found = step.shardings(ready.like, stage.layout), checkpoint.restore(
        self.place, ready.like)
    needed = {t.name: weights.get(t.name, NONE) for t in stage.teachers}
    teachers = {name: checkpoint.sha256(theirs) for name, theirs in needed.items()}
    self.fresh = found is None
    if self.fresh:
      params, rest = (own | {path: before[path] for path in own if path in before}
                      for own, before in zip(stage.start(weights), left, strict=True))
      state = ready.init(sharding.placed(params, homes.params), sharding.placed(rest, homes.rest),
                         stage.seed)
      self.facts = {'seconds': 0.0, 'window': {}, 'teachers': teachers}
    else:
      state, self.facts = found[1], dict(found[2])
      for name, digest in teachers.items():
        if self.facts['teachers'].get(name) != digest:
          raise Stop(Status.MISFIT, f'{stage.name}: the teacher {name!r} is not the one this run '
                     'began with: take another --workdir, or restore the teacher')
    self.state = sharding.placed(state, homes)        # before the first step
    self.weights = {name: sharding.placed(theirs, stage.layout.weights(theirs))
                    for name, theirs in needed.items()}
    self.saved = int(state.step)
    run.log.rewind(stage.name, -1 if self.fresh else self.saved)
    self.window = {name: list(pair) for name, pair in self.facts['window'].items()}
    self.before = time.monotonic()

  def settle(self, pending: list[Any]) -> None:
    """Waits for the steps under way, adds up their sums, and stops at bad numbers."""
    for sums in jax.device_get(pending):
      for name, (total, count) in sums.items():
        kept = self.window.setdefault(name, [0.0, 0.0])
        kept[0] += float(total)
        kept[1] += float(count)
    pending.clear()
    bad = int(self.state.first_bad)
    if bad >= 0:
      batch = self.stage.layout.fed(self.stage.data[bad])
      ids = [int(i) for i in sharding.on_host(batch['id']) if i >= 0]
      intact = (f'checkpoint {self.saved} in {self.place} is intact' if self.saved
                else 'nothing was saved yet')
      raise Stop(Status.NONFINITE, f'{self.stage.name}: loss or gradient is not finite at step '
                 f'{bad}, batch ids {ids}; {intact}: lower optimizer.rate, or look at these '
                 'examples')

  def row(self, done: int, scores: Mapping[str, float]) -> dict[str, float]:
    """Logs the means since the last row, and the scores."""
    row = {**means(self.window), **scores}
    self.run.log.row(self.stage.name, self.run.seed, done, row)
    self.window.clear()
    return row

  def save(self, done: int) -> None:
    """Writes a checkpoint."""
    now = time.monotonic()
    self.facts['seconds'] += now - self.before
    self.before, self.saved = now, done
    checkpoint.save(self.place, done, self.state, {**self.facts, 'window': self.window})


def _fit(progress: _Progress, ready: Prepared, run: Run) -> Fitted:
  """Trains a stage from where it is to its last step."""
  stage, plan, done, pending = progress.stage, ready.plan, progress.saved, []
  feed, seed = batches.read_ahead(stage.data, done), jax.random.key(stage.seed)
  alone, stop = jax.process_count() == 1, sharding.agreed(run.preempted)
  if ready.norms and progress.fresh:
    norms = ready.norms(progress.state, progress.weights, stage.layout.fed(stage.data[0]), seed)
    run.tell_shares(stage.name, jax.device_get(norms))
  while done < plan.steps and not stop:
    progress.state, sums = ready.train_step(progress.state, progress.weights,
                                            stage.layout.fed(next(feed)), seed)
    done += 1
    pending.append(sums)
    if len(pending) > 2:                # two steps ahead of the device, never more
      jax.block_until_ready(pending[-3])
    if plan.due(plan.log_every, done):
      progress.settle(pending)
      scored = stage.evaluate and plan.eval_every and plan.due(plan.eval_every, done)
      state = progress.state
      row = progress.row(done, stage.evaluate(state.params, state.rest) if scored else {})
      run.log.progress(stage.name, done, plan.steps, row)
    if plan.due(plan.save_every, done):
      progress.settle(pending)
      progress.save(done)
    if alone or plan.due(plan.log_every, done) or plan.due(plan.save_every, done):
      stop = sharding.agreed(run.preempted)
  if progress.saved < done:
    progress.settle(pending)
    progress.save(done)
  run.stop_if_preempted()
  return progress.state.params, progress.state.rest, {
      'seconds': progress.facts['seconds'], 'steps': plan.steps,
      'examples': plan.steps * ready.batch['valid'].shape[0]}
