"""Fusion of a student's stages, the trained part of knowledge review."""
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from distill.models import layers
from distill.models.norm import BatchNorm


class Review(nnx.Module):
  """Attention-based fusion of stages from the deepest up (ReviewKD, Chen 2021, ABF).

  Reads the student's stages from the first to the last, and gives '1', '2', … in that order, with
  the widths `outputs`, the teacher's, each at the resolution of its stage; `maps.hcl` compares them
  with the teacher's preactivations. The last may be `pooled`, as in mdistiller: [b c] in and out,
  for `features.mse`.

  A stage is brought to the width of the last, at most 512, and mixed with what the deeper ones
  gave, enlarged to it, by a weight for either at every position. Layers start as mdistiller's.
  """

  def __init__(self, *, inputs: Sequence[int], outputs: Sequence[int], rngs: nnx.Rngs):
    if isinstance(inputs, int) or len(inputs) != len(outputs):
      raise ValueError(f'outputs={tuple(outputs)} are not as many as the stages read, {inputs}')
    width = min(512, inputs[-1])
    self.fusions = nnx.List([
        Fusion(inputs=a, width=width, outputs=b, deepest=n == len(inputs), rngs=rngs)
        for n, (a, b) in enumerate(zip(inputs, outputs, strict=True), start=1)])

  def __call__(self, *stages: jax.Array, valid: jax.Array, train: bool) -> dict[str, jax.Array]:
    results, deeper = {}, None
    for n in range(len(stages), 0, -1):
      x = stages[n - 1]
      maps = x[:, None, None] if x.ndim == 2 else x
      result, deeper = self.fusions[n - 1](maps, deeper, valid=valid, train=train)
      results[str(n)] = result[:, 0, 0] if x.ndim == 2 else result
    return results


class Fusion(nnx.Module):
  """The fusion of one stage with the deeper ones: its result, and the input of the next fusion."""

  def __init__(self, *, inputs: int, width: int, outputs: int, deepest: bool, rngs: nnx.Rngs):
    self.narrow = layers.conv(inputs, width, bias=False, start=layers.within((3 / inputs)**0.5),
                              rngs=rngs)
    self.norm = BatchNorm(width)
    self.weigh = None if deepest else layers.conv(2 * width, 2, rngs=rngs)
    self.widen = layers.conv(width, outputs, size=3, bias=False,
                             start=layers.within((3 / (9 * width))**0.5), rngs=rngs)
    self.widen_norm = BatchNorm(outputs)

  def __call__(self, x: jax.Array, deeper: jax.Array | None, *, valid: jax.Array,
               train: bool) -> tuple[jax.Array, jax.Array]:
    x = self.norm(self.narrow(x), valid=valid, train=train)
    if self.weigh is not None:
      deeper = _nearest(deeper, *x.shape[1:3])
      weight = jax.nn.sigmoid(self.weigh(jnp.concatenate([x, deeper], axis=-1)))
      x = x * weight[..., :1] + deeper * weight[..., 1:]
    return self.widen_norm(self.widen(x), valid=valid, train=train), x


def _nearest(maps: jax.Array, h: int, w: int) -> jax.Array:
  """Maps at another resolution: position i of n is the source's ⌊i·size/n⌋, as in PyTorch."""
  rows, columns = (jnp.arange(n) * size // n
                   for n, size in zip((h, w), maps.shape[1:3], strict=True))
  return maps[:, rows][:, :, columns]
