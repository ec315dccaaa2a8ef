"""Robust students on digits: they learn from adversarial views, and from their own moving average.

Networks, steps and labels are those of digits.py: the teacher (ResNet-8, 16 to 64 channels) trains
on all labels, the student (4 to 16) has a tenth of them. In every step the student sees images that
are moved to where it is worst, by at most 0.2 standard deviations a pixel; the teacher answers the
clean ones. The report's robustness has FGSM and four corruptions. The student is …

  kd       as in digits.py, on clean images: what the others are compared with
  fgsm     attacked once (Goldblum 2020's ARD with the attack of Goodfellow 2015)
  ard      attacked by PGD where its own objective is largest (ARD, Goldblum 2020)
  rslad    attacked by PGD where it is farthest from the teacher's clean answer (Zi 2021)
  mean     on clean images, and near the average of its own parameters (Tarvainen 2017; with the KL
           for the squared error of probabilities)

Nothing is tuned, and ARD's term on clean images is left out: a step asks the student once.

python -m distill.main --config=configs/robust.py:ard
python -m distill.main --config=configs/robust.py:test       # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict

PGD = dict(name='adversarial.pgd', epsilon=0.2, rate=0.05, steps=7)
ATTACKS = dict(         # variant -> the augment of the student's step
    kd=(), fgsm=(dict(name='adversarial.fgsm', epsilon=0.2),), ard=(PGD,),
    rslad=(dict(PGD, of='teacher'),), mean=(), test=(dict(PGD, steps=2),))


def get_config(variant: Literal[*ATTACKS] = 'ard') -> ConfigDict:
  """The variant `test` is `ard` and `mean` together, in seconds."""
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False)))
  c.data = dict(name='digits.Digits', test=0.25, validation=0.0, batch_size=64, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')
  adamw = dict(name='adamw', rate=3e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  plan = dict(steps=600, log_every=50, save_every=300, eval_every=200)
  if variant == 'test':
    c.data.batch_size = 8
    plan = dict(steps=6, log_every=2, save_every=3, eval_every=6)
  resnet = lambda *widths: dict(name='resnet.ResNet', depth=8, widths=widths)
  hard = dict(loss='supervised.cross_entropy', mask='batch/labelled',
              reads=dict(student='student/logits', label='batch/label'))
  near = lambda teacher, **how: dict(loss='logits.kl', **how, reads=dict(
      student='student/logits', teacher=f'{teacher}/logits'))
  c.teachers = dict(teacher=dict(model=resnet(16, 16, 32, 64), init='', train=dict(
      plan, objective=dict(hard=hard), optimizer=adamw)))
  c.student = dict(model=resnet(4, 4, 8, 16))
  c.objective = dict(hard=hard, kd=near('teacher', kwargs=dict(temperature=4.0)))
  if variant in ('mean', 'test'):
    c.teachers.mean = dict(source='carry:average')
    c.carry = dict(average=dict(name='Average', decay=0.99))
    c.objective.mean = near('mean', schedule=dict(name='ramp', steps=plan['steps'] // 5))
  c.augment = ATTACKS[variant] if variant in ATTACKS else ()
  c.optimizer = adamw
  c.train = dict(plan, accumulate=1, dtype='float32')
  c.evaluate = dict(split='test', batch_size=64, cost=variant != 'test', alone=True)
  return c


def sweep():
  """What does each cost on clean digits, and gain under attack?"""
  yield from ('kd', 'fgsm', 'ard', 'rslad', 'mean')
