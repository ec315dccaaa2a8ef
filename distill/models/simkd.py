"""A student that classifies with its teacher's head."""
from collections.abc import Mapping

import jax
from flax import nnx

from distill import lookup
from distill.models import layers
from distill.models.norm import BatchNorm
from distill.models.resnet import ResNet
from distill.types import Batch, Outputs


class SimKD(nnx.Module):
  """An encoder, a projector to the teacher's width, and the teacher's head (SimKD, Chen 2022).

  `encoder` is the node of a `resnet.ResNet`, `width` the teacher's. The head is the teacher's by
  `student.init='T'`, `student.fresh=('encoder/*', 'projector/*')` and
  `student.frozen=('head/*',)`. The one term is `features.mse` between `projected` and the teacher's
  last features, of the same resolution.

  Outputs: `projected` [b h w width], `pooled`, its mean over positions, `logits`, `weights/head/…`;
  the encoder's `stem`, `stageN/…` and `weights/stageN/…`.
  """

  def __init__(self, *, encoder: Mapping, width: int, factor: int = 2, channels: int = 3,
               classes: int, rngs: nnx.Rngs):
    if not 1 <= factor <= width:
      raise ValueError(f'factor={factor} is not between 1 and the width {width}')
    self.encoder = lookup.build('models', encoder, 'student.model.encoder', channels=channels,
                                classes=0, rngs=rngs)
    if not isinstance(self.encoder, ResNet):
      raise ValueError(f'encoder={encoder["name"]!r} is not resnet.ResNet')
    self.projector = Projector(inputs=self.encoder.width, width=width, factor=factor, rngs=rngs)
    self.head = layers.linear(width, classes, rngs=rngs)

  def __call__(self, batch: Batch, *, train: bool = False,
               key: jax.Array | None = None) -> Outputs:
    outputs = self.encoder(batch, train=train, key=key)
    last = outputs[f'stage{len(self.encoder.stages)}/features']
    projected = self.projector(last, valid=batch['valid'], train=train)
    pooled = projected.mean(axis=(1, 2))
    return outputs | {'projected': projected, 'pooled': pooled, 'logits': self.head(pooled),
                      'weights/head/kernel': self.head.kernel[...],
                      'weights/head/bias': self.head.bias[...]}


class Projector(nnx.Module):
  """Convolutions of 1×1, 3×3 and 1×1 without bias, BatchNorm and ReLU after each.

  Between them the width is the result's divided by `factor`, 2 in the paper.
  """

  def __init__(self, *, inputs: int, width: int, factor: int, rngs: nnx.Rngs):
    narrow = width // factor
    self.convs = nnx.List([layers.conv(a, b, size=size, bias=False, rngs=rngs) for a, b, size in (
        (inputs, narrow, 1), (narrow, narrow, 3), (narrow, width, 1))])
    self.norms = nnx.List([BatchNorm(n) for n in (narrow, narrow, width)])

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    for conv, norm in zip(self.convs, self.norms, strict=True):
      x = jax.nn.relu(norm(conv(x), valid=valid, train=train))
    return x
