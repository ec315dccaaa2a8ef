"""Optimizers: each function returns an optax transformation for a run of `steps` steps.

Their common arguments:

  rate      the peak of the learning rate
  warmup    the share of `steps` over which the rate rises from 0 to `rate`
  schedule  the rate afterwards: a 'cosine' or 'linear' fall to 0, 'constant', or 'steps'
  drops     where 'steps' falls, as shares of `steps`; epochs 150, 180 and 210 of 240 unless given
  drop      the factor of the rate at each of `drops`
  clip      the largest norm of the gradient of all parameters together; 0: no bound
  decay     the share of a parameter that a step at rate 1 subtracts
"""
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from distill.types import Schedule, Status, Stop

DROPS = 0.625, 0.75, 0.875


def adamw(*, rate: float, steps: int, schedule: str = 'cosine', warmup: float = 0.1,
          drops: Sequence[float] = DROPS, drop: float = 0.1, clip: float = 1.0,
          decay: float = 0.01) -> optax.GradientTransformation:
  """Returns AdamW: Adam with decoupled decay (Loshchilov 2019, algorithm 2).

  `decay` acts on matrices, not on biases and norms.
  """
  _check_decay(decay)
  rates = _rate_schedule(rate, steps, schedule, warmup, drops, drop)
  return _with_clip(clip, optax.adamw(rates, weight_decay=decay, mask=_matrices))


def adam(*, rate: float, steps: int, schedule: str = 'cosine', warmup: float = 0.1,
         drops: Sequence[float] = DROPS, drop: float = 0.1,
         clip: float = 1.0) -> optax.GradientTransformation:
  """Returns Adam (Kingma 2015, algorithm 1), without decay."""
  return _with_clip(clip, optax.adam(_rate_schedule(rate, steps, schedule, warmup, drops, drop)))


def lamb(*, rate: float, steps: int, schedule: str = 'cosine', warmup: float = 0.1,
         drops: Sequence[float] = DROPS, drop: float = 0.1, clip: float = 1.0,
         decay: float = 0.01) -> optax.GradientTransformation:
  """Returns LAMB: AdamW's step of each array, at the norm of that array (You 2020, algorithm 2).

  `decay` acts on matrices, not on biases and norms.
  """
  _check_decay(decay)
  rates = _rate_schedule(rate, steps, schedule, warmup, drops, drop)
  return _with_clip(clip, optax.lamb(rates, weight_decay=decay, mask=_matrices))


def sgd(*, rate: float, steps: int, schedule: str = 'cosine', warmup: float = 0.1,
        drops: Sequence[float] = DROPS, drop: float = 0.1, clip: float = 1.0,
        decay: float = 0.0, momentum: float = 0.0) -> optax.GradientTransformation:
  """Returns SGD with PyTorch's momentum and decay.

  `decay` times each parameter is added to its clipped gradient before `momentum`, which has no
  dampening.
  """
  _check_decay(decay)
  if not 0 <= momentum < 1:
    raise ValueError(f'momentum={momentum} must be in [0, 1)')
  rates = _rate_schedule(rate, steps, schedule, warmup, drops, drop)
  descent = optax.sgd(rates, momentum=momentum or None)
  return _with_clip(clip, *([optax.add_decayed_weights(decay)] if decay else []), descent)


def dot(*, rate: float, steps: int, schedule: str = 'cosine', warmup: float = 0.1,
        drops: Sequence[float] = DROPS, drop: float = 0.1, clip: float = 1.0, decay: float = 0.0,
        momentum: float = 0.9, delta: float = 0.075,
        task: str = '') -> optax.GradientTransformationExtraArgs:
  """Returns SGD with two momenta: less for the task than for distillation (DOT, Zhao 2023).

  Terms of the group `task` have the momentum `momentum` - `delta`, all others `momentum` + `delta`;
  the two updates are added. Decay belongs to the task's part, as in the authors' code. Both
  gradients are scaled as clipping scales their sum. A baseline has only the task's terms: its
  momentum is `momentum`, which the authors give to parameters that one loss alone reaches.
  """
  _check_decay(decay)
  if not 0 <= momentum - delta <= momentum + delta < 1:
    raise ValueError(f'momentum={momentum} ± delta={delta} must be in [0, 1)')
  rates = _rate_schedule(rate, steps, schedule, warmup, drops, drop)
  return optax.chain(_two_momenta(task, momentum, delta, decay, _checked_clip(clip)),
                     optax.scale_by_learning_rate(rates))


def _two_momenta(task: str, momentum: float, delta: float, decay: float,
                 clip: float) -> optax.GradientTransformationExtraArgs:
  """Returns the direction of `dot`; its `update` takes the gradients of `groups` of terms."""
  less, more = optax.trace(momentum - delta), optax.trace(momentum + delta)

  def init(params):
    return {'task': less.init(params), 'others': more.init(params)}

  def update(updates, state, params=None, *, groups):
    if task not in groups:
      raise Stop(Status.CONFIG, f'optimizer.task={task!r} is the group of no term: there is '
                 + ', '.join(map(repr, groups)))
    norm = optax.tree.norm(updates)
    scale = jnp.where(norm < clip, 1, clip / norm) if clip else 1.0
    first = jax.tree.map(lambda g, p: scale * g + decay * p, groups[task], params)
    others = [g for name, g in groups.items() if name != task]
    second = jax.tree.map(lambda x, *g: scale * sum(g, jnp.zeros_like(x)), updates, *others)
    first, task_state = (less if others else optax.trace(momentum)).update(first, state['task'])
    second, others_state = more.update(second, state['others'])
    return jax.tree.map(jnp.add, first, second), {'task': task_state, 'others': others_state}
  return optax.GradientTransformationExtraArgs(init, update)


def _rate_schedule(rate: float, steps: int, schedule: str, warmup: float, drops: Sequence[float],
                   drop: float) -> Schedule:
  """Returns the rate over steps: a linear rise, then `schedule`."""
  if not rate > 0 or not 0 <= warmup <= 1:
    raise ValueError(f'rate={rate} must be above 0 and warmup={warmup} in [0, 1]')
  if not 0 < drop <= 1 or not all(0 < share < 1 for share in drops):
    raise ValueError(f'drop={drop} must be in (0, 1] and drops={tuple(drops)} between 0 and 1')
  rise = round(warmup * steps)
  fall = max(steps - rise, 1)
  falls = [round(share * steps) - rise for share in drops]
  shapes = {'cosine': optax.cosine_decay_schedule(rate, fall),
            'linear': optax.linear_schedule(rate, 0.0, fall),
            'constant': optax.constant_schedule(rate),
            'steps': lambda step: rate * drop ** jnp.sum(step >= jnp.array(falls))}
  if schedule not in shapes:
    raise ValueError(f'schedule={schedule!r} is not one of {", ".join(shapes)}')
  return optax.join_schedules([optax.linear_schedule(0.0, rate, max(rise, 1)), shapes[schedule]],
                              [rise])


def _with_clip(clip: float, *parts: optax.GradientTransformation) -> optax.GradientTransformation:
  """Chains `parts` after clipping the gradient at the norm `clip`."""
  bound = [optax.clip_by_global_norm(clip)] if _checked_clip(clip) else []
  return optax.chain(*bound, *parts)


def _checked_clip(clip: float) -> float:
  if not clip >= 0:
    raise ValueError(f'clip={clip} must be 0 or more')
  return clip


def _check_decay(decay: float) -> None:
  if not decay >= 0:
    raise ValueError(f'decay={decay} must be 0 or more')


def _matrices(params):
  """Tells for each parameter whether it has more than one axis."""
  return jax.tree.map(lambda x: x.ndim > 1, params)
