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
OWN_VIEWS = ('student', 'self', 'batch', 'projected', 'schedule', 'carry',
             'terms', 'gradients')         # the last two only for carries, after the step


@dataclasses.dataclass(frozen=True)
class TermNode:
  """`objective.TERM` in a config, and what it is where the config leaves it out."""
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
  """A loss, where its arguments live, and what it weighs.

  `mask` is the path of a 0/1 array of the batch that multiplies the values and is counted; its
  axes are the leading axes of the values. `scale` is the path of weights, one or one for each
  example, that multiply and aren't counted. Terms of one `group` share a gradient; `group` is ''
  unless asked.
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
  """Terms from a config's `objective` node, checked as far as names and types go.

  A term of weight 0 is checked and left out: it costs nothing.
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
  if missing := [k for k, p in taken.items() if p.default is p.empty and k not in spec.reads
                 and k not in spec.kwargs]:
    raise Stop(Status.CONFIG, f'{where} lacks {", ".join(missing)}: name it in reads or kwargs')
  lookup.check(loss, spec.kwargs, f'{where}.kwargs', skip=spec.reads)
  if not 0 <= spec.weight < float('inf'):
    raise Stop(Status.CONFIG, f'{where}.weight={spec.weight} must be 0 or more')
  if name in ('loss', 'grad_norm'):
    raise Stop(Status.CONFIG, f'{where}: {name!r} is what the total is logged as; rename the term')
  mixing = getattr(getattr(loss, 'func', loss), 'mixing', False)      # of a partial, too
  counted = spec.mask or 'batch/valid'
  if mixing and spec.reads.get('where') != counted:
    raise Stop(Status.CONFIG, f'{where}.reads.where={spec.reads.get("where")!r}: {spec.loss} mixes '
               f'examples, and must know those that its term counts: {counted!r}')
  if not spec.weight:
    return None
  return Term(name=name, where=where, loss=functools.partial(loss, **spec.kwargs),
              reads=spec.reads, weight=lambda step: spec.weight * schedule(step), mask=spec.mask,
              scale=spec.scale, group=spec.group, mixing=mixing)


def paths(reads: str | Sequence[str]) -> tuple[str, ...]:
  """What a projector or a carry reads: one path, or several."""
  return (reads,) if isinstance(reads, str) else tuple(reads)


def among(view: str, name: str, paths: Iterable[str]) -> bool:
  """Whether any of the paths is an entry of a view, or a part of it."""
  return any(f'{path}/'.startswith(f'{view}/{name}/') for path in paths)


def at(views: Views, path: str, where: str) -> jax.Array:
  """The array that a path names; a path that names nothing lists what there is."""
  view, _, name = path.partition('/')
  if view not in views:
    raise Stop(Status.MISFIT, f'{where}: {path!r} names no view' + lookup.nearest(view, views))
  if name not in views[view]:
    raise Stop(Status.MISFIT,
               f'{where}: {path!r} names no output of {view}, which has '
               + (', '.join(sorted(views[view])) or 'none'))
  return views[view][name]


def counts(terms: tuple[Term, ...], batch: Batch) -> dict[str, jax.Array]:
  """What each term's mask counts over a whole batch, in positions of the mask's shape."""
  return {term.name: jnp.sum(_mask(term, batch)) for term in terms}


def _mask(term: Term, batch: Batch) -> jax.Array:
  """The term's mask times the batch's `valid` rows, float32."""
  valid = batch['valid'].astype(jnp.float32)
  if not term.mask:
    return valid
  mask = at({'batch': batch}, term.mask, f'{term.where}.mask').astype(jnp.float32)
  return mask * valid.reshape(valid.shape + (1,) * (mask.ndim - 1))


def objective(terms: tuple[Term, ...], views: Views, counts: Mapping[str, jax.Array],
              step: jax.Array) -> tuple[dict[str, jax.Array], dict[str, tuple], dict]:
  """The groups' totals; every term's (sum, count) before weighting; its mean without its scale.

  `counts` may cover more than these views do: a micro-batch's share of the total is what its
  own sums give. A term whose count is 0 adds 0; its mean is NaN. All is in float32.
  """
  totals, sums, means = {}, {}, {}
  for term in terms:
    where = term.where
    values = _call(term, {a: at(views, p, f'{where}.reads.{a}') for a, p in term.reads.items()})
    mask = _mask(term, views['batch'])
    if values.ndim < 1 or values.shape[:mask.ndim] != mask.shape:
      raise Stop(Status.MISFIT, f'{where}: the loss gives {list(values.shape)}, which its mask '
                 f'{list(mask.shape)} does not lead')
    count = counts[term.name] * (values.size // max(mask.size, 1))
    summed = plain = _total(values, mask)
    if term.scale:
      scale = at(views, term.scale, f'{where}.scale')
      if scale.shape != values.shape[:scale.ndim]:
        raise Stop(Status.MISFIT, f'{where}: its scale {list(scale.shape)} does not lead what the '
                   f'loss gives, {list(values.shape)}')
      summed = _total(values * _led(scale, values.ndim), mask)
    share = term.weight(step) * summed / jnp.maximum(count, 1.0)
    totals[term.group] = totals.get(term.group, 0.0) + share
    sums[term.name] = (summed, count)
    means[term.name] = jnp.where(count > 0, plain / count, jnp.nan)
  return totals, sums, means


def _total(values: jax.Array, mask: jax.Array) -> jax.Array:
  """The sum of what a mask counts, in float32 or better."""
  mask = _led(mask, values.ndim)
  # A masked value may be NaN: `where`, not a product. Its gradient must be finite all the same.
  kept = jnp.where(mask > 0, values * mask, 0.0)
  return jnp.sum(kept, dtype=jnp.promote_types(jnp.float32, kept.dtype))


def _led(weights: jax.Array, ndim: int) -> jax.Array:
  """Weights of the leading axes, with axes of 1 for the others."""
  return weights.reshape(weights.shape + (1,) * (ndim - weights.ndim))


def _call(term: Term, arguments: Mapping[str, jax.Array]) -> jax.Array:
  try:
    return term.loss(**arguments)
  except (ValueError, TypeError, OverflowError) as error:     # found while tracing: shapes, ranges
    shapes = ', '.join(f'{a} {list(v.shape)}' for a, v in arguments.items())
    line = str(error).split('\n')[0]
    raise Stop(Status.MISFIT, f'{term.where} ({shapes}): {line}') from error
