"""Any model: how it is called, and what is returned of it."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill.models import custom
from distill.types import Stop

ONES = np.ones((2, 3), np.float32)
FIELDS = {'image': ONES, 'label': np.zeros(2, int), 'valid': np.ones(2), 'id': np.arange(2)}
KEY = jax.random.key(0)


def asked(given, fields=FIELDS, inputs=None, **how):
  model = custom.model(given, 'the student', fields, inputs)
  return model(*model.weights, fields, **how)[0]


def pair_of(apply):
  """A pair whose function is given no parameter that matters."""
  return apply, jnp.ones(())


class TestArguments:

  @pytest.mark.parametrize('apply', [
      lambda params, x: x, lambda params, image: image, lambda params, batch: batch['image'],
      lambda params, *x: x[0], lambda params, x, mask=None: x])
  def test_the_inputs(self, apply):
    np.testing.assert_array_equal(asked(pair_of(apply))['logits'], ONES)

  def test_several_fields_by_name_optional_ones_too(self):
    fields = {**FIELDS, 'mask': 2 * ONES, 'shift': 3 * ONES}
    found = asked(pair_of(lambda params, image, mask, *, shift=0: image + mask + shift), fields)
    np.testing.assert_array_equal(found['logits'], 6 * ONES)

  def test_inputs_says_which(self):
    fields = {**FIELDS, 'mask': 2 * ONES}
    assert asked(pair_of(lambda params, x: x), fields, 'mask')['logits'][0, 0] == 2
    found = asked(pair_of(lambda params, a, b: a - b), fields, ('image', 'mask'))
    assert found['logits'][0, 0] == -1
    assert asked(pair_of(lambda params, x: x['mask']), fields, 'batch')['logits'][0, 0] == 2

  def test_modes_and_keys(self):
    seen = {}
    def apply(params, x, train, deterministic, key, rng=0):
      seen.update(train=train, deterministic=deterministic, key=key, rng=rng)
      return x
    asked(pair_of(apply), train=True, key=KEY)
    assert seen == dict(train=True, deterministic=False, key=KEY, rng=KEY)
    asked(pair_of(apply))
    assert seen == dict(train=False, deterministic=True, key=None, rng=None)

  def test_a_function_takes_the_whole_batch(self):
    assert asked(lambda b: b['image'])['logits'].shape == (2, 3)

  def test_a_module_is_given_rngs(self):
    class Noisy(nnx.Module):
      def __call__(self, x, rngs=None):
        return x if rngs is None else x + rngs.noise.normal(x.shape)
    assert not np.array_equal(asked(Noisy(), train=True, key=KEY)['logits'], ONES)
    np.testing.assert_array_equal(asked(Noisy())['logits'], ONES)

  def test_a_sequence_of_layers(self):
    layers = nnx.Sequential(nnx.Linear(3, 4, rngs=nnx.Rngs(0)), nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    first, second = (asked(layers, train=True, key=jax.random.key(i))['logits'] for i in range(2))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(asked(layers)['logits'], layers.layers[0](ONES))

  def test_what_takes_nothing_is_refused(self):
    with pytest.raises(Stop, match='the student takes no inputs'):
      asked(pair_of(lambda params: ONES))


class TestWeights:

  def test_a_module_s_statistics_are_rest_and_its_keys_are_neither(self):
    class Net(nnx.Module):
      def __init__(self, rngs):
        self.norm, self.drop = nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)
      def __call__(self, x):
        return self.drop(self.norm(x))
    net = Net(nnx.Rngs(0))
    model = custom.model(net, 'the student', FIELDS)
    assert model.mixing and [sorted(part) for part in model.weights] == [
        ['norm/bias', 'norm/scale'], ['norm/mean', 'norm/var']]
    _, rest = model(*model.weights, FIELDS, train=True, key=KEY)
    assert rest['norm/mean'][0] == pytest.approx(0.01)      # of ones, at momentum 0.99
    nnx.update(net, model.restore(model.weights[0], rest))
    assert net.norm.mean[0] == pytest.approx(0.01)

  def test_a_pair_returns_a_tree_like_its_own(self):
    params = {'a': [jnp.ones(2), jnp.arange(3)], 'b': jnp.ones(())}
    model = custom.model((lambda params, x: x, params), 'the student', FIELDS)
    assert [sorted(part) for part in model.weights] == [['a/0', 'b'], ['a/1']]
    found = model.restore(*model.weights)
    assert jax.tree.structure(found) == jax.tree.structure(params)

  def test_what_a_function_takes_from_around_it_is_found(self):
    weights = jnp.ones((3, 5))
    for function in lambda batch: batch['image'] @ weights, jax.jit(lambda b: b['image'] @ weights):
      found = custom.model(function, 'the teacher', FIELDS).captured(FIELDS)
      assert [x.shape for x in found] == [(3, 5)]

  def test_a_projector_takes_what_it_reads_and_valid_where_it_wants_it(self):
    weigh = lambda params, x, y, valid: params * x + y * valid[:, None]
    model = custom.projector(pair_of(weigh), 'projectors[0]')
    found, _ = model(*model.weights, ONES, ONES, valid=np.array([1.0, 0.0]), train=True)
    assert found.tolist() == [[2] * 3, [1] * 3]
