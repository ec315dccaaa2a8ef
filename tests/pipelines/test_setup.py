"""What a config describes: which stages are equal, and what else is judged."""
import numpy as np
import pytest

from distill import flags, runs, train
from distill.models import precision
from distill.pipelines import forecast, jobs
from distill.pipelines.identities import config_sha256
from distill.pipelines.setup import build_setup
from distill.types import Status, Stop


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch, request):
  monkeypatch.chdir(request.config.rootpath)


def build(*overrides):
  fields = [f'--config.{override}' for override in overrides]
  return build_setup(flags.parsed(['--config=configs/glue.py:test', *fields]).config.to_dict())


def stages(*overrides):
  return {t.stage.name: t for t in build(*overrides).trained}


SEED_1 = ('seed=1', 'data.seed=1')


def test_a_shared_teacher_is_one_stage_for_all_seeds():
  first, other = stages(), stages(*SEED_1)
  assert first['teacher'].identity == other['teacher'].identity
  assert first['student'].identity != other['student'].identity
  assert first['baseline'].identity != other['baseline'].identity
  ids = [[s['teacher'].stage.data[i]['id'].tolist() for i in range(3)] for s in (first, other)]
  assert ids[0] == ids[1] and first['teacher'].stage.seed == other['teacher'].stage.seed
  ids = [[s['student'].stage.data[i]['id'].tolist() for i in range(3)] for s in (first, other)]
  assert ids[0] != ids[1]
  start = [s['teacher'].stage.start({})[0] for s in (first, other)]
  assert all(np.array_equal(start[0][path], start[1][path]) for path in start[0])


def test_a_teacher_of_its_own_differs_from_seed_to_seed():
  option = 'teachers.teacher.shared=False'
  first, other = stages(option), stages(option, *SEED_1)
  assert first['teacher'].identity != other['teacher'].identity
  assert first['teacher'].stage.seed != other['teacher'].stage.seed


def sized(size, **train):
  """The stages of a run on digits in batches of `size`, with more in the teacher's `train`."""
  node = flags.parsed(['--config=configs/digits.py:kd', f'--config.data.batch_size={size}'])
  node = node.config.to_dict()
  node['teachers']['teacher']['train'] |= train
  return {t.stage.name: t for t in build_setup(node).trained}


def test_a_teacher_may_have_batches_of_its_own_size():
  found = [sized(size, batch_size=8) for size in (16, 24)]
  assert sized(16)['teacher'].identity != sized(24)['teacher'].identity
  assert found[0]['teacher'].identity == found[1]['teacher'].identity
  seen = [{name: len(t.stage.data[0]['id']) for name, t in stages.items()} for stages in found]
  assert seen == [{'teacher': 8, 'student': size, 'baseline': size} for size in (16, 24)]


def test_where_a_run_lives_is_no_part_of_what_it_is():
  here, elsewhere = stages(), stages('mesh.fsdp=True')
  assert {name: t.identity for name, t in here.items()} == {
      name: t.identity for name, t in elsewhere.items()}
  config = flags.parsed(['--config=configs/glue.py:test']).config.to_dict()
  assert config_sha256(config) == config_sha256({**config, 'mesh': {'model': 2, 'fsdp': True}})
  assert config_sha256(config) != config_sha256({**config, 'seed': 1})


def digits(method='kd', change=lambda node: None):
  """The identities of a run on digits, by stage."""
  node = flags.parsed([f'--config=configs/digits.py:{method}']).config.to_dict()
  change(node)
  return {t.stage.name: t.identity for t in build_setup(node).trained}


def test_what_makes_no_difference_is_no_other_stage():
  def spelled(node):
    node['teachers']['teacher']['train'] |= {'accumulate': 1, 'labelled': 1.0}
    node['optimizer'] = {**node['optimizer'], 'drop': 0.1}
    node['student'] = {**node['student'], 'init': ''}
    node['carry']['pace'] = dict(name='Taid', teacher='teacher/logits', steps=600)
    node['objective']['taid'] = dict(loss='divergences.taid', weight=0.0, reads=dict(
        student='projected/wide', teacher='teacher/logits', t='carry/pace/t'))
    node['student']['projectors']['wide'] = dict(
        module=dict(name='projectors.Linear', outputs=10), reads='student/pooled')
  assert digits(change=spelled) == digits()


@pytest.mark.parametrize(('change', 'stages'), [
    (lambda node: node['objective']['kd'].update(weight=0.5), {'student'}),
    (lambda node: node['objective'].update(match={**node['objective']['kd'], 'kwargs': {}}),
     {'student'}),
    (lambda node: node['objective']['hard'].update(weight=0.5), {'student'}),
    (lambda node: node['student'].update(frozen=('stem/*',)), {'student', 'baseline'}),
    (lambda node: node['train'].update(steps=7), {'student', 'baseline'}),
    (lambda node: node['teachers']['teacher']['train'].update(steps=7), {'teacher', 'student'}),
    (lambda node: node.update(seed=1), {'teacher', 'student', 'baseline'})])
def test_what_makes_a_difference_is_one_to_the_stages_that_it_reaches(change, stages):
  before, after = digits(), digits(change=change)
  assert {name for name in before if before[name] != after[name]} == stages


def test_methods_share_their_teacher_and_their_baseline():
  found = [digits(method) for method in ('kd', 'ctkd', 'crd')]
  for stage, number in (('teacher', 1), ('baseline', 1), ('student', 3)):
    assert len({each[stage] for each in found}) == number, stage


def test_every_judged_split_has_its_batches():
  rows = build().rows
  assert list(rows) == ['test', 'train']
  ids = np.concatenate([rows['train'][i]['id'] for i in range(len(rows['train']))])
  assert sorted(ids[ids >= 0].tolist()) == list(range(int(ids.max()) + 1))


def scheduled(**schedule):
  """The stages of a run on digits whose terms and constants move so."""
  node = flags.parsed(['--config=configs/digits.py:ctkd']).config.to_dict()
  node['objective']['ctkd']['schedule'] = node['schedules']['reversal'] = schedule
  node['teachers']['teacher']['train']['objective']['hard']['schedule'] = schedule
  return {t.stage.name: t.stage for t in build_setup(node).trained}


def test_epochs_of_a_schedule_are_those_of_its_stage():
  # 1,327 images: in batches of 64 the teacher's epoch is 21 steps; half of each of the student's is
  # drawn from the labelled ones, so its is 42.
  found = scheduled(name='ramp', epochs=2)
  assert [found['teacher'].terms[0].weight(step) for step in (0, 21, 42)] == [0, 0.5, 1]
  weight = next(term for term in found['student'].terms if term.name == 'ctkd').weight
  assert [weight(step) for step in (0, 42, 84)] == [0, 0.5, 1]
  assert found['student'].schedules['reversal'](42) == 0.5
  part = scheduled(name='ramp', epochs=0.4)['student'].schedules['reversal']
  assert part(16) < 1 and part(17) == 1                 # 16.8, rounded


@pytest.mark.parametrize(('schedule', 'line'), [
    (dict(epochs=0), 'schedule.epochs=0 must be a number above 0'),
    (dict(epochs=True), 'schedule.epochs=True must be a number above 0'),
    (dict(epochs='2'), "schedule.epochs='2' must be a number above 0"),
    (dict(epochs=2, steps=3), 'schedule has both epochs=2 and steps=3')])
def test_epochs_that_cannot_be(schedule, line):
  with pytest.raises(Stop, match=f'teachers.teacher.train.objective.hard.{line}') as stop:
    scheduled(name='ramp', **schedule)
  assert stop.value.status == Status.CONFIG


def started(place, n, shared=None):
  return [runs.Run('run', place / str(seed), None, seed=seed, shared=shared) for seed in range(n)]


def test_an_equal_stage_is_taken_unless_the_run_has_trained_its_own(tmp_path):
  teacher, run = sized(16)['teacher'], *started(tmp_path, 1, tmp_path / 'shared')
  assert not jobs.is_in_stage_cache(teacher, run)
  jobs.stage_cache(teacher, run).mkdir(parents=True)
  assert jobs.is_in_stage_cache(teacher, run)
  for step, taken in (300, True), (600, False):       # begun, and done
    checkpoint = tmp_path / f'0/checkpoints/teacher/{step}'
    checkpoint.mkdir(parents=True)
    (checkpoint / 'MANIFEST.json').touch()
    assert jobs.is_in_stage_cache(teacher, run) == taken


class Lines:
  """A log that keeps its lines."""

  def __init__(self):
    self.lines = []

  def say(self, line):
    self.lines.append(line)


@pytest.mark.parametrize('mixed, lacks', [
    ('train', True),
    *(pytest.param(*case, marks=pytest.mark.slow)
      for case in (('teachers.teacher', True), ('', True), ('train', False)))])
def test_the_plan_says_where_mixed_precision_is_slower(tmp_path, monkeypatch, mixed, lacks):
  monkeypatch.setattr(precision, 'lacks_instructions', lambda: lacks)
  node = flags.parsed(['--config=configs/glue.py:test']).config.to_dict()
  place = {'train': node['train'], 'teachers.teacher': node['teachers']['teacher'], '': {}}[mixed]
  place['dtype'] = 'mixed'
  run = runs.Run('run', tmp_path, Lines())
  forecast.prepare_stages(build_setup(node), run)
  slower = [line for line in run.log.lines if "dtype='mixed' will be slower" in line]
  assert len(slower) == (1 if mixed and lacks else 0)


def starting(**student):
  """The stages of a run on masked words whose student starts so."""
  node = flags.parsed(['--config=configs/distilbert.py:test']).config.to_dict()
  node['student'] |= student
  return {t.stage.name: t.stage for t in build_setup(node).trained}


def test_layers_are_a_short_form_of_a_path_map():
  found = []
  for how in dict(layers=(1,)), dict(layers=(), take={'blocks/0': 'blocks/1'}):
    stages = starting(**how)
    weights = {'teacher': stages['teacher'].student.model.init(5)}
    found.append(stages['student'].start(weights)[0])
  assert found[0].keys() == found[1].keys()
  assert all((value == found[1][path]).all() for path, value in found[0].items())


@pytest.mark.parametrize(('student', 'status', 'line'), [
    (dict(layers=(), take={'blocks/{0,1}': 'blocks/{0,1}'}), Status.CONFIG,
     'student.take: blocks/1 matches no parameter that is to be started; they are named blocks/0/'),
    (dict(layers=(), take={'blocks/0': 'blocks/5'}), Status.MISFIT,
     'student: the source has no blocks/5/'),
    (dict(take={'blocks/0': 'blocks/1'}), Status.CONFIG, 'student has both layers and take'),
    (dict(init='', layers=(), take={'head': 'head'}), Status.CONFIG,
     'student.take without student.init'),
    (dict(take=('blocks/0', 'blocks/1')), Status.CONFIG, 'student.take')])
def test_a_path_map_that_cannot_be_is_one_line_before_anything_is_compiled(student, status, line):
  with pytest.raises(Stop, match=f'^{line}') as stop:
    starting(**student)
  assert stop.value.status == status


@pytest.mark.parametrize(('fields', 'line'), [
    (dict(remat='all'), "remat='all' is not one of nothing, dots, everything"),
    (dict(dtype='float8'), "dtype='float8' is not one of float32, bfloat16, float16, mixed")])
def test_a_way_to_compute_that_is_none(fields, line):
  with pytest.raises(Stop, match=line) as stop:
    train.prepared(sized(16, **fields)['teacher'].stage, {})
  assert stop.value.status == Status.CONFIG


def test_only_a_stage_in_float16_has_a_loss_scale():
  wide, half = (train.prepared(sized(16, dtype=dtype)['teacher'].stage, {}).like
                for dtype in ('float32', 'float16'))
  assert wide.loss_scale is None and half.loss_scale.factor.dtype == 'float32'
  assert {str(x.dtype) for x in half.params.values()} == {'float32'}
