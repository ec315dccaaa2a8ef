"""Deployment tiers: what a student must keep, and what it may cost. A tier is a line of `TIERS`.

  kept          of the teacher's primary metric, at least; where less is better, of its lead over
                chance: an untrained model's error may be near an untrained teacher's
  params        as a share of the teacher's, all of them, at most
  p95_ms        of a call at batch 1 on one thread, at most
  bytes         of the weights as shipped, less than
  quantised     the share of the parameters that 8 bits or fewer hold, at least

All is judged from the report, with the teacher that `retention` is of. What it doesn't know isn't
measured, and so not passed: without a teacher nothing is a share of it, without a chance nothing
leads it, and calls that all cores made say nothing of one thread.
"""
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from distill import lookup
from distill.types import Status, Stop

Report = Model = Mapping[str, Any]          # of report.json
Limits = Mapping[str, Mapping[str, float]]          # tier -> what is limited -> its limit

TIERS: Limits = {
    'cloud': {'kept': 0.9},
    'edge': {'params': 0.1, 'p95_ms': 50.0},
    'ultralight': {'bytes': 5e6, 'quantised': 0.9},
}
PASSES = {'>=': operator.ge, '<=': operator.le, '<': operator.lt}
WORDS = {'>=': 'at least', '<=': 'at most', '<': 'less than'}
NAMES = {'kept': 'share of the metric kept', 'params': "share of the teacher's parameters",
         'p95_ms': '95th percentile in ms on one thread', 'bytes': 'bytes as shipped',
         'quantised': 'share of the parameters in 8 bits'}


def limits(changes: Mapping[str, Mapping[str, float]], asked: Mapping[str, str]) -> Limits:
  """The tiers with a config's `evaluate.tiers`, checked.

  `asked` are the tiers that students, by name, are to reach; '' for none.
  """
  found = {name: dict(of) for name, of in TIERS.items()}
  for tier, of in changes.items():
    where = f'evaluate.tiers.{tier}'
    _known(tier, TIERS, where)
    if not isinstance(of, Mapping):
      raise Stop(Status.CONFIG, f'{where}={of!r} must be a table of limits')
    for name, limit in of.items():
      _known(name, TIERS[tier], f'{where}.{name}')
      if isinstance(limit, bool) or not isinstance(limit, (int, float)) or not (
          0 < limit < math.inf):
        raise Stop(Status.CONFIG, f'{where}.{name}={limit!r} must be a number above 0')
      found[tier][name] = float(limit)
  for tier in filter(None, asked.values()):
    _known(tier, TIERS, f'tier={tier!r}')
  return found


def judged(report: Report, tiers: Limits, asked: Mapping[str, str]) -> dict[str, Any]:
  """The report with, at every student, the verdict of every tier and of the one that was asked.

  The value of a limit that wasn't measured is None.
  """
  metric = report['task']['primary']
  models = {m['name']: m for m in report['models']}
  first = next((m for m in report['models'] if m['role'] == 'teacher'), None)

  def verdict(model: Model, name: str, limit: float) -> dict[str, Any]:
    bound, measure = MEASURES[name]
    kept = model['retention']
    value = measure(model, models[kept['of']] if kept else first, metric)
    passed = value is not None and PASSES[bound](value, limit)
    return {'name': name, 'bound': bound, 'limit': limit, 'value': value, 'passed': passed}

  def on(model: Model) -> dict[str, Any]:
    found = {tier: [verdict(model, *limit) for limit in of.items()] for tier, of in tiers.items()}
    whole = {tier: {'name': tier, 'passed': all(v['passed'] for v in verdicts), 'limits': verdicts}
             for tier, verdicts in found.items()}
    return {**model, 'tiers': [*whole.values()], 'tier': whole.get(asked.get(model['name']))}
  return {**report, 'models': [on(m) if m['role'] == 'student' else m for m in report['models']]}


def missed(report: Report, tier: str) -> str:
  """A line about the students that were to reach a tier and don't, or ''.

  In a report where students have tiers of their own, those whose tier it is; otherwise all.
  """
  students = [m for m in report['models'] if m['role'] == 'student']
  meant = [m for m in students if m['tier'] and m['tier']['name'] == tier] or students
  verdicts = {m['name']: next((v for v in m.get('tiers', ()) if v['name'] == tier), None)
              for m in meant}
  if None in verdicts.values():
    return f'the report is from before tiers: remove its report.json to measure tier {tier}'
  lines = [f'{name}: {said(v)}' for name, v in verdicts.items() if not v['passed']]
  return f'tier {tier} is missed by {" | ".join(lines)}' if lines else ''


def said(verdict: Mapping[str, Any]) -> str:
  """In words, the limits that a student misses, or else all of them."""
  about = [limit for limit in verdict['limits'] if limit['passed'] == verdict['passed']]
  return '; '.join(map(_said, about))


def _said(limit: Mapping[str, Any]) -> str:
  number = lambda x: f'{x:,.0f}' if x >= 1e4 else f'{x:.4g}'
  value = 'not measured' if limit['value'] is None else number(limit['value'])
  return f'{NAMES[limit["name"]]} {value}, {WORDS[limit["bound"]]} {number(limit["limit"])}'


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


def _known(name: str, known: Mapping[str, Any], where: str) -> None:
  if name not in known:
    raise Stop(Status.CONFIG, f'{where}: there is no {name!r} there' + lookup.nearest(name, known))
