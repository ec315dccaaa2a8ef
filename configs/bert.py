"""BERT: a teacher that saw every label, a student with a tenth of them and all the text.

Which library does a docstring come from? The teacher trains on all labels, the student on a tenth
of them and on all the text. No download: the docstrings are of Python and distill's dependencies.

python -m distill.main --config=configs/bert.py
python -m distill.main --config=configs/bert.py:sst2      # a pretrained checkpoint, GLUE's SST-2
"""
from typing import Literal

from ml_collections import ConfigDict, FieldReference


def get_config(size: Literal['full', 'words', 'half', 'sst2', 'test'] = 'full') -> ConfigDict:
  """The variant `test` is the same run in seconds, with every term."""
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.data = dict(name='docstrings.Docstrings', vocabulary=8000, per_class=4000, minimum=300,
                length=64, widths=(16, 32, 48, 64), batch_size=32, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')
  adamw = dict(name='adamw', rate=1e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  c.teachers = dict(teacher=dict(
      model=dict(name='bert.Bert', width=128, depth=2, heads=4, dropout=0.2, std=0.08), init='',
      microbatch=0, train=dict(steps=4000, log_every=100, save_every=500, eval_every=1000,
                               objective=dict(hard=hard), optimizer=adamw)))
  c.student = dict(
      model=dict(name='bert.Bert', width=56, depth=2, heads=4, dropout=0.0, std=0.1), init='',
      layers=(), frozen=(), projectors=dict(wide=dict(
          module=dict(name='projectors.Linear', outputs=128), reads='student/block01/hidden')))
  # `start` and `stop` may make a weight move over the first `steps`.
  moving = lambda: dict(name='linear', start=1.0, stop=1.0, steps=250)
  both = lambda student, teacher: dict(student=f'student/{student}', teacher=f'teacher/{teacher}')
  c.objective = dict(
      hard=dict(hard, mask='batch/labelled', schedule=moving()),
      soft=dict(loss='logits.kl', kwargs=dict(temperature=2.0), weight=1.0, schedule=moving(),
                reads=both('logits', 'logits')),
      match=dict(loss='logits.mse', weight=0.0, reads=both('logits', 'logits')),
      hint=dict(loss='features.mse', weight=0.0, mask='batch/mask',
                reads=dict(student='projected/wide', teacher='teacher/block01/hidden')),
      maps=dict(loss='attention.mse', weight=0.0, reads=dict(
          both('block01/attention', 'block01/attention'), where='batch/mask')),
      relations=dict(loss='relations.minilm', kwargs=dict(heads=4), weight=0.0, mask='batch/mask',
                     reads=dict(both('block01/value', 'block01/value'), where='batch/mask')))
  c.optimizer = dict(adamw, rate=2e-3)
  c.train = dict(steps=2500, log_every=100, save_every=500, eval_every=500)
  c.evaluate = dict(split='test', batch_size=64)
  if size == 'words':                         # student and baseline learn from all the text too
    c.student.model.words = True
    c.augment = (dict(name='masking.words'),)
    c.objective.words = dict(loss='supervised.cross_entropy', weight=0.2, mask='batch/chosen',
                             reads=dict(student='student/words', label='batch/target'))
  if size == 'half':                          # the student's weights in 16 bits, as shipped
    c.derive = dict(half=dict(of='student', change=dict(name='precision.Half')))
  if size == 'sst2':              # a pretrained encoder, fine-tuned; every second of its layers
    place = FieldReference('sentence-transformers/all-MiniLM-L6-v2')      # or a folder
    c.data = dict(name='tfds.Text', dataset='glue/sst2', data_dir='', tokenizer=place,
                  fields=dict(text=('sentence',), label='label'), held_out=0.1, length=64,
                  widths=(8, 16, 32, 64), batch_size=64, seed=0)
    adamw.update(rate=1e-4, schedule='linear')
    plan = dict(steps=952, log_every=56, save_every=476, eval_every=952)             # an epoch
    c.teachers.teacher = dict(
        model=dict(dropout=0.1), init=place, fresh=(), shared=True, microbatch=0,
        train=dict(plan, steps=1904, objective=dict(hard=hard), optimizer=adamw))
    c.student = dict(model=dict(name='bert.Bert', width=384, depth=3, heads=12, dropout=0.1),
                     init='teacher', layers=(1, 3, 5), frozen=(), projectors=dict())
    c.objective = dict(hard=hard, soft=dict(c.objective.soft, schedule=dict(name='constant')))
    c.optimizer = adamw
    c.train.update(plan)
    c.evaluate = dict(split='validation', also=('held_out',), batch_size=64)
  if size == 'test':
    c.data.update(batch_size=8, per_class=200, vocabulary=1000, length=32, widths=(32,))
    c.teachers.teacher.model.width, c.student.model.width = 32, 16
    c.student.projectors.wide.module.update(outputs=32)
    c.teachers.teacher.train.update(steps=6, log_every=2, save_every=3, eval_every=0)
    c.train.update(steps=6, log_every=2, save_every=3, eval_every=6)
    for term in ('match', 'hint', 'maps', 'relations'):
      c.objective[term].weight = 0.1
    c.evaluate.update(alone=False, faithfulness=False)
  return c


def sweep(size: str = 'full'):
  """What is each term worth, and the ramp, and the labels; and the baseline at its best rate."""
  yield {}
  if size != 'full':
    return
  yield {'data.labelled': 1.0, 'data.drawn': 0.0}                 # every label is there
  yield from ({'optimizer.rate': rate} for rate in (1e-3, 4e-3))
  yield {'objective.hard.weight': 0.0}                            # the teacher alone
  weights = dict(match=0.5, hint=1.0, maps=100.0)
  yield from ({f'objective.{term}.weight': weights[term]} for term in weights)
  yield {'objective.hard.weight': 0.3, 'objective.soft.weight': 0.7}       # the article's, fixed
  yield {'objective.hard.schedule.stop': 0.3, 'objective.soft.schedule.start': 0.0,
         'objective.soft.weight': 0.7}                                     # … and as a ramp
  yield {'data.drawn': 1.0}                                       # labelled texts alone
  yield 'half'                                                    # and its weights in 16 bits
  mixed = {'teachers.teacher.dtype': 'mixed'}
  yield from (mixed, {**mixed, 'train.dtype': 'mixed'})
