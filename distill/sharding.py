"""The mesh, and where arrays live on it.

Axes are `data` and `model`, with `AxisType.Auto`: explicit sharding refuses the products of a
batch with itself that relational losses take. Batches are split over `data`; parameters are
replicated.
"""
import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from distill.types import Status, Stop


def mesh() -> Mesh:
  """All devices of this run along `data`."""
  return jax.make_mesh((jax.device_count(), 1), ('data', 'model'),
                       axis_types=(AxisType.Auto, AxisType.Auto))


def replicated(mesh: Mesh) -> NamedSharding:
  """Every device holds the whole array."""
  return NamedSharding(mesh, PartitionSpec())


def by_example(mesh: Mesh, batch_size: int, where: str = 'data.batch_size') -> NamedSharding:
  """The leading axis split over `data`."""
  if batch_size % mesh.shape['data']:
    raise Stop(Status.CONFIG, f'{where}={batch_size} does not divide over '
               f'{mesh.shape["data"]} devices: choose a multiple')
  return NamedSharding(mesh, PartitionSpec('data'))
