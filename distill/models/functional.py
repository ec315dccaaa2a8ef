"""A module as pure functions over flat dicts, `{'blocks/0/query/kernel': array}`.

Flat dicts make a step cheap to dispatch. Freezing, exporting, hashing and starting from a
teacher's layers name parameters by their paths.
"""
import dataclasses
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from distill.models import precision
from distill.models.layers import NOTHING, Block
from distill.types import Batch, Status, Stop

Flat = dict[str, jax.Array]
MAX_BLOCKS = 2**10         # blocks of a model: a number that a file declares is built one by one


@dataclasses.dataclass(frozen=True)
class Traits:
  """Facts about the parameters and arguments of a class of models: its attribute `traits`.

  heads: top-level modules that only some tasks need, each with the outputs that depend on it. A
    checkpoint may lack them, and an export leaves out untrained ones.
  tables: paths of parameters that have a row for every token, the table of embeddings first.
  indexes: fields of a batch that hold rows of a table, each with the path of that parameter.
  cut: paths of parameters of which a smaller model takes the first rows.
  kin: arguments that change a model's function but not its shapes, each with the module that uses
    it.
  free: arguments that no parameter depends on, and that a loaded model may be given.
  splits: for tensor parallelism, by a pattern of the end of a parameter's path, the axis that is
    split over devices, or the first of these that divides (`sharding.Layout`).
  """
  heads: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  tables: tuple[str, ...] = ()
  indexes: Mapping[str, str] = dataclasses.field(default_factory=dict)
  cut: tuple[str, ...] = ()
  kin: Mapping[str, str] = dataclasses.field(default_factory=dict)
  free: tuple[str, ...] = ('dropout',)
  splits: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)


NO_TRAITS = Traits()


def traits_of(kind: Any) -> Traits:
  """Returns the traits of a class of models, or of a model."""
  return getattr(kind, 'traits', NO_TRAITS)


def splits_of(models: Iterable[Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
  """Collects the `splits` of all models, for the layout of their run."""
  return tuple({pattern: axes for model in models
                for pattern, axes in traits_of(model).splits.items()}.items())


@dataclasses.dataclass(frozen=True)
class Functional:
  """A module without its arrays.

  `make(rngs)` constructs the module; nothing is computed until `init`. `mixing` is true if in
  training an output depends on the batch's other examples: the module keeps batch statistics, or
  has an attribute `mixing`. `traits` are those of its class; `rows` are the sizes of the tables
  that fields of a batch index. `multiplies` and `has_blocks` tell whether `dtype='mixed'` and
  `remat` change anything.
  """
  make: Callable[[nnx.Rngs], nnx.Module]

  differentiable = True

  def __post_init__(self):
    def arrays(key, only):
      module = self.make(nnx.Rngs(key))
      graph, *states = nnx.split(module, nnx.Param, ...)
      facts[:] = (traits_of(module), getattr(module, 'mixing', False), graph, jax.tree.map(
          lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tuple(states)),
          any(hasattr(part, 'dot_general') for _, part in nnx.iter_modules(module)),
          any(isinstance(part, Block) for _, part in nnx.iter_modules(module)))
      return tuple({path: value for path, value in flat(part).items()
                    if only is None or path in only} for part in states)

    facts: list[Any] = []
    init = jax.jit(arrays, static_argnums=1)
    init.trace(jax.eval_shape(lambda: jax.random.key(0)), None)     # `init` finds this trace again
    traits, mixing, graph, states, multiplies, has_blocks = facts
    object.__setattr__(self, '_init', init)
    object.__setattr__(self, '_graph', graph)
    object.__setattr__(self, '_states', states)
    object.__setattr__(self, 'traits', traits)
    object.__setattr__(self, 'multiplies', multiplies)
    object.__setattr__(self, 'has_blocks', has_blocks)
    object.__setattr__(self, 'mixing', mixing or any(
        isinstance(variable, nnx.BatchStat) for _, variable in nnx.to_flat_state(states[1])))
    object.__setattr__(self, 'rows', {
        field: self.shapes[0][path].shape[0] for field, path in self.traits.indexes.items()
        if path in self.shapes[0]})

  @property
  def shapes(self) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
    """The shapes of parameters and rest, by path."""
    return tuple(flat(state) for state in self._states)

  def init(self, seed: int, only: Collection[str] | None = None) -> tuple[Flat, Flat]:
    """Initialises parameters and rest (batch statistics), by one program.

    `only` names the paths that are wanted: no others are computed.
    """
    return self._init(jax.random.key(seed), None if only is None else frozenset(only))

  def __call__(self, params: Flat, rest: Flat, *arguments, method: str = '__call__',
               dtype: str = 'float32', remat: str = NOTHING, **keywords) -> tuple[Any, Flat]:
    """Calls a method of the module; returns its result, and the rest after the call.

    With `dtype='mixed'` every module that has its product as an attribute `dot_general`, as Flax's
    dense layers do, uses that of `precision`; for a narrower dtype, pass narrower `params`. `remat`
    names the part of every `layers.Block` that is computed again in the backward pass.
    """
    module = nnx.merge(self._graph, *(
        fill(state, flat) for state, flat in zip(self._states, (params, rest), strict=True)))
    if dtype == precision.MIXED:
      module.set_attributes(dot_general=precision.dot_general, raise_if_not_found=False)
    if remat != NOTHING:
      module.set_attributes(Block, remat=remat, raise_if_not_found=False)
    result = getattr(module, method)(*arguments, **keywords)
    return result, flat(nnx.split(module, nnx.Param, ...)[2])


def check_computing(model: Functional, where: str, *, dtype: str, remat: str = NOTHING) -> None:
  """Stops if `dtype` or `remat`, fields of the node `where`, would change nothing in the model."""
  if dtype == precision.MIXED and not model.multiplies:
    raise Stop(Status.CONFIG, f'{where}.dtype={dtype!r}: the model has no layer with a dot_general '
               "to replace, such as flax.nnx.Linear: take dtype='float32'")
  if remat != NOTHING and not model.has_blocks:
    raise Stop(Status.CONFIG, f'{where}.remat={remat!r}: the model has no blocks to compute again: '
               f'derive them from distill.models.layers.Block, or take remat={NOTHING!r}')


def check_ids(model: Callable, batch: Batch, title: str) -> None:
  """Stops at an index beyond a table of the model, which JAX would clip to the last row.

  `title` names the batch, which is NumPy's, for the error line.
  """
  for field, rows in getattr(model, 'rows', {}).items():
    ids = np.asarray(batch[field] if field in batch else ())
    if ids.size and not 0 <= ids.min() <= ids.max() < rows:
      bad = ids.max() if ids.max() >= rows else ids.min()
      raise Stop(Status.MISFIT, f'{title}: there is {bad} among its {field}, and the model has a '
                 f'table of {rows} of them, from 0')


def flat(state: nnx.State) -> Flat:
  """Returns the values of a state's variables by their paths."""
  return {'/'.join(map(str, path)): variable.get_value()
          for path, variable in nnx.to_flat_state(state)}


def fill(state: nnx.State, flat: Flat) -> nnx.State:
  """Returns a state with the values of `flat` in its variables."""
  return nnx.from_flat_state([
      (path, variable.replace(flat['/'.join(map(str, path))]))
      for path, variable in nnx.to_flat_state(state)])
