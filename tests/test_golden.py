"""What the code of 7fc13de left still opens: exports answer alike, a killed run resumes, a report
is drawn. `golden/make.py` says what there is.
"""
import json
import os
import pathlib
import shutil
import tarfile

import numpy as np
import pytest
import safetensors.numpy

from distill import evaluate, main, predict
from tests.golden import make
from tests.report import described

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = pathlib.Path('tests/golden')
PRINTED = 1.01e-4       # a unit of the last decimal of an answer


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)             # the paths in golden/config.py begin there


@pytest.fixture(scope='module')
def unpacked(tmp_path_factory):
  folder = tmp_path_factory.mktemp('golden')
  for archive in ROOT.glob('tests/golden/*.tar.xz'):
    with tarfile.open(archive) as tar:
      tar.extractall(folder, filter='data')
  return folder


def assert_alike(found, before):
  """Compares answers: numbers as printed, all else exactly; further fields are welcome."""
  if isinstance(before, dict):
    for name, value in before.items():
      assert_alike(found[name], value)
  elif isinstance(before, float):
    assert abs(found - before) <= PRINTED
  else:
    assert found == before


def archive(path):
  """Returns the arrays of an .npz file, which is closed."""
  with np.load(path) as file:
    return dict(file)


def arrays(workdir):
  """Returns the tensors of exports and the arrays of records."""
  found = {}
  for path in (*workdir.glob('export/*/*.safetensors'), *workdir.glob('records/*.npz')):
    read = safetensors.numpy.load_file if path.suffix == '.safetensors' else archive
    found |= {f'{path.relative_to(workdir)} {name}': x for name, x in read(path).items()}
  return found


def rows(workdir):
  return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


@pytest.mark.parametrize('name', ['text', 'numbers', 'images', 'program'])
def test_exports_answer_alike(unpacked, name):
  folder = unpacked / name if name == 'program' else GOLDEN / name
  before = json.loads((GOLDEN / 'answers.json').read_text())[name]
  found = predict.answers(str(folder), make.INPUTS[name])
  assert len(found) == len(before) > 2
  for answer, old in zip(found, before, strict=True):
    assert_alike(answer, old)


def test_masked_words_are_found_alike(tmp_path):
  """An export without head and pooler: `predict` refuses it, `evaluate` doesn't."""
  assert evaluate.command([f'--models={GOLDEN / "words"}', f'--config={make.CONFIG}:words',
                           f'--workdir={tmp_path}']) == 0
  found, before = archive(tmp_path / 'records/words.npz'), archive(GOLDEN / 'words.npz')
  for name in ('id', 'label', 'right'):
    np.testing.assert_array_equal(found[name], before[name])
  np.testing.assert_allclose(found['nll'], before['nll'], rtol=1e-5)


@pytest.mark.parametrize('flags', [
    pytest.param(os.environ['XLA_FLAGS'], id='close'),
    pytest.param(make.FLAGS, id='bitwise', marks=pytest.mark.slow)])      # in a process of its own
def test_a_killed_run_ends_as_the_uninterrupted_one(unpacked, tmp_path, flags):
  workdir = tmp_path / 'run'
  shutil.copytree(unpacked / 'resumed', workdir)
  before = rows(workdir)
  command = [f'--config={make.CONFIG}:resumed', f'--workdir={workdir}']
  if flags == make.FLAGS:
    make.run('main', *command)
  else:
    assert main.main(command) == 0
  after, whole = rows(workdir), rows(unpacked / 'whole')
  assert after[:len(before)] == before            # with their times: these steps weren't repeated
  found, expected = arrays(workdir), arrays(unpacked / 'whole')
  assert found.keys() == expected.keys()
  assert [row.keys() for row in after] == [row.keys() for row in whole]
  logged = [np.array([value for name, value in row.items() if name not in ('stage', 'time')])
            for row in (*after, *whole)]
  pairs = {name: (found[name], expected[name]) for name in expected} | {
      f'row {i}': pair for i, pair in enumerate(zip(logged[:len(after)], logged[len(after):],
                                                    strict=True))}
  same_machine = json.loads((GOLDEN / 'machine.json').read_text()) == make.machine(flags)
  for name, (value, old) in pairs.items():
    if same_machine:
      assert (value.dtype, value.shape) == (old.dtype, old.shape), name
      np.testing.assert_array_equal(value, old, err_msg=name)
    # Another processor or compiler sums in another order. The gradient of a key's bias is 0 but
    # for rounding, which Adam scales up to steps of any sign; nothing depends on that bias.
    elif not name.endswith('key.bias'):
      np.testing.assert_allclose(value, old, rtol=1e-5, atol=1e-5, err_msg=name)


def test_a_report_is_drawn_again(unpacked, tmp_path):
  shutil.copytree(unpacked / 'report', tmp_path / 'run')
  described.check(json.loads((tmp_path / 'run/report.json').read_text()))
  assert evaluate.command([f'--render={tmp_path / "run"}']) == 0
  page = (tmp_path / 'run/report.html').read_text()
  assert all(name in page for name in ('teacher', 'student', 'baseline'))
