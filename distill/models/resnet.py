"""The residual networks for small images (He 2015, §4.2), as distillation papers define them."""
from collections.abc import Sequence

import jax
from flax import nnx

from distill.models import layers
from distill.models.functional import MAX_BLOCKS, Traits
from distill.models.norm import BatchNorm
from distill.types import Batch, Outputs


class ResNet(nnx.Module):
  """A stem and stages of equally many residual blocks, with `widths` the stem's and the stages'.

  `depth` counts the layers: with three stages 6n + 2 is n blocks a stage. From the second stage on
  a stage halves height and width. ResNet-8×4 is depth 8 with widths (32, 64, 128, 256). Blocks and
  initialisation are RepDistiller's (Tian 2020): a shortcut that changes shape is a 1×1 convolution
  with BatchNorm, where He's has no parameters; convolutions start from N(0, 2/fan_out), the
  head, also its bias, from U(±1/√fan_in). With 0 classes there is no head, and are no logits.

  The batch has `image` [b h w channels], of any height and width, and `valid` [b].

  Outputs, for the stages N = 1, 2, …:
    stem                                      [b h w c]  after its ReLU
    stageN/features                           [b h w c]  the stage's output
    stageN/preactivation                      [b h w c]  the same before the last ReLU
    pooled                                    [b d]      the mean over positions
    logits                                    [b c]
    weights/head/kernel, weights/head/bias    [d c] [c]
    weights/stageN/scale, weights/stageN/bias [c]        of the stage's last BatchNorm
  """
  traits = Traits(heads={'head': ('logits',)})

  def __init__(self, *, depth: int, widths: Sequence[int] = (16, 16, 32, 64), channels: int = 3,
               classes: int, rngs: nnx.Rngs):
    stages = len(widths) - 1
    if stages < 1 or min(*widths, channels) < 1 or classes < 0:
      raise ValueError(f'widths={tuple(widths)} must name the stem and at least one stage, and '
                       f'they and channels={channels} must be at least 1, classes={classes} 0 or '
                       'more')
    count, left = divmod(depth - 2, 2 * stages)
    if left or count < 1:
      raise ValueError(f'depth={depth} is not {2 * stages}n + 2 with n at least 1, as {stages} '
                       'stages need')
    if count * stages > MAX_BLOCKS:
      raise ValueError(f'depth={depth} is more than {MAX_BLOCKS} blocks')
    self.width = widths[-1]
    self.stem = _conv(channels, widths[0], size=3, stride=1, rngs=rngs)
    self.stem_norm = BatchNorm(widths[0])
    # Named by a string, so that parameters are called as outputs are: the first stage is 1.
    self.stages = nnx.Dict({
        str(n): Stage(inputs=widths[n - 1], width=widths[n], count=count, stride=1 + (n > 1),
                      rngs=rngs)
        for n in range(1, stages + 1)})
    start = lambda key, shape, dtype, out_sharding=None, bound=widths[-1]**-0.5: jax.random.uniform(
        key, shape, dtype, -bound, bound)
    self.head = nnx.Linear(widths[-1], classes, kernel_init=start, bias_init=start,
                           rngs=rngs) if classes else None

  def __call__(self, batch: Batch, *, train: bool = False,
               key: jax.Array | None = None) -> Outputs:
    how = dict(valid=batch['valid'], train=train)
    x = batch['image'].astype(self.stem.kernel.dtype)
    x = jax.nn.relu(self.stem_norm(self.stem(x), **how))
    outputs = {'stem': x}
    for n in range(1, len(self.stages) + 1):
      stage = self.stages[str(n)]
      before = stage(x, **how)
      x = jax.nn.relu(before)
      last = stage.blocks[-1].norm2
      outputs |= {f'stage{n}/features': x, f'stage{n}/preactivation': before,
                  f'weights/stage{n}/scale': last.scale[...],
                  f'weights/stage{n}/bias': last.bias[...]}
    outputs['pooled'] = pooled = x.mean(axis=(1, 2))
    if self.head is None:
      return outputs
    return outputs | {'logits': self.head(pooled),
                      'weights/head/kernel': self.head.kernel[...],
                      'weights/head/bias': self.head.bias[...]}


class Stage(nnx.Module):
  """Residual blocks in a row; the result is taken before the last block's ReLU."""

  def __init__(self, *, inputs: int, width: int, count: int, stride: int, rngs: nnx.Rngs):
    self.blocks = nnx.List([
        Block(inputs=width if i else inputs, width=width, stride=1 if i else stride, rngs=rngs)
        for i in range(count)])

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    for block in self.blocks[:-1]:
      x = jax.nn.relu(block(x, valid=valid, train=train))
    return self.blocks[-1](x, valid=valid, train=train)


class Block(layers.Block):
  """Two 3×3 convolutions, their result added to the input; the last ReLU is the caller's."""

  def __init__(self, *, inputs: int, width: int, stride: int, rngs: nnx.Rngs):
    self.conv1 = _conv(inputs, width, size=3, stride=stride, rngs=rngs)
    self.norm1 = BatchNorm(width)
    self.conv2 = _conv(width, width, size=3, stride=1, rngs=rngs)
    self.norm2 = BatchNorm(width)
    same = stride == 1 and inputs == width
    self.shortcut = None if same else _conv(inputs, width, size=1, stride=stride, rngs=rngs)
    self.shortcut_norm = None if same else BatchNorm(width)

  def forward(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    how = dict(valid=valid, train=train)
    inner = jax.nn.relu(self.norm1(self.conv1(x), **how))
    inner = self.norm2(self.conv2(inner), **how)
    if self.shortcut is not None:
      x = self.shortcut_norm(self.shortcut(x), **how)
    return inner + x


def _conv(inputs: int, outputs: int, *, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
  """Makes a convolution without bias, padded equally on all sides, unlike 'SAME' with a stride."""
  return nnx.Conv(inputs, outputs, (size, size), strides=stride, padding=size // 2, use_bias=False,
                  kernel_init=nnx.initializers.variance_scaling(2, 'fan_out', 'normal'), rngs=rngs)
