"""Models side by side through the door: a run, a foreign folder, a program; and what is refused."""
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from distill import evaluate as door
from distill import export, main, predict, report
from distill.pipelines import locate
from distill.types import Status
from tests.test_pretrained import pretrained

CONFIG = '''
from ml_collections import ConfigDict

def get_config():
  adamw = dict(name='adamw', rate=1e-2)
  plan = dict(steps=3, log_every=1, save_every=3, eval_every=0)
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  soft = dict(loss='logits.kl', weight=1.0,
              reads=dict(student='student/logits', teacher='teacher/logits'))
  model = dict(name='bert.Bert', width=8, depth=1, heads=2, inner=16, std=0.3)
  return ConfigDict(dict(
      seed=0, pipeline='compare.run', tier='',
      data=dict(name='files.Text', path='', vocabulary=64, length=16, widths=(16,), batch_size=8,
                seed=0),
      task=dict(name='classification.Classification'),
      teachers=dict(teacher=dict(
          model=model, train=dict(plan, objective=dict(hard=hard), optimizer=adamw))),
      student=dict(model=model), objective=dict(hard=hard, soft=soft), optimizer=adamw, train=plan,
      evaluate=dict(split='test', batch_size=8, resamples=20, cost=False, alone=False,
                    faithfulness=False)))
'''


def foreign(folder, labels=('cat', 'dog')):
  """A folder as `transformers` saves it, with words of its own and room for fewer of them."""
  return pretrained(folder, labels, length=12)


def trained(place, name, path, *fields):
  assert main.main([f'--config={place / "mine.py"}', f'--workdir={place / name}',
                    f'--config.data.path={path}', *fields]) == Status.DONE
  return place / name


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Two runs over one file of texts, a folder of others, a program."""
  place = tmp_path_factory.mktemp('evaluate')
  (place / 'mine.py').write_text(CONFIG)
  (place / 'my.jsonl').write_text('\n'.join(json.dumps(
      {'text': f'the {"cat" if i % 2 else "dog"} sat {i}', 'label': 'cat' if i % 2 else 'dog'})
      for i in range(200)))
  trained(place, 'run', place / 'my.jsonl')
  foreign(place / 'foreign')
  assert export.main([f'--model={place}/run/export/student', f'--to={place}/program']) == 0
  return place


@pytest.fixture
def ask(place, tmp_path, capsys):
  """Runs the command; its status, what it said, and the report that it left."""
  def command(*models, to='out', **fields):
    models = ','.join(str(place / model) for model in models)
    code = door.command([f'--models={models}', f'--workdir={tmp_path / to}',
                         *(f'--config.{k.replace("__", ".")}={v}' for k, v in fields.items())])
    exists = (tmp_path / to / 'report.json').is_file()
    return code, capsys.readouterr().err, report.read(tmp_path / to) if exists else None
  return command


def records(workdir, name):
  with np.load(workdir / 'records' / f'{name}.npz') as archive:
    return dict(archive)


def test_a_run_a_program_and_a_foreign_folder_stand_side_by_side(place, tmp_path, ask):
  code, printed, found = ask('run', 'program', 'foreign')
  assert code == Status.DONE, printed
  before = report.read(place / 'run')
  models = {m['name']: m for m in found['models']}
  assert [(m['name'], m['role']) for m in found['models']] == [
      ('teacher', 'teacher'), ('student', 'student'), ('baseline', 'baseline'),
      ('program', 'student'), ('foreign', 'student')]
  assert found['training'] == before['training']
  for model in before['models']:        # the same answers, and all that follows from them
    now, then = (records(at, model['name']) for at in (tmp_path / 'out', place / 'run'))
    assert all(np.array_equal(now[name], then[name]) for name in then)
    for field in 'quality', 'retention', 'gain', 'saw', 'teachers', 'params', 'shipped_bytes':
      assert models[model['name']][field] == model[field]
  assert models['program']['quality'] == models['student']['quality']
  assert models['program']['params'] == models['student']['params']
  assert models['program']['shipped_bytes'] == (place / 'program/model.stablehlo').stat().st_size
  assert models['foreign']['gain'] is None and models['foreign']['retention']['of'] == 'teacher'
  rows = list(map(json.loads, (tmp_path / 'out/metrics.jsonl').read_text().splitlines()))
  logged = list(map(json.loads, (place / 'run/metrics.jsonl').read_text().splitlines()))
  by_step = lambda rows: sorted(rows, key=lambda row: (row['stage'], row['step']))
  assert rows and by_step(rows) == by_step(logged)


def test_a_foreign_model_reads_the_texts_by_its_own_tokenizer(place, tmp_path, ask):
  """Held against `distill.predict`, which knows nothing of the data."""
  code, printed, _ = ask('run', 'foreign')
  assert code == Status.DONE and 'foreign: reads the texts by its own encoding' in printed
  texts = list(map(json.loads, (place / 'my.jsonl').read_text().splitlines()))
  label = {text['text']: text['label'] for text in texts}
  from distill.data import files
  split = files.Text(path=str(place / 'my.jsonl'), vocabulary=64, length=16).splits['test']
  answers = predict.answers(str(place / 'foreign'), split.raw)
  found = records(tmp_path / 'out', 'foreign')
  order = np.argsort(found['id'])
  names = np.array(['cat', 'dog'])
  assert names[found['prediction'][order]].tolist() == [answer['label'] for answer in answers]
  assert names[found['label'][order]].tolist() == [label[text] for text in split.raw]
  np.testing.assert_allclose(found['probabilities'][order], [
      list(answer['probabilities'].values()) for answer in answers], atol=1e-4)      # rounded


def test_a_model_with_less_room_is_padded_to_four_widths_as_others_are(ask):
  code, printed, _ = ask('run', 'foreign', data__widths='(8, 9, 10, 11)')          # and 12, its own
  assert code == Status.DONE, printed


def test_all_are_explained_and_timed_but_a_program_only_answers(ask):
  code, printed, found = ask('run', 'program', 'foreign', evaluate__cost=True,
                          evaluate__faithfulness=True)
  assert code == Status.DONE, printed
  models = {m['name']: m for m in found['models']}
  assert {'saliency', 'cka', 'agreement'} <= models['student']['faithfulness'].keys()
  assert models['program']['faithfulness'].keys() == {
      name for name in models['student']['faithfulness'] if name in (
          'agreement', 'agreement_on_errors', 'kl')}
  # By other tokens, places have nothing in common; layers can be held against each other.
  assert 'cka' in models['foreign']['faithfulness']
  assert 'saliency' not in models['foreign']['faithfulness']
  assert 'fgsm' in models['foreign']['robustness'] and 'fgsm' not in models['program']['robustness']
  assert models['program']['robustness']['drop'] == models['student']['robustness']['drop']
  assert all(m['latency_ms']['p50'] > 0 and m['flops'] > 0 for m in found['models'])
  assert models['program']['peak_memory_bytes'] == pytest.approx(
      models['student']['peak_memory_bytes'], rel=.1)         # though its weights are no argument


def test_fields_of_a_run_can_be_changed_those_that_it_left_out_too(ask):
  code, printed, found = ask('run', evaluate__also=('train',), evaluate__watts=5.0)
  assert code == Status.DONE, printed
  assert found['models'][1]['also'].keys() == {'train'}
  assert found['models'][1]['also']['train']['gain']['of'] == 'baseline'


def test_the_same_command_again_measures_nothing(place, tmp_path, ask):
  ask('run', 'foreign')
  page = tmp_path / 'out/report.json'
  first = page.stat().st_mtime_ns
  code, printed, _ = ask('run', 'foreign')
  assert code == Status.DONE and 'finished before' in printed and page.stat().st_mtime_ns == first
  page.unlink()                         # as if it had been stopped before the report
  kept = {file: file.stat().st_mtime_ns for file in (tmp_path / 'out/records').glob('*.npz')}
  code, printed, _ = ask('run', 'foreign')
  assert code == Status.DONE and page.is_file() and 'answers' not in printed
  assert kept == {file: file.stat().st_mtime_ns for file in kept} and kept


def test_a_workdir_of_other_models_is_left_as_it_is(place, tmp_path, ask):
  ask('run', 'foreign')
  before = (tmp_path / 'out/report.json').read_bytes()
  code, printed, _ = ask('run', 'program')
  assert code == Status.CONFIG and 'holds a run of another config' in printed
  assert (tmp_path / 'out/report.json').read_bytes() == before
  changed = shutil.copytree(place / 'foreign', tmp_path / 'foreign')
  ask('run', changed, to='other')
  arrays = safetensors.numpy.load_file(changed / 'model.safetensors')
  safetensors.numpy.save_file({k: v + 1 for k, v in arrays.items()}, changed / 'model.safetensors')
  code, printed, _ = ask('run', changed, to='other')
  assert code == Status.CONFIG and 'models.foreign.content' in printed


def test_models_of_one_name_are_distinguished_by_their_run(place, tmp_path, ask):
  shutil.copytree(place / 'run', place / 'second', dirs_exist_ok=True)
  code, printed, found = ask('run', 'second/export/student')
  assert code == Status.DONE, printed
  assert [m['name'] for m in found['models']] == [
      'teacher', 'run-student', 'baseline', 'second-student']
  assert found['models'][1]['teachers'] == ['teacher'] and found['models'][3]['teachers'] == []
  assert found['models'][1]['gain'] and found['models'][3]['gain'] is None


def roles(place, *models):
  found = locate.find_models([str(place / model) for model in models])
  return {name: model.node.role for name, model in found.items()}


def test_a_baseline_is_one_only_beside_the_student_that_it_belongs_to(place):
  expected = {'teacher': 'teacher', 'student': 'student', 'baseline': 'baseline'}
  assert roles(place, 'run') == expected
  assert roles(place, *(f'run/export/{name}' for name in expected)) == expected
  assert roles(place, 'run/export/teacher', 'foreign', 'run/export/baseline') == {
      'teacher': 'teacher', 'foreign': 'student', 'baseline': 'student'}


def test_without_a_teacher_the_first_is_what_others_are_held_against(place, ask):
  assert roles(place, 'run/export/student') == {'student': 'student'}
  assert roles(place, 'foreign', 'run/export/student') == {'foreign': 'teacher',
                                                           'student': 'student'}
  _, _, found = ask('run/export/student', 'foreign')
  assert found['models'][1]['retention']['of'] == 'student'


def test_a_missed_tier_is_an_exit_status_and_the_report_is_there(ask):
  code, printed, found = ask('run', tier='ultralight')
  assert code == Status.TIER and 'tier ultralight is missed by student' in printed
  assert found['models'][1]['tier']['name'] == 'ultralight'
  code, printed, found = ask('run', tier='heavy', to='other')
  assert code == Status.CONFIG and "there is no 'heavy'" in printed and found is None


@pytest.mark.parametrize('models, fields, status, line', [
    (('nowhere',), {}, Status.CHECKPOINT, 'neither a folder nor a hub id'),
    (('',), {}, Status.CHECKPOINT, 'is no model: it is neither a workdir nor an export'),
    (('foreign',), {}, Status.CONFIG, 'no run is among the models'),
    (('run', 'run'), {}, Status.CONFIG, 'is named twice'),
    (('run', 'run/export/student'), {}, Status.CONFIG, 'run/student is named twice'),
    (('run',), {'evaluate__splt': 'test'}, Status.CONFIG, "no field 'evaluate.splt'; did you mean"),
    (('run',), {'evaluate__split': 'tset'}, Status.DATA, "no examples in a split 'tset'; did you"),
    (('run', 'others'), {}, Status.MISFIT, 'models.others tells cat, mouse; my.jsonl has cat, dog'),
    (('run', 'swapped'), {}, Status.MISFIT, 'my.jsonl has cat, dog, in this order'),
    (('run', 'numbers'), {}, Status.MISFIT, 'models.numbers tells numbers; my.jsonl has cat, dog'),
    (('run', 'encoder'), {}, Status.MISFIT, 'models.encoder has no head: it is a pretrained enc'),
    (('run', 'three'), {}, Status.MISFIT, 'models.three tells LABEL_0, LABEL_1, LABEL_2; '),
    (('run', 'unfinished'), {}, Status.CHECKPOINT, 'has no report yet: run it again')])
def test_what_cannot_be_held_side_by_side_ends_in_a_line(
    place, tmp_path, ask, models, fields, status, line):
  for name, labels in {'others': ('cat', 'mouse'), 'swapped': ('dog', 'cat'), 'encoder': (),
                       'numbers': ('LABEL_0',), 'three': ('LABEL_0', 'LABEL_1', 'LABEL_2')}.items():
    if not (place / name).exists():
      foreign(place / name, labels)
  (place / 'unfinished/checkpoints').mkdir(parents=True, exist_ok=True)
  code, printed, found = ask(*models, **fields)
  last = printed.strip().splitlines()[-1]
  assert code == status and last.startswith('distill.evaluate: ') and line in last
  assert found is None and not list(tmp_path.glob('out/records/*'))


def test_names_without_meaning_are_taken_at_their_places(place, ask):
  if not (place / 'unnamed').exists():
    foreign(place / 'unnamed', ('LABEL_0', 'LABEL_1'))
  code, printed, found = ask('run', 'unnamed', 'foreign')
  assert code == Status.DONE, printed
  assert found['models'][3]['quality'] == found['models'][4]['quality']


@pytest.mark.parametrize('arguments, line', [
    (['--model=DIR'], "'--model=DIR' is not --models=DIR,DIR"),
    (['--workdir=DIR'], 'give --models=DIR,DIR'),
    (['--render=DIR', '--models=DIR'], '--render=DIR draws what is there'),
    (['--models=a,,b'], 'a place is empty'),
    (['--models='], "'--models=' is not")])
def test_a_wrong_argument_is_an_error_before_anything_is_loaded(arguments, line, capsys):
  assert door.command(arguments) == Status.CONFIG
  assert line in capsys.readouterr().err


def test_help_is_the_file_itself(capsys):
  assert door.command(['--help']) == Status.DONE
  assert 'python -m distill.evaluate --models=DIR' in capsys.readouterr().out


@pytest.mark.parametrize('places, names', [
    (('a/student', 'b/student', 'a/other'), ['a-student', 'b-student', 'other']),
    (('x/a/student', 'y/a/student'), ['x-a-student', 'y-a-student']),
    (('a/my model',), ['my-model'])])
def test_places_give_names(tmp_path, places, names):
  for place in places:
    foreign(tmp_path / place)
  found = locate.find_models([str(tmp_path / place) for place in places])
  assert list(found) == names and [f.node.place for f in found.values()] == [
      str((tmp_path / place).resolve()) for place in places]


def test_a_trailing_slash_is_the_same_place(tmp_path, monkeypatch):
  foreign(tmp_path / 'model')
  monkeypatch.chdir(tmp_path)
  assert locate.find_models(['model']) == locate.find_models(['./model/'])


def test_an_evaluation_can_be_evaluated_from_elsewhere(tmp_path, ask, monkeypatch):
  _, printed, first = ask('run', 'program', 'foreign')
  notes = {m['name']: m.get('note', '') for m in first['models']}
  assert notes.pop('foreign') == ('what it was trained on is not known: it may have seen examples '
                                  'of test')
  assert not any(notes.values()) and 'foreign: what it was trained on is not known' in printed
  monkeypatch.chdir('/')
  code, printed, found = ask(tmp_path / 'out', to='again', evaluate__tiers__cloud__kept=0.01)
  assert code == Status.DONE, printed
  quality = lambda report: [(m['name'], m['role'], m['quality']) for m in report['models']]
  assert quality(found) == quality(first)
  [cloud] = [t for t in found['models'][1]['tiers'] if t['name'] == 'cloud']
  assert cloud['limits'][0]['limit'] == 0.01          # a field that the run left out


@pytest.mark.parametrize('damage, status, line', [
    (lambda run: shutil.rmtree(run / 'export/student'), Status.CHECKPOINT,
     'has no export/student any more'),
    (lambda run: (run / 'config.json').write_text('{"a'), Status.DATA, 'is no config of a run'),
    (lambda run: (run / 'report.json').write_text('{"a'), Status.DATA, 'is not JSON')])
def test_a_damaged_run_ends_in_a_line(place, tmp_path, ask, damage, status, line):
  run = shutil.copytree(place / 'run', tmp_path / 'run')
  damage(run)
  code, printed, found = ask(run)
  assert code == status and line in printed.splitlines()[-1] and found is None


def test_the_workdir_of_a_run_is_no_place_for_an_evaluation(place, tmp_path, ask):
  shutil.copytree(place / 'run', tmp_path / 'out')
  code, printed, _ = ask('run')
  assert code == Status.CONFIG and len(printed.splitlines()[-1]) < 300
  assert 'different: pipeline (compare.run there, evaluate.run here)' in printed


def test_a_model_without_masked_words_cannot_be_judged_by_them(place, capsys):
  words = (place / 'words.py')
  words.write_text((place / 'mine.py').read_text().replace(
      'classification.Classification', 'words.MaskedWords').replace(
      "path=''", f"path={str(place / 'my.jsonl')!r}"))
  code = door.command([f'--models={place}/run/export/student', f'--config={words}',
                       f'--workdir={place}/words'])
  assert code == Status.MISFIT and 'gives no words, by which the task judges' in capsys.readouterr(
      ).err
