"""What holds of every loss, or of every one of a kind, by its signature.

There are 5 examples of 5 classes: one number for each of the first would broadcast over the second.
"""
import functools
import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import jaxtyping
import pytest

from distill import losses

B = 5
SHAPES = {'label': ((B,), jnp.int32), 'id': ((B,), jnp.int32), 'where': ((B,), jnp.float32),
          'bank': ((2, 9, B), jnp.float32), 'places': ((9, 3), jnp.int32),
          'draws': ((B, 3), jnp.uint32), 'z': ((2,), jnp.float32)}
PRECISELY = 'precision=(Precision.HIGHEST, Precision.HIGHEST)'
NEEDED = {'alpha': 0.5, 'heads': 2, 'k': 2, 'name': 'pearson', 't': 0.5, 'temperature': 1.0,
          'units': (0, 1)}


def found():
  for module in pkgutil.iter_modules(losses.__path__):
    for name, loss in vars(importlib.import_module(f'distill.losses.{module.name}')).items():
      if name[0] != '_' and inspect.isfunction(loss) and loss.__module__.endswith(module.name):
        yield f'{module.name}.{name}', loss


LOSSES = dict(found())
# Where a hyper-parameter is one number, and not one for each example, too.
CASES = [pytest.param(loss, hyper, id=f'{name} {hyper}') for name, loss in LOSSES.items()
         for hyper, given in inspect.signature(loss).parameters.items()
         if given.kind is given.KEYWORD_ONLY and 'float' in (kind := str(given.annotation))
         and '*b' not in kind]


def arrays(loss):
  maps = loss.__module__.endswith('maps')
  for name, given in inspect.signature(loss).parameters.items():
    if given.kind is not given.KEYWORD_ONLY:
      shape, dtype = SHAPES.get(name, ((B,) * (4 if maps else 2), jnp.float32))
      yield jax.ShapeDtypeStruct(shape, dtype)


def needed(loss):
  return {name: NEEDED[name] for name, given in inspect.signature(loss).parameters.items()
          if given.kind is given.KEYWORD_ONLY and given.default is given.empty}


@pytest.mark.parametrize('loss, hyper', CASES)
def test_as_many_as_classes_are_refused(loss, hyper):
  others = {k: v for k, v in needed(loss).items() if k != hyper}
  many = {hyper: jax.ShapeDtypeStruct((B,), jnp.float32)}
  with pytest.raises(jaxtyping.TypeCheckError):
    jax.eval_shape(functools.partial(loss, **others), *arrays(loss), **many)
  with pytest.raises(ValueError, match=rf'{hyper} must be one number, not \[{B}\]'):
    jax.eval_shape(functools.partial(inspect.unwrap(loss), **others), *arrays(loss), **many)


def test_one_number_is_what_all_take():
  assert len(CASES) > 35
  for loss, _ in (case.values for case in CASES):
    jax.eval_shape(functools.partial(loss, **needed(loss)), *arrays(loss))


@pytest.mark.parametrize('name', [
    'contrastive.crd', 'contrastive.infonce', 'correlations.mlkd_batch', 'correlations.mlkd_class',
    'relations.rkd_angle', 'relations.pkt', 'relations.sp', 'relations.cc', 'maps.nst', 'maps.fsp',
    'maps.svd'])
def test_products_whose_difference_is_taken_are_in_full_precision(name):
  loss = LOSSES[name]
  program = str(jax.make_jaxpr(functools.partial(loss, **needed(loss)))(*arrays(loss)))
  assert program.count(PRECISELY) == program.count('dot_general[') > 0


def test_relations_of_positions_are_in_full_precision():
  vectors = jax.ShapeDtypeStruct((B, 3, 4), jnp.float32)
  loss = functools.partial(LOSSES['relations.minilm'], heads=2)
  program = str(jax.make_jaxpr(loss)(vectors, vectors, jax.ShapeDtypeStruct((B, 3), jnp.float32)))
  assert program.count(PRECISELY) == program.count('dot_general[') > 0
