import sys
import types

import pytest

from distill.measure import energy


def zone(root, folder, name, energy_uj, most=1_000_000):
  place = root / folder
  place.mkdir(parents=True)
  for file, value in (('name', name), ('energy_uj', energy_uj), ('max_energy_range_uj', most)):
    (place / file).write_text(f'{value}\n')
  return place / 'energy_uj'


@pytest.fixture
def tree(tmp_path):
  """Two processors; one tells of its cores and its memory too, which lies inside its folder."""
  return tmp_path, {
      'package-0': zone(tmp_path, 'intel-rapl:0', 'package-0', 999_000),
      'core': zone(tmp_path, 'intel-rapl:0:0', 'core', 1),
      'dram': zone(tmp_path, 'intel-rapl:0:1', 'dram', 5),
      'package-1': zone(tmp_path, 'intel-rapl:1', 'package-1', 10),
      'psys': zone(tmp_path, 'intel-rapl:2', 'psys', 1),
      'twice': zone(tmp_path, 'intel-rapl-mmio:0', 'package-0', 1)}


def test_rapl_adds_processors_and_memory_but_no_part_twice(tree):
  root, files = tree
  counter = energy.Rapl(root)
  assert counter.joules() == 0
  for file in files.values():
    file.write_text('999999\n')
  # 999 µJ, 999,994 µJ and 999,989 µJ; not core, psys, nor the same package by another door
  assert counter.joules() == pytest.approx((999 + 999_994 + 999_989) * 1e-6)
  joules = counter.per_example(8., 4)
  assert joules == {'value': 2, 'method': 'measured by RAPL on the CPU: package-0, dram, package-1',
                  'inputs': {'joules': 8, 'examples': 4}}


def test_a_counter_that_started_again_went_on(tree):
  root, files = tree
  counter = energy.Rapl(root)
  for value, total in ((999_500, 500), (400, 1400), (400, 1400), (300, 1_001_300)):
    files['package-0'].write_text(f'{value}\n')
    assert counter.joules() == pytest.approx(total * 1e-6)


@pytest.mark.parametrize('break_it', [
    lambda root: None,
    lambda root: zone(root, 'intel-rapl:0', 'psys', 1),
    lambda root: zone(root, 'intel-rapl:0', 'package-0', 'none'),
    lambda root: zone(root, 'intel-rapl:0', 'package-0', 1).unlink()])
def test_where_nothing_can_be_read_there_is_no_meter(tmp_path, monkeypatch, break_it):
  break_it(tmp_path)
  monkeypatch.setattr(energy.Rapl.__init__, '__defaults__', (tmp_path,))
  assert energy.find_meter('cpu') is None


def test_a_meter_of_this_machine_is_of_its_platform(tree, monkeypatch):
  monkeypatch.setattr(energy.Rapl.__init__, '__defaults__', (tree[0],))
  assert isinstance(energy.find_meter('cpu'), energy.Rapl)
  assert energy.find_meter('tpu') is None


@pytest.fixture
def nvml(monkeypatch):
  """pynvml with two GPUs, the second of which can't count."""
  class NVMLError(Exception):
    pass
  count = {0: 5_000, 'GPU-abc': 7_000}
  def total(handle):
    if handle not in count:
      raise NVMLError('Not Supported')
    return count[handle]
  module = types.SimpleNamespace(
      NVMLError=NVMLError, nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=lambda i: i,
      nvmlDeviceGetHandleByUUID=lambda name: name, nvmlDeviceGetTotalEnergyConsumption=total)
  monkeypatch.setitem(sys.modules, 'pynvml', module)
  return count


def test_nvml_counts_millijoules_of_the_first_visible_gpu(nvml, monkeypatch):
  monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
  meter = energy.find_meter('gpu')
  before = meter.joules()
  nvml[0] += 250
  assert meter.joules() - before == pytest.approx(.25)
  assert meter.per_example(1., 2)['method'] == 'measured by NVML on one GPU'
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', 'GPU-abc,GPU-def')
  assert energy.find_meter('gpu').joules() == 7


def test_a_gpu_that_cannot_count_and_a_package_that_is_not_there_are_no_meter(nvml, monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '1')
  assert energy.find_meter('gpu') is None
  monkeypatch.setitem(sys.modules, 'pynvml', None)
  assert energy.find_meter('gpu') is None


def test_an_estimate_is_called_one_and_without_a_power_there_is_none():
  assert energy.estimate(0., 4, 1.) is None
  assert energy.estimate(10., 2, .5) == {
      'value': 10, 'method': 'estimated for the CPU: 10 W a busy core × cores × seconds',
      'inputs': {'watts_per_core': 10, 'cores': 2, 'seconds': .5}}
