"""Docstrings: one encoder teaches a narrower one that has a tenth of the labels; text methods.

The networks, texts and labels of `configs/bert.py` with less training, to compare many methods:
terms on logits, terms on layers alone, and what papers on encoders add to plain KD. Weights are the
papers' where they give one; the papers chose them for larger models.

A method is a function of a config: to a student that learns from labels it adds its terms, and what
these read. A new function is a new variant, and changes no other.

python -m distill.main --config=configs/docstrings.py:tinybert      # or another; --list has them
python -m distill.main --config=configs/docstrings.py:test          # what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict

# ---- outputs


def kd(c):
  """Compares softened class probabilities by KL (Hinton 2015, §2)."""
  c.objective.kd = dict(loss='logits.kl', kwargs=dict(temperature=2.0), reads=dict(
      student='student/logits', teacher='teacher/logits'))


def match(c):
  """Compares logits by their squared error (Ba & Caruana 2014, eq. 1)."""
  c.objective.match = dict(loss='logits.mse', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def dkd(c):
  """Weighs the target class and the other classes apart (DKD, Zhao 2022, eq. 7)."""
  c.objective.dkd = dict(loss='logits.dkd', mask='batch/labelled', reads=dict(
      student='student/logits', teacher='teacher/logits', label='batch/label'))


def dist(c):
  """Correlates the probabilities of each example and of each class (DIST, Huang 2022)."""
  c.objective.dist = dict(
      loss='correlations.dist', weight=2.0, kwargs=dict(temperature=2.0), reads=dict(
          student='student/logits', teacher='teacher/logits', where='batch/valid'))


def reverse_kl(c):
  """Keeps the student to classes that the teacher finds likely (MiniLLM, Gu 2024, §2.1)."""
  c.objective.reverse_kl = dict(loss='divergences.reverse_kl', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def jsd(c):
  """Compares student and teacher with their mixture (GKD, Agarwal 2024, eq. 1)."""
  c.objective.jsd = dict(loss='divergences.jsd', reads=dict(
      student='student/logits', teacher='teacher/logits'))


def taid(c):
  """Moves the target from the student to the teacher (TAID, Shing 2025)."""
  c.carry.pace = dict(name='Taid', teacher='teacher/logits', steps=c.train.get_ref('steps'))
  c.objective.taid = dict(loss='divergences.taid', reads=dict(
      student='student/logits', teacher='teacher/logits', t='carry/pace/t'))


def ctkd(c):
  """Learns the temperature that makes the student's task harder (CTKD, Li 2023)."""
  c.schedules.reversal = dict(
      name='cosine', start=0.0, stop=-1.0, steps=c.train.get_ref('steps') // 5)
  c.student.projectors.temperature = dict(
      module=dict(name='temperatures.Learned'), reads='schedule/reversal')
  c.objective.ctkd = dict(loss='logits.kl', reads=dict(
      student='student/logits', teacher='teacher/logits', temperature='projected/temperature'))


# ---- layers and relations, without the teacher's logits


def hidden(c):
  """Projects the hidden states of both layers to the teacher's width (TinyBERT 2020, eq. 8)."""
  for name, layer in ('first', 'block00'), ('last', 'block01'):
    c.student.projectors[name] = dict(
        module=dict(name='projectors.Linear', outputs=128), reads=f'student/{layer}/hidden')
    c.objective[name] = dict(loss='features.mse', mask='batch/mask', reads=dict(
        student=f'projected/{name}', teacher=f'teacher/{layer}/hidden'))


def attention(c):
  """Compares the scores of the last layer's attention (TinyBERT 2020, eq. 7)."""
  c.objective.scores = dict(loss='attention.mse', reads=dict(
      student='student/block01/scores', teacher='teacher/block01/scores', where='batch/mask'))


def relations(c):
  """Compares the last layer's attention and the relations of its values (MiniLM, Wang 2020)."""
  c.objective.maps = dict(loss='attention.kl', mask='batch/mask', reads=dict(
      student='student/block01/attention', teacher='teacher/block01/attention',
      where='batch/mask'))
  c.objective.values = dict(
      loss='relations.minilm', mask='batch/mask', kwargs=dict(heads=4), reads=dict(
          student='student/block01/value', teacher='teacher/block01/value', where='batch/mask'))


def rkd(c):
  """Compares distances and angles between examples (RKD, Park 2019, §3.2)."""
  for name, weight in ('rkd_distance', 25.0), ('rkd_angle', 50.0):
    c.objective[name] = dict(loss=f'relations.{name}', weight=weight, reads=dict(
        student='student/pooled', teacher='teacher/pooled', where='batch/valid'))


def infonce(c):
  """Finds the teacher's vector of an example in the batch (CLIP, Radford 2021, fig. 3)."""
  for name, model in ('mine', 'student'), ('theirs', 'teacher'):
    c.student.projectors[name] = dict(
        module=dict(name='projectors.Embedding', outputs=32), reads=f'{model}/pooled')
  c.objective.infonce = dict(loss='contrastive.infonce', weight=0.8, reads=dict(
      student='projected/mine', teacher='projected/theirs', where='batch/valid'))


# ---- what papers on encoders add to plain KD


def distilbert(c):
  """Adds the direction of hidden states to plain KD (DistilBERT 2019, §2)."""
  kd(c)
  c.objective.kd.weight = 5.0
  c.student.projectors.last = dict(
      module=dict(name='projectors.Linear', outputs=128), reads='student/block01/hidden')
  c.objective.cosine = dict(loss='features.cosine', mask='batch/mask', reads=dict(
      student='projected/last', teacher='teacher/block01/hidden'))


def pkd(c):
  """Adds the first position of a layer to plain KD (PKD, Sun 2019)."""
  kd(c)
  c.student.projectors.first = dict(
      module=dict(name='projectors.Linear', outputs=128), reads='student/block00/hidden')
  c.objective.patience = dict(loss='features.pkd', weight=0.8, reads=dict(
      student='projected/first', teacher='teacher/block00/hidden'))


def tinybert(c):
  """Adds embeddings, hidden states and attention to plain KD (TinyBERT, Jiao 2020)."""
  for add in kd, hidden, attention:
    add(c)
  c.student.projectors.embedding = dict(
      module=dict(name='projectors.Linear', outputs=128), reads='student/embedding')
  c.objective.embedding = dict(loss='features.mse', mask='batch/mask', reads=dict(
      student='projected/embedding', teacher='teacher/embedding'))


def minilm(c):
  """Adds attention and the relations of values to plain KD (MiniLM, Wang 2020)."""
  kd(c)
  relations(c)


def mobilebert(c):
  """Adds standardised hidden states, their moments and attention (MobileBERT, Sun 2020)."""
  kd(c)
  c.student.projectors.last = dict(
      module=dict(name='projectors.Linear', outputs=128), reads='student/block01/hidden')
  reads = dict(student='projected/last', teacher='teacher/block01/hidden')
  c.objective.standardised = dict(
      loss='features.standardised', weight=100.0, mask='batch/mask', reads=reads)
  c.objective.moments = dict(loss='features.moments', kwargs=dict(beta=5000.0, gamma=5.0),
                             mask='batch/mask', reads=reads)
  c.objective.maps = dict(loss='attention.kl', mask='batch/mask', reads=dict(
      student='student/block01/attention', teacher='teacher/block01/attention',
      where='batch/mask'))


# ---- weights of terms


def uncertainty(c):
  """Learns the weight of the teacher's term (Kendall 2018, eq. 10)."""
  c.student.projectors.noise = dict(
      module=dict(name='weights.Uncertainty', terms=('kd',)), reads='batch/valid')
  c.objective.weighed = dict(
      loss='logits.kl', kwargs=dict(temperature=2.0), scale='projected/noise/kd', reads=dict(
          student='student/logits', teacher='teacher/logits'))
  c.objective.penalty = dict(loss='balance.penalty', reads=dict(
      value='projected/noise/kd/penalty', like='teacher/logits'))


def dwa(c):
  """Weighs labels and teacher by how slowly each loss falls (Dynamic Weight Average, Liu 2019)."""
  kd(c)
  c.carry.dwa = dict(name='DWA', window=100, terms=('hard', 'kd'))
  for name in 'hard', 'kd':
    c.objective[name].update(group=name, scale=f'carry/dwa/{name}')


def gradnorm(c):
  """Weighs labels and teacher until their gradients are alike (GradNorm, Chen 2018, eq. 2)."""
  kd(c)
  c.carry.gradnorm = dict(name='GradNorm', terms=('hard', 'kd'))
  for name in 'hard', 'kd':
    c.objective[name].update(group=name, scale=f'carry/gradnorm/{name}')


# All functions of this file so far.
METHODS = {name: f for name, f in [*globals().items()] if getattr(f, '__module__', '') == __name__}


def get_config(method: Literal[*METHODS, 'test'] = 'kd') -> ConfigDict:
  """Adds a method to a student that learns from labels; `test` is `tinybert` in seconds."""
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.data = dict(name='docstrings.Docstrings', vocabulary=8000, per_class=4000, minimum=300,
                length=64, widths=(16, 32, 48, 64), batch_size=32, seed=0,
                labelled=0.1, drawn=0.5)      # a tenth of the labels, in half of every batch
  c.task = dict(name='classification.Classification')
  adamw = dict(name='adamw', rate=1e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  encoder = lambda width, **how: dict(how, name='bert.Bert', width=width, depth=2, heads=4)
  plan = dict(log_every=100, save_every=500, eval_every=500)
  c.teachers = dict(teacher=dict(
      model=encoder(128, dropout=0.2, std=0.08), init='', microbatch=0,
      train=dict(plan, steps=2500, objective=dict(hard=hard), optimizer=adamw)))
  c.student = dict(model=encoder(56, dropout=0.0, std=0.1), init='', layers=(), frozen=(),
                   projectors=dict())
  c.schedules, c.carry = dict(), dict()
  c.objective = dict(hard=dict(hard, mask='batch/labelled'))
  c.optimizer = dict(adamw, rate=2e-3)
  c.train = dict(plan, steps=1250, accumulate=1, dtype='float32')
  c.evaluate = dict(split='test', batch_size=64, cost=False)    # all have the same two networks
  METHODS['tinybert' if method == 'test' else method](c)
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
