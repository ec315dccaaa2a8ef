"""Docstrings: one encoder teaches a narrower one that has a tenth of the labels; text methods.

The networks, texts and labels of `configs/bert.py` with less training, to compare many methods:
terms on logits, terms on layers alone, and what papers on encoders add to plain KD. Weights are the
papers' where they give one, for their models.

python -m distill.main --config=configs/docstrings.py:tinybert      # or another of METHODS
python -m distill.main --config=configs/docstrings.py:test          # what the tests run
"""
from ml_collections import ConfigDict, FieldReference

METHODS = dict(     # method -> its terms' weights, beside `hard`; a number: of the one of its name
    kd=1.0, match=1.0, dkd=1.0, dist=2.0, reverse_kl=1.0, jsd=1.0, taid=1.0, ctkd=1.0,
    hidden=dict(first=1.0, last=1.0), attention=dict(scores=1.0),
    relations=dict(maps=1.0, values=1.0), rkd=dict(rkd_distance=25.0, rkd_angle=50.0), infonce=0.8,
    distilbert=dict(kd=5.0, cosine=1.0), pkd=dict(kd=1.0, patience=0.8),
    tinybert=dict(kd=1.0, embedding=1.0, first=1.0, last=1.0, scores=1.0),
    minilm=dict(kd=1.0, maps=1.0, values=1.0),
    mobilebert=dict(kd=1.0, standardised=100.0, moments=1.0, maps=1.0),
    uncertainty=dict(weighed=1.0, penalty=1.0), dwa=dict(kd=1.0), gradnorm=dict(kd=1.0))


def get_config(method: str = 'kd') -> ConfigDict:
  """Every method's terms are there, at weight 0 if another's is asked for."""
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.data = dict(name='docstrings.Docstrings', vocabulary=8000, per_class=4000, minimum=300,
                length=64, widths=(16, 32, 48, 64), batch_size=32, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')
  adamw = dict(name='adamw', rate=1e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  term = lambda loss, mask='', weight=0.0, kwargs=dict(), **reads: dict(
      loss=loss, weight=weight, mask=mask, scale='', kwargs=kwargs, reads=reads)
  both = lambda path: dict(student=f'student/{path}', teacher=f'teacher/{path}')
  hard = term('supervised.cross_entropy', student='student/logits', label='batch/label', weight=1.0)
  encoder = lambda width, **how: dict(how, name='bert.Bert', width=width, depth=2, heads=4)
  plan = dict(log_every=100, save_every=500, eval_every=500)
  c.teachers = dict(teacher=dict(
      model=encoder(128, dropout=0.2, std=0.08), init='', microbatch=0,
      train=dict(plan, steps=2500, objective=dict(hard=hard), optimizer=adamw)))
  module = lambda name, reads, **how: dict(module=dict(how, name=name), reads=reads)
  layers = dict(embedding='embedding', first='block00/hidden', last='block01/hidden')
  c.student = dict(
      model=encoder(56, dropout=0.0, std=0.1), init='', layers=(), frozen=(), projectors=dict(
          **{name: module('projectors.Linear', f'student/{path}', outputs=128)
             for name, path in layers.items()},
          noise=module('weights.Uncertainty', 'batch/valid', terms=('kd',)),
          mine=module('projectors.Embedding', 'student/pooled', outputs=32),
          theirs=module('projectors.Embedding', 'teacher/pooled', outputs=32),
          temperature=module('temperatures.Learned', 'schedule/reversal')))
  steps = FieldReference(1250)
  c.schedules = dict(reversal=dict(name='cosine', start=0.0, stop=-1.0, steps=steps // 5))
  c.carry = dict(pace=dict(name='Taid', teacher='teacher/logits', steps=steps),
                 dwa=dict(name='DWA', window=100, terms=('hard', 'kd')),
                 gradnorm=dict(name='GradNorm', terms=('hard', 'kd')))
  logits = lambda loss, **how: term(loss, **both('logits'), **how)
  layer = lambda loss, name, **how: term(loss, mask='batch/mask', student=f'projected/{name}',
                                         teacher=f'teacher/{layers[name]}', **how)
  heads = lambda loss, path, **how: term(loss, **both(f'block01/{path}'), where='batch/mask', **how)
  pooled = lambda loss: term(loss, **both('pooled'), where='batch/valid')
  c.objective = dict(
      hard=dict(hard, mask='batch/labelled'), match=logits('logits.mse'),
      kd=logits('logits.kl', kwargs=dict(temperature=2.0)),
      dkd=logits('logits.dkd', mask='batch/labelled', label='batch/label'),
      dist=logits('correlations.dist', kwargs=dict(temperature=2.0), where='batch/valid'),
      **{name: logits(f'divergences.{name}') for name in ('reverse_kl', 'jsd')},
      taid=logits('divergences.taid', t='carry/pace/t'),
      ctkd=logits('logits.kl', temperature='projected/temperature'),
      **{name: layer('features.mse', name) for name in layers},
      cosine=layer('features.cosine', 'last'), standardised=layer('features.standardised', 'last'),
      moments=layer('features.moments', 'last', kwargs=dict(beta=5000.0, gamma=5.0)),
      patience=term('features.pkd', student='projected/first', teacher='teacher/block00/hidden'),
      scores=heads('attention.mse', 'scores'),
      maps=heads('attention.kl', 'attention', mask='batch/mask'),
      values=heads('relations.minilm', 'value', mask='batch/mask', kwargs=dict(heads=4)),
      rkd_distance=pooled('relations.rkd_distance'), rkd_angle=pooled('relations.rkd_angle'),
      infonce=term('contrastive.infonce', student='projected/mine', teacher='projected/theirs',
                   where='batch/valid'),
      weighed=dict(logits('logits.kl', kwargs=dict(temperature=2.0)), scale='projected/noise/kd'),
      penalty=term('balance.penalty', value='projected/noise/kd/penalty', like='teacher/logits'))
  if method in METHODS or method == 'test':
    weights = METHODS['tinybert' if method == 'test' else method]
    for name, weight in (weights if isinstance(weights, dict) else {method: weights}).items():
      c.objective[name].weight = weight
  for name in ('hard', 'kd') if method in ('dwa', 'gradnorm') else ():
    c.objective[name].update(group=name, scale=f'carry/{method}/{name}')
  c.optimizer = dict(adamw, rate=2e-3)
  c.train = dict(plan, steps=steps, accumulate=1, dtype='float32')
  c.evaluate = dict(split='test', batch_size=64, cost=False)    # all have the same two networks
  if method == 'test':
    c.data.update(batch_size=8, per_class=200, vocabulary=1000, length=32, widths=(32,))
    c.teachers.teacher.train.update(steps=6, log_every=2, save_every=3, eval_every=0)
    c.train.update(steps=6, log_every=2, save_every=3, eval_every=6)
  return c


def sweep():
  """What is each method worth, and the baseline at its best rate?"""
  yield from METHODS
  yield {'variant': 'kd', 'optimizer.rate': 1e-3}
  yield {'variant': 'kd', 'optimizer.rate': 4e-3}
