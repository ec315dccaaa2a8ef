"""Sizes of parameters, by hand."""
import jax
import jax.numpy as jnp
import numpy as np

from distill.models import sizes

FLAT = {'token/embedding': np.zeros((10, 4), np.float32),
        'block/kernel': np.zeros((4, 3), np.float32), 'bias': np.zeros(3, np.float16)}


def test_parameters_and_bytes_by_hand():
  assert sizes.params(FLAT) == 40 + 12 + 3
  assert sizes.nbytes(FLAT) == 4 * 52 + 2 * 3


def test_embedding_tables_can_be_left_out_of_flat_and_nested_trees():
  nested = {'token': {'embedding': FLAT['token/embedding']}, 'embedding_norm': FLAT['bias']}
  assert sizes.params(FLAT, embeddings=False) == 15
  assert sizes.params(nested, embeddings=False) == 3


def test_parameters_of_shapes_that_hold_no_numbers():
  assert sizes.params(jax.eval_shape(lambda: jnp.zeros((2, 3)))) == 6


def test_parameters_in_8_bits_are_counted_as_quantised():
  tree = {'kernel': np.zeros((9, 10), np.int8), 'scale': np.zeros(10, np.float32)}
  assert sizes.quantised(tree) == .9
  assert sizes.quantised(FLAT) == 0


def test_a_report_s_sizes_are_of_the_parameters_and_its_bytes_of_all():
  statistics = {'norm/mean': np.zeros(5, np.float32)}
  assert sizes.sizes((FLAT, statistics)) == {
      'params': 55, 'params_outside_embeddings': 15, 'bytes': 4 * 52 + 2 * 3 + 20, 'quantised': 0}
