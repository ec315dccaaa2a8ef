"""The page of an exported program: what it is, how good, how to run it, and its limits."""
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from distill import tasks
from distill.modalities import Modality, examples

# Defaults of a modality's `usage`, for the fields that it leaves out.
USAGE = {'one': 'an example', 'tag': '', 'requires': '', 'imports': '', 'limits': ''}
SIZES = {'depth': 'deep', 'width': 'wide', 'heads': 'heads', 'widths': 'wide'}


def readme(name: str, card: Mapping[str, Any], modality: Modality, *, size: int, on: str,
           report: Mapping[str, Any] | None = None, verdict: str = '', table: str = '') -> str:
  """Renders README.md of the model `name`; `table` and `verdict` are from its run's `report`.

  `on` names the examples on which it was compared with its module, `size` is that of its file.
  """
  import jinja2
  environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True,
                                   lstrip_blocks=True, keep_trailing_newline=True)
  template = environment.from_string(
      pathlib.Path(__file__).with_suffix('.md').read_text('utf-8'))
  models = {model['name']: model for model in report['models']} if report else {}
  entry = models.get(name, {})
  role, task = entry.get('role', ''), tasks.from_card(card, 'the card')
  return template.render(
      name=name, card={'data': '', **card}, program=card['program'], noun=modality.noun,
      widths=modality.widths, usage={**USAGE, 'code': _call(modality), **modality.usage()},
      outputs=task.outputs, exclusive=getattr(task, 'exclusive', True), bytes=size,
      jax=jax.__version__, on=on,
      role=role, saw=_seen(entry.get('saw') or {}),
      sizes=_sizes(card['model']), table=table, verdict=verdict if role == 'student' else '',
      teachers=[model['name'] for model in models.values() if model['role'] == 'teacher'],
      split=report['task'].get('split', 'test') if report else '',
      splits=_splits(report['data']['splits']) if report else '',
      hardware='{cpu}, {cores} cores'.format(**report['hardware']) if report else '')


def _call(modality: Modality) -> str:
  """Returns the code of a call of a program, on placeholder values."""
  arrays = examples.placeholders(modality, 1)
  lines = [f'    {name!r}: np.ones({arrays[name].shape}, np.{arrays[name].dtype}),'
           for name in modality.fields]
  return '\n'.join(('found = program({      # prepared arrays, which lead with the examples',
                    *lines, '})'))


def _seen(seen: Mapping[str, int]) -> str:
  return ', '.join(f'{n:,} {noun}' for noun, n in seen.items())


def _splits(splits: Mapping[str, int]) -> str:
  return ' (' + ', '.join(f'{name} {n:,}' for name, n in splits.items()) + ')'


def _sizes(node: Mapping[str, Any]) -> str:
  spell = lambda value: ' '.join(map(str, value)) if isinstance(value, Sequence) else f'{value:,}'
  return ', '.join(f'{spell(node[key])} {word}' for key, word in SIZES.items() if key in node)
