"""The memory of contrastive distillation."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import sharding
from distill.carry import Bank
from distill.losses.contrastive import crd

LABELS = np.array([1, 0, 1, 2, 2, 1, 0, 1])
READS = ('projected/s', 'projected/t')
SHAPES = {'projected': {name: jax.ShapeDtypeStruct((4, 6), jnp.float32) for name in 'st'}}


def views(i, id=None, valid=(1., 1, 1, 1)):
  draw = lambda k: jax.random.normal(jax.random.key(10 * i + k), (4, 6))
  return {'projected': {'s': draw(0), 't': draw(1)},
          'batch': {'id': jnp.array([(5 * i + 3 * k) % 8 for k in range(4)] if id is None else id),
                    'valid': jnp.array(valid)}}


BANK = Bank(reads=READS, labels=LABELS, negatives=3, temperature=0.3)
START = BANK.init(jax.random.key(7), SHAPES, {})
jitted = jax.jit(BANK.update)
update = lambda value, views, step: jitted(value, views, step, {})
unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)


def row(value, id):
  """What the bank holds of an example, [2 d]."""
  return np.asarray(value['bank'])[:, np.asarray(value['places'])[id, 0]]


def same(single, other):
  return all(np.array_equal(single[name], other[name]) for name in single)


def test_it_starts_near_length_one_without_a_constant():
  assert START['bank'].shape == (2, 8, 6) and START['draws'].shape == (4, 3)
  assert START['draws'].dtype == jnp.uint32 and np.isposinf(START['z']).all()
  wide = Bank(reads=READS, labels=np.arange(50), negatives=2).init(jax.random.key(0), {
      'projected': {name: jax.ShapeDtypeStruct((4, 300), jnp.float32) for name in 'st'}}, {})
  np.testing.assert_allclose(np.linalg.norm(wide['bank'], axis=-1), 1, atol=0.15)


def test_classes_lie_side_by_side():
  rows, first, size = np.asarray(START['places']).T
  assert sorted(rows) == list(range(8))
  for label in range(3):
    of_class = LABELS == label
    expected = first[of_class] + np.arange(of_class.sum())
    np.testing.assert_array_equal(np.sort(rows[of_class]), expected)
    assert (size[of_class] == of_class.sum()).all()


def test_an_example_without_a_label_is_a_class_of_its_own():
  places = Bank(reads=READS, labels=np.array([0, -1, 0, -1, 1])).places
  np.testing.assert_array_equal(places[:, 2], [2, 1, 2, 1, 1])
  assert sorted(places[:, 0]) == list(range(5))
  numbers = Bank(reads=READS, labels=np.array([0.5, 0.5, np.nan])).places     # of a regression
  np.testing.assert_array_equal(numbers[:, 2], 1)


def test_rows_move_by_hand():
  given = views(0, id=[5, 1, 3, 0], valid=[1, 0, 1, 1])
  after = update(START, given, jnp.int32(0))
  for k, id in [(0, 5), (2, 3), (3, 0)]:
    vectors = np.stack([given['projected'][name][k] for name in 'st'])
    expected = unit(row(START, id) / 2 + unit(vectors) / 2)
    np.testing.assert_allclose(row(after, id), expected, atol=1e-6)
  for id in (1, 2, 4, 6, 7):
    np.testing.assert_array_equal(row(after, id), row(START, id))


def test_what_does_not_count_never_enters():
  given, valid = views(0), jnp.array([1., 0, 1, 0])
  given['batch']['valid'] = valid
  clean = update(START, given, jnp.int32(0))
  given['projected'] = {name: jnp.where(valid[:, None] > 0, x, jnp.nan)
                        for name, x in given['projected'].items()}
  given['batch']['id'] = jnp.where(valid > 0, given['batch']['id'], given['batch']['id'][0])
  assert same(update(START, given, jnp.int32(0)), clean)
  given['batch']['valid'] = 0 * valid
  empty = update(START, given, jnp.int32(0))
  assert np.isposinf(empty['z']).all() and same(empty | {'draws': 0}, START | {'draws': 0})


def test_of_an_example_held_twice_the_last_is_remembered():
  given = views(0, id=[2, 5, 2, 6])
  twice = update(START, given, jnp.int32(0))
  given['batch']['valid'] = jnp.array([0., 1, 1, 1])
  np.testing.assert_array_equal(twice['bank'], update(START, given, jnp.int32(0))['bank'])


def test_the_constants_are_those_that_the_first_loss_used_and_stay():
  given = views(0)
  after = update(START, given, jnp.int32(0))
  loss = jax.jit(lambda z: crd(
      *given['projected'].values(), given['batch']['valid'], given['batch']['id'], START['bank'],
      START['places'], START['draws'], z, temperature=START['temperature']))
  assert np.isfinite(after['z']).all()
  np.testing.assert_allclose(loss(after['z']), loss(START['z']), rtol=1e-6)
  np.testing.assert_array_equal(update(after, views(1), jnp.int32(1))['z'], after['z'])


def test_with_the_term_s_mask_the_constants_are_those_of_what_it_counts():
  masked = Bank(reads=READS, labels=LABELS, negatives=3, temperature=0.3, mask='batch/labelled')
  given = views(0, valid=[1., 1, 0, 1])
  given['batch']['labelled'] = jnp.array([1., 0, 0, 1])
  after, plain = (jax.jit(bank.update)(START, given, jnp.int32(0), {}) for bank in (masked, BANK))
  loss = jax.jit(lambda z: crd(
      *given['projected'].values(), given['batch']['labelled'], given['batch']['id'], START['bank'],
      START['places'], START['draws'], z, temperature=START['temperature']))
  np.testing.assert_allclose(loss(after['z']), loss(START['z']), rtol=1e-6)
  assert not np.allclose(after['z'], plain['z'])
  np.testing.assert_array_equal(after['bank'], plain['bank'])
  assert masked.reads == (*BANK.reads, 'batch/labelled')


def test_draws_depend_on_the_key_and_the_step_alone():
  after = update(START, views(0), jnp.int32(4))
  np.testing.assert_array_equal(update(after, views(1), jnp.int32(4))['draws'], after['draws'])
  assert not np.array_equal(after['draws'], START['draws'])
  np.testing.assert_array_equal(update(after, views(1), jnp.int32(-1))['draws'], START['draws'])
  other = BANK.init(jax.random.key(8), SHAPES, {})
  assert not np.array_equal(other['draws'], START['draws'])


def test_resumed_is_straight_through():
  straight = START
  for i in range(4):
    straight = update(straight, views(i), jnp.int32(i))
  kept = START
  for i in range(4):
    kept = {name: jnp.asarray(np.asarray(part).copy()) for name, part in kept.items()}
    kept = update(kept, views(i), jnp.int32(i))
  assert same(kept, straight)


@pytest.mark.skipif(len(jax.devices()) < 8, reason='needs 8 devices, which conftest.py simulates')
def test_one_device_is_eight():
  given = views(0)
  twice = jax.tree.map(lambda x: jnp.concatenate([x, x + 1 if x.dtype == jnp.int32 else 2 - x]),
                       given)
  twice['batch']['valid'] = jnp.ones(8).at[5].set(0)
  start = START | {'draws': jnp.concatenate([START['draws']] * 2)}
  single = update(start, twice, jnp.int32(0))
  layout = sharding.layout(devices=jax.devices()[:8])
  split = jax.tree.map(lambda x: jax.device_put(x, jax.sharding.NamedSharding(
      layout.mesh, jax.sharding.PartitionSpec('data'))), twice)
  eight = update(jax.device_put(start, layout.replicated_shardings(start)), split, jnp.int32(0))
  for name in single:
    np.testing.assert_allclose(eight[name], single[name], rtol=1e-6, atol=1e-7)
  np.testing.assert_array_equal(eight['draws'], single['draws'])


def test_it_says_what_it_reads():
  assert set(READS) < set(BANK.reads) and 'batch/id' in BANK.reads


@pytest.mark.parametrize('wrong, words', [
    (dict(negatives=0), 'negatives=0'), (dict(momentum=1.0), 'momentum=1.0'),
    *((dict(temperature=t), f'temperature={t}') for t in (0.0, np.nan, np.inf)),
    (dict(reads=('a/b',)), 'must name'),
    (dict(labels=np.zeros(5, int)), 'one class')])
def test_out_of_range(wrong, words):
  with pytest.raises(ValueError, match=words):
    Bank(**{'reads': READS, 'labels': LABELS} | wrong)
