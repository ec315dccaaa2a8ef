"""What a model costs: parameters, bytes, operations, memory, and time.

Times of several models are taken in turns, round by round, so that what else the machine does
falls on all of them alike and their ratios hold.
"""
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Calls = Mapping[str, Callable[[], Any]]     # a model's name -> its compiled call, arguments bound
ROUNDS, CALLS = 5, 300


def params(tree: Any, *, embeddings: bool = True) -> int:
  """The number of parameters, on request without embedding tables (leaves named `embedding`)."""
  named = jax.tree_util.tree_leaves_with_path(tree)
  return sum(leaf.size for path, leaf in named
             if embeddings or _spelled(path).rpartition('/')[2] != 'embedding')


def nbytes(tree: Any) -> int:
  """The bytes of all parameters as they are held."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def flops(compiled: jax.stages.Compiled) -> int | None:
  """Floating-point operations of one call by XLA's count, or None where it doesn't count."""
  counted = (compiled.cost_analysis() or {}).get('flops')
  return None if counted is None else int(counted)


def peak_memory(compiled: jax.stages.Compiled) -> int | None:
  """Bytes of one call by XLA's plan: arguments (parameters too), results, and what is between."""
  plan = compiled.memory_analysis()
  return None if plan is None else (plan.argument_size_in_bytes + plan.output_size_in_bytes
                                    + plan.temp_size_in_bytes - plan.alias_size_in_bytes)


def latency(calls: Calls, *, batch: int = 1, seconds: float = 3.0) -> dict[str, dict[str, Any]]:
  """Milliseconds of a call on `batch` examples, the median and the 95th percentile.

  All models together take `seconds` at most, if five rounds are done by then.
  """
  threads = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
  found = {}
  for name, times in _times(calls, seconds).items():
    p50, p95 = np.percentile(times, (50, 95)) * 1e3
    found[name] = {'p50': float(p50), 'p95': float(p95), 'batch': batch, 'threads': threads}
  return found


def throughput(calls: Calls, *, batch: int, seconds: float = 3.0) -> dict[str, float]:
  """Examples a second of calls on `batch` examples, by the median; timed as `latency` times."""
  return {name: float(batch / np.median(times)) for name, times in _times(calls, seconds).items()}


def _times(calls: Calls, seconds: float) -> dict[str, list[float]]:
  """Seconds of every call: at least ROUNDS rounds, then until CALLS calls or `seconds`.

  In its turn a fast model is called several times, and the first isn't counted: it finds the
  caches full of another model's weights.
  """
  def timed(call):
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start

  repeats = {}
  for name, call in calls.items():
    timed(call)
    repeats[name] = min(20, max(1, int(0.01 / timed(call))))
  times = {name: [] for name in calls}
  end, rounds = time.perf_counter() + seconds, 0
  while rounds < ROUNDS or (
      time.perf_counter() < end and min(map(len, times.values())) < CALLS):
    for name, call in calls.items():
      turn = [timed(call) for _ in range(repeats[name])]
      times[name] += turn[1:] or turn
    rounds += 1
  return times


def _spelled(path) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')
