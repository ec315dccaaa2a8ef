"""Runs by the seams: adversarial views, a teacher that reads another view, a moving average."""
import contextlib
import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill import checkpoint, evaluate, export, formats, report, runs, sharding, train
from distill.data.sets import InMemory
from distill.logs import Log
from distill.pipelines import compare, locate
from distill.pipelines import evaluate as evaluation
from distill.pipelines.setup import build_setup
from distill.types import Field, Status, Stop
from tests.test_defects import Pixels


def TwoViews():
  """Images that say nothing of their class, and a second view, `view2/image`, that says all."""
  pixels = Pixels()

  def both(split):
    label = split.index['label']
    noise = np.random.default_rng(len(label)).integers(60, size=(len(label), 4, 4, 1))
    second = InMemory({'view2/image': (noise + 150 * label[:, None, None, None]).astype(np.uint8)})
    fields = {'view2/image': Field((4, 4, 1), 'uint8'), 'view3/image': Field((2, 2, 1), 'uint8')}
    third = lambda rows: {'view3/image': np.zeros((len(rows), 2, 2, 1), np.uint8)}
    return dataclasses.replace(split, fields={**split.fields, **fields}, fetch=lambda rows: {
        **split.fetch(rows), **second(rows), **third(rows)})
  return dataclasses.replace(
      pixels, splits={name: both(split) for name, split in pixels.splits.items()})


class Net(nnx.Module):
  """A smooth classifier of images: its gradients are nowhere 0 but for rounding."""

  def __init__(self, *, classes: int, width: int = 6, rngs: nnx.Rngs):
    self.body = nnx.Linear(16, width, rngs=rngs)
    self.head = nnx.Linear(width, classes, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': self.head(jnp.tanh(self.body(batch['image'].reshape(-1, 16))))}


def term(teacher, loss='logits.kl'):
  return {'loss': loss, 'reads': {'student': 'student/logits', 'teacher': f'{teacher}/logits'}}


HARD = {'loss': 'supervised.cross_entropy', 'reads': {
    'student': 'student/logits', 'label': 'batch/label'}}
READS, OTHER = {'image': 'view2/image'}, {'image': 'image'}
PGD = {'name': 'adversarial.pgd', 'epsilon': 0.2, 'rate': 0.1, 'steps': 3}
EMA = {'teachers': {'ema': {'source': 'carry:ema'}}, 'carry': {
    'ema': {'name': 'Average', 'decay': 0.8}}}


def config(*, teacher=None, teachers=None, objective=None, **more):
  """A teacher `t`, with what `teacher` says of it beside, and a student that reads it."""
  plan, adam = {'steps': 6, 'log_every': 1, 'save_every': 3}, {'rate': 2e-2}
  model = {'name': f'{__name__}:Net'}
  t = {'model': model, 'train': {
      **plan, 'steps': 40, 'eval_every': 40, 'objective': {'hard': HARD}, 'optimizer': adam}}
  return {
      'seed': 0, 'data': {'name': f'{__name__}:TwoViews', 'batch_size': 16, 'seed': 0},
      'task': {'name': 'classification.Classification'},
      'teachers': {'t': {**t, **(teacher or {})}, **(teachers or {})},
      'student': {'model': model}, 'train': plan,
      # Plain descent: Adam divides a gradient by its size, and so makes much of rounding.
      'optimizer': {'name': 'sgd', 'rate': 0.5, 'schedule': 'constant', 'warmup': 0.0},
      'objective': {'hard': HARD, 'soft': term('t'), **(objective or {})},
      'evaluate': {'batch_size': 16, 'resamples': 5, 'cost': False}, **more}


CASES = {
    'pgd': config(augment=(PGD,)),
    'pgd of the teacher': config(augment=({**PGD, 'of': 't'},)),
    'reads': config(teacher={'reads': READS}),
    'average': config(objective={'same': term('ema', 'logits.mse')}, **EMA)}


ALL = [pytest.param(case, marks=[pytest.mark.slow] * (case == 'pgd of the teacher'))
       for case in CASES]


def stages(node, devices=1):
  """The stages by name."""
  setup = build_setup(node)
  layout = sharding.layout(devices=jax.devices()[:devices])
  return {t.stage.name: dataclasses.replace(t.stage, layout=layout) for t in setup.trained}


def untrained(stage):
  """Weights of the stage's teachers that nothing trained."""
  return {t.name: t.model.init(7) for t in stage.teachers if t.shapes[0]}


def ready(stage):
  return train.prepared(stage, {t.name: t.shapes for t in stage.teachers})


def fitted(stage, place):
  """The last state of a stage, and its rows."""
  with contextlib.closing(Log(place, quiet=True)) as log:
    run = runs.Run('run', place, log)
    train.fit(stage, ready(stage), untrained(stage), run)
  rows = [json.loads(line) for line in (place / 'metrics.jsonl').read_text().splitlines()]
  return checkpoint.restore(train.folder(stage, run), ready(stage).like)[1], rows


@pytest.mark.parametrize('case', ALL)
def test_one_device_is_eight(case, tmp_path):
  (single, ours), (eight, theirs) = (
      fitted(stages(CASES[case], n)['student'], tmp_path / str(n)) for n in (1, 8))
  for part in 'params', 'carry':
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
                 getattr(eight, part), getattr(single, part))
  np.testing.assert_allclose([row['loss'] for row in theirs], [row['loss'] for row in ours],
                             rtol=1e-4)
  assert single.first_bad == -1


@pytest.mark.parametrize('case', ALL)
def test_resumed_is_uninterrupted(case, tmp_path):
  stage = stages(CASES[case])['student']
  whole, _ = fitted(stage, tmp_path)
  shutil.rmtree(tmp_path / 'checkpoints/student/6')
  resumed, rows = fitted(stage, tmp_path)
  assert [row['step'] for row in rows] == [1, 2, 3, 4, 5, 6]
  assert all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(
      jax.tree.leaves(whole), jax.tree.leaves(resumed), strict=True))


class TestAdversarialViews:

  @pytest.mark.slow
  def test_they_make_the_loss_of_the_same_parameters_larger(self, tmp_path):
    (_, clean), (_, attacked) = (fitted(stages(node)['student'], tmp_path / str(i))
                                 for i, node in enumerate((config(), CASES['pgd'])))
    assert attacked[0]['loss'] > clean[0]['loss'] * 1.01
    assert attacked[0]['hard'] > clean[0]['hard']

  def texts(self, **more):
    """Texts whose embeddings each step moves."""
    model = {'name': 'bert.Bert', 'width': 8, 'depth': 1, 'heads': 2, 'dropout': 0.0, 'std': 0.3}
    node = config(augment=({'name': 'adversarial.fgsm', 'epsilon': 0.4},), **more)
    node['data']['name'] = 'tests.test_defects:Texts'
    node['student']['model'] = node['teachers']['t']['model'] = model
    return node

  @pytest.mark.slow
  def test_texts_are_moved_by_their_embeddings_which_are_trained_all_the_same(self, tmp_path):
    node, place = self.texts(), tmp_path / 'clean'
    state, attacked = fitted(stages(node)['student'], tmp_path)
    _, clean = fitted(stages({**node, 'augment': ()})['student'], place)
    assert attacked[0]['loss'] > clean[0]['loss'] * 1.01
    start = stages(self.texts())['student'].start({})[0]
    table = 'model/token/embedding'
    assert (np.asarray(state.params[table]) != np.asarray(start[table])).any()

  def test_a_head_that_shares_the_table_of_moved_embeddings_is_refused(self):
    node = self.texts(objective={'words': {
        'loss': 'logits.kl', 'reads': {'student': 'student/words', 'teacher': 't/words'}}})
    node['student']['model'] = node['teachers']['t']['model'] = {
        **node['student']['model'], 'words': True}
    with pytest.raises(Stop, match="words.reads.student: 'student/words' names no output"):
      ready(stages(node)['student'])

  def test_accumulated_they_are_the_same(self, tmp_path):
    node = CASES['pgd']
    (single, _), (four, _) = (fitted(stages({**node, 'train': {**node['train'], 'accumulate': n}})[
        'student'], tmp_path / str(n)) for n in (1, 4))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5),
                 four.params, single.params)

  def test_a_baseline_keeps_an_attack_of_its_own_and_has_none_of_a_teacher(self):
    assert len(stages(CASES['pgd'])['baseline'].augment) == 1
    attacked = stages(config(augment=({**PGD, 'of': 'student'},)))
    assert len(attacked['baseline'].augment) == 1
    taught = stages(CASES['pgd of the teacher'])
    assert len(taught['student'].augment) == 1 and not taught['baseline'].augment
    ready(taught['baseline'])

  def test_a_teacher_that_only_an_attack_reads_is_one_of_the_stage(self):
    node = config(augment=({**PGD, 'of': 't'},), objective={'soft': {**HARD, 'weight': 0.5}})
    assert [t.name for t in stages(node)['student'].teachers] == ['t']

  def test_an_attack_of_a_teacher_that_is_not_there_is_refused(self):
    with pytest.raises(Stop, match=r"config.augment\[0\]: 'big/logits' names no view") as stop:
      build_setup(config(augment=({**PGD, 'of': 'big'},)))
    assert stop.value.status == Status.MISFIT

  def test_an_augment_of_two_arguments_is_refused(self):
    line = (r"augment\[0\]='tests.test_seams:old': an augment is called with \(batch, key, ask\), "
            r'and this one takes \(batch, key\)')
    with pytest.raises(Stop, match=line) as stop:
      build_setup(config(augment=({'name': f'{__name__}:old'},)))
    assert stop.value.status == Status.CONFIG


def old():
  return lambda batch, key: batch


class Recorded:
  """A format that keeps what it was tried on."""
  suffix, trainable = '.recorded', True

  def holds(self, folder):
    return False

  def write(self, folder, shipped, trial, about):
    self.tried.extend(trial.batches)
    return {'largest_difference': 0.0}

  def open(self, *arguments, **changes): ...

  def sizes(self, *arguments): ...


class TestReads:
  """A teacher's `reads`, wherever the teacher is asked."""

  @pytest.fixture(scope='class')
  @classmethod
  def run(cls, tmp_path_factory):
    place = tmp_path_factory.mktemp('reads')
    with contextlib.closing(Log(place, quiet=True)) as log:
      compare.run(CASES['reads'], runs.Run('run', place, log))
    return place

  def test_the_teacher_is_trained_on_the_view_and_judged_by_it(self, run):
    quality = {m['name']: m['quality']['accuracy']['value'] for m in report.read(run)['models']}
    assert quality['t'] == 1 and quality['student'] < 0.9 and quality['baseline'] < 0.9
    rows = [json.loads(line) for line in (run / 'metrics.jsonl').read_text().splitlines()]
    assert [row['test/accuracy'] for row in rows if 'test/accuracy' in row] == [1.0]

  def test_it_is_asked_by_the_view_in_the_student_s_step(self):
    stage = stages(CASES['reads'])['student']
    teacher, = stage.teachers
    stored = stage.data[0]
    batch = stage.prepare(stored)
    found = teacher(untrained(stage)['t'], batch)['logits']
    view = stage.prepare({**stored, 'image': stored['view2/image']})
    wanted, plain = (teacher.model(*untrained(stage)['t'], b)[0]['logits'] for b in (view, batch))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert np.abs(found - plain).max() > 0.1

  @pytest.mark.slow
  def test_an_evaluation_of_the_run_judges_it_by_the_view(self, run, tmp_path):
    assert formats.card_of(run / 'export/t')['reads'] == READS
    assert 'reads' not in formats.card_of(run / 'export/student')
    (run / 'config.json').write_text(json.dumps(CASES['reads']))
    assert evaluate.command([f'--models={run}', f'--workdir={tmp_path / "both"}']) == 0
    quality = {m['name']: m['quality']['accuracy']['value']
               for m in report.read(tmp_path / 'both')['models']}
    assert quality == {m['name']: m['quality']['accuracy']['value']
                       for m in report.read(run)['models']}

  def test_loaded_it_keeps_to_the_view_unless_the_config_says_otherwise(self, run):
    init = {'init': str(run / 'export/t'), 'train': {}, 'model': {}}
    for reads, wanted in ({}, READS), ({'image': 'image'}, {'image': 'image'}):
      setup = build_setup(config(teacher={**init, 'reads': reads}))
      stage = next(t.stage for t in setup.trained if t.role == 'student')
      assert stage.teachers[0].reads == wanted and setup.jobs[0].reads == wanted

  def test_a_loaded_one_is_found_with_the_view_that_its_run_gave_it(self, run, tmp_path):
    workdir, other = tmp_path / 'run', tmp_path / 't'
    shutil.copytree(run, workdir)
    shutil.move(workdir / 'export/t', other)
    loaded = {**CASES['reads'], 'teachers': {'t': {'init': str(other), 'reads': OTHER}}}
    (workdir / 'config.json').write_text(json.dumps(loaded))
    node = locate.find_models([str(workdir)])['t'].node
    assert node.reads == OTHER and node.place == str(other)
    again = {'models': {'t': dataclasses.asdict(node)}}       # as an evaluation's config has it
    (workdir / 'config.json').write_text(json.dumps(again))
    assert locate.find_models([str(workdir)])['t'].node.reads == OTHER

  def test_reads_of_an_evaluation_come_before_those_of_a_card(self, run, tmp_path):
    nodes = {key: CASES['reads'][key] for key in ('seed', 'data', 'task', 'evaluate')}
    node = {'place': str(run / 'export/t'), 'content': '', 'role': 'teacher'}
    models = {'card': node, 'node': {**node, 'reads': OTHER}}
    with contextlib.closing(Log(tmp_path, quiet=True)) as log:
      found = evaluation.run({**nodes, 'pipeline': 'evaluate.run', 'models': models},
                             runs.Run('both', tmp_path, log))
    card, other = (m['quality']['accuracy']['value'] for m in found['models'])
    assert card == 1 and other < 0.9

  def test_its_export_is_tried_on_the_view(self, run, tmp_path, monkeypatch):
    (run / 'config.json').write_text(json.dumps(CASES['reads']))
    tried = []
    monkeypatch.setattr(Recorded, 'tried', tried, raising=False)
    export.ship(str(run / 'export/t'), tmp_path / 'there', format=f'{__name__}:Recorded')
    data = TwoViews()
    stored = data.splits['test'].fetch(np.concatenate([b['id'][b['valid'] > 0] for b in tried]))
    given = np.concatenate([batch['image'][batch['valid'] > 0] for batch in tried])
    wanted, other = (data.modality.prepare({'image': stored[field], 'valid': np.ones(16)})['image']
                     for field in ('view2/image', 'image'))
    np.testing.assert_allclose(given, wanted, rtol=1e-6)
    assert np.abs(given - other).max() > 0.5

  @pytest.mark.parametrize(('reads', 'line'), [
      ({'image': 'view4/image'}, "t.reads.image='view4/image': pixels has no such field in its "
       "split 'train', which has image, label, view2/image, view3/image"),
      ({'picture': 'view2/image'}, 't.reads.picture: a model of images reads image'),
      ({'image': 'view3/image'}, r"t.reads.image='view3/image' is \[2, 2, 1\], and image \[4, 4")])
  def test_a_field_that_is_not_there_or_does_not_fit_is_refused(self, reads, line):
    with pytest.raises(Stop, match=f'teachers.{line}') as stop:
      build_setup(config(teacher={'reads': reads}))
    assert stop.value.status == Status.MISFIT

  def test_an_assistant_s_teacher_must_not_need_the_field_that_it_replaces(self):
    node = config()
    t = node['teachers']['t']
    a = {**t, 'reads': READS, 'train': {**t['train'], 'objective': {'soft': term('t')}}}
    line = ('teachers.a.reads.image: it learns from t, which reads the image that it replaces: '
            'give teachers.t.reads.image')
    with pytest.raises(Stop, match=line):
      build_setup({**node, 'teachers': {'t': t, 'a': a}})
    both = stages({**node, 'teachers': {'t': {**t, 'reads': READS}, 'a': a}})['a']
    assert (both.data[0]['image'] == both.data[0]['view2/image']).all()
    assert both.teachers[0].reads == READS


class TestAverage:
  """A teacher that is the student's moving average."""

  def test_it_starts_as_the_student_and_follows_it(self, tmp_path):
    state, rows = fitted(stages(CASES['average'])['student'], tmp_path)
    assert rows[0]['same'] == 0 and all(row['same'] > 0 for row in rows[1:])
    assert state.carry['ema'].keys() == {
        f'model/{part}/{leaf}' for part in ('body', 'head') for leaf in ('bias', 'kernel')}
    for path, mean in state.carry['ema'].items():
      assert (mean != state.params[path]).any(), path

  def test_without_decay_it_is_the_student(self, tmp_path):
    node = {**CASES['average'], 'carry': {'ema': {'name': 'Average', 'decay': 0.0}}}
    state, rows = fitted(stages(node)['student'], tmp_path)
    assert all(row['same'] == 0 for row in rows)
    assert all((state.carry['ema'][path] == state.params[path]).all() for path in state.params)

  @pytest.mark.slow
  def test_a_run_reports_without_it(self, tmp_path):
    with contextlib.closing(Log(tmp_path, quiet=True)) as log:
      found = compare.run(CASES['average'], runs.Run('run', tmp_path, log))
    assert [(m['name'], m['teachers']) for m in found['models']] == [
        ('t', []), ('student', ['t']), ('baseline', [])]

  def test_it_may_be_accumulated_and_the_baseline_is_without(self):
    node = {**CASES['average'], 'train': {**CASES['average']['train'], 'accumulate': 2}}
    found = stages(node)
    ready(found['student'])
    assert found['student'].carries and not found['baseline'].carries

  @pytest.mark.parametrize(('change', 'line'), [
      ({'carry': {}}, "teachers.ema.source='carry:ema': there is no carry.ema"),
      ({'carry': {'ema': {'name': 'Mean', 'reads': 't/logits'}}},
       "source='carry:ema': carry.ema.name='Mean' holds no average of the student's parameters"),
      ({'teachers': {'ema': {'source': 'carry:ema', 'init': 'x'}}},
       "source='carry:ema': its model is the student's, so it takes neither model nor init"),
      ({'teachers': {'ema': {'source': 'carrot:ema'}}},
       "source='carrot:ema' must be 'live', 'fields' or 'carry:NAME'")])
  def test_what_is_no_average_is_refused(self, change, line):
    with pytest.raises(Stop, match=line) as stop:
      build_setup(config(objective={'same': term('ema')}, **{**EMA, **change}))
    assert stop.value.status == Status.CONFIG

  def test_only_the_student_s_own_stage_reads_it(self):
    node = config(objective={'same': term('ema')}, **EMA)
    before = {'first': {'objective': {'same': term('ema')}, 'optimizer': node['optimizer'],
                        'train': node['train']}}
    with pytest.raises(Stop, match='before.first: it reads the teacher of carry/ema, and carries'):
      build_setup({**node, 'before': before})
    node['teachers']['t']['train']['objective']['same'] = term('ema')
    with pytest.raises(Stop, match="ema.source='carry:ema': only the stage of the student"):
      build_setup(node)
