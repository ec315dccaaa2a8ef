"""Checkpoints and exports under kills, rot, junk and full disks: all of it, or an older one."""
import errno
import gc
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import safetensors.numpy

from distill import checkpoint, seal
from distill.types import Status, Stop

ROOT = Path(__file__).parents[1]


@flax.struct.dataclass
class State:
  step: Any
  params: Any
  opt_state: Any
  carry: Any


def small(step):
  """A state of a few hundred bytes whose every number tells the step."""
  return {'step': np.array(step, np.int32),
          'w': np.arange(24, dtype=np.float32).reshape(4, 6) * step}


def saved(folder, *steps):
  for step in steps:
    checkpoint.save(folder, step, small(step), {'at': step})
  return folder


def restored(folder):
  """The step that is restored, after checking that its numbers are that step's."""
  step, tree, facts = checkpoint.restore(folder, small(0))
  assert facts == {'at': step}
  for name, array in small(step).items():
    np.testing.assert_array_equal(tree[name], array, strict=True)
  return step


def stopped(status, function, *arguments):
  with pytest.raises(Stop) as caught:
    function(*arguments)
  assert caught.value.status == status
  assert '\n' not in str(caught.value)
  return str(caught.value)


def files(folder):
  """What is in a folder, by relative path: bytes, where links lead, or None for folders."""
  return {p.relative_to(folder).as_posix(): os.readlink(p) if p.is_symlink()
          else p.read_bytes() if p.is_file() else None for p in folder.rglob('*')}


class TestRoundTrip:

  def test_a_train_state_comes_back_bit_for_bit(self, tmp_path):
    params = {'blocks/0/kernel': jnp.linspace(-1, 1, 12).reshape(3, 4), 'bias': jnp.zeros(4)}
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    state = State(jnp.int32(7), params, optimizer.init(params), {})
    checkpoint.save(tmp_path / 'student', 7, state, {'teacher': 'ab', 'window': {'a': [0.1, 3.0]}})
    step, back, facts = checkpoint.restore(tmp_path / 'student', jax.eval_shape(lambda: state))
    assert (step, facts) == (7, {'teacher': 'ab', 'window': {'a': [0.1, 3.0]}})
    assert jax.tree.structure(back) == jax.tree.structure(state)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(back))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b, strict=True), back, state)

  @pytest.mark.parametrize('array', [
      np.array([0.0, -0.0, np.inf, -np.inf, 1e-45], np.float32),
      np.array([0x7fc00001, 0xffc12345], np.uint32).view(np.float32),      # two different nans
      np.asarray(jnp.linspace(0, 1, 5, dtype=jnp.bfloat16)),
      np.array(2**24 + 1, np.int32),            # which a cast to float32 would change
      np.zeros((0, 3), np.float16), np.array(True), np.arange(3, dtype=np.uint8),
      np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
      np.arange(12, dtype=np.float64)[::-2]],
      ids=lambda a: f'{a.dtype}{a.shape}')
  def test_any_array_keeps_its_bits_its_shape_and_its_type(self, tmp_path, array):
    checkpoint.save(tmp_path, 1, [array])
    back = checkpoint.restore(tmp_path, [array])[1][0]
    assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())

  def test_what_was_on_no_device_in_particular_comes_back_so(self, tmp_path):
    free, bound = jnp.ones(2), jax.device_put(jnp.ones(2), jax.devices()[0])
    checkpoint.save(tmp_path, 1, (free, bound))
    back = checkpoint.restore(tmp_path, (free, bound))[1]
    assert [a.committed for a in back] == [free.committed, bound.committed] == [False, True]

  def test_facts_may_have_number_keys_and_numbers_that_are_none(self, tmp_path):
    checkpoint.save(tmp_path, 1, small(1), {'n': {2: 'b', 10: 'a'}, 'x': float('nan')})
    facts = checkpoint.restore(tmp_path, small(0))[2]
    assert facts['n'] == {'2': 'b', '10': 'a'} and np.isnan(facts['x'])

  def test_a_relative_folder_is_as_good(self, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert restored(saved(Path('checkpoints/student'), 3)) == 3

  def test_two_leaves_of_one_name_are_refused(self, tmp_path):
    with pytest.raises(ValueError, match='same path'):
      checkpoint.save(tmp_path, 1, {'a/b': np.ones(1), 'a': {'b': np.zeros(1)}})

  def test_the_manifest_says_what_is_there(self, tmp_path):
    manifest = json.loads((checkpoint.save(tmp_path, 5, small(5)) / 'MANIFEST.json').read_text())
    assert manifest['step'] == 5
    assert manifest['tree'] == {'step': 'int32[]', 'w': 'float32[4,6]'}
    assert manifest['state'] == checkpoint.sha256(small(5))
    assert set(manifest['files']) == {'state.safetensors'}
    assert {'jax', 'flax', 'optax', 'distill'} <= manifest['versions'].keys()


class TestKeeping:

  def test_nothing_there_is_none(self, tmp_path):
    assert checkpoint.restore(tmp_path / 'student', small(0)) is None
    assert checkpoint.latest_step(tmp_path / 'student') is None
    (tmp_path / '.distill-new-5-1').mkdir()     # what a kill during the very first save leaves
    assert checkpoint.restore(tmp_path, small(0)) is None

  def test_the_two_newest_stay(self, tmp_path):
    saved(tmp_path, 8, 9, 10, 100)              # as numbers, not as words
    assert sorted(files(tmp_path)) == sorted(
        [f'{s}{f}' for s in (10, 100) for f in ('', '/MANIFEST.json', '/state.safetensors')])
    assert checkpoint.latest_step(tmp_path) == restored(tmp_path) == 100

  def test_a_damaged_one_is_not_counted_and_not_removed(self, tmp_path):
    saved(tmp_path, 1, 2)
    (tmp_path / '2/state.safetensors').write_bytes(b'rot')
    saved(tmp_path, 3)
    assert {'1', '2', '3'} <= set(files(tmp_path))
    shutil.rmtree(tmp_path / '3')
    assert restored(tmp_path) == 1

  def test_only_our_own_is_removed(self, tmp_path):
    ours = ['.distill-new-1-999999999', f'.distill-old-1-{os.getpid()}']
    others = ['0', 'notes', '007', 'bad-1-0', '.distill-new-1-1', '.distill-new-x',
              f'.distill-new-1-{10**30}', '.distill-old-1-0']        # process 1 lives
    for name in ours + others:
      (tmp_path / name).mkdir()
      (tmp_path / name / 'file').write_text('mine')
    (tmp_path / '.distill-new-2-999999999').symlink_to(tmp_path / 'notes')
    saved(tmp_path, 1, 2, 3)
    found = files(tmp_path)
    assert not found.keys() & set(ours)
    assert {f'{name}/file' for name in others} | {'.distill-new-2-999999999'} <= found.keys()

  def test_the_same_step_again_changes_nothing(self, tmp_path):
    before = saved(tmp_path, 4) / '4/state.safetensors'
    inode = before.stat().st_ino
    saved(tmp_path, 4)
    assert before.stat().st_ino == inode

  def test_another_state_of_the_same_step_is_an_error(self, tmp_path):
    before = files(saved(tmp_path, 4))
    assert str(tmp_path / '4') in stopped(
        Status.CHECKPOINT, checkpoint.save, tmp_path, 4, small(5))
    assert files(tmp_path) == before

  def test_junk_in_the_place_of_a_step_makes_way(self, tmp_path, capsys):
    (tmp_path / '4').mkdir()
    assert restored(saved(tmp_path, 4)) == 4
    assert (tmp_path / 'bad-4-0').is_dir()
    assert 'MANIFEST.json is missing' in capsys.readouterr().err


class TestOrder:

  def test_files_then_seal_then_folder_then_rename_then_parents(self, tmp_path, monkeypatch):
    # Whatever prefix of these a power failure leaves: before the rename nothing has the step's
    # name, and what the rename names was on the disk before.
    log, fsync, rename = [], os.fsync, os.rename
    name = lambda p: str(Path(p).relative_to(tmp_path)).replace(f'-{os.getpid()}', '')
    def logged_fsync(handle):
      inode = os.fstat(handle).st_ino
      log.extend(name(p) for p in [tmp_path, *tmp_path.rglob('*')] if p.stat().st_ino == inode)
      fsync(handle)
    def logged_rename(source, target):
      log.append(f'{name(source)} -> {name(target)}')
      rename(source, target)
    monkeypatch.setattr(os, 'fsync', logged_fsync)
    monkeypatch.setattr(os, 'rename', logged_rename)
    saved(tmp_path / 'checkpoints/student', 1)
    new = 'checkpoints/student/.distill-new-1'
    assert log == [f'{new}/state.safetensors', f'{new}/MANIFEST.json', new,
                   f'{new} -> checkpoints/student/1',
                   'checkpoints/student', 'checkpoints', '.']
    log.clear()
    saved(tmp_path / 'checkpoints/student', 2, 3)
    assert log[-1] == 'checkpoints/student/1 -> checkpoints/student/.distill-old-1'


LAB = '''
"""Kills savers, without the cost of a new interpreter for each: prints what was left."""
import json, os, pathlib, random, resource, signal, sys, time, warnings
warnings.simplefilter('ignore')                 # JAX warns of forks; no backend is up yet
import jax, numpy as np
from distill import checkpoint, seal
from distill.types import Stop

root = pathlib.Path(sys.argv[1])
small = lambda step: {'step': np.array(step, np.int32),
                      'w': np.arange(24, dtype=np.float32).reshape(4, 6) * step}

def forked(child):
  if pid := os.fork():
    return pid
  try:
    child()
  finally:
    os._exit(99)

def status(pid):
  return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def found(folder):
  step, tree, facts = checkpoint.restore(folder, small(0))
  return [step, checkpoint.sha256(tree) == checkpoint.sha256(small(step)), facts == {'at': step}]

def save(folder, *steps):
  for step in steps:
    checkpoint.save(folder, step, small(step), {'at': step})

result = {'points': {}, 'kills': [], 'full': {}}
for point in sys.argv[2].split(','):
  folder = root / point
  os.environ['DISTILL_FAILPOINT'] = f'{point}:3'
  code = status(forked(lambda: save(folder, 1, 2, 3)))
  del os.environ['DISTILL_FAILPOINT']
  names = sorted(p.name.rpartition('-')[0] or p.name for p in folder.iterdir())
  after = found(folder)
  save(folder, 3)
  result['points'][point] = [code, names, after, found(folder),
                             sorted(p.name for p in folder.iterdir())]

for trial in range(30):
  folder, (read, write) = root / f'kill{trial}', os.pipe()
  save(folder, 1)
  def child():
    for step in range(2, 10**6):
      save(folder, step)
      os.write(write, f'{step}\\n'.encode())
  pid = forked(child)
  told = os.read(read, 100)                     # it is at work
  time.sleep(random.Random(trial).uniform(0, 0.03))
  os.kill(pid, signal.SIGKILL)
  code = status(pid)
  os.close(write)
  told = int((told + os.read(read, 10**6)).split()[-1])
  torn = any(p.name.startswith('.distill') for p in folder.iterdir())
  result['kills'].append([code, told, found(folder), torn])

for limit in (100, 300):                        # in the seal or the state: both are larger
  folder = root / f'full{limit}'
  save(folder, 1, 2)
  def child():
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
      save(folder, 3)
    except Stop as stop:
      os._exit(stop.status)
  result['full'][limit] = [status(forked(child)), found(folder),
                           sorted(p.name for p in folder.iterdir())]

mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
by = lambda *axes: jax.NamedSharding(mesh, jax.P(*axes))
there = {'w': jax.device_put(np.arange(16.0, dtype=np.float32), by('data')),
         'b': jax.device_put(np.ones(3, np.float32), by()), 'step': jax.numpy.int32(3)}
checkpoint.save(root / 'sharded', 3, there)
back = checkpoint.restore(root / 'sharded', there)[1]
total = jax.jit(lambda t: t['w'].sum() + t['step'])(back)       # mixes them: none may be astray
result['sharded'] = [back['w'].sharding == by('data'), back['b'].sharding == by(), float(total),
                     checkpoint.sha256(back) == checkpoint.sha256(there)]
print(json.dumps(result))
'''

BEFORE = ['begun', 'payload', 'seal', 'sealed', 'whole']             # the rename
AFTER = ['renamed', 'durable', 'verified', 'pruning', 'pruned']


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
  run = subprocess.run(
      [sys.executable, '-c', LAB, tmp_path_factory.mktemp('lab'), ','.join(BEFORE + AFTER)],
      env=os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu',
                        'XLA_FLAGS': '--xla_force_host_platform_device_count=8'},
      capture_output=True, text=True, timeout=120)
  assert run.returncode == 0, run.stderr
  return json.loads(run.stdout)


class TestKills:

  @pytest.mark.parametrize('point', BEFORE)
  def test_before_the_rename_the_older_one_is_restored(self, lab, point):
    code, names, found, again, after = lab['points'][point]
    assert code == 137
    assert names == ['.distill-new-3', '1', '2']
    assert found == [2, True, True] and again == [3, True, True] and after == ['2', '3']

  @pytest.mark.parametrize('point', AFTER)
  def test_after_the_rename_the_new_one_is_restored(self, lab, point):
    code, names, found, again, after = lab['points'][point]
    assert code == 137
    assert {'2', '3'} <= set(names)             # two that verify, at every instant
    assert found == again == [3, True, True] and {'2', '3'} <= set(after)

  def test_at_any_instant_nothing_that_was_saved_is_lost(self, lab):
    for code, expected, (step, intact, facts), _ in lab['kills']:
      assert code == -9 and intact and facts
      assert step in (expected, expected + 1)       # + 1: killed between rename and message
    assert sum(torn for *_, torn in lab['kills']) >= 5      # or no kill fell into a save

  def test_a_full_disk_ends_the_run_and_leaves_the_older_ones(self, lab):
    for code, found, names in lab['full'].values():
      assert code == Status.DISK and found == [2, True, True] and names == ['1', '2']

  def test_shardings_come_back(self, lab):
    assert lab['sharded'] == [True, True, sum(range(16)) + 3, True]


class TestRefusal:

  @pytest.mark.parametrize('call', range(4))
  def test_a_disk_that_fills_at_any_point_leaves_the_older_ones(self, tmp_path, monkeypatch, call):
    before = files(saved(tmp_path, 1, 2))
    fsync, calls = os.fsync, iter(range(100))
    def full(handle):
      if next(calls) == call:
        raise OSError(errno.ENOSPC, 'No space left on device')
      fsync(handle)
    monkeypatch.setattr(os, 'fsync', full)
    line = stopped(Status.DISK, checkpoint.save, tmp_path, 3, small(3), {'at': 3})
    assert str(tmp_path / '3') in line and 'No space left' in line
    assert {k: v for k, v in files(tmp_path).items() if k[0] != '3'} == before
    assert restored(tmp_path) == (3 if call == 3 else 2)        # the last call follows the rename

  def test_a_place_that_cannot_be_written_ends_the_run(self, tmp_path):
    (tmp_path / 'checkpoints').write_text('a file')
    assert 'checkpoints' in stopped(
        Status.DISK, checkpoint.save, tmp_path / 'checkpoints/student', 1, small(1))

  def test_what_was_written_wrongly_does_not_cost_the_older_ones(self, tmp_path, monkeypatch):
    before, rename = files(saved(tmp_path, 1, 2)), os.rename
    def rots(source, target):
      rename(source, target)
      (target / 'state.safetensors').write_bytes(b'rot')
    monkeypatch.setattr(os, 'rename', rots)
    assert 'damaged' in stopped(Status.DISK, checkpoint.save, tmp_path, 3, small(3))
    assert before.items() <= files(tmp_path).items()


def flipped(path, bit):
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def _swap(name):
  def swap(folder):
    a, b = folder / '1' / name, folder / '2' / name
    a_bytes = a.read_bytes()
    a.write_bytes(b.read_bytes())
    b.write_bytes(a_bytes)
  return swap


def _copy_over(folder):
  shutil.rmtree(folder / '2')
  shutil.copytree(folder / '1', folder / '2')


STATE, MANIFEST = '2/state.safetensors', '2/MANIFEST.json'
DAMAGE = {
    'half a state': lambda f: os.truncate(f / STATE, (f / STATE).stat().st_size // 2),
    'an empty state': lambda f: os.truncate(f / STATE, 0),
    'half a manifest': lambda f: os.truncate(f / MANIFEST, (f / MANIFEST).stat().st_size // 2),
    'an empty manifest': lambda f: os.truncate(f / MANIFEST, 0),
    'a tail of zeros': lambda f: (f / STATE).write_bytes((f / STATE).read_bytes()[:-9] + bytes(9)),
    'a byte more': lambda f: (f / STATE).write_bytes((f / STATE).read_bytes() + b'\0'),
    'a blank more': lambda f: (f / MANIFEST).write_bytes((f / MANIFEST).read_bytes() + b' '),
    'noise': lambda f: (f / STATE).write_bytes(random.Random(0).randbytes(500)),
    'a noisy manifest': lambda f: (f / MANIFEST).write_bytes(random.Random(0).randbytes(500)),
    'a deep manifest': lambda f: (f / MANIFEST).write_bytes(b'[' * 10**6),
    'a manifest of null': lambda f: (f / MANIFEST).write_text('null\n'),
    'a vast manifest': lambda f: os.truncate(f / MANIFEST, 2**40),
    'no state': lambda f: (f / STATE).unlink(),
    'no manifest': lambda f: (f / MANIFEST).unlink(),
    'another file': lambda f: (f / '2/more').touch(),
    'another file in a folder': lambda f: ((f / '2/d').mkdir(), (f / '2/d/more').touch()),
    'a linked state': lambda f: (shutil.move(f / STATE, f / 'away'),
                                 (f / STATE).symlink_to(f / 'away')),
    'a pipe': lambda f: os.mkfifo(f / '2/pipe'),
    'the state of another step': lambda f: shutil.copy(f / '1/state.safetensors', f / STATE),
    'the manifest of another step': lambda f: shutil.copy(f / '1/MANIFEST.json', f / MANIFEST),
    'a copy of another step': _copy_over,
    'a linked step': lambda f: (shutil.move(f / '2', f / 'away'),
                                (f / '2').symlink_to(f / 'away')),
}


class TestRot:

  def test_no_flipped_bit_is_loaded(self, tmp_path, capsys):
    good = saved(tmp_path / 'good', 1, 2)
    sizes = {p.name: p.stat().st_size for p in (good / '2').iterdir()}
    draw = random.Random(0)
    for trial in range(150):
      folder = tmp_path / str(trial)
      shutil.copytree(good, folder)
      name, = draw.choices(list(sizes), sizes.values())         # of all the bits of the step
      flipped(folder / '2' / name, bit := draw.randrange(8 * sizes[name]))
      assert restored(folder) == 1, (name, bit)
      assert (folder / 'bad-2-0').is_dir()
      assert f'{name} is damaged' in capsys.readouterr().err

  @pytest.mark.parametrize('damage', DAMAGE)
  def test_damage_is_set_aside_with_a_reason_and_the_older_one_taken(
      self, tmp_path, capsys, damage):
    saved(tmp_path, 1, 2)
    DAMAGE[damage](tmp_path)
    entries = len(list(tmp_path.rglob('*')))
    assert restored(tmp_path) == 1
    line = capsys.readouterr().err
    assert line.count('\n') == 1 and str(tmp_path / '2') in line and 'bad-2-0' in line
    assert (tmp_path / 'bad-2-0').is_dir() and not (tmp_path / '2').exists()
    assert len(list(tmp_path.rglob('*'))) == entries            # nothing was deleted
    assert restored(saved(tmp_path, 2)) == 2    # and the run goes on

  @pytest.mark.parametrize('name', ['state.safetensors', 'MANIFEST.json'])
  def test_two_steps_that_swapped_a_file_are_both_refused(self, tmp_path, name):
    saved(tmp_path, 1, 2)
    _swap(name)(tmp_path)
    stopped(Status.CHECKPOINT, checkpoint.restore, tmp_path, small(0))

  def test_where_none_verifies_the_run_stops_and_never_starts_from_nothing(self, tmp_path):
    saved(tmp_path, 1, 2)
    for step in '12':
      flipped(tmp_path / step / 'state.safetensors', 800)
    for _ in range(2):                          # the second time they have been set aside already
      line = stopped(Status.CHECKPOINT, checkpoint.restore, tmp_path, small(0))
      assert str(tmp_path) in line
    assert {'bad-1-0', 'bad-2-0'} <= set(files(tmp_path))

  def test_what_cannot_be_set_aside_stays_and_the_older_one_is_taken(
      self, tmp_path, monkeypatch, capsys):
    before = files(saved(tmp_path, 1, 2))
    flipped(tmp_path / STATE, 800)
    def refuses(*_):
      raise PermissionError(errno.EACCES, 'Permission denied')
    monkeypatch.setattr(os, 'rename', refuses)
    assert restored(tmp_path) == 1
    assert 'Permission denied' in capsys.readouterr().err
    assert files(tmp_path).keys() == before.keys()
    flipped(tmp_path / '1/state.safetensors', 800)
    stopped(Status.CHECKPOINT, checkpoint.restore, tmp_path, small(0))

  def test_junk_is_never_loaded_and_never_deleted(self, tmp_path):
    saved(tmp_path, 3, 4)
    (tmp_path / '999999').mkdir()
    (tmp_path / '1000000').write_text('a file')
    (tmp_path / '1000001').symlink_to(tmp_path / '4')
    (tmp_path / '1000002').symlink_to(tmp_path / 'nowhere')
    (tmp_path / '1000004').mkdir()
    shutil.copytree(tmp_path / '4', tmp_path / '1000003')
    for name in ('007', '-5', '5.tmp', '٣', '9' * 40, 'bad-999999-0', 'latest'):
      shutil.copytree(tmp_path / '4', tmp_path / name)
    before = files(tmp_path)
    assert checkpoint.latest_step(tmp_path) == 1000003               # by names alone: a guess
    assert restored(tmp_path) == 4
    after = files(tmp_path)
    assert len(after) == len(before)
    assert sorted(map(str, after.values())) == sorted(map(str, before.values()))
    assert 'bad-999999-1' in after              # beside the one that had the name
    assert restored(saved(tmp_path, 5, 6)) == 6
    assert {'007', 'latest', 'bad-1000001-0', 'bad-1000003-0'} <= set(files(tmp_path))


class TestStrictness:

  @pytest.mark.parametrize('change, fault', [
      ({'w': np.zeros((4, 7), np.float32)}, 'w is float32[4,6] there and float32[4,7] here'),
      ({'w': np.zeros((6, 4), np.float32)}, 'w is float32[4,6] there and float32[6,4] here'),
      ({'w': np.zeros((4, 6), np.float16)}, 'w is float32[4,6] there and float16[4,6] here'),
      ({'step': np.zeros((), np.float32)}, 'step is int32[] there and float32[] here'),
      ({'step': np.zeros(1, np.int32)}, 'step is int32[] there and int32[1] here'),
      ({'v': np.zeros(2, np.float32)}, 'v is missing there and float32[2] here'),
      ({'w': None}, 'w is float32[4,6] there and missing here'),
      ({'w': [np.zeros((4, 6), np.float32)]}, 'w is float32[4,6] there and missing here'),
  ])
  def test_another_tree_is_refused_by_name_and_nothing_is_set_aside(self, tmp_path, change, fault):
    before = files(saved(tmp_path, 1, 2))
    line = stopped(Status.CHECKPOINT, checkpoint.restore, tmp_path, small(0) | change)
    assert fault in line and str(tmp_path / '2') in line
    assert files(tmp_path) == before

  def test_a_newer_schema_is_refused_and_not_set_aside(self, tmp_path, monkeypatch):
    monkeypatch.setattr(seal, 'SCHEMA', 2)
    before = files(saved(tmp_path, 1))
    monkeypatch.undo()
    assert 'schema 2' in stopped(Status.CHECKPOINT, checkpoint.restore, tmp_path, small(0))
    assert files(tmp_path) == before

  def test_a_state_that_lies_under_a_right_seal_is_refused(self, tmp_path):
    # Whoever can write the state can seal it; what is read must still be what the manifest says.
    saved(tmp_path, 1)
    for state in (safetensors.numpy.save(small(2)), b'\xff' * 64, b''):
      shutil.rmtree(tmp_path / '1')
      seal.publish(tmp_path / '1', 'MANIFEST.json', {'state.safetensors': state}, {
          'step': 1, 'tree': {'step': 'int32[]', 'w': 'float32[4,6]'}, 'facts': {},
          'state': checkpoint.sha256(small(1))})
      stopped(Status.CHECKPOINT, checkpoint.restore, tmp_path, small(0))


class TestHash:

  def test_it_sees_bits_names_shapes_and_types(self):
    base = {'a': np.zeros(4, np.float32), 'b': np.ones(2, np.int32)}
    others = [base | {'a': np.array([0, 0, 0, -0.0], np.float32)},
              {'aa': base['a'], 'b': base['b']},
              base | {'a': np.zeros((2, 2), np.float32)}, base | {'a': np.zeros(4, np.int32)},
              base | {'a': np.zeros(8, np.float16)}, {'a': base['a']}, base | {'c': np.zeros(0)}]
    assert len({checkpoint.sha256(tree) for tree in [base, *others]}) == 8

  def test_it_does_not_see_the_order_or_kind_of_containers_or_where_the_arrays_are(self):
    a, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(2, np.int32)
    trees = [{'x': {'a': a, 'b': b}}, {'x': {'b': b, 'a': a}}, {'x/a': a, 'x/b': b},
             {'x': {'a': jnp.asarray(a), 'b': jnp.asarray(b)}}, {'x': {'a': a.copy('F'), 'b': b}}]
    assert len({checkpoint.sha256(tree) for tree in trees}) == 1
    # JAX visits x before x-y, but 'x-y' before 'x/b'.
    nested, flat = {'x': {'b': a}, 'x-y': b}, {'x/b': a, 'x-y': b}
    assert checkpoint.sha256(nested) == checkpoint.sha256(flat)


FILES = {'model.safetensors': random.Random(0).randbytes(300),
         'tokenizer.json': '{"é": 1}\r\n'.encode(), 'README.md': b''}
CARD = {'model': {'name': 'bert.Bert', 'layers': 2}, 'classes': ['json', 'ast']}


def exported(folder):
  checkpoint.write_export(folder, FILES, CARD)
  return folder


def opened(folder):
  """The card of an export that verifies."""
  return checkpoint.open_export(folder, 'model.safetensors')['card']


class TestExport:

  def test_what_ships_is_what_was_given(self, tmp_path):
    folder = exported(tmp_path / 'export')
    content = checkpoint.open_export(folder, 'model.safetensors')
    assert content['card'] == CARD
    assert {name: (folder / name).read_bytes() for name in FILES} == FILES
    assert set(files(folder)) == {'config.json', *FILES}
    assert set(content['files']) == {'model.safetensors', 'tokenizer.json'}

  def test_what_other_libraries_want_stands_beside_the_card(self, tmp_path):
    checkpoint.write_export(tmp_path / 'export', FILES, CARD, {'model_type': 'bert', 'layers': 2})
    config = json.loads((tmp_path / 'export' / 'config.json').read_text())
    assert (config['model_type'], config['layers'], config['card']) == ('bert', 2, CARD)
    assert opened(tmp_path / 'export') == CARD

  def test_arrays_are_at_most_float32_on_the_host_in_c_order(self):
    given = {'blocks/0/kernel': jnp.asarray([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], jnp.bfloat16),
             'bias': np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3)),
             'scale': jnp.float32(0.1), 'levels': np.arange(3, dtype=np.int8)}
    found = {name: checkpoint.to_export_array(array) for name, array in given.items()}
    assert {k: str(a.dtype) for k, a in found.items()} == {
        'blocks/0/kernel': 'bfloat16', 'bias': 'float32', 'scale': 'float32', 'levels': 'int8'}
    for name, array in found.items():
      assert isinstance(array, np.ndarray) and array.flags.c_contiguous
      np.testing.assert_array_equal(np.asarray(array, np.float32),
                                    np.asarray(given[name], np.float32))

  @pytest.mark.parametrize('name', ['config.json', 'model.safetensors', 'tokenizer.json'])
  def test_a_file_that_is_missing_cut_or_changed_is_named(self, tmp_path, name):
    intact = exported(tmp_path / 'export')
    path, bits = intact / name, 8 * (intact / name).stat().st_size
    harms = [path.unlink, lambda: os.truncate(path, 5),
             *(lambda b=b: flipped(path, b) for b in random.Random(0).sample(range(bits), 20))]
    for harm in harms:
      shutil.rmtree(intact)
      exported(intact)
      harm()
      line = stopped(Status.CHECKPOINT, opened, intact)
      place, fault = line.split(' is no intact exported model, ')
      assert place == str(intact) and name in fault.split(': ', 1)[1]

  def test_without_a_checkpoint_the_line_names_the_files_that_are_needed(self, tmp_path):
    line = stopped(Status.CHECKPOINT, opened, tmp_path / 'nowhere')
    assert all(w in line for w in ('nowhere', 'config.json', 'model.safetensors'))

  def test_a_link_leads_to_what_was_sealed_or_is_refused(self, tmp_path):
    # As in the hub's cache. What the seal doesn't vouch for is disclosed by no link.
    folder = exported(tmp_path / 'export')
    shutil.move(folder / 'tokenizer.json', tmp_path / 'away')
    (folder / 'tokenizer.json').symlink_to(tmp_path / 'away')
    assert opened(folder) == CARD
    (tmp_path / 'away').write_text('another')
    assert 'tokenizer.json is damaged' in stopped(Status.CHECKPOINT, opened, folder)

  def test_a_new_export_replaces_the_old_one(self, tmp_path):
    exported(tmp_path / 'export')
    checkpoint.write_export(tmp_path / 'export', {'model.safetensors': b'w'}, {'n': 2})
    assert opened(tmp_path / 'export') == {'n': 2}
    assert set(files(tmp_path / 'export')) == {'config.json', 'model.safetensors'}
    assert [p.name for p in tmp_path.iterdir()] == ['export']

  def test_a_stranger_in_the_folder_is_harmless_and_never_deleted(self, tmp_path):
    (exported(tmp_path / 'export') / 'notes').write_text('mine')
    assert opened(tmp_path / 'export') == CARD
    exported(tmp_path / 'export')
    assert (tmp_path / 'bad-export-0/notes').read_text() == 'mine'
    assert opened(tmp_path / 'export') == CARD

  def test_a_full_disk_leaves_the_old_one(self, tmp_path, monkeypatch):
    before = files(exported(tmp_path / 'export'))
    def full(_):
      raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    stopped(Status.DISK, checkpoint.write_export, tmp_path / 'export',
            {'model.safetensors': b'w'}, {})
    assert files(tmp_path / 'export') == before and len(list(tmp_path.iterdir())) == 1


class TestHashedOnce:

  @pytest.fixture
  def hashed(self, monkeypatch):
    """The trees that were really hashed."""
    found, arrays = [], checkpoint._arrays
    monkeypatch.setattr(checkpoint, '_arrays', lambda tree: found.append(tree) or arrays(tree))
    return found

  def test_arrays_that_never_change_are_hashed_once(self, hashed):
    tree = {'a': jnp.arange(3.0), 'b': (jnp.ones(2), {})}
    first = checkpoint.sha256(tree)
    assert checkpoint.sha256({'b': (tree['b'][0], {}), 'a': tree['a']}) == first
    assert len(hashed) == 1
    assert checkpoint.sha256({'a': np.arange(3.0, dtype=np.float32), 'b': (np.ones(
        2, np.float32), {})}) == first
    assert checkpoint.sha256({'b': tree['a'], 'a': tree['b']}) != first
    assert len(hashed) == 3

  def test_arrays_that_may_change_are_hashed_again(self, hashed):
    tree = {'a': np.zeros(3), 'b': jnp.ones(2)}
    first = checkpoint.sha256(tree)
    tree['a'][0] = 1
    assert checkpoint.sha256(tree) != first and len(hashed) == 2

  def test_nothing_is_kept_of_arrays_that_are_gone(self, monkeypatch):
    monkeypatch.setattr(checkpoint, '_hashed', {})      # without the arrays of other tests
    tree = {'a': jnp.arange(4.0), 'b': jnp.ones(5)}
    checkpoint.sha256(tree)
    assert len(checkpoint._hashed) == 1
    del tree['b']
    gc.collect()
    assert not checkpoint._hashed
