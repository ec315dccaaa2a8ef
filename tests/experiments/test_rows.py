import json

import pytest

from experiments import rows


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
  row = rows.told(report, tmp_path)
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
  student = rows.told(report, tmp_path)['models']['student']
  assert student['latency_ms'] is None and student['throughput_per_s'] is None
  assert student['params'] == 7


def test_a_row_has_the_verdict_of_the_tier_that_was_asked_for(report, tmp_path):
  assert 'tier' not in rows.told(report, tmp_path)['models']['student']
  about = {'bound': '<=', 'limit': 50., 'value': 1.23456789, 'passed': True}
  report['models'][0]['tier'] = {
      'name': 'edge', 'passed': True, 'limits': [{'name': 'p95_ms', **about}]}
  assert rows.rounded(rows.told(report, tmp_path))['models']['student']['tier'] == {
      'name': 'edge', 'passed': True, 'limits': {'p95_ms': about | {'value': 1.23457}}}
  report['models'][0]['tier'] = None
  assert 'tier' not in rows.told(report, tmp_path)['models']['student']


def test_a_row_of_a_report_that_names_no_split_names_none(report, tmp_path):
  del report['task']['split'], report['models'][0]['also']
  row = rows.told(report, tmp_path)
  assert 'split' not in row['metric'] and 'also' not in row['models']['student']


def test_a_row_has_the_curve_of_a_stage_that_was_evaluated_on_the_way(report, tmp_path):
  logged = [('student', 5, .123456789), ('student', 7, None), ('student', 10, .8),
            ('teacher', 10, .9), ('student-first', 3, .2)]
  lines = [{'stage': stage, 'seed': 0, 'step': step, 'loss': 1.} | (
      {} if value is None else {'validation/spearman': value, 'validation/pearson': 0.})
           for stage, step, value in logged]
  lines.append({'stage': 'student', 'seed': 0, 'step': 9, 'validation/spearman': None})
  assert 'curve' not in rows.told(report, tmp_path)['training']['student']
  (tmp_path / 'metrics.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
  training = rows.told(report, tmp_path)['training']
  assert list(training) == ['student']
  assert training['student']['curve'] == [[5, .12346], [10, .8]]
  del report['task']['split'], report['models'][0]['also']
  assert 'curve' not in rows.told(report, tmp_path)['training']['student']
