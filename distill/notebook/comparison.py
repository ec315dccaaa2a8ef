"""`distill.compare`: models side by side, by a call."""
import dataclasses
import html
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from distill import lookup, objective, records, report, step, tasks
from distill.data.iterables import IterableData
from distill.disk import replace
from distill.measure import cost, faithfulness, machine, quality
from distill.modalities import Modality
from distill.models import custom, sizes
from distill.notebook.training import as_value_errors, layout_for, output_shapes
from distill.report import page, radar
from distill.tasks import Task
from distill.types import Batch, Field, Records, Status, Stop

SECONDS = 0.01          # of a turn of timed calls, of which each model has five at every size
TARGET = 'label'        # the field of a batch by which tasks judge
UNMEASURED = dict.fromkeys(('latency_ms', 'throughput_per_s', 'throughput_batch', 'flops',
                            'peak_memory_bytes', 'process_bytes', 'energy_j_per_example'))


@dataclasses.dataclass(frozen=True)
class Comparison:
  """Models side by side: as text the verdict and a table; `save` writes the page.

  `report` is what report.json of a run holds.
  """
  report: Mapping[str, Any]
  records: Mapping[str, Records] = dataclasses.field(repr=False)

  def __str__(self) -> str:
    return f'{report.summary(self.report)}\n\n{report.table(self.report)}'.strip()

  __repr__ = __str__

  def _repr_html_(self) -> str:
    """Shows the page in a notebook."""
    return (f'<iframe srcdoc="{html.escape(self._page())}" width="100%" height="640" '
            'style="border: 0"></iframe>')

  def save(self, path: str | pathlib.Path) -> pathlib.Path:
    """Writes the page, one self-contained HTML file."""
    path = pathlib.Path(path)
    with as_value_errors():
      replace(path, self._page())
    return path

  def _page(self) -> str:
    return page.draw(self.report, [], self.records, {}, radar.draw(self.report))


@dataclasses.dataclass(frozen=True)
class Arrays(Modality):
  """Examples that are arrays of which nothing else is known."""
  fields: Mapping[str, Field]
  noun, widths, room = 'examples', {}, {}


def compare(models: Mapping[str, Any], data: Iterable[Mapping[str, Any]],
            task: str | Task | None = None, *, teacher: str = '', baseline: str = '',
            names: Sequence[str] = (), inputs: custom.Inputs = None, costs: bool = True,
            resamples: int = 1000) -> Comparison:
  """Measures models on the same examples, as the report of a run does.

    print(distill.compare({'teacher': teacher, 'student': student}, data))
    distill.compare({'teacher': teacher, 'student': student}, data).save('page.html')

  The table has quality with 95 % intervals, what is kept of the teacher's quality and gained over a
  baseline, agreement with the teacher, parameters, bytes and the time of a call.

  Args:
    models: by name functions of a batch, such as `lambda batch: model(batch['image'])`, modules in
      evaluation mode, or pairs `(apply, params)`.
    data: batches, dicts of arrays, each with a `label`: a list, a generator, a loader. They are
      read once and kept.
    task: a task, or the name of one in `distill.tasks`. By default classification if labels are
      whole numbers, regression if they aren't.
    teacher: the model that the others are compared with; by default 'teacher', or the first.
    baseline: the model over which the others gain; by default 'baseline', or none.
    names: of the classes, in the order of the answers' columns.
    inputs: the field that models take, or several, where their signatures don't say it.
    costs: whether calls are timed. Arrays that a function closes over count as its parameters.
    resamples: of the bootstrap behind the intervals.

  Raises:
    ValueError: one line that says what is wrong, where, and what to do.
  """
  with as_value_errors():
    if not isinstance(models, Mapping) or not models:
      raise Stop(Status.CONFIG, "models must be a dict of one or more, such as {'student': model}")
    source = IterableData(data)
    batches = list(source.one_pass())
    if TARGET not in source.fields:
      raise Stop(Status.DATA, f'data has no {TARGET!r}, by which models are judged; a batch has '
                 + ', '.join(source.fields))
    teacher, baseline = _roles(models, teacher, baseline)
    wrapped = {name: _model(name, given, source.fields, inputs) for name, given in models.items()}
    task = _task(task, wrapped, source.fields, names)
    found = _records(wrapped, batches, task)
    others = [name for name in models if name not in (teacher, baseline)]
    judged = quality.side_by_side(
        task, found, {name: teacher for name in models if teacher and name != teacher},
        {name: baseline for name in others if baseline}, resamples=resamples)
    theirs = lambda name: found[teacher] if teacher and name != teacher else None
    alike = {name: faithfulness.compare_records(
        task, found[name], theirs(name), names, resamples=resamples) for name in models}
    cost_of = _costs(wrapped, source.fields, task, costs)
    role = {teacher: 'teacher', baseline: 'baseline'}
    entries = [{'name': name, 'role': role.get(name, 'student'), 'saw': None, **judged[name],
                **cost_of[name], **alike[name], 'layers': None, 'robustness': None, 'tier': None}
               for name in models]
    return Comparison(_report(entries, task, len(found[next(iter(models))]['id'])), found)


def _roles(models: Mapping[str, Any], teacher: str, baseline: str) -> tuple[str, str]:
  """Finds the names of the teacher and of the baseline, '' for none."""
  for argument, name in (('teacher', teacher), ('baseline', baseline)):
    if name and name not in models:
      raise Stop(Status.CONFIG, f'{argument}={name!r} is none of the models'
                 + lookup.nearest(name, models))
  if not baseline and 'baseline' in models and len(models) > 1:
    baseline = 'baseline'
  if not teacher and len(models) > 1:
    teacher = 'teacher' if 'teacher' in models else next(n for n in models if n != baseline)
  if teacher and teacher == baseline:
    raise Stop(Status.CONFIG, f'{teacher!r} cannot be both the teacher and the baseline')
  return teacher, baseline


def _model(name: str, given: Any, fields: Batch, inputs: custom.Inputs) -> custom.Custom:
  """Wraps a model, so that it answers a batch of the data."""
  title = f'models[{name!r}]'
  custom.check_eval_mode(given, title)
  return custom.model(given, title, {n: x for n, x in fields.items() if n != TARGET}, inputs)


def _task(given: str | Task | None, models: Mapping[str, custom.Custom], fields: Batch,
          names: Sequence[str]) -> Task:
  """Returns the task, once it is known that every model gives what it asks for."""
  batch = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in fields.items()}
  outputs = {name: output_shapes(model, batch, f'models[{name!r}]', 'data')
             for name, model in models.items()}
  first, answers = next(iter(outputs.items()))
  answer = answers.get(custom.ANSWER, next(iter(answers.values())))
  if given is None:
    given = tasks.inferred(batch[TARGET], answer)
    if not given:
      raise Stop(Status.CONFIG, f'models[{first!r}] answers {list(answer.shape)}, and the labels '
                 f'are {batch[TARGET].dtype} {list(batch[TARGET].shape)}: say by which task they '
                 "are judged, such as task='classification.Classification'")
  if isinstance(given, str):
    given = lookup.build('tasks', {'name': given}, 'task', names=tuple(names),
                         classes=answer.shape[-1] if len(answer.shape) > 1 else 1)
  for name, found in outputs.items():
    where = f'models[{name!r}]'
    for output in given.outputs:
      objective.find_array({where: found}, f'{where}/{output}', 'task')
    try:
      measured = given.measure(lambda _, found=found: {
          path: np.zeros(x.shape, x.dtype) for path, x in found.items()}, fields)
      given.records({path: np.asarray(x) for path, x in measured.items()}, fields)
    except (KeyError, ValueError) as error:
      raise Stop(Status.MISFIT, f'{where} cannot be judged by {type(given).__name__}: {error}'
                 ) from error
  return given


def _records(models: Mapping[str, custom.Custom], batches: Sequence[Batch],
             task: Task) -> dict[str, Records]:
  """Returns the records of every model: what the task keeps of its answers."""
  batches = [task.prepare(batch) for batch in batches]
  ids = np.concatenate([batch['id'][batch['valid'] > 0] for batch in batches])
  if len(np.unique(ids)) < len(ids):
    raise Stop(Status.DATA, 'data has an id twice: give every example its own, or leave id out')
  layout = layout_for([len(batches[0]['valid'])])
  return {name: records.collect(step.make_eval_step(model, task.measure, layout), model.weights,
                                batches, task, layout, title=f'models[{name!r}]')
          for name, model in models.items()}


def _costs(models: Mapping[str, custom.Custom], fields: Batch, task: Task,
           timed: bool) -> dict[str, dict[str, Any]]:
  """Measures the sizes of models, and, if `timed`, their calls in this process."""
  found = {name: {**sizes.sizes(model.weights), 'shipped_bytes': None}
           for name, model in models.items()}
  captured = {name: model.captured(fields) for name, model in models.items()}
  for name, arrays in captured.items():
    if not models[name].weights[0]:       # a function
      found[name] |= sizes.sizes((arrays, ()))
  if not timed:
    return {name: {**size, **UNMEASURED} for name, size in found.items()}
  modality = Arrays({name: Field(x.shape[1:], x.dtype.name) for name, x in fields.items()
                     if name not in ('id', 'valid')})
  cost_of = cost.measure_costs({
      name: cost.LocalTimer(model, model.weights, modality, task.outputs)
      for name, model in models.items()}, seconds=SECONDS)
  for name, costs in cost_of.items():
    if costs['peak_memory_bytes'] is not None:      # XLA's plan has arguments, not constants
      costs['peak_memory_bytes'] += sizes.nbytes(captured[name])
  return {name: {**size, **cost_of[name]} for name, size in found.items()}


def _report(entries: Sequence[Mapping[str, Any]], task: Task, n: int) -> dict[str, Any]:
  """Returns these models as the report.json of a run holds them."""
  return {
      'schema': 1, 'config_name': 'distill.compare', 'config_sha256': '', 'seed': 0,
      'versions': machine.versions(), 'hardware': machine.hardware(),
      'data': {'name': 'data', 'fingerprint': '', 'splits': {'data': n}}, 'padding_share': None,
      'task': {'primary': task.primary, 'split': 'data'}, 'models': list(entries), 'training': {}}
