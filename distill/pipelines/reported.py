"""How every pipeline ends: its models measured side by side, and the report."""
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distill import records as records_of
from distill import report, sharding
from distill.disk import reach
from distill.measure import machine, quality
from distill.pipelines import costs, reasons
from distill.pipelines.identities import config_sha256
from distill.pipelines.judging import Judging, Model, teacher_of
from distill.report import tiers
from distill.runs import Run
from distill.types import Records


def before(run: Run) -> dict[str, Any] | None:
  """The report, if this workdir has one."""
  if not sharding.once((run.workdir / 'report.json').exists):
    return None
  run.log.say(f'finished before: the report is {run.workdir / "report.html"}')
  return report.read(run.workdir)


def reported(config: Mapping[str, Any], models: Sequence[Model], told: Judging,
             asked: Mapping[str, str], run: Run, *,
             padding_share: float | None = None) -> dict[str, Any]:
  """Measures every model, writes the report and returns it.

  `asked` are the tiers that students are to reach, '' for none. Predictions and what was seen
  inside are kept in `records/`, made once.
  """
  limits = tiers.limits(told.evaluate.tiers, asked)
  asks = {model.name: told.ask(model) for model in models}
  records = {split: {m.name: recorded(m, asks[m.name], split, told, run) for m in models}
             for split in told.splits}
  run.stop_if_preempted()
  why = reasons.reasons(models, asks, records[told.evaluate.split], told, run)
  judged = {split: judgements(models, of, told) for split, of in records.items()}
  main = judged.pop(told.evaluate.split)
  spent = costs.measured(models, told, run)

  def entry(model: Model) -> dict[str, Any]:
    also = {split: of[model.name] for split, of in judged.items()}
    return {'name': model.name, 'role': model.role, 'teachers': list(model.teachers),
            'saw': model.saw, **main[model.name], **spent[model.name], **why[model.name],
            'tier': None, **({'also': also} if also else {}),
            **({'note': model.note} if model.note else {})}

  data = told.dataset
  found = {
      'schema': 1, 'config_name': run.name, 'config_sha256': config_sha256(config),
      'seed': config['seed'], 'versions': {**data.versions, **machine.versions()},
      'hardware': machine.hardware(),
      'data': {'name': data.name, 'fingerprint': data.fingerprint,
               'splits': {name: len(split) for name, split in data.splits.items()}},
      'padding_share': padding_share,
      'task': {'primary': told.task.primary, 'split': told.evaluate.split},
      'models': [entry(m) for m in models],
      'training': {m.name: m.spent for m in models if m.spent}}
  sharding.once(lambda: report.write(
      run.workdir, tiers.judged(found, limits, asked), run.log.rows()))
  return report.read(run.workdir)


def judgements(models: Sequence[Model], records: Mapping[str, Records],
               told: Judging) -> dict[str, dict[str, Any]]:
  """Every model's quality on a split, what it kept of the teacher's and gained on the baseline."""
  teachers = {m.name: teacher.name for m in models if (teacher := teacher_of(m, models))}
  baselines = {m.baseline_of: m.name for m in models if m.baseline_of}
  return quality.side_by_side(told.task, records, teachers, baselines,
                              resamples=told.evaluate.resamples)


def recorded(model: Model, ask: Callable, split: str, told: Judging, run: Run) -> Records:
  """The model's records of a split, kept in `records/`; made once."""
  suffix = '' if split == told.evaluate.split else f'-{split}'

  def make() -> Records:
    examples = model.splits[split]
    run.log.say(f'{model.name}: answers {len(examples):,} {model.modality.noun} of {split}')
    rows = told.batches(examples, model.modality)
    return records_of.records(ask, model.weights, rows, told.task, told.layout, model=model.pure,
                              title=f'{model.name}, {split}')
  found = records_of.kept(run.workdir / 'records' / f'{model.name}{suffix}.npz', make)
  reach('recorded', model.name)
  return found
