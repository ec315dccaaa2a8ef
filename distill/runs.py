"""A run: its workdir, its log, and how it is stopped."""
import contextlib
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from distill import sharding
from distill.logs import Log
from distill.types import Status, Stop


class Run:
  """A run: its workdir, its log, and how it is stopped; without a workdir it keeps nothing.

  A signal calls `preempt`. Outside `deferring` that raises at once: everything on disk is whole at
  any instant. Within `deferring` the training loop finishes its step and saves first. Several
  processes stop together, the next time that they ask each other.
  """

  def __init__(self, name: str, workdir: pathlib.Path | None, log: Log, *, seed: int = 0,
               shared: pathlib.Path | None = None):
    self.name, self.workdir, self.log, self.seed = name, workdir, log, seed
    self.shared = shared        # where runs leave finished stages for each other
    self.preempted, self._deferring = False, False
    self._single_process = jax.process_count() == 1

  def preempt(self) -> None:
    self.preempted = True
    if self._single_process and not self._deferring:
      self.stop_if_preempted()

  def stop_if_preempted(self) -> None:
    if sharding.any_process(self.preempted):
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

  def tell_shares(self, stage: str, norms: Mapping[str, Any]) -> None:
    """Prints and logs each term's share of the sum of the terms' gradient norms before step 0."""
    shares = {name: float(norm) / (sum(norms.values()) or 1.0) for name, norm in norms.items()}
    ordered = sorted(shares, key=shares.get, reverse=True)
    line = ', '.join(f'{name} {100 * shares[name]:.0f} %' for name in ordered)
    if still := [name for name in ordered if not norms[name]]:
      line += f'; nothing from {", ".join(still)}'
    self.log.say(f'{stage}: gradient at step 0: {line}')
    self.log.row(stage, self.seed, 0, {f'share/{name}': share for name, share in shares.items()})
