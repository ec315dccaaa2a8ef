"""Any models that are there, side by side: runs, exports, programs, Hugging Face folders.

All answer the same examples. A model may read them by an encoding of its own, a tokenizer, and all
are padded and timed at the same widths, as far as a model has room.
"""
import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from distill import formats, hub, lookup, modalities, numbers, sharding, tasks
from distill.data import batches
from distill.data.sets import Split
from distill.disk import replace
from distill.modalities import Modality
from distill.models.functional import splits_of
from distill.pipelines import exported, nodes, plan, reported
from distill.pipelines.checks import check_reads
from distill.pipelines.judging import Judging, Model, judging
from distill.report import tiers
from distill.runs import Run
from distill.types import Status, Stop

Widths = Mapping[str, tuple[int, ...]]


def run(config: Mapping[str, Any], this: Run) -> dict[str, Any]:
  """Measures the models, writes the report and returns it."""
  spec = lookup.call(nodes.Evaluation, config, 'config')
  listed = {name: lookup.call(nodes.ModelNode, node, f'models.{name}')
            for name, node in spec.models.items()}
  asked = {name: spec.tier for name, node in listed.items() if node.role == 'student'}
  told = judging(spec)
  tiers.limits(told.evaluate.tiers, asked)
  sharding.on_first_process(lambda: plan.same_corpus(told.dataset, this))
  if there := reported.before(this):
    return there
  widths = _widths(told, spec.data.get('widths'))
  before = dict(zip([*listed][1:], listed, strict=False))      # a baseline follows its student
  models = [_model(name, node, told, widths, before[name] if node.role == 'baseline' else '', this)
            for name, node in listed.items()]
  told = dataclasses.replace(told, layout=dataclasses.replace(
      told.layout, splits=splits_of(model.pure for model in models)))
  sharding.on_first_process(lambda: replace(this.workdir / 'metrics.jsonl', _curves(listed)))
  return reported.reported(config, models, told, asked, this)


def _widths(told: Judging, widths: batches.WidthsNode) -> Widths:
  split = told.dataset.splits[told.evaluate.split]
  found = lookup.call(batches.axis_widths, {'widths': widths}, 'data', split=split)
  return modalities.with_widths(told.dataset.modality, found).widths


def _model(name: str, node: nodes.ModelNode, told: Judging, widths: Widths, baseline_of: str,
           run: Run) -> Model:
  """The model, once it is sure that it can be asked."""
  pure, weights, card = formats.open_model(node.place, f'models.{name}', model=node.model)
  if node.reads:
    card = {**card, 'reads': dict(node.reads)}
  folder = hub.folder(node.place, f'models.{name}')
  modality, splits = _reading(name, card, folder, told, widths, run)
  _check_classes(name, card, told)
  model = Model(name, node.role, pure, weights, card,
                {'place': node.place, 'model': dict(node.model)}, modality, splits,
                node.teachers, node.saw, node.spent, _note(card, told), baseline_of)
  formats.format_of(folder).sizes(folder, weights, card)         # before anything is asked
  if model.note:
    run.log.say(f'{name}: {model.note}')
  _check_outputs(model, told)
  return model


def _reading(name: str, card: Mapping[str, Any], folder: pathlib.Path, told: Judging,
             widths: Widths, run: Run) -> tuple[Modality, Mapping[str, Split]]:
  """The modality by which a model reads the data, and the splits as it reads them.

  Where a model encodes raw examples otherwise than the data does, it reads them in its own way, if
  they were kept; but not where the task judges the encoded inputs themselves.
  """
  data, where = told.dataset, f'models.{name}'
  same = dataclasses.replace(data.modality, widths=dict(widths))
  its = formats.modality(card, folder)
  why = its.misfit(data.modality)
  reads = card.get('reads', {})
  check_reads(reads, data, told.splits, where)
  if not why:
    return same, {name: split.reading(reads) for name, split in data.splits.items()}
  room = {axis: min(size, its.room.get(axis, size)) for axis, size in data.modality.room.items()}
  its = its.limited(room)
  read = {split: told.task.labelled and its.read(data.splits[split].reading(reads))
          for split in told.splits}
  if not all(read.values()):
    raise Stop(Status.MISFIT, f'{where}: {why}: only models of one task and its labels stand side '
               'by side; --config=FILE chooses the data')
  own = {axis: (*[w for w in sizes if w < room[axis]][1 - batches.MAX_WIDTHS:], room[axis])
         for axis, sizes in widths.items()}
  run.log.say(f'{name}: reads the {data.modality.noun} by its own encoding')
  return dataclasses.replace(its, widths=own), {**data.splits, **read}


def _note(card: Mapping[str, Any], told: Judging) -> str:
  """A warning where nobody knows that the examples are new to a model."""
  if card.get('fingerprint') == told.dataset.fingerprint:
    return ''
  trained = f'was trained on other data ({card["data"]})' if 'data' in card else (
      'what it was trained on is not known')
  return f'{trained}: it may have seen examples of {told.evaluate.split}'


def _check_outputs(model: Model, told: Judging) -> None:
  """Stops unless the model gives what the task reads."""
  split = model.splits[told.evaluate.split]
  batch = told.batches(split, model.modality)[0]
  gives = jax.eval_shape(lambda *weights: model.pure(*weights, batch, train=False, key=None)[0],
                         *model.weights)
  if lacks := sorted({*told.task.outputs} - {*gives}):
    raise Stop(Status.MISFIT, f'models.{model.name} gives no {lacks[0]}, by which the task judges: '
               'only models of one task stand side by side; --config=FILE chooses the data')
  told.check(model.pure, model.weights, split, model.modality, f'models.{model.name}')


def _check_classes(name: str, card: Mapping[str, Any], told: Judging) -> None:
  """Stops unless a model has the parts and the classes that the task asks for."""
  data, where = told.dataset, f'models.{name}'
  if lacks := {path.split('/')[0] for path in card.get('fresh', ())} & {*told.task.parts}:
    raise Stop(Status.MISFIT, f'{where} has no {min(lacks)}: it is a pretrained encoder, which '
               'must be trained before it can answer')
  if not told.task.labelled:
    return
  tasks.check_exclusive(card, where, 'only models of one task stand side by side')
  its, classes = tuple(card['classes']), data.names
  outputs = card['model'].get('classes', max(1, len(its)))
  same = [label.casefold() for label in its] == [label.casefold() for label in classes]
  if outputs != data.sizes.get('classes', outputs) or not (same or exported.nameless(its)):
    describe = lambda labels: ', '.join(labels) or 'numbers'
    raise Stop(Status.MISFIT, f'{where} tells {describe(its)}; {data.name} has {describe(classes)}'
               f'{", in this order" * (sorted(its) == sorted(classes))}: only models of one task '
               'and its labels stand side by side; --config=FILE chooses the data')


def _curves(models: Mapping[str, nodes.ModelNode]) -> str:
  """What their runs logged, by the names that the models have here."""
  lines = []
  for name, node in models.items():
    path = pathlib.Path(node.curves)
    if node.curves and path.is_file():
      rows = map(json.loads, path.read_text('utf-8').splitlines())
      lines += [numbers.dumps({**row, 'stage': name}, node.curves) for row in rows
                if row['stage'] == node.stage]
  return ''.join(f'{line}\n' for line in lines)
