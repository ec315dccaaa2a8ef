"""Models of one's own as pure functions: an `nnx.Module`, a pair (apply, params), a function.

They are called by their signatures. The inputs come first: the whole batch for a parameter `batch`
and for a function without parameters to train, else a field of the batch. Others are fields of the
batch by their names, or what a step knows: `train`, `training`, `is_training`; `deterministic` and
`use_running_average`, their opposites; `key` or `rng`, None in evaluation; and of a module `rngs`.
"""
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr

from distill.models import precision
from distill.models.layers import NOTHING, Block
from distill.models.pure import PLAIN, Flat, Traits, filled, flat, traits_of
from distill.types import Batch, Outputs, Status, Stop

ANSWER = 'logits'       # what the only output of a model is called
NO_INPUTS = {'id', 'valid', 'labelled', 'label', 'labels'}      # fields that no lone `x` means
MODES = {'train': True, 'training': True, 'is_training': True, 'deterministic': False,
         'use_running_average': False}          # … each with its value in training
KEYS = 'key', 'rng'
Inputs = str | Sequence[str] | None


class Own:
  """One's own model without its arrays; what it began with are its `weights`.

  It is called as `Pure` is. `mixing`: in training an output depends on the batch's other examples.
  """
  differentiable, rows = True, {}

  def __init__(self, call: Callable, weights: tuple[Flat, Flat], returned: Callable, *,
               traits: Traits = PLAIN, mixing: bool = False, multiplies: bool = False,
               has_blocks: bool = False):
    self._call, self.weights, self.returned = call, weights, returned
    self.traits, self.mixing, self.multiplies = traits, mixing, multiplies
    self.has_blocks = has_blocks

  @property
  def shapes(self) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
    """The parameters' and the rest's shapes, by path."""
    return tuple({path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in part.items()}
                 for part in self.weights)

  def init(self, seed: int) -> tuple[Flat, Flat]:
    """Returns the weights that the model came with."""
    del seed
    return self.weights

  def hidden(self, batch: Batch) -> list[Any]:
    """The arrays that a call takes from around it, which are among no parameters."""
    program = jax.make_jaxpr(lambda params, rest, batch: self(params, rest, batch)[0])(
        *self.weights, dict(batch))
    return list(_constants(program).values())

  def __call__(self, params: Flat, rest: Flat, *arguments: Any, train: bool = False,
               key: jax.Array | None = None, valid: jax.Array | None = None,
               dtype: str = 'float32', remat: str = NOTHING) -> tuple[Outputs, Flat]:
    """The outputs by name, and the rest as the call left it."""
    return self._call(params, rest, arguments, dict(train=train, key=key, valid=valid),
                      dict(dtype=dtype, remat=remat))


def model(given: Any, title: str, fields: Mapping[str, Any], inputs: Inputs = None,
          answer: str = ANSWER) -> Own:
  """Returns one's own model as one that a step calls with a batch of these `fields`.

  `inputs` names the field, or fields, that it takes, 'batch' for the whole dict. An array that it
  returns is the output `answer`. `title` names the model in error lines.
  """
  _check_given(given, title)
  bound = lambda function, skip, **how: _bound(function, skip, title, fields, inputs, **how)
  named = lambda result: _named(result, title, answer)
  if isinstance(given, nnx.Module):
    return _module(given, bound(given.__call__, 0, keyed=True), named)
  apply, params = given if isinstance(given, tuple) else (lambda params, batch: given(batch), {})
  return _pair(apply, params, bound(apply, 1, whole=not isinstance(given, tuple)), named)


def projector(given: Any, title: str) -> Own:
  """Returns one's own module, or a pair, as a projector: it takes what it reads, one by one."""
  _check_given(given, title)
  isolated = lambda result: result
  def binding(function, skip):
    taken = [*_parameters(function)][skip:]
    return lambda arguments, knows: (arguments, {
        name: value for name, value in (*_modes(knows).items(), ('valid', knows['valid']))
        if name in taken})
  if isinstance(given, nnx.Module):
    return _module(given, binding(given.__call__, 0), isolated)
  if not isinstance(given, tuple):
    raise Stop(Status.CONFIG, f'{title} must be an nnx.Module, or a pair (apply, params)')
  return _pair(*given, binding(given[0], 1), isolated)


def check_evaluates(given: Any, title: str) -> None:
  """Stops at a module in train mode, unless its call says in which mode it is."""
  if not isinstance(given, nnx.Module) or MODES.keys() & _parameters(given.__call__).keys():
    return
  for path, part in nnx.iter_modules(given):
    training = [name for name in ('deterministic', 'use_running_average')
                if getattr(part, name, None) is False]
    if training and getattr(part, 'rate', 1):
      where = '/'.join(map(str, path)) or type(part).__name__
      raise Stop(Status.CONFIG, f'{title} is in train mode ({where} has {training[0]}=False), and '
                 'its answers would depend on chance or on the batch: call its .eval() first')


def _check_given(given: Any, title: str) -> None:
  pair = isinstance(given, tuple) and len(given) == 2 and callable(given[0])
  if isinstance(given, type) or not (pair or callable(given)):
    what = f'the class {given.__name__}' if isinstance(given, type) else f'a {type(given).__name__}'
    raise Stop(Status.CONFIG, f'{title} is {what}: give an nnx.Module, a pair (apply, params) with '
               'apply(params, x), or a function of a batch')


def _constants(program: ClosedJaxpr) -> dict[int, Any]:
  """The constants of a program and of those within it, each once."""
  found = {id(x): x for x in program.consts}
  for equation in program.jaxpr.eqns:
    for part in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, ClosedJaxpr)):
      found |= _constants(part) if isinstance(part, ClosedJaxpr) else {}
  return found


def _module(module: nnx.Module, bind: Callable, named: Callable) -> Own:
  """An `nnx.Module`. Its streams of random numbers are no weights: each step gives them keys."""
  graph, params, streams, rest = nnx.split(module, nnx.Param, nnx.RngState, ...)
  keys = flat(streams)

  def call(now, kept, arguments, knows, how):
    merged = nnx.merge(graph, filled(params, now), filled(streams, keys), filled(rest, kept))
    (merged.train if knows['train'] else merged.eval)()
    if how['dtype'] == precision.MIXED:
      merged.set_attributes(dot_general=precision.dot_general, raise_if_not_found=False)
    if how['remat'] != NOTHING:
      merged.set_attributes(Block, remat=how['remat'], raise_if_not_found=False)
    if knows['key'] is not None:
      _reseed(merged, knows['key'])
    arguments, keywords = bind(arguments, knows)
    outputs = named(merged(*arguments, **keywords))
    after = flat(nnx.split(merged, nnx.Param, nnx.RngState, ...)[3])
    return outputs, {path: after[path] for path in kept}        # without what it sowed

  def returned(now, kept):
    return nnx.merge_state(filled(params, now), filled(rest, kept))
  parts = [part for _, part in nnx.iter_modules(module)]
  return Own(
      call, (flat(params), flat(rest)), returned, traits=traits_of(module),
      mixing=getattr(module, 'mixing', False) or any(
          isinstance(variable, nnx.BatchStat) for _, variable in nnx.to_flat_state(rest)),
      multiplies=any(hasattr(part, 'dot_general') for part in parts),
      has_blocks=any(isinstance(part, Block) for part in parts))


def _reseed(module: nnx.Module, key: jax.Array) -> None:
  """Gives every stream of random numbers of a module a key for this step."""
  streams = [node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)]
  for i, stream in enumerate(streams):
    stream.key[...] = jax.random.fold_in(key, i)
    stream.count[...] = jnp.zeros((), jnp.uint32)


def _pair(apply: Callable, params: Any, bind: Callable, named: Callable) -> Own:
  """A function and its parameters, any tree of arrays; what isn't floating-point stays as it is."""
  leaves, tree = jax.tree_util.tree_flatten_with_path(params)
  whole = {jax.tree_util.keystr(path, simple=True, separator='/'): jnp.asarray(leaf)
           for path, leaf in leaves}
  order, trained = [*whole], lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  returned = lambda now, kept: jax.tree.unflatten(tree, [{**now, **kept}[path] for path in order])

  def call(now, kept, arguments, knows, how):
    arguments, keywords = bind(arguments, knows)
    return named(apply(returned(now, kept), *arguments, **keywords)), kept
  return Own(call, tuple({path: x for path, x in whole.items() if trained(x) == part}
                         for part in (True, False)), returned)


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
  try:
    return dict(inspect.signature(function).parameters)
  except (TypeError, ValueError):       # of what isn't written in Python
    return {'x': inspect.Parameter('x', inspect.Parameter.POSITIONAL_ONLY)}


def _modes(knows: Mapping[str, Any]) -> dict[str, Any]:
  """The arguments by which models learn their mode, and their keys."""
  modes = {name: value == knows['train'] for name, value in MODES.items()}
  return modes | dict.fromkeys(KEYS, knows['key'])


def _bound(function: Callable, skip: int, title: str, fields: Mapping[str, Any], inputs: Inputs, *,
           whole: bool = False, keyed: bool = False) -> Callable:
  """Returns what makes the arguments of a call of a batch and of what a step knows.

  `skip` parameters come from elsewhere. `whole`: it takes the batch; `keyed`: and `rngs`.
  """
  taken = dict([*_parameters(function).items()][skip:])
  positional = [name for name, p in taken.items() if p.kind in (
      p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
      and name not in (*MODES, *KEYS, 'rngs')]
  if not positional:
    raise Stop(Status.CONFIG, f'{title} takes no inputs: its call must have a parameter for them')
  read = _read(positional[0], whole, title, fields, inputs)
  others = [name for name, p in taken.items() if name not in positional[:1] and name in fields
            and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)] if isinstance(
                read, str) else []
  for name, p in taken.items():
    if (p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD,
                                            p.KEYWORD_ONLY)
        and name not in (*positional[:1 if isinstance(read, str) else len(read)], *others, *MODES,
                         *KEYS, *(['rngs'] if keyed else []))):
      raise Stop(Status.CONFIG, f'{title} takes an argument {name!r} that nothing gives: the batch '
                 f'has {", ".join(fields)}; inputs=(…) names fields in the order of its arguments')

  def bind(arguments: tuple[Batch], knows: Mapping[str, Any]):
    [batch] = arguments
    at = lambda name: batch if name == 'batch' and name not in batch else batch[name]
    given = {name: value for name, value in _modes(knows).items() if name in taken}
    if keyed and 'rngs' in taken and knows['key'] is not None:
      given['rngs'] = nnx.Rngs(knows['key'])
    given |= {name: batch[name] for name in others if name not in given}
    return tuple(at(name) for name in ([read] if isinstance(read, str) else read)), given
  return bind


def _read(first: str, whole: bool, title: str, fields: Mapping[str, Any],
          inputs: Inputs) -> str | Sequence[str]:
  """The field or fields that a model takes first; 'batch' for the whole dict."""
  if inputs:
    for name in [inputs] if isinstance(inputs, str) else inputs:
      if name not in (*fields, 'batch'):
        raise Stop(Status.CONFIG, f'inputs={inputs!r}: the batch has no {name!r}; it has '
                   + ', '.join(fields))
    return inputs
  if first in fields:
    return first
  if whole or first == 'batch':
    return 'batch'
  likely = [name for name in fields if name not in NO_INPUTS]
  if len(likely) != 1:
    raise Stop(Status.CONFIG, f'{title} takes {first!r}, and the batch has '
               f'{", ".join(likely or fields)}: say which field that is, by '
               f"inputs={(likely or ['NAME'])[0]!r}, or inputs='batch' for the whole dict")
  return likely[0]


def _named(result: Any, title: str, answer: str) -> Outputs:
  """Outputs by name."""
  if isinstance(result, Mapping):
    bad = next((name for name, x in result.items() if not hasattr(x, 'shape')), None)
    if bad is not None:
      raise Stop(Status.CONFIG, f'{title} returns {bad!r}, which is no array but a '
                 f'{type(result[bad]).__name__}: return arrays by name')
    return dict(result)
  if not hasattr(result, 'shape'):
    raise Stop(Status.CONFIG, f'{title} returns a {type(result).__name__}: return an array, or a '
               'dict of named arrays')
  return {answer: result}
