"""The words of names and docstrings: what a stranger, who met them in papers, can read.

No name is of the dialect below, a docstring of a function begins with a verb, and one of a class, a
module or a property with a noun.
"""
import ast
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parent.parent
# Words with many meanings, or with one that only this repository gives them.
DIALECT = {'told', 'said', 'there', 'own', 'alone', 'saw', 'spent', 'gathered', 'reasons', 'inside',
           'stood', 'looked', 'what', 'this', 'of', 'one'}
# These may be no part of a longer name either.
PARTS = {'told', 'said', 'saw', 'spent', 'gathered', 'stood', 'looked'}
# Fields and arguments that bear the name of a config key, or of a field of a report or a record.
KEYS = {'alone', 'drawn', 'saw', 'spent', 'reasons', 'of'}
# First words of a docstring that is a clause, or that has a pronoun or an adverb for its subject.
CLAUSES = {'Whether', 'What', 'How', 'Whom', 'Who', 'Where', 'When', 'Why', 'Which', 'Whose', 'Of',
           'This', 'That', 'It', 'Its', 'They', 'These', 'Those', 'Their', 'As', 'If', 'In', 'On',
           'By', 'From', 'Is', 'Was', 'Has', 'Does', 'Always', 'ValueError', 'Also'}
# First words in -s that are no verb.
PLURALS = {'Loss', 'Class', 'Process', 'Axis', 'Bias', 'Cosines', 'Logits', 'Shapes', 'Parameters',
           'Vectors', 'Gaussians', 'Words', 'Names', 'Examples', 'Weights', 'Outputs', 'Batches',
           'Rows', 'Images', 'Texts', 'Features', 'Pictures', 'Numbers', 'Records', 'Classes',
           'Losses', 'Bytes', 'Inputs', 'Columns', 'Files', 'Probabilities', 'Arrays', 'Views',
           'Terms', 'Shardings', 'Models', 'Operations', 'Distances', 'Products', 'Fields',
           'Positions', 'Tokens', 'Pixels', 'Metrics', 'Teachers', 'Students', 'Projectors'}
VERB = re.compile(r'[A-Z][a-z]+s')


def names(tree: ast.Module) -> Iterator[tuple[int, str, bool]]:
  """Yields line and name of every definition, and whether it is a field or an argument."""
  fields = {id(node.target) for node in ast.walk(tree) if isinstance(node, ast.AnnAssign)}
  for node in ast.walk(tree):
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
      yield node.lineno, node.name, False
    elif isinstance(node, ast.arg):
      yield node.lineno, node.arg, True
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
      yield node.lineno, node.id, id(node) in fields
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
      yield node.lineno, node.attr, True
    elif isinstance(node, ast.alias) and node.asname:
      yield node.lineno, node.asname, False
    elif isinstance(node, ast.ExceptHandler) and node.name:
      yield node.lineno, node.name, False


def dialect(tree: ast.Module) -> list[str]:
  """Returns the names of a file that are words of the dialect, each with its line."""
  return sorted({f'{line}: {name}' for line, name, is_key in names(tree)
                 if not (is_key and name in KEYS)
                 and (name.lower().strip('_') in DIALECT or PARTS & {*name.lower().split('_')})})


def documented(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
  """Yields the module, the classes and the functions of a file that have a docstring."""
  for node in ast.walk(tree):
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
      yield node, ast.get_docstring(node)


def is_property(node: ast.AST) -> bool:
  return any('property' in ast.unparse(decorator)
             for decorator in getattr(node, 'decorator_list', ()))


def unreadable(tree: ast.Module, is_value: bool = False) -> list[str]:
  """Returns the starts of docstrings that break a rule, each with its line.

  `is_value`: a public function at the top of the file is a formula, as those of `losses/` are, and
  its docstring may begin with that. Tests and fixtures say what holds.
  """
  found = []
  for node, text in documented(tree):
    line = getattr(node, 'lineno', 1)
    found += [f'{line}: {sentence[:40]}' for sentence in re.split(r'(?<=[.!?:;])\s+', text)
              if sentence.startswith('Of ')]
    first = re.split(r'[\s,;:]', text)[0]
    is_test = getattr(node, 'name', '').startswith(('test_', 'Test'))
    is_formula = is_value and node in tree.body and not node.name.startswith('_')
    is_verb = VERB.fullmatch(first) and first not in PLURALS
    needs_verb = isinstance(node, ast.FunctionDef) and not (
        is_test or is_formula or is_property(node))
    if first in CLAUSES and not is_test or needs_verb and not is_verb or (
        is_property(node) and first == 'Returns'):
      found.append(f'{line}: {text.splitlines()[0][:60]}')
  return found


def files() -> list[pathlib.Path]:
  """Returns all Python files."""
  return [path for room in ('distill', 'tests', 'experiments', 'configs')
          for path in sorted((ROOT / room).rglob('*.py'))]


@pytest.mark.parametrize('path', files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_of_the_dialect(path):
  assert not dialect(ast.parse(path.read_text()))
  assert path.stem not in DIALECT


@pytest.mark.parametrize('path', [p for p in files() if p.relative_to(ROOT).parts[0] in (
    'distill', 'experiments')], ids=lambda path: str(path.relative_to(ROOT)))
def test_a_docstring_begins_with_a_verb_or_a_noun(path):
  assert not unreadable(ast.parse(path.read_text()), is_value=path.parent.name == 'losses')


@pytest.mark.parametrize('path', [p for p in files() if ROOT / 'tests' in p.parents],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_no_sentence_of_a_test_begins_with_of(path):
  for _, text in documented(ast.parse(path.read_text())):
    assert not re.search(r'(?:^|[.!?:;]\s+)Of ', text)


@pytest.mark.parametrize('code', [
    'told = 1', 'def f(what): pass', 'def _said(): pass', 'class Inside: pass', 'self.own = 1',
    'for one in x: pass', 'with f() as there: pass', 'import a as of', 'f = lambda this: 0',
    'looked_into = 1', 'def f():\n  what_it_saw = 1', 'try: f()\nexcept E as this: pass',
    '[one for one in x]', 'alone = 1', 'if (own := 1): pass', 'class A:\n  told: int'])
def test_a_word_of_the_dialect_is_seen(code):
  assert dialect(ast.parse(code))


@pytest.mark.parametrize('code', [
    'class A:\n  alone: bool', 'def f(*, saw): pass', 'f(what=1)', 'owner = once = 1',
    'def one_hot(x): pass', "x = 'told'"])
def test_other_words_and_keys_of_configs_are_no_dialect(code):
  assert not dialect(ast.parse(code))


@pytest.mark.parametrize('code', [
    'def f():\n  """Whether it is so."""', 'def f():\n  """The array."""',
    'def f():\n  """Shapes of a tree."""', 'def f():\n  """Returns x. Of these y."""',
    '"""What a run keeps."""', 'class A:\n  """How it is."""', 'def f():\n  """Give x."""',
    '@property\ndef f():\n  """Returns x."""', 'def f():\n  """ValueError unless so."""',
    'def test_f():\n  """It holds. Of these y."""'])
def test_a_docstring_that_breaks_a_rule_is_seen(code):
  assert unreadable(ast.parse(code))


@pytest.mark.parametrize('code', [
    'def f():\n  """Returns x."""', 'class A:\n  """A run."""', '"""Losses."""',
    '@property\ndef f():\n  """Shapes of the weights."""', 'def test_f():\n  """It holds."""',
    'def f():\n  pass'])
def test_a_plain_docstring_is_no_fault(code):
  assert not unreadable(ast.parse(code))
