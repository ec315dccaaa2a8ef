"""TinyBERT (Jiao 2020): a narrow student learns attention, hidden states and embeddings by layer.

The default is the general distillation, over plain text. `task` goes on with its student, on a
fine-tuned teacher, in two steps: the layers for 10 epochs, then the logits for 3. Numbers are those
of the paper (4 of 12 layers by g(m) = 3m, T = 1) and of its authors' README and code
(huawei-noah/Pretrained-Language-Model/TinyBERT): general batch 256, rate 5e-5, length 128, 3
epochs; task batch 32, length 128, rate 5e-5 held, then 3e-5 to 0. The student's sizes, of its
released `config.json`, are from memory. Ours: no augmented data, a projector for each layer (their
code has one for all), and in the general distillation `steps` (theirs: 3 · texts / batch), masked
inputs, and a masked-word head to judge by: the encoder hardly notices its small weight, while
Adam's steps don't depend on it.

F=configs/tinybert.py; D=runs/tinybert
python -m distill.main --config=$F --config.data.path=texts.txt --workdir=$D      # a text a line
python -m distill.main --config=$F:task --config.student.init=$D/export/student       # then SST-2
python -m distill.main --config=$F:test      # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict, FieldReference


def get_config(variant: Literal['general', 'task', 'test'] = 'general') -> ConfigDict:
  """The variant `test` is `task` in seconds, on docstrings and from scratch."""
  place = FieldReference('google-bert/bert-base-uncased')       # a checkpoint's folder or hub id
  general, test = variant not in ('task', 'test'), variant == 'test'
  width, pairs = (32, {0: 0, 1: 1}) if test else (768, {0: 2, 1: 5, 2: 8, 3: 11})
  c = ConfigDict(dict(mesh=dict(model=1, fsdp=False), tier=''))
  c.seed = 0
  c.pipeline = 'compare.run'

  masked = dict(reads=dict(), mask='batch/mask', weight=1.0, loss='features.mse')
  layers = dict(embedding=dict(masked, reads=dict(
      student='projected/embedding', teacher='teacher/embedding')))
  projectors = dict(embedding='student/embedding')
  for mine, theirs in pairs.items():
    projectors[f'hidden{mine}'] = f'student/block{mine:02d}/hidden'
    layers[f'hidden{mine}'] = dict(masked, reads=dict(
        student=f'projected/hidden{mine}', teacher=f'teacher/block{theirs:02d}/hidden'))
    layers[f'attention{mine}'] = dict(loss='attention.mse', weight=1.0, reads=dict(
        student=f'student/block{mine:02d}/scores', teacher=f'teacher/block{theirs:02d}/scores',
        where='batch/mask'))
  c.student = dict(
      model=dict(name='bert.Bert', width=312, depth=4, heads=12, inner=1200, dropout=0.1),
      init='', layers=(), frozen=(), projectors={
          name: dict(module=dict(name='projectors.Linear', outputs=width), reads=reads)
          for name, reads in projectors.items()})
  adamw = dict(name='adamw', rate=5e-5, schedule='linear', warmup=0.1, decay=0.01, clip=1.0)
  plan = dict(log_every=100, save_every=1000, eval_every=1000)

  if general:
    c.data = dict(name='files.Text', path='', fields=dict(text=(), label=''), tokenizer=place,
                  length=128, widths=(32, 64, 96, 128), batch_size=256, seed=0)
    c.task = dict(name='words.MaskedWords')
    c.teachers = dict(teacher=dict(model=dict(words=True), init=place, microbatch=0))
    c.student.model.words = True
    c.objective = dict(layers, words=dict(
        loss='supervised.cross_entropy', weight=1e-3, mask='batch/chosen',
        reads=dict(student='student/words', label='batch/target')))
    c.augment = (dict(name='masking.words'),)
    c.optimizer = adamw
    c.train = dict(plan, steps=300_000, accumulate=1, dtype='float32')
    c.evaluate = dict(split='validation', batch_size=64)
    return c

  c.data = dict(name='tfds.Text', dataset='glue/sst2', data_dir='', tokenizer=place,
                fields=dict(text=('sentence',), label='label'), held_out=0.1, length=128,
                widths=(16, 32, 64, 128), batch_size=32, seed=0)
  c.task = dict(name='classification.Classification')
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  # The teacher's rate and epochs are BERT's fine-tuning (Devlin 2018, §A.3), from memory.
  c.teachers = dict(teacher=dict(
      model=dict(dropout=0.1), init=place, fresh=(), shared=True, microbatch=0,
      train=dict(plan, steps=5682, objective=dict(hard=hard), optimizer=dict(adamw, rate=2e-5))))
  c.student.init = 'runs/tinybert/export/student'
  c.before = dict(layers=dict(objective=layers, train=dict(plan, steps=18_940),      # 10 epochs
                              optimizer=dict(adamw, schedule='constant', warmup=0.0)))
  # The soft cross-entropy (eq. 10) is this and the teacher's entropy, which has no gradient. The
  # paper has no labels here: with objective.hard.weight=1.0 there is a baseline.
  c.objective = dict(hard=dict(hard, weight=0.0), soft=dict(
      loss='logits.kl', weight=1.0, reads=dict(student='student/logits', teacher='teacher/logits')))
  c.optimizer = dict(adamw, rate=3e-5)
  c.train = dict(plan, steps=5682, accumulate=1, dtype='float32')
  c.evaluate = dict(split='validation', also=('held_out',), batch_size=64)

  if test:
    place.set('')
    c.data = dict(name='docstrings.Docstrings', per_class=200, vocabulary=1000, minimum=300,
                  length=32, widths=(32,), batch_size=8, seed=0)
    c.teachers.teacher.model = dict(name='bert.Bert', width=32, depth=2, heads=2, std=0.1)
    c.student.init = ''
    c.student.model.update(width=16, depth=2, heads=2, inner=32)
    for train in c.teachers.teacher.train, c.before.layers.train, c.train:
      train.update(steps=4, log_every=2, save_every=2, eval_every=4)
    c.evaluate.update(split='test', also=(), cost=False)
  return c
