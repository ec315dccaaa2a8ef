"""Folders of pretrained models: on this machine, or downloaded from the hub."""
import contextlib
import pathlib
import re

from distill.types import Status, Stop

FILES = ('config.json', 'model.safetensors', 'model.safetensors.index.json',
         'model-*-of-*.safetensors', 'tokenizer.json', 'tokenizer_config.json', 'vocab.txt')
PICKLES = ('.bin', '.pt', '.pth', '.ckpt', '.pkl', '.h5', '.msgpack')
TIMEOUT = 3.0           # seconds that the hub may take to say that it has a model


def folder(place: str, where: str) -> pathlib.Path:
  """Returns the folder at `place`, or downloads that of a hub id: 'org/name', 'org/name@revision'.

  The hub is asked only for an id that is no folder here. A model that it gave before is read from
  its cache without a network. `where` is the config path for the error line.
  """
  path = pathlib.Path(place).expanduser()
  if path.is_dir():
    return path
  if path.suffix in PICKLES:
    raise Stop(Status.CHECKPOINT, f'{where}={place!r} is a format that can run code when it is '
               'opened: convert it to model.safetensors, and name the folder')
  if path.exists() or not re.fullmatch(r'\w[\w.-]*/[\w.-]+(@[\w./-]+)?', place):
    raise Stop(Status.CHECKPOINT, f'{where}={place!r} is neither a folder nor a hub id such as '
               'org/name')
  return _from_hub(place, where)


def _from_hub(place: str, where: str) -> pathlib.Path:
  name, _, revision = place.partition('@')
  try:
    import huggingface_hub
    from huggingface_hub.errors import LocalEntryNotFoundError
  except ImportError:
    raise Stop(Status.CHECKPOINT, f'{where}={place!r} is no folder here, and a hub id needs the '
               "package huggingface_hub: pip install 'distill[hub]', or name a folder") from None
  get = lambda **how: pathlib.Path(huggingface_hub.snapshot_download(
      name, revision=revision or None, allow_patterns=list(FILES), **how))
  with contextlib.suppress(LocalEntryNotFoundError):
    cached = get(local_files_only=True)
    if any(cached.glob('*.safetensors')):      # others may have asked for its config alone
      return cached
  try:
    # Asked first, for the download would wait for a silent network without an end.
    huggingface_hub.HfApi().model_info(name, revision=revision or None, timeout=TIMEOUT)
    return get()
  except Exception as error:        # those of its HTTP library have no narrower class in common
    code = getattr(getattr(error, 'response', None), 'status_code', None)
    if code in (401, 403, 404):
      raise Stop(Status.CHECKPOINT, f'{where}={place!r} is no folder here, and the hub answers '
                 f'{code}: it has no such model, or not for you; check the id, or name a folder'
                 ) from None
    option = f' --revision {revision}' if revision else ''
    raise Stop(Status.CHECKPOINT, f'{where}={place!r} is no folder here, and the hub cannot be '
               f'reached ({type(error).__name__}): where there is a network, run hf download '
               f'{name}{option} --local-dir DIR, and give {where}=DIR') from error
