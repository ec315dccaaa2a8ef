"""Pipeline: one set of teachers, a student for each tier, one report.

The config is that of `compare` with `students.NAME` instead of `student`: a student's own `student`
node, the `tier` that it is to reach, and any other whole node among `STUDENT_NODES`. All other
nodes are common. The stages of NAME are called NAME and NAME-baseline.
"""
import re
from collections.abc import Mapping
from typing import Any

from distill import lookup
from distill.pipelines import compare, nodes
from distill.pipelines.jobs import Setup
from distill.pipelines.setup import TAKEN, setup_of
from distill.report import tiers
from distill.runs import Run
from distill.types import Status, Stop

STUDENT_NODES = ('student', 'tier', 'objective', 'optimizer', 'train', 'before', 'schedules',
                 'carry', 'augment')


def run(config: Mapping[str, Any], run: Run) -> dict[str, Any]:
  """Trains the stages left to train, measures every model, writes the report and returns it."""
  students = config['students'] if 'students' in config else {}
  if not students or 'student' in config:
    raise Stop(Status.CONFIG, 'a matrix needs students.NAME, and has no student beside them')
  for name, node in students.items():
    _check(name, node, config)
  asked = {name: node['tier'] if 'tier' in node else '' for name, node in students.items()}
  aim = config['tier'] if 'tier' in config else ''
  tiers.limits({}, asked | {'': aim})
  if aim and aim not in asked.values():
    raise Stop(Status.CONFIG, f'tier={aim!r}: no student is to reach it; they have '
               + ', '.join(f'students.{name}.tier={tier!r}' for name, tier in asked.items()))
  return compare.train_and_report(config, build_setup(config, students), asked, run)


def build_setup(config: Mapping[str, Any], students: Mapping[str, Mapping[str, Any]]) -> Setup:
  """Builds the jobs of the teachers, and of each student with its baseline."""
  common = {key: value for key, value in config.items() if key not in ('students', 'tier')}
  configs = {}
  for name, node in students.items():
    try:
      configs[name] = lookup.call(nodes.Config, {**common, **node}, 'config')
    except Stop as stop:
      raise Stop(stop.status, f'students.{name}: {stop}') from stop
  return setup_of(configs, '{}-baseline')


def _check(name: str, node: Any, config: Mapping[str, Any]) -> None:
  """Stops unless a student's name is free and its node has only nodes of a student."""
  where, teachers = f'students.{name}', config['teachers'] if 'teachers' in config else {}
  if name in (*TAKEN, *teachers) or not re.fullmatch(r'\w+', name):
    raise Stop(Status.CONFIG, f'{where}: {name!r} is taken, or no word; call it something else')
  if not isinstance(node, Mapping) or 'student' not in node:
    raise Stop(Status.CONFIG, f'{where} has no node student')
  for key in node:
    if key not in STUDENT_NODES:
      raise Stop(Status.CONFIG, f'{where}.{key}: students have this in common: give it once, '
                 'beside students' + lookup.nearest(key, STUDENT_NODES))
