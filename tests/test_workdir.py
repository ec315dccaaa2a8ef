"""Workdirs: their names and the configs that they hold."""
import copy
import json
import pathlib

import pytest

from distill import flags, workdir
from distill.pipelines.identities import config_sha256
from distill.types import Status, Stop

ROOT = pathlib.Path(__file__).parent.parent


def config(*overrides):
  return flags.parsed([f'--config={ROOT}/configs/digits.py:kd', *(
      f'--config.{each}' for each in overrides)]).config.to_dict()


def without(node):
  """Returns the config without some fields that have their default."""
  node = copy.deepcopy(node)
  for path in ('optimizer.decay', 'train.accumulate', 'train.shares', 'objective.hard.weight',
               'student.layers', 'teachers.teacher.init', 'evaluate.split', 'mesh', 'tier'):
    *above, key = path.split('.')
    parent = node
    for part in above:
      parent = parent[part]
    del parent[key]
  return node


def test_only_fields_with_an_effect_change_a_workdir_s_name(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  node = config()
  name = workdir.default('digits-kd', node)
  assert name == pathlib.Path(f'runs/digits-kd-{config_sha256(node)[:8]}')
  assert workdir.default('digits-kd', without(node)) == name
  assert workdir.default('digits-kd', config('optimizer.decay=0.02')) != name


def test_a_workdir_of_an_old_name_is_found_by_its_config(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  node = config()
  new = workdir.default('digits-kd', node)
  for name, content in {'digits-kd-00000000': '{', 'digits-kd-11111111': '[]',
                        'digits-kd-22222222': json.dumps({**node, 'seed': 1}),
                        'digits-kd-test-33333333': json.dumps(node),
                        'other-kd-44444444': json.dumps(node),
                        'digits-kd-55555555': json.dumps(without(node))}.items():
    assert workdir.default('digits-kd', node) == new
    (place := pathlib.Path('runs', name)).mkdir(parents=True)
    (place / 'config.json').write_text(content)
  old = pathlib.Path('runs/digits-kd-55555555')
  assert workdir.default('digits-kd', node) == workdir.default('digits-kd', without(node)) == old
  new.mkdir()
  assert workdir.default('digits-kd', node) == new


@pytest.fixture
def begun(tmp_path):
  """Returns a workdir in which a run has begun."""
  workdir.same_config(config(), tmp_path)
  (tmp_path / 'checkpoints').mkdir()
  return tmp_path


def test_the_same_config_may_spell_its_defaults_or_not(begun):
  before = (begun / 'config.json').read_text()
  for node in (config(), without(config()), config('mesh.model=2', 'tier=edge')):
    workdir.same_config(node, begun)
    assert (begun / 'config.json').read_text() == before
  (begun / 'config.json').write_text(json.dumps(without(config())))
  workdir.same_config(config(), begun)


def test_a_further_term_of_weight_0_is_the_same_config(begun):
  node = config()
  node['objective']['new'] = {**node['objective']['kd'], 'weight': 0.0}
  workdir.same_config(node, begun)
  node['objective']['new']['weight'] = 1.0
  with pytest.raises(Stop, match='objective.new.'):
    workdir.same_config(node, begun)


@pytest.mark.parametrize(('override', 'line'), [
    ('optimizer.decay=0.02', r'optimizer.decay \(0.01 there, 0.02 here\)'),
    ('seed=5', r'seed \(0 there, 5 here\)')])
def test_another_config_is_refused_with_both_values(begun, override, line):
  with pytest.raises(Stop, match=line) as stop:
    workdir.same_config(config(override), begun)
  assert stop.value.status == Status.CONFIG


def test_a_default_that_only_one_config_spells_is_named(begun):
  (begun / 'config.json').write_text(json.dumps(without(config())))
  with pytest.raises(Stop, match=r'optimizer.decay \(not set there, 0.02 here\)'):
    workdir.same_config(config('optimizer.decay=0.02'), begun)
