"""The rules of the house that a machine can hold."""
import ast
import pathlib
import re

import pytest

from distill import flags

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / 'distill'
FLOORS = [
    {'types', 'lookup', 'disk', 'hub', 'numbers', 'streams', 'maths',
     'command_line'},
    {'losses', 'schedules', 'optimizers', 'sharding', 'logs', 'modalities'},
    {'models', 'data', 'seal'},
    {'compress', 'projectors'},
    {'objective', 'carry', 'teachers', 'student', 'augment', 'tasks', 'microbatches',
     'loss_scale'},
    {'step', 'checkpoint', 'runs'},
    {'formats'},
    {'train', 'records', 'launch'},
    {'measure'},
    {'report'},
    {'notebook'},
    {'pipelines'},
    {'flags'},
    {'workdir'},
    {'main', 'predict', 'export', 'evaluate'},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
NAMED_BY_CONFIGS = {'losses', 'schedules', 'optimizers', 'models', 'projectors', 'data', 'tasks',
                    'augment', 'carry', 'compress', 'pipelines'}
# Machinery never asks which modality, task or format it has: only the rooms named beside these
# literals may have them, or paths that begin with them.
FIELDS = {'image', 'tokens', 'types', 'pixels', 'tokenizer_sha256'}
PARTS = {'head', 'pooler', 'words'}
ASK_THE_OBJECT = {
    **dict.fromkeys(FIELDS, {'modalities', 'data', 'models', 'augment', 'tasks'}),
    **dict.fromkeys(PARTS, {'models', 'formats', 'tasks'}),
    'logits': {'losses', 'models', 'projectors', 'tasks', 'augment', 'modalities', 'data', 'carry',
               'objective', 'student', 'teachers'}}
# On floor 4 the student is built of projectors over views; carries and terms name paths.
WITHIN_A_FLOOR = {('carry', 'objective'), ('student', 'objective'), ('lookup', 'types'),
                  ('disk', 'types'), ('hub', 'types'), ('numbers', 'types'), ('streams', 'types'),
                  ('command_line', 'types')}
FILES = sorted(PACKAGE.rglob('*.py'))
TREES = {path: ast.parse(path.read_text()) for path in FILES}


def room(path: pathlib.Path) -> str:
  if path.name == '__main__.py':        # a door, as main is
    return 'main'
  return path.relative_to(PACKAGE).parts[0].removesuffix('.py')


def imports(tree: ast.Module) -> set[str]:
  """Returns the rooms of `distill` that a file imports."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module == 'distill':
      found |= {a.name for a in node.names if not a.name.startswith('__')}
    elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('distill.'):
      found.add(node.module.split('.')[1])
    elif isinstance(node, ast.Import):
      found |= {a.name.split('.')[1] for a in node.names if a.name.startswith('distill.')}
  return found


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only(path):
  here = room(path)
  if here == '__init__':
    assert not imports(TREES[path])
    return
  for other in imports(TREES[path]) - {here}:
    assert FLOOR[other] < FLOOR[here] or (here, other) in WITHIN_A_FLOOR, f'{here} imports {other}'


def knowing(tree: ast.Module, here: str) -> list[str]:
  """Returns the literals by which a file of the room `here` branches on a modality or a task."""
  found = [node.value for node in ast.walk(tree)
           if isinstance(node, ast.Constant) and isinstance(node.value, str)]
  return [text for text in found
          if here not in ASK_THE_OBJECT.get(text.split('/')[0], {here})]


@pytest.mark.parametrize('path', FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_machinery_never_asks_which_modality_or_task_it_has(path):
  assert not knowing(TREES[path], room(path))


@pytest.mark.parametrize('code, here', [
    ("batch['image']", 'pipelines'), ("if 'tokens' in batch: pass", 'measure'),
    ("outputs['logits']", 'step'), ("path.startswith('head/')", 'pipelines'),
    ("card['tokenizer_sha256']", 'formats'), ("TABLE = 'words/bias'", 'report'),
    ("batch['pixels']", 'records'), ("x['types']", 'main'), ("p == 'pooler'", 'student')])
def test_a_branch_on_a_modality_or_a_task_is_found(code, here):
  assert knowing(ast.parse(code), here)


def test_nobody_asks_for_the_class_of_a_model_or_a_format():
  for path in FILES:
    if room(path) not in ('models', 'formats', 'modalities'):
      for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Call) and getattr(node.func, 'id', '') == 'isinstance':
          names = {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
          assert names.isdisjoint({'Program', 'Functional', 'Text', 'Image', 'StableHLO'}), path


def doors(tree: ast.Module) -> set[str]:
  """Returns the doors that a file imports: modules at the top, or the `__main__` of a room."""
  found = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      found |= {node.module, *(f'{node.module}.{alias.name}' for alias in node.names)}
  return {name for name in found if name and name.startswith('distill.') and (
      name.split('.')[1] in FLOORS[-1] or '__main__' in name.split('.'))}


@pytest.mark.parametrize('path', [*FILES, *sorted((ROOT / 'experiments').rglob('*.py'))],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_imports_a_door(path):
  """Also no door and no experiment does: flags, workdir and launch have what they share."""
  assert not doors(ast.parse(path.read_text()))


@pytest.mark.parametrize('code', [
    'from distill import lookup, main', 'import distill.main as m', 'import distill.main',
    'from distill.main import parsed', 'from distill import evaluate',
    'def f():\n  from distill.report.__main__ import command', 'from distill import predict'])
def test_an_imported_door_is_found(code):
  assert doors(ast.parse(code))
  assert not doors(ast.parse(code.replace('__main__', 'report').replace('main', 'flags').replace(
      'predict', 'records').replace('evaluate', 'measure')))


def test_a_format_s_file_names_are_known_in_its_own_file():
  for path in FILES:
    if path.parent.name != 'formats' and room(path) != 'hub':      # which asks for these files
      names = [n.value for n in ast.walk(TREES[path]) if isinstance(n, ast.Constant)
               and isinstance(n.value, str) and n.value.endswith(('.safetensors', '.stablehlo'))]
      assert names in ([], ['state.safetensors']), path       # the last is of a checkpoint


def test_no_file_is_long():
  assert not {str(p): n for p in FILES if (n := len(p.read_text().splitlines())) > 350}


def long_functions(tree: ast.Module, most: int = 60) -> list[str]:
  """Returns the functions of more than `most` lines, docstrings aside."""
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef):
      about = ast.get_docstring(node, clean=False)
      if node.end_lineno - node.lineno + 1 - len((about or '').splitlines()) > most:
        found.append(node.name)
  return found


def test_no_function_is_long():
  assert not {str(p): names for p, tree in TREES.items() if (names := long_functions(tree))}
  assert long_functions(ast.parse('def f():\n' + '  x = 1\n' * 60)) == ['f']
  assert not long_functions(ast.parse('def f():\n  """A.\n' + '\n' * 60 + '  """\n  x = 1\n'))


def private(tree: ast.Module) -> list[str]:
  """Returns the private names of other files of the package that a file uses."""
  found, modules = [], set()
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('distill'):
      found += [alias.name for alias in node.names if alias.name[:1] == '_' != alias.name[1:2]]
      modules |= {alias.asname or alias.name for alias in node.names}
  return found + [f'{node.value.id}.{node.attr}' for node in ast.walk(tree)
                  if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
                  and node.value.id in modules and node.attr[:1] == '_' != node.attr[1:2]]


def test_no_file_uses_a_private_name_of_another():
  assert not {str(p): names for p, tree in TREES.items() if (names := private(tree))}


@pytest.mark.parametrize('code', ['from distill.losses import _wide',
                                  'from distill import checkpoint\ncheckpoint._save(1)'])
def test_a_private_name_of_another_file_is_found(code):
  assert private(ast.parse(code)) and not private(ast.parse(code.replace('_', '')))


def private_modules(tree: ast.Module) -> list[str]:
  """Returns the private modules of other packages that a file imports."""
  found = [node.module or '' for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
  found += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import)
            for alias in node.names]
  return [name for name in found if re.search(r'(^|\.)_(?!_)', name)]


def test_nothing_private_of_a_library_is_imported():
  assert not {str(p): names for p, tree in TREES.items() if (names := private_modules(tree))}
  for code in 'from jax._src.clusters import ClusterEnv', 'import jax._src.core':
    assert private_modules(ast.parse(code))
  assert not private_modules(ast.parse('from __future__ import annotations\nimport jax.core'))


def raising_walruses(tree: ast.Module) -> list[str]:
  """Finds conditions that assign and whose only action is to raise: two plain lines read better."""
  return [f'{n.lineno}: {ast.unparse(n.test)}' for n in ast.walk(tree)
          if isinstance(n, ast.If) and len(n.body) == 1 and isinstance(n.body[0], ast.Raise)
          and any(isinstance(part, ast.NamedExpr) for part in ast.walk(n.test))]


@pytest.mark.parametrize('path', [*FILES, *(ROOT / 'experiments').rglob('*.py')], ids=str)
def test_no_condition_that_raises_also_assigns(path):
  assert not raising_walruses(ast.parse(path.read_text()))


@pytest.mark.parametrize('code, count', [
    ('if wrong := find():\n  raise ValueError(wrong)', 1),
    ('if known and (wrong := find()):\n  raise ValueError(wrong)', 1),
    ('wrong = find()\nif wrong:\n  raise ValueError(wrong)', 0),
    ('if found := find():\n  print(found)', 0)])
def test_a_condition_that_raises_and_assigns_is_found(code, count):
  assert len(raising_walruses(ast.parse(code))) == count


def test_no_file_is_empty():
  assert not [p for p in FILES if not p.read_text().strip()]


def test_every_file_has_a_docstring():
  assert not [p for p in FILES if not ast.get_docstring(TREES[p])]


def uses(tree: ast.Module) -> list[str]:
  """Returns every name that code uses; prose and a definition are no use."""
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Name):
      found.append(node.id)
    elif isinstance(node, ast.Attribute):
      found.append(node.attr)
    elif isinstance(node, ast.ImportFrom):
      found += [alias.name for alias in node.names]
  return found


def test_every_public_name_has_a_caller():
  code = [ast.parse(p.read_text()) for folder in ('distill', 'experiments', 'configs')
          for p in (ROOT / folder).rglob('*.py')]
  used = {name for tree in code for name in uses(tree)}
  for path, tree in TREES.items():
    if room(path) in NAMED_BY_CONFIGS:      # `lookup` is the caller
      continue
    for node in tree.body:
      if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith('_'):
        assert node.name in used, f'{path.relative_to(ROOT)}: nothing calls {node.name}'


def test_every_config_field_is_read():
  """Nodes become arguments of functions and dataclasses, whose fields must be used."""
  read = {node.attr for tree in TREES.values() for node in ast.walk(tree)
          if isinstance(node, ast.Attribute)}
  for path, tree in TREES.items():
    for node in tree.body:
      if isinstance(node, ast.ClassDef) and node.name in (
          'EvalConfig', 'Config', 'TeacherNode', 'TeacherTrain', 'StageNode', 'DeriveNode',
          'StudentNode', 'Evaluate', 'TermNode', 'TrainConfig'):
        fields = {n.target.id for n in node.body if isinstance(n, ast.AnnAssign)}
        unread = fields - read - {'pipeline', 'tier'}       # read before there is a Config
        assert not unread, f'{path.relative_to(ROOT)}: nothing reads {node.name}.{unread}'


def test_only_doors_touch_global_state():
  for path in FILES:
    text = path.read_text()
    if room(path) not in ('main', 'launch'):        # which doors call
      assert 'jax.config.update' not in text and 'os.environ[' not in text, path


def test_no_config_reads_with_a_default():
  assert not [p for p in FILES if re.search(r'\bconfig\.get\([\'"]\w+[\'"],', p.read_text())]


def test_configs_import_only_ml_collections():
  for path in (ROOT / 'configs').glob('*.py'):
    modules = {getattr(n, 'module', '') for n in ast.walk(ast.parse(path.read_text()))
               if isinstance(n, ast.Import | ast.ImportFrom)}
    assert modules <= {'ml_collections', 'typing'}, path


def lines_beside_methods(tree: ast.Module, text: str) -> int:
  """Counts a config's lines except functions of a config `c`, with their blank lines."""
  methods = [n for n in tree.body
             if isinstance(n, ast.FunctionDef) and [a.arg for a in n.args.args] == ['c']]
  return len(text.splitlines()) - sum(n.end_lineno - n.lineno + 3 for n in methods)


def test_a_config_is_read_at_once():
  for path in (ROOT / 'configs').glob('*.py'):
    text = path.read_text()
    assert lines_beside_methods(ast.parse(text), text) <= 100, path


def test_no_pickle_is_ever_read():
  for path in FILES:
    assert not re.search(r'\bimport pickle\b|allow_pickle=True|torch\.load', path.read_text()), path


def commands() -> dict[str, str]:
  """Returns the configs of commands in the README and in the configs' docstrings."""
  found = {}
  for path in (ROOT / 'README.md', *sorted((ROOT / 'configs').glob('*.py'))):
    text = path.read_text()
    file = re.search(r'^F=(\S+?);', text, flags=re.MULTILINE)
    for config in re.findall(r'--config=(\S+)', text):
      config = config.rstrip('`.,;').replace('$F', file.group(1) if file else '$F')
      if not re.search('NAME|TASK|^mine', config):        # mine: the README's block
        found[f'{path.name}: {config}'] = config
  return found


@pytest.mark.parametrize('config', commands().values(), ids=commands().keys())
def test_every_config_of_a_documented_command_exists(config, monkeypatch):
  monkeypatch.chdir(ROOT)
  assert flags.parsed([f'--config={config}']).config.seed == 0
