"""Gallery: examples on which a student and its teacher disagree, each with saliency."""
import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from distill import modalities
from distill.measure import quality
from distill.report import text
from distill.report.contract import Report
from distill.types import Records

SHOWN = 6
FOR, AGAINST = '#0072B2', '#D55E00'       # which colour-blind readers can distinguish


def examples(report: Report, records: Mapping[str, Records],
             explanations: Mapping[str, Records]) -> tuple[int, list[dict[str, Any]]]:
  """Counts the examples on which the first student and its teacher disagree, and draws some.

  It draws the explained examples that come first in their fixed order; if answers are numbers,
  those that differ most. It returns (0, []) if records or explanations of either model are missing
  or can't be drawn, or if the shapes of the records are not of one class or one number an example.
  """
  student = next((m for m in report['models'] if m['role'] == 'student'), {})
  pair = [(student.get('retention') or {}).get('of'), student.get('name')]
  classes = next((m['classes'] for m in report['models'] if m.get('classes')), ())
  if not all(name in records and name in explanations and _is_single(records[name])
             and (quality.is_classification(records[name]) or not classes)
             and modalities.shows(explanations[name]) for name in pair):
    return 0, []
  theirs, ours = quality.align(*(records[name] for name in pair))
  distance = np.abs(np.subtract(theirs['prediction'], ours['prediction'], dtype=np.float64))
  row = {int(example): i for i, example in enumerate(ours['id'])}
  common = set(explanations[pair[0]]['id'].tolist()) & row.keys()
  differing = [example for example in explanations[pair[1]]['id'].tolist()
               if example in common and distance[row[example]]]
  if not quality.is_classification(ours):
    differing.sort(key=lambda example: -distance[row[example]])

  def describe(answer):
    return classes[int(answer)]['name'] if len(classes) else text.number(answer, '')

  def show(example: int) -> dict[str, Any]:
    at, views = row[example], []
    truth = ours['label'][at]
    for name, answers in zip(pair, (theirs, ours), strict=True):
      answer, explanation = answers['prediction'][at], explanations[name]
      views.append({
          'name': name, 'answer': describe(answer),
          'right': bool(answer == truth) if classes else None,
          'confidence': float(answers['probabilities'][at].max()) if classes else None,
          **_draw(explanation, int(np.flatnonzero(explanation['id'] == example)[0]))})
    return {'truth': describe(truth), 'views': views, 'picture': views[0].pop('picture')}
  return int((distance > 0).sum()), [show(example) for example in differing[:SHOWN]]


def _is_single(records: Records) -> bool:
  """Tells whether stored records have the shapes of one number or one class an example."""
  columns = (np.asarray(records.get(name, '')) for name in ('label', 'prediction'))
  return all(column.ndim == 1 and column.dtype.kind in 'iuf' for column in columns) and (
      'probabilities' not in records or quality.is_classification(records))


def _draw(explanation: Records, at: int) -> dict[str, Any]:
  """Draws an explanation: an image and a saliency map, or words with their backgrounds."""
  shown = modalities.show(explanation, at)
  if 'picture' in shown:
    from matplotlib import colors  # here, as in charts
    scale = colors.LinearSegmentedColormap.from_list('', (AGAINST, '#ffffff', FOR))
    return {'picture': _png(shown['picture']), 'map': _png(scale(0.5 + 0.5 * shown['map'])),
            'spans': ()}
  return {'picture': None, 'map': None,
          'spans': [(word, _background(share)) for word, share in shown['spans']]}


def _background(share: float | None) -> str:
  """Returns a background colour on which its text can be read."""
  colour, alpha = FOR if (share or 0) > 0 else AGAINST, round(0.6 * abs(share or 0), 2)
  parts = ', '.join(str(int(colour[i:i + 2], 16)) for i in (1, 3, 5))
  return f'rgba({parts}, {alpha:g})' if alpha else 'none'


def _png(pixels: np.ndarray) -> str:
  """Returns pixels [h w c] in [0, 1] as a link that contains them."""
  from matplotlib import image
  file = io.BytesIO()
  image.imsave(file, np.asarray(pixels, np.float64), format='png', metadata={'Software': None})
  return f'data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}'
