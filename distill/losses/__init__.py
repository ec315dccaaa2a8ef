"""Losses: pure functions, arrays in, values out.

A loss takes its arrays by their roles (`student`, `teacher`, `label`, and `where`, a 0/1 mask
[b s], if it mixes positions) and its hyper-parameters by keyword. It computes in float32 or
better and returns one value for each example or position, whose mean is the paper's loss.
Averaging, masking and weighting belong to `distill.objective`, so they are right once, for all.

A loss that mixes examples is marked `@mixing`. It takes `where` [b], the examples that count, and
its values are 0 for the others; their mean over the examples that count is the paper's loss on
these alone. Such a term can't be accumulated over micro-batches, and says so.

A hyper-parameter out of range, and shapes that differ where they must not, are a ValueError when
the loss is traced: [8, 10] against [1, 10] would otherwise broadcast in silence.
"""
from collections.abc import Callable


def mixing(loss: Callable) -> Callable:
  """Marks a loss whose value of one example depends on others."""
  loss.mixing = True
  return loss
