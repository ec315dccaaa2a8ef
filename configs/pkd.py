"""PKD-Skip (Sun 2019): the student follows the teacher's [CLS] through every second layer.

Six of BERT's twelve layers, started from its first six; the first five follow the teacher's 2nd,
4th, … 10th. The loss is (1 - α) · labels + α · soft labels + β · patience (eq. 8). Numbers are
those of the paper's grid (§4.2) and of its authors' `run_student_patience.py`
(intersun/PKD-for-BERT-Model-Compression): α of 0.2, 0.5, 0.7; T of 5, 10, 20; β of 10, 100, 500,
1000; rate of 5e-5, 2e-5, 1e-5; batch 32, length 128, 4 epochs. Which of them is best differs by
task: the defaults are from the middle. The start, the teacher's rate and its epochs, and the
optimizer's warm-up and decay, BERT's, are from memory.

python -m distill.main --config=configs/pkd.py           # SST-2
python -m distill.main --config=configs/pkd.py:mrpc      # or another task of one or two sentences
python -m distill.main --config=configs/pkd.py:test      # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict, FieldReference

EXAMPLES = dict(sst2=67349, mrpc=3668, rte=2490)         # texts to train on


def get_config(task: Literal[*EXAMPLES, 'test'] = 'sst2') -> ConfigDict:
  """The variant `test` is the same run in seconds, on docstrings and from scratch."""
  place = FieldReference('google-bert/bert-base-uncased')       # a checkpoint's folder or hub id
  two, test = task in ('mrpc', 'rte'), task == 'test'
  pairs = {0: 0} if test else {0: 1, 1: 3, 2: 5, 3: 7, 4: 9}
  c = ConfigDict(dict(mesh=dict(model=1, fsdp=False), tier=''))
  c.seed = 0
  c.pipeline = 'compare.run'
  c.data = dict(name='tfds.Text', dataset=f'glue/{task}', data_dir='', tokenizer=place,
                fields=dict(text=('sentence1', 'sentence2') if two else ('sentence',),
                            label='label'),
                held_out=0.1 if task in ('sst2', 'test') else 0.0, length=128,
                widths=(32, 64, 96, 128), batch_size=32, seed=0)
  c.task = dict(name='classification.Classification')

  epoch = round(EXAMPLES[task] * (1 - c.data.held_out) / 32) if task in EXAMPLES else 1
  often = max(1, epoch // 10)
  plan = dict(steps=4 * epoch, log_every=often, save_every=10 * often, eval_every=10 * often)
  adamw = dict(name='adamw', rate=5e-5, schedule='linear', warmup=0.1, decay=0.01, clip=1.0)
  hard = dict(loss='supervised.cross_entropy', weight=0.5,
              reads=dict(student='student/logits', label='batch/label'))
  c.teachers = dict(teacher=dict(
      model=dict(dropout=0.1), init=place, fresh=(), shared=True, microbatch=0,
      train=dict(plan, objective=dict(hard=dict(hard, weight=1.0)),
                 optimizer=dict(adamw, rate=2e-5))))
  c.student = dict(
      model=dict(name='bert.Bert', width=768, depth=6, heads=12, inner=3072, dropout=0.1),
      init='teacher' if test else place, layers=(0,) if test else (0, 1, 2, 3, 4, 5), frozen=(),
      projectors=dict())
  c.objective = dict(
      hard=hard,                                                                # 1 - α
      soft=dict(loss='logits.kl', weight=0.5, kwargs=dict(temperature=10.0),    # α, T
                reads=dict(student='student/logits', teacher='teacher/logits')))
  for mine, theirs in pairs.items():
    c.objective[f'patience{mine}'] = dict(loss='features.pkd', weight=patience(100), reads=dict(
        student=f'student/block{mine:02d}/hidden', teacher=f'teacher/block{theirs:02d}/hidden'))
  c.optimizer = adamw
  c.train = dict(plan, accumulate=1, dtype='float32')
  c.evaluate = dict(split='validation', also=() if two else ('held_out',), batch_size=64)

  if test:
    place.set('')
    c.data = dict(name='docstrings.Docstrings', per_class=200, vocabulary=1000, minimum=300,
                  length=32, widths=(32,), batch_size=8, seed=0)
    c.teachers.teacher.model = dict(name='bert.Bert', width=16, depth=2, heads=2, inner=32, std=0.1)
    c.student.model.update(width=16, depth=1, heads=2, inner=32)
    c.evaluate.update(split='test', also=(), alone=False, faithfulness=False)
  return c


def patience(beta: float) -> float:
  """A layer's weight: their code takes the mean over 5 layers and 768 units, the loss the sum."""
  return beta / (5 * 768)


def sweep():
  """The paper's grid, a field at a time."""
  yield {}
  for alpha in 0.2, 0.7:
    yield {'objective.hard.weight': 1 - alpha, 'objective.soft.weight': alpha}
  for temperature in 5.0, 20.0:
    yield {'objective.soft.kwargs.temperature': temperature}
  for beta in 10, 500, 1000:
    yield {f'objective.patience{layer}.weight': patience(beta) for layer in range(5)}
  for rate in 2e-5, 1e-5:
    yield {'optimizer.rate': rate}
