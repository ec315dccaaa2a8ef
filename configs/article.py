"""The article's claims: a weight that moves, temperatures, batches, attention; on digits.

The networks, the data and the optimizer are those of configs/digits.py. The objective is the
article's as it was meant: (1 − w(t)) · cross-entropy + w(t) · T² · KL(teacher‖student), as two
terms with a schedule each. What the article gives in epochs is a share of the steps here. T is
`objective.kd.kwargs.temperature`, 4 unless an arm says otherwise (the article's own is 1).

python -m distill.main --config=configs/article.py                   # ramp-tenth-0.7
python -m distill.main --config=configs/article.py:reverse-0.9       # or another of VARIANTS
python -m distill.main --config=configs/article.py:test              # what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict, FieldReference


def mse(c):
  """Adds the squared error of logits at weight 1 (Ba & Caruana 2014, eq. 1)."""
  c.objective.mse = dict(loss='logits.mse', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def hint(c):
  """Adds FitNet's hint at its usual weight (Romero 2015, §2.2)."""
  c.student.projectors.high = dict(
      module=dict(name='projectors.Regressor', outputs=32), reads='student/stage2/features')
  c.objective.hint = dict(loss='features.mse', weight=100.0, reads=dict(
      student='projected/high', teacher='teacher/stage2/features'))


def maps(c):
  """Adds the attention maps of every stage (Zagoruyko 2017, eq. 2)."""
  for n in 1, 2, 3:
    c.objective[f'at{n}'] = dict(loss='maps.at', weight=1000.0, reads=dict(
        student=f'student/stage{n}/features', teacher=f'teacher/stage{n}/features'))


def attention(c):
  """Replaces plain KD's term by attention maps."""
  del c.objective.kd
  maps(c)


MOVING = {      # w: from, to, over one part in so many of the steps; then it stays
    'fixed-0.5': (0.5, 0.5, 1), 'fixed-0.7': (0.7, 0.7, 1), 'fixed-0.9': (0.9, 0.9, 1),
    'ramp-tenth-0.7': (0.0, 0.7, 10), 'ramp-tenth-0.9': (0.0, 0.9, 10),     # 10 epochs of 100
    'ramp-sixth-0.7': (0.0, 0.7, 6), 'ramp-sixth-0.9': (0.0, 0.9, 6),
    'linear-0.9': (0.0, 0.9, 1), 'advice-0.4-0.8': (0.4, 0.8, 1), 'reverse-0.9': (0.9, 0.0, 1),
    'warm-up': (0.0, 1.0, 12)}      # DKD's, 20 of 240 epochs: the cross-entropy keeps weight 1
BESIDE = {      # w, which stays, and the function of what comes beside the two terms
    'kl+mse': (0.7, mse), 'kl+hint': (0.7, hint), 'attention': (0.0, attention),
    'kl+attention': (0.7, maps)}
VARIANTS = *MOVING, *BESIDE


def get_config(variant: Literal[*VARIANTS, 'test'] = 'ramp-tenth-0.7') -> ConfigDict:
  """The variant `test` is a run of seconds with every term, and a weight that moves."""
  w, *beside = BESIDE[variant] if variant in BESIDE else (0.0,)
  start, stop, part = MOVING[variant] if variant in MOVING else (w, w, 1)
  if variant == 'test':
    stop, beside = 0.9, (mse, hint, maps)
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.data = dict(name='digits.Digits', test=0.25, validation=0.0, batch_size=64, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')
  steps = FieldReference(600)
  adamw = dict(name='adamw', rate=3e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  resnet = lambda *widths: dict(name='resnet.ResNet', depth=8, widths=widths)
  moving = lambda start, stop: dict(name='linear', start=start, stop=stop, steps=steps // part)
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  plan = dict(log_every=20, save_every=300, eval_every=20)
  c.teachers = dict(teacher=dict(
      model=resnet(16, 16, 32, 64), init='', train=dict(
          plan, steps=600, batch_size=64, eval_every=200, objective=dict(hard=hard),
          optimizer=adamw)))
  c.student = dict(model=resnet(4, 4, 8, 16), init='', projectors=dict())
  task = (1.0, 1.0) if variant == 'warm-up' else (round(1 - start, 6), round(1 - stop, 6))
  c.objective = dict(
      hard=dict(hard, mask='batch/labelled', schedule=moving(*task)),
      kd=dict(loss='logits.kl', weight=1.0, kwargs=dict(temperature=4.0),
              reads=dict(student='student/logits', teacher='teacher/logits'),
              schedule=moving(start, stop)))
  for add in beside:
    add(c)
  c.optimizer = adamw
  c.train = dict(plan, steps=steps)
  c.evaluate = dict(split='test', batch_size=64, cost=False)    # all have the same two networks
  if variant == 'test':
    c.data.update(batch_size=8)
    c.teachers.teacher.train.update(steps=6, log_every=2, save_every=3, eval_every=0, batch_size=8)
    c.train.update(steps=6, log_every=2, save_every=3, eval_every=2)
  return c


def sweep():
  """What is each claim worth, and the baseline at its best rate?"""
  temperature = 'objective.kd.kwargs.temperature'
  yield from VARIANTS
  yield from ({'variant': variant, temperature: 1.0} for variant in MOVING)
  for other in ({temperature: 2.0}, {temperature: 3.0}, {temperature: 8.0},
                {'data.batch_size': 96}, {'data.batch_size': 128},
                {'data.batch_size': 96, 'train.steps': 400},      # as many examples
                {'data.batch_size': 128, 'train.steps': 300},
                *({'optimizer.rate': rate} for rate in (1e-3, 1e-2, 3e-2, 0.1, 0.3))):
    yield {'variant': 'fixed-0.7', **other}
