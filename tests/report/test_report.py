import copy
import errno
import functools
import json
import re
import subprocess
import sys

import jsonschema
import pytest

from distill import report
from distill.measure import energy
from distill.report import charts, tables, tiers
from distill.types import Status, Stop
from tests.report import described


def metric(value, low, high, unit='fraction', higher=True, n=500):
  return {'value': value, 'low': low, 'high': high, 'n': n, 'unit': unit,
          'higher_is_better': higher}


def model(name, params, outside, p50, accuracy, **more):
  return {
      'name': name, 'role': name, 'saw': {'texts': 23_235, 'labels': 2_301},
      'quality': {'accuracy': metric(*accuracy), 'macro_f1': metric(.8, .78, .82)},
      'params': params, 'params_outside_embeddings': outside, 'bytes': 4 * params,
      'latency_ms': {'p50': p50, 'p95': 2 * p50, 'batch': 1, 'threads': 2},
      'throughput_per_s': 1234.5, 'flops': 6_300_000, 'peak_memory_bytes': 5_700_000,
      'energy_j_per_example': None, 'faithfulness': {}, 'retention': None, 'gain': None,
      'tier': None} | more


@pytest.fixture
def found():
  return {
      'schema': 1, 'config_name': 'bert', 'config_sha256': 'c0ffee' * 10, 'seed': 0,
      'versions': {'jax': '0.10.2'}, 'hardware': {'device': 'cpu', 'cpu': 'Xeon', 'cores': 2},
      'data': {'name': 'docstrings.Docstrings', 'fingerprint': 'f00d' * 16,
               'splits': {'train': 23_235, 'test': 500}},
      'padding_share': .083, 'task': {'primary': 'accuracy'},
      'models': [
          model('teacher', 1_800_000, 900_000, 3.6, (.80, .78, .82),
                saw={'texts': 23_235, 'labels': 23_235}),
          model('student', 600_000, 100_000, 1.5, (.78, .76, .80), teachers=['teacher'],
                retention={'of': 'teacher', 'accuracy': .975, 'macro_f1': None},
                gain={'of': 'baseline', 'accuracy': {'value': .179, 'low': .162, 'high': .196}}),
          model('baseline', 600_000, 100_000, 1.5, (.60, .58, .62))],
      'training': {'teacher': {'seconds': 90., 'steps': 100, 'examples': 6400, 'flops': None}}}


def regression(found):
  """The same report of numbers instead of classes: less error is better."""
  found['task'] = {'primary': 'mse', 'split': 'validation'}
  for each, value in zip(found['models'], (.40, .50, .625), strict=True):
    each['quality'] = {'mse': metric(value, value - .05, value + .05, '', False, 1500),
                       'spearman': metric(.8, .78, .82, 'correlation', n=1500)}
  found['models'][1] |= {
      'retention': {'of': 'teacher', 'mse': .8, 'spearman': 1.},
      'gain': {'of': 'baseline', 'mse': {'value': .125, 'low': .1, 'high': .15}}}
  return found


def cells(found):
  """The first table's rows by their labels."""
  return {label: row for rows in tables.tables(found)[0][1] for label, row in rows}


def further(found):
  """The same report with a further split."""
  for each, value in zip(found['models'], (.79, .77, .61), strict=True):
    each['also'] = {'held_out': {
        'quality': {'accuracy': metric(value, value - .01, value + .01, n=6734),
                    'macro_f1': metric(.7, .68, .72, n=6734)}, 'retention': None, 'gain': None}}
  found['models'][1]['also']['held_out'] |= {
      'retention': {'of': 'teacher', 'accuracy': .975},
      'gain': {'of': 'baseline', 'accuracy': {'value': .16, 'low': .15, 'high': .17}}}
  return found


def untimed(found):
  """The same report of a run without `evaluate.cost`."""
  for each in found['models']:
    each |= dict.fromkeys(('latency_ms', 'throughput_per_s', 'flops', 'peak_memory_bytes'))
  return found


def tiered(found, **asked):
  """The same report with tiers, and what else a report of before lacks."""
  for each in found['models']:
    each |= {'shipped_bytes': each['bytes'] + 99, 'quantised': 0., 'process_bytes': 400_000_000,
             'throughput_batch': 8, 'energy_j_per_example': energy.estimate(10., 1, .0012)}
    each['latency_ms']['threads'] = 1
  found['models'] = tiers.add_verdicts(found, tiers.limits({}, asked), asked)['models']
  return found


ROWS = [{'stage': stage, 'seed': 0, 'step': step, 'time': 1., 'loss': height / step,
         'grad_norm': 9., 'hard': 1.}
        for stage, height in (('teacher', 10.), ('student', 40.), ('baseline', 20.))
        for step in range(10, 101, 10)]


class TestVerdict:

  def test_of_a_student_that_gained(self, found):
    assert report.summary(found) == (
        "The student keeps 97.5 % of the teacher's accuracy with 1/9 of its parameters outside the "
        'embeddings, 2.4× faster at batch 1, and beats the same student without a teacher by 17.9 '
        'points (95 % interval 16.2 to 19.6).')

  @pytest.mark.parametrize('low', [-.004, 0.])
  def test_claims_no_gain_when_the_interval_holds_zero(self, found, low):
    found['models'][1]['gain']['accuracy'] = {'value': .005, 'low': low, 'high': .015}
    line = report.summary(found)
    assert 'beats' not in line
    assert 'is not measurably better than the same student without a teacher (0.5 points' in line

  def test_says_when_the_teacher_did_harm(self, found):
    found['models'][1]['gain']['accuracy'] = {'value': -.02, 'low': -.03, 'high': -.01}
    assert report.summary(found).endswith(
        'but is worse than the same student without a teacher (−2.0 points, 95 % interval −3.0 to '
        '−1.0).')

  def test_claims_nothing_for_the_teacher_without_a_baseline(self, found):
    found['models'][1]['gain'] = None
    line = report.summary(found)
    assert line.endswith('without a baseline, nothing shows what the teacher brought.')
    assert 'beats' not in line

  def test_without_a_teacher_it_speaks_of_the_student_alone(self, found):
    found['models'][1]['retention'] = found['models'][1]['gain'] = None
    assert report.summary(found).startswith('The student reaches accuracy 78.0 %;')

  @pytest.mark.parametrize('p50, line', [
      (3.6, ', as fast at'), (3.5, ', as fast at'), (7.2, ', 2× slower at'),
      (1.2, ', 3× faster at'), (0.1, ', 36× faster at')])
  def test_says_which_is_faster(self, found, p50, line):
    found['models'][1]['latency_ms']['p50'] = p50
    assert line in report.summary(found)

  @pytest.mark.parametrize('outside, line', [
      (100_500, '1/9 of its'), (260_000, '1/3.5 of its'), (1_350_000, '1.5 times its'),
      (900_000, 'as many'), (60_000, '1/15 of its')])
  def test_says_which_is_smaller_without_rounding_far(self, found, outside, line):
    found['models'][1]['params'] = 2_000_000
    found['models'][1]['params_outside_embeddings'] = outside
    assert f'with {line} parameters outside the embeddings' in report.summary(found)

  def test_speaks_of_no_time_where_none_was_taken(self, found):
    line = report.summary(untimed(found))
    assert 'with 1/9 of its parameters outside the embeddings, and beats' in line

  def test_names_no_embeddings_where_there_are_none(self, found):
    for each in found['models']:
      each['params_outside_embeddings'] = each['params']
    assert 'with 1/3 of its parameters, ' in report.summary(found)

  def test_names_every_student_when_there_are_several(self, found):
    found['models'].append(copy.deepcopy(found['models'][1]) | {'name': 'tiny'})
    line = report.summary(found)
    assert line.startswith('The student keeps') and '. The student tiny keeps' in line
    assert 'student student' not in line

  def test_says_whether_the_tier_that_was_asked_is_reached(self, found):
    without = report.summary(found)
    assert report.summary(tiered(found)) == without
    assert report.summary(tiered(found, student='cloud')) == (
        f'{without} It reaches the tier cloud: share of the metric kept 0.975, at least 0.9.')
    assert report.summary(tiered(found, student='edge')) == (
        f"{without} It misses the tier edge: share of the teacher's parameters 0.3333, at most "
        '0.1.')

  def test_a_metric_with_a_unit_of_its_own(self, found):
    found['task']['primary'] = 'perplexity'
    for each in found['models']:
      each['quality']['perplexity'] = metric(12.34, 12., 13.) | {'unit': 'ppl'}
    found['models'][1]['retention']['perplexity'] = .9
    found['models'][1]['gain']['perplexity'] = {'value': 1.5, 'low': 1., 'high': 2.}
    assert 'by 1.5 ppl (95 % interval 1 to 2)' in report.summary(found)

  def test_where_less_is_better_it_speaks_of_both_errors_and_of_no_share(self, found):
    assert report.summary(regression(found)) == (
        'The student reaches MSE 0.5, where the teacher has 0.4, with 1/9 of its parameters '
        'outside the embeddings, 2.4× faster at batch 1, and beats the same student without a '
        'teacher by 0.125 (95 % interval 0.1 to 0.15).')

  def test_a_correlation_is_no_percentage(self, found):
    found = regression(found)
    found['task']['primary'] = 'spearman'
    found['models'][1]['gain']['spearman'] = {'value': -.0004, 'low': -.01, 'high': .0091}
    found['models'][2]['quality']['spearman'] |= {'value': -.02, 'low': -.1, 'high': -.001}
    assert '−0.020 (−0.100 to −0.001)' in report.table(found)
    line = report.summary(found)
    assert "keeps 100.0 % of the teacher's Spearman correlation with" in line
    assert line.endswith('(0.000, 95 % interval −0.010 to 0.009).')


class TestTable:

  def test_is_aligned_and_fits_a_terminal(self, found):
    lines = report.table(found).splitlines()
    assert lines[0].split() == ['teacher', 'student', 'baseline']
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 100

  def test_says_what_was_measured(self, found):
    rows = {line[:31].strip(): line[31:].split() for line in report.table(found).splitlines()}
    assert rows['training labels'] == ['23,235', '2,301', '2,301']
    assert rows['accuracy'][3:6] == ['78.0', '%', '(76.0–80.0)']
    assert rows["retention of teacher's accuracy"] == ['–', '97.5', '%', '–']
    assert rows['gain over baseline'] == ['–', '17.9', 'points', '(16.2', 'to', '19.6)', '–']
    assert rows['parameters'] == ['1.8', 'M', '600', 'k', '600', 'k']
    assert rows['weights'] == ['7.2', 'MB', '2.4', 'MB', '2.4', 'MB']
    assert rows['examples per second'] == ['1,234'] * 3

  def test_says_on_which_split_and_which_way_is_better(self, found):
    rows = [re.split('  +', line.strip()) for line in report.table(regression(found)).splitlines()]
    assert rows[0] == ['validation, 1,500 examples', 'teacher', 'student', 'baseline']
    assert rows[3] == ['MSE, lower is better', '0.4 (0.35–0.45)', '0.5 (0.45–0.55)',
                       '0.625 (0.575–0.675)']
    assert rows[4][:2] == ['Spearman correlation', '0.800 (0.780–0.820)']
    assert rows[5] == ["retention of teacher's quality", '–', '80.0 %', '–']
    assert rows[6] == ['gain over baseline', '–', '0.125 (0.1 to 0.15)', '–']

  def test_a_further_split_has_a_table_of_its_own(self, found):
    single = report.table(found).splitlines()
    both = report.table(further(found)).splitlines()
    rows = [re.split('  +', line.strip()) for line in both[len(single):]]
    assert [line.split() for line in both[:len(single)]] == [line.split() for line in single]
    assert rows == [
        [''], ['held_out, 6,734 examples', 'teacher', 'student', 'baseline'],
        ['accuracy', '79.0 % (78.0–80.0)', '77.0 % (76.0–78.0)', '61.0 % (60.0–62.0)'],
        ["retention of teacher's accuracy", '–', '97.5 %', '–'],
        ['gain over baseline', '–', '16.0 points (15.0 to 17.0)', '–']]

  def test_names_the_tiers_that_a_student_reaches_and_calls_an_estimate_one(self, found):
    lines = report.table(tiered(found)).splitlines()
    rows = {line[:31].strip(): re.split('  +', line[31:].strip()) for line in lines}
    assert rows['tiers reached'] == ['–', 'cloud', '–']
    assert rows['energy per example, estimated'] == ['about 12 mJ'] * 3
    assert '  at 10 W a core' in lines
    found['models'][1]['energy_j_per_example'] = {'value': .002, 'method': 'measured by RAPL'}
    assert re.search('energy per example +about 12 mJ +2 mJ +about', report.table(found))

  def test_shows_the_process_what_ships_and_which_batch_is_fastest(self, found):
    rows = cells(tiered(found))
    assert rows['shipped files'] == [('7.2 MB', ''), ('2.4 MB', ''), ('2.4 MB', '')]
    assert rows['memory of the process'] == [('400 MB', '')] * 3
    assert rows['examples per second'] == [('1,234', 'batch 8')] * 3
    found['models'][0] |= dict.fromkeys(('shipped_bytes', 'process_bytes', 'throughput_batch'))
    rows = cells(found)
    assert [rows[name][0] for name in (
        'shipped files', 'memory of the process', 'examples per second')] == [
            ('–', ''), ('–', ''), ('1,234', '')]

  def test_rows_that_nobody_has_are_left_out(self, found):
    assert not {label for label in cells(found) if re.search(
        'shipped|process|energy|chance|errors|shared', label)}

  def test_an_estimate_says_of_what_it_is_made_where_that_is_one_thing(self, found):
    named = lambda: [label for label in cells(found) if label.startswith('energy')]
    assert named() == []
    for each in tiered(found)['models']:
      del each['energy_j_per_example']['inputs']
    assert named() == ['energy per example, estimated']

  def test_what_is_kept_over_chance_has_a_row_where_it_is_known(self, found):
    over = {'of': 'teacher', 'accuracy': {
        'value': -.25, 'chance': .5, 'interval': {'low': -.5, 'high': .125}}}
    found['models'][1]['retention_over_chance'] = over
    assert cells(found)['retention over chance (50.0 %)'] == [
        ('–', ''), ('−25.0 %', '−50.0 to 12.5'), ('–', '')]
    over['accuracy'] |= {'value': .25, 'interval': {'low': 0., 'high': .5}}
    assert cells(found)['retention over chance (50.0 %)'][1] == ('25.0 %', '0.0–50.0')
    over['accuracy'] |= {'value': -.25, 'interval': None}
    assert cells(found)['retention over chance (50.0 %)'][1] == ('−25.0 %', '')
    further(found)['models'][1]['also']['held_out']['retention_over_chance'] = over
    assert 'retention over chance (50.0 %)' in dict(tables.tables(found)[1][1][0])
    over['accuracy']['value'] = None
    assert not [label for label in cells(found) if 'chance' in label]

  @pytest.mark.parametrize('saw, places', [
      ({'labels': 9, 'texts': 9}, 'words'), ({'images': 9, 'labels': 9}, 'pixels'),
      (None, 'places')])
  def test_says_what_of_the_top_is_shared_and_what_chance_would(self, found, saw, places):
    for each in found['models']:
      each['saw'] = saw
    found['models'][1]['faithfulness'] = {'saliency_top': metric(.5, .4, .6),
                                          'agreement_on_errors': metric(.3, .2, .4)}
    rows = cells(found)
    assert rows[f'top {places} shared, against 20 % by chance'][1] == ('50.0 %', '40.0–60.0')
    assert rows["agreement on the teacher's errors"][1] == ('30.0 %', '20.0–40.0')

  def test_long_names_of_rows_go_on_in_the_next_line(self, found):
    found['models'][2]['name'] = found['models'][1]['gain']['of'] = 'a-very-long-name-baseline'
    lines = report.table(found).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith('gain over '))
    assert lines[at].endswith('–') and '17.9 points' in lines[at]
    assert lines[at + 1] == '  a-very-long-name-baseline'

  def test_many_models_are_several_tables(self, found):
    teacher, student, baseline = found['models']
    for name in 'edge', 'tiny':
      found['models'] += [
          student | {'name': name, 'gain': student['gain'] | {'of': f'{name}-baseline'}},
          baseline | {'name': f'{name}-baseline'}]
    tables = [table.splitlines() for table in report.table(found).split('\n\n')]
    assert [table[0].split() for table in tables] == [
        ['teacher', 'student', 'baseline'], ['edge', 'edge-baseline', 'tiny', 'tiny-baseline']]
    assert [len(table) for table in tables] == [len(tables[0])] * 2
    assert tables[1][6].split()[:4] == ['gain', 'over', 'its', 'baseline']

  def test_a_loaded_teacher_has_dashes_for_its_training_data(self, found):
    found['models'][0]['saw'] = None
    assert re.search('training labels +– +2,301', report.table(found))

  def test_leaves_out_what_no_model_has_and_dashes_what_one_lacks(self, found):
    for each in found['models']:
      each['gain'] = each['retention'] = each['flops'] = None
    line = report.table(found)
    assert 'gain' not in line and 'retention' not in line
    assert re.search(r'FLOPs per call +– +– +–', line)


class TestWrite:

  def test_json_is_what_was_given_and_no_half_file_stays(self, found, tmp_path):
    report.write(tmp_path, found, ROWS)
    assert json.loads((tmp_path / 'report.json').read_text('utf-8')) == found
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        'radar.svg', 'report.html', 'report.json']

  def test_the_page_is_the_same_bytes_every_time(self, found, tmp_path):
    pages = []
    for _ in range(2):
      report.write(tmp_path, found, ROWS)
      pages.append((tmp_path / 'report.html').read_bytes())
    assert pages[0] == pages[1] and len(pages[0]) < 100_000

  def test_the_page_holds_verdict_table_curves_and_where_it_came_from(self, found, tmp_path):
    report.write(tmp_path, found, ROWS)
    page = (tmp_path / 'report.html').read_text('utf-8')
    text = re.sub('[ \n]+', ' ', re.sub(r'<style>.*?</style>|<[^>]+>', ' ', page, flags=re.S))
    for line in ('97.5\u00a0% of the teacher&#39;s accuracy', '23,235 texts, all labelled',
                 '23,235 texts, 2,301 labelled, and the teacher', 'on 500 held-out examples',
                 '76.0–80.0', ' loss ', ' hard ', 'f00d' * 4,
                 'jax 0.10.2', '8.3\u00a0% of all positions are padding', 'cpu, Xeon, 2 cores'):
      assert line in text, line
    assert page.count('<svg') == 3        # the radar, and two panels

  def test_the_page_of_a_regression_with_a_further_split(self, found, tmp_path):
    found = regression(found)
    for each in found['models']:
      each['also'] = {'held_out': {'quality': each['quality'], 'retention': None, 'gain': None}}
    report.write(tmp_path, found, ROWS)
    page = (tmp_path / 'report.html').read_text('utf-8')
    text = re.sub('[ \n]+', ' ', re.sub(r'<style>.*?</style>|<[^>]+>', ' ', page, flags=re.S))
    for line in ('MSE on 1,500 examples of validation', '; lower is better, and so to the right',
                 'Also on held_out, 1,500 examples', '0.575–0.675'):
      assert line in text, line
    # Axis 0.3 … 0.7, turned round: the student's 0.5 is in the middle, the better teacher right.
    assert re.findall(r'"point" style="left: ([\d.]+)%"', page) == ['75.0', '50.0', '18.75']

  def test_the_page_needs_nothing_from_elsewhere(self, found, tmp_path):
    report.write(tmp_path, found, ROWS)
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert not re.search(r'<script|<link|@import|<img|url\((?!#)', page)
    links = re.findall(r'(?:href|src)="([^"]*)"', page)
    assert all(link.startswith('#') for link in links)
    ids = re.findall(r' id="([^"]*)"', page)
    assert len(ids) == len(set(ids)) and {link[1:] for link in links} <= set(ids)

  def test_names_cannot_break_the_page(self, found, tmp_path):
    hostile = '<script>$x_$</script>'
    found['models'][1]['name'] = found['config_name'] = hostile
    report.write(tmp_path, found, [row | {'stage': hostile} for row in ROWS])
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert '<script' not in page and page.count('&lt;script&gt;$x_$&lt;/script&gt;') >= 5

  def test_no_text_is_smaller_than_11_pixels_on_a_phone(self, found, tmp_path):
    report.write(tmp_path, found, ROWS)
    page = (tmp_path / 'report.html').read_text('utf-8')
    drawn = re.findall(r'<text style="[^"]*?([\d.]+)px', page)
    sheet = re.findall(r'font(?:-size)?: ([\d.]+)px', page[:page.index('</style>')])
    # A drawing of WIDTH units is at least 300 pixels wide; a phone has 360 − 2 · 16 for it.
    assert 'minmax(300px, 1fr)' in page
    assert drawn and min(map(float, drawn)) * 300 / charts.WIDTH >= 11
    assert len(sheet) > 5 and min(map(float, sheet)) >= 11

  def test_without_times_there_is_none_on_the_page_nor_in_the_table(self, found, tmp_path):
    report.write(tmp_path, untimed(found), ROWS)
    page = (tmp_path / 'report.html').read_text('utf-8')
    line = page + report.table(report.read(tmp_path))
    assert not re.search('latency|percentile|per second|threads|medians|None', line)
    assert line.count('outside embeddings') == 2 and 'cpu, Xeon, 2 cores' in page

  def test_a_loaded_teacher_is_called_so(self, found, tmp_path):
    found['models'][0]['saw'] = None
    report.write(tmp_path, found, ROWS)
    assert 'loaded, not trained here' in (tmp_path / 'report.html').read_text('utf-8')

  def test_who_taught_a_model_stands_beside_it(self, found, tmp_path):
    teacher, student, baseline = found['models']
    assistant = teacher | {'name': 'assistant', 'role': 'assistant', 'teachers': ['teacher']}
    found['models'] = [teacher, assistant, student | {'teachers': ['assistant', 'teacher']},
                       baseline | {'teachers': []}]
    report.write(tmp_path, found, ROWS)
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert re.findall(r'<span>(23,235 [^<]*)</span>', page) == [
        '23,235 texts, all labelled', '23,235 texts, all labelled, and the teacher',
        '23,235 texts, 2,301 labelled, and the assistant, and the teacher',
        '23,235 texts, 2,301 labelled']

  def test_a_run_that_logged_no_numbers_has_a_page_without_curves(self, found, tmp_path):
    report.write(tmp_path, found, [{'stage': 'student', 'step': 1, 'loss': None}])
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert page.count('<svg') == 1 and 'Training curves' not in page

  @pytest.mark.parametrize('path, value, line', [
      (('seed',), ..., 'report lacks seed'),
      (('schema',), 2, 'report.schema is 2, not one of [1]'),
      (('models', 1, 'role'), ['student'], 'report.models[1].role is '),
      (('models', 0, 'params'), 1.5, 'report.models[0].params is 1.5, not of type int'),
      (('models', 0, 'params'), True, 'params is True, not of type int'),
      (('models', 0, 'quality', 'macro_f1'), ..., 'all the same metrics'),
      (('models', 0, 'quality', 'accuracy', 'unit'), ..., 'quality.accuracy lacks unit'),
      (('models', 1, 'gain', 'accuracy'), .1, 'gain.accuracy is 0.1, not a table'),
      (('models', 1, 'gain', 'of'), 'nobody', 'student: gain must be of a model in the report'),
      (('models', 1, 'retention', 'accuracy'), ..., 'retention must be'),
      (('models', 1, 'retention_over_chance'), {'of': 'teacher'}, 'retention_over_chance must be'),
      (('models', 1, 'teachers'), ['nobody'], "student.teachers[0] is 'nobody', not one of"),
      (('models', 2, 'name'), 'student', 'names must differ'),
      (('models', 0, 'energy_j_per_example'), {'value': 1.}, 'energy_j_per_example lacks method'),
      (('models', 0, 'energy_j_per_example'), {'value': 1., 'method': '', 'inputs': {'cores': '1'}},
       "energy_j_per_example.inputs.cores is '1', not of type float"),
      (('models', 0, 'tier'), {'name': 'edge', 'passed': True, 'limits': [{}]}, 'limits[0] lacks'),
      (('models', 1, 'tiers'), [{'name': 'edge'}], 'models[1].tiers[0] lacks passed, limits'),
      (('models', 1, 'saw'), {'labels': 9}, 'student: saw must say of how many examples it is'),
      (('models', 1, 'saw', 'labels'), ..., 'models[1].saw lacks labels'),
      (('models', 1, 'saw', 'clouds'), 1.5, 'models[1].saw.clouds is 1.5, not of type int'),
      (('models', 1, 'shipped_bytes'), 1.5, 'models[1].shipped_bytes is 1.5, not of type int'),
      (('models',), {}, 'report.models is {}, not a list'),
      (('models',), [], 'there must be models'),
      (('training', 'teacher', 'seconds'), '9', "teacher.seconds is '9', not of type float"),
      (('versions', 'jax'), None, 'versions.jax is None, not of type str')])
  def test_a_broken_contract_is_refused_and_overwrites_nothing(
      self, found, tmp_path, path, value, line):
    report.write(tmp_path, found, ROWS)
    before = (tmp_path / 'report.json').read_bytes()
    node = found
    for key in path[:-1]:
      node = node[key]
    if value is ...:
      del node[path[-1]]
    else:
      node[path[-1]] = value
    with pytest.raises(ValueError, match=re.escape(line)):
      report.write(tmp_path, found, ROWS)
    assert (tmp_path / 'report.json').read_bytes() == before

  def test_examples_may_have_any_noun(self, found, tmp_path):
    for each in found['models']:
      each['saw'] = {'clouds': 23_235, 'labels': 2_301}
    report.write(tmp_path, found, ROWS)
    assert report.read(tmp_path)['models'][1]['saw'] == {'clouds': 23_235, 'labels': 2_301}
    assert re.search('training clouds +23,235', report.table(found))
    page = (tmp_path / 'report.html').read_text('utf-8')
    assert '23,235 clouds, 2,301 labelled' in page and 'text' not in report.table(found)

  @pytest.mark.parametrize('break_it, line', [
      (lambda also: also.clear(), 'student.also lacks held_out'),
      (lambda also: also['held_out'].pop('gain'), 'models[1].also.held_out lacks gain'),
      (lambda also: also['held_out']['gain'].update(of='nobody'), 'gain must be of a model'),
      (lambda also: also['held_out']['quality'].pop('macro_f1'), 'all the same metrics'),
      (lambda also: also['held_out']['quality']['accuracy'].update(n='9'), "n is '9', not of")])
  def test_a_further_split_keeps_the_contract_too(self, found, tmp_path, break_it, line):
    break_it(further(found)['models'][1]['also'])
    with pytest.raises(ValueError, match=re.escape(line)):
      report.write(tmp_path, found, ROWS)

  @pytest.mark.parametrize('changed', [lambda found: found, further, regression, tiered])
  def test_reading_gives_what_was_written(self, found, tmp_path, changed):
    report.write(tmp_path, changed(found), ROWS)
    assert report.read(tmp_path) == found

  @pytest.mark.parametrize('text, line', [('{"schema": 1', 'is not JSON'),
                                          ('{"schema": 1}', 'report lacks config_name')])
  def test_a_damaged_report_stops_with_what_to_do(self, tmp_path, text, line):
    (tmp_path / 'report.json').write_text(text)
    with pytest.raises(Stop, match=f'{line}.*remove it to measure again') as stopped:
      report.read(tmp_path)
    assert stopped.value.status == Status.DATA

  def test_a_number_that_json_does_not_know_is_no_number_of_a_report(self, found, tmp_path):
    found['models'][0]['throughput_per_s'] = float('nan')
    (tmp_path / 'report.json').write_text(json.dumps(found))
    with pytest.raises(Stop, match='throughput_per_s is nan, not of type float') as stopped:
      report.read(tmp_path)
    assert stopped.value.status == Status.DATA

  @pytest.mark.parametrize(('path', 'field'), [
      (('mine',), 'mine'), (('models', 0, 'quality', 'macro_f1', 'low'),
                            'models.0.quality.macro_f1.low')])
  def test_a_number_that_json_does_not_know_ends_the_run_in_one_line(
      self, found, tmp_path, path, field):
    *above, last = path
    functools.reduce(lambda node, key: node[key], above, found)[last] = float('inf')
    with pytest.raises(Stop) as stop:
      report.write(tmp_path, found, ROWS)
    assert stop.value.status == Status.NONFINITE and not list(tmp_path.iterdir())
    assert str(stop.value) == f'{tmp_path}/report.json: {field} is not a finite number'

  def test_a_disk_that_refuses_stops_the_run_and_leaves_the_old_report(
      self, found, tmp_path, monkeypatch):
    report.write(tmp_path, found, ROWS)
    before = (tmp_path / 'report.json').read_bytes()
    def full(_):
      raise OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr('os.fsync', full)
    with pytest.raises(Stop, match='No space left') as stopped:
      report.write(tmp_path, found | {'seed': 1}, ROWS)
    assert stopped.value.status == Status.DISK
    assert (tmp_path / 'report.json').read_bytes() == before


class TestSchema:

  def test_is_a_schema(self):
    jsonschema.Draft202012Validator.check_schema(described.SCHEMA)
    assert described.SCHEMA['$schema'] == 'https://json-schema.org/draft/2020-12/schema'

  def test_says_of_every_field_what_it_is(self):
    def fields(schema, where):
      for name, its in schema.get('properties', {}).items():
        yield f'{where}.{name}', its
        yield from fields(its, f'{where}.{name}')
    tables = {'report': described.SCHEMA, **described.SCHEMA['$defs']}
    found = [field for name, table in tables.items() for field in (
        (name, table), *fields(table, name))]
    assert len(found) > 100
    assert not [where for where, its in found if not {'title', 'description'} <= its.keys()]

  @pytest.mark.parametrize('changed', [lambda found: found, regression, lambda found: reasoned(
      tiered(further(found), student='edge'))])
  def test_describes_all_that_a_report_has(self, found, changed):
    described.check(changed(found))

  def test_a_field_that_it_does_not_describe_is_seen(self, found):
    found['models'][0]['latency_ms']['p99'] = 1.
    assert [*described.undescribed(found)] == ['report.models[0].latency_ms.p99']


def test_importing_the_report_loads_nothing_that_only_its_end_needs():
  code = ('import sys, distill.report; '
          'sys.exit(any(m in sys.modules for m in ("matplotlib", "jinja2", "jsonschema")))')
  assert subprocess.run([sys.executable, '-c', code]).returncode == 0


def reasoned(found):
  """The same report with what models have inside."""
  bins = [{'low': 0., 'high': 1., 'n': 500, 'confidence': .8, 'accuracy': .7}]
  for each in found['models']:
    each |= {'classes': None, 'layers': None,
             'calibration': {name: metric(.1, .05, .2, '', False)
                             for name in ('ece', 'adaptive_ece', 'nll', 'brier')} | {'bins': bins},
             'robustness': {'clean': metric(.8, .7, .9), 'noise': {
                 **metric(.6, .5, .7), 'about': 'some', 'kept': .75,
                 'change': {'value': -.2, 'low': -.3, 'high': -.1}}}}
  found['models'][1] |= {
      'faithfulness': {'agreement': metric(.9, .88, .92), 'kl': metric(.2, .1, .3, 'nats', False)},
      'retention_over_chance': {'of': 'teacher', 'accuracy': {'value': .9, 'chance': .5}},
      'layers': {'of': 'teacher', 'rows': ['pooled'], 'columns': ['pooled'], 'cka': [[.5]]}}
  return found


def test_a_report_may_say_why_models_decide_as_they_do(found, tmp_path):
  report.write(tmp_path, reasoned(found), [])
  assert report.read(tmp_path) == found
  lines = {line[:31].strip(): line.split()[-3:] for line in report.table(found).splitlines()}
  assert lines['agreement with teacher'] == ['%', '(88.0–92.0)', '–']
  assert lines['KL divergence from teacher'] == ['nats', '(0.1–0.3)', '–']
  for spoilt in ({'robustness': {'clean': None}}, {'calibration': {}},
                 {'layers': {'of': 'teacher', 'rows': [], 'columns': [], 'cka': [.5]}},
                 {'faithfulness': {'kl': .2}}):
    found['models'][1] |= spoilt
    with pytest.raises(ValueError, match=next(iter(spoilt))):
      report.write(tmp_path, found, [])
    reasoned(found)


def test_of_several_teachers_each_student_keeps_of_its_own(found):
  other = copy.deepcopy(found['models'][1]) | {'name': 'second', 'teachers': ['second-teacher']}
  other['retention'] = {**other['retention'], 'of': 'second-teacher'}
  found['models'] += [copy.deepcopy(found['models'][0]) | {'name': 'second-teacher'}, other]
  line = report.table(found)
  assert "retention of its teacher's" in line and "baseline's accuracy" not in line
