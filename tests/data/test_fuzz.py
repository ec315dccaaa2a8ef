"""Two thousand broken tables of texts: each is a data set, or one line that says what is wrong."""
import json
import math
import random

import numpy as np
import pytest

from distill import lookup, types
from distill.data import batches
from distill.modalities import tokenizer

TABLES = 2000
TAME = ['good', 'bad', 'é', '好', 'cafe\u0301', '👨\u200d👩', 'a b', ' ', '\u2028', '\xa0',
        '\ufeff']
WILD = [*TAME, '', '\t', '\x85', '\ud83d', '\x07', '\x00', '"', "'", ',', '""', '\r', '\n',
        'x' * 300]
LABELS = [0, 1, 2, -1, -100, 1.0, 0.0, 1.5, -0.0, 1e308, 1e-320, 10**30, math.nan, math.inf, True,
          False, None, 'pos', 'neg', 'Pos', 'true', 'TRUE', '1', '1.0', ' 1 ', '01', '1e5', '1e999',
          '9' * 5000, 'nan', 'None', 'NA', '', ' ', 'café', 'cafe\u0301', 'neg\u200b', 'a\xa0b',
          'neg\ud83d', 'a\x07', '\u200b', '１', '١', '²', '1_0', [], {}, ['pos'], {'a': 1}]
NAMES = ['text', 'label', 'Text', ' label ', 'sentence', 'text1', 'text2', 'score', 'class', '',
         'id', 'a\nb', '"', 'x' * 500, '\ud83d']
HOW = [{}, {}, {'regression': True}, {'labels': ('neg', 'pos')}, {'labels': ('0', '1')},
       {'labels': ('-1', '0', '1')}, {'fields': {'text': ('text',), 'label': 'label'}},
       {'fields': {'text': ('text', 'label')}}, {'held_out': 0.5}, {'shares': (0.4, 0.3, 0.3)}]


BAD_LINES = ['', ' ', '{', '{"text": ', '[1]', 'null', '"', 'a,b,c', 'a\tb\tc', '[' * 3000,
             '9' * 6000, '{"text": "a", "text": 1}', '{"text": "a", "label": NaN}',
             '{"text": "a", "label": -Infinity}']


def encoded(draw, content, wild):
  """Bytes of a text: mostly UTF-8, at times of another encoding, cut, or with bytes changed."""
  if not wild:
    return content.encode(errors='replace')
  content = draw.choice(['', '', '', '', '\ufeff']) + content
  kind = draw.choice(['utf-8'] * 12 + ['utf-16', 'utf-16-le', 'utf-32', 'latin-1', 'cp1252'])
  data = bytearray(content.encode(kind, 'surrogatepass' if kind == 'utf-8' and draw.random() < 0.1
                                  else 'replace'))
  if draw.random() < 0.1:
    del data[draw.randrange(len(data) + 1):]
  for _ in range(draw.choice([0] * 8 + [1, 3])):
    if data:
      data[draw.randrange(len(data))] = draw.randrange(256)
  return bytes(data)


def table(draw, suffix, wild):
  """A file's text: rows of few labels of one kind or of many of all, some of them ragged."""
  few = draw.sample(LABELS, draw.choice((1, 2, 2, 3))) if draw.random() < 0.8 else LABELS
  names = ['text', 'label']
  if wild and draw.random() < 0.3:
    names = draw.choices(NAMES, k=draw.randrange(1, 5))
  words = WILD if wild else TAME
  text = lambda: draw.choice(['', ' ']).join(draw.choices(words, k=draw.choice((0, 1, 2, 5))))
  rows = [[draw.choice(few) if name.strip() == 'label' or wild and draw.random() < 0.1 else text()
           for name in names] for _ in range(draw.choice([2, 5, 20, 40] * 4 + [0, 1]))]
  if rows and draw.random() < 0.02:
    draw.choice(rows)[0] = 'long ' * 40_000
  if suffix == '.jsonl':
    lines = [json.dumps(dict(zip(names, row, strict=True)), ensure_ascii=draw.random() < 0.5)
             for row in rows]
  else:
    def cell(value):
      bare = suffix == '.tsv' or wild and draw.random() < 0.3
      return str(value) if bare else '"' + str(value).replace('"', '""') + '"'
    lines = [(',' if suffix == '.csv' else '\t').join(map(cell, row)) for row in (names, *rows)]
  for _ in range(draw.choice([0] * 8 + [1, 2]) if wild else 0):
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(BAD_LINES))
  end = draw.choice(['\n', '\n', '\r\n', '\r'])
  return end.join(lines) + end * draw.randrange(2)


def written(draw, root):
  """A file, or a folder of files, of one table or of random bytes."""
  wild = draw.random() < 0.5

  def write(path):
    content = (draw.randbytes(draw.randrange(200)) if wild and draw.random() < 0.05 else
               encoded(draw, table(draw, path.suffix, wild), wild))
    path.write_bytes(content)
    return path

  suffix = lambda: draw.choice(['.json', '', '.CSV'] if wild and draw.random() < 0.1 else
                               ['.jsonl', '.csv', '.tsv', '.txt'])
  if draw.random() < 0.7:
    return write(root / f'my{suffix()}')
  splits = ['train', *draw.sample(['validation', 'test', 'more'], draw.randrange(3))]
  for split in splits[wild and draw.random() < 0.05:]:
    write(root / f'{split}{suffix()}')
  return root


@pytest.mark.slow
def test_every_table_is_a_data_set_or_one_line(tmp_path):
  place = tmp_path / 'tokenizer.json'       # training one for each takes most of the time
  place.write_text(tokenizer.train(['good bad cafe a b x'], 64))
  ends = []
  for seed in range(TABLES):
    draw = random.Random(seed)
    root = tmp_path / str(seed)
    root.mkdir()
    node = {'name': 'files.Text', 'path': str(written(draw, root)), 'length': 8,
            'vocabulary': 64, 'tokenizer': str(place) if draw.random() < 0.8 else '',
            'cache': str(root / 'cache'), **draw.choice(HOW)}
    try:
      data = lookup.build('data', node, 'data')
    except types.Stop as stop:
      assert stop.status in (types.Status.CONFIG, types.Status.DATA), (seed, stop)
      assert len(str(stop).splitlines()) == 1, (seed, stop)
      # `lookup` makes a line of any ValueError: these are ours.
      assert stop.status == types.Status.DATA or str(stop).startswith((
          'data: fields', 'data: regression=True, but')), (seed, stop)
      str(stop).encode()                    # can be printed
      ends.append(int(stop.status))
    else:
      check(data, node)
      ends.append(0)
  # Otherwise the generator no longer reaches what it is for.
  assert min(ends.count(end) for end in (0, 10, 11)) > TABLES / 40


def check(data, node):
  """The numbers are finite, labels are among the classes, and what is printed can be."""
  for line in (*data.names, *data.notes):
    assert len(line.splitlines()) <= 1, node
    line.encode()
  regression = node.get('regression', False)
  assert len(set(data.names)) == len(data.names) != 1 and not (regression and data.names), node
  for split in data.splits.values():
    label = split.index['label']
    assert label.dtype == ('float32' if regression else 'int32'), node
    assert np.isfinite(label[split.known]).all()
    if not regression:
      assert ((label >= -1) & (label < max(1, len(data.names)))).all(), node
    for batch in batches.in_order(split, batch_size=8) if len(split) else ():
      for name, values in batch.items():
        assert np.isfinite(values).all(), (name, node)
      break
