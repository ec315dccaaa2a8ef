"""Deployment tiers: limits on a student's quality, size and speed. A tier is a line of `TIERS`.

  kept          at least: the share of the teacher's primary metric; where less is better, of the
                teacher's lead over chance, because an untrained model's error may be near an
                untrained teacher's
  params        at most: the share of the teacher's parameters, all of them
  p95_ms        at most: the 95th percentile of a call at batch 1 on one thread
  bytes         less than: the weights as shipped
  quantised     at least: the share of the parameters that 8 bits or fewer hold

Verdicts are made from the report, with the teacher that `retention` names. A value that the report
lacks is not measured, and so not passed: a share of the teacher without a teacher, a lead over
chance without a chance level, a time on one thread where calls used all cores.
"""
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from distill import lookup
from distill.report.contract import Model, Report
from distill.types import Status, Stop

Limits = Mapping[str, Mapping[str, float]]          # tier -> what is limited -> its limit

TIERS: Limits = {
    'cloud': {'kept': 0.9},
    'edge': {'params': 0.1, 'p95_ms': 50.0},
    'ultralight': {'bytes': 5e6, 'quantised': 0.9},
}
PASSES = {'>=': operator.ge, '<=': operator.le, '<': operator.lt}
BOUNDS = {'>=': 'at least', '<=': 'at most', '<': 'less than'}
LIMITED = {'kept': 'share of the metric kept', 'params': "share of the teacher's parameters",
           'p95_ms': '95th percentile in ms on one thread', 'bytes': 'bytes as shipped',
           'quantised': 'share of the parameters in 8 bits'}


def limits(changes: Mapping[str, Mapping[str, float]], asked: Mapping[str, str]) -> Limits:
  """Returns the limits of all tiers, with a config's `evaluate.tiers`, after checking both.

  `asked` are the tiers that students are to reach, by a student's name; '' for none.
  """
  found = {name: dict(tier) for name, tier in TIERS.items()}
  for tier, changed in changes.items():
    path = f'evaluate.tiers.{tier}'
    _check_known(tier, TIERS, path)
    if not isinstance(changed, Mapping):
      raise Stop(Status.CONFIG, f'{path}={changed!r} must be a table of limits')
    for name, limit in changed.items():
      _check_known(name, TIERS[tier], f'{path}.{name}')
      is_number = isinstance(limit, (int, float)) and not isinstance(limit, bool)
      if not is_number or not 0 < limit < math.inf:
        raise Stop(Status.CONFIG, f'{path}.{name}={limit!r} must be a number above 0')
      found[tier][name] = float(limit)
  for tier in filter(None, asked.values()):
    _check_known(tier, TIERS, f'tier={tier!r}')
  return found


def add_verdicts(report: Report, tiers: Limits, asked: Mapping[str, str]) -> dict[str, Any]:
  """Returns the report with every student's verdict on every tier and on the one it was asked for.

  The value of a limit that wasn't measured is None.
  """
  metric = report['task']['primary']
  models = {m['name']: m for m in report['models']}
  first = next((m for m in report['models'] if m['role'] == 'teacher'), None)

  def verdict(model: Model, name: str, limit: float) -> dict[str, Any]:
    bound, measure = MEASURES[name]
    retention = model['retention']
    value = measure(model, models[retention['of']] if retention else first, metric)
    passed = value is not None and PASSES[bound](value, limit)
    return {'name': name, 'bound': bound, 'limit': limit, 'value': value, 'passed': passed}

  def with_tiers(model: Model) -> dict[str, Any]:
    found = {}
    for name, tier in tiers.items():
      verdicts = [verdict(model, *limit) for limit in tier.items()]
      found[name] = {'name': name, 'passed': all(v['passed'] for v in verdicts),
                     'limits': verdicts}
    return {**model, 'tiers': [*found.values()], 'tier': found.get(asked.get(model['name']))}
  return {**report, 'models': [with_tiers(m) if m['role'] == 'student' else m
                               for m in report['models']]}


def describe_missed(report: Report, tier: str) -> str:
  """Returns a line about the students that were to reach a tier and don't; '' if all do.

  If students have tiers of their own, it is about those whose tier it is; otherwise about all.
  """
  students = [m for m in report['models'] if m['role'] == 'student']
  meant = [m for m in students if m['tier'] and m['tier']['name'] == tier] or students
  verdicts = {m['name']: next((v for v in m.get('tiers', ()) if v['name'] == tier), None)
              for m in meant}
  if None in verdicts.values():
    return f'the report is from before tiers: remove its report.json to measure tier {tier}'
  lines = [f'{name}: {describe(v)}' for name, v in verdicts.items() if not v['passed']]
  return f'tier {tier} is missed by {" | ".join(lines)}' if lines else ''


def describe(verdict: Mapping[str, Any]) -> str:
  """Returns the limits that a student misses in words, or all limits if it misses none."""
  limits = [limit for limit in verdict['limits'] if limit['passed'] == verdict['passed']]
  return '; '.join(map(_describe_limit, limits))


def _describe_limit(limit: Mapping[str, Any]) -> str:
  number = lambda x: f'{x:,.0f}' if x >= 1e4 else f'{x:.4g}'
  value = 'not measured' if limit['value'] is None else number(limit['value'])
  return f'{LIMITED[limit["name"]]} {value}, {BOUNDS[limit["bound"]]} {number(limit["limit"])}'


def _kept(model: Model, teacher: Model | None, metric: str) -> float | None:
  if model['quality'][metric]['higher_is_better']:
    kept = model['retention'] and model['retention'][metric]
  else:
    over = model.get('retention_over_chance')
    kept = over and over[metric]['value']
  return kept and round(kept, 12)       # 0.72 / 0.8 is less than 0.9


def _params(model: Model, teacher: Model | None, metric: str) -> float | None:
  return model['params'] / teacher['params'] if teacher else None


def _p95(model: Model, teacher: Model | None, metric: str) -> float | None:
  timed = model['latency_ms']
  return timed['p95'] if timed and timed['batch'] == timed['threads'] == 1 else None


MEASURES: Mapping[str, tuple[str, Callable[[Model, Model | None, str], float | None]]] = {
    'kept': ('>=', _kept), 'params': ('<=', _params), 'p95_ms': ('<=', _p95),
    'bytes': ('<', lambda model, teacher, metric: model['shipped_bytes']),
    'quantised': ('>=', lambda model, teacher, metric: model['quantised'])}


def _check_known(name: str, known: Mapping[str, Any], path: str) -> None:
  """Stops at a name that isn't known."""
  if name not in known:
    raise Stop(Status.CONFIG, f'{path}: there is no {name!r} there' + lookup.nearest(name, known))
