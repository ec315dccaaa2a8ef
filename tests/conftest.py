"""Eight simulated devices; compilations kept; checked signatures of the losses.

Says at the end how many reference values the losses were held against.
"""
import collections
import contextlib
import json
import os
import pathlib
import sys

import jaxtyping

# Before anything imports JAX. Commands that tests start inherit the cache.
# Code that isn't optimised: compiling is most of what the tests do. The older emitters of fused
# loops compile in half the time (bert:test from nothing: 20 s of a core, with the newer 35 s).
os.environ['XLA_FLAGS'] = os.environ.get('TEST_XLA_FLAGS') or (
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 '
    '--xla_llvm_disable_expensive_passes=true --xla_cpu_use_fusion_emitters=false')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR',
                      str(pathlib.Path(__file__).parent.parent / '.pytest_cache' / 'xla'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')

# The numeric tower: an int is a float here too, as it is for a config (`lookup.check`).
from distill import launch  # noqa: E402, after the environment is set

jaxtyping.install_import_hook(
    'distill.losses', 'beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))')

# Tests run commands in this process, which goes on: it must not keep their garbage, nor compile
# what a command that was stopped would have called.
launch.collect_garbage_rarely = lambda: None
launch.compiled_ahead = lambda programs: contextlib.nullcontext()

REFERENCE = json.loads((pathlib.Path(__file__).parent / 'losses' / 'reference.json').read_text())
proven = set()


# The files that take longest: begun first, so that no worker is left with one at the end.
LONG = ('test_main.py', 'test_evaluate.py', 'test_chains.py', 'test_images_run.py',
        'test_own_text.py', 'test_methods.py')


def pytest_collection_modifyitems(items):
  items.sort(key=lambda item: item.path.name not in LONG)


def pytest_runtest_teardown(item):
  inputs = sys.modules.get('tests.losses.inputs')
  if inputs and item.path.parent.name in ('losses', 'models', 'projectors'):
    item.user_properties.append(('proven', sorted(inputs.PROVEN)))      # of this process, as yet


def pytest_runtest_logreport(report):
  proven.update(name for key, names in report.user_properties if key == 'proven' for name in names)


def pytest_terminal_summary(terminalreporter):
  if proven:
    how = collections.Counter(REFERENCE[name]['source'] for name in proven)
    terminalreporter.write_line(
        f'{len(proven)} of {len(REFERENCE)} reference values proven: '
        + ', '.join(f'{n} {source}' for source, n in sorted(how.items())))
