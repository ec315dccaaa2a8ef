"""Examples on which a student and its teacher disagree, with what either looked at."""
import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill import modalities
from distill.evaluate import quality, wording
from distill.evaluate.contract import Report
from distill.types import Records

SHOWN = 6
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
             and modalities.shows(inside[name]) for name in pair):
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
    return {'truth': said(truth), 'views': views, 'picture': views[0].pop('picture')}
  return int((apart > 0).sum()), [shown(example) for example in seen[:SHOWN]]


def _looked(seen: Records, at: int) -> dict[str, Any]:
  """What a model looked at: an image and a map, or words with their backgrounds."""
  shown = modalities.show(seen, at)
  if 'picture' in shown:
    from matplotlib import colors  # here, as in charts
    scale = colors.LinearSegmentedColormap.from_list('', (AGAINST, '#ffffff', FOR))
    return {'picture': _png(shown['picture']), 'map': _png(scale(0.5 + 0.5 * shown['map'])),
            'spans': ()}
  return {'picture': None, 'map': None,
          'spans': [(word, _background(share)) for word, share in shown['spans']]}


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
