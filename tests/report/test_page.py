"""The page of a report: what it draws from records, and that nothing in them breaks it."""
import base64
import io
import re
import shutil

import numpy as np
import PIL.Image
import pytest

from distill import report
from distill.measure import energy, faithfulness, quality
from distill.modalities import Modality, text
from distill.report import charts, gallery, page, radar, tables, verdict
from distill.tasks.classification import Classification
from distill.types import Status

PHONE = 360 - 2 * 16            # pixels that a telephone has for a drawing
PANEL = 300                     # … that any screen has for one of several


def metric(value, unit='fraction', higher=True, n=40):
  return {'value': value, 'low': value - .01, 'high': value + .01, 'n': n, 'unit': unit,
          'higher_is_better': higher}


def answers(seed, classes, n=40):
  """Records that are right about half of the time."""
  random = np.random.default_rng(seed)
  p = random.dirichlet(np.ones(classes), size=n).astype(np.float32)
  label = (np.arange(n) % classes).astype(np.int32)
  p[::2] = .2 / classes
  p[np.arange(0, n, 2), label[::2]] = .8 + .2 / classes
  return {'id': np.arange(n, dtype=np.int32), 'label': label, 'probabilities': p,
          'prediction': p.argmax(1).astype(np.int32)}


def explained(n=20, size=4, **more):
  """Explanations of the examples n - 1, …, 0, of images unless `more` has tokens."""
  shape = (n, size, size)
  attribution = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  return {'id': np.arange(n, dtype=np.int32)[::-1], 'target': np.zeros(n, np.int32),
          'image': attribution[..., None], 'places': np.ones(shape, bool),
          'attribution': attribution, 'sampled': np.ones(n, bool)} | more


def model(name, role, records, names):
  task = Classification(classes=len(names), names=names)
  return {
      'name': name, 'role': role, 'saw': {'images': 9, 'labels': 9},
      'quality': quality.score(task, records, resamples=9).metrics,
      'params': 100, 'params_outside_embeddings': 100, 'bytes': 400, 'flops': 9.,
      'latency_ms': {'p50': 2., 'p95': 3., 'batch': 1, 'threads': 1}, 'throughput_per_s': 9.,
      'peak_memory_bytes': 1000, 'energy_j_per_example': None, 'faithfulness': {},
      'retention': None, 'gain': None, 'tier': None,
      'classes': quality.per_class(records, names, resamples=9)}


def reported(roles, names=('no', 'yes')):
  """A report on models by name and role, and their records."""
  records = {name: answers(i, len(names)) for i, name in enumerate(roles)}
  models = [model(name, role, records[name], names) for name, role in roles.items()]
  if teacher := next((m['name'] for m in models if m['role'] == 'teacher'), None):
    for each in models:
      if each['role'] != 'teacher':
        each['retention'] = {'of': teacher, 'accuracy': 0.9}
  return {
      'schema': 1, 'config_name': 'some', 'config_sha256': 'c0ffee', 'seed': 0, 'versions': {},
      'hardware': {'device': 'cpu', 'cpu': 'some', 'cores': 1},
      'data': {'name': 'some', 'fingerprint': 'f00d', 'splits': {'test': 40}},
      'padding_share': None, 'task': {'primary': 'accuracy'}, 'models': models,
      'training': {'student': {'seconds': 60., 'steps': 9, 'examples': 72, 'flops': None}}}, records


def kept(workdir, records, folder='records'):
  for name, values in records.items():
    (workdir / folder).mkdir(parents=True, exist_ok=True)
    np.savez(workdir / folder / f'{name}.npz', **values)


def saved(array, how):
  file = io.BytesIO()
  how(file, array)
  return file.getvalue()


def written(workdir, found):
  report.write(workdir, found, [])
  return (workdir / 'report.html').read_text('utf-8')


def headings(html):
  return re.findall(r'<h2>(.*?)(?: ?<small|</h2>|\n)', html)


BOTH = {'teacher': 'teacher', 'student': 'student'}
SEVEN = {'teacher': 'teacher', **{
    name + suffix: role for name in ('cloud', 'edge', 'ultralight')
    for suffix, role in (('', 'student'), ('-baseline', 'baseline'))}}


class TestRadar:

  def test_shares_by_hand_with_less_time_memory_and_energy_further_out(self):
    found, _ = reported(BOTH)
    teacher, student = found['models']
    teacher |= {'quality': {'accuracy': metric(.8)}, 'peak_memory_bytes': 5000}
    teacher['latency_ms'] |= {'p50': 2.}
    student |= {'quality': {'accuracy': metric(.6)}, 'faithfulness': {'agreement': metric(.9)}}
    student |= {'latency_ms': teacher['latency_ms'] | {'p50': .5}}
    for each, joules in (teacher, .004), (student, .001):
      each['energy_j_per_example'] = {'value': joules, 'method': 'estimated: some'}
    axes, lacking = radar.axes(found)
    assert [(axis['name'], axis['whole']) for axis in axes] == [
        ('accuracy', '80.0 %'), ('speed', '0.500 ms'), ('memory', '1 kB'),
        ('energy, estimated', '1 mJ'), ('faithfulness', "the\nteacher's answers")]
    shares = [[axis['shares'][name] for name in BOTH] for axis in axes]
    assert np.allclose(shares, [[1, .75], [.25, 1], [.2, 1], [.25, 1], [1, .9]]) and not lacking

  @pytest.mark.parametrize('inputs, line', [
      ({}, '; it is time × a power here, an estimate that tells nothing beyond speed'),
      ({'inputs': {'watts_per_core': 10., 'cores': 2, 'seconds': .1}},
       '; it is time × 20 W here, an estimate that tells nothing beyond speed')])
  def test_a_note_says_that_estimated_energies_add_nothing_to_speed(self, inputs, line):
    found, _ = reported(BOTH)
    for each in found['models']:
      each['energy_j_per_example'] = {'value': .1, 'method': 'estimated: some', **inputs}
    assert radar.axes(found)[0][3]['about'] == 'per example' + line
    found['models'][0]['energy_j_per_example'] = {'value': .1, 'method': 'measured by RAPL'}
    assert radar.axes(found)[0][3]['about'] == 'per example'

  def test_of_a_metric_where_less_is_better_the_least_is_whole(self):
    found, _ = reported(BOTH)
    for each, value in zip(found['models'], (.5, .4), strict=True):
      each['quality'] = {'accuracy': metric(value, '', False)}
    (axis, *_), _ = radar.axes(found)
    assert axis['shares'] == {'teacher': pytest.approx(.8), 'student': 1} and axis['whole'] == '0.4'

  def test_a_correlation_below_nothing_is_nothing(self):
    found, _ = reported(BOTH)
    for each, value in zip(found['models'], (.5, -.4), strict=True):
      each['quality'] = {'accuracy': metric(value, 'correlation')}
    found['models'][1]['faithfulness'] = {'correlation': metric(-.1, 'correlation')}
    axes, _ = radar.axes(found)
    assert [axes[i]['shares']['student'] for i in (0, -1)] == [0, 0]

  def test_axes_without_values_are_left_out_and_named(self):
    found, _ = reported(BOTH)
    assert [[axis['name'] for axis in radar.axes(found)[0]], radar.axes(found)[1]] == [
        ['accuracy', 'speed', 'memory'], ['energy', 'faithfulness']]
    assert radar.draw(found).count('100 % =') == 3

  def test_two_axes_or_one_model_make_none(self, tmp_path):
    found, _ = reported(BOTH)
    assert 'Not measured: energy, faithfulness.' in written(tmp_path, found)
    assert (tmp_path / 'radar.svg').exists()
    for each in found['models']:
      each['peak_memory_bytes'] = None
    assert headings(written(tmp_path, found))[:2] == ['Accuracy', 'Quality, retention and cost']
    assert not (tmp_path / 'radar.svg').exists()
    assert not radar.draw(reported({'single': 'student'})[0])

  def test_pareto_optimal_models_by_hand(self):
    axis = lambda *shares: {'shares': dict(zip('abc', shares, strict=True))}
    # b is worse than a on the first axis and equal on the second; a and c are a trade-off.
    assert radar.pareto_optimal([axis(1, .5, .8), axis(.7, .7, 1)]) == ['a', 'c']
    assert radar.pareto_optimal([axis(1, 1, .8), axis(1, 1, .8)]) == ['a', 'b']
    # An axis without every model doesn't count, and one axis is no trade-off.
    assert radar.pareto_optimal([axis(1, .5, .8), axis(.7, None, 1)]) == []

  def test_the_page_names_the_pareto_optimal_models(self, tmp_path):
    found, _ = reported(BOTH)
    text = re.sub(r'\s+', ' ', written(tmp_path, found))
    assert 'better on one): ' + ', '.join(radar.pareto_optimal(radar.axes(found)[0])) + '.' in text

  def test_the_legend_has_the_order_of_the_models(self):
    drawn = radar.draw(reported(SEVEN)[0])
    assert re.findall(r'>([\w-]+)</text>', drawn)[-7:] == list(SEVEN)

  def test_a_model_without_a_number_is_drawn_where_it_has_them(self):
    found, _ = reported(BOTH)
    found['models'][1]['peak_memory_bytes'] = None
    drawn = radar.draw(found)
    assert 'nan' not in drawn.lower() and radar.axes(found)[0][2]['shares']['student'] is None


class TestCounts:

  def test_an_interval_of_ten_of_ten_by_hand(self):
    # p = 1: the ends are 1 / (1 + z²/n) and 1, with z² = 3.841459.
    assert quality.wilson(10, 10) == pytest.approx((1 / 1.3841459, 1))

  @pytest.mark.parametrize('hits, n', [(0, 1), (1, 3), (50, 99), (7, 7), (0, 400)])
  def test_intervals_are_those_of_scipy(self, hits, n):
    from scipy import stats
    theirs = stats.binomtest(hits, n).proportion_ci(method='wilson')
    assert quality.wilson(hits, n) == pytest.approx((theirs.low, theirs.high), abs=1e-7)

  def test_confusions_by_hand(self):
    records = {'label': np.array([0, 0, 1, 2, 2]), 'prediction': np.array([0, 2, 1, 0, 0])}
    assert quality.confusion_matrix(records, 4).tolist() == [
        [1, 0, 1, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 0]]

  def test_the_commonest_confusions_are_of_all_models_and_never_the_right_answers(self):
    tables = {'a': np.array([[99, 1, 0], [0, 9, 2], [0, 0, 9]]),
              'b': np.array([[99, 1, 0], [3, 9, 2], [0, 0, 9]])}
    assert page.most_frequent(tables, ['x', 'y', 'z']) == [
        'y predicted as z, 4×', 'y predicted as x, 3×', 'x predicted as y, 2×']


class Drawn(Modality):
  encode = print

  @staticmethod
  def show(records, row):
    return {'spans': [(str(row), 0.0)]}


class TestGallery:

  def test_pieces_are_joined_and_what_is_no_word_has_no_share(self):
    pieces = dict(enumerate(('[PAD]', '[CLS]', '[SEP]', '[UNK]', 'dis', '##till', '##ed', 'it')))
    tokens = np.array([1, 4, 5, 6, 2, 3, 7, 2, 0])
    places = ~np.isin(tokens, (0, 1, 2, 3))
    attribution = np.array([9, 1, 2, -4, 9, 9, -4, 9, 9.])
    assert text.words(tokens, places, attribution, pieces) == [
        ('distilled', -.25), ('·', None), ('[UNK]', None), ('it', -1)]

  def test_a_text_without_words_or_attributions_is_shown_as_it_is(self):
    nothing = np.zeros(2)
    assert text.words(np.array([1, 1]), np.zeros(2, bool), nothing, {1: '[SEP]'}) == []
    assert text.words(np.array([1, 1]), np.ones(2, bool), nothing, {1: 'a'}) == [('a', 0)] * 2

  def test_shows_the_first_six_of_the_fixed_order_on_which_both_differ(self):
    found, records = reported(BOTH)
    records['student']['prediction'] = records['teacher']['prediction'].copy()
    apart = [3, 5, 6, 11, 12, 13, 14, 30]               # 30 wasn't explained
    records['student']['prediction'][apart] = 1 - records['teacher']['prediction'][apart]
    explanations = {name: explained() for name in BOTH}              # 19, 18, … 0
    n, shown = gallery.examples(found, records, explanations)
    labels = [found['models'][0]['classes'][records['teacher']['label'][i]]['name']
              for i in (14, 13, 12, 11, 6, 5)]
    assert n == 8 and [example['truth'] for example in shown] == labels
    for example, i in zip(shown, (14, 13, 12, 11, 6, 5), strict=True):
      teacher, student = example['views']
      assert (teacher['name'], student['name']) == ('teacher', 'student')
      assert teacher['right'] == (records['teacher']['prediction'][i] == i % 2)
      assert teacher['right'] != student['right'] and teacher['answer'] != student['answer']
      most = records['teacher']['probabilities'][i].max()
      assert teacher['confidence'] == pytest.approx(float(most))

  def test_a_modality_outside_draws_its_own(self):
    found, records = self.apart_at_0()
    explanations = explained(modality=np.array(f'{__name__}:Drawn'))   # its `image` is no image
    _, (shown,) = gallery.examples(found, records, dict.fromkeys(BOTH, explanations))
    assert [view['spans'] for view in shown['views']] == [[('19', 'none')]] * 2
    assert not shown['picture']

  @pytest.mark.parametrize('change', [
      {'prediction': np.arange(120).reshape(40, 3)}, {'probabilities': np.ones((40, 3, 2))},
      {'label': np.zeros((40, 2))}, {'prediction': np.array(['a'] * 40)}])
  def test_answers_that_are_neither_a_class_nor_a_number_are_not_shown(self, change):
    for classes in True, False:
      found, records = reported(BOTH)
      for each in found['models']:
        each['classes'] = each['classes'] if classes else None
      records = {name: values | change for name, values in records.items()}
      records['student']['prediction'] = np.roll(records['student']['prediction'], 1, axis=0)
      assert gallery.examples(found, records, {name: explained() for name in BOTH}) == (0, [])

  def test_of_numbers_those_that_differ_most(self):
    found, records = reported(BOTH)
    for each in found['models']:
      each |= {'classes': None, 'quality': {'accuracy': metric(.4, '', False)}}
    label = np.arange(40, dtype=np.float32)
    records = {name: {'id': np.arange(40), 'label': label, 'prediction': label.copy()}
               for name in BOTH}
    records['student']['prediction'][[4, 9, 2]] += (1, -3, 2)
    _, shown = gallery.examples(found, records, {name: explained() for name in BOTH})
    assert [example['truth'] for example in shown] == ['9', '2', '4']
    assert [view['answer'] for view in shown[0]['views']] == ['9', '6']
    assert shown[0]['views'][0]['right'] is None

  # One example on which both differ; what speaks for the answer has the colour FOR.

  def test_of_an_image_what_speaks_for_the_answer_is_blue_and_against_it_orange(self):
    found, records = self.apart_at_0()
    attribution = np.tile(np.array([[2, 1], [0, -2.]]), (20, 1, 1))
    explanations = explained(size=2, attribution=attribution)
    _, (shown,) = gallery.examples(found, records, dict.fromkeys(BOTH, explanations))
    for view in shown['views']:
      drawn = PIL.Image.open(io.BytesIO(base64.b64decode(view['map'].partition(',')[2])))
      # Half way from white to #0072B2 is (127.5, 184.5, 216.5); a map has 256 colours.
      assert np.abs(np.asarray(drawn.convert('RGB'), int) - [
          [[0, 114, 178], [127, 184, 216]], [[255, 255, 255], [213, 94, 0]]]).max() <= 2

  def test_of_words_what_speaks_for_the_answer_is_blue_and_against_it_orange(self):
    found, records = self.apart_at_0()
    tokens = np.tile(np.arange(3), (20, 1))
    explanations = explained(tokens=tokens, places=tokens >= 0, piece_ids=np.arange(3),
                  attribution=np.tile([4, 0, -2.], (20, 1)), pieces=np.array(['a', 'b', 'c']))
    del explanations['image']
    _, (shown,) = gallery.examples(found, records, dict.fromkeys(BOTH, explanations))
    for view in shown['views']:
      assert view['spans'] == [
          ('a', 'rgba(0, 114, 178, 0.6)'), ('b', 'none'), ('c', 'rgba(213, 94, 0, 0.3)')]

  def apart_at_0(self):
    found, records = reported(BOTH)
    records['student']['prediction'] = records['teacher']['prediction'].copy()
    records['student']['prediction'][0] = 1 - records['teacher']['prediction'][0]
    return found, records

  @pytest.mark.parametrize('without', ['teacher', 'student', 'pieces', 'prediction', 'role'])
  def test_is_empty_without_what_it_needs(self, without):
    found, records = reported(BOTH)
    explanations = {name: explained() for name in BOTH}
    if without in BOTH:
      del explanations[without]
    elif without == 'pieces':
      del explanations['student']['image']
    elif without == 'prediction':
      del records['teacher']['prediction']
    else:
      found['models'][1]['retention'] = None              # no teacher
    assert gallery.examples(found, records, explanations) == (0, [])


class TestHeadline:

  def tiered(self, name, passed):
    return {'name': name, 'passed': passed, 'limits': []}

  def test_is_one_sentence_about_three_students(self):
    found, _ = reported(SEVEN)
    for each, share in zip(found['models'][1::2], (1., .97, .5), strict=True):
      each |= {'retention': {'of': 'teacher', 'accuracy': share},
               'params': 50, 'params_outside_embeddings': 50,
               'tier': self.tiered(each['name'], share > .6)}
    assert verdict.headline(found) == (
        "The students cloud, edge and ultralight keep 100.0 %, 97.0 % and 50.0 % of the teacher's "
        'accuracy with 50.0 %, 50.0 % and 50.0 % of its parameters; cloud and edge reach their '
        'tiers, ultralight misses its tier.')
    line = verdict.sentences(found)
    assert [len(each) for each in line] == [2, 2, 2] and 'ultralight' in line[2][0]

  def test_of_errors_it_tells_the_teachers_too(self):
    found, _ = reported(SEVEN)
    for each in found['models']:
      each['quality'] = {'accuracy': metric(.4, '', False)}
    for each in found['models'][1::2]:
      each['retention'] = {'of': 'teacher', 'accuracy': .9}
    assert verdict.headline(found).startswith(
        'The students cloud, edge and ultralight reach accuracy 0.4, 0.4 and 0.4, where the '
        'teacher has 0.4, with 100.0 %')

  def test_a_student_called_student_is_not_named_twice(self):
    found, _ = reported(BOTH | {'tiny': 'student'})
    assert verdict.headline(found).startswith('The models student and tiny keep 90.0 % and 90.0 %')

  def test_of_many_students_it_names_the_ends(self):
    found, _ = reported({'teacher': 'teacher', **{f's{i}': 'student' for i in range(5)}})
    for i, each in enumerate(found['models'][1:]):
      each |= {'retention': {'of': 'teacher', 'accuracy': (.9, .8, 1.02, .97, .91)[i]},
               'tier': self.tiered('edge', i > 0)}
    assert verdict.headline(found) == (
        "5 students keep 80.0 % to 102.0 % of the teacher's accuracy with 100.0 % to 100.0 % of "
        'its parameters; 4 of 5 reach their tiers.')

  def test_without_students_it_names_the_best(self):
    found, _ = reported({'a': 'teacher', 'b': 'teacher'})
    for each, value in zip(found['models'], (.4, .3), strict=True):
      each['quality'] = {'accuracy': metric(value, '', False)}
    assert verdict.headline(found) == 'b has the best accuracy of 2 models, 0.3.'
    assert verdict.headline(found | {'models': found['models'][:1]}) == 'a reaches accuracy 0.4.'


def full(names=('no', 'yes'), roles=SEVEN):
  """A report that has everything, its records, and what was seen inside."""
  found, records = reported(roles, names)
  explanations = {name: explained() for name in roles}
  limits = [{'name': 'kept', 'bound': '>=', 'limit': .9, 'value': .97, 'passed': True},
            {'name': 'p95_ms', 'bound': '<=', 'limit': 50., 'value': None, 'passed': False}]
  for each in found['models']:
    each['robustness'] = {'clean': metric(.9), 'noise': metric(.8) | {
        'about': 'some noise', 'kept': .9, 'change': {'value': -.1, 'low': -.2, 'high': -.01}}}
    each['calibration'] = faithfulness.calibration(records[each['name']], resamples=9)
    if each['role'] != 'teacher':
      each |= {'faithfulness': {'agreement': metric(.9)},
               'layers': {'of': 'teacher', 'rows': ['stem', 'pooled'],
                          'columns': ['stem', 'stage1/features', 'pooled'],
                          'cka': [[.9, .5, -.1], [.2, .3, 1.]]}}
    if each['role'] == 'student':
      each |= {'tiers': [{'name': 'edge', 'passed': False, 'limits': limits}],
               'tier': {'name': 'edge', 'passed': False, 'limits': limits}}
  return found, records, explanations


def on_disk(workdir, found, records, explanations):
  kept(workdir, records)
  kept(workdir, explanations, 'records/inside')
  return written(workdir, found)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory):
  folder = tmp_path_factory.mktemp('run')
  on_disk(folder, *full())
  return folder


class TestPage:

  def test_has_its_parts_in_order(self, workdir):
    html = (workdir / 'report.html').read_text('utf-8')
    assert headings(html) == [
        'Accuracy', 'Trade-offs', 'Deployment tiers', 'Quality, retention and cost',
        'Robustness to corruptions', 'Reliability diagram', 'Confusion matrix', 'F1 per class',
        'Saliency where student and teacher disagree', 'CKA similarity of layers',
        'Training cost']
    # Radar; calibration of all, confusions of all but the baselines, layers of the students.
    assert html.count('<svg') == 1 + 7 + 4 + 3
    assert html.count('<h1>') == 1 and len(html.encode()) < 2_000_000
    text = re.sub('[ \n]+', ' ', re.sub(r'<[^>]+>', ' ', html)).replace('\u00a0', ' ')
    assert 'share of the metric kept, at least 90 % 97.0 % ✓ pass' in text
    assert 'at most 50 ms not measured ✗ fail' in text
    assert 'noise: some noise.' in text and ' 79.0–81.0 ' in text

  def test_the_legend_of_the_gallery_has_the_colours_that_it_names(self, workdir):
    html = (workdir / 'report.html').read_text('utf-8')
    assert re.findall(r'background: (#\w+)99"></i> ([^<]*?),?</span>', html) == [
        (gallery.FOR, 'supports the teacher&#39;s answer'), (gallery.AGAINST, 'opposes it')]

  def test_drawn_again_from_what_is_stored_it_is_the_same_bytes(self, workdir):
    drawn = {name: (workdir / name).read_bytes() for name in ('report.html', 'radar.svg')}
    for name in drawn:
      (workdir / name).unlink()
    report.render(workdir)
    assert drawn == {name: (workdir / name).read_bytes() for name in drawn}

  def test_without_any_record_what_comes_from_them_is_left_out(self, tmp_path):
    parts = headings(written(tmp_path, full(roles=BOTH)[0]))
    assert 'Reliability diagram' in parts and 'F1 per class' in parts
    assert not {'Confusion matrix', 'Saliency where student and teacher disagree'} & {*parts}

  def test_no_text_is_smaller_than_11_pixels_and_nothing_is_from_elsewhere(self, workdir):
    html = (workdir / 'report.html').read_text('utf-8')
    sizes = [(float(width), min(map(float, re.findall(r'<text style="[^"]*?([\d.]+)px', svg))))
             for width, svg in re.findall(r'<svg [^>]*viewBox="0 0 ([\d.]+) (.*?)</svg>', html,
                                          flags=re.S)]
    assert len(sizes) == 15 and 'minmax(300px, 1fr)' in html
    room = [PHONE if width == radar.WIDTH else PANEL for width, _ in sizes]
    assert min(size * px / width for (width, size), px in zip(sizes, room, strict=True)) >= 11
    links = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert all(link.startswith(('#', 'data:image/png;base64,')) for link in links)
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link[0] == '#'} <= set(ids)

  def test_hostile_and_long_names_are_only_text(self, tmp_path):
    names = ('<script>$x_$</script>', '&amp;" onload="' + 'y' * 200, '')
    found, records, explanations = full(names, BOTH)
    html = on_disk(tmp_path, found, records, explanations)
    assert '<script' not in html and 'onload="' not in html
    assert '&lt;script&gt;$x_$&lt;/script&gt;' in html

  def test_words_are_only_text(self, tmp_path):
    found, records, _ = full(roles=BOTH)
    tokens = np.tile(np.arange(4), (20, 1))
    explanations = {name: explained(tokens=tokens, places=tokens > 0, attribution=np.ones((20, 4)),
                         piece_ids=np.arange(4), pieces=np.array(['[CLS]', '<b>', '##<i>', 'z']))
              for name in BOTH}
    for values in explanations.values():
      del values['image']
    html = on_disk(tmp_path, found, records, explanations)
    assert '<i>z' not in html and '>&lt;b&gt;&lt;i&gt;</span>' in html

  def test_a_hundred_classes(self, tmp_path):
    names = tuple(f'a class with number {i}' for i in range(100))
    html = on_disk(tmp_path, *full(names, BOTH))
    assert 'the 20 of 100 on which the student is worst' in html
    assert len(re.findall(r'<tr><th>a class with', html)) == 20
    assert len(html.encode()) < 500_000

  def test_of_many_classes_those_are_shown_on_which_the_student_is_worst(self):
    found, _ = reported(BOTH, tuple(f'c{i}' for i in range(22)))
    for i, values in enumerate(found['models'][1]['classes']):
      values['f1'] = {'value': i % 11 / 20, 'low': 0., 'high': 1.}
    n, rows = tables.classes(found)
    assert n == 22 and [label for label, _ in rows] == [
        f'c{i} (2)' if i < 18 else f'c{i} (1)' for j in range(10) for i in (j, j + 11)]
    assert rows[-1][1][1] == ('45.0 %', '0.0–100.0')

  @pytest.mark.parametrize('roles', [{'single': 'student'}, {'single': 'teacher'},
                                     {'a': 'student', 'b': 'baseline'}])
  def test_one_model_and_no_teacher(self, tmp_path, roles):
    found, records, explanations = full(roles=roles)
    for each in found['models']:
      each |= {'layers': None, 'faithfulness': {}}
    parts = headings(on_disk(tmp_path, found, records, explanations))
    assert 'Saliency where student and teacher disagree' not in parts
    assert 'Confusion matrix' in parts

  @pytest.mark.parametrize('name, damage, line', [
      ('records/edge.npz', lambda whole: whole[:-50], 'records/edge.npz cannot be read .*remove'),
      ('records/edge.npz', lambda whole: whole[:500] + bytes(99) + whole[599:],
       'records/edge.npz cannot be read .*remove'),
      ('records/inside/edge.npz', lambda whole: b'', 'inside/edge.npz cannot be read .*remove it'),
      ('records/teacher.npz', lambda whole: b'{}', 'teacher.npz cannot be read .*pickle'),
      ('records/teacher.npz', lambda whole: saved(np.zeros(3), np.save), 'cannot be read'),
      ('records/teacher.npz', lambda whole: saved(np.array([None]), np.savez), 'be read .*pickle'),
      ('metrics.jsonl', lambda _: b'{"stage": "edge", "step": 1, "loss": 1}\n{"stage": "ed',
       'metrics.jsonl, line 2, is no row of a log: remove that line'),
      ('metrics.jsonl', lambda _: b'[1]', 'line 1, is no row'),
      ('metrics.jsonl', lambda _: b'\xff', 'line 1, is no row'),
      ('metrics.jsonl', lambda _: b'{"stage": "edge", "loss": 1}', 'line 1, is no row')])
  def test_a_damaged_file_is_named_and_the_page_stays(
      self, workdir, tmp_path, name, damage, line):
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    (copy / name).write_bytes(damage((copy / name).read_bytes() if (copy / name).exists() else b''))
    drawn = {name: (copy / name).stat().st_mtime_ns for name in ('report.html', 'radar.svg')}
    with pytest.raises(report.Stop, match=line) as stopped:
      report.render(copy)
    assert stopped.value.status == Status.DATA and '\n' not in str(stopped.value)
    assert drawn == {name: (copy / name).stat().st_mtime_ns for name in drawn}

  def test_what_was_measured_of_energy_stands_with_its_inputs(self, tmp_path):
    found = reported(BOTH)[0]
    teacher, student = found['models']
    for each, seconds in (teacher, .1), (student, .2):
      each['energy_j_per_example'] = energy.estimate(10., 1, seconds)
    assert tables.energy_methods(found) == [
        'estimated for the CPU: 10 W a busy core × cores × seconds (1 core for the median time at '
        'batch 1)']
    assert '1 core for the median time' in written(tmp_path, found)
    teacher['energy_j_per_example'] = {'value': .01, 'method': 'measured by RAPL: package-0',
                                       'inputs': {'joules': 20., 'examples': 2000}}
    student['energy_j_per_example'] = {'value': .2, 'method': 'measured by NVML: one GPU'}
    assert tables.energy_methods(found) == [
        'measured by RAPL: package-0 (teacher 20 J over 2,000 examples)',
        'measured by NVML: one GPU']
    teacher['energy_j_per_example'] = student['energy_j_per_example'] = None
    assert tables.energy_methods(found) == [] and '<dt>Energy' not in written(tmp_path, found)

  def test_the_memory_of_convolutions_on_a_cpu_is_called_a_plan(self, tmp_path):
    found = reported(BOTH)[0]
    line = lambda: re.findall(r'Memory per call is XLA.*?(see the process)?\.</p>',
                              written(tmp_path, found), flags=re.S)
    about = lambda: radar.axes(found)[0][2]['about']
    assert line() == [''] and 'which misses most of convolutions' in about()
    found['models'][0]['process_bytes'] = 400_000_000
    assert line() == ['see the process']
    found['hardware']['device'] = 'NVIDIA H100'
    assert line() == ['see the process']          # timed alone, on that machine's CPU
    found['models'][0]['process_bytes'] = None
    assert line() == [] and about() == 'per call'
    found['hardware']['device'] = 'cpu'
    for each in found['models']:
      each['saw'] = {'texts': 9, 'labels': 9}
    assert line() == []
    for each in found['models']:
      each |= {'saw': {'images': 9, 'labels': 9}, 'peak_memory_bytes': None}
    assert line() == []

  def test_a_note_says_that_a_baseline_has_its_students_learning_rate(self, tmp_path):
    line = "A baseline has its student's learning rate; at its own best it may be better."
    assert line not in written(tmp_path, reported(BOTH)[0])
    assert line in written(tmp_path, reported(BOTH | {'baseline': 'baseline'})[0])

  def test_what_else_is_to_be_known_of_a_model_stands_beside_it(self, tmp_path):
    found = reported(BOTH)[0]
    found['models'][0] |= {'saw': None, 'note': 'may have <seen> these examples'}
    assert '<span>loaded, not trained here; may have &lt;seen&gt; these examples</span>' in (
        written(tmp_path, found))
    found['models'][0]['note'] = 1
    with pytest.raises(ValueError, match=r'note is 1, not of type str'):
      written(tmp_path, found)

  @pytest.mark.parametrize('n, line', [(1, '1 core; a call may use 1 thread<'),
                                       (2, '2 cores; a call may use 2 threads<')])
  def test_one_thread_is_no_threads(self, tmp_path, n, line):
    found = reported(BOTH)[0]
    found['hardware']['cores'] = found['models'][0]['latency_ms']['threads'] = n
    assert line in re.sub(r'\s+', ' ', written(tmp_path, found))

  def test_a_workdir_without_a_report_is_refused(self, tmp_path):
    with pytest.raises(report.Stop, match='has no report.json'):
      report.render(tmp_path)


class TestStyles:

  def test_a_baseline_has_its_students_colour_and_dots_that_nobody_else_has(self):
    look = charts.styles(list(SEVEN))
    for name in 'cloud', 'edge', 'ultralight':
      assert look[f'{name}-baseline'] == look[name] | {'linestyle': charts.DOTS}
      assert look[name]['linestyle'] != charts.DOTS
    assert len({(values['color'], str(values['linestyle'])) for values in look.values()}) == 7

  def test_twenty_models_have_distinct_styles(self):
    look = charts.styles([f'm{i}' for i in range(20)])
    assert len({(values['color'], str(values['linestyle'])) for values in look.values()}) == 20

  def test_a_baseline_of_nobody_is_a_model_like_others(self):
    look = charts.styles(['teacher', 'student', 'baseline', 'x-baseline'])
    assert len({values['color'] for values in look.values()}) == 4


class TestMatrix:

  def draw(self, n, name='c', cells=None):
    names = [f'{name}{i}' for i in range(n)]
    cells = cells or [['7'] * n] * n
    return charts.matrix('m', '', np.eye(n), cells, (names, names), ('truth', 'answer'), '#000000')

  def test_numbers_stand_in_cells_where_they_fit(self):
    assert self.draw(10).count('>7</text>') == 100
    assert self.draw(10, cells=[['77777'] * 10] * 10).count('>77777<') == 0
    assert self.draw(30).count('>7</text>') == 0

  def test_many_classes_have_no_names_and_long_ones_are_cut(self):
    assert 'c3' in self.draw(20) and 'c3' not in self.draw(21)
    assert 'a long name…' in self.draw(3, 'a long name indeed')


def test_a_reliability_curve_draws_only_bins_that_hold_something():
  bins = [{'low': 0., 'high': .5, 'n': 0, 'confidence': None, 'accuracy': None},
          {'low': .5, 'high': 1., 'n': 1234, 'confidence': .8, 'accuracy': 1.}]
  svg = charts.reliability('m', 'ECE 1 %', bins, {'color': '#0072B2'})
  assert '>1,234</text>' in svg and '>ECE 1 %</text>' in svg and 'nan' not in svg.lower()
