"""What models cost, as the report holds it."""
from collections.abc import Sequence
from typing import Any

import jax

from distill import hub
from distill.evaluate import alone, cost, energy
from distill.pipelines.judging import Judging, Model
from distill.train import Run

UNMEASURED = ('latency_ms', 'throughput_per_s', 'throughput_batch', 'flops', 'peak_memory_bytes',
              'process_bytes', 'energy_j_per_example')


def measured(models: Sequence[Model], told: Judging, run: Run) -> dict[str, dict[str, Any]]:
  """Sizes, and unless `evaluate.cost` is off what calls at the longest width take.

  All is of calls on one device: of children a core, otherwise JAX's. Only its own meter counts
  their joules, and `evaluate.watts` are those of a CPU.
  """
  evaluate, reads = told.evaluate, told.task.reads
  sizes = {m.name: _sizes(m) for m in models}
  if not evaluate.cost:
    return {name: {**of, **dict.fromkeys(UNMEASURED)} for name, of in sizes.items()}
  run.log.say(f'timing {", ".join(sizes)}' + ', in turns on one core' * evaluate.alone)
  inputs = {m.name: m.dataset.inputs(m.widths) for m in models}
  platform = 'cpu' if evaluate.alone else jax.default_backend()
  how = {'meter': energy.meter(platform), 'watts': evaluate.watts if platform == 'cpu' else 0.0}
  if evaluate.alone:
    jobs = {m.name: {**m.place, 'inputs': inputs[m.name]} for m in models}
    with alone.children(jobs, reads, jax.config.jax_compilation_cache_dir) as children:
      found = cost.measured(children, **how)
  else:
    here = {m.name: cost.Subject(m.pure, m.weights, inputs[m.name], reads) for m in models}
    found = cost.measured(here, seconds=0.01 if platform == 'cpu' else 0.2, **how)
  for model in models:
    if model.program and found[model.name]['peak_memory_bytes'] is not None:
      # XLA's plan has arguments, not constants, and a program's weights are inside.
      found[model.name]['peak_memory_bytes'] += model.program['bytes']
  return {name: {**of, **found[name]} for name, of in sizes.items()}


def _sizes(model: Model) -> dict[str, Any]:
  """Of the weights; a program's are inside, and its card speaks of them."""
  params = model.weights[0]
  own = {name: model.program[name] for name in (
      'params', 'params_outside_embeddings', 'bytes', 'quantised')} if model.program else {
          'params': cost.params(params),
          'params_outside_embeddings': cost.params(params, embeddings=False),
          'bytes': cost.nbytes(model.weights), 'quantised': cost.quantised(params)}
  return {**own, 'shipped_bytes': cost.shipped(hub.folder(model.place['place'], model.name))}
