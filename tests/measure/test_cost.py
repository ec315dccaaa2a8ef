import jax
import jax.numpy as jnp
import pytest

from distill import lookup
from distill.measure import cost
from distill.modalities import examples, image, text
from distill.models import sizes
from distill.models.functional import Functional


def texts(*widths):
  return text.Text(length=widths[-1], widths={'s': widths})


def pixels(height, width, channels):
  return image.Image(height, width, channels, mean=[0.] * channels, deviation=[1.] * channels)


@pytest.fixture(scope='module')
def product():
  """[32 128] @ [128 512] -> [32 512], compiled."""
  a, b = jnp.ones((32, 128)), jnp.ones((128, 512))
  return jax.jit(jnp.matmul).lower(a, b).compile()


def test_flops_of_a_matrix_product(product):
  assert cost.flops(product) == pytest.approx(2 * 32 * 128 * 512, rel=0.02)


def test_memory_is_at_least_arguments_and_results(product):
  held = 4 * (32 * 128 + 128 * 512 + 32 * 512)
  assert held <= cost.peak_memory(product) <= 1.1 * held


def subject(name, modality, **how):
  pure = Functional(lambda rngs: lookup.build('models', {'name': name, **how}, 'model', rngs=rngs))
  return cost.LocalTimer(pure, pure.init(0), modality, ['logits']), pure


def test_flops_of_an_encoder_by_hand():
  d, s, depth = 768, 32, 2
  encoder, _ = subject('bert.Bert', texts(s), width=d, depth=depth, heads=12, vocabulary=10,
                       length=s, classes=5, dropout=0.0)
  # Multiplications. A block has four d × d and two d × 4d matrices at every token, and scores and
  # mixtures of s tokens. The answer is read at one position: there alone the last block has more
  # than its keys and values, and there are the pooler and the head. XLA counts each of the 4d
  # GELUs a token as 64 operations more, 1.4 % in all.
  block, square = 12 * d * d + 2 * s * d, d * d
  last = s * 2 * square + (block - 2 * square)
  by_hand = 2 * 3 * ((depth - 1) * s * block + last + square + 5 * d)
  assert encoder.compile_stats(3)['flops'] == pytest.approx(by_hand, rel=0.02)


def test_flops_of_a_network_by_hand():
  network, _ = subject('resnet.ResNet', pixels(8, 8, 3),
                       depth=6, widths=(64, 64, 128), channels=3, classes=5)
  # A 3×3 kernel on 8×8 positions, without what it has outside: 3·8 − 2 rows by as many columns; on
  # every second position 3·4 − 1; on 4×4 positions 3·4 − 2. The 1×1 shortcut has 4×4.
  stem, first = 22**2 * 3 * 64, 2 * 22**2 * 64 * 64
  second = 11**2 * 64 * 128 + 10**2 * 128 * 128 + 4**2 * 64 * 128
  for batch in 1, 4:
    by_hand = 2 * batch * (stem + first + second + 128 * 5)
    assert network.compile_stats(batch)['flops'] == pytest.approx(by_hand, rel=0.02)


def test_memory_of_a_network_by_hand():
  network, pure = subject('bert.Bert', texts(32), width=256, depth=2, heads=4,
                          vocabulary=1000, length=32, classes=5, dropout=0.0)
  tokens, params = 8 * 32, sizes.params(pure.shapes[0])
  # float32: the parameters, three inputs a token, and where the most lives at once, in a block's
  # second half: what came into it, four times as much inside, and what comes out
  by_hand = 4 * (params + 3 * tokens + tokens * (256 + 4 * 256 + 256))
  assert network.compile_stats(8)['peak_memory_bytes'] == pytest.approx(by_hand, rel=0.1)


def test_the_inputs_are_those_of_the_longest_texts_and_of_whole_images():
  full = examples.placeholders(texts(16, 48), 2)
  assert {name: full[name].shape for name in ('tokens', 'types', 'mask')} == dict.fromkeys(
      ('tokens', 'types', 'mask'), (2, 48))
  assert full['mask'].all()
  images = examples.placeholders(pixels(8, 6, 1), 3)
  assert images['image'].shape == (3, 8, 6, 1) and images['valid'].tolist() == [1, 1, 1]


class Fake:
  """A model that takes the seconds that a test gives, by batch size."""

  def __init__(self, name, calls, took):
    self.name, self.calls, self.took = name, calls, took

  def compile_stats(self, batch):
    self.calls.append(('compile', self.name, batch))
    return {'flops': batch, 'peak_memory_bytes': batch, 'process_bytes': 7 * batch, 'threads': 1}

  def time_calls(self, batch, seconds):
    self.calls.append(('time', self.name, batch))
    return self.took[batch]


class Counter:
  """A meter that counts 2 J between any two looks."""
  count = 0.0

  def joules(self):
    self.count += 2
    return self.count

  def per_example(self, joules, examples):
    return {'value': joules / examples, 'method': 'counted'}


def measured(**how):
  calls = []
  slow = Fake('slow', calls, {1: [.004] * 9 + [.1], 8: [.016], 32: [.08]})
  fast = Fake('fast', calls, {1: [.001], 8: [.010], 32: [.040]})
  return cost.measure_costs({'slow': slow, 'fast': fast}, **how), calls


def test_a_measurement_is_of_batch_1_and_of_the_fastest_batch():
  found, _ = measured()
  assert found['slow']['latency_ms'] == {'p50': 4, 'p95': pytest.approx(100), 'batch': 1,
                                         'threads': 1}
  assert found['slow']['flops'] == found['slow']['peak_memory_bytes'] == 1
  assert found['slow']['throughput_per_s'] == 500 and found['slow']['throughput_batch'] == 8
  assert found['fast']['throughput_per_s'] == 1000 and found['fast']['throughput_batch'] == 1
  assert found['slow']['energy_j_per_example'] is None and 'threads' not in found['slow']


def test_the_most_that_a_process_held_is_known_when_every_batch_was_called():
  assert measured()[0]['slow']['process_bytes'] == 7 * 32


def test_models_take_turns_in_five_rounds_and_are_compiled_before():
  _, calls = measured()
  plans, turns = calls[:6], [(name, batch) for _, name, batch in calls[6:]]
  assert set(plans) == {('compile', name, batch)
                        for name in ('slow', 'fast') for batch in (1, 8, 32)}
  assert turns == 5 * [(name, batch) for batch in (1, 8, 32) for name in ('slow', 'fast')]


def test_energy_is_what_a_meter_counts_by_all_calls_or_else_an_estimate():
  # Five turns of 2 J: of ten calls and the one that isn't timed, or of one and that one.
  found, _ = measured(meter=Counter(), watts=50.)
  assert found['slow']['energy_j_per_example'] == {'value': 10 / 55, 'method': 'counted'}
  assert found['fast']['energy_j_per_example']['value'] == 10 / 10
  found, _ = measured(watts=50.)
  energy = found['slow']['energy_j_per_example']
  assert energy['value'] == pytest.approx(.2)
  assert energy['method'].startswith('estimated for the CPU: 50 W')
  assert energy['inputs'] == {'watts_per_core': 50, 'cores': 1, 'seconds': .004}


def test_a_turn_leaves_its_first_call_out_and_ends(monkeypatch):
  network, _ = subject('resnet.ResNet', pixels(2, 2, 1),
                       depth=4, widths=(1, 1), channels=1, classes=2)
  waited = []
  monkeypatch.setattr(jax, 'block_until_ready', waited.append)
  assert len(network.time_calls(1, 0)) == 1 and len(waited) == 2
  assert 1 <= len(network.time_calls(1, 1e-9)) and all(t > 0 for t in network.time_calls(1, .001))
  waited.clear()
  assert len(network.time_calls(1, 1e9)) == cost.CALLS == len(waited) - 1
