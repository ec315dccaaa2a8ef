"""Micro-batches: the gradient of a whole batch from parts of it, one after the other."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxpr_as_fun, jaxprs_in_params

from distill.models.pure import Flat
from distill.sharding import Layout
from distill.types import Status, Stop


def check_divides(accumulate: int, size: int, layout: Layout | None) -> None:
  """Stops unless a batch of `size` parts into equal micro-batches on every device."""
  replicas = layout.replicas if layout else 1
  if size % (accumulate * replicas):
    over = f' over {replicas} devices' if replicas > 1 else ''
    raise Stop(Status.CONFIG,
               f'train.accumulate={accumulate} does not divide the batch of {size}{over}')


def summed(one: Callable, rest: Flat, n: int) -> tuple[Flat, Any, dict[str, jax.Array], dict]:
  """Adds up what n micro-batches give; `one(rest, i)` gives rest, addends, counts and views.

  The counts are the last one's, and so are the views, of which n above 1 leaves none: they would
  have to be kept, whether anything reads them or not.

  A scan makes a program as long as one micro-batch. But on a CPU XLA's convolutions are 23 to 47
  times slower inside a loop of its own, and there the program is as long as all of them.
  """
  if n > 1:
    program, like = jax.make_jaxpr(one, return_shape=True)(rest, 0)
    if jax.default_backend() != 'cpu' or not _convolves(program.jaxpr):
      def add(carry, i):
        rest, sums = carry
        rest, addends, counts, _ = one(rest, i)
        return (rest, jax.tree.map(jnp.add, sums, addends)), counts
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like[1])
      (rest, sums), counts = jax.lax.scan(add, (rest, zeros), jnp.arange(n))
      return rest, sums, {name: count[-1] for name, count in counts.items()}, {}
  parts = []
  for i in range(n):
    rest, addends, counts, views = one(rest, i)
    parts.append(addends)
  return rest, jax.tree.map(lambda *x: sum(x), *parts), counts, views if n == 1 else {}


def _convolves(program: Jaxpr) -> bool:
  """Tells whether a program has convolutions, at any depth."""
  return any(equation.primitive.name == 'conv_general_dilated'
             or any(map(_convolves, jaxprs_in_params(equation.params)))
             for equation in program.eqns)


def repeated(program: Jaxpr, count: Callable[[Any], float]) -> float:
  """Returns the operations of a program's scans but for one run of each body, all that XLA counts.

  `count` gives those of a lowered program.
  """
  more = 0.0
  for equation in program.eqns:
    inner = sum(repeated(body, count) for body in jaxprs_in_params(equation.params))
    if equation.primitive.name == 'scan':
      body, length = equation.params['jaxpr'], equation.params['length']
      shapes = (jax.ShapeDtypeStruct(like.shape, like.dtype) for like in body.in_avals)
      once = jax.jit(jaxpr_as_fun(body)).lower(*shapes)
      inner = inner * length + (length - 1) * count(once)
    more += inner
  return more
