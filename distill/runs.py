"""A run: where it lives, and how it is stopped."""
import contextlib
import pathlib

import jax

from distill import sharding
from distill.logs import Log
from distill.types import Status, Stop


class Run:
  """Where a run lives and how it is stopped.

  A signal calls `preempt`. Outside `deferring` that raises at once, for there everything on
  disk is whole at any instant; inside, the loop finishes its step and saves first. Where several
  processes run it they stop together, where they next ask each other.
  """

  def __init__(self, name: str, workdir: pathlib.Path, log: Log, *, seed: int = 0,
               shared: pathlib.Path | None = None):
    self.name, self.workdir, self.log, self.seed = name, workdir, log, seed
    self.shared = shared        # where runs leave finished stages for each other
    self.preempted, self._deferring = False, False
    self._alone = jax.process_count() == 1

  def preempt(self) -> None:
    self.preempted = True
    if self._alone and not self._deferring:
      self.stop_if_preempted()

  def stop_if_preempted(self) -> None:
    if sharding.agreed(self.preempted):
      raise Stop(Status.PREEMPTED, f'stopped, everything saved: the same command goes on in '
                 f'{self.workdir}')

  @contextlib.contextmanager
  def deferring(self):
    self._deferring = True
    try:
      yield
    finally:
      self._deferring = False
    self.stop_if_preempted()
