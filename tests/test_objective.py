import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import objective, schedules
from distill.types import Status, Stop

HARD = dict(loss='supervised.cross_entropy',
            reads=dict(student='student/logits', label='batch/label'))
SOFT = dict(loss='logits.mse', reads=dict(student='student/logits', teacher='big/logits'))


def views(b=4, c=3):
  return {'student': {'logits': jnp.sin(jnp.arange(b * c, dtype=jnp.float32)).reshape(b, c)},
          'big': {'logits': jnp.cos(jnp.arange(b * c, dtype=jnp.float32)).reshape(b, c)},
          'batch': {'label': jnp.arange(b) % c, 'valid': jnp.ones(b),
                    'labelled': (jnp.arange(b) % 2).astype(jnp.float32)}}


def total(node, views, step=0):
  terms = objective.terms_from(node)
  totals, sums, _ = objective.compute(terms, views, objective.counts(terms, views['batch']), step)
  return sum(totals.values()), sums


def test_a_total_by_hand():
  # Logits (0, ln 3): cross-entropy ln 4 for label 0 and ln 4/3 for label 1; against the teacher's
  # (0, 0) the mean squared difference is (ln 3)²/2 for each. 1·(ln 4 + ln 4/3)/2 + 0.5·(ln 3)²/2
  logits = jnp.array([[0.0, np.log(3)]] * 2)
  v = {'student': {'logits': logits}, 'big': {'logits': jnp.zeros((2, 2))},
       'batch': {'label': jnp.array([0, 1]), 'valid': jnp.ones(2)}}
  value, sums = total({'hard': HARD, 'soft': dict(SOFT, weight=0.5)}, v)
  np.testing.assert_allclose(value, np.log(16 / 3) / 2 + np.log(3)**2 / 4, rtol=1e-6)
  np.testing.assert_allclose(sums['soft'][0], np.log(3)**2, rtol=1e-6)      # before weighting
  assert sums['hard'][1] == 2


def test_masked_is_the_subset():
  masked, sums = total({'hard': dict(HARD, mask='batch/labelled')}, views())
  half = jax.tree.map(lambda x: x[1::2], views())
  np.testing.assert_allclose(masked, total({'hard': HARD}, half)[0], rtol=1e-6)
  assert sums['hard'][1] == 2


def test_rows_that_only_fill_the_batch_never_count():
  v = views()
  v['batch']['valid'] = jnp.array([1.0, 1, 1, 0])
  v['student']['logits'] = v['student']['logits'].at[3].set(jnp.nan)
  three = jax.tree.map(lambda x: x[:3], v)
  np.testing.assert_allclose(total({'hard': HARD}, v)[0], total({'hard': HARD}, three)[0],
                             rtol=1e-6)


def test_a_term_that_counts_nothing_adds_nothing():
  v = views()
  v['batch']['labelled'] = jnp.zeros(4)
  value, grad = jax.value_and_grad(lambda z: total(
      {'hard': dict(HARD, mask='batch/labelled')}, {**v, 'student': {'logits': z}})[0])(
          v['student']['logits'])
  assert value == 0 and (grad == 0).all()


def test_scale_multiplies_without_being_counted():
  v = views()
  v['batch']['importance'] = jnp.array([2.0, 2, 2, 2])
  value, sums = total({'hard': dict(HARD, scale='batch/importance')}, v)
  np.testing.assert_allclose(value, 2 * total({'hard': HARD}, v)[0], rtol=1e-6)
  assert sums['hard'][1] == 4


def test_a_scale_may_be_one_number():
  v = views()
  v['projected'] = {'balance/hard': jnp.float32(0.25)}
  value, sums = total({'hard': dict(HARD, scale='projected/balance/hard')}, v)
  np.testing.assert_allclose(value, total({'hard': HARD}, v)[0] / 4, rtol=1e-6)
  assert sums['hard'][1] == 4


@pytest.mark.parametrize('shape', [(4, 3), (3,), (1,), (4, 1)])
def test_a_scale_that_does_not_lead_the_values_is_refused(shape):
  v = views()
  v['projected'] = {'wide': jnp.ones(shape)}
  line = f'objective.hard: its scale {list(shape)} does not lead what the loss gives, [4]'
  with pytest.raises(Stop) as stop:
    total({'hard': dict(HARD, scale='projected/wide')}, v)
  assert line in str(stop.value) and stop.value.status == Status.MISFIT


def test_a_loss_that_mixes_examples_must_know_those_that_count():
  node = dict(loss='relations.sp', reads=dict(
      student='student/logits', teacher='big/logits', where='batch/valid'))
  assert objective.terms_from({'same': node})[0].mixing
  for change in dict(mask='batch/labelled'), dict(reads={**node['reads'], 'where': 'batch/label'}):
    with pytest.raises(Stop, match='objective.same.reads.where=.*mixes examples') as stop:
      objective.terms_from({'same': {**node, **change}})
    assert stop.value.status == Status.CONFIG


def test_counts_over_the_whole_batch_make_micro_batches_add_up():
  node = {'hard': dict(HARD, mask='batch/labelled'), 'soft': SOFT}
  v = views(b=6)
  v['batch']['labelled'] = jnp.array([1.0, 1, 0, 0, 0, 1])       # uneven over the two halves
  terms = objective.terms_from(node)
  counts = objective.counts(terms, v['batch'])
  parts = [jax.tree.map(lambda x, i=i: x[i:i + 3], v) for i in (0, 3)]
  shares = [sum(objective.compute(terms, part, counts, 0)[0].values()) for part in parts]
  np.testing.assert_allclose(sum(shares), total(node, v)[0], rtol=1e-6)


def test_positions_are_averaged_over_all_tokens_not_over_texts():
  # Texts of 1 and 3 tokens with values 4 and (0, 0, 0): the mean over tokens is 1, over texts 2.
  v = {'student': {'hidden': jnp.array([[[2.0], [9], [9]], [[0.0], [0], [0]]])},
       'big': {'hidden': jnp.zeros((2, 3, 1))},
       'batch': {'valid': jnp.ones(2), 'mask': jnp.array([[1.0, 0, 0], [1, 1, 1]])}}
  node = {'hint': dict(loss='features.mse', mask='batch/mask',
                       reads=dict(student='student/hidden', teacher='big/hidden'))}
  assert total(node, v)[0] == 1.0


def test_trailing_axes_are_counted():
  v = {'student': {'hidden': jnp.ones((2, 3, 4))}, 'big': {'hidden': jnp.zeros((2, 3, 4))},
       'batch': {'valid': jnp.array([1.0, 0])}}
  node = {'hint': dict(loss='features.mse',
                       reads=dict(student='student/hidden', teacher='big/hidden'))}
  value, sums = total(node, v)
  assert value == 1.0 and sums['hint'] == (3.0, 3.0)


def test_the_weight_is_the_peak_times_the_schedule():
  node = {'soft': dict(SOFT, weight=0.8, schedule=dict(name='ramp', steps=10))}
  whole = total({'soft': SOFT}, views())[0]
  for step, share in (0, 0.0), (5, 0.4), (10, 0.8), (99, 0.8):
    np.testing.assert_allclose(total(node, views(), step)[0], share * whole, rtol=1e-6)


def test_a_term_of_weight_0_is_checked_and_left_out():
  terms = objective.terms_from({'hard': HARD, 'soft': dict(SOFT, weight=0.0)})
  assert [term.name for term in terms] == ['hard']
  with pytest.raises(Stop, match="did you mean 'logits.mse'"):
    objective.terms_from({'hard': HARD, 'soft': dict(SOFT, weight=0.0, loss='logits.mes')})
  with pytest.raises(Stop, match='nothing to train on'):
    objective.terms_from({'soft': dict(SOFT, weight=0.0)})


def test_groups_keep_their_totals_apart():
  terms = objective.terms_from({'hard': dict(HARD, group='task'), 'soft': dict(SOFT, group='kd')})
  v = views()
  totals, *_ = objective.compute(terms, v, objective.counts(terms, v['batch']), 0)
  assert set(totals) == {'task', 'kd'}
  np.testing.assert_allclose(sum(totals.values()), total({'hard': HARD, 'soft': SOFT}, v)[0],
                             rtol=1e-6)


@pytest.mark.parametrize(('change', 'status', 'line'), [
    (dict(loss='logits.kll'), Status.CONFIG, "did you mean 'logits.kl'"),
    (dict(los='logits.kl'), Status.CONFIG, "objective.t.los: TermNode has no such field; did you "
     "mean 'loss'"),
    (dict(weight=True), Status.CONFIG, 'objective.t.weight=True is a bool, not a float'),
    (dict(weight=-1.0), Status.CONFIG, 'objective.t.weight=-1.0 must be 0 or more'),
    (dict(kwargs=dict(temperatur=2.0)), Status.CONFIG, "did you mean 'temperature'"),
    (dict(schedule=dict(name='rampp', steps=3)), Status.CONFIG, "did you mean 'ramp'"),
    (dict(schedule=dict(name='ramp', steps=0)), Status.CONFIG, 'steps=0 must be at least 1'),
    (dict(kwargs=dict(temperature=0.0)), Status.MISFIT,
     'objective.t (student [4, 3], teacher [4, 3]): '),
    (dict(reads=dict(student='student/logit', teacher='big/logits')), Status.MISFIT,
     "'student/logit' names no output of student, which has logits"),
    (dict(reads=dict(student='studnt/logits', teacher='big/logits')), Status.MISFIT,
     "'studnt/logits' names no view; did you mean 'student'"),
    (dict(reads=dict(student='student/logits')), Status.CONFIG, 'lacks teacher'),
    (dict(mask='batch/labeled'), Status.MISFIT, "names no output of batch"),
])
def test_a_mistake_is_one_line_that_says_where(change, status, line):
  node = dict(loss='logits.kl', reads=dict(student='student/logits', teacher='big/logits'))
  with pytest.raises(Stop) as stop:
    total({'t': {**node, **change}}, views())
  assert stop.value.status == status and line in str(stop.value)
  assert '\n' not in str(stop.value)


def test_a_term_has_not_the_name_of_a_number_that_every_run_logs():
  with pytest.raises(Stop, match=r"objective\.loss: 'loss' is the name .* logs; rename the term"):
    objective.terms_from({'loss': HARD})


def test_a_mask_must_lead_the_values():
  v = views()
  v['batch']['mask'] = jnp.ones((4, 7))
  with pytest.raises(Stop, match=r'gives \[4\], which its mask \[4, 7\] does not lead'):
    total({'hard': dict(HARD, mask='batch/mask')}, v)


def test_shapes_that_would_broadcast_are_refused():
  v = views()
  v['big']['logits'] = v['big']['logits'][:1]
  with pytest.raises(Stop, match='objective.soft') as stop:
    total({'soft': SOFT}, v)
  assert stop.value.status == Status.MISFIT


class TestSchedules:

  def test_linear_is_held_before_and_after(self):
    shape = schedules.linear(start=1.0, stop=3.0, begin=10, steps=4)
    assert [float(shape(s)) for s in (0, 10, 11, 12, 14, 50)] == [1, 1, 1.5, 2, 3, 3]

  def test_cosine_by_hand(self):
    # 1 − t for the half cosine at t = 0, ½, 1; at a third, (1 + cos(π/3))/2 = 3/4
    shape = schedules.cosine(steps=6)
    np.testing.assert_allclose([shape(s) for s in (0, 2, 3, 6, 9)], [1, 0.75, 0.5, 0, 0],
                               atol=1e-6)

  def test_a_ramp_is_the_articles(self):
    # min(1, epoch / 10) with epochs counted in steps
    shape = schedules.ramp(steps=10)
    np.testing.assert_allclose([shape(s) for s in (0, 3, 10, 30)], [0, 0.3, 1, 1], atol=1e-7)

  def test_constant(self):
    assert schedules.constant()(7) == 1 and schedules.constant(value=0.3)(0) == jnp.float32(0.3)
