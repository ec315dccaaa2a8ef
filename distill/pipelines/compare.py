"""Teachers, each after those that it learns from → student → the same student without a teacher →
report.

Each stage resumes from its last checkpoint; a finished run says where its report is.
"""
from collections.abc import Mapping
from typing import Any

from distill import launch, sharding
from distill.data import batches
from distill.pipelines import jobs, plan, reported
from distill.pipelines.jobs import Setting
from distill.pipelines.setting import setting
from distill.report import tiers
from distill.runs import Run


def run(config: Mapping[str, Any], this: Run) -> dict[str, Any]:
  """Trains what is not yet trained, measures every model, writes the report and returns it."""
  asked = {'student': config['tier']} if 'tier' in config else {}
  return carried_out(config, setting(config), asked, this)


def carried_out(config: Mapping[str, Any], told: Setting, asked: Mapping[str, str],
                this: Run) -> dict[str, Any]:
  """Runs the jobs of a setting, measures every model, writes the report and returns it.

  `asked` are the tiers that students are to reach, by their names, '' for none.
  """
  tiers.limits(told.evaluate.tiers, asked)          # before anything is trained
  sharding.on_first_process(lambda: plan.same_corpus(told.dataset, this))
  if there := reported.before(this):
    return there
  for note in told.dataset.notes:
    this.log.say(f'{told.dataset.name}: {note}')
  announced = plan.announce(told, this)
  with launch.compiled_ahead(plan.programs(announced, this)):
    models = jobs.run_jobs(told, announced, this)
  return reported.reported(config, models, told, asked, this, padding_share=batches.padding_share(
      told.dataset.splits['train'], widths=dict(told.modality.widths)))
