"""What of a config makes a difference, and what its nodes configure."""
import copy
import pathlib

import pytest

from distill import flags, lookup
from distill.pipelines import fields
from distill.pipelines.identities import config_sha256

ROOT = pathlib.Path(__file__).parent.parent.parent
CONFIGS = ['bert.py', 'digits.py:kd', 'digits.py:dwa', 'digits.py:mutual', 'digits.py:simkd',
           'glue.py:test', 'matrix.py:test', 'chains.py', 'pkd.py:test']


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def config(file='digits.py:kd', *overrides):
  return flags.parsed([f'--config=configs/{file}', *(
      f'--config.{each}' for each in overrides)]).config.to_dict()


def at(node, path):
  for part in path:
    node = node[part]
  return node


def apart(node):
  """A copy in which no node is another one, too, as one dict may stand in a file for many."""
  return {key: apart(value) for key, value in node.items()} if isinstance(node, dict) else node


def filled(node):
  """The config with every default spelled; what is nowhere spelled gets no node."""
  node = apart(node)
  for path, configured in fields.configured(node).items():
    try:
      found = at(node, path)
    except KeyError:
      continue
    for name, value in configured.defaults.items():
      found.setdefault(name, copy.deepcopy(value))
  return node


@pytest.mark.parametrize('file', CONFIGS)
def test_spelling_every_default_makes_no_difference(file):
  node = config(file)
  whole = filled(node)
  assert len(flags.flat(whole)) > len(flags.flat(node))
  assert fields.essential(whole) == fields.essential(node)
  assert config_sha256(whole) == config_sha256(node)


CHANGES = {
    'seed': 1, 'data.labelled': 0.2, 'data.test': 0.3, 'optimizer.decay': 0.02,
    'optimizer.name': 'lamb', 'train.steps': 7, 'train.shares': True, 'evaluate.also': ('train',),
    'student.model.channels': 2, 'student.frozen': ('stem/*',), 'objective.hard.mask': '',
    'objective.kd.kwargs.standardised': True,
    'objective.hard.schedule': {'name': 'ramp', 'steps': 9},
    'teachers.teacher.train.labelled': 0.5, 'teachers.teacher.train.optimizer.rate': 1e-5,
    'teachers.teacher.dtype': 'bfloat16', 'teachers.teacher.model.depth': 14,
    'objective.kd.weight': 0.5}


@pytest.mark.parametrize('path', CHANGES)
def test_every_other_change_makes_a_difference(path):
  node = config()
  changed, (*above, key) = copy.deepcopy(node), path.split('.')
  at(changed, above)[key] = CHANGES[path]
  assert fields.essential(changed) != fields.essential(node)


def test_where_a_run_lives_and_what_it_is_to_reach_make_none():
  node = config()
  other = {**node, 'mesh': {'model': 2, 'fsdp': True}, 'tier': 'edge'}
  assert fields.essential(other) == fields.essential(node)


def test_a_tuple_is_a_list_and_a_bool_is_no_number():
  node = config()
  assert fields.essential({**node, 'augment': ()}) == fields.essential({**node, 'augment': []})
  node['train']['shares'] = 0             # which no run takes
  assert fields.essential(node)['train']['shares'] == 0


def another_method(node, weight=0.0, **kept):
  """The config with one more term, and what only that reads."""
  node = copy.deepcopy(node)
  node['objective']['new'] = dict(
      loss='logits.kl', weight=weight, reads=dict(
          student='projected/new', teacher='carry/new', temperature='schedule/new'))
  node['student']['projectors']['new'] = dict(
      module=dict(name='projectors.Linear', outputs=10), reads='student/pooled')
  node['carry']['new'] = dict(name='Mean', reads='teacher/logits')
  node['schedules']['new'] = dict(name='ramp', steps=10)
  node['objective']['hard'].update(kept)
  return node


def test_one_more_method_at_weight_0_changes_no_other():
  node = config()
  assert fields.essential(another_method(node)) == fields.essential(node)
  scheduled = another_method(node)
  scheduled['objective']['new']['schedule'] = dict(name='ramp', steps=3)        # of nothing
  assert fields.essential(scheduled) == fields.essential(node)
  used = fields.essential(another_method(node, weight=0.5))
  assert 'new' in used['student']['projectors'] and {'new'} == used['carry'].keys()
  assert 'new' in used['schedules']


@pytest.mark.parametrize('path, view', [
    ('projected/new', 'student.projectors'), ('carry/new', 'carry'), ('schedule/new', 'schedules')])
def test_what_another_term_reads_too_is_kept(path, view):
  node = another_method(config(), scale=path)
  assert 'new' in at(fields.essential(node), view.split('.'))
  assert 'new' not in fields.essential(node)['objective']


def test_what_a_kept_carry_reads_is_kept():
  node = another_method(config(), scale='carry/new')
  node['carry']['new'] = dict(name='Mean', reads='projected/new')
  node['student']['projectors']['wide'] = node['student']['projectors']['new']
  assert fields.essential(node)['student']['projectors'].keys() == {'new'}
  node['carry']['new'] = dict(name='mylab.nowhere:Hidden')            # who knows what that reads
  assert fields.essential(node)['student']['projectors'].keys() == {'new', 'wide'}


def test_a_term_of_weight_0_in_a_stage_before_or_of_a_teacher_is_none_either():
  node = config()
  off = dict(loss='logits.kl', weight=0, reads=dict(student='student/logits', teacher='batch/x'))
  other = copy.deepcopy(node)
  other['teachers']['teacher']['train']['objective']['off'] = off
  assert fields.essential(other) == fields.essential(node)
  stage = dict(objective=dict(hard=node['objective']['hard']), optimizer=dict(rate=0.1),
               train=dict(steps=3))
  first = {**node, 'before': dict(first=stage)}
  other = {**node, 'before': dict(first={**stage, 'objective': {**stage['objective'], 'off': off}})}
  assert fields.essential(other) == fields.essential(first) != fields.essential(node)


def teacher_s_method(weight=0.0, **kept):
  """A config whose teacher has one more term, and parts that only that reads."""
  node = config()
  teacher = node['teachers']['teacher']
  teacher['train']['objective'] = copy.deepcopy(teacher['train']['objective'])
  teacher['train']['objective']['hard'].update(kept)
  other = copy.deepcopy(node)
  teacher = other['teachers']['teacher']
  teacher['train']['objective']['new'] = dict(
      loss='logits.kl', weight=weight, reads=dict(
          student='projected/new', teacher='carry/new', temperature='schedule/new'))
  teacher['projectors'] = dict(new=dict(
      module=dict(name='projectors.Linear', outputs=10), reads='student/pooled'))
  teacher['carry'] = dict(new=dict(name='Mean', reads='student/logits'))
  teacher['schedules'] = dict(new=dict(name='ramp', steps=10))
  return node, other


def test_what_only_a_teacher_s_term_of_weight_0_reads_is_no_difference():
  node, other = teacher_s_method()
  assert fields.essential(other) == fields.essential(node)
  # `build.Common.identity` hashes the node of the teacher by itself, and the modules that it names.
  part, whole = ({'teachers': each['teachers']} for each in (node, other))
  assert fields.essential(whole) == fields.essential(part)
  assert fields.modules(whole) == fields.modules(part)
  used = fields.essential(teacher_s_method(weight=0.5)[1])['teachers']['teacher']
  assert all(used[key].keys() == {'new'} for key in ('projectors', 'carry', 'schedules'))


@pytest.mark.parametrize('path, key', [
    ('projected/new', 'projectors'), ('carry/new', 'carry'), ('schedule/new', 'schedules')])
def test_what_another_term_of_the_teacher_reads_too_is_kept(path, key):
  _, other = teacher_s_method(scale=path)
  assert 'new' in fields.essential(other)['teachers']['teacher'][key]
  # A term of the student's that reads a part of this name means the student's own.
  _, other = teacher_s_method()
  other['objective']['hard']['scale'] = path
  assert key not in fields.essential(other)['teachers']['teacher']


def averaged(weight=0.0, **teachers):
  """A config with a term that reads an average of the student."""
  node = config()
  node['objective']['same'] = dict(loss='logits.mse', weight=weight, reads=dict(
      student='student/logits', teacher='ema/logits'))
  node['carry']['mean'] = dict(name='Average')
  node['teachers'] |= dict(ema=dict(source='carry:mean'), **teachers)
  return node


def test_a_teacher_without_a_model_that_only_a_term_of_weight_0_reads_is_no_difference():
  assert fields.essential(averaged()) == fields.essential(config())
  stored = averaged(oracle=dict(source='fields'))
  assert fields.essential(stored) == fields.essential(config())
  kept = fields.essential(averaged(weight=0.5))
  assert 'ema' in kept['teachers'] and 'mean' in kept['carry']


def test_a_teacher_without_a_model_that_anything_else_may_read_is_kept():
  names = lambda node: {*fields.essential(node)['teachers']}
  stored = averaged(oracle=dict(source='fields'))
  assert names({**stored, 'augment': [dict(name='adversarial.pgd', of='oracle')]}) == {
      'teacher', 'oracle'}
  assert names({**stored, 'augment': [dict(name='mylab.nowhere:change')]}) == {
      'teacher', 'oracle', 'ema'}
  stored['carry'] |= dict(bank=dict(name='Mean', reads='oracle/logits'))
  assert names(stored) == {'teacher'}                   # nothing reads the carry either
  stored['objective']['hard']['scale'] = 'carry/bank'
  assert names(stored) == {'teacher', 'oracle'}


def test_the_only_teacher_is_a_difference_for_with_it_there_is_a_baseline():
  node = averaged()
  del node['teachers']['teacher'], node['objective']['kd']
  assert {*fields.essential(node)['teachers']} == {'ema'}


def test_a_teacher_that_nothing_reads_stays():
  node = config()
  node['objective']['kd']['weight'] = 0.0
  assert 'teacher' in fields.essential(node)['teachers']


def test_a_default_that_the_data_s_facts_would_replace_makes_a_difference():
  node = config()
  # ResNet's default is 3 channels; digits have 1.
  node['student']['model']['channels'] = 3
  assert fields.essential(node)['student']['model']['channels'] == 3
  node['student']['model']['widths'] = (16, 16, 32, 64)
  assert 'widths' not in fields.essential(node)['student']['model']
  node['data']['name'] = 'mylab.nowhere:Data'         # whose facts may have any name
  assert fields.essential(node)['student']['model']['widths'] == [16, 16, 32, 64]


def test_a_loaded_teacher_leaves_to_its_card_what_it_does_not_say():
  node = config('glue.py:test')
  node['teachers']['teacher'] |= {'init': 'somewhere', 'model': dict(
      name='bert.Bert', dropout=0.1)}
  assert fields.essential(node)['teachers']['teacher']['model']['dropout'] == 0.1


def test_facts_of_our_data_sets_are_known_by_name():
  for node in ({'name': 'digits.Digits'}, {k: v for k, v in config('glue.py:test')['data'].items()
               if k in ('name', 'per_class', 'vocabulary', 'minimum', 'length')}):
    assert {*lookup.build('data', node, 'data').facts} <= {
        *fields.FACTS, 'height', 'width'}


def test_a_pipeline_outside_reads_its_config_itself():
  node = {**config(), 'pipeline': 'mylab.nowhere:run'}
  assert fields.configured(node) == {} and fields.essential(node)['train']['accumulate'] == 1


def test_nodes_that_name_nothing_are_left_to_those_who_build_them():
  node = config()
  node['optimizer'] = dict(name='adamx', rate=1.0, decay=0.01)
  node['objective']['kd'], node['schedules'], node['augment'] = 3, [1], (4, {'name': 5})
  assert fields.essential(node)['optimizer'] == dict(name='adamx', rate=1.0, decay=0.01)


def test_modules_are_those_of_what_is_named_and_used():
  found = fields.modules(config())
  assert {'distill.losses.logits', 'distill.losses.supervised', 'distill.models.resnet',
          'distill.optimizers', 'distill.data.digits', 'distill.tasks.classification'} <= found
  assert not {'distill.losses.maps', 'distill.projectors.fusion', 'distill.carry'} & found
  members = config('digits.py:mutual')
  assert {'distill.models.cohort', 'distill.models.resnet'} <= fields.modules(members)
  assert 'distill.models.resnet' in fields.modules({**members, 'teachers': {}})
