"""Several models that are trained together."""
import hashlib
from collections.abc import Mapping

import jax
from flax import nnx

from distill import lookup
from distill.types import Batch, Outputs


class Cohort(nnx.Module):
  """Models that teach each other while they learn (mutual learning, Zhang 2018, §3).

  `members` are the nodes of models, as `student.model` is one. Each has a seed and a key of its
  own, by its name: a further member changes no other.

  Outputs: those of the member whose name comes first, which is the one that is judged; and
  MEMBER/NAME, as 'b/logits', of all. Those without a batch axis are called weights/MEMBER/….
  """

  def __init__(self, *, members: Mapping[str, Mapping], rngs: nnx.Rngs):
    if len(members) < 2 or any('/' in name or name == 'weights' for name in members):
      raise ValueError(f'members={tuple(members)} must be at least two, without a "/" in their '
                       'names, and none called weights')
    seed = rngs.params()
    self.members = nnx.Dict({
        name: lookup.build('models', members[name], f'members.{name}',
                           rngs=nnx.Rngs(_own(seed, name))) for name in sorted(members)})

  def __call__(self, batch: Batch, *, train: bool = False,
               key: jax.Array | None = None) -> Outputs:
    outputs = {}
    for name, member in self.members.items():
      own = member(batch, train=train, key=None if key is None else _own(key, name))
      outputs = (outputs or dict(own)) | {_path(name, path): x for path, x in own.items()}
    return outputs


def _own(key: jax.Array, name: str) -> jax.Array:
  return jax.random.fold_in(key, int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))


def _path(name: str, path: str) -> str:
  inner = path.removeprefix('weights/')
  return f'{name}/{path}' if inner == path else f'weights/{name}/{inner}'
