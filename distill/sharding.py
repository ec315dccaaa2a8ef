"""The mesh, where arrays live on it, and what the processes of a run do together.

Axes are `data` and `model`, with `AxisType.Auto`: explicit sharding refuses the products of a
batch with itself that relational losses take. Batches are split over `data`. Parameters, and
what is shaped like them, are split over `model` where the models' `splits` say so, and with `fsdp`
over what is left of the mesh: a layer's are gathered where it needs them (ZeRO, Rajbhandari 2020,
§5).
What doesn't divide is replicated.

Every process of a run executes the same program over one workdir; the first alone writes there.
"""
import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from distill.types import Batch, Status, Stop

MOST_ROWS = 2**24        # of a batch: their numbers alone take 128 MiB


@dataclasses.dataclass(frozen=True)
class Layout:
  """Where arrays live on a mesh.

  `splits` are those of the run's models (`models.pure.Traits`): a pattern that the end of a
  parameter's path matches, and the axis that is split over `model`, or the first of these that
  divides.
  """
  mesh: Mesh
  fsdp: bool = False
  splits: tuple[tuple[str, tuple[int, ...]], ...] = ()

  @property
  def replicas(self) -> int:
    """Parts that a batch is split into."""
    return self.mesh.shape['data']

  def replicated(self, tree: Any) -> Any:
    """Shardings of a tree that every device holds whole."""
    whole = NamedSharding(self.mesh, PartitionSpec())
    return jax.tree.map(lambda _: whole, tree)

  def stored(self, tree: Any) -> Any:
    """Shardings of parameters, or of a tree of the like, between steps."""
    return jax.tree.map_with_path(
        lambda path, x: self._sharding(_spelled(path), x.shape, self.fsdp), tree)

  def weights(self, weights: tuple[Any, Any]) -> tuple[Any, Any]:
    """Shardings of a model's parameters and rest."""
    return self.stored(weights[0]), self.replicated(weights[1])

  def gathered(self, params: Any) -> Any:
    """Parameters as a step computes with them: whole, but for their split over `model`."""
    if self.mesh.size == 1:
      return params
    return jax.lax.with_sharding_constraint(params, jax.tree.map_with_path(
        lambda path, x: self._sharding(_spelled(path), x.shape, False), params))

  def kept(self, tree: Any, shardings: Any) -> Any:
    """A step's result, laid out as its argument was."""
    return tree if self.mesh.size == 1 else jax.lax.with_sharding_constraint(tree, shardings)

  def rows(self, size: int, where: str = 'data.batch_size') -> np.ndarray:
    """The rows of a batch of `size` that this process holds."""
    if size % self.replicas:
      raise Stop(Status.CONFIG, f'{where}={size} does not divide over {self.replicas} devices: '
                 'choose a multiple')
    if size > MOST_ROWS:
      raise Stop(Status.CONFIG, f'{where}={size} must be at most {MOST_ROWS}')
    each = size // self.replicas
    return np.concatenate([np.arange(at * each, (at + 1) * each) for at in self._places()])

  def batch(self, rows: Batch) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of the batch of which a process has these rows."""
    return {name: jax.ShapeDtypeStruct(
        (len(x) * self.replicas // len(self._places()), *x.shape[1:]), x.dtype,
        sharding=self._by_example) for name, x in rows.items()}

  def fed(self, rows: Batch) -> dict[str, jax.Array]:
    """The batch of which each process gives its rows."""
    if jax.process_count() == 1:
      return jax.device_put(dict(rows), self._by_example)
    places, found = self._places(), {}
    for name, whole in self.batch(rows).items():
      each = len(rows[name]) // len(places)
      def part(index, x=rows[name], each=each):
        start = places.index((index[0].start or 0) // each) * each
        return x[start:start + each]
      found[name] = jax.make_array_from_callback(whole.shape, whole.sharding, part)
    return found

  def told(self, trees: Mapping[str, Any]) -> str:
    """The mesh, and what of each tree a device holds."""
    axes = ' '.join(f'{name}={size}' for name, size in self.mesh.shape.items())
    parts = []
    for name, tree in trees.items():
      if whole := nbytes(tree):
        own = nbytes(tree, self.stored(tree))
        parts.append(f'{name} {own / 2**20:.3g} MiB (1/{whole / own:.1f})')
    return f'mesh {axes}{", fsdp" if self.fsdp else ""}; a device holds: {", ".join(parts)}'

  @property
  def _by_example(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec('data'))

  def _places(self) -> list[int]:
    """Where along `data` this process has devices."""
    return sorted({at for (at, _), device in np.ndenumerate(self.mesh.devices)
                   if device.process_index == jax.process_index()})

  def _sharding(self, path: str, shape: Sequence[int], fsdp: bool) -> NamedSharding:
    axes = [None] * len(shape)
    left = {name: size for name, size in self.mesh.shape.items() if size > 1}
    choices = next((axes for pattern, axes in self.splits
                    if re.search(f'(^|/){pattern}$', path)), ())
    split = next((i for i in choices if shape[i] % left.get('model', 1) == 0), None)
    if split is not None and left.pop('model', None):
      axes[split] = 'model'
    for over in (tuple(left), ('data',)) if fsdp and 'data' in left else ():
      parts = math.prod(left[name] for name in over)
      if free := [i for i, axis in enumerate(axes) if not axis and shape[i] % parts == 0]:
        axes[max(free, key=lambda i: shape[i])] = over if len(over) > 1 else over[0]
        break
    while axes and axes[-1] is None:
      axes.pop()
    return NamedSharding(self.mesh, PartitionSpec(*axes))


def layout(*, model: int = 1, fsdp: bool = False,
           devices: Sequence[jax.Device] | None = None) -> Layout:
  """The layout of the config node `mesh`; `data` is what `model` leaves of the devices.

  `fsdp` splits parameters, optimizer state and teachers over the devices, too.
  """
  devices = jax.devices() if devices is None else devices
  if model < 1 or len(devices) % model:
    raise ValueError(f'model={model} does not divide the {len(devices)} devices')
  return Layout(jax.make_mesh((len(devices) // model, model), ('data', 'model'), devices=devices,
                              axis_types=(AxisType.Auto, AxisType.Auto)), fsdp)


def _spelled(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def nbytes(tree: Any, shardings: Any = None) -> int:
  """The bytes of a tree; with shardings, those on each device."""
  shapes = [x.shape for x in jax.tree.leaves(tree)]
  if shardings is not None:
    shapes = [s.shard_shape(shape)
              for s, shape in zip(jax.tree.leaves(shardings), shapes, strict=True)]
  return sum(math.prod(shape) * x.dtype.itemsize
             for shape, x in zip(shapes, jax.tree.leaves(tree), strict=True))


def shapes(tree: Any, shardings: Any) -> Any:
  """The shapes of a tree that is laid out so."""
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree,
                      shardings)


def placed(tree: Any, shardings: Any) -> Any:
  """Arrays, of which every process has the same, laid out."""
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)

  def one(x, sharding):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return jax.device_put(x, sharding)
    # Not `device_put`, which first compares the values of all processes.
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
  return jax.tree.map(one, tree, shardings)


def on_host(tree: Any) -> Any:
  """Whole arrays in the memory of every process, gathered one by one."""
  def one(x):
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
      return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)
  return jax.tree.map(one, tree)


# ---- processes

def agreed(flag: bool) -> bool:
  """Whether any process says so; all must ask."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def once(act: Callable[[], int | None]) -> int:
  """What `act` gives the first process; the others wait for it, and stop where it stops."""
  if jax.process_count() == 1:
    return act() or 0
  answer, stop = 0, None
  if jax.process_index() == 0:
    try:
      answer = act() or 0
    except Stop as stopped:
      stop = stopped
  told = multihost_utils.broadcast_one_to_all(
      np.array([stop.status if stop else 0, answer], np.int32))
  if stop:
    raise stop
  if told[0]:
    raise Stop(Status(int(told[0])), 'stopped with the first process, which says why')
  return int(told[1])
