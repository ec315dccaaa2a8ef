"""The words every room shares: named arrays, and how a run stops.

Axis names, in shapes and in jaxtyping strings:

  b  examples of a batch     s  positions of a sequence     d  width of a representation
  h  attention heads         c  classes                     v  entries of a vocabulary

and of images, [b h w c]: height, width, channels.

Fields of a batch (`Batch`); all lead with the batch axis. `tokens`, `types` and `mask` are a
text's, `image` is an image's:

  id        int32 [b]     index of the example in its split
  tokens    int32 [b s]   token ids, padded to one of the data's widths
  types     int32 [b s]   0 for the first sentence, 1 for the second
  mask      float [b s]   1 for a token, 0 for padding
  image     float32 [b h w c]   pixels with mean 0 and deviation 1 over the training split
  label     int32 [b]     the class, or -1 where the run may not see it; in a regression
            float32 [b]   the value, or 0 there
  labelled  float [b]     1 where the run may see the label
  valid     float [b]     1 for an example, 0 for a row that only fills the batch
"""
import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:       # the command line answers mistakes without loading JAX
  import jax

Batch = Mapping[str, 'jax.Array']
Outputs = Mapping[str, 'jax.Array']     # 'logits', 'block03/hidden', … as a model names them
Records = Mapping[str, np.ndarray]      # what a task keeps of every example, on the host
Schedule = Callable[['jax.Array'], 'jax.Array']     # step -> scalar


class Status(enum.IntEnum):
  """Exit statuses of every command."""
  DONE = 0
  PREEMPTED = 3           # stopped by a signal, everything saved
  CONFIG = 10
  DATA = 11
  NONFINITE = 12
  CHECKPOINT = 13         # checkpoints exist, none is valid
  DISK = 14
  MISFIT = 15             # teacher and student don't fit
  LOCKED = 16             # another run holds the workdir
  TIER = 17               # everything is done and reported, but a student misses its tier


class Stop(Exception):
  """Ends a command: an exit status and one line saying what is wrong, where, and what to do."""

  def __init__(self, status: Status, line: str):
    super().__init__(line)
    self.status = status
