"""Several models that are trained together."""
import hashlib
from collections.abc import Mapping

import jax
from flax import nnx

from distill import lookup
from distill.types import Batch, Outputs


class Cohort(nnx.Module):
  """Models that teach each other while they learn (mutual learning, Zhang 2018, §3).

  `members` are nodes of models, like `student.model`. Each has its own seed and key, derived from
  its name: adding a member changes no other.

  Outputs: those of the member whose name comes first, which is the one that is evaluated; and
  MEMBER/NAME, such as 'b/logits', of all members. Outputs without a batch axis are named
  weights/MEMBER/….
  """

  def __init__(self, *, members: Mapping[str, Mapping], rngs: nnx.Rngs):
    if len(members) < 2 or any('/' in name or name == 'weights' for name in members):
      raise ValueError(f'members={tuple(members)} must be at least two, without a "/" in their '
                       'names, and none called weights')
    seed = rngs.params()
    self.members = nnx.Dict({
        name: lookup.build('models', members[name], f'members.{name}',
                           rngs=nnx.Rngs(_fold_in_name(seed, name))) for name in sorted(members)})

  def __call__(self, batch: Batch, *, train: bool = False,
               key: jax.Array | None = None) -> Outputs:
    outputs = {}
    for name, member in self.members.items():
      member_key = None if key is None else _fold_in_name(key, name)
      found = member(batch, train=train, key=member_key)
      outputs = outputs or dict(found)          # the first member's
      outputs |= {_path(name, path): x for path, x in found.items()}
    return outputs


def _fold_in_name(key: jax.Array, name: str) -> jax.Array:
  return jax.random.fold_in(key, int(hashlib.sha256(name.encode()).hexdigest()[:8], 16))


def _path(name: str, path: str) -> str:
  inner = path.removeprefix('weights/')
  return f'{name}/{path}' if inner == path else f'weights/{name}/{inner}'
