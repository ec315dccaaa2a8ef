"""Parts that several models share: blocks, normalisation, activation, softmax, dropout, dense.

LayerNorm, GELU and softmax carry their own backward pass. XLA on a CPU turns the derived one
into several passes over the activations. Statistics are float32 or wider.
"""
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

NOTHING = 'nothing'
# The part of a block that is computed again in the backward pass, each with the policy of what the
# forward pass saves beside the block's inputs: everything; the results of its matrix products,
# except products of a batch of matrices, as in attention; nothing.
REMAT = {NOTHING: None,
         'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
         'everything': jax.checkpoint_policies.nothing_saveable}


def _wide(x: jax.Array) -> jax.Array:
  return x.astype(jnp.promote_types(x.dtype, jnp.float32))


@jax.custom_vjp
def softmax(x: jax.Array) -> jax.Array:
  """Computes the softmax over the last axis."""
  return jax.nn.softmax(x, axis=-1)


def _softmax_forward(x):
  p = jax.nn.softmax(x, axis=-1)
  return p, p


def _softmax_backward(p, dy):
  return (p * (dy - jnp.sum(p * dy, axis=-1, keepdims=True)),)


softmax.defvjp(_softmax_forward, _softmax_backward)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
  """Computes x·Φ(x) with the exact normal distribution function (Hendrycks 2016, eq. 1; erf)."""
  return jax.nn.gelu(x, approximate=False)


def _gelu_forward(x):
  return gelu(x), x


def _gelu_backward(x, dy):
  z = _wide(x)
  cdf = 0.5 * (1 + jax.lax.erf(z * 0.5**0.5))
  density = jnp.exp(-0.5 * z * z) * (2 * jnp.pi) ** -0.5
  return ((dy * (cdf + z * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


def _standardised(x, eps):
  z = _wide(x)
  centred = z - jnp.mean(z, axis=-1, keepdims=True)
  inverse = jax.lax.rsqrt(jnp.mean(centred * centred, axis=-1, keepdims=True) + eps)
  return centred * inverse, inverse


def _normalised(x, scale, bias, eps):
  return (_standardised(x, eps)[0] * scale + bias).astype(x.dtype)


def _normalised_forward(x, scale, bias, eps):
  z, inverse = _standardised(x, eps)
  return (z * scale + bias).astype(x.dtype), (z.astype(x.dtype), inverse, scale, bias)


def _normalised_backward(eps, kept, dy):
  z, inverse, scale, bias = kept
  g = _wide(dy) * scale
  dx = inverse * (g - jnp.mean(g, axis=-1, keepdims=True)
                  - z * jnp.mean(g * z, axis=-1, keepdims=True))
  examples = tuple(range(dy.ndim - 1))
  return (dx.astype(dy.dtype), jnp.sum(dy * z, axis=examples).astype(scale.dtype),
          jnp.sum(dy, axis=examples).astype(bias.dtype))


_normalise = jax.custom_vjp(_normalised, nondiff_argnums=(3,))
_normalise.defvjp(_normalised_forward, _normalised_backward)


def has_fused_attention() -> bool:
  """Tells whether models call `jax.nn.dot_product_attention`, as they do on accelerators.

  On a CPU two einsums are faster.
  """
  return jax.default_backend() != 'cpu'


class Block(nnx.Module):
  """A part of a model whose activations a training step may drop and compute again.

  Subclasses define `forward`, which a call runs. `remat`, a key of `REMAT`, is a run's
  `train.remat` (gradient checkpointing, Chen 2016, §4): 'everything' saves memory for about a third
  more time.
  """
  remat = NOTHING

  def __call__(self, *arguments: Any, **keywords: Any) -> Any:
    if self.remat == NOTHING:
      return self.forward(*arguments, **keywords)
    graph, params, rest = nnx.split(self, nnx.Param, ...)

    def forward(params, rest, *arguments):
      block = nnx.merge(graph, params, rest)
      result = block.forward(*arguments, **keywords)
      return result, nnx.split(block, nnx.Param, ...)[2]

    result, rest = jax.checkpoint(forward, policy=REMAT[self.remat])(params, rest, *arguments)
    nnx.update(self, rest)              # batch statistics
    return result


class LayerNorm(nnx.Module):
  """Layer normalisation over the last axis (Ba 2016, eq. 3)."""

  def __init__(self, width: int, *, eps: float):
    self.scale = nnx.Param(jnp.ones(width))
    self.bias = nnx.Param(jnp.zeros(width))
    self.eps = eps

  def __call__(self, x: jax.Array) -> jax.Array:
    return _normalise(x, self.scale[...], self.bias[...], self.eps)


class Embedding(nnx.Module):
  """A table of `entries` vectors. (`nnx.Embed` would fix the dtype at construction.)"""

  def __init__(self, entries: int, width: int, *, std: float, rngs: nnx.Rngs):
    self.embedding = nnx.Param(normal(std)(rngs.params(), (entries, width), jnp.float32))

  def __call__(self, ids: jax.Array) -> jax.Array:
    return self.embedding[...][ids]


def dense(inputs: int, outputs: int, *, std: float, rngs: nnx.Rngs) -> nnx.Linear:
  """Makes a dense layer with BERT's start: kernel N(0, std²) cut at two deviations, bias 0."""
  return nnx.Linear(inputs, outputs, rngs=rngs, kernel_init=normal(std))


def normal(std: float) -> nnx.Initializer:
  """Returns the initializer N(0, std²), cut at two deviations of the uncut one, as in BERT."""
  return lambda key, shape, dtype, out_sharding=None: std * jax.random.truncated_normal(
      key, -2, 2, shape, dtype)


def dropout(x: jax.Array, rate: float, key: jax.Array | None,
            full_shape: tuple[int, ...] | None = None) -> jax.Array:
  """Applies inverted dropout; returns x unchanged without a key.

  `full_shape` is the shape of a larger array that begins with x on every axis: the same elements
  are kept as in dropout of the larger array.
  """
  if key is None or rate == 0:
    return x
  keep = jax.random.bernoulli(key, 1 - rate, full_shape or x.shape)[tuple(map(slice, x.shape))]
  return jnp.where(keep, x / (1 - rate), 0)


def within(bound: float) -> nnx.Initializer:
  """Returns the initializer U(-bound, bound)."""
  return lambda key, shape, dtype, out_sharding=None: jax.random.uniform(
      key, shape, dtype, -bound, bound)


def linear(inputs: int, outputs: int, *, rngs: nnx.Rngs) -> nnx.Linear:
  """Makes a dense layer with PyTorch's start, U(±1/√inputs)."""
  start = within(inputs**-0.5)
  return nnx.Linear(inputs, outputs, kernel_init=start, bias_init=start, rngs=rngs)


def conv(inputs: int, outputs: int, *, size: int = 1, stride: int = 1, bias: bool = True,
         start: nnx.Initializer | None = None, rngs: nnx.Rngs) -> nnx.Conv:
  """Makes a convolution of an odd size, padded on all sides; `start` initialises it."""
  start = start or within((inputs * size**2)**-0.5)
  return nnx.Conv(inputs, outputs, (size, size), strides=stride, padding=size // 2, use_bias=bias,
                  kernel_init=start, bias_init=start, rngs=rngs)
