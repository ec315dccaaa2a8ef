"""The command line: keywords that a config leaves out, set by what its nodes configure."""
import pathlib

import pytest

from distill import flags
from distill.types import Status, Stop

ROOT = pathlib.Path(__file__).parent.parent
FILE = '''
from ml_collections import ConfigDict, FieldReference


def get_config():
  place = FieldReference('a')
  logits = dict(student='student/logits', teacher='teacher/logits')
  return ConfigDict(dict(
      seed=0, data=dict(name='docstrings.Docstrings', batch_size=8, seed=0),
      task=dict(name='classification.Classification'),
      teachers=dict(t=dict(init=place, train=dict(
          steps=3, optimizer=dict(rate=0.1), objective={}))),
      student=dict(model=dict(name='bert.Bert', width=8, depth=1, heads=2), init=place),
      objective=dict(kd=dict(loss='logits.kl', reads=logits)),
      optimizer=dict(name='adamw', rate=0.1), train=dict(steps=5),
      augment=(dict(name='masking.words'),), other=dict(deep=1)))
'''


@pytest.fixture
def parsed(tmp_path, monkeypatch):
  """Parses overrides of a config that spells little."""
  monkeypatch.chdir(tmp_path)
  pathlib.Path('toy.py').write_text(FILE)
  return lambda *overrides: flags.parsed(['--config=toy.py', *(
      f'--config.{each}' for each in overrides)]).config.to_dict()


@pytest.mark.parametrize(('override', 'value'), [
    ('optimizer.decay=0.1', 0.1), ('optimizer.clip=2', 2.0),
    ('optimizer.schedule=linear', 'linear'),
    ('train.shares=true', True), ('train.dtype=bfloat16', 'bfloat16'), ('train.save_every=7', 7),
    ('data.minimum=100', 100), ('data.labelled=0.5', 0.5), ('data.widths=(8, 16)', (8, 16)),
    ('student.model.dropout=0.3', 0.3), ('student.layers=(0,)', (0,)), ('tier=edge', 'edge'),
    ('objective.kd.weight=2', 2.0), ('objective.kd.mask=batch/labelled', 'batch/labelled'),
    ('objective.kd.kwargs.temperature=2', 2.0), ('objective.kd.schedule.value=2', 2.0),
    ('teachers.t.train.save_every=7', 7), ('teachers.t.train.labelled=0.5', 0.5),
    ('teachers.t.train.optimizer.decay=0.1', 0.1), ('teachers.t.seed=4', 4),
    ('evaluate.split=train', 'train'), ('evaluate.watts=3', 3.0), ('mesh.fsdp=True', True),
    ('task.primary=f1', 'f1'),
    ("evaluate.tiers={'edge': {'params': 0.2}}", {'edge': {'params': 0.2}})])
def test_a_keyword_that_the_file_leaves_out_is_set(parsed, override, value):
  node, before = parsed(override), parsed()
  for part in (path := override.partition('=')[0]).split('.'):
    node = node[part]
  assert node == value and type(node) is type(value)
  assert path not in flags.flat(before)


def test_a_field_that_the_file_spells_keeps_its_type_and_its_reference(parsed):
  node = parsed('optimizer.rate=1', 'teachers.t.init=b')
  assert type(node['optimizer']['rate']) is float and node['student']['init'] == 'b'


def test_the_name_decides_that_the_command_line_gives(parsed):
  node = parsed('optimizer.momentum=0.9', 'optimizer.name=sgd')
  assert node['optimizer'] == {'name': 'sgd', 'rate': 0.1, 'momentum': 0.9}
  with pytest.raises(Stop, match="the config has no field 'optimizer.momentum'"):
    parsed('optimizer.momentum=0.9')


@pytest.mark.parametrize(('override', 'line'), [
    ('optimizer.decya=0.1', "the config has no field 'optimizer.decya'; did you mean "
     "'optimizer.decay'"),
    ('optimizer.steps=3', "the config has no field 'optimizer.steps'"),
    ('student.model.rngs=3', "the config has no field 'student.model.rngs'"),
    ('train.sav_every=3', "did you mean 'train.save_every'"),
    ('optimiser.decay=3', "the config has no field 'optimiser.decay'"),
    ('objective.kd.kwargs.teacher=x', "the config has no field 'objective.kd.kwargs.teacher'"),
    ('objective.new.weight=1', "the config has no field 'objective.new.weight'"),
    ('other.deeper=1', "the config has no field 'other.deeper'"),
    ('seed.deep=1', "the config has no field 'seed.deep'"),
    ('optimizer.decay=x', "--config.optimizer.decay='x' is a str, not a float"),
    ('optimizer.decay=True', '--config.optimizer.decay=True is a bool, not a float'),
    ('train.save_every=0.5', '--config.train.save_every=0.5 is a float, not a int'),
    ('train.shares=1', '--config.train.shares=1 is a int, not a bool'),
    ('student.layers=1', '--config.student.layers=1 is a int, not a'),
    ('optimizer.decay=1e400', 'optimizer.decay=inf must be a finite number'),
    ('train.shares', '--config.train.shares: write --config.train.shares=VALUE'),
    ('optimizer.rate=x', 'optimizer.rate')])
def test_what_cannot_be_set_is_one_line(parsed, override, line):
  with pytest.raises(Stop) as stop:
    parsed(override)
  assert stop.value.status == Status.CONFIG and line in str(stop.value)
  assert '\n' not in str(stop.value)


def test_overrides_may_stand_in_a_file_of_flags(parsed, tmp_path):
  (tmp_path / 'more').write_text('--config.optimizer.decay=0.1\n--config.seed=3\n')
  node = flags.parsed(['--config=toy.py', f'--flagfile={tmp_path}/more']).config
  assert (node.optimizer.decay, node.seed) == (0.1, 3)


def test_a_config_stays_locked(parsed):
  config = flags.parsed(['--config=toy.py', '--config.optimizer.decay=0.1']).config
  with pytest.raises((KeyError, AttributeError)):
    config.optimizer.more = 1


def test_every_config_may_be_given_what_its_functions_take(monkeypatch):
  monkeypatch.chdir(ROOT)
  for file, fields in {
      'bert.py': ('data.minimum=100', 'optimizer.drop=0.5'),
      'digits.py:test': ('teachers.teacher.dtype=bfloat16', 'student.model.channels=1'),
      'matrix.py:test': ('students.cloud.student.fresh=()', 'teachers.teacher.shared=True'),
      'pkd.py:test': ('evaluate.resamples=5',)}.items():
    given = [f'--config.{each}' for each in fields]
    found = flags.flat(flags.parsed([f'--config=configs/{file}', *given]).config.to_dict())
    assert {each.partition('=')[0] for each in fields} <= found.keys(), file
