"""Verdict of a report: sentences that claim only what the intervals show."""
from collections.abc import Mapping, Sequence

from distill.report import text, tiers
from distill.report.contract import Model, Report

LISTED = 4              # more students than these are counted, not named


def headline(report: Report) -> str:
  """Returns one sentence, whatever the report holds; `sentences` give the rest."""
  students, metric = _students(report), report['task']['primary']
  if len(students) == 1:
    return sentences(report)[0][0]
  if not students:
    return _best(report['models'], metric)
  names = [student['name'] for student in students]
  if len(names) > LISTED:
    who = f'{len(names)} students'
  elif 'student' in names:              # "The students student and …" would say it twice
    who = f'The models {text.join_words(names)}'
  else:
    who = f'The students {text.join_words(names)}'
  return f'{who} {_results(students, report["models"], metric)}{_reached(students)}.'


def sentences(report: Report) -> list[list[str]]:
  """Returns for every student one sentence, and a second about the tier that it was asked for."""
  models = {model['name']: model for model in report['models']}
  students, found = _students(report), []
  for student in students:
    is_plain = len(students) == 1 or student['name'] == 'student'
    who = 'The student' if is_plain else f'The student {student["name"]}'
    found.append([_sentence(who, student, models, report['task']['primary'])])
    if tier := student['tier']:
      found[-1].append(f'It {"reaches" if tier["passed"] else "misses"} the tier {tier["name"]}: '
                       f'{tiers.describe(tier)}.')
  return found


def _students(report: Report) -> list[Model]:
  return [model for model in report['models'] if model['role'] == 'student']


def _best(models: Sequence[Model], metric: str) -> str:
  """Returns a sentence about the best model of a report without students."""
  def signed(model):
    quality = model['quality'][metric]
    return quality['value'] if quality['higher_is_better'] else -quality['value']
  best = max(models, key=signed)
  quality, name = best['quality'][metric], text.metric_name(metric)
  value = text.with_unit(quality['value'], quality['unit'])
  if len(models) == 1:
    return f'{best["name"]} reaches {name} {value}.'
  return f'{best["name"]} has the best {name} of {len(models)} models, {value}.'


def _results(students: Sequence[Model], models: Sequence[Model], metric: str) -> str:
  """Returns what several students reach: retention or quality, and their sizes."""
  name, quality = text.metric_name(metric), students[0]['quality'][metric]
  retentions = [student['retention'] for student in students]
  comparable = all(r and r[metric] is not None for r in retentions)
  teachers = sorted({r['of'] for r in retentions}) if comparable else []
  by_name = {model['name']: model for model in models}
  if comparable and quality['higher_is_better']:
    whose = f"{_the(teachers[0])}'s" if len(teachers) == 1 else "their teachers'"
    line = f'keep {_each([text.percent(r[metric]) for r in retentions])} of {whose} {name}'
  else:
    values = [text.with_unit(s['quality'][metric]['value'], quality['unit']) for s in students]
    line = f'reach {name} {_each(values)}'
    if len(teachers) == 1:
      theirs = by_name[teachers[0]]['quality'][metric]['value']
      line += f', where {_the(teachers[0])} has {text.with_unit(theirs, quality["unit"])},'
  if comparable:
    field = _size_field(models)
    sizes = [text.percent(s[field] / max(1, by_name[r['of']][field]))
             for s, r in zip(students, retentions, strict=True)]
    whose = 'its' if len(teachers) == 1 else 'their'
    line += f' with {_each(sizes)} of {whose} parameters{_outside(field)}'
  return line


def _the(name: str) -> str:
  """Returns a teacher's name as in a sentence."""
  return 'the teacher' if name == 'teacher' else name


def _each(numbers: Sequence[str]) -> str:
  """Lists every number; if there are many, the smallest and the largest."""
  if len(numbers) <= LISTED:
    return text.join_words(numbers)
  ordered = sorted(numbers, key=lambda number: float(number.split()[0].replace('−', '-')))
  return f'{ordered[0]} to {ordered[-1]}'


def _reached(students: Sequence[Model]) -> str:
  """Returns which students reach the tiers that they were asked for; '' if none was asked."""
  asked = [student for student in students if student['tier']]
  passed = [s['name'] for s in asked if s['tier']['passed']]
  missed = [s['name'] for s in asked if not s['tier']['passed']]
  if len(asked) > LISTED:
    return f'; {len(passed)} of {len(asked)} reach their tiers'
  parts = []
  for names, one_verb, verb in ((passed, 'reaches', 'reach'), (missed, 'misses', 'miss')):
    if len(names) == 1:
      parts.append(f'{names[0]} {one_verb} its tier')
    elif names:
      parts.append(f'{text.join_words(names)} {verb} their tiers')
  return f'; {", ".join(parts)}' if parts else ''


def _sentence(who: str, student: Model, models: Mapping[str, Model], metric: str) -> str:
  """Returns a student's retention, size, speed and gain over the baseline in one sentence."""
  quality, retention, gain = student['quality'][metric], student['retention'], student['gain']
  unit, name = quality['unit'], text.metric_name(metric)
  line = f'{who} reaches {name} {text.with_unit(quality["value"], unit)}'
  if retention and retention[metric] is not None:
    teacher = models[retention['of']]
    the = _the(teacher['name'])
    if quality['higher_is_better']:
      line = f"{who} keeps {text.percent(retention[metric])} of {the}'s {name}"
    else:
      theirs = text.with_unit(teacher['quality'][metric]['value'], unit)
      line += f', where {the} has {theirs},'
    line += f' with {_size(student, teacher)}'
    if student['latency_ms'] and teacher['latency_ms']:
      line += f', {_speed(student, teacher)}'
  if not gain:
    return f'{line}; without a baseline, nothing shows what the teacher brought.'
  reference = models[gain['of']]
  is_baseline = reference['role'] == 'baseline'
  other = 'the same student without a teacher' if is_baseline else reference['name']
  low, high = (text.number(gain[metric][end], unit) for end in ('low', 'high'))
  gap = text.with_unit(gain[metric]['value'], unit, text.DIFFERENCE_UNITS)
  interval = f'95 % interval {low} to {high}'
  if gain[metric]['low'] > 0:
    return f'{line}, and beats {other} by {gap} ({interval}).'
  verb = 'is worse than' if gain[metric]['high'] < 0 else 'is not measurably better than'
  return f'{line}, but {verb} {other} ({gap}, {interval}).'


def _size_field(models: Sequence[Model]) -> str:
  """Returns the field of the parameters by which models are compared."""
  has_embeddings = any(m['params_outside_embeddings'] < m['params'] for m in models)
  return 'params_outside_embeddings' if has_embeddings else 'params'


def _outside(field: str) -> str:
  return '' if field == 'params' else ' outside the embeddings'


def _size(model: Model, teacher: Model) -> str:
  """Returns a model's number of parameters as a share of the teacher's, in words."""
  field = _size_field((model, teacher))
  ratio = teacher[field] / max(1, model[field])
  if abs(ratio - round(ratio)) < 0.03 * ratio:
    ratio = round(ratio)
  if 0.95 < ratio < 1.05:
    share = 'as many'
  elif ratio > 1:
    share = f'1/{text.times(ratio)} of its'
  else:
    share = f'{text.times(1 / ratio)} times its'
  return f'{share} parameters{_outside(field)}'


def _speed(model: Model, teacher: Model) -> str:
  """Returns a model's speed beside the teacher's, in words."""
  ratio = teacher['latency_ms']['p50'] / model['latency_ms']['p50']
  if 0.95 < ratio < 1.05:
    speed = 'as fast'
  elif ratio > 1:
    speed = f'{text.times(ratio)}× faster'
  else:
    speed = f'{text.times(1 / ratio)}× slower'
  return f'{speed} at batch {model["latency_ms"]["batch"]}'
