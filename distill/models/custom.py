"""Any model as pure functions: an `nnx.Module`, a pair (apply, params), or a function of a batch.

They are called by their signatures. The inputs come first: the whole batch for a parameter `batch`
and for a function without parameters to train, else a field of the batch. Others are fields of the
batch by their names, or come from the step: `train`, `training`, `is_training`;
`deterministic`, `use_running_average`, their opposites; `key`, `rng`, None in evaluation; and, for
a module, `rngs`.
"""
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.extend.core import ClosedJaxpr

from distill.models import precision
from distill.models.functional import NO_TRAITS, Flat, Traits, fill, flat, traits_of
from distill.models.layers import NOTHING, Block
from distill.types import Batch, Outputs, Status, Stop

ANSWER = 'logits'       # what the only output of a model is called
NO_INPUTS = {'id', 'valid', 'labelled', 'label', 'labels'}      # fields that no lone `x` means
MODES = {'train': True, 'training': True, 'is_training': True, 'deterministic': False,
         'use_running_average': False}          # … each with its value in training
KEYS = 'key', 'rng'
Inputs = str | Sequence[str] | None


class Custom:
  """A model of any origin as a pure function, and the weights that it came with.

  It is called as `Functional` is. `mixing`: in training an output depends on the batch's other
  examples.
  """
  differentiable, rows = True, {}

  def __init__(self, call: Callable, weights: tuple[Flat, Flat], restore: Callable, *,
               traits: Traits = NO_TRAITS, mixing: bool = False, multiplies: bool = False,
               has_blocks: bool = False):
    self._call, self.weights, self.restore = call, weights, restore
    self.traits, self.mixing, self.multiplies = traits, mixing, multiplies
    self.has_blocks = has_blocks

  @property
  def shapes(self) -> tuple[dict[str, jax.ShapeDtypeStruct], dict[str, jax.ShapeDtypeStruct]]:
    """Shapes of the parameters and of the rest, by path."""
    return tuple({path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in part.items()}
                 for part in self.weights)

  def init(self, seed: int) -> tuple[Flat, Flat]:
    """Returns the weights that the model came with."""
    del seed
    return self.weights

  def captured(self, batch: Batch) -> list[Any]:
    """Lists the arrays that a function closes over: weights that are no parameters."""
    program = jax.make_jaxpr(lambda params, rest, batch: self(params, rest, batch)[0])(
        *self.weights, dict(batch))
    return list(_constants(program).values())

  def __call__(self, params: Flat, rest: Flat, *arguments: Any, train: bool = False,
               key: jax.Array | None = None, valid: jax.Array | None = None,
               dtype: str = 'float32', remat: str = NOTHING) -> tuple[Outputs, Flat]:
    """Returns the outputs by name, and the rest as the call left it."""
    return self._call(params, rest, arguments, dict(train=train, key=key, valid=valid),
                      dict(dtype=dtype, remat=remat))


def model(given: Any, title: str, fields: Mapping[str, Any], inputs: Inputs = None,
          answer: str = ANSWER) -> Custom:
  """Wraps a model, so that a step can call it with a batch of these `fields`.

  `inputs` names the field, or fields, that it takes, 'batch' for the whole dict. An array that it
  returns is the output `answer`. `title` names the model in error lines.
  """
  _check_given(given, title)
  bound = lambda function, skip, **how: _binding(function, skip, title, fields, inputs, **how)
  named = lambda result: _named_outputs(result, title, answer)
  if isinstance(given, nnx.Module):
    return _module(given, bound(given.__call__, 0, keyed=True), named)
  apply, params = given if isinstance(given, tuple) else (lambda params, batch: given(batch), {})
  return _pair(apply, params, bound(apply, 1, whole=not isinstance(given, tuple)), named)


def projector(given: Any, title: str) -> Custom:
  """Wraps a module or a pair as a projector, which is called with the arrays that it reads."""
  _check_given(given, title)
  def binding(function, skip):
    taken = [*_parameters(function)][skip:]
    return lambda arguments, context: (arguments, {
        name: value for name, value in (*_modes(context).items(), ('valid', context['valid']))
        if name in taken})
  if isinstance(given, nnx.Module):
    return _module(given, binding(given.__call__, 0), lambda result: result)
  if not isinstance(given, tuple):
    raise Stop(Status.CONFIG, f'{title} must be an nnx.Module, or a pair (apply, params)')
  return _pair(*given, binding(given[0], 1), lambda result: result)


def check_eval_mode(given: Any, title: str) -> None:
  """Stops at a module in train mode, unless its call takes the mode as an argument."""
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
    kind = f'the class {given.__name__}' if isinstance(given, type) else f'a {type(given).__name__}'
    raise Stop(Status.CONFIG, f'{title} is {kind}: give an nnx.Module, a pair (apply, params) with '
               'apply(params, x), or a function of a batch')


def _constants(program: ClosedJaxpr) -> dict[int, Any]:
  """Collects the constants of a program and of its inner programs, each once."""
  found = {id(x): x for x in program.consts}
  for equation in program.jaxpr.eqns:
    for part in jax.tree.leaves(equation.params, is_leaf=lambda x: isinstance(x, ClosedJaxpr)):
      found |= _constants(part) if isinstance(part, ClosedJaxpr) else {}
  return found


def _module(module: nnx.Module, bind: Callable, named: Callable) -> Custom:
  """Wraps an `nnx.Module`; each step reseeds its random streams, which are no weights."""
  graph, param_state, streams, rest_state = nnx.split(module, nnx.Param, nnx.RngState, ...)
  keys = flat(streams)

  def call(params, rest, arguments, context, how):
    merged = nnx.merge(graph, fill(param_state, params), fill(streams, keys),
                       fill(rest_state, rest))
    (merged.train if context['train'] else merged.eval)()
    if how['dtype'] == precision.MIXED:
      merged.set_attributes(dot_general=precision.dot_general, raise_if_not_found=False)
    if how['remat'] != NOTHING:
      merged.set_attributes(Block, remat=how['remat'], raise_if_not_found=False)
    if context['key'] is not None:
      _reseed(merged, context['key'])
    arguments, keywords = bind(arguments, context)
    outputs = named(merged(*arguments, **keywords))
    after = flat(nnx.split(merged, nnx.Param, nnx.RngState, ...)[3])
    return outputs, {path: after[path] for path in rest}         # without what it sowed

  def restore(params, rest):
    return nnx.merge_state(fill(param_state, params), fill(rest_state, rest))
  parts = [part for _, part in nnx.iter_modules(module)]
  return Custom(
      call, (flat(param_state), flat(rest_state)), restore, traits=traits_of(module),
      mixing=getattr(module, 'mixing', False) or any(
          isinstance(variable, nnx.BatchStat) for _, variable in nnx.to_flat_state(rest_state)),
      multiplies=any(hasattr(part, 'dot_general') for part in parts),
      has_blocks=any(isinstance(part, Block) for part in parts))


def _reseed(module: nnx.Module, key: jax.Array) -> None:
  """Gives every stream of random numbers of a module a key for this step."""
  streams = [node for _, node in nnx.iter_graph(module) if isinstance(node, nnx.RngStream)]
  for i, stream in enumerate(streams):
    stream.key[...] = jax.random.fold_in(key, i)
    stream.count[...] = jnp.zeros((), jnp.uint32)


def _pair(apply: Callable, params: Any, bind: Callable, named: Callable) -> Custom:
  """Wraps a function and its parameters, any tree; only floating-point leaves are trained."""
  leaves, tree = jax.tree_util.tree_flatten_with_path(params)
  floating = lambda x: jnp.issubdtype(x.dtype, jnp.floating)
  whole = {jax.tree_util.keystr(path, simple=True, separator='/'): jnp.asarray(leaf)
           for path, leaf in leaves}
  if len(whole) < len(leaves):
    raise Stop(Status.CONFIG, 'two of the parameters have one path, their keys joined by slashes: '
               'rename one')

  def restore(params, rest):
    return jax.tree.unflatten(tree, [{**params, **rest}[path] for path in whole])

  def call(params, rest, arguments, context, how):
    arguments, keywords = bind(arguments, context)
    return named(apply(restore(params, rest), *arguments, **keywords)), rest
  return Custom(call, tuple({path: x for path, x in whole.items() if floating(x) == part}
                            for part in (True, False)), restore)


def _parameters(function: Callable) -> dict[str, inspect.Parameter]:
  try:
    return dict(inspect.signature(function).parameters)
  except (TypeError, ValueError):       # of what isn't written in Python
    return {'x': inspect.Parameter('x', inspect.Parameter.POSITIONAL_ONLY)}


def _modes(context: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the arguments that tell a model its mode, and give it a key."""
  modes = {name: value == context['train'] for name, value in MODES.items()}
  return modes | dict.fromkeys(KEYS, context['key'])


def _binding(function: Callable, skip: int, title: str, fields: Mapping[str, Any],
             inputs: Inputs, *, whole: bool = False, keyed: bool = False) -> Callable:
  """Returns a function that makes a call's arguments from a batch and the context of the step.

  The first `skip` parameters come from elsewhere. `whole`: it takes the batch; `keyed`: and `rngs`.
  """
  taken = dict([*_parameters(function).items()][skip:])
  positional = [name for name, p in taken.items() if p.kind in (
      p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.VAR_POSITIONAL)
      and name not in (*MODES, *KEYS, 'rngs')]
  if not positional:
    raise Stop(Status.CONFIG, f'{title} takes no inputs: its call must have a parameter for them')
  read = _input_fields(positional[0], whole, title, fields, inputs)
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

  def bind(arguments: tuple[Batch], context: Mapping[str, Any]):
    [batch] = arguments
    at = lambda name: batch if name == 'batch' and name not in batch else batch[name]
    given = {name: value for name, value in _modes(context).items() if name in taken}
    if keyed and 'rngs' in taken and context['key'] is not None:
      given['rngs'] = nnx.Rngs(context['key'])
    given |= {name: batch[name] for name in others if name not in given}
    return tuple(at(name) for name in ([read] if isinstance(read, str) else read)), given
  return bind


def _input_fields(first: str, whole: bool, title: str, fields: Mapping[str, Any],
                  inputs: Inputs) -> str | Sequence[str]:
  """Finds the field, or fields, that a model takes first; 'batch' means the whole dict."""
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


def _named_outputs(result: Any, title: str, answer: str) -> Outputs:
  """Returns the outputs of a model by name."""
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
