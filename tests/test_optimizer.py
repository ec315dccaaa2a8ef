import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill import lookup, optimizers
from distill.types import Status, Stop

FLAT = dict(rate=1.0, schedule='constant', warmup=0.0, clip=0.0)


def built(**node):
  """The optimizer of a config's node, for two steps."""
  return lookup.build('optimizers', {'name': 'adamw', **node}, 'optimizer', steps=2)


def rates(steps, **options):
  """The rates of SGD, step by step."""
  tx = optimizers.sgd(rate=1.0, steps=steps, clip=0.0, **options)
  state, found = tx.init(jnp.zeros(1)), []
  update = jax.jit(tx.update)
  for _ in range(steps):
    change, state = update(jnp.ones(1), state)
    found.append(-float(change[0]))
  return found


def walked(gradients, start, **options):
  """Parameters after each of these gradients, which may depend on them."""
  tx = built(**{**FLAT, **options})
  params, state, found = start, tx.init(start), []
  for gradient in gradients:
    updates, state = tx.update(gradient, state, params)
    params = jax.tree.map(jnp.add, params, updates)
    found.append(params)
  return found


def test_the_rate_rises_and_falls():
  # warm-up over 2 of 10 steps: 0, ½; then half a cosine over 8: 1 at its start, ½ in the middle
  found = rates(10, warmup=0.2)
  np.testing.assert_allclose(found[:3] + found[6:7], [0, 0.5, 1, 0.5], atol=1e-6)


def test_the_rate_falls_in_steps():
  # 240 epochs of one step each: at the starts of epochs 151, 181 and 211, counted from 1
  found = rates(240, schedule='steps', warmup=0.0)
  np.testing.assert_allclose(found, [1] * 150 + [0.1] * 30 + [0.01] * 30 + [0.001] * 30, rtol=1e-6)


def test_drops_are_shares_of_all_steps_the_warm_up_included():
  found = rates(20, schedule='steps', warmup=0.2, drops=(0.5, 0.9), drop=0.5)
  np.testing.assert_allclose(
      found, [0, 0.25, 0.5, 0.75] + [1] * 6 + [0.5] * 8 + [0.25] * 2, rtol=1e-6)


def test_without_drops_the_rate_is_constant():
  np.testing.assert_allclose(rates(3, schedule='steps', warmup=0.0, drops=()), 1)


def test_clipping_bounds_the_norm_of_the_whole_gradient():
  # (3, 4) has norm 5; at most 1 leaves (0.6, 0.8), whatever leaf it is in
  update, = walked([{'a': jnp.array([3.0]), 'b': jnp.array([4.0])}],
                   {'a': jnp.zeros(1), 'b': jnp.zeros(1)}, name='sgd', clip=1.0)
  np.testing.assert_allclose([update['a'][0], update['b'][0]], [-0.6, -0.8], rtol=1e-6)


def test_momentum_by_hand():
  # Gradient 1 thrice, momentum ½, rate 1: buf = 1, 1½, 1¾ and no dampening of the first.
  found = walked([jnp.ones(1)] * 3, jnp.zeros(1), name='sgd', momentum=0.5)
  np.testing.assert_allclose([x[0] for x in found], [-1, -2.5, -4.25])


def test_decay_of_sgd_joins_the_clipped_gradient_of_every_parameter_before_momentum():
  # p = 2, decay ½, g = 10 clipped to 1: buf = 1 + ½·2 = 2, p = 0; then buf = ½·2 + 1 = 2, p = -2
  found = walked([jnp.array(10.0)] * 2, jnp.array(2.0), name='sgd', momentum=0.5, decay=0.5,
                 clip=1.0)
  np.testing.assert_allclose(found, [0, -2], atol=1e-6)
  still = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  decayed, = walked([jax.tree.map(jnp.zeros_like, still)], still, name='sgd', decay=0.1)
  np.testing.assert_allclose(decayed['kernel'], 0.9, rtol=1e-6)
  np.testing.assert_allclose(decayed['bias'], 0.9, rtol=1e-6)


def test_sgd_decays_only_where_asked():
  still, = walked([jnp.zeros(1)], jnp.ones(1), name='sgd')
  assert still[0] == 1


def test_decay_of_adamw_acts_on_matrices_alone_and_is_a_hundredth_unless_given():
  params = {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}
  zeros = [jax.tree.map(jnp.zeros_like, params)]
  for given, wanted in ((dict(decay=0.1), 0.9), ({}, 0.99), (dict(decay=0.0), 1.0)):
    found, = walked(zeros, params, **given)
    np.testing.assert_allclose(found['kernel'], wanted, rtol=1e-6)
    assert (found['bias'] == 1).all()


class TestDOT:

  @staticmethod
  def walked(groups, start, **options):
    """Parameters after each of these steps' gradients by group."""
    tx = built(**{**FLAT, 'name': 'dot', 'task': 'task', **options})
    params, state, found = start, tx.init(start), []
    for grads in groups:
      whole = jax.tree.map(lambda *g: sum(g), *grads.values())
      updates, state = tx.update(whole, state, params, groups=grads)
      params = jax.tree.map(jnp.add, params, updates)
      found.append(params)
    return found

  def test_two_recursions_by_hand(self):
    # Task gradient 1, momentum ½ - ¼: buf = 1, 1.25, 1.3125; the others' are 2, momentum ¾:
    # buf = 2, 3.5, 4.625. Each step takes both.
    groups = [{'task': jnp.array(1.), 'kd': jnp.array(1.5), '': jnp.array(.5)}] * 3
    found = self.walked(groups, jnp.array(0.), momentum=.5, delta=.25)
    np.testing.assert_allclose(found, [-3, -7.75, -13.6875])

  def test_clipped_as_the_sum_is_and_decay_is_the_tasks(self):
    # The sum 10 is clipped to 1: 0.6 and 0.4. p = 2, decay ½: buf = 1.6 and 0.4, p = 0; then
    # buf = ¼·1.6 + 0.6 = 1 and ¾·0.4 + 0.4 = 0.7.
    groups = [{'task': jnp.array(6.), 'kd': jnp.array(4.)}] * 2
    found = self.walked(groups, jnp.array(2.), momentum=.5, delta=.25, decay=.5, clip=1.0)
    np.testing.assert_allclose(found, [0, -1.7], atol=1e-6)

  def test_gradients_that_cancel_are_not_clipped(self):
    groups = [{'task': jnp.array(3.), 'kd': jnp.array(-3.)}] * 2
    found = self.walked(groups, jnp.array(0.), momentum=.5, delta=.25, clip=1.0)
    np.testing.assert_allclose(found, [0, 1.5])         # bufs 3.75 and -5.25

  def random(self):
    rng = np.random.default_rng(0)
    start = {'a': jnp.array(rng.normal(size=3)), 'b': jnp.array(rng.normal(size=(2, 2)))}
    like = lambda: jax.tree.map(lambda x: jnp.array(rng.normal(size=x.shape)), start)
    return start, [{'task': like(), 'kd': like(), 'hint': like()} for _ in range(5)]

  def test_without_a_difference_it_is_sgd(self):
    start, groups = self.random()
    how = dict(momentum=.9, decay=.01, clip=1.0, rate=.1)
    sums = [jax.tree.map(lambda *g: sum(g), *grads.values()) for grads in groups]
    for ours, theirs in zip(self.walked(groups, start, delta=0.0, **how),
                            walked(sums, start, name='sgd', **how), strict=True):
      jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6), ours,
                   theirs)

  def test_the_task_alone_has_the_momentum_of_sgd(self):
    start, groups = self.random()
    task_only = [{'task': grads['task']} for grads in groups]
    for ours, theirs in zip(self.walked(task_only, start), walked(
        [grads['task'] for grads in groups], start, name='sgd', momentum=.9), strict=True):
      jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5), ours, theirs)

  def test_a_task_that_no_term_is_of(self):
    with pytest.raises(Stop, match="optimizer.task='task' is the group of no term: there is '', 'kd"
                       ) as stop:
      self.walked([{'': jnp.array(1.), 'kd': jnp.array(1.)}], jnp.array(0.))
    assert stop.value.status == Status.CONFIG


@pytest.mark.parametrize('name', ['adamw', 'adam', 'sgd', 'lamb'])
def test_every_optimizer_moves_against_the_gradient(name):
  found, = walked([{'kernel': jnp.ones((2, 2))}], {'kernel': jnp.ones((2, 2))}, name=name)
  assert (found['kernel'] < 1).all()


def test_three_steps_of_sgd_are_those_of_torch():
  torch = pytest.importorskip('torch')
  rng = np.random.default_rng(0)
  start, gradients = rng.normal(size=5), rng.normal(size=(3, 5))
  theirs = torch.tensor(start, requires_grad=True)
  sgd = torch.optim.SGD([theirs], lr=0.05, momentum=0.9, weight_decay=5e-4)
  ours = walked(list(jnp.array(gradients)), jnp.array(start), name='sgd', rate=0.05, momentum=0.9,
                decay=5e-4)
  for gradient, moved in zip(gradients, ours, strict=True):
    theirs.grad = torch.tensor(gradient)
    sgd.step()
    np.testing.assert_allclose(moved, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(('wrong', 'line'), [
    (dict(rate=0.0), 'optimizer: rate=0.0 must be above 0'),
    (dict(rate=float('nan')), 'optimizer: rate=nan must be above 0'),
    (dict(warmup=1.5), 'warmup=1.5 in [0, 1]'),
    (dict(schedule='step'), "schedule='step' is not one of cosine, linear, constant, steps"),
    (dict(clip=-1.0), 'clip=-1.0 must be 0 or more'),
    (dict(name='dot', clip=-1.0), 'clip=-1.0 must be 0 or more'),
    *((dict(name=name, decay=-0.1), 'decay=-0.1 must be 0 or more')
      for name in ('adamw', 'lamb', 'sgd', 'dot')),
    (dict(drop=0.0), 'drop=0.0 must be in (0, 1]'), (dict(drop=1.5), 'drop=1.5 must be in (0, 1]'),
    (dict(drops=(0.5, 1.0)), 'drops=(0.5, 1.0) between 0 and 1'),
    (dict(drops=(0.0,)), 'drops=(0.0,) between 0 and 1'),
    (dict(name='sgd', momentum=1.0), 'momentum=1.0 must be in [0, 1)'),
    (dict(name='sgd', momentum=-0.1), 'momentum=-0.1 must be in [0, 1)'),
    (dict(name='dot', momentum=0.95), 'momentum=0.95 ± delta=0.075 must be in [0, 1)'),
    (dict(name='dot', momentum=0.05), 'momentum=0.05 ± delta=0.075 must be in [0, 1)'),
    (dict(name='dot', delta=-0.1), 'momentum=0.9 ± delta=-0.1 must be in [0, 1)'),
    (dict(name='adamx'), "optimizer.name='adamx' names nothing in distill/optimizers.py; did you"),
    (dict(name='adam', decay=0.1), 'optimizer.decay: adam has no such field'),
    (dict(task='task'), 'optimizer.task: adamw has no such field'),
    (dict(name='sgd', delta=0.1), 'optimizer.delta: sgd has no such field'),
    *((dict(name=name, momentum=0.9), f'optimizer.momentum: {name} has no such field')
      for name in ('adamw', 'adam', 'lamb')),
], ids=lambda x: x if isinstance(x, str) else ' '.join(f'{k}={v}' for k, v in x.items()))
def test_wrong_fields_are_refused_in_one_line(wrong, line):
  with pytest.raises(Stop) as stop:
    built(**{'rate': 1e-3, **wrong})
  assert stop.value.status == Status.CONFIG
  assert line in str(stop.value) and '\n' not in str(stop.value)


def test_names_of_the_room_are_the_optimizers():
  assert lookup.names('optimizers') == ['adam', 'adamw', 'dot', 'lamb', 'sgd']


@pytest.mark.parametrize(('node', 'paths'), [
    ({}, ['[1][0].count', "[1][0].mu['w']", "[1][0].nu['w']", '[1][2].count']),
    (dict(clip=0.0), ['[0][0].count', "[0][0].mu['w']", "[0][0].nu['w']", '[0][2].count']),
    (dict(name='adam'), ['[1][0].count', "[1][0].mu['w']", "[1][0].nu['w']", '[1][1].count']),
    (dict(name='lamb'), ['[1][0].count', "[1][0].mu['w']", "[1][0].nu['w']", '[1][3].count']),
    (dict(name='sgd'), ['[1][1].count']),
    (dict(name='sgd', momentum=0.9), ["[1][0].trace['w']", '[1][1].count']),
    (dict(name='sgd', momentum=0.9, decay=0.1), ["[2][0].trace['w']", '[2][1].count']),
    (dict(name='dot'), ["[0]['others'].trace['w']", "[0]['task'].trace['w']", '[1].count']),
], ids=str)
def test_paths_of_the_state_are_those_of_checkpoints(node, paths):
  # What `step.make_optimizer` had, before there was this module: its checkpoints must resume.
  state = built(rate=0.1, **node).init({'w': jnp.ones((2, 2))})
  found = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]
  assert found == paths
