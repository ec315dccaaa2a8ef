import json
import pathlib

import numpy as np
import pytest

from distill import lookup
from distill.data.sets import Dataset, InMemory, Split
from experiments import rows, tfidf

ROOT = pathlib.Path(__file__).parents[2]


def split(n):
  """Returns texts: class 0 has cats, class 1 dogs; every third text is unlabelled and has both."""
  label = np.array([-1 if i % 3 == 2 else i % 2 for i in range(n)], np.int32)
  words = {0: 'cat purrs', 1: 'dog barks', -1: 'cat dog'}
  return Split({'label': label, 'hash01': np.linspace(0, 1, n, endpoint=False)}, {}, InMemory({}),
               raw=[f'the {words[int(k)]} {i}' for i, k in enumerate(label)])


def test_it_learns_from_the_labels_it_may_see_and_leaves_a_row(tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(ROOT)
  test = split(300)
  test = test.subset(np.flatnonzero(test.known))
  data = Dataset('toy', None, {'train': split(300), 'test': test}, 'f', {},
                 {'names': ('cat', 'dog')})
  monkeypatch.setattr(lookup, 'build', lambda *_: data)
  assert tfidf.main(['configs/bert.py', f'--out={tmp_path}']) == 0
  [row], faults = rows.read(tmp_path / 'results.jsonl')
  assert not faults and json.dumps(row)
  models = row['models']
  assert models['all labels']['quality']['accuracy'] == 1
  assert models['all labels']['saw']['labels'] == 200
  assert models['few labels']['saw']['labels'] == 20            # a tenth of them


@pytest.mark.parametrize('arguments', [[], ['configs/bert.py'], ['configs/bert.py', 'out']])
def test_a_wrong_command_is_one_line(capsys, arguments):
  assert tfidf.main(arguments) == 10
  assert capsys.readouterr().err.count('\n') == 1
