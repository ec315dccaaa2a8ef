"""Losses on the relations between positions, which need no common width."""
import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Shaped

from distill.losses import _agree, _wide
from distill.losses.logits import kl


def minilm(student: Float[Array, 'b s d'], teacher: Float[Array, 'b s e'],
           where: Shaped[Array, 'b s'], *, heads: int) -> Float[Array, 'b s']:
  """Self-attention relations of one of queries, keys or values (MiniLMv2, Wang 2021).

  Both sides, of any width and any number of attention heads, are split into `heads` relation
  heads; the value of a position is the mean over these of KL(teacher || student) between the
  softmax over counted positions of A Aᵀ / √(width / heads). Take three terms for Q, K and V.
  With the heads of the attention, V alone is the value relation of MiniLM (Wang 2020, eq. 9).
  A position that isn't counted has the value 0: give the term the same mask.
  """
  _agree(student=student.shape[:2], teacher=teacher.shape[:2], where=where.shape)
  counted = where.astype(bool)
  value = kl(_scores(student, counted, heads), _scores(teacher, counted, heads))
  return jnp.mean(value, axis=1)


def _scores(vectors: Float[Array, 'b s d'], counted: Bool[Array, 'b s'],
            heads: int) -> Float[Array, 'b {heads} s s']:
  b, s, width = vectors.shape
  if heads < 1 or width % heads:
    raise ValueError(f'heads={heads} does not divide a width of {width}')
  a = jnp.where(counted[..., None], _wide(vectors), 0).reshape(b, s, heads, width // heads)
  scores = jnp.einsum('bqhd,bkhd->bhqk', a, a) / math.sqrt(width // heads)
  # A counted position scores itself at 0 or more, so -1e9 is nothing to it. And -inf would be NaN
  # on the way where nothing is counted, which stops a search with `jax_debug_nans` too early.
  return jnp.where(counted[:, None, None, :], scores, -1e9)
