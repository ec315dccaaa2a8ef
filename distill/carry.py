"""Carries: values that methods keep between steps; part of State, so saved and resumed with it.

A carry is the view `carry/NAME`, or, if its value is a dict, the views `carry/NAME/PART`.
`init(key, shapes, params)` returns its first value, from the shapes of the views and the student's
parameters before step 0. `update(value, views, step, params)` returns the next value, after the
student's update; `params` are the updated parameters, the flat dict of `student.Student`. `reads`
are the paths of the views that it uses. Only carries can read `terms/TERM`, the mean of a term's
loss (NaN if nothing counted), and `gradients/GROUP`, the norm of the gradient of a group of terms,
with weights and scales.
"""
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from distill import maths
from distill.models.functional import Flat
from distill.objective import Views, find_array

Shapes = Mapping[str, Mapping[str, Any]]        # shapes of views
MAX_RATIO = 1e9
MIN_WEIGHT = 1e-3


class Carry(Protocol):
  """The contract of a carry."""
  reads: str | Sequence[str]

  def init(self, key: jax.Array, shapes: Shapes, params: Flat) -> Any: ...

  def update(self, value: Any, views: Views, step: jax.Array, params: Flat) -> Any: ...


class Mean:
  """A moving mean of a view over the batch's valid rows: m ← decay·m + (1 − decay)·mean.

  With `reads='TEACHER/logits'` it is DINO's centre (Caron 2021, eq. 4). Starts at 0.
  """

  def __init__(self, *, reads: str, decay: float = 0.9):
    if not 0 <= decay < 1:
      raise ValueError(f'decay={decay} is not in [0, 1)')
    self.reads, self.decay = reads, decay

  def init(self, key: jax.Array, shapes: Shapes, params: Flat) -> jax.Array:
    del key
    return jnp.zeros(find_array(shapes, self.reads, 'carry: reads').shape[1:], jnp.float32)

  def update(self, value: jax.Array, views: Views, step: jax.Array, params: Flat) -> jax.Array:
    del step
    read = find_array(views, self.reads, 'carry: reads').astype(jnp.float32)
    valid = views['batch']['valid']
    mean = jnp.tensordot(valid, read, 1) / jnp.maximum(jnp.sum(valid), 1.0)
    return self.decay * value + (1 - self.decay) * mean


class Average:
  """A moving average of the parameters of the student's model (Tarvainen 2017, §2, eq. 1).

    θ' ← decay·θ' + (1 - decay)·θ,    with θ as the step left them

  Starts at the student's first parameters. A teacher with source='carry:NAME' answers with it: the
  mean teacher. The paper lets the decay grow, from 0.99 in the ramp-up phase to 0.999; here it is
  constant.
  """
  average, reads = True, ()

  def __init__(self, *, decay: float = 0.999):
    if not 0 <= decay < 1:
      raise ValueError(f'decay={decay} is not in [0, 1)')
    self.decay = decay

  def init(self, key: jax.Array, shapes: Shapes, params: Flat) -> Flat:
    del key, shapes
    return _model_params(params)

  def update(self, value: Flat, views: Views, step: jax.Array, params: Flat) -> Flat:
    del views, step
    return {path: self.decay * value[path] + (1 - self.decay) * now
            for path, now in _model_params(params).items()}


def _model_params(params: Flat) -> Flat:
  """Selects the parameters of the student's model, without those of its projectors."""
  return {path: value for path, value in params.items() if path.startswith('model/')}


class Taid:
  """TAID's t: rises from `start` to 1, at least linearly, faster while the loss falls (Shing 2025).

    δ = (last loss - loss) / (last loss + 1e-15)        momentum ← beta·momentum + (1 - beta)·δ
    t ← min(1, max(start + (1 - start)·step/steps, t + alpha·sigmoid(momentum)·(1 - t)))

  The loss is that of `divergences.taid` at the t of the step: give this carry the teacher, the mask
  and the temperature of that term. As in the authors' code it is the cross-entropy, larger than the
  KL by the mixture's entropy: the KL is 0 at t = 0, and the loss after a 0 would have δ = -10^15.
  For the same reason δ is at least -1 here; a loss that more than doubles would have less. A batch
  without a counted example changes nothing.
  """

  def __init__(self, *, teacher: str, student: str = 'student/logits', mask: str = '', steps: int,
               start: float = 0.4, alpha: float = 5e-4, beta: float = 0.99,
               temperature: float = 1.0):
    if steps < 1:
      raise ValueError(f'steps={steps} must be at least 1')
    maths.share(start=start, alpha=alpha, beta=beta)
    maths.positive(temperature=temperature)
    self.reads = (student, teacher, *filter(None, (mask,)))
    self.steps, self.start, self.alpha, self.beta = steps, start, alpha, beta
    self.temperature = temperature

  def init(self, key: jax.Array, shapes: Shapes, params: Flat) -> dict[str, jax.Array]:
    del key
    for path in self.reads:
      find_array(shapes, path, 'carry: reads')
    # A loss of -1: there is none yet, so the first only becomes the last.
    return {'t': jnp.float32(self.start), 'loss': jnp.float32(-1), 'momentum': jnp.float32(0)}

  def update(self, value: dict[str, jax.Array], views: Views,
             step: jax.Array, params: Flat) -> dict[str, jax.Array]:
    student, teacher, *masks = (find_array(views, path, 'carry: reads') for path in self.reads)
    between, log_q = maths.between(student, teacher, value['t'], self.temperature)
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


class DWA:
  """Weights of terms, larger for those that fall slower (Dynamic Weight Average, Liu 2019).

  After each `window` of steps, the paper's epoch, w = K·softmax(r / temperature) over K `terms`.
  r is a term's mean over this window divided by its mean over the window before. w = 1 until two
  windows have passed. A term T takes the weight by `scale`: `carry/NAME/T`. r is 1 for a term that
  counted nothing in this window, or whose mean was 0 or less in the window before.

  T/sum and T/count belong to the current window, T/last is the mean over the window before.
  """

  def __init__(self, *, terms: Sequence[str], window: int, temperature: float = 2.0):
    if window < 1:
      raise ValueError(f'window={window} must be at least 1')
    maths.positive(temperature=temperature)
    self.terms, self.reads = _check_terms(terms), tuple(f'terms/{name}' for name in terms)
    self.window, self.temperature = window, temperature

  def init(self, key: jax.Array, shapes: Shapes, params: Flat) -> dict[str, jax.Array]:
    del key
    for path in self.reads:
      find_array(shapes, path, 'carry: reads')
    return _entries(self.terms, {'': jnp.ones(len(self.terms)), **{
        part: jnp.zeros(len(self.terms)) for part in ('/sum', '/count', '/last')}})

  def update(self, value: dict[str, jax.Array], views: Views,
             step: jax.Array, params: Flat) -> dict[str, jax.Array]:
    entry = lambda part: jnp.stack([value[f'{name}{part}'] for name in self.terms])
    losses = jnp.stack([find_array(views, path, 'carry: reads') for path in self.reads])
    counts = jnp.isfinite(losses)
    total, count = entry('/sum') + jnp.where(counts, losses, 0), entry('/count') + counts
    last, mean = entry('/last'), total / jnp.maximum(count, 1)
    ratio = jnp.where((count > 0) & (last > 0), mean / jnp.where(last > 0, last, 1), 1)
    scores = jnp.clip(ratio / self.temperature, -MAX_RATIO, MAX_RATIO)
    weights = len(self.terms) * jax.nn.softmax(scores)
    over = (step + 1) % self.window == 0
    return _entries(self.terms, {
        '': jnp.where(over, weights, entry('')), '/sum': jnp.where(over, 0, total),
        '/count': jnp.where(over, 0, count),
        '/last': jnp.where(over & (count > 0), mean, last)})


class GradNorm:
  """Weights of terms that bring their gradients to one norm (GradNorm, Chen 2018, eq. 2).

  Each of the K `terms` is in a `group` of its own name. With their means L and their gradient norms
  G = w·|∇L|, where |∇L| has the term's constant weight:

    r = (L / L(0)) / mean of L / L(0)           the relative inverse training rate
    w ← w - rate · sign(G - mean(G)·r^alpha) · |∇L|,    then w ← K·w / sum of w

  which descends Σ|G - mean(G)·r^alpha| with the target held constant, as the paper holds it. A
  term T takes the weight by `scale`: `carry/NAME/T`. T/first is its L(0). Norms are over all
  trained parameters; the paper takes the last layer that the terms share. Weights are at least
  1e-3 before they are scaled to sum to K; the paper's may become negative. A step in which a term
  counted nothing, or isn't positive, changes nothing.
  """

  def __init__(self, *, terms: Sequence[str], alpha: float = 1.5, rate: float = 0.025):
    if not 0 <= alpha < math.inf:
      raise ValueError(f'alpha={alpha} must be 0 or more')
    maths.positive(rate=rate)
    self.terms, self.alpha, self.rate = _check_terms(terms), alpha, rate
    self.reads = tuple(f'{view}/{name}' for view in ('terms', 'gradients') for name in terms)

  def init(self, key: jax.Array, shapes: Shapes, params: Flat) -> dict[str, jax.Array]:
    del key
    for path in self.reads:
      find_array(shapes, path, 'carry: reads')
    n = len(self.terms)
    return _entries(self.terms, {'': jnp.ones(n), '/first': jnp.zeros(n)})

  def update(self, value: dict[str, jax.Array], views: Views,
             step: jax.Array, params: Flat) -> dict[str, jax.Array]:
    del step
    read = jnp.stack([find_array(views, path, 'carry: reads') for path in self.reads])
    losses, norms = read.reshape(2, len(self.terms))
    entry = lambda part: jnp.stack([value[f'{name}{part}'] for name in self.terms])
    moves, weights = (losses > 0).all(), entry('')             # NaN is not
    first = jnp.where(moves & (entry('/first') == 0), losses, entry('/first'))
    progress = losses / jnp.where(first > 0, first, 1)
    target = jnp.mean(norms) * (progress / jnp.mean(progress))**self.alpha
    moved = weights - self.rate * jnp.sign(norms - target) * norms / weights
    moved = jnp.maximum(moved, MIN_WEIGHT)
    moved *= len(self.terms) / jnp.sum(moved)
    return _entries(self.terms, {'': jnp.where(moves, moved, weights), '/first': first})


def _check_terms(terms: Sequence[str]) -> tuple[str, ...]:
  if isinstance(terms, str) or len(set(terms)) < max(len(terms), 2):
    raise ValueError(f'terms={terms!r} must name at least two terms, each once')
  return tuple(terms)


def _entries(terms: Sequence[str], arrays: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
  """Splits arrays over terms, {suffix: array}, into {TERM + suffix: number}."""
  return {f'{name}{part}': array[i].astype(jnp.float32) for part, array in arrays.items()
          for i, name in enumerate(terms)}


class Bank:
  """CRD's memory bank: both sides' vectors of every training example (Tian 2020, §3.1).

  `reads` are the student's and the teacher's vectors v [b d]. A step moves its examples' rows,
  m ← unit(momentum·m + (1 - momentum)·unit(v)), by the vectors before the student's update. If a
  batch holds an example twice, its last row counts. Rows start from U(±√(3/d)), about length 1.

  `contrastive.crd` reads its entries, for n examples and K `negatives` for each of b examples:
    bank         float32 [2 n d]  the student's and the teacher's rows, sorted by class
    places       int32 [n 3]      for each example: its row, its class's first row, its class's size
    draws        uint32 [b K]     random numbers that choose the negatives of the next step
    z            float32 [2]      logarithms of the normalisers; +inf before the first step
    temperature  float32 []
    key          uint32 [k]       of the draws, which depend on this key and the step only

  An example whose label the run may not see is a class by itself: all others are its negatives.
  `mask` is the path of the term's mask, if it has one: z is over the examples that the loss counts.
  The rows of all valid examples move, because they are negatives of other examples.
  """

  def __init__(self, *, reads: Sequence[str], labels: np.ndarray, negatives: int = 16384,
               momentum: float = 0.5, temperature: float = 0.07, mask: str = ''):
    if len(reads) != 2:
      raise ValueError(f"reads={reads!r} must name the student's and the teacher's vectors")
    if negatives < 1 or not 0 <= momentum < 1:
      raise ValueError(f'negatives={negatives} must be at least 1, momentum={momentum} in [0, 1)')
    maths.positive(temperature=temperature)
    self.reads = (*reads, 'batch/valid', 'batch/id', *filter(None, (mask,)))
    self.places = _class_index(np.asarray(labels))
    self.negatives, self.momentum, self.temperature = negatives, momentum, temperature

  def init(self, key: jax.Array, shapes: Shapes, params: Flat) -> dict[str, jax.Array]:
    size, width = find_array(shapes, self.reads[0], 'carry: reads').shape
    rows, draws = jax.random.split(key)
    shape, bound = (2, len(self.places), width), (3 / width)**0.5
    draws = jax.random.key_data(draws)
    return {'bank': jax.random.uniform(rows, shape, jnp.float32, -bound, bound),
            'places': jnp.asarray(self.places), 'draws': self._draws(draws, 0, size),
            'z': jnp.full(2, jnp.inf, jnp.float32), 'key': draws,
            'temperature': jnp.asarray(self.temperature, jnp.float32)}

  def update(self, value: dict[str, jax.Array], views: Views,
             step: jax.Array, params: Flat) -> dict[str, jax.Array]:
    student, teacher, valid, id, *masks = (
        find_array(views, path, 'carry: reads') for path in self.reads)
    bank, places, n = value['bank'], value['places'], len(self.places)
    counted = math.prod(masks, start=valid)
    scores = lambda: maths.bank_cosines(student, teacher, counted, id, bank, places, value['draws'])
    first = lambda: maths.log_mean(scores() / self.temperature, counted) + np.log(n)
    z = jax.lax.cond(jnp.isfinite(value['z'][0]), lambda: value['z'], first)
    order = jnp.arange(len(id))
    again = (id[:, None] == id) & (order[:, None] < order) & (valid > 0)
    moves = (valid > 0) & ~again.any(axis=1)
    row = places[id, 0]
    unit = maths.unit(maths.wide(jnp.stack([student, teacher])))
    moved = maths.unit(self.momentum * bank[:, row] + (1 - self.momentum) * unit)
    return value | {'bank': bank.at[:, jnp.where(moves, row, n)].set(moved, mode='drop'), 'z': z,
                    'draws': self._draws(value['key'], step + 1, len(id))}

  def _draws(self, key: jax.Array, step: jax.Array | int, size: int) -> jax.Array:
    key = jax.random.fold_in(jax.random.wrap_key_data(key), step)
    return jax.random.bits(key, (size, self.negatives), jnp.uint32)


def _class_index(labels: np.ndarray) -> np.ndarray:
  """Returns, for each example, its row, its class's first row and its class's size, int32 [n 3]."""
  known = (labels >= 0) & np.issubdtype(labels.dtype, np.integer)
  classes = np.where(known, labels, -1 - np.arange(len(labels)))
  _, class_of, sizes = np.unique(classes, return_inverse=True, return_counts=True)
  if len(sizes) < 2:
    raise ValueError('all examples are of one class: there are no negatives')
  rows = np.argsort(np.argsort(class_of, kind='stable'))
  firsts = np.cumsum(sizes) - sizes
  return np.stack([rows, firsts[class_of], sizes[class_of]], axis=1).astype(np.int32)
