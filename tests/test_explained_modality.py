"""A modality outside the package that is explained: its probe, its drawing, its words."""
import dataclasses

import numpy as np

from distill import main, modalities, report
from distill.report import tables
from distill.tasks import Explain
from tests.test_toy_modality import CONFIG, Boxes, Points, Rooms


class Shown(Points):
  """Points whose explanations are kept under a name that images use, and drawn as spans."""
  overlap, convolved = 'top points shared', True

  def probe(self, model, weights):
    return Probe()

  @staticmethod
  def show(records, row):
    return {'spans': [(f'{x:.1f}', 0.5) for x, _ in records['image'][row]]}


class Probe:
  value, scale = lambda self, params, batch: batch['points'], lambda self, params: 1.0
  feed = lambda self, params, batch, x: (params, {**batch, 'points': x})
  positions = lambda self, batch: np.asarray(batch['mask']) > 0
  keep, legend = lambda self, batch: {'image': batch['points']}, lambda self, kept: {}


def Halls():
  return dataclasses.replace(Rooms(), modality=Shown(15))


class Scored(Boxes):
  """Boxes whose records have three predictions, and probabilities of each, an example."""
  explain = Explain('scores', 3, lambda records: records['prediction'].argmax(1),
                    lambda records: records['prediction'])

  def records(self, measured, batch):
    scores = np.asarray(measured['scores'])[np.flatnonzero(batch['valid'])]
    return {**super().records(measured, batch), 'prediction': scores,
            'probabilities': np.stack([scores, 1 - scores], 2)}


def test_explanations_of_a_modality_outside_are_its_own(tmp_path):
  here = f'HERE, OWN = {Points.__module__!r}, {__name__!r}\n'
  text = CONFIG.replace('{HERE}:Rooms', '{OWN}:Halls').replace('{HERE}:Boxes', '{OWN}:Scored')
  (tmp_path / 'toy.py').write_text(here + text)
  assert main.main([f'--config={tmp_path / "toy.py"}', f'--workdir={tmp_path / "run"}']) == 0
  found = report.read(tmp_path / 'run')
  for model in found['models']:
    assert not model['classes'] and not model['calibration'] and model['robustness']
    assert model['modality'] == f'{__name__}:Shown' and 'agreement' not in model['faithfulness']
  assert 'saliency_top' in found['models'][1]['faithfulness']
  assert tables.memory_is_underestimated(found)
  page = (tmp_path / 'run' / 'report.html').read_text()
  assert 'top points shared, against' in page and 'top pixels' not in page
  with np.load(tmp_path / 'run' / 'records' / 'inside' / 'student.npz') as kept:
    kept = dict(kept)
  assert kept['modality'] == f'{__name__}:Shown' and modalities.shows(kept)
  assert modalities.show(kept, 0)['spans'][0] == (f'{kept["image"][0, 0, 0]:.1f}', 0.5)
  for name in 'nowhere:Shown', f'{Points.__module__}:Points', 'os:abort':
    assert not modalities.shows(kept | {'modality': np.array(name)})
