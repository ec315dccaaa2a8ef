"""Runs that differ in their seeds alone: each stage of all of them trained by one program."""
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from distill import formats, sharding, train
from distill.pipelines import plan
from distill.pipelines.compare import following, scoring
from distill.pipelines.setting import setting
from distill.student import under
from distill.train import Run
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
  for several in zip(*(each.trained for each in told), strict=True):
    name, model = several[0].stage.name, several[0].stage.student.model
    todo = [k for k, trained in enumerate(several) if not plan.left(trained, runs[k])]
    if len({several[k].identity for k in todo}) < len(todo):
      raise Stop(Status.CONFIG, f'{name} is one for all seeds, and must be trained first')
    evaluate, ended = scoring(model, told[0], name), {k: ({}, {}) for k in todo}
    for parts in zip(*(several[k].stages for k in todo), strict=True):
      runs[0].log.say(f'{parts[0].name}: {len(todo)} seeds')
      stages = [dataclasses.replace(part, evaluate=evaluate, start=functools.partial(
          following, part, ended[k])) for k, part in zip(todo, parts, strict=True)]
      ready = train.prepared(stages[0], {t.name: t.shapes for t in stages[0].teachers})
      found = train.together(stages, ready, [runs[k] for k in todo])
      ended = {k: left for k, (*left, _) in zip(todo, found, strict=True)}
    for k, trained in enumerate(several) if several[0].role in ('teacher', 'assistant') else ():
      told[k].weights[name] = (
          sharding.on_host(tuple(under(part, 'model/') for part in ended[k])) if k in ended
          else formats.load(str(plan.shared(trained, runs[k])))[1])
