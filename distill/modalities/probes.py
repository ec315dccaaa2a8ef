"""Probes: how models of a modality are looked into, and how their inputs are perturbed."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from distill.types import Batch, Outputs, Records, Status, Stop

PERTURBATION = 'perturbation'     # a field of a batch, [b …positions d]: what is added to x


class Probe(Protocol):
  """How a model of the modality is looked into: what gradients are taken with regard to.

  `spoils` are outputs that mean nothing where the model is fed an x.
  """
  spoils: Sequence[str] = ()

  def value(self, params: Mapping, batch: Batch) -> jax.Array:
    """The numbers x that explain an answer, float [b …positions d], of a prepared batch.

    Like `scale` and `positions` it is pure, and takes NumPy's arrays and JAX's alike.
    """

  def feed(self, params: Mapping, batch: Batch, x: jax.Array) -> tuple[Mapping, Batch]:
    """Parameters and a batch by which the model reads x; pure, inside jit."""

  def positions(self, batch: Batch) -> jax.Array:
    """Where an input says something, bool [b …positions]: words, or pixels."""

  def pool(self, layer: jax.Array, batch: Batch) -> jax.Array:
    """What a layer holds of each example, [b f]; pure, inside jit."""

  def keep(self, batch: Batch) -> Records:
    """What `show` draws of each example of a batch, by names of its own."""

  def legend(self, kept: Records) -> Records:
    """What else `show` needs, of all examples together."""

  def scale(self, params: Mapping) -> float | jax.Array:
    """The standard deviation of the numbers x, which an attack is measured by."""

  def limits(self) -> tuple[Any, Any]:
    """The least and the largest x that an input can have, which broadcast against it."""
    return -np.inf, np.inf


def answer(model: Callable, probe: Probe | None, params: Mapping, rest: Mapping, batch: Batch,
           **how) -> tuple[Outputs, Mapping]:
  """Asks a model for its outputs; if the batch has a perturbation δ, at x + δ instead of x.

  Word embeddings are perturbed as Miyato (2017, §3) does it: their table keeps its gradient. What a
  probe `spoils` is left out. Returns outputs and the rest after the call.
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

  `scale` is a standard deviation of x. It is 0 where an input says nothing: at padding, say.
  """
  places = probe.positions(batch)[..., None]
  return size * probe.scale(params) * jnp.sign(gradient) * places
