"""Forecast of a run before it starts: its stages, their time, memory and disk; and early checks."""
import json
import shutil
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from distill import checkpoint, sharding, train
from distill.data.sets import Dataset
from distill.disk import replace
from distill.modalities import Modality
from distill.models import precision, sizes
from distill.pipelines.jobs import PreparedStages, Setup, is_in_stage_cache
from distill.runs import Run
from distill.types import Batch, Status, Stop

EFFICIENCY = 0.4        # speed of a narrow encoder's step, as a share of a large matrix product's


def check_same_data(dataset: Dataset, run: Run) -> None:
  """Stops if the workdir was begun with other examples."""
  path = run.workdir / 'data.json'
  now = {'name': dataset.name, 'fingerprint': dataset.fingerprint,
         **dataset.modality.encoding(), 'versions': dict(dataset.versions)}
  if not path.exists():
    replace(path, json.dumps(now, indent=2, allow_nan=False))
    return
  before = json.loads(path.read_text())
  if any(before.get(key) != value for key, value in now.items() if key != 'versions'):
    changed = sorted(k for k in before['versions'].keys() | now['versions'].keys()
                     if before['versions'].get(k) != now['versions'].get(k))
    because = f' (changed: {", ".join(changed)})' if changed else ''
    raise Stop(Status.DATA, f'{run.workdir} was begun with other {dataset.modality.noun} than '
               f'{dataset.name} now has{because}: take another --workdir, or restore them')


def prepare_stages(setup: Setup, run: Run) -> PreparedStages:
  """Checks every stage by tracing it, and prints the forecast of the run.

  Returns the traced stages by name, each with its FLOPs in all. A stage that an equal run left in
  `run.shared` is taken from there, and is not among them.
  """
  shapes = {name: model.shapes for name, model in setup.loaded.items()}
  shapes |= {job.name: job.stage.student.model.shapes for job in setup.trained}
  lines, prepared, states, dtypes = [], {}, 0, set()
  taken = [job.name for job in setup.trained if is_in_stage_cache(job, run)]
  trees = {name: shapes[name][0] for name in (*setup.loaded, *taken)}
  wide = max(10, *(len(stage.name) for job in setup.trained for stage in job.stages))
  for job in setup.trained:
    for stage in job.stages if job.name not in taken else ():
      ready = train.prepared(stage, {t.name: t.shapes for t in stage.teachers})
      steps, done = ready.config.steps, checkpoint.latest_step(train.folder(stage, run)) or 0
      a_step = _step_flops(stage, ready, setup.modality)
      prepared[stage.name] = ready, a_step * steps
      states += sharding.nbytes(ready.like)
      dtypes |= {ready.config.dtype, *(getattr(t, 'dtype', '') for t in stage.teachers)}
      lines.append((f'{stage.name:<{wide}} {steps:>6,} steps of {len(ready.batch["valid"])}',
                    f'{sizes.params(stage.student.model.shapes[0]) / 1e6:5.2f} M parameters',
                    f'{job.seen["labels"]:,} labels', a_step * (steps - done),
                    f'from step {done:,}' if done else ''))
      if job.role != 'baseline':                      # its layout is the student's
        trees |= {stage.name: ready.like.params, f"{stage.name}'s optimizer": ready.like.opt_state}
  sharding.on_first_process(lambda: _check_disk(run, 3 * states))
  if setup.layout.mesh.size > 1:
    run.log.say(f'plan  {setup.layout.describe(trees)}')
  for name in taken:
    run.log.say(f'plan  {name:<{wide}} is there: an equal stage of another run left it')
  seconds = 1 / (EFFICIENCY * _speed())
  for *about, remaining, resumed in lines:
    parts = 'plan', *about, f'about {_format_seconds(remaining * seconds)}', resumed
    run.log.say('  '.join(filter(None, parts)))
  for dtype, reason in precision.slow_dtypes(dtypes).items():
    run.log.say(f"plan  dtype={dtype!r} will be slower than 'float32': {reason}")
  total = _format_seconds(sum(line[3] for line in lines) * seconds)
  run.log.say(f'plan  in all about {total}, {_memory(states) / 2**30:.1f} GiB of memory, '
              f'{3 * states / 2**20:.0f} MiB of disk; then the report: {run.workdir}/report.html')
  return prepared


def compilations(prepared: PreparedStages, run: Run) -> list[Callable[[], Any]]:
  """Returns the compilations of the stages left to train, in order, for `launch.compiled_ahead`.

  With several processes there are none: processes must compile the same at the same time.
  """
  if jax.process_count() > 1:
    return []
  return [ready.traced.lower().compile for name, (ready, _) in prepared.items()
          if checkpoint.latest_step(run.workdir / 'checkpoints' / name) != ready.config.steps]


def _step_flops(stage: train.Stage, ready: train.Prepared, modality: Modality) -> float:
  """Returns the mean FLOPs of a step, which are nearly linear in a batch's width."""
  steps = ready.config.steps
  some = range(0, steps, max(steps // 50, 1)) if modality.widths else [0]
  widths = [_width(modality, stage.data[i]) for i in some]
  return ready.flops() * sum(widths) / len(widths) / _width(modality, ready.batch)


def _width(modality: Modality, batch: Batch) -> int:
  """Returns a batch's size along the first named axis; 1 if examples have one size."""
  return next((batch[name].shape[1 + i] for name, field in modality.fields.items()
               for i, axis in enumerate(field.axes) if isinstance(axis, str)), 1)


def _check_disk(run: Run, needed: int) -> None:
  """Stops if the disk has fewer bytes free than the checkpoints need."""
  free = shutil.disk_usage(run.workdir).free
  if free < needed:
    raise Stop(Status.DISK, f'{run.workdir} has {free / 2**20:.0f} MiB free, its checkpoints need '
               f'{needed / 2**20:.0f}: make room, or take another --workdir')


def _memory(states: int) -> float:
  """Estimates bytes: Python, JAX and the compiler; the states, their gradients, activations."""
  return 1.2 * 2**30 + 6 * states


def _speed() -> float:
  """Measures the FLOPs per second of a 1,024-wide matrix product, the best of three."""
  x = jnp.ones((1024, 1024))
  product = jax.jit(jnp.matmul).lower(x, x).compile()
  times = []
  for _ in range(4):
    start = time.perf_counter()
    jax.block_until_ready(product(x, x))
    times.append(time.perf_counter() - start)
  return 2 * 1024**3 / min(times[1:])


def _format_seconds(seconds: float) -> str:
  return f'{seconds / 60:.1f} minutes' if seconds > 55 else f'{seconds:.0f} seconds'
