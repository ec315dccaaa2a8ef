"""Files and folders that are valid, and ways in which they come to be broken."""
import copy
import hashlib
import io
import json
import pathlib
import random
import struct
from collections.abc import Callable

import numpy as np
from PIL import Image as pictures

from distill import formats, seal
from distill.modalities import image, text, tokenizer
from distill.models.bert import Bert
from distill.models.functional import Functional
from distill.models.resnet import ResNet
from tests.test_pretrained import pretrained

BERT = dict(vocabulary=40, length=12, width=8, depth=1, heads=2, inner=8, types=0, classes=2)
RESNET = dict(channels=1, classes=3, depth=8, widths=(2, 2, 2, 2))
JSON = (None, True, False, 0, -1, 1, 3, 12, 2.5, 1e-9, 1e308, 10**9, 2**63, 10**400, float('nan'),
        float('inf'), '', 'x', '12', '\ud800', 'os:abort', [], [0], [[]], {}, {'a': 1}, 'x' * 9999)


def weights(net: Functional, seed: int = 0):
  noise = np.random.default_rng(seed)
  draw = lambda shapes: {path: (1 + 0.3 * noise.standard_normal(x.shape)).astype(np.float32)
                         if path.endswith(('scale', 'var')) else
                         (0.3 * noise.standard_normal(x.shape)).astype(np.float32)
                         for path, x in sorted(shapes.items())}
  return tuple(map(draw, net.shapes))


def shipped_text(folder: pathlib.Path) -> pathlib.Path:
  """An export of ours that `transformers` has no model for."""
  words = [*tokenizer.SPECIAL, 'the', 'cat', 'sat', *(f'##{i}' for i in range(32))]
  made = tokenizer._wordpiece({word: i for i, word in enumerate(words)}, lowercase=True)
  net = Functional(lambda rngs: Bert(**BERT, rngs=rngs))
  modality = text.Text(length=12, widths={'s': (6, 12)}, tokenizer=made)
  card = {'model': {'name': 'bert.Bert', **BERT}, 'classes': ['no', 'yes'], 'data': 'mine',
          'task': {'name': 'classification.Classification', 'primary': 'accuracy'},
          'fingerprint': '0' * 64, 'modality': 'text.Text', **modality.card()}
  formats.write(folder, formats.Shipped(net, weights(net), card, modality))
  return folder


def shipped_images(folder: pathlib.Path, channels: int = 1) -> pathlib.Path:
  """An export of images of 8 × 8, as of the digits."""
  node = {**RESNET, 'channels': channels}
  net = Functional(lambda rngs: ResNet(**node, rngs=rngs))
  modality = image.Image(8, 8, channels, (4.0,) * channels, (2.0,) * channels, white=16.0)
  card = {'model': {'name': 'resnet.ResNet', **node}, 'classes': ['a', 'b', 'c'],
          'modality': 'image.Image', **modality.card()}
  formats.write(folder, formats.Shipped(net, weights(net), card, modality))
  return folder


def foreign_text(folder: pathlib.Path) -> pathlib.Path:
  """A folder as `transformers` saves it, with all the files that one may have."""
  pretrained(folder, ('no', 'yes'), length=12)
  (folder / 'tokenizer.json').write_text(tokenizer.read(str(folder)))
  (folder / 'tokenizer_config.json').write_text('{"do_lower_case": true, "strip_accents": null}')
  return folder


# ---- bytes

def cut(content: bytes, dice: random.Random) -> bytes:
  return content[:dice.randrange(len(content) + 1)]


def flipped(content: bytes, dice: random.Random) -> bytes:
  found = bytearray(content)
  for _ in range(dice.choice((1, 1, 2, 8, 64)) if found else 0):
    # headers are where the fault is looked for
    at = dice.randrange(min(len(found), dice.choice((16, 128, 1024, 10**9))))
    found[at] ^= 1 << dice.randrange(8)
  return bytes(found)


def garbled(content: bytes, dice: random.Random) -> bytes:
  at, size = dice.randrange(len(content) + 1), dice.choice((1, 4, 40, 400))
  return content[:at] + dice.randbytes(size) + content[at + dice.choice((0, size)):]


BYTES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    cut, flipped, flipped, flipped, garbled, lambda content, dice: b'',
    lambda content, dice: dice.randbytes(200), lambda content, dice: content + content,
    lambda content, dice: content.decode('latin1').encode(dice.choice(('utf-16', 'utf-8-sig'))))


# ---- JSON

def changed(value, dice: random.Random):
  """A JSON value of which one part is missing, or another value."""
  places, nodes = [], [value]
  while nodes:
    node = nodes.pop()
    keys = list(node) if isinstance(node, dict) else range(len(node))
    for key in keys:
      places.append((node, key))
      if isinstance(node[key], dict | list):
        nodes.append(node[key])
  node, key = dice.choice(places)
  if dice.random() < 0.3:
    del node[key]
  else:
    other, name = dice.choice(places)
    node[key] = copy.deepcopy(dice.choice((*JSON, other[name])))
  return value


def of_json(content: bytes, dice: random.Random) -> bytes:
  value = json.loads(content)
  for _ in range(dice.choice((1, 1, 1, 2))):
    value = changed(value, dice)
  return json.dumps(value).encode()


def of_header(content: bytes, dice: random.Random) -> bytes:
  """A file of safetensors whose header says something else."""
  size = int.from_bytes(content[:8], 'little')
  header = content[8:8 + size]
  if dice.random() < 0.2:
    other = dice.choice((0, 1, size + 1, size - 1, 2**40, 2**64 - 1))
    return other.to_bytes(8, 'little') + content[8:]
  value = json.loads(header)
  name = dice.choice([name for name in value if name != '__metadata__'])
  kind = dice.choice(('dtype', 'shape', 'data_offsets', 'name', 'gone', 'values', 'values', 'any'))
  if kind == 'dtype':
    value[name]['dtype'] = dice.choice(('I32', 'F16', 'BF16', 'BOOL', 'F8_E4M3', 'U8', 'F64', 'x'))
  elif kind == 'shape':
    value[name]['shape'] = dice.choice(([], [1], [-1], [10**9, 10**9], [0], [2, 3, 4], [1, 1], 'x'))
  elif kind == 'data_offsets':
    value[name]['data_offsets'] = dice.choice(([0, 4], [4, 0], [0, 10**12], [-1, 4], [], 'x'))
  elif kind == 'name':
    value[dice.choice(('', 'x', name + '.', '\x00'))] = value.pop(name)
  elif kind == 'gone':
    del value[name]
  elif kind == 'any':
    value = changed(value, dice)
  else:
    start, end = value[name]['data_offsets']
    filled = struct.pack('<f', dice.choice((float('nan'), float('inf'), 3e38, -1e30, 1e-45)))
    at = 8 + size + start
    whole = filled * ((end - start) // 4) if dice.random() < 0.7 else filled
    return content[:at] + whole + content[at + len(whole):]
  made = json.dumps(value).encode()
  return len(made).to_bytes(8, 'little') + made + content[8 + size:]


# ---- folders

def broken_folder(source: pathlib.Path, to: pathlib.Path, dice: random.Random) -> str:
  """Copies a folder with one or two faults; returns a description of these."""
  files = {file.name: file.read_bytes() for file in sorted(source.iterdir())}
  faults = []
  for _ in range(dice.choice((1, 1, 1, 2))):
    name = dice.choice(sorted(files))
    way = dice.random()
    if way < 0.04:
      other = dice.choice(sorted(files))
      files[name], files[other] = files[other], files[name]
      faults.append(f'{name} and {other} swapped')
    elif way < 0.08 and len(files) > 1:
      del files[name]
      faults.append(f'{name} gone')
    else:
      change = dice.choice(BYTES)
      try:
        if name.endswith('.json') and way < 0.75:
          change = of_json
        elif name.endswith('.safetensors') and way < 0.75:
          change = of_header
        files[name] = change(files[name], dice)
      except (ValueError, IndexError, KeyError, TypeError, AttributeError):   # broken before
        files[name] = cut(files[name], dice)
      faults.append(f'{name} {change.__name__}')
  to.mkdir()
  for name, content in files.items():
    (to / name).write_bytes(content)
  return ', '.join(faults)


def resealed(source: pathlib.Path, to: pathlib.Path, dice: random.Random) -> str:
  """Copies an export with another card or other weights under a valid seal; describes these."""
  files = {file.name: file.read_bytes() for file in source.iterdir()}
  about = json.loads(files.pop('config.json'))
  if dice.random() < 0.25:
    name = dice.choice(sorted(name for name in files if not name.endswith('.stablehlo')))
    change = of_json if name.endswith('.json') else of_header
    files[name], fault = change(files[name], dice), f'{name} {change.__name__}, sealed'
  else:
    about['card'] = changed(about['card'], dice)
    fault = f'card {about["card"]!r:.3000}'
  about['files'] = {name: [len(content), hashlib.sha256(content).hexdigest()]
                    for name, content in files.items()}
  about.pop('sha256')
  to.mkdir()
  (to / 'config.json').write_bytes(seal.encode(about))
  for name, content in files.items():
    (to / name).write_bytes(content)
  return fault


# ---- pictures

def pixel_files(channels: int) -> dict[str, bytes]:
  """Returns valid files of one image of 8 × 8, by suffix."""
  noise = np.random.default_rng(0)
  found = {}
  for dtype in ('uint8', 'float32', '>f8', 'int64', 'bool', 'float16'):
    opened = io.BytesIO()
    np.save(opened, noise.integers(0, 2, (3, 8, 8, channels)).astype(dtype))
    found[f'{dtype}.npy'] = opened.getvalue()
  raw = noise.integers(0, 256, (8, 8, 3) if channels == 3 else (8, 8)).astype(np.uint8)
  whole = pictures.fromarray(raw)
  for suffix, how in {'png': {}, 'jpg': {}, 'bmp': {}, 'gif': {}, 'tif': {}, 'webp': {}, 'ppm': {},
                      'lzw.tif': {'compression': 'tiff_lzw'},
                      'deflated.tif': {'compression': 'tiff_adobe_deflate'},
                      'jpeg.tif': {'compression': 'jpeg'}}.items():
    opened = io.BytesIO()
    whole.save(opened, {'jpg': 'JPEG', 'tif': 'TIFF'}.get(suffix.split('.')[-1],
                                                         suffix.upper()), **how)
    found[suffix] = opened.getvalue()
  return found
