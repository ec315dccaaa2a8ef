"""The published definition, and three steps of SGD beside NumPy and, where it is, PyTorch."""
import functools
import importlib.util
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill import objective, optimizers, sharding, step
from distill.models import precision
from distill.models.functional import Functional
from distill.models.resnet import ResNet
from distill.student import Student

SIZES = dict(depth=8, widths=(3, 3, 4, 6), channels=2, classes=5)
TERMS = objective.terms_from({'hard': dict(
    loss='supervised.cross_entropy', reads=dict(student='student/logits', label='batch/label'))})
SGD = dict(rate=0.05, schedule='constant', warmup=0.0, clip=0.0, momentum=0.9,
           decay=5e-4)
VALID = np.array([1, 1, 1, 0, 1, 1, 0, 1], np.float32)


def sized(**changes):
  return Functional(lambda rngs: ResNet(**{**SIZES, **changes}, rngs=rngs))


NET, ONE_BLOCK = sized(), sized(depth=4, widths=(3, 4))


def batch(i=0, b=8, h=6, w=5):
  rng = np.random.default_rng(i)
  return {'image': rng.normal(size=(b, h, w, 2)).astype(np.float32),
          'label': np.arange(b, dtype=np.int32) % 5, 'valid': VALID[:b]}


@functools.cache
def start(net=NET):
  return net.init(0)


@functools.cache
def moved():
  """Parameters and running statistics away from the start, where scales are 1 and biases 0."""
  rng = np.random.default_rng(7)
  return tuple({path: np.asarray(value) + 0.3 * rng.uniform(size=value.shape).astype(np.float32)
                for path, value in flat.items()} for flat in start())


@functools.partial(jax.jit, static_argnames='train')
def called(params, rest, batch, train=True):
  return NET(params, rest, batch, train=train, key=None)


# ---- as published, in NumPy: every layer gives its result and how a gradient passes it

def paper_layers(p, rest, grads, stats):
  def conv(name, stride):
    def forward(x):
      kernel = p[f'{name}/kernel']
      size, edge = len(kernel), len(kernel) // 2
      padded = np.pad(x, ((0, 0), (edge, edge), (edge, edge), (0, 0)))
      windows = np.lib.stride_tricks.sliding_window_view(padded, (size, size), (1, 2))
      windows = windows[:, ::stride, ::stride]                        # [b h w c size size]
      def back(dy):
        grads[f'{name}/kernel'] = np.einsum('bhwcij,bhwo->ijco', windows, dy)
        dx, (_, h, w, _) = np.zeros_like(padded), dy.shape
        for i, j in np.ndindex(size, size):
          dx[:, i:i + stride * h:stride, j:j + stride * w:stride] += dy @ kernel[i, j].T
        return dx[:, edge:edge + x.shape[1], edge:edge + x.shape[2]]
      return np.einsum('bhwcij,ijco->bhwo', windows, kernel), back
    return forward

  def norm(name):
    def forward(x):
      axes, scale = (0, 1, 2), p[f'{name}/scale']
      stats[f'{name}/mean'] = 0.9 * rest[f'{name}/mean'] + 0.1 * x.mean(axes)
      stats[f'{name}/var'] = 0.9 * rest[f'{name}/var'] + 0.1 * x.var(axes, ddof=1)
      deviation = np.sqrt(x.var(axes) + 1e-5)
      z = (x - x.mean(axes)) / deviation
      def back(dy):
        grads[f'{name}/scale'], grads[f'{name}/bias'] = (dy * z).sum(axes), dy.sum(axes)
        return scale / deviation * (dy - dy.mean(axes) - z * (dy * z).mean(axes))
      return z * scale + p[f'{name}/bias'], back
    return forward

  relu = lambda x: (np.maximum(x, 0), lambda dy: dy * (x > 0))

  def chain(*layers):
    def forward(x):
      backs = []
      for layer in layers:
        x, back = layer(x)
        backs.append(back)
      return x, lambda dy: functools.reduce(lambda g, back: back(g), reversed(backs), dy)
    return forward

  def block(name, stride):
    inner = chain(conv(f'{name}/conv1', stride), norm(f'{name}/norm1'), relu,
                  conv(f'{name}/conv2', 1), norm(f'{name}/norm2'))
    outer = (chain(conv(f'{name}/shortcut', stride), norm(f'{name}/shortcut_norm'))
             if f'{name}/shortcut/kernel' in p else chain())
    def forward(x):
      (y, back), (short, shortly) = inner(x), outer(x)
      return y + short, lambda dy: back(dy) + shortly(dy)
    return chain(forward, relu)

  return chain(conv('stem', 1), norm('stem_norm'), relu, *(
      block(f'stages/{n}/blocks/0', 1 + (n > 1)) for n in (1, 2, 3)))


def paper(p, rest, batch):
  """Logits of ResNet-8 in training, gradients of the mean cross-entropy, running statistics."""
  counted = batch['valid'] > 0
  image, label = batch['image'][counted].astype(np.float64), batch['label'][counted]
  grads, stats = {}, {}
  features, back = paper_layers(p, rest, grads, stats)(image)
  pooled = features.mean((1, 2))
  logits = pooled @ p['head/kernel'] + p['head/bias']
  share = np.exp(logits - logits.max(-1, keepdims=True))
  slope = (share / share.sum(-1, keepdims=True) - np.eye(5)[label]) / len(label)
  grads['head/kernel'], grads['head/bias'] = pooled.T @ slope, slope.sum(0)
  positions = math.prod(features.shape[1:3])
  back(np.broadcast_to((slope @ p['head/kernel'].T)[:, None, None] / positions, features.shape))
  return logits, grads, stats


def wide(flat):
  return {path: np.asarray(value, np.float64) for path, value in flat.items()}


def trained(steps=3, first=0, state=None, devices=1):
  """The state after steps of SGD, as `fit` makes them, on the host."""
  run, state_of, layout = machine(devices)
  state = state_of(state)
  for i in range(first, steps):
    rows = layout.to_devices(batch(i)) if layout else batch(i)
    state, _ = run(state, {}, rows, jax.random.key(0))
  return jax.tree.map(np.asarray, state)


@functools.cache
def machine(devices):
  """The step; and what puts a state where the step wants it, by default the one at the start."""
  layout = sharding.layout(devices=jax.devices()[:devices]) if devices > 1 else None
  student, optimizer = Student(NET), optimizers.sgd(**SGD, steps=3)
  def state_of(saved):
    params, rest = ({f'model/{path}': x for path, x in part.items()} for part in start())
    state = saved or step.init_state(student, params, rest, optimizer, {})
    return (sharding.device_put(state, step.state_shardings(state, layout)) if layout
            else jax.tree.map(jnp.array, state))
  return step.make_train_step(student, (), TERMS, optimizer, layout=layout), state_of, layout


def assert_near(ours, theirs, atol):
  assert ours.keys() == theirs.keys()
  for path, value in ours.items():
    np.testing.assert_allclose(value, theirs[path], rtol=0, atol=atol, err_msg=path)


def test_three_steps_of_sgd_are_those_of_numpy():
  p, rest = map(wide, start())
  buffers = {path: 0.0 for path in p}
  for i in range(3):
    _, grads, rest = paper(p, rest, batch(i))
    buffers = {path: 0.9 * buffers[path] + grads[path] + 5e-4 * p[path] for path in p}
    p = {path: value - 0.05 * buffers[path] for path, value in p.items()}
  state = trained()
  assert_near({path.removeprefix('model/'): v for path, v in state.params.items()}, p, 1e-5)
  assert_near({path.removeprefix('model/'): v for path, v in state.rest.items()}, rest, 1e-5)


@pytest.mark.skipif(not importlib.util.find_spec('torch'), reason='needs PyTorch')
@pytest.mark.filterwarnings('ignore')         # what torch deprecates
def test_three_steps_of_sgd_are_those_of_torch():
  import torch
  import torch.nn.functional as F
  params, rest = start()
  kernel = lambda path, v: np.moveaxis(v, (-1, -2), (0, 1)) if path.endswith('kernel') else v
  p = {path: torch.tensor(kernel(path, np.asarray(v)).copy(), requires_grad=True)
       for path, v in params.items()}
  seen = {path: torch.tensor(np.asarray(v)) for path, v in rest.items()}
  conv = lambda x, name, stride=1: F.conv2d(
      x, p[f'{name}/kernel'], stride=stride, padding=p[f'{name}/kernel'].shape[-1] // 2)
  norm = lambda x, name: F.batch_norm(x, seen[f'{name}/mean'], seen[f'{name}/var'],
                                      p[f'{name}/scale'], p[f'{name}/bias'], training=True)
  sgd = torch.optim.SGD(p.values(), lr=0.05, momentum=0.9, weight_decay=5e-4)
  for i in range(3):
    data = batch(i)
    x = torch.tensor(np.moveaxis(data['image'][VALID > 0], -1, 1).copy())
    x = F.relu(norm(conv(x, 'stem'), 'stem_norm'))
    for n in (1, 2, 3):
      at, stride = f'stages/{n}/blocks/0', 1 + (n > 1)
      y = F.relu(norm(conv(x, f'{at}/conv1', stride), f'{at}/norm1'))
      y = norm(conv(y, f'{at}/conv2'), f'{at}/norm2')
      if n > 1:
        x = norm(conv(x, f'{at}/shortcut', stride), f'{at}/shortcut_norm')
      x = F.relu(x + y)
    logits = F.linear(x.mean((2, 3)), p['head/kernel'], p['head/bias'])
    sgd.zero_grad()
    F.cross_entropy(logits, torch.tensor(data['label'][VALID > 0]).long()).backward()
    sgd.step()
  state = trained()
  ours = {path.removeprefix('model/'): kernel(path, np.asarray(v))
          for path, v in state.params.items()}
  assert_near(ours, {path: v.detach().numpy() for path, v in p.items()}, 1e-5)
  assert_near({path.removeprefix('model/'): v for path, v in state.rest.items()},
              {path: v.numpy() for path, v in seen.items()}, 1e-5)


def test_resumed_is_uninterrupted():
  resumed = trained(3, first=2, state=trained(2))
  jax.tree.map(np.testing.assert_array_equal, resumed, trained(3))


def test_one_device_is_eight():
  if jax.device_count() < 8:
    pytest.skip('needs 8 devices; tests/conftest.py simulates them')
  single, eight = trained(), trained(devices=8)
  assert_near(single.params, eight.params, 1e-5)
  assert_near(single.rest, eight.rest, 1e-5)


# ---- what it is and what it gives

X1, X4 = (16, 16, 32, 64), (32, 64, 128, 256)


@pytest.mark.parametrize('depth, widths, wanted', [      # counted by RepDistiller's definitions
    (8, X1, 83_892), (20, X1, 278_324), (8, X4, 1_233_540)])
def test_parameters_of_the_published_networks_for_100_classes(depth, widths, wanted):
  assert parameters(depth, widths) == wanted


@pytest.mark.parametrize('depth, widths, wanted', [
    (32, X1, 0.473), (56, X1, 0.862), (110, X1, 1.737), (32, X4, 7.434)])
def test_millions_of_parameters_of_the_deeper_ones(depth, widths, wanted):
  assert round(parameters(depth, widths) / 1e6, 3) == wanted


def parameters(depth, widths):
  found = sized(depth=depth, widths=widths, channels=3, classes=100).shapes[0]
  return sum(math.prod(x.shape) for x in found.values())


def test_outputs_are_named_shaped_and_of_a_piece():
  params, rest = moved()
  outputs = jax.tree.map(np.asarray, called(params, rest, batch())[0])
  stages = {1: (6, 5, 3), 2: (3, 3, 4), 3: (2, 2, 6)}
  shapes = {'stem': (8, 6, 5, 3), 'pooled': (8, 6), 'logits': (8, 5),
            'weights/head/kernel': (6, 5), 'weights/head/bias': (5,)}
  for n, shape in stages.items():
    shapes |= {f'stage{n}/features': (8, *shape), f'stage{n}/preactivation': (8, *shape),
               f'weights/stage{n}/scale': shape[-1:], f'weights/stage{n}/bias': shape[-1:]}
  assert {name: x.shape for name, x in outputs.items()} == shapes
  for n in stages:
    before = outputs[f'stage{n}/preactivation']
    assert before.min() < 0
    np.testing.assert_array_equal(outputs[f'stage{n}/features'], np.maximum(before, 0))
    for kind in ('scale', 'bias'):
      np.testing.assert_array_equal(outputs[f'weights/stage{n}/{kind}'],
                                    params[f'stages/{n}/blocks/0/norm2/{kind}'])
  np.testing.assert_allclose(outputs['pooled'], outputs['stage3/features'].mean((1, 2)), rtol=1e-5)
  np.testing.assert_allclose(
      outputs['logits'], outputs['pooled'] @ outputs['weights/head/kernel']
      + outputs['weights/head/bias'], rtol=1e-4, atol=1e-5)


def test_logits_of_moved_parameters_are_those_of_numpy():
  params, rest = moved()
  logits, _, stats = paper(wide(params), wide(rest), batch())
  outputs, ours = called(params, rest, batch())
  np.testing.assert_allclose(outputs['logits'][VALID > 0], logits, rtol=1e-4, atol=1e-4)
  assert_near(ours, stats, 1e-4)


def test_outside_training_an_example_sees_no_other_and_statistics_stay():
  params, rest = moved()
  data = batch()
  outputs, kept = called(params, rest, data, train=False)
  others = {**data, 'image': np.where(np.arange(8)[:, None, None, None] == 2, data['image'], 9.0),
            'valid': 1 - VALID}
  np.testing.assert_array_equal(outputs['logits'][2],
                                called(params, rest, others, train=False)[0]['logits'][2])
  jax.tree.map(np.testing.assert_array_equal, kept, rest)


def test_deeper_stages_have_as_many_blocks_and_one_shortcut():
  paths = set(sized(depth=20, widths=(4, 4, 6, 8)).shapes[0])
  blocks = {tuple(path.split('/')[:4]) for path in paths if path.startswith('stages/')}
  assert blocks == {('stages', str(n), 'blocks', str(i)) for n in (1, 2, 3) for i in range(3)}
  assert {path for path in paths if path.endswith('shortcut/kernel')} == {
      'stages/2/blocks/0/shortcut/kernel', 'stages/3/blocks/0/shortcut/kernel'}
  assert 'stages/1/blocks/0/shortcut/kernel' in sized(widths=(4, 8, 8, 8)).shapes[0]


def test_two_stages_are_enough():
  paths = sized(depth=6, widths=(4, 4, 6)).shapes[0]
  assert {path.split('/')[1] for path in paths if path.startswith('stages/')} == {'1', '2'}


def test_it_starts_as_torch_starts_it():
  # N(0, 2/fan_out), fan_out = outputs·size², and U(±1/√fan_in) of standard deviation 1/√(3·fan_in);
  # the spread of n draws is known to 1/√(2n): four of these are allowed.
  convolutions = (('stem/kernel', 64 * 9, 2 * 9 * 64),
                  ('stages/2/blocks/0/conv1/kernel', 128 * 9, 64 * 9 * 128),
                  ('stages/2/blocks/0/shortcut/kernel', 128, 64 * 128))
  params, _ = sized(widths=(64, 64, 128, 96), classes=200).init(0, only={
      *(path for path, _, _ in convolutions), 'head/kernel', 'head/bias'})
  for path, fan, n in convolutions:
    value = np.asarray(params[path], np.float64)
    assert value.size == n and abs(value.std() * (fan / 2)**0.5 - 1) < 4 / (2 * n)**0.5
    assert abs(value).max() > 2.5 * (2 / fan)**0.5        # not cut at two deviations
  for path in ('head/kernel', 'head/bias'):
    value, bound = np.asarray(params[path], np.float64), 96**-0.5
    assert 0.95 * bound < abs(value).max() <= bound
    assert abs(value.std() / bound * 3**0.5 - 1) < 4 / (2 * value.size)**0.5
    assert abs(value.mean()) < 4 * bound / (3 * value.size)**0.5


def test_every_norm_starts_as_the_identity():
  params, rest = start()
  norms = {path: np.asarray(x) for path, x in {**params, **rest}.items() if 'norm' in path}
  assert len(norms) == 4 * 9
  for path, value in norms.items():
    assert (value == path.endswith(('scale', 'var'))).all(), path


# ---- what it has to stand

@functools.partial(jax.jit, static_argnames='net')
def slope(params, rest, batch, net=NET):
  """The gradient of the sum of the counted logits, and what was computed for it."""
  def total(params):
    outputs, kept = net(params, rest, batch, train=True, key=None)
    counted = jnp.where(batch['valid'][:, None] > 0, outputs['logits'], 0)
    return jnp.sum(counted.astype(jnp.float32)), (outputs, kept)
  return jax.grad(total, has_aux=True)(params)


def finite(tree):
  return all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize('valid', [np.zeros(8), np.eye(8)[3], np.ones(8)],
                         ids=['none', 'one', 'all'])
@pytest.mark.parametrize('size', [0.0, 1e4])
def test_value_and_gradient_are_finite(valid, size):
  data = {**batch(), 'valid': valid.astype(np.float32)}
  assert finite(slope(*start(), {**data, 'image': data['image'] * np.float32(size)}))


def test_one_pixel_of_one_example_is_finite():
  assert finite(slope(*start(ONE_BLOCK), batch(b=1, h=1, w=1), net=ONE_BLOCK))


def test_bfloat16_computes_in_bfloat16_but_for_the_statistics():
  params, rest = start(ONE_BLOCK)
  params = precision.cast(params, 'bfloat16')
  grads, (outputs, kept) = slope(params, rest, batch(), net=ONE_BLOCK)
  assert {x.dtype for x in outputs.values()} == {x.dtype for x in grads.values()} == {
      jnp.dtype(jnp.bfloat16)}
  assert {x.dtype for x in kept.values()} == {jnp.dtype(jnp.float32)} and finite((grads, kept))
  _, (exact, _) = slope(precision.cast(params, 'float32'), rest, batch(), net=ONE_BLOCK)
  np.testing.assert_allclose(np.asarray(outputs['logits'], np.float32)[VALID > 0],
                             exact['logits'][VALID > 0], atol=0.05)


@pytest.mark.parametrize('wrong', [
    dict(depth=9), dict(depth=2), dict(depth=-4), dict(depth=10, widths=(4, 4, 4, 4)),
    dict(widths=(4,)), dict(widths=()), dict(widths=(4, 0, 4, 4)), dict(channels=0),
    dict(classes=-1)], ids=str)
def test_what_it_cannot_be_is_refused(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))) as error:
    sized(**wrong)
  assert '\n' not in str(error.value)


def test_a_number_of_blocks_that_is_no_model_s_is_refused_before_any_is_built():
  with pytest.raises(ValueError, match='more than 1024 blocks'):
    ResNet(depth=6 * 10**12 + 2, classes=2, rngs=nnx.Rngs(0))
