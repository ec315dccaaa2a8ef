"""Teachers that learn from teachers: their order, what makes them equal, a step, a whole run."""
import contextlib
import copy
import json
import shutil

import jax
import numpy as np
import pytest
import safetensors.numpy

from distill import flags, runs, train
from distill.logs import Log
from distill.pipelines import compare
from distill.pipelines.setup import build_setup
from distill.types import Status, Stop


@pytest.fixture(autouse=True, scope='module')
def at_the_root(request):
  with contextlib.chdir(request.config.rootpath):
    yield


def config(file='chains.py:test', *more):
  return flags.parsed([f'--config=configs/{file}', *more]).config.to_dict()


def soft(teacher, **more):
  return {'loss': 'logits.kl', **more,
          'reads': {'student': 'student/logits', 'teacher': f'{teacher}/logits'}}


def chain(student='a', **teachers):
  """A config of small models: the teachers with whom each reads, and whom the student reads."""
  node = config()
  plain = node['teachers']['teacher']
  plain['model'] = node['student']['model'] = {**plain['model'], 'widths': (2, 2, 4, 8)}
  hard = plain['train']['objective']['hard']
  learning = lambda read: copy.deepcopy({**plain, 'train': {**plain['train'], 'objective': {
      'hard': hard, **{f'kd_{other}': soft(other) for other in read}}}})
  node['teachers'] = {name: learning(read) for name, read in teachers.items()}
  node['before'] = {}
  node['objective'] = {'hard': {**hard, 'mask': 'batch/labelled'}, 'kd': soft(student)}
  return node


def stages(node):
  return {trained.stage.name: trained for trained in build_setup(node).trained}


class TestTheOrder:

  def test_is_by_who_reads_whom_whatever_the_names(self):
    found = stages(chain(a=('b', 'd'), b=('c',), c=(), d=()))
    assert list(found) == ['c', 'b', 'd', 'a', 'student', 'baseline']
    assert [t.role for t in found.values()] == [
        'teacher', 'assistant', 'teacher', 'assistant', 'student', 'baseline']
    assert {name: t.teachers for name, t in found.items()} == {
        'a': ('b', 'd'), 'b': ('c',), 'c': (), 'd': (), 'student': ('a',), 'baseline': ()}

  def test_whoever_reads_itself_alone_is_a_plain_teacher(self):
    node = chain(a=())
    node['teachers']['a']['train']['objective']['kd'] = soft('self')
    assert [t.role for t in stages(node).values()] == ['teacher', 'student', 'baseline']

  @pytest.mark.parametrize(('teachers', 'circle'), [
      (dict(a=('a',)), 'a reads a:'), (dict(a=('b',), b=('a',)), 'a reads b reads a:'),
      (dict(a=('b',), b=('c', 'd'), c=(), d=('e',), e=('b',)), 'b reads d reads e reads b:')])
  def test_of_a_circle_is_refused_with_its_names(self, teachers, circle):
    with pytest.raises(Stop, match=f'teachers.{circle[0]}: {circle}') as stop:
      build_setup(chain(**teachers))
    assert stop.value.status == Status.CONFIG and '\n' not in str(stop.value)


class TestWhomAStageReads:
  """Only those are run in its steps, and have to be there."""

  def test_is_its_terms_alone(self):
    student = stages(chain('a', a=('b',), b=(), c=()))['student'].stage
    assert [teacher.name for teacher in student.teachers] == ['a']
    shapes = {'a': student.teachers[0].model.shapes}
    assert train.prepared(student, shapes).flops() > 0        # b and c would be missed

  def test_is_of_each_stage_its_own(self):
    student = stages(config())['student']
    assert [[t.name for t in stage.teachers] for stage in student.stages] == [
        ['teacher'], ['assistant', 'teacher']]
    assert student.teachers == ('teacher', 'assistant')

  def test_is_none_whose_term_has_no_weight(self):
    node = chain('a', a=(), b=())
    node['objective']['other'] = soft('b', weight=0.0)
    assert stages(node)['student'].teachers == ('a',)

  @pytest.mark.parametrize(('method', 'read'), [
      ('kd', ('teacher',)), ('ensemble', ('teacher', 'teacher2')), ('crd', ('teacher',)),
      ('mutual', ())])
  def test_is_also_what_its_projectors_read(self, method, read):
    assert stages(config(f'digits.py:{method}'))['student'].teachers == read

  def test_is_also_what_its_carries_read(self):
    node = chain('a', a=(), b=(), c=())
    node['carry'] = {name: {'name': 'Mean', 'reads': f'{name}/logits'} for name in ('b', 'c')}
    node['objective']['kd']['scale'] = 'carry/b'
    assert stages(node)['student'].teachers == ('a', 'b')

  def test_need_not_be_whom_a_student_starts_from(self):
    node = chain('a', a=('b',), b=())
    node['student']['init'] = 'b'
    setup = build_setup(node)
    *_, student, baseline = setup.trained
    assert student.teachers == ('a',)
    model = student.stage.student.model
    theirs = model.init(7)
    for stage in student.stage, baseline.stage:
      for part, theirs_part in zip(stage.start({'b': theirs}), theirs, strict=True):
        for path, value in theirs_part.items():
          np.testing.assert_array_equal(part[f'model/{path}'], value)


class TestWhatMakesAnAssistantEqual:

  def identities(self, change=lambda node: None, **how):
    node = chain(**(how or dict(a=('b',), b=('c',), c=())))
    change(node)
    return {name: trained.identity for name, trained in stages(node).items()}

  def differing(self, change):
    before, after = self.identities(), self.identities(change)
    return {name for name in before if before[name] != after[name]}

  def test_is_all_above_it_and_nothing_below(self):
    rate = lambda name: lambda node: node['teachers'][name]['train']['optimizer'].update(rate=1.0)
    assert self.differing(rate('c')) == {'a', 'b', 'c', 'student'}
    assert self.differing(rate('b')) == {'a', 'b', 'student'}
    assert self.differing(rate('a')) == {'a', 'student'}

  def test_is_not_the_student(self):
    def narrower(node):
      node['student']['model'] = {**node['student']['model'], 'widths': (2, 2, 2, 4)}
      node['objective']['kd']['weight'] = 0.5
    assert self.differing(narrower) == {'student', 'baseline'}

  def test_is_how_its_teacher_is_run(self):
    assert self.differing(lambda node: node['teachers']['c'].update(dtype='bfloat16')) == {
        'a', 'b', 'c', 'student'}

  def test_is_whom_it_reads(self):
    other = self.identities(a=('c',), b=('c',), c=())
    assert [name for name, identity in self.identities().items()
            if identity != other[name]] == ['a', 'student']

  def test_of_a_shared_one_is_no_seed_and_its_teachers_are_shared_too(self):
    shared = lambda *names: lambda node: [node['teachers'][name].update(shared=True)
                                          for name in names]
    def seeded(node):
      shared('a', 'b', 'c')(node)
      node['seed'] = node['data']['seed'] = 1
    first, other = self.identities(shared('a', 'b', 'c')), self.identities(seeded)
    assert [name for name in first if first[name] == other[name]] == ['c', 'b', 'a']
    with pytest.raises(Stop, match=r'teachers\.a\.shared: it reads b, of which every seed has'):
      self.identities(shared('a', 'c'))


def first_step(trained, weights):
  """The state after the first step from given weights of its teachers, and what it logs."""
  stage = trained.stage
  ready = train.prepared(stage, {name: jax.eval_shape(lambda w: w, w)
                                 for name, w in weights.items()})
  state, sums = ready.train_step(ready.init(*stage.start(weights), stage.seed), weights,
                                 stage.layout.to_devices(stage.data[0]), jax.random.key(stage.seed))
  return jax.device_get((state.params, state.rest, sums))


@pytest.mark.slow
def test_an_assistant_s_step_is_the_student_s_with_the_same_terms():
  node = chain('b', a=('b',), b=())
  labels = {name: node['data'][name] for name in ('labelled', 'drawn')}
  assistant = node['teachers']['a']
  assistant['train'] |= {**labels, 'objective': node['objective']}
  for optimizer in node['optimizer'], assistant['train']['optimizer']:
    optimizer['warmup'] = 0.0                     # or the first step's rate were 0
  setup = build_setup(node)
  found = {trained.stage.name: trained for trained in setup.trained}
  weights = {'b': found['b'].stage.student.model.init(3)}
  ours, theirs = (first_step(found[name], weights) for name in ('a', 'student'))
  jax.tree.map(np.testing.assert_array_equal, ours, theirs)
  start, _ = found['a'].stage.start(weights)
  assert any((ours[0][path] != start[path]).any() for path in start)


@pytest.mark.parametrize(('change', 'status', 'line'), [
    ({'objective': {'kd': soft('techer')}}, Status.MISFIT,
     "teachers.a.train.objective.kd: 'techer/logits' names no view; did you mean 'teacher'"),
    ({'objective': {'kd': {**soft('teacher'), 'scale': 'teachr/logits'}}}, Status.MISFIT,
     "teachers.a.train.objective.kd: 'teachr/logits' names no view; did you mean 'teacher'"),
    ({'objective': {'kd': {**soft('teacher'), 'reads': {
        'student': 'student/logits', 'teacher': 'teacher/logist'}}}}, Status.MISFIT,
     "teachers.a.train.objective.kd.reads.teacher: 'teacher/logist' names no output of teacher"),
    ({'objective': {'kd': {**soft('teacher'), 'reads': {
        'student': 'projected/high', 'teacher': 'teacher/logits'}}}}, Status.MISFIT,
     "teachers.a.train.objective.kd.reads.student: 'projected/high' names no output of projected, "
     'which has none'),
    ({'projectors': {}}, Status.CONFIG,
     'teachers.a.train.projectors: TrainConfig has no such field'),
    ({'labelled': 0.1}, Status.CONFIG, 'teachers.a.train.objective.hard reads batch/label')])
def test_a_mistake_in_an_assistant_is_one_line(tmp_path, change, status, line):
  node = chain('a', a=('teacher',), teacher=())
  objective = node['teachers']['a']['train']['objective']
  node['teachers']['a']['train'] |= change | {'objective': {
      **objective, **change.get('objective', {})}}
  with pytest.raises(Stop) as stop:
    run(tmp_path / 'run', node)
  assert stop.value.status == status and line in str(stop.value) and '\n' not in str(stop.value)
  assert not (tmp_path / 'run/checkpoints').exists()


def test_a_student_s_wrong_teacher_is_named_even_where_it_reads_no_other():
  with pytest.raises(Stop, match=r"objective\.kd: 'assistent/logits' names no view; did you mean "
                                 "'assistant'"):
    build_setup(chain('assistent', assistant=('teacher',), teacher=()))


def test_an_assistant_s_terms_on_teachers_alone_need_no_labels():
  node = chain('a', a=(), b=())
  node['teachers']['a']['train'] |= {'labelled': 0.0, 'objective': {'kd': soft('b')}}
  assert stages(node)['a'].seen['labels'] == 0


def test_a_field_of_the_config_is_one_node_s_alone():
  fields = ('optimizer.rate', 'teachers.assistant.train.optimizer.rate', 'before.hints.train.steps',
            'teachers.teacher.train.steps', 'objective.kd_teacher.kwargs.temperature')
  before = flags.flat(config())
  for field in fields:
    changed = flags.flat(config('chains.py:test', f'--config.{field}=77'))
    assert {path for path in before if before[path] != changed[path]} == {field}


# ---- a whole run

def run(workdir, node):
  workdir.mkdir(exist_ok=True)
  with contextlib.closing(Log(workdir)) as log:
    return compare.run(node, runs.Run('chains', workdir, log, seed=node['seed']))


WHOLE = dict(a=('b',), b=(), c=())


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
  """The workdir and the report of a run: the student reads a, which reads b; none reads c."""
  workdir = tmp_path_factory.mktemp('chains') / 'run'
  return workdir, run(workdir, chain('a', **WHOLE))


def test_the_report_has_all_of_the_chain_and_retention_is_of_its_root(whole):
  models = {model['name']: model for model in whole[1]['models']}
  assert [(name, model['role'], model['teachers']) for name, model in models.items()] == [
      ('b', 'teacher', []), ('a', 'assistant', ['b']), ('c', 'teacher', []),
      ('student', 'student', ['a']), ('baseline', 'baseline', [])]
  assert {name: model['retention']['of'] for name, model in models.items()
          if model['retention']} == dict.fromkeys(('a', 'student', 'baseline'), 'b')
  assert [name for name, model in models.items() if model['gain']] == ['student']
  assert list(whole[1]['training']) == ['b', 'a', 'c', 'student', 'baseline']
  page = (whole[0] / 'report.html').read_text()
  assert '1,327 images, all labelled, and the b<' in page
  assert '1,327 images, 112 labelled, and the a<' in page
  assert (whole[0] / 'export/a/model.safetensors').exists()


def test_a_stage_holds_the_weights_of_those_alone_whom_it_reads(whole):
  held = {}
  for path in whole[0].glob('checkpoints/*/6/MANIFEST.json'):
    held[path.parts[-3]] = list(json.loads(path.read_text())['facts']['teachers'])
  assert held == {'a': ['b'], 'b': [], 'c': [], 'student': ['a'], 'baseline': []}


def result(workdir):
  """What must not depend on interruptions: weights, records, and the log without times."""
  found = {str(path.relative_to(workdir)): safetensors.numpy.load_file(path)
           for path in workdir.glob('export/*/model.safetensors')}
  for path in (workdir / 'records').glob('*.npz'):
    with np.load(path) as records:
      found[path.name] = dict(records)
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return found, [{k: v for k, v in row.items() if k != 'time'} for row in rows]


@pytest.mark.slow
def test_stopped_in_the_assistant_it_resumes_bitwise(whole, tmp_path, monkeypatch):
  workdir, node = tmp_path / 'run', chain('a', **WHOLE)
  fit, fits = train.fit, []

  def stopped(stage, ready, *how):
    """Ends the first call for the assistant after its checkpoint of step 3."""
    fits.append(stage.name)
    first_call = ready.train_step
    def step(state, *arguments):
      if fits == ['b', 'a'] and int(state.step) == 4:
        raise KeyboardInterrupt
      return first_call(state, *arguments)
    return fit(stage, ready.__class__(**(vars(ready) | {'train_step': step})), *how)

  monkeypatch.setattr(train, 'fit', stopped)
  with pytest.raises(KeyboardInterrupt):
    run(workdir, node)
  run(workdir, node)
  assert fits == ['b', 'a', 'b', 'a', 'c', 'student', 'baseline']
  jax.tree.map(np.testing.assert_array_equal, result(workdir), result(whole[0]))


@pytest.mark.slow
def test_an_assistant_goes_on_with_the_teacher_alone_that_it_began_with(whole, tmp_path):
  workdir, node = tmp_path / 'run', chain('a', **WHOLE)
  shutil.copytree(whole[0], workdir)
  (workdir / 'report.json').unlink()
  shutil.rmtree(workdir / 'checkpoints/b')
  node['teachers']['b']['train']['optimizer']['rate'] = 1e-2
  with pytest.raises(Stop, match="a: the teacher 'b' is not the one") as stop:
    run(workdir, node)
  assert stop.value.status == Status.MISFIT


@pytest.mark.slow
def test_the_config_s_test_trains_every_term(tmp_path):
  report = run(tmp_path / 'run', config())
  found = {}
  for line in (tmp_path / 'run/metrics.jsonl').read_text().splitlines():
    row = json.loads(line)
    found.setdefault(row['stage'], set()).update(row.keys() & {
        'hard', 'hint', 'kd_teacher', 'kd_assistant'})
  assert found == {
      'teacher': {'hard'}, 'assistant': {'hard', 'kd_teacher'}, 'student-hints': {'hint'},
      'student': {'hard', 'kd_teacher', 'kd_assistant'}, 'baseline': {'hard'}}
  labels = {model['name']: model['saw']['labels'] for model in report['models']}
  assert labels == {'teacher': 1327, 'assistant': 112, 'student': 112, 'baseline': 112}
