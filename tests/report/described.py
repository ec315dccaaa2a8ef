"""What report.schema.json says of a field: by its path, through references and alternatives."""
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import jsonschema

PATH = pathlib.Path(__file__).parents[2] / 'distill/report/report.schema.json'
SCHEMA = json.loads(PATH.read_text('utf-8'))


def undescribed(value: Any, schema: Mapping[str, Any] = SCHEMA, where: str = 'report'
                ) -> Iterator[str]:
  """Yields the fields of a report of which the schema says nothing."""
  schema = flat(schema)
  if isinstance(value, dict):
    for name, inner in value.items():
      its = schema.get('properties', {}).get(name, schema.get('additionalProperties'))
      yield from (undescribed(inner, its, f'{where}.{name}') if its else [f'{where}.{name}'])
  elif isinstance(value, list):
    for i, inner in enumerate(value):
      yield from undescribed(inner, schema['items'], f'{where}[{i}]')


def flat(schema: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a schema with those that it refers to in their places; of alternatives the first."""
  found = dict(schema)
  if 'anyOf' in found:
    found |= found.pop('anyOf')[0]
  if '$ref' in found:
    theirs = flat(SCHEMA['$defs'][found.pop('$ref').removeprefix('#/$defs/')])
    found = {**theirs, **found, 'properties': {
        **theirs.get('properties', {}), **found.get('properties', {})}}
  return found


def check(report: Any) -> None:
  """Fails unless a report is as the schema says, by any validator, and has no other fields."""
  jsonschema.validate(report, SCHEMA)
  assert not list(undescribed(report))
