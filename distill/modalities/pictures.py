"""Files of pixels, checked by their headers before any memory is taken for what they declare.

`.npy` files hold numbers; the formats of pictures are those of `FORMATS`, of 8 bits, grey or RGB.
"""
import contextlib
import math
import pathlib
import stat
import warnings
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from distill.modalities import foreign

# Pillow has more, of which one starts another program (EPS) and some are rarely tried on bad files.
FORMATS = ('PNG', 'JPEG', 'BMP', 'GIF', 'TIFF', 'WEBP', 'PPM')
MODES = ('L', 'RGB')


def read(file: str, size: Sequence[int], white: float) -> np.ndarray:
  """Returns the unstandardised images of a file, [n h w c], each of `size`: [h w c].

  A picture's 255 becomes `white`. Any fault of the file raises a ValueError of one line.
  """
  path = pathlib.Path(file)
  try:
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
      raise ValueError('it is a folder' if stat.S_ISDIR(mode) else 'it is no plain file')
    with warnings.catch_warnings(action='ignore'), path.open('rb') as opened:
      suffix = path.suffix.lower()
      return (_read_array if suffix == '.npy' else _read_picture)(opened, size, white)
  except OSError as error:
    raise ValueError(_line(error.strerror or error)) from error
  except Exception as error:        # NumPy and Pillow raise anything at a damaged file
    kind = '' if isinstance(error, ValueError) else f'{type(error).__name__}: '
    raise ValueError(_line(f'{kind}{error}')) from error


def _read_array(opened: BinaryIO, size: Sequence[int], white: float) -> np.ndarray:
  """Reads the images of a .npy file."""
  formats = np.lib.format
  try:
    read_header = {(1, 0): formats.read_array_header_1_0, (2, 0): formats.read_array_header_2_0}[
        formats.read_magic(opened)]
    shape, _, dtype = read_header(opened)
  except KeyError:
    raise ValueError('its header is of a version that holds no plain numbers') from None
  except Exception as error:
    raise ValueError(f'it is no .npy file: {error}') from error
  n = _count(shape, size)
  if dtype.kind not in 'buif':
    raise ValueError(f'its values are of type {str(dtype)[:40]}, so its pixels are not all finite '
                     'numbers')
  here = opened.tell()
  held = opened.seek(0, 2) - here
  wanted = dtype.itemsize * math.prod(shape)
  if held < wanted:
    raise ValueError(f'it is cut: its header declares {wanted:,} bytes of pixels, and it holds '
                     f'{held:,}')
  opened.seek(0)
  raw = formats.read_array(opened, allow_pickle=False)
  if not np.isfinite(raw).all():
    raise ValueError('its pixels are not all finite numbers')
  return raw.reshape(n, *size)


def _read_picture(opened: BinaryIO, size: Sequence[int], white: float) -> np.ndarray:
  """Reads the image of a picture file of 8 bits."""
  try:
    from PIL import Image as pictures
  except ImportError:
    raise ValueError('to read pictures, pip install pillow; or give a .npy file') from None
  pictures.init()
  try:
    picture = pictures.open(opened, formats=[f for f in FORMATS if f in pictures.OPEN])
  except pictures.UnidentifiedImageError:
    raise ValueError(f'it is no picture of {", ".join(FORMATS)}, nor is it called .npy') from None
  with picture:
    if picture.mode not in MODES:
      raise ValueError(f'its mode is {picture.mode}: convert it to 8 bits, grey (L) or RGB')
    frames = getattr(picture, 'n_frames', 1)
    if frames != 1:
      raise ValueError(f'it has {frames} frames: give one picture a file')
    width, height = picture.size
    _count((height, width, *(() if picture.mode == 'L' else (3,))), size)
    # libtiff, which reads compressed TIFF, writes to the terminal of what it then raises too.
    with foreign.silenced() if picture.format == 'TIFF' else contextlib.nullcontext():
      raw = np.asarray(picture, np.float64)
    return raw.reshape(1, *size) * (white / 255)


def _count(shape: Sequence[Any], size: Sequence[int]) -> int:
  """Counts the images of an array by its shape; a single channel needn't be an axis."""
  whole = tuple(shape)
  if size[2] == 1 and whole[-2:] == tuple(size[:2]):
    whole = (*whole, 1)
  whole = (1, *whole) if len(whole) == 3 else whole
  if len(whole) != 4 or whole[1:] != tuple(size) or whole[0] < 1:
    raise ValueError(f'its shape is {_line(list(shape))}, but the model takes images of '
                     f'{list(size)}, height, width and channels, one or several')
  return whole[0]


def _line(value: Any) -> str:
  """Returns a value as a part of an error line."""
  return ' '.join(str(value).split())[:200]
