"""Digits: a residual network teaches a narrow one that has a tenth of the labels; every method.

1,797 images of 8 × 8 pixels that come with scikit-learn. The teacher (ResNet-8, 16 to 64 channels)
trains on all labels; they are then gone. The student (the same, 4 to 16 channels) has a tenth of
them, all the images, and the teacher. Weights are the papers' where they give one, for theirs.

python -m distill.main --config=configs/digits.py
python -m distill.main --config=configs/digits.py:dkd       # or another of METHODS
python -m distill.main --config=configs/digits.py:test      # what the tests run, five in one sum
"""
from ml_collections import ConfigDict, FieldReference

METHODS = dict(     # method -> its terms' weights, beside `hard`; a number: of the one of its name
    kd=1.0, match=1.0, standard=9.0, dkd=1.0, nkd=1.0, wsld=2.5, teacher_free=1.0, lwf=1.0,
    dist=2.0, mlkd=dict(kd=1.0, mlkd_batch=1.0, mlkd_class=1.0), ctkd=1.0, flsw=1.0, cwsm=1.0,
    reverse_kl=1.0, symmetric_kl=1.0, tvd=1.0, jsd=1.0, skew_kl=1.0, skew_reverse_kl=1.0, akl=1.0,
    f_divergence=1.0, alpha_divergence=1.0, taid=1.0, mft=1.0, top_k=1.0, mopd=1.0, uld=1.0,
    fitnet=100.0, at=dict(at1=1000.0, at2=1000.0, at3=1000.0), nst=50.0, fsp=50.0, svd=1.0, vid=1.0,
    ft=dict(ft=200.0, paraphrase=1.0), ab=0.003, ofd=0.001, simkd=1.0, dwa=dict(kd=1.0),
    review=dict(review1=1.0, review2=1.0, review3=1.0), pkt=30000.0, sp=3000.0, cc=0.02,
    rkd=dict(rkd_distance=25.0, rkd_angle=50.0), cc_neighbours=0.02, crd=0.8, infonce=0.8,
    uncertainty=dict(weighed=1.0, penalty=1.0), confidence=dict(first=1.0, second=1.0),
    certainty=dict(third=1.0, fourth=1.0), ensemble=1.0, born_again=1.0, gradnorm=dict(kd=1.0),
    byot=dict(early=1.0, early_kd=0.3, early_hint=0.03), mutual=dict(b=1.0, a_b=1.0, b_a=1.0),
    dot=dict(kd=1.0), sgd=dict(kd=1.0),
    hints=dict(kd=1.0, fitnet=10.0, at3=100.0, sp=100.0, dist=0.1))
SEVERAL = 'confidence', 'certainty', 'ensemble'       # of two teachers
ALONE = 'mutual', 'byot', 'teacher_free'              # of none


def get_config(method: str = 'kd') -> ConfigDict:
  """Every method's terms are there, at weight 0 if another's is asked for."""
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.data = dict(name='digits.Digits', test=0.25, validation=0.0, batch_size=64, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')
  both = lambda path: dict(student=f'student/{path}', teacher=f'teacher/{path}')
  term = lambda loss, mask='', weight=0.0, kwargs=dict(), **reads: dict(
      loss=loss, weight=weight, mask=mask, scale='', kwargs=kwargs, reads=reads)
  hard = term('supervised.cross_entropy', student='student/logits', label='batch/label', weight=1.0)
  adamw = dict(name='adamw', rate=3e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  resnet = lambda *widths: dict(name='resnet.ResNet', depth=8, widths=widths)
  plan = dict(steps=600, log_every=50, save_every=300, eval_every=200)
  c.teachers = {name: dict(
      model=resnet(16, 16, 32, 64), init='', seed=seed, train=dict(
          plan, objective=dict(hard=hard), optimizer=adamw))
      for seed, name in enumerate(('teacher', 'teacher2')[:1 + (method in SEVERAL)])}
  c.student = dict(model=resnet(4, 4, 8, 16), init='', layers=(), fresh=(), frozen=())
  if method == 'simkd':                       # the teacher's head on the student's projection
    c.student = dict(model=dict(name='simkd.SimKD', encoder=c.student.model, width=64), layers=(),
                     init='teacher', fresh=('encoder/*', 'projector/*'), frozen=('head/*',))
  if method == 'mutual':                      # two students
    c.student.model = dict(name='cohort.Cohort', members=dict(a=c.student.model,
                                                              b=c.student.model))
  if method == 'born_again':                  # a teacher of the student's own shape
    c.teachers.teacher.model = c.student.model
  if method in ALONE:
    c.teachers = dict()
  module = lambda name, *reads, **how: dict(
      module=dict(how, name=name), reads=reads if len(reads) > 1 else reads[0])
  stages = [f'student/stage{n}/features' for n in (1, 2, 3)]
  pair, teachers = ('student/logits', 'teacher/logits'), ('teacher/logits', 'teacher2/logits')
  c.student.projectors = dict(
      temperature=module('temperatures.Learned', 'schedule/reversal'),
      flsw=module('temperatures.FLSW', *pair), cwsm=module('temperatures.CWSM', pair[0]),
      low=module('projectors.Regressor', stages[0], outputs=16),
      high=module('projectors.Regressor', stages[1], outputs=32),
      wide=module('projectors.Linear', 'student/pooled', outputs=64),
      before=module('projectors.Connector', 'student/stage3/preactivation', outputs=64),
      guess=module('projectors.Variational', stages[2], outputs=64),
      paraphrase=module('projectors.Paraphraser', 'teacher/stage3/features', outputs=32),
      translation=module('projectors.Translator', stages[2], outputs=32),
      review=module('fusion.Review', *stages, outputs=(16, 32, 64)),
      mine=module('projectors.Embedding', 'student/pooled', outputs=32),
      theirs=module('projectors.Embedding', 'teacher/pooled', outputs=32),
      early=module('projectors.Head', stages[1], width=16, classes=10),
      noise=module('weights.Uncertainty', 'batch/valid', terms=('kd',)),
      sure=module('weights.Confidence', *teachers, 'batch/label'),
      certain=module('weights.Certainty', *teachers), mean=module('weights.Ensemble', *teachers))
  steps = FieldReference(600)
  c.schedules = dict(reversal=dict(name='cosine', start=0.0, stop=-1.0, steps=steps // 5))
  c.carry = dict(
      bank=dict(name='Bank', negatives=256, reads=('projected/mine', 'projected/theirs')),
      pace=dict(name='Taid', teacher='teacher/logits', steps=steps),
      dwa=dict(name='DWA', window=42, terms=('hard', 'kd')),
      gradnorm=dict(name='GradNorm', terms=('hard', 'kd')))
  seen = dict(mask='batch/labelled', label='batch/label')
  every = dict(where='batch/valid')
  ours = dict(student='projected/mine', teacher='projected/theirs', **every)
  gram = dict(student_first='projected/low', student_last='projected/high',
              teacher_first='teacher/stage1/features', teacher_last='teacher/stage2/features')
  logits = lambda loss, **how: term(loss, **both('logits'), **how)
  last = lambda loss, **how: term(loss, **both('stage3/features'), **how)
  c.objective = dict(
      hard=dict(hard, mask='batch/labelled', weight=float(method != 'simkd')),   # it has one term
      kd=logits('logits.kl', kwargs=dict(temperature=4.0)),
      match=logits('logits.mse'), born_again=logits('logits.kl'),
      ensemble=term('logits.kl', student=pair[0], teacher='projected/mean'),
      standard=logits('logits.kl', kwargs=dict(temperature=2.0, standardised=True)),
      dkd=logits('logits.dkd', **seen), nkd=logits('logits.nkd', **seen),
      wsld=logits('logits.wsld', **seen), mft=logits('divergences.mft', **seen),
      teacher_free=term('logits.teacher_free', student=pair[0], **seen),
      lwf=logits('logits.lwf', kwargs=dict(units=(0, 1, 2, 3, 4))),
      **{name: logits('logits.kl', temperature=f'projected/{path}') for name, path in (
          ('ctkd', 'temperature'), ('flsw', 'flsw'), ('cwsm', 'cwsm'))},
      **{name: logits(f'correlations.{name}', kwargs=dict(temperature=4.0), **every)
         for name in ('dist', 'mlkd_batch', 'mlkd_class')},
      **{name: logits(f'divergences.{name}') for name in (
          'reverse_kl', 'symmetric_kl', 'tvd', 'jsd', 'skew_kl', 'skew_reverse_kl', 'akl')},
      f_divergence=logits('divergences.f_divergence', kwargs=dict(name='hellinger')),
      alpha_divergence=logits('divergences.alpha_divergence', kwargs=dict(alpha=0.5)),
      taid=logits('divergences.taid', t='carry/pace/t'), uld=logits('vocabulary.uld'),
      top_k=logits('vocabulary.top_k', kwargs=dict(k=3)),
      mopd=logits('vocabulary.mopd', kwargs=dict(k=3)),
      fitnet=term('features.mse', student='projected/high', teacher='teacher/stage2/features'),
      **{f'at{n}': term('maps.at', **both(f'stage{n}/features')) for n in (1, 2, 3)},
      nst=last('maps.nst'), fsp=term('maps.fsp', **gram), svd=term('maps.svd', **gram),
      vid=term('maps.vid', student='projected/guess/mean', variance='projected/guess/variance',
               teacher='teacher/stage3/features'),
      ft=term('maps.ft', student='projected/translation', teacher='projected/paraphrase/factor'),
      paraphrase=term('features.mse', student='projected/paraphrase/reconstruction',
                      teacher='teacher/stage3/features'),
      ab=term('maps.ab', student='projected/before', teacher='teacher/stage3/preactivation'),
      ofd=term('maps.ofd', student='projected/before', teacher='teacher/stage3/preactivation',
               scale='teacher/weights/stage3/scale', bias='teacher/weights/stage3/bias'),
      **{f'review{n}': term('maps.hcl', student=f'projected/review/{n}',
                            teacher=f'teacher/stage{n}/preactivation') for n in (1, 2, 3)},
      simkd=term('features.mse', student='student/projected', teacher='teacher/stage3/features'),
      **{name: term(f'relations.{name}', **both('pooled'), **every)
         for name in ('rkd_distance', 'rkd_angle', 'pkt', 'cc')},
      sp=last('relations.sp', **every),
      cc_neighbours=term('relations.cc_neighbours', student='projected/wide',
                         teacher='teacher/pooled', **every),
      infonce=term('contrastive.infonce', **ours),
      crd=term('contrastive.crd', **ours, id='batch/id', **{
          part: f'carry/bank/{part}' for part in ('bank', 'places', 'draws', 'z', 'temperature')}),
      weighed=dict(logits('logits.kl'), scale='projected/noise/kd'),
      penalty=term('balance.penalty', value='projected/noise/kd/penalty', like='teacher/logits'),
      **{name: dict(term('logits.kl', student=pair[0], teacher=teachers[k], kwargs=dict(
          temperature=4.0)), scale=f'projected/{weights}/{k}') for name, weights, k in (
              ('first', 'sure', 0), ('second', 'sure', 1), ('third', 'certain', 0),
              ('fourth', 'certain', 1))},
      early=term('supervised.cross_entropy', student='projected/early/logits', **seen),
      early_kd=term('logits.kl', student='projected/early/logits', teacher='self/logits'),
      early_hint=term('features.mse', student='projected/early/hidden', teacher='self/pooled'),
      b=term('supervised.cross_entropy', student='student/b/logits', **seen),
      a_b=term('logits.kl', student='student/logits', teacher='self/b/logits'),
      b_a=term('logits.kl', student='student/b/logits', teacher='self/logits'))
  if method in METHODS or method == 'test':
    weights = METHODS['hints' if method == 'test' else method]
    for name, weight in (weights if isinstance(weights, dict) else {method: weights}).items():
      c.objective[name].weight = weight
  for name in ('hard', 'kd') if method in ('dwa', 'gradnorm', 'dot') else ():
    c.objective[name].update(group=name, scale='' if method == 'dot' else f'carry/{method}/{name}')
  sgd = dict(sgd=dict(name='sgd', momentum=0.9), dot=dict(name='dot', task='hard'))
  c.optimizer = dict(sgd[method], rate=0.05) if method in sgd else adamw
  c.train = dict(steps=steps, log_every=50, save_every=300, eval_every=200, accumulate=1,
                 dtype='float32', shares=False)
  c.evaluate = dict(split='test', batch_size=64, cost=False)    # all have the same two networks
  if method == 'test':
    c.data.update(batch_size=8)
    c.teachers.teacher.train.update(steps=6, log_every=2, save_every=3, eval_every=0)
    c.train.update(steps=6, log_every=2, save_every=3, eval_every=6)
  return c


def sweep():
  """What is each method worth, and the baseline at its best rate?"""
  yield from METHODS
  yield from ({'variant': 'kd', 'optimizer.rate': rate} for rate in (1e-3, 1e-2, 3e-2, 0.1, 0.3))
