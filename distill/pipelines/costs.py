"""Costs of models, as fields of the report."""
from collections.abc import Sequence
from typing import Any

import jax

from distill import formats, hub, modalities
from distill.measure import cost, energy, timing_worker
from distill.pipelines.judge import Judge, Model
from distill.runs import Run

UNMEASURED = ('latency_ms', 'throughput_per_s', 'throughput_batch', 'flops', 'peak_memory_bytes',
              'process_bytes', 'energy_j_per_example')


def measure(models: Sequence[Model], judge: Judge, run: Run) -> dict[str, dict[str, Any]]:
  """Measures sizes and, if `evaluate.cost` is set, calls at the longest width.

  All calls run on one device: workers on a CPU core, otherwise on JAX's default device. Energy is
  that of the same device: only its meter counts, and `evaluate.watts` is the power of a CPU core.
  """
  evaluate, outputs = judge.evaluate, judge.task.outputs
  sizes = {m.name: _sizes(m) for m in models}
  hidden = {name: fields.pop('hidden_bytes') for name, fields in sizes.items()}
  if not evaluate.cost:
    return {name: {**fields, **dict.fromkeys(UNMEASURED)} for name, fields in sizes.items()}
  turns = ', in turns on one core' if evaluate.alone else ''
  run.log.say(f'timing {", ".join(sizes)}{turns}')
  platform = 'cpu' if evaluate.alone else jax.default_backend()
  options = {'meter': energy.find_meter(platform),
             'watts': evaluate.watts if platform == 'cpu' else 0.0}
  if evaluate.alone:
    jobs = {m.name: {**m.place, 'inputs': modalities.card(m.modality)} for m in models}
    cache = jax.config.jax_compilation_cache_dir
    with timing_worker.start_workers(jobs, outputs, cache) as workers:
      found = cost.measure_costs(workers, **options)
  else:
    timers = {m.name: cost.LocalTimer(m.pure, m.weights, m.modality, outputs) for m in models}
    found = cost.measure_costs(timers, seconds=0.01 if platform == 'cpu' else 0.2, **options)
  for name, fields in found.items():
    if fields['peak_memory_bytes'] is not None:
      fields['peak_memory_bytes'] += hidden[name]   # XLA's plan has arguments, not constants
  return {name: {**fields, **found[name]} for name, fields in sizes.items()}


def _sizes(model: Model) -> dict[str, Any]:
  """Returns the sizes of the weights and of their files, as the format knows them."""
  folder = hub.folder(model.place['place'], model.name)
  return formats.format_of(folder).sizes(folder, model.weights, model.card)
