import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.augment import masking

WORDS = jnp.arange(5, 45).reshape(2, 20)
OURS = {'[PAD]': 0, '[UNK]': 1, '[CLS]': 2, '[SEP]': 3, '[MASK]': 4}


def words(special=OURS, **how):
  return masking.words(special=special, **how)


def batch(tokens=WORDS, lengths=(20, 20)):
  mask = (jnp.arange(tokens.shape[1])[None] < jnp.array(lengths)[:, None]).astype(jnp.float32)
  return {'tokens': jnp.where(mask > 0, tokens, 0), 'mask': mask}


def test_chosen_positions_hold_masks_and_targets_the_original_words():
  before = batch()
  after = words(vocabulary=50, share=0.2, masked=1.0, random=0.0)(before, jax.random.key(0), None)
  assert after['positions'].shape == (2, 4)                # ⌈0.2 · 20⌉
  assert (after['chosen'] == 1).all()                      # round(0.2 · 20) of each text
  at = np.take_along_axis(np.asarray(after['tokens']), np.asarray(after['positions']), 1)
  assert (at == 4).all()
  restored = after['tokens'].at[jnp.arange(2)[:, None], after['positions']].set(after['target'])
  assert (restored == before['tokens']).all()
  assert (after['tokens'] != before['tokens']).sum() == 8


def test_padding_and_special_tokens_are_never_chosen():
  tokens = WORDS.at[:, 0].set(2).at[0, 3].set(3)           # [CLS] first, [SEP] after two words
  before = batch(tokens, lengths=(4, 20))
  for seed in range(20):
    after = words(vocabulary=50, share=0.5)(before, jax.random.key(seed), None)
    picked = set(np.asarray(after['positions'][0])[np.asarray(after['chosen'][0]) > 0].tolist())
    assert picked <= {1, 2} and len(picked) == 1           # round(0.5 · 2) of the two words


def test_the_shares_are_those_of_the_paper():
  tokens = jnp.full((200, 100), 7)
  after = words(vocabulary=1000)(batch(tokens, lengths=(100,) * 200), jax.random.key(1), None)
  at = np.take_along_axis(np.asarray(after['tokens']), np.asarray(after['positions']), 1)
  # 3,000 chosen: standard deviations of the shares are 0.0073 and 0.0055; four of them.
  assert abs((at == 4).mean() - 0.8) < 0.03
  assert abs((at == 7).mean() - 0.1) < 0.022


def test_a_text_without_words_counts_nothing():
  after = words(vocabulary=50)(batch(jnp.full((2, 20), 2)), jax.random.key(0), None)
  assert after['chosen'].sum() == 0


def test_special_tokens_have_the_ids_of_the_tokenizer():
  # BERT's: its [unused] tokens below 100 are words, and 103 is the mask.
  special = {'[PAD]': 0, '[UNK]': 100, '[CLS]': 101, '[SEP]': 102, '[MASK]': 103}
  tokens = jnp.tile(jnp.array([101, 5, 100, 200, 201, 102]), (400, 1))
  before = batch(tokens, lengths=(6,) * 400)
  after = words(special, vocabulary=202, share=0.5, masked=0.5, random=0.5)(
      before, jax.random.key(0), None)
  changed = np.asarray(after['tokens'] != before['tokens'])
  assert set(np.flatnonzero(changed.any(0))) == {1, 3, 4}
  new = np.asarray(after['tokens'])[changed]
  assert set(special.values()) & set(new) == {103} and new.max() == 201 and new.min() < 100


def test_a_tokenizer_without_a_mask_is_refused():
  with pytest.raises(ValueError, match=r'no \[MASK\]'):
    words({'[PAD]': 0}, vocabulary=50)


@pytest.mark.parametrize('wrong', [{'share': 0.0}, {'share': 1.0}, {'masked': 0.9, 'random': 0.2}])
def test_shares_out_of_range_are_refused(wrong):
  with pytest.raises(ValueError, match='must be'):
    words(vocabulary=50, **wrong)
