"""Examples on which a student and its teacher disagree, each with its explanation."""
import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill import modalities
from distill.measure import quality
from distill.report import wording
from distill.report.contract import Report
from distill.types import Records

SHOWN = 6
FOR, AGAINST = '#0072B2', '#D55E00'       # which colour-blind readers tell apart


def examples(report: Report, records: Mapping[str, Records],
             inside: Mapping[str, Records]) -> tuple[int, list[dict[str, Any]]]:
  """Counts the examples on which the first student and its teacher disagree, and draws some.

  Drawn are those of the explained examples that come first in their fixed order; if answers are
  numbers, those that differ most. (0, []) if records of either model or its explanations are
  missing, can't be drawn, or aren't by their shapes one class or one number an example.
  """
  student = next((m for m in report['models'] if m['role'] == 'student'), {})
  pair = [(student.get('retention') or {}).get('of'), student.get('name')]
  classes = next((m['classes'] for m in report['models'] if m.get('classes')), ())
  if not all(name in records and name in inside and _single(records[name])
             and (quality.is_classification(records[name]) or not classes)
             and modalities.shows(inside[name]) for name in pair):
    return 0, []
  theirs, ours = quality.align(*(records[name] for name in pair))
  apart = np.abs(np.subtract(theirs['prediction'], ours['prediction'], dtype=np.float64))
  row = {int(example): i for i, example in enumerate(ours['id'])}
  both = set(inside[pair[0]]['id'].tolist()) & row.keys()
  seen = [example for example in inside[pair[1]]['id'].tolist()
          if example in both and apart[row[example]]]
  if not quality.is_classification(ours):
    seen.sort(key=lambda example: -apart[row[example]])
  said = lambda answer: classes[int(answer)]['name'] if len(classes) else wording.number(answer, '')

  def shown(example: int) -> dict[str, Any]:
    truth, views = ours['label'][row[example]], []
    for name, of in zip(pair, (theirs, ours), strict=True):
      at, there = row[example], inside[name]
      answer = of['prediction'][at]
      views.append({
          'name': name, 'answer': said(answer), 'right': bool(answer == truth) if classes else None,
          'sure': float(of['probabilities'][at].max()) if classes else None,
          **_drawn(there, int(np.flatnonzero(there['id'] == example)[0]))})
    return {'truth': said(truth), 'views': views, 'picture': views[0].pop('picture')}
  return int((apart > 0).sum()), [shown(example) for example in seen[:SHOWN]]


def _single(records: Records) -> bool:
  """Tells whether stored records are by their shapes of one number an example, or of one class."""
  numbers = (np.asarray(records.get(name, '')) for name in ('label', 'prediction'))
  return all(of.ndim == 1 and of.dtype.kind in 'iuf' for of in numbers) and (
      'probabilities' not in records or quality.is_classification(records))


def _drawn(seen: Records, at: int) -> dict[str, Any]:
  """Draws an explanation: an image and a map, or words with their backgrounds."""
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
