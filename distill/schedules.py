"""Shapes over steps. Each maker returns a function of the step, usually into [0, 1].

A term's weight is its peak times its schedule; `schedules.S` in a config is the view
`schedule/S`, for temperatures and other constants that move. A config may say `epochs` for `steps`.
"""
import jax.numpy as jnp

from distill.types import Schedule


def constant(*, value: float = 1.0) -> Schedule:
  """Always `value`."""
  return lambda step: jnp.full((), value, jnp.float32)


def linear(*, start: float = 0.0, stop: float = 1.0, begin: int = 0, steps: int) -> Schedule:
  """From `start` to `stop` over `steps` steps after `begin`; held before and after."""
  if steps < 1:
    raise ValueError(f'steps={steps} must be at least 1')
  return lambda step: start + (stop - start) * _part(step, begin, steps)


def ramp(*, steps: int, begin: int = 0) -> Schedule:
  """From 0 to 1 over `steps` steps: the article's min(1, epoch / 10), and DKD's warm-up."""
  return linear(start=0.0, stop=1.0, begin=begin, steps=steps)


def cosine(*, start: float = 1.0, stop: float = 0.0, begin: int = 0, steps: int) -> Schedule:
  """Half a cosine from `start` to `stop` over `steps` steps after `begin`."""
  if steps < 1:
    raise ValueError(f'steps={steps} must be at least 1')
  return lambda step: stop + (start - stop) * 0.5 * (
      1 + jnp.cos(jnp.pi * _part(step, begin, steps)))


def _part(step, begin: int, steps: int):
  return jnp.clip((jnp.asarray(step, jnp.float32) - begin) / steps, 0.0, 1.0)
