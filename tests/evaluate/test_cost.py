import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from distill.evaluate import cost

FLAT = {'token/embedding': np.zeros((10, 4), np.float32),
        'block/kernel': np.zeros((4, 3), np.float32), 'bias': np.zeros(3, np.float16)}


def test_parameters_and_bytes_by_hand():
  assert cost.params(FLAT) == 40 + 12 + 3
  assert cost.nbytes(FLAT) == 4 * 52 + 2 * 3


def test_embedding_tables_can_be_left_out_of_flat_and_nested_trees():
  nested = {'token': {'embedding': FLAT['token/embedding']}, 'embedding_norm': FLAT['bias']}
  assert cost.params(FLAT, embeddings=False) == 15
  assert cost.params(nested, embeddings=False) == 3


def test_parameters_of_shapes_that_hold_no_numbers():
  assert cost.params(jax.eval_shape(lambda: jnp.zeros((2, 3)))) == 6


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


def sleeper(seconds, calls, name):
  def call():
    calls.append(name)
    time.sleep(seconds)
    return np.zeros(1)
  return call


def test_latency_tells_models_apart_and_says_how_it_was_measured():
  calls = []
  found = cost.latency({'slow': sleeper(.004, calls, 'slow'), 'fast': sleeper(.001, calls, 'fast')},
                       seconds=.1)
  assert 4 <= found['slow']['p50'] <= found['slow']['p95']
  assert 1 <= found['fast']['p50'] < found['slow']['p50']
  assert found['slow']['batch'] == 1 and found['slow']['threads'] >= 1


def test_models_take_turns():
  calls = []
  cost.latency({'a': sleeper(.02, calls, 'a'), 'b': sleeper(.02, calls, 'b')}, seconds=0)
  # two warm-up calls each, then five rounds
  assert calls == ['a', 'a', 'b', 'b'] + ['a', 'b'] * 5


def test_throughput_counts_examples():
  # 8 examples in at least 2 ms are at most 4,000 a second; a busy machine only makes it less.
  found = cost.throughput({'m': sleeper(.002, [], 'm')}, batch=8, seconds=.05)
  assert 0 < found['m'] <= 4000


def test_work_that_runs_ahead_is_waited_for():
  class Ahead:
    def block_until_ready(self):
      time.sleep(.003)
  assert cost.latency({'m': Ahead}, seconds=0)['m']['p50'] >= 3
