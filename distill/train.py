"""The only training loop."""
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
  optimizer: Any                                  # a config node, or an optax transformation
  train: Mapping[str, Any]                        # a config node
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
  optimizer = stage.optimizer if not isinstance(stage.optimizer, Mapping) else lookup.build(
      'optimizers', {'name': 'adamw', **stage.optimizer},
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


def folder(stage: Stage, run: Run) -> pathlib.Path | None:
  """Returns where a stage's checkpoints are; None for a run that keeps nothing."""
  return run.workdir and run.workdir / 'checkpoints' / stage.name


def fit(stage: Stage, ready: Prepared, weights: Mapping[str, Weights], run: Run,
        left: tuple[Flat, Flat] = ({}, {})) -> Fitted:
  """Trains a stage, resuming whatever the workdir holds.

  `weights` are those of the models that there are, by name: its teachers' and what it starts from.
  `left` are parameters and rest that an earlier stage left: it starts from these where it has them.
  """
  with run.deferring():
    return _fit([_Sitting(stage, ready, weights, run, left)], ready, run)[0]


def together(stages: Sequence[Stage], ready: Prepared, weights: Sequence[Mapping[str, Weights]],
             runs: Sequence[Run], left: Sequence[tuple[Flat, Flat]]) -> list[Fitted]:
  """Trains stages that differ only in their seeds by one program; `ready` is of any of them.

  Each result is that of `fit`; the time is divided among the stages. A stage at another step than
  most is trained alone afterwards. One with bad numbers stays as it was saved last, and is an error
  at the end. Signals reach the first run.
  """
  if stages[0].layout.mesh.size > 1:
    raise Stop(Status.CONFIG, 'seeds are trained together on one device alone')
  if precision.MIXED in (ready.plan.dtype, *(getattr(t, 'dtype', '') for t in stages[0].teachers)):
    raise Stop(Status.CONFIG, f"{stages[0].where}: dtype='mixed' is for seeds one by one")
  if ready.plan.remat != layers.NOTHING:
    raise Stop(Status.CONFIG, f'{stages[0].where}.train.remat={ready.plan.remat!r}: seeds that are '
               f'trained together need their memory: take remat={layers.NOTHING!r}')
  each = list(zip(stages, weights, runs, left, strict=True))
  with runs[0].deferring():
    sittings = [_Sitting(stage, ready, theirs, run, before) for stage, theirs, run, before in each]
    at = [sitting.saved for sitting in sittings]
    abreast = [sitting for sitting in sittings if sitting.saved == max(at, key=at.count)]
    found = dict(zip(map(id, abreast), _fit(abreast, ready, runs[0]), strict=True))
  return [found[id(sitting)] if id(sitting) in found else fit(stage, ready, theirs, run, before)
          for sitting, (stage, theirs, run, before) in zip(sittings, each, strict=True)]


class _Sitting:
  """What a run keeps of a stage while it is trained: checkpoints, and sums until the next row."""

  def __init__(self, stage: Stage, ready: Prepared, weights: Mapping[str, Weights], run: Run,
               left: tuple[Flat, Flat]):
    self.stage, self.run, self.place = stage, run, folder(stage, run)
    self.fault = None                   # what stops it
    self.weights = {t.name: weights.get(t.name, ({}, {})) for t in stage.teachers}
    self.teachers = {name: checkpoint.sha256(theirs) for name, theirs in self.weights.items()}
    homes = step.shardings(ready.like, stage.layout)
    found = checkpoint.restore(self.place, ready.like) if self.place else None
    self.fresh = found is None
    if self.fresh:
      params, rest = (own | {path: before[path] for path in own if path in before}
                      for own, before in zip(stage.start(weights), left, strict=True))
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
    if self.place:
      checkpoint.save(self.place, done, state, {**self.facts, 'window': self.window})


class _Group:
  """One sitting, or several at the same step whose arrays are stacked and trained by one program.

  One that has a fault is left where it was last saved.
  """

  def __init__(self, sittings: Sequence[_Sitting]):
    self.sittings, self.layout = sittings, sittings[0].stage.layout
    self.state = self.stacked([sitting.state for sitting in sittings])
    self.seed = self.stacked([jax.random.key(sitting.stage.seed) for sitting in sittings])
    for sitting in sittings:
      sitting.state = None                # not a copy more
    # A teacher that all have in common isn't copied.
    self.axes = {name: None if all(s.teachers[name] == digest for s in sittings) else 0
                 for name, digest in sittings[0].teachers.items()}
    place = lambda whole: sharding.placed(whole, self.layout.weights(whole))
    self.weights = {
        name: place(sittings[0].weights[name]) if axis is None else self.stacked(
            [place(sitting.weights[name]) for sitting in sittings])
        for name, axis in self.axes.items()}

  def stacked(self, trees: Sequence[Any]) -> Any:
    """The trees of all sittings as one."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *x: jnp.stack(x), *trees)

  def apart(self, tree: Any) -> list[Any]:
    """The tree of each sitting."""
    if len(self.sittings) == 1:
      return [tree]
    tree = jax.device_get(tree)
    return [jax.tree.map(lambda x, i=i: x[i], tree) for i in range(len(self.sittings))]

  def sound(self, tree: Any) -> Iterator[tuple[_Sitting, Any]]:
    """The sittings without a fault, each with its own of a tree."""
    return ((sitting, own) for sitting, own in zip(self.sittings, self.apart(tree), strict=True)
            if not sitting.fault)

  def mapped(self, call: Callable, **how: Any) -> Callable:
    """`call(state, weights, batch, seed)` of all sittings at once."""
    return call if len(self.sittings) == 1 else jax.jit(
        jax.vmap(call, in_axes=(0, self.axes, 0, 0)), **how)

  def fed(self, batches: Iterable[Mapping[str, Any]]) -> Any:
    """The batch of every sitting, on the devices."""
    return self.layout.fed(self.stacked(list(batches)))

  def settle(self, pending: list[Any]) -> None:
    """Waits for the steps under way, stops at bad numbers, and adds up their sums."""
    for sums in jax.device_get(pending):
      for sitting, own in zip(self.sittings, self.apart(sums), strict=True):
        sitting.add(own)
    pending.clear()
    for sitting, bad in zip(self.sittings, self.apart(self.state.first_bad), strict=True):
      sitting.check(int(bad))
    if all(sitting.fault for sitting in self.sittings):
      raise self.sittings[0].fault

  def save(self, done: int) -> None:
    for sitting, own in self.sound(self.state):
      sitting.save(done, own, len(self.sittings))


def _fit(sittings: Sequence[_Sitting], ready: Prepared, run: Run) -> list[Fitted]:
  """Trains one stage by its program, or several at the same step by one mapped over them.

  A fault of one is raised when the others are done.
  """
  group, stage, plan, done = _Group(sittings), sittings[0].stage, ready.plan, sittings[0].saved
  train_step, pending = group.mapped(ready.train_step, donate_argnums=0), []
  feeds = [batches.read_ahead(sitting.stage.data, done) for sitting in sittings]
  alone, stop = jax.process_count() == 1, sharding.agreed(run.preempted)
  if ready.norms and sittings[0].fresh:
    first = group.fed(sitting.stage.data[0] for sitting in sittings)
    norms = group.mapped(ready.norms)(group.state, group.weights, first, group.seed)
    for sitting, own in group.sound(jax.device_get(norms)):
      sitting.run.tell_shares(stage.name, own)
  while done < plan.steps and not stop:
    group.state, sums = train_step(group.state, group.weights, group.fed(map(next, feeds)),
                                   group.seed)
    done += 1
    pending.append(sums)
    if len(pending) > 2:                # two steps ahead of the device, never more
      jax.block_until_ready(pending[-3])
    if plan.due(plan.log_every, done):
      group.settle(pending)
      scored = stage.evaluate and plan.eval_every and plan.due(plan.eval_every, done)
      for sitting, own in group.sound((group.state.params, group.state.rest) if scored else ()):
        row = sitting.row(done, stage.evaluate(*own) if scored else {})
      run.log.progress(stage.name, done, plan.steps, row)
    if plan.due(plan.save_every, done):
      group.settle(pending)
      group.save(done)
    if alone or plan.due(plan.log_every, done) or plan.due(plan.save_every, done):
      stop = sharding.agreed(run.preempted)
  if any(sitting.saved < done for sitting, _ in group.sound(())):
    group.settle(pending)
    group.save(done)
  run.stop_if_preempted()
  for sitting in sittings:
    if sitting.fault:
      raise sitting.fault
  cost = {'steps': plan.steps, 'examples': plan.steps * ready.batch['valid'].shape[0]}
  return [(own.params, own.rest, {'seconds': sitting.facts['seconds'], **cost})
          for sitting, own in group.sound(group.state)]
