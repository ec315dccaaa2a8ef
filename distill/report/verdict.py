"""What distillation brought, in sentences that claim only what was shown."""
from collections.abc import Mapping, Sequence

from distill.report import tiers, wording
from distill.report.contract import Model, Report

LISTED = 4              # more students than these are not named one by one


def headline(report: Report) -> str:
  """One sentence, whatever the report holds; `sentences` say the rest."""
  students, metric = _students(report), report['task']['primary']
  if len(students) == 1:
    return sentences(report)[0][0]
  if not students:
    return _best(report['models'], metric)
  what, quality = wording.spelled(metric), students[0]['quality'][metric]
  kept = [student['retention'] for student in students]
  shares = all(k and k[metric] is not None for k in kept)
  of = sorted({k['of'] for k in kept}) if shares else ()
  models = {model['name']: model for model in report['models']}
  if shares and quality['higher_is_better']:
    said = f"keep {_each([wording.percent(k[metric]) for k in kept])} of {_whose(of)} {what}"
  else:
    reached = (wording.amount(s['quality'][metric]['value'], quality['unit']) for s in students)
    said = f'reach {what} {_each([*reached])}'
    if len(of) == 1:
      theirs = wording.amount(models[of[0]]['quality'][metric]['value'], quality['unit'])
      said += f', where the {of[0]} has {theirs},'
  if shares:
    field = _counted(report['models'])
    sizes = (wording.percent(s[field] / max(1, models[k['of']][field]))
             for s, k in zip(students, kept, strict=True))
    said += (f' with {_each([*sizes])} of {"its" if len(of) == 1 else "their"} parameters'
             + _outside(field))
  names = [student['name'] for student in students]
  who = f'The students {wording.listed(names)}' if len(names) <= LISTED else (
      f'{len(names)} students')
  return f'{who} {said}{_reached(students)}.'


def sentences(report: Report) -> list[list[str]]:
  """Of every student one, and one more if it was asked for a tier."""
  models, found = {model['name']: model for model in report['models']}, []
  students = _students(report)
  for student in students:
    name = 'The student' if len(students) == 1 else f'The student {student["name"]}'
    found.append([_sentence(name, student, models, report['task']['primary'])])
    if tier := student['tier']:
      found[-1].append(f'It {"reaches" if tier["passed"] else "misses"} the tier {tier["name"]}: '
                       f'{tiers.said(tier)}.')
  return found


def _students(report: Report) -> list[Model]:
  return [model for model in report['models'] if model['role'] == 'student']


def _best(models: Sequence[Model], metric: str) -> str:
  quality = lambda model: model['quality'][metric]
  best = max(models, key=lambda m: quality(m)['value'] * (
      1 if quality(m)['higher_is_better'] else -1))
  value = wording.amount(quality(best)['value'], quality(best)['unit'])
  if len(models) == 1:
    return f'{best["name"]} reaches {wording.spelled(metric)} {value}.'
  return f'Of {len(models)} models, {best["name"]} has the best {wording.spelled(metric)}, {value}.'


def _each(said: Sequence[str]) -> str:
  """Every number, or of many the first and the last of their order by size."""
  if len(said) <= LISTED:
    return wording.listed(said)
  ordered = sorted(said, key=lambda number: float(number.split()[0].replace('−', '-')))
  return f'{ordered[0]} to {ordered[-1]}'


def _whose(names: Sequence[str]) -> str:
  return f"the {names[0]}'s" if len(names) == 1 else "their teachers'"


def _reached(students: Sequence[Model]) -> str:
  """Which of the tiers that were asked are reached."""
  asked = [student for student in students if student['tier']]
  there, not_there = ([s['name'] for s in asked if s['tier']['passed'] == passed]
                      for passed in (True, False))
  if len(asked) > LISTED:
    return f'; {len(there)} of {len(asked)} reach their tiers'
  said = [f'{wording.listed(names)} {verb}{"" if len(names) > 1 else "es"} '
          f'{"their tiers" if len(names) > 1 else "its tier"}'
          for names, verb in ((there, 'reach'), (not_there, 'miss')) if names]
  return f'; {", ".join(said)}' if said else ''


def _sentence(who: str, student: Model, models: Mapping[str, Model], metric: str) -> str:
  quality, kept, gain = student['quality'][metric], student['retention'], student['gain']
  unit, what = quality['unit'], wording.spelled(metric)
  said = f'{who} reaches {what} {wording.amount(quality["value"], unit)}'
  if kept and kept[metric] is not None:
    teacher = models[kept['of']]
    theirs = wording.amount(teacher['quality'][metric]['value'], unit)
    said = (f"{who} keeps {wording.percent(kept[metric])} of the {teacher['name']}'s {what}"
            if quality['higher_is_better'] else
            f'{said}, where the {teacher["name"]} has {theirs},')
    timed = student['latency_ms'] and teacher['latency_ms']
    said += f' with {_size(student, teacher)}' + (
        f', {_pace(student, teacher)}' if timed else '')
  if not gain:
    return f'{said}; without a baseline, nothing shows what the teacher brought.'
  of = models[gain['of']]
  other = 'the same student without a teacher' if of['role'] == 'baseline' else of['name']
  low, high = (wording.number(gain[metric][name], unit) for name in ('low', 'high'))
  gap = wording.amount(gain[metric]['value'], unit, wording.GAPS)
  interval = f'95 % interval {low} to {high}'
  if gain[metric]['low'] > 0:
    return f'{said}, and beats {other} by {gap} ({interval}).'
  found = 'is worse than' if gain[metric]['high'] < 0 else 'is not measurably better than'
  return f'{said}, but {found} {other} ({gap}, {interval}).'


def _counted(models: Sequence[Model]) -> str:
  """The field of the parameters by which models are compared."""
  embedded = any(m['params_outside_embeddings'] < m['params'] for m in models)
  return 'params_outside_embeddings' if embedded else 'params'


def _outside(field: str) -> str:
  return ' outside the embeddings' * (field != 'params')


def _size(model: Model, of: Model) -> str:
  field = _counted((model, of))
  ratio = of[field] / max(1, model[field])
  if abs(ratio - round(ratio)) < 0.03 * ratio:
    ratio = round(ratio)
  said = ('as many' if 0.95 < ratio < 1.05 else f'1/{wording.times(ratio)} of its'
          if ratio > 1 else f'{wording.times(1 / ratio)} times its')
  return f'{said} parameters' + _outside(field)


def _pace(model: Model, of: Model) -> str:
  ratio = of['latency_ms']['p50'] / model['latency_ms']['p50']
  said = ('as fast' if 0.95 < ratio < 1.05 else f'{wording.times(ratio)}× faster'
          if ratio > 1 else f'{wording.times(1 / ratio)}× slower')
  return f'{said} at batch {model["latency_ms"]["batch"]}'
