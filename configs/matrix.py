"""Matrix: one teacher, a student for each deployment tier, one report that says what each reaches.

The data are docstrings (see `configs/bert.py`), or digits, in a minute. A tier is a line of
`distill/report/tiers.py`, its limits are `evaluate.tiers`. `ultralight` wants weights of 8 bits,
which nothing here makes yet: its student misses that limit, and the report says so.

python -m distill.main --config=configs/matrix.py
python -m distill.main --config=configs/matrix.py:digits
python -m distill.main --config=configs/matrix.py --config.tier=edge      # exit 17 if it is missed
python -m distill.main --config=configs/matrix.py:test                    # what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict


def get_config(variant: Literal['docstrings', 'digits', 'test'] = 'docstrings') -> ConfigDict:
  """The variant `test` is that of the digits, in seconds, with two of the students."""
  c = ConfigDict(dict(seed=0, pipeline='matrix.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.task = dict(name='classification.Classification')
  few = dict(labelled=0.1, drawn=0.5)         # a tenth of the labels, in half of every batch
  if variant in ('digits', 'test'):
    c.data = dict(few, name='digits.Digits', test=0.25, validation=0.0, batch_size=64, seed=0)
    model = lambda *widths: dict(name='resnet.ResNet', depth=8, widths=widths)
    plan = dict(log_every=50, save_every=300, eval_every=200)
    steps, rates = (600, 600), (3e-3, 3e-3)
    teacher = model(16, 16, 32, 64)
    students = dict(cloud=model(8, 8, 16, 32), edge=model(4, 4, 8, 16),
                    ultralight=model(2, 2, 4, 8))
  else:
    c.data = dict(few, name='docstrings.Docstrings', vocabulary=8000, per_class=4000, minimum=300,
                  length=64, widths=(16, 32, 48, 64), batch_size=32, seed=0)
    model = lambda width, **how: dict(how, name='bert.Bert', width=width, heads=4)
    plan = dict(log_every=100, save_every=500, eval_every=500)
    steps, rates = (2500, 1250), (1e-3, 2e-3)                   # the teacher's, the students'
    teacher = model(128, depth=2, dropout=0.2, std=0.08)
    students = dict(cloud=model(56, depth=2, dropout=0.0, std=0.1),
                    edge=model(16, depth=2, dropout=0.0, std=0.1),
                    ultralight=model(32, depth=1, dropout=0.0, std=0.1))
  adamw = lambda rate: dict(name='adamw', rate=rate, schedule='cosine', warmup=0.1, decay=0.01,
                            clip=1.0)
  hard = dict(loss='supervised.cross_entropy', weight=1.0, mask='',
              reads=dict(student='student/logits', label='batch/label'))
  c.teachers = dict(teacher=dict(
      model=teacher, init='', microbatch=0,
      train=dict(plan, steps=steps[0], objective=dict(hard=hard), optimizer=adamw(rates[0]))))
  c.students = {tier: dict(tier=tier, student=dict(model=model, init='', layers=(), frozen=()))
                for tier, model in students.items()}
  c.objective = dict(
      hard=dict(hard, mask='batch/labelled'),
      kd=dict(loss='logits.kl', kwargs=dict(temperature=2.0), weight=1.0,
              reads=dict(student='student/logits', teacher='teacher/logits')))
  c.optimizer = adamw(rates[1])
  c.train = dict(plan, steps=steps[1], accumulate=1, dtype='float32')
  c.evaluate = dict(
      split='test', batch_size=64, cost=True, alone=True, faithfulness=True,
      watts=10.0,                 # of a busy core: an assumption, for energy that nothing counts
      tiers=dict(cloud=dict(kept=0.9), edge=dict(params=0.1, p95_ms=50.0),
                 ultralight=dict(bytes=5e6, quantised=0.9)))
  if variant == 'test':
    c.data.batch_size = 8
    for train in c.teachers.teacher.train, c.train:
      train.update(steps=4, log_every=2, save_every=2, eval_every=0)
    c.evaluate.update(alone=False, faithfulness=False)
    del c.students.edge
  return c
