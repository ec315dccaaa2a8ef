"""Chains: who teaches the teacher, and in how many stages the student learns; on digits.

Networks, steps, weights and labels are those of digits.py: the teacher (ResNet-8, 16 to 64
channels) trains on all labels; who comes after it has a tenth of them. Every model, and every stage
of the student, trains for equally many steps. Nothing is tuned. The student learns from …

  kd           the teacher: plain KD, what the others are compared with
  takd         an assistant of middle width, which learnt from the teacher (TAKD, Mirzadeh 2020)
  densely      both (DGKD, Son 2021; without its random dropping of teachers)
  two_stage    the teacher's hints, up to its middle stage, then its logits (FitNets, Romero 2015)
  generations  the last of three of its own shape, each from the one before (Furlanello 2018)

Students that learn from each other at once are one model of several: digits.py:mutual.

python -m distill.main --config=configs/chains.py:takd
python -m experiments.run configs/chains.py --out=experiments/methods      # all of them, compared
python -m distill.main --config=configs/chains.py:test       # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict

CHAINS = dict(          # variant -> who learns, and from whom
    kd=dict(teacher=(), student=('teacher',)),
    takd=dict(teacher=(), assistant=('teacher',), student=('assistant',)),
    densely=dict(teacher=(), assistant=('teacher',), student=('assistant', 'teacher')),
    two_stage=dict(teacher=(), student=('teacher',)),
    generations=dict(gen1=(), gen2=('gen1',), gen3=('gen2',), student=('gen3',)))
WIDTHS = dict(teacher=(16, 16, 32, 64), assistant=(8, 8, 16, 32))       # all others: the student's


def get_config(variant: Literal[*CHAINS, 'test'] = 'takd') -> ConfigDict:
  """The variant `test` is `densely` after the hints of `two_stage`, in seconds."""
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False)))
  c.data = dict(name='digits.Digits', test=0.25, validation=0.0, batch_size=64, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')
  adamw = dict(name='adamw', rate=3e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  plan = dict(steps=600, log_every=50, save_every=300, eval_every=200)
  if variant == 'test':
    c.data.batch_size = 8
    plan = dict(steps=6, log_every=2, save_every=3, eval_every=6)
  chain = CHAINS[variant if variant in CHAINS else 'densely']

  term = lambda loss, mask='', kwargs=dict(), **reads: dict(
      loss=loss, weight=1.0, mask=mask, scale='', kwargs=kwargs, reads=reads)
  model = lambda name: dict(name='resnet.ResNet', depth=8, widths=WIDTHS.get(name, (4, 4, 8, 16)))

  def objective(name):
    hard = term('supervised.cross_entropy', mask='batch/labelled' if chain[name] else '',
                student='student/logits', label='batch/label')
    return dict(hard=hard, **{f'kd_{teacher}': term(
        'logits.kl', student='student/logits', teacher=f'{teacher}/logits',
        kwargs=dict(temperature=1.0 if variant == 'generations' else 4.0))
        for teacher in chain[name]})

  few = dict(labelled=c.data.labelled, drawn=c.data.drawn)
  c.teachers = {name: dict(
      model=model(name), init='', seed=seed, train=dict(
          plan, objective=objective(name), optimizer=dict(adamw), **few if chain[name] else {}))
      # Of its own shape none starts as the student does.
      for seed, name in enumerate(chain, start=variant == 'generations') if name != 'student'}
  c.student = dict(
      model=model('student'), init='', layers=(), fresh=(), frozen=(), projectors=dict(high=dict(
          module=dict(name='projectors.Regressor', outputs=32), reads='student/stage2/features')))
  hint = term('features.mse', student='projected/high', teacher='teacher/stage2/features')
  c.before = {}
  if variant in ('two_stage', 'test'):          # what is above the guided stage isn't trained
    c.before.hints = dict(objective=dict(hint=hint), optimizer=adamw, train=plan,
                          frozen=('stages/3/*', 'head/*'))
  c.objective = objective('student')
  c.optimizer = adamw
  c.train = dict(plan, accumulate=1, dtype='float32', shares=False)
  c.evaluate = dict(split='test', batch_size=64, cost=False)
  return c


def sweep():
  """Which way from the teacher to the student is worth what; and the baseline at its best rate."""
  yield from CHAINS
  for rate in 1e-3, 1e-2, 3e-2, 0.1, 0.3:
    yield {'variant': 'kd', 'optimizer.rate': rate}
