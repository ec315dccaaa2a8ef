"""A teacher whose answers the data has: it has no model, no weights and no place in the report."""
import sys
import textwrap

import pytest

from distill import launch, runs
from distill.logs import Log
from distill.pipelines import compare
from distill.types import Status, Stop

SOURCE = '''
import dataclasses

import numpy as np

from distill.data import digits
from distill.types import Field


def Answered():
  """The digits with logits of a teacher that is right and fairly sure."""
  data = digits.Digits()

  def answered(split):
    logits = 5 * np.eye(10, dtype=np.float32)[split.index['label']]
    return dataclasses.replace(
        split, fields={**split.fields, 'oracle/logits': Field((10,), 'float32')},
        fetch=lambda rows: {**split.fetch(rows), 'oracle/logits': logits[rows]})
  return dataclasses.replace(
      data, splits={name: answered(split) for name, split in data.splits.items()})
'''
NODE = {
    'seed': 0, 'data': {'name': 'answered:Answered', 'seed': 0, 'batch_size': 16, 'labelled': 0.1},
    'task': {'name': 'classification.Classification'}, 'teachers': {'oracle': {'source': 'fields'}},
    'student': {'model': {'name': 'resnet.ResNet', 'depth': 8, 'widths': (4, 4, 8, 16)}},
    'objective': {
        'soft': {'loss': 'logits.kl',
                 'reads': {'student': 'student/logits', 'teacher': 'oracle/logits'}},
        'hard': {'loss': 'supervised.cross_entropy', 'mask': 'batch/labelled',
                 'reads': {'student': 'student/logits', 'label': 'batch/label'}}},
    'optimizer': {'rate': 3e-3}, 'train': {'steps': 20, 'log_every': 10},
    'evaluate': {'cost': False, 'resamples': 20}}


@pytest.fixture
def run(tmp_path, monkeypatch):
  (tmp_path / 'answered.py').write_text(textwrap.dedent(SOURCE))
  monkeypatch.syspath_prepend(tmp_path)
  monkeypatch.setattr(launch, 'keep_memory', lambda: None)
  log = Log(tmp_path)
  yield lambda node: compare.run(node, runs.Run('answered', tmp_path, log))
  log.close()
  sys.modules.pop('answered', None)


def test_a_student_learns_from_answers_of_the_data(run):
  report = run(NODE)
  assert [(m['name'], m['teachers'], m['retention']) for m in report['models']] == [
      ('student', [], None), ('baseline', [], None)]
  assert report['models'][0]['gain']['accuracy']['value'] > 0


def test_it_has_neither_a_model_nor_training(run):
  for more in {'init': 'x'}, {'train': {'steps': 3}}, {'model': {'name': 'resnet.ResNet'}}:
    with pytest.raises(Stop, match="teachers.oracle.source='fields': its outputs are the data's"):
      run({**NODE, 'teachers': {'oracle': {'source': 'fields', **more}}})


def test_data_without_its_answers_is_refused(run):
  line = "teachers.oracle.source='fields': the batch has no field oracle/…; it has id, image, label"
  with pytest.raises(Stop, match=line) as stop:
    run({**NODE, 'data': {**NODE['data'], 'name': 'digits.Digits'}})
  assert stop.value.status == Status.MISFIT


def test_a_source_that_is_not_known_is_refused(run):
  with pytest.raises(Stop, match="teachers.oracle.source='disk' must be 'live', 'fields' or"):
    run({**NODE, 'teachers': {'oracle': {'source': 'disk'}}})
