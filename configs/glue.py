"""GLUE (Wang 2018): a pretrained teacher, fine-tuned; three of its six layers as the student.

Judged on the tasks' development sets, for the tests' labels aren't public: compare with published
numbers on dev. A single task and a single model: no other task's data, no augmentation.

python -m distill.main --config=configs/glue.py           # MRPC
python -m distill.main --config=configs/glue.py:rte       # or another task, prepared by TFDS
python -m distill.main --config=configs/glue.py:rte --config.teachers.teacher.init=DIR
python -m distill.main --config=configs/glue.py:test      # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict, FieldReference

# Texts to train on.
EXAMPLES = dict(cola=8551, sst2=67349, mrpc=3668, stsb=5749, qqp=363849, mnli=392702, qnli=104743,
                rte=2490, wnli=635)


def get_config(task: Literal[*EXAMPLES, 'test'] = 'mrpc') -> ConfigDict:
  """The variant `test` is the same run in seconds, on docstrings and from scratch."""
  single = task in ('cola', 'sst2')
  small = task in ('cola', 'mrpc', 'stsb', 'rte', 'wnli')
  texts = (('sentence',) if single else
           ('question1', 'question2') if task == 'qqp' else
           ('question', 'sentence') if task == 'qnli' else
           ('premise', 'hypothesis') if task == 'mnli' else
           ('sentence1', 'sentence2'))
  # A checkpoint's folder or hub id. One place for weights and tokenizer: setting one sets both.
  place = FieldReference('sentence-transformers/all-MiniLM-L6-v2')

  c = ConfigDict(dict(mesh=dict(model=1, fsdp=False), tier=''))
  c.seed = 0
  c.pipeline = 'compare.run'
  c.data = dict(name='tfds.Text', dataset=f'glue/{task}', data_dir='', tokenizer=place,
                fields=dict(text=texts, label='label'), held_out=0.0 if small else 0.1,
                length=64 if single else 128,
                widths=(16, 32, 48, 64) if single else (32, 64, 96, 128),
                batch_size=32, seed=0, labelled=1.0, drawn=0.0)
  if task == 'stsb':
    c.task = dict(name='regression.Regression', primary='spearman')
  else:         # as in BERT's table of results (Devlin 2018, table 1), and Matthews for CoLA
    c.task = dict(name='classification.Classification', primary=(
        'mcc' if task == 'cola' else 'f1' if task in ('mrpc', 'qqp') else 'accuracy'))

  # Batch, rate and epochs are in the grid for small BERTs of Turc 2019 (batch 8 to 128, rate 3e-5
  # to 3e-4, 4 epochs); the large sets get 3.
  epoch = round(EXAMPLES[task] * (1 - c.data.held_out) / 32) if task in EXAMPLES else 2
  often = max(1, epoch // 10)
  plan = dict(steps=(4 if small else 3) * epoch, log_every=often, save_every=10 * often,
              eval_every=10 * often)
  adamw = dict(name='adamw', rate=1e-4, schedule='linear', warmup=0.1, decay=0.01, clip=1.0)
  hard = dict(loss='supervised.mse' if task == 'stsb' else 'supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  c.teachers = dict(teacher=dict(
      model=dict(dropout=0.1), init=place, fresh=(), shared=True, microbatch=0,
      train=dict(plan, objective=dict(hard=hard), optimizer=dict(adamw, rate=5e-5))))
  c.student = dict(
      model=dict(name='bert.Bert', width=384, depth=3, heads=12, inner=1536, dropout=0.1),
      init='teacher', layers=(1, 3, 5), frozen=(), projectors=dict())

  # Halves at temperature 2, as the authors of DistilBERT distil it once more on SQuAD.
  logits = dict(student='student/logits', teacher='teacher/logits')
  c.objective = dict(
      hard=dict(hard, weight=0.5, mask='batch/labelled'),
      soft=dict(loss='logits.mse', weight=0.5, reads=logits) if task == 'stsb' else
           dict(loss='logits.kl', weight=0.5, reads=logits, kwargs=dict(temperature=2.0)))
  c.optimizer = adamw
  c.train = dict(plan, accumulate=1, dtype='float32')
  c.evaluate = dict(
      split='validation_matched' if task == 'mnli' else 'validation', batch_size=64,
      also=(('validation_mismatched',) if task == 'mnli' else ()) + (
          () if small else ('held_out',)))

  if task == 'test':
    place.set('')
    c.data = dict(name='docstrings.Docstrings', per_class=200, vocabulary=1000, minimum=300,
                  length=32, widths=(32,), batch_size=8, seed=0, labelled=1.0, drawn=0.0)
    c.teachers.teacher.model.update(name='bert.Bert', width=16, depth=2, heads=2, inner=32, std=0.1)
    c.student.update(layers=(1,))
    c.student.model.update(width=16, depth=1, heads=2, inner=32)
    c.evaluate.update(split='test', also=('train',), alone=False, faithfulness=False)
  return c


def sweep():
  """Rates, by which the baseline is at its best; the teacher alone; a student from scratch."""
  yield {}
  yield {'optimizer.rate': 5e-5}
  yield {'optimizer.rate': 2e-4}
  yield {'objective.hard.weight': 0.0}
  yield {'student.init': '', 'student.layers': ()}
