"""A model as one StableHLO program, which runs without the code of the model.

The file contains the weights and needs only JAX. The number of examples and the length of named
axes are symbolic: one program, with one copy of the weights, serves all widths.
"""
import dataclasses
import itertools
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from distill import checkpoint, step, tasks
from distill.formats import Opened, Shipped, Trial, read_sealed
from distill.formats.readme import readme
from distill.modalities import Modality, examples
from distill.models.functional import NO_TRAITS, check_ids
from distill.models.sizes import sizes
from distill.teachers import Weights
from distill.types import Batch, Outputs, Status, Stop

FILE = 'model.stablehlo'
PLATFORMS = ('cpu', 'cuda', 'tpu')
TOLERANCE = 1e-4        # absolute for outputs up to 1, relative above
MAX_BYTES = 2**31 - 2**24    # bytes of weights: the file is a flatbuffer, whose offsets are 31 bits
EXTRA = "needs the package flatbuffers: pip install 'distill[export]'"
TOTALS = 'params', 'params_outside_embeddings', 'bytes', 'quantised'


class Program:
  """A forward pass in evaluation mode that contains its weights and is called like a model.

  `data` are the bytes that `jax.export` serialised, `place` its folder and `written` the version of
  JAX that wrote it, for the error line; `rows` are the sizes of its tables, as in
  `Functional.rows`. It takes any number of examples, of any width up to its model's.
  """
  traits, differentiable = NO_TRAITS, False

  def __init__(self, data: bytes, place: str, written: str,
               rows: Mapping[str, int] | None = None):
    self.rows = rows or {}
    try:
      self._exported = made = export.deserialize(bytearray(data))
      lowest, highest = (export.minimum_supported_calling_convention_version,
                         export.maximum_supported_calling_convention_version)
      if not lowest <= made.calling_convention_version <= highest:
        raise ValueError(f'its calling convention is {made.calling_convention_version}, and this '
                         f'JAX has {lowest} to {highest}')
      (fields,), _ = jax.tree.unflatten(made.in_tree, made.in_avals)
    except ImportError:
      raise Stop(Status.CHECKPOINT, f'{place}: a StableHLO program {EXTRA}') from None
    except Exception as error:        # flatbuffers and MLIR have no class of errors in common
      why = (str(error).splitlines() or [type(error).__name__])[0]
      raise Stop(Status.CHECKPOINT, f'{place}: jax {jax.__version__} cannot read what jax '
                 f'{written} wrote ({why}); JAX promises six months: export the model again, or '
                 f'pip install jax=={written}') from error
    self.fields, self.platforms = tuple(fields), made.platforms
    here = export.default_export_platform()
    if here not in self.platforms:
      raise Stop(Status.CHECKPOINT, f'{place} runs on {", ".join(self.platforms)}, and this is '
                 f'{here}: set JAX_PLATFORMS={self.platforms[0]}, or export the model for {here}')

  def __call__(self, params: dict, rest: dict, batch: Batch, *, train: bool = False,
               key: jax.Array | None = None) -> tuple[Outputs, dict]:
    if train or params or rest:
      raise ValueError('a program has its weights inside, and cannot be trained')
    return self._exported.call({name: batch[name] for name in self.fields}), rest


class StableHLO:
  """A program, its card, and the files that its modality needs."""
  suffix, trainable = '.stablehlo', False

  def holds(self, folder: pathlib.Path) -> bool:
    return (folder / FILE).is_file()

  def open(self, folder: pathlib.Path, path: str, **changes: Any) -> Opened:
    about = read_sealed(folder, FILE)
    card = about['card']
    made = Program((folder / FILE).read_bytes(), str(folder), about['versions']['jax'],
                   card.get('program', {}).get('rows'))
    return made, ({}, {}), card

  def write(self, folder: pathlib.Path, shipped: Shipped, trial: Trial | None = None,
            about: Mapping[str, Any] | None = None) -> dict[str, Any]:
    card = shipped.card
    outputs = tasks.from_card(card, 'the card').outputs
    data = serialize(shipped, outputs)
    program = Program(data, str(folder), jax.__version__)
    measured = parity(program, shipped, outputs, trial)
    card = {key: value for key, value in card.items() if key != 'fresh'} | {'program': {
        'platforms': list(program.platforms), 'weights': checkpoint.sha256(shipped.weights),
        'parity': measured, 'rows': dict(getattr(shipped.model, 'rows', {})),
        **sizes(shipped.weights)}}
    files = shipped.modality.files()
    if about:
      files |= {'README.md': readme(card=card, modality=shipped.modality, size=len(data),
                                    on=trial.title, **about)}
    files = {name: text.encode() for name, text in files.items()}
    checkpoint.write_new_export(folder, {FILE: data, **files}, card)
    return measured

  def sizes(self, folder: pathlib.Path, weights: Weights,
            card: Mapping[str, Any]) -> dict[str, Any]:
    program = card['program']
    if 'bytes' not in program:
      raise Stop(Status.CHECKPOINT, f'{folder} does not say what its weights take: export it again')
    return {**{name: program[name] for name in TOTALS}, 'hidden_bytes': program['bytes'],
            'shipped_bytes': (folder / FILE).stat().st_size}


def serialize(shipped: Shipped, outputs: Sequence[str], *,
              platforms: Sequence[str] = PLATFORMS) -> bytes:
  """Serialises the program from a batch's prepared fields to `outputs` of the model, in float32."""
  try:
    import flatbuffers  # noqa: F401
  except ImportError:
    raise Stop(Status.CONFIG, f'an export to StableHLO {EXTRA}') from None
  model, weights, card, modality = shipped
  size = sum(x.size * x.dtype.itemsize for part in weights for x in part.values())
  if size > MAX_BYTES:
    raise Stop(Status.CONFIG, f'the weights take {size / 2**30:.1f} GiB, and a StableHLO file '
               'holds less than 2: ship model.safetensors')

  def forward(batch: Batch) -> dict[str, jax.Array]:
    first = next(iter(batch.values()))
    batch = {**batch, 'valid': jnp.ones(first.shape[0])}
    found, _ = model(*weights, batch, train=False, key=None)
    for name in outputs:
      if name not in found:
        raise ValueError(f'it has no {name}')
    wide = lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x
    return {name: wide(found[name]) for name in outputs}

  try:
    return bytes(export.export(jax.jit(forward), platforms=tuple(platforms))(
        examples.symbolic_shapes(modality)).serialize())
  except (ValueError, TypeError, NotImplementedError) as error:     # while a module is traced
    why = (str(error).splitlines() or [type(error).__name__])[0]
    if '_DimExpr' in why:
      why += '; the size of a batch is a symbol: take it from x.shape, without len() and int()'
    raise Stop(Status.CONFIG, f'{card["model"]["name"]} cannot be exported for any batch: {why}'
               ) from error


def parity(program: Program, shipped: Shipped, outputs: Sequence[str],
           trial: Trial) -> dict[str, Any]:
  """Measures a program's differences from its module on all batches; stops beyond the tolerance.

  Agreement is the share of equal predictions by the first output, if there are classes.
  """
  measure = step.select_outputs(tuple(outputs))
  ours, theirs = (step.make_eval_step(model, measure) for model in (shipped.model, program))
  axis = next(iter(shipped.modality.widths), None)
  ids, counts, widths, worst, agreed = set(), set(), set(), 0.0, []
  for batch in _cases(trial.batches, shipped.modality):
    check_ids(shipped.model, batch, trial.title)
    rows = {name: batch[name] for name in (*program.fields, 'valid')}
    keep = np.asarray(batch['valid']) != 0
    found = ours(*shipped.weights, rows), theirs({}, {}, rows)
    for name in outputs:
      module, made = (np.asarray(each[name], np.float64)[keep].reshape(int(keep.sum()), -1)
                      for each in found)
      bad = ~np.isfinite(module).all(-1)
      if bad.any():
        raise Stop(Status.NONFINITE, f'{trial.example(int(batch["id"][keep][bad][0]))}: the answer '
                   f'has {name} that are not finite: nothing was written')
      gaps = np.abs(module - made).max(-1)
      bad = ~(gaps <= TOLERANCE * np.maximum(1, np.abs(module).max(-1)))      # NaN is
      if bad.any():
        at = np.argmax(np.where(bad, np.nan_to_num(gaps, nan=np.inf), -1))
        raise Stop(Status.CHECKPOINT, 'the program is not the module, so nothing was written: of '
                   f'{trial.example(int(batch["id"][keep][at]))} in a batch of {len(keep)} its '
                   f'{name} are {_numbers(made[at])}, where the module has {_numbers(module[at])}')
      worst = max(worst, float(gaps.max()))
      if name == outputs[0] and np.ndim(found[0][name]) == 2:
        agreed += (module.argmax(-1) == made.argmax(-1)).tolist()
    ids |= {*batch['id'][keep].tolist()}
    counts.add(len(keep))
    if axis:
      widths.add(_width(batch, shipped.modality, axis))
  return {'platform': export.default_export_platform(), 'examples': len(ids),
          'batches': sorted(counts), 'widths': sorted(widths), 'tolerance': TOLERANCE,
          'largest_difference': worst,
          'agreement': sum(agreed) / len(agreed) if shipped.card['classes'] and agreed else None}


def _cases(batches: Sequence[Batch], modality: Modality) -> Iterator[Batch]:
  """Yields all batches; then, for every width, one example and two, cut or padded if necessary."""
  axes = tuple(modality.widths)
  shape = lambda batch: tuple(_width(batch, modality, axis) for axis in axes)
  first = {}
  for batch in map(batches.__getitem__, range(len(batches))):
    yield batch
    first.setdefault(shape(batch), batch)
  last = batch
  for widths in first.keys() | set(itertools.product(*modality.widths.values())):
    batch = first.get(widths) or _resize(last, modality, dict(zip(axes, widths, strict=True)))
    yield from ({name: x[:n] for name, x in batch.items()} for n in (1, 2))


def _width(batch: Batch, modality: Modality, axis: str) -> int:
  """Returns the width of a batch along a named axis."""
  return next(batch[name].shape[1 + field.axes.index(axis)]
              for name, field in modality.fields.items() if axis in field.axes)


def _resize(batch: Batch, modality: Modality, widths: Mapping[str, int]) -> Batch:
  """Cuts or pads a batch to other widths."""
  named = {name: field for name, field in modality.fields.items() if {*field.axes} & widths.keys()}
  resized = {}
  for name, field in named.items():
    rows = np.asarray(batch[name])                # with the prepared dtype
    field = dataclasses.replace(field, dtype=str(rows.dtype))
    resized[name] = examples.stack(rows, field, widths, len(rows))
  return {**batch, **resized}


def _numbers(values: np.ndarray) -> str:
  return '[' + ', '.join(f'{z:.6g}' for z in values[:4]) + ', …' * (len(values) > 4) + ']'
