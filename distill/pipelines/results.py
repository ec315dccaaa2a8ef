"""The end of every pipeline: models are measured side by side, and the report is written."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill import records as records_of
from distill import report, sharding
from distill.disk import failpoint
from distill.measure import machine, quality
from distill.pipelines import costs, explain
from distill.pipelines.identities import config_sha256
from distill.pipelines.judge import Judge, Model, teacher_of
from distill.report import tiers
from distill.runs import Run
from distill.types import Records


def existing_report(run: Run) -> dict[str, Any] | None:
  """Returns the report of this workdir; None if it has none yet."""
  if not sharding.on_first_process((run.workdir / 'report.json').exists):
    return None
  run.log.say(f'finished before: the report is {run.workdir / "report.html"}')
  return report.read(run.workdir)


def write_report(config: Mapping[str, Any], models: Sequence[Model], judge: Judge,
                 asked: Mapping[str, str], run: Run, *,
                 padding_share: float | None = None) -> dict[str, Any]:
  """Measures every model, writes the report and returns it.

  `asked` are the tiers that students are to reach, '' for none. Predictions and explanations are
  made once and kept in `records/`.
  """
  limits = tiers.limits(judge.evaluate.tiers, asked)
  asks = {model.name: judge.ask(model) for model in models}
  records = {split: {m.name: records_for(m, asks[m.name], split, judge, run) for m in models}
             for split in judge.splits}
  run.stop_if_preempted()
  explained = explain.explain_models(models, asks, records[judge.evaluate.split], judge, run)
  further = {split: quality_and_gain(models, found, judge) for split, found in records.items()}
  main = further.pop(judge.evaluate.split)
  measured = costs.measure(models, judge, run)

  def entry(model: Model) -> dict[str, Any]:
    name = model.name
    fields = {'name': name, 'role': model.role, 'teachers': list(model.teachers),
              'saw': model.seen, **main[name], **measured[name], **explained[name], 'tier': None}
    if further:
      fields['also'] = {split: found[name] for split, found in further.items()}
    if model.note:
      fields['note'] = model.note
    return fields

  data = judge.dataset
  found = {
      'schema': 1, 'config_name': run.name, 'config_sha256': config_sha256(config),
      'seed': config['seed'], 'versions': {**data.versions, **machine.versions()},
      'hardware': machine.hardware(),
      'data': {'name': data.name, 'fingerprint': data.fingerprint,
               'splits': {name: len(split) for name, split in data.splits.items()}},
      'padding_share': padding_share,
      'task': {'primary': judge.task.primary, 'split': judge.evaluate.split},
      'models': [entry(m) for m in models],
      'training': {m.name: m.training_cost for m in models if m.training_cost}}
  sharding.on_first_process(lambda: report.write(
      run.workdir, tiers.add_verdicts(found, limits, asked), run.log.rows()))
  return report.read(run.workdir)


def quality_and_gain(models: Sequence[Model], records: Mapping[str, Records],
                     judge: Judge) -> dict[str, dict[str, Any]]:
  """Computes every model's quality on a split, its retention, and its gain over the baseline."""
  teachers = {m.name: teacher.name for m in models if (teacher := teacher_of(m, models))}
  baselines = {m.baseline_of: m.name for m in models if m.baseline_of}
  return quality.side_by_side(judge.task, records, teachers, baselines,
                              resamples=judge.evaluate.resamples)


def records_for(model: Model, ask: Callable, split: str, judge: Judge, run: Run) -> Records:
  """Returns a model's records of a split, made once and kept in `records/`."""
  suffix = '' if split == judge.evaluate.split else f'-{split}'

  def make() -> Records:
    examples = model.splits[split]
    run.log.say(f'{model.name}: answers {len(examples):,} {model.modality.noun} of {split}')
    rows = judge.batches(examples, model.modality)
    return records_of.collect(ask, model.weights, rows, judge.task, judge.layout, model=model.pure,
                              title=f'{model.name}, {split}')
  found = records_of.cached(run.workdir / 'records' / f'{model.name}{suffix}.npz', make)
  failpoint('recorded', model.name)
  return found
