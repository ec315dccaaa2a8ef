"""The only training loop."""
import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill import checkpoint, lookup, objective, sharding, step
from distill.carry import Carry
from distill.data import batches
from distill.logs import Log, means
from distill.models import layers, precision
from distill.models.pure import Flat, check_computing
from distill.step import State
from distill.student import Student
from distill.teachers import Teacher, Weights
from distill.types import Schedule, Status, Stop


class Run:
  """Where a run lives and how it is stopped.

  A signal calls `preempt`. Outside `deferring` that raises at once, for there everything on
  disk is whole at any instant; inside, the loop finishes its step and saves first. Where several
  processes run it they stop together, where they next ask each other.
  """

  def __init__(self, name: str, workdir: pathlib.Path, log: Log, *, seed: int = 0,
               shared: pathlib.Path | None = None):
    self.name, self.workdir, self.log, self.seed = name, workdir, log, seed
    self.shared = shared        # where runs leave finished stages for each other
    self.preempted, self._deferring = False, False
    self._alone = jax.process_count() == 1

  def preempt(self) -> None:
    self.preempted = True
    if self._alone and not self._deferring:
      self.stop_if_preempted()

  def stop_if_preempted(self) -> None:
    if sharding.agreed(self.preempted):
      raise Stop(Status.PREEMPTED, f'stopped, everything saved: the same command goes on in '
                 f'{self.workdir}')

  @contextlib.contextmanager
  def deferring(self):
    self._deferring = True
    try:
      yield
    finally:
      self._deferring = False
    self.stop_if_preempted()


@dataclasses.dataclass(frozen=True)
class Stage:
  """What one call of `fit` trains, and on what."""
  name: str
  student: Student
  start: Callable[[], tuple[Flat, Flat]]          # parameters and rest before step 0
  terms: tuple[objective.Term, ...]
  data: Sequence[Mapping[str, Any]]               # data[i]: this process's rows of batch i
  optimizer: Mapping[str, Any]                    # config nodes
  train: Mapping[str, Any]
  seed: int = 0                                   # of dropout and whatever else is random
  where: str = 'config'                           # of its nodes, for error lines
  teachers: tuple[Teacher, ...] = ()
  weights: Mapping[str, Weights] = dataclasses.field(default_factory=dict)
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
    return count(self.traced.lower()) + step.repeated(self.traced.jaxpr.jaxpr, count) - before


def prepared(stage: Stage, weights: Mapping[str, Any]) -> Prepared:
  """Builds and traces a stage's step: what doesn't fit stops here, before any compilation.

  `weights` are the shapes of the teachers' weights.
  """
  plan = lookup.call(Plan, stage.train, f'{stage.where}.train')
  check_computing(stage.student.model, f'{stage.where}.train', dtype=plan.dtype, remat=plan.remat)
  optimizer = lookup.build('optimizers', {'name': 'adamw', **stage.optimizer},
                           f'{stage.where}.optimizer', steps=plan.steps)
  what = stage.student, stage.teachers, stage.terms
  how = dict(schedules=stage.schedules, prepare=stage.prepare, augment=stage.augment,
             accumulate=plan.accumulate, dtype=plan.dtype, remat=plan.remat, layout=stage.layout)
  train_step = step.make_train_step(*what, optimizer, carries=stage.carries, **how)
  norms = step.make_norms(*what, **how) if plan.shares else None
  # With the layouts of the run, so that the first step needn't be traced again.
  batch = stage.layout.batch(stage.data[0])
  weights = {name: sharding.shapes(w, stage.layout.weights(w)) for name, w in weights.items()}
  params, rest = stage.student.shapes()

  def views(params, rest, weights, batch):
    batch = stage.prepare(batch) if stage.prepare else batch
    for i, change in enumerate(stage.augment):
      batch = change(batch, jax.random.key(i))
    outputs = {t.name: t(weights[t.name], batch) for t in stage.teachers}
    return step.make_views(stage.student, stage.schedules)(
        params, rest, outputs, {}, batch, jnp.zeros((), jnp.int32), train=False, key=None)[0]

  shapes = jax.eval_shape(views, params, rest, weights, batch) if stage.carries else {}
  number = jax.ShapeDtypeStruct((), jnp.float32)
  shapes |= {'terms': {term.name: number for term in stage.terms},
             'gradients': {term.group: number for term in stage.terms}}
  init = lambda params, rest, seed: step.init_state(stage.student, params, rest, optimizer, {
      name: carry.init(jax.random.key(seed), shapes) for name, carry in stage.carries.items()})
  like = jax.eval_shape(init, params, rest, stage.seed)
  homes = step.shardings(like, stage.layout)
  init, like = jax.jit(init, static_argnums=2, out_shardings=homes), sharding.shapes(like, homes)
  traced = train_step.trace(like, weights, batch, jax.eval_shape(lambda: jax.random.key(0)))
  return Prepared(plan, train_step, norms, init, like, batch, traced, stage.prepare)


def folder(stage: Stage, run: Run) -> pathlib.Path:
  """Where a stage's checkpoints are."""
  return run.workdir / 'checkpoints' / stage.name


def fit(stage: Stage, ready: Prepared, run: Run) -> tuple[Flat, Flat, dict[str, float]]:
  """Trains, resuming whatever the workdir holds; the parameters, the rest and what it cost."""
  with run.deferring():
    return _fit([_Sitting(stage, ready, run)], ready, run)[0]


def together(stages: Sequence[Stage], ready: Prepared,
             runs: Sequence[Run]) -> list[tuple[Flat, Flat, dict[str, float]]]:
  """`fit` for stages that differ in their seeds alone, as one program; `ready` is of any of them.

  Each leaves and gives what it would alone, and the time is divided among them. One that stands
  at another step than most is trained alone afterwards. One whose numbers become bad is left where
  it was last saved, and is an error at the end. Signals reach the first run.
  """
  if stages[0].layout.mesh.size > 1:
    raise Stop(Status.CONFIG, 'seeds are trained together on one device alone')
  if ready.plan.remat != layers.NOTHING:
    raise Stop(Status.CONFIG, f'{stages[0].where}.train.remat={ready.plan.remat!r}: seeds that are '
               f'trained together need their memory: take remat={layers.NOTHING!r}')
  with runs[0].deferring():
    sittings = [_Sitting(stage, ready, run) for stage, run in zip(stages, runs, strict=True)]
    at = [sitting.saved for sitting in sittings]
    abreast = [sitting for sitting in sittings if sitting.saved == max(at, key=at.count)]
    found = dict(zip(map(id, abreast), _fit(abreast, ready, runs[0]), strict=True))
  return [found[id(sitting)] if id(sitting) in found else fit(sitting.stage, ready, sitting.run)
          for sitting in sittings]


class _Sitting:
  """What a run keeps of a stage while it is trained: checkpoints, and sums until the next row."""

  def __init__(self, stage: Stage, ready: Prepared, run: Run):
    self.stage, self.run, self.place = stage, run, folder(stage, run)
    self.fault = None                   # what stops it
    self.teachers = {t.name: checkpoint.sha256(stage.weights[t.name]) for t in stage.teachers}
    homes, found = step.shardings(ready.like, stage.layout), checkpoint.restore(
        self.place, ready.like)
    self.fresh = found is None
    if self.fresh:
      params, rest = stage.start()
      state = ready.init(sharding.placed(params, homes.params), sharding.placed(rest, homes.rest),
                         stage.seed)
      self.facts = {'seconds': 0.0, 'window': {}, 'teachers': self.teachers}
    else:
      state, self.facts = found[1], dict(found[2])
      for name, digest in self.teachers.items():
        if self.facts['teachers'].get(name) != digest:
          raise Stop(Status.MISFIT, f'{stage.name}: the teacher {name!r} is not the one this run '
                     'began with: take another --workdir, or restore the teacher')
    self.state = sharding.placed(state, homes)        # before the first step
    self.saved = int(state.step)
    run.log.rewind(stage.name, -1 if self.fresh else self.saved)
    self.window = {name: list(pair) for name, pair in self.facts['window'].items()}
    self.before = time.monotonic()

  def add(self, sums: Mapping[str, Any]) -> None:
    for name, (total, count) in sums.items():
      kept = self.window.setdefault(name, [0.0, 0.0])
      kept[0] += float(total)
      kept[1] += float(count)

  def check(self, bad: int) -> None:
    """Takes note of the first step whose numbers are not finite, if there is one."""
    if bad >= 0:
      batch = self.stage.layout.fed(self.stage.data[bad])
      ids = [int(i) for i in sharding.on_host(batch['id']) if i >= 0]
      intact = (f'checkpoint {self.saved} in {self.place} is intact' if self.saved
                else 'nothing was saved yet')
      self.fault = Stop(Status.NONFINITE, f'{self.stage.name}: loss or gradient is not finite at '
                        f'step {bad}, batch ids {ids}; {intact}: lower optimizer.rate, or look at '
                        'these examples')

  def row(self, done: int, scores: Mapping[str, float]) -> dict[str, float]:
    """Logs the means since the last row, and the scores."""
    row = {**means(self.window), **scores}
    self.run.log.row(self.stage.name, self.run.seed, done, row)
    self.window.clear()
    return row

  def save(self, done: int, state: State, among: int) -> None:
    """A checkpoint; the time since the last one is that of `among` runs."""
    now = time.monotonic()
    self.facts['seconds'] += (now - self.before) / among
    self.before, self.saved = now, done
    checkpoint.save(self.place, done, state, {**self.facts, 'window': self.window})


def _fit(sittings: Sequence[_Sitting], ready: Prepared, run: Run):
  """Trains one stage by its program, or several at the same step by one mapped over them.

  One that has a fault is left where it was last saved; it is raised when the others are done.
  """
  stage, plan, one = sittings[0].stage, ready.plan, len(sittings) == 1
  layout = stage.layout
  joined = lambda trees: trees[0] if one else jax.tree.map(lambda *x: jnp.stack(x), *trees)

  def apart(tree):
    if one:
      return [tree]
    tree = jax.device_get(tree)
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(len(sittings))]

  state, done = joined([sitting.state for sitting in sittings]), sittings[0].saved
  for sitting in sittings:
    sitting.state = None                # not a copy more
  # A teacher that all have in common isn't copied.
  axes = {name: None if all(s.teachers[name] == digest for s in sittings) else 0
          for name, digest in sittings[0].teachers.items()}
  place = lambda whole: sharding.placed(whole, layout.weights(whole))
  weights = {name: place(stage.weights[name]) if axis is None else joined(
      [place(sitting.stage.weights[name]) for sitting in sittings]) for name, axis in axes.items()}
  mapped = lambda call, **how: call if one else jax.jit(
      jax.vmap(call, in_axes=(0, axes, 0, 0)), **how)
  train_step = mapped(ready.train_step, donate_argnums=0)
  feeds = [batches.read_ahead(sitting.stage.data, done) for sitting in sittings]
  batch = lambda: layout.fed(joined([next(feed) for feed in feeds]))
  seed, pending = joined([jax.random.key(s.stage.seed) for s in sittings]), []
  alone, stop = jax.process_count() == 1, sharding.agreed(run.preempted)

  def settle():
    """Waits for the steps under way, stops at bad numbers, and adds up their sums."""
    for sums in jax.device_get(pending):
      for sitting, own in zip(sittings, apart(sums), strict=True):
        sitting.add(own)
    pending.clear()
    for sitting, bad in zip(sittings, apart(state.first_bad), strict=True):
      sitting.check(int(bad))
    if all(sitting.fault for sitting in sittings):
      raise sittings[0].fault

  def sound(tree):
    return ((s, own) for s, own in zip(sittings, apart(tree), strict=True) if not s.fault)

  def save():
    for sitting, own in sound(state):
      sitting.save(done, own, len(sittings))

  if ready.norms and sittings[0].fresh:
    first = layout.fed(joined([sitting.stage.data[0] for sitting in sittings]))
    norms = mapped(ready.norms)(state, weights, first, seed)
    for sitting, own in sound(jax.device_get(norms)):
      _tell_shares(own, stage.name, sitting.run)
  while done < plan.steps and not stop:
    state, sums = train_step(state, weights, batch(), seed)
    done += 1
    pending.append(sums)
    if len(pending) > 2:                # two steps ahead of the device, never more
      jax.block_until_ready(pending[-3])
    if plan.due(plan.log_every, done):
      settle()
      scored = stage.evaluate and plan.eval_every and plan.due(plan.eval_every, done)
      for sitting, own in sound((state.params, state.rest) if scored else ()):
        row = sitting.row(done, stage.evaluate(*own) if scored else {})
      run.log.progress(stage.name, done, plan.steps, row)
    if plan.due(plan.save_every, done):
      settle()
      save()
    if alone or plan.due(plan.log_every, done) or plan.due(plan.save_every, done):
      stop = sharding.agreed(run.preempted)
  if any(sitting.saved < done for sitting, _ in sound(())):
    settle()
    save()
  run.stop_if_preempted()
  examples = plan.steps * ready.batch['valid'].shape[0]
  for sitting in sittings:
    if sitting.fault:
      raise sitting.fault
  return [(own.params, own.rest, {
      'seconds': sitting.facts['seconds'], 'steps': plan.steps, 'examples': examples})
          for sitting, own in sound(state)]


def _tell_shares(norms: Mapping[str, Any], stage: str, run: Run) -> None:
  """Says and logs what part of the sum of all gradient norms each term's is."""
  shares = {name: float(norm) / (sum(norms.values()) or 1.0) for name, norm in norms.items()}
  ordered = sorted(shares, key=shares.get, reverse=True)
  line = ', '.join(f'{name} {100 * shares[name]:.0f} %' for name in ordered)
  if still := [name for name in ordered if not norms[name]]:
    line += f'; nothing from {", ".join(still)}'
  run.log.say(f'{stage}: gradient at step 0: {line}')
  run.log.row(stage, run.seed, 0, {f'share/{name}': share for name, share in shares.items()})
