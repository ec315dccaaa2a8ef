"""Masked language modelling: a model predicts the words that are hidden from it."""
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from distill.lookup import nearest
from distill.tasks import Ask, Measured, Task
from distill.tasks.classification import FRACTION
from distill.types import Batch, Records, Status, Stop


class MaskedWords(Task):
  """Masked words: [MASK] hides `share` of each text's words, at least one if there is any.

  Unlike in training, the hidden words depend only on the example's id in its split: all models and
  runs predict the same words. It needs no labels; the model needs its masked-word head.

  Metrics, over the hidden words of all texts: `cross_entropy` in nats, and `accuracy`. `primary`
  is the metric that a report compares models by.

  Records, all leading with the example axis:

    id     int32 [n]      index of the example in its split
    label  int32 [n]      the number of hidden words
    right  int32 [n]      the number of these that the model found likeliest
    nll    float32 [n]    the sum of their negative log likelihoods
  """
  outputs, parts, labelled = ('words',), ('words',), False
  metrics = {'cross_entropy': {'unit': 'nats', 'higher_is_better': False}, 'accuracy': FRACTION}

  def __init__(self, *, special: Mapping[str, int], share: float = 0.15,
               primary: str = 'cross_entropy'):
    if not 0 < share < 1:
      raise ValueError(f'share={share} is not in (0, 1)')
    if '[MASK]' not in special:
      raise ValueError('the tokenizer of the data has no [MASK]')
    if primary not in self.metrics:
      raise ValueError(f'primary={primary!r} is no metric' + nearest(primary, self.metrics))
    self.special, self.share, self.primary = special, share, primary

  def prepare(self, batch: Batch) -> Batch:
    """Hides words of a batch; adds `positions`, `target` and `chosen`, as `masking.words` does."""
    tokens = np.asarray(batch['tokens'])
    is_word = (np.asarray(batch['mask']) > 0) & ~np.isin(tokens, list(self.special.values()))
    positions = np.zeros((len(tokens), -int(-self.share * tokens.shape[1] // 1)), np.int32)
    chosen = np.zeros(positions.shape, np.float32)
    for row, (example, words) in enumerate(zip(batch['id'], is_word, strict=True)):
      if found := np.flatnonzero(words).tolist():
        draws = np.random.Philox(key=int(example)).random_raw(len(found))
        quota = min(max(1, round(self.share * len(found))), positions.shape[1])
        picked = sorted(found[i] for i in np.argsort(draws, kind='stable')[:quota])
        positions[row, :quota], chosen[row, :quota] = picked, 1
    target = np.take_along_axis(tokens, positions, axis=1)
    rows, columns = np.nonzero(chosen)
    hidden = tokens.copy()
    hidden[rows, positions[rows, columns]] = self.special['[MASK]']
    return {**batch, 'tokens': hidden, 'positions': positions, 'target': target, 'chosen': chosen}

  def measure(self, ask: Ask, batch: Batch) -> dict[str, jax.Array]:
    """Returns sums over a text's hidden words; logits of the vocabulary stay on the device.

    `right` [b] counts the words that were likeliest, `nll` [b] sums negative log likelihoods.
    """
    words = ask(batch)['words'].astype(jnp.float32)                   # [b m v]
    likelihood = jax.nn.log_softmax(words)
    found = jnp.take_along_axis(likelihood, batch['target'][:, :, None], axis=2)[:, :, 0]
    right = words.argmax(-1) == batch['target']
    chosen = batch['chosen'] > 0
    return {'right': jnp.sum(right & chosen, axis=1),
            'nll': -jnp.sum(jnp.where(chosen, found, 0), axis=1)}

  def records(self, measured: Measured, batch: Batch) -> Records:
    """Returns the records of one batch, without the rows that only fill it."""
    keep = np.asarray(batch['valid']) != 0
    nll, ids = (np.asarray(x)[keep] for x in (measured['nll'], batch['id']))
    bad = ~np.isfinite(nll)
    if bad.any():
      raise ValueError(f'example {ids[bad][0]} has logits of words that are not finite')
    return {'id': ids.astype(np.int32),
            'label': (np.asarray(batch['chosen'])[keep] > 0).sum(1).astype(np.int32),
            'right': np.asarray(measured['right'], np.int32)[keep], 'nll': nll.astype(np.float32)}

  def answer(self, measured: Measured) -> dict[str, Any]:
    """Refuses: the hidden words of a text are known only where the task hid them."""
    raise Stop(Status.CHECKPOINT, 'a model of masked words answers no text: it is an encoder, to '
               'fine-tune or to start a student from')

  def score(self, records: Records) -> dict[str, float]:
    """Returns every metric's value."""
    if not len(records['id']):
      raise ValueError('there are no records to score')
    if not np.isfinite(records['nll']).all():
      raise ValueError('records hold likelihoods that are not numbers')
    hidden = max(1, int(records['label'].sum()))
    return {'cross_entropy': float(records['nll'].sum(dtype=np.float64) / hidden),
            'accuracy': float(records['right'].sum() / hidden)}
