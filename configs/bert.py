"""BERT: a teacher that saw every label, a student with a tenth of them and all the text.

Which library does a docstring come from? The teacher (4 layers, 128 wide) trains on all labels;
they are then gone. The student (2 layers, 64 wide) has a tenth of them, all the text, and the
teacher. No download: the docstrings are those of this Python and of distill's dependencies.

python -m distill.main --config=configs/bert.py
python -m distill.main --config=configs/bert.py:test      # seconds; what the tests run
"""
from ml_collections import ConfigDict


def get_config(size: str = 'full') -> ConfigDict:
  """`test` is the same run in seconds."""
  c = ConfigDict()
  c.seed = 0
  c.pipeline = 'compare.run'

  c.data = dict(name='docstrings.Docstrings', vocabulary=8000, per_class=4000, minimum=300,
                length=64, widths=(16, 32, 48, 64), batch_size=64, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')

  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  c.teachers = dict(teacher=dict(
      model=dict(name='bert.Bert', width=128, depth=4, heads=4), init='',
      train=dict(steps=1500, log_every=50, save_every=500, objective=dict(hard=hard),
                 optimizer=dict(name='adamw', rate=1e-3, schedule='cosine', warmup=0.1,
                                decay=0.01, clip=1.0))))
  c.student = dict(model=dict(name='bert.Bert', width=64, depth=2, heads=4, dropout=0.0), init='',
                   layers=())

  c.objective = dict(
      hard=dict(hard, mask='batch/labelled'),
      soft=dict(loss='logits.kl', weight=1.0, kwargs=dict(temperature=2.0),
                reads=dict(student='student/logits', teacher='teacher/logits')))
  c.optimizer = dict(name='adamw', rate=2e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  c.train = dict(steps=3500, log_every=50, save_every=500, eval_every=0, accumulate=1,
                 dtype='float32')
  c.evaluate = dict(split='test', batch_size=64)

  if size == 'test':
    c.data.update(batch_size=8, per_class=200, vocabulary=1000, length=32, widths=(32,))
    c.teachers.teacher.model.update(width=64, depth=2)
    c.student.model.update(width=32, depth=1)
    c.teachers.teacher.train.update(steps=6, log_every=2, save_every=3)
    c.train.update(steps=6, log_every=2, save_every=3)
  return c
