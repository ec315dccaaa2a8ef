"""A pretrained checkpoint through the front door: teacher, the student's start, what answers."""
import json
import pathlib

import numpy as np
import pytest
import safetensors.numpy

from distill import main, predict
from distill.models import bert, huggingface
from distill.models.functional import Functional
from distill.types import Status

CONFIG = '''
from ml_collections import ConfigDict

def get_config():
  adamw = dict(name='adamw', rate=1e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  plan = dict(steps=2, log_every=1, save_every=2, eval_every=0)
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  soft = dict(loss='logits.kl', weight=1.0,
              reads=dict(student='student/logits', teacher='teacher/logits'))
  return ConfigDict(dict(
      seed=0, pipeline='compare.run',
      data=dict(name='files.Text', path='', tokenizer='', length=16, widths=(16,), batch_size=8,
                seed=0),
      task=dict(name='classification.Classification'),
      teachers=dict(teacher=dict(
          model=dict(), init='', fresh=(),
          train=dict(plan, objective=dict(hard=hard), optimizer=adamw))),
      student=dict(model=dict(name='bert.Bert', width=8, depth=1, heads=2, inner=16, first=0,
                              eps=1e-12, pooling='tanh'), init='', layers=()),
      objective=dict(soft=soft), optimizer=adamw, train=plan,
      evaluate=dict(split='test', batch_size=8, resamples=10, alone=False)))
'''
SPECIAL = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
WORDS = [*SPECIAL, 'the', 'cat', 'dog', 'sat', *'0123456789', *(f'##{i}' for i in range(10))]


def pretrained(folder, labels=(), words=WORDS, length=32):
  """A folder as `transformers` saves it: an encoder of two blocks, with or without a head."""
  node = dict(vocabulary=len(words), length=length, width=8, depth=2, heads=2, inner=16)
  net = Functional(lambda rngs: bert.Bert(**node, classes=max(1, len(labels)), rngs=rngs))
  noise = np.random.default_rng(0)
  params = {path: (('scale' in path) + 0.3 * noise.standard_normal(x.shape)).astype(np.float32)
            for path, x in net.shapes[0].items()}
  arrays, config = huggingface.named({'name': 'bert.Bert', **node}, params, labels)
  if not labels:
    arrays = {name.removeprefix('bert.'): array for name, array in arrays.items()
              if not name.startswith('classifier.')}
  folder.mkdir(parents=True)
  safetensors.numpy.save_file(arrays, folder / 'model.safetensors')
  (folder / 'config.json').write_text(json.dumps({**config, 'transformers_version': '4.0.0'}))
  (folder / 'vocab.txt').write_text('\n'.join(words) + '\n')
  return folder


@pytest.fixture
def door(tmp_path, capsys):
  """Runs the command over texts of one's own; its status and what it said."""
  (tmp_path / 'mine.py').write_text(CONFIG)
  (tmp_path / 'my.jsonl').write_text('\n'.join(json.dumps(
      {'text': f'the {"cat" if i % 2 else "dog"} sat {i}', 'label': f'animal{i % 2}'})
      for i in range(120)))

  def command(**fields):
    given = {'data.path': tmp_path / 'my.jsonl', **{k.replace('__', '.'): v
                                                    for k, v in fields.items()}}
    code = main.main([f'--config={tmp_path / "mine.py"}', f'--workdir={tmp_path / "run"}',
                      *(f'--config.{name}={value}' for name, value in given.items())])
    return code, capsys.readouterr().err
  return command


def arrays(folder):
  return huggingface.read(folder).params


@pytest.mark.slow
def test_a_checkpoint_is_fine_tuned_and_starts_the_student(door, tmp_path, capsys):
  place = pretrained(tmp_path / 'minilm', ('no', 'perhaps', 'yes'))
  code, err = door(data__tokenizer=place, teachers__teacher__init=place, student__init='teacher',
                   student__layers='(1,)', teachers__teacher__fresh="('head/*',)")
  assert code == 0, err
  before, teacher, student = map(arrays, (place, tmp_path / 'run/export/teacher',
                                          tmp_path / 'run/export/student'))
  up, near = 'blocks/{}/up/kernel', dict(atol=1e-2)         # two steps of Adam at 1e-3, twice
  np.testing.assert_allclose(teacher[up.format(0)], before[up.format(0)], **near)
  np.testing.assert_allclose(student[up.format(0)], before[up.format(1)], **near)
  assert (teacher[up.format(0)] != before[up.format(0)]).any()
  assert teacher['head/kernel'].shape == (8, 2) and student['head/kernel'].shape == (8, 2)
  assert predict.main([f'--model={tmp_path / "run/export/student"}', 'the cat sat 7']) == 0
  assert json.loads(capsys.readouterr().out)['label'] in ('animal0', 'animal1')


@pytest.mark.slow
def test_a_student_starts_from_a_checkpoint_without_a_head(door, tmp_path):
  place = pretrained(tmp_path / 'encoder')
  code, err = door(data__tokenizer=place, teachers__teacher__init=place, student__init=place,
                   student__layers='(0,)')
  assert code == 0, err
  np.testing.assert_allclose(arrays(tmp_path / 'run/export/student')['token/embedding'],
                             arrays(place)['token/embedding'], atol=1e-2)


@pytest.mark.parametrize('init', ['teacher', 'PLACE'])
@pytest.mark.parametrize(('field', 'value', 'line'), [
    ('heads', 4, "heads=4, but student.init='%s' has 2: give student.model heads=2"),
    ('eps', 1e-5, "eps=1e-05, but student.init='%s' has 1e-12"),
    ('first', 2, "first=2, but student.init='%s' has 0"),
    ('pooling', 'relu', "pooling='relu', but student.init='%s' has 'tanh'"),
])
def test_a_start_that_only_looks_equal_is_refused(door, tmp_path, init, field, value, line):
  place = pretrained(tmp_path / 'minilm')
  init = init.replace('PLACE', str(place))
  code, err = door(**{'data.tokenizer': place, 'teachers.teacher.init': place,
                      'student.init': init, 'student.layers': '(1,)',
                      f'student.model.{field}': value})
  assert code == Status.MISFIT and line % init in err.splitlines()[-1]


@pytest.mark.parametrize(('labels', 'fields', 'status', 'line'), [
    ((), {'teachers.teacher.train': {}}, Status.MISFIT, "has no module 'head' for my.jsonl: "
     'give teachers.teacher.train'),
    (('no', 'perhaps', 'yes'), {}, Status.MISFIT, 'its head has 3 outputs for no, perhaps, yes; '
     "my.jsonl has animal0, animal1, in this order: give teachers.teacher.fresh=('head/*',)"),
    ((), {'teachers.teacher.fresh': "('hed/*',)"}, Status.CONFIG, "fresh='hed/*' matches no para"),
    ((), {'data.tokenizer': 'OTHER'}, Status.MISFIT, 'its tokenizer ('),
    ((), {'teachers.teacher.init': 'some/where/else'}, Status.CHECKPOINT, 'neither a folder nor a'),
    ((), {'student.init': 'some/where/else'}, Status.CHECKPOINT, "student.init='some/where/else'"),
    ((), {'data.tokenizer': 'no/such/tokenizer'}, Status.CHECKPOINT, 'data.tokenizer='),
    ((), {'data.length': 40, 'data.widths': '(40,)'}, Status.MISFIT, 'length=32, but my.jsonl has'),
])
def test_what_does_not_fit_is_one_line(door, tmp_path, labels, fields, status, line):
  place = pretrained(tmp_path / 'minilm', labels)
  if 'OTHER' in fields.values():            # as many words, in another order
    other = pretrained(tmp_path / 'other', words=[*SPECIAL, *reversed(WORDS[len(SPECIAL):])])
    fields = {'data.tokenizer': other}
  code, err = door(**{'data.tokenizer': place, 'teachers.teacher.init': place, **fields})
  assert code == status and line in err.splitlines()[-1] and 'Traceback' not in err


def test_the_command_asks_a_checkpoint_by_its_labels(tmp_path, capsys):
  place = pretrained(tmp_path / 'minilm', ('no', 'yes'))
  assert predict.main([f'--model={place}', 'the cat', 'the dog sat 12']) == 0
  rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
  assert [row['text'] for row in rows] == ['the cat', 'the dog sat 12']
  assert all(row['probabilities'].keys() == {'no', 'yes'} for row in rows)


def test_an_encoder_without_a_head_has_no_answer(tmp_path, capsys):
  assert predict.main([f'--model={pretrained(tmp_path / "x")}', 'the cat']) == Status.CHECKPOINT
  assert 'has no head: it is a pretrained encoder' in capsys.readouterr().err


def test_the_library_of_weights_sees_no_pickle_of_ours():
  for path in pathlib.Path(__file__).parent.rglob('*.npz'):
    with np.load(path, allow_pickle=False) as file:
      assert all(file[name].dtype != object for name in file)
