"""The README's losses, commands, length and links; `test_docs.py` runs its blocks."""
import pathlib
import re

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / 'README.md').read_text()


def test_the_loss_alone_runs_and_gives_what_the_formula_gives():
  blocks = re.findall(r'```python\n(.*?)```', README, flags=re.DOTALL)
  [code] = [block for block in blocks if 'distill.losses' in block]
  assert len([line for line in code.splitlines() if line]) <= 12
  scope = {}
  exec(code, scope)
  # A uniform student: cross-entropy ln 3, and T²·(ln 3 − entropy) of the teacher at T = 4.
  def divergence(z):
    p = np.exp(np.array(z) / 4) / np.exp(np.array(z) / 4).sum()
    return 16 * (np.log(3) + (p * np.log(p)).sum())
  soft = np.mean([divergence([2, 0, 0]), divergence([0, 0, 1])])
  np.testing.assert_allclose(scope['value'], 0.9 * soft + 0.1 * np.log(3), rtol=1e-5)
  assert scope['gradient'].shape == (2, 3)


def test_the_readme_is_short_and_names_only_what_exists():
  assert len(README.splitlines()) <= 160
  pattern = r"\b(?:configs|distill|docs|experiments|tests)/[\w/]+\.(?:py|md|png|svg)\b"
  for path in re.findall(pattern, README):
    assert (ROOT / path).exists(), path


def test_no_cell_of_its_table_is_long():
  cells = [cell for line in README.splitlines() if line.startswith('|')
           for cell in line.strip('|').split('|')]
  assert len(cells) > 10 and [cell for cell in cells if len(cell.split()) > 25] == []


def test_its_commands_are_those_that_ci_and_the_tests_run():
  assert "pip install -e . && python -m distill.main --config=configs/bert.py\n" in README
  assert "pip install -e '.[test]' && python -m pytest\n" in README
  assert "pip install --quiet -e '.[test]'" in (ROOT / '.ci/run').read_text()
