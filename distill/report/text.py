"""Text of a report: how names, numbers and units are written."""
from collections.abc import Mapping, Sequence
from typing import Any

UNITS = {'fraction': '%', 'correlation': ''}            # what stands after a number
DIFFERENCE_UNITS = {'fraction': 'points', 'correlation': ''}        # … after a difference
METRICS = {'mcc': 'Matthews correlation', 'mse': 'MSE', 'pearson': 'Pearson correlation',
           'spearman': 'Spearman correlation'}
CORRUPTIONS = {'clean': 'clean inputs', 'drop': 'words dropped', 'swap': 'words swapped',
               'unknown': 'unknown words', 'fgsm': 'FGSM attack'}


def metric_name(metric: str) -> str:
  """Returns a metric's name as in a sentence: macro_f1 is macro F1."""
  words = (word.upper() if word[-1:].isdigit() else word for word in metric.split('_'))
  return METRICS.get(metric, ' '.join(words))


def number(value: float, unit: str) -> str:
  """Formats a number by its unit: a fraction as a percentage, with a true minus sign."""
  if unit == 'fraction':
    text = f'{100 * value:.1f}'
  elif unit == 'correlation':
    text = f'{value:.3f}'
  else:
    text = f'{value:.4g}'
  return text.replace('-', '−' if float(text) else '')


def with_unit(value: float, unit: str, units: Mapping[str, str] = UNITS) -> str:
  """Formats a number with its unit, or with the name that `units` gives that unit."""
  return f'{number(value, unit)} {units.get(unit, unit)}'.rstrip()


def interval(metric: Mapping[str, Any], to: str = '–') -> str:
  """Formats an interval from its lower end to its upper end."""
  return to.join(number(metric[end], metric['unit']) for end in ('low', 'high'))


def times(ratio: float) -> str:
  """Formats a ratio with two digits, or as a whole number from ten on."""
  return f'{ratio:.1f}'.removesuffix('.0') if ratio < 10 else f'{ratio:.0f}'


def percent(share: float | None) -> str:
  """Formats a share with one digit after the point; None as –."""
  return '–' if share is None else f'{100 * share:.1f} %'


def short(number: float | None, unit: str = '') -> str:
  """Formats a number with three digits: 870, 1.84 M, 7.37 MB; None as –."""
  if number is None:
    return '–'
  power = 0
  while number >= 999.5 and power < 5:
    number, power = number / 1000, power + 1
  return f'{number:.3g} {("", "k", "M", "G", "T", "P")[power]}{unit}'.rstrip()


def milliseconds(time: float) -> str:
  """Formats a time in ms, with three digits after the point if it is short."""
  return f'{time:,.2f} ms' if time >= 1 else f'{time:.3f} ms'


def with_noun(n: int, noun: str) -> str:
  """Formats a number with its noun: 1 core, 2 cores."""
  return f'{n:,} {noun}' if n == 1 else f'{n:,} {noun}s'


def shared_estimate(models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
  """Returns the inputs that all models' energies share if all are estimates, None otherwise."""
  energies = [m['energy_j_per_example'] for m in models if m['energy_j_per_example']]
  if not energies or not all(energy['method'].startswith('estimated') for energy in energies):
    return None
  first, *others = (energy.get('inputs', {}) for energy in energies)
  return {name: value for name, value in first.items()
          if all(other.get(name) == value for other in others)}


def nonbreaking(text: str) -> str:
  """Returns a text in which no line breaks between a number and its sign."""
  return text.replace(' %', '\u00a0%').replace('× ', '×\u00a0')


def join_words(words: Sequence[str]) -> str:
  """Joins words as in a sentence: a, b and c."""
  return ' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))
