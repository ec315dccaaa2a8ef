"""Says at the end how many reference values the losses were held against."""
from collections import Counter

from .inputs import PROVEN, REFERENCE


def pytest_terminal_summary(terminalreporter):
  if PROVEN:
    how = Counter(REFERENCE[name]['source'] for name in PROVEN)
    terminalreporter.write_line(
        f'{len(PROVEN)} of {len(REFERENCE)} reference values proven: '
        + ', '.join(f'{n} {source}' for source, n in sorted(how.items())))
