"""Processes of their own: what they answer, that they have one core, and that they end."""
import os
import pathlib

import numpy as np
import pytest

from distill.evaluate import alone, cost
from distill.export import huggingface
from distill.models.pure import Pure
from distill.models.resnet import ResNet

PIXELS = {'height': 8, 'width': 8, 'channels': 1, 'mean': [0.], 'deviation': [1.], 'white': 16}
CACHE = os.environ['JAX_COMPILATION_CACHE_DIR']


def export(folder, *widths, depth=8):
  model = {'name': 'resnet.ResNet', 'depth': depth, 'widths': widths, 'channels': 1, 'classes': 3}
  pure = Pure(lambda rngs: ResNet(depth=depth, widths=widths, channels=1, classes=3, rngs=rngs))
  weights = tuple({path: np.asarray(x) for path, x in part.items()} for part in pure.init(0))
  card = {'model': model, 'classes': ['a', 'b', 'c'], 'pixels': PIXELS, 'data': 'd',
          'fingerprint': 'f'}
  huggingface.write(folder, weights, card, '')
  return {'place': str(folder), 'inputs': {'pixels': PIXELS}}


def test_a_process_has_one_core_answers_and_ends(tmp_path):
  place = export(tmp_path / 'model', 2, 2, 4, depth=6)
  with alone.children({'model': place}, ['logits'], CACHE) as children:
    process = children['model'].process
    plan = children['model'].plan(1)
    assert plan['threads'] == 1 and plan['flops'] > 0 and plan['peak_memory_bytes'] > 0
    assert plan['process_bytes'] is None or plan['process_bytes'] > plan['peak_memory_bytes']
    times = children['model'].turn(1, .01)
    assert times and all(0 < t < 60 for t in times)
    # Every thread of it, JAX's too, may use one core and no other.
    threads = pathlib.Path(f'/proc/{process.pid}/task')
    if threads.exists():
      cores = {frozenset(os.sched_getaffinity(int(thread.name))) for thread in threads.iterdir()}
      assert cores == {frozenset([max(os.sched_getaffinity(0))])}
    process.kill()
    process.wait()
    with pytest.raises(RuntimeError, match=f'timed {tmp_path}.* ended with status -9'):
      children['model'].turn(1, .01)
  assert process.poll() is not None


@pytest.mark.slow
def test_two_measurements_agree(tmp_path):
  """Medians and their ratio within 10 %: on a machine that does nothing else."""
  places = {'small': export(tmp_path / 'small', 16, 16, 32, 64),
            'large': export(tmp_path / 'large', 32, 32, 64, 128)}

  def medians():
    with alone.children(places, ['logits'], CACHE) as children:
      found = cost.measured(children)
    return np.array([found[name]['latency_ms']['p50'] for name in places])
  one, two = medians(), medians()
  np.testing.assert_allclose(one, two, rtol=.1)
  np.testing.assert_allclose(one[0] / one[1], two[0] / two[1], rtol=.1)
