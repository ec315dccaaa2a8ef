"""Several models in one, each with a seed and a key of its own."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import objective
from distill.losses import logits, supervised
from distill.models.cohort import Cohort
from distill.models.functional import Functional

BERT = dict(name='bert.Bert', vocabulary=12, length=6, classes=3, width=8, depth=1, heads=2,
            dropout=0.5)
RESNET = dict(name='resnet.ResNet', depth=4, widths=(4, 4), channels=1, classes=3)
MIXED = dict(a=BERT, b=RESNET, c=BERT)
BATCH = {'tokens': jnp.arange(24).reshape(4, 6) % 12, 'types': jnp.zeros((4, 6), jnp.int32),
         'mask': jnp.ones((4, 6)), 'image': jnp.cos(jnp.arange(64.).reshape(4, 4, 4, 1)),
         'label': jnp.array([0, 2, 1, 1]), 'valid': jnp.array([1., 1, 1, 0])}


def cohort(**members):
  return Functional(lambda rngs: Cohort(members=members, rngs=rngs))


COHORT = cohort(**MIXED)
WEIGHTS = COHORT.init(3)
call = jax.jit(lambda key, train: COHORT(*WEIGHTS, BATCH, train=train, key=key), static_argnums=1)
CALM, _ = call(None, False)


def test_the_first_member_has_its_own_names_and_all_have_theirs():
  names = {name.removeprefix('a/') for name in CALM if name.startswith('a/')}
  assert {'logits', 'block00/hidden', 'pooled'} <= names <= set(CALM)
  for name in names:
    np.testing.assert_array_equal(CALM[name], CALM[f'a/{name}'])
  assert {'b/logits', 'b/stage1/features', 'c/logits'} < set(CALM)


def test_weights_are_still_called_weights():
  assert CALM['weights/b/head/kernel'].shape == (4, 3)
  assert all(len(value) == 4 for name, value in CALM.items() if not name.startswith('weights/'))


def test_members_start_differently_and_a_further_one_changes_none():
  reordered, _ = cohort(c=BERT, b=RESNET).init(3)
  for path, value in reordered.items():
    np.testing.assert_array_equal(WEIGHTS[0][path], value)
  kernel = 'blocks/0/query/kernel'
  assert not np.array_equal(WEIGHTS[0][f'members/a/{kernel}'], WEIGHTS[0][f'members/c/{kernel}'])


def test_each_has_a_key_of_its_own_and_its_statistics_are_kept():
  first, rest = call(jax.random.key(0), True)
  same, _ = call(jax.random.key(0), True)
  other, _ = call(jax.random.key(1), True)
  np.testing.assert_array_equal(first['a/logits'], same['a/logits'])
  assert not np.array_equal(first['a/logits'], other['a/logits'])
  # Members a and c have equal weights, and differ only by dropout.
  equal = {path: WEIGHTS[0][path.replace('members/c/', 'members/a/')] for path in WEIGHTS[0]}
  run = jax.jit(lambda key: COHORT(equal, WEIGHTS[1], BATCH, train=True, key=key)[0])
  outputs = run(jax.random.key(0))
  assert not np.array_equal(outputs['a/logits'], outputs['c/logits'])
  moved = 'members/b/stem_norm/mean'
  assert not np.array_equal(rest[moved], WEIGHTS[1][moved])


MUTUAL = {
    name: dict(loss='supervised.cross_entropy',
               reads=dict(student=f'student/{name}/logits', label='batch/label')) for name in 'ab'
} | {
    f'{name}_from_{other}': dict(loss='logits.kl', reads=dict(
        student=f'student/{name}/logits', teacher=f'self/{other}/logits'))
    for name, other in ('ab', 'ba')}


def test_mutual_learning_is_four_terms():
  # Zhang 2018, eq. 6 and 7, in one step; the peer's gradient is stopped.
  terms = objective.terms_from(MUTUAL)

  def total(views_of):
    views = {'student': views_of, 'self': jax.lax.stop_gradient(views_of), 'batch': BATCH}
    return objective.compute(terms, views, objective.counts(terms, BATCH), 0)[0]['']

  def by_hand(z):
    mean = lambda values: jnp.sum(values * BATCH['valid']) / 3
    return sum(mean(supervised.cross_entropy(z[f'{x}/logits'], BATCH['label']) + logits.kl(
        z[f'{x}/logits'], jax.lax.stop_gradient(z[f'{y}/logits']))) for x, y in ('ab', 'ba'))
  both = {name: CALM[name] for name in ('a/logits', 'b/logits')}
  for actual, expected in zip(jax.tree.leaves(jax.value_and_grad(total)(both)),
                              jax.tree.leaves(jax.value_and_grad(by_hand)(both)), strict=True):
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize('members', [
    {'a': BERT}, {'a': BERT, 'b/c': BERT}, {'a': BERT, 'weights': BERT}])
def test_members_must_be_two_with_plain_names(members):
  with pytest.raises(ValueError, match='must be at least two'):
    cohort(**members)
