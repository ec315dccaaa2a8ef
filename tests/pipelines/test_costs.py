"""What a report says of costs is of calls on one device, whose own meter counts their joules."""
import contextlib
import types

import jax
import pytest

from distill.measure import cost, energy, timing_worker
from distill.modalities import image
from distill.pipelines import costs

MACHINE = 'cpu', 'gpu'          # where calls can run


class Calls:
  """A model whose calls take a second on the CPU, a tenth of it elsewhere."""

  def __init__(self, platform, busy):
    self._platform, self._busy = platform, busy
    self._seconds = 1. if platform == 'cpu' else .1

  def compile_stats(self, batch):
    return {'flops': 1, 'peak_memory_bytes': 1, 'process_bytes': None, 'threads': 2}

  def time_calls(self, batch, seconds):
    self._busy[self._platform] += 2 * self._seconds        # one isn't counted
    return [self._seconds]


class Meter:
  """A meter of a device that takes 30 W while something runs on it."""

  def __init__(self, platform, busy):
    self._platform, self._busy = platform, busy

  def joules(self):
    return 30 * self._busy[self._platform]

  def per_example(self, joules, examples):
    return {'value': joules / examples, 'method': f'counted on the {self._platform}'}


@pytest.mark.parametrize(('backend', 'by_itself', 'metered', 'latency', 'joules', 'method'), [
    ('cpu', True, MACHINE, 1., 30, 'counted on the cpu'),
    ('cpu', False, MACHINE, 1., 30, 'counted on the cpu'),
    ('gpu', True, MACHINE, 1., 30, 'counted on the cpu'),       # a child's calls are on a core
    ('gpu', False, MACHINE, .1, 3, 'counted on the gpu'),
    # 10 W for two threads, and for nothing but a CPU's
    ('cpu', False, (), 1., 20, 'estimated for the CPU'),
    ('gpu', True, ('gpu',), 1., 20, 'estimated for the CPU'),
    ('gpu', False, ('cpu',), .1, None, ''), ('tpu', False, MACHINE, .1, None, '')])
def test_energy_is_of_the_device_that_is_timed(monkeypatch, tmp_path, backend, by_itself, metered,
                                               latency, joules, method):
  busy = dict.fromkeys((*MACHINE, 'tpu'), 0.)
  monkeypatch.setattr(jax, 'default_backend', lambda: backend)
  monkeypatch.setattr(energy, 'find_meter', lambda platform: Meter(platform, busy) if (
      platform in metered) else None)
  monkeypatch.setattr(cost, 'LocalTimer', lambda *_: Calls(backend, busy))
  monkeypatch.setattr(timing_worker, 'start_workers', lambda jobs, *_: contextlib.nullcontext(
      {name: Calls('cpu', busy) for name in jobs}))
  model = types.SimpleNamespace(
      name='model', pure=None, weights=({}, {}), place={'place': str(tmp_path)}, card={},
      modality=image.Image(2, 2, 1, mean=[0.], deviation=[1.]))
  judge = types.SimpleNamespace(
      task=types.SimpleNamespace(outputs=('logits',)),
      evaluate=types.SimpleNamespace(cost=True, alone=by_itself, watts=10.))
  run = types.SimpleNamespace(log=types.SimpleNamespace(say=lambda line: None))
  found = costs.measure([model], judge, run)['model']
  assert found['latency_ms']['p50'] == pytest.approx(1e3 * latency)
  about = found['energy_j_per_example']
  assert (about and about['value']) == (joules and pytest.approx(joules))
  assert about is None or about['method'].startswith(method)
