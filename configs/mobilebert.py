"""MobileBERT's transfer (Sun 2020): every layer's hidden states and attention, on plain text.

A student as deep as its teacher learns each block's hidden states (100 times their distance at mean
0 and deviation 1; 5000 times that of the means squared, 5 times that of the variances) and its
attention. The weights, LAMB at 1.5e-3, batches of 2048 and 240,000 steps are the authors'. Ours: a
plain BERT of width 384 behind a linear map instead of bottlenecks, a BERT-base for the teacher
instead of their IB-BERT, all layers at once instead of one after the other, length 128; and a
masked-word head to judge by. A smaller run is an override. The student's export is then fine-tuned:
as teachers.teacher.init of configs/glue.py, say.

F=configs/mobilebert.py; D=runs/mobilebert
python -m distill.main --config=$F --config.data.path=texts.txt --workdir=$D      # a text a line
python -m distill.main --config=$F:test      # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict, FieldReference


def get_config(size: Literal['full', 'test'] = 'full') -> ConfigDict:
  """The variant `test` is the same run in seconds, on docstrings and from scratch."""
  place = FieldReference('google-bert/bert-base-uncased')       # a checkpoint's folder or hub id
  depth, width = (2, 32) if size == 'test' else (12, 768)
  blocks = [f'block{i:02}' for i in range(depth)]
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.data = dict(name='files.Text', path='', fields=dict(text=(), label=''), tokenizer=place,
                length=128, batch_size=2048, seed=0)
  c.task = dict(name='words.MaskedWords')
  c.teachers = dict(teacher=dict(model=dict(words=True), init=place, microbatch=256))
  c.student = dict(
      model=dict(name='bert.Bert', width=384, depth=depth, heads=12, inner=1536, dropout=0.1,
                 words=True), init='',
      projectors={block: dict(module=dict(name='projectors.Linear', outputs=width),
                              reads=f'student/{block}/hidden') for block in blocks})
  words = dict(loss='supervised.cross_entropy', mask='batch/chosen', weight=1.0,
               reads=dict(student='student/words', label='batch/target'))
  c.objective = dict(words=words)
  for block in blocks:
    hidden = dict(student=f'projected/{block}', teacher=f'teacher/{block}/hidden')
    c.objective[f'{block}_map'] = dict(
        loss='features.standardised', weight=100.0, mask='batch/mask', reads=hidden)
    c.objective[f'{block}_moments'] = dict(
        loss='features.moments', kwargs=dict(beta=5000.0, gamma=5.0), weight=1.0,
        mask='batch/mask', reads=hidden)
    c.objective[f'{block}_attention'] = dict(
        loss='attention.kl', weight=1.0, mask='batch/mask', reads=dict(
            student=f'student/{block}/attention', teacher=f'teacher/{block}/attention',
            where='batch/mask'))
  c.augment = (dict(name='masking.words'),)
  c.optimizer = dict(name='lamb', rate=1.5e-3, schedule='linear', warmup=0.04, decay=0.01, clip=1.0)
  c.train = dict(steps=240_000, log_every=100, save_every=1000, eval_every=10_000, accumulate=8,
                 dtype='float32')
  c.evaluate = dict(split='validation', batch_size=16)
  if size == 'test':
    place.set('')
    c.data = dict(name='docstrings.Docstrings', per_class=200, vocabulary=1000, minimum=300,
                  length=32, widths=(32,), batch_size=8, seed=0)
    plan = dict(steps=4, log_every=2, save_every=2, eval_every=4)
    c.teachers.teacher = dict(
        model=dict(name='bert.Bert', width=width, depth=2, heads=2, std=0.1, words=True),
        train=dict(plan, objective=dict(words=words), optimizer=c.optimizer, augment=c.augment))
    c.student.model.update(width=16, heads=2, inner=32)
    c.train.update(plan, accumulate=1)
    c.evaluate.update(split='test', cost=False)
  return c
