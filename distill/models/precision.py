"""The precision of models: float32, bfloat16, float16, or float32 with bfloat16 operands."""
import math
import pathlib
from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp

MIXED, FLOAT16 = 'mixed', 'float16'
# The precisions that models can have, each with the dtype of parameters and activations.
DTYPES = {'float32': 'float32', 'bfloat16': 'bfloat16', FLOAT16: FLOAT16, MIXED: 'float32'}
INSTRUCTIONS = {'avx512_bf16', 'amx_bf16'}      # x86: bfloat16 products, float32 sums


def cast(tree: Any, dtype: str) -> Any:
  """Returns a tree whose floating-point leaves have the width that `dtype` computes with."""
  width = DTYPES[dtype]
  return jax.tree.map(
      lambda x: x.astype(width) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def dot_general(lhs: jax.Array, rhs: jax.Array, dimension_numbers: Any, precision: Any = None,
                preferred_element_type: Any = None, out_sharding: Any = None) -> jax.Array:
  """Multiplies with operands rounded to bfloat16 and float32 sums, forward and backward.

  It replaces `jax.lax.dot_general` and has the same arguments, of which the last three have no
  effect. The result is float32, and so are the gradients (Micikevicius 2018, §3.3; bfloat16 needs
  no scaling of the loss: Kalamkar 2019, §3). Products of a batch of matrices stay float32: XLA
  cannot run all of those on a CPU ("UNIMPLEMENTED: … BF16 x BF16 = F32").
  """
  del precision, preferred_element_type, out_sharding
  (contracted, other), (batch, _) = (tuple(map(tuple, axes)) for axes in dimension_numbers)
  if batch:
    return jax.lax.dot_general(lhs, rhs, dimension_numbers)
  kept = [i for i in range(lhs.ndim) if i not in contracted]
  new = [i for i in range(rhs.ndim) if i not in other]
  size = math.prod(lhs.shape[i] for i in contracted)
  left = lhs.transpose(*kept, *contracted).reshape(-1, size)
  right = rhs.transpose(*other, *new).reshape(size, -1)
  product = _product(left.astype(jnp.float32), right.astype(jnp.float32))
  return product.reshape(*(lhs.shape[i] for i in kept), *(rhs.shape[i] for i in new))


def _narrow(lhs: jax.Array, rhs: jax.Array, axes: tuple[int, int]) -> jax.Array:
  """Sums products of bfloat16 over an axis of either matrix, in float32."""
  return jax.lax.dot_general(lhs, rhs, (tuple((axis,) for axis in axes), ((), ())),
                             preferred_element_type=jnp.float32)


def _product_forward(lhs, rhs):
  operands = lhs.astype(jnp.bfloat16), rhs.astype(jnp.bfloat16)
  return _narrow(*operands, (1, 0)), operands


def _product_backward(operands, slope):
  # XLA's own would multiply the float32 slope with a bfloat16 operand, as slowly as float32.
  (lhs, rhs), narrow = operands, slope.astype(jnp.bfloat16)
  return _narrow(narrow, rhs, (1, 1)), _narrow(lhs, narrow, (0, 0))


_product = jax.custom_vjp(lambda lhs, rhs: _product_forward(lhs, rhs)[0])
_product.defvjp(_product_forward, _product_backward)


def slow_dtypes(dtypes: Collection[str]) -> dict[str, str]:
  """Returns the precisions that this machine computes slower than float32, each with the reason."""
  found = {}
  if MIXED in dtypes and lacks_instructions():
    found[MIXED] = 'this CPU has no instructions for products of bfloat16'
  if FLOAT16 in dtypes and jax.default_backend() == 'cpu':
    found[FLOAT16] = 'it is for accelerators, and this is a CPU'
  return found


def lacks_instructions(cpuinfo: pathlib.Path = pathlib.Path('/proc/cpuinfo')) -> bool:
  """Tells whether JAX runs on an x86 CPU that has no instructions for products of bfloat16.

  It returns False for other processors, and on systems without `/proc/cpuinfo`.
  """
  if jax.default_backend() != 'cpu' or not cpuinfo.exists():
    return False
  flags = [set(line.split()) for line in cpuinfo.read_text().splitlines()
           if line.startswith('flags')]
  return bool(flags) and not INSTRUCTIONS & flags[0]
