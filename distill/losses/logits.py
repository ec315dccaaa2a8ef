"""Losses on output distributions: logits, never probabilities, over classes or words."""
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from distill.losses import _pair


def kl(student: Float[Array, '*b c'], teacher: Float[Array, '*b c'], *,
       temperature: float | Float[Array, ''] = 1.0) -> Float[Array, '*b']:
  """KL(teacher || student) at a temperature, times temperature² (Hinton 2015, §2).

  The T² keeps the gradient's size independent of T, so the weight of this term need not be
  retuned with it. A temperature that varies with the step is read from `schedule/`. The
  teacher may rule a class out with a logit of -inf.
  """
  if not isinstance(temperature, jax.Array) and not 0 < temperature < math.inf:
    raise ValueError(f'temperature={temperature} is not a finite number above 0')
  log_s, log_t = (jax.nn.log_softmax(z / temperature) for z in _pair(student, teacher))
  p = jnp.exp(log_t)
  return temperature**2 * jnp.sum(p * jnp.where(p > 0, log_t - log_s, 0), axis=-1)


def mse(student: Float[Array, '*b c'], teacher: Float[Array, '*b c']) -> Float[Array, '*b']:
  """Mean over the classes of the squared difference of logits (Ba & Caruana 2014, eq. 1).

  The paper's is this times c/2. Unlike `kl` it sees a shift common to all logits.
  """
  s, t = _pair(student, teacher)
  return jnp.mean(jnp.square(s - t), axis=-1)
