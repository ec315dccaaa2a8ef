"""A teacher and several students: one run, one report."""
import contextlib
import json
import pathlib

import pytest

from distill import flags, runs
from distill.logs import Log
from distill.pipelines import matrix
from distill.types import Status, Stop

ROOT = pathlib.Path(__file__).parent.parent.parent


def config():
  """Two students of digits, two steps a stage; the smaller one starts from the teacher's head."""
  node = flags.parsed([f'--config={ROOT}/configs/matrix.py:test']).config.to_dict()
  model = lambda *widths: {'name': 'resnet.ResNet', 'depth': 4, 'widths': widths}
  plan = {'steps': 2, 'log_every': 1, 'save_every': 2}
  node['teachers']['teacher'] |= {'model': model(2, 4)}
  node['teachers']['teacher']['train'] |= plan
  node['train'] |= plan
  node['students'] = {
      'small': {'tier': 'ultralight', 'student': {
          'model': model(2, 4), 'init': 'teacher', 'fresh': ('head/*',)}},
      'wide': {'tier': 'edge', 'student': {'model': model(2, 2)},
               'optimizer': node['optimizer'] | {'rate': 1e-3}}}
  return node


def run(workdir, node):
  with contextlib.closing(Log(workdir)) as log:
    return matrix.run(node, runs.Run('matrix', workdir, log, seed=node['seed']))


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  workdir = tmp_path_factory.mktemp('matrix')
  return workdir, run(workdir, config())


def test_one_report_has_the_teacher_and_each_student_with_its_own_baseline(whole):
  workdir, report = whole
  assert [(m['name'], m['role']) for m in report['models']] == [
      ('teacher', 'teacher'), ('small', 'student'), ('small-baseline', 'baseline'),
      ('wide', 'student'), ('wide-baseline', 'baseline')]
  models = {m['name']: m for m in report['models']}
  for name in 'small', 'wide':
    assert models[name]['gain']['of'] == f'{name}-baseline'
    assert models[name]['retention']['of'] == 'teacher'
    assert models[name]['params'] == models[f'{name}-baseline']['params']
    assert models[name]['shipped_bytes'] > 4 * models[name]['params']
  assert models['small']['params'] != models['wide']['params']
  rows = (workdir / 'metrics.jsonl').read_text().splitlines()
  stages = {json.loads(row)['stage'] for row in rows}
  exports = {folder.name for folder in (workdir / 'export').iterdir()}
  assert stages == exports == set(models) == set(report['training'])


def test_every_student_is_judged_by_its_tier_and_misses_honestly(whole):
  models = {m['name']: m for m in whole[1]['models']}
  tier = models['small']['tier']
  assert tier['name'] == 'ultralight' and not tier['passed']
  assert {limit['name']: limit['passed'] for limit in tier['limits']} == {
      'bytes': True, 'quantised': False}
  assert models['wide']['tier']['name'] == 'edge'
  assert [v['name'] for v in models['wide']['tiers']] == ['cloud', 'edge', 'ultralight']
  assert models['wide']['energy_j_per_example']['method'].startswith(('estimated', 'measured'))


def test_again_it_is_finished(whole):
  workdir, report = whole
  files = {path: path.stat().st_mtime_ns for path in (workdir / 'export').rglob('*')}
  assert run(workdir, config()) == report
  assert files == {path: path.stat().st_mtime_ns for path in (workdir / 'export').rglob('*')}


def test_students_share_one_teacher():
  node = config()
  setup = matrix.build_setup(node, node['students'])
  stages = [t.stage for t in setup.trained]
  assert [stage.name for stage in stages] == [
      'teacher', 'small', 'small-baseline', 'wide', 'wide-baseline']
  assert stages[1].teachers[0] is stages[3].teachers[0]
  assert [dict(stage.optimizer)['rate'] for stage in stages[1:]] == [3e-3, 3e-3, 1e-3, 1e-3]


def change(**more):
  return lambda node: node['students']['wide'].update(more)


@pytest.mark.parametrize('break_it, line', [
    (lambda node: node.update(students={}), 'a matrix needs students.NAME'),
    (lambda node: node.update(student={}), 'has no student beside them'),
    (lambda node: node['students'].update(teacher={'student': {}}), "'teacher' is taken"),
    (lambda node: node['students'].update({'a/b': {'student': {}}}), "'a/b' is taken, or no word"),
    (lambda node: node['students']['wide'].pop('student'), 'students.wide has no node student'),
    (change(data={}), 'students.wide.data: students have this in common'),
    (change(optimiser={}), "did you mean 'optimizer'"),
    (change(tier='egde'), "tier='egde': there is no 'egde' there; did you mean 'edge'"),
    (lambda node: node.update(tier='cloud'), "tier='cloud': no student is to reach it; they have "
     "students.small.tier='ultralight', students.wide.tier='edge'"),
    (change(student={'model': {'name': 'resnet.ResNt'}}), 'students.wide: student.model.name'),
    (lambda node: node['evaluate']['tiers']['edge'].update(p95_ms=-1.), 'p95_ms=-1.0 must be')])
def test_a_mistake_is_one_line_that_names_the_student(tmp_path, break_it, line):
  node = config()
  break_it(node)
  with pytest.raises(Stop) as stopped:
    run(tmp_path, node)
  assert stopped.value.status == Status.CONFIG and line in str(stopped.value)
  assert not (tmp_path / 'checkpoints').exists()
