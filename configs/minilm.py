"""MiniLM (Wang 2020): the last layer's attention and value relation, on plain text.

General distillation: the student has any depth and width, but as many heads as its teacher. Numbers
are those of the paper's §4.1 for BERT-base as teacher: 400,000 steps at length 512, warm-up over
the first 4,000, linear decay, dropout 0.1, weight decay 0.01; batch 256 and rate 3e-4 for 6 layers
of 384, and in the variant `wide` batch 1024 and rate 5e-4 for 6 of 768. Both terms weigh 1 (eq.
10). Ours: gradients clipped at norm 1, masked inputs (the paper doesn't say), and a masked-word
head to judge by: the encoder hardly notices its small weight, while Adam's steps don't depend on
it. A smaller run is an override of train.steps, optimizer.warmup (a share of them), data.batch_size
and data.length. The student's export is then fine-tuned: as teachers.teacher.init of
configs/glue.py, say.

F=configs/minilm.py; D=runs/minilm
python -m distill.main --config=$F --config.data.path=texts.txt --workdir=$D      # a text a line
python -m distill.main --config=$F:wide --config.data.path=texts.txt
python -m distill.main --config=$F:test      # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict, FieldReference


def get_config(size: Literal['small', 'wide', 'test'] = 'small') -> ConfigDict:
  """The variant `test` is the same run in seconds, on docstrings and from scratch."""
  place = FieldReference('google-bert/bert-base-uncased')       # a checkpoint's folder or hub id
  wide = size == 'wide'
  heads, mine, theirs = (2, 'block00', 'block01') if size == 'test' else (12, 'block05', 'block11')
  c = ConfigDict(dict(mesh=dict(model=1, fsdp=False), tier=''))
  c.seed = 0
  c.pipeline = 'compare.run'
  c.data = dict(name='files.Text', path='', fields=dict(text=(), label=''), tokenizer=place,
                length=512, batch_size=1024 if wide else 256, seed=0)
  c.task = dict(name='words.MaskedWords')
  c.teachers = dict(teacher=dict(model=dict(words=True), init=place, microbatch=0))
  width = 768 if wide else 384
  c.student = dict(model=dict(name='bert.Bert', width=width, depth=6, heads=12, inner=4 * width,
                              dropout=0.1, words=True), init='')

  both = lambda output: dict(student=f'student/{mine}/{output}', where='batch/mask',
                             teacher=f'teacher/{theirs}/{output}')
  words = dict(loss='supervised.cross_entropy', mask='batch/chosen',
               reads=dict(student='student/words', label='batch/target'))
  c.objective = dict(
      attention=dict(loss='attention.kl', weight=1.0, mask='batch/mask', reads=both('attention')),
      value=dict(loss='relations.minilm', kwargs=dict(heads=heads), weight=1.0, mask='batch/mask',
                 reads=both('value')),
      words=dict(words, weight=1e-3))
  c.augment = (dict(name='masking.words'),)
  c.optimizer = dict(name='adamw', rate=5e-4 if wide else 3e-4, schedule='linear', warmup=0.01,
                     decay=0.01, clip=1.0)
  c.train = dict(steps=400_000, log_every=100, save_every=1000, eval_every=10_000,
                 accumulate=16 if wide else 4, dtype='float32')
  c.evaluate = dict(split='validation', batch_size=16)

  if size == 'test':
    place.set('')
    c.data = dict(name='docstrings.Docstrings', per_class=200, vocabulary=1000, minimum=300,
                  length=32, widths=(32,), batch_size=8, seed=0)
    plan = dict(steps=4, log_every=2, save_every=2, eval_every=4)
    c.teachers.teacher = dict(
        model=dict(name='bert.Bert', width=32, depth=2, heads=2, std=0.1, words=True),
        train=dict(plan, objective=dict(words=words), optimizer=c.optimizer, augment=c.augment))
    c.student.model.update(width=16, depth=1, heads=2, inner=32)
    c.train.update(plan, accumulate=1)
    c.evaluate.update(split='test', cost=False)
  return c
