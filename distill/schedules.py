"""Schedules: functions of the step, usually into [0, 1]. Each function here returns one.

A term's weight is its peak times its schedule; `schedules.S` in a config is the view
`schedule/S`, for temperatures and other hyper-parameters that vary. A config may say `epochs` for
`steps`.
"""
import jax.numpy as jnp

from distill.types import Schedule


def constant(*, value: float = 1.0) -> Schedule:
  """Returns the schedule that is `value` at every step."""
  return lambda step: jnp.full((), value, jnp.float32)


def linear(*, start: float = 0.0, stop: float = 1.0, begin: int = 0, steps: int) -> Schedule:
  """Moves from `start` to `stop` over `steps` steps after `begin`; constant before and after."""
  if steps < 1:
    raise ValueError(f'steps={steps} must be at least 1')
  return lambda step: start + (stop - start) * _progress(step, begin, steps)


def ramp(*, steps: int, begin: int = 0) -> Schedule:
  """Rises from 0 to 1 over `steps` steps: the article's min(1, epoch / 10), and DKD's warm-up."""
  return linear(start=0.0, stop=1.0, begin=begin, steps=steps)


def cosine(*, start: float = 1.0, stop: float = 0.0, begin: int = 0, steps: int) -> Schedule:
  """Follows half a cosine from `start` to `stop` over `steps` steps after `begin`."""
  if steps < 1:
    raise ValueError(f'steps={steps} must be at least 1')
  return lambda step: stop + (start - stop) * 0.5 * (
      1 + jnp.cos(jnp.pi * _progress(step, begin, steps)))


def _progress(step, begin: int, steps: int):
  return jnp.clip((jnp.asarray(step, jnp.float32) - begin) / steps, 0.0, 1.0)
