"""Projectors: modules between views, trained with the student and left out of what it ships as.

One is called with the arrays that it reads, `valid` [b] (1: a real example) and `train`. Maps are
[b h w c]; `inputs`, which the run gives, is the width of what is read, and `outputs` that of the
result, such as the teacher's. Unless one says otherwise, its layers start as PyTorch's: kernel and
bias from U(±1/√fan_in).
"""
import math

import jax
import jax.numpy as jnp
from flax import nnx

from distill import maths
from distill.models import layers
from distill.models.norm import BatchNorm

HE = nnx.initializers.variance_scaling(2, 'fan_out', 'normal')


class Linear(nnx.Module):
  """A linear map of the last axis, to another width (FitNet 2015, §2.2; TinyBERT 2020, eq. 8).

  The kernel starts from N(0, 1/inputs) cut at two deviations, as Flax's, and the bias at 0.
  """

  def __init__(self, *, inputs: int, outputs: int, bias: bool = True, rngs: nnx.Rngs):
    self.dense = nnx.Linear(inputs, outputs, use_bias=bias, rngs=rngs)

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    return self.dense(x)


class Embedding(nnx.Module):
  """A linear map of the last axis, at length 1 (CRD, Tian 2020); of a zero vector 0."""

  def __init__(self, *, inputs: int, outputs: int = 128, rngs: nnx.Rngs):
    self.dense = layers.linear(inputs, outputs, rngs=rngs)

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    x = self.dense(x)
    return maths.unit(maths.wide(x)).astype(x.dtype)


class Regressor(nnx.Module):
  """A convolution to the teacher's shape, BatchNorm and ReLU (FitNet, Romero 2015, §2.2).

  `ratio` is the student's height over the teacher's: the convolution is 1×1 for 1, 3×3 with stride
  2 for 2, and a transposed 4×4 with stride 2 for 0.5, as in RepDistiller.
  """

  def __init__(self, *, inputs: int, outputs: int, ratio: float = 1, rngs: nnx.Rngs):
    if ratio not in (0.5, 1, 2):
      raise ValueError(f'ratio={ratio} is not 0.5, 1 or 2')
    if ratio < 1:
      start = layers.within((16 * outputs)**-0.5)
      self.conv = nnx.ConvTranspose(inputs, outputs, (4, 4), strides=2, kernel_init=start,
                                    bias_init=start, rngs=rngs)
    else:
      self.conv = layers.conv(inputs, outputs, size=1 if ratio == 1 else 3, stride=int(ratio),
                              rngs=rngs)
    self.norm = BatchNorm(outputs)

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    return jax.nn.relu(self.norm(self.conv(x), valid=valid, train=train))


class Connector(nnx.Module):
  """A 1×1 convolution without bias, from N(0, 2/outputs), and BatchNorm (OFD, Heo 2019, ICCV).

  AB's (Heo 2019, AAAI) is the same; it starts as PyTorch's layers do, and has a bias that its
  BatchNorm takes away again.
  """

  def __init__(self, *, inputs: int, outputs: int, rngs: nnx.Rngs):
    self.conv = layers.conv(inputs, outputs, bias=False, start=HE, rngs=rngs)
    self.norm = BatchNorm(outputs)

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    return self.norm(self.conv(x), valid=valid, train=train)


class Variational(nnx.Module):
  """`mean` and `variance` [c] of the teacher's map given the student's (VID, Ahn 2019, eq. 5).

  Three 1×1 convolutions without bias, ReLU between them, and for each channel softplus(a) + 1e-5,
  which starts at 5. (mdistiller's optimizer is never given its a.)
  """

  def __init__(self, *, inputs: int, outputs: int, rngs: nnx.Rngs):
    self.convs = nnx.List([layers.conv(n, outputs, bias=False, rngs=rngs)
                           for n in (inputs, outputs, outputs)])
    self.spread = nnx.Param(jnp.full(outputs, math.log(math.expm1(5 - 1e-5))))

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> dict[str, jax.Array]:
    for conv in self.convs[:-1]:
      x = jax.nn.relu(conv(x))
    return {'mean': self.convs[-1](x),
            'variance': jax.nn.softplus(maths.wide(self.spread[...])) + 1e-5}


class Paraphraser(nnx.Module):
  """An autoencoder of the teacher's map: `factor`, `reconstruction` (FT, Kim 2018).

  `outputs` is the factor's width, half of `inputs` in RepDistiller. As there, it is three 3×3
  convolutions either way, a leaky ReLU of slope 0.1 after each, no BatchNorm. The factor is under
  stop_gradient: a term on the reconstruction, `features.mse`, trains this module, and `maps.ft`
  does not. The paper trains it before the student: give it a stage in `before`.
  """

  def __init__(self, *, inputs: int, outputs: int, rngs: nnx.Rngs):
    self.encoder = nnx.List(_three(inputs, inputs, outputs, outputs, rngs=rngs))
    # RepDistiller's decoder is of transposed convolutions. With stride 1 these are convolutions,
    # but PyTorch takes the width that goes out for their fan_in.
    self.decoder = nnx.List(_three(outputs, outputs, inputs, inputs, transposed=True, rngs=rngs))

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> dict[str, jax.Array]:
    for conv in self.encoder:
      x = jax.nn.leaky_relu(conv(x), 0.1)
    factor = jax.lax.stop_gradient(x)
    for conv in self.decoder:
      x = jax.nn.leaky_relu(conv(x), 0.1)
    return {'factor': factor, 'reconstruction': x}


class Translator(nnx.Module):
  """The student's factor, as wide as the paraphraser's (FT, Kim 2018).

  Three times a 3×3 convolution, BatchNorm and a leaky ReLU of slope 0.1: RepDistiller's.
  """

  def __init__(self, *, inputs: int, outputs: int, rngs: nnx.Rngs):
    self.encoder = nnx.List(_three(inputs, inputs, outputs, outputs, rngs=rngs))
    self.norms = nnx.List([BatchNorm(n) for n in (inputs, outputs, outputs)])

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    for conv, norm in zip(self.encoder, self.norms, strict=True):
      x = jax.nn.leaky_relu(norm(conv(x), valid=valid, train=train), 0.1)
    return x


class Head(nnx.Module):
  """A classifier on an early stage: `hidden` [b width] and `logits` (BYOT, Zhang 2019).

  A 1×1 convolution to the width of the last stage, BatchNorm and ReLU; `hidden` is their mean over
  positions, to be compared with `self/pooled`. The authors' branch has a strided convolution and
  another 1×1 in addition.
  """

  def __init__(self, *, inputs: int, width: int, classes: int, rngs: nnx.Rngs):
    self.conv = layers.conv(inputs, width, bias=False, start=HE, rngs=rngs)
    self.norm = BatchNorm(width)
    self.dense = layers.linear(width, classes, rngs=rngs)

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> dict[str, jax.Array]:
    x = jax.nn.relu(self.norm(self.conv(x), valid=valid, train=train))
    hidden = x.mean(axis=(1, 2))
    return {'hidden': hidden, 'logits': self.dense(hidden)}


def _three(*widths: int, transposed: bool = False, rngs: nnx.Rngs) -> list[nnx.Conv]:
  """Makes 3×3 convolutions from each width to the next."""
  start = lambda a, b: layers.within((9 * (b if transposed else a))**-0.5)
  return [layers.conv(a, b, size=3, start=start(a, b), rngs=rngs)
          for a, b in zip(widths[:-1], widths[1:], strict=True)]
