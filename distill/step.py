"""The train step — teachers, student, terms, update — as one jitted program; the eval step."""
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from distill import loss_scale, microbatches, objective, teachers
from distill.augment import Ask, apply_augments
from distill.carry import Carry
from distill.loss_scale import LossScale
from distill.models import precision
from distill.models.functional import Flat, Functional
from distill.models.layers import NOTHING
from distill.sharding import Layout
from distill.student import Student, subtree
from distill.teachers import Teacher
from distill.types import Batch, Outputs, Schedule, Status, Stop

# Options of the compiler for `remat` on a CPU. Activations that are computed again are behind a
# barrier. XLA would remove it there, and compute them early, so that no memory would be saved.
KEEP_BARRIERS = {'xla_disable_hlo_passes': 'cse_barrier_expander'}
CACHED_STEPS = 8        # calls of `make_eval_step` whose programs are cached


@flax.struct.dataclass
class State:
  """Everything that a step changes and a checkpoint saves."""
  step: jax.Array
  params: Flat
  rest: Flat
  opt_state: optax.OptState
  carry: dict[str, Any]
  first_bad: jax.Array        # the first step at which the run must stop, or -1; latched
  loss_scale: LossScale | None = None         # if gradients are float16


def init_state(student: Student, params: Flat, rest: Flat, optimizer, carry: dict,
               scale: LossScale | None = None) -> State:
  """Returns the state before step 0. Its arrays are copies, because a step donates its state."""
  opt_state = optimizer.init(student.split_trained(params)[0])
  state = State(step=jnp.zeros((), jnp.int32), params=params, rest=rest, opt_state=opt_state,
                carry=carry, first_bad=jnp.full((), -1, jnp.int32), loss_scale=scale)
  return jax.tree.map(jnp.copy, state)


def state_shardings(state: State, layout: Layout) -> State:
  """Returns a state's shardings: parameters and optimizer state split by `layout`, others whole.

  A carry whose parts are named and shaped as parameters is stored as these: an average of them.
  """
  carry = {name: layout.param_shardings(value) if _is_of_params(value, state.params)
           else layout.replicated_shardings(value) for name, value in state.carry.items()}
  return layout.replicated_shardings(state).replace(
      params=layout.param_shardings(state.params),
      opt_state=layout.param_shardings(state.opt_state), carry=carry)


def _is_of_params(value: Any, params: Flat) -> bool:
  """Returns whether every part of a carry has the name and the shape of a parameter."""
  return isinstance(value, Mapping) and all(
      path in params and part.shape == params[path].shape for path, part in value.items())


def make_views(student: Student, schedules: Mapping[str, Schedule], **how: str) -> Callable:
  """Returns the function that computes all views of a step, and the rest.

  `how` are the arguments `dtype` and `remat` of `Functional`, for the student.
  """
  def views(params, rest, outputs, carry, batch, step, *, train, key):
    others = {**outputs, 'batch': batch, 'carry': _carry_view(carry),
              'schedule': {name: shape(step) for name, shape in schedules.items()}}
    student_views, rest = student(params, rest, batch, others, train=train, key=key, **how)
    return {**others, **student_views}, rest
  return views


def _carry_view(carry: Mapping[str, Any]) -> dict[str, jax.Array]:
  """Returns the view of all carries; each entry of a dict has its own path."""
  whole = {}
  for name, value in carry.items():
    whole |= ({f'{name}/{part}': array for part, array in value.items()}
              if isinstance(value, Mapping) else {name: value})
  return whole


def make_ask(student: Student, frozen_teachers: tuple[Teacher, ...], params: Callable[[], Flat],
             rest: Flat, weights: Mapping[str, teachers.Weights],
             loss: Callable[[Batch], jax.Array], layout: Layout | None = None, **how: str) -> Ask:
  """Returns the functions that an augmentation may call; nothing is computed unless it does.

  `params()` are the student's parameters as a step computes with them, `weights` the teachers'.
  `how` are the arguments `dtype` and `remat` of `Functional`, for the student.
  """
  return Ask(
      student=lambda batch: student.outputs(params(), rest, batch, train=False, key=None, **how)[0],
      teachers={teacher.name: functools.partial(teacher, weights[teacher.name], layout=layout)
                for teacher in frozen_teachers},
      loss=loss, params=lambda: subtree(params(), 'model/'), probe=student.probe)


def view_shapes(student: Student, frozen_teachers: tuple[Teacher, ...], arguments: tuple, *,
                schedules: Mapping[str, Schedule], prepare: Callable[[Batch], Batch] | None,
                augment: tuple[Callable, ...], carries: Mapping[str, Carry],
                where: str) -> dict[str, dict[str, Any]]:
  """Returns the shapes of the views that carries may read, {} if there is no carry.

  `arguments` are the shapes of parameters, the rest, the teachers' weights and a batch. Augments
  are traced twice and must return the same shapes, or a resumed run would have other shapes.
  """
  def batch_and_views(params, rest, weights, batch):
    # A carry from which a teacher takes its weights has the shapes of the parameters.
    averages = dict.fromkeys(carries, params)
    weights = teachers.current_weights(frozen_teachers, weights, averages, rest)
    ask = make_ask(student, frozen_teachers, lambda: params, rest, weights,
                   lambda batch: jnp.zeros(()))       # the objective may read carries
    batch = prepare(batch) if prepare else batch
    batch = apply_augments(augment, batch, jax.random.key(0), ask, where)
    if not carries:
      return batch, {}
    outputs = teachers.outputs(frozen_teachers, weights, batch)
    return batch, make_views(student, schedules)(
        params, rest, outputs, {}, batch, jnp.zeros((), jnp.int32), train=False, key=None)[0]

  if not (augment or carries):
    return {}
  # Two lambdas: JAX would cache the shapes of a single function.
  (first, views), (again, _) = (
      jax.eval_shape(lambda *args: batch_and_views(*args), *arguments) for _ in range(2))
  for name in {**first, **again}:
    shapes = [list(batch[name].shape) if name in batch else 'nothing' for batch in (first, again)]
    if shapes[0] != shapes[1]:
      raise Stop(Status.MISFIT, f'{where}: an augment gives {name} {shapes[0]}, and then '
                 f'{shapes[1]}: its shapes must be the same in every step')
  return views


def _computing_params(params: Flat, dtype: str, layout: Layout | None) -> Flat:
  """Returns parameters as a step computes with them: cast to `dtype`, and gathered."""
  params = precision.cast(params, dtype)
  return layout.all_gather(params) if layout else params


def make_gradients(student: Student, frozen_teachers: tuple[Teacher, ...],
                   terms: tuple[objective.Term, ...], *,
                   schedules: Mapping[str, Schedule] | None = None,
                   prepare: Callable[[Batch], Batch] | None = None,
                   augment: tuple[Callable, ...] = (), accumulate: int = 1,
                   dtype: str = 'float32', remat: str = NOTHING, layout: Layout | None = None,
                   where: str = 'config') -> Callable:
  """Returns `(state, teacher_weights, batch, seed) -> (totals, gradients, sums, rest, views)`.

  `prepare` turns a batch's stored fields into those that models read (`modalities.Modality`).
  Augments change the whole batch before it is split into micro-batches; `where` is the stage's
  node, for error lines.

  Totals and gradients are by group of terms, sums are {term: (sum, count)}. Views are those that
  terms read, and two more that only carries read: every term's mean, without weight and scale (NaN
  if nothing counted), and the norm of every group's gradient. With micro-batches only the norms are
  returned.
  """
  views_of = make_views(student, schedules or {}, dtype=dtype, remat=remat)

  computing_params = functools.partial(_computing_params, dtype=dtype, layout=layout)

  def loss_of(state, weights, batch):
    """Computes the step's objective for a whole batch, in evaluation mode."""
    outputs = teachers.outputs(frozen_teachers, weights, batch, layout)
    views, _ = views_of(computing_params(state.params), state.rest, outputs, state.carry, batch,
                        state.step, train=False, key=None)
    return sum(objective.compute(
        terms, views, objective.counts(terms, batch), state.step)[0].values())

  def microbatch_gradients(trained, state, outputs, batch, counts, key):
    """Returns totals and gradients of a micro-batch, and (sums, rest, views)."""
    def totals(trained):
      params = computing_params({**state.params, **trained})
      views, rest = views_of(params, state.rest, outputs, state.carry, batch, state.step,
                             train=True, key=key)
      groups, sums, means = objective.compute(terms, views, counts, state.step)
      return groups, (sums, rest, {**views, 'terms': means})
    groups, pullback, aux = jax.vjp(totals, trained, has_aux=True)
    select = lambda chosen: {g: jnp.asarray(g == chosen, v.dtype) for g, v in groups.items()}
    grads = {g: pullback(loss_scale.scale(select(g), state.loss_scale))[0] for g in groups}
    return groups, loss_scale.unscale(grads, state.loss_scale), aux

  def gradients(state: State, teacher_weights, batch: Batch, seed: jax.Array):
    key = jax.random.fold_in(seed, state.step)
    batch = prepare(batch) if prepare else batch
    weights = teachers.current_weights(frozen_teachers, teacher_weights, state.carry, state.rest)
    batch = apply_augments(augment, batch, key, make_ask(
        student, frozen_teachers, lambda: computing_params(state.params), state.rest, weights,
        functools.partial(loss_of, state, weights), layout, dtype=dtype, remat=remat), where)
    key = jax.random.fold_in(key, len(augment))
    outputs = teachers.outputs(frozen_teachers, weights, batch, layout)
    counts = objective.counts(terms, batch)
    trained, _ = student.split_trained(state.params)
    microbatches.check_divides(accumulate, len(batch['valid']), layout)

    def compute(rest, i):
      """Computes micro-batch i: its rest; totals, gradients and sums; counts; and views."""
      groups, grads, (sums, rest, views) = microbatch_gradients(
          trained, state.replace(rest=rest), teachers.microbatch(outputs, i, accumulate),
          teachers.microbatch(batch, i, accumulate), counts, jax.random.fold_in(key, i))
      totals = {name: total for name, (total, _) in sums.items()}
      return rest, (groups, grads, totals), {name: n for name, (_, n) in sums.items()}, views

    rest, (groups, grads, totals), sizes, views = microbatches.accumulate(
        compute, state.rest, accumulate)
    views |= {'gradients': {g: optax.tree.norm(v) for g, v in grads.items()}}
    sums = {name: (total, sizes[name]) for name, total in totals.items()}
    return groups, grads, sums, rest, views
  return gradients


def make_train_step(student: Student, frozen_teachers: tuple[Teacher, ...],
                    terms: tuple[objective.Term, ...], optimizer: optax.GradientTransformation, *,
                    carries: Mapping[str, Carry] | None = None, accumulate: int = 1,
                    remat: str = NOTHING, layout: Layout | None = None, **how) -> Callable:
  """Returns `(state, teacher_weights, batch, seed) -> (state, {name: (sum, count)})`, jitted.

  `accumulate` micro-batches yield the gradient of the whole batch. Parameters, their gradients and
  the optimizer stay float32; the student computes in `dtype` (`models.precision`), and `remat`
  names the part of its blocks that is computed again in the backward pass (`models.layers`). With
  a `layout` the new state has the shardings of the old, and parameters are gathered by layers.
  The other keywords are those of `make_gradients`.
  """
  carries, optimizer = carries or {}, optax.with_extra_args_support(optimizer)
  if accumulate > 1:
    _check_accumulated(accumulate, student, terms, carries)
  gradients = make_gradients(student, frozen_teachers, terms, accumulate=accumulate,
                             remat=remat, layout=layout, **how)

  def train_step(state: State, teacher_weights, batch: Batch, seed: jax.Array):
    groups, grads, metrics, rest, views = gradients(state, teacher_weights, batch, seed)
    trained, _ = student.split_trained(state.params)
    whole = jax.tree.map(lambda *g: sum(g), *grads.values())
    updates, opt_state = optimizer.update(whole, state.opt_state, trained, groups=grads)
    loss, norm = sum(groups.values()), optax.tree.norm(whole)
    sound = jnp.isfinite(jnp.stack([loss, norm, optax.tree.norm(updates)])).all()
    finite = sound & (state.first_bad < 0)
    params = {**state.params, **optax.apply_updates(trained, updates)}
    new = state.replace(
        params=params, rest=rest, opt_state=opt_state, carry={
            name: carry.update(state.carry[name], views, state.step, params)
            for name, carry in carries.items()})
    chosen = jax.tree.map(functools.partial(jnp.where, finite), new, state)
    # With a loss scale, an overflow is bad only if no smaller factor is left.
    current = state.loss_scale
    passes = finite if current is None else finite | loss_scale.may_fall(current)
    bad = jnp.where(passes | (state.first_bad >= 0), state.first_bad, state.step)
    metrics |= {'loss': (loss, 1.0), 'grad_norm': (norm, 1.0)}
    if len(groups) > 1:
      metrics |= {f'grad_norm/{g}': (norm, 1.0) for g, norm in views['gradients'].items()}
    chosen = chosen.replace(step=state.step + 1, first_bad=bad)
    if current is not None:
      chosen = chosen.replace(loss_scale=loss_scale.update(current, sound))
      metrics = loss_scale.step_metrics(metrics, current, sound)
    if layout:
      chosen = layout.constrain(chosen, state_shardings(chosen, layout))
    return chosen, metrics

  options = KEEP_BARRIERS if remat != NOTHING and jax.default_backend() == 'cpu' else None
  return jax.jit(train_step, donate_argnums=0, compiler_options=options)


def make_gradient_norms(student: Student, frozen_teachers: tuple[Teacher, ...],
                        terms: tuple[objective.Term, ...], **how) -> Callable:
  """Returns `(state, teacher_weights, batch, seed) -> {term: norm}`, jitted.

  A norm is that of the gradient of the weighted term.
  The keywords are those of `make_gradients`.
  """
  grouped = tuple(dataclasses.replace(term, group=term.name) for term in terms)
  gradients = make_gradients(student, frozen_teachers, grouped, **how)

  def norms(state: State, teacher_weights, batch: Batch, seed: jax.Array):
    *_, views = gradients(state, teacher_weights, batch, seed)
    return views['gradients']
  return jax.jit(norms)


def _check_accumulated(n: int, student: Student, terms: Sequence[objective.Term],
                       carries: Mapping[str, Carry]) -> None:
  """Stops if micro-batches would yield another gradient than the whole batch."""
  mixing = [f'{term.where} mixes the examples of a batch' for term in terms if term.mixing] + [
      f'carry.{name} is updated from whole batches' for name, carry in carries.items()
      if carry.reads] + [
      f'{where} mixes the examples of a batch' for where, model in (
          (f'{student.where}.model', student.model), *(
              (f'{student.where}.projectors.{name}', p.model)
              for name, p in student.projectors.items()))
      if model.mixing]
  if mixing:
    raise Stop(Status.CONFIG, f'accumulate={n}: {mixing[0]}, so it cannot be accumulated')


@functools.lru_cache(maxsize=CACHED_STEPS)
def make_eval_step(model: Functional, measure: Callable, layout: Layout | None = None) -> Callable:
  """Returns `(params, rest, batch) -> measured`, jitted, in evaluation mode and float32.

  `measure(ask, batch)` is a task's: it asks the model for its outputs and returns the numbers that
  are kept. The batch is prepared. Models that differ only in their weights share a program.
  """
  def eval_step(params: Flat, rest: Flat, batch: Batch) -> Outputs:
    params = layout.all_gather(params) if layout else params
    return measure(lambda asked: model(params, rest, asked, train=False, key=None)[0], batch)
  return jax.jit(eval_step)


@functools.cache
def select_outputs(names: tuple[str, ...]) -> Callable:
  """Returns a `measure` that returns the named outputs unchanged."""
  def measure(ask: Callable, batch: Batch) -> Outputs:
    outputs = ask(batch)
    return {name: outputs[name] for name in names}
  return measure
