"""Worker processes: their answers, their single core, and their end."""
import os
import pathlib
import time

import numpy as np
import pytest

from distill import formats
from distill.measure import cost, timing_worker
from distill.modalities import image
from distill.models.functional import Functional
from distill.models.resnet import ResNet
from distill.types import Status, Stop

PIXELS = {'height': 8, 'width': 8, 'channels': 1, 'mean': [0.], 'deviation': [1.], 'white': 16}
CACHE = os.environ['JAX_COMPILATION_CACHE_DIR']


def export(folder, *widths, depth=8):
  model = {'name': 'resnet.ResNet', 'depth': depth, 'widths': widths, 'channels': 1, 'classes': 3}
  pure = Functional(
      lambda rngs: ResNet(depth=depth, widths=widths, channels=1, classes=3, rngs=rngs))
  weights = tuple({path: np.asarray(x) for path, x in part.items()} for part in pure.init(0))
  card = {'model': model, 'classes': ['a', 'b', 'c'], 'pixels': PIXELS, 'data': 'd',
          'fingerprint': 'f'}
  formats.write(folder, formats.Shipped(pure, weights, card, image.Image(**PIXELS)))
  return {'place': str(folder), 'inputs': {'pixels': PIXELS}}


def test_a_process_has_one_core_answers_and_ends(tmp_path):
  place = export(tmp_path / 'model', 2, 2, 4, depth=6)
  with timing_worker.start_workers({'model': place}, ['logits'], CACHE) as workers:
    process = workers['model'].process
    plan = workers['model'].compile_stats(1)
    assert plan['threads'] == 1 and plan['flops'] > 0 and plan['peak_memory_bytes'] > 0
    assert plan['process_bytes'] is None or plan['process_bytes'] > plan['peak_memory_bytes']
    start = time.perf_counter()
    times = workers['model'].time_calls(1, .01)
    # Seconds of calls that lie within the turn, and of which the last began before it was to end.
    assert min(times) > 0 and sum(times) < time.perf_counter() - start and sum(times[:-1]) < .01
    assert len(workers['model'].time_calls(1, 0)) == 1
    # Every thread of it, JAX's too, may use one core and no other.
    threads = pathlib.Path(f'/proc/{process.pid}/task')
    if threads.exists():
      cores = {frozenset(os.sched_getaffinity(int(thread.name))) for thread in threads.iterdir()}
      assert cores == {frozenset([max(os.sched_getaffinity(0))])}
    process.kill()
    process.wait()
    with pytest.raises(Stop, match='timed model ended with status -9, likely for want of') as error:
      workers['model'].time_calls(1, .01)
    assert error.value.status == Status.CONFIG and '\n' not in str(error.value)
  assert process.poll() is not None


def test_a_process_that_cannot_begin_says_why_before_its_end_is_reported(tmp_path, capfd):
  place = {'place': str(tmp_path / 'gone'), 'inputs': {'pixels': PIXELS}}
  with timing_worker.start_workers({'model': place}, ['logits'], CACHE) as workers:
    with pytest.raises(Stop, match='timed model ended with status 1, for what it says above'):
      workers['model'].compile_stats(1)
  assert 'gone' in capfd.readouterr().err


@pytest.mark.slow
def test_two_measurements_agree(tmp_path):
  """Medians and their ratio probed 10 %: on a machine that does nothing else."""
  places = {'small': export(tmp_path / 'small', 16, 16, 32, 64),
            'large': export(tmp_path / 'large', 32, 32, 64, 128)}

  def medians():
    with timing_worker.start_workers(places, ['logits'], CACHE) as workers:
      found = cost.measure_costs(workers)
    return np.array([found[name]['latency_ms']['p50'] for name in places])
  first, second = medians(), medians()
  np.testing.assert_allclose(first, second, rtol=.1)
  np.testing.assert_allclose(first[0] / first[1], second[0] / second[1], rtol=.1)
