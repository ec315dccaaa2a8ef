"""Changes that make a model of a model: a functional model and its weights in, the same out."""
from typing import Protocol

from distill.models.functional import Flat, Functional

Weights = tuple[Flat, Flat]         # parameters and the rest


class Change(Protocol):
  """Makes a model of another one, without training."""
  about: str                        # what it does, for the page: 'weights stored in bfloat16'

  def __call__(self, model: Functional, weights: Weights) -> tuple[Functional, Weights]: ...
