"""Digits: a residual network teaches a narrow one that has a tenth of the labels; every method.

1,797 images of 8 × 8 pixels that come with scikit-learn. The teacher (ResNet-8, 16 to 64 channels)
trains on all labels; they are then gone. The student (the same, 4 to 16 channels) has a tenth of
them, all the images, and the teacher. Weights are the papers' where they give one; the papers chose
them for larger models.

A method is a function of a config: to a student that learns from labels it adds its terms, and what
these read. A new function is a new variant, and changes no other.

python -m distill.main --config=configs/digits.py
python -m distill.main --config=configs/digits.py:dkd       # or another method; --list has them all
python -m distill.main --config=configs/digits.py:test      # what the tests run, five in one sum
"""
from typing import Literal

from ml_collections import ConfigDict

# ---- outputs


def kd(c):
  """Compares softened class probabilities by KL (Hinton 2015, §2)."""
  c.objective.kd = dict(loss='logits.kl', kwargs=dict(temperature=4.0), reads=dict(
      student='student/logits', teacher='teacher/logits'))


def match(c):
  """Compares logits by their squared error (Ba & Caruana 2014, eq. 1)."""
  c.objective.match = dict(loss='logits.mse', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def standard(c):
  """Standardises the logits before plain KD compares them (logit standardisation, Sun 2024)."""
  c.objective.standard = dict(
      loss='logits.kl', weight=9.0, kwargs=dict(temperature=2.0, standardised=True), reads=dict(
          student='student/logits', teacher='teacher/logits'))


def dkd(c):
  """Weighs the target class and the other classes apart (DKD, Zhao 2022, eq. 7)."""
  c.objective.dkd = dict(loss='logits.dkd', mask='batch/labelled', reads=dict(
      student='student/logits', teacher='teacher/logits', label='batch/label'))


def nkd(c):
  """Normalises the other classes among themselves (NKD, Yang 2023)."""
  c.objective.nkd = dict(loss='logits.nkd', mask='batch/labelled', reads=dict(
      student='student/logits', teacher='teacher/logits', label='batch/label'))


def wsld(c):
  """Lowers the weight of examples that the student knows better (WSLD, Zhou 2021)."""
  c.objective.wsld = dict(loss='logits.wsld', weight=2.5, mask='batch/labelled', reads=dict(
      student='student/logits', teacher='teacher/logits', label='batch/label'))


def teacher_free(c):
  """Replaces the teacher by a virtual one, made of the label (Tf-KD_reg, Yuan 2020)."""
  c.teachers = dict()
  c.objective.teacher_free = dict(loss='logits.teacher_free', mask='batch/labelled', reads=dict(
      student='student/logits', label='batch/label'))


def lwf(c):
  """Compares half of the classes, as if they were an old task's (LwF, Li 2016)."""
  c.objective.lwf = dict(loss='logits.lwf', kwargs=dict(units=(0, 1, 2, 3, 4)), reads=dict(
      student='student/logits', teacher='teacher/logits'))


def dist(c):
  """Correlates the probabilities of each example and of each class (DIST, Huang 2022)."""
  c.objective.dist = dict(
      loss='correlations.dist', weight=2.0, kwargs=dict(temperature=4.0), reads=dict(
          student='student/logits', teacher='teacher/logits', where='batch/valid'))


def mlkd(c):
  """Adds to plain KD how examples, and how classes, resemble each other (MLKD, Jin 2023)."""
  kd(c)
  for name in 'mlkd_batch', 'mlkd_class':
    c.objective[name] = dict(
        loss=f'correlations.{name}', kwargs=dict(temperature=4.0), reads=dict(
            student='student/logits', teacher='teacher/logits', where='batch/valid'))


def ctkd(c):
  """Learns the temperature that makes the student's task harder (CTKD, Li 2023)."""
  c.schedules.reversal = dict(
      name='cosine', start=0.0, stop=-1.0, steps=c.train.get_ref('steps') // 5)
  c.student.projectors.temperature = dict(
      module=dict(name='temperatures.Learned'), reads='schedule/reversal')
  c.objective.ctkd = dict(loss='logits.kl', reads=dict(
      student='student/logits', teacher='teacher/logits', temperature='projected/temperature'))


def flsw(c):
  """Lowers the temperature where student and teacher differ (FLSW, Wen 2019)."""
  c.student.projectors.flsw = dict(
      module=dict(name='temperatures.FLSW'), reads=('student/logits', 'teacher/logits'))
  c.objective.flsw = dict(loss='logits.kl', reads=dict(
      student='student/logits', teacher='teacher/logits', temperature='projected/flsw'))


def cwsm(c):
  """Sets the temperature by how sure the student is (CWSM, Wen 2019)."""
  c.student.projectors.cwsm = dict(
      module=dict(name='temperatures.CWSM'), reads='student/logits')
  c.objective.cwsm = dict(loss='logits.kl', reads=dict(
      student='student/logits', teacher='teacher/logits', temperature='projected/cwsm'))


def reverse_kl(c):
  """Keeps the student to classes that the teacher finds likely (MiniLLM, Gu 2024, §2.1)."""
  c.objective.reverse_kl = dict(loss='divergences.reverse_kl', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def symmetric_kl(c):
  """Mixes forward and reverse KL (DistiLLM's code, Ko 2024)."""
  c.objective.symmetric_kl = dict(loss='divergences.symmetric_kl', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def tvd(c):
  """Compares class probabilities by total variation (f-distill, Wen 2023)."""
  c.objective.tvd = dict(loss='divergences.tvd', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def jsd(c):
  """Compares student and teacher with their mixture (GKD, Agarwal 2024, eq. 1)."""
  c.objective.jsd = dict(loss='divergences.jsd', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def skew_kl(c):
  """Compares the teacher with a mixture of teacher and student (DistiLLM, Ko 2024, §3.1)."""
  c.objective.skew_kl = dict(loss='divergences.skew_kl', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def skew_reverse_kl(c):
  """Compares the student with a mixture of student and teacher (DistiLLM, Ko 2024, §3.1)."""
  c.objective.skew_reverse_kl = dict(loss='divergences.skew_reverse_kl', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def akl(c):
  """Weighs forward and reverse KL by where student and teacher differ (AKL, Wu 2024)."""
  c.objective.akl = dict(loss='divergences.akl', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def f_divergence(c):
  """Compares class probabilities by a named f, here Hellinger's (f-distill, Wen 2023)."""
  c.objective.f_divergence = dict(
      loss='divergences.f_divergence', kwargs=dict(name='hellinger'), reads=dict(
          student='student/logits', teacher='teacher/logits'))


def alpha_divergence(c):
  """Compares class probabilities by an alpha divergence (Cressie & Read 1984; Amari 1985)."""
  c.objective.alpha_divergence = dict(
      loss='divergences.alpha_divergence', kwargs=dict(alpha=0.5), reads=dict(
          student='student/logits', teacher='teacher/logits'))


def taid(c):
  """Moves the target from the student to the teacher (TAID, Shing 2025)."""
  c.carry.pace = dict(name='Taid', teacher='teacher/logits', steps=c.train.get_ref('steps'))
  c.objective.taid = dict(loss='divergences.taid', reads=dict(
      student='student/logits', teacher='teacher/logits', t='carry/pace/t'))


def mft(c):
  """Moves the teacher's distribution towards the label (minifinetuning, Belcak 2025)."""
  c.objective.mft = dict(loss='divergences.mft', mask='batch/labelled', reads=dict(
      student='student/logits', teacher='teacher/logits', label='batch/label'))


def top_k(c):
  """Compares the classes that the teacher finds likeliest by KL."""
  c.objective.top_k = dict(loss='vocabulary.top_k', kwargs=dict(k=3), reads=dict(
      student='student/logits', teacher='teacher/logits'))


def mopd(c):
  """Compares the teacher's likeliest classes by reverse KL (MOPD 2026, eq. 5)."""
  c.objective.mopd = dict(loss='vocabulary.mopd', kwargs=dict(k=3), reads=dict(
      student='student/logits', teacher='teacher/logits'))


def uld(c):
  """Compares probabilities in falling order, whatever their classes (ULD, Boizard 2024)."""
  c.objective.uld = dict(loss='vocabulary.uld', reads=dict(
      student='student/logits', teacher='teacher/logits'))


# ---- features


def fitnet(c):
  """Regresses the teacher's features from the middle stage (FitNet, Romero 2015, §2.2)."""
  c.student.projectors.high = dict(
      module=dict(name='projectors.Regressor', outputs=32), reads='student/stage2/features')
  c.objective.fitnet = dict(loss='features.mse', weight=100.0, reads=dict(
      student='projected/high', teacher='teacher/stage2/features'))


def at(c):
  """Compares the attention maps of every stage (AT, Zagoruyko 2017, eq. 2)."""
  for n in 1, 2, 3:
    c.objective[f'at{n}'] = dict(loss='maps.at', weight=1000.0, reads=dict(
        student=f'student/stage{n}/features', teacher=f'teacher/stage{n}/features'))


def nst(c):
  """Compares the distribution of the channels' maps by MMD² (NST, Huang 2017)."""
  c.objective.nst = dict(loss='maps.nst', weight=50.0, reads=dict(
      student='student/stage3/features', teacher='teacher/stage3/features'))


def fsp(c):
  """Compares the flow between two stages by Gram matrices (FSP, Yim 2017, eq. 2)."""
  c.student.projectors.low = dict(
      module=dict(name='projectors.Regressor', outputs=16), reads='student/stage1/features')
  c.student.projectors.high = dict(
      module=dict(name='projectors.Regressor', outputs=32), reads='student/stage2/features')
  c.objective.fsp = dict(loss='maps.fsp', weight=50.0, reads=dict(
      student_first='projected/low', student_last='projected/high',
      teacher_first='teacher/stage1/features', teacher_last='teacher/stage2/features'))


def svd(c):
  """Compares the main singular vectors of two stages (KDSVD, Lee 2018)."""
  c.student.projectors.low = dict(
      module=dict(name='projectors.Regressor', outputs=16), reads='student/stage1/features')
  c.student.projectors.high = dict(
      module=dict(name='projectors.Regressor', outputs=32), reads='student/stage2/features')
  c.objective.svd = dict(loss='maps.svd', reads=dict(
      student_first='projected/low', student_last='projected/high',
      teacher_first='teacher/stage1/features', teacher_last='teacher/stage2/features'))


def vid(c):
  """Predicts the teacher's features with a variance for each channel (VID, Ahn 2019, eq. 5)."""
  c.student.projectors.guess = dict(
      module=dict(name='projectors.Variational', outputs=64), reads='student/stage3/features')
  c.objective.vid = dict(loss='maps.vid', reads=dict(
      student='projected/guess/mean', variance='projected/guess/variance',
      teacher='teacher/stage3/features'))


def ft(c):
  """Transfers factors of the teacher's features, which an autoencoder finds (FT, Kim 2018)."""
  c.student.projectors.paraphrase = dict(
      module=dict(name='projectors.Paraphraser', outputs=32), reads='teacher/stage3/features')
  c.student.projectors.translation = dict(
      module=dict(name='projectors.Translator', outputs=32), reads='student/stage3/features')
  c.objective.ft = dict(loss='maps.ft', weight=200.0, reads=dict(
      student='projected/translation', teacher='projected/paraphrase/factor'))
  c.objective.paraphrase = dict(loss='features.mse', reads=dict(
      student='projected/paraphrase/reconstruction', teacher='teacher/stage3/features'))


def ab(c):
  """Compares which neurons are active, by a hinge on preactivations (AB, Heo 2019, AAAI)."""
  c.student.projectors.before = dict(
      module=dict(name='projectors.Connector', outputs=64), reads='student/stage3/preactivation')
  c.objective.ab = dict(loss='maps.ab', weight=0.003, reads=dict(
      student='projected/before', teacher='teacher/stage3/preactivation'))


def ofd(c):
  """Compares preactivations, through a ReLU with a margin (OFD, Heo 2019, ICCV)."""
  c.student.projectors.before = dict(
      module=dict(name='projectors.Connector', outputs=64), reads='student/stage3/preactivation')
  reads = dict(
      student='projected/before', teacher='teacher/stage3/preactivation',
      scale='teacher/weights/stage3/scale', bias='teacher/weights/stage3/bias')
  c.objective.ofd = dict(loss='maps.ofd', weight=0.001, reads=reads)


def simkd(c):
  """Puts the teacher's head on the student's features; no labels are read (SimKD, Chen 2022)."""
  c.student.model = dict(name='simkd.SimKD', encoder=c.student.model, width=64)
  c.student.init = 'teacher'
  c.student.fresh, c.student.frozen = ('encoder/*', 'projector/*'), ('head/*',)
  c.objective = dict(simkd=dict(loss='features.mse', reads=dict(
      student='student/projected', teacher='teacher/stage3/features')))


def review(c):
  """Fuses each stage with those above it before it is compared (ReviewKD, Chen 2021)."""
  c.student.projectors.review = dict(
      module=dict(name='fusion.Review', outputs=(16, 32, 64)),
      reads=tuple(f'student/stage{n}/features' for n in (1, 2, 3)))
  for n in 1, 2, 3:
    c.objective[f'review{n}'] = dict(loss='maps.hcl', reads=dict(
        student=f'projected/review/{n}', teacher=f'teacher/stage{n}/preactivation'))


# ---- relations between examples


def pkt(c):
  """Compares the neighbours of an example by KL (PKT, Passalis 2018)."""
  c.objective.pkt = dict(loss='relations.pkt', weight=30000.0, reads=dict(
      student='student/pooled', teacher='teacher/pooled', where='batch/valid'))


def sp(c):
  """Compares the similarities of all pairs of examples (SP, Tung 2019)."""
  c.objective.sp = dict(loss='relations.sp', weight=3000.0, reads=dict(
      student='student/stage3/features', teacher='teacher/stage3/features', where='batch/valid'))


def cc(c):
  """Compares Gaussian kernels between examples (CC, Peng 2019)."""
  c.objective.cc = dict(loss='relations.cc', weight=0.02, reads=dict(
      student='student/pooled', teacher='teacher/pooled', where='batch/valid'))


def rkd(c):
  """Compares distances and angles between examples (RKD, Park 2019, §3.2)."""
  for name, weight in ('rkd_distance', 25.0), ('rkd_angle', 50.0):
    c.objective[name] = dict(loss=f'relations.{name}', weight=weight, reads=dict(
        student='student/pooled', teacher='teacher/pooled', where='batch/valid'))


def cc_neighbours(c):
  """Compares the differences of neighbouring examples (CC as in RepDistiller, Tian 2020)."""
  c.student.projectors.wide = dict(
      module=dict(name='projectors.Linear', outputs=64), reads='student/pooled')
  c.objective.cc_neighbours = dict(loss='relations.cc_neighbours', weight=0.02, reads=dict(
      student='projected/wide', teacher='teacher/pooled', where='batch/valid'))


def crd(c):
  """Finds the teacher's vector of an example in a memory bank (CRD, Tian 2020, §3.1)."""
  for name, model in ('mine', 'student'), ('theirs', 'teacher'):
    c.student.projectors[name] = dict(
        module=dict(name='projectors.Embedding', outputs=32), reads=f'{model}/pooled')
  c.carry.bank = dict(name='Bank', negatives=256, reads=('projected/mine', 'projected/theirs'))
  c.objective.crd = dict(loss='contrastive.crd', weight=0.8, reads=dict(
      student='projected/mine', teacher='projected/theirs', where='batch/valid', id='batch/id',
      bank='carry/bank/bank', places='carry/bank/places', draws='carry/bank/draws',
      z='carry/bank/z', temperature='carry/bank/temperature'))


def infonce(c):
  """Finds the teacher's vector of an example in the batch (CLIP, Radford 2021, fig. 3)."""
  for name, model in ('mine', 'student'), ('theirs', 'teacher'):
    c.student.projectors[name] = dict(
        module=dict(name='projectors.Embedding', outputs=32), reads=f'{model}/pooled')
  c.objective.infonce = dict(loss='contrastive.infonce', weight=0.8, reads=dict(
      student='projected/mine', teacher='projected/theirs', where='batch/valid'))


# ---- weights of terms, several models, the optimizer


def dwa(c):
  """Weighs labels and teacher by how slowly each loss falls (Dynamic Weight Average, Liu 2019)."""
  kd(c)
  c.carry.dwa = dict(name='DWA', window=42, terms=('hard', 'kd'))
  for name in 'hard', 'kd':
    c.objective[name].update(group=name, scale=f'carry/dwa/{name}')


def gradnorm(c):
  """Weighs labels and teacher until their gradients are alike (GradNorm, Chen 2018, eq. 2)."""
  kd(c)
  c.carry.gradnorm = dict(name='GradNorm', terms=('hard', 'kd'))
  for name in 'hard', 'kd':
    c.objective[name].update(group=name, scale=f'carry/gradnorm/{name}')


def uncertainty(c):
  """Learns the weight of the teacher's term (Kendall 2018, eq. 10)."""
  c.student.projectors.noise = dict(
      module=dict(name='weights.Uncertainty', terms=('kd',)), reads='batch/valid')
  c.objective.weighed = dict(loss='logits.kl', scale='projected/noise/kd', reads=dict(
      student='student/logits', teacher='teacher/logits'))
  c.objective.penalty = dict(loss='balance.penalty', reads=dict(
      value='projected/noise/kd/penalty', like='teacher/logits'))


def confidence(c):
  """Weighs two teachers by how well each knows an example's label (CA-MKD, Zhang 2022)."""
  c.teachers.teacher2 = dict(c.teachers.teacher.to_dict(), seed=1)
  c.student.projectors.sure = dict(
      module=dict(name='weights.Confidence'),
      reads=('teacher/logits', 'teacher2/logits', 'batch/label'))
  for k, (name, teacher) in enumerate((('first', 'teacher'), ('second', 'teacher2'))):
    c.objective[name] = dict(
        loss='logits.kl', kwargs=dict(temperature=4.0), scale=f'projected/sure/{k}', reads=dict(
            student='student/logits', teacher=f'{teacher}/logits'))


def certainty(c):
  """Weighs two teachers by the entropy of their predictions (Kwon 2020)."""
  c.teachers.teacher2 = dict(c.teachers.teacher.to_dict(), seed=1)
  c.student.projectors.certain = dict(
      module=dict(name='weights.Certainty'), reads=('teacher/logits', 'teacher2/logits'))
  for k, (name, teacher) in enumerate((('third', 'teacher'), ('fourth', 'teacher2'))):
    c.objective[name] = dict(
        loss='logits.kl', kwargs=dict(temperature=4.0), scale=f'projected/certain/{k}', reads=dict(
            student='student/logits', teacher=f'{teacher}/logits'))


def ensemble(c):
  """Averages the predictions of two teachers (Hinton 2015, §1)."""
  c.teachers.teacher2 = dict(c.teachers.teacher.to_dict(), seed=1)
  c.student.projectors.mean = dict(
      module=dict(name='weights.Ensemble'), reads=('teacher/logits', 'teacher2/logits'))
  c.objective.ensemble = dict(loss='logits.kl', reads=dict(
      student='student/logits', teacher='projected/mean'))


def born_again(c):
  """Learns from a teacher of the student's shape (born-again networks, Furlanello 2018)."""
  c.teachers.teacher.model = c.student.model
  c.objective.born_again = dict(loss='logits.kl', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def byot(c):
  """Teaches an early stage by the network's last, without a teacher (BYOT, Zhang 2019)."""
  c.teachers = dict()
  c.student.projectors.early = dict(
      module=dict(name='projectors.Head', width=16, classes=10), reads='student/stage2/features')
  c.objective.early = dict(loss='supervised.cross_entropy', mask='batch/labelled', reads=dict(
      student='projected/early/logits', label='batch/label'))
  c.objective.early_kd = dict(loss='logits.kl', weight=0.3, reads=dict(
      student='projected/early/logits', teacher='self/logits'))
  c.objective.early_hint = dict(loss='features.mse', weight=0.03, reads=dict(
      student='projected/early/hidden', teacher='self/pooled'))


def mutual(c):
  """Trains two students that teach each other, without a teacher (DML, Zhang 2018, §3)."""
  c.teachers = dict()
  c.student.model = dict(
      name='cohort.Cohort', members=dict(a=c.student.model, b=c.student.model))
  c.objective.b = dict(loss='supervised.cross_entropy', mask='batch/labelled', reads=dict(
      student='student/b/logits', label='batch/label'))
  c.objective.a_b = dict(loss='logits.kl', reads=dict(
      student='student/logits', teacher='self/b/logits'))
  c.objective.b_a = dict(loss='logits.kl', reads=dict(
      student='student/b/logits', teacher='self/logits'))


def dot(c):
  """Gives the teacher's gradient the larger momentum (DOT, Zhao 2023)."""
  kd(c)
  c.objective.hard.group, c.objective.kd.group = 'hard', 'kd'
  c.optimizer = dict(name='dot', task='hard', rate=0.05)


def sgd(c):
  """Trains plain KD by SGD with momentum, for a comparison with DOT."""
  kd(c)
  c.optimizer = dict(name='sgd', momentum=0.9, rate=0.05)


def hints(c):
  """Adds to plain KD a hint, attention, similarities and correlations, at small weights."""
  for add in kd, fitnet, at, sp, dist:
    add(c)
  del c.objective.at1, c.objective.at2
  for name, weight in dict(fitnet=10.0, at3=100.0, sp=100.0, dist=0.1).items():
    c.objective[name].weight = weight


# All functions of this file so far.
METHODS = {name: f for name, f in [*globals().items()] if getattr(f, '__module__', '') == __name__}


def get_config(method: Literal[*METHODS, 'test'] = 'kd') -> ConfigDict:
  """Adds a method to a student that learns from labels; `test` is `hints` in seconds."""
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.data = dict(name='digits.Digits', test=0.25, validation=0.0, batch_size=64, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  adamw = dict(name='adamw', rate=3e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  resnet = lambda *widths: dict(name='resnet.ResNet', depth=8, widths=widths)
  plan = dict(steps=600, log_every=50, save_every=300, eval_every=200)
  c.teachers = dict(teacher=dict(
      model=resnet(16, 16, 32, 64), init='', seed=0,
      train=dict(plan, objective=dict(hard=hard), optimizer=adamw)))
  c.student = dict(model=resnet(4, 4, 8, 16), init='', layers=(), fresh=(), frozen=(),
                   projectors=dict())
  c.schedules, c.carry = dict(), dict()
  c.objective = dict(hard=dict(hard, mask='batch/labelled'))
  c.optimizer = adamw
  c.train = dict(plan, accumulate=1, dtype='float32', shares=False)
  c.evaluate = dict(split='test', batch_size=64, cost=False)    # all have the same two networks
  METHODS['hints' if method == 'test' else method](c)
  if method == 'test':
    c.data.update(batch_size=8)
    c.teachers.teacher.train.update(steps=6, log_every=2, save_every=3, eval_every=0)
    c.train.update(steps=6, log_every=2, save_every=3, eval_every=6)
  return c


def sweep():
  """What is each method worth, and the baseline at its best rate?"""
  yield from METHODS
  yield from ({'variant': 'kd', 'optimizer.rate': rate} for rate in (1e-3, 1e-2, 3e-2, 0.1, 0.3))
