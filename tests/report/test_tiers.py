import copy

import pytest

from distill.report import tiers
from distill.types import Status, Stop


def model(name, role, params, **more):
  return {'name': name, 'role': role, 'params': params, 'retention': None, 'latency_ms': None,
          'quality': {'accuracy': {'value': .7, 'higher_is_better': True}},
          'shipped_bytes': None, 'quantised': 0., 'tier': None} | more


@pytest.fixture
def report():
  """A student that reaches every tier, each limit exactly or by the least."""
  return {'task': {'primary': 'accuracy'}, 'models': [
      model('teacher', 'teacher', 1000),
      model('student', 'student', 100, retention={'of': 'teacher', 'accuracy': .9},
            latency_ms={'p50': 1., 'p95': 50., 'batch': 1, 'threads': 1},
            shipped_bytes=4_999_999, quantised=.9),
      model('baseline', 'baseline', 100)]}


def verdicts(report, changes=None, **asked):
  limits = tiers.limits(changes or {}, asked)
  student = tiers.add_verdicts(report, limits, asked)['models'][1]
  return {v['name']: v for v in student['tiers']}, student['tier']


def test_what_a_student_reaches_is_judged_by_every_limit(report):
  found, asked = verdicts(report)
  assert {name: v['passed'] for name, v in found.items()} == {
      'cloud': True, 'edge': True, 'ultralight': True}
  assert asked is None
  assert found['edge']['limits'] == [
      {'name': 'params', 'bound': '<=', 'limit': .1, 'value': .1, 'passed': True},
      {'name': 'p95_ms', 'bound': '<=', 'limit': 50., 'value': 50., 'passed': True}]


def test_rounding_fails_nobody(report):
  assert 0.72 / 0.8 < 0.9
  report['models'][1]['retention']['accuracy'] = 0.72 / 0.8
  assert verdicts(report)[0]['cloud']['passed']
  report['models'][1]['retention']['accuracy'] = 0.0
  assert verdicts(report)[0]['cloud']['limits'][0]['value'] == 0


@pytest.mark.parametrize('change, tier, limit, value', [
    ({'retention': {'of': 'teacher', 'accuracy': .8999}}, 'cloud', 'kept', .8999),
    ({'params': 101}, 'edge', 'params', .101),
    ({'latency_ms': {'p50': 1., 'p95': 50.1, 'batch': 1, 'threads': 1}}, 'edge', 'p95_ms', 50.1),
    ({'shipped_bytes': 5_000_000}, 'ultralight', 'bytes', 5_000_000),
    ({'quantised': .89}, 'ultralight', 'quantised', .89),
    # and what isn't measured, or measured otherwise, is never passed
    ({'retention': None}, 'cloud', 'kept', None),
    ({'retention': {'of': 'teacher', 'accuracy': None}}, 'cloud', 'kept', None),
    ({'latency_ms': None}, 'edge', 'p95_ms', None),
    ({'latency_ms': {'p50': 1., 'p95': 2., 'batch': 1, 'threads': 2}}, 'edge', 'p95_ms', None),
    ({'latency_ms': {'p50': 1., 'p95': 2., 'batch': 8, 'threads': 1}}, 'edge', 'p95_ms', None),
    ({'shipped_bytes': None}, 'ultralight', 'bytes', None)])
def test_a_missed_limit_misses_no_other_tier(report, change, tier, limit, value):
  report['models'][1] |= change
  found, _ = verdicts(report)
  assert [name for name, v in found.items() if not v['passed']] == [tier]
  missed = [each for each in found[tier]['limits'] if not each['passed']]
  assert [(each['name'], each['value']) for each in missed] == [(limit, value)]


@pytest.mark.parametrize(('over', 'value'), [
    ({'of': 'teacher', 'mse': {'value': .9, 'chance': 2.}}, .9),
    ({'of': 'teacher', 'mse': {'value': -.1, 'chance': 2.}}, -.1),
    ({'of': 'teacher', 'mse': {'value': None, 'chance': 2.}}, None), (None, None)])
def test_of_a_metric_where_less_is_better_the_lead_over_chance_is_kept(report, over, value):
  """An untrained student's error beside an untrained teacher's, 6.9 and 7.0, is 101 % of it."""
  report['task']['primary'] = 'mse'
  report['models'][1] |= {
      'quality': {'mse': {'value': 6.9, 'higher_is_better': False}},
      'retention': {'of': 'teacher', 'mse': 7 / 6.9}, 'retention_over_chance': over}
  found = verdicts(report)[0]['cloud']
  assert found['limits'][0]['value'] == value and found['passed'] == (value == .9)


def test_parameters_are_a_share_of_those_of_the_teacher_that_is_kept(report):
  report['models'].append(model('teacher2', 'teacher', 500))
  report['models'][1]['retention']['of'] = 'teacher2'
  assert verdicts(report)[0]['edge']['limits'][0]['value'] == .2
  report['models'][1]['retention'] = None
  assert verdicts(report)[0]['edge']['limits'][0]['value'] == .1


def test_without_a_teacher_there_is_no_share_of_one(report):
  report['models'][0]['role'] = 'baseline'
  report['models'][1]['retention'] = None
  found, _ = verdicts(report)
  assert not found['cloud']['passed'] and not found['edge']['passed']
  assert 'parameters not measured' in tiers.describe(found['edge'])


def test_limits_are_those_of_the_config(report):
  report['models'][1]['params'] = 400
  found, asked = verdicts(report, {'edge': {'params': .4}, 'cloud': {'kept': 1}}, student='edge')
  assert asked['name'] == 'edge' and asked['passed']
  assert not found['cloud']['passed'] and found['cloud']['limits'][0]['limit'] == 1
  assert tiers.TIERS['edge']['params'] == .1


@pytest.mark.parametrize('changes, asked, line', [
    ({'egde': {}}, {}, "evaluate.tiers.egde: there is no 'egde' there; did you mean 'edge'"),
    ({'edge': {'p95': 3.}}, {}, "evaluate.tiers.edge.p95: there is no 'p95' there; did you mean"),
    ({'edge': {'p95_ms': 0}}, {}, 'evaluate.tiers.edge.p95_ms=0 must be a number above 0'),
    ({'edge': {'p95_ms': True}}, {}, 'p95_ms=True must be a number'),
    ({'edge': {'p95_ms': float('nan')}}, {}, 'p95_ms=nan must be a number'),
    ({'edge': {'p95_ms': float('inf')}}, {}, 'p95_ms=inf must be a number'),
    ({'edge': 3}, {}, 'evaluate.tiers.edge=3 must be a table'),
    ({}, {'student': 'clod'}, "tier='clod': there is no 'clod' there; did you mean 'cloud'")])
def test_a_tier_or_limit_that_is_none_is_one_line(changes, asked, line):
  with pytest.raises(Stop) as stopped:
    tiers.limits(changes, asked)
  assert stopped.value.status == Status.CONFIG and line in str(stopped.value)


def test_a_missed_tier_is_a_line_with_limits_and_values(report):
  limits = tiers.limits({}, {})
  assert tiers.describe_missed(tiers.add_verdicts(report, limits, {}), 'edge') == ''
  report['models'][1] |= {'params': 393, 'latency_ms': None}
  assert tiers.describe_missed(tiers.add_verdicts(report, limits, {}), 'edge') == (
      "tier edge is missed by student: share of the teacher's parameters 0.393, at most 0.1; 95th "
      'percentile in ms on one thread not measured, at most 50')


def test_bytes_are_written_in_full(report):
  assert tiers.describe(verdicts(report)[0]['ultralight']) == (
      'bytes as shipped 4,999,999, less than 5,000,000; share of the parameters in 8 bits 0.9, at '
      'least 0.9')


def test_a_tier_is_asked_of_the_students_that_are_to_reach_it_if_any_are(report):
  other = copy.deepcopy(report['models'][1]) | {'name': 'other', 'params': 500}
  report['models'].append(other)
  limits = tiers.limits({}, {})
  line = lambda **asked: tiers.describe_missed(tiers.add_verdicts(report, limits, asked), 'edge')
  assert line(student='edge', other='cloud') == ''
  assert line(student='cloud', other='edge').startswith('tier edge is missed by other: ')
  assert line().startswith('tier edge is missed by other: ')


def test_a_report_from_before_says_what_to_do(report):
  assert 'remove its report.json' in tiers.describe_missed(report, 'edge')
