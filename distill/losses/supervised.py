"""Supervised losses: on the class or the number of an example, or of a position."""
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from distill import maths


def cross_entropy(student: Float[Array, '*b c'], label: Int[Array, '*b'], *,
                  smoothing: float = 0.0) -> Float[Array, '*b']:
  """-log q[label], against (1 - smoothing) one-hot + smoothing uniform (Szegedy 2016, §7).

  It is also the loss of a masked-word head, [b s v] against [b s]: the term's mask says which words
  were masked, and so count.

  A negative label is one that the run may not see: value and gradient are 0, and the term's mask
  keeps it out of the count. A label beyond the classes gives NaN: wrong data must not train.
  """
  maths.scalar(smoothing=smoothing)
  if not 0 <= smoothing < 1:
    raise ValueError(f'smoothing={smoothing} is not in [0, 1)')
  maths.agree(student=student.shape[:-1], label=label.shape)
  log_q = jax.nn.log_softmax(maths.wide(student))
  value = -jnp.take_along_axis(log_q, jnp.maximum(label, 0)[..., None], axis=-1)[..., 0]
  if smoothing:       # left out at 0, where a class of logit -inf would make it 0 times infinity
    value = (1 - smoothing) * value - smoothing * jnp.mean(log_q, axis=-1)
  return jnp.where(label < 0, 0, value)


def mse(student: Float[Array, '*b 1'], label: Float[Array, '*b']) -> Float[Array, '*b']:
  """The squared error of a head of one output, as STS-B's.

  A missing label is 0 in a batch, and the term's mask keeps it out of value and count.
  """
  maths.agree(student=student.shape, label=(*label.shape, 1))
  return jnp.square(maths.wide(student)[..., 0] - maths.wide(label))
