"""Jobs: a teacher has what a student has, and a model is made of another without training."""
import contextlib
import json

import jax
import numpy as np
import pytest
import safetensors

from distill import flags, predict, runs, train
from distill.logs import Log
from distill.pipelines import compare
from distill.pipelines.identities import config_sha256
from distill.pipelines.setup import build_setup
from distill.types import Status, Stop


@pytest.fixture(autouse=True, scope='module')
def at_the_root(request):
  with contextlib.chdir(request.config.rootpath):
    yield


def soft(teacher):
  return {'loss': 'logits.kl', 'reads': {'student': 'student/logits',
                                         'teacher': f'{teacher}/logits'}}


def config(**changes):
  """A teacher, a student and its baseline: tiny models of digits, two steps a stage."""
  node = flags.parsed(['--config=configs/chains.py:test']).config.to_dict()
  small = {'name': 'resnet.ResNet', 'depth': 4, 'widths': (2, 4)}
  plain = node['teachers']['teacher']
  hard = plain['train']['objective']['hard']
  steps = {'steps': 2, 'log_every': 1, 'save_every': 2, 'eval_every': 0}
  node['teachers'] = {'big': {**plain, 'model': small,
                              'train': {**plain['train'], **steps, 'objective': {'hard': hard}}}}
  node['student']['model'] = small
  node['before'], node['train'] = {}, node['train'] | steps
  node['objective'] = {'hard': {**hard, 'mask': 'batch/labelled'}, 'kd': soft('big')}
  node['evaluate'] |= {'cost': False, 'resamples': 20}
  return node | changes


def jobs(node):
  return {job.name: job for job in build_setup(node).jobs}


def run(place, node):
  with contextlib.closing(Log(place)) as log:
    return compare.run(node, runs.Run('jobs', place, log, seed=node['seed']))


class TestATeacherHasWhatAStudentHas:
  """Projectors, carries, schedules, frozen parts and stages before its own."""

  def node(self):
    """An assistant whose nodes are those of the student."""
    node, pace = config(), {'name': 'Taid', 'teacher': 'big/logits', 'steps': 3}
    hint = {'loss': 'features.mse', 'schedule': {'name': 'ramp', 'steps': 3}, 'reads': {
        'student': 'projected/up', 'teacher': 'big/stage1/features'}}
    taid = {'loss': 'divergences.taid', 'reads': {
        'student': 'student/logits', 'teacher': 'big/logits', 't': 'carry/pace/t'}}
    parts = {'projectors': {'up': {'module': {'name': 'projectors.Connector', 'outputs': 4},
                                 'reads': 'student/stage1/features'}},
           'frozen': ('stem/*',)}
    stages = {'hints': {'objective': {'hint': hint}, 'optimizer': node['optimizer'],
                        'train': node['train'], 'augment': ()}}
    node['student'] |= parts
    node['carry'] = {'pace': pace}
    node['before'] = stages
    node['objective'] |= {'hint': hint, 'taid': taid}
    labels = {name: node['data'][name] for name in ('labelled', 'drawn')}
    node['teachers']['aide'] = {
        'model': node['student']['model'], 'carry': {'pace': pace}, 'before': stages, **parts,
        'train': {**node['train'], **labels, 'objective': node['objective'],
                  'optimizer': node['optimizer']}}
    return node

  def test_its_first_step_is_the_student_s(self):
    found = jobs(self.node())
    assert [stage.name for stage in found['aide'].stages] == ['aide-hints', 'aide']
    weights = {'big': found['big'].stage.student.model.init(3)}
    for ours, theirs in zip(found['aide'].stages, found['student'].stages, strict=True):
      assert ours.carries.keys() == theirs.carries.keys()
      first = [step(stage, weights) for stage in (ours, theirs)]
      jax.tree.map(np.testing.assert_array_equal, *first)
      assert 'projectors/up/conv/kernel' in first[0].params

  @pytest.mark.slow
  def test_a_frozen_part_stays_and_a_stage_goes_on_from_the_one_before(self, tmp_path):
    report = run(tmp_path, self.node())
    assert {'big', 'aide', 'student'} <= {m['name'] for m in report['models']}
    assert report['training']['aide']['steps'] == 4       # of both stages
    found = jobs(self.node())
    weights = {'big': found['big'].stage.student.model.init(3)}
    start, _ = found['aide'].stage.start(weights)
    with safetensors.safe_open(tmp_path / 'export/aide/model.safetensors', 'np') as file:
      ended = {name: file.get_tensor(name) for name in file.keys()}
    stays = {path for path, array in ended.items()
             if f'model/{path}' in start and np.array_equal(array, start[f'model/{path}'])}
    assert stays >= {path for path in ended if path.startswith('stem/') and path in stays | {
        name.removeprefix('model/') for name in start}}
    assert 'head/kernel' not in stays

  @pytest.mark.parametrize('change, line', [
      ({'frozen': ('stm/*',)}, "teachers.aide.frozen: 'stm/*' matches no parameter"),
      ({'before': {'hints': {'objective': {}, 'optimizer': {}, 'train': {'steps': 1}}}},
       'teachers.aide.before.hints.objective has no term with a weight'),
      ({'schedules': {'x': {'name': 'rmp'}}}, "teachers.aide.schedules.x.name='rmp'"),
      ({'carry': {'pace': {'name': 'Tiad'}}}, "teachers.aide.carry.pace.name='Tiad'"),
      ({'projector': {}}, "did you mean 'projectors'")])
  def test_a_mistake_in_it_is_one_line(self, change, line):
    node = self.node()
    node['teachers']['aide'] |= change
    with pytest.raises(Stop) as stop:
      build_setup(node)
    assert line in str(stop.value) and '\n' not in str(stop.value)


def step(stage, weights):
  """The state after a stage's first step."""
  ready = train.prepared(stage, {name: jax.eval_shape(lambda w: w, w)
                                 for name, w in weights.items()})
  state, _ = ready.train_step(ready.init(*stage.start(weights), stage.seed), weights,
                              stage.layout.to_devices(stage.data[0]), jax.random.key(0))
  return jax.device_get(state.replace(step=0))


class TestDerive:
  """Weights in 16 bits, of a student and of a loaded teacher."""
  HALF = {'name': 'precision.Half'}

  @pytest.fixture(scope='class')
  @classmethod
  def whole(cls, tmp_path_factory):
    place = tmp_path_factory.mktemp('derived')
    node = config(derive={
        'student-bf16': {'of': 'student', 'change': cls.HALF},
        'student-f16': {'of': 'student', 'change': {**cls.HALF, 'dtype': 'float16'}}})
    node['evaluate'] |= {'cost': True, 'alone': False, 'faithfulness': False}
    return place, node, run(place, node)

  def test_has_a_row_and_a_size_of_its_own(self, whole):
    models = {model['name']: model for model in whole[2]['models']}
    assert [m['role'] for m in whole[2]['models']] == [
        'teacher', 'student', 'baseline', 'derived', 'derived']
    for name in 'student-bf16', 'student-f16':
      assert models[name]['retention']['of'] == 'big' and models[name]['gain'] is None
      assert models[name]['params'] == models['student']['params']
      # Headers and names are no smaller.
      assert models[name]['shipped_bytes'] < models['student']['shipped_bytes']
      assert models[name]['latency_ms']['p50'] > 0
      assert 'made of student without training: weights stored in' in models[name]['note']
      assert name not in whole[2]['training']
    page = (whole[0] / 'report.html').read_text()
    assert 'student-bf16' in page and 'weights stored in bfloat16' in page

  @pytest.mark.parametrize('name, kind, bits', [
      ('student-bf16', 'BF16', 8), ('student-f16', 'F16', 11)])
  def test_ships_the_student_s_weights_to_the_nearest(self, whole, name, kind, bits):
    arrays = {}
    for folder in 'student', name:
      with safetensors.safe_open(whole[0] / f'export/{folder}/model.safetensors', 'flax') as file:
        arrays[folder] = {key: file.get_tensor(key) for key in file.keys()}
        kinds = {file.get_slice(key).get_dtype() for key in file.keys()}
      assert kinds == {'F32' if folder == 'student' else kind}
    for path, array in arrays['student'].items():
      # Half a unit in the last place of a number with `bits` of precision, subnormals beside.
      np.testing.assert_allclose(np.asarray(arrays[name][path], np.float32), array,
                                 rtol=2.0**-bits, atol=2.0**-25)

  def test_answers_as_it_was_measured(self, whole, tmp_path):
    with np.load(whole[0] / 'records/student-bf16.npz') as records:
      order = np.argsort(records['id'])
      measured = {name: records[name][order] for name in records}
    split = build_setup(whole[1]).dataset.splits['test']
    ids = np.arange(len(split))
    np.save(tmp_path / 'one.npy', split.fetch(ids[:1])['image'][0])
    found, = predict.answers(str(whole[0] / 'export/student-bf16'), [str(tmp_path / 'one.npy')])
    np.testing.assert_allclose([*found['probabilities'].values()], measured['probabilities'][0],
                               rtol=0, atol=5.1e-5)       # four digits are printed

  @pytest.mark.slow
  def test_again_it_is_there(self, whole):
    (whole[0] / 'report.json').unlink()
    files = {path: path.stat().st_mtime_ns for path in (whole[0] / 'export').rglob('*')}
    report = run(whole[0], whole[1])
    assert files == {path: path.stat().st_mtime_ns for path in (whole[0] / 'export').rglob('*')}
    quality = lambda found: json.dumps([m['quality'] for m in found['models']])
    assert quality(report) == quality(whole[2])

  @pytest.mark.slow
  def test_of_a_loaded_teacher(self, whole, tmp_path):
    folder = str(whole[0] / 'export/big')
    node = config(derive={'half': {'of': 'big', 'change': self.HALF}})
    node['teachers'] = {'big': {'init': folder}}
    report = run(tmp_path, node)
    half = report['models'][-1]
    assert (half['name'], half['role'], half['retention']) == (
        'half', 'derived', half['retention']) and half['retention']['of'] == 'big'

  @pytest.mark.parametrize('name, node, line', [
      ('half', {'of': 'studnt'}, "derive.half.of='studnt' names no model of the run; did you mean "
       "'student'"),
      ('half', {'change': {'name': 'precision.Hlf'}}, "derive.half.change.name='precision.Hlf'"),
      ('half', {'change': {'name': 'precision.Half', 'dtype': 'int8'}},
       "derive.half.change: dtype='int8' is not one of"),
      ('baseline', {}, "derive.baseline: 'baseline' is taken"),
      ('big', {}, "derive.big: 'big' is taken")])
  def test_of_what_is_not_there_is_one_line(self, name, node, line):
    with pytest.raises(Stop) as stop:
      build_setup(config(derive={name: {'of': 'student', 'change': self.HALF, **node}}))
    assert line in str(stop.value) and stop.value.status == Status.CONFIG

  @pytest.mark.slow
  def test_is_held_against_the_teacher_that_it_is_made_of(self, tmp_path):
    node = config(derive={'half': {'of': 'second', 'change': self.HALF}})
    node['teachers']['second'] = {**node['teachers']['big'], 'seed': 1}
    report = run(tmp_path, node)
    assert report['models'][-1]['retention']['of'] == 'second'

  @pytest.mark.parametrize('name', ['a/b', '', '.half', 'student-validation'])
  def test_has_a_name_that_a_folder_can_have(self, name):
    node = config(derive={name: {'of': 'student', 'change': self.HALF}})
    node['evaluate'] |= {'also': ('validation',)}
    node['data'] |= {'validation': 0.1}
    with pytest.raises(Stop, match='is no name for a folder, or is that of a model'):
      build_setup(node)


def test_no_two_stages_have_one_name():
  node = config()
  big = node['teachers']['big']
  node['teachers'] = {'big-x': big, 'big': {**big, 'before': {'x': {
      'optimizer': node['optimizer'], 'train': node['train'],
      'objective': big['train']['objective']}}}}
  with pytest.raises(Stop, match="two stages would be called 'big-x'"):
    build_setup(node)


@pytest.mark.parametrize('change, line', [
    ({'carry': {'average': 5}}, 'carry.average has no name'),
    ({'carry': {}}, "teachers.mean.source='carry:average': there is no carry.average"),
    ({'carry': {'average': {'name': 'tests.pipelines.test_jobs:Old'}}}, 'holds no average'),
    ({'reads': {'image': 'nofield'}}, "teachers.mean.reads.image='nofield'"),
    ({'before': {'x': {}}}, 'before is for one that is trained here')])
def test_a_moving_average_that_cannot_be_is_one_line(change, line):
  node = config(carry={'average': {'name': 'Average'}})
  node['teachers']['mean'] = {'source': 'carry:average'}
  node['objective']['mean'] = soft('mean')
  if 'carry' in change:
    node['carry'] = change['carry']
  else:
    node['teachers']['mean'] |= change
  with pytest.raises(Stop) as stop:
    build_setup(node)
  assert line in str(stop.value) and '\n' not in str(stop.value)


class Old:
  """A carry of before it saw parameters."""
  reads = 'big/logits'

  def init(self, key, shapes):
    return 0.0

  def update(self, value, views, step):
    return value


def test_a_carry_of_the_old_contract_is_one_line():
  node = config(carry={'old': {'name': f'{__name__}:Old'}})
  node['objective']['kd'] |= {'scale': 'carry/old'}
  with pytest.raises(Stop, match=r'carry\.old: init is called with \(key, shapes, params\)'):
    build_setup(node)


def test_the_decay_of_an_average_that_a_teacher_is_made_of_is_a_difference():
  node = config(carry={'average': {'name': 'Average', 'decay': 0.9}})
  node['teachers']['mean'] = {'source': 'carry:average'}
  node['objective']['mean'] = soft('mean')
  other = {**node, 'carry': {'average': {'name': 'Average', 'decay': 0.5}}}
  assert config_sha256(node) != config_sha256(other)
  names = [{name: job.identity for name, job in jobs(each).items()} for each in (node, other)]
  assert names[0]['student'] != names[1]['student'] and names[0]['big'] == names[1]['big']
