"""The objective: a sum of terms, each a pure loss over named views.

  total = Σ_terms  weight · schedule(step) · Σ mask · scale · loss / Σ mask

Losses return values; averaging, masking and weighting happen here, once. Counts come from the
whole batch before any micro-batching, so accumulation doesn't change the loss.
"""
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill import lookup
from distill.types import Batch, Schedule, Status, Stop

Views = Mapping[str, Mapping[str, jax.Array]]
BUILT_IN_VIEWS = ('student', 'self', 'batch', 'projected', 'schedule', 'carry',
                  'terms', 'gradients')         # the last two only for carries, after the step


@dataclasses.dataclass(frozen=True)
class TermNode:
  """The node `objective.TERM` of a config, with the defaults of its fields."""
  loss: str
  reads: Mapping                          # argument -> 'student/logits', 'batch/label', …
  kwargs: Mapping = dataclasses.field(default_factory=dict)
  weight: float = 1.0                     # the peak; 0: without this term
  schedule: Mapping = dataclasses.field(default_factory=lambda: {'name': 'constant'})
  mask: str = ''
  scale: str = ''
  group: str = ''


@dataclasses.dataclass(frozen=True)
class Term:
  """A loss, the paths of its arguments, and its weight.

  `mask` is the path of a 0/1 array of the batch that multiplies the values and is counted; its
  axes are the leading axes of the values. `scale` is the path of one weight, or of one weight per
  example, that multiplies the values and isn't counted. Terms of one `group` share a gradient.
  """
  name: str
  where: str                              # its node in the config, for error lines
  loss: Callable[..., jax.Array]          # constants bound
  reads: Mapping[str, str]                # argument -> 'student/logits', 'batch/label', …
  weight: Schedule
  mask: str = ''
  scale: str = ''
  group: str = ''
  mixing: bool = False                    # a value depends on other examples too

  @property
  def paths(self) -> tuple[str, ...]:
    return (*self.reads.values(), *filter(None, (self.mask, self.scale)))


def terms_from(node: Mapping[str, Any], where: str = 'objective') -> tuple[Term, ...]:
  """Builds terms from a config's `objective` node, after checking names and types.

  A term of weight 0 is checked and then left out, so it costs nothing.
  """
  terms = [_term(name, spec, f'{where}.{name}') for name, spec in node.items()]
  if not any(terms):
    raise Stop(Status.CONFIG, f'{where} has no term with a weight: there is nothing to train on')
  return tuple(filter(None, terms))


def _term(name: str, node: Any, where: str) -> Term | None:
  if not isinstance(node, Mapping):
    raise Stop(Status.CONFIG, f'{where} is not a term: it needs loss and reads')
  spec = lookup.call(TermNode, node, where)
  loss = lookup.find('losses', spec.loss, f'{where}.loss')
  return term(name, spec, loss, lookup.build('schedules', spec.schedule, f'{where}.schedule'),
              where)


def term(name: str, spec: TermNode, loss: Callable, schedule: Schedule, where: str) -> Term | None:
  """Builds a term of a loss and a schedule, which its node names; None for one of weight 0."""
  taken = lookup.parameters(loss)
  for argument in spec.reads:
    if not isinstance(spec.reads[argument], str):
      raise Stop(Status.CONFIG, f'{where}.reads.{argument}={spec.reads[argument]!r} is not a path')
    if argument not in taken:
      raise Stop(Status.CONFIG, f'{where}.reads.{argument}: {spec.loss} has no such argument'
                 + lookup.nearest(argument, taken))
  missing = [k for k, p in taken.items() if p.default is p.empty and k not in spec.reads
             and k not in spec.kwargs]
  if missing:
    raise Stop(Status.CONFIG, f'{where} lacks {", ".join(missing)}: name it in reads or kwargs')
  lookup.check(loss, spec.kwargs, f'{where}.kwargs', skip=spec.reads)
  if not 0 <= spec.weight < float('inf'):
    raise Stop(Status.CONFIG, f'{where}.weight={spec.weight} must be 0 or more')
  if name in ('loss', 'grad_norm', 'loss_scale'):
    raise Stop(Status.CONFIG, f'{where}: {name!r} is the name of a number that every run logs; '
               'rename the term')
  mixing = getattr(getattr(loss, 'func', loss), 'mixing', False)      # also through a partial
  counted = spec.mask or 'batch/valid'
  if mixing and spec.reads.get('where') != counted:
    raise Stop(Status.CONFIG, f'{where}.reads.where={spec.reads.get("where")!r}: {spec.loss} mixes '
               f'examples, and must know those that its term counts: {counted!r}')
  if not spec.weight:
    return None
  return Term(name=name, where=where, loss=functools.partial(loss, **spec.kwargs),
              reads=spec.reads, weight=lambda step: spec.weight * schedule(step), mask=spec.mask,
              scale=spec.scale, group=spec.group, mixing=mixing)


def path_tuple(reads: str | Sequence[str]) -> tuple[str, ...]:
  """Returns the paths that a projector or a carry reads, given as one path or several."""
  return (reads,) if isinstance(reads, str) else tuple(reads)


def names_view(view: str, name: str, paths: Iterable[str]) -> bool:
  """Tells whether any of the paths is the entry VIEW/NAME, or a part of that entry."""
  return any(f'{path}/'.startswith(f'{view}/{name}/') for path in paths)


def find_array(views: Views, path: str, where: str) -> jax.Array:
  """Returns the array at a path of the views; stops, with the known names, if there is none."""
  view, _, name = path.partition('/')
  if view not in views:
    raise Stop(Status.MISFIT, f'{where}: {path!r} names no view' + lookup.nearest(view, views))
  if name not in views[view]:
    raise Stop(Status.MISFIT,
               f'{where}: {path!r} names no output of {view}, which has '
               + (', '.join(sorted(views[view])) or 'none'))
  return views[view][name]


def counts(terms: tuple[Term, ...], batch: Batch) -> dict[str, jax.Array]:
  """Counts, for each term, the ones of its mask over a whole batch."""
  return {term.name: jnp.sum(_mask(term, batch)) for term in terms}


def _mask(term: Term, batch: Batch) -> jax.Array:
  """Returns the term's mask times the batch's `valid` rows, float32."""
  valid = batch['valid'].astype(jnp.float32)
  if not term.mask:
    return valid
  mask = find_array({'batch': batch}, term.mask, f'{term.where}.mask').astype(jnp.float32)
  return mask * valid.reshape(valid.shape + (1,) * (mask.ndim - 1))


def compute(terms: tuple[Term, ...], views: Views, counts: Mapping[str, jax.Array],
            step: jax.Array) -> tuple[dict[str, jax.Array], dict[str, tuple], dict]:
  """Computes all terms: {group: total}, {term: (sum, count)}, {term: mean}, in float32.

  Totals are weighted, sums are not, and means are without `scale`. `counts` are those of the whole
  batch even if the views are of a micro-batch: its totals are then its share of the batch's. A term
  whose count is 0 adds 0; its mean is NaN.
  """
  totals, sums, means = {}, {}, {}
  for term in terms:
    where = term.where
    values = _call(term, {argument: find_array(views, path, f'{where}.reads.{argument}')
                          for argument, path in term.reads.items()})
    mask = _mask(term, views['batch'])
    if values.ndim < 1 or values.shape[:mask.ndim] != mask.shape:
      raise Stop(Status.MISFIT, f'{where}: the loss gives {list(values.shape)}, which its mask '
                 f'{list(mask.shape)} does not lead')
    count = counts[term.name] * (values.size // max(mask.size, 1))
    summed = plain = _total(values, mask)
    if term.scale:
      scale = find_array(views, term.scale, f'{where}.scale')
      if scale.shape != values.shape[:scale.ndim]:
        raise Stop(Status.MISFIT, f'{where}: its scale {list(scale.shape)} does not lead what the '
                   f'loss gives, {list(values.shape)}')
      summed = _total(values * _expand_axes(scale, values.ndim), mask)
    share = term.weight(step) * summed / jnp.maximum(count, 1.0)
    totals[term.group] = totals.get(term.group, 0.0) + share
    sums[term.name] = (summed, count)
    means[term.name] = jnp.where(count > 0, plain / count, jnp.nan)
  return totals, sums, means


def _total(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Sums the values that a mask counts, in float32 or wider."""
  mask = _expand_axes(mask, values.ndim)
  # A masked value may be NaN: `where`, not a product. Its gradient must be finite all the same.
  kept = jnp.where(mask > 0, values * mask, 0.0)
  return jnp.sum(kept, dtype=jnp.promote_types(jnp.float32, kept.dtype))


def _expand_axes(weights: jax.Array, ndim: int) -> jax.Array:
  """Appends axes of size 1 to weights of the leading axes, up to `ndim` axes."""
  return weights.reshape(weights.shape + (1,) * (ndim - weights.ndim))


def _call(term: Term, arguments: Mapping[str, jax.Array]) -> jax.Array:
  try:
    return term.loss(**arguments)
  except (ValueError, TypeError, OverflowError) as error:     # found while tracing: shapes, ranges
    shapes = ', '.join(f'{a} {list(v.shape)}' for a, v in arguments.items())
    line = str(error).split('\n')[0]
    raise Stop(Status.MISFIT, f'{term.where} ({shapes}): {line}') from error
