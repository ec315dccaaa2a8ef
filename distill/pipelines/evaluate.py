"""Pipeline: compare finished models: runs, exports, programs, Hugging Face folders.

All models answer the same examples. A model may read them by its own encoding, such as another
tokenizer. All are padded and timed at the same widths, up to a model's longest input.
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
from distill.pipelines import fits, forecast, nodes, results
from distill.pipelines.checks import check_reads
from distill.pipelines.judge import Judge, Model, make_judge
from distill.report import tiers
from distill.runs import Run
from distill.types import Status, Stop

Widths = Mapping[str, tuple[int, ...]]


def run(config: Mapping[str, Any], run: Run) -> dict[str, Any]:
  """Measures the models, writes the report and returns it."""
  spec = lookup.call(nodes.Evaluation, config, 'config')
  listed = {name: lookup.call(nodes.ModelNode, node, f'models.{name}')
            for name, node in spec.models.items()}
  asked = {name: spec.tier for name, node in listed.items() if node.role == 'student'}
  judge = make_judge(spec)
  tiers.limits(judge.evaluate.tiers, asked)
  sharding.on_first_process(lambda: forecast.check_same_data(judge.dataset, run))
  if report := results.existing_report(run):
    return report
  widths = _widths(judge, spec.data.get('widths'))
  before = dict(zip([*listed][1:], listed, strict=False))      # a baseline follows its student
  models = [_model(name, node, judge, widths, before[name] if node.role == 'baseline' else '', run)
            for name, node in listed.items()]
  judge = dataclasses.replace(judge, layout=dataclasses.replace(
      judge.layout, splits=splits_of(model.pure for model in models)))
  sharding.on_first_process(lambda: replace(run.workdir / 'metrics.jsonl', _curves(listed)))
  return results.write_report(config, models, judge, asked, run)


def _widths(judge: Judge, widths: batches.WidthsNode) -> Widths:
  """Returns the widths that examples are padded to, by axis."""
  split = judge.dataset.splits[judge.evaluate.split]
  found = lookup.call(batches.axis_widths, {'widths': widths}, 'data', split=split)
  return modalities.with_widths(judge.dataset.modality, found).widths


def _model(name: str, node: nodes.ModelNode, judge: Judge, widths: Widths, baseline_of: str,
           run: Run) -> Model:
  """Opens a model after checking that it fits the data and the task."""
  pure, weights, card = formats.open_model(node.place, f'models.{name}', model=node.model)
  if node.reads:
    card = {**card, 'reads': dict(node.reads)}
  folder = hub.folder(node.place, f'models.{name}')
  modality, splits = _reading(name, card, folder, judge, widths, run)
  _check_classes(name, card, judge)
  model = Model(name, node.role, pure, weights, card,
                {'place': node.place, 'model': dict(node.model)}, modality, splits,
                node.teachers, node.saw, node.spent, _note(card, judge), baseline_of)
  formats.format_of(folder).sizes(folder, weights, card)         # stops early if it has none
  if model.note:
    run.log.say(f'{name}: {model.note}')
  _check_outputs(model, judge)
  return model


def _reading(name: str, card: Mapping[str, Any], folder: pathlib.Path, judge: Judge,
             widths: Widths, run: Run) -> tuple[Modality, Mapping[str, Split]]:
  """Returns the modality by which a model reads the data, and the splits as it reads them.

  A model with another encoding encodes the raw examples itself, if the data kept them; but not if
  the task evaluates the encoded inputs themselves, as a masked language model's does.
  """
  data, where = judge.dataset, f'models.{name}'
  same = dataclasses.replace(data.modality, widths=dict(widths))
  its = formats.modality(card, folder)
  why = its.misfit(data.modality)
  reads = card.get('reads', {})
  check_reads(reads, data, judge.splits, where)
  if not why:
    return same, {name: split.reading(reads) for name, split in data.splits.items()}
  room = {axis: min(size, its.room.get(axis, size)) for axis, size in data.modality.room.items()}
  its = its.limited(room)
  read = {split: judge.task.labelled and its.read(data.splits[split].reading(reads))
          for split in judge.splits}
  if not all(read.values()):
    raise Stop(Status.MISFIT, f'{where}: {why}: only models of one task and its labels stand side '
               'by side; --config=FILE chooses the data')
  fitting = {axis: (*[w for w in sizes if w < room[axis]][1 - batches.MAX_WIDTHS:], room[axis])
             for axis, sizes in widths.items()}
  run.log.say(f'{name}: reads the {data.modality.noun} by its own encoding')
  return dataclasses.replace(its, widths=fitting), {**data.splits, **read}


def _note(card: Mapping[str, Any], judge: Judge) -> str:
  """Returns a warning that a model may have been trained on the examples; '' if it wasn't."""
  if card.get('fingerprint') == judge.dataset.fingerprint:
    return ''
  trained = 'what it was trained on is not known'
  if 'data' in card:
    trained = f'was trained on other data ({card["data"]})'
  return f'{trained}: it may have seen examples of {judge.evaluate.split}'


def _check_outputs(model: Model, judge: Judge) -> None:
  """Stops unless the model has the outputs that the task reads."""
  split = model.splits[judge.evaluate.split]
  batch = judge.batches(split, model.modality)[0]
  gives = jax.eval_shape(lambda *weights: model.pure(*weights, batch, train=False, key=None)[0],
                         *model.weights)
  lacks = sorted({*judge.task.outputs} - {*gives})
  if lacks:
    raise Stop(Status.MISFIT, f'models.{model.name} gives no {lacks[0]}, by which the task judges: '
               'only models of one task stand side by side; --config=FILE chooses the data')
  judge.check(model.pure, model.weights, split, model.modality, f'models.{model.name}')


def _check_classes(name: str, card: Mapping[str, Any], judge: Judge) -> None:
  """Stops unless a model has the parts and the classes that the task needs."""
  data, where = judge.dataset, f'models.{name}'
  lacks = {path.split('/')[0] for path in card.get('fresh', ())} & {*judge.task.parts}
  if lacks:
    raise Stop(Status.MISFIT, f'{where} has no {min(lacks)}: it is a pretrained encoder, which '
               'must be trained before it can answer')
  if not judge.task.labelled:
    return
  tasks.check_exclusive(card, where, 'only models of one task stand side by side')
  its, classes = tuple(card['classes']), data.names
  outputs = card['model'].get('classes', max(1, len(its)))
  same = [label.casefold() for label in its] == [label.casefold() for label in classes]
  if outputs != data.sizes.get('classes', outputs) or not (same or fits.are_unnamed(its)):
    describe = lambda labels: ', '.join(labels) or 'numbers'
    order = ', in this order' if sorted(its) == sorted(classes) else ''
    raise Stop(Status.MISFIT, f'{where} tells {describe(its)}; {data.name} has {describe(classes)}'
               f'{order}: only models of one task and its labels stand side by side; '
               '--config=FILE chooses the data')


def _curves(models: Mapping[str, nodes.ModelNode]) -> str:
  """Returns the rows that the models' runs logged, with the names that the models have here."""
  lines = []
  for name, node in models.items():
    path = pathlib.Path(node.curves)
    if node.curves and path.is_file():
      rows = map(json.loads, path.read_text('utf-8').splitlines())
      lines += [numbers.dumps({**row, 'stage': name}, node.curves) for row in rows
                if row['stage'] == node.stage]
  return ''.join(f'{line}\n' for line in lines)
