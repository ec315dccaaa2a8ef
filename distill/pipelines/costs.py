"""What models cost, as the report holds it."""
from collections.abc import Sequence
from typing import Any

import jax

from distill import formats, hub, modalities
from distill.measure import cost, energy, timing_worker
from distill.pipelines.judging import Judging, Model
from distill.runs import Run

UNMEASURED = ('latency_ms', 'throughput_per_s', 'throughput_batch', 'flops', 'peak_memory_bytes',
              'process_bytes', 'energy_j_per_example')


def measured(models: Sequence[Model], told: Judging, run: Run) -> dict[str, dict[str, Any]]:
  """Sizes, and unless `evaluate.cost` is off what calls at the longest width take.

  All is of calls on one device: of children a core, otherwise JAX's. Only its own meter counts
  their joules, and `evaluate.watts` are those of a CPU.
  """
  evaluate, outputs = told.evaluate, told.task.outputs
  sizes = {m.name: _sizes(m) for m in models}
  hidden = {name: of.pop('hidden_bytes') for name, of in sizes.items()}
  if not evaluate.cost:
    return {name: {**of, **dict.fromkeys(UNMEASURED)} for name, of in sizes.items()}
  run.log.say(f'timing {", ".join(sizes)}' + ', in turns on one core' * evaluate.alone)
  platform = 'cpu' if evaluate.alone else jax.default_backend()
  how = {'meter': energy.find_meter(platform),
         'watts': evaluate.watts if platform == 'cpu' else 0.0}
  if evaluate.alone:
    jobs = {m.name: {**m.place, 'inputs': modalities.card(m.modality)} for m in models}
    cache = jax.config.jax_compilation_cache_dir
    with timing_worker.start_workers(jobs, outputs, cache) as workers:
      found = cost.measure_costs(workers, **how)
  else:
    here = {m.name: cost.LocalTimer(m.pure, m.weights, m.modality, outputs) for m in models}
    found = cost.measure_costs(here, seconds=0.01 if platform == 'cpu' else 0.2, **how)
  for name, of in found.items():
    if of['peak_memory_bytes'] is not None:
      of['peak_memory_bytes'] += hidden[name]       # XLA's plan has arguments, not constants
  return {name: {**of, **found[name]} for name, of in sizes.items()}


def _sizes(model: Model) -> dict[str, Any]:
  """Sizes of the weights, and of the files that they ship in, as the format knows them."""
  folder = hub.folder(model.place['place'], model.name)
  return formats.at(folder).sizes(folder, model.weights, model.card)
