import json

import pytest

from distill.types import Status
from experiments import rows, table

FRACTION = {'name': 'accuracy', 'unit': 'fraction', 'higher_is_better': True}


def row(arm, seed, student, baseline, teacher=0.8, *, metric=FRACTION, **more):
  name = metric['name']
  model = lambda role, value, **about: {
      'role': role, 'quality': {name: value}, 'n': 2765, 'retention': None, 'gain': None, **about}
  return {
      'schema': 1, 'experiment': 'paper', 'config': 'configs/a.py', 'base': '01234567', 'arm': arm,
      'seed': seed, 'config_sha256': f'{arm}{seed}', 'commit': 'f' * 40, 'seconds': 90.0,
      'metric': metric, 'training': {}, 'data': {'name': 'docstrings', 'fingerprint': 'a' * 64},
      'hardware': {'device': 'cpu', 'cpu': 'EPYC', 'cores': 2}, 'versions': {'jax': '0.10.2'},
      'models': {
          'big': model('teacher', teacher),
          'student': model('student', student, retention={'of': 'big', name: student / teacher},
                           gain={'of': 'baseline', name: {'value': student - baseline}}),
          'baseline': model('baseline', baseline)}, **more}


def failed(arm, seed):
  return {**{k: v for k, v in row(arm, seed, 0.7, 0.6).items() if k not in rows.FINISHED},
          'error': {'status': 12, 'line': 'student: not finite'}}


def page(root, found, name='paper'):
  (root / name).mkdir(exist_ok=True)
  (root / name / 'results.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in found))
  return table.rendered(root)[0]


def cells(text, arm):
  return [c.strip() for c in next(
      line for line in text.splitlines() if line.startswith(f'| {arm} |')).strip('|').split('|')]


SLOW, FAST = {'optimizer.rate': 0.001}, {'optimizer.rate': 0.004}
THREE = [row({}, 0, 0.75, 0.60), row({}, 1, 0.76, 0.60), row({}, 2, 0.77, 0.60)]


class TestInterval:

  def test_by_hand(self):
    # Three values 1, 2, 3: mean 2, sd 1, t(0.975, 2) = 4.302653: 2 ± 4.302653 / √3 = 2 ± 2.484138.
    assert table.interval({0: 1.0, 1: 2.0, 2: 3.0}) == pytest.approx((-0.484138, 4.484138))

  def test_of_two_is_the_cauchy_one(self):
    # t(0.975, 1) = 12.706205 = tan(0.475 π); sd of 0 and 2 is √2: half = 12.706205 √2 / √2.
    assert table.interval({0: 0.0, 1: 2.0}) == pytest.approx((-11.706205, 13.706205))

  def test_of_one_value_there_is_none(self):
    assert table.interval({0: 1.0}) is None and table.interval({}) is None


def limit(bound, limit, value):
  passed = value is not None and (value <= limit if bound == '<=' else value >= limit)
  return {'bound': bound, 'limit': limit, 'value': value, 'passed': passed}


class TestTiers:
  """Runs of a matrix: several students, each with its baseline and its tier."""

  def row(self, seed, small, wide, p95=9.0, share=0.05):
    found = row({}, seed, 0, 0, training={'big': {'seconds': 40.}})
    student = found['models'].pop('student')
    plain, baseline = found['models'].pop('baseline'), 0.5
    verdicts = {'small': ('edge', {'params': limit('<=', .1, share),
                                   'p95_ms': limit('<=', 8., p95)}),
                'wide': ('cloud', {'kept': limit('>=', .9, wide / 0.8)})}
    for name, value in (('small', small), ('wide', wide)):
      tier, limits = verdicts[name]
      passed = all(limit['passed'] for limit in limits.values())
      found['models'][name] = student | {
          'quality': {'accuracy': value}, 'retention': {'of': 'big', 'accuracy': value / 0.8},
          'gain': {'of': f'{name}-baseline', 'accuracy': {'value': value - baseline}},
          'tier': {'name': tier, 'passed': passed, 'limits': limits}}
      found['models'][f'{name}-baseline'] = plain | {'quality': {'accuracy': baseline}}
      found['training'] |= {name: {'seconds': {'small': 30., 'wide': 48.}[name]},
                            f'{name}-baseline': {'seconds': 6.}}
      baseline += 0.1
    return found

  def test_each_student_is_an_arm_with_its_own_baseline_and_their_training(self, tmp_path):
    # Baselines 50 and 60. Three times 30 + 6 seconds of training are 1.8 minutes, and three times
    # 48 + 6 are 2.7; that their teacher took 40 is no student's.
    text = page(tmp_path, [self.row(s, 0.6 + 0.02 * s, 0.7) for s in range(3)])
    assert cells(text, '`student=small`') == [
        '`student=small`', '80.0 ± 0.0', '62.0 ± 2.0', '50.0 ± 0.0', '77.5 ± 2.5',
        '12.0 ± 2.0 (7.0 to 17.0)', '–', '3', '1.8']
    assert cells(text, '`student=wide`')[2:6] == [
        '70.0 ± 0.0', '60.0 ± 0.0', '87.5 ± 0.0', '10.0 ± 0.0 (10.0 to 10.0)']
    assert cells(text, '`student=wide`')[8] == '2.7'
    assert cells(text, 'arm')[8] == 'minutes of training'

  def test_limits_have_values_over_seeds_and_how_many_pass(self, tmp_path):
    # 7, 9 and 8 ms: 8 ± 1, of which two are 8 at most; 73, 75 and 66 of 80 kept; at
    # the seed of 7 ms it has too many parameters: 0.2, 0.05, 0.05.
    text = page(tmp_path, [self.row(0, 0.6, 0.73, 7.0, 0.2), self.row(1, 0.6, 0.75, 9.0),
                           self.row(2, 0.6, 0.66, 8.0)])
    lines = [[c.strip() for c in line.strip('|').split('|')] for line in text.splitlines()
             if '| edge |' in line or '| cloud |' in line]
    assert lines == [
        ['`student=small`', 'edge', "share of the teacher's parameters", 'at most 0.1',
         '0.1 ± 0.0866', '2 of 3'],
        ['`student=small`', 'edge', '95th percentile in ms on one thread', 'at most 8', '8 ± 1',
         '2 of 3'],
        ['`student=wide`', 'cloud', 'share of the metric kept', 'at least 0.9',
         '0.8917 ± 0.05907', '2 of 3']]
    assert ('`student=small` reaches the tier edge at 1 of 3; '
            '`student=wide` reaches the tier cloud at 2 of 3 seeds.') in text

  def test_what_was_not_measured_is_not_passed(self, tmp_path):
    text = page(tmp_path, [self.row(s, 0.6, 0.7, None) for s in range(2)])
    assert '| at most 8 | not measured | 0 of 2 |' in text
    assert '`student=small` reaches the tier edge at 0 of 2' in text

  def test_where_no_tier_was_asked_for_there_is_none(self, tmp_path):
    assert 'tier' not in page(tmp_path, THREE)

  def test_large_numbers_are_whole(self):
    assert table.number(4999999.4, False) == '4,999,999'
    assert table.number(-12345, False) == '−12,345'
    assert table.number(9999, False) == '9999' and table.number(12345.678, True) == '12345.7'


class TestTable:

  def test_by_hand(self, tmp_path):
    # Student 75, 76, 77: 76 ± 1. Kept of 80: 93.75, 95, 96.25: 95 ± 1.25, written 1.2 (half to
    # even). Gain 15, 16, 17: 16 ± 1 (16 ± 2.48). Three runs of 90 seconds are 4.5 minutes.
    assert cells(page(tmp_path, THREE), 'as it stands') == [
        'as it stands', '80.0 ± 0.0', '76.0 ± 1.0', '60.0 ± 0.0', '95.0 ± 1.2',
        '16.0 ± 1.0 (13.5 to 18.5)', '–', '3', '4.5']

  def test_one_seed_has_neither_spread_nor_interval(self, tmp_path):
    assert cells(page(tmp_path, THREE[:1]), 'as it stands') == [
        'as it stands', '80.0', '75.0', '60.0', '93.8', '15.0', '–', '1', '1.5']

  def test_arms_are_compared_at_the_same_seed(self, tmp_path):
    # Against 75, 76, 77 at seeds 0, 1, 2. Seeds in another order, and one more that has no pair:
    # 1 better at each of three, without any spread; unpaired it would have one.
    arm = {'objective.soft.weight': 2.0}
    text = page(tmp_path, [*THREE, *(row(arm, s, v, 0.6) for s, v in (
        (2, 0.78), (0, 0.76), (9, 0.1), (1, 0.77)))])
    assert cells(text, '`objective.soft.weight=2.0`')[6] == '1.0 ± 0.0 (1.0 to 1.0), 3 seeds'

  def test_lower_is_better_turns_the_sign_and_other_units_stay_as_they_are(self, tmp_path):
    metric = {'name': 'word_error', 'unit': 'errors', 'higher_is_better': False}
    text = page(tmp_path, [row({}, 0, 3.0, 5.0, metric=metric),
                           row({'a': 1}, 0, 2.5, 5.0, metric=metric)])
    assert cells(text, 'arm')[1:4] == ['teacher, errors', 'student, errors', 'baseline, errors']
    assert cells(text, '`a=1`')[2] == '2.5' and cells(text, '`a=1`')[6] == '0.5'
    assert 'Word error on 2,765 held-out examples' in text

  def test_a_correlation_is_in_hundredths_and_a_split_has_its_name(self, tmp_path):
    metric = {'name': 'mcc', 'unit': 'correlation', 'higher_is_better': True, 'split': 'validation'}
    text = page(tmp_path, [row({}, 0, 0.432, 0.4, metric=metric),
                           row(FAST, 0, 0.4, 0.41, metric=metric)])
    assert 'Matthews correlation on 2,765 examples of `validation`' in text
    assert cells(text, 'arm')[1:7] == [
        'teacher, × 100', 'student, × 100', 'baseline, × 100', 'kept, %',
        'gain over baseline, points', 'over the student as it stands, points']
    assert cells(text, 'as it stands')[1:6] == ['80.0', '43.2', '40.0', '54.0', '3.2']
    assert '1 seed: 41.0 × 100, `optimizer.rate=0.004`' in text and 'by 2.2 points.' in text

  def test_a_number_without_a_unit_has_none_in_the_table(self, tmp_path):
    metric = {'name': 'mse', 'unit': '', 'higher_is_better': False}
    text = page(tmp_path, [row({}, 0, 0.5, 0.625, metric=metric),
                           row(FAST, 0, 0.5, 0.75, metric=metric)])
    assert cells(text, 'arm')[1:6] == ['teacher', 'student', 'baseline', 'kept, %',
                                       'gain over baseline']
    assert 'MSE on 2,765' in text and '1 seed: 0.625, as it stands' in text
    assert 'is better by 0.125.' in text        # the lower baseline is the better one

  def test_a_further_split_has_a_table_of_its_own(self, tmp_path):
    found = [row({}, s, 0.75, 0.60) for s in range(2)] + [row(SLOW, 0, 0.7, 0.5)]
    for each in found[:2]:                       # the last one's run didn't judge it
      for name, value in ('big', 0.9), ('student', 0.8), ('baseline', 0.7):
        each['models'][name]['also'] = {'held_out': {
            'n': 6734, 'quality': {'accuracy': value}, 'retention': None, 'gain': None}}
      each['models']['student']['also']['held_out'] |= {
          'retention': {'of': 'big', 'accuracy': 8 / 9},
          'gain': {'of': 'baseline', 'accuracy': {'value': 0.1}}}
    text = page(tmp_path, found)
    main, further = text.split('Accuracy on 6,734 examples of `held_out`')
    assert 'Accuracy on 2,765 held-out examples' in main
    assert cells(main, 'as it stands')[1:6] == [
        '80.0 ± 0.0', '75.0 ± 0.0', '60.0 ± 0.0', '93.8 ± 0.0', '15.0 ± 0.0 (15.0 to 15.0)']
    assert cells(further, 'as it stands')[1:6] == [
        '90.0 ± 0.0', '80.0 ± 0.0', '70.0 ± 0.0', '88.9 ± 0.0', '10.0 ± 0.0 (10.0 to 10.0)']
    assert cells(further, '`optimizer.rate=0.001`')[1:7] == ['–'] * 6

  def test_a_run_without_a_baseline_has_no_gain(self, tmp_path):
    found = row({}, 0, 0.75, 0.6)
    del found['models']['baseline']
    found['models']['student']['gain'] = None
    assert cells(page(tmp_path, [found]), 'as it stands')[3:6] == ['–', '93.8', '–']

  def test_no_number_is_minus_zero(self, tmp_path):
    text = page(tmp_path, [row({}, 0, 0.75, 0.6), row({'a': 1}, 0, 0.7499999, 0.6)])
    assert cells(text, '`a=1`')[6] == '0.0'


class TestRates:

  def test_the_student_is_compared_with_the_best_baseline_of_all_rates(self, tmp_path):
    # Baselines: 60 as it stands, 64, 65, 66 at 0.004, 50 at 0.001. The student as it stands
    # (75, 76, 77) is 11 better at each seed. The better student at 0.004 isn't taken.
    text = page(tmp_path, [*THREE, *(row(SLOW, s, 0.7, 0.5) for s in range(3)),
                           *(row(FAST, s, 0.9, 0.64 + s / 100) for s in range(3)),
                           *(row({'other': 1}, s, 0.9, 0.99) for s in range(3))])
    line, = (line for line in text.splitlines() if line.startswith('**The baseline'))
    assert line == (
        '**The baseline at its best of 3 learning rates** (as it stands, `optimizer.rate=0.001`, '
        '`optimizer.rate=0.004`), 3 seeds: 65.0 ± 1.0 %, `optimizer.rate=0.004`. The student, '
        'as it stands, is better by 11.0 ± 0.0 (11.0 to 11.0) points.')

  def test_only_seeds_that_all_rates_have_are_compared(self, tmp_path):
    # 0.004 would win by its one lucky seed 9; at seed 0, which both have, it is the worse one.
    text = page(tmp_path, [*THREE, row(FAST, 0, 0.7, 0.5), row(FAST, 9, 0.7, 0.99)])
    assert '2 learning rates** (as it stands, `optimizer.rate=0.004`), 1 seed: 60.0 %' in text
    assert 'better by 15.0 points' in text
    text = page(tmp_path, [*THREE, row(FAST, 9, 0.7, 0.99)])
    assert 'no baselines at the same seed: no gain may be claimed' in text

  def test_arms_that_differ_in_more_are_another_comparison(self, tmp_path):
    text = page(tmp_path, [row({'a': 1}, 0, 0.7, 0.5), row({'a': 1, **FAST}, 0, 0.8, 0.6)])
    assert '(`a=1`, `a=1, optimizer.rate=0.004`), 1 seed: 60.0 %' in text
    assert 'The student, `a=1`, is better by 10.0 points' in text

  def test_without_such_arms_it_says_that_no_gain_may_be_claimed(self, tmp_path):
    assert table.NO_RATES in page(tmp_path, THREE)
    assert table.NO_RATES in page(tmp_path, [*THREE, row({**FAST, 'a': 1}, 0, 0.7, 0.5)])
    assert table.NO_RATES not in page(tmp_path, [*THREE, row(FAST, 0, 0.7, 0.5)])


class TestPage:

  def test_without_rows_it_says_that_nothing_has_been_run(self, tmp_path):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'empty/results.jsonl').write_text('')
    page, faults = table.rendered(tmp_path)
    assert page.startswith('# Experiments\n\nMade by ') and not faults
    assert page.endswith(' where the student\nis better.\n\nNothing has been run.\n')

  def test_every_folder_has_its_section_and_a_link_to_its_prose(self, tmp_path):
    page(tmp_path, THREE, 'zoo')
    text = page(tmp_path, THREE, 'art')
    assert text.index('## art') < text.index('## zoo') and 'README.md)' not in text
    (tmp_path / 'zoo/README.md').write_text('…')
    assert '(zoo/README.md)' in table.rendered(tmp_path)[0]

  def test_states_of_a_config_are_not_mixed(self, tmp_path):
    later = [row({}, s, 0.5, 0.4, base='76543210', config_sha256=f'later{s}') for s in range(2)]
    text = page(tmp_path, [*THREE, *later])
    assert text.count('| as it stands |') == 2
    assert '| 76.0 ± 1.0 |' in text and '| 50.0 ± 0.0 |' in text

  def test_of_two_rows_of_a_run_the_last_counts(self, tmp_path):
    again = failed({}, 0)
    assert 'Failed: as it stands, seed 0, with exit status 12: student: not finite' in page(
        tmp_path, [again])
    text = page(tmp_path, [again, *THREE, row({}, 2, 0.74, 0.6)])
    assert 'Failed' not in text and cells(text, 'as it stands')[2] == '75.0 ± 1.0'
    assert '3 runs, 4 minutes in all' in text         # 4.5, rounded half to even

  def test_says_where_and_of_what_the_numbers_are(self, tmp_path):
    other = row({}, 3, 0.76, 0.6, commit=f'{"f" * 40}, {"e" * 40}-dirty', versions={'jax': '0.11'})
    assert page(tmp_path, [*THREE, other]).endswith(
        '4 runs, 6 minutes in all. Data: docstrings, aaaaaaaa. Machine: cpu, EPYC, 2 cores. '
        'Commit: ffffffff and eeeeeeee-dirty. Versions: jax 0.10.2 and 0.11.\n')

  def test_broken_lines_are_named_and_left_out(self, tmp_path):
    whole = page(tmp_path, THREE)
    with (tmp_path / 'paper/results.jsonl').open('a') as file:
      file.write('{"torn": \n' + json.dumps({**THREE[0], 'models': 1, 'schema': 2}))
    text, faults = table.rendered(tmp_path)
    assert text == whole and [f.split(' is left out')[0][-1] for f in faults] == ['4', '5']

  def test_no_number_is_there_without_a_row(self, tmp_path):
    assert '76.0 ± 1.0' not in page(tmp_path, THREE[:2])


class TestCommand:

  def test_check_fails_until_the_page_is_written_and_when_it_is_touched(
      self, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, 'ROOT', tmp_path)
    page(tmp_path, THREE)
    assert table.main(['--check']) == Status.DATA
    assert table.main([]) == 0 and table.main(['--check']) == 0
    path = tmp_path / 'README.md'
    path.write_text(path.read_text().replace('76.0', '77.0'))
    assert table.main(['--check']) == Status.DATA
    assert 'python -m experiments.table' in capsys.readouterr().err
    assert table.main(['--chek']) == Status.CONFIG


def test_the_page_of_experiments_is_what_its_rows_make():
  if not list(table.ROOT.glob('*/results.jsonl')):
    pytest.skip('nothing has been run')
  text, faults = table.rendered(table.ROOT)
  assert not faults
  assert (table.ROOT / 'README.md').read_text('utf-8') == text
