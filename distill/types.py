"""Types that every room shares: named arrays, fields of examples, and how a run stops.

Axis names, in shapes and in jaxtyping strings:

  b  examples of a batch     s  positions of a sequence     d  width of a representation
  h  attention heads         c  classes                     v  entries of a vocabulary

and of images, [b h w c]: height, width, channels.

Fields of a batch (`Batch`); all lead with the batch axis. Every batch has

  id        int32 [b]     index of the example in its split, -1 in a row that only fills the batch
  labelled  float [b]     1 where the run may see the example's targets
  valid     float [b]     1 for an example, 0 for a row that only fills the batch

one whose inputs an augment perturbs has

  perturbation  float [b … d]   what the student adds to its inputs (`augment/adversarial.py`)

and the fields of its data set (`Field`): inputs, which its modality describes, and targets, such as

  label     int32 [b]     the class, or -1 where the run may not see it; in a regression
            float32 [b]   the value, or 0 there
"""
import dataclasses
import enum
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:       # the command line answers mistakes without loading JAX
  import jax

Batch = Mapping[str, 'jax.Array']
Outputs = Mapping[str, 'jax.Array']     # 'logits', 'block03/hidden', … as a model names them
Records = Mapping[str, np.ndarray]      # per-example numbers that a task keeps, on the host
SEEDS = 2**31           # seeds are below it: JAX computes in int32, where larger ones would collide
Schedule = Callable[['jax.Array'], 'jax.Array']     # step -> scalar

UNPRINTABLE = re.compile('[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')


@dataclasses.dataclass(frozen=True)
class Field:
  """The shape, type and padding of one array that every example has.

  `axes` are sizes, or names of axes along which examples differ: a named axis is padded with `pad`
  to the width of the example's bucket. Rows that only fill a batch hold `pad`. A `target` is what
  a model predicts: it is `pad` where the run may not see the example's label.
  """
  axes: tuple[int | str, ...]
  dtype: str
  pad: float = 0
  target: bool = False


class Status(enum.IntEnum):
  """Exit statuses of every command."""
  DONE = 0
  PREEMPTED = 3           # stopped by a signal, everything saved
  CONFIG = 10
  DATA = 11
  NONFINITE = 12
  CHECKPOINT = 13         # a checkpoint or an exported model can't be used
  DISK = 14               # a disk, a file or the memory refuses
  MISFIT = 15             # parts that are right by themselves don't fit
  LOCKED = 16             # another run holds the workdir
  TIER = 17               # everything is done and reported, but a student misses its tier


LONGEST = 2000          # letters of the line of a Stop, which may quote a stranger's file


class Stop(Exception):
  """The end of a command: an exit status and a line that says what is wrong, where, what to do.

  The line may quote a file: ends of lines, other control characters and lone surrogates are written
  as escapes.
  """

  def __init__(self, status: Status, line: str):
    line = ' '.join(str(line).splitlines())
    line = UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], line)
    super().__init__(line if len(line) <= LONGEST else f'{line[:LONGEST - 1]}…')
    self.status = status
