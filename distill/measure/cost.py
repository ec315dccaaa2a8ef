"""Cost of a model: operations, memory, latency, throughput and energy of a call.

Models take turns, round by round, so a slow moment of the machine falls on all of them alike, and
the ratios of their times hold. A `LocalTimer` runs in this process, on all its cores; a
`timing_worker.Worker` is a process of its own, on one core that all workers share.
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
BATCHES = 1, 8, 32          # latency is that of the first, throughput that of the fastest
CALLS = 300                 # at most, in a turn


class Timer(Protocol):
  """A model that can be called and timed, on full batches of any size."""

  def compile_stats(self, batch: int) -> Mapping[str, Any]:
    """Compiles and calls the program for a batch size.

    Returns its `flops`, `peak_memory_bytes` and `threads`, and `process_bytes`: the most memory
    that its process has held so far.
    """

  def time_calls(self, batch: int, seconds: float) -> Sequence[float]:
    """Returns the seconds of each call of one turn, after a first call that isn't counted."""


class LocalTimer:
  """A `Timer` in this process: calls of a model, on full batches of its modality.

  A call computes `outputs` and nothing else.
  """

  def __init__(self, pure: Callable, weights: Weights, modality: Modality,
               outputs: Sequence[str]):
    self._step = step.make_eval_step(pure, step.select_outputs(tuple(outputs)))
    self._weights, self._modality = weights, modality
    self._calls: dict[int, tuple[jax.stages.Compiled, tuple]] = {}

  def compile_stats(self, batch: int) -> dict[str, Any]:
    compiled, _ = self._compiled(batch)
    return {'flops': flops(compiled), 'peak_memory_bytes': peak_memory(compiled),
            'process_bytes': None, 'threads': _cores()}

  def time_calls(self, batch: int, seconds: float) -> list[float]:
    call, arguments = self._compiled(batch)
    jax.block_until_ready(call(*arguments))       # the caches are full of another model's weights
    times, end = [], time.perf_counter() + seconds
    while not times or (len(times) < CALLS and time.perf_counter() < end):
      start = time.perf_counter()
      jax.block_until_ready(call(*arguments))
      times.append(time.perf_counter() - start)
    return times

  def _compiled(self, batch: int) -> tuple[jax.stages.Compiled, tuple]:
    """Returns the compiled program of a batch size and its arguments."""
    if batch not in self._calls:
      arguments = jax.device_put((*self._weights, examples.placeholders(self._modality, batch)))
      self._calls[batch] = self._step.lower(*arguments).compile(), arguments
    return self._calls[batch]


def flops(compiled: jax.stages.Compiled) -> int | None:
  """Returns XLA's count of floating-point operations of one call; None where XLA has no count."""
  counted = (compiled.cost_analysis() or {}).get('flops')
  return None if counted is None else int(counted)


def peak_memory(compiled: jax.stages.Compiled) -> int | None:
  """Returns XLA's plan for the memory of one call, in bytes.

  It counts arguments (parameters too), results and temporary arrays. On a CPU it leaves out what
  XLA's library allocates inside its fusions (`__ynn_fusion` of JAX 0.10): little of an encoder,
  but most of a ResNet's feature maps. `process_bytes` counts all of it.
  """
  plan = compiled.memory_analysis()
  return None if plan is None else (plan.argument_size_in_bytes + plan.output_size_in_bytes
                                    + plan.temp_size_in_bytes - plan.alias_size_in_bytes)


def measure_costs(timers: Mapping[str, Timer], *, seconds: float = 0.2, watts: float = 0.0,
                  meter: energy.Meter | None = None) -> dict[str, dict[str, Any]]:
  """Measures the calls of every model: a turn of `seconds` at every batch size, in ROUNDS rounds.

  The turns of one size lie seconds apart, so one slow moment of the machine hardly moves a median.
  Energy is that of the calls at batch 1: counted by `meter`, which counts the untimed first calls
  too; without a meter, estimated from `watts` of every busy core.

  Returns, by a model's name, the report's fields of its cost.
  """
  stats = {name: [timer.compile_stats(batch) for batch in BATCHES]
           for name, timer in timers.items()}
  times = {name: {batch: [] for batch in BATCHES} for name in timers}
  joules = dict.fromkeys(timers, 0.0)
  for _ in range(ROUNDS):
    for batch in BATCHES:
      for name, timer in timers.items():
        before = meter.joules() if meter else 0.0
        times[name][batch] += timer.time_calls(batch, seconds)
        if meter and batch == BATCHES[0]:
          joules[name] += meter.joules() - before

  def summarize(name: str) -> dict[str, Any]:
    fields, first = {**stats[name][0]}, BATCHES[0]
    threads, latencies = fields.pop('threads'), times[name][first]
    p50, p95 = (float(p) for p in np.percentile(latencies, (50, 95)))
    rate, best = max((batch / float(np.median(calls)), batch)
                     for batch, calls in times[name].items())
    if meter:
      joules_per_example = meter.per_example(joules[name], first * (len(latencies) + ROUNDS))
    else:
      joules_per_example = energy.estimate(watts, threads, p50 / first)
    return {
        **fields, 'process_bytes': stats[name][-1]['process_bytes'],      # after all sizes
        'throughput_per_s': rate, 'throughput_batch': best,
        'latency_ms': {'p50': 1e3 * p50, 'p95': 1e3 * p95, 'batch': first, 'threads': threads},
        'energy_j_per_example': joules_per_example}
  return {name: summarize(name) for name in timers}


def _cores() -> int:
  """Returns the number of cores that this process may use."""
  return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
