"""Finished models, located by the places that a command names: workdirs, exports, folders, ids."""
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from distill import formats, hub, report
from distill.pipelines.nodes import ModelNode
from distill.types import Status, Stop


@dataclasses.dataclass(frozen=True)
class Located:
  """A model at a place: its node, its name there, and its run's workdir if known."""
  node: ModelNode
  stage: str
  run: pathlib.Path | None = None

  @property
  def path(self) -> tuple[str, ...]:
    """Parts of the place that distinguish it from other models, the name last."""
    return *(self.run or pathlib.Path(self.node.place).parent).parts, self.stage


def find_models(places: Sequence[str]) -> dict[str, Located]:
  """Finds the models at some places, by the shortest names that distinguish them.

  A workdir stands for all models of its run. A model keeps the role of its run, but a baseline
  becomes a student unless it follows its student. If no model is known to be a teacher, the first
  of several becomes the teacher, the reference of the others.
  """
  if not all(places):
    raise Stop(Status.CONFIG, '--models: a place is empty; give DIR,DIR')
  models = [found for place in places for found in _at(place)]
  paths = [found.path for found in models]
  twice = {path for path in paths if paths.count(path) > 1}
  if twice:
    raise Stop(Status.CONFIG, f'--models: {"/".join(min(twice)[-2:])} is named twice')
  names = [_shortest_name(path, paths) for path in paths]
  known = {found.path: name for name, found in zip(names, models, strict=True)}
  teacher = any(found.node.role == 'teacher' for found in models) or len(models) == 1
  whole, last = {}, None
  for name, found in zip(names, models, strict=True):
    node, role = found.node, found.node.role
    if role == 'baseline' and not (last and last.node.role == 'student' and last.run == found.run):
      role = 'student'
    teachers = [known[path] for t in node.teachers if (path := (*found.path[:-1], t)) in known]
    last = whole[name] = dataclasses.replace(found, node=dataclasses.replace(
        node, role=role if teacher or whole else 'teacher', teachers=teachers))
  return whole


def read_config(run: pathlib.Path) -> dict[str, Any]:
  """Reads the config of a run; tuples are lists, as JSON has them."""
  path = run / 'config.json'
  try:
    return dict(json.loads(path.read_text('utf-8')))
  except (OSError, ValueError, TypeError) as error:
    raise Stop(Status.DATA, f'{path} is no config of a run ({error}): name its models instead, '
               f'{run}/export/…, and --config=FILE') from None


def _at(place: str) -> list[Located]:
  """Finds the models at one place."""
  folder = hub.folder(place, '--models')
  run = folder.resolve()
  if any((run / name).exists() for name in ('export', 'checkpoints', 'report.json')):
    return [*_of_run(run)]
  if run.parent.name == 'export' and (run.parent.parent / 'report.json').is_file():
    return [found for found in _of_run(run.parent.parent) if found.stage == run.name]
  if not formats.is_model(run):
    raise Stop(Status.CHECKPOINT, f'--models: {place} is no model: it is neither a workdir nor an '
               'export nor a folder with a config.json')
  if pathlib.Path(place).expanduser().is_dir():
    return [Located(ModelNode(str(run), formats.content_hash(run)), run.name)]
  name = place.partition('@')[0].rpartition('/')[2]
  return [Located(ModelNode(place, formats.content_hash(run)), name)]


def _of_run(run: pathlib.Path) -> Iterator[Located]:
  """Yields the models of a finished run, including teachers that it loaded."""
  if not (run / 'report.json').is_file():
    raise Stop(Status.CHECKPOINT, f'--models: the run {run} has no report yet: run it again, it '
               f'goes on where it is; or name one of the models in {run}/export')
  found, spec = report.read(run), read_config(run)
  teachers, evaluated = ({**spec.get(key, {})} for key in ('teachers', 'models'))
  for model in found['models']:
    name, free, reads = model['name'], {}, {}
    place = str(run / 'export' / name)
    if name in evaluated:
      place, free = (evaluated[name][key] for key in ('place', 'model'))
      reads = evaluated[name].get('reads', {})
    elif not pathlib.Path(place).is_dir():
      node = teachers.get(name, {})
      if not node.get('init'):
        raise Stop(Status.CHECKPOINT, f'--models: {run} has no export/{name} any more: remove its '
                   'report.json and run it again, or name its other models')
      place, reads = node['init'], node.get('reads', {})
      free = formats.free_arguments(place, node.get('model', {}), '--models')
    yield Located(ModelNode(
        place, formats.content_hash(hub.folder(place, '--models')), model['role'], free,
        tuple(model.get('teachers', ())), model['saw'], found['training'].get(name),
        str(run / 'metrics.jsonl'), name, reads), name, run)


def _shortest_name(path: Sequence[str], paths: Sequence[Sequence[str]]) -> str:
  """Returns the name from the fewest last parts of a path that no other path shares."""
  alike = [other for other in paths if other[-1] == path[-1]]
  k = next(k for k in range(1, len(path) + 1)
           if sum(other[-k:] == path[-k:] for other in alike) == 1)
  return re.sub(r'[^\w.-]+', '-', '-'.join(path[-k:]))
