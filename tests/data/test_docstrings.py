import ast
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import sysconfig

import numpy as np
import pytest

from distill import lookup, types
from distill.data import docstrings

ROOT = pathlib.Path(__file__).parents[2]
WORDS = 'alpha beta gamma delta epsilon zeta eta theta iota kappa'.split()


def sentence(i, word):
  """One of many different sentences of six words; `word` sets a library's apart."""
  return ' '.join([word, *(WORDS[i // 10**k % 10] for k in range(4)), 'value'])


def module(docs, head=''):
  return head + ''.join(f'def f{i}():\n  """{doc}"""\n' for i, doc in enumerate(docs))


class World:
  """A standard library and packages of our own making, each installed with a RECORD."""

  def __init__(self, root):
    self.site, self.standard = root / 'site-packages', root / 'standard'
    self.site.mkdir(), self.standard.mkdir()
    self.cache = str(root / 'cache')
    self.write(self.standard, {'base.py': module(sentence(i, 'plain') for i in range(40))})
    self.package('first', {'first/a.py': module(sentence(i, 'red') for i in range(30))})
    self.package('second', {'second/a.py': module(sentence(i, 'blue') for i in range(30))})

  def write(self, root, files):
    for path, source in files.items():
      (root / path).parent.mkdir(parents=True, exist_ok=True)
      content = source if isinstance(source, bytes) else source.encode()
      (root / path).write_bytes(content)

  def package(self, name, files, version='1.0'):
    info = f'{name.replace("-", "_")}-{version}.dist-info'
    self.write(self.site, {**files, f'{info}/METADATA': f'Name: {name}\nVersion: {version}\n',
                           f'{info}/RECORD': ''.join(f'{path},,\n' for path in files)})

  def data(self, packages=('first', 'second'), **how):
    how = {'minimum': 10, 'length': 16, 'cache': self.cache, **how}
    return docstrings.Docstrings(packages=packages, **how)


@pytest.fixture
def world(tmp_path, monkeypatch):
  made = World(tmp_path)
  monkeypatch.syspath_prepend(str(made.site))
  monkeypatch.setattr(sysconfig, 'get_path', lambda name: str(made.standard))
  return made


def rows(data):
  """All (text, class) of both splits."""
  return sorted((text, data.names[k]) for split in data.splits.values()
                for text, k in zip(split.raw, split.index['label'], strict=True))


def texts(data):
  return [text for text, _ in rows(data)]


class TestTexts:

  def test_every_docstring_once_with_its_library(self, world):
    expected = [(sentence(i, word), library) for word, library, n in
                (('plain', 'stdlib', 40), ('red', 'first', 30), ('blue', 'second', 30))
                for i in range(n)]
    data = world.data()
    assert rows(data) == sorted(expected)
    assert data.names == ('first', 'second', 'stdlib')
    assert data.versions == {'first': '1.0', 'second': '1.0',
                             'python': sys.version.split()[0].rstrip('+')}

  def test_modules_classes_functions_and_what_is_inside_of_them(self, world):
    world.package('third', {'third/a.py': '''"""One of the module has words enough."""
class A:
  """Two of the class has words enough."""
  async def f(self):
    """Three of the method has words enough."""
    if True:
      def g():
        """Four of the closure has words enough."""
    """Nothing that is no docstring will count."""
try:
  pass
except ValueError:
  def h():
    """Five of the handler has words enough."""
else:
  def i(): "Six of the alternative has words enough."
finally:
  class B: "Seven of the end has words enough."
x = """Nothing that is assigned to a name."""
'''})
    found = [t for t, k in rows(world.data(('first', 'third'), minimum=1)) if k == 'third']
    assert sorted(t.split()[0] for t in found) == [
        'Five', 'Four', 'One', 'Seven', 'Six', 'Three', 'Two']

  def test_the_first_three_paragraphs(self, world):
    world.package('third', {'third/a.py': 'def f():\n  """One has five words here.\n\n  Two.\n  two'
                            '\n   \n  Three.\n\n  Four.\n  """\n'})
    found = texts(world.data(('first', 'third'), minimum=1))
    assert 'One has five words here.\n\nTwo.\ntwo\n\nThree.' in found

  def test_short_and_repeated_ones_go(self, world):
    world.package('third', {'third/a.py': module([
        'Just four words here.', 'These are five words here.', 'THESE are  five words here.',
        'a b c d e f g h', '1 2 3 4 5 6 7', 'Fünf Wörter sind auch genug'])})
    found = [t for t, k in rows(world.data(('first', 'third'), minimum=1)) if k == 'third']
    assert found == ['Fünf Wörter sind auch genug', 'THESE are  five words here.']

  def test_what_stands_in_two_libraries_belongs_to_neither(self, world):
    world.package('third', {'third/a.py': module([sentence(3, 'red'), sentence(3, 'green')])})
    data = world.data(('first', 'second', 'third'), minimum=1)
    assert sentence(3, 'red') not in texts(data) and sentence(3, 'green') in texts(data)
    assert '1 docstrings stand in several libraries and were left out' in data.notes

  def test_tests_and_copies_of_other_projects_are_not_read(self, world):
    doc = module(['Nobody should ever read this docstring.'])
    world.package('third', {f'third/{path}': doc for path in (
        'tests/a.py', 'a/test/b.py', 'test_a.py', 'a_test.py', 'conftest.py', '_vendor/a/b.py',
        'vendored/a.py', 'third_party/x.py')} | {'third/testing.py': module([sentence(1, 'x')])})
    world.write(world.standard, {'site-packages/other/a.py': doc, 'json/tests/a.py': doc})
    found = texts(world.data(('first', 'third'), minimum=1))
    assert sentence(1, 'x') in found and not any('Nobody' in text for text in found)

  def test_nothing_is_imported(self, world):
    world.package('third', {'third/__init__.py': 'raise SystemExit("imported")\n',
                            'third/a.py': module([sentence(1, 'x')], 'import os; os._exit(1)\n')})
    assert sentence(1, 'x') in texts(world.data(('first', 'third'), minimum=1))
    assert 'third' not in sys.modules

  def test_what_python_cannot_parse_is_passed_over(self, world):
    latin = '# -*- coding: latin-1 -*-\n"""Zoë sees seven old words."""\n'.encode('latin-1')
    world.package('third', {
        'third/a.py': 'print "two"', 'third/b.py': b'\xff\xfe', 'third/c.py': b'"""x"""\0',
        'third/d.py': '# coding: nonsense\n', 'third/e.py': latin, 'third/f.py': '',
        'third/g.py': '"""An \\escape \\d with \\ud800 but enough words."""\n'})
    found = [t for t, k in rows(world.data(('first', 'third'), minimum=1)) if k == 'third']
    assert [t.split()[0] for t in found] == ['An', 'Zoë']

  def test_a_file_that_is_recorded_but_gone_is_passed_over(self, world):
    before = rows(world.data())
    world.package('second', {'second/a.py': module(sentence(i, 'blue') for i in range(30)),
                             'second/gone.py': ''})
    (world.site / 'second' / 'gone.py').unlink()
    assert rows(world.data()) == before


class TestMask:

  @pytest.mark.parametrize('docstring, masked', [
      ('numpy.array', 'LIB.array'),
      ('a NumPy array, np.ndarray', 'a LIB array, LIB.ndarray'),
      ('import jax.numpy as jnp', 'import LIB as LIB'),
      ('np_array and array_np, np2', 'LIB_array and array_LIB, LIB2'),
      ('NumpyHandler, fromNumpy, JAXArray', 'LIBHandler, fromLIB, LIBArray'),
      ('input, inputs, ajax, jaxxy, npy, cnp', 'input, inputs, ajax, jaxxy, npy, cnp'),
      ('`jax`/"np"', '`LIB`/"LIB"'),
      ('stdlib, python', 'stdlib, python')])
  def test_names_also_as_parts_of_identifiers(self, docstring, masked):
    assert docstrings._mask(['jax', 'numpy', 'stdlib'])(docstring) == masked

  def test_the_longest_name_goes_first(self):
    assert docstrings._mask(['tensorflow_datasets'])('tensorflow_datasets tfds') == 'LIB LIB'

  def test_names_of_other_libraries_go_too(self, world):
    world.package('third', {'third/a.py': module(['Second and third have five words.'])})
    assert 'LIB and LIB have five words.' in texts(world.data(('first', 'second', 'third'),
                                                              minimum=1))


class TestClasses:

  def test_a_small_library_is_left_out_and_named(self, world):
    world.package('third', {'third/a.py': module(sentence(i, 'x') for i in range(9))})
    data = world.data(('first', 'second', 'third'), minimum=10)
    assert data.names == ('first', 'second', 'stdlib') and 'third' not in data.versions
    assert 'left out for fewer than 10 docstrings: third (9)' in data.notes

  def test_a_large_one_is_cut_by_a_hash_that_does_not_decide_the_split(self, world):
    world.write(world.standard, {'base.py': module(sentence(i, 'plain') for i in range(2000))})
    whole, part = world.data(), world.data(per_class=300)
    n = {len(d.splits['train']) + len(d.splits['test']) for d in (whole, part)}
    assert n == {2060, 360}
    # Standard deviation of a tenth's share of 360: sqrt(0.1 · 0.9 / 360) = 0.016.
    assert abs(len(part.splits['test']) / 360 - 0.1) < 0.06
    for split in ('train', 'test'):
      assert set(part.splits[split].raw) <= set(whole.splits[split].raw)

  def test_two_distributions_of_one_package_are_one_library(self, world):
    world.package('second-more', {'second/b.py': module(sentence(i, 'cyan') for i in range(30))})
    data = world.data(('first', 'second', 'second-more'))
    assert data.names == ('first', 'second', 'stdlib')
    assert data.versions['second-more'] == data.versions['second'] == '1.0'
    assert (sentence(3, 'cyan'), 'second') in rows(data)

  def test_one_library_is_no_task(self, world):
    with pytest.raises(ValueError, match='fewer than two libraries'):
      world.data(('first',), minimum=31)

  def test_a_package_that_is_not_installed_stops(self, world):
    with pytest.raises(types.Stop, match="'no-such-thing' is not installed") as stop:
      world.data(('first', 'no-such-thing'))
    assert stop.value.status == types.Status.DATA


class TestDeclared:

  def test_dependencies_without_extras_and_markers(self, monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'requires', lambda name: [
        'jax<0.11.1,>=0.10', 'ml_collections', 'absl-py (>=2)', 'array.record>=1',
        'pytest>=8; extra == "test"', 'tomli; python_version < "3.11"'])
    assert docstrings._declared() == ['absl-py', 'array.record', 'jax', 'ml_collections']

  def test_are_those_of_the_recorded_runs(self, monkeypatch):
    """A dependency without a marker would be part of the corpus, and change its fingerprint."""
    setup = next(node.value for node in ast.parse((ROOT / 'setup.py').read_text()).body
                 if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call))
    requires = next(ast.literal_eval(keyword.value) for keyword in setup.keywords
                    if keyword.arg == 'install_requires')
    monkeypatch.setattr(importlib.metadata, 'requires', lambda name: requires)
    assert docstrings._declared() == [
        'absl-py', 'array_record', 'flax', 'grain', 'importlib_resources', 'jax', 'jaxtyping',
        'jinja2', 'matplotlib', 'ml_collections', 'numpy', 'optax', 'orbax-checkpoint',
        'safetensors', 'scipy', 'tensorboardX', 'tensorflow-datasets', 'tokenizers']
    assert len(requires) > 18

  def test_are_the_default(self, world, monkeypatch):
    monkeypatch.setattr(importlib.metadata, 'requires', lambda name: ['first', 'second>=1'])
    assert world.data(()).fingerprint == world.data().fingerprint

  def test_unknown_without_an_installation(self, monkeypatch):

    def missing(name):
      raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'requires', missing)
    with pytest.raises(types.Stop, match='pip install -e') as stop:
      docstrings.Docstrings()
    assert stop.value.status == types.Status.DATA


class TestCache:

  def test_is_never_stale(self, world):
    first = world.data()
    path = world.site / 'second' / 'a.py'
    path.write_text(path.read_text() + module([sentence(75, 'blue')]))
    second = world.data()
    assert set(texts(second)) - set(texts(first)) == {sentence(75, 'blue')}
    assert second.fingerprint != first.fingerprint
    # The same size, another time of its last change.
    size = path.stat().st_size
    path.write_text(path.read_text().replace(sentence(75, 'blue'), sentence(78, 'blue')))
    os.utime(path, (1, 1))
    assert path.stat().st_size == size
    assert sentence(78, 'blue') in texts(world.data())

  def test_warm_is_cold_and_reads_no_source(self, world, monkeypatch):
    cold = world.data()
    monkeypatch.setattr(docstrings, '_docstrings', None)
    warm = world.data()
    assert rows(warm) == rows(cold) and warm.fingerprint == cold.fingerprint
    assert warm.modality.sha256 == cold.modality.sha256 and warm.notes == cold.notes
    # Other limits share the reading.
    assert len(rows(world.data(per_class=20))) == 60

  def test_a_damaged_one_is_rebuilt(self, world):
    cold = world.data()
    for path in pathlib.Path(world.cache).iterdir():
      content = path.read_bytes()
      path.write_bytes(content[:len(content) // 2] + b'?' + content[len(content) // 2 + 1:])
    assert rows(world.data()) == rows(cold)


SCRIPT = '''
import os, random, sys, sysconfig
site, standard, cache = sys.argv[1:]
sys.path.insert(0, site)
sysconfig.get_path = lambda name: standard
walk = os.walk
os.walk = lambda root: ((a, b[::-1], c[::-1]) for a, b, c in walk(root))
from distill.data import docstrings
data = docstrings.Docstrings(packages=('second', 'first'), minimum=10, length=16, cache=cache)
print(data.fingerprint, data.modality.sha256)
'''


def test_another_process_and_another_order_of_files_make_the_same(world):
  world.write(world.standard, {f'more/{i}.py': module([sentence(i, 'more')]) for i in range(20)})
  here = world.data()
  installed = subprocess.run(
      [sys.executable, '-c', SCRIPT, str(world.site), str(world.standard), world.cache + '2'],
      env={**os.environ, 'PYTHONHASHSEED': '7'}, capture_output=True, text=True, check=True)
  assert installed.stdout.split() == [here.fingerprint, here.modality.sha256]


def test_a_config_can_name_it(world):
  node = {'name': 'docstrings.Docstrings', 'packages': ['first', 'second'], 'minimum': 10,
          'cache': world.cache}
  assert lookup.build('data', node, 'data').sizes['classes'] == 3
  with pytest.raises(types.Stop, match='data.minimun.*did you mean .minimum.'):
    lookup.build('data', {**node, 'minimun': 1}, 'data')


@pytest.mark.slow
def test_the_declared_dependencies_are_a_corpus():
  try:
    data = docstrings.Docstrings()
  except types.Stop as stop:
    pytest.skip(str(stop))
  labels = np.concatenate([split.index['label'] for split in data.splits.values()])
  assert len(labels) >= 15_000 and len(data.names) >= 9 and 'stdlib' in data.names
  assert np.bincount(labels).max() <= 4_000 and np.bincount(labels).min() >= 300
  assert abs(len(data.splits['test']) / len(labels) - 0.1) < 0.01
  assert not {*data.splits['train'].raw} & {*data.splits['test'].raw}
