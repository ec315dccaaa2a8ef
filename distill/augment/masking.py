"""Masked words: hides tokens of a batch, which a masked-word head then predicts."""
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from distill.augment import Ask
from distill.types import Batch


def words(*, vocabulary: int, special: Mapping[str, int], share: float = 0.15, masked: float = 0.8,
          random: float = 0.1) -> Callable[[Batch, jax.Array, Ask], Batch]:
  """Returns BERT's masking (Devlin 2018, §3.1), with new random numbers in every step.

  It chooses `share` of each text's words, at least one if there is any; `special` are the tokens
  that are no words. The share `masked` of these becomes [MASK], `random` another word, and the rest
  stays. The batch gets

    positions  int32 [b m]    m = ⌈share · s⌉
    target     int32 [b m]    the original tokens
    chosen     float [b m]    1 where a position counts
  """
  if not 0 < share < 1 or masked < 0 or random < 0 or masked + random > 1:
    raise ValueError(f'share={share} must be in (0, 1), masked={masked} and random={random} '
                     'must be 0 or more and add up to 1 at most')
  if '[MASK]' not in special:
    raise ValueError('the tokenizer of the data has no [MASK]')
  others = np.setdiff1d(np.arange(vocabulary), list(special.values()))
  no_words = np.array(sorted(special.values()))

  def change(batch: Batch, key: jax.Array, ask: Ask) -> Batch:
    del ask
    tokens = batch['tokens']
    b, s = tokens.shape
    m = -int(-share * s // 1)
    order, replacement, other = jax.random.split(key, 3)
    is_word = (batch['mask'] > 0) & ~jnp.isin(tokens, no_words)
    scores = jnp.where(is_word, jax.random.uniform(order, (b, s)), -1.0)
    best, positions = jax.lax.top_k(scores, m)
    quota = jnp.clip(jnp.round(share * jnp.sum(is_word, axis=1, keepdims=True)), 1, m)
    chosen = (best >= 0) & (jnp.arange(m) < quota)
    target = jnp.take_along_axis(tokens, positions, axis=1)
    draw = jax.random.uniform(replacement, (b, m))
    random_words = jnp.asarray(others)[jax.random.randint(other, (b, m), 0, len(others))]
    replaced = jnp.where(draw < masked, special['[MASK]'], jnp.where(
        draw < masked + random, random_words, target))
    rows = jnp.arange(b)[:, None]
    return {**batch,
            'tokens': tokens.at[rows, positions].set(jnp.where(chosen, replaced, target)),
            'positions': positions, 'target': target, 'chosen': chosen.astype(jnp.float32)}

  return change
