import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.augment import masking

WORDS = jnp.arange(5, 45).reshape(2, 20)


def batch(tokens=WORDS, own=(20, 20)):
  mask = (jnp.arange(tokens.shape[1])[None] < jnp.array(own)[:, None]).astype(jnp.float32)
  return {'tokens': jnp.where(mask > 0, tokens, 0), 'mask': mask}


def test_the_chosen_positions_hold_masks_and_the_targets_the_words_that_stood_there():
  before = batch()
  after = masking.words(vocabulary=50, share=0.2, masked=1.0, random=0.0)(before, jax.random.key(0))
  assert after['positions'].shape == (2, 4)                # ⌈0.2 · 20⌉
  assert (after['chosen'] == 1).all()                      # round(0.2 · 20) of each text
  at = np.take_along_axis(np.asarray(after['tokens']), np.asarray(after['positions']), 1)
  assert (at == masking.MASK).all()
  restored = after['tokens'].at[jnp.arange(2)[:, None], after['positions']].set(after['target'])
  assert (restored == before['tokens']).all()
  assert (after['tokens'] != before['tokens']).sum() == 8


def test_padding_and_special_tokens_are_never_chosen():
  tokens = WORDS.at[:, 0].set(2).at[0, 3].set(3)           # [CLS] first, [SEP] after two words
  before = batch(tokens, own=(4, 20))
  for seed in range(20):
    after = masking.words(vocabulary=50, share=0.5)(before, jax.random.key(seed))
    picked = set(np.asarray(after['positions'][0])[np.asarray(after['chosen'][0]) > 0].tolist())
    assert picked <= {1, 2} and len(picked) == 1           # round(0.5 · 2) of the two words


def test_the_shares_are_those_of_the_paper():
  tokens = jnp.full((200, 100), 7)
  after = masking.words(vocabulary=1000)(batch(tokens, own=(100,) * 200), jax.random.key(1))
  at = np.take_along_axis(np.asarray(after['tokens']), np.asarray(after['positions']), 1)
  # 3,000 chosen: standard deviations of the shares are 0.0073 and 0.0055; four of them.
  assert abs((at == masking.MASK).mean() - 0.8) < 0.03
  assert abs((at == 7).mean() - 0.1) < 0.022


def test_a_text_without_words_counts_nothing():
  after = masking.words(vocabulary=50)(batch(jnp.full((2, 20), 2)), jax.random.key(0))
  assert after['chosen'].sum() == 0


@pytest.mark.parametrize('wrong', [{'share': 0.0}, {'share': 1.0}, {'masked': 0.9, 'random': 0.2}])
def test_shares_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match='must be'):
    masking.words(vocabulary=50, **wrong)
