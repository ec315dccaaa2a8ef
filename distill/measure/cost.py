"""What a model costs: parameters, bytes, operations, memory, time, energy.

Several models take turns, round by round, so that what else the machine does falls on all of them
alike and their ratios hold. A `Subject` is timed in this process and with all its cores; one of
`evaluate.alone` has a process of its own, on one core that all of them share.
"""
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from distill import step
from distill.measure import energy
from distill.modalities import Modality, examples
from distill.teachers import Weights

ROUNDS = 5
BATCHES = 1, 8, 32          # the first is timed for latency, the fastest an example for throughput
CALLS = 300                 # at most in a turn


class Timed(Protocol):
  """A model that can be called and timed, on full batches of any size."""

  def plan(self, batch: int) -> Mapping[str, Any]:
    """Of the program, compiled and called: `flops`, `peak_memory_bytes`; and `threads` and, the
    most that its process has held so far, `process_bytes`.
    """

  def turn(self, batch: int, seconds: float) -> Sequence[float]:
    """Seconds of each of some calls, after one that isn't counted."""


class Subject:
  """A model timed where it is, on full batches of its modality, until it gives `outputs`."""

  def __init__(self, pure: Callable, weights: Weights, modality: Modality,
               outputs: Sequence[str]):
    self._step = step.make_eval_step(pure, step.select_outputs(tuple(outputs)))
    self._weights, self._modality = weights, modality
    self._calls: dict[int, tuple[jax.stages.Compiled, tuple]] = {}

  def plan(self, batch: int) -> dict[str, Any]:
    compiled, _ = self._compiled(batch)
    return {'flops': flops(compiled), 'peak_memory_bytes': peak_memory(compiled),
            'process_bytes': None, 'threads': _cores()}

  def turn(self, batch: int, seconds: float) -> list[float]:
    call, arguments = self._compiled(batch)
    jax.block_until_ready(call(*arguments))       # the caches are full of another's weights
    times, end = [], time.perf_counter() + seconds
    while not times or (len(times) < CALLS and time.perf_counter() < end):
      start = time.perf_counter()
      jax.block_until_ready(call(*arguments))
      times.append(time.perf_counter() - start)
    return times

  def _compiled(self, batch: int) -> tuple[jax.stages.Compiled, tuple]:
    if batch not in self._calls:
      arguments = jax.device_put((*self._weights, examples.placeholders(self._modality, batch)))
      self._calls[batch] = self._step.lower(*arguments).compile(), arguments
    return self._calls[batch]


def flops(compiled: jax.stages.Compiled) -> int | None:
  """Floating-point operations of one call by XLA's count, or None where it doesn't count."""
  counted = (compiled.cost_analysis() or {}).get('flops')
  return None if counted is None else int(counted)


def peak_memory(compiled: jax.stages.Compiled) -> int | None:
  """Bytes of one call by XLA's plan: arguments (parameters too), results, and what is between.

  On a CPU it leaves out what XLA's library takes inside its fusions (`__ynn_fusion` of JAX 0.10):
  an encoder has few, but of a ResNet's maps most are missed. `process_bytes` has all.
  """
  plan = compiled.memory_analysis()
  return None if plan is None else (plan.argument_size_in_bytes + plan.output_size_in_bytes
                                    + plan.temp_size_in_bytes - plan.alias_size_in_bytes)


def measured(subjects: Mapping[str, Timed], *, seconds: float = 0.2, watts: float = 0.0,
             meter: energy.Meter | None = None) -> dict[str, dict[str, Any]]:
  """What calls take, by model: in each of ROUNDS rounds a turn of `seconds` at every size.

  So the turns of a size lie seconds apart, and what the machine does for one of these hardly moves
  a median. Energy is that of the calls at batch 1, by `meter`, which sees those that aren't counted
  too, or else by `watts` of every busy core.
  """
  planned = {name: [subject.plan(batch) for batch in BATCHES] for name, subject in subjects.items()}
  times = {name: {batch: [] for batch in BATCHES} for name in subjects}
  joules = dict.fromkeys(subjects, 0.0)
  for _ in range(ROUNDS):
    for batch in BATCHES:
      for name, subject in subjects.items():
        before = meter.joules() if meter else 0.0
        times[name][batch] += subject.turn(batch, seconds)
        if meter and batch == BATCHES[0]:
          joules[name] += meter.joules() - before

  def found(name: str) -> dict[str, Any]:
    plan, first = {**planned[name][0]}, BATCHES[0]
    threads, ones = plan.pop('threads'), times[name][first]
    p50, p95 = (float(p) for p in np.percentile(ones, (50, 95)))
    rate, best = max((batch / float(np.median(of)), batch) for batch, of in times[name].items())
    return {
        **plan, 'process_bytes': planned[name][-1]['process_bytes'],      # when all had been called
        'throughput_per_s': rate, 'throughput_batch': best,
        'latency_ms': {'p50': 1e3 * p50, 'p95': 1e3 * p95, 'batch': first, 'threads': threads},
        'energy_j_per_example': (
            meter.told(joules[name], first * (len(ones) + ROUNDS)) if meter
            else energy.estimated(watts, threads, p50 / first))}
  return {name: found(name) for name in subjects}


def _cores() -> int:
  """That this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
