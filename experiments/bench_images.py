"""Costs of image data: memory, and the time that training waits for batches.

The images are CIFAR-100 in `$TFDS_DATA_DIR`, or random images of its shape that TFDS writes. Each
number is measured in a new process. `WAYS` are the ways of reading; caches are empty at first.

python -m experiments.bench_images FOLDER [MEGABYTES]

writes a set that is too large for memory, by default of 2 GB, unless it exists, and prints the
memory that it takes to open it and to iterate over 200 batches.
"""
import dataclasses
import importlib
import io
import multiprocessing
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from distill import command_line, launch, objective, optimizers, step, streams
from distill.data import batches, images, tfds
from distill.data.sets import Dataset
from distill.models.functional import Functional
from distill.models.resnet import ResNet
from distill.student import Student
from distill.types import Batch, Status, Stop
from experiments.bench_turns import spread

NAME, VERSION = 'cifar100', '3.0.2'
PACKAGES = ('tensorflow-datasets', 'array_record', 'pillow', 'numpy')   # whose versions a row has
LOADED = ('tensorflow_datasets', 'PIL.Image')       # imported before memory is counted
PAUSE = 0.003               # seconds between two samples of a process's memory
AHEAD = 2                   # steps that training is ahead of the device, as in `train.fit`
WARM = 2                    # steps before those that count
NOISE = 'noise'             # the large set: its name, and an image's side
SIDE, SHARD, AT_ONCE = 64, 16_384, 256
MOST_MEMORY, MOST_WAITING = 333, 2      # MiB, which are 350 MB, and %


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Sizes of the images, of the model and of the measurements."""
  train: int = 50_000
  test: int = 10_000
  side: int = 32
  classes: int = 100
  batch: int = 64
  batches: int = 200          # iterated when memory is measured
  steps: int = 100            # trained when waiting is measured
  depth: int = 20
  widths: tuple[int, ...] = (16, 16, 32, 64)


def arrays(folder: pathlib.Path, sizes: Sizes) -> Dataset:
  """Reads all images into memory."""
  pixels, labels = {}, {}
  for split, n in ('train', sizes.train), ('test', sizes.test):
    pixels[split] = np.empty((n, sizes.side, sizes.side, 3), np.uint8)
    labels[split] = np.empty(n, np.int32)
    for i, (image, label) in enumerate(examples(folder, split, n)):
      pixels[split][i], labels[split][i] = image, label
  return images.dataset(pixels, labels, name=NAME, versions={},
                        classes=tuple(map(str, range(sizes.classes))))


def files(folder: pathlib.Path, sizes: Sizes) -> Dataset:
  """Reads images from their record files when they are needed; all are checked first."""
  with tempfile.TemporaryDirectory() as cache:
    return tfds.Images(dataset=folder.parent.name, data_dir=str(folder.parent.parent), cache=cache)


WAYS = {'arrays': arrays, 'files': files}


def examples(folder: pathlib.Path, split: str, n: int) -> Iterator[tuple[np.ndarray, int]]:
  """Yields n images of a split with their labels, one by one."""
  import tensorflow_datasets
  source = tensorflow_datasets.builder_from_directory(folder).as_data_source(split)
  yield from ((source[i]['image'], source[i]['label']) for i in range(n))


def stream(way: str, folder: pathlib.Path, sizes: Sizes, steps: int) -> Iterator[Batch]:
  """Opens the images and yields batches as the training loop gets them."""
  return shuffled(WAYS[way](folder, sizes), sizes.batch, steps)


def shuffled(dataset: Dataset, size: int, steps: int) -> Iterator[Batch]:
  """Returns training batches, read ahead."""
  return batches.read_ahead(
      batches.shuffled(dataset.splits['train'], batch_size=size, seed=0, steps=steps))


def measure(rounds: int, sizes: Sizes = Sizes()) -> dict[str, Any]:
  """Returns the peak of memory, and the share of the time of training that waits for data."""
  with tempfile.TemporaryDirectory() as temporary:
    root = os.environ.get('TFDS_DATA_DIR', '')
    folder = pathlib.Path(root or temporary).expanduser() / NAME / VERSION
    if not root:
      write(folder, {'train': sizes.train, 'test': sizes.test}, sizes.side, sizes.classes)
    elif not (folder / 'dataset_info.json').is_file():
      raise Stop(Status.DATA, f'images: {folder} holds no prepared data: prepare it there, or '
                 'unset TFDS_DATA_DIR for random images')
    numbers = [_numbers(way, folder, sizes, rounds) for way in WAYS]
  return {
      'sizes': {'ways': {way: opened.__doc__ for way, opened in WAYS.items()},
                'images': f'{NAME} {VERSION} of TFDS' if root else 'random',
                **dataclasses.asdict(sizes)},
      'numbers': {f'{way}: {name}': number for way, found in zip(WAYS, numbers, strict=True)
                  for name, number in found.items()}}


def _numbers(way: str, folder: pathlib.Path, sizes: Sizes, rounds: int) -> dict[str, Any]:
  """Measures one way of reading."""
  held, first = zip(*(peak(walk, stream, way, folder, sizes, sizes.batches)
                      for _ in range(rounds)), strict=True)
  _, timed = peak(train, way, folder, sizes, rounds)
  return {
      'peak of anonymous memory': spread([n / 2**20 for n in held], 'MiB', at_most=MOST_MEMORY),
      'opening, to the first batch': spread(first, 's'),
      'waiting for data': spread([100 * wait / wall for wait, wall in timed], '%',
                                 at_most=MOST_WAITING),
      'waiting, a batch': spread([1e3 * wait / sizes.steps for wait, _ in timed], 'ms'),
      'step': spread([1e3 * wall / sizes.steps for _, wall in timed], 'ms')}


def walk(open_stream: Callable[..., Iterable], *arguments: Any) -> float:
  """Iterates over what a call opens; returns the seconds until the first item."""
  began = time.perf_counter()
  items = iter(open_stream(*arguments))
  next(items)
  first = time.perf_counter() - began
  for _ in items:
    pass
  return first


def train(way: str, folder: pathlib.Path, sizes: Sizes,
          rounds: int) -> list[tuple[float, float]]:
  """Trains a residual network; returns by round the seconds of waiting for data, and all seconds.

  The step is jitted and the loop is that of `train.fit`: at most two steps ahead of the device.
  """
  model = Functional(lambda rngs: ResNet(depth=sizes.depth, widths=sizes.widths, channels=3,
                                         classes=sizes.classes, rngs=rngs))
  student = Student(model)
  optimizer = optimizers.sgd(rate=0.05, momentum=0.9, steps=10_000)
  dataset = WAYS[way](folder, sizes)
  terms = objective.terms_from({'hard': {
      'loss': 'supervised.cross_entropy',
      'reads': {'student': 'student/logits', 'label': 'batch/label'}}})
  run = step.make_train_step(student, (), terms, optimizer, prepare=dataset.modality.prepare)
  state, seed = step.init_state(student, *student.init(0), optimizer, {}), jax.random.key(0)
  data = shuffled(dataset, sizes.batch, WARM + rounds * sizes.steps)

  def steps(n: int) -> tuple[float, float]:
    nonlocal state
    pending, waited, began = [], 0.0, time.perf_counter()
    for _ in range(n):
      asked = time.perf_counter()
      batch = next(data)
      waited += time.perf_counter() - asked
      state, sums = run(state, {}, jax.device_put(batch), seed)
      pending.append(sums)
      if len(pending) > AHEAD:
        jax.block_until_ready(pending[-1 - AHEAD])
    jax.block_until_ready(state)
    return waited, time.perf_counter() - began

  steps(WARM)
  return [steps(sizes.steps) for _ in range(rounds)]


def peak(call: Callable, *arguments: Any) -> tuple[int, Any]:
  """Makes a call in a new process; returns its peak of anonymous bytes above imports, and result.

  Pages of files don't count: the kernel can take these back at any time.
  """
  if not pathlib.Path('/proc/self/status').exists():
    raise Stop(Status.CONFIG, 'images: only Linux tells what memory a process holds')
  spawn = multiprocessing.get_context('spawn')
  ours, theirs = spawn.Pipe()
  process = spawn.Process(target=_serve, args=(theirs, call, arguments))
  process.start()
  theirs.close()
  try:
    before = most = ours.recv()
    while not ours.poll(PAUSE):
      most = max(most, anonymous(process.pid))
    return most - before, ours.recv()
  except EOFError:
    process.join()
    raise RuntimeError(f'the process of {call.__name__} ended with {process.exitcode}') from None
  finally:
    process.kill()
    process.join()


def _serve(pipe: Any, call: Callable, arguments: tuple) -> None:
  """Serves as the child: sends its memory after all imports, then the result of the call."""
  launch.keep_memory()        # as distill.main does
  for name in LOADED:
    importlib.import_module(name)
  pipe.send(anonymous(os.getpid()))
  pipe.send(call(*arguments))


def anonymous(pid: int) -> int:
  """Returns the bytes of a process that no file backs; 0 once it has ended."""
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return 0
  return next((1024 * int(line.split()[1]) for line in status.splitlines()
               if line.startswith('RssAnon:')), 0)


def write(folder: pathlib.Path, counts: Mapping[str, int], side: int, classes: int) -> None:
  """Writes noise as PNG, which can't compress it, with TFDS; `counts` are images by split.

  The format is array_record, in shards of 16,384 images; at most 256 images are in memory.
  """
  import tensorflow_datasets
  from PIL import Image
  core, features = tensorflow_datasets.core, tensorflow_datasets.features
  folder.mkdir(parents=True)
  draw = np.random.default_rng(0)
  identity = core.DatasetIdentity(
      name=folder.parent.name, version=core.Version(folder.name), data_dir=str(folder),
      module_name=folder.parent.name)
  info = core.DatasetInfo(builder=identity, features=features.FeaturesDict({
      'image': features.Image(shape=(side, side, 3)),
      'label': features.ClassLabel(num_classes=classes)}))
  writer = core.SequentialWriter(info, max_examples_per_shard=SHARD, file_format='array_record')
  writer.initialize_splits(list(counts))

  def example(i: int) -> dict[str, Any]:
    pixels, file = draw.integers(256, size=(side, side, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(file, 'png', compress_level=0)
    return {'image': file.getvalue(), 'label': i % classes}

  for split, n in counts.items():
    for start in range(0, n, AT_ONCE):                          # each call writes the metadata
      writer.add_examples({split: [example(i) for i in range(start, min(start + AT_ONCE, n))]})
  writer.close_all()


def write_large(root: pathlib.Path, megabytes: int = 2000) -> pathlib.Path:
  """Writes images of 64 × 64 of so many megabytes unless they exist; returns the set's folder."""
  folder, n = root / NOISE / '1.0.0', int(megabytes * 1e6 / (3 * SIDE**2))
  if not (folder / 'dataset_info.json').exists():
    write(folder, {'train': n, 'test': AT_ONCE}, SIDE, 10)
  return folder


def walk_large(folder: pathlib.Path, steps: int = 0, batch: int = 64) -> tuple[int, float, float]:
  """Opens the set and iterates over it; returns its examples, the seconds to open it, and all.

  It reads `steps` batches, by default an epoch. `peak` calls it in a new process.
  """
  began, dataset = time.perf_counter(), files(folder, Sizes())
  opened = time.perf_counter() - began
  steps = steps or batches.epoch_steps(dataset.splits['train'], batch_size=batch)
  seen = sum(int(rows['valid'].sum()) for rows in shuffled(dataset, batch, steps))
  return seen, opened, time.perf_counter() - began


def main(arguments: Sequence[str]) -> int:
  """Runs the command; returns its exit status."""
  return streams.run('experiments.bench_images', _main, arguments)


def _main(arguments: Sequence[str]) -> int:
  parser = command_line.Parser('experiments.bench_images', __doc__, 'FOLDER [MEGABYTES]')
  parser.add_argument('folder', metavar='FOLDER', type=pathlib.Path)
  parser.add_argument('megabytes', metavar='MEGABYTES', type=command_line.positive, nargs='?',
                      default=2000)
  options = parser.parsed(arguments)
  large = write_large(options.folder, options.megabytes)
  most, (seen, first, whole) = peak(walk_large, large, 200)
  print(f'{large}: {most / 2**20:.0f} MiB at most; opened in {first:.1f} s, {seen:,} images in '
        f'{whole - first:.1f} s')
  return int(Status.DONE)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
