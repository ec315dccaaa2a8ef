"""The mesh, the shardings of arrays on it, and the agreement of a run's processes.

The axes are `data` and `model`, with `AxisType.Auto`: explicit sharding refuses the products of a
batch with itself that relational losses take. Batches are split over `data`. Parameters, and
arrays of their shape, are split over `model` where the models' `splits` say so. With `fsdp` they
are also split over the rest of the mesh, and a layer's parameters are gathered just before it runs
(ZeRO, Rajbhandari 2020, §5). An axis that the mesh doesn't divide is replicated.

Every process of a run executes the same program over one workdir; only the first writes there.
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

MAX_ROWS = 2**24        # rows of a batch: their indices take 128 MiB


@dataclasses.dataclass(frozen=True)
class Layout:
  """A mesh, and the places of arrays on it.

  `splits` are those of the run's models (`models.functional.Traits`): a pattern that the end of a
  parameter's path matches, and the axis that is split over `model`. If several axes are named, the
  first that `model` divides is split.
  """
  mesh: Mesh
  fsdp: bool = False
  splits: tuple[tuple[str, tuple[int, ...]], ...] = ()

  @property
  def replicas(self) -> int:
    """The number of parts that a batch is split into."""
    return self.mesh.shape['data']

  def replicated_shardings(self, tree: Any) -> Any:
    """Returns the shardings of a tree of which every device holds a whole copy."""
    whole = NamedSharding(self.mesh, PartitionSpec())
    return jax.tree.map(lambda _: whole, tree)

  def param_shardings(self, tree: Any) -> Any:
    """Returns the shardings, between steps, of a tree of parameters or of their shapes."""
    return jax.tree.map_with_path(
        lambda path, x: self._sharding(_path_string(path), x.shape, self.fsdp), tree)

  def weight_shardings(self, weights: tuple[Any, Any]) -> tuple[Any, Any]:
    """Returns the shardings of a model's parameters and rest."""
    return self.param_shardings(weights[0]), self.replicated_shardings(weights[1])

  def all_gather(self, params: Any) -> Any:
    """Gathers parameters over `data`, to compute with them; their split over `model` stays."""
    if self.mesh.size == 1:
      return params
    return jax.lax.with_sharding_constraint(params, jax.tree.map_with_path(
        lambda path, x: self._sharding(_path_string(path), x.shape, False), params))

  def constrain(self, tree: Any, shardings: Any) -> Any:
    """Constrains the result of a step to the shardings of its argument."""
    return tree if self.mesh.size == 1 else jax.lax.with_sharding_constraint(tree, shardings)

  def local_rows(self, size: int, where: str = 'data.batch_size') -> np.ndarray:
    """Returns the indices of the rows of a batch of `size` that this process holds."""
    if size % self.replicas:
      raise Stop(Status.CONFIG, f'{where}={size} does not divide over {self.replicas} devices: '
                 'choose a multiple')
    if size > MAX_ROWS:
      raise Stop(Status.CONFIG, f'{where}={size} must be at most {MAX_ROWS}')
    each = size // self.replicas
    return np.concatenate([np.arange(at * each, (at + 1) * each) for at in self._local_positions()])

  def batch_shapes(self, rows: Batch) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns the shapes of the whole batch of which a process has `rows`."""
    return {name: jax.ShapeDtypeStruct(
        (len(x) * self.replicas // len(self._local_positions()), *x.shape[1:]), x.dtype,
        sharding=self._by_example) for name, x in rows.items()}

  def to_devices(self, rows: Batch) -> dict[str, jax.Array]:
    """Puts the whole batch on the devices; each process gives its `rows`."""
    if jax.process_count() == 1:
      return jax.device_put(dict(rows), self._by_example)
    positions, found = self._local_positions(), {}
    for name, whole in self.batch_shapes(rows).items():
      each = len(rows[name]) // len(positions)
      def part(index, x=rows[name], each=each):
        start = positions.index((index[0].start or 0) // each) * each
        return x[start:start + each]
      found[name] = jax.make_array_from_callback(whole.shape, whole.sharding, part)
    return found

  def describe(self, trees: Mapping[str, Any]) -> str:
    """Describes in one line the mesh, and the share of each tree that a device holds."""
    axes = ' '.join(f'{name}={size}' for name, size in self.mesh.shape.items())
    parts = []
    for name, tree in trees.items():
      if whole := nbytes(tree):
        held = nbytes(tree, self.param_shardings(tree))
        parts.append(f'{name} {held / 2**20:.3g} MiB (1/{whole / held:.1f})')
    return f'mesh {axes}{", fsdp" if self.fsdp else ""}; a device holds: {", ".join(parts)}'

  @property
  def _by_example(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec('data'))

  def _local_positions(self) -> list[int]:
    """Returns the positions along `data` at which this process has devices."""
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
  """Returns the layout of the config node `mesh`; `data` has len(devices) / `model` positions.

  `fsdp` splits parameters, optimizer state and teachers over the devices, too.
  """
  devices = jax.devices() if devices is None else devices
  if model < 1 or len(devices) % model:
    raise ValueError(f'model={model} does not divide the {len(devices)} devices')
  return Layout(jax.make_mesh((len(devices) // model, model), ('data', 'model'), devices=devices,
                              axis_types=(AxisType.Auto, AxisType.Auto)), fsdp)


def _path_string(path: Any) -> str:
  return jax.tree_util.keystr(path, simple=True, separator='/')


def nbytes(tree: Any, shardings: Any = None) -> int:
  """Counts the bytes of a tree; with shardings, those on each device."""
  shapes = [x.shape for x in jax.tree.leaves(tree)]
  if shardings is not None:
    shapes = [s.shard_shape(shape)
              for s, shape in zip(jax.tree.leaves(shardings), shapes, strict=True)]
  return sum(math.prod(shape) * x.dtype.itemsize
             for shape, x in zip(shapes, jax.tree.leaves(tree), strict=True))


def shapes(tree: Any, shardings: Any) -> Any:
  """Returns the shapes of a tree, each with its sharding."""
  return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree,
                      shardings)


def device_put(tree: Any, shardings: Any) -> Any:
  """Puts arrays on the devices by `shardings`; every process has the same arrays."""
  if jax.process_count() == 1:
    return jax.device_put(tree, shardings)

  def put(x, sharding):
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
      return jax.device_put(x, sharding)
    # Not `device_put`, which first compares the values of all processes.
    x = np.asarray(x)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
  return jax.tree.map(put, tree, shardings)


def on_host(tree: Any) -> Any:
  """Copies whole arrays to the memory of every process, gathering them one by one."""
  def fetch(x):
    if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
      return multihost_utils.process_allgather(x, tiled=True)
    return np.asarray(x)
  return jax.tree.map(fetch, tree)


# ---- processes

def any_process(flag: bool) -> bool:
  """Tells whether `flag` is set on any process; all processes must call this."""
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.asarray(flag)).any())


def on_first_process(act: Callable[[], int | None]) -> int:
  """Runs `act` on the first process, and returns its result on all.

  The other processes wait for it, and stop where it stops.
  """
  if jax.process_count() == 1:
    return act() or 0
  answer, stop = 0, None
  if jax.process_index() == 0:
    try:
      answer = act() or 0
    except Stop as stopped:
      stop = stopped
  first = multihost_utils.broadcast_one_to_all(
      np.array([stop.status if stop else 0, answer], np.int32))
  if stop:
    raise stop
  if first[0]:
    raise Stop(Status(int(first[0])), 'stopped with the first process, which says why')
  return int(first[1])
