"""Knowledge distillation in JAX: one training loop, one objective, many models and methods.

  distill.distill(student, teacher, data, …)    trains a student of one's own, without a config
  distill.compare(models, data, …)              measures models side by side: a table and a page

`python -m distill.main --config=FILE` trains what a config describes.
"""
import importlib
from typing import Any

__version__ = '0.1.0'
__all__ = ['compare', 'distill']


def __getattr__(name: str) -> Any:
  """Loads what needs JAX when it is asked for."""
  if name in __all__:
    return getattr(importlib.import_module(f'{__name__}.notebook'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
  return sorted({*globals(), *__all__})
