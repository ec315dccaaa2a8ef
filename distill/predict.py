"""A module over a split, as per-example records; and the command that asks an exported model.

python -m distill.predict --model=DIR "a text" "another"
python -m distill.predict --model=DIR < texts.txt        # one text a line
python -m distill.predict --model=DIR digit.npy scan.png        # a model of images

The folder is an export, one of StableHLO too, or a Hugging Face folder.
A tab parts the two texts of a pair. A .npy file holds the pixels of one image or several, as the
data had them: [h w], [h w c] or [n h w c]; any other is a picture, grey or RGB.
"""
import fnmatch
import hashlib
import io
import json
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from distill import checkpoint, hub, lookup, sharding, step
from distill.data import images, tokenizer
from distill.data.sets import Text
from distill.disk import replace
from distill.models import huggingface
from distill.models.pure import Pure
from distill.models.stablehlo import PROGRAM, Program
from distill.teachers import Weights
from distill.types import Batch, Records, Status, Stop

USAGE = ('usage: python -m distill.predict --model=DIR ["a text" … | FILE.npy FILE.png …], '
         'or one a line on stdin')
Named = tuple[dict[str, str], Batch]        # what an answer is about, and the model's batch of one


class Task(Protocol):
  """What prediction needs of a task."""

  def predict(self, outputs: Records, batch: Batch) -> Records: ...


def records(eval_step: Callable, weights: Weights, batches: Sequence[Batch], task: Task,
            layout: sharding.Layout) -> Records:
  """What the task keeps of every example, in the order of the batches."""
  rows = layout.rows(len(batches[0]['valid']), 'evaluate.batch_size')
  weights = sharding.placed(weights, layout.weights(weights))
  found = []
  for batch in map(batches.__getitem__, range(len(batches))):
    outputs = eval_step(*weights, layout.fed({name: x[rows] for name, x in batch.items()}))
    found.append(task.predict(sharding.on_host(outputs), batch))
  return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def kept(path: pathlib.Path, make: Callable[[], Records]) -> Records:
  """The records in a file, which `make` gives the first time; every process must take part."""
  if not sharding.once(path.exists):
    found, file = make(), io.BytesIO()
    np.savez(file, **found)
    sharding.once(lambda: replace(path, file.getvalue()))
  with np.load(path, allow_pickle=False) as archive:
    return dict(archive)


def exported(place: str, where: str = '--model', *, model: Mapping[str, Any] | None = None,
             fresh: Sequence[str] = (), sizes: Mapping[str, int] | None = None,
             seed: int = 0) -> tuple[Pure, Weights, Mapping[str, Any]]:
  """The model of an export or of a Hugging Face folder or hub id, its weights, and its card.

  `model` changes fields that no weight depends on, such as `dropout`. Parameters whose paths
  match a pattern of `fresh`, and heads that the folder lacks, start anew by `seed`; `sizes` are
  those of the data, which a new head has. The card's `fresh` lists them.
  """
  folder = hub.folder(place, where)
  if (folder / PROGRAM).is_file():
    raise Stop(Status.CHECKPOINT, f'{where}: {folder} holds a program: it answers, but has neither '
               'parameters nor layers to take; name the folder that it was exported from')
  arrays, card = _read(folder, where)
  anew = lambda path: any(fnmatch.fnmatchcase(path, pattern) for pattern in fresh)
  node = {**card['model'], **(model or {})}
  if anew('head/kernel') or 'head/kernel' not in arrays:
    card = {**card, 'classes': ()}
    node |= {'classes': sizes['classes']} if sizes else {}
  pure = Pure(lambda rngs: lookup.build('models', node, f'{where}: {folder}', rngs=rngs))
  parts = pure.shapes
  shapes = parts[0] | parts[1]
  for pattern in fresh:
    if not fnmatch.filter(shapes, pattern):
      raise Stop(Status.CONFIG, f'{where}: fresh={pattern!r} matches no parameter; they are named '
                 + ', '.join(sorted(shapes)[:4]) + ', …')
  missing = {path for path in shapes if anew(path) or (
      path not in arrays and path.split('/')[0] in huggingface.PARTS)}
  unasked = {path for path in arrays if path not in shapes and path.startswith('words/')}
  for path in sorted((shapes.keys() | arrays.keys()) - missing - unasked):
    here, there = (x[path].shape if path in x else 'missing' for x in (arrays, shapes))
    if here != there:
      raise Stop(Status.CHECKPOINT, f'{folder}: {path} is {here} in the weights and {there} in the '
                 f'model {node["name"]}')
  started = pure.init(seed, only=missing) if missing else ({}, {})
  weights = tuple({path: new[path] if path in new else jnp.asarray(arrays[path]) for path in part}
                  for part, new in zip(parts, started, strict=True))
  return pure, weights, {**card, 'model': node, 'fresh': sorted(missing)}


def _read(folder: pathlib.Path, where: str) -> tuple[Mapping[str, np.ndarray], Mapping[str, Any]]:
  """Arrays by our paths, and the card; that of a model which isn't ours says what it can."""
  told = huggingface.config(folder)
  if 'card' in told and 'transformers_version' not in told:     # saving there copies our card
    arrays, card = checkpoint.load(folder)
    return huggingface.read(folder).params if 'model_type' in told else arrays, card
  found = huggingface.read(folder)
  length = found.node['length']
  return found.params, {
      'model': {**found.node, 'classes': max(len(found.labels), 1)}, 'classes': found.labels,
      'length': length, 'widths': (length // 4, length // 2, length),
      'tokenizer_sha256': hashlib.sha256(tokenizer.read(str(folder), where).encode()).hexdigest()}


def opened(place: str, where: str = '--model', **how: Any
           ) -> tuple[Pure | Program, Weights, Mapping[str, Any]]:
  """The same, as `exported` takes it, or a program, which has its weights inside."""
  folder = hub.folder(place, where)
  if not (folder / PROGRAM).is_file():
    return exported(place, where, **how)
  told = checkpoint.opened(folder, PROGRAM)
  made = Program((folder / PROGRAM).read_bytes(), str(folder), told['versions']['jax'])
  return made, ({}, {}), told['card']


def whole(place: str, where: str = '--model') -> tuple[Pure | Program, Weights, Mapping[str, Any]]:
  """A model that can answer, its weights, and its card."""
  model, weights, card = opened(place, where)
  if fresh := card.get('fresh'):
    raise Stop(Status.CHECKPOINT, f'{place} has no {fresh[0].split("/")[0]}: it is a '
               'pretrained encoder, which must be trained before it can answer')
  return model, weights, card


def answers(folder: str, inputs: Sequence[str]) -> list[dict[str, Any]]:
  """For every text: the label, its probability, and those of all classes; or a number, `value`.

  A tab parts the two texts of a pair. Of a model of images, `inputs` are files.
  """
  model, weights, card = whole(folder)
  eval_step = step.make_eval_step(model)      # one at a time: none depends on its company
  return [{**said, **_answer(eval_step(*weights, batch)['logits'][0], card['classes'])}
          for said, batch in asked(inputs, card, folder)]


def asked(inputs: Sequence[str], card: Mapping[str, Any], folder: str) -> Iterator[Named]:
  """What the command is given, as batches of one: texts, or of a model of images files."""
  return _images(inputs, card) if 'pixels' in card else _texts(inputs, card, folder)


def _texts(texts: Sequence[str], card: Mapping[str, Any], folder: str) -> Iterator[Named]:
  columns = tokenizer.encode(tokenizer.read(folder, '--model'), [_parted(t) for t in texts],
                             length=card['widths'][-1])
  for row, text in enumerate(texts):
    width = next(w for w in card['widths'] if w >= columns['length'][row])
    tokens, types = (columns[name][row:row + 1, :width] for name in ('tokens', 'types'))
    mask = (np.arange(width) < columns['length'][row]).astype(np.float32)[None]
    yield {'text': text}, {'tokens': tokens, 'types': types, 'mask': mask}


def _images(files: Sequence[str], card: Mapping[str, Any]) -> Iterator[Named]:
  for file in files:
    try:
      raw = (np.load(file, allow_pickle=False) if file.endswith('.npy')
             else _picture(file, card['pixels']))
      whole = images.stacked(raw, card['pixels'])
    except (OSError, ValueError) as error:
      raise Stop(Status.DATA, f'{file}: {error}') from error
    for i, image in enumerate(whole):
      yield ({'image': f'{file}[{i}]' if len(whole) > 1 else file},
             {'image': images.standardised(image[None], card['pixels']),
              'valid': np.ones(1, np.float32)})


def _picture(file: str, pixels: Mapping[str, Any]) -> np.ndarray:
  """The pixels of a picture file of 8 bits, as the data has them."""
  try:
    from PIL import Image
  except ImportError:
    raise Stop(Status.DATA, f'{file}: to read pictures, pip install pillow; or give a .npy '
               'file') from None
  with Image.open(file) as picture:
    if picture.mode not in ('L', 'RGB'):
      raise ValueError(f'its mode is {picture.mode}: convert it to 8 bits, grey (L) or RGB')
    return np.asarray(picture, np.float64) * (pixels['white'] / 255)


def _parted(text: str) -> Text:
  first, *more = text.split('\t')
  if len(more) > 1 or not all(part.strip() for part in (first, *more)):
    raise Stop(Status.DATA, f'{text!r} is neither a text nor two with a tab between them')
  return (first, *more) if more else first


def _answer(logits: jax.Array, classes: Sequence[str]) -> dict[str, Any]:
  if not classes:                         # a regression
    return {'value': round(float(logits[0]), 4)}
  chances = np.asarray(jax.nn.softmax(logits), np.float64)
  best = int(chances.argmax())
  return {'label': classes[best], 'probability': round(float(chances[best]), 4),
          'probabilities': {name: round(float(p), 4)
                            for name, p in zip(classes, chances, strict=True)}}


def main(arguments: Sequence[str]) -> int:
  """The command; returns its exit status."""
  options = [a for a in arguments if a.startswith('--')]
  inputs = [a for a in arguments if not a.startswith('--')]
  folder = next((o.removeprefix('--model=') for o in options if o.startswith('--model=')), '')
  try:
    if not folder or len(options) != 1:
      raise Stop(Status.CONFIG, USAGE)
    if not inputs and not sys.stdin.isatty():
      inputs = [line.rstrip('\n') for line in sys.stdin if line.strip()]
    if not inputs:
      raise Stop(Status.DATA, f'there is nothing to classify; {USAGE}')
    rows = answers(folder, inputs)
  except Stop as stop:
    print(f'distill.predict: {stop}', file=sys.stderr)
    return int(stop.status)
  if sys.stdout.isatty():
    width = max(len(row.get('label', '')) for row in rows)
    for row in rows:
      said = (f'{row["label"]:<{width}}  {row["probability"]:.3f}' if 'label' in row else
              f'{row["value"]:8.3f}')
      print(f'{said}  {row["image"] if "image" in row else row["text"][:76]}')
  else:
    for row in rows:
      print(json.dumps(row, ensure_ascii=False))
  return int(Status.DONE)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
