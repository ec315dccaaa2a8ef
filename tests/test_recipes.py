"""The published recipes run, every term of them; a student's stages; masked words as a task."""
import contextlib
import functools
import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

from distill import checkpoint, flags, formats, predict, runs, train
from distill.logs import Log
from distill.pipelines import compare
from distill.pipelines.setup import build_setup
from distill.types import Status, Stop

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch):
  monkeypatch.chdir(ROOT)


def config(name, *more):
  overrides = [f'--config.{override}' for override in more]
  return flags.parsed([f'--config=configs/{name}', *overrides]).config.to_dict()


def run(workdir, node, name='recipe'):
  workdir.mkdir(exist_ok=True)
  with contextlib.closing(Log(workdir)) as log:
    return compare.run(node, runs.Run(name, workdir, log, seed=node['seed']))


@pytest.fixture(scope='module')
def recipe(tmp_path_factory):
  """The workdir and the report of a recipe's `:test`."""
  @functools.cache
  def made(name):
    workdir = tmp_path_factory.mktemp(name) / 'run'
    return workdir, run(workdir, config(f'{name}.py:test'), name)
  return made


def rows(workdir):
  lines = (workdir / 'metrics.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]


def weights(folder):
  return safetensors.numpy.load_file(folder / 'model.safetensors')


@pytest.mark.slow
@pytest.mark.parametrize(('name', 'stages', 'metric'), [
    ('distilbert', {'teacher': {'words'}, 'student': {'soft', 'words', 'cosine'},
                    'baseline': {'words'}}, 'cross_entropy'),
    ('tinybert', {'teacher': {'hard'}, 'student': {'soft'}, 'student-layers': {
        'embedding', 'hidden0', 'hidden1', 'attention0', 'attention1'}}, 'accuracy'),
    ('pkd', {'teacher': {'hard'}, 'student': {'hard', 'soft', 'patience0'},
             'baseline': {'hard'}}, 'accuracy'),
    ('minilm', {'teacher': {'words'}, 'student': {'attention', 'value', 'words'},
                'baseline': {'words'}}, 'cross_entropy'),
    ('mobilebert', {'teacher': {'words'}, 'baseline': {'words'}, 'student': {
        'words', *(f'block{i:02}_{part}' for i in (0, 1)
                   for part in ('map', 'moments', 'attention'))}}, 'cross_entropy'),
])
def test_a_recipe_trains_with_every_term(recipe, name, stages, metric):
  workdir, report = recipe(name)
  found = {}
  for row in rows(workdir):
    found.setdefault(row['stage'], set()).update(row)
  setup = {'stage', 'seed', 'step', 'time', 'loss', 'grad_norm'}
  assert {stage: {term for term in terms - setup if '/' not in term}
          for stage, terms in found.items()} == stages
  assert report['task']['primary'] == metric
  assert [m['name'] for m in report['models']] == [
      name for name in ('teacher', 'student', 'baseline') if name in stages]
  assert all(np.isfinite(m['quality'][metric]['value']) for m in report['models'])


@pytest.mark.slow
def test_masked_words_are_judged_alike_and_near_chance_when_untrained(recipe):
  workdir, report = recipe('distilbert')
  for model in report['models']:
    assert abs(model['quality']['cross_entropy']['value'] - np.log(1000)) < 0.5
  records = [dict(np.load(workdir / f'records/{name}.npz')) for name in ('teacher', 'baseline')]
  np.testing.assert_array_equal(*(r['label'] for r in records))
  assert records[0]['label'].min() >= 1 and (records[0]['nll'] > 0).all()


@pytest.mark.slow
def test_an_export_of_masked_words_has_no_head_and_starts_a_task(recipe, tmp_path):
  workdir, _ = recipe('distilbert')
  folder = workdir / 'export/student'
  names = weights(folder)
  assert 'vocab_transform.weight' in names          # DistilBERT's, in the names of `transformers`
  assert not [n for n in names if 'classifier' in n]
  with pytest.raises(Stop, match='has no head: it is a pretrained encoder'):
    predict.answers(str(folder), ['a text'])

  node = config('pkd.py:test', f'student.init={folder}')
  node['student']['model'] |= {'types': 0, 'pooling': 'relu'}
  stage = build_setup(node).trained[1].stage
  start, _ = stage.start({})
  np.testing.assert_array_equal(start['model/token/embedding'],
                                names['distilbert.embeddings.word_embeddings.weight'])
  assert start['model/head/kernel'].shape[1] > 1


@pytest.mark.slow
def test_a_stage_starts_from_what_the_one_before_it_left(tmp_path):
  # Steps of no size: what a model has at last is what its last stage began with.
  node = config('tinybert.py:test', 'train.steps=1', 'train.log_every=1', 'train.eval_every=0',
                'optimizer.rate=1e-30', 'objective.hard.weight=1.0')
  node['objective']['again'] = node['before']['layers']['objective']['hidden0']
  setup = build_setup(node)
  student, baseline = setup.trained[1:]
  assert [s.name for s in student.stages] == ['student-layers', 'student']
  assert [s.name for s in baseline.stages] == ['baseline']       # the layers need the teacher
  assert set(student.stages[0].student.projectors) == {'embedding', 'hidden0', 'hidden1'}
  assert set(student.stage.student.projectors) == {'hidden0'}

  report = run(tmp_path / 'run', node)
  ready = train.prepared(student.stages[0], {
      'teacher': setup.trained[0].stage.student.model.shapes})
  _, left, _ = checkpoint.restore(tmp_path / 'run/checkpoints/student-layers', ready.like)
  ready = train.prepared(student.stage, {'teacher': setup.trained[0].stage.student.model.shapes})
  _, last, _ = checkpoint.restore(tmp_path / 'run/checkpoints/student', ready.like)
  start, _ = student.stage.start({})
  for path in last.params:
    np.testing.assert_allclose(last.params[path], left.params[path], rtol=0, atol=1e-25)
  assert (last.params['projectors/hidden0/dense/kernel']
          != start['projectors/hidden0/dense/kernel']).any()
  exported = weights(tmp_path / 'run/export/baseline')
  np.testing.assert_allclose(exported['bert.embeddings.word_embeddings.weight'],
                             start['model/token/embedding'], rtol=0, atol=1e-25)
  assert not (tmp_path / 'run/export/student-layers').exists()
  assert report['training']['student']['steps'] == 4 + 1           # its training is all of it
  assert report['training']['student']['flops'] > 2 * report['training']['baseline']['flops']


@pytest.mark.slow
def test_a_later_stage_resumes_without_the_earlier_ones_again(recipe, tmp_path):
  workdir, report = recipe('tinybert')
  again = tmp_path / 'run'
  shutil.copytree(workdir, again)
  (again / 'report.json').unlink()
  for folder in 'checkpoints/student', 'export/student':
    shutil.rmtree(again / folder)
  (again / 'records/student.npz').unlink()
  run(again, config('tinybert.py:test'))
  without = lambda folder: [{k: v for k, v in row.items() if k != 'time'} for row in rows(folder)]
  assert without(again) == without(workdir)
  assert weights(again / 'export/student').keys() == weights(workdir / 'export/student').keys()
  for name, array in weights(again / 'export/student').items():
    np.testing.assert_array_equal(array, weights(workdir / 'export/student')[name])


def test_stages_follow_each_other_by_name_and_the_baseline_s_have_no_teacher():
  node = config('tinybert.py:test', 'objective.hard.weight=1.0')
  hard = node['objective']['hard']
  layers = node['before']['layers']
  node['before'] = {'b': {**layers, 'objective': {'hard': hard, **layers['objective']}},
                    'a': layers, 'c': {**layers, 'objective': {'hard': hard}}}
  student, baseline = build_setup(node).trained[1:]
  assert [s.name for s in student.stages] == [
      'student-a', 'student-b', 'student-c', 'student']
  assert [s.name for s in baseline.stages] == ['baseline-b', 'baseline-c', 'baseline']
  assert all([t.name for t in s.terms] == ['hard'] and not s.teachers for s in baseline.stages)
  other = {**node, 'before': {**node['before'], 'a': {**layers, 'optimizer': {
      **layers['optimizer'], 'rate': 1e-3}}}}
  changed = build_setup(other).trained[1:]
  assert changed[0].identity != student.identity
  assert changed[1].identity == baseline.identity            # it doesn't go through that stage


@pytest.mark.parametrize(('change', 'status', 'line'), [
    ({'objective': {}}, Status.CONFIG, 'before.layers.objective has no term with a weight'),
    ({'optimiser': {}}, Status.CONFIG, 'before.layers.optimiser'),
    ({'train': {'steps': 0}}, Status.CONFIG, 'before.layers.train.steps=0'),
    ({'train': {'steps': 2, 'evry': 1}}, Status.CONFIG, 'before.layers.train.evry'),
    ({'optimizer': {'rate': -1.0}}, Status.CONFIG, 'before.layers.optimizer'),
    ({'augment': ({'name': 'masking.wrods'},)}, Status.CONFIG, 'before.layers.augment[0]'),
    ({'objective': {'x': {'loss': 'features.mse', 'reads': {
        'student': 'student/block07/hidden', 'teacher': 'teacher/embedding'}}}}, Status.MISFIT,
     "before.layers.objective.x.reads.student: 'student/block07/hidden' names no output"),
])
def test_a_mistake_in_a_stage_names_the_stage(change, status, line):
  node = config('tinybert.py:test')
  node['before']['layers'] |= change
  with pytest.raises(Stop) as stopped:
    setup = build_setup(node)
    train.prepared(setup.trained[1].stages[0], {
        'teacher': setup.trained[0].stage.student.model.shapes})
  assert stopped.value.status == status and line in str(stopped.value)


def test_a_stage_s_terms_on_labels_mind_the_labels_that_may_be_seen():
  node = config('tinybert.py:test')
  node['data']['labelled'] = 0.5
  node['before']['layers']['objective'] = {'hard': {**node['objective']['hard'], 'weight': 1.0}}
  with pytest.raises(Stop, match=r'before\.layers\.objective\.hard reads batch/label'):
    build_setup(node)


def test_no_teacher_has_the_name_of_a_stage():
  node = config('tinybert.py:test')
  node['teachers'] = {'student-layers': node['teachers']['teacher']}
  with pytest.raises(Stop, match="'student-layers' is taken"):
    build_setup(node)


def plain(path, name='distilbert.py:test'):
  """A recipe over a file of texts without labels."""
  path.write_text('\n'.join(f'the {a} and the {b} went home' for a in (
      'cat', 'dog', 'hen', 'cow', 'pig') for b in ('fox', 'owl', 'ant', 'bee', 'elk', 'gnu')))
  node = config(name)
  return {**node, 'data': {'name': 'files.Text', 'path': str(path), 'length': 16, 'batch_size': 8,
                           'vocabulary': 100, 'seed': 0}}


def test_masked_words_need_no_labels_and_classes_do(tmp_path):
  node = plain(tmp_path / 'texts.txt')
  setup = build_setup(node)
  assert not setup.dataset.names and not setup.trained[1].seen['labels']
  batch = setup.rows['test'][0]
  mask = setup.dataset.modality.special['[MASK]']
  assert ((batch['tokens'] == mask).sum(1) == batch['chosen'].sum(1)).all()
  with pytest.raises(Stop) as stopped:
    build_setup({**node, 'task': {'name': 'regression.Regression'}})
  assert stopped.value.status == Status.DATA and 'no labels to judge by' in str(stopped.value)


def test_a_model_without_the_head_that_the_task_reads_is_named(tmp_path):
  node = plain(tmp_path / 'texts.txt')
  setup = build_setup(node)
  student, teacher = node['student'], node['teachers']['teacher']
  silent = {**node, 'student': {**student, 'model': {**student['model'], 'words': False}}}
  with pytest.raises(Stop, match="task='words.MaskedWords': 'student/words' names no output"):
    build_setup(silent)

  # A checkpoint that has none, as sentence encoders.
  stage, card = setup.trained[0].stage, setup.trained[0].card
  params, rest = stage.student.model.init(0)
  params = {path: value for path, value in params.items() if not path.startswith('words')}
  folder = tmp_path / 'encoder'
  formats.write(folder, formats.Shipped(
      stage.student.model, (params, rest), card, setup.dataset.modality))
  loaded = {**node, 'teachers': {'teacher': {'init': str(folder), 'model': {'words': True}}}}
  with pytest.raises(Stop, match=r"teachers\.teacher: .* has no module 'words'"):
    build_setup(loaded)
  assert teacher['train']
