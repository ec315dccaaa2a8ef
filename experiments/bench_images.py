"""What images cost a run before and beside its steps: memory, and time that training waits.

CIFAR-100 as `$TFDS_DATA_DIR` has it, or random images of its shape. Each number is of a process of
its own. `stream` alone differs between ways of reading, and `WAY` is its name in a row.

`write` makes a set that shouldn't be held in memory, and `peak(walk_large, folder, open_dataset)`
tells what a way of reading it holds.

python -m experiments.bench_images FOLDER [MEGABYTES]       # writes such a set, by default 2 GB
"""
import dataclasses
import importlib
import io
import multiprocessing
import os
import pathlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np

from distill import main, objective, step
from distill.data import batches, images
from distill.data.sets import Dataset
from distill.models.pure import Pure
from distill.models.resnet import ResNet
from distill.student import Student
from distill.types import Batch, Status, Stop
from experiments.bench_turns import spread

WAY = 'arrays in memory, batches made in the training thread'
NAME, VERSION = 'cifar100', '3.0.2'
PACKAGES = ('tensorflow-datasets', 'array_record', 'pillow', 'numpy')   # whose versions a row has
LOADED = ('tensorflow_datasets', 'PIL.Image')       # beside our own, before memory is counted
PAUSE = 0.003               # seconds between two looks at a process
AHEAD = 2                   # steps that training is ahead of the device, as `train.fit`
WARM = 2                    # steps before those that count
NOISE = 'noise'             # the set that `write` makes: its name, and an image's side
SIDE, SHARD, AT_ONCE = 64, 16_384, 256


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The images, and what is done with them."""
  train: int = 50_000
  test: int = 10_000
  side: int = 32
  classes: int = 100
  batch: int = 64
  batches: int = 200          # that are iterated when memory is measured
  steps: int = 100            # that are trained when waiting is
  depth: int = 20
  widths: tuple[int, ...] = (16, 16, 32, 64)


def stream(folder: str, sizes: Sizes, steps: int) -> Iterator[Batch]:
  """Opens the images and yields batches as the training loop gets them."""
  arrays, labels = {}, {}
  for split, n in ('train', sizes.train), ('test', sizes.test):
    arrays[split] = np.empty((n, sizes.side, sizes.side, 3), np.uint8)
    labels[split] = np.empty(n, np.int32)
    for i, (image, label) in enumerate(examples(folder, split, n, sizes)):
      arrays[split][i], labels[split][i] = image, label
  dataset = images.dataset(arrays, labels, name=NAME, versions={},
                           classes=tuple(map(str, range(sizes.classes))))
  del arrays, labels
  rows = batches.batches(dataset.splits['train'], batch_size=sizes.batch, seed=0, steps=steps)
  for i in range(steps):
    yield rows[i]


def examples(folder: str, split: str, n: int, sizes: Sizes) -> Iterator[tuple[np.ndarray, int]]:
  """Yields n images of a split with their labels, one by one; random ones if there is no folder."""
  if folder:
    import tensorflow_datasets as tfds
    source = tfds.builder_from_directory(folder).as_data_source(split)
    yield from ((source[i]['image'], source[i]['label']) for i in range(n))
    return
  draw = np.random.default_rng(0)
  for i in range(n):
    yield draw.integers(256, size=(sizes.side, sizes.side, 3), dtype=np.uint8), i % sizes.classes


def measure(rounds: int, sizes: Sizes = Sizes()) -> dict[str, Any]:
  """Returns the peak of memory, and the share of the time of training that waits for data."""
  found = os.environ.get('TFDS_DATA_DIR', '')
  folder = str(pathlib.Path(found).expanduser() / NAME / VERSION) if found else ''
  if folder and not (pathlib.Path(folder) / 'dataset_info.json').is_file():
    raise Stop(Status.DATA, f'images: {folder} holds no prepared data: prepare it there, or unset '
               'TFDS_DATA_DIR for random images')
  held, first = zip(*(peak(walk, stream, folder, sizes, sizes.batches) for _ in range(rounds)),
                    strict=True)
  _, timed = peak(train, folder, sizes, rounds)
  return {
      'sizes': {'way': WAY, 'images': f'{NAME} {VERSION} of TFDS' if folder else 'random',
                **dataclasses.asdict(sizes)},
      'numbers': {
          'peak of anonymous memory': spread([n / 2**20 for n in held], 'MiB'),
          'opening, to the first batch': spread(first, 's'),
          'waiting for data': spread([100 * wait / wall for wait, wall in timed], '%'),
          'waiting, a batch': spread([1e3 * wait / sizes.steps for wait, _ in timed], 'ms'),
          'step': spread([1e3 * wall / sizes.steps for _, wall in timed], 'ms')}}


def walk(open_stream: Callable[..., Iterable], *arguments: Any) -> float:
  """Iterates over what a call opens; returns the seconds until the first item."""
  began = time.perf_counter()
  items = iter(open_stream(*arguments))
  next(items)
  first = time.perf_counter() - began
  for _ in items:
    pass
  return first


def train(folder: str, sizes: Sizes, rounds: int) -> list[tuple[float, float]]:
  """Trains a residual network; by round, the seconds that its thread waited for data, and all.

  The step is jitted and the loop that of `train.fit`: at most two steps ahead of the device.
  """
  model = Pure(lambda rngs: ResNet(depth=sizes.depth, widths=sizes.widths, channels=3,
                                   classes=sizes.classes, rngs=rngs))
  student = Student(model)
  optimizer = step.make_optimizer(name='sgd', rate=0.05, momentum=0.9, steps=10_000)
  terms = objective.terms_from({'hard': {
      'loss': 'supervised.cross_entropy',
      'reads': {'student': 'student/logits', 'label': 'batch/label'}}})
  run = step.make_train_step(student, (), terms, optimizer)
  state, seed = step.init_state(student, *student.init(0), optimizer, {}), jax.random.key(0)
  data = stream(folder, sizes, WARM + rounds * sizes.steps)

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
  """Calls in a process of its own; returns the most anonymous bytes above its imports, and result.

  Pages of files don't count: the kernel takes these back when it likes.
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
  """The child: everything is imported when it says what memory it begins with."""
  main.keep_memory()        # as the front door does
  for name in LOADED:
    importlib.import_module(name)
  pipe.send(anonymous(os.getpid()))
  pipe.send(call(*arguments))


def anonymous(pid: int) -> int:
  """The bytes that a process holds and no file backs; 0 once it has ended."""
  try:
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return 0
  return next((1024 * int(line.split()[1]) for line in status.splitlines()
               if line.startswith('RssAnon:')), 0)


def write(root: str, megabytes: int = 2000) -> pathlib.Path:
  """Writes noise of 64 × 64 pixels as PNG, which it can't compress; returns the folder of the set.

  By TFDS itself, in array_record and in shards of 200 MB; never more than 256 images in memory.
  """
  import tensorflow_datasets as tfds
  from PIL import Image
  folder, draw = pathlib.Path(root) / NOISE / '1.0.0', np.random.default_rng(0)
  folder.mkdir(parents=True)
  features = tfds.features.FeaturesDict({
      'image': tfds.features.Image(shape=(SIDE, SIDE, 3)),
      'label': tfds.features.ClassLabel(num_classes=10)})
  identity = tfds.core.DatasetIdentity(name=NOISE, version=tfds.core.Version('1.0.0'),
                                       data_dir=str(folder), module_name=NOISE)
  writer = tfds.core.SequentialWriter(
      tfds.core.DatasetInfo(builder=identity, features=features), max_examples_per_shard=SHARD,
      file_format='array_record')
  writer.initialize_splits(['train', 'test'])

  def example(i: int) -> dict[str, Any]:
    pixels, file = draw.integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8), io.BytesIO()
    Image.fromarray(pixels).save(file, 'png', compress_level=0)
    return {'image': file.getvalue(), 'label': i % 10}

  size = len(example(0)['image'])
  writer.add_examples({'test': [example(i) for i in range(AT_ONCE)]})
  for start in range(0, int(megabytes * 1e6 / size), AT_ONCE):    # each call writes the metadata
    writer.add_examples({'train': [example(start + i) for i in range(AT_ONCE)]})
  writer.close_all()
  return folder


def walk_large(folder: str, open_dataset: Callable[[str], Dataset], *, batch: int = 64,
               steps: int = 0) -> tuple[int, float]:
  """Opens the set that `write` made and iterates over it; the examples it saw, and seconds.

  `steps` batches, by default an epoch. Called by `peak`, in a process of its own.
  """
  began, split = time.perf_counter(), open_dataset(folder).splits['train']
  steps = steps or batches.epoch_steps(split, batch_size=batch)
  rows = batches.batches(split, batch_size=batch, seed=0, steps=steps)
  seen = sum(int(rows[i]['valid'].sum()) for i in range(steps))
  return seen, time.perf_counter() - began


if __name__ == '__main__':
  print(write(sys.argv[1], *map(int, sys.argv[2:3])))
