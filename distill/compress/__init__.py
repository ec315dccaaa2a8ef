"""Compression without training: a functional model and its weights in, the same out."""
from typing import Protocol

from distill.models.functional import Flat, Functional

Weights = tuple[Flat, Flat]         # parameters and the rest


class Change(Protocol):
  """The contract of a change that makes a model from another, without training."""
  about: str                        # a phrase for the page: 'weights stored in bfloat16'

  def __call__(self, model: Functional, weights: Weights) -> tuple[Functional, Weights]: ...
