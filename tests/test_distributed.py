"""Two processes are one run: they share a workdir, stop together, and resume."""
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from distill import launch, main
from distill.types import Status, Stop

ROOT = pathlib.Path(__file__).parent.parent
COMMAND = ('-m', 'distill.main', '--config=configs/bert.py:test', '--config.mesh.fsdp=True')

WHAT_THEY_DO_TOGETHER = """
import os, pathlib, signal, sys
from distill import launch
heard = []
signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
assert launch.join_processes()
os.kill(os.getpid(), signal.SIGTERM)
assert heard == [signal.SIGTERM]                        # JAX hasn't taken it
import jax, numpy as np
from distill import checkpoint, sharding
from distill.types import Status, Stop

first, layout = jax.process_index() == 0, sharding.layout(fsdp=True)
assert jax.process_count() == layout.replicas == 2

assert sharding.any_process(first) and sharding.any_process(not first)
assert not sharding.any_process(False)

calls = []
assert sharding.on_first_process(lambda: calls.append(0) or 7) == 7 and len(calls) == first
def full():
  raise Stop(Status.DISK, 'full')
try:
  sharding.on_first_process(full)
  raise AssertionError('nobody stopped')
except Stop as stop:
  assert stop.status == Status.DISK and (str(stop) == 'full') == first

whole = np.arange(8.0).reshape(4, 2)
rows = layout.local_rows(4)
assert rows.tolist() == ([0, 1] if first else [2, 3])
fed = layout.to_devices({'x': whole[rows]})['x']
assert fed.shape == (4, 2) and not fed.is_fully_addressable
assert (sharding.on_host(fed) == whole).all()

tree = {'up/kernel': np.arange(12.0, dtype=np.float32).reshape(4, 3), 'step': np.int32(3)}
split = sharding.device_put(tree, layout.param_shardings(tree))
assert split['up/kernel'].addressable_data(0).shape == (2, 3)
folder = pathlib.Path(sys.argv[1])
checkpoint.save(folder, 3, split, {'seconds': 1.5})
step, back, facts = checkpoint.restore(folder, sharding.shapes(tree, layout.param_shardings(tree)))
assert (step, facts) == (3, {'seconds': 1.5})
assert back['up/kernel'].sharding == split['up/kernel'].sharding
assert all((sharding.on_host(back[name]) == tree[name]).all() for name in tree)
"""


def pair(*arguments, stderr=None):
  """Two processes of one run, on this machine."""
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  env = {k: v for k, v in os.environ.items() if k != 'XLA_FLAGS'} | {
      'JAX_COORDINATOR_ADDRESS': f'localhost:{port}', 'JAX_NUM_PROCESSES': '2'}
  return [subprocess.Popen([sys.executable, *arguments], env=env | {'JAX_PROCESS_ID': str(i)},
                           cwd=ROOT, text=True, stdout=subprocess.DEVNULL, stderr=stderr)
          for i in range(2)]


def finished(processes):
  codes = [process.wait(timeout=600) for process in processes]
  for process in processes:
    if process.stderr:
      process.stderr.close()
  return codes


def result(workdir):
  """What must not depend on interruptions."""
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  weights = {str(p.relative_to(workdir)): p.read_bytes()
             for p in workdir.glob('export/*/model.safetensors')}
  report = json.loads((workdir / 'report.json').read_text())
  return (weights, [{k: v for k, v in row.items() if k != 'time'} for row in rows],
          [(m['name'], m['quality']) for m in report['models']])


def test_what_processes_do_together(tmp_path):
  assert finished(pair('-c', WHAT_THEY_DO_TOGETHER, str(tmp_path / 'checkpoints'))) == [0, 0]
  assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['3']


@pytest.mark.parametrize('sent', [
    dict(ADDRESS='localhost:9999'), dict(ADDRESS='localhost', NUM='2', ID='0'),
    dict(ADDRESS='localhost:9999', NUM='2', ID='2'), dict(NUM='2', ID='0')])
def test_a_process_with_half_of_the_variables_is_refused(sent, monkeypatch):
  names = dict(ADDRESS='JAX_COORDINATOR_ADDRESS', NUM='JAX_NUM_PROCESSES', ID='JAX_PROCESS_ID')
  for short, value in sent.items():
    monkeypatch.setenv(names[short], value)
  with pytest.raises(Stop, match='HOST:PORT') as stop:
    launch.join_processes()
  assert stop.value.status == Status.CONFIG


# The variables of a cluster of two processes, by which JAX knows it.
OPEN_MPI = dict(OMPI_MCA_orte_hnp_uri='1.0;tcp://10.0.0.1:9', OMPI_COMM_WORLD_SIZE='2')
SLURM = dict(SLURM_JOB_ID='7', SLURM_STEP_NODELIST='node[1-2]', SLURM_NTASKS='2', SLURM_PROCID='0',
             SLURM_LOCALID='0')
TPU = dict(TPU_ML_PLATFORM='JAX', TPU_WORKER_HOSTNAMES='a,b')
POD = dict(KUBERNETES_SERVICE_HOST='10.0.0.1', JOB_COMPLETION_INDEX='0')


@pytest.fixture
def initialized(monkeypatch):
  """What JAX is called with to join a cluster; raises what the test puts into `error`."""
  calls, error = [], []

  def initialize(**settings):
    calls.append(settings)
    if error:
      raise error[0]
  monkeypatch.setattr('jax.distributed.initialize', initialize)
  for name in {**OPEN_MPI, **SLURM, **TPU, **POD}:
    monkeypatch.delenv(name, raising=False)
  return calls, error


@pytest.mark.parametrize(('variables', 'joins'), [
    ({}, False),
    (OPEN_MPI, True), ({**OPEN_MPI, 'OMPI_COMM_WORLD_SIZE': '1'}, False),
    (SLURM, True), ({**SLURM, 'SLURM_NTASKS': '1'}, False),
    (dict(SLURM, SLURM_STEP_NODELIST=None), False),             # a shell of SLURM's, no step
    ({**OPEN_MPI, 'OMPI_COMM_WORLD_SIZE': '1', **SLURM}, False),
    (TPU, True), ({**TPU, 'TPU_WORKER_HOSTNAMES': 'a'}, False),
    ({**TPU, 'TPU_WORKER_HOSTNAMES': 'a', 'MEGASCALE_NUM_SLICES': '2'}, True),
    (dict(TPU_PROCESS_ADDRESSES='a:1,b:1'), False),             # JAX found no TPU
    (dict(TPU_ML_PLATFORM='JAX', TPU_SKIP_MDS_QUERY=None), True),
    (dict(TPU_ML_PLATFORM='JAX', TPU_SKIP_MDS_QUERY='1'), False),
    (POD, True), (dict(KUBERNETES_SERVICE_HOST='10.0.0.1'), False)])
def test_a_cluster_is_known_by_its_variables(variables, joins, initialized, monkeypatch):
  for name, value in variables.items():
    if value is None:
      monkeypatch.delenv(name, raising=False)
    else:
      monkeypatch.setenv(name, value)
  assert launch.join_processes() == joins
  assert initialized[0] == [{}] * joins


@pytest.mark.parametrize(('variables', 'error', 'line'), [
    (SLURM, RuntimeError('no answer'), 'cannot join the other processes: no answer'),
    (SLURM, ValueError('coordinator_address should be defined.'), 'cannot join'),
    (POD, RuntimeError('403'), 'cannot join the other processes: 403'),
    (POD, OSError('no namespace'), 'cannot join the other processes: no namespace'),
    (POD, ValueError('coordinator_address should be defined.'), ''),    # it is in no cluster
    (dict(SLURM, SLURM_NTASKS='2(x2)'), None, "SLURM_NTASKS='2(x2)', which is no number")])
def test_a_cluster_that_cannot_be_joined_is_one_line(variables, error, line, initialized,
                                                     monkeypatch):
  for name, value in variables.items():
    monkeypatch.setenv(name, value)
  initialized[1].append(error)
  if not line:
    assert not launch.join_processes()
    return
  with pytest.raises(Stop, match=re.escape(line)) as stop:
    launch.join_processes()
  assert stop.value.status == Status.CONFIG


@pytest.mark.parametrize(('more', 'line'), [
    ('model=3', 'mesh: model=3 does not divide the 8 devices'),
    ('model=0', 'mesh: model=0 does not divide'),
])
def test_a_mesh_that_cannot_be_is_one_line(more, line, tmp_path, capsys, monkeypatch):
  monkeypatch.chdir(ROOT)
  code = main.main(['--config=configs/bert.py:test', f'--workdir={tmp_path}',
                    f'--config.mesh.{more}'])
  err = capsys.readouterr().err
  assert code == Status.CONFIG and line in err.splitlines()[-1] and 'Traceback' not in err


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """An uninterrupted run of two processes."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  assert finished(pair(*COMMAND, f'--workdir={workdir}')) == [0, 0]
  return workdir


@pytest.mark.slow
def test_killed_in_the_middle_it_resumes_bitwise(whole, tmp_path):
  workdir = tmp_path / 'run'
  processes = pair(*COMMAND, f'--workdir={workdir}', stderr=subprocess.PIPE)
  assert any('student 4/6' in line for line in processes[0].stderr)
  for process in processes:
    process.kill()
  assert finished(processes) == [-signal.SIGKILL] * 2
  assert not (workdir / 'report.json').exists()
  assert finished(pair(*COMMAND, f'--workdir={workdir}')) == [0, 0]
  assert result(workdir) == result(whole)


@pytest.mark.slow
def test_a_signal_to_one_stops_both_at_the_same_step(whole, tmp_path):
  workdir = tmp_path / 'run'
  processes = pair(*COMMAND, f'--workdir={workdir}', stderr=subprocess.PIPE)
  assert any('teacher 2/6' in line for line in processes[0].stderr)
  processes[1].send_signal(signal.SIGTERM)
  assert finished(processes) == [Status.PREEMPTED] * 2
  assert finished(pair(*COMMAND, f'--workdir={workdir}')) == [0, 0]
  assert result(workdir) == result(whole)


@pytest.mark.slow
def test_one_process_with_two_devices_is_two_processes(whole, tmp_path):
  workdir = tmp_path / 'run'
  env = os.environ | {'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  subprocess.run([sys.executable, *COMMAND, f'--workdir={workdir}'], env=env, cwd=ROOT, check=True,
                 capture_output=True)
  for stage in ('teacher', 'student', 'baseline'):
    first, two = (safetensors.numpy.load_file(w / 'export' / stage / 'model.safetensors')
                  for w in (workdir, whole))
    for path, value in first.items():
      np.testing.assert_allclose(two[path], value, atol=1e-5, err_msg=path)
