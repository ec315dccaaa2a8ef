"""The front door: every config's `:test` through the real command, stopped, killed and resumed."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from distill import flags, lookup, main, predict
from distill import workdir as workdirs
from distill.pipelines import judge
from distill.types import Status, Stop
from experiments import run
from tests.report import described

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = sorted(ROOT.glob('configs/*.py'))


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def command(workdir, *more, config='configs/bert.py:test', failpoint='', environment=None):
  # One device; code that isn't optimised, as in conftest.py.
  env = {**os.environ, 'XLA_FLAGS': '--xla_backend_optimization_level=0', **(environment or {})}
  return subprocess.Popen(
      [sys.executable, '-m', 'distill.main', f'--config={config}', f'--workdir={workdir}', *more],
      env=env | {'DISTILL_FAILPOINT': failpoint}, cwd=ROOT, text=True,
      stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finished(process):
  out, err = process.communicate(timeout=300)
  return process.returncode, out, err


def answered(capsys, workdir, *more):
  """The same in this process, which has loaded JAX: status, and what was said."""
  code = main.main(['--config=configs/bert.py:test', f'--workdir={workdir}', *more])
  return code, *capsys.readouterr()


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  code, out, err = finished(command(workdir))
  assert code == 0, err
  return workdir, out, err


def result(workdir):
  """What must not depend on interruptions: weights, records, quality, and the log without times."""
  report = json.loads((workdir / 'report.json').read_text())
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  weights = {p.relative_to(workdir): p.read_bytes() for p in workdir.rglob('model.safetensors')}
  records = {p.name: p.read_bytes() for p in (workdir / 'records').glob('*.npz')}
  return (weights, records, [(m['name'], m['quality'], m['gain']) for m in report['models']],
          [{k: v for k, v in row.items() if k != 'time'} for row in rows])


def test_the_run_leaves_what_the_contract_names(whole):
  workdir, out, err = whole
  assert 'plan  teacher' in err and 'plan  in all about' in err
  assert 'The student' in out and str(workdir) in out
  for name in ('config.json', 'metrics.jsonl', 'report.json', 'report.html', 'export/student',
               'records/student.npz', 'records/baseline.npz', 'tensorboard'):
    assert (workdir / name).exists(), name
  report = json.loads((workdir / 'report.json').read_text())
  described.check(report)
  assert [m['role'] for m in report['models']] == ['teacher', 'student', 'baseline']
  assert report['models'][0]['saw']['labels'] > 5 * report['models'][1]['saw']['labels']


def test_the_same_command_again_says_that_it_is_finished(whole, capsys):
  workdir, _, _ = whole
  code, out, err = answered(capsys, workdir)
  assert code == 0 and 'finished before' in err and 'The student' in out


def test_a_tier_that_is_missed_is_a_status_after_the_report_of_a_finished_run_too(whole, capsys):
  workdir, _, _ = whole
  before = (workdir / 'report.json').read_bytes()
  code, out, err = answered(capsys, workdir, '--config.tier=edge')
  assert code == Status.TIER and 'The student' in out and 'tiers reached' in out
  assert "tier edge is missed by student: share of the teacher's parameters" in err.splitlines()[-1]
  # All cores made the calls of this run, so that no limit of one thread is passed.
  assert 'on one thread not measured, at most 50' in err and 'Traceback' not in err
  code, _, err = answered(capsys, workdir, '--config.tier=egde')
  assert code == Status.CONFIG and "did you mean 'edge'" in err
  assert (workdir / 'report.json').read_bytes() == before


def test_another_config_in_the_same_workdir_is_refused(whole, capsys):
  workdir, _, _ = whole
  code, _, err = answered(capsys, workdir, '--config.seed=5')
  assert code == Status.CONFIG and 'seed (0 there, 5 here)' in err and 'Traceback' not in err


def test_changed_texts_are_refused(whole, tmp_path, capsys):
  workdir = tmp_path / 'run'
  shutil.copytree(whole[0], workdir)
  facts = json.loads((workdir / 'data.json').read_text())
  (workdir / 'data.json').write_text(json.dumps(facts | {'fingerprint': '0' * 64}))
  code, _, err = answered(capsys, workdir)
  assert code == Status.DATA and 'begun with other texts' in err and 'Traceback' not in err


@pytest.mark.slow
def test_killed_while_saving_evaluating_and_reporting_it_resumes_bitwise(whole, tmp_path):
  workdir = tmp_path / 'run'
  # One run that dies five times: in the middle of a stage, after its last save, at the next
  # stage's, between two models' evaluations, and between the report's two files.
  for failpoint in ('payload:3', 'renamed:6', 'seal:3', 'recorded:student', 'reporting'):
    died, _, err = finished(command(workdir, failpoint=failpoint))
    assert died == 137, err
  code, _, err = finished(command(workdir))
  assert code == 0, err
  assert result(workdir) == result(whole[0])


@pytest.mark.slow
def test_one_device_is_eight(whole, tmp_path):
  more = {'XLA_FLAGS': '--xla_force_host_platform_device_count=8'}
  code, _, err = finished(command(tmp_path / 'run', environment=more))
  assert code == 0, err
  for stage in ('teacher', 'student', 'baseline'):
    single, eight = (safetensors.numpy.load_file(w / 'export' / stage / 'model.safetensors')
                  for w in (whole[0], tmp_path / 'run'))
    for path, value in single.items():       # six steps of Adam on sums in another order
      np.testing.assert_allclose(eight[path], value, atol=2e-4, err_msg=path)


@pytest.mark.slow
def test_a_loaded_teacher_teaches(whole, tmp_path):
  code, out, err = finished(command(
      tmp_path / 'run', f'--config.teachers.teacher.init={whole[0] / "export/teacher"}',
      '--config.teachers.teacher.train={}'))
  assert code == 0, err
  assert 'plan  teacher' not in err
  report = json.loads((tmp_path / 'run/report.json').read_text())
  theirs = json.loads((whole[0] / 'report.json').read_text())
  for ours, other in zip(report['models'], theirs['models'], strict=True):
    assert ours['quality'] == other['quality'], ours['name']


@pytest.mark.slow
@pytest.mark.parametrize('when', ['teacher 2/6', 'teacher 6/6', 'student 4/6', 'student 6/6',
                                  'baseline 2/6', 'baseline 6/6'])
@pytest.mark.parametrize('how', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_stopped_anywhere_it_resumes_bitwise(whole, tmp_path, when, how):
  workdir = tmp_path / 'run'
  process = command(workdir)
  for line in process.stderr:
    if when in line:
      process.send_signal(how)
      break
  code, _, _ = finished(process)
  assert code in (-signal.SIGKILL, Status.PREEMPTED)
  code, _, err = finished(command(workdir))
  assert code == 0, err
  assert result(workdir) == result(whole[0])


@pytest.mark.parametrize(('more', 'line'), [
    (['--config.data.vocabulary=900'], 'its tokenizer ('),
    (['--config.data.per_class=150'], 'its tokenizer ('),
    (['--config.data.length=40', '--config.data.widths=(40,)'], 'length=32, but docstrings has 40'),
])
def test_a_teacher_that_does_not_fit_the_data_is_refused(whole, tmp_path, capsys, more, line):
  teacher = f'--config.teachers.teacher.init={whole[0] / "export/teacher"}'
  code = main.main(['--config=configs/bert.py:test', f'--workdir={tmp_path / "run"}', teacher,
                    *more])
  assert code == Status.MISFIT and line in capsys.readouterr().err


@pytest.mark.slow
def test_a_student_may_start_from_layers_of_its_teacher(whole, tmp_path):
  code, _, err = finished(command(
      tmp_path / 'run', '--config.student.init=teacher', '--config.student.layers=(1, 0)',
      '--config.student.model.width=32'))
  assert code == 0, err


def test_predict_answers_from_the_export(whole, capsys):
  folder = whole[0] / 'export/student'
  texts = ['Return the sum of array elements over a given axis.', 'Draw a line. ' * 60]
  assert predict.main([f'--model={folder}', *texts]) == 0
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [row['text'] for row in rows] == texts
  for row in rows:
    assert abs(sum(row['probabilities'].values()) - 1) < 1e-3
    assert row['probabilities'][row['label']] == max(row['probabilities'].values())


def test_predict_is_what_the_records_say(whole):
  """The command and the evaluation agree on texts of the split."""
  config = json.loads((whole[0] / 'config.json').read_text())
  data = {k: v for k, v in config['data'].items() if k not in judge.BATCHING}
  split = lookup.build('data', data, 'data').splits['test']
  with np.load(whole[0] / 'records/student.npz') as records:
    rows = {int(i): p for i, p in zip(records['id'], records['probabilities'], strict=True)}
  for i, row in enumerate(predict.answers(str(whole[0] / 'export/student'), split.raw[:5])):
    # batch 1 and rounding to four places
    np.testing.assert_allclose(list(row['probabilities'].values()), rows[i], atol=1e-4)


@pytest.mark.parametrize(('arguments', 'status', 'line'), [
    (['some text'], Status.CONFIG, 'usage:'),
    (['--model=nowhere', 'some text'], Status.CHECKPOINT, 'nowhere'),
    (['--model={}', '--modle=x', 'a'], Status.CONFIG, 'usage:'),
])
def test_predict_refuses_in_one_line(whole, capsys, arguments, status, line):
  folder = str(whole[0] / 'export/student')
  assert predict.main([a.replace('{}', folder) for a in arguments]) == status
  err = capsys.readouterr().err
  assert line in err and 'Traceback' not in err


def test_sigterm_saves_the_step_and_exits_with_3(tmp_path):
  """That it resumes bitwise, wherever it was stopped, is among the slow tests."""
  process = command(tmp_path / 'run')
  for line in process.stderr:
    if 'student 2/6' in line:
      process.send_signal(signal.SIGTERM)
      break
  code, _, err = finished(process)
  assert code == Status.PREEMPTED and 'everything saved' in err and 'Traceback' not in err
  assert [*(tmp_path / 'run/checkpoints/student').glob('[1-6]')]


def test_numbers_that_are_not_finite_name_the_step_and_the_batch(tmp_path, capsys):
  code, _, err = answered(
      capsys, tmp_path / 'run', '--config.teachers.teacher.train.optimizer.rate=1e30',
      '--config.teachers.teacher.train.optimizer.warmup=0.5',   # the first step's rate is 0
      '--config.teachers.teacher.train.save_every=1')
  line = err.splitlines()[-1]
  assert code == Status.NONFINITE and 'Traceback' not in err
  step = int(line.partition('at step ')[2].partition(',')[0])
  assert 'batch ids [' in line and f'checkpoint {step} in' in line
  path = tmp_path / 'run/checkpoints/teacher' / str(step) / 'state.safetensors'
  state = safetensors.numpy.load_file(path)
  assert all(np.isfinite(v).all() for v in state.values() if v.dtype.kind == 'f')


def test_a_workdir_that_another_run_holds_is_refused(tmp_path):
  with workdirs.locked(tmp_path / 'run'):
    code, _, err = finished(command(tmp_path / 'run'))
    assert code == Status.LOCKED and f'held by process {os.getpid()}' in err
  with workdirs.locked(tmp_path / 'run'):         # and free again, though the file is still there
    pass


@pytest.mark.parametrize(('more', 'status', 'line'), [
    (['--config.teachers.teacher.model.heads=3'], Status.CONFIG, 'width=32 is not divisible'),
    (['--config.student.model.name=bert.Bret'], Status.CONFIG, "did you mean 'bert.Bert'"),
    (['--config.objective.soft.reads.teacher=teacher/block09/hidden'], Status.MISFIT,
     "'teacher/block09/hidden' names no output of teacher, which has block00/attention"),
    (['--config.objective.soft.kwargs.temperature=-1.0'], Status.MISFIT, 'objective.soft'),
    (['--config.evaluate.split=tset'], Status.DATA, "did you mean 'test'"),
    (['--config.optimizer.schedule=cosin'], Status.CONFIG, 'is not one of cosine'),
    (['--config.data.labelled=1.5'], Status.CONFIG, 'labelled=1.5'),
    (['--config.objective.hard.mask=batch/mask'], Status.CONFIG, "mask='batch/labelled'"),
    (['--config.train.dtype=float8'], Status.CONFIG, 'is not one of float32'),
    (['--config.data.widths=(16,)'], Status.CONFIG, 'the widest must be'),
    (['--config.evaluate.batch_size=0'], Status.CONFIG, 'must be at least 1'),
    (['--config.evaluate.batch_size=12'], Status.CONFIG, 'evaluate.batch_size=12 does not divide'),
    (["--config.student.frozen=('*',)"], Status.CONFIG, 'leaves nothing to train'),
    (['--config.pipeline=compare.rn'], Status.CONFIG, "did you mean 'compare.run'"),
    (['--config.student.init=teacher'], Status.MISFIT, 'in the source'),
    (['--config.student.layers=(0, 1)'], Status.CONFIG, 'student.layers without student.init'),
    (['--config.teachers.teacher.init=nowhere'], Status.CHECKPOINT, 'nowhere'),
    (['--config.student.model.depth=0'], Status.CONFIG, 'every size must be at least 1'),
    (['--config.seed=-1'], Status.CONFIG, 'seed=-1 must be from 0 to 2147483647'),
    (['--config.seed=2147483648'], Status.CONFIG, 'must be from 0 to 2147483647'),
    (['--config.train.steps=2147483648'], Status.CONFIG, 'below 2**31'),
    (['--config.data.batch_size=100000'], Status.CONFIG, 'is more than 65536'),
    (['--config.data.batch_size=1000000000'], Status.CONFIG, 'must be at most 16777216'),
    (['--config.evaluate.batch_size=1000000000'], Status.CONFIG, 'must be at most 16777216'),
    (['--config.data.vocabulary=4611686018427387904'], Status.CONFIG, 'must be at most 2**20'),
    (['--config.student.model.width=4611686018427387904'], Status.CONFIG, 'too large'),
])
def test_a_mistake_is_one_line_before_anything_is_compiled(tmp_path, capsys, more, status, line):
  code = main.main(['--config=configs/bert.py:test', f'--workdir={tmp_path / "run"}', *more])
  err = capsys.readouterr().err
  assert code == status and line in err.splitlines()[-1] and 'Traceback' not in err
  assert not (tmp_path / 'run' / 'checkpoints').exists()


@pytest.mark.parametrize(('arguments', 'line'), [
    (['--config=configs/brt.py'], "did you mean 'configs/bert.py'"),
    (['--config=configs/bert.py:tset'], "did you mean 'test'"),
    (['--config=configs/bert.py:test', '--config.data.labeled=0.2'],
     "did you mean 'data.labelled'"),
    (['--config=configs/bert.py:test', '--config.seed=true'], 'config.seed=true'),
    (['--config=configs/bert.py:test', '--config.seed=99999999999999999999'],
     'seed is a whole number of 67 bits'),
    (['--config=configs/bert.py:test', '--config.optimizer.rate=1e400'],
     'optimizer.rate=inf must be a finite number'),
    (['--flagfile=/nowhere'], 'Unable to open flagfile'),
    (['--config=configs/bert.py:test', '--workdr=x'], 'workdr'),
    (['--config=configs/bert.py:test', 'more'], "'more' is not a flag"),
    (['--workdir=x'], 'give --config='),
])
def test_flags_that_name_nothing_are_refused(capsys, arguments, line):
  assert main.main(arguments) == Status.CONFIG
  assert line in capsys.readouterr().err


def test_a_workdir_that_cannot_be_written_is_refused(tmp_path, capsys):
  (tmp_path / 'file').write_text('')
  code = main.main(['--config=configs/bert.py:test', f'--workdir={tmp_path / "file" / "run"}'])
  assert code == Status.DISK and 'cannot write' in capsys.readouterr().err


@pytest.mark.parametrize('path', CONFIGS, ids=lambda p: p.stem)
def test_every_config_has_the_variant_test_and_its_sweep_fits(path):
  assert 'test' in flags.described(path)[1]
  assert run.plan(f'configs/{path.name}', 1)


CODE = '''\"\"\"A toy

of no use.\"\"\"
from typing import Literal
def b(c):
  \"\"\"Does
  this.

  And that.
  \"\"\"
T = dict(b=b, d=1)
'''


@pytest.mark.parametrize('head', ['', 'from __future__ import annotations\n'])
@pytest.mark.parametrize(('signature', 'variants'), [
    ("name: Literal['f-0.5', *T, 3] = 'f'", {'f-0.5': '', 'b': 'Does this.', 'd': ''}),
    ("name: str = 'f'", None), ("name='f'", None), ('', {})])
def test_variants_are_the_literal_of_get_config_with_the_sentences_of_their_functions(
    tmp_path, head, signature, variants):
  code = CODE.replace('from typing', head + 'from typing', 1)
  (tmp_path / 'toy.py').write_text(f'{code}def get_config({signature}):\n  pass\n')
  assert flags.described(tmp_path / 'toy.py') == ('A toy', variants)


@pytest.mark.parametrize(('code', 'line'), [
    ('def get_config(a: Literl["x"]):\n  pass', "toy.py: name 'Literl' is not defined"),
    ('x = (', "toy.py:1: '(' was never closed"), ('import sys\nsys.exit(3)', 'toy.py: 3'),
    ('1 / 0', 'toy.py: division by zero'), ('', "toy.py has no variant 'x'"),
    ('from typing import Literal\ndef get_config(a: Literal["xs"]):\n  pass',
     "toy.py has no variant 'x'; did you mean 'xs'?")])
def test_a_file_whose_variants_cannot_be_read_is_one_line(tmp_path, monkeypatch, code, line):
  monkeypatch.chdir(tmp_path)
  pathlib.Path('toy.py').write_text(code)
  with pytest.raises(Stop) as stop:
    flags.parsed(['--config=toy.py:x'])
  assert line in str(stop.value) and '\n' not in str(stop.value)
  assert stop.value.status == Status.CONFIG


@pytest.mark.slow
def test_masked_words_train_beside_the_labels(tmp_path):
  small = ['data.per_class=200', 'data.vocabulary=1000', 'data.length=32', 'data.widths=(32,)',
           'data.batch_size=8', 'train.steps=2', 'teachers.teacher.train.steps=2',
           'teachers.teacher.model.width=16', 'student.model.width=16']
  small = [f'--config.{override}' for override in small]
  code, _, err = finished(command(tmp_path / 'run', *small, config='configs/bert.py:words'))
  assert code == 0, err
  rows = [json.loads(line) for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines()]
  words = {row['stage']: row['words'] for row in rows if 'words' in row}
  assert set(words) == {'student', 'baseline'}
  assert all(abs(value - np.log(1000)) < 1 for value in words.values())      # untrained: uniform


@pytest.mark.skipif('TFDS_DATA_DIR' not in os.environ, reason='no TFDS_DATA_DIR')
def test_pairs_of_a_tfds_set_train_from_an_export(whole, tmp_path):
  small = {
      'data.length': 32, 'data.widths': (32,), 'train.steps': 2, 'teachers.teacher.train.steps': 2,
      'teachers.teacher.init': whole[0] / 'export/teacher',
      'teachers.teacher.fresh': ('head/*',), 'student.layers': (1,),
      'student.model.width': 32, 'student.model.depth': 1, 'student.model.heads': 4,
      'student.model.inner': 128}
  small = [f'--config.{field}={value}' for field, value in small.items()]
  code, _, err = finished(command(tmp_path / 'run', *small, config='configs/glue.py:rte'))
  assert code == 0, err


def test_tfds_data_that_is_not_there_is_named(tmp_path, capsys):
  code = main.main(['--config=configs/glue.py:cola', f'--workdir={tmp_path / "run"}',
                    f'--config.data.data_dir={tmp_path}'])
  err = capsys.readouterr().err
  assert code == Status.DATA and 'glue/cola' in err and str(tmp_path) in err


def test_list_and_print_config(capsys):
  assert main.main(['--list']) == 0
  lines = capsys.readouterr().out.splitlines()
  assert 'configs/bert.py:test' in lines
  about, = (line.split(maxsplit=1)[1] for line in lines if line.startswith('configs/digits.py:at '))
  assert about == 'Compares the attention maps of every stage (AT, Zagoruyko 2017, eq. 2).'
  assert main.main(['--config=configs/bert.py:test', '--print_config', '--config.seed=4']) == 0
  assert json.loads(capsys.readouterr().out)['seed'] == 4


def test_names_of_runs():
  assert flags.name_of('configs/bert.py:test') == 'bert-test'
  assert flags.name_of('configs/bert.py') == 'bert'


def test_the_lock_names_its_holder(tmp_path):
  with workdirs.locked(tmp_path), pytest.raises(Stop, match=str(os.getpid())):
    workdirs.locked(tmp_path).__enter__()


def test_mistakes_on_the_command_line_are_answered_without_loading_jax():
  code = "import sys, distill.main; assert not {'jax', 'flax', 'matplotlib'} & set(sys.modules)"
  subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)
