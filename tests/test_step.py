import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from distill import (
  carry,
  lookup,
  microbatches,
  objective,
  optimizers,
  sharding,
  step,
  student,
  teachers,
)
from distill.models import norm
from distill.models.functional import Functional
from distill.types import Status, Stop


class Tiny(nnx.Module):
  """One dense layer; 'weights/kernel' is not an output of examples."""

  def __init__(self, *, outputs=3, rngs):
    self.dense = nnx.Linear(4, outputs, rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': self.dense(batch['x']), 'weights/kernel': self.dense.kernel[...]}


class Counting(Tiny):
  """Carries how often it was called in training, as batch statistics are carried."""

  def __init__(self, *, rngs):
    super().__init__(rngs=rngs)
    self.calls = nnx.Variable(jnp.zeros(()))

  def __call__(self, batch, *, train=False, key=None):
    if train:
      self.calls[...] += 1
    return super().__call__(batch)


HARD = dict(loss='supervised.cross_entropy', mask='batch/labelled',
            reads=dict(student='student/logits', label='batch/label'))
SOFT = dict(loss='logits.kl', kwargs=dict(temperature=2.0), weight=0.7,
            schedule=dict(name='ramp', steps=3),
            reads=dict(student='student/logits', teacher='big/logits'))
MODEL = Functional(lambda rngs: Tiny(rngs=rngs))
BIG = (Functional(lambda rngs: Tiny(rngs=rngs)).init(9))


def batch(i=0, b=8):
  x = np.random.default_rng(i).normal(size=(b, 4)).astype(np.float32)
  return {'x': jnp.array(x), 'label': jnp.arange(b) % 3, 'valid': jnp.ones(b).at[-1].set(0.0),
          'labelled': (jnp.arange(b) % 3 > 0).astype(jnp.float32)}


def machine(node=None, *, model=MODEL, frozen=(), optimizer=None, microbatch=0, **options):
  who = student.Student(model, {}, frozen)
  optimizer = optimizer or optax.sgd(0.1)
  big = teachers.Live('big', MODEL, microbatch=microbatch)
  terms = objective.terms_from(node or {'hard': HARD, 'soft': SOFT})
  run = step.make_train_step(who, (big,), terms, optimizer, **options)
  carries = options.get('carries', {})
  number = jax.ShapeDtypeStruct((), jnp.float32)
  shapes = {'big': {'logits': jax.ShapeDtypeStruct((8, 3), jnp.float32)},
            'terms': {term.name: number for term in terms},
            'gradients': {term.group: number for term in terms}}
  start = step.init_state(who, *who.init(0), optimizer,
                          {n: c.init(jax.random.key(0), shapes, who.init(0)[0])
                           for n, c in carries.items()})
  return run, start


def trained(steps=4, first=0, state=None, **options):
  run, start = machine(**options)
  state = start if state is None else state
  for i in range(first, steps):
    state, metrics = run(state, {'big': BIG}, batch(i), jax.random.key(1))
  return state, metrics


def assert_same(a, b, rtol=0.0, atol=0.0):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def test_one_step_by_hand():
  # SGD on the cross-entropy of one example: W ← W − rate · x ⊗ (softmax(z) − onehot).
  run, state = machine({'hard': dict(HARD, mask='')}, optimizer=optax.sgd(0.5))
  single = jax.tree.map(lambda v: v[:1], batch()) | {'valid': jnp.ones(1)}
  w, b = (np.asarray(state.params[f'model/dense/{n}']) for n in ('kernel', 'bias'))
  x = np.asarray(single['x'][0])
  z = x @ w + b
  slope = np.exp(z) / np.exp(z).sum() - np.eye(3)[0]
  state, metrics = run(state, {'big': BIG}, single, jax.random.key(0))
  np.testing.assert_allclose(state.params['model/dense/kernel'], w - 0.5 * np.outer(x, slope),
                             atol=1e-6)
  np.testing.assert_allclose(metrics['grad_norm'][0], np.sqrt(
      (slope**2).sum() * (1 + (x**2).sum())), rtol=1e-5)
  assert state.step == 1 and state.first_bad == -1


def test_resumed_is_uninterrupted():
  whole, _ = trained(4)
  half, _ = trained(2)
  saved = jax.tree.map(lambda x: jnp.array(np.asarray(x)), half)      # through the host and back
  assert_same(trained(4, first=2, state=saved)[0], whole)


@pytest.mark.parametrize('accumulate', [2, 4, 8])
def test_accumulated_is_the_whole_batch(accumulate):
  # Sums of the same float32 numbers in another order.
  a, ours = trained(accumulate=accumulate)
  b, theirs = trained()
  assert_same(a.params, b.params, rtol=1e-5, atol=1e-6)
  assert_same(dict(ours), dict(theirs), rtol=1e-4)


@pytest.mark.slow
def test_every_loss_on_logits_that_mixes_no_examples_accumulates():
  named = [(name, lookup.find('losses', name, '')) for name in lookup.names('losses')
           if name.startswith(('logits.', 'divergences.', 'vocabulary.'))]
  fixed = {'units': (0, 1), 'name': 'hellinger', 'alpha': 0.5, 't': 0.4, 'k': 2}
  node = {}
  for name, loss in named:
    taken = lookup.parameters(loss)
    paths = {'student': 'student/logits', 'teacher': 'big/logits', 'label': 'batch/label'}
    node[name.replace('.', '_')] = dict(
        loss=name, reads={a: p for a, p in paths.items() if a in taken}, mask='batch/labelled',
        kwargs={k: fixed[k] for k, p in taken.items() if k in fixed and p.default is p.empty})
  assert len(node) > 20
  (a, ours), (b, theirs) = (trained(2, node=node, accumulate=n) for n in (2, 1))
  assert_same(a.params, b.params, rtol=1e-5, atol=1e-6)       # float32 in another order
  assert_same(dict(ours), dict(theirs), rtol=1e-4, atol=1e-6)


def primitives(jaxpr):
  """The names of all equations, at any depth."""
  inner = (name for equation in jaxpr.eqns for sub in jaxprs_in_params(equation.params)
           for name in primitives(sub))
  return [*(equation.primitive.name for equation in jaxpr.eqns), *inner]


class Convolving(Counting):
  """The inputs pass a convolution first."""

  def __init__(self, *, rngs):
    super().__init__(rngs=rngs)
    self.conv = nnx.Conv(1, 1, (3,), rngs=rngs)

  def __call__(self, batch, *, train=False, key=None):
    return super().__call__({**batch, 'x': self.conv(batch['x'][..., None])[..., 0]}, train=train)


class TestMicroBatchesAsALoopAndAsAScan:

  def traced(self, accumulate, model=MODEL):
    run, start = machine(model=model, accumulate=accumulate)
    return primitives(run.trace(start, {'big': BIG}, batch(), jax.random.key(1)).jaxpr.jaxpr)

  @pytest.mark.parametrize('kind', [Counting, Convolving])
  def test_both_give_the_same(self, kind, monkeypatch):
    model, found = Functional(lambda rngs: kind(rngs=rngs)), {}
    node = {'hard': dict(HARD, group='task'), 'soft': SOFT}
    for loop in True, False:
      monkeypatch.setattr(microbatches, '_convolves', lambda program, loop=loop: loop)
      found[loop] = trained(3, node=node, model=model, accumulate=4)
    (a, ours), (b, theirs) = found.values()
    assert_same(a.params, b.params, atol=1e-6)
    assert_same(dict(ours), dict(theirs), rtol=1e-6)
    assert a.rest == b.rest == {'model/calls': 12}

  def test_a_program_of_many_parts_is_no_longer_than_one_of_two(self):
    two, eight = self.traced(2), self.traced(8)
    assert 'scan' in two and eight.count('dot_general') == two.count('dot_general')
    assert 'scan' not in self.traced(1)

  def test_a_cpu_loops_over_convolutions_and_an_accelerator_scans(self, monkeypatch):
    model = Functional(lambda rngs: Convolving(rngs=rngs))
    assert 'scan' not in self.traced(2, model)
    monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
    assert 'scan' in self.traced(2, model)


class Normalised(Tiny):

  def __init__(self, *, rngs):
    super().__init__(rngs=rngs)
    self.norm = norm.BatchNorm(3)

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': self.norm(self.dense(batch['x']), valid=batch['valid'], train=train)}


@pytest.mark.parametrize(('terms', 'model', 'line'), [
    ({'same': dict(loss='relations.sp', reads=dict(student='student/logits', teacher='big/logits',
                                                   where='batch/valid'))}, MODEL,
     'objective.same mixes the examples of a batch'),
    ({'hard': HARD}, Functional(lambda rngs: Normalised(rngs=rngs)),
     'student.model mixes the examples of a batch')])
def test_what_would_not_be_the_whole_batch_is_not_accumulated(terms, model, line):
  machine(terms, model=model)
  with pytest.raises(Stop, match=line) as stop:
    machine(terms, model=model, accumulate=2)
  assert stop.value.status == Status.CONFIG


@pytest.mark.parametrize('microbatch', [1, 3, 8, 100])
def test_teacher_micro_batches_change_nothing(microbatch):
  assert_same(trained(microbatch=microbatch)[0].params, trained()[0].params, rtol=1e-5, atol=1e-6)


def test_numbers_that_are_not_finite_change_nothing_and_are_remembered():
  run, state = machine()
  state, _ = run(state, {'big': BIG}, batch(0), jax.random.key(1))
  before = jax.tree.map(np.asarray, state)
  bad = batch(1) | {'x': batch(1)['x'].at[2, 1].set(jnp.nan)}
  state, _ = run(state, {'big': BIG}, bad, jax.random.key(1))
  state, _ = run(state, {'big': BIG}, batch(2), jax.random.key(1))  # good again, no update
  assert_same(jax.tree.map(np.asarray, state.params), before.params)
  assert_same(jax.tree.map(np.asarray, state.opt_state), before.opt_state)
  assert state.first_bad == 1 and state.step == 3


@pytest.mark.parametrize('which', ['teacher', 'overflow'])
def test_every_source_of_bad_numbers_is_caught(which):
  run, state = machine()
  weights = BIG if which == 'overflow' else jax.tree.map(lambda x: x * jnp.inf, BIG)
  data = batch() | ({'x': batch()['x'] * 1e38} if which == 'overflow' else {})
  for _ in range(2):            # the ramp's first weight is 0
    state, _ = run(state, {'big': weights}, data, jax.random.key(1))
  assert state.first_bad in (0, 1)
  assert all(np.isfinite(v).all() for v in state.params.values())


def test_teachers_get_no_gradient_and_stay_as_they_are():
  run, state = machine()
  weights = {'big': jax.tree.map(jnp.copy, BIG)}
  run(state, weights, batch(), jax.random.key(1))
  assert_same(weights['big'], BIG)              # not donated, not changed

  def loss(weights):
    big = teachers.Live('big', MODEL)
    return big(weights, batch())['logits'].sum()
  assert all((g == 0).all() for g in jax.tree.leaves(jax.grad(loss)(BIG)))


def test_frozen_parameters_stay_bitwise_and_have_no_optimizer_state():
  run, start = machine(frozen=('dense/kernel',), optimizer=optax.adam(0.1))
  before = np.asarray(start.params['model/dense/kernel'])
  state, _ = run(start, {'big': BIG}, batch(), jax.random.key(1))
  assert (state.params['model/dense/kernel'] == before).all()
  assert (np.asarray(state.params['model/dense/bias']) != 0).any()
  assert not any('kernel' in jax.tree_util.keystr(path)
                 for path, _ in jax.tree_util.tree_leaves_with_path(state.opt_state))


def test_groups_give_the_same_update_and_their_own_norms():
  grouped = {'hard': dict(HARD, group='task'), 'soft': dict(SOFT, group='kd')}
  a, metrics = trained(node=grouped)
  b, _ = trained()
  assert_same(a.params, b.params, rtol=1e-5, atol=1e-6)
  assert {'grad_norm/task', 'grad_norm/kd'} <= set(metrics)
  only_hard, only = trained(1, node={'hard': HARD})
  np.testing.assert_allclose(trained(1, node=grouped)[1]['grad_norm/task'][0],
                             only['grad_norm'][0], rtol=1e-5)


def test_what_the_module_carries_is_carried():
  counting = Functional(lambda rngs: Counting(rngs=rngs))
  state, _ = trained(3, model=counting)
  assert state.rest == {'model/calls': 3}
  state, _ = trained(3, model=counting, accumulate=2)
  assert state.rest == {'model/calls': 6}


def test_bfloat16_computes_narrow_and_keeps_its_parameters_wide():
  a, b = (trained(dtype=dtype)[0] for dtype in ('float32', 'bfloat16'))
  assert all(v.dtype == jnp.float32 for v in jax.tree.leaves(b.params))
  assert_same(a.params, b.params, atol=0.02)     # 8 bits in the products, four steps
  assert any((x != y).any() for x, y in zip(a.params.values(), b.params.values(), strict=True))


def test_randomness_is_a_function_of_the_seed_and_the_step():
  noisy = lambda data, key, ask: data | {'x': data['x'] + jax.random.normal(key, data['x'].shape)}
  run, start = machine({'hard': HARD}, augment=(noisy,))
  def once(step, seed):
    state = jax.tree.map(jnp.copy, start).replace(step=jnp.int32(step))
    return np.asarray(run(state, {'big': BIG}, batch(), jax.random.key(seed))[0].params[
        'model/dense/kernel'])
  assert (once(0, 1) == once(0, 1)).all()
  assert (once(0, 1) != once(1, 1)).any() and (once(0, 1) != once(0, 2)).any()


class TestAsk:
  """What an augment may ask of its step."""

  def views(self, change, step_=2, node=None, **options):
    """Groups' totals and the views of a step whose augment this is."""
    who, big = student.Student(MODEL), teachers.Live('big', MODEL)
    gradients = step.make_gradients(who, (big,), objective.terms_from(
        node or {'hard': HARD, 'soft': SOFT}), augment=(change,), **options)
    state = step.init_state(who, *who.init(0), optax.sgd(0.1), {}).replace(step=jnp.int32(step_))
    groups, *_, views = jax.jit(gradients)(state, {'big': BIG}, batch(), jax.random.key(0))
    return state, groups, views

  def test_the_loss_is_the_step_s_own_and_has_a_gradient(self):
    slope = lambda b, key, ask: {**b, 'asked': jnp.full(8, ask.loss(b)), 'slope': jax.grad(
        lambda x: ask.loss({**b, 'x': x}))(b['x'])}
    state, groups, views = self.views(slope)
    np.testing.assert_allclose(views['batch']['asked'], sum(groups.values()), rtol=1e-6)
    # Of the cross-entropy alone, over the four valid rows with a label: (softmax - onehot) Wᵀ / 4.
    _, _, views = self.views(slope, node={'hard': HARD})
    params = student.subtree(state.params, 'model/')
    z = np.asarray(MODEL(params, {}, batch())[0]['logits'], np.float64)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True) - np.eye(3)[np.arange(8) % 3]
    counted = np.asarray(batch()['labelled'] * batch()['valid'])
    by_hand = counted[:, None] / counted.sum() * (p @ np.asarray(params['dense/kernel']).T)
    np.testing.assert_allclose(views['batch']['slope'], by_hand, atol=1e-6)

  def test_the_student_and_the_teachers_answer_what_they_are_asked(self):
    asked = lambda b, key, ask: {
        **b, 'own': ask.student({**b, 'x': 2 * b['x']})['logits'],
        'theirs': ask.teachers['big']({**b, 'x': 2 * b['x']})['logits']}
    state, _, views = self.views(asked)
    twice = {**batch(), 'x': 2 * batch()['x']}
    for name, weights in ('own', (student.subtree(state.params, 'model/'), {})), ('theirs', BIG):
      np.testing.assert_allclose(views['batch'][name], MODEL(*weights, twice)[0]['logits'],
                                 rtol=1e-6)

  def test_answers_are_in_evaluation_mode_and_change_nothing(self):
    class Moody(Counting):
      def __call__(self, batch, *, train=False, key=None):
        return {'logits': (2 if train else 1) * super().__call__(batch, train=train)['logits']}
    model, answers = Functional(lambda rngs: Moody(rngs=rngs)), {}

    def asks(b, key, ask):
      answers.update(student=ask.student(b)['logits'], loss=ask.loss(b))
      return {**b, **{name: jnp.broadcast_to(x, (8, 3)) for name, x in answers.items()}}
    who = student.Student(model)
    gradients = step.make_gradients(who, (), objective.terms_from({'hard': HARD}), augment=(asks,))
    state = step.init_state(who, *who.init(0), optax.sgd(0.1), {})
    *_, rest, views = jax.jit(gradients)(state, {}, batch(), jax.random.key(0))
    logits = np.asarray(model(*model.init(0), batch())[0]['logits'])
    np.testing.assert_allclose(views['batch']['student'], logits, rtol=1e-6)
    np.testing.assert_allclose(views['student']['logits'], 2 * logits, rtol=1e-6)
    counted = np.asarray(batch()['labelled'] * batch()['valid'])
    losses = -jax.nn.log_softmax(logits)[np.arange(8), np.arange(8) % 3]
    np.testing.assert_allclose(views['batch']['loss'][0, 0], (losses * counted).sum()
                               / counted.sum(), rtol=1e-5)
    assert rest == {'model/calls': 1}

  @pytest.mark.parametrize(('change', 'line'), [
      (lambda b, key, ask: {**b, 'x': ask.teachers['bgi'](b)['logits']},
       "config: augment[0] asks the teacher 'bgi', and its stage has big: name what it reads"),
      (lambda b, key, ask: {'x': b['x'], 'label': b['label'], 'labelled': b['labelled']},
       'config: augment[0] drops valid: return {**batch, …}'),
      (lambda b, key, ask: None, 'config: augment[0] returns no batch'),
      (lambda b, key, ask: {name: value[::2] for name, value in b.items()},
       'config: augment[0] gives label [4], and the batch has 8 rows')])
  def test_a_mistake_is_one_line(self, change, line):
    with pytest.raises(Stop) as stop:
      self.views(change)
    assert line in str(stop.value) and stop.value.status == Status.MISFIT

  def test_shapes_that_change_from_step_to_step_are_refused(self):
    sizes = iter((3, 5))
    wide = lambda b, key, ask: {**b, 'noise': jnp.zeros((8, next(sizes)))}
    with pytest.raises(Stop, match=r'config: an augment gives noise \[8, 3\], and then \[8, 5\]'):
      who = student.Student(MODEL)
      step.view_shapes(who, (), (*who.shapes(), {}, jax.eval_shape(batch)), schedules={},
                       prepare=None, augment=(wide,), carries={}, where='config')


class TestCarry:
  MEAN = {'centre': carry.Mean(reads='big/logits', decay=0.9)}

  def test_the_moving_mean_by_hand_over_valid_rows(self):
    state, _ = trained(2, carries=self.MEAN)
    means = [np.asarray(MODEL(*BIG, batch(i))[0]['logits'])[:7].mean(0) for i in range(2)]
    # from 0: m₁ = 0.1 a, m₂ = 0.9 m₁ + 0.1 b
    np.testing.assert_allclose(state.carry['centre'], 0.09 * means[0] + 0.1 * means[1], rtol=1e-5)

  def test_it_resumes_bitwise(self):
    whole, _ = trained(4, carries=self.MEAN)
    saved = jax.tree.map(lambda x: jnp.array(np.asarray(x)), trained(2, carries=self.MEAN)[0])
    assert_same(trained(4, first=2, state=saved, carries=self.MEAN)[0], whole)

  def test_the_parts_of_a_dict_are_paths_of_their_own(self):
    class Two(carry.Mean):
      def init(self, key, shapes, params):
        return {'mean': super().init(key, shapes, params), 'steps': jnp.ones(())}

      def update(self, value, views, step, params):
        assert views['carry']['two/steps'].shape == ()
        mean = super().update(value['mean'], views, step, params)
        return {'mean': mean, 'steps': value['steps'] + 1}

    node = dict(SOFT, reads=dict(student='student/logits', teacher='big/logits',
                                 temperature='carry/two/steps'), kwargs={})
    state, _ = trained(1, node={'hard': HARD, 'soft': node},
                       carries={'two': Two(reads='big/logits')})
    assert state.carry['two']['steps'] == 2 and state.first_bad == -1
    centre, _ = trained(1, carries=self.MEAN)
    np.testing.assert_array_equal(state.carry['two']['mean'], centre.carry['centre'])

  def test_the_average_by_hand_and_the_teacher_that_has_it(self):
    how = dict(carries={'ema': carry.Average(decay=0.8)})
    states = [trained(n, **how)[0] for n in range(1, 4)]
    mean = student.Student(MODEL).init(0)[0]
    for state in states:
      mean = {path: 0.8 * mean[path] + 0.2 * state.params[path] for path in mean}
      assert_same(state.carry['ema'], mean, rtol=1e-6)
    moving = teachers.Moving('ema', MODEL, carry='ema')
    found = moving(moving.weights(({}, {}), states[-1].carry, states[-1].rest), batch())['logits']
    wanted = MODEL(student.subtree(mean, 'model/'), {}, batch())[0]['logits']
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert moving.shapes == ({}, {})

  @pytest.mark.parametrize('decay', [-0.1, 1.0])
  def test_a_decay_out_of_range_is_refused(self, decay):
    with pytest.raises(ValueError, match='decay='):
      carry.Average(decay=decay)

  def test_it_refuses_to_be_accumulated_by_name(self):
    with pytest.raises(Stop, match='carry.centre') as stop:
      machine(carries=self.MEAN, accumulate=2)
    assert stop.value.status == Status.CONFIG


def balanced(kind):
  """What is trained with weights from a carry, or with DOT: terms, carries and the optimizer."""
  weighed = lambda node, name: dict(
      node, group=name, scale='' if kind == 'dot' else f'carry/{kind}/{name}')
  soft = {k: v for k, v in SOFT.items() if k != 'schedule'}
  carries = {'dwa': lambda: carry.DWA(terms=('hard', 'soft'), window=2),
             'gradnorm': lambda: carry.GradNorm(terms=('hard', 'soft'))}
  plan = dict(rate=0.1, steps=9, schedule='constant', warmup=0.0)
  return dict(
      node={'hard': weighed(HARD, 'hard'), 'soft': weighed(soft, 'soft')},
      carries={kind: carries[kind]()} if kind in carries else {},
      optimizer=optimizers.dot(task='hard', **plan) if kind == 'dot' else optimizers.sgd(**plan))


class TestWhatATermSaysOfItself:

  class Seen:
    """Remembers what a carry sees."""
    reads = 'terms/soft', 'gradients/kd'

    def init(self, key, shapes, params):
      return {'mean': jnp.zeros(()), 'norm': jnp.zeros(())}

    def update(self, value, views, step, params):
      assert set(views['terms']) == {'hard', 'soft'} and set(views['gradients']) == {'', 'kd'}
      return {'mean': views['terms']['soft'], 'norm': views['gradients']['kd']}

  def seen(self, **change):
    node = {'hard': HARD, 'soft': dict(
        loss='logits.mse', reads=SOFT['reads'], group='kd', **change)}
    return trained(1, node=node, carries={'seen': self.Seen()},
                   schedules={'third': lambda step: jnp.float32(1 / 3)})

  def test_its_mean_is_before_and_its_gradient_after_weight_and_scale(self):
    (full, metrics), (half, _) = self.seen(), self.seen(weight=0.5)
    mean, norm = full.carry['seen']['mean'], full.carry['seen']['norm']
    start = student.subtree(student.Student(MODEL, {}, ()).init(0)[0], 'model/')
    logits = [MODEL(*weights, batch())[0]['logits'] for weights in ((start, {}), BIG)]
    gap = np.asarray(logits[0] - logits[1])
    np.testing.assert_allclose(mean, np.mean(gap[:7]**2), rtol=1e-5)         # over valid rows
    np.testing.assert_allclose(norm, metrics['grad_norm/kd'][0], rtol=1e-6)
    np.testing.assert_allclose([half.carry['seen']['mean'], half.carry['seen']['norm']],
                               [mean, norm / 2], rtol=1e-6)
    scaled, _ = self.seen(scale='schedule/third')
    np.testing.assert_allclose([scaled.carry['seen']['mean'], scaled.carry['seen']['norm']],
                               [mean, norm / 3], rtol=1e-6)

  def test_it_is_nan_where_nothing_counts(self):
    nothing = {'soft': dict(SOFT, mask='batch/nothing'), 'hard': HARD}
    terms = objective.terms_from(nothing)
    views = {'batch': batch() | {'nothing': jnp.zeros(8)}, 'big': {'logits': jnp.ones((8, 3))},
             'student': {'logits': jnp.ones((8, 3))}}
    *_, means = objective.compute(terms, views, objective.counts(terms, views['batch']), 1)
    assert np.isnan(means['soft']) and np.isfinite(means['hard'])

  @pytest.mark.parametrize('path', ['terms/hard', 'gradients/'])
  def test_a_term_cannot_read_it(self, path):
    node = {'hard': HARD, 'soft': dict(
        SOFT, reads=dict(SOFT['reads'], temperature=path), kwargs={})}
    with pytest.raises(Stop, match=f'objective.soft.reads.temperature: {path!r} names no view'):
      trained(1, node=node)


class TestBalance:

  @pytest.mark.parametrize('kind', ['dwa', 'gradnorm', 'dot'])
  def test_it_resumes_bitwise(self, kind):
    whole, _ = trained(6, **balanced(kind))
    saved = jax.tree.map(lambda x: jnp.array(np.asarray(x)), trained(3, **balanced(kind))[0])
    assert_same(trained(6, first=3, state=saved, **balanced(kind))[0], whole)
    if kind != 'dot':
      weights = [float(whole.carry[kind][name]) for name in ('hard', 'soft')]
      assert weights[0] != weights[1]
      np.testing.assert_allclose(sum(weights), 2, rtol=1e-6)

  @pytest.mark.parametrize('kind', ['dwa', 'gradnorm', 'dot'])
  def test_one_device_is_eight(self, kind):
    def on(devices):
      layout = sharding.layout(devices=jax.devices()[:devices])
      run, state = machine(layout=layout, **balanced(kind))
      state = sharding.device_put(state, step.state_shardings(state, layout))
      weights = {'big': sharding.device_put(BIG, layout.weight_shardings(BIG))}
      for i in range(5):
        state, _ = run(state, weights, layout.to_devices(batch(i)), jax.random.key(1))
      return jax.device_get(state)
    eight, single = on(8), on(1)
    for part in 'params', 'carry', 'opt_state':
      assert_same(getattr(eight, part), getattr(single, part), rtol=1e-5, atol=1e-6)
    assert single.first_bad == -1

  def test_a_weight_from_a_carry_weighs(self):
    # GradNorm's weights after a step, given as constants to the next.
    how = balanced('gradnorm')
    first, _ = trained(1, **how)
    weights = {name: float(first.carry['gradnorm'][name]) for name in ('hard', 'soft')}
    second, metrics = trained(2, **how)
    node = {name: dict({k: v for k, v in term.items() if k != 'scale'},
                       weight=term.get('weight', 1.0) * weights[name])
            for name, term in how['node'].items()}
    start = jax.tree.map(lambda x: jnp.array(np.asarray(x)), trained(1, **how)[0])
    plain, same = trained(2, first=1, state=start.replace(carry={}),
                          node=node, optimizer=how['optimizer'])
    assert weights['hard'] != 1
    np.testing.assert_allclose(same['grad_norm'][0], metrics['grad_norm'][0], rtol=1e-5)
    assert_same(plain.params, second.params, rtol=1e-5, atol=1e-7)


def test_norms_are_those_of_each_term_alone():
  terms = objective.terms_from(dict(balanced('dot')['node'], hint=dict(
      loss='logits.mse', weight=2.0, reads=SOFT['reads'], schedule=dict(name='ramp', steps=3))))
  who, big = student.Student(MODEL, {}, ()), teachers.Live('big', MODEL, microbatch=0)
  start = step.init_state(who, *who.init(0), optax.sgd(0.1), {})
  norms = step.make_gradient_norms(who, (big,), terms)
  found = norms(start, {'big': BIG}, batch(), jax.random.key(1))
  for name in 'hard', 'soft':
    only_hard, metrics = trained(1, node={name: balanced('dot')['node'][name]})
    np.testing.assert_allclose(found[name], metrics['grad_norm'][0], rtol=1e-5)
  assert found.keys() == {'hard', 'soft', 'hint'} and found['hint'] == 0
