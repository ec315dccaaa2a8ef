"""Runs that differ in their seeds alone: each stage of all of them trained by one program."""
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from distill import formats, sharding, train
from distill.pipelines import jobs, plan
from distill.pipelines.jobs import Load, Train
from distill.pipelines.setting import setting
from distill.runs import Run
from distill.student import subtree
from distill.teachers import Weights
from distill.types import Status, Stop


def together(configs: Sequence[Mapping[str, Any]], runs: Sequence[Run]) -> None:
  """Trains what runs of `compare` have left to train, and leaves their checkpoints.

  `compare.run` then finds every stage finished, exports it and reports. Texts must have one width:
  padded to the widest of a step they would draw other dropout than alone.
  """
  alike = [{**config, 'seed': 0, 'data': {**config['data'], 'seed': 0}} for config in configs]
  if any(config != alike[0] for config in alike):
    raise Stop(Status.CONFIG, 'these runs differ in more than their seeds')
  told = [setting(config) for config in configs]
  for axis, widths in told[0].modality.widths.items():
    if len(widths) > 1:
      raise Stop(Status.CONFIG, 'the seeds of a step have examples of other widths along '
                 f'{axis!r}, of {widths}: give data.widths={widths[-1:]}')
  for each, run in zip(told, runs, strict=True):
    plan.same_corpus(each.dataset, run)
  weights = [{job.name: job.weights for job in each.jobs if isinstance(job, Load)}
             for each in told]
  for several in zip(*(each.trained for each in told), strict=True):
    todo = [k for k, job in enumerate(several) if not jobs.left(job, runs[k])]
    if len({several[k].identity for k in todo}) < len(todo):
      raise Stop(Status.CONFIG,
                 f'{several[0].name} is one for all seeds, and must be trained first')
    scores = jobs.scoring(several[0].stage.student.model, told[0], several[0].reads)
    ended = _trained([several[k] for k in todo], [weights[k] for k in todo],
                     [runs[k] for k in todo], scores) if todo else []
    found = dict(zip(todo, ended, strict=True))
    for k, job in enumerate(several) if several[0].role in ('teacher', 'assistant') else ():
      weights[k][job.name] = found[k] if k in found else formats.load(
          str(jobs.shared(job, runs[k])))[1]


def _trained(several: Sequence[Train], weights: Sequence[Mapping[str, Weights]],
             runs: Sequence[Run], scores: Any) -> list[Weights]:
  """Trains the stages of equal jobs; their weights."""
  before = [({}, {}) for _ in several]
  for parts in zip(*(job.stages for job in several), strict=True):
    runs[0].log.say(f'{parts[0].name}: {len(parts)} seeds')
    stages = [dataclasses.replace(part, evaluate=scores) for part in parts]
    ready = train.prepared(stages[0], {t.name: t.shapes for t in stages[0].teachers})
    before = [left for *left, _ in train.together(stages, ready, weights, runs, before)]
  return [sharding.on_host(tuple(subtree(part, 'model/') for part in left)) for left in before]
