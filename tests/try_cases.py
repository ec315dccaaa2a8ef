"""Tries the inputs that were once wrong, each by the command that it was wrong with.

python tests/try_cases.py FOLDER        # of the inputs, as its README.md describes them

Prints for each the command, its exit status, the first and the last line that it printed, and
`right` or `WRONG` by the expectation that stands here: a status and a pattern of what is printed.
Exits with the number of those that are wrong. Models are trained here, in a temporary folder, which
takes three minutes.
"""
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
PLAN = ('steps=2', 'log_every=1', 'save_every=1', 'eval_every=2')
STUDENT = ('--config.student.model.width=16', '--config.student.model.depth=1',
           '--config.data.length=16', '--config.data.shares=(0.5, 0.25, 0.25)',
           '--config.evaluate.alone=False', '--config.evaluate.faithfulness=False',
           *(f'--config.train.{field}' for field in PLAN))
SMALL = (*STUDENT, '--config.teachers.teacher.model.width=32',
         '--config.teachers.teacher.model.depth=1',
         *(f'--config.teachers.teacher.train.{field}' for field in PLAN))
FILES = '--config=configs/files.py'
LABELS = 'labels: {}$'          # the line that `attempt` adds for a run of a classifier


class Case(NamedTuple):
  """A command, and what is right: its exit status, and a pattern in what it prints."""
  title: str
  arguments: tuple[str, ...]
  status: int
  pattern: str
  stdin: pathlib.Path = pathlib.Path(os.devnull)
  environment: Mapping[str, str] = {}
  alike: bool = False           # all the answers that are printed must be equal


def main(arguments: list[str]) -> int:
  """Tries all cases; returns how many are wrong."""
  if len(arguments) != 1 or not pathlib.Path(arguments[0]).is_dir():
    print(__doc__, file=sys.stderr)
    return 2
  with tempfile.TemporaryDirectory() as place:
    found = [attempt(case) for case in cases(pathlib.Path(arguments[0]).absolute(),
                                             pathlib.Path(place))]
  print(f'{sum(found)} of {len(found)} right')
  return found.count(False)


def attempt(case: Case) -> bool:
  """Runs a case's command and prints how it went; returns whether that is right."""
  done, printed = run(case.arguments, case.stdin, case.environment)
  printed += labels(case.arguments)
  lines = printed.strip().splitlines() or ['']
  right = (done == case.status and 'Traceback' not in printed
           and re.search(case.pattern, printed, flags=re.MULTILINE) is not None
           and not (case.alike and len(answers(lines)) != 1))
  command = ' '.join((*(f'{k}={v}' for k, v in case.environment.items()), 'python -m',
                      shlex.join(a for a in case.arguments if a not in {*SMALL})))
  print(f'{"right" if right else "WRONG"}  {case.title}\n       {command[:200]}\n       '
        f'exit {done}, right is {case.status}, and {case.pattern!r}')
  for line in dict.fromkeys((lines[0], lines[-1])):
    print(f'       | {line[:200]}')
  sys.stdout.flush()
  return right


def run(arguments: tuple[str, ...], stdin: pathlib.Path = pathlib.Path(os.devnull),
        environment: Mapping[str, str] | None = None) -> tuple[int, str]:
  """Runs a command of the project; returns its exit status, and what it printed."""
  env = {**os.environ, 'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu', 'HF_HUB_OFFLINE': '1',
         'XLA_FLAGS': '--xla_backend_optimization_level=0', **(environment or {})}
  with stdin.open('rb') as source:
    done = subprocess.run([sys.executable, '-m', *arguments], cwd=ROOT, env=env, stdin=source,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
  return done.returncode, done.stdout.decode('utf-8', 'backslashreplace')


def labels(arguments: tuple[str, ...]) -> str:
  """Returns a line with the names of the classes, if the command was a run that has left any."""
  workdir = next((a.partition('=')[2] for a in arguments if a.startswith('--workdir=')), '')
  path = pathlib.Path(workdir) / 'export' / 'student' / 'config.json'
  if not workdir or not path.exists():
    return ''
  return f'\nlabels: {", ".join(json.loads(path.read_text("utf-8")).get("id2label", {}).values())}'


def answers(lines: list[str]) -> set[str]:
  """Returns the different answers among printed lines."""
  rows: list[dict[str, Any]] = [json.loads(line) for line in lines if line.startswith('{')]
  return {json.dumps(row.get('probabilities')) for row in rows}


def cases(folder: pathlib.Path, place: pathlib.Path) -> Iterator[Case]:
  """Yields the cases; the models that they ask are trained on the way."""
  text, image, hf = folder / 'text', folder / 'image', folder / 'hf'

  def trained(title: str, path: pathlib.Path, status: int, pattern: str,
              *more: str, config: str = FILES) -> Case:
    return Case(title, ('distill.main', config, f'--config.data.path={path}',
                        f'--workdir={place}/{path.name}{len(config)}', *SMALL, *more), status,
                pattern)

  def asked(title: str, model: pathlib.Path, inputs: tuple[Any, ...], status: int, pattern: str,
            **more: Any) -> Case:
    return Case(title, ('distill.predict', f'--model={model}', *map(str, inputs)), status, pattern,
                **more)

  two = LABELS.format('0, 1')
  yield trained('an integer column that a gap made floats, in one file of a folder',
                text / 'gapfolder', 0, two)
  yield trained('an integer column that a gap made floats', text / 'floatgapcsv.csv', 0, two)
  yield trained('-1 beside 0 and 1 is no label', text / 'minus1.jsonl', 0,
                r'16\b.*-1|-1.*\b16\b(.|\n)*' + two)
  yield trained('-1 is no label to judge by', text / 'minustest', 11, r'test.*label|label.*test')
  yield trained('the text nan is no label', text / 'nonestr.csv', 0,
                r"(27\b.*nan|nan.*\b27\b)(.|\n)*" + LABELS.format('neg, pos'))
  yield trained('labels that print alike are one class', text / 'nfc.jsonl', 0,
                LABELS.format('café, tea'))
  yield trained('a label that UTF-8 has no bytes for', text / 'surrlabel.jsonl', 11,
                r'surrlabel\.jsonl:1\b')
  yield trained('a number beyond float32', text / 'hugefloat.jsonl', 11, r'hugefloat\.jsonl:2\b',
                config=f'{FILES}:regression')
  yield trained('a long field of a CSV', text / 'long.csv', 0, LABELS.format('neg, pos'))
  yield trained('texts with tabs are trained', text / 'tabs.jsonl', 0, LABELS.format('neg, pos'))
  texts = place / f'tabs.jsonl{len(FILES)}' / 'export' / 'student'
  yield asked('a tab is white space to a model of texts', texts,
              ('the\tmeal number 0 was bad', 'the meal number 0 was bad'), 0, '"label"', alike=True)

  strict, ascii = {'PYTHONIOENCODING': 'utf-8:strict'}, {'PYTHONIOENCODING': 'ascii'}
  yield asked('stdin that is not UTF-8', texts, (), 11, r'^distill\.predict: stdin:1: .*UTF-8.*$',
              stdin=text / 'latin1.stdin', environment=strict)
  yield asked('an argument that is not UTF-8', texts, ('caf\udce9 was good',), 11,
              r'^distill\.predict: input 1 is not UTF-8', environment=strict)
  yield asked('an answer that stdout has no characters for', texts, ('café 😀',), 0,
              r'"caf\\u00e9 \\ud83d\\ude00"', environment=ascii)
  digits = Case('a run whose stdout is ASCII', (
      'distill.main', '--config=configs/digits.py:test', f'--workdir={place}/digits é'), 0,
                r'The student keeps(.|\n)*digits \\xe9/report\.html', environment=ascii)
  yield digits
  yield Case('a seed beyond 64 bits', ('distill.main', '--config=configs/digits.py:test',
                                       '--config.seed=99999999999999999999'), 10,
             r'^distill: seed is a whole number')
  info = place / 'tfds' / 'tiny' / '1.0.0' / 'dataset_info.json'
  info.parent.mkdir(parents=True)
  info.write_text('{"fileFormat": "array_rec')
  (place / 'cut.py').write_text((ROOT / 'configs' / 'files.py').read_text('utf-8').replace(
      'return c\n', "c.data = dict(name='tfds.Text', dataset='tiny', fields=dict(text=('text',), "
      f"label='label'), data_dir={str(place / 'tfds')!r}, length=16, batch_size=8, seed=0)\n"
      '  return c\n'), 'utf-8')
  yield Case('a dataset_info.json that is cut', (
      'distill.main', f'--config={place}/cut.py', f'--workdir={place}/cut'), 11,
             r'dataset_info\.json')

  pictures = place / 'digits é' / 'export' / 'student'
  yield asked('an empty file of pixels', pictures, (image / 'empty.npy',), 11, r'empty\.npy')
  yield asked('a picture of too many pixels', pictures, (image / 'bomb.png',), 11, r'bomb\.png')
  yield asked('weights that are not finite', hf / 'nan', ('good',), 13, r'distill\.predict: .*nan')
  loaded = lambda name: (
      'distill.main', FILES, *STUDENT, '--config.teachers.teacher.train={}',
      f'--config.teachers.teacher.init={hf / name}', f'--config.data.tokenizer={hf / name}',
      f'--config.data.path={text / "nonestr.csv"}', f'--workdir={place / name}')
  yield Case('… as a teacher', loaded('nan'), 13, r'nan: .*tensor')
  yield Case('… exported', ('distill.export', f'--model={hf / "nan"}', f'--to={place / "program"}',
                            f'--inputs={text / "nonestr.csv"}'), 13, r'nan: .*tensor')
  yield Case('… evaluated', ('distill.evaluate', f'--models={hf / "nan"}',
                             f'--config={FILES.partition("=")[2]}:test',
                             f'--workdir={place / "evaluated"}'), 13, r'nan: .*tensor')
  yield asked('a model of several labels an example', hf / 'multilabel', ('good',), 0,
              r'"labels": \[.*0\.4583, "pos": 0\.5132')       # sigmoids, which don't add up to 1
  yield Case('… as a teacher of one label', loaded('multilabel'), 15, r'multi|several')
  yield asked('two classes of one name', hf / 'dup_id2label', ('good',), 13, r"'x'|id2label")
  yield asked('a token beyond the embeddings', hf / 'tok_added', ('<new>',), 15,
              r'embeddings|vocabulary|168')
  yield asked('a byte order mark in tokenizer_config.json', hf / 'tc_bom', ('good',), 0, '"label"')


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
