"""A thousand broken pictures and folders of models: one line each, no traceback, no NaN."""
import json
import random

import pytest

from distill import formats, numbers, predict
from distill.types import LONGEST, Status
from tests import broken

EXITS = {Status.DONE, Status.CONFIG, Status.DATA, Status.NONFINITE, Status.CHECKPOINT,
         Status.MISFIT}
pytestmark = pytest.mark.slow


def check(place, given, capfd, fault):
  """Asks a model as the command does; checks that it gives a finite answer or one error line."""
  code = predict.main([f'--model={place}', given])
  out, err = capfd.readouterr()
  assert code in EXITS, (fault, code, err)
  assert len(err.splitlines()) == (code != Status.DONE), (fault, code, err)
  assert len(err) < LONGEST + 50, (fault, err)
  assert bool(out) == (code == Status.DONE), (fault, code, out)
  for line in out.splitlines():
    assert not numbers.nonfinite(json.loads(line)), (fault, line)
  return code


@pytest.mark.parametrize('channels', [1, 3])
def test_broken_pictures(tmp_path, capfd, monkeypatch, channels):
  folder = str(broken.shipped_images(tmp_path / 'images', channels))
  opened = formats.load_trained(folder)
  monkeypatch.setattr(formats, 'load_trained', lambda place: opened)
  whole, codes = broken.pixel_files(channels), []
  for name, content in whole.items():
    (tmp_path / name).write_bytes(content)
  sound = [n for n in whole if not check(folder, str(tmp_path / n), capfd, n)]
  assert {name.split('.')[-1] for name in sound} >= {'npy', 'png', 'jpg', 'bmp', 'tif', 'ppm'}
  for seed in range(250):
    dice = random.Random(f'{channels} {seed}')
    name = dice.choice(sorted(whole))
    change = dice.choice(broken.BYTES)
    file = tmp_path / f'{seed}-{dice.choice((name, "x.npy", "x.png"))}'
    file.write_bytes(change(whole[name], dice))
    codes.append(check(folder, str(file), capfd, (seed, name, change)))
  assert codes.count(Status.DATA) > 100


@pytest.mark.parametrize(('make', 'change', 'count'), [
    (broken.foreign_text, broken.broken_folder, 300),
    (broken.shipped_text, broken.broken_folder, 50),
    (broken.shipped_text, broken.resealed, 100),
    (broken.shipped_images, broken.resealed, 50)])
def test_broken_folders(tmp_path, capfd, make, change, count):
  source, codes = make(tmp_path / 'source'), []
  given = 'the cat sat'
  if make is broken.shipped_images:
    given = str(tmp_path / 'x.npy')
    (tmp_path / 'x.npy').write_bytes(broken.pixel_files(1)['uint8.npy'])
  assert check(source, given, capfd, 'whole') == Status.DONE
  for seed in range(count):
    dice = random.Random(seed)
    fault = change(source, tmp_path / str(seed), dice)
    codes.append(check(tmp_path / str(seed), given, capfd, (seed, fault)))
  assert codes.count(Status.CHECKPOINT) > count / 5
