"""The distillation step beside PyTorch eager with `transformers`: the same work, in examples/s.

Every side is a warm process that takes its turn while the others sleep: in one process PyTorch's
OpenMP threads would spin beside XLA's. All have as many threads as this process may use. The peer
has its faster attention, chosen by the medians, and the fused AdamW, the default of the Trainer of
transformers.

Our step also runs in mixed precision, which is compared with the peer in float32 and under autocast
to bfloat16.

python -m experiments.bench_peers distill|eager|sdpa [DTYPE]        serves as one of the sides
"""
import contextlib
import dataclasses
import importlib.util
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from distill import launch
from distill.models.precision import MIXED
from distill.types import Status, Stop
from experiments import bench_step
from experiments.bench_step import CLIP, DECAY, RATE, TEMPERATURE, WARM, Sizes
from experiments.bench_turns import in_turns, serve, spread, worker

# The least ratios of our rate to the peer's: both in float32; ours mixed to either of the peer's.
FASTER, MIXED_FASTER, AUTOCAST_FASTER = 1.1, 1.45, 1.0
PACKAGES = ('torch', 'transformers')
ATTENTION = ('eager', 'sdpa')
WIDE, NARROW = 'float32', 'bfloat16'        # of the peer; the second by autocast


def peers(rounds: int) -> dict[str, Any]:
  """Compares the rate of our step with the peer's."""
  sizes = Sizes()           # those that the sides serve
  for package in PACKAGES:
    if importlib.util.find_spec(package) is None:
      raise Stop(Status.CONFIG, f"peers needs the package {package}, which is not installed: "
                 "pip install -e '.[peers]'")
  ours = {'distill': ('distill', WIDE), 'distill, mixed': ('distill', MIXED)}
  wide, narrow = ({f'PyTorch, {a} attention{title}': (a, dtype) for a in ATTENTION}
                  for dtype, title in ((WIDE, ''), (NARROW, ', autocast')))
  with contextlib.ExitStack() as stack:
    turns = {name: stack.enter_context(worker('-m', __spec__.name, *side))
             for name, side in {**ours, **wide, **narrow}.items()}
    times = in_turns(turns, rounds)
  fastest = lambda names: min((times[name] for name in names), key=statistics.median)
  over = lambda names, mine, limit: spread(
      [b / a for a, b in zip(times[mine], fastest(names), strict=True)], '×', at_least=limit)
  return {'sizes': dataclasses.asdict(sizes), 'numbers': {
      **{name: spread([sizes.batch / t for t in taken], 'examples/s')
         for name, taken in times.items()},
      'distill / PyTorch': over(wide, 'distill', FASTER),
      'distill, mixed / PyTorch': over(wide, 'distill, mixed', MIXED_FASTER),
      'distill, mixed / PyTorch, autocast': over(narrow, 'distill, mixed', AUTOCAST_FASTER)}}


def torch_step(sizes: Sizes, attention: str, dtype: str = WIDE):
  """Returns the teacher, the student, and a call that makes one step and returns its loss.

  Unless `dtype` is float32, forward passes and loss are under autocast to bfloat16.
  """
  import torch
  from torch.nn import functional as F
  from transformers import BertConfig, BertForSequenceClassification

  torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity')
                        else os.cpu_count())
  torch.manual_seed(0)

  def model(depth: int):
    return BertForSequenceClassification(BertConfig(
        vocab_size=sizes.vocabulary, hidden_size=sizes.width, num_hidden_layers=depth,
        num_attention_heads=sizes.heads, intermediate_size=sizes.inner,
        max_position_embeddings=sizes.length, num_labels=sizes.classes,
        hidden_dropout_prob=sizes.dropout, attention_probs_dropout_prob=sizes.dropout,
        attn_implementation=attention))

  teacher, student = model(sizes.teacher).eval(), model(sizes.student).train()
  data = {name: torch.from_numpy(values) for name, values in sizes.data().items()}
  inputs = {'input_ids': data['tokens'].long(), 'token_type_ids': data['types'].long(),
            'attention_mask': data['mask'].long()}
  label = data['label'].long()
  matrices = [p for p in student.parameters() if p.ndim > 1]
  vectors = [p for p in student.parameters() if p.ndim <= 1]
  optimizer = torch.optim.AdamW([{'params': matrices, 'weight_decay': DECAY},
                                 {'params': vectors, 'weight_decay': 0.0}], lr=RATE, fused=True)

  def make_step() -> Any:
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype != WIDE):
      with torch.no_grad():
        targets = teacher(**inputs).logits
      logits = student(**inputs).logits
      log_s, log_t = (F.log_softmax(z / TEMPERATURE, dim=-1) for z in (logits, targets))
      soft = TEMPERATURE**2 * F.kl_div(log_s, log_t, log_target=True, reduction='batchmean')
      loss = soft + F.cross_entropy(logits, label)
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(student.parameters(), CLIP)
    optimizer.step()
    return loss.detach()

  return teacher, student, make_step


def _timed_torch_step(sizes: Sizes, attention: str, dtype: str) -> Callable[[], float]:
  *_, make_step = torch_step(sizes, attention, dtype)
  for _ in range(WARM):
    make_step()

  def timed() -> float:
    start = time.perf_counter()
    make_step()
    return time.perf_counter() - start

  return timed


if __name__ == '__main__':
  side, given_dtype = (*sys.argv[1:], WIDE)[:2]
  if side == 'distill':
    launch.keep_memory()        # as distill.main does
    serve(bench_step.timed_step(Sizes(), dtype=given_dtype))
  else:
    serve(_timed_torch_step(Sizes(), side, given_dtype))
