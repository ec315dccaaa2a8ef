import contextlib
import fcntl
import json
import os
import pathlib
import subprocess
import sys
import threading
import time

import pytest

from distill import flags
from distill import report as reports
from distill.pipelines.identities import config_sha256
from distill.types import Status, Stop
from experiments import rows, run, sweeps

# ml_collections loads config files by a method that Python would rather see gone.
ROOT = pathlib.Path(__file__).parents[2]
TOY = '''"""A toy."""
from typing import Literal

from ml_collections import ConfigDict


def get_config(size: Literal['test'] = 'full'):
  c = ConfigDict(dict(seed=0, pipeline='compare.run', data=dict(seed=0), rate=0.1, steps=5,
                      on=False, name='a', pair=(1, 2), train=dict(steps=5)))
  if size == 'test':
    c.steps = 1
  return c
'''
SWEEP = '''

def sweep():
  yield {}
  yield {'rate': 0.2}
'''
VARIANTS = '''

def sweep():
  yield 'full'
  yield {'variant': 'test', 'rate': 0.2}
'''


def model(name, role, value, **more):
  quality = dict(value=value, low=0.0, high=1.0, n=50, unit='fraction', higher_is_better=True)
  return {'name': name, 'role': role, 'saw': {'texts': 9, 'labels': 3},
          'quality': {'accuracy': quality}, 'params': 20, 'params_outside_embeddings': 10,
          'bytes': 80, 'latency_ms': {'p50': 1.23456789, 'p95': 2.0, 'batch': 1, 'threads': 1},
          'throughput_per_s': 5.0, 'flops': 7.0, 'peak_memory_bytes': 9,
          'energy_j_per_example': None, 'faithfulness': {}, 'retention': None, 'gain': None,
          'tier': None, **more}


def write_report(name, config, workdir):
  """Writes a report that keeps the contract to the workdir."""
  cost = {'seconds': 2.0, 'steps': 5, 'examples': 40, 'flops': 1.0}
  report = {'schema': 1, 'config_name': name, 'config_sha256': config_sha256(config),
            'seed': config['seed'], 'versions': {'jax': '1'},
            'hardware': {'device': 'cpu', 'cpu': 'x', 'cores': 2},
            'data': {'name': 'toy', 'fingerprint': 'f', 'splits': {'test': 50}},
            'padding_share': 0.1, 'task': {'primary': 'accuracy'},
            'models': [model('teacher', 'teacher', 0.8),
                       model('student', 'student', 0.75,
                             retention={'of': 'teacher', 'accuracy': 0.9375},
                             gain={'of': 'baseline', 'accuracy': dict(value=.15, low=.1, high=.2)}),
                       model('baseline', 'baseline', 0.6)],
            'training': {'teacher': cost, 'student': cost}}
  (workdir / 'report.json').write_text(json.dumps(report))
  return reports.read(workdir)


@pytest.fixture
def toy(tmp_path, monkeypatch):
  """Makes a project with a config, and runs that take no time; returns the list of runs."""
  monkeypatch.chdir(tmp_path)
  pathlib.Path('toy.py').write_text(TOY + SWEEP)
  ran = []

  def fake(name, config, workdir, stopping, shared):
    assert shared == pathlib.Path('runs/shared')
    ran.append((config['rate'], config['seed']))
    (workdir / 'config.json').write_text('{}')
    (workdir / 'checkpoints/student/5').mkdir(parents=True, exist_ok=True)
    return write_report(name, config, workdir)

  monkeypatch.setattr(run.workdirs, 'run', fake)
  return ran


def failing(monkeypatch, error, when):
  """Makes runs raise an error if `when` accepts their config; the others go on as before."""
  fake = run.workdirs.run

  def failed(name, config, workdir, stopping, shared):
    if when(config):
      raise error
    return fake(name, config, workdir, stopping, shared)
  monkeypatch.setattr(run.workdirs, 'run', failed)


def found(out='out'):
  return rows.read(pathlib.Path(out, 'results.jsonl'))[0]


def found_in(out):
  return [json.loads(json.dumps(row)) for row in found(out)]


def worker(monkeypatch, does):
  """Makes the runs of the processes of `--jobs` take no time but for the code `does`."""
  pathlib.Path('worker.py').write_text(f'''
import os, signal, sys, time
sys.path.insert(0, {str(ROOT)!r})
from experiments import rows, run, sweeps
run.WAIT = 0.05
rows.commit = lambda: 'c'
def fake(name, config, workdir, stopping, shared):
  time.sleep(0.05)
  {does}
run.workdirs.run = fake
rows.from_report = lambda report, workdir: dict.fromkeys(rows.FINISHED, '')
signal.signal(signal.SIGTERM, signal.default_int_handler)
sys.exit(run.main(sys.argv[1:]))
''')
  monkeypatch.setattr(run, 'WORKER', (sys.executable, 'worker.py'))
  monkeypatch.setenv('PYTHONPATH', str(ROOT))


# As TOY, but `get_config` knows its variants by name.
VARIED = TOY.replace("Literal['test']", "Literal['full', 'test']")
ALL = [(0.1, 0), (0.2, 0), (0.1, 1), (0.2, 1)]


class TestArms:

  def test_a_config_without_a_sweep_has_the_one_arm_that_changes_nothing(self, toy):
    pathlib.Path('toy.py').write_text(TOY)
    assert sweeps.arms('toy.py') == sweeps.arms('toy.py:test') == [{}]

  def test_a_sweep_is_given_the_variant_if_it_takes_one(self, toy):
    pathlib.Path('toy.py').write_text(TOY + "def sweep(size='full'):\n  yield {'name': size}\n")
    assert sweeps.arms('toy.py:test') == [{'name': 'test'}]
    assert sweeps.arms('toy.py') == [{'name': 'full'}]
    pathlib.Path('toy.py').write_text(TOY + SWEEP)
    assert sweeps.arms('toy.py:test') == [{}, {'rate': 0.2}]

  def test_an_arm_may_be_a_variant(self, toy):
    pathlib.Path('toy.py').write_text(VARIED + VARIANTS)
    assert sweeps.arms('toy.py') == [{'variant': 'full'}, {'variant': 'test', 'rate': 0.2}]
    assert [rows.arm_name(arm) for arm in sweeps.arms('toy.py')] == ['full', 'test, rate=0.2']
    with pytest.raises(Stop, match='run toy.py without :test') as stop:
      sweeps.arms('toy.py:test')
    assert stop.value.status == Status.CONFIG

  @pytest.mark.parametrize('body', ['yield 3', 'yield 1 / 0', 'yield from ()',
                                    "yield {'data.seed': 3}"])
  def test_a_broken_sweep_is_one_line(self, toy, body):
    pathlib.Path('toy.py').write_text(TOY + f'def sweep():\n  {body}\n')
    with pytest.raises(Stop, match='toy.py: sweep') as stop:
      sweeps.arms('toy.py')
    assert stop.value.status == Status.CONFIG


class TestPlan:

  def test_goes_seed_by_seed_and_a_seed_orders_the_data_too(self, toy):
    trials = run.plan('toy.py', 2)
    assert [(p.config['rate'], p.seed) for p in trials] == ALL
    assert all(p.config['seed'] == p.config['data']['seed'] == p.seed for p in trials)

  def test_every_kind_of_value_arrives_as_it_is(self, toy):
    arm = {'on': True, 'name': 'b c', 'pair': (3, 4), 'rate': 1e-9, 'steps': 7}
    pathlib.Path('toy.py').write_text(TOY + f'def sweep():\n  yield {arm}\n')
    config = run.plan('toy.py', 1)[0].config
    assert {path: config[path] for path in arm} == arm

  @pytest.mark.parametrize(('arm', 'line'), [
      ({'rte': 0.2}, 'no field'), ({'data.sed': 1}, 'no field'), ({'steps': 0.5}, 'steps')])
  def test_an_override_that_cannot_be_stops_before_the_first_run(self, toy, capsys, arm, line):
    pathlib.Path('toy.py').write_text(TOY + SWEEP + f'  yield {arm}\n')
    assert run.main(['toy.py', '--out=out']) == Status.CONFIG
    assert line in capsys.readouterr().err and not toy and not pathlib.Path('out').exists()

  def test_variants_are_resolved_and_are_of_one_base(self, toy):
    pathlib.Path('toy.py').write_text(VARIED + VARIANTS)
    trials = run.plan('toy.py', 2)
    assert [(p.config['steps'], p.config['rate'], p.seed, p.config['data']['seed'])
            for p in trials] == [(5, 0.1, 0, 0), (1, 0.2, 0, 0), (5, 0.1, 1, 1), (1, 0.2, 1, 1)]
    base = config_sha256(flags.parsed(['--config=toy.py']).config.to_dict())[:8]
    assert {(p.file, p.base) for p in trials} == {('toy.py', base)}

  @pytest.mark.parametrize('arm', ['ful', {'variant': 'test', 'rte': 1}, {'variant': 'ful'}])
  def test_a_variant_that_is_not_there_stops_before_the_first_run(self, toy, capsys, arm):
    pathlib.Path('toy.py').write_text(VARIED + VARIANTS + f'  yield {arm!r}\n')
    assert run.main(['toy.py', '--out=out']) == Status.CONFIG
    error = capsys.readouterr().err
    assert ('ful' in error or 'rte' in error) and error.count('\n') == 1
    assert not toy and not pathlib.Path('out').exists()

  @pytest.mark.parametrize('arm', ['full', {'variant': 'test', 'rate': 0.2}, {}])
  def test_two_variants_that_are_one_config_are_refused(self, toy, arm):
    pathlib.Path('toy.py').write_text(VARIED + VARIANTS + f'  yield {arm!r}\n')
    with pytest.raises(Stop, match='one config'):
      run.plan('toy.py', 2)

  @pytest.mark.parametrize('arm', [{'rate': 0.1}, {'rate': 0.2}, {'on': False}])
  def test_two_arms_that_are_one_config_are_refused(self, toy, arm):
    pathlib.Path('toy.py').write_text(TOY + SWEEP + f'  yield {arm}\n')
    with pytest.raises(Stop, match='one config'):
      run.plan('toy.py', 2)


@pytest.mark.parametrize('arguments', [['--help'], ['toy.py', '--out=out', '--jobs=2']])
def test_help_and_the_process_that_waits_for_others_load_no_jax(toy, arguments):
  pathlib.Path('toy.py').write_text(TOY + SWEEP)
  code = ("import sys; from experiments import run; run.WORKER = sys.executable, '-c', ''; "
          "print(run.main(sys.argv[1:]), sorted({'jax', 'flax'} & {*sys.modules}))")
  done = subprocess.run([sys.executable, '-c', code, *arguments], capture_output=True, text=True,
                        env={**os.environ, 'PYTHONPATH': str(ROOT)})
  assert done.stdout.endswith('0 []\n'), done.stderr        # after the help


def test_a_sweep_with_one_config_twice_starts_no_process(toy, monkeypatch, capsys):
  pathlib.Path('toy.py').write_text(TOY + SWEEP + "  yield {'rate': 0.2}\n")
  monkeypatch.setattr(run, 'run_processes', lambda *_: pytest.fail('started'))
  assert run.main(['toy.py', '--out=out', '--jobs=2']) == Status.CONFIG
  assert 'these are one config' in capsys.readouterr().err


class TestMain:

  def test_leaves_a_row_for_every_run_and_runs_none_twice(self, toy):
    assert run.main(['toy.py', '--out=out', '--seeds=2']) == 0
    assert toy == ALL
    assert [(r['arm'].get('rate', 0.1), r['seed']) for r in found()] == ALL
    assert run.main(['--seeds=3', '--out=out', './toy.py']) == 0
    assert toy == [*ALL, (0.1, 2), (0.2, 2)]

  def test_a_row_has_its_experiment_config_arm_and_seed(self, toy):
    assert run.main(['toy.py', '--out=some/paper', '--seeds=1', '--only=rate']) == 0
    row, = found('some/paper')
    workdir, = pathlib.Path('runs').iterdir()
    assert workdir.name == f'toy-{row["config_sha256"][:8]}'
    assert (row['schema'], row['experiment'], row['config'], row['arm'], row['seed'],
            row['data_seed']) == (1, 'paper', 'toy.py', {'rate': 0.2}, 0, 0)
    assert row['models']['student'] == {
        'role': 'student', 'params': 20, 'params_outside_embeddings': 10, 'bytes': 80,
        'flops': 7.0, 'throughput_per_s': 5.0, 'saw': {'texts': 9, 'labels': 3}, 'n': 50,
        'retention': {'of': 'teacher', 'accuracy': 0.9375},
        'gain': {'of': 'baseline', 'accuracy': {'value': 0.15, 'low': 0.1, 'high': 0.2}},
        'latency_ms': 1.23457, 'quality': {'accuracy': 0.75}}
    # The fake leaves a checkpoint only of the student: its teacher is another run's.
    assert {stage: t['shared'] for stage, t in row['training'].items()} == {
        'teacher': True, 'student': False}
    assert row['metric'] == {'name': 'accuracy', 'unit': 'fraction', 'higher_is_better': True}

  def test_only_takes_the_arms_whose_name_holds_it(self, toy, capsys):
    assert run.main(['toy.py', '--out=out', '--seeds=1', '--only=stands']) == 0
    assert toy == [(0.1, 0)]
    pathlib.Path('toy.py').write_text(TOY + SWEEP + "  yield {'rate': 0.25}\n")
    assert run.main(['toy.py', '--out=out', '--seeds=1', '--only=rate=0.2']) == 0
    assert toy[1:] == [(0.2, 0)]                # and not 0.25, whose name contains this name
    assert run.main(['toy.py', '--out=out', '--only=nothing']) == Status.CONFIG
    assert 'as it stands; rate=0.2' in capsys.readouterr().err

  @pytest.mark.parametrize('arguments', [
      [], ['toy.py'], ['--out=out'], ['toy.py', 'toy.py', '--out=out'], ['no.py', '--out=out'],
      ['toy.py', '--out=out', '--seeds=0'], ['toy.py', '--out=out', '--seeds=x'],
      ['toy.py', '--out=out', '--sedes=1'], ['toy.py:no', '--out=out'],
      ['toy.py', '--out=out', '--jobs=0'], ['--dry_run'], ['no.py', '--dry_run']])
  def test_a_wrong_command_is_one_line(self, toy, capsys, arguments):
    pathlib.Path('toy.py').write_text(TOY + SWEEP)
    assert run.main(arguments) == Status.CONFIG
    assert capsys.readouterr().err.count('\n') == 1 and not toy

  def test_a_place_that_cannot_be_written_stops_before_the_first_run(self, toy):
    pathlib.Path('out').write_text('a file')
    assert run.main(['toy.py', '--out=out']) == Status.DISK and not toy

  @pytest.mark.parametrize(('error', 'status', 'line'), [
      (Stop(Status.NONFINITE, 'bad numbers'), Status.NONFINITE, 'bad numbers'),
      (ZeroDivisionError('a\nb'), 1, 'ZeroDivisionError: a b')])
  def test_a_failed_run_is_a_row_and_is_tried_again(self, toy, monkeypatch, error, status, line):
    with monkeypatch.context() as patch:
      failing(patch, error, lambda config: config['rate'] == 0.2)
      assert run.main(['toy.py', '--out=out', '--seeds=2']) == status
    assert toy == [(0.1, 0), (0.1, 1)]
    assert [r.get('error') for r in found()] == [
        None, {'status': status, 'line': line}, None, {'status': status, 'line': line}]
    assert run.main(['toy.py', '--out=out', '--seeds=2']) == 0
    assert toy[2:] == [(0.2, 0), (0.2, 1)] and len(found()) == 6

  @pytest.mark.parametrize('error', [Stop(Status.PREEMPTED, 'stopped'), KeyboardInterrupt()])
  def test_a_preempted_run_is_no_row_and_ends_the_runner(self, toy, monkeypatch, error):
    with monkeypatch.context() as patch:
      failing(patch, error, lambda config: config['rate'] == 0.2)
      assert run.main(['toy.py', '--out=out', '--seeds=2']) == Status.PREEMPTED
    assert toy == [(0.1, 0)] and len(found()) == 1
    assert run.main(['toy.py', '--out=out', '--seeds=2']) == 0
    assert toy == ALL

  def test_broken_lines_are_named_and_the_rest_is_used(self, toy, capsys):
    assert run.main(['toy.py', '--out=out', '--seeds=2']) == 0
    path = pathlib.Path('out/results.jsonl')
    lines = path.read_bytes().split(b'\n')
    path.write_bytes(b'\n'.join([lines[0], b'{"schema": 2}', b'\xff', *lines[1:3], lines[3][:99]]))
    assert run.main(['toy.py', '--out=out', '--seeds=2']) == 0
    errors = capsys.readouterr().err
    assert all(f'results.jsonl:{n} is left out' in errors for n in (2, 3, 6))
    assert 'results.jsonl:2 is left out: its schema is 2, where this code has 1' in errors
    assert not any(f'results.jsonl:{n} is' in errors for n in (1, 4, 5))
    assert toy == [*ALL, ALL[3]] and len(found()) == 4      # the torn row again, on a new line

  def test_time_and_commits_add_up_over_the_times_a_run_was_taken_up(self, toy, monkeypatch):
    clock = iter([0.0, 5.0, 100.0, 107.0])
    monkeypatch.setattr(run.time, 'monotonic', lambda: next(clock))
    only = ['toy.py', '--out=out', '--seeds=1', '--only=stands']
    with monkeypatch.context() as patch:
      patch.setattr(rows, 'commit', lambda: 'a')
      failing(patch, Stop(Status.PREEMPTED, 'stopped'), lambda config: True)
      assert run.main(only) == Status.PREEMPTED
    monkeypatch.setattr(rows, 'commit', lambda: 'b')
    assert run.main(only) == 0
    assert [(r['seconds'], r['commit']) for r in found()] == [(12.0, 'a, b')]

  def test_the_commit_of_a_run_that_was_finished_before_is_not_made_up(self, toy, monkeypatch):
    for trial in run.plan('toy.py', 1):           # as distill.main leaves it
      trial.workdir.mkdir(parents=True)
      (trial.workdir / 'config.json').write_text('{}')
      (trial.workdir / 'report.json').write_text('{}')
    monkeypatch.setattr(rows, 'commit', lambda: 'b')
    assert run.main(['toy.py', '--out=out', '--seeds=1']) == 0
    assert [r['commit'] for r in found()] == ['unknown'] * 2


class TestDryRun:

  def test_says_what_would_run_and_runs_nothing(self, toy, capsys):
    assert run.main(['toy.py', '--out=out', '--seeds=3', '--dry_run']) == 0
    assert capsys.readouterr().out.splitlines() == [
        'as it stands  0 there  3 to run  15 steps',
        'rate=0.2      0 there  3 to run  15 steps',
        'toy.py: 6 runs, 0 there, 6 to run, 30 steps of students; no row of toy.py to tell how long'
    ]
    assert not toy and not pathlib.Path('out').exists() and not pathlib.Path('runs').exists()

  def test_tells_how_long_by_the_rows_that_are_there(self, toy, capsys):
    # Seed 0: the arm as it stands took 600 s, 300 of them the teacher's; rate=0.2 took 60 s. To run
    # are two seeds of each, 2 × 300 and 2 × 60 s, and two teachers, 2 × 300 s: 22 minutes.
    assert run.main(['toy.py', '--out=out', '--seeds=1']) == 0
    path, found = pathlib.Path('out/results.jsonl'), found_in('out')
    for row, seconds, teacher in zip(found, (600.0, 60.0), (300.0, 300.0), strict=True):
      row['seconds'], row['training']['teacher'] = seconds, {
          'seconds': teacher, 'steps': 5, 'shared': seconds == 60.0}
    path.write_text(''.join(json.dumps(row) + '\n' for row in found))
    del toy[:]
    assert run.main(['toy.py', '--out=out', '--seeds=3', '--dry_run']) == 0
    assert capsys.readouterr().out.splitlines() == [
        'as it stands  1 there  2 to run  10 steps  about 10.0 minutes',
        'rate=0.2      1 there  2 to run  10 steps  about 2.0 minutes',
        'toy.py: 6 runs, 2 there, 4 to run, 20 steps of students; about 22 minutes, by 2 rows of '
        'toy.py']
    more = '--jobs=2', '--only=0.2', '--dry_run'
    assert run.main(['toy.py', '--out=out', '--seeds=3', *more]) == 0
    assert 'about 6 minutes with --jobs=2' in capsys.readouterr().out and not toy

  def test_an_arm_without_rows_is_forecast_by_those_of_the_others_and_its_steps(self, toy, capsys):
    # 600 s of which 300 are the teacher's, for 5 steps: 60 s a step. 10 steps are 10 minutes.
    assert run.main(['toy.py', '--out=out', '--seeds=1', '--only=stands']) == 0
    found = found_in('out')
    found[0]['seconds'] = 600.0
    found[0]['training']['teacher'] = {'seconds': 300.0, 'steps': 5, 'shared': False}
    pathlib.Path('out/results.jsonl').write_text(json.dumps(found[0]) + '\n')
    pathlib.Path('toy.py').write_text(TOY + "def sweep():\n  yield {}\n"
                                      "  yield {'train.steps': 10}\n")
    assert run.main(['toy.py', '--out=out', '--seeds=1', '--dry_run']) == 0
    output = capsys.readouterr().out
    assert 'train.steps=10  0 there  1 to run  10 steps  about 10.0 minutes' in output
    assert 'about 10 minutes, by 1 rows' in output          # seed 0 has its teacher

  def test_without_a_place_it_looks_at_all_experiments_and_names_failures(
      self, toy, capsys, monkeypatch):
    failing(monkeypatch, ZeroDivisionError('x'), lambda config: config['rate'] == 0.2)
    assert run.main(['toy.py', '--out=experiments/paper', '--seeds=2']) == 1
    capsys.readouterr()
    assert run.main(['toy.py', '--seeds=2', '--dry_run']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith('as it stands  2 there  0 to run') and 'minutes' not in lines[0]
    assert '0 there  2 to run' in lines[1] and lines[1].endswith('2 failed before')


class TestJobs:

  def test_share_the_work_and_the_cores(self, toy, monkeypatch):
    worker(monkeypatch, "(workdir / 'cores').write_text(str(os.sched_getaffinity(0)))")
    before = os.sched_getaffinity(0)
    assert run.main(['toy.py', '--out=out', '--seeds=6', '--jobs=2']) == 0
    assert os.sched_getaffinity(0) == before
    kept, faults = rows.read(pathlib.Path('out/results.jsonl'))
    assert not faults and len(kept) == len({r['config_sha256'] for r in kept}) == 12
    shares = [eval(path.read_text()) for path in pathlib.Path('runs').glob('*/cores')]
    assert len(shares) == 12 and set().union(*shares) == before
    assert len(before) < 2 or all(len(share) < len(before) for share in shares)

  def test_begin_at_other_arms_and_run_all_of_them(self, toy):
    assert run.main(['toy.py', '--out=out', '--seeds=2', '--turn=0.5']) == 0
    assert toy == [(0.2, 0), (0.1, 0), (0.2, 1), (0.1, 1)]

  def test_a_run_that_failed_in_one_process_is_not_tried_by_another(self, toy, monkeypatch):
    worker(monkeypatch, "if config['rate'] == 0.2: raise ValueError('bad')")
    assert run.main(['toy.py', '--out=out', '--seeds=4', '--jobs=2']) == 1
    kept = found_in('out')
    assert len(kept) == len({r['config_sha256'] for r in kept}) == 8
    assert sum('error' in r for r in kept) == 4

  def test_a_signal_reaches_all_and_the_same_command_goes_on(self, toy, monkeypatch, tmp_path):
    worker(monkeypatch, 'time.sleep(0.3)')
    script = (f'import sys; sys.path.insert(0, {str(ROOT)!r}); from experiments import run; '
              f'import signal; signal.signal(signal.SIGTERM, signal.default_int_handler); '
              f"run.WORKER = {run.WORKER!r}; sys.exit(run.main(sys.argv[1:]))")
    command = ['toy.py', '--out=out', '--seeds=4', '--jobs=2']
    whole = subprocess.Popen([sys.executable, '-c', script, *command], stderr=subprocess.DEVNULL)
    while not pathlib.Path('out/results.jsonl').exists() or not found_in('out'):
      assert whole.poll() is None
      time.sleep(0.05)
    whole.terminate()
    assert whole.wait(60) == Status.PREEMPTED
    assert 0 < len(found_in('out')) < 8
    assert run.main(command) == 0 and len(found_in('out')) == 8


class TestTwoAtOnce:

  def test_a_row_waits_for_the_row_that_another_process_is_writing(self, tmp_path):
    path = tmp_path / 'results.jsonl'
    with path.open('ab', buffering=0) as file:
      fcntl.flock(file, fcntl.LOCK_EX)
      file.write(b'{"first": ')
      other = threading.Thread(target=rows.append, args=(path, {'second': 2}))
      other.start()
      other.join(0.2)
      file.write(b'1}\n')
    other.join(10)
    assert path.read_text() == '{"first": 1}\n{"second": 2}\n'

  def test_a_locked_run_is_skipped_with_its_seed_and_tried_again(self, toy, monkeypatch):
    locks = contextlib.ExitStack()
    locks.enter_context(run.workdirs.locked(run.plan('toy.py', 1)[0].workdir))
    # All of seed 0 is put off. Then its second arm runs, and its first arm once it is unlocked.
    monkeypatch.setattr(run.time, 'sleep', lambda seconds: locks.close())
    assert run.main(['toy.py', '--out=out', '--seeds=2']) == 0
    assert toy == [(0.1, 1), (0.2, 1), (0.2, 0), (0.1, 0)]

  def test_two_processes_run_everything_once_and_their_rows_stay_whole(self, toy):
    script = f'''
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from experiments import rows, run, sweeps
run.WAIT = 0.05
rows.commit = lambda: 'c'
def fake(name, config, workdir, stopping, shared):
  time.sleep(0.05)
  with (workdir / 'ran').open('a') as file:
    file.write('.')
  return config
run.workdirs.run = fake
rows.from_report = lambda report, workdir: dict.fromkeys(rows.FINISHED, 'x' * 50_000)
sys.exit(run.main(['toy.py', '--out=out', '--seeds=6']))
'''
    both = [subprocess.Popen([sys.executable, '-c', script], stderr=subprocess.DEVNULL,
                             env={**os.environ, 'JAX_PLATFORMS': 'cpu'}) for _ in range(2)]
    assert [process.wait(120) for process in both] == [0, 0]
    kept, faults = rows.read(pathlib.Path('out/results.jsonl'))
    assert not faults and len(kept) == len({r['config_sha256'] for r in kept}) == 12
    assert [p.read_text() for p in pathlib.Path('runs').glob('*/ran')] == ['.'] * 12


class TestCommit:

  def test_is_head_and_dirty_when_code_differs_but_not_rows_or_prose(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    git = lambda *command: subprocess.run(
        ['git', '-c', 'user.name=x', '-c', 'user.email=x@x', *command], check=True,
        capture_output=True, text=True).stdout.strip()
    git('init')
    for name in ('a.py', 'results.jsonl', 'README.md'):
      (tmp_path / name).write_text('1')
    git('add', '.')
    git('commit', '-m', 'x')
    head = git('rev-parse', 'HEAD')
    (tmp_path / 'results.jsonl').write_text('2')
    (tmp_path / 'README.md').write_text('2')
    (tmp_path / 'new.py').write_text('2')
    assert rows.commit() == head
    (tmp_path / 'a.py').write_text('2')
    assert rows.commit() == f'{head}-dirty'

  def test_is_unknown_where_there_is_none(self, tmp_path, monkeypatch):
    monkeypatch.setenv('GIT_CEILING_DIRECTORIES', str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    assert rows.commit() == 'unknown'


@pytest.mark.slow
def test_a_real_run_of_every_arm_shares_its_teacher(tmp_path):
  (tmp_path / 'configs').mkdir()
  (tmp_path / 'configs/bert.py').write_text(
      (ROOT / 'configs/bert.py').read_text().partition('\ndef sweep(')[0]
      + "\ndef sweep():\n  yield {}\n  yield {'optimizer.rate': 0.004}\n")
  subprocess.run(
      [sys.executable, '-m', 'experiments.run', 'configs/bert.py:test', '--out=out', '--seeds=1'],
      cwd=tmp_path, check=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
  kept = rows.read(tmp_path / 'out/results.jsonl')[0]
  assert [row['training']['teacher']['shared'] for row in kept] == [False, True]
  assert [row['training']['student']['shared'] for row in kept] == [False, False]
  first, second = (row['models']['teacher']['quality'] for row in kept)
  assert first == second
