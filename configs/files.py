"""Text of one's own: from a file of texts and labels to a small model that answers.

A line of the file is {"text": "…", "label": "…"}; CSV, TSV, folders, pairs, further text without
labels: `distill/data/files.py`. Teacher (2 layers, 128 wide) and student (2 layers, 56 wide) start
from scratch. The steps are for some hundred to some ten thousand texts: more texts, more steps.

python -m distill.main --config=configs/files.py --config.data.path=my.jsonl --workdir=runs/my
python -m distill.predict --model=runs/my/export/student "a text"
python -m distill.main --config=configs/files.py:regression --config.data.path=my.jsonl
python -m distill.main --config=configs/files.py:test      # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict


def get_config(variant: Literal['classification', 'regression', 'test'] = 'classification'
               ) -> ConfigDict:
  """The variant `test` is the same run in seconds, on docstrings."""
  numbers = variant == 'regression'             # labels are numbers, not classes
  c = ConfigDict(dict(mesh=dict(model=1, fsdp=False), tier=''))
  c.seed = 0
  c.pipeline = 'compare.run'
  c.data = dict(name='files.Text', path='', fields=dict(text=(), label=''), regression=numbers,
                unlabelled='', shares=(0.8, 0.1, 0.1), tokenizer='', vocabulary=4000, length=64,
                batch_size=32, seed=0, labelled=1.0, drawn=0.5)
  if not numbers:
    c.data.labels = ()
  c.task = dict(name='regression.Regression' if numbers else 'classification.Classification')

  adamw = dict(name='adamw', rate=1e-3, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  plan = dict(steps=500, log_every=50, save_every=250, eval_every=250)
  hard = dict(loss='supervised.mse' if numbers else 'supervised.cross_entropy', weight=1.0,
              mask='batch/labelled', reads=dict(student='student/logits', label='batch/label'))
  soft = dict(weight=1.0, reads=dict(student='student/logits', teacher='teacher/logits'))
  soft |= (dict(loss='logits.mse') if numbers else
           dict(loss='logits.kl', kwargs=dict(temperature=2.0)))
  c.teachers = dict(teacher=dict(
      model=dict(name='bert.Bert', width=128, depth=2, heads=4, dropout=0.2, std=0.08), init='',
      train=dict(plan, steps=1000, objective=dict(hard=hard), optimizer=adamw)))
  c.student = dict(
      model=dict(name='bert.Bert', width=56, depth=2, heads=4, dropout=0.0, std=0.1), init='')
  c.objective = dict(hard=hard, soft=soft)
  c.optimizer = dict(adamw, rate=2e-3)
  c.train = dict(plan, accumulate=1, dtype='float32')
  c.evaluate = dict(split='test', batch_size=64, alone=True, faithfulness=True)

  if variant == 'test':
    c.data = dict(name='docstrings.Docstrings', per_class=200, vocabulary=1000, length=32,
                  widths=(32,), batch_size=8, seed=0, labelled=1.0, drawn=0.5)
    c.teachers.teacher.model.update(width=32)
    c.student.model.update(width=16)
    for plan in (c.train, c.teachers.teacher.train):
      plan.update(steps=6, log_every=2, save_every=3, eval_every=6)
    c.evaluate.update(alone=False, faithfulness=False)
  return c
