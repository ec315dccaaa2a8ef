"""Batch normalisation over the examples that count."""
import jax
import jax.numpy as jnp
from flax import nnx


class BatchNorm(nnx.Module):
  """Normalisation of each channel, the last axis, by batch statistics (Ioffe 2015, algorithm 1).

  PyTorch's convention: `momentum` is the weight of the new batch in the running statistics, which
  use the unbiased variance, while the batch is normalised by the biased one. Statistics are those
  of the rows whose `valid` is above 0, in float32; the other rows become `bias`, so their content
  affects nothing. Outside training all rows are normalised by the running statistics.

  A batch with fewer than two values for a channel has no unbiased variance. PyTorch refuses it;
  here the running statistics don't change and every row becomes `bias`.
  """

  def __init__(self, width: int, *, momentum: float = 0.1, eps: float = 1e-5):
    if width < 1 or eps <= 0 or not 0 <= momentum <= 1:
      raise ValueError(f'width={width} must be at least 1, eps={eps} above 0 and '
                       f'momentum={momentum} in [0, 1]')
    self.scale, self.bias = nnx.Param(jnp.ones(width)), nnx.Param(jnp.zeros(width))
    self.mean, self.var = nnx.BatchStat(jnp.zeros(width)), nnx.BatchStat(jnp.ones(width))
    self.momentum, self.eps = momentum, eps

  def __call__(self, x: jax.Array, *, valid: jax.Array, train: bool) -> jax.Array:
    """Normalises x [b … c], counting only rows whose `valid` [b] is above 0."""
    if x.shape[-1] != self.mean.shape[0] or valid.shape != x.shape[:1]:
      raise ValueError(f'BatchNorm of width {self.mean.shape[0]} got {list(x.shape)} and valid '
                       f'{list(valid.shape)}')
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if train:
      counted = (valid > 0).reshape(-1, *(1,) * (x.ndim - 1))
      axes = tuple(range(x.ndim - 1))
      n = jnp.sum(counted, dtype=wide.dtype) * (x[0].size // x.shape[-1])
      mean = jnp.sum(jnp.where(counted, wide, 0), axes) / jnp.maximum(n, 1)
      centred = jnp.where(counted, wide - mean, 0)
      var = jnp.sum(jnp.square(centred), axes) / jnp.maximum(n, 1)
      self._remember(mean, var * n / jnp.maximum(n - 1, 1), jnp.where(n > 1, self.momentum, 0))
    else:
      centred, var = wide - self.mean[...], self.var[...]
    out = centred * (jax.lax.rsqrt(var + self.eps) * self.scale[...]) + self.bias[...]
    return out.astype(x.dtype)

  def _remember(self, mean: jax.Array, var: jax.Array, weight: jax.Array) -> None:
    """Moves the running statistics towards a batch's."""
    for kept, new in ((self.mean, mean), (self.var, var)):
      old = kept.get_value()
      kept.set_value((old + weight * (jax.lax.stop_gradient(new) - old)).astype(old.dtype))
