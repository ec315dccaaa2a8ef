"""Projectors: trained modules between views, for the time of the training only."""
import jax
from flax import nnx


class Linear(nnx.Module):
  """A linear map of the last axis, from the student's width to the teacher's (FitNet 2015, §2.1;
  TinyBERT 2019, eq. 8). It starts as PyTorch's and Flax's dense layers do (LeCun)."""

  def __init__(self, *, inputs: int, outputs: int, bias: bool = True, rngs: nnx.Rngs):
    self.dense = nnx.Linear(inputs, outputs, use_bias=bias, rngs=rngs)

  def __call__(self, x: jax.Array) -> jax.Array:
    return self.dense(x)
