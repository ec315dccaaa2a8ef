import json
import pathlib

import pytest

from distill import flags
from distill.pipelines.identities import config_sha256
from experiments import rows, run

ROOT = pathlib.Path(__file__).parents[2]


def judged(value, n, **more):
  quality = {name: {'value': v, 'low': 0., 'high': 1., 'n': n, 'unit': 'correlation',
                    'higher_is_better': True} for name, v in (('pearson', .5), ('spearman', value))}
  return {'quality': quality, 'retention': None, 'gain': None} | more


@pytest.fixture
def report():
  gain = lambda value: {'of': 'baseline', 'spearman': {'value': value, 'low': 0., 'high': 1.}}
  costs = {'role': 'student', 'saw': None, 'params': 7, 'params_outside_embeddings': 5, 'bytes': 28,
           'flops': None, 'throughput_per_s': 9., 'latency_ms': {'p50': 2., 'p95': 3.}}
  return {
      'task': {'primary': 'spearman', 'split': 'validation'},
      'models': [{'name': 'student', **costs, **judged(.8, 1500, gain=gain(.1)),
                  'also': {'held_out': judged(.7, 600, gain=gain(.2))}}],
      'training': {'student': {'seconds': 60., 'steps': 10}},
      'data': {'name': 'glue/stsb', 'fingerprint': 'f00d', 'splits': {}},
      'hardware': {}, 'versions': {}}


def test_a_row_has_the_quality_of_every_split_and_on_which_it_is_judged(report, tmp_path):
  row = rows.from_report(report, tmp_path)
  assert row['metric'] == {'name': 'spearman', 'unit': 'correlation', 'higher_is_better': True,
                           'split': 'validation'}
  student = row['models']['student']
  assert (student['n'], student['quality']) == (1500, {'pearson': .5, 'spearman': .8})
  assert student['gain']['spearman']['value'] == .1
  held_out = student['also']['held_out']
  assert (held_out['n'], held_out['quality']) == (600, {'pearson': .5, 'spearman': .7})
  assert held_out['gain']['spearman']['value'] == .2 and held_out['retention'] is None


def test_a_row_of_a_run_that_timed_nothing_has_no_times(report, tmp_path):
  report['models'][0] |= {'latency_ms': None, 'throughput_per_s': None}
  student = rows.from_report(report, tmp_path)['models']['student']
  assert student['latency_ms'] is None and student['throughput_per_s'] is None
  assert student['params'] == 7


def test_a_row_has_the_verdict_of_the_tier_that_was_asked_for(report, tmp_path):
  assert 'tier' not in rows.from_report(report, tmp_path)['models']['student']
  about = {'bound': '<=', 'limit': 50., 'value': 1.23456789, 'passed': True}
  report['models'][0]['tier'] = {
      'name': 'edge', 'passed': True, 'limits': [{'name': 'p95_ms', **about}]}
  assert rows.rounded(rows.from_report(report, tmp_path))['models']['student']['tier'] == {
      'name': 'edge', 'passed': True, 'limits': {'p95_ms': about | {'value': 1.23457}}}
  report['models'][0]['tier'] = None
  assert 'tier' not in rows.from_report(report, tmp_path)['models']['student']


def test_a_row_of_a_report_that_names_no_split_names_none(report, tmp_path):
  del report['task']['split'], report['models'][0]['also']
  row = rows.from_report(report, tmp_path)
  assert 'split' not in row['metric'] and 'also' not in row['models']['student']


def test_a_row_has_the_curve_of_a_stage_that_was_evaluated_on_the_way(report, tmp_path):
  logged = [('student', 5, .123456789), ('student', 7, None), ('student', 10, .8),
            ('teacher', 10, .9), ('student-first', 3, .2)]
  lines = [{'stage': stage, 'seed': 0, 'step': step, 'loss': 1.} | (
      {} if value is None else {'validation/spearman': value, 'validation/pearson': 0.})
           for stage, step, value in logged]
  lines.append({'stage': 'student', 'seed': 0, 'step': 9, 'validation/spearman': None})
  assert 'curve' not in rows.from_report(report, tmp_path)['training']['student']
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  training = rows.from_report(report, tmp_path)['training']
  assert list(training) == ['student']
  assert training['student']['curve'] == [[5, .12346], [10, .8]]
  del report['task']['split'], report['models'][0]['also']
  assert 'curve' not in rows.from_report(report, tmp_path)['training']['student']


ROWS = [row for path in sorted((ROOT / 'experiments').glob('*/results.jsonl'))
        for row in rows.read(path)[0] if 'config' in row]
NAMED = {row['config_sha256'] for row in ROWS}


@pytest.mark.parametrize('file', sorted({row['config'] for row in ROWS}))
def test_every_recorded_row_is_found_by_its_config(file, monkeypatch):
  monkeypatch.chdir(ROOT)
  mine = {row['config_sha256']: (row['base'], rows.arm_name(row['arm'])) for row in ROWS
          if (row['config'], row['seed']) == (file, 0) and 'method' not in row['arm']}
  planned = {each.sha256: (each.base, rows.arm_name(each.arm)) for each in run.plan(file, 1)}
  assert mine and mine.items() <= planned.items()


def test_a_term_of_weight_0_moves_no_row(monkeypatch):
  monkeypatch.chdir(ROOT)
  node = flags.parsed(['--config=configs/digits.py:dkd']).config.to_dict()
  assert (name := rows.recorded(config_sha256(node))) in NAMED
  node['objective']['new'] = dict(loss='logits.kl', weight=0.0, reads=dict(
      student='projected/new', teacher='teacher/logits'))
  node['student']['projectors']['new'] = dict(
      module=dict(name='projectors.Linear', outputs=10), reads='student/pooled')
  assert name == rows.recorded(config_sha256(node))


def test_a_config_of_no_row_is_called_as_it_is():
  assert rows.recorded('0' * 64) == '0' * 64
