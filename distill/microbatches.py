"""Micro-batches: the gradient of a whole batch, computed part after part."""
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Jaxpr, jaxpr_as_fun, jaxprs_in_params

from distill.models.functional import Flat
from distill.sharding import Layout
from distill.types import Status, Stop


def check_divides(accumulate: int, size: int, layout: Layout | None) -> None:
  """Stops unless a batch of `size` parts into equal micro-batches on every device."""
  replicas = layout.replicas if layout else 1
  if size % (accumulate * replicas):
    over = f' over {replicas} devices' if replicas > 1 else ''
    raise Stop(Status.CONFIG,
               f'accumulate={accumulate} does not divide the batch of {size}{over}')


def accumulate(compute: Callable, rest: Flat,
               n: int) -> tuple[Flat, Any, dict[str, jax.Array], dict]:
  """Adds up n micro-batches; `compute(rest, i)` returns rest, addends, counts and views.

  Counts are those of the last micro-batch. Views are returned only if n is 1: otherwise they would
  have to be stored, even if nothing reads them.

  A scan makes a program as long as one micro-batch. But on a CPU XLA's convolutions are 23 to 47
  times slower inside an XLA loop. A program with convolutions is unrolled there.
  """
  if n > 1:
    program, like = jax.make_jaxpr(compute, return_shape=True)(rest, 0)
    if jax.default_backend() != 'cpu' or not _convolves(program.jaxpr):
      def add(carry, i):
        rest, sums = carry
        rest, addends, counts, _ = compute(rest, i)
        return (rest, jax.tree.map(jnp.add, sums, addends)), counts
      zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), like[1])
      (rest, sums), counts = jax.lax.scan(add, (rest, zeros), jnp.arange(n))
      return rest, sums, {name: count[-1] for name, count in counts.items()}, {}
  parts = []
  for i in range(n):
    rest, addends, counts, views = compute(rest, i)
    parts.append(addends)
  return rest, jax.tree.map(lambda *x: sum(x), *parts), counts, views if n == 1 else {}


def _convolves(program: Jaxpr) -> bool:
  """Tells whether a program has convolutions, at any depth."""
  return any(equation.primitive.name == 'conv_general_dilated'
             or any(map(_convolves, jaxprs_in_params(equation.params)))
             for equation in program.eqns)


def repeated_operations(program: Jaxpr, count: Callable[[Any], float]) -> float:
  """Returns the operations of a program's scans that XLA's count misses.

  XLA counts one run of each body. `count` returns the operations of a lowered program.
  """
  more = 0.0
  for equation in program.eqns:
    inner = sum(repeated_operations(body, count) for body in jaxprs_in_params(equation.params))
    if equation.primitive.name == 'scan':
      body, length = equation.params['jaxpr'], equation.params['length']
      shapes = (jax.ShapeDtypeStruct(like.shape, like.dtype) for like in body.in_avals)
      once = jax.jit(jaxpr_as_fun(body)).lower(*shapes)
      inner = inner * length + (length - 1) * count(once)
    more += inner
  return more
