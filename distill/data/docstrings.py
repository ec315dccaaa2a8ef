"""The embedded corpus: which library does a docstring come from?

Docstrings of modules, classes and functions of the standard library and of the packages that
this project depends on, read from their source files by syntax tree: no package is imported or
downloaded. Names of the library are masked, so that only the style and topic can tell it.
"""
import ast
import functools
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from distill.data import text
from distill.data.sets import Dataset
from distill.data.stored import load_or_make, pack, source_sha256, unpack
from distill.types import Status, Stop

File = tuple[str, int, int]         # path, size, time of its last change
STANDARD = 'stdlib'
ALIASES = {         # other names of a library
    'absl': ('abseil',),
    'flax': ('nnx', 'linen'),
    'jax': ('jnp', 'jaxlib', 'jaxpr', 'jaxprs', 'lax'),
    'jinja2': ('jinja',),
    'matplotlib': ('mpl', 'plt', 'pylab', 'pyplot'),
    'numpy': ('np',),
    'orbax': ('ocp',),
    'scipy': ('sp',),
    'tensorflow_datasets': ('tensorflow', 'tf', 'tfds'),
}
# Tests say little; copies of other projects would be labelled by who copied them.
SKIPPED = {'test', 'tests', 'idle_test', 'site-packages', 'dist-packages', 'array_api_compat',
           'array_api_extra', '_vendor', 'vendored', 'third_party', 'externals', 'extern'}


def Docstrings(*, length: int = 64, vocabulary: int = 8000, per_class: int = 4000,
               minimum: int = 300, words: int = 5, packages: Sequence[str] = (),
               tokenizer: str = '', cache: str = '') -> Dataset:
  """Loads docstrings by library: their first three paragraphs, nine tenths of them to train.

  Args:
    per_class: the largest number of texts of a library, chosen by a hash of the text.
    minimum: a library with fewer texts is left out, with a note.
    words: a text with fewer words is left out.
    packages: distributions to read beside the standard library; all dependencies that
      `distill` declares unless given.
    tokenizer: as of `text.dataset`.
  """
  sources = _sources(packages or _declared())
  made_of = {library: [source_sha256(__file__), platform.python_version(), files]
             for library, (_, files) in sources.items()}

  def corpus():
    # Each library is cached separately: corpora with other limits share this slow part.
    found = {}
    for library, (_, files) in sources.items():
      found[library] = load_or_make(
          'library', made_of[library], functools.partial(_read, files), cache)
    return {'corpus': pack(_corpus(
        {library: unpack(arrays['docstrings']) for library, arrays in found.items()},
        per_class=per_class, minimum=minimum, words=words))}

  made = load_or_make('docstrings', [made_of, per_class, minimum, words], corpus, cache)
  corpus = unpack(made['corpus'])
  if len(corpus['classes']) < 2:
    raise ValueError(f'packages={tuple(packages)}, minimum={minimum}: fewer than two libraries '
                     f'have so many docstrings; {"; ".join(corpus["notes"])}')
  return text.dataset(
      corpus['texts'], corpus['labels'], name='docstrings', classes=corpus['classes'],
      length=length, vocabulary=vocabulary, tokenizer=tokenizer, notes=corpus['notes'], cache=cache,
      versions={d: v for library in corpus['classes'] for d, v in sources[library][0].items()})


def _declared() -> list[str]:
  """Returns the distributions that every installation of `distill` needs: no extras or markers."""
  try:
    requirements = importlib.metadata.requires('distill') or []
  except importlib.metadata.PackageNotFoundError:
    raise Stop(Status.DATA, 'data.packages is empty and distill is not installed, so its '
               "dependencies aren't known: pip install -e .") from None
  return sorted(re.match(r'[\w.-]+', r)[0] for r in requirements if ';' not in r)


def _sources(packages: Iterable[str]) -> dict[str, tuple[dict[str, str], list[File]]]:
  """Returns, for each library, its distributions with versions, and its source files."""
  sources = {STANDARD: ({'python': platform.python_version()}, _standard())}
  for package in packages:
    try:
      distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
      raise Stop(Status.DATA, f'data.packages: {package!r} is not installed, so it has no '
                 'docstrings: pip install it, or name the packages to read') from None
    files = [str(file) for file in distribution.files or () if file.suffix == '.py']
    tops = Counter(file.partition('/')[0] for file in files if '/' in file)
    if tops:
      library = min(tops, key=lambda top: (-tops[top], top))
      versions, known = sources.setdefault(library, ({}, []))
      versions[distribution.metadata['Name']] = distribution.version
      known += _source_files(str(distribution.locate_file('')), files)
  return sources


def _standard() -> list[File]:
  root, files = sysconfig.get_path('stdlib'), []
  for folder, folders, names in os.walk(root):
    folders[:] = set(folders) - SKIPPED
    files += [os.path.relpath(folder, root) + '/' + name for name in names
              if name.endswith('.py')]
  return _source_files(root, files)


def _source_files(root: str, files: Iterable[str]) -> list[File]:
  kept = []
  for file in files:
    *folders, name = file.split('/')
    if (SKIPPED.isdisjoint(folders) and not name.startswith('test_')
        and not name.endswith(('_test.py', 'conftest.py')) and os.path.isfile(f'{root}/{file}')):
      found = os.stat(f'{root}/{file}')
      kept.append((f'{root}/{file}', found.st_size, found.st_mtime_ns))
  return sorted(kept)


def _corpus(libraries: dict[str, list[str]], *, per_class: int, minimum: int,
            words: int) -> dict:
  """Returns texts and labels by split, class names, and notes; ordered by a hash."""
  mask = _mask(libraries)
  found, notes = {library: {} for library in sorted(libraries)}, []
  for library, texts in found.items():
    for masked in map(mask, libraries[library]):
      if len(re.findall(r'[^\W\d_]{2,}', masked)) >= words:
        digest = hashlib.sha256(' '.join(masked.casefold().split()).encode()).hexdigest()
        texts.setdefault(digest, masked)
  holders = Counter(digest for texts in found.values() for digest in texts)
  shared = {digest for digest, n in holders.items() if n > 1}
  if shared:      # its label would depend on chance, and the other copy might be in the test split
    notes.append(f'{len(shared)} docstrings stand in several libraries and were left out')
  unique = {library: sorted(texts.keys() - shared) for library, texts in found.items()}
  small = {library: len(texts) for library, texts in unique.items() if len(texts) < minimum}
  if small:
    notes.append(f'left out for fewer than {minimum} docstrings: '
                 + ', '.join(f'{library} ({n})' for library, n in small.items()))
  classes = [library for library in unique if library not in small]
  rows = sorted((digest, k) for k, library in enumerate(classes)
                for digest in unique[library][:per_class])
  split = lambda digest: 'test' if int(digest[-8:], 16) % 10 == 0 else 'train'
  texts, labels = {'train': [], 'test': []}, {'train': [], 'test': []}
  for digest, k in rows:
    texts[split(digest)].append(found[classes[k]][digest])
    labels[split(digest)].append(k)
  return {'texts': texts, 'labels': labels, 'classes': classes, 'notes': notes}


def _read(files: Iterable[File]) -> dict:
  """Reads the first three paragraphs of all docstrings, without duplicates."""
  starts = {'\n\n'.join(re.split(r'\n\s*\n', docstring)[:3])
            for path, _, _ in files for docstring in _docstrings(path)}
  return {'docstrings': pack(sorted(  # escapes may spell what is no Unicode text
      start.encode(errors='replace').decode() for start in starts))}


def _docstrings(path: str) -> Iterator[str]:
  """Yields all docstrings of a source file; none if this Python can't parse it."""
  try:
    with warnings.catch_warnings():
      warnings.simplefilter('ignore')         # other people's escapes
      stack = [ast.parse(pathlib.Path(path).read_bytes())]
  except (SyntaxError, ValueError):
    return
  while stack:
    node = stack.pop()
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
      if docstring := ast.get_docstring(node):
        yield docstring
    for block in ('body', 'orelse', 'handlers', 'finalbody'):
      stack.extend(getattr(node, block, ()))


def _mask(libraries: Iterable[str]):
  """Replaces the libraries' names, also as parts of identifiers: `np.array`, `NumpyHandler`."""
  names = sorted({name for library in libraries if library != STANDARD
                  for name in (library, *ALIASES.get(library, ()))}, key=lambda n: (-len(n), n))
  if not names:
    return str
  start = r'(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))'
  end = r'(?:(?![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?=[A-Z][a-z]))'
  name = f'(?i:{"|".join(map(re.escape, names))})'
  pattern = re.compile(f'{start}{name}(?:[._]{name})*{end}')
  return lambda docstring: pattern.sub('LIB', docstring)
