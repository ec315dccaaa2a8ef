"""What models compute in."""
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.extend.core import jaxprs_in_params

from distill.models import bert, precision, resnet
from distill.models.functional import Functional, check_computing
from distill.teachers import Live
from distill.types import Status, Stop

SIZES = dict(vocabulary=30, length=12, classes=3, width=8, depth=2, heads=2)
BATCH = {'tokens': jnp.arange(12).reshape(2, 6), 'types': jnp.zeros((2, 6), jnp.int32),
         'mask': jnp.ones((2, 6)), 'valid': jnp.ones(2)}


def draw(*shape, seed=0):
  return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def rounded(x):
  return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def products(jaxpr):
  """The operands' and the result's dtype of every matrix product, at any depth."""
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive.name == 'dot_general':
      found.append(tuple(str(v.aval.dtype) for v in (*equation.invars, *equation.outvars)))
    for inner in jaxprs_in_params(equation.params):
      found += products(inner)
  return found


NARROW = ('bfloat16', 'bfloat16', 'float32')

# Dimension numbers, shapes, and the same product for einsum.
CASES = [
    ((((1,), (0,)), ((), ())), (5, 4), (4, 3), 'ab,bc->ac'),
    ((((2,), (0,)), ((), ())), (2, 5, 4), (4, 3), 'xab,bc->xac'),
    ((((2,), (1,)), ((), ())), (2, 5, 4), (3, 4), 'xab,cb->xac'),
    ((((0,), (1,)), ((), ())), (4, 5), (3, 4), 'ba,cb->ac'),
    ((((1,), (0,)), ((), ())), (1, 4), (4, 1), 'ab,bc->ac'),
    ((((2, 0), (0, 1)), ((), ())), (2, 5, 4), (4, 2, 3), 'bac,cbd->ad')]


@pytest.mark.parametrize(('dimensions', 'left', 'right', 'spelled'), CASES)
def test_products_and_gradients_are_those_of_rounded_operands(dimensions, left, right, spelled):
  x, y = draw(*left), draw(*right, seed=1)
  product, pullback = jax.vjp(lambda x, y: precision.dot_general(x, y, dimensions), x, y)
  g = draw(*product.shape, seed=2)
  dx, dy = pullback(jnp.asarray(g))
  assert {str(v.dtype) for v in (product, dx, dy)} == {'float32'}
  # The sums are float32, of at most 60 products.
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-6, atol=2e-5)
  close(product, np.einsum(spelled, rounded(x), rounded(y)))
  (a, b), c = spelled.split('->')[0].split(','), spelled.split('->')[1]
  close(dx, np.einsum(f'{c},{b}->{a}', rounded(g), rounded(y)))
  close(dy, np.einsum(f'{a},{c}->{b}', rounded(x), rounded(g)))


def test_products_of_a_batch_of_matrices_stay_wide():
  dimensions, x, y = (((2,), (1,)), ((0,), (0,))), draw(2, 5, 4), draw(2, 4, 3)
  found = precision.dot_general(x, y, dimensions)
  assert (found == jax.lax.dot_general(x, y, dimensions)).all()


def test_mixed_arrays_are_as_wide_as_float32():
  tree = {'a': jnp.ones(3, jnp.float16), 'n': jnp.arange(3)}
  widths = {dtype: str(precision.cast(tree, dtype)['a'].dtype) for dtype in precision.DTYPES}
  assert widths == {'float32': 'float32', 'bfloat16': 'bfloat16', 'float16': 'float16',
                    'mixed': 'float32'}
  assert precision.cast(tree, 'mixed')['n'].dtype == jnp.int32


def slope(model, dtype):
  """A function of the parameters that gives the loss and all gradients."""
  def loss(params):
    outputs, _ = model(params, {}, BATCH, train=True, key=jax.random.key(0), dtype=dtype)
    return sum(jnp.square(x).mean() for x in (outputs['logits'], outputs['words']))
  return jax.value_and_grad(loss)


@pytest.mark.slow
def test_an_encoder_multiplies_narrow_and_keeps_all_else_wide():
  model = Functional(lambda rngs: bert.Bert(**SIZES, words=True, dropout=0.0, rngs=rngs))
  params, _ = model.init(0)
  jaxpr = jax.make_jaxpr(slope(model, 'mixed'))(params)
  wide = ('float32',) * 3
  kinds = products(jaxpr.jaxpr)
  # Attention's two products and their gradients, of two blocks and once more of the last one.
  assert set(kinds) == {NARROW, wide} and kinds.count(wide) == 6 * 3
  assert not {NARROW} & set(products(jax.make_jaxpr(slope(model, 'float32'))(params).jaxpr))
  loss, grads = slope(model, 'mixed')(params)
  exact, reference = slope(model, 'float32')(params)
  assert {str(g.dtype) for g in grads.values()} == {'float32'}
  # 8 bits in the products; a leaf moves by a few of these.
  np.testing.assert_allclose(loss, exact, rtol=0.02)
  for path, g in grads.items():
    scale = np.abs(reference[path]).max()
    np.testing.assert_allclose(g, reference[path], atol=0.05 * scale + 1e-6, err_msg=path)
  assert any((grads[path] != reference[path]).any() for path in grads)


class Anybodys(nnx.Module):
  """A model from outside, which knows nothing of precision."""

  def __init__(self, *, rngs):
    self.layers = nnx.List([nnx.Linear(4, 5, rngs=rngs), nnx.LinearGeneral(5, (2, 3), rngs=rngs)])

  def __call__(self, batch, *, train=False, key=None):
    x = batch['x']
    for layer in self.layers:
      x = layer(x)
    return {'logits': x}


def test_a_model_from_outside_needs_no_change():
  model = Functional(lambda rngs: Anybodys(rngs=rngs))
  ask = lambda params, dtype: model(params, {}, {'x': jnp.ones((2, 4))}, dtype=dtype)[0]['logits']
  for dtype, narrow in ('mixed', {NARROW}), ('float32', set()):
    found = products(jax.make_jaxpr(lambda p, dtype=dtype: ask(p, dtype))(model.init(0)[0]).jaxpr)
    assert len(found) == 2 and {NARROW} & set(found) == narrow


class Sum(nnx.Module):
  """Nothing to multiply."""

  def __init__(self, *, rngs):
    self.scale = nnx.Param(jnp.ones(()))

  def __call__(self, batch, *, train=False, key=None):
    return {'logits': self.scale[...] * batch['x']}


def test_a_model_without_products_is_refused_before_it_runs():
  model = Functional(lambda rngs: Sum(rngs=rngs))
  for attempt in (lambda: Live('big', model, 'mixed'),
                  lambda: check_computing(model, 'teachers.big', dtype='mixed')):
    with pytest.raises(Stop, match="^teachers.big.dtype='mixed': the model has no layer") as stop:
      attempt()
    assert stop.value.status == Status.CONFIG and '\n' not in str(stop.value)
  check_computing(model, 'teachers.big', dtype='float32')


def test_a_teacher_answers_in_mixed_precision():
  model = Functional(lambda rngs: bert.Bert(**SIZES, rngs=rngs))
  weights = model.init(0)
  wide, mixed = (Live('big', model, dtype)(weights, BATCH)['logits']
                 for dtype in ('float32', 'mixed'))
  assert mixed.dtype == jnp.float32 and (mixed != wide).any()
  np.testing.assert_allclose(mixed, wide, atol=0.01)


def test_convolutions_stay_as_they_are():
  model = Functional(lambda rngs: resnet.ResNet(depth=8, widths=(2, 2, 2, 2), classes=3, rngs=rngs))
  weights, data = model.init(0), {'image': draw(2, 8, 8, 3), 'valid': jnp.ones(2)}
  wide, mixed = (Live('big', model, dtype)(weights, data) for dtype in ('float32', 'mixed'))
  assert (wide['pooled'] == mixed['pooled']).all() and (wide['logits'] != mixed['logits']).any()


@pytest.mark.parametrize(('lines', 'lacking'), [
    ('flags\t\t: fpu avx2 avx512f avx512_bf16', False), ('flags : fpu amx_bf16', False),
    ('flags : fpu avx2 avx512f', True), ('Features : fp asimd', False), ('', False)])
def test_a_cpu_without_the_instructions_is_known_by_its_flags(tmp_path, lines, lacking):
  (tmp_path / 'cpuinfo').write_text(f'processor : 0\n{lines}\n')
  assert precision.lacks_instructions(tmp_path / 'cpuinfo') == lacking
  assert not precision.lacks_instructions(tmp_path / 'none')


def test_a_precision_that_is_slower_here_has_a_reason(monkeypatch):
  monkeypatch.setattr(precision, 'lacks_instructions', lambda: True)
  assert precision.slow_dtypes({'float32', 'bfloat16'}) == {}
  found = precision.slow_dtypes({'float32', 'float16', 'mixed'})
  assert 'for products of bfloat16' in found['mixed'] and 'this is a CPU' in found['float16']
  monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
  monkeypatch.setattr(precision, 'lacks_instructions', lambda: False)
  assert precision.slow_dtypes({'float16', 'mixed'}) == {}


def test_a_teacher_answers_in_float16():
  model = Functional(lambda rngs: Anybodys(rngs=rngs))
  weights, data = model.init(0), {'x': jnp.asarray(draw(2, 4)), 'valid': jnp.ones(2)}
  wide, half = (Live('big', model, dtype)(weights, data | {'x': data['x'].astype(dtype)})['logits']
                for dtype in ('float32', 'float16'))
  assert half.dtype == jnp.float16 and (half != wide).any()
  np.testing.assert_allclose(half, wide, atol=5e-3)      # 11 bits, of two layers
