"""Masked words: hides tokens of a batch, for a masked-word head to find again."""
from collections.abc import Callable

import jax
import jax.numpy as jnp

from distill.data.tokenizer import SPECIAL
from distill.types import Batch

MASK, FIRST_WORD = SPECIAL.index('[MASK]'), len(SPECIAL)


def words(*, vocabulary: int, share: float = 0.15, masked: float = 0.8,
          random: float = 0.1) -> Callable[[Batch, jax.Array], Batch]:
  """BERT's masking (Devlin 2018, §3.1), drawn anew for every step.

  Of each text's own tokens, `share` are chosen (at least one, if there is any): of these
  `masked` become [MASK], `random` another token, and the rest stay. The batch gets

    positions  int32 [b m]    m = ⌈share · s⌉
    target     int32 [b m]    the tokens that stood there
    chosen     float [b m]    1 where a position counts
  """
  if not 0 < share < 1 or masked < 0 or random < 0 or masked + random > 1:
    raise ValueError(f'share={share} must be in (0, 1), masked={masked} and random={random} '
                     'must be 0 or more and add up to 1 at most')

  def change(batch: Batch, key: jax.Array) -> Batch:
    tokens = batch['tokens']
    b, s = tokens.shape
    m = -int(-share * s // 1)
    order, what, other = jax.random.split(key, 3)
    own = (batch['mask'] > 0) & (tokens >= FIRST_WORD)
    scores = jnp.where(own, jax.random.uniform(order, (b, s)), -1.0)
    best, positions = jax.lax.top_k(scores, m)
    quota = jnp.clip(jnp.round(share * jnp.sum(own, axis=1, keepdims=True)), 1, m)
    chosen = (best >= 0) & (jnp.arange(m) < quota)
    target = jnp.take_along_axis(tokens, positions, axis=1)
    draw = jax.random.uniform(what, (b, m))
    replaced = jnp.where(draw < masked, MASK, jnp.where(
        draw < masked + random, jax.random.randint(other, (b, m), FIRST_WORD, vocabulary), target))
    rows = jnp.arange(b)[:, None]
    return {**batch,
            'tokens': tokens.at[rows, positions].set(jnp.where(chosen, replaced, target)),
            'positions': positions, 'target': target, 'chosen': chosen.astype(jnp.float32)}

  return change
