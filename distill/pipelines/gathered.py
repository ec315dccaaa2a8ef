"""Models that are there, by the places that a command names."""
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
class Found:
  """A model at a place: the node of an evaluation, its own name, and its run's workdir if known."""
  node: ModelNode
  stage: str
  run: pathlib.Path | None = None

  @property
  def path(self) -> tuple[str, ...]:
    """What tells it from others, its own name last."""
    return *(self.run or pathlib.Path(self.node.place).parent).parts, self.stage


def gathered(places: Sequence[str]) -> dict[str, Found]:
  """The models by the shortest names that tell them apart.

  A workdir stands for all models of its run. Their roles are those that they had there, but a
  baseline is one only beside the student that it belongs to; and where none is known to be a
  teacher, the first of several is what the others are held against.
  """
  if not all(places):
    raise Stop(Status.CONFIG, '--models: a place is empty; give DIR,DIR')
  models = [found for place in places for found in _at(place)]
  paths = [found.path for found in models]
  if twice := {path for path in paths if paths.count(path) > 1}:
    raise Stop(Status.CONFIG, f'--models: {"/".join(min(twice)[-2:])} is named twice')
  names = [_told_apart(path, paths) for path in paths]
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


def config(run: pathlib.Path) -> dict[str, Any]:
  """The config of a run, its tuples as JSON makes them: lists."""
  path = run / 'config.json'
  try:
    return dict(json.loads(path.read_text('utf-8')))
  except (OSError, ValueError, TypeError) as error:
    raise Stop(Status.DATA, f'{path} is no config of a run ({error}): name its models instead, '
               f'{run}/export/…, and --config=FILE') from None


def _at(place: str) -> list[Found]:
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
    return [Found(ModelNode(str(run), formats.content_hash(run)), run.name)]
  name = place.partition('@')[0].rpartition('/')[2]
  return [Found(ModelNode(place, formats.content_hash(run)), name)]


def _of_run(run: pathlib.Path) -> Iterator[Found]:
  """The models of a finished run, its teachers that were loaded too."""
  if not (run / 'report.json').is_file():
    raise Stop(Status.CHECKPOINT, f'--models: the run {run} has no report yet: run it again, it '
               f'goes on where it is; or name one of the models in {run}/export')
  told, spec = report.read(run), config(run)
  teachers, evaluated = ({**spec.get(key, {})} for key in ('teachers', 'models'))
  for model in told['models']:
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
    yield Found(ModelNode(
        place, formats.content_hash(hub.folder(place, '--models')), model['role'], free,
        tuple(model.get('teachers', ())), model['saw'], told['training'].get(name),
        str(run / 'metrics.jsonl'), name, reads), name, run)


def _told_apart(path: Sequence[str], paths: Sequence[Sequence[str]]) -> str:
  alike = [other for other in paths if other[-1] == path[-1]]
  k = next(k for k in range(1, len(path) + 1)
           if sum(other[-k:] == path[-k:] for other in alike) == 1)
  return re.sub(r'[^\w.-]+', '-', '-'.join(path[-k:]))
