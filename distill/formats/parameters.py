"""Models and weights from a card and arrays by our paths; missing parameters are initialised."""
import fnmatch
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from distill import lookup, numbers
from distill.models.functional import Functional
from distill.teachers import Weights
from distill.types import Status, Stop


def assemble(arrays: Mapping[str, Any], card: Mapping[str, Any], folder: pathlib.Path, path: str,
             *, model: Mapping[str, Any] | None = None, fresh: Sequence[str] = (),
             sizes: Mapping[str, int] | None = None, seed: int = 0,
             names: Mapping[str, str] | None = None) -> tuple[Functional, Weights, dict[str, Any]]:
  """Builds the model of a card with `arrays` as its parameters; returns it, weights and card.

  `model` changes arguments that no parameter depends on, such as `dropout`. Parameters whose paths
  match a pattern of `fresh`, and heads that the arrays lack, are initialised by `seed`; the card's
  `fresh` lists them. `sizes` are those of the data, which a new head takes. `names` are the arrays'
  names in the folder, for error lines. All arrays must be finite.
  """
  check_finite(arrays, folder, names)
  reinit = lambda name: any(fnmatch.fnmatchcase(name, pattern) for pattern in fresh)
  node = {**card['model'], **(model or {})}
  build = lambda node: Functional(lambda rngs: lookup.build('models', node, f'{path}: {folder}',
                                                            rngs=rngs))
  pure = build(node)
  missing = _missing(pure, arrays, reinit)
  if missing and _classes_are_new(node, build, pure, missing):
    card = {key: value for key, value in card.items() if key != 'task'} | {'classes': ()}
    if sizes and sizes.get('classes', node['classes']) != node['classes']:
      node = node | {'classes': sizes['classes']}
      pure = build(node)
      missing = _missing(pure, arrays, reinit)
  shapes = pure.shapes[0] | pure.shapes[1]
  for pattern in fresh:
    if not fnmatch.filter(shapes, pattern):
      raise Stop(Status.CONFIG, f'{path}: fresh={pattern!r} matches no parameter; they are named '
                 + ', '.join(sorted(shapes)[:4]) + ', …')
  heads = pure.traits.heads
  unasked = {name for name in arrays if name not in shapes and name.split('/')[0] in heads}
  for name in sorted((shapes.keys() | arrays.keys()) - missing - unasked):
    found, expected = (x[name].shape if name in x else 'missing' for x in (arrays, shapes))
    if found != expected:
      raise Stop(Status.CHECKPOINT, f'{folder}: {name} is {found} in the weights and {expected} in '
                 f'the model {node["name"]}')
    if jnp.issubdtype(arrays[name].dtype, jnp.floating) != jnp.issubdtype(
        shapes[name].dtype, jnp.floating):
      raise Stop(Status.CHECKPOINT, f'{folder}: {name} is {arrays[name].dtype} in the weights and '
                 f'{shapes[name].dtype} in the model {node["name"]}')
  started = pure.init(seed, only=missing) if missing else ({}, {})
  weights = tuple({name: new[name] if name in new else jnp.asarray(arrays[name]) for name in part}
                  for part, new in zip(pure.shapes, started, strict=True))
  return pure, weights, {**card, 'model': node, 'fresh': sorted(missing)}


def check_finite(arrays: Mapping[str, Any], folder: pathlib.Path,
                 names: Mapping[str, str] | None = None) -> None:
  """Stops at weights that hold a number that is not finite."""
  for path, array in arrays.items():
    bad = numbers.count_nonfinite(array)
    if bad:
      name = names[path] if names else path
      raise Stop(Status.CHECKPOINT, f'{folder}: the tensor {name} holds {bad:,} of '
                 f'{np.size(array):,} values that are not finite numbers: it answers nothing; was '
                 'its training finite to the end, and the file copied whole?')


def _missing(pure: Functional, arrays: Mapping[str, Any],
             reinit: Callable[[str], bool]) -> set[str]:
  """Returns the parameters to initialise: those of `fresh`, and heads that the arrays lack."""
  heads = pure.traits.heads
  return {name for part in pure.shapes for name in part
          if reinit(name) or (name not in arrays and name.split('/')[0] in heads)}


def _classes_are_new(node: Mapping[str, Any], build: Callable, pure: Functional,
                     missing: set[str]) -> bool:
  """Tells whether all parameters whose shape depends on the classes are initialised."""
  if 'classes' not in node:
    return False
  other = build({**node, 'classes': node['classes'] + 1})
  depend = {name for ours, theirs in zip(pure.shapes, other.shapes, strict=True)
            for name in ours if name not in theirs or ours[name].shape != theirs[name].shape}
  return bool(depend) and depend <= missing
