import ast
import dataclasses
import importlib
import inspect
import math
import sys
from collections.abc import Sequence

import pytest
from flax import nnx

from distill import lookup
from distill.types import Status, Stop


def takes(*, rate: float, steps: int = 3, name: str = '', on: bool = False,
          sizes: tuple[int, ...] = (), extra: int | None = None):
  if rate < 0:
    raise ValueError(f'rate={rate} must be 0 or more')
  return rate, steps, name, on, sizes, extra


def test_a_name_is_an_import_path_inside_a_room():
  from distill.losses import logits
  assert lookup.find('losses', 'logits.kl', 'objective.soft.loss') is logits.kl


@pytest.mark.parametrize('name', ['logits.kll', 'logit.kl', '', 'kl', 'logits._pair', 'logits.jnp',
                                  'os.system', '..types.Stop'])
def test_a_name_that_names_nothing_is_refused(name):
  with pytest.raises(Stop) as stop:
    lookup.find('losses', name, 'objective.soft.loss')
  assert stop.value.status == Status.CONFIG
  assert str(stop.value).startswith(f'objective.soft.loss={name!r} names nothing in distill/losses')


def test_the_nearest_names_are_offered():
  with pytest.raises(Stop, match="did you mean 'logits.kl'"):
    lookup.find('losses', 'logits.kll', 'x')
  with pytest.raises(Stop, match="did you mean 'bert.Bert'"):
    lookup.find('models', 'bert.Bret', 'x')


def test_what_others_define_is_no_name_of_the_room():
  assert 'logits.kl' in lookup.names('losses')
  assert not [n for n in lookup.names('losses') if 'Array' in n or n.endswith(('jax', 'jnp'))]


def test_a_node_is_splatted_and_given_values_fill_it():
  assert lookup.call(takes, {'rate': 1}, 'node', steps=7) == (1, 7, '', False, (), None)


@pytest.mark.parametrize(('node', 'line'), [
    ({'rate': True}, 'node.rate=True is a bool, not a float'),
    ({'rate': 1.0, 'steps': 2.0}, 'node.steps=2.0 is a float, not a int'),
    ({'rate': 1.0, 'steps': True}, 'node.steps=True is a bool, not a int'),
    ({'rate': '1'}, "node.rate='1' is a str, not a float"),
    ({'rate': 1.0, 'on': 1}, 'node.on=1 is a int, not a bool'),
    ({'rate': 1.0, 'sizes': ('a',)}, "node.sizes=('a',) is a tuple"),
    ({'rate': 1.0, 'sizes': 'ab'}, "node.sizes='ab' is a str"),
    ({'rate': 1.0, 'rates': 2}, "node.rates: takes has no such field; did you mean 'rate'"),
    ({}, 'node lacks rate, which takes needs'),
    ({'rate': -1.0}, 'node: rate=-1.0 must be 0 or more'),
])
def test_a_wrong_node_is_one_line(node, line):
  with pytest.raises(Stop) as stop:
    lookup.call(takes, node, 'node')
  assert line in str(stop.value) and stop.value.status == Status.CONFIG


def test_right_types_pass():
  assert lookup.call(takes, {'rate': 2, 'sizes': [1, 2], 'extra': None, 'on': True}, 'n') == (
      2, 3, '', True, [1, 2], None)


def test_a_given_keyword_may_not_be_set_too():
  with pytest.raises(Stop, match='node.steps: takes has no such field'):
    lookup.call(takes, {'rate': 1.0, 'steps': 2}, 'node', steps=7)


@pytest.fixture
def lab(tmp_path, monkeypatch):
  """Writes modules of a package `mylab` that lies outside of distill, and forgets them again."""
  monkeypatch.syspath_prepend(tmp_path)

  def write(**modules):
    for name, text in {'__init__': '', **modules}.items():
      file = tmp_path / 'mylab' / f'{name}.py'
      file.parent.mkdir(exist_ok=True)
      file.write_text(text)
    importlib.invalidate_caches()
    return tmp_path / 'mylab'
  yield write
  for name in [name for name in sys.modules if name.split('.')[0] == 'mylab']:
    del sys.modules[name]


ROOMS = ['data', 'models', 'projectors', 'losses', 'tasks', 'augment', 'carry', 'schedules',
         'pipelines', 'optimizers']
PARTS = '''
from __future__ import annotations
import functools
import typing
from flax import nnx
from distill.modalities import Modality
from distill.tasks import Task
if typing.TYPE_CHECKING:
  from nowhere import Missing

VERSION = 3

class Net(nnx.Module):
  def __init__(self, *, width: int, rngs: nnx.Rngs):
    self.width = width

def net(*, width: int = 2, rngs: nnx.Rngs) -> Net:
  return Net(width=width, rngs=rngs)

class Scores(Task):
  metrics, primary, outputs = {}, '', ()
  measure = records = score = answer = print

class Whole:
  metrics, primary, outputs, parts, labelled, exclusive = {}, '', (), (), True, True
  constant = explain = None
  prepare = measure = records = score = bootstrap = answer = categories = numbers = print

class Few:
  measure = records = score = answer = print

class Mute(Task):
  measure = records = answer = print

class Silent(Scores):
  def __init__(self):
    self.primary = ''

class Vague(Task):
  measure = records = score = answer = print
  outputs = ()

  def __init__(self):
    self.metrics = {}

def scores(*, share: float = 0.5) -> Scores:
  return Scores()

class Clouds(Modality):
  encode = print

class Blind:
  encode = from_card = print

class Unread(Modality):
  pass

class File:
  holds = open = write = sizes = print

def takes(*, rate: float, on: bool = False, kind: typing.Literal['a', True] = 'a', **others):
  return rate, on, kind, others

def hidden(*, on: bool, of: Missing = None):
  return on, of

doubled = functools.partial(takes, rate=2.0)
'''


@pytest.mark.parametrize('room', ROOMS)
def test_a_colon_names_any_module_in_every_room(lab, room):
  lab(parts=PARTS)
  name = 'Scores' if room == 'tasks' else 'Net'
  found = lookup.find(room, f'mylab.parts:{name}', 'x.name')
  assert found is getattr(sys.modules['mylab.parts'], name)


def test_a_node_with_a_colon_is_built_and_checked_as_any_other(lab):
  lab(parts=PARTS)
  node = {'name': 'mylab.parts:takes', 'rate': 1, 'on': True, 'kind': True}
  assert lookup.build('losses', node, 'x', steps=7, sizes=1) == (1, True, True, {})
  assert lookup.build('losses', {'name': 'mylab.parts:doubled'}, 'x') == (2.0, False, 'a', {})
  assert lookup.build('losses', {'name': 'mylab.parts:hidden', 'on': True, 'of': 3}, 'x') == (
      True, 3)
  for more, line in (({'on': 1}, 'x.on=1 is a int, not a bool'),
                     ({'rates': 1.0}, "x.rates: takes has no such field; did you mean 'rate'")):
    with pytest.raises(Stop, match=line):
      lookup.build('losses', {**node, **more}, 'x')
  with pytest.raises(Stop, match='x.of: partial has no such field'):
    lookup.build('losses', {'name': 'mylab.parts:doubled', 'of': 1}, 'x')


def test_a_model_is_a_class_of_modules_or_a_function_that_says_so(lab):
  lab(parts=PARTS)
  for name in ('Net', 'net'):
    node = {'name': f'mylab.parts:{name}', 'width': 3}
    assert lookup.build('models', node, 'x', rngs=None).width == 3
  # An export's card may be a stranger's: nothing else may be called by it.
  for name in ('os:system', 'mylab.parts:takes', 'mylab.parts:hidden', 'pathlib:Path'):
    with pytest.raises(Stop, match=f"x.name='{name}' is no model: it must be a class derived"):
      lookup.build('models', {'name': name, 'command': 'false'}, 'x')


@pytest.mark.parametrize(('room', 'good', 'line'), [
    ('tasks', ('Scores', 'scores', 'Whole'), 'is no task: it must be a class derived from '
     'distill.tasks.Task, or with all its members, or a function'),
    ('modalities', ('Clouds',), 'is no modality: it must be a class derived from '
     'distill.modalities.Modality, or with all its members'),
    ('formats', ('File',), 'is no format: it must be a class derived from distill.formats.Format, '
     'or with all its members, or a')])
def test_what_a_card_names_is_no_other_function_either(lab, room, good, line):
  lab(parts=PARTS)
  for name in good:
    assert callable(lookup.find(room, f'mylab.parts:{name}', 'x'))
  for name in ('os:mkdir', 'mylab.parts:takes', 'mylab.parts:Net', 'pathlib:Path'):
    with pytest.raises(Stop, match=f"x='{name}' {line}"):
      lookup.find(room, name, 'x')


@pytest.mark.parametrize(('room', 'name', 'lacking'), [
    ('tasks', 'Few', 'parts, labelled, constant, explain, exclusive, prepare, bootstrap, '
     'categories, numbers'), ('tasks', 'Mute', 'score'), ('modalities', 'Unread', 'encode'),
    ('modalities', 'Blind', 'overlap, convolved, show, spare, sizes, corruptions, prepare, ')])
def test_a_class_that_lacks_a_member_is_refused_by_its_name(lab, room, name, lacking):
  lab(parts=PARTS)
  with pytest.raises(Stop, match=f'; {name} lacks {lacking}'):
    lookup.find(room, f'mylab.parts:{name}', 'x')


def test_a_task_whose_constructor_leaves_a_member_out_is_refused(lab):
  lab(parts=PARTS)
  lookup.build('tasks', {'name': 'mylab.parts:Silent'}, 'task')
  with pytest.raises(Stop, match='task: Vague lacks primary$'):
    lookup.build('tasks', {'name': 'mylab.parts:Vague'}, 'task')


def test_the_methods_that_are_asked_for_are_those_without_a_default():
  for room, methods in lookup.METHODS.items():
    source = inspect.getsource(getattr(importlib.import_module(f'distill.{room}'),
                                       lookup.PROTOCOLS[room]))
    bare = {each.name for each in ast.parse(source).body[0].body
            if isinstance(each, ast.FunctionDef) and len(each.body) == 1
            and isinstance(each.body[0], ast.Expr)}
    assert bare == {*methods}


@pytest.mark.parametrize(('room', 'name', 'known'), [
    ('tasks', 'classification.score_resamples', "did you mean 'classification.Classification'"),
    ('modalities', 'cloud.PointCloud', 'there is image.Image, text.Text'),
    ('formats', 'gguf.GGUF', 'there is huggingface.HuggingFace, safetensors.Safetensors, '
     'stablehlo.StableHLO')])
def test_a_room_of_kinds_has_nothing_else(room, name, known):
  with pytest.raises(Stop, match=f"x='{name}' names nothing in distill/{room}; {known}"):
    lookup.find(room, name, 'x')


@pytest.mark.parametrize(('name', 'line'), [
    ('mylab.parts:', " must be MODULE:NAME, such as 'mylab.nets:MobileNet'"),
    (':Net', ' must be MODULE:NAME'), ('mylab.parts:Net:x', ' must be MODULE:NAME'),
    (':', ' must be MODULE:NAME'), ('mylab.parts:Net.x', ' must be MODULE:NAME'),
    ('.mylab:Net', ' must be MODULE:NAME'), ('mylab..parts:Net', ' must be MODULE:NAME'),
    ('mylab/parts.py:Net', ' must be MODULE:NAME'), ('mylab.parts: Net', ' must be MODULE:NAME'),
    ('yourlab.nets:Net', ": there is no module 'yourlab': the folder that holds it must be on "
     'PYTHONPATH, or the command be run from that folder'),
    ('mylab.part:Net', ": there is no module 'mylab.part'; did you mean 'mylab.parts'"),
    ('mylab.parts.net:Net', ": there is no module 'mylab.parts.net'"),
    ('mylab.parts:Nets', ": mylab.parts has no 'Nets'; did you mean 'Net' or 'net'?"),
    ('mylab.parts:VERSION', ' is a int, not a function or a class'),
    ('os:path', ' is a module, not a function or a class'),
    ('mylab.needs:Net', ": mylab.needs needs the module 'nowhere', which is not installed"),
    ('mylab.inner:Net', ": mylab.inner needs the module 'mylab.nowhere', which is not installed"),
    ('mylab.faulty:Net', ': importing mylab.faulty raises ZeroDivisionError: division by zero; '
     'python -c "import mylab.faulty" shows where'),
    ('mylab.wrong:Net', ': importing mylab.wrong raises SyntaxError: '),
    ('mylab.ends:Net', ': importing mylab.ends raises SystemExit: 3'),
    ('mylab.silent:Net', ': importing mylab.silent raises KeyError; python'),
    ('mylab.lines:Net', ': importing mylab.lines raises ValueError: one; python'),
    ('mylab.lazy:Net', ': importing mylab.lazy raises RuntimeError: not now'),
    ('math:hypot', ' has no signature that Python can read'),
])
def test_a_name_outside_that_names_nothing_is_one_line(lab, name, line):
  lab(parts=PARTS, needs='import nowhere', inner='import mylab.nowhere', faulty='1 / 0',
      wrong='def Net(:\n  pass', ends='raise SystemExit(3)', silent='raise KeyError',
      lines='raise ValueError("one\\ntwo")',
      lazy='def __getattr__(name):\n  raise RuntimeError("not now")')
  # `hypot` has no signature in Python 3.11 and 3.12.
  if name == 'math:hypot' and _has_signature(math.hypot):
    pytest.skip('this Python knows its signature')
  with pytest.raises(Stop) as stop:
    lookup.find('losses', name, 'objective.soft.loss')
  assert stop.value.status == Status.CONFIG
  assert str(stop.value).startswith(f'objective.soft.loss={name!r}{line}')
  assert '\n' not in str(stop.value) and 'Traceback' not in str(stop.value)


def _has_signature(function):
  try:
    return bool(inspect.signature(function))
  except ValueError:
    return False


def test_a_signal_while_a_module_is_imported_stays_what_it_is(lab):
  lab(parts='from distill.types import Status, Stop\nraise Stop(Status.PREEMPTED, "saved")')
  with pytest.raises(Stop, match='^saved$') as stop:
    lookup.find('losses', 'mylab.parts:Net', 'x')
  assert stop.value.status == Status.PREEMPTED


@dataclasses.dataclass(frozen=True)
class Node:
  rate: float
  parts: dict = dataclasses.field(default_factory=dict)
  name: str = 'x'


def test_defaults_are_those_of_functions_and_of_dataclasses_with_factories():
  assert lookup.defaults(takes) == dict(steps=3, name='', on=False, sizes=(), extra=None)
  assert lookup.defaults(Node) == dict(parts={}, name='x')


@pytest.mark.parametrize(('text', 'expected', 'value'), [
    ('1', float, 1.0), ('1e-3', float, 1e-3), ('1', int, 1), ('1', str, '1'), ('None', str, 'None'),
    ('true', bool, True), ('True', bool, True), ('(1, 2)', Sequence[int], (1, 2)),
    ("{'a': 1}", dict, {'a': 1}), ('None', int | None, None), ('3', int | None, 3),
    ('3', str | None, '3'), ('None', str | None, None), ('x', float, 'x'), ('[[[', Sequence, '[[['),
    ('a.b:C', inspect.Parameter.empty, 'a.b:C'), ('2', inspect.Parameter.empty, 2)])
def test_a_text_of_the_command_line_is_a_value_of_the_type_that_is_asked_for(text, expected, value):
  found = lookup.parse_value(text, expected)
  assert found == value and type(found) is type(value)


def test_a_projector_from_outside_must_be_a_module():
  assert lookup.find('projectors', 'flax.nnx:Linear', 'x') is nnx.Linear
  with pytest.raises(Stop, match="x='os:mkdir' is no projector: it must be a class derived"):
    lookup.find('projectors', 'os:mkdir', 'x')
