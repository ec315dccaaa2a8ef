import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.models.functional import Functional
from distill.models.resnet import ResNet
from distill.models.simkd import SimKD
from distill.projectors import fusion, projectors

VALID = np.array([1., 1, 1, 0])
RNG = np.random.default_rng(0)
MAPS = np.float32(RNG.normal(size=(4, 4, 4, 3)))
VECTORS = np.float32(RNG.normal(size=(4, 3)))


def made(module, **hyper):
  pure = Functional(lambda rngs: module(rngs=rngs, **hyper))
  return pure, *pure.init(0)


def called(pure, params, rest, *arrays, train=True):
  return jax.jit(lambda p, r, *a: pure(p, r, *a, valid=VALID, train=train)[0])(
      params, rest, *arrays)


# A projector, what it is made with, what it reads, and the shapes of what it gives.
EVERY = {
    'Linear': (projectors.Linear, dict(inputs=3, outputs=5), [VECTORS], (4, 5)),
    'Embedding': (projectors.Embedding, dict(inputs=3, outputs=5), [VECTORS], (4, 5)),
    'Regressor': (projectors.Regressor, dict(inputs=3, outputs=5), [MAPS], (4, 4, 4, 5)),
    'smaller': (projectors.Regressor, dict(inputs=3, outputs=5, ratio=2), [MAPS], (4, 2, 2, 5)),
    'larger': (projectors.Regressor, dict(inputs=3, outputs=5, ratio=.5), [MAPS], (4, 8, 8, 5)),
    'Connector': (projectors.Connector, dict(inputs=3, outputs=5), [MAPS], (4, 4, 4, 5)),
    'Variational': (projectors.Variational, dict(inputs=3, outputs=5), [MAPS],
                    {'mean': (4, 4, 4, 5), 'variance': (5,)}),
    'Paraphraser': (projectors.Paraphraser, dict(inputs=3, outputs=2), [MAPS],
                    {'factor': (4, 4, 4, 2), 'reconstruction': (4, 4, 4, 3)}),
    'Translator': (projectors.Translator, dict(inputs=3, outputs=2), [MAPS], (4, 4, 4, 2)),
    'Head': (projectors.Head, dict(inputs=3, width=6, classes=7), [MAPS],
             {'hidden': (4, 6), 'logits': (4, 7)}),
    'Review': (fusion.Review, dict(inputs=(3, 3, 3), outputs=(5, 6, 7)),
               [MAPS, MAPS[:, ::2, ::2], VECTORS],
               {'1': (4, 4, 4, 5), '2': (4, 2, 2, 6), '3': (4, 7)}),
}


@pytest.mark.parametrize('module, hyper, reads, shapes', EVERY.values(), ids=EVERY)
def test_shapes_and_no_row_sees_one_that_is_not_valid(module, hyper, reads, shapes):
  pure, params, rest = made(module, **hyper)
  results = called(pure, params, rest, *reads)
  assert jax.tree.map(lambda x: x.shape, results) == shapes
  # Large enough to be seen in any statistics.
  others = called(pure, params, rest, *(np.concatenate([x[:3], 1e3 * x[3:]]) for x in reads))
  for value, other in zip(*map(jax.tree.leaves, (results, others)), strict=True):
    if value.shape[0] == 4:
      np.testing.assert_allclose(value[:3], other[:3], atol=1e-5)


class TestStart:
  """PyTorch's bounds, 1/√fan_in, which a large kernel comes close to; and the deviations."""

  def start(self, module, **hyper):
    return made(module, inputs=64, outputs=36, **hyper)[1]

  @pytest.mark.parametrize('hyper, bound', [
      (dict(), 1 / 8), (dict(ratio=2), 1 / 24), (dict(ratio=.5), 1 / 24)])   # √(36·16) for the last
  def test_of_regressors(self, hyper, bound):
    params = self.start(projectors.Regressor, **hyper)
    for name in ('conv/kernel', 'conv/bias'):
      assert .85 * bound < np.abs(params[name]).max() <= bound
    np.testing.assert_allclose(np.std(params['conv/kernel']), bound / np.sqrt(3), rtol=.05)

  def test_of_a_connector(self):
    params = self.start(projectors.Connector)
    assert 'conv/bias' not in params
    np.testing.assert_allclose(np.std(params['conv/kernel']), np.sqrt(2 / 36), rtol=.05)

  def test_of_an_embedding(self):
    params = self.start(projectors.Embedding)
    assert .9 / 8 < np.abs(params['dense/kernel']).max() <= 1 / 8
    assert 0 < np.abs(params['dense/bias']).max() <= 1 / 8

  def test_of_a_paraphraser(self):
    params = self.start(projectors.Paraphraser)
    fans = {'encoder/0': 64, 'encoder/1': 64, 'encoder/2': 36,       # the width that comes in
            'decoder/0': 36, 'decoder/1': 64, 'decoder/2': 64}       # the width that goes out
    for name, fan in fans.items():
      bound = 1 / np.sqrt(9 * fan)
      assert .98 * bound < np.abs(params[f'{name}/kernel']).max() <= bound

  def test_of_a_fusion(self):
    params = made(fusion.Review, inputs=(64, 32), outputs=(48, 16))[1]
    for name, fan in (('narrow', 64), ('widen', 9 * 32)):           # Kaiming's uniform, a gain of 1
      bound = np.sqrt(3 / fan)
      assert .95 * bound < np.abs(params[f'fusions/0/{name}/kernel']).max() <= bound


class TestEmbedding:

  def test_it_is_a_linear_map_at_length_1(self):
    pure, params, rest = made(projectors.Embedding, inputs=3, outputs=5)
    expected = VECTORS @ params['dense/kernel'] + params['dense/bias']
    expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
    np.testing.assert_allclose(called(pure, params, rest, VECTORS), expected, rtol=1e-5)


class TestRegressor:

  def test_ratio_out_of_range(self):
    with pytest.raises(ValueError, match='ratio=3 is not 0.5, 1 or 2'):
      made(projectors.Regressor, inputs=3, outputs=5, ratio=3)


class TestVariational:

  def test_mean_by_hand_and_a_variance_that_starts_at_5_and_never_falls_to_0(self):
    pure, params, rest = made(projectors.Variational, inputs=3, outputs=5)
    kernels = [params[f'convs/{n}/kernel'][0, 0] for n in range(3)]
    hidden = np.maximum(np.maximum(MAPS @ kernels[0], 0) @ kernels[1], 0)
    result = called(pure, params, rest, MAPS)
    np.testing.assert_allclose(result['mean'], hidden @ kernels[2], atol=1e-5)
    np.testing.assert_allclose(result['variance'], np.full(5, 5), rtol=1e-6)
    result = called(pure, params | {'spread': jnp.full(5, -1e3)}, rest, MAPS)
    np.testing.assert_allclose(result['variance'], np.full(5, 1e-5), rtol=1e-6)


class TestParaphraser:

  def test_the_factor_trains_nothing_and_the_reconstruction_everything(self):
    pure, params, rest = made(projectors.Paraphraser, inputs=3, outputs=2)
    gradient = jax.jit(jax.grad(lambda p, name: jnp.sum(
        pure(p, rest, MAPS, valid=VALID, train=True)[0][name]**2)), static_argnums=1)
    assert all((x == 0).all() for x in gradient(params, 'factor').values())
    assert all((x != 0).any() for x in gradient(params, 'reconstruction').values())


class TestReview:

  def test_by_hand(self):
    # On 1×1 maps the 3×3 convolution is the middle of its kernel. Outside training a new BatchNorm
    # divides by √(1 + 1e-5).
    pure, params, rest = made(fusion.Review, inputs=(4, 3), outputs=(5, 6))
    kernel = lambda name, at=0: np.asarray(params[f'fusions/{name}/kernel'])[at, at]
    norm = np.sqrt(1 + 1e-5)
    shallow = np.float32(RNG.normal(size=(4, 1, 1, 4)))
    deep = VECTORS @ kernel('1/narrow') / norm
    x = shallow[:, 0, 0] @ kernel('0/narrow') / norm
    weight = np.concatenate([x, deep], -1) @ kernel('0/weigh') + params['fusions/0/weigh/bias']
    weight = 1 / (1 + np.exp(-weight))
    mixed = weight[:, :1] * x + weight[:, 1:] * deep
    result = called(pure, params, rest, shallow, VECTORS, train=False)
    np.testing.assert_allclose(result['2'], deep @ kernel('1/widen', 1) / norm, atol=1e-5)
    np.testing.assert_allclose(result['1'][:, 0, 0], mixed @ kernel('0/widen', 1) / norm, atol=1e-5)

  def test_the_deepest_stage_reaches_all(self):
    pure, params, rest = made(fusion.Review, inputs=(3, 3, 3), outputs=(2, 2, 2))
    moved = [called(pure, params, rest, MAPS, MAPS[:, ::2, ::2], x, train=False)
             for x in (VECTORS, 2 * VECTORS)]
    assert all((np.abs(moved[0][n] - moved[1][n]) > 1e-6).any() for n in '123')

  def test_enlarged_as_pytorch_s_nearest(self):
    # 3 to 4: ⌊0, 3/4, 6/4, 9/4⌋; 3 to 6: each twice.
    rows, columns = [0, 0, 1, 2], [0, 0, 1, 1, 2, 2]
    maps = np.arange(9.).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(fusion._nearest(jnp.asarray(maps), 4, 6),
                                  maps[:, rows][:, :, columns])

  def test_as_many_outputs_as_stages(self):
    for inputs in (3, (3, 4, 5)):
      with pytest.raises(ValueError, match='not as many as the stages read'):
        made(fusion.Review, inputs=inputs, outputs=(5, 6))


class TestSimKD:
  ENCODER = dict(name='resnet.ResNet', depth=8, widths=(4, 4, 6, 8))
  BATCH = {'image': np.float32(RNG.normal(size=(4, 8, 8, 1))), 'valid': VALID}

  def test_its_head_is_the_teacher_s_on_the_projected_features(self):
    pure, params, rest = made(SimKD, encoder=self.ENCODER, width=12, channels=1, classes=5)
    teacher = Functional(lambda rngs: ResNet(depth=8, widths=(4, 6, 8, 12), channels=1, classes=5,
                                             rngs=rngs)).shapes[0]
    for name in ('head/kernel', 'head/bias'):       # what `student.init` takes, by path and shape
      assert params[name].shape == teacher[name].shape
    assert {path.split('/')[0] for path in params} == {'encoder', 'projector', 'head'}
    assert not [path for path in params if path.startswith('encoder/head')]
    outputs, kept = jax.jit(lambda p, r, b: pure(p, r, b, train=True, key=None))(
        params, rest, self.BATCH)
    projected = np.asarray(outputs['projected'])
    assert projected.shape == (4, 2, 2, 12) and (projected >= 0).all()
    np.testing.assert_allclose(
        outputs['logits'],
        projected.mean(axis=(1, 2)) @ params['head/kernel'] + params['head/bias'],
        atol=1e-5)
    assert outputs['weights/head/kernel'].shape == (12, 5)
    assert outputs['stage3/features'].shape == (4, 2, 2, 8)
    assert any((kept[path] != rest[path]).any() for path in rest if path.startswith('projector/'))

  def test_bad_hyper_parameters(self):
    with pytest.raises(ValueError, match='factor=13 is not between 1 and the width 12'):
      made(SimKD, encoder=self.ENCODER, width=12, factor=13, classes=5)
    encoder = dict(name='simkd.Projector', inputs=1, width=1, factor=1)
    with pytest.raises(ValueError, match="'simkd.Projector' is not resnet.ResNet"):
      made(SimKD, encoder=encoder, width=12, classes=5)
