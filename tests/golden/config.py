"""Runs in miniature, frozen as they were at 7fc13de: what `make.py` made, and tests resume."""
from ml_collections import ConfigDict

TASKS = dict(text='classification.Classification', resumed='classification.Classification',
             images='classification.Classification', numbers='regression.Regression',
             words='words.MaskedWords')
BERT = dict(name='bert.Bert', width=4, depth=1, heads=2, inner=8, dropout=0.1, std=0.4)


def get_config(variant: str = 'text') -> ConfigDict:
  """Returns the config of a variant, a key of TASKS; `resumed` learns from what `text` left."""
  assert variant in TASKS, variant
  adamw = dict(name='adamw', rate=2e-2, schedule='cosine', warmup=0.1, decay=0.01, clip=1.0)
  hard = dict(loss='supervised.cross_entropy', weight=1.0,
              reads=dict(student='student/logits', label='batch/label'))
  c = ConfigDict(dict(seed=0, pipeline='compare.run', mesh=dict(model=1, fsdp=False), tier=''))
  c.data = dict(name='files.Text', path='tests/golden/texts.jsonl', regression=False,
                fields=dict(text=('text',), label='label'), shares=(0.8, 0.1, 0.1), vocabulary=100,
                length=16, widths=(8, 16), batch_size=8, seed=0, labelled=1.0, drawn=0.5)
  c.task = dict(name=TASKS[variant])
  c.student = dict(model=BERT)
  c.objective = dict(hard=hard)
  c.optimizer = adamw
  c.train = dict(steps=60, log_every=2, save_every=0, eval_every=0, accumulate=1, dtype='float32')
  c.evaluate = dict(split='test', batch_size=8, resamples=50, cost=False, faithfulness=False,
                    alone=False)
  if variant == 'numbers':
    c.data.update(regression=True)
    c.data.fields.label = 'stars'
    c.objective.hard.loss = 'supervised.mse'
  if variant == 'words':
    c.student.model = dict(BERT, words=True)
    c.objective.hard.update(mask='batch/chosen', reads=dict(
        student='student/words', label='batch/target'))
    c.augment = (dict(name='masking.words'),)
  if variant == 'images':
    c.data = dict(name='digits.Digits', test=0.25, validation=0.0, batch_size=8, seed=0,
                  labelled=1.0, drawn=0.5)
    c.student.model = dict(name='resnet.ResNet', depth=6, widths=(2, 2, 4))
  if variant == 'resumed':
    c.teachers = dict(teacher=dict(model=dict(), init='tests/golden/text', fresh=()))
    c.objective = dict(hard=dict(hard, mask='batch/labelled'), soft=dict(
        loss='logits.kl', weight=2.0, kwargs=dict(temperature=2.0),
        reads=dict(student='student/logits', teacher='teacher/logits')))
    c.data.labelled = 0.5
    c.train.update(steps=6, save_every=3, eval_every=6)
  return c
