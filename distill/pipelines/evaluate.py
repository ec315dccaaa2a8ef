"""Any models that are there, side by side: runs, exports, programs, Hugging Face folders.

All answer the same examples. A model of texts reads them by its own tokenizer, and all are padded
and timed at the same widths, as far as a model has room.
"""
import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from distill import lookup, predict, sharding
from distill.data import batches, images, tokenizer
from distill.data.sets import Dataset, Split
from distill.disk import replace
from distill.evaluate import tiers
from distill.models.stablehlo import Program
from distill.pipelines import exported, nodes, plan, reported
from distill.pipelines.judging import Judging, Model, judging
from distill.train import Run
from distill.types import Status, Stop


def run(config: Mapping[str, Any], this: Run) -> dict[str, Any]:
  """Measures the models, writes the report and returns it."""
  spec = lookup.call(nodes.Evaluation, config, 'config')
  listed = {name: lookup.call(nodes.ModelNode, node, f'models.{name}')
            for name, node in spec.models.items()}
  asked = {name: spec.tier for name, node in listed.items() if node.role == 'student'}
  told = judging(spec)
  tiers.limits(told.evaluate.tiers, asked)
  sharding.once(lambda: plan.same_corpus(told.dataset, this))
  if there := reported.before(this):
    return there
  widths = _widths(told, spec.data.get('widths'))
  models = [_model(name, node, told, widths, this) for name, node in listed.items()]
  sharding.once(lambda: replace(this.workdir / 'metrics.jsonl', _curves(listed)))
  return reported.reported(config, models, told, asked, this)


def _widths(told: Judging, widths: Sequence[int] | None) -> tuple[int, ...]:
  split = told.dataset.splits[told.evaluate.split]
  return tuple(map(int, lookup.call(batches.checked_widths, {'widths': widths}, 'data',
                                    split=split)))


def _model(name: str, node: nodes.ModelNode, told: Judging, widths: tuple[int, ...],
           run: Run) -> Model:
  """The model, once it is sure that it can be asked."""
  pure, weights, card = predict.opened(node.place, f'models.{name}', model=node.model)
  program = card.get('program', {})
  if program and 'bytes' not in program:
    raise Stop(Status.CHECKPOINT, f'models.{name}: {node.place} does not say what its weights '
               'take: export it again')
  _check(name, card, told)
  dataset = told.dataset
  if not dataset.pixels and card['tokenizer_sha256'] != dataset.tokenizer_sha256:
    dataset = _read_by(name, node.place, card, told)
    room = dataset.sizes['length']
    widths = (*[w for w in widths if w < room][1 - batches.MOST_WIDTHS:], room)
    run.log.say(f'{name}: reads the texts by its own tokenizer')
  model = Model(name, node.role, pure, weights, {'place': node.place, 'model': dict(node.model)},
                dataset, widths, node.teachers, node.saw, node.spent, program, _note(card, told))
  if model.note:
    run.log.say(f'{name}: {model.note}')
  _check_outputs(model, told)
  return model


def _note(card: Mapping[str, Any], told: Judging) -> str:
  """A warning where nobody knows that the examples are new to a model."""
  if card.get('fingerprint') == told.dataset.fingerprint:
    return ''
  trained = f'was trained on other data ({card["data"]})' if 'data' in card else (
      'what it was trained on is not known')
  return f'{trained}: it may have seen examples of {told.evaluate.split}'


def _check_outputs(model: Model, told: Judging) -> None:
  """Stops unless the model gives what the task reads."""
  batch = told.batches(model.dataset.splits[told.evaluate.split], model.widths)[0]
  gives = ('logits',) if isinstance(model.pure, Program) else jax.eval_shape(
      lambda *weights: model.pure(*weights, batch, train=False, key=None)[0], *model.weights)
  if lacks := sorted({*told.task.reads} - {*gives}):
    raise Stop(Status.MISFIT, f'models.{model.name} gives no {lacks[0]}, by which the task judges: '
               'only models of one task stand side by side; --config=FILE chooses the data')


def _check(name: str, card: Mapping[str, Any], told: Judging) -> None:
  """Stops unless a model takes what the data has and gives what the task asks for."""
  data, where = told.dataset, f'models.{name}'
  why = 'only models of one task and its labels stand side by side; --config=FILE chooses the data'
  if card.get('pixels', {}) != data.pixels:
    raise Stop(Status.MISFIT, f'{where} takes {images.told(card.get("pixels", {}))}, and '
               f'{data.name} has {images.told(data.pixels)}: {why}')
  if lacks := {path.split('/')[0] for path in card.get('fresh', ())} - {*told.untrained}:
    raise Stop(Status.MISFIT, f'{where} has no {min(lacks)}: it is a pretrained encoder, which '
               'must be trained before it can answer')
  if told.untrained:
    if card['tokenizer_sha256'] != data.tokenizer_sha256:
      raise Stop(Status.MISFIT, f'{where}: its words are not those of {data.name}: masked words of '
                 'other tokenizers cannot be compared')
    return
  its, classes = tuple(card['classes']), data.classes
  outputs = card['model'].get('classes', max(1, len(its)))
  same = [label.casefold() for label in its] == [label.casefold() for label in classes]
  if outputs != data.sizes['classes'] or not (same or exported.nameless(its)):
    said = lambda labels: ', '.join(labels) or 'numbers'
    raise Stop(Status.MISFIT, f'{where} tells {said(its)}; {data.name} has {said(classes)}'
               f'{", in this order" * (sorted(its) == sorted(classes))}: {why}')


def _read_by(name: str, place: str, card: Mapping[str, Any], told: Judging) -> Dataset:
  """The data with the texts of its judged splits as another tokenizer reads them."""
  data = told.dataset
  made, length = tokenizer.read(place, f'models.{name}'), min(card['length'], data.sizes['length'])
  splits = dict(data.splits)
  for split in told.splits:
    examples = data.splits[split]
    columns = tokenizer.encode(made, list(examples.text), length=length)
    splits[split] = Split({**examples.columns, **columns}, examples.text)
  return dataclasses.replace(
      data, splits=splits, tokenizer=made, tokenizer_sha256=card['tokenizer_sha256'],
      special=tokenizer.special(made),
      sizes={**data.sizes, 'length': length, 'vocabulary': tokenizer.entries(made)})


def _curves(models: Mapping[str, nodes.ModelNode]) -> str:
  """What their runs logged, by the names that the models have here."""
  lines = []
  for name, node in models.items():
    path = pathlib.Path(node.curves)
    if node.curves and path.is_file():
      rows = map(json.loads, path.read_text('utf-8').splitlines())
      lines += [json.dumps({**row, 'stage': name}) for row in rows if row['stage'] == node.stage]
  return ''.join(f'{line}\n' for line in lines)
