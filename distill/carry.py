"""What methods remember between steps; part of State, so saved and resumed with it.

A carry is the view `carry/NAME`, or, if its value is a dict, the views `carry/NAME/PART`.
`init(key, shapes)` gives its first value from the shapes of the views, `update(value, views, step)`
the next one, after the student's update. `reads` are the paths of the views that it uses.
"""
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from distill.losses import _positive, _share, _unit, _wide
from distill.losses.contrastive import _log_mean, _scores
from distill.losses.divergences import _between
from distill.objective import Views, at


class Carry(Protocol):
  """The contract."""
  reads: str | Sequence[str]

  def init(self, key: jax.Array, shapes: Mapping[str, Mapping[str, Any]]) -> Any: ...

  def update(self, value: Any, views: Views, step: jax.Array) -> Any: ...


class Mean:
  """A moving mean of a view over the batch's valid rows: m ← decay·m + (1 − decay)·mean.

  With `reads='TEACHER/logits'` it is DINO's centre (Caron 2021, eq. 4). Starts at 0.
  """

  def __init__(self, *, reads: str, decay: float = 0.9):
    if not 0 <= decay < 1:
      raise ValueError(f'decay={decay} is not in [0, 1)')
    self.reads, self.decay = reads, decay

  def init(self, key: jax.Array, shapes: Mapping[str, Mapping[str, Any]]) -> jax.Array:
    del key
    return jnp.zeros(at(shapes, self.reads, 'carry: reads').shape[1:], jnp.float32)

  def update(self, value: jax.Array, views: Views, step: jax.Array) -> jax.Array:
    del step
    read = at(views, self.reads, 'carry: reads').astype(jnp.float32)
    valid = views['batch']['valid']
    mean = jnp.tensordot(valid, read, 1) / jnp.maximum(jnp.sum(valid), 1.0)
    return self.decay * value + (1 - self.decay) * mean


class Taid:
  """TAID's t, from `start` to 1, at least linearly, and faster while the loss falls (Shing 2025).

    δ = (last loss - loss) / (last loss + 1e-15)        momentum ← beta·momentum + (1 - beta)·δ
    t ← min(1, max(start + (1 - start)·step/steps, t + alpha·sigmoid(momentum)·(1 - t)))

  The loss is that of the step's `divergences.taid`, at the t that the step had: give this the
  teacher, the mask and the temperature of that term. As in the authors' code it is the
  cross-entropy, larger by the mixture's entropy: the KL is 0 at t = 0, and what comes after a 0
  would have δ = -10^15. For the same reason δ is never below -1 here, which a loss that more than
  doubles would have. A batch where nothing counts changes nothing.
  """

  def __init__(self, *, teacher: str, student: str = 'student/logits', mask: str = '', steps: int,
               start: float = 0.4, alpha: float = 5e-4, beta: float = 0.99,
               temperature: float = 1.0):
    if steps < 1:
      raise ValueError(f'steps={steps} must be at least 1')
    _share(start=start, alpha=alpha, beta=beta)
    _positive(temperature=temperature)
    self.reads = (student, teacher, *filter(None, (mask,)))
    self.steps, self.start, self.alpha, self.beta = steps, start, alpha, beta
    self.temperature = temperature

  def init(self, key: jax.Array, shapes: Mapping[str, Mapping[str, Any]]) -> dict[str, jax.Array]:
    del key
    for path in self.reads:
      at(shapes, path, 'carry: reads')
    # A loss of -1: there is none yet, so the first only becomes the last.
    return {'t': jnp.float32(self.start), 'loss': jnp.float32(-1), 'momentum': jnp.float32(0)}

  def update(self, value: dict[str, jax.Array], views: Views,
             step: jax.Array) -> dict[str, jax.Array]:
    student, teacher, *masks = (at(views, path, 'carry: reads') for path in self.reads)
    between, log_q = _between(student, teacher, value['t'], self.temperature)
    losses = -jnp.sum(jnp.exp(between) * log_q, axis=-1)
    counted = jnp.ones(losses.shape)
    for mask in (views['batch']['valid'], *masks):
      counted *= mask.reshape(mask.shape + (1,) * (losses.ndim - mask.ndim))
    count = jnp.sum(counted)
    loss = jnp.sum(jnp.where(counted > 0, losses * counted, 0)) / jnp.maximum(count, 1)
    loss, last = jnp.maximum(loss, 0).astype(jnp.float32), value['loss']
    fall = jnp.maximum((last - loss) / (last + 1e-15), -1)
    momentum = self.beta * value['momentum'] + (1 - self.beta) * fall
    linear = self.start + (1 - self.start) * step / self.steps
    t = value['t'] + self.alpha * jax.nn.sigmoid(momentum) * (1 - value['t'])
    counts, moves = count > 0, (count > 0) & (last >= 0)
    return {'t': jnp.where(moves, jnp.clip(t, linear, 1), value['t']),
            'loss': jnp.where(counts, loss, last),
            'momentum': jnp.where(moves, momentum, value['momentum'])}


class Bank:
  """CRD's memory (Tian 2020, §3.1): of every example of the training split, both sides' vectors.

  `reads` are the student's and the teacher's vectors [b d]. A step moves the rows of its examples:
  m ← unit(momentum·m + (1 - momentum)·unit(v)), with v as they were before the student's update; of
  an example that a batch holds twice, the last. Rows start from U(±√(3/d)), about length 1.

  The parts, which `contrastive.crd` reads, of n examples and K `negatives` for each of b:
    bank         float32 [2 n d]  the student's and the teacher's rows, a class's side by side
    places       int32 [n 3]      of an example: its row, its class's first row, its class's size
    draws        uint32 [b K]     for the coming step: numbers that choose negatives
    z            float32 [2]      logarithms of what normalises; +inf before the first step
    temperature  float32 []
    key          uint32 [k]       of the draws, which are a function of it and the step alone

  An example whose label the run may not see is a class of its own: all others are its negatives.
  `mask` is the path of the term's mask, if it has one: z is of the examples that the loss counts.
  The rows of all valid examples move, for they are others' negatives.
  """

  def __init__(self, *, reads: Sequence[str], labels: np.ndarray, negatives: int = 16384,
               momentum: float = 0.5, temperature: float = 0.07, mask: str = ''):
    if len(reads) != 2:
      raise ValueError(f"reads={reads!r} must name the student's and the teacher's vectors")
    if negatives < 1 or not 0 <= momentum < 1:
      raise ValueError(f'negatives={negatives} must be at least 1, momentum={momentum} in [0, 1)')
    _positive(temperature=temperature)
    self.reads = (*reads, 'batch/valid', 'batch/id', *filter(None, (mask,)))
    self.places = _places(np.asarray(labels))
    self.negatives, self.momentum, self.temperature = negatives, momentum, temperature

  def init(self, key: jax.Array, shapes: Mapping[str, Mapping[str, Any]]) -> dict[str, jax.Array]:
    size, width = at(shapes, self.reads[0], 'carry: reads').shape
    rows, draws = jax.random.split(key)
    shape, bound = (2, len(self.places), width), (3 / width)**0.5
    draws = jax.random.key_data(draws)
    return {'bank': jax.random.uniform(rows, shape, jnp.float32, -bound, bound),
            'places': jnp.asarray(self.places), 'draws': self._draws(draws, 0, size),
            'z': jnp.full(2, jnp.inf, jnp.float32), 'key': draws,
            'temperature': jnp.asarray(self.temperature, jnp.float32)}

  def update(self, value: dict[str, jax.Array], views: Views,
             step: jax.Array) -> dict[str, jax.Array]:
    student, teacher, valid, id, *masks = (at(views, path, 'carry: reads') for path in self.reads)
    bank, places, n = value['bank'], value['places'], len(self.places)
    counted = math.prod(masks, start=valid)
    scores = lambda: _scores(student, teacher, counted, id, bank, places, value['draws'])
    first = lambda: _log_mean(scores() / self.temperature, counted) + np.log(n)
    z = jax.lax.cond(jnp.isfinite(value['z'][0]), lambda: value['z'], first)
    order = jnp.arange(len(id))
    again = (id[:, None] == id) & (order[:, None] < order) & (valid > 0)
    kept = (valid > 0) & ~again.any(axis=1)
    row = places[id, 0]
    moved = _unit(self.momentum * bank[:, row]
                  + (1 - self.momentum) * _unit(_wide(jnp.stack([student, teacher]))))
    return value | {'bank': bank.at[:, jnp.where(kept, row, n)].set(moved, mode='drop'), 'z': z,
                    'draws': self._draws(value['key'], step + 1, len(id))}

  def _draws(self, key: jax.Array, step: jax.Array | int, size: int) -> jax.Array:
    key = jax.random.fold_in(jax.random.wrap_key_data(key), step)
    return jax.random.bits(key, (size, self.negatives), jnp.uint32)


def _places(labels: np.ndarray) -> np.ndarray:
  """Of each example its row, the first row of its class, and its class's size, int32 [n 3]."""
  known = (labels >= 0) & np.issubdtype(labels.dtype, np.integer)
  classes = np.where(known, labels, -1 - np.arange(len(labels)))
  _, at, sizes = np.unique(classes, return_inverse=True, return_counts=True)
  if len(sizes) < 2:
    raise ValueError('all examples are of one class: there are no negatives')
  rows = np.argsort(np.argsort(at, kind='stable'))
  return np.stack([rows, (np.cumsum(sizes) - sizes)[at], sizes[at]], axis=1).astype(np.int32)
