"""Terms of an objective made of losses that are functions, checked before compilation."""
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from distill import lookup, objective, schedules
from distill.models.custom import ANSWER
from distill.objective import Term, TermNode
from distill.types import Schedule, Status, Stop

Shapes = Mapping[str, Mapping[str, Any]]        # of the views, by name
Losses = Callable | str | Mapping[str, Any]
KEYS = [field.name for field in dataclasses.fields(TermNode)]


def terms(given: Losses, shapes: Shapes, teachers: Sequence[str], where: str) -> tuple[Term, ...]:
  """Builds the terms of one loss or of several by name.

  A loss is a function, the name of one in `distill.losses`, or a dict with the keys of a term in a
  config, `loss` a function or a name and `schedule` a function of the step. `where` is the argument
  that gave them.
  """
  several = {_title(given): given} if not isinstance(given, Mapping) or 'loss' in given else given
  places = {name: where if several is not given else f'{where}[{name!r}]' for name in several}
  found = [_term(name, spec, shapes, teachers, places[name]) for name, spec in several.items()]
  if not any(found):
    raise Stop(Status.CONFIG, f'{where} has no loss with a weight: there is nothing to train on')
  return tuple(filter(None, found))


def check(term: Term, shapes: Shapes, teachers: Sequence[str]) -> None:
  """Stops unless a loss gives values for the examples of a batch."""
  read = {name: objective.find_array(shapes, path, f'{term.where}: {name}')
          for name, path in term.reads.items()}
  where = f'{term.where} ({", ".join(f"{name} {list(x.shape)}" for name, x in read.items())})'
  classes = _classes(term, shapes, teachers)
  apart = next((name for name in teachers if name in classes and classes[name] != classes.get(
      'student', classes[name])), None)
  misfit = apart and (f'{term.where}: the student answers with {classes["student"]} classes, and '
                      f'the {apart} with {classes[apart]}: they must be the same, in one order, or '
                      'the loss one for different vocabularies')
  try:
    values = jax.eval_shape(term.loss, **read)
  except Exception as error:
    line = next(iter(str(error).splitlines()), '')
    raise Stop(Status.MISFIT, misfit or f'{where} raises {type(error).__name__}: {line}'
               ) from error
  if apart and 1 in classes.values():         # which broadcasts
    raise Stop(Status.MISFIT, misfit)
  n = shapes['batch']['valid'].shape[0]
  if not hasattr(values, 'shape'):
    raise Stop(Status.MISFIT, f'{where} returns a {type(values).__name__}: return an array with a '
               f'value for each of the {n} examples')
  if not values.shape:
    raise Stop(Status.MISFIT, f'{where} returns one number for the whole batch: return a value for '
               f'each of the {n} examples, [{n}], such as .mean(-1) for .mean(); averaging, '
               'weights and masks come after')
  if values.shape[0] != n:
    raise Stop(Status.MISFIT, f'{where} returns {list(values.shape)}: return a value for each of '
               f'the {n} examples, [{n}], or for each of their positions, [{n}, …]')


def _classes(term: Term, shapes: Shapes, teachers: Sequence[str]) -> dict[str, int]:
  """Returns how many columns the answers have that a loss reads, by the name of the model."""
  found = {}
  for name in ('student', *teachers):
    for output in (ANSWER, *([*shapes[name]] if len(shapes[name]) == 1 else [])):
      if f'{name}/{output}' in term.reads.values() and len(shapes[name][output].shape) > 1:
        found[name] = shapes[name][output].shape[-1]
  return found


def answer(name: str, shapes: Shapes, where: str) -> str:
  """Returns the path of what a model answers: its only output, or the one called so."""
  outputs = shapes[name]
  if len(outputs) > 1 and ANSWER not in outputs:
    raise Stop(Status.MISFIT, f"{where}: {name} has several outputs, {', '.join(outputs)}: say "
               f"which one it reads: reads={{'{name}': '{name}/{min(outputs)}'}}")
  return f'{name}/{ANSWER if ANSWER in outputs else next(iter(outputs))}'


def _title(given: Any) -> str:
  """Returns a name for a loss that was given without one."""
  loss = given['loss'] if isinstance(given, Mapping) else given
  loss = getattr(loss, 'func', loss)            # of a partial
  name = loss.rpartition('.')[2] if isinstance(loss, str) else getattr(loss, '__name__', '')
  return name if name.isidentifier() and name != 'loss' else 'objective'


def _term(name: str, given: Any, shapes: Shapes, teachers: Sequence[str],
          where: str) -> Term | None:
  node = dict(given) if isinstance(given, Mapping) else {'loss': given}
  if 'loss' not in node:
    raise Stop(Status.CONFIG, f'{where} is a dict without a loss: it has {", ".join(node)}')
  unknown = [key for key in node if key not in KEYS]
  if unknown:
    raise Stop(Status.CONFIG, f'{where}: a term has no {unknown[0]!r}'
               + lookup.nearest(unknown[0], KEYS))
  loss, schedule = node.pop('loss'), node.pop('schedule', None)
  if isinstance(loss, str):
    loss = lookup.find('losses', loss, f'{where}.loss')
  if not callable(loss):
    raise Stop(Status.CONFIG, f'{where}: its loss is a {type(loss).__name__}, not a function')
  node.setdefault('reads', {})
  spec = lookup.call(TermNode, {**node, 'loss': _title(loss)}, where)
  reads = _reads(loss, spec, shapes, teachers, where)
  return objective.term(name, dataclasses.replace(spec, reads=reads), loss,
                        schedules.constant() if schedule is None else check_schedule(
                            schedule, f'{where}: its schedule'), where)


def check_schedule(schedule: Any, where: str) -> Schedule:
  """Returns a schedule that can be traced: a function of the step that returns one number."""
  if not callable(schedule):
    raise Stop(Status.CONFIG, f'{where} is a {type(schedule).__name__}: give a function of the '
               'step, such as distill.schedules.ramp(steps=100)')
  try:
    value = jax.eval_shape(lambda step: jnp.asarray(schedule(step)), jnp.int32(0))
  except Exception as error:
    line = next(iter(str(error).splitlines()), '')
    raise Stop(Status.CONFIG, f'{where} raises {type(error).__name__}: {line} The step is traced: '
               'take jnp.where for an if') from error
  if value.shape:
    raise Stop(Status.CONFIG, f'{where} returns {list(value.shape)}: return one number')
  return schedule


def _reads(loss: Callable, spec: TermNode, shapes: Shapes, teachers: Sequence[str],
           where: str) -> dict[str, str]:
  """Finds the path of each argument of a loss, by `reads` or else by its name.

  A loss whose arguments are called otherwise is given the student's answer and then the teacher's.
  """
  models = ('student', *teachers)
  reads = {name: answer(path, shapes, where) if path in models else path
           for name, path in spec.reads.items()}
  needed = [name for name, p in lookup.parameters(loss).items()
            if p.default is p.empty and name not in reads and name not in spec.kwargs]
  found = {name: _path(name, spec, shapes, teachers, where) for name in needed}
  unknown = [name for name, path in found.items() if not path]
  first = [name for name, p in lookup.parameters(loss).items()
           if p.kind is p.POSITIONAL_OR_KEYWORD][:2]
  if needed and unknown == needed == first[:len(needed)] and not reads and (
      len(first) == len(models) == 2):
    found = {name: answer(model, shapes, where) for name, model in zip(first, models, strict=True)}
  elif unknown:
    raise Stop(Status.CONFIG, f'{where}: nothing gives its argument {unknown[0]!r}: an argument is '
               f'called {_known(shapes, teachers)}, or is named in '
               f"reads={{'{unknown[0]}': 'student/…'}} or kwargs")
  return reads | found


def _path(name: str, spec: TermNode, shapes: Shapes, teachers: Sequence[str], where: str) -> str:
  """Finds the path that an argument's name means, '' for none."""
  if name == 'where':                   # the examples that count, of a loss that mixes them
    return spec.mask or 'batch/valid'
  if name in ('student', *teachers):
    return answer(name, shapes, where)
  if name == 'teacher' and len(teachers) == 1:
    return answer(teachers[0], shapes, where)
  return next((f'{view}/{name}' for view in ('batch', 'schedule', 'projected', 'student')
               if name in shapes[view]), '')


def _known(shapes: Shapes, teachers: Sequence[str]) -> str:
  """Lists the names that an argument may have."""
  names = ['student', *(['teacher'] if len(teachers) == 1 else []), *teachers]
  names += [name for view in ('batch', 'schedule', 'projected', 'student')
            for name in sorted(shapes[view])]
  return ', '.join(dict.fromkeys(names))
