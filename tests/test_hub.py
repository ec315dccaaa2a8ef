"""Places of pretrained models: folders, and hub ids with and without a network and a cache."""
import pathlib
import sys

import pytest

from distill import hub
from distill.types import Status, Stop

ID = 'some-lab/a.model_1'


@pytest.fixture
def cache(tmp_path, monkeypatch):
  """An empty cache of the hub's; whoever asks the network fails the test unless told otherwise."""
  pytest.importorskip('huggingface_hub', reason='the extra hub is not installed')
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path / 'cache'))
  answer(monkeypatch, AssertionError('the network was asked'))
  return tmp_path / 'cache'


def answer(monkeypatch, error):
  """What the hub says to the question whether it has a model."""
  import huggingface_hub
  asked = []

  def model_info(self, name, *, revision, timeout):
    asked.append((name, revision, timeout))
    raise error

  monkeypatch.setattr(huggingface_hub.HfApi, 'model_info', model_info)
  return asked


def cached(cache, revision='main', **files):
  """What an earlier download leaves: a file with the commit's name, and a folder of links."""
  commit = '0123456789abcdef0123456789abcdef01234567'
  root = cache / f'models--{ID.replace("/", "--")}'
  for place in (root / 'refs' / revision, root / 'snapshots' / commit / 'x', root / 'blobs' / 'x'):
    place.parent.mkdir(parents=True, exist_ok=True)
  (root / 'refs' / revision).write_text(commit)
  for i, (name, content) in enumerate(files.items()):
    (root / 'blobs' / str(i)).write_text(content)
    (root / 'snapshots' / commit / name).symlink_to(root / 'blobs' / str(i))
  return root / 'snapshots' / commit


def stop(place, where='teachers.t.init'):
  with pytest.raises(Stop) as found:
    hub.folder(place, where)
  assert found.value.status == Status.CHECKPOINT
  line = str(found.value)
  assert line.startswith(f'{where}={place!r}') and '\n' not in line
  return line


def test_a_folder_is_itself(tmp_path, monkeypatch):
  (tmp_path / 'org' / 'name').mkdir(parents=True)
  monkeypatch.chdir(tmp_path)
  assert hub.folder('org/name', 'x') == pathlib.Path('org/name')      # not the hub's
  monkeypatch.setenv('HOME', str(tmp_path))
  assert hub.folder('~/org', 'x') == tmp_path / 'org'


@pytest.mark.parametrize('place', ['nowhere', '/no/such/folder', 'a/b/c', '../a', 'a b/c', 'a/',
                                   '/a', 'a/b@', 'https://huggingface.co/a/b', '-x/y', './x'])
def test_what_is_neither_folder_nor_id_is_refused(place, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert 'neither a folder nor a hub id' in stop(place)


def test_a_file_is_refused(tmp_path):
  (tmp_path / 'model.safetensors').write_text('')
  assert 'neither a folder' in stop(str(tmp_path / 'model.safetensors'))


@pytest.mark.parametrize('name', ['pytorch_model.bin', 'weights.pt', 'model.ckpt', 'x.pkl'])
def test_a_pickle_is_refused(name, tmp_path):
  (tmp_path / name).write_bytes(b'\x80\x04.')
  assert 'can run code' in stop(str(tmp_path / name))


def test_what_the_cache_has_needs_no_network(cache):
  folder = cached(cache, **{'config.json': '{}', 'model.safetensors': ''})
  assert hub.folder(ID, 'x') == folder and (folder / 'config.json').read_text() == '{}'


def test_a_cached_config_alone_is_no_model(cache, monkeypatch):
  cached(cache, **{'config.json': '{}'})
  asked = answer(monkeypatch, ConnectionError())
  assert 'the hub cannot be reached' in stop(ID) and len(asked) == 1


def test_a_revision_is_a_place_of_its_own(cache, monkeypatch):
  folder = cached(cache, 'v2', **{'config.json': '{}', 'model.safetensors': ''})
  assert hub.folder(f'{ID}@v2', 'x') == folder
  asked = answer(monkeypatch, ConnectionError())
  assert f'hf download {ID} --revision v1 --local-dir DIR' in stop(f'{ID}@v1')
  assert f'hf download {ID} --local-dir DIR' in stop(ID)
  assert asked == [(ID, 'v1', hub.TIMEOUT), (ID, None, hub.TIMEOUT)] and hub.TIMEOUT < 5


@pytest.mark.parametrize('error', [ConnectionError('no'), TimeoutError(), RuntimeError('proxy')])
def test_without_a_network_the_line_says_what_to_do(cache, monkeypatch, error):
  answer(monkeypatch, error)
  line = stop(ID)
  assert 'the hub cannot be reached' in line and type(error).__name__ in line
  assert 'give teachers.t.init=DIR' in line


def test_offline_by_the_environment_is_no_other_case(cache, monkeypatch):
  monkeypatch.undo()
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(cache))
  monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
  assert 'cannot be reached (OfflineModeIsEnabled)' in stop(ID)


@pytest.mark.parametrize('code', [401, 403, 404])
def test_a_model_that_the_hub_lacks_or_hides_has_its_own_line(cache, monkeypatch, code):
  error = ValueError('no')
  error.response = type('Response', (), {'status_code': code})()
  answer(monkeypatch, error)
  assert f'the hub answers {code}: it has no such model, or not for you' in stop(ID)


def test_without_the_extra_the_line_names_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
  assert "pip install 'distill[hub]'" in stop(ID)
