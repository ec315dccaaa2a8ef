"""Files of pixels that are broken, too large or no pictures: one line each, and no memory."""
import io
import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image as pictures

from distill import predict
from distill.modalities import image
from distill.modalities import pictures as files
from distill.types import Status, Stop
from tests import broken

GREY, RGB = (8, 6, 1), (8, 6, 3)
NOISE = np.random.default_rng(0).integers(0, 256, (8, 6, 4)).astype(np.uint8)


def array(values, **how):
  opened = io.BytesIO()
  np.save(opened, values, **how)
  return opened.getvalue()


def header(text, version=(1, 0)):
  """A .npy file of a header alone."""
  raw = text.encode()
  return b'\x93NUMPY' + bytes(version) + struct.pack('<H' if version == (1, 0) else '<I', len(raw)
                                                     ) + raw


def declared(shape, dtype='<f8'):
  return header(f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n")


def picture(mode='L', suffix='PNG', size=(6, 8), **how):
  opened = io.BytesIO()
  made = pictures.fromarray(NOISE[..., 0]).convert('RGB').resize(size).convert(mode)
  made.save(opened, suffix, **how)
  return opened.getvalue()


def bomb(width, height):
  """A PNG of few bytes whose header declares many pixels."""
  chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack(
      '>I', zlib.crc32(kind + data))
  return (b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0,
                                                             0))
          + chunk(b'IDAT', zlib.compress(b'')) + chunk(b'IEND', b''))


def refused(path, content, line, size=GREY):
  path.write_bytes(content)
  with pytest.raises(ValueError) as error:
    files.read(str(path), size, 255.0)
  assert line in str(error.value) and len(str(error.value).splitlines()) == 1
  assert len(str(error.value)) < 500


@pytest.mark.parametrize(('content', 'line'), [
    (b'', 'it is no .npy file'), (b'\x93NUMPY', 'it is no .npy file'),
    (b'PK\x03\x04' + bytes(90), 'it is no .npy file'), (b'\x80\x04N.', 'it is no .npy file'),
    (b'\x93NUMPY' + bytes(2), 'of a version'), (header("{'shape': ("), 'it is no .npy file'),
    (header('x' * 20000), 'it is no .npy file'),
    (header("{'descr': '<f8', 'fortran_order': False, 'shape': (8, 6)}", (3, 0)), 'of a version'),
    (array(np.zeros((8, 6)))[:-1], 'it is cut: its header declares 384 bytes of pixels'),
    (declared((10**9, 8, 6)), 'it is cut: its header declares 384,000,000,000 bytes of pixels'),
    (declared((2**62, 2**62)), 'its shape is [4611686018427387904, '),
    (declared((-1, 8, 6)), 'its shape is [-1, 8, 6]'), (declared((0, 8, 6)), 'its shape is'),
    (declared(()), 'its shape is []'), (declared((1,) * 400), 'its shape is [1, 1'),
    (array(np.full((8, 6), None), allow_pickle=True), 'type object'),
    (array(np.zeros((8, 6), [('a', 'u1'), ('b', 'f4')])), "its values are of type [('a', 'u1')"),
    (array(np.zeros((8, 6), complex)), 'its values are of type complex128'),
    (array(np.zeros((8, 6), 'M8[s]')), 'its values are of type datetime64[s]'),
    (array(np.full((8, 6), 'a')), 'its values are of type <U1'),
    (array(np.full((8, 6), np.nan)), 'its pixels are not all finite numbers'),
    (array(np.full((8, 6), -np.inf, np.float16)), 'its pixels are not all finite numbers')])
def test_an_array_is_refused_by_its_header(tmp_path, content, line):
  refused(tmp_path / 'a.npy', content, line)


@pytest.mark.parametrize(('content', 'line'), [
    (b'', 'it is no picture of PNG'), (b'GIF89a', 'it is no picture'),
    (b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 6 8\n', 'it is no picture'),
    (array(np.zeros((8, 6))), 'nor is it called .npy'),
    (picture()[:-60], ''), (picture('L', 'JPEG')[:200], ''), (picture('L', 'TIFF')[:-9], ''),
    (picture('P'), 'its mode is P'), (picture('RGBA'), 'its mode is RGBA'),
    (picture('LA'), 'its mode is LA'), (picture('1'), 'its mode is 1:'),
    (picture('CMYK', 'JPEG'), 'its mode is CMYK'), (picture('I;16'), 'its mode is I;16'),
    (picture('L', 'TIFF', save_all=True, append_images=[pictures.new('L', (6, 8))]),
     'it has 2 frames'),
    (picture(size=(8, 6)), 'its shape is [6, 8], but the model takes images of [8, 6, 1]'),
    (picture('RGB'), 'its shape is [8, 6, 3], but the model takes images of [8, 6, 1]'),
    (bomb(60000, 60000), 'DecompressionBombError'), (bomb(10000, 10000), 'its shape is [10000, '),
    (bomb(6, 8), '')])
def test_a_picture_is_refused_by_its_header(tmp_path, content, line):
  refused(tmp_path / 'a.png', content, line)


def test_a_grey_picture_is_no_rgb_image(tmp_path):
  refused(tmp_path / 'a.png', picture(), 'its shape is [8, 6], but the model takes', RGB)


@pytest.mark.parametrize('name', ['a.npy', 'a.png'])
def test_what_is_no_file_is_refused(tmp_path, name):
  path = tmp_path / name
  for make, line in ((lambda: None, 'No such file'), (path.mkdir, 'it is a folder')):
    make()
    with pytest.raises(ValueError, match=line):
      files.read(str(path), GREY, 255.0)
  path.rmdir()
  os.mkfifo(path)                   # opening one would wait for a writer
  with pytest.raises(ValueError, match='it is no plain file'):
    files.read(str(path), GREY, 255.0)
  with pytest.raises(ValueError, match='name too long'):
    files.read(str(tmp_path / ('x' * 999 + name)), GREY, 255.0)
  with pytest.raises(ValueError, match='null byte'):
    files.read(f'\0{name}', GREY, 255.0)


@pytest.mark.parametrize('name', ['a.npy', 'a.png'])
def test_a_file_without_permission_is_refused(tmp_path, name, monkeypatch):
  (tmp_path / name).write_bytes(b'')

  def denied(*args, **kwargs):
    raise PermissionError(13, 'Permission denied')
  monkeypatch.setattr('pathlib.Path.open', denied)
  with pytest.raises(ValueError, match='Permission denied'):
    files.read(str(tmp_path / name), GREY, 255.0)


@pytest.mark.parametrize('content', [
    declared((10**9, 8, 6)), declared((8, 6), '|V999999999'), declared((8, 6), '<U999999999')])
def test_no_memory_is_taken_for_what_a_header_declares(tmp_path, content):
  self_check = tmp_path / 'a.npy'
  self_check.write_bytes(content)
  tracemalloc.start()
  with pytest.raises(ValueError):
    files.read(str(self_check), GREY, 255.0)
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()


@pytest.mark.parametrize('how', ['C', 'F', 'big', 'v2', 'upper'])
def test_arrays_of_every_layout_are_read_as_numpy_reads_them(tmp_path, how):
  values = NOISE[None, ..., :3].astype('>f4' if how == 'big' else np.float32)
  path = tmp_path / ('A.NPY' if how == 'upper' else 'a.npy')
  with path.open('wb') as opened:
    np.lib.format.write_array(opened, np.asarray(values, order='F' if how == 'F' else 'C'),
                              version=(2, 0) if how == 'v2' else (1, 0))
  np.testing.assert_array_equal(files.read(str(path), RGB, 255.0), values)


@pytest.mark.parametrize(('suffix', 'how'), [
    ('PNG', {}), ('BMP', {}), ('TIFF', {}), ('TIFF', {'compression': 'tiff_lzw'}), ('PPM', {}),
    ('WEBP', {'lossless': True})])
@pytest.mark.parametrize('mode', ['L', 'RGB'])
def test_pictures_of_every_format_are_read(tmp_path, suffix, how, mode):
  if (suffix, mode) == ('WEBP', 'L'):
    pytest.skip('WebP has no grey')
  path = tmp_path / 'a.picture'     # what it is, its first bytes say
  path.write_bytes(picture(mode, suffix, **how))
  found = files.read(str(path), GREY if mode == 'L' else RGB, 16.0)
  wanted = NOISE[None, ..., :1] * (16 / 255)
  np.testing.assert_allclose(found, np.broadcast_to(wanted, found.shape), rtol=1e-12)


def test_pixels_beyond_float32_are_refused(tmp_path):
  path = tmp_path / 'a.npy'
  path.write_bytes(array(np.full((8, 6), 1e300)))
  with pytest.raises(Stop, match='beyond float32') as stop:
    list(image.Image(8, 6, 1, (0.0,), (1e-9,)).encode([str(path)]))
  assert stop.value.status == Status.DATA


@pytest.mark.parametrize(('name', 'content'), [
    ('empty.npy', b''), ('bomb.png', bomb(60000, 60000)), ('gone.png', None)])
def test_the_command_says_one_line(tmp_path, capfd, name, content):
  folder, path = broken.shipped_images(tmp_path / 'images'), tmp_path / name
  if content is not None:
    path.write_bytes(content)
  assert predict.main([f'--model={folder}', str(path)]) == Status.DATA
  out, err = capfd.readouterr()
  assert not out and len(err.splitlines()) == 1 and err.startswith(f'distill.predict: {path}: ')
