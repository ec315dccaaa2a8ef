"""The distillation step: its overhead, its memory, and whether the data keeps up with it.

The pair is BERT, 6 layers that teach 3, as wide as MiniLM's narrow models (Wang 2020): KL at
temperature 2 and cross-entropy, AdamW with decay, clipped gradients, float32 unless a row says
'mixed' (`distill.models.precision`). Every text fills the batch's width, so no side profits from
padding.
"""
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from distill import objective, optimizers, step
from distill.data import batches
from distill.data.sets import Split
from distill.measure import cost
from distill.modalities import text
from distill.models.bert import Bert
from distill.models.functional import Functional
from distill.models.precision import MIXED
from distill.student import Student
from distill.teachers import Live
from distill.types import Field
from experiments.bench_turns import in_turns, seconds, spread

OVERHEAD = 1.05             # the step's most time as a multiple of its parts' time
TEMPERATURE, RATE, DECAY, CLIP = 2.0, 5e-5, 0.01, 1.0
TEXTS = 20_000
WARM = 2                    # calls before the first that counts: compilation, first use of memory


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the pair and its batch."""
  teacher: int = 6            # blocks
  student: int = 3
  width: int = 384
  heads: int = 12
  inner: int = 1536
  vocabulary: int = 30522
  classes: int = 2
  batch: int = 32
  length: int = 64
  dropout: float = 0.1        # the student's; the teacher is in evaluation mode

  def model(self, depth: int) -> Functional:
    return Functional(lambda rngs: Bert(
        vocabulary=self.vocabulary, length=self.length, classes=self.classes, width=self.width,
        depth=depth, heads=self.heads, inner=self.inner, dropout=self.dropout, rngs=rngs))

  def data(self) -> dict[str, np.ndarray]:
    """Returns a batch without padding."""
    draw = np.random.default_rng(0).integers
    b, s = self.batch, self.length
    ones = np.ones(b, np.float32)
    return {'id': np.arange(b, dtype=np.int32),
            'tokens': draw(5, self.vocabulary, (b, s)).astype(np.int32),
            'types': np.zeros((b, s), np.int32), 'mask': np.ones((b, s), np.float32),
            'label': draw(0, self.classes, b).astype(np.int32), 'labelled': ones, 'valid': ones}


def program(sizes: Sizes, *, has_teacher: bool = True,
            dtype: str = 'float32') -> tuple[Callable, list[Any]]:
  """Returns the jitted step and its arguments: with the teacher and its term, or only supervised.

  `dtype` is what teacher and student compute in.
  """
  terms = {'hard': {'loss': 'supervised.cross_entropy',
                    'reads': {'student': 'student/logits', 'label': 'batch/label'}}}
  if has_teacher:
    terms['soft'] = {'loss': 'logits.kl', 'kwargs': {'temperature': TEMPERATURE},
                     'reads': {'student': 'student/logits', 'teacher': 'teacher/logits'}}
  student = Student(sizes.model(sizes.student))
  teacher = Live('teacher', sizes.model(sizes.teacher), dtype)
  optimizer = optimizers.adamw(rate=RATE, decay=DECAY, clip=CLIP, steps=10_000)
  run = step.make_train_step(student, (teacher,) if has_teacher else (),
                             objective.terms_from(terms), optimizer, dtype=dtype)
  state = step.init_state(student, *student.init(1), optimizer, {})
  weights = {'teacher': teacher.model.init(0)} if has_teacher else {}
  return run, [state, weights, jax.device_put(sizes.data()), jax.random.key(0)]


def timed_step(sizes: Sizes, *, has_teacher: bool = True,
               dtype: str = 'float32') -> Callable[[], float]:
  """Returns a call that makes one step from the last state and returns its seconds; it is warm."""
  run, arguments = program(sizes, has_teacher=has_teacher, dtype=dtype)

  def make_step():
    arguments[0], metrics = run(*arguments)
    return arguments[0], metrics

  return _warm(make_step)


def _warm(call: Callable[[], Any]) -> Callable[[], float]:
  for _ in range(WARM):
    seconds(call)
  return lambda: seconds(call)


def overhead(rounds: int, sizes: Sizes = Sizes()) -> dict[str, Any]:
  """Compares the distillation step with the teacher's forward pass plus the supervised step.

  It also times the same step in mixed precision, teacher and student.
  """
  model, data = sizes.model(sizes.teacher), jax.device_put(sizes.data())
  forward = step.make_eval_step(model, step.select_outputs(('logits',)))
  weights = model.init(0)
  times = in_turns({'distillation step': timed_step(sizes),
                    'supervised step': timed_step(sizes, has_teacher=False),
                    'teacher forward': _warm(lambda: forward(*weights, data)),
                    'distillation step, mixed': timed_step(sizes, dtype=MIXED)}, rounds)
  whole, *parts, mixed = times.values()
  return {'sizes': dataclasses.asdict(sizes), 'numbers': {
      **{name: spread([1e3 * t for t in values], 'ms') for name, values in times.items()},
      'step / its parts': spread([step / (a + b) for step, a, b in zip(whole, *parts, strict=True)],
                                 '×', at_most=OVERHEAD),
      'step / mixed step': spread([a / b for a, b in zip(whole, mixed, strict=True)], '×')}}


def memory(rounds: int, sizes: Sizes = Sizes()) -> dict[str, Any]:
  """Compares XLA's plan for the compiled step with a count by hand; `rounds` changes nothing."""
  del rounds
  run, arguments = program(sizes)
  plan = cost.peak_memory(run.lower(*arguments).compile())
  state, (weights, _) = arguments[0], arguments[1]['teacher']
  count = lambda params: sum(x.size for x in params.values())
  held = by_hand(sizes, count(state.params), count(weights))
  once = lambda value, unit: spread([value], unit)
  return {'sizes': dataclasses.asdict(sizes), 'numbers': {
      **{f'by hand: {name}': once(n / 2**20, 'MiB') for name, n in held.items()},
      'by hand, in all': once(sum(held.values()) / 2**20, 'MiB'),
      **({} if plan is None else {
          'XLA, in all': once(plan / 2**20, 'MiB'),
          'XLA / by hand': once(plan / sum(held.values()), '×')})}}


def by_hand(sizes: Sizes, student: int, teacher: int) -> dict[str, int]:
  """Counts the bytes of float32 arrays that a step has to hold at once.

  `student` and `teacher` are numbers of parameters. Not counted are short-lived arrays (the
  teacher's activations, scores before softmax), vectors of a number a row, and random bits.
  """
  n = sizes.batch * sizes.length                                    # rows, b·s
  d, f = n * sizes.width, n * sizes.inner                           # a hidden state; the inner one
  p = n * sizes.heads * sizes.length                                # attention probabilities
  embedding = d + d                   # LayerNorm's normalised input; its output with dropout
  block = (3 * d                      # query, key, value
           + p + p                    # probabilities, for softmax; with dropout, for the mixing
           + d                        # mixed values, for the output layer's kernel
           + d + d                    # LayerNorm's normalised input; its output, for `up`'s kernel
           + f + f                    # before GELU, for its slope; after it, for `down`'s kernel
           + d + d)                   # LayerNorm's normalised input; the block's output
  last = d + d          # the last block's key and value; else only each text's first row
  return {'parameters': 4 * student, 'gradients': 4 * student,
          'optimizer': 2 * 4 * student,                             # AdamW: two moments
          'teacher': 4 * teacher,
          'activations': 4 * (embedding + (sizes.student - 1) * block + last)}


def pipeline(rounds: int, sizes: Sizes = Sizes(), texts: int = TEXTS) -> dict[str, Any]:
  """Measures the data pipeline by itself, and how many times faster it is than the step."""
  stream = batches.shuffled(split(sizes, texts), batch_size=sizes.batch, seed=0,
                            steps=texts // sizes.batch)
  counts = [(b['valid'].sum(), b['mask'].sum()) for b in stream]        # which also warms it up
  examples, tokens = map(float, np.mean(counts, axis=0))

  def iterate() -> float:
    start = time.perf_counter()
    for _ in stream:
      pass
    return (time.perf_counter() - start) / len(stream)

  times = in_turns({'pipeline': iterate, 'step': timed_step(sizes)}, rounds)
  rates = [1 / t for t in times['pipeline']]
  faster = [theirs / ours for ours, theirs in zip(*times.values(), strict=True)]
  return {'sizes': {**dataclasses.asdict(sizes), 'texts': texts}, 'numbers': {
      'batches': spread(rates, '1/s'),
      'examples': spread([examples * rate for rate in rates], '1/s'),
      'tokens': spread([tokens * rate for rate in rates], '1/s'),
      'steps': spread([1 / t for t in times['step']], '1/s'),
      'pipeline / step': spread(faster, '×')}}


def split(sizes: Sizes, texts: int) -> Split:
  """Returns tokenized texts of all lengths, as they come from the disk."""
  random = np.random.default_rng(0)
  length = random.integers(3, sizes.length + 1, texts)
  tokens = random.integers(5, sizes.vocabulary, (texts, sizes.length))
  encoded = {
      'tokens': np.where(np.arange(sizes.length) < length[:, None], tokens, 0).astype(np.int32),
      'types': np.zeros((texts, sizes.length), np.int32), 'length': length.astype(np.int32)}
  return Split(
      {'hash01': random.random(texts), text.AXIS: encoded['length'],
       'label': random.integers(0, sizes.classes, texts).astype(np.int32)},
      {**text.Text.fields, 'label': Field((), 'int32', -1, target=True)}, text.fetch(encoded),
      room={text.AXIS: sizes.length})
