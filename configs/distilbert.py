"""DistilBERT (Sanh 2019): half of BERT's layers, distilled on masked words over plain text.

The default is the general distillation. Numbers are those of the paper (§3) and of its authors'
code, `train.py` and `scripts/extract_distilbert.py` in transformers/research_projects/distillation:
weights 5, 2 and 1 at temperature 2; a start from layers 0, 2, 4, 7, 9 and 11; rate 5e-4, linear,
after 5 % of warm-up; batches of up to 4,000. Ours: `steps` (theirs are 3 epochs of Wikipedia and
BookCorpus: 3 · texts / batch), the soft term at masked positions alone (their restrict_ce_to_mask),
and words masked at one rate (theirs favours rare ones). A smaller run is an override of
data.batch_size, train.accumulate and train.steps; weights, temperature and start stay.

F=configs/distilbert.py; D=runs/distilbert
python -m distill.main --config=$F --config.data.path=texts.txt --workdir=$D      # a text a line
python -m distill.main --config=$F:task --config.student.init=$D/export/student       # then SST-2
python -m distill.main --config=$F:test      # seconds; what the tests run
"""
from typing import Literal

from ml_collections import ConfigDict, FieldReference


def get_config(variant: Literal['general', 'task', 'test'] = 'general') -> ConfigDict:
  """The variant `test` is `general` in seconds, on docstrings and from scratch."""
  place = FieldReference('google-bert/bert-base-uncased')       # a checkpoint's folder or hub id
  c = ConfigDict(dict(mesh=dict(model=1, fsdp=False), tier=''))
  c.seed = 0
  c.pipeline = 'compare.run'
  student = dict(name='bert.Bert', width=768, depth=6, heads=12, inner=3072, types=0,
                 pooling='relu', dropout=0.1, words=True)
  logits = dict(student='student/logits', teacher='teacher/logits')
  adamw = dict(name='adamw', rate=5e-4, schedule='linear', warmup=0.05, decay=0.0, clip=5.0)

  if variant == 'task':         # as its authors distil on SQuAD: halves at temperature 2
    c.data = dict(name='tfds.Text', dataset='glue/sst2', data_dir='', tokenizer=place,
                  fields=dict(text=('sentence',), label='label'), held_out=0.1, length=128,
                  widths=(16, 32, 64, 128), batch_size=32, seed=0)
    c.task = dict(name='classification.Classification')
    # Rates, warm-up, decay and epochs are BERT's fine-tuning (Devlin 2018, §A.3), from memory.
    adamw.update(rate=5e-5, warmup=0.1, decay=0.01, clip=1.0)
    plan = dict(steps=5682, log_every=100, save_every=1000, eval_every=1000)       # 3 epochs
    hard = dict(loss='supervised.cross_entropy', weight=0.5,
                reads=dict(student='student/logits', label='batch/label'))
    c.teachers = dict(teacher=dict(
        model=dict(dropout=0.1), init=place, fresh=(), shared=True, microbatch=0,
        train=dict(plan, objective=dict(hard=dict(hard, weight=1.0)),
                   optimizer=dict(adamw, rate=2e-5))))
    del student['words']
    c.student = dict(model=student, init='distilbert/distilbert-base-uncased', layers=(),
                     frozen=(), projectors=dict())
    c.objective = dict(hard=hard, soft=dict(
        loss='logits.kl', weight=0.5, kwargs=dict(temperature=2.0), reads=logits))
    c.augment = ()
    c.optimizer = adamw
    c.train = dict(plan, accumulate=1, dtype='float32')
    c.evaluate = dict(split='validation', also=('held_out',), batch_size=64)
    return c

  c.data = dict(name='files.Text', path='', fields=dict(text=(), label=''), tokenizer=place,
                length=512, batch_size=4000, seed=0)
  c.task = dict(name='words.MaskedWords')
  c.teachers = dict(teacher=dict(model=dict(words=True), init=place, microbatch=0))
  # Their flag to freeze positions reaches RoBERTa and GPT-2 alone, the README gives it to all.
  c.student = dict(model=student, init='teacher', layers=(0, 2, 4, 7, 9, 11),
                   frozen=('position/embedding',), projectors=dict())
  mlm = dict(loss='supervised.cross_entropy', mask='batch/chosen',
             reads=dict(student='student/words', label='batch/target'))
  c.objective = dict(
      soft=dict(loss='logits.kl', weight=5.0, kwargs=dict(temperature=2.0), mask='batch/chosen',
                reads=dict(student='student/words', teacher='teacher/words')),
      words=dict(mlm, weight=2.0),
      cosine=dict(loss='features.cosine', weight=1.0, mask='batch/mask', reads=dict(
          student='student/block05/hidden', teacher='teacher/block11/hidden')))
  c.augment = (dict(name='masking.words'),)
  c.optimizer = adamw
  c.train = dict(steps=30_000, log_every=100, save_every=1000, eval_every=1000, accumulate=125,
                 dtype='float32')
  c.evaluate = dict(split='validation', batch_size=16)

  if variant == 'test':
    place.set('')
    c.data = dict(name='docstrings.Docstrings', per_class=200, vocabulary=1000, minimum=300,
                  length=32, widths=(32,), batch_size=8, seed=0)
    plan = dict(steps=4, log_every=2, save_every=2, eval_every=4)
    c.teachers.teacher = dict(
        model=dict(name='bert.Bert', width=16, depth=2, heads=2, inner=32, std=0.1, words=True),
        train=dict(plan, objective=dict(words=mlm), optimizer=adamw, augment=c.augment))
    c.student.update(layers=(1,))
    c.student.model.update(width=16, depth=1, heads=2, inner=32)
    c.objective.cosine.reads.update(student='student/block00/hidden',
                                    teacher='teacher/block01/hidden')
    c.train.update(plan, accumulate=1)
    c.evaluate.update(split='test', alone=False, faithfulness=False)
  return c
