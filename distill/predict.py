"""A module over a split, as per-example records; and the command that asks an exported model.

python -m distill.predict --model=DIR "a text" "another"
python -m distill.predict --model=DIR < texts.txt        # one text a line
"""
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from distill import checkpoint, lookup, sharding, step
from distill.data import tokenizer
from distill.models.pure import Pure
from distill.teachers import Weights
from distill.types import Batch, Records, Status, Stop

USAGE = 'usage: python -m distill.predict --model=DIR ["a text" …], or one text a line on stdin'


class Task(Protocol):
  """What prediction needs of a task."""

  def predict(self, outputs: Records, batch: Batch) -> Records: ...


def records(eval_step: Callable, weights: Weights, batches: Sequence[Batch],
            task: Task) -> Records:
  """What the task keeps of every example, in the order of the batches."""
  layout = sharding.by_example(sharding.mesh(), len(batches[0]['valid']))
  weights = jax.device_put(weights, sharding.replicated(sharding.mesh()))
  found = []
  for i in range(len(batches)):
    outputs = eval_step(*weights, jax.device_put(batches[i], layout))
    found.append(task.predict(jax.device_get(outputs), batches[i]))
  return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def exported(folder: str) -> tuple[Pure, Weights, Mapping[str, Any]]:
  """The model of an export folder, its weights, and its card."""
  arrays, card = checkpoint.load(folder)
  model = Pure(lambda rngs: lookup.build('models', card['model'], f'{folder}: model', rngs=rngs))
  parts = model.shapes
  shapes = parts[0] | parts[1]
  for path in sorted(shapes.keys() | arrays.keys()):
    here, there = (x[path].shape if path in x else 'missing' for x in (arrays, shapes))
    if here != there:
      raise Stop(Status.CHECKPOINT, f'{folder}: {path} is {here} in the weights and {there} in the '
                 f'model {card["model"]["name"]}')
  return model, tuple({path: jnp.asarray(arrays[path]) for path in part} for part in parts), card


def answers(folder: str, texts: Sequence[str]) -> list[dict[str, Any]]:
  """For every text: the label, its probability, and the probabilities of all classes."""
  model, weights, card = exported(folder)
  columns = tokenizer.encode(checkpoint.text(folder, 'tokenizer.json'), texts, length=card['widths'][-1])
  eval_step, found = step.make_eval_step(model), []
  for row in range(len(texts)):           # one at a time: an answer doesn't depend on its company
    width = next(w for w in card['widths'] if w >= columns['length'][row])
    tokens, types = (columns[name][row:row + 1, :width] for name in ('tokens', 'types'))
    mask = (np.arange(width) < columns['length'][row]).astype(np.float32)[None]
    logits = eval_step(*weights, {'tokens': tokens, 'types': types, 'mask': mask})['logits']
    chances = np.asarray(jax.nn.softmax(logits[0]), np.float64)
    best = int(chances.argmax())
    found.append({'text': texts[row], 'label': card['classes'][best],
                  'probability': round(float(chances[best]), 4),
                  'probabilities': {name: round(float(p), 4)
                                    for name, p in zip(card['classes'], chances, strict=True)}})
  return found


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  options = [a for a in arguments if a.startswith('--')]
  texts = [a for a in arguments if not a.startswith('--')]
  folder = next((o.removeprefix('--model=') for o in options if o.startswith('--model=')), '')
  try:
    if not folder or len(options) != 1:
      raise Stop(Status.CONFIG, USAGE)
    if not texts and not sys.stdin.isatty():
      texts = [line.rstrip('\n') for line in sys.stdin if line.strip()]
    if not texts or not all(t.strip() for t in texts):
      raise Stop(Status.DATA, f'there is no text to classify, or an empty one; {USAGE}')
    rows = answers(folder, texts)
  except Stop as stop:
    print(f'distill.predict: {stop}', file=sys.stderr)
    return int(stop.status)
  if sys.stdout.isatty():
    width = max(len(row['label']) for row in rows)
    for row in rows:
      print(f'{row["label"]:<{width}}  {row["probability"]:.3f}  {row["text"][:76]}')
  else:
    for row in rows:
      print(json.dumps(row, ensure_ascii=False))
  return int(Status.DONE)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
