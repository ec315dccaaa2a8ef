"""Weights of losses and of teachers, as projectors: terms take them as their `scale`."""
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from distill import maths
from distill.losses.supervised import cross_entropy

MEANS = 'geometric', 'arithmetic'
LARGE = 1e9


class Uncertainty(nnx.Module):
  """Trained weights of losses, by the noise σ² that each is fitted with (Kendall 2018, eq. 10).

  It learns s = log σ² for each of `terms`, from 0. For a term T it returns T, the scale exp(-s),
  and T/penalty, s/2, which `balance.penalty` adds. The paper's weight is this for a classification
  and half of it for a mean squared error: set the term's weight to 0.5 there. At the best σ the
  scaled loss is 1/2. It ignores the array that it reads; 'batch/valid' always exists.
  """

  def __init__(self, *, terms: Sequence[str]):
    if len(set(terms)) < len(terms) or not terms:
      raise ValueError(f'terms={tuple(terms)} must name terms, each once')
    self.terms = tuple(terms)
    self.log_variance = nnx.Param(jnp.zeros(len(terms)))

  def __call__(self, *arrays: jax.Array, valid: jax.Array, train: bool) -> dict[str, jax.Array]:
    del arrays, valid, train
    s = maths.wide(self.log_variance[...])
    return ({term: jnp.exp(-s[i]) for i, term in enumerate(self.terms)}
            | {f'{term}/penalty': s[i] / 2 for i, term in enumerate(self.terms)})


class Confidence(nnx.Module):
  """Weights of teachers by their cross-entropy with the label (CA-MKD, Zhang 2022).

  It reads the logits of K teachers and then the label; it returns the weights [b] '0', '1', …:
  (1 - softmax over teachers of their cross-entropies) / (K - 1), of sum 1. All are 1/K where the
  label is unknown. A term for each teacher, with its weight as scale, adds up to the paper's loss;
  the authors' code then divides by K once more.
  """

  def __init__(self, *, inputs: Sequence[int]):
    _check(inputs[:-1])

  def __call__(self, *arrays: jax.Array, valid: jax.Array, train: bool) -> dict[str, jax.Array]:
    del valid, train
    *teachers, label = arrays
    losses = jnp.stack([cross_entropy(logits, label) for logits in teachers])
    losses = jnp.minimum(losses, LARGE)         # of a teacher that rules the label out: not inf
    return _others(jax.nn.softmax(losses, axis=0))


class Certainty(nnx.Module):
  """Weights of teachers by their entropy (Kwon 2020, as CA-MKD's authors compare it).

  It reads the logits of K teachers; it returns the weights [b] '0', '1', …: (1 - H / sum of H) /
  (K - 1) with H the entropy of a teacher's softmax. All are 1/K if each H is 0. The code of CA-MKD,
  which calls this EBKD, divides by K instead of K - 1.
  """

  def __init__(self, *, inputs: Sequence[int]):
    _check(inputs)

  def __call__(self, *arrays: jax.Array, valid: jax.Array, train: bool) -> dict[str, jax.Array]:
    del valid, train
    log_p = jax.nn.log_softmax(jnp.stack(arrays).astype(jnp.float32))
    p = jnp.exp(log_p)
    entropy = -jnp.sum(p * jnp.where(p > 0, log_p, 0), axis=-1)
    total = jnp.sum(entropy, axis=0)
    return _others(jnp.where(total > 0, entropy / jnp.where(total > 0, total, 1), 1 / len(arrays)))


class Ensemble(nnx.Module):
  """Logits of the mean of teachers' predictions (Hinton 2015, §1: an arithmetic or geometric mean).

  Reads the logits of teachers, of one shape. The geometric mean's are the mean of the logits, at
  any temperature; the arithmetic mean's the logarithms of the mean probability at temperature 1.
  """

  def __init__(self, *, inputs: Sequence[int], mean: str = 'geometric'):
    if mean not in MEANS:
      raise ValueError(f'mean={mean!r} is not one of {", ".join(MEANS)}')
    _check(inputs)
    self.mean = mean

  def __call__(self, *arrays: jax.Array, valid: jax.Array, train: bool) -> jax.Array:
    del valid, train
    logits = jnp.stack(arrays).astype(jnp.float32)
    if self.mean == 'geometric':
      return jnp.mean(logits, axis=0)
    return jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0) - jnp.log(len(arrays))


def _check(inputs: Sequence[int]) -> None:
  """Raises a ValueError unless at least two teachers have equally many classes."""
  if isinstance(inputs, int) or len(inputs) < 2 or len(set(inputs)) > 1:
    raise ValueError(f'reads must name at least two teachers of as many classes, not {inputs}')


def _others(shares: jax.Array) -> dict[str, jax.Array]:
  """Maps shares [K b] of sum 1 to weights of sum 1, larger for smaller shares."""
  return {str(k): (1 - share) / (len(shares) - 1) for k, share in enumerate(shares)}
