"""What a run is about to do, said before it does it; and what would stop it, found first."""
import functools
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
from distill.pipelines.jobs import Announced, Setting, left
from distill.runs import Run
from distill.types import Batch, Status, Stop

EFFICIENCY = 0.4        # of a large matrix product's speed that a narrow encoder's step reaches


def same_corpus(dataset: Dataset, run: Run) -> None:
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


def announce(told: Setting, run: Run) -> Announced:
  """Checks every stage by tracing it and says what will happen; the stages, and their FLOPs.

  A stage that an equal one left in `run.shared` is taken from there: it is not among them.
  """
  shapes = {name: model.shapes for name, model in told.loaded.items()}
  shapes |= {t.stage.name: t.stage.student.model.shapes for t in told.trained}
  lines, found, states, dtypes = [], {}, 0, set()
  taken = [job.name for job in told.trained if left(job, run)]
  trees = {name: shapes[name][0] for name in (*told.loaded, *taken)}
  wide = max(10, *(len(stage.name) for t in told.trained for stage in t.stages))
  for trained, stage in ((t, stage) for t in told.trained if t.stage.name not in taken
                         for stage in t.stages):
    ready = train.prepared(stage, {t.name: t.shapes for t in stage.teachers})
    steps, done = ready.plan.steps, checkpoint.latest(train.folder(stage, run)) or 0
    size = len(ready.batch['valid'])
    width = functools.partial(_width, told.modality)
    some = range(0, steps, max(steps // 50, 1)) if told.modality.widths else [0]
    widths = [width(stage.data[i]) for i in some]
    a_step = ready.flops() * sum(widths) / len(widths) / width(ready.batch)     # nearly linear
    found[stage.name] = ready, a_step * steps
    states += sharding.nbytes(ready.like)
    dtypes |= {ready.plan.dtype, *(getattr(teacher, 'dtype', '') for teacher in stage.teachers)}
    lines.append((f'{stage.name:<{wide}} {steps:>6,} steps of {size}',
                  f'{sizes.params(stage.student.model.shapes[0]) / 1e6:5.2f} M parameters',
                  f'{trained.saw["labels"]:,} labels', a_step * (steps - done),
                  f'from step {done:,}' if done else ''))
    if trained.role != 'baseline':                    # which is laid out as the student is
      trees |= {stage.name: ready.like.params, f"{stage.name}'s optimizer": ready.like.opt_state}
  sharding.once(lambda: _check_disk(run, 3 * states))
  seconds = 1 / (EFFICIENCY * _speed())
  if told.layout.mesh.size > 1:
    run.log.say(f'plan  {told.layout.told(trees)}')
  for name in taken:
    run.log.say(f'plan  {name:<{wide}} is there: an equal stage of another run left it')
  for *about, ahead, resumed in lines:
    run.log.say('  '.join(filter(None, ('plan', *about, f'about {_spelled(ahead * seconds)}',
                                        resumed))))
  if precision.MIXED in dtypes and precision.lacks_instructions():
    run.log.say("plan  dtype='mixed' will be slower than 'float32': this CPU has no instructions "
                'for products of bfloat16')
  total = sum(line[3] for line in lines) * seconds
  run.log.say(f'plan  in all about {_spelled(total)}, {_memory(states) / 2**30:.1f} GiB of memory, '
              f'{3 * states / 2**20:.0f} MiB of disk; then the report: {run.workdir}/report.html')
  return found


def programs(announced: Announced, run: Run) -> list[Callable[[], Any]]:
  """The compilations of what is left to train, in order, for `launch.compiled_ahead`.

  None where several processes run: they must compile the same at the same time.
  """
  if jax.process_count() > 1:
    return []
  return [ready.traced.lower().compile for name, (ready, _) in announced.items()
          if checkpoint.latest(run.workdir / 'checkpoints' / name) != ready.plan.steps]


def _width(modality: Modality, batch: Batch) -> int:
  """Of a batch along the first named axis; 1 where examples have one size."""
  return next((batch[name].shape[1 + i] for name, field in modality.fields.items()
               for i, axis in enumerate(field.axes) if isinstance(axis, str)), 1)


def _check_disk(run: Run, needed: int) -> None:
  free = shutil.disk_usage(run.workdir).free
  if free < needed:
    raise Stop(Status.DISK, f'{run.workdir} has {free / 2**20:.0f} MiB free, its checkpoints need '
               f'{needed / 2**20:.0f}: make room, or take another --workdir')


def _memory(states: int) -> float:
  """Bytes: Python, JAX and the compiler; the states, their gradients, and activations."""
  return 1.2 * 2**30 + 6 * states


def _speed() -> float:
  """Floating-point operations a second of a 1,024-wide matrix product, the best of three."""
  x = jnp.ones((1024, 1024))
  product = jax.jit(jnp.matmul).lower(x, x).compile()
  times = []
  for _ in range(4):
    start = time.perf_counter()
    jax.block_until_ready(product(x, x))
    times.append(time.perf_counter() - start)
  return 2 * 1024**3 / min(times[1:])


def _spelled(seconds: float) -> str:
  return f'{seconds / 60:.1f} minutes' if seconds > 55 else f'{seconds:.0f} seconds'
