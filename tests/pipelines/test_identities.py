"""Which code a name of a stage depends on."""
import pathlib
import shutil

import pytest

from distill import flags
from distill.pipelines import identities
from distill.pipelines.setup import build_setup

ROOT = pathlib.Path(__file__).parent.parent.parent
LAB = {
    '__init__': '', 'nets': 'import math\nfrom lab.parts import layers\n',
    'parts/__init__': '', 'parts/layers': 'from . import norms\nfrom ..deep import far\n',
    'parts/norms': 'def f():\n  import lab.lazy\n', 'lazy': 'import lab.alias as other\n',
    'alias': 'if 0:\n  from lab import *\n', 'deep': 'from distill import types\n', 'alone': '',
    'parts/alone': 'from lab import nets\n'}
CLOSURE = ['lab', 'lab.alias', 'lab.deep', 'lab.lazy', 'lab.nets', 'lab.parts', 'lab.parts.layers',
           'lab.parts.norms']


def lab(root, **changed):
  for name, text in {**LAB, **changed}.items():
    file = root / f'{name}.py'
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
  return {'lab': [root], 'distill': [identities.CODE]}


def test_modules_that_are_imported_count_wherever_the_import_stands(tmp_path):
  found = dict(identities.sources(['lab.nets'], lab(tmp_path)))
  assert [name for name in found if name.startswith('lab')] == CLOSURE
  assert {name for name in found if not name.startswith('lab')} == {'distill', 'distill.types'}


@pytest.mark.parametrize('name', ['alone', 'parts/alone'])
def test_a_comment_in_an_unrelated_file_changes_nothing(tmp_path, name):
  before = identities.sources(['lab.nets'], lab(tmp_path / 'a'))
  assert identities.sources(['lab.nets'], lab(tmp_path / 'b', **{name: '# more\n'})) == before


@pytest.mark.parametrize('module', CLOSURE)
def test_a_change_of_any_file_that_is_imported_is_one(tmp_path, module):
  name = {'lab': '__init__', 'lab.parts': 'parts/__init__'}.get(
      module, module.removeprefix('lab.').replace('.', '/'))
  before = identities.sources(['lab.nets'], lab(tmp_path / 'a'))
  changed = {name: f'{LAB[name]}\n# more\n'}
  assert identities.sources(['lab.nets'], lab(tmp_path / 'b', **changed)) != before


def test_the_packages_of_a_module_run_before_it(tmp_path):
  found = identities.sources(['lab.parts.bare'], lab(tmp_path, **{'parts/bare': ''}))
  assert [name for name, _ in found] == ['lab', 'lab.parts', 'lab.parts.bare']


def test_a_package_of_one_file_and_one_that_is_nowhere(tmp_path):
  (tmp_path / 'one.py').write_text('import nowhere.at.all\n')
  places = {'one': [tmp_path / 'one.py'], 'distill': [identities.CODE]}
  assert [name for name, _ in identities.sources(['one', 'nowhere'], places)] == ['one']


def test_formats_pages_and_doors_are_outside():
  found = [name for name, _ in identities.sources(['distill.train', build_setup.__module__])]
  assert {'distill.step', 'distill.student', 'distill.pipelines.fields'} <= {*found}
  rooms = {name.split('.')[1] for name in found if '.' in name}
  assert not rooms & {'formats', 'evaluate', 'main', 'predict', 'export', 'launch', 'flags'}
  assert not {'distill.models.bert', 'distill.losses.maps'} & {*found}


@pytest.mark.parametrize(('file', 'changes'), [
    ('losses/maps.py', set()), ('report/page.py', set()), ('models/bert.py', set()),
    ('formats/safetensors.py', set()), ('pipelines/matrix.py', set()), ('main.py', set()),
    ('losses/logits.py', {'student'}), ('losses/supervised.py', {'teacher', 'student', 'baseline'}),
    ('models/resnet.py', {'teacher', 'student', 'baseline'}),
    ('step.py', {'teacher', 'student', 'baseline'}),
    ('pipelines/baseline.py', {'teacher', 'student', 'baseline'})])
def test_a_comment_retrains_what_imports_its_file(tmp_path, monkeypatch, file, changes):
  monkeypatch.chdir(ROOT)
  node = flags.parsed(['--config=configs/digits.py:kd']).config.to_dict()
  names = lambda: {t.stage.name: t.identity for t in build_setup(node).trained}
  before = names()
  shutil.copytree(identities.CODE, tmp_path / 'distill',
                  ignore=shutil.ignore_patterns('__pycache__', '*.md', '*.html'))
  monkeypatch.setattr(identities, 'CODE', tmp_path / 'distill')
  assert names() == before                  # wherever it lies
  with open(tmp_path / 'distill' / file, 'a') as opened:
    opened.write('# a comment\n')
  identities._read.cache_clear()
  after = names()
  assert {name for name in before if before[name] != after[name]} == changes
