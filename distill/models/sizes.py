"""The size of a model: numbers of parameters, and bytes."""
from typing import Any

import jax


def params(tree: Any, *, embeddings: bool = True) -> int:
  """Counts the parameters; without `embeddings`, leaves named `embedding` are left out."""
  named = jax.tree_util.tree_leaves_with_path(tree)
  path_string = lambda path: jax.tree_util.keystr(path, simple=True, separator='/')
  return sum(leaf.size for path, leaf in named
             if embeddings or path_string(path).rpartition('/')[2] != 'embedding')


def nbytes(tree: Any) -> int:
  """Returns the bytes of all parameters as they are held."""
  return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def quantised(tree: Any) -> float:
  """Returns the share of the parameters that 8 bits or fewer hold."""
  small = sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.dtype.itemsize == 1)
  return small / max(1, params(tree))


def sizes(weights: Any) -> dict[str, Any]:
  """Returns a report's fields of the size of a model's weights, parameters and rest."""
  return {'params': params(weights[0]),
          'params_outside_embeddings': params(weights[0], embeddings=False),
          'bytes': nbytes(weights), 'quantised': quantised(weights[0])}
