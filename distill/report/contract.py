"""The contract of report.json: `report.schema.json`, and rules that a schema can't express.

The page, the tables and the verdict use only fields that are in it.
"""
import functools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:       # loaded where it is used: a run that starts doesn't wait for it
  import jsonschema

Report = Model = Mapping[str, Any]

TYPES = {'object': 'a table of names', 'array': 'a list', 'string': 'of type str', 'null': 'null',
         'integer': 'of type int', 'number': 'of type float', 'boolean': 'of type bool'}


@functools.cache
def schema() -> dict[str, Any]:
  """Reads report.schema.json."""
  return json.loads(pathlib.Path(__file__).with_name('report.schema.json').read_text('utf-8'))


def broken(report: Any) -> str:
  """Returns a line about the first fault of a report, or ''; the report is as read from JSON."""
  error = next(_validator().iter_errors(report), None)
  return _line(error) if error else _misfit(report)


@functools.cache
def _validator() -> 'jsonschema.protocols.Validator':
  """Returns the schema's validator, which accepts only finite numbers."""
  from jsonschema import Draft202012Validator, validators
  plain = Draft202012Validator.TYPE_CHECKER
  finite = plain.redefine('number', lambda checker, value: plain.is_type(value, 'number')
                          and math.isfinite(value))
  return validators.extend(Draft202012Validator, type_checker=finite)(schema())


def _line(error: 'jsonschema.ValidationError') -> str:
  """Returns a line with a value, its place in the report, and what it should be."""
  while error.context:                # the first alternative; the others are null
    error = error.context[0]
  where = ''.join(f'[{key}]' if isinstance(key, int) else f'.{key}'
                  for key in ('report', *error.absolute_path))[1:]
  value, expected = error.instance, error.validator_value
  if error.validator == 'required':
    return f'{where} lacks {", ".join(name for name in expected if name not in value)}'
  if error.validator == 'enum':
    return f'{where} is {value!r}, not one of {sorted(expected)}'
  if error.validator == 'type':
    kind = expected if isinstance(expected, str) else expected[0]
    return f'{where} is {value!r}, not {TYPES[kind]}'
  return f'{where}: {error.message}'


def _misfit(report: Report) -> str:
  """Returns a line about fields that contradict each other, or ''."""
  names, primary = [m['name'] for m in report['models']], report['task']['primary']
  if not names or len(set(names)) < len(names):
    return f'report.models: there must be models, and their names must differ: {names}'
  first = report['models'][0]
  metrics, splits = set(first['quality']), list(first.get('also', {}))
  for model in report['models']:
    where, also = f'report.models: {model["name"]}', model.get('also', {})
    if lacking := [split for split in splits if split not in also]:
      return f'{where}.also lacks {", ".join(lacking)}'
    for i, teacher in enumerate(model.get('teachers', [])):
      if teacher not in names:
        return f'{where}.teachers[{i}] is {teacher!r}, not one of {sorted(names)}'
    if model['saw'] and len(model['saw']) < 2:
      return f'{where}: saw must say of how many examples it is, by their noun, beside labels'
    for judged in (model, *(also[split] for split in splits)):
      if primary not in metrics or set(judged['quality']) != metrics:
        return f'{where} must have the quality {primary}, and all the same metrics'
      for field in 'retention', 'retention_over_chance', 'gain':
        if (found := judged.get(field)) and (found['of'] not in names or primary not in found):
          return f'{where}: {field} must be of a model in the report, and have {primary}'
  return ''
