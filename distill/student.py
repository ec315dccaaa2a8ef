"""The student: its model, its projectors, and which of their parameters are trained.

Parameters are one flat dict, `model/…` and `projectors/P/…`; an export keeps the model alone.
"""
import dataclasses
import fnmatch
import hashlib
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from distill import lookup
from distill.modalities import probes
from distill.models.functional import Flat, Functional
from distill.objective import Views, find_array, path_tuple
from distill.types import Batch, Outputs, Status, Stop

BRACES = re.compile(r'\{([^{}]*)\}')    # a list in a path, such as {0,1}


@dataclasses.dataclass(frozen=True)
class Projector:
  """A module between views, trained with the student.

  It takes the arrays that it reads, `valid` and `train`. If it returns an array, that is the view
  `projected/NAME`; the entries of a dict are `projected/NAME/PART`.
  """
  model: Functional
  reads: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Student:
  """A model, its projectors, and the path patterns of the parameters that stay as they are.

  A teacher that is trained is a Student too. `where` is its node in the config, for error lines.
  With `probe` it adds the perturbation of a batch that has one to its inputs
  (`modalities/probes.py`).
  """
  model: Functional
  projectors: Mapping[str, Projector] = dataclasses.field(default_factory=dict)
  frozen: tuple[str, ...] = ()
  where: str = 'student'
  probe: probes.Probe | None = None

  def init(self, seed: int) -> tuple[Flat, Flat]:
    """Returns parameters and rest. Each projector has its own seed: adding one changes no other."""
    params, rest = {}, {}
    for prefix, module, module_seed in self._modules(seed):
      for whole, part in zip((params, rest), module.init(module_seed), strict=True):
        whole |= {prefix + path: value for path, value in part.items()}
    return params, rest

  def shapes(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the shapes of what `init` returns."""
    params, rest = {}, {}
    for prefix, module, _ in self._modules(0):
      for whole, part in zip((params, rest), module.shapes, strict=True):
        whole |= {prefix + path: value for path, value in part.items()}
    return params, rest

  def _modules(self, seed: int):
    yield 'model/', self.model, seed
    for name, projector in self.projectors.items():
      module_seed = (int(hashlib.sha256(name.encode()).hexdigest()[:8], 16) + seed) % 2**31
      yield f'projectors/{name}/', projector.model, module_seed

  def outputs(self, params: Flat, rest: Flat, batch: Batch, *, train: bool,
              key: jax.Array | None, **how: str) -> tuple[Outputs, Flat]:
    """Returns the outputs of the model, and its rest after the call."""
    return probes.answer(self.model, self.probe, subtree(params, 'model/'), subtree(rest, 'model/'),
                         batch, train=train, key=key, **how)

  def __call__(self, params: Flat, rest: Flat, batch: Batch, others: Views, *, train: bool,
               key: jax.Array | None, **how: str) -> tuple[dict[str, Outputs], Flat]:
    """Returns the views `student`, `self` and `projected`, and the rest after the call.

    `how` are the arguments `dtype` and `remat` of `Functional`, for model and projectors.
    """
    outputs, kept = self.outputs(params, rest, batch, train=train, key=key, **how)
    rest = rest | {f'model/{path}': value for path, value in kept.items()}
    views = {**others, 'student': outputs, 'self': jax.lax.stop_gradient(outputs)}
    projected = {}
    for name, projector in self.projectors.items():
      prefix = f'projectors/{name}/'
      where = f'{self.where}.projectors.{name}'
      read = [find_array(views, path, f'{where}.reads') for path in projector.reads]
      try:
        result, kept = projector.model(subtree(params, prefix), subtree(rest, prefix), *read,
                                       valid=batch['valid'], train=train, **how)
      except (ValueError, TypeError) as error:      # shapes, found while tracing
        shapes = ', '.join(f'{path} {list(x.shape)}'
                           for path, x in zip(projector.reads, read, strict=True))
        raise Stop(Status.MISFIT, f'{where} ({shapes}): {str(error).splitlines()[0]}') from error
      projected |= ({f'{name}/{part}': value for part, value in result.items()}
                    if isinstance(result, Mapping) else {name: result})
      rest = rest | {prefix + path: value for path, value in kept.items()}
    return {'student': outputs, 'self': views['self'], 'projected': projected}, rest

  def split_trained(self, params: Flat) -> tuple[Flat, Flat]:
    """Splits parameters into trained and frozen ones."""
    still = {path for path in params for pattern in self.frozen
             if fnmatch.fnmatchcase(path.removeprefix('model/'), pattern)}
    return ({p: v for p, v in params.items() if p not in still},
            {p: v for p, v in params.items() if p in still})


def subtree(flat: Flat, prefix: str) -> Flat:
  """Returns the entries whose path begins with a prefix, which is cut off."""
  return {path.removeprefix(prefix): value for path, value in flat.items()
          if path.startswith(prefix)}


def build_student(model: Functional, node: Mapping[str, Any], frozen: Sequence[str],
                  shapes: Mapping[str, Mapping[str, Any]], where: str = 'student') -> Student:
  """Builds a student whose projectors fit the views that they read (`shapes`, by view and path)."""
  projectors = {name: _projector(spec, shapes, f'{where}.projectors.{name}')
                for name, spec in node.items()}
  student = Student(model, projectors, tuple(frozen), where)
  if frozen and not student.split_trained(student.shapes()[0])[0]:
    raise Stop(Status.CONFIG, f'{where}.frozen={list(frozen)} leaves nothing to train')
  for pattern in frozen:
    if not Student(model, projectors, (pattern,)).split_trained(student.shapes()[0])[1]:
      raise Stop(Status.CONFIG, f'{where}.frozen: {pattern!r} matches no parameter; they are named '
                 + ', '.join(sorted(model.shapes[0])[:4]) + ', …')
  return student


def _projector(spec: Mapping[str, Any], shapes: Mapping[str, Mapping[str, Any]],
               where: str) -> Projector:
  lookup.check(_spec, spec, where)
  read = path_tuple(spec['reads'])
  widths = tuple((find_array(shapes, path, f'{where}.reads').shape or (1,))[-1] for path in read)
  inputs = widths[0] if isinstance(spec['reads'], str) else widths
  function = lookup.find('projectors', spec['module'].get('name', ''), f'{where}.module.name')
  taken = lookup.parameters(function).get('inputs')
  if taken and taken.annotation is int and not isinstance(inputs, int):
    raise Stop(Status.CONFIG, f'{where}.reads={spec["reads"]!r}: '
               f'{spec["module"]["name"]} reads one view alone')
  return Projector(Functional(lambda rngs: lookup.build(
      'projectors', spec['module'], f'{where}.module', inputs=inputs, rngs=rngs)), read)


def _spec(*, module: Mapping, reads: str | Sequence[str]):
  """Declares the types of a projector's fields, for `lookup.check`."""


def start_from(params: Flat, source: Flat, take: Mapping[str, str], where: str,
               cut: Collection[str] = (), key: str = 'take') -> Flat:
  """Returns the parameters of a model that starts from another one, by a path map.

  An entry of `take` names a parameter or a module of the model and what it starts from:
  {'blocks/{0,1}': 'blocks/{0,11}'} starts blocks 0 and 1 from 0 and 11. Brace lists are paired in
  their order, and must be as many and as long on both sides. `/*` at the end of a path changes
  nothing, and `*` is the whole model. The longest entry for a parameter counts; a parameter
  without one starts from the same path (DistilBERT 2019, §3: every second layer; PKD's `skip`).

  `params` gives the paths and shapes. Parameters in `cut` take the source's first rows: a shorter
  model has the first positions alone, and a vocabulary may be padded at its end. `key` is the field
  of the node `where` that the map was made of, for error lines.
  """
  entries = {}                          # parts of our paths -> parts of the source's paths
  for ours, theirs in take.items():
    lengths, ours_all = _expand_braces(ours, where)
    source_lengths, origins = _expand_braces(theirs, where)
    if lengths != source_lengths:
      raise Stop(Status.CONFIG, f'{where}.take: {ours!r} and {theirs!r} must have equally many '
                 'lists in braces, of the same lengths')
    for entry, origin in zip(ours_all, origins, strict=True):
      if entry in entries:
        raise Stop(Status.CONFIG, f'{where}.take names {"/".join(entry) or "*"} twice')
      entries[entry] = origin
  started, used = {}, set()
  for path, value in params.items():
    parts = tuple(path.split('/'))
    entry = max((e for e in entries if parts[:len(e)] == e), key=len, default=())
    used.add(entry)
    origin = '/'.join((*entries.get(entry, ()), *parts[len(entry):]))
    if origin not in source:
      raise Stop(Status.MISFIT, f'{where}: the source has no {origin} to start {path} from')
    found = source[origin]
    if path in cut:
      found = found[:value.shape[0]]
    if found.shape != value.shape:
      raise Stop(Status.MISFIT, f'{where}: {origin} is {list(found.shape)} in the source, '
                 f'{path} {list(value.shape)} in the student')
    started[path] = found.astype(value.dtype)
  for entry in entries:
    if entry not in used:
      raise Stop(Status.CONFIG, f'{where}.{key}: {"/".join(entry) or "*"} matches no parameter '
                 f'that is to be started; they are named {", ".join(sorted(params)[:4])}, …')
  return started


def block_map(layers: Sequence[int], paths: Collection[str], where: str) -> dict[str, str]:
  """Returns the path map by which block i of the student starts from block `layers[i]`."""
  blocks = {path.split('/')[1] for path in paths if path.startswith('blocks/')}
  if layers and len(layers) != len(blocks):
    raise Stop(Status.MISFIT, f'{where}.layers={list(layers)} names {len(layers)} blocks, but the '
               f'student has {len(blocks)}')
  return {f'blocks/{i}': f'blocks/{layer}' for i, layer in enumerate(layers)}


def _expand_braces(path: Any, where: str) -> tuple[list[int], list[tuple[str, ...]]]:
  """Returns the lengths of a path's brace lists, and the parts of every path that it stands for."""
  pieces = BRACES.split(path) if isinstance(path, str) else ['']      # text, list, text, …, text
  choices = [[member.strip() for member in piece.split(',')] if i % 2 else [piece]
             for i, piece in enumerate(pieces)]
  whole = map(''.join, itertools.product(*choices))
  paths = [() if text == '*' else tuple(text.removesuffix('/*').split('/')) for text in whole]
  if any(not part or set(part) & set('*{}') for parts in paths for part in parts):
    raise Stop(Status.CONFIG, f'{where}.take: {path!r} is no path of parameters: it has parts '
               'between slashes, lists in braces as {0,1}, and a * at its end alone, after a /')
  return [*map(len, choices[1::2])], paths
