"""Probes: the inputs that gradients are taken of, for saliency, and that attacks perturb."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from distill.types import Batch, Outputs, Records, Status, Stop

PERTURBATION = 'perturbation'     # a field of a batch, [b …positions d], that is added to x


class Probe(Protocol):
  """The contract of a probe: the input x of a model that gradients are taken with respect to.

  `spoils` are outputs that mean nothing when the model reads a changed x.
  """
  spoils: Sequence[str] = ()

  def value(self, params: Mapping, batch: Batch) -> jax.Array:
    """Returns the x of a prepared batch, float [b …positions d], that attributions are of.

    Like `scale` and `positions` it is pure, and takes NumPy's arrays and JAX's alike.
    """

  def feed(self, params: Mapping, batch: Batch, x: jax.Array) -> tuple[Mapping, Batch]:
    """Returns parameters and a batch by which the model reads x; pure, in jit."""

  def positions(self, batch: Batch) -> jax.Array:
    """Returns the positions with content, bool [b …positions]: words, or pixels."""

  def pool(self, layer: jax.Array, batch: Batch) -> jax.Array:
    """Pools a layer to one vector per example, [b f]; pure, in jit."""

  def keep(self, batch: Batch) -> Records:
    """Returns the arrays of a batch that `show` draws, by any names."""

  def legend(self, kept: Records) -> Records:
    """Returns further arrays for `show` that belong to all examples together."""

  def scale(self, params: Mapping) -> float | jax.Array:
    """Returns the standard deviation of x, the unit of an attack's size."""

  def limits(self) -> tuple[Any, Any]:
    """Returns the least and the largest x of inputs, which broadcast against x."""
    return -np.inf, np.inf


def answer(model: Callable, probe: Probe | None, params: Mapping, rest: Mapping, batch: Batch,
           **how) -> tuple[Outputs, Mapping]:
  """Asks a model for its outputs; if the batch has a perturbation δ, at x + δ instead of x.

  Word embeddings are perturbed as by Miyato (2017, §3): their table keeps its gradient. Outputs
  that the probe `spoils` are left out. Returns outputs and the rest after the call.
  """
  if PERTURBATION not in batch:
    return model(params, rest, batch, **how)
  if probe is None:
    raise Stop(Status.MISFIT, f'the batch has a field {PERTURBATION!r}, and the inputs of this '
               'model cannot be perturbed: its modality has no probe for it')
  x = probe.value(params, batch)
  outputs, rest = model(*_fed(probe, params, rest, batch, x + batch[PERTURBATION].astype(x.dtype)),
                        **how)
  return {name: value for name, value in outputs.items() if name not in probe.spoils}, rest


def _fed(probe: Probe, params: Mapping, rest: Mapping, batch: Batch,
         x: jax.Array) -> tuple[Mapping, Mapping, Batch]:
  changed, fed = probe.feed(params, batch, x)
  return changed, rest, fed


def ascent(probe: Probe, params: Mapping, batch: Batch, gradient: jax.Array,
           size: float) -> jax.Array:
  """Returns size · scale · sign(gradient), [b …positions d]: FGSM's step (Goodfellow 2015, §4).

  `scale` is a standard deviation of x. The step is 0 at positions without content, as padding.
  """
  places = probe.positions(batch)[..., None]
  return size * probe.scale(params) * jnp.sign(gradient) * places
