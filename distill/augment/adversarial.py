"""Adversarial views: inputs of the student, moved to where it is worst within a small distance.

They add the field `perturbation` to a batch, which is added to what the modality's probe calls x:
standardised pixels, or the embeddings of words. The student alone reads it. Teachers answer the
clean input, as in ARD (Goldblum 2020), and so a distillation term compares the student's
answer at x + δ with the teacher's at x.

`of` says what an attack makes large:

  'loss'      the step's objective; of a supervised term it is the attack of FGSM, PGD and ARD
  'student'   the KL from the student's own clean answer to its answer at x + δ (TRADES, Zhang 2019,
              algorithm 1)
  a teacher   the KL from that teacher's clean answer (RSLAD, Zi 2021)

of which the last two read `output`, logits over at least two classes. A label that the run may not
see has no part in the objective: only the terms without labels then move that example.

Lengths are in standard deviations of x, as in a report's robustness: for pixels those of the
training images, for words that of the student's own table.
"""
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from distill.augment import Ask
from distill.losses.logits import kl
from distill.modalities.probes import PERTURBATION, ascent
from distill.types import Batch, Status, Stop

MOST_STEPS = 20         # of PGD: all are in one program, one after the other


def fgsm(*, epsilon: float = 0.1, of: str = 'loss', output: str = 'logits') -> Callable:
  """The fast gradient sign method: δ = ε · sign(gradient at x) (Goodfellow 2015, §4)."""
  _check(epsilon=epsilon)
  if of == 'student':
    raise ValueError("of='student': at the clean input this gradient is 0: take adversarial.pgd")
  return _reading(of, output, functools.partial(
      _attacked, epsilon=epsilon, rate=epsilon, steps=1, start=0.0, of=of, output=output))


def pgd(*, epsilon: float = 0.1, rate: float = 0.025, steps: int = 7, of: str = 'loss',
        output: str = 'logits') -> Callable:
  """Projected gradient descent on the negative loss (Madry 2018, §2.1).

    δ ← Π(δ + rate · sign(gradient at x + δ)),    `steps` times, from δ uniform in [-ε, ε]

  where Π brings every number of δ into [-ε, ε], and of x + δ into the values that an input can
  have. The defaults have the paper's proportions for CIFAR-10: seven steps of ε/4.
  """
  _check(epsilon=epsilon, rate=rate)
  if not 1 <= steps <= MOST_STEPS:
    raise ValueError(f'steps={steps} must be from 1 to {MOST_STEPS}')
  return _reading(of, output, functools.partial(
      _attacked, epsilon=epsilon, rate=rate, steps=steps, start=1.0, of=of, output=output))


def _attacked(batch: Batch, key: jax.Array, ask: Ask, *, epsilon: float, rate: float, steps: int,
              start: float, of: str, output: str) -> Batch:
  """Returns the batch with its perturbation; `start` is the share of ε that it is drawn from."""
  if ask.probe is None:
    raise Stop(Status.MISFIT, f'{ask.where}: the inputs of this student cannot be perturbed: its '
               'modality has no probe for it')
  params, probe = ask.params(), ask.probe
  x = jnp.asarray(probe.value(params, batch), jnp.float32)
  low, high = probe.limits()
  low, high = jnp.minimum(low, x), jnp.maximum(high, x)
  bound = ascent(probe, params, batch, jnp.ones_like(x), epsilon)       # 0 at padding
  within = lambda delta: jnp.clip(x + jnp.clip(delta, -bound, bound), low, high) - x
  harm = _harm(batch, ask, of, output)

  def step(_, delta):
    gradient = jax.grad(harm)(delta)
    return within(delta + ascent(probe, params, batch, gradient, rate))

  delta = jnp.zeros_like(x)
  if start:
    delta = within(start * bound * jax.random.uniform(key, x.shape, x.dtype, -1, 1))
  for i in range(steps):        # no loop of XLA's: inside one, convolutions are slow on a CPU
    delta = step(i, delta)
  return {**batch, PERTURBATION: delta}


def _harm(batch: Batch, ask: Ask, of: str, output: str) -> Callable[[jax.Array], jax.Array]:
  """Returns what an attack makes large, a function of δ."""
  if of == 'loss':
    return lambda delta: ask.loss({**batch, PERTURBATION: delta})

  def answer(call: Callable, given: Batch, name: str) -> jax.Array:
    found = call(given)
    if output not in found or found[output].shape[-1] < 2:
      raise Stop(Status.MISFIT, f"{ask.where}: of={of!r} needs {name}/{output}, logits over at "
                 f"least two classes, and there is {', '.join(sorted(found))}: name them by "
                 "output, or take of='loss'")
    return found[output]

  clean = answer(ask.student if of == 'student' else ask.teachers[of], batch, of)
  return lambda delta: jnp.sum(kl(
      student=answer(ask.student, {**batch, PERTURBATION: delta}, 'student'), teacher=clean))


def _reading(of: str, output: str, change: Callable) -> Callable:
  """Returns an attack that says what it reads, and that the inputs stay as they are."""
  change.adds_only = True
  change.reads = () if of == 'loss' else tuple(dict.fromkeys(
      (f'{of}/{output}', f'student/{output}')))
  return change


def _check(**lengths: float) -> None:
  for name, length in lengths.items():
    if not 0 < length < float('inf'):
      raise ValueError(f'{name}={length} must be above 0')
