"""Runs on a user's file of texts: three commands from a file to an answer."""
import json
import pathlib
import subprocess
import sys

import pytest

from distill import main, predict
from distill.types import Status

ROOT = pathlib.Path(__file__).parent.parent
SMALL = ['evaluate.alone=False', 'evaluate.faithfulness=False', 'data.batch_size=8',
         'data.length=8', 'data.vocabulary=200', 'student.model.width=8',
         'teachers.teacher.model.width=16',
         *(f'{node}model.depth=1' for node in ('student.', 'teachers.teacher.')),
         *(f'{node}train.{plan}' for node in ('', 'teachers.teacher.')
           for plan in ('steps=4', 'log_every=2', 'save_every=4', 'eval_every=4'))]


def command(module, *arguments):
  return subprocess.run([sys.executable, '-m', f'distill.{module}', *map(str, arguments)], cwd=ROOT,
                        text=True, capture_output=True, timeout=300)


def write(path, label):
  """Writes 200 lines, a fifth of them without a label."""
  words = [('fine', 'good', 'great'), ('poor', 'bad', 'dull')]
  path.write_text(''.join(json.dumps(
      {'sentence': f'a {words[i % 2][i % 3]} film, number {i}'}
      | ({'label': label(i)} if i % 5 else {})) + '\n' for i in range(200)))
  return path


def train(path, workdir, config='configs/files.py'):
  ran = command('main', f'--config={config}', f'--config.data.path={path}', f'--workdir={workdir}',
                *(f'--config.{override}' for override in SMALL))
  assert ran.returncode == 0, ran.stderr
  return ran.stderr, json.loads((workdir / 'report.json').read_text())


def test_from_a_file_to_an_answer(tmp_path, capsys):
  path = write(tmp_path / 'my.jsonl', lambda i: ('good', 'bad')[i % 2])
  log, report = train(path, tmp_path / 'run')
  assert "my.jsonl: text from 'sentence', label from 'label'" in log
  assert '40 texts without a label go to train' in log
  assert [model['role'] for model in report['models']] == ['teacher', 'student', 'baseline']
  splits = report['data']['splits']
  assert sum(splits.values()) == 200 and min(splits.values()) > 0
  seen = report['models'][1]['saw']
  assert seen == {'texts': splits['train'], 'labels': splits['train'] - 40}
  capsys.readouterr()
  assert predict.main([f'--model={tmp_path}/run/export/student', 'a good film', 'bad']) == 0
  answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [answer['text'] for answer in answers] == ['a good film', 'bad']
  assert all(list(answer['probabilities']) == ['bad', 'good'] for answer in answers)
  tab, space = predict.answers(f'{tmp_path}/run/export/student', ['a\tgood film', 'a good film'])
  assert tab['probabilities'] == space['probabilities'] == answers[0]['probabilities']


@pytest.mark.slow
def test_numbers_are_learned_as_a_regression(tmp_path):
  path = write(tmp_path / 'my.jsonl', lambda i: (i % 2) + i / 1000)
  _, report = train(path, tmp_path / 'run', 'configs/files.py:regression')
  assert report['task']['primary'] in report['models'][1]['quality']


@pytest.mark.parametrize('line, found', [
    ('{"text": "a", "label": 1', 'my.jsonl:2 is not JSON'),
    ('{"txet": "a", "label": 1}', "my.jsonl:2 has no 'text'; did you mean 'txet'?")])
def test_a_broken_line_ends_with_its_number(tmp_path, monkeypatch, capsys, line, found):
  monkeypatch.chdir(ROOT)
  path = tmp_path / 'my.jsonl'
  path.write_text(f'{{"text": "a", "label": 0}}\n{line}\n')
  code = main.main(['--config=configs/files.py', f'--config.data.path={path}',
                    f'--workdir={tmp_path / "run"}'])
  err = capsys.readouterr().err
  assert code == Status.DATA and found in err and 'Traceback' not in err
