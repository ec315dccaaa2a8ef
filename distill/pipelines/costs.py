"""What the models of a run cost, as the report holds it."""
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax

from distill import hub
from distill.evaluate import alone, cost, energy
from distill.models.pure import Pure
from distill.pipelines.setting import Setting
from distill.teachers import Weights
from distill.train import Run

FREE = 'dropout', 'words'           # fields of a loaded model that a config may change
UNMEASURED = ('latency_ms', 'throughput_per_s', 'throughput_batch', 'flops', 'peak_memory_bytes',
              'process_bytes', 'energy_j_per_example')


class Model(Protocol):
  """What is needed of one."""
  name: str
  pure: Pure
  weights: Weights


def places(models: Sequence[Model], inits: Mapping[str, Mapping[str, Any]],
           run: Run) -> dict[str, dict[str, Any]]:
  """Where each model is loaded from: its export, or `init` in the node of a loaded teacher."""
  export = lambda name: {'place': str(run.workdir / 'export' / name)}
  loaded = {name: {'place': node['init'], 'model': {
      key: value for key, value in node.get('model', {}).items() if key in FREE}}
            for name, node in inits.items()}
  return {m.name: loaded.get(m.name) or export(m.name) for m in models}


def measured(models: Sequence[Model], told: Setting, where: Mapping[str, Mapping[str, Any]]
             ) -> dict[str, dict[str, Any]]:
  """Sizes, and unless `evaluate.cost` is off what calls at the longest width take."""
  evaluate, reads = told.evaluate, told.task.reads
  sizes = {m.name: {
      'params': cost.params(m.weights[0]),
      'params_outside_embeddings': cost.params(m.weights[0], embeddings=False),
      'bytes': cost.nbytes(m.weights), 'quantised': cost.quantised(m.weights[0]),
      'shipped_bytes': cost.shipped(hub.folder(where[m.name]['place'], m.name))} for m in models}
  if not evaluate.cost:
    return {name: {**of, **dict.fromkeys(UNMEASURED)} for name, of in sizes.items()}
  here = {m.name: cost.Subject(m.pure, m.weights, told.dataset.inputs(told.widths), reads)
          for m in models}
  how = {'meter': energy.meter('cpu'), 'watts': evaluate.watts}
  if evaluate.alone:
    with alone.children(where, reads, jax.config.jax_compilation_cache_dir) as children:
      found = cost.measured(children, **how)
  else:
    found = cost.measured(here, seconds=0.01, **how)
  platform = jax.default_backend()
  if platform != 'cpu' and (meter := energy.meter(platform)):
    for name, of in cost.measured(here, meter=meter).items():
      found[name]['energy_j_per_example'] = of['energy_j_per_example']
  return {name: {**of, **found[name]} for name, of in sizes.items()}
