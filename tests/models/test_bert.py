import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy import special

from distill.models import bert, layers
from distill.models.functional import Functional

SIZES = dict(vocabulary=30, length=12, classes=3, width=8, depth=2, heads=2)


def model(**changes):
  return Functional(lambda rngs: bert.Bert(**{**SIZES, **changes}, rngs=rngs))


def batch(b=2, s=6, lengths=(6, 4)):
  mask = (np.arange(s)[None] < np.array(lengths)[:, None]).astype(np.float32)
  tokens = (np.arange(b * s).reshape(b, s) % 25 + 5) * mask.astype(int)
  return {'tokens': jnp.array(tokens, jnp.int32), 'mask': jnp.array(mask),
          'types': jnp.array((np.arange(s)[None] >= 3) * np.ones((b, 1)), jnp.int32)}


def paper(p, batch, depth, heads):
  """The encoder as Devlin 2018 and Vaswani 2017 write it, in NumPy, example by example."""
  p = {k: np.asarray(v, np.float64) for k, v in p.items()}
  dense = lambda x, name: x @ p[f'{name}/kernel'] + p[f'{name}/bias']
  norm = lambda x, name: ((x - x.mean(-1, keepdims=True)) / np.sqrt(
      x.var(-1, keepdims=True) + 1e-12) * p[f'{name}/scale'] + p[f'{name}/bias'])
  results = []
  for tokens, types, mask in zip(*(np.asarray(batch[k]) for k in ('tokens', 'types', 'mask')),
                                 strict=True):
    n = int(mask.sum())           # without the padding: it may not matter
    x = norm(p['token/embedding'][tokens[:n]] + p['type/embedding'][types[:n]]
             + p['position/embedding'][:n], 'norm')
    for i in range(depth):
      at = f'blocks/{i}'
      q, k, v = (np.split(dense(x, f'{at}/{name}'), heads, -1)
                 for name in ('query', 'key', 'value'))
      mixed = [special.softmax(a @ b.T / np.sqrt(a.shape[-1]), -1) @ c
               for a, b, c in zip(q, k, v, strict=True)]
      x = norm(x + dense(np.concatenate(mixed, -1), f'{at}/out'), f'{at}/attention_norm')
      h = dense(x, f'{at}/up')
      x = norm(x + dense(0.5 * h * (1 + special.erf(h / np.sqrt(2))), f'{at}/down'), f'{at}/norm')
    pooled = np.tanh(dense(x[0], 'pooler'))
    results.append((x, pooled, dense(pooled, 'head')))
  return results


def test_the_encoder_is_the_published_one():
  net = model()
  params, rest = net.init(0)
  key = jax.random.key(7)       # away from the start, where scales are 1 and biases 0
  params = {name: value + 0.3 * jax.random.normal(jax.random.fold_in(key, i), value.shape)
            for i, (name, value) in enumerate(sorted(params.items()))}
  outputs, _ = net(params, rest, batch())
  for row, (hidden, pooled, logits) in enumerate(paper(params, batch(), 2, 2)):
    # float32 against float64, two blocks deep
    np.testing.assert_allclose(outputs['block01/hidden'][row, :len(hidden)], hidden, atol=2e-5)
    np.testing.assert_allclose(outputs['pooled'][row], pooled, atol=2e-5)
    np.testing.assert_allclose(outputs['logits'][row], logits, atol=2e-5)


def test_fused_attention_is_the_same_function(monkeypatch):
  net = model(depth=1, dropout=0.0)
  params, _ = net.init(0)
  key = jax.random.key(7)       # away from the start, where every key has nearly the same weight
  params = {name: value + 0.5 * jax.random.normal(jax.random.fold_in(key, i), value.shape)
            for i, (name, value) in enumerate(sorted(params.items()))}
  data, calls, original = batch(lengths=(6, 2)), [], jax.nn.dot_product_attention

  def fused(q, k, v, bias):
    calls.append((q.shape, k.shape, bias.shape))
    return original(q, k, v, bias)

  monkeypatch.setattr(jax.nn, 'dot_product_attention', fused)

  def loss(params, train):
    outputs, _ = net(params, {}, data, train=train, key=key if train else None)
    shown = jnp.square(outputs['block00/hidden']) * data['mask'][:, :, None]
    return jnp.square(outputs['logits']).sum() + shown.sum(), outputs

  found = {}
  for is_fused in False, True:
    monkeypatch.setattr(layers, 'has_fused_attention', lambda is_fused=is_fused: is_fused)
    found[is_fused] = jax.value_and_grad(loss, has_aux=True)(params, True)
    # All queries, and the first one again for the pooled output.
    assert calls == [((2, n, 2, 4), (2, 6, 2, 4), (2, 1, 1, 6)) for n in (6, 1) if is_fused]
  (a, ours), slopes = found[False]
  (b, theirs), fused_slopes = found[True]
  np.testing.assert_allclose(a, b, rtol=1e-5)
  assert ours.keys() == theirs.keys()
  for name, value in ours.items():
    np.testing.assert_allclose(theirs[name], value, atol=1e-5, err_msg=name)
  for path, slope in slopes.items():
    np.testing.assert_allclose(fused_slopes[path], slope, rtol=1e-5, atol=1e-5 * float(
        jnp.abs(slope).max()) + 1e-5, err_msg=path)


@pytest.mark.parametrize('dropout, train, is_fused', [
    (0.1, True, False), (0.1, False, True), (0.0, True, True)])
def test_attention_with_dropout_is_not_fused(monkeypatch, dropout, train, is_fused):
  calls = []
  monkeypatch.setattr(layers, 'has_fused_attention', lambda: True)
  monkeypatch.setattr(jax.nn, 'dot_product_attention',
                      lambda q, k, v, bias: calls.append(bias) or v[:, :q.shape[1]])
  net = model(depth=1, dropout=dropout)
  jax.eval_shape(lambda params: net(params, {}, batch(), train=train, key=jax.random.key(0))[0],
                 net.shapes[0])
  assert bool(calls) == is_fused


def test_every_output_has_its_name_and_shape():
  net = model(words=True)
  outputs, _ = net(*net.init(0), batch())
  d, hidden_names, maps = (2, 6, 8), {'hidden', 'query', 'key', 'value'}, {'attention', 'scores'}
  assert {n: v.shape for n, v in outputs.items()} == {
      'embedding': d, 'pooled': (2, 8), 'logits': (2, 3), 'words': (2, 6, 30),
      **{f'block0{i}/{name}': d for i in (0, 1) for name in hidden_names},
      **{f'block0{i}/{name}': (2, 2, 6, 6) for i in (0, 1) for name in maps}}
  np.testing.assert_allclose(outputs['block00/attention'].sum(-1), 1, atol=1e-6)
  assert (outputs['block00/attention'][1, :, :, 4:] == 0).all()       # padded keys


def test_unread_outputs_cost_nothing():
  net = model(words=True)
  params, rest = net.init(0)

  def flops(read):
    f = jax.jit(lambda p, b: [net(p, rest, b)[0][name] for name in read])
    return f.lower(params, batch()).compile().cost_analysis()['flops']

  without = lambda p: {k: v for k, v in p.items() if 'words' not in k}
  without_words = jax.jit(lambda p, b: model()(without(p), {}, b)[0]['logits']).lower(
      params, batch()).compile().cost_analysis()['flops']
  assert flops(['logits']) == without_words
  assert flops(['logits', 'words']) > without_words + 2 * 12 * 8 * 30     # the head: 2·b·s·d·v
  assert flops(['block00/hidden']) < 0.6 * flops(['block01/hidden'])     # one block isn't run


def test_the_words_head_reads_the_positions_that_the_batch_names():
  net = model(words=True)
  params, rest = net.init(0)
  everywhere = net(params, rest, batch())[0]['words']
  positions = jnp.array([[1, 4], [0, 2]])
  some = net(params, rest, {**batch(), 'positions': positions})[0]['words']
  np.testing.assert_allclose(some[0], everywhere[0, [1, 4]], atol=1e-6)
  np.testing.assert_allclose(some[1], everywhere[1, [0, 2]], atol=1e-6)


def test_padding_never_reaches_an_example():
  net = model()
  weights = net.init(0)
  short, long = batch(s=4, lengths=(4, 4)), batch(s=10, lengths=(4, 4))
  long = {k: v.at[:, :4].set(short[k]) for k, v in long.items()}
  a, b = (net(*weights, x)[0] for x in (short, long))
  np.testing.assert_allclose(a['logits'], b['logits'], atol=1e-6)


def test_a_row_of_padding_alone_is_finite_forward_and_backward():
  net = model()
  params, rest = net.init(0)
  grads = jax.grad(lambda p: net(p, rest, batch(lengths=(6, 0)))[0]['logits'].sum())(params)
  assert all(np.isfinite(g).all() for g in grads.values())


def test_dropout_depends_on_the_key_and_only_in_training():
  net = model(dropout=0.5)
  weights = net.init(0)
  run = lambda seed, train=True: net(*weights, batch(), train=train, key=jax.random.key(seed))[
      0]['logits']
  assert (run(0) == run(0)).all() and (run(0) != run(1)).any()
  assert (run(0, train=False) == run(1, train=False)).all()


def test_bfloat16_stays_close_to_float32():
  net = model()
  params, rest = net.init(0)
  half = {k: v.astype(jnp.bfloat16) for k, v in params.items()}
  a, b = net(params, rest, batch())[0], net(half, rest, batch())[0]
  assert b['logits'].dtype == jnp.bfloat16
  # bfloat16 keeps 8 bits: 2⁻⁸ a product, a few of them in a row
  np.testing.assert_allclose(a['block01/hidden'], b['block01/hidden'].astype(jnp.float32), atol=0.1)


@pytest.mark.parametrize('name', ['softmax', 'gelu', 'norm'])
def test_written_backward_passes_are_the_derived_ones(name):
  x = jax.random.normal(jax.random.key(0), (5, 7)) * 3
  scale, bias = jnp.linspace(0.5, 2, 7), jnp.linspace(-1, 1, 7)
  weight = jnp.cos(jnp.arange(35.).reshape(5, 7))

  def plain_norm(x, scale, bias):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-12) * scale + bias

  def module_norm(x, scale, bias):
    norm = layers.LayerNorm(7, eps=1e-12)
    norm.scale[...], norm.bias[...] = scale, bias
    return norm(x)

  ours, plain, arguments = {
      'softmax': (layers.softmax, lambda x: jax.nn.softmax(x, -1), (x,)),
      'gelu': (layers.gelu, lambda x: jax.nn.gelu(x, approximate=False), (x,)),
      'norm': (module_norm, plain_norm, (x, scale, bias))}[name]
  every = tuple(range(len(arguments)))
  a, b = (jax.value_and_grad(lambda *args, f=f: (f(*args) * weight).sum(), every)(*arguments)
          for f in (ours, plain))
  # both sides round in float32: a few units in the last place of sums of seven
  jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=1e-4, atol=1e-5), a, b)


@pytest.mark.parametrize('wrong', [{'heads': 3}, {'depth': 0}, {'dropout': 1.0}])
def test_sizes_that_make_no_model_are_refused(wrong):
  with pytest.raises(ValueError):
    model(**wrong)


def test_more_positions_than_the_model_has_are_refused():
  net = model()
  with pytest.raises(ValueError, match='13 positions'):
    net(*net.init(0), batch(s=13, lengths=(13, 4)))


def test_masks_of_tokens_stay_within_the_dtype():
  assert np.isfinite(np.float32(bert.MASKED)) and np.exp(np.float32(bert.MASKED)) == 0


def test_the_pooled_row_is_the_first_of_the_last_block_also_under_dropout():
  # It is an expression of its own: the same dropout must act on it.
  model = Functional(lambda rngs: bert.Bert(vocabulary=50, length=8, classes=3, width=16, depth=2,
                                            heads=4, dropout=0.3, std=0.2, rngs=rngs))
  params, rest = model.init(0)
  data = {'tokens': jnp.arange(32).reshape(4, 8), 'types': jnp.zeros((4, 8), jnp.int32),
          'mask': (jnp.arange(8) < jnp.array([[8], [3], [5], [1]])).astype(jnp.float32)}
  for train in (False, True):
    outputs, _ = model(params, rest, data, train=train, key=jax.random.key(3))
    first = outputs['block01/hidden'][:, 0] @ params['pooler/kernel'] + params['pooler/bias']
    np.testing.assert_allclose(outputs['pooled'], jnp.tanh(first), atol=2e-6)


def test_what_only_the_last_block_s_other_rows_need_costs_nothing_where_it_is_not_read():
  sizes = dict(vocabulary=50, length=32, classes=3, width=64, heads=4, dropout=0.0)
  data = {'tokens': jnp.zeros((4, 32), jnp.int32), 'types': jnp.zeros((4, 32), jnp.int32),
          'mask': jnp.ones((4, 32))}

  def flops(*reads):
    model = Functional(lambda rngs: bert.Bert(depth=1, rngs=rngs, **sizes))
    run = lambda p, r: [model(p, r, data, train=False, key=None)[0][name] for name in reads]
    return jax.jit(run).lower(*model.shapes).compile().cost_analysis()['flops']

  assert flops('logits') < 0.35 * flops('logits', 'block00/hidden')     # key and value: 2 / 12


def test_a_number_of_blocks_that_is_no_model_s_is_refused_before_any_is_built():
  with pytest.raises(ValueError, match='depth=1000000000000 is more than 1024 blocks'):
    bert.Bert(vocabulary=9, length=8, classes=2, width=8, depth=10**12, heads=2, rngs=nnx.Rngs(0))


@pytest.mark.parametrize('change', [{'heads': 0}, {'inner': -1}, {'width': 0}, {'types': -1}])
def test_sizes_that_nothing_has_are_refused(change):
  sizes = dict(vocabulary=9, length=8, classes=2, width=8, depth=1, heads=2) | change
  with pytest.raises(ValueError, match='every size must be at least 1'):
    bert.Bert(**sizes, rngs=nnx.Rngs(0))
