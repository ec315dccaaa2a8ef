"""Exported models that a run takes: each is read and hashed once, and let go."""
import gc
import os

import numpy as np
import pytest

from distill import checkpoint, flags, formats
from distill.pipelines import fits, matrix
from distill.pipelines.setup import build_setup
from distill.types import Status, Stop


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
  monkeypatch.chdir(request.config.rootpath)


def config(file, *overrides):
  return flags.parsed([f'--config=configs/{file}', *(
      f'--config.{each}' for each in overrides)]).config.to_dict()


@pytest.fixture(scope='module')
def place(tmp_path_factory, request):
  """An untrained teacher of digits, exported."""
  os.chdir(request.config.rootpath)
  setup = build_setup(config('digits.py:kd'))
  teacher = setup.trained[0]
  model, folder = teacher.stage.student.model, tmp_path_factory.mktemp('teacher') / 'export'
  formats.write(folder, formats.Shipped(model, model.init(0), teacher.card, setup.modality))
  return folder


@pytest.fixture
def counted(monkeypatch):
  """The models that were read, and the trees that were hashed."""
  gc.collect()
  read, hashed = [], []
  load, arrays = formats.load, checkpoint._arrays
  monkeypatch.setattr(formats, 'load', lambda *a, **k: read.append(a) or load(*a, **k))
  monkeypatch.setattr(checkpoint, '_arrays', lambda tree: hashed.append(tree) or arrays(tree))
  return read, hashed


def with_init(place, file='digits.py:kd', **more):
  node = config(file)
  node['teachers']['teacher'] |= {'init': str(place), **more}
  return node


@pytest.mark.parametrize('more', [{'train': {}}, {}])
def test_a_teacher_is_read_once_and_hashed_once(place, counted, more):
  setup = build_setup(with_init(place, **more))
  assert len(counted[0]) == len(counted[1]) == 1
  if more:
    weights = setup.jobs[0].weights
    assert checkpoint.sha256(weights) == checkpoint.sha256(tuple(weights))
    assert len(counted[1]) == 1             # for every stage that reads it


def test_the_students_of_a_matrix_share_it(place, counted):
  node = with_init(place, 'matrix.py:digits', train={})
  setup = matrix.build_setup(node, node['students'])
  assert len(setup.trained) == 6 and len(counted[0]) == len(counted[1]) == 1


def test_a_student_that_starts_from_a_model_reads_it_once(place, counted):
  node = config('digits.py:kd')
  node['student']['model'] = node['teachers']['teacher']['model']
  node['student']['init'] = str(place)
  setup = build_setup(node)
  assert len(counted[0]) == len(counted[1]) == 1
  start = setup.trained[-1].stage.start({})[0]
  arrays = formats.load(str(place))[1][0]
  assert all(np.array_equal(start[f'model/{path}'], x) for path, x in arrays.items())


def test_what_changed_on_the_disk_is_read_anew(place, counted):
  first = build_setup(with_init(place, train={}))
  os.utime(place / 'model.safetensors', ns=(1, 1))
  again = build_setup(with_init(place, train={}))
  assert len(counted[0]) == 2 and first.trained[0].identity == again.trained[0].identity


def test_another_seed_reads_it_anew_only_where_parameters_begin_by_it(place, counted):
  kept = [build_setup(with_init(place, train={}) | {'seed': seed}) for seed in (0, 1)]
  assert len(counted[0]) == 1 and kept
  kept = [build_setup(with_init(place, fresh=('head/*',)) | {'seed': seed}) for seed in (0, 1)]
  assert len(counted[0]) == 3
  heads = [each.trained[0].stage.start({})[0]['model/head/kernel'] for each in kept]
  assert not np.array_equal(*heads)


def test_nothing_is_kept_when_the_run_has_let_go(place):
  gc.collect()
  before = len(fits._open)
  setup = build_setup(with_init(place, train={}))
  assert len(fits._open) == before + 1
  gc.disable()              # arrays go at once, not when Python next looks for circles
  try:
    del setup
    assert len(fits._open) == before
  finally:
    gc.enable()


def test_a_folder_that_is_none_is_one_line():
  with pytest.raises(Stop, match='nowhere') as stop:
    build_setup(with_init('nowhere', train={}))
  assert stop.value.status == Status.CHECKPOINT
