"""Adversarial examples: the student's inputs, moved a small distance to increase a loss.

They add the field `perturbation` to a batch. The student adds it to the x of the modality's probe:
standardised pixels, or the embeddings of words. Teachers see the clean input, as in ARD (Goldblum
2020), so a distillation term compares the student's answer at x + δ with the teacher's at x.

`of` names the function that an attack increases:

  'loss'      the step's objective; with a supervised term, the attack of FGSM, PGD and ARD
  'student'   the KL from the student's own clean answer to its answer at x + δ (TRADES, Zhang 2019,
              algorithm 1)
  a teacher   the KL from that teacher's clean answer (RSLAD, Zi 2021)

The last two read `output`, logits over at least two classes. A label that the run may not see
is not part of the objective: only the terms without labels move that example.

Lengths are in standard deviations of x, as in a report's robustness: for pixels over the training
images, for words over the student's table of embeddings.
"""
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from distill.augment import Ask
from distill.losses.logits import kl
from distill.modalities.probes import PERTURBATION, ascent
from distill.types import Batch, Status, Stop

MAX_STEPS = 20          # PGD's loop is unrolled in the program


def fgsm(*, epsilon: float = 0.1, of: str = 'loss', output: str = 'logits') -> Callable:
  """Returns the fast gradient sign method: δ = ε · sign(gradient at x) (Goodfellow 2015, §4)."""
  _check(epsilon=epsilon)
  if of == 'student':
    raise ValueError("of='student': at the clean input this gradient is 0: take adversarial.pgd")
  return _with_reads(of, output, functools.partial(
      _attack, epsilon=epsilon, rate=epsilon, steps=1, start=0.0, of=of, output=output))


def pgd(*, epsilon: float = 0.1, rate: float = 0.025, steps: int = 7, of: str = 'loss',
        output: str = 'logits') -> Callable:
  """Returns projected gradient descent on the negative loss (Madry 2018, §2.1).

    δ ← Π(δ + rate · sign(gradient at x + δ)),    `steps` times, from δ uniform in [-ε, ε]

  where Π clips every number of δ to [-ε, ε], and of x + δ to the range of inputs. The defaults have
  the paper's proportions for CIFAR-10: seven steps of ε/4.
  """
  _check(epsilon=epsilon, rate=rate)
  if not 1 <= steps <= MAX_STEPS:
    raise ValueError(f'steps={steps} must be from 1 to {MAX_STEPS}')
  return _with_reads(of, output, functools.partial(
      _attack, epsilon=epsilon, rate=rate, steps=steps, start=1.0, of=of, output=output))


def _attack(batch: Batch, key: jax.Array, ask: Ask, *, epsilon: float, rate: float, steps: int,
            start: float, of: str, output: str) -> Batch:
  """Returns the batch with its perturbation, which starts uniform within `start`·ε."""
  if ask.probe is None:
    raise Stop(Status.MISFIT, f'{ask.where}: the inputs of this student cannot be perturbed: its '
               'modality has no probe for it')
  params, probe = ask.params(), ask.probe
  x = jnp.asarray(probe.value(params, batch), jnp.float32)
  low, high = probe.limits()
  low, high = jnp.minimum(low, x), jnp.maximum(high, x)
  bound = ascent(probe, params, batch, jnp.ones_like(x), epsilon)       # 0 at padding
  within = lambda delta: jnp.clip(x + jnp.clip(delta, -bound, bound), low, high) - x
  attack_objective = _attack_objective(batch, ask, of, output)

  def step(_, delta):
    gradient = jax.grad(attack_objective)(delta)
    return within(delta + ascent(probe, params, batch, gradient, rate))

  delta = jnp.zeros_like(x)
  if start:
    delta = within(start * bound * jax.random.uniform(key, x.shape, x.dtype, -1, 1))
  for i in range(steps):        # no loop of XLA's: inside one, convolutions are slow on a CPU
    delta = step(i, delta)
  return {**batch, PERTURBATION: delta}


def _attack_objective(batch: Batch, ask: Ask, of: str,
                      output: str) -> Callable[[jax.Array], jax.Array]:
  """Returns the function of δ that an attack increases."""
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


def _with_reads(of: str, output: str, change: Callable) -> Callable:
  """Returns an attack that says what it reads, and that the inputs stay as they are."""
  change.adds_only = True
  change.reads = () if of == 'loss' else tuple(dict.fromkeys(
      (f'{of}/{output}', f'student/{output}')))
  return change


def _check(**lengths: float) -> None:
  for name, length in lengths.items():
    if not 0 < length < float('inf'):
      raise ValueError(f'{name}={length} must be above 0')
