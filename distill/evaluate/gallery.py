"""Examples on which a student and its teacher disagree, with what either looked at."""
import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill.evaluate import quality, wording
from distill.evaluate.contract import Report
from distill.types import Records

SHOWN = 6
WORDS = 120             # of a text; of a longer one what follows is left out
FOR, AGAINST = '#0072B2', '#D55E00'       # which colour-blind readers tell apart


def examples(report: Report, records: Mapping[str, Records],
             inside: Mapping[str, Records]) -> tuple[int, list[dict[str, Any]]]:
  """On how many examples the first student and its teacher disagree, and some of them.

  Of those that were looked into: the first in their fixed order, or of numbers those that differ
  most. Nothing where something of either isn't there, or where the words of texts aren't.
  """
  student = next((m for m in report['models'] if m['role'] == 'student'), {})
  pair = [(student.get('retention') or {}).get('of'), student.get('name')]
  if not all(name in records and name in inside and 'prediction' in records[name]
             and {'image', 'pieces'} & inside[name].keys() for name in pair):
    return 0, []
  theirs, ours = quality.aligned(*(records[name] for name in pair))
  apart = np.abs(np.subtract(theirs['prediction'], ours['prediction'], dtype=np.float64))
  row = {int(example): i for i, example in enumerate(ours['id'])}
  both = set(inside[pair[0]]['id'].tolist()) & row.keys()
  seen = [example for example in inside[pair[1]]['id'].tolist()
          if example in both and apart[row[example]]]
  if 'probabilities' not in ours:
    seen.sort(key=lambda example: -apart[row[example]])
  classes = next((m['classes'] for m in report['models'] if m.get('classes')), ())
  said = lambda answer: classes[int(answer)]['name'] if len(classes) else wording.number(answer, '')

  def shown(example: int) -> dict[str, Any]:
    truth, views = ours['label'][row[example]], []
    for name, of in zip(pair, (theirs, ours), strict=True):
      at, there = row[example], inside[name]
      answer = of['prediction'][at]
      views.append({
          'name': name, 'answer': said(answer), 'right': bool(answer == truth) if classes else None,
          'sure': float(of['probabilities'][at].max()) if classes else None,
          **_looked(there, int(np.flatnonzero(there['id'] == example)[0]))})
    return {'truth': said(truth), 'views': views, 'picture': views[0].pop('image')}
  return int((apart > 0).sum()), [shown(example) for example in seen[:SHOWN]]


def words(tokens: np.ndarray, places: np.ndarray, attribution: np.ndarray,
          pieces: Mapping[int, str]) -> list[tuple[str, float | None]]:
  """A text's words with their shares of the largest attribution, in [-1, 1].

  Word pieces ('##') are joined and their attributions added. What is no word has no share: of it
  the ends are left out, and what parts two texts is '·'.
  """
  at, found = np.flatnonzero(places), []
  for i in range(at[0], at[-1] + 1) if len(at) else ():
    piece = pieces[int(tokens[i])]
    if not places[i]:
      found.append(('·' if 'SEP' in piece or '/s' in piece else piece, None))
    elif piece.startswith('##') and found and found[-1][1] is not None:
      found[-1] = found[-1][0] + piece[2:], found[-1][1] + float(attribution[i])
    else:
      found.append((piece.removeprefix('##'), float(attribution[i])))
  most = max((abs(value) for _, value in found if value is not None), default=0) or 1
  return [(word, None if value is None else value / most) for word, value in found]


def _looked(there: Records, at: int) -> dict[str, Any]:
  """What a model looked at: words with their backgrounds, or an image and a map."""
  places, attribution = there['places'][at], there['attribution'][at].astype(np.float64)
  if 'image' in there:
    from matplotlib import colors  # here, as in charts
    image = there['image'][at]
    image = image if image.shape[-1] == 3 else image.mean(axis=-1, keepdims=True)
    low, high = image.min(), image.max()
    shown = np.broadcast_to((image - low) / (high - low or 1), (*image.shape[:2], 3))
    scale = colors.LinearSegmentedColormap.from_list('', (AGAINST, '#ffffff', FOR))
    most = np.abs(attribution).max() or 1
    return {'image': _png(shown), 'map': _png(scale(0.5 + 0.5 * attribution / most)), 'words': ()}
  pieces = dict(zip(there['piece_ids'].tolist(), there['pieces'].tolist(), strict=True))
  found = words(there['tokens'][at], places, attribution, pieces)
  more = [('…', None)] * (len(found) > WORDS)
  return {'image': None, 'map': None,
          'words': [(word, _background(share)) for word, share in found[:WORDS] + more]}


def _background(share: float | None) -> str:
  """A colour that lets its text be read."""
  colour, alpha = FOR if (share or 0) > 0 else AGAINST, round(0.6 * abs(share or 0), 2)
  parts = ', '.join(str(int(colour[i:i + 2], 16)) for i in (1, 3, 5))
  return f'rgba({parts}, {alpha:g})' if alpha else 'none'


def _png(pixels: np.ndarray) -> str:
  """Pixels [h w c] in [0, 1] as a link that holds them."""
  from matplotlib import image
  file = io.BytesIO()
  image.imsave(file, np.asarray(pixels, np.float64), format='png', metadata={'Software': None})
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'
