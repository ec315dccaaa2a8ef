import base64
import io
import re

import numpy as np
import PIL.Image
import pytest

from distill.report import charts


def metric(value, low, high, higher=True):
  return {'value': value, 'low': low, 'high': high, 'higher_is_better': higher}


def test_names_stand_in_the_order_in_which_lines_end():
  lines = {'low': ([1, 2], [9., 0.]), 'high': ([1, 2], [0., 9.]), 'mid': ([1, 2], [0., .1])}
  svg = charts.curves('Loss', lines, charts.styles(list(lines)))
  texts = re.findall(r'<text [^>]*?(?:translate\([\d.]+ |y=")([\d.]+)[^>]*>(low|mid|high)<', svg)
  heights = {name: float(y) for y, name in texts}
  assert heights['high'] < heights['mid'] < heights['low']        # y grows downwards
  # 'mid' and 'low' end in nearly one place, and still don't overlap: text is 11 high.
  assert heights['low'] - heights['mid'] > 11


def test_long_curves_stay_small():
  steps = list(range(20_000))
  svg = charts.curves('Loss', {'m': (steps, [s % 7 for s in steps])}, charts.styles(['m']))
  assert len(svg) < 30_000


def test_every_number_that_was_logged_is_a_line_of_its_stage():
  rows = [{'stage': 'a', 'seed': 0, 'step': 1, 'time': 9., 'loss': .5, 'soft': 2.},
          {'stage': 'a', 'seed': 0, 'step': 2, 'loss': None, 'grad_norm': 3.},
          {'stage': 'b', 'seed': 0, 'step': 4, 'loss': 1.}]
  assert charts.lines(rows) == {'loss': {'a': ([1], [.5]), 'b': ([4], [1.])},
                                'soft': {'a': ([1], [2.])}}


def test_places_by_hand():
  # From 60 to 80 percent the axis has ticks 60, 65, … 80.
  found = charts.forest([metric(.7, .65, .8), metric(.61, .6, .62)], 100)
  assert found['ticks'] == [('60', 0), ('65', 25), ('70', 50), ('75', 75), ('80', 100)]
  assert found['points'][0] == {'left': 25, 'value': 50, 'right': 100}


def test_what_is_better_is_to_the_right_where_less_is_better():
  less = [metric(*q, higher=False) for q in ((.7, .65, .8), (.61, .6, .62))]
  found = charts.forest(less, 100)
  assert found['ticks'] == [('60', 100), ('65', 75), ('70', 50), ('75', 25), ('80', 0)]
  assert found['points'][0] == {'left': 0, 'value': 50, 'right': 75}


def test_a_number_below_zero_has_a_minus_and_no_hyphen():
  assert charts.forest([metric(-.04, -.1, .01)], 1)['ticks'][0][0] == '−0.1'


def test_models_in_one_place_still_have_an_axis():
  found = charts.forest([metric(1., 1., 1.)] * 2, 100)
  assert [text for text, _ in found['ticks']] == ['99', '99.5', '100', '100.5', '101']
  assert found['points'] == [{'left': 50, 'value': 50, 'right': 50}] * 2


def parts(colour):
  return [int(colour[i:i + 2], 16) for i in (1, 3, 5)]


def contrast(*colours):
  """Returns the contrast of two colours by WCAG 2, which asks for 4.5 of text."""
  def luminance(colour):
    linear = [c / 12.92 if c <= .04045 else ((c + .055) / 1.055)**2.4
              for c in (part / 255 for part in colour)]
    return sum(w * c for w, c in zip((.2126, .7152, .0722), linear, strict=True))
  low, high = sorted(map(luminance, colours))
  return (high + .05) / (low + .05)


@pytest.mark.parametrize('colour', charts.COLOURS)
def test_every_colour_can_be_read_as_text_on_white(colour):
  assert contrast(parts(colour), parts('#ffffff')) >= 4.5


def test_every_number_in_a_matrix_can_be_read():
  shades, names = np.linspace(0, 1, 225).reshape(15, 15), ['x'] * 15
  svg = charts.matrix('m', '', shades, [['7'] * 15] * 15, (names, names), ('a', 'b'), '#000000')
  colours = [re.search(r'fill: (#\w{6})|$', style)[1] or '#000000'          # SVG's own is black
          for style in re.findall(r'<text style="([^"]*)"[^>]*>7</text>', svg)]
  image = base64.b64decode(re.search(r'href="data:image/png;base64,([^"]*)"', svg)[1])
  drawn = np.asarray(PIL.Image.open(io.BytesIO(image)).convert('RGB')).reshape(-1, 3).tolist()
  assert len(colours) == len(drawn) == 225 and drawn[0] == parts('#ffffff')
  assert min(contrast(parts(text), cell) for text, cell in zip(colours, drawn, strict=True)) >= 4.5
