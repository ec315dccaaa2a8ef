"""One step: teachers, student, terms, update — one pure jitted program, its state donated."""
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax

from distill import microbatches, objective, teachers
from distill.augment import Ask, augmented
from distill.carry import Carry
from distill.models import precision
from distill.models.layers import NOTHING
from distill.models.pure import Flat, Pure
from distill.sharding import Layout
from distill.student import Student, under
from distill.teachers import Teacher
from distill.types import Batch, Outputs, Schedule, Status, Stop

# The compiler's options for `remat` on a CPU. What is computed again stands behind a barrier. XLA
# would remove it there, and compute things as early as before: the memory would be the same.
BARRIERS = {'xla_disable_hlo_passes': 'cse_barrier_expander'}
ASKED = 8               # calls of `make_eval_step` that are remembered with their programs


@flax.struct.dataclass
class State:
  """All that changes, and all that is saved."""
  step: jax.Array
  params: Flat
  rest: Flat
  opt_state: optax.OptState
  carry: dict[str, Any]
  first_bad: jax.Array        # the first step whose numbers weren't finite, or -1; latched


def init_state(student: Student, params: Flat, rest: Flat, optimizer, carry: dict) -> State:
  """The state before step 0. The arrays are copies: a step donates its state."""
  opt_state = optimizer.init(student.trained(params)[0])
  state = State(step=jnp.zeros((), jnp.int32), params=params, rest=rest, opt_state=opt_state,
                carry=carry, first_bad=jnp.full((), -1, jnp.int32))
  return jax.tree.map(jnp.copy, state)


def shardings(state: State, layout: Layout) -> State:
  """Where a state lives: parameters and the optimizer's as `layout` stores them, the rest whole."""
  return layout.replicated_shardings(state).replace(
      params=layout.param_shardings(state.params),
      opt_state=layout.param_shardings(state.opt_state))


def make_views(student: Student, schedules: Mapping[str, Schedule], **how: str) -> Callable:
  """A function of everything a step knows that gives all views, and the rest.

  `how` the student computes are `dtype` and `remat` of `Pure`.
  """
  def views(params, rest, outputs, carry, batch, step, *, train, key):
    others = {**outputs, 'batch': batch, 'carry': _parts(carry),
              'schedule': {name: shape(step) for name, shape in schedules.items()}}
    own, rest = student(params, rest, batch, others, train=train, key=key, **how)
    return {**others, **own}, rest
  return views


def _parts(carry: Mapping[str, Any]) -> dict[str, jax.Array]:
  """The view of all carries: the parts of a dict each under its own path."""
  whole = {}
  for name, value in carry.items():
    whole |= ({f'{name}/{part}': array for part, array in value.items()}
              if isinstance(value, Mapping) else {name: value})
  return whole


def make_ask(student: Student, frozen_teachers: tuple[Teacher, ...], params: Callable[[], Flat],
             rest: Flat, weights: Mapping[str, teachers.Weights],
             loss: Callable[[Batch], jax.Array], layout: Layout | None = None, **how: str) -> Ask:
  """Returns what an augmentation may ask; nothing is computed unless it does.

  `params()` are the student's parameters as a step computes with them, `weights` the teachers';
  `how` the student computes are `dtype` and `remat` of `Pure`.
  """
  return Ask(
      student=lambda batch: student.outputs(params(), rest, batch, train=False, key=None, **how)[0],
      teachers={teacher.name: functools.partial(teacher, weights[teacher.name], layout=layout)
                for teacher in frozen_teachers},
      loss=loss, params=lambda: under(params(), 'model/'), probe=student.probe)


def view_shapes(student: Student, frozen_teachers: tuple[Teacher, ...], arguments: tuple, *,
                schedules: Mapping[str, Schedule], prepare: Callable[[Batch], Batch] | None,
                augment: tuple[Callable, ...], carries: Mapping[str, Carry],
                where: str) -> dict[str, dict[str, Any]]:
  """Returns the shapes of the views that carries may read, {} if there is no carry.

  `arguments` are the shapes of parameters, the rest, the teachers' weights and a batch. Augments
  are traced twice and must give the same shapes, or those of a resumed run would be others.
  """
  def batch_and_views(params, rest, weights, batch):
    # A carry that a teacher takes its weights from has the shapes of the parameters.
    weights = teachers.held(frozen_teachers, weights, dict.fromkeys(carries, params), rest)
    ask = make_ask(student, frozen_teachers, lambda: params, rest, weights,
                   lambda batch: jnp.zeros(()))       # the objective may read carries
    batch = augmented(augment, prepare(batch) if prepare else batch, jax.random.key(0), ask, where)
    if not carries:
      return batch, {}
    outputs = teachers.outputs(frozen_teachers, weights, batch)
    return batch, make_views(student, schedules)(
        params, rest, outputs, {}, batch, jnp.zeros((), jnp.int32), train=False, key=None)[0]

  if not (augment or carries):
    return {}
  # Two functions: JAX would remember the shapes of one.
  (first, views), (again, _) = (
      jax.eval_shape(lambda *of: batch_and_views(*of), *arguments) for _ in range(2))
  for name in {**first, **again}:
    shapes = [list(batch[name].shape) if name in batch else 'nothing' for batch in (first, again)]
    if shapes[0] != shapes[1]:
      raise Stop(Status.MISFIT, f'{where}: an augment gives {name} {shapes[0]}, and then '
                 f'{shapes[1]}: its shapes must be the same in every step')
  return views


def _computed(params: Flat, dtype: str, layout: Layout | None) -> Flat:
  """Parameters as a step computes with them."""
  params = precision.cast(params, dtype)
  return layout.all_gather(params) if layout else params


def make_gradients(student: Student, frozen_teachers: tuple[Teacher, ...],
                   terms: tuple[objective.Term, ...], *,
                   schedules: Mapping[str, Schedule] | None = None,
                   prepare: Callable[[Batch], Batch] | None = None,
                   augment: tuple[Callable, ...] = (), accumulate: int = 1,
                   dtype: str = 'float32', remat: str = NOTHING, layout: Layout | None = None,
                   where: str = 'config') -> Callable:
  """`(state, teacher_weights, batch, seed) -> (totals, gradients, sums, rest, views)`.

  `prepare` makes of the stored fields of a batch what models read (`modalities.Modality`). Augments
  change whole batches, before these are parted; `where` is the stage's node, for error lines.

  Totals and gradients are by group of terms, sums {name: (sum, count)}. The views are all that the
  terms read and what a step knows only after them: every term's mean, without weight and scale and
  NaN if nothing counted, and every group's norm of its gradient. Of micro-batches there are the
  norms alone.
  """
  views_of = make_views(student, schedules or {}, dtype=dtype, remat=remat)

  computed = functools.partial(_computed, dtype=dtype, layout=layout)

  def loss_of(state, weights, batch):
    """The step's objective of a whole batch, in evaluation mode."""
    outputs = teachers.outputs(frozen_teachers, weights, batch, layout)
    views, _ = views_of(computed(state.params), state.rest, outputs, state.carry, batch,
                        state.step, train=False, key=None)
    return sum(objective.objective(
        terms, views, objective.counts(terms, batch), state.step)[0].values())

  def part(trained, state, outputs, batch, counts, key):
    """Of a micro-batch."""
    def totals(trained):
      params = computed({**state.params, **trained})
      views, rest = views_of(params, state.rest, outputs, state.carry, batch, state.step,
                             train=True, key=key)
      groups, sums, means = objective.objective(terms, views, counts, state.step)
      return groups, (sums, rest, {**views, 'terms': means})
    groups, pullback, aux = jax.vjp(totals, trained, has_aux=True)
    one_of = lambda chosen: {g: jnp.asarray(g == chosen, v.dtype) for g, v in groups.items()}
    return groups, {g: pullback(one_of(g))[0] for g in groups}, aux

  def gradients(state: State, teacher_weights, batch: Batch, seed: jax.Array):
    key = jax.random.fold_in(seed, state.step)
    batch = prepare(batch) if prepare else batch
    weights = teachers.held(frozen_teachers, teacher_weights, state.carry, state.rest)
    batch = augmented(augment, batch, key, make_ask(
        student, frozen_teachers, lambda: computed(state.params), state.rest, weights,
        functools.partial(loss_of, state, weights), layout, dtype=dtype, remat=remat), where)
    key = jax.random.fold_in(key, len(augment))
    outputs = teachers.outputs(frozen_teachers, weights, batch, layout)
    counts = objective.counts(terms, batch)
    trained, _ = student.trained(state.params)
    microbatches.check_divides(accumulate, len(batch['valid']), layout)

    def one(rest, i):
      """Of micro-batch i: its rest; totals, gradients and sums; counts; and views."""
      groups, grads, (sums, rest, views) = part(
          trained, state.replace(rest=rest), teachers.part(outputs, i, accumulate),
          teachers.part(batch, i, accumulate), counts, jax.random.fold_in(key, i))
      totals = {name: total for name, (total, _) in sums.items()}
      return rest, (groups, grads, totals), {name: n for name, (_, n) in sums.items()}, views

    rest, (groups, grads, totals), sizes, views = microbatches.summed(one, state.rest, accumulate)
    views |= {'gradients': {g: optax.tree.norm(v) for g, v in grads.items()}}
    sums = {name: (total, sizes[name]) for name, total in totals.items()}
    return groups, grads, sums, rest, views
  return gradients


def make_train_step(student: Student, frozen_teachers: tuple[Teacher, ...],
                    terms: tuple[objective.Term, ...], optimizer: optax.GradientTransformation, *,
                    carries: Mapping[str, Carry] | None = None, accumulate: int = 1,
                    remat: str = NOTHING, layout: Layout | None = None, **how) -> Callable:
  """`(state, teacher_weights, batch, seed) -> (state, {name: (sum, count)})`, jitted.

  `accumulate` micro-batches give the gradient of the whole batch. Parameters, their gradients
  and the optimizer stay float32; `dtype` is what the student computes in (`models.precision`),
  `remat` what of its blocks it computes again in the backward pass (`models.layers`). With a
  `layout` a state leaves the step as it came, and each layer's parameters are gathered for it
  alone. The other keywords are those of `make_gradients`.
  """
  carries, optimizer = carries or {}, optax.with_extra_args_support(optimizer)
  if accumulate > 1:
    _check_accumulated(accumulate, student, terms, carries)
  gradients = make_gradients(student, frozen_teachers, terms, accumulate=accumulate,
                             remat=remat, layout=layout, **how)

  def train_step(state: State, teacher_weights, batch: Batch, seed: jax.Array):
    groups, grads, metrics, rest, views = gradients(state, teacher_weights, batch, seed)
    trained, _ = student.trained(state.params)
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
    kept = jax.tree.map(functools.partial(jnp.where, finite), new, state)
    bad = jnp.where(finite | (state.first_bad >= 0), state.first_bad, state.step)
    metrics |= {'loss': (loss, 1.0), 'grad_norm': (norm, 1.0)}
    if len(groups) > 1:
      metrics |= {f'grad_norm/{g}': (norm, 1.0) for g, norm in views['gradients'].items()}
    kept = kept.replace(step=state.step + 1, first_bad=bad)
    return layout.constrain(kept, shardings(kept, layout)) if layout else kept, metrics

  kept_apart = BARRIERS if remat != NOTHING and jax.default_backend() == 'cpu' else None
  return jax.jit(train_step, donate_argnums=0, compiler_options=kept_apart)


def make_norms(student: Student, frozen_teachers: tuple[Teacher, ...],
               terms: tuple[objective.Term, ...], **how) -> Callable:
  """`(state, teacher_weights, batch, seed) -> {term: norm of its gradient}`, weighted; jitted.

  The keywords are those of `make_gradients`.
  """
  alone = tuple(dataclasses.replace(term, group=term.name) for term in terms)
  gradients = make_gradients(student, frozen_teachers, alone, **how)

  def norms(state: State, teacher_weights, batch: Batch, seed: jax.Array):
    *_, views = gradients(state, teacher_weights, batch, seed)
    return views['gradients']
  return jax.jit(norms)


def _check_accumulated(n: int, student: Student, terms: Sequence[objective.Term],
                       carries: Mapping[str, Carry]) -> None:
  """Stops where micro-batches would give another gradient than the whole batch."""
  mixing = [f'{term.where} mixes the examples of a batch' for term in terms if term.mixing] + [
      f'carry.{name} is updated from whole batches' for name, carry in carries.items()
      if carry.reads] + [
      f'{where} mixes the examples of a batch' for where, model in (
          (f'{student.where}.model', student.model), *(
              (f'{student.where}.projectors.{name}', p.model)
              for name, p in student.projectors.items()))
      if model.mixing]
  if mixing:
    raise Stop(Status.CONFIG, f'train.accumulate={n}: {mixing[0]}, so it cannot be accumulated')


@functools.lru_cache(maxsize=ASKED)
def make_eval_step(model: Pure, measure: Callable, layout: Layout | None = None) -> Callable:
  """`(params, rest, batch) -> measured`, jitted, in evaluation mode and float32.

  `measure(ask, batch)` is a task's: it asks the model for its outputs, and gives what is kept of
  them. The batch is prepared. Models that differ in their weights alone share a program.
  """
  def eval_step(params: Flat, rest: Flat, batch: Batch) -> Outputs:
    params = layout.all_gather(params) if layout else params
    return measure(lambda asked: model(params, rest, asked, train=False, key=None)[0], batch)
  return jax.jit(eval_step)


@functools.cache
def outputs_alone(names: tuple[str, ...]) -> Callable:
  """A `measure` that gives some outputs as they are."""
  def measure(ask: Callable, batch: Batch) -> Outputs:
    outputs = ask(batch)
    return {name: outputs[name] for name in names}
  return measure
