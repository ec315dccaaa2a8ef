"""Several labels an example: answered by a sigmoid each, and kept from data of single labels."""
import json

import numpy as np
import pytest

from distill import export, formats, predict, tasks
from distill.tasks.multilabel import MultiLabel
from distill.types import Status, Stop
from tests.formats.test_finite import LABELS, command
from tests.test_pretrained import pretrained

__all__ = ['command']               # a fixture


def test_an_answer_by_hand():
  # σ(0) = ½, which is not above ½; σ(ln 3) = ¾; σ(-ln 3) = ¼
  task = MultiLabel(classes=3, names=('a', 'b', 'c'))
  assert task.answer({'logits': np.log([1.0, 3.0, 1 / 3])}) == {
      'labels': ['b'], 'probabilities': {'a': 0.5, 'b': 0.75, 'c': 0.25}}


def test_far_logits_are_sure_and_nothing_overflows():
  answer = MultiLabel(classes=2).answer({'logits': np.array([1e30, -1e30], np.float32)})
  assert answer == {'labels': ['0'], 'probabilities': {'0': 1.0, '1': 0.0}}


def test_it_judges_nothing():
  task = MultiLabel(classes=2)
  for judge in (lambda: task.records({}, {}), lambda: task.score({})):
    with pytest.raises(Stop) as stop:
      judge()
    assert stop.value.status == Status.MISFIT
  assert 'names for' in str(pytest.raises(ValueError, MultiLabel, classes=2, names=('a',)).value)


@pytest.fixture
def several(tmp_path):
  """A folder of `transformers` whose labels don't exclude each other."""
  folder = pretrained(tmp_path / 'several', LABELS)
  config = json.loads((folder / 'config.json').read_text())
  (folder / 'config.json').write_text(json.dumps(
      {**config, 'problem_type': 'multi_label_classification'}))
  return folder


def test_a_folder_of_transformers_and_its_program_answer_by_sigmoids(several, tmp_path, capsys):
  row, = predict.answers(str(several), ['the cat sat 7'])
  single = predict.answers(str(pretrained(tmp_path / 'single', LABELS)), ['the cat sat 7'])[0]
  odds = [p / (1 - p) for p in row['probabilities'].values()]
  softmax = [*single['probabilities'].values()]                 # of the same logits
  np.testing.assert_allclose(odds[0] / odds[1], softmax[0] / softmax[1], rtol=0.02)
  assert row['labels'] == [name for name, p in row['probabilities'].items() if p > 0.5]
  (tmp_path / 'texts').write_text('the cat\nthe dog sat')
  assert export.main([f'--model={several}', f'--to={tmp_path}/program',
                      f'--inputs={tmp_path}/texts']) == 0
  page = (tmp_path / 'program' / 'README.md').read_text()
  assert 'any number of them: animal0, animal1' in page and 'if z > 0]' in page
  assert 'argmax' not in page and 'always answers with one' not in page
  capsys.readouterr()
  again, = predict.answers(f'{tmp_path}/program', ['the cat sat 7'])
  assert again['labels'] == row['labels']
  assert again['probabilities'] == pytest.approx(row['probabilities'], abs=1e-3)


@pytest.mark.parametrize('name', ['evaluate', 'teacher', 'student'])
def test_beside_single_labels_it_is_refused_by_name(command, several, name):
  code, out, err = command(name, several)
  assert code == Status.MISFIT and not out and 'Traceback' not in err
  assert "problem_type='multi_label_classification'" in err.splitlines()[-1]


def test_a_new_head_forgets_the_problem(several):
  _, _, card = formats.load(str(several), fresh=('head/*',), sizes={'classes': 2})
  assert card['classes'] == () and 'task' not in card
  tasks.check_exclusive(card, 'teachers.t', 'x')
  with pytest.raises(Stop):
    tasks.check_exclusive(formats.load(str(several))[2], 'teachers.t', 'x')


@pytest.mark.parametrize('card', [{}, {'task': {'name': 'nobody:Nothing'}},
                                  {'task': {'name': 'classification.Classification'}}])
def test_other_tasks_pass(card):
  tasks.check_exclusive(card, 'x', 'y')


@pytest.mark.parametrize('name', ['os:abort', 'subprocess:Popen', 'numpy:ndarray'])
def test_a_card_calls_nothing_that_is_no_task(name):
  with pytest.raises(Stop, match='is no task') as stop:
    tasks.from_card({'classes': ['a', 'b'], 'task': {'name': name}}, 'task')
  assert stop.value.status == Status.CHECKPOINT
