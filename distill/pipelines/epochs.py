"""Epochs in a config: `epochs` become `steps` before anything is built."""
from collections.abc import Callable, Mapping
from typing import Any

from distill.types import Status, Stop


def in_steps(node: Any, epoch: Callable[[], int], where: str) -> Any:
  """Returns a config node in which every `epochs`, at any depth, is `steps`: `epoch()` for each."""
  if not isinstance(node, Mapping):
    return node
  node = {key: in_steps(value, epoch, f'{where}.{key}') for key, value in node.items()}
  if 'epochs' not in node:
    return node
  epochs = node.pop('epochs')
  if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not 0 < epochs < 1e9:
    raise Stop(Status.CONFIG, f'{where}.epochs={epochs!r} must be a number above 0')
  if 'steps' in node:
    raise Stop(Status.CONFIG, f'{where} has both epochs={epochs} and steps={node["steps"]}')
  return node | {'steps': max(1, round(epochs * epoch()))}
