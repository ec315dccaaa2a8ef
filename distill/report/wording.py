"""How a report writes names and numbers."""
from collections.abc import Mapping, Sequence
from typing import Any

UNITS = {'fraction': '%', 'correlation': ''}            # what stands after a number
GAPS = {'fraction': 'points', 'correlation': ''}        # … after a difference
NAMES = {'mcc': 'Matthews correlation', 'mse': 'MSE', 'pearson': 'Pearson correlation',
         'spearman': 'Spearman correlation'}
KINDS = {'clean': 'as they are', 'drop': 'words left out', 'swap': 'words swapped',
         'unknown': 'words unknown', 'fgsm': 'FGSM'}        # … of `robustness`


def spelled(metric: str) -> str:
  """As in a sentence: macro_f1 is macro F1."""
  words = (word.upper() if word[-1:].isdigit() else word for word in metric.split('_'))
  return NAMES.get(metric, ' '.join(words))


def number(value: float, unit: str) -> str:
  """A number by its unit: fractions as percents, and a minus that is one."""
  said = (f'{100 * value:.1f}' if unit == 'fraction' else
          f'{value:.3f}' if unit == 'correlation' else f'{value:.4g}')
  return said.replace('-', '−' if float(said) else '')


def amount(value: float, unit: str, words: Mapping[str, str] = UNITS) -> str:
  """A number with its unit, or with what `words` calls that."""
  return f'{number(value, unit)} {words.get(unit, unit)}'.rstrip()


def interval(metric: Mapping[str, Any], to: str = '–') -> str:
  """From its lower end to its upper one."""
  return to.join(number(metric[end], metric['unit']) for end in ('low', 'high'))


def times(ratio: float) -> str:
  """How many times: two digits, or whole from ten."""
  return f'{ratio:.1f}'.removesuffix('.0') if ratio < 10 else f'{ratio:.0f}'


def percent(share: float | None) -> str:
  """A share with a digit after the point; – where there is none."""
  return '–' if share is None else f'{100 * share:.1f} %'


def short(number: float | None, unit: str = '') -> str:
  """Three digits: 870, 1.84 M, 7.37 MB."""
  if number is None:
    return '–'
  power = 0
  while number >= 999.5 and power < 5:
    number, power = number / 1000, power + 1
  return f'{number:.3g} {("", "k", "M", "G", "T", "P")[power]}{unit}'.rstrip()


def milliseconds(time: float) -> str:
  """A time in ms, short ones with three digits after the point."""
  return f'{time:,.2f} ms' if time >= 1 else f'{time:.3f} ms'


def counted(n: int, what: str) -> str:
  """1 core, 2 cores."""
  return f'{n:,} {what}{"s" * (n != 1)}'


def estimate(models: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
  """The inputs that all models' energies share, if all are estimates; None otherwise."""
  found = [m['energy_j_per_example'] for m in models if m['energy_j_per_example']]
  if not found or not all(energy['method'].startswith('estimated') for energy in found):
    return None
  first, *others = (energy.get('inputs', {}) for energy in found)
  return {name: value for name, value in first.items()
          if all(other.get(name) == value for other in others)}


def tied(text: str) -> str:
  """Numbers stay on the line of their signs."""
  return text.replace(' %', '\u00a0%').replace('× ', '×\u00a0')


def listed(words: Sequence[str]) -> str:
  """As in a sentence: a, b and c."""
  return ' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))
