"""distill.distill and distill.compare: by hand, beside a config, and with bad input."""
import contextlib
import io
import os
import pathlib
import pydoc
import re
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import distill
from distill import flags, lookup, optimizers, runs, train
from distill.losses import features, logits, supervised
from distill.losses.relations import sp
from distill.models import functional
from distill.notebook import terms, training
from distill.pipelines.setup import build_setup
from distill.report.contract import broken

DOCS = pathlib.Path(__file__).parent.parent / 'docs' / 'notebook.md'
LINE = (lambda params, x: params['w'] * x, {'w': jnp.float32(0)})
EXACT = 'TEST_XLA_FLAGS' in os.environ       # compiled as users' programs are
TWICE = (lambda params, x: 2 * x, {})
apart = lambda student, teacher: (student - teacher)**2
sgd = dict(optimizer=optax.sgd(0.1), progress=False, log_every=1)


def xs(*values):
  return {'x': np.array(values, np.float32)}


def wide(rows=8, columns=4):
  return {'image': np.ones((rows, columns), np.float32), 'label': np.arange(rows) % 3}


class Net(nnx.Module):

  def __init__(self, classes=3, rate=0.0, seed=0, norm=False):
    rngs = nnx.Rngs(seed)
    self.hidden = nnx.Linear(4, 5, rngs=rngs)
    self.drop = nnx.Dropout(rate, rngs=rngs)
    self.norm = nnx.BatchNorm(5, rngs=rngs) if norm else None
    self.head = nnx.Linear(5, classes, rngs=rngs)

  def __call__(self, image):
    hidden = self.drop(self.hidden(image))
    return {'hidden': hidden, 'logits': self.head(self.norm(hidden) if self.norm else hidden)}


class TestByHand:

  def test_two_steps_of_gradient_descent(self):
    # w·x learns 2·x. x = (1, 2): the gradient is the mean of 2(w - 2)x² at 0, -10, so w = 1. Then
    # x = 3, filled up with a row that doesn't count: 2(1 - 2)9 = -18, so w = 2.8.
    params, history = distill.distill(
        LINE, TWICE, [xs(1, 2), xs(3)], losses=apart, steps=2, **sgd)
    assert float(params['w']) == pytest.approx(2.8)
    assert [(row['step'], row['loss'], row['objective'], row['grad_norm'])
            for row in history] == [(1, 10.0, 10.0, 10.0), (2, 9.0, 9.0, 18.0)]
    assert float(LINE[1]['w']) == 0         # what was given is as it was

  def test_a_schedule_weighs_and_validation_measures(self):
    # Weight 0 in step 0, 1 in step 1: w = 0, then 1. The validation's x = (1, 3), (2): the mean of
    # |w·x| is 0, then 2, by a metric that has its own name.
    _, history = distill.distill(
        LINE, TWICE, [xs(1, 2)], steps=2, **sgd,
        losses={'soft': dict(loss=apart, schedule=lambda step: step.astype(jnp.float32))},
        validation=iter([xs(1, 3), xs(2)]), metrics={'size': lambda student: jnp.abs(student)})
    assert [row['validation/size'] for row in history] == [0.0, pytest.approx(2.0)]
    assert [row['soft'] for row in history] == [10.0, 10.0]

  def test_a_hint_passes_through_a_projector(self):
    # The projector is p = 1 on the student's w·x; both learn.
    # With w = 1, x = (1, 2): d/dw = d/dp = mean of 2(pw - 2)x² = -5, so both are 1.5.
    student = (lambda params, x: params['w'] * x, {'w': jnp.float32(1)})
    project = (lambda params, hidden: params * hidden, jnp.float32(1))
    params, history = distill.distill(
        student, TWICE, [xs(1, 2)], steps=2, **sgd,
        projectors={'hint': ('student/logits', project)},
        losses={'hint': dict(loss=apart, reads={'student': 'projected/hint'})})
    # Then p·w = 2.25: the second loss is the mean of (0.25 x)², 0.15625.
    assert [row['hint'] for row in history] == [2.5, pytest.approx(0.15625)]
    assert [*params] == ['w']

  def test_two_teachers_and_any_argument_by_its_name(self):
    # (w·x - 2x) + (w·x - 4x) is 0 at w = 3, where its square's gradient ends.
    four = lambda batch: 4 * batch['x']
    params, _ = distill.distill(
        LINE, {'two': TWICE, 'four': four}, [xs(1.0)], steps=30, **sgd | dict(log_every=0),
        losses=lambda student, two, four, x: (2 * student - two - four)**2)
    assert float(params['w']) == pytest.approx(3, abs=1e-4)

  def test_stored_answers_need_no_teacher(self):
    batch = {**xs(1, 2), 'stored': np.array([2, 4], np.float32)}
    params, _ = distill.distill(LINE, None, [batch], steps=1, inputs='x', **sgd,
                                losses=lambda student, stored: (student - stored)**2)
    assert float(params['w']) == pytest.approx(1)

  def test_a_function_of_generators_is_begun_again_and_an_epoch_is_a_pass(self):
    begun = []
    def data():
      begun.append(1)
      yield from (xs(1, 2), xs(1, 2))
    distill.distill(LINE, TWICE, data, losses=apart, steps=5, **sgd)
    assert len(begun) == 3
    _, history = distill.distill(LINE, TWICE, [xs(1, 2)] * 3, losses=apart, epochs=2, **sgd)
    assert history[-1]['step'] == 6


def tiny(kind):
  """The jobs of the student and of the teacher of the digits in miniature."""
  models = [f'--config.{model}.model.{field}' for model, width in (
      ('teachers.teacher', 8), ('student', 4)) for field in ('depth=4', f'widths=(2,{width})')]
  node = flags.parsed(['--config=configs/digits.py:kd', *models, '--config.data.batch_size=8',
                       '--config.optimizer.rate=0.01', '--config.train.steps=6',
                       '--config.train.log_every=2', '--config.train.eval_every=0'])
  jobs = {job.name: job for job in build_setup(node.config.to_dict()).trained}
  return jobs['student'], jobs['teacher']


def module(job, weights):
  """The module of a job with these weights."""
  built = lookup.build('models', job.card['model'], 'model', rngs=nnx.Rngs(7))
  _, *states = nnx.split(built, nnx.Param, ...)
  for state, flat in zip(states, weights, strict=True):
    nnx.update(built, functional.fill(state, {
        path.removeprefix('model/'): x for path, x in flat.items()}))
  return built


class Kept:
  """A log that keeps the rows."""
  say = rewind = progress = lambda *_: None

  def __init__(self):
    self.losses = []

  def row(self, stage, seed, step, metrics):
    self.losses.append(metrics['loss'])


def test_a_call_gives_the_student_of_a_config(monkeypatch, request, tmp_path):
  monkeypatch.chdir(request.config.rootpath)
  job, teacher = tiny('kd')
  stage, log = job.stage, Kept()
  weights = teacher.stage.start({})
  ready = train.prepared(stage, {'teacher': teacher.stage.student.model.shapes})
  bare = tuple({path.removeprefix('model/'): x for path, x in part.items()} for part in weights)
  params, rest, _ = train.fit(stage, ready, {'teacher': bare}, runs.Run('run', tmp_path, log))

  student = module(job, stage.start({}))
  data = [{name: np.asarray(x) for name, x in stage.prepare(stage.data[i]).items()}
          for i in range(6)]
  found, history = distill.distill(
      student, module(teacher, weights), data, steps=6, log_every=2, progress=False,
      optimizer=optimizers.adamw(rate=0.01, steps=6, schedule='cosine', warmup=0.1, decay=0.01,
                                 clip=1.0),
      losses={'hard': dict(loss=supervised.cross_entropy, mask='batch/labelled'),
              'kd': dict(loss=logits.kl, kwargs=dict(temperature=4.0))})
  _, *states = nnx.split(nnx.merge(nnx.graphdef(student), found), nnx.Param, ...)
  for state, expected in zip(states, (params, rest), strict=True):
    flat = {f'model/{path}': x for path, x in functional.flat(state).items()}
    assert flat.keys() == expected.keys() and flat
    for path, x in flat.items():
      # Two programs of the same sums: with the tests' flags XLA may fuse them in two ways.
      np.testing.assert_allclose(x, expected[path], rtol=0, atol=0 if EXACT else 1e-6, err_msg=path)
  np.testing.assert_allclose([row['loss'] for row in history], log.losses,
                             rtol=0 if EXACT else 1e-6)


@pytest.mark.slow
def test_compiled_as_users_do_the_student_of_a_config_is_bitwise_that_of_a_call():
  test = f'{__file__}::test_a_call_gives_the_student_of_a_config'
  subprocess.run([sys.executable, '-m', 'pytest', '-n', '0', test], check=True, env={
      **os.environ, 'TEST_XLA_FLAGS': '--xla_force_host_platform_device_count=1'})


def test_a_workdir_goes_on_bitwise_and_refuses_another_call(tmp_path):
  class Ends(list):
    ends = True
    def __getitem__(self, i):
      if i == 3 and self.ends:
        raise KeyboardInterrupt
      return super().__getitem__(i)

  data = Ends(xs(i, i + 1) for i in range(5))
  train_on = lambda **more: distill.distill(
      LINE, TWICE, data, steps=5, losses=apart, workdir=tmp_path, **{**sgd, **more})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr('distill.notebook.training.KEEP_EVERY', 2)
    with pytest.raises(KeyboardInterrupt):
      train_on()
    data.ends = False
    params, history = train_on()
  whole, rows = distill.distill(LINE, TWICE, data, steps=5, losses=apart, **sgd)
  assert float(params['w']) == float(whole['w']) and history == rows
  with pytest.raises(ValueError, match='begun with another program .*take another workdir'):
    train_on(optimizer=optax.sgd(0.2))


def test_dropout_is_on_in_training_alone_and_differs_from_step_to_step():
  student = Net(rate=0.5)
  before = student.hidden.kernel[...].copy()
  still = optax.sgd(0.0)
  params, history = distill.distill(
      student, lambda batch: jnp.zeros((8, 3)), [wide()], steps=3, losses=logits.mse,
      optimizer=still, log_every=1, progress=False, validation=[wide()])
  losses = [row['mse'] for row in history]
  assert len({*losses}) == 3                # another mask in each step
  assert len({row['validation/mse'] for row in history}) == 1
  np.testing.assert_array_equal(student.hidden.kernel[...], before)
  nnx.update(student, params)               # what is returned fits
  assert not {'drop'} & {*nnx.to_pure_dict(params)}       # no keys


def call(student=None, teacher=None, data=None, **more):
  student = student or Net()
  if teacher is None:
    teacher = Net(seed=1)
    teacher.eval()
  how = dict(optimizer=optax.sgd(0.1), steps=3, progress=False) | more
  return distill.distill(student, teacher, [wide()] if data is None else data, **how)


def evaluated(**how):
  net = Net(**how)
  net.eval()
  return net


@pytest.mark.parametrize('how, line', [
    (dict(teacher=evaluated(classes=5)), 'losses: the student answers with 3 classes, and the '
     'teacher with 5: they must be the same'),
    (dict(teacher=lambda batch: jnp.ones((8, 1)), losses=apart), 'student answers with 3 classes, '
     'and the teacher with 1'),
    (dict(teacher=Net(rate=0.5)), r'the teacher is in train mode \(drop has deterministic=False\).*'
     r'call its \.eval\(\) first'),
    (dict(teacher=Net(norm=True)), r'the teacher is in train mode \(norm has use_running_average'),
    (dict(student=Net), 'the student is the class Net: give an nnx.Module, a pair'),
    (dict(student=(lambda params, x: x, {})), 'the student has no parameters to train'),
    (dict(student=lambda batch: batch['image']), 'the student has no parameters to train'),
    (dict(student=(lambda params, image: (params * image, 1), jnp.ones(()))),
     'the student returns a tuple: return an array, or a dict'),
    (dict(student=(lambda params, batch: params * batch['imgae'], jnp.ones(()))),
     r"the student reads 'imgae', which data has not: a batch has image \[8, 4\]"),
    (dict(student=(lambda params, image, mask: params * image, jnp.ones(()))),
     "the student takes an argument 'mask' that nothing gives: the batch has image, label"),
    (dict(student=(lambda params, x: params * x, jnp.ones(())),
          data=[wide() | {'mask': np.ones(8)}]),
     "the student takes 'x', and the batch has image, mask: say which"),
    (dict(student=(lambda params, image: image @ jnp.ones((7, 3)), jnp.ones(()))),
     r'the student cannot be called with a batch of data \(image \[8, 4\].*TypeError'),
    (dict(student=(lambda params, image: params * image.sum(), jnp.ones(()))),
     r"the student gives 'logits' \[\] for a batch of 8: outputs lead with the examples"),
    (dict(inputs='picture'), "inputs='picture': the batch has no 'picture'; it has image, label"),
    (dict(teacher={'student': evaluated()}), "the teacher 'student': call it something else"),
    (dict(data=[]), 'data is empty: it gives no batch'),
    (dict(data=iter(())), 'data is empty: it gives no batch'),
    (dict(data=wide()), 'data is a dict of arrays: give an iterable of such dicts'),
    (dict(data=3), 'data is a int: give an iterable of dicts'),
    (dict(data=[(np.ones(8), np.ones(8))]), 'data: batch 0 is a tuple, not a dict of arrays'),
    (dict(data=[{'name': ['a', 'b']}]), 'data: batch 0 has no array of numbers'),
    (dict(data=[{'image': np.ones((8, 4)), 'label': np.ones(7)}]),
     'batch 0: its arrays have different numbers of rows: image 8, label 7'),
    (dict(data=[wide() | {'rate': 0.5}]), "batch 0: 'rate' is one number, and every array"),
    (dict(data=[wide() | {'image': np.full((8, 4), np.nan, np.float32)}]),
     r"data: batch 0: 'image' holds NaN in 8 of 8 rows, the first of them row 0 \(id 0\)"),
    (dict(losses=lambda student, teacher: ((student - teacher)**2).mean()),
     r'losses \(student \[8, 3\], teacher \[8, 3\]\) returns one number for the whole batch: '
     r'return a value for each of the 8 examples, \[8\], such as .mean\(-1\)'),
    (dict(losses=lambda student, teacher: ((student - teacher)**2).mean(0)),
     r'returns \[3\]: return a value for each of the 8 examples'),
    (dict(losses=lambda student, teacher: (student, teacher)), 'returns a tuple: return an array'),
    (dict(losses={'kd': lambda student, techer: student}), r"losses\['kd'\]: nothing gives its "
     r"argument 'techer': an argument is called student, teacher, id, image, label, valid, hidden"),
    (dict(losses={'kd': dict(los=apart)}), r"losses\['kd'\] is a dict without a loss"),
    (dict(losses={'kd': dict(loss=apart, weigth=1.0)}), "a term has no 'weigth'; did you mean "
     "'weight'"),
    (dict(losses={'kd': dict(loss=apart, weight=-1.0)}), 'weight=-1.0 must be 0 or more'),
    (dict(losses={'kd': dict(loss=apart, weight=0.0)}), 'losses has no loss with a weight'),
    (dict(losses={'kd': dict(loss=apart, schedule=0.5)}), 'its schedule is a float: give a'),
    (dict(losses={'kd': dict(loss=apart, schedule=lambda step: 1.0 if step < 5 else 0.0)}),
     r"losses\['kd'\]: its schedule raises TracerBoolConversionError.*take jnp.where for an if"),
    (dict(schedules={'t': lambda step: jnp.ones(2)}), r"schedules\['t'\] returns \[2\]: return"),
    (dict(losses={'kd': lambda student: {}['a']}), r"losses\['kd'\] \(.*raises KeyError: 'a'"),
    (dict(losses={'kd': 3}), r"losses\['kd'\]: its loss is a int, not a function"),
    (dict(losses='logits.lk'), "names nothing in distill/losses; did you mean"),
    (dict(losses={'kd': dict(loss=apart, reads={'teacher': 'teacher/hiden'})}),
     "'teacher/hiden' names no output of teacher, which has hidden, logits"),
    (dict(losses={'kd': dict(loss=apart, mask='batch/known')}), "'batch/known' names no output of "
     'batch'),
    (dict(losses={'kd': dict(loss=apart, reads={'student': 'projected/hint'})}, projectors={
        'hint': ('student/hiden', nnx.Linear(5, 5, rngs=nnx.Rngs(0)))}), "'student/hiden' names no "
     'output of student'),
    (dict(projectors={'hint': nnx.Linear(5, 5, rngs=nnx.Rngs(0))}),
     r"projectors\['hint'\] must be a pair"),
    (dict(losses={'kd': dict(loss=apart, reads={'student': 'projected/hint'})}, projectors={
        'hint': ('student/hidden', nnx.Linear(4, 5, rngs=nnx.Rngs(0)))}),
     r'projectors.hint \(student/hidden \[8, 5\]\)'),
    (dict(optimizer=0.1), 'optimizer is a float: give one of optax'),
    (dict(steps=0), 'steps=0 and epochs=0: say how long by one of them'),
    (dict(steps=0, epochs=2, data=iter([wide()])), 'epochs=2: this data has no length: say steps'),
    (dict(steps=2.5), 'steps=2.5 is a float'),
    (dict(seed=-1), 'seed=-1 must be a whole number'),
    (dict(frozen=('hiden/*',)), "'hiden/\\*' matches no parameter"),
    (dict(frozen=('*',)), 'leaves nothing to train'),
    (dict(metrics=apart), 'metrics are of validation data: give validation'),
    (dict(validation=[{'label': np.zeros(8)}], metrics=apart), 'the student .*validation'),
    (dict(validation=[wide()], metrics=lambda student: student.mean()), 'metrics .*one number for'),
    (dict(accumulate=3), 'accumulate=3 does not divide the batch of 8'),
    (dict(accumulate=0), 'accumulate=0 must be at least 1'),
])
def test_a_mistake_is_one_line_before_anything_is_compiled(how, line, monkeypatch):
  monkeypatch.setattr(train, 'fit', None)
  with pytest.raises(ValueError, match=line) as found:
    call(**how)
  assert '\n' not in str(found.value)


@pytest.mark.parametrize('data, line', [
    (iter([xs(1, 2)] * 2), 'data ended after 2 batches, and more are asked for: give fewer steps'),
    ([xs(1, 2), xs(1, 2, 3)], 'data: batch 1 has 3 rows, and the first batch 2'),
    ([xs(1, 2), {'x': np.ones((2, 2), np.float32)}], r"batch 1: 'x' is float32 \[2, 2\], and "
     r'float32 \[2\] in the first'),
    ([xs(1, 2), {'x': np.array([1, 2])}], r"batch 1: 'x' is int32 \[2\], and float32 \[2\]"),
    ([xs(1, 2), {'y': np.ones(2)}], "batch 1 lacks 'x', which the first batch has; it has y"),
    ([xs(1, 2), xs(1, np.nan)], r"batch 1: 'x' holds NaN in 1 of 2 rows, the first of them row 1 "
     r'\(id 3\)'),
    ([xs(1, 2), xs(1e30, 2)], r'loss or gradient is not finite at step 1, batch ids \[2, 3\]; '
     'nothing was saved yet'),
])
def test_a_mistake_in_a_later_batch_is_one_line(data, line):
  with pytest.raises(ValueError, match=line) as found:
    distill.distill(LINE, TWICE, data, steps=4, losses=apart, **sgd)
  assert '\n' not in str(found.value)


def test_without_a_workdir_no_checkpoint_is_named(monkeypatch):
  monkeypatch.setattr(training, 'KEEP_EVERY', 1)
  with pytest.raises(ValueError, match='not finite at step 1, .*; nothing was saved yet'):
    distill.distill(LINE, TWICE, [xs(1, 2), xs(1e30, 2)], steps=4, losses=apart, **sgd)


def test_statistics_of_batches_want_full_batches():
  with pytest.raises(ValueError, match='batch 1 has 5 rows, the first batch 8, and the student '
                     'keeps statistics of batches: leave a smaller last batch out'):
    call(student=Net(norm=True), data=[wide(), wide(5)])


class TestTerms:
  SHAPES = {'student': {'hidden': 0, 'logits': 0}, 'teacher': {'only': 0}, 'schedule': {'t': 0},
            'batch': {'label': 0, 'valid': 0}, 'projected': {'p': 0}}

  def reads(self, given, teachers=('teacher',)):
    [term] = terms.terms(given, self.SHAPES, teachers, 'losses')
    return dict(term.reads)

  def test_arguments_are_found_by_their_names(self):
    assert self.reads(lambda student, teacher, label, t, p, hidden: 0) == {
        'student': 'student/logits', 'teacher': 'teacher/only', 'label': 'batch/label',
        't': 'schedule/t', 'p': 'projected/p', 'hidden': 'student/hidden'}

  def test_two_unknown_arguments_are_student_and_teacher(self):
    assert self.reads(optax.losses.squared_error) == {
        'predictions': 'student/logits', 'targets': 'teacher/only'}

  def test_a_loss_that_mixes_examples_is_given_those_that_count(self):
    assert self.reads(sp)['where'] == 'batch/valid'
    assert self.reads(dict(loss=sp, mask='batch/label'))['where'] == 'batch/label'

  def test_what_reads_says_counts(self):
    assert self.reads(dict(loss=logits.kl, reads={
        'student': 'student/hidden', 'teacher': 'student', 'temperature': 'schedule/t'})) == {
            'student': 'student/hidden', 'teacher': 'student/logits', 'temperature': 'schedule/t'}

  def test_a_lone_loss_is_called_by_its_name(self):
    names = [terms.terms(given, self.SHAPES, ('teacher',), 'losses')[0].name
             for given in (logits.kl, 'features.mse', lambda student: 0, dict(loss=features.mse))]
    assert names == ['kl', 'mse', 'objective', 'mse']

  def test_several_outputs_without_logits_must_be_named(self):
    shapes = {**self.SHAPES, 'student': {'a': 0, 'b': 0}}
    with pytest.raises(Exception, match="student has several outputs, a, b: say which one it "
                       "reads: reads={'student': 'student/a'}"):
      terms.terms(apart, shapes, ('teacher',), 'losses')


class TestCompare:
  LABELS = np.array([0, 1, 1, 0, 1])
  GUESS = {'right': [0, 1, 1, 0, 1], 'half': [0, 1, 1, 1, 0], 'least': [1, 0, 0, 0, 0]}

  def data(self):
    rows = {'x': np.eye(2, dtype=np.float32)[np.stack([*self.GUESS.values()], 1)],
            'label': self.LABELS}
    return [{name: x[part] for name, x in rows.items()} for part in (slice(3), slice(3, None))]

  def models(self, *names):
    return {name: lambda batch, i=i: batch['x'][:, i]
            for i, name in enumerate(self.GUESS) if name in names}

  def test_by_hand(self):
    found = distill.compare(self.models('right', 'half', 'least'), self.data(), teacher='right',
                            baseline='least', costs=False, resamples=20)
    entries = {model['name']: model for model in found.report['models']}
    assert [m['role'] for m in entries.values()] == ['teacher', 'student', 'baseline']
    assert [round(m['quality']['accuracy']['value'], 6) for m in entries.values()] == [1, 0.6, 0.2]
    assert entries['half']['retention']['accuracy'] == pytest.approx(0.6)
    assert entries['half']['gain']['accuracy']['value'] == pytest.approx(0.4)
    assert entries['half']['faithfulness']['agreement']['value'] == pytest.approx(0.6)
    assert not broken(found.report)

  def test_text_and_page(self, tmp_path):
    net = (lambda params, x: x[:, 0] * params, jnp.ones(2))
    found = distill.compare({'teacher': net, **self.models('half')}, self.data(), resamples=20,
                            names=('no', 'yes'))
    assert re.search(r'accuracy +100\.0 % .* 60\.0 %', str(found))
    assert 'median latency, batch 1' in str(found) and '60.0 % of the teacher' in str(found)
    page = found.save(tmp_path / 'page.html').read_text()
    assert page.startswith('<!doctype html>') and '<script src' not in page and 'yes' in page
    assert [model['params'] for model in found.report['models']] == [2, 0]
    assert '<iframe' in found._repr_html_() and repr(found) == str(found)

  def test_what_a_function_takes_from_around_it_counts(self):
    weights = jnp.ones((2, 2))
    model = lambda batch: batch['x'][:, 0] @ weights
    found = distill.compare({'a': model}, self.data(), costs=False, resamples=20)
    assert [(m['params'], m['bytes'], m['role']) for m in found.report['models']] == [
        (4, 16, 'student')]

  def test_numbers_are_a_regression(self):
    data = [{'x': np.array([1, 2, 3, 4], np.float32), 'label': np.array([1, 2, 3, 5], np.float32)}]
    found = distill.compare({'same': (lambda params, x: params * x[:, None], jnp.ones(()))}, data,
                            costs=False, resamples=20)
    assert found.report['models'][0]['quality']['mse']['value'] == pytest.approx(0.25)

  @pytest.mark.parametrize('how, line', [
      (dict(models={}), 'models must be a dict of one or more'),
      (dict(models=[1]), 'models must be a dict'),
      (dict(data=[]), 'data is empty'),
      (dict(data=[{'x': np.ones((4, 3, 2))}]), "data has no 'label', by which models are judged"),
      (dict(models={'a': lambda batch: batch['y']}), r"models\['a'\] reads 'y', which data has"),
      (dict(models={'a': Net(norm=True)}), r"models\['a'\] is in train mode"),
      (dict(models={'a': lambda batch: batch['x'][:, 0], 'b': lambda batch: batch['x'][:, :, 0]}),
       r"models\['b'\] cannot be judged by Classification: logits are \[3, 3\], not \[b 2\]"),
      (dict(models={'a': lambda batch: batch['x']}), r"models\['a'\] answers \[3, 3, 2\], and the "
       'labels are int32'),
      (dict(models={'a': lambda batch: {'other': batch['x']}},
            task='classification.Classification'),
       'names no output'),
      (dict(task='classification.Clasification'), 'names nothing in distill/tasks; did you mean'),
      (dict(teacher='c'), "teacher='c' is none of the models"),
      (dict(data=[{'x': np.ones((2, 3, 2)), 'label': np.zeros(2, int), 'id': np.zeros(2, int)}]),
       'data has an id twice'),
      (dict(models={'a': lambda batch: batch['x'][:, 0] * jnp.nan}), r"models\['a'\]: example 0: "
       'the answer has logits that are not finite'),
  ])
  def test_a_mistake_is_one_line(self, how, line):
    how = dict(models=self.models('right', 'half'), data=self.data()) | how
    with pytest.raises(ValueError, match=line) as found:
      distill.compare(how.pop('models'), how.pop('data'), costs=False, **how)
    assert '\n' not in str(found.value)


def test_importing_distill_loads_no_jax_and_its_help_lists_both():
  code = 'import distill, sys; assert "jax" not in sys.modules and "numpy" not in sys.modules'
  subprocess.run([sys.executable, '-P', '-c', code], check=True)
  text = pydoc.plain(pydoc.render_doc(distill))
  assert re.search(r'^ +compare\(models', text, re.M)
  assert re.search(r'^ +distill\(student', text, re.M)
  with pytest.raises(AttributeError, match="no attribute 'distil'"):
    distill.distil        # noqa: B018


def blocks():
  return re.findall(r'```python\n(.*?)```', DOCS.read_text(), re.DOTALL)


def test_distilling_takes_twelve_lines_and_twenty_five_with_hints_schedule_and_validation():
  # Without empty lines, comments and the teacher's paragraph, as the page says.
  counted = [re.sub(r'^# The teacher.*?\n\n|^#.*?\n', '', code, flags=re.DOTALL | re.MULTILINE)
             for code in blocks()[:2]]
  assert all('weights, _' not in code and 'student = ' in code for code in counted)
  assert [len([line for line in code.splitlines() if line]) for code in counted] == [12, 25]


@pytest.mark.parametrize('code', blocks(), ids=range(len(blocks())))
def test_the_page_s_blocks_run_by_themselves(code, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  printed = io.StringIO()
  with contextlib.redirect_stdout(printed):
    exec(re.sub('epochs=10', 'epochs=1', code), {})     # it is the code that is tested
  assert re.search('loss|accuracy', printed.getvalue())
  assert {path.name for path in tmp_path.iterdir()} <= {'page.html'}


def test_schedules_move_what_losses_read():
  # At T = 1 and 2 in turn: the loss of the first step is that of the first temperature.
  heat = lambda step: 1.0 + jnp.asarray(step, jnp.float32)
  batch = {'x': np.array([[0.0, 2.0]], np.float32)}
  student = (lambda params, x: params * x, jnp.zeros(()))
  _, history = distill.distill(
      student, lambda batch: batch['x'], [batch], steps=2, **sgd | dict(optimizer=optax.sgd(0.0)),
      losses=dict(loss=logits.kl, reads={'temperature': 'schedule/heat'}), schedules={'heat': heat})
  expected = []
  for t in (1.0, 2.0):
    p = np.exp(np.array([0, 2]) / t) / np.exp(np.array([0, 2]) / t).sum()
    expected.append(t * t * (p * np.log(p * 2)).sum())
  np.testing.assert_allclose([row['kl'] for row in history], expected, rtol=1e-5)

