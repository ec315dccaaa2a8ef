"""A trained model as one StableHLO file, by `jax.export`, held against the module it is made from.

The file has the weights inside, so that it needs nothing but JAX. Batch and length of texts are
symbolic: one program for all of a card's widths, not the weights for each.
"""
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from distill import step
from distill.models.pure import Pure
from distill.models.stablehlo import EXTRA, Program
from distill.teachers import Weights
from distill.types import Batch, Status, Stop

PLATFORMS = ('cpu', 'cuda', 'tpu')
TOLERANCE = 1e-4        # of a logit: absolute up to 1, relative above
MOST = 2**31 - 2**24    # bytes of weights: the file is a flatbuffer, whose offsets are 31 bits


def serialized(model: Pure, weights: Weights, card: Mapping[str, Any], *,
               platforms: Sequence[str] = PLATFORMS) -> bytes:
  """The program: from a batch's `tokens`, `types` and `mask`, or its `image`, to `logits`."""
  try:
    import flatbuffers  # noqa: F401
  except ImportError:
    raise Stop(Status.CONFIG, f'an export to StableHLO {EXTRA}') from None
  size = sum(x.size * x.dtype.itemsize for part in weights for x in part.values())
  if size > MOST:
    raise Stop(Status.CONFIG, f'the weights take {size / 2**30:.1f} GiB, and a StableHLO file '
               'holds less than 2: ship model.safetensors')

  def forward(batch: Batch) -> dict[str, jax.Array]:
    first = next(iter(batch.values()))
    batch = {**batch, 'valid': jnp.ones(first.shape[0])}
    outputs, _ = model(*weights, batch, train=False, key=None)
    if 'logits' not in outputs:
      raise ValueError('it has no logits')
    return {'logits': outputs['logits'].astype(jnp.float32)}

  try:
    return bytes(export.export(jax.jit(forward), platforms=tuple(platforms))(
        _inputs(card)).serialize())
  except (ValueError, TypeError, NotImplementedError) as error:     # a module's own, as it's traced
    raise Stop(Status.CONFIG, f'{card["model"]["name"]} cannot be exported for any batch: '
               f'{str(error).splitlines()[0]}') from error


def _inputs(card: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
  """What a program takes, its batch `b` and the length `s` of texts symbolic."""
  if 'pixels' in card:
    b, = export.symbolic_shape('b')
    size = tuple(card['pixels'][name] for name in ('height', 'width', 'channels'))
    return {'image': jax.ShapeDtypeStruct((b, *size), jnp.float32)}
  shape = export.symbolic_shape('b, s', constraints=[f's <= {card["length"]}'])
  return {name: jax.ShapeDtypeStruct(shape, dtype) for name, dtype in (
      ('tokens', jnp.int32), ('types', jnp.int32), ('mask', jnp.float32))}


def parity(program: Program, model: Pure, weights: Weights, batches: Sequence[Batch],
           card: Mapping[str, Any], named: Callable[[int], str]) -> dict[str, Any]:
  """How far a program is from its module on all `batches`; a Stop beyond the tolerance.

  `named` says what example an `id` is. Agreement is that of the likeliest classes.
  """
  ours, theirs = step.make_eval_step(model), step.make_eval_step(program)
  ids, sizes, widths, worst, agreed = set(), set(), set(), 0.0, []
  for batch in _cases(batches, card.get('widths', ())):
    rows = {name: batch[name] for name in (*program.fields, 'valid')}
    keep = np.asarray(batch['valid']) != 0
    module, found = (np.asarray(outputs['logits'], np.float64)[keep]
                     for outputs in (ours(*weights, rows), theirs({}, {}, rows)))
    gaps = np.abs(module - found).max(-1)
    bad = ~(gaps <= TOLERANCE * np.maximum(1, np.abs(module).max(-1)))      # NaN is
    if bad.any():
      at = np.argmax(np.where(bad, np.nan_to_num(gaps, nan=np.inf), -1))
      raise Stop(Status.CHECKPOINT, 'the program is not the module, so nothing was written: of '
                 f'{named(int(batch["id"][keep][at]))} in a batch of {len(keep)} its logits are '
                 f'{_said(found[at])}, where the module has {_said(module[at])}')
    ids |= {*batch['id'][keep].tolist()}
    sizes.add(len(keep))
    widths |= {batch['tokens'].shape[1]} if 'tokens' in batch else set()
    worst = max(worst, float(gaps.max()))
    agreed += (module.argmax(-1) == found.argmax(-1)).tolist()
  return {'platform': export.default_export_platform(), 'examples': len(ids),
          'batches': sorted(sizes), 'widths': sorted(widths), 'tolerance': TOLERANCE,
          'largest_difference': worst,
          'agreement': sum(agreed) / len(agreed) if card['classes'] else None}


def _cases(batches: Sequence[Batch], widths: Sequence[int]) -> Iterator[Batch]:
  """All batches; of every width two examples and one alone, too, if need be cut or padded to it."""
  first = {}
  for batch in map(batches.__getitem__, range(len(batches))):
    yield batch
    first.setdefault(batch['tokens'].shape[1] if 'tokens' in batch else 0, batch)
  last = batch
  for width in first.keys() | set(widths):
    batch = first.get(width) or {name: _resized(x, width) if name in ('tokens', 'types', 'mask')
                                 else x for name, x in last.items()}
    yield from ({name: x[:n] for name, x in batch.items()} for n in (1, 2))


def _resized(rows: np.ndarray, width: int) -> np.ndarray:
  return np.pad(rows[:, :width], ((0, 0), (0, max(0, width - rows.shape[1]))))


def _said(logits: np.ndarray) -> str:
  return '[' + ', '.join(f'{z:.6g}' for z in logits[:4]) + ', …' * (len(logits) > 4) + ']'
