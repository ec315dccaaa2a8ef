"""The student: its model, its projectors, and which of their parameters are trained.

Parameters are one flat dict, `model/…` and `projectors/P/…`; an export keeps the model alone.
"""
import dataclasses
import fnmatch
import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from distill import lookup
from distill.modalities import probes
from distill.models.pure import Flat, Pure
from distill.objective import Views, at, paths
from distill.types import Batch, Outputs, Status, Stop


@dataclasses.dataclass(frozen=True)
class Projector:
  """A module between views, trained with the student.

  It takes the arrays that it reads, `valid` and `train`; an array is the view `projected/NAME`, the
  entries of a dict are `projected/NAME/PART`.
  """
  model: Pure
  reads: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Student:
  """A model, its projectors, and the path patterns of the parameters that stay as they are.

  `where` is its node in the config, for error lines: a teacher that is trained is one too.
  By the probe it reads the perturbation of a batch that has one (`modalities/probes.py`).
  """
  model: Pure
  projectors: Mapping[str, Projector] = dataclasses.field(default_factory=dict)
  frozen: tuple[str, ...] = ()
  where: str = 'student'
  probe: probes.Probe | None = None

  def init(self, seed: int) -> tuple[Flat, Flat]:
    """Parameters and rest. Each projector has a seed of its own: adding one changes no other."""
    params, rest = {}, {}
    for prefix, module, own in self._modules(seed):
      for whole, part in zip((params, rest), module.init(own), strict=True):
        whole |= {prefix + path: value for path, value in part.items()}
    return params, rest

  def shapes(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """The shapes of what `init` gives."""
    params, rest = {}, {}
    for prefix, module, _ in self._modules(0):
      for whole, part in zip((params, rest), module.shapes, strict=True):
        whole |= {prefix + path: value for path, value in part.items()}
    return params, rest

  def _modules(self, seed: int):
    yield 'model/', self.model, seed
    for name, projector in self.projectors.items():
      own = (int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) + seed) % 2**31
      yield f'projectors/{name}/', projector.model, own

  def outputs(self, params: Flat, rest: Flat, batch: Batch, *, train: bool,
              key: jax.Array | None) -> tuple[Outputs, Flat]:
    """Returns the outputs of the model, and its rest after the call."""
    return probes.answer(self.model, self.probe, under(params, 'model/'), under(rest, 'model/'),
                         batch, train=train, key=key)

  def __call__(self, params: Flat, rest: Flat, batch: Batch, others: Views, *, train: bool,
               key: jax.Array | None) -> tuple[dict[str, Outputs], Flat]:
    """The views `student`, `self` and `projected`, and the rest after the call."""
    outputs, kept = self.outputs(params, rest, batch, train=train, key=key)
    rest = rest | {f'model/{path}': value for path, value in kept.items()}
    views = {**others, 'student': outputs, 'self': jax.lax.stop_gradient(outputs)}
    projected = {}
    for name, projector in self.projectors.items():
      prefix = f'projectors/{name}/'
      where = f'{self.where}.projectors.{name}'
      read = [at(views, path, f'{where}.reads') for path in projector.reads]
      try:
        result, kept = projector.model(under(params, prefix), under(rest, prefix), *read,
                                       valid=batch['valid'], train=train)
      except (ValueError, TypeError) as error:      # shapes, found while tracing
        shapes = ', '.join(f'{path} {list(x.shape)}'
                           for path, x in zip(projector.reads, read, strict=True))
        raise Stop(Status.MISFIT, f'{where} ({shapes}): {str(error).splitlines()[0]}') from error
      projected |= ({f'{name}/{part}': value for part, value in result.items()}
                    if isinstance(result, Mapping) else {name: result})
      rest = rest | {prefix + path: value for path, value in kept.items()}
    return {'student': outputs, 'self': views['self'], 'projected': projected}, rest

  def trained(self, params: Flat) -> tuple[Flat, Flat]:
    """The parameters that are trained, and the frozen ones."""
    still = {path for path in params for pattern in self.frozen
             if fnmatch.fnmatchcase(path.removeprefix('model/'), pattern)}
    return ({p: v for p, v in params.items() if p not in still},
            {p: v for p, v in params.items() if p in still})


def under(flat: Flat, prefix: str) -> Flat:
  """The entries below a prefix, without it."""
  return {path.removeprefix(prefix): value for path, value in flat.items()
          if path.startswith(prefix)}


def with_projectors(model: Pure, node: Mapping[str, Any], frozen: Sequence[str],
                    shapes: Mapping[str, Mapping[str, Any]], where: str = 'student') -> Student:
  """A student whose projectors fit the views that they read (`shapes`, by view and path)."""
  projectors = {name: _projector(spec, shapes, f'{where}.projectors.{name}')
                for name, spec in node.items()}
  student = Student(model, projectors, tuple(frozen), where)
  if frozen and not student.trained(student.shapes()[0])[0]:
    raise Stop(Status.CONFIG, f'{where}.frozen={list(frozen)} leaves nothing to train')
  for pattern in frozen:
    if not Student(model, projectors, (pattern,)).trained(student.shapes()[0])[1]:
      raise Stop(Status.CONFIG, f'{where}.frozen: {pattern!r} matches no parameter; they are named '
                 + ', '.join(sorted(model.shapes[0])[:4]) + ', …')
  return student


def _projector(spec: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Any]],
               where: str) -> Projector:
  lookup.check(_spec, spec, where)
  read = paths(spec['reads'])
  widths = tuple((at(shapes, path, f'{where}.reads').shape or (1,))[-1] for path in read)
  inputs = widths[0] if isinstance(spec['reads'], str) else widths
  function = lookup.find('models', spec['module'].get('name', ''), f'{where}.module.name')
  taken = lookup.parameters(function).get('inputs')
  if taken and taken.annotation is int and not isinstance(inputs, int):
    raise Stop(Status.CONFIG, f'{where}.reads={spec["reads"]!r}: '
               f'{spec["module"]["name"]} reads one view alone')
  return Projector(Pure(lambda rngs: lookup.build(
      'models', spec['module'], f'{where}.module', inputs=inputs, rngs=rngs)), read)


def _spec(*, module: Mapping, reads: str | Sequence[str]):
  """The types of a projector's fields, for `lookup.check`."""


def started_from(params: Flat, source: Flat, layers: Sequence[int], where: str,
                 cut: Collection[str] = ()) -> Flat:
  """Parameters of a model that starts from a deeper one of the same width.

  Block i takes block `layers[i]` of the source; everything else is taken by its own path
  (DistilBERT 2019, §3: every second layer; PKD's `skip`). `params` gives the paths and shapes. Of
  the parameters `cut` the first rows are taken: a shorter model has the first positions alone, and
  a vocabulary may be padded at its end.
  """
  blocks = {int(path.split('/')[1]) for path in params if path.startswith('blocks/')}
  if layers and len(layers) != len(blocks):
    raise Stop(Status.MISFIT, f'{where}.layers={list(layers)} names {len(layers)} blocks, but the '
               f'student has {len(blocks)}')
  started = {}
  for path, value in params.items():
    parts = path.split('/')
    if layers and parts[0] == 'blocks':
      parts[1] = str(layers[int(parts[1])])
    there = '/'.join(parts)
    if there not in source:
      raise Stop(Status.MISFIT, f'{where}: the source has no {there} to start {path} from')
    found = source[there]
    if path in cut:
      found = found[:value.shape[0]]
    if found.shape != value.shape:
      raise Stop(Status.MISFIT, f'{where}: {there} is {list(found.shape)} in the source, '
                 f'{path} {list(value.shape)} in the student')
    started[path] = found.astype(value.dtype)
  return started
