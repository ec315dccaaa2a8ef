"""Pipeline: train teachers, the student, and the same student without a teacher; then report.

A teacher is trained after those that it learns from. Each stage resumes from its last checkpoint;
a finished run prints where its report is.
"""
from collections.abc import Mapping
from typing import Any

from distill import launch, sharding
from distill.data import batches
from distill.pipelines import forecast, jobs, results
from distill.pipelines.jobs import Setup
from distill.pipelines.setup import build_setup
from distill.report import tiers
from distill.runs import Run


def run(config: Mapping[str, Any], run: Run) -> dict[str, Any]:
  """Trains the stages left to train, measures every model, writes the report and returns it."""
  asked = {'student': config['tier']} if 'tier' in config else {}
  return train_and_report(config, build_setup(config), asked, run)


def train_and_report(config: Mapping[str, Any], setup: Setup, asked: Mapping[str, str],
                     run: Run) -> dict[str, Any]:
  """Runs the jobs of a run, measures every model, writes the report and returns it.

  `asked` are the tiers that students are to reach, by a student's name; '' for none.
  """
  tiers.limits(setup.evaluate.tiers, asked)         # before anything is trained
  sharding.on_first_process(lambda: forecast.check_same_data(setup.dataset, run))
  if report := results.existing_report(run):
    return report
  for note in setup.dataset.notes:
    run.log.say(f'{setup.dataset.name}: {note}')
  prepared = forecast.prepare_stages(setup, run)
  with launch.compiled_ahead(forecast.compilations(prepared, run)):
    models = jobs.run_jobs(setup, prepared, run)
  padding_share = batches.padding_share(setup.dataset.splits['train'],
                                        widths=dict(setup.modality.widths))
  return results.write_report(config, models, setup, asked, run, padding_share=padding_share)
