import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from distill.types import Status, Stop
from experiments import methods, pages, rows

METRIC = {'name': 'accuracy', 'unit': 'fraction', 'higher_is_better': True, 'split': 'test'}
SEEDS = range(8)


def row(arm, seed, student, baseline=0.6, **more):
  model = lambda role, value: {'role': role, 'quality': {'accuracy': value}, 'n': 450,
                               'retention': None, 'gain': None}
  return {
      'schema': 1, 'experiment': 'methods', 'config': 'configs/digits.py', 'base': '01234567',
      'arm': {'variant': arm} if isinstance(arm, str) else arm, 'seed': seed,
      'config_sha256': f'{arm}{seed}', 'commit': 'f' * 40, 'seconds': 15.0, 'metric': METRIC,
      'training': {}, 'data': {'name': 'digits', 'fingerprint': 'a' * 64}, 'hardware': {
          'device': 'cpu', 'cpu': 'EPYC', 'cores': 1}, 'versions': {'jax': '0.10.2'},
      'models': {'teacher': model('teacher', 0.98), 'student': model('student', student),
                 **({} if baseline is None else {'baseline': model('baseline', baseline)})}, **more}


def simulated(gains, over=(), seeds=SEEDS):
  """Returns rows of methods with `gains` over a baseline of 60 %; all share a seed's effect."""
  draw, found = np.random.default_rng(1), []
  shares = draw.normal(scale=0.03, size=len(seeds))
  for name, gain in gains.items():
    for seed, share in zip(seeds, shares, strict=True):
      found.append(row(name, seed, 0.6 + share + gain + draw.normal(scale=0.004), 0.6 + share))
  return [*found, *over]


FIVE = {'kd': 0.10, 'dkd': 0.15, 'at': 0.05, 'fsp': 0.0, 'nst': 0.1005}
RATES = [row({'variant': 'kd', 'optimizer.rate': 0.001}, s, 0.5, 0.5) for s in SEEDS]


def write(folder, found):
  (folder / 'results.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in found))
  return methods.rendered(folder)[0]


def cells(page, arm):
  return [c.strip() for c in next(line for line in page.splitlines() if line.startswith(
      f'| {arm} |')).strip('|').split('|')]


def by_name(found):
  return {m.name: m for m in methods.methods(found)}


class TestMethods:

  def test_by_hand(self, tmp_path):
    # Baselines 60, 61, 62: 61 ± 1. `a`: 70, 72, 74: 72 ± 2, gains 10, 11, 12: 11 ± t 1/√3 = 2.484;
    # t = 11 √3 = 19.05 with 2 degrees of freedom: p = 1 − t / √(2 + t²) = 0.0027. KD: gains 5, 5.5,
    # 6, sd 0.5: 5.5 ± 1.242, t = 19.05 too. By Holm the first p is 2 × 0.0027 = 0.0055, and the
    # other no less. `a` over KD: 5, 5.5, 6 once more, the only test of its column: 0.0027.
    found = [row(name, s, base + s / 100 + gain + extra * s, base + s / 100)
             for name, base, gain, extra in (('kd', 0.6, 0.05, 0.005), ('a', 0.6, 0.1, 0.01))
             for s in range(3)]
    page = write(tmp_path, found)['README.md']
    assert cells(page, '`a`') == [
        '`a`', '72.0 ± 2.0', '11.0 (8.5 to 13.5)', '0.005', '5.5 (4.3 to 6.7)', '0.003', '3', '0.8']
    assert cells(page, '`kd`') == [
        '`kd`', '66.5 ± 1.5', '5.5 (4.3 to 6.7)', '0.005', '–', '–', '3', '0.8']
    assert 'The baseline has 61.0 ± 1.0 % (3 seeds). No arms differ' in page

  def test_finds_what_was_put_in(self):
    found = by_name(simulated(FIVE))
    assert list(found)[0] == 'dkd' and list(found)[-1] == 'fsp'
    assert [found[n].against_kd for n in ('dkd', 'at', 'fsp', 'nst', 'kd')] == [
        'better', 'worse', 'worse', 'open', 'open']
    assert methods.verdict(found['fsp'].gain, found['fsp'].p_gain) == 'open'
    assert methods.verdict(found['at'].gain, found['at'].p_gain) == 'better'

  def test_many_methods_without_an_effect_are_all_open_against_the_baseline(self):
    # One or two of forty have p < 0.05 uncorrected; about one time in eight, none has.
    found = methods.methods(simulated({f'm{i}': 0.0 for i in range(40)} | {'kd': 0.0}))
    assert all(methods.verdict(m.gain, m.p_gain) == 'open' for m in found)
    assert min(methods.t_test(list(m.gain.values())) for m in found) < 0.05

  def test_gains_are_over_the_baseline_at_its_best_rate_for_every_method(self):
    better = [row({'variant': 'kd', 'optimizer.rate': 0.01}, s, 0.1, 0.64) for s in SEEDS]
    plain = [row(n, s, v) for n, v in (('kd', 0.7), ('dkd', 0.75)) for s in SEEDS]
    found = by_name([*plain, *RATES, *better])
    assert set(found) == {'kd', 'dkd'}          # a rate of the baseline's is no method
    assert found['dkd'].gain == pytest.approx({s: 11.0 for s in SEEDS})
    assert found['dkd'].over == pytest.approx({s: 5.0 for s in SEEDS})

  def test_the_baseline_of_a_method_that_trains_otherwise_is_not_taken(self):
    # `byot` has terms without a teacher, which its own baseline has too: it would hide the gain.
    found = by_name([*(row('kd', s, 0.7) for s in SEEDS),
                     *(row('byot', s, 0.7, 0.7) for s in SEEDS),
                     *(row('simkd', s, 0.65, None) for s in SEEDS)])
    assert found['byot'].gain == pytest.approx({s: 10.0 for s in SEEDS})
    assert found['simkd'].gain == pytest.approx({s: 5.0 for s in SEEDS})

  def test_without_variants_the_config_as_it_stands_is_plain_kd(self):
    found = by_name([row({}, s, 0.7) for s in SEEDS] + [
        row({'objective.hint.weight': 1.0}, s, 0.72) for s in SEEDS])
    assert found['objective.hint.weight=1.0'].over == pytest.approx({s: 2.0 for s in SEEDS})

  def test_less_is_better_where_the_metric_says_so(self):
    errors = METRIC | {'higher_is_better': False}
    found = by_name([row('kd', s, 0.3, 0.4, metric=errors) for s in SEEDS]
                    + [row('dkd', s, 0.25, 0.4, metric=errors) for s in SEEDS])
    assert found['dkd'].gain[0] == pytest.approx(15) and found['dkd'].over[0] == pytest.approx(5)

  def test_one_seed_is_a_number_without_an_interval_or_a_claim(self, tmp_path):
    files = write(tmp_path, [row('kd', 0, 0.7), row('dkd', 0, 0.75)])
    assert list(files) == ['README.md'] and 'Against' not in files['README.md']
    assert cells(files['README.md'], '`dkd`')[2:6] == ['15.0', '–', '5.0', '–']

  def test_without_plain_kd_there_are_no_gains(self, tmp_path):
    files = write(tmp_path, [row('dkd', s, 0.7) for s in SEEDS])
    assert cells(files['README.md'], '`dkd`')[2:6] == ['–'] * 4
    assert 'None of `kd`, `as it stands` has a baseline: no gains.' in files['README.md']


class TestPage:

  def test_says_what_the_tests_allow(self, tmp_path):
    page = write(tmp_path, simulated(FIVE, RATES))['README.md']
    assert ('**Against the baseline**, 5 tests, p < 0.05: better `dkd`, `nst`, `kd`, `at`; worse '
            'none; not to be told apart `fsp`.') in page.replace('`kd`, `nst`', '`nst`, `kd`')
    assert ('**Against plain KD**, 4 tests, p < 0.05: better `dkd`; worse `at`, `fsp`; not to be '
            'told apart `nst`.') in page
    assert 'as the t interval for all 5.' in page and 'at the best of 2 learning rates' in page
    assert 'Commit: ffffffff.' in page and '48 runs, 12 minutes in all' in page

  def test_has_no_number_without_a_row(self, tmp_path):
    # With every row changed no number of the table and of the drawing stays.
    first = write(tmp_path, simulated(FIVE))
    other = write(tmp_path, simulated({n: g / 2 + 0.01 for n, g in FIVE.items()}, seeds=range(5)))
    for name in FIVE:
      assert not set(cells(first['README.md'], f'`{name}`')[1:3]) & set(
          cells(other['README.md'], f'`{name}`')[1:3])
    assert pages.numbers(first['digits.svg']) != pages.numbers(other['digits.svg'])

  def test_failed_runs_are_listed_and_other_states_left_out(self, tmp_path):
    bad = {k: v for k, v in row('crd', 3, 0.7).items() if k not in rows.FINISHED} | {
        'error': {'status': 12, 'line': 'student: not finite'}}
    old = [row('kd', s, 0.9, base='76543210', config_sha256=f'old{s}') for s in range(3)]
    page = write(tmp_path, [*old, *simulated(FIVE), bad])['README.md']
    assert 'Failed: `crd`, seed 3, with exit status 12: student: not finite' in page
    assert '3 rows of other states of configs/digits.py are left out.' in page
    assert '90.0' not in page

  def test_every_config_has_its_section_and_its_drawing(self, tmp_path):
    text = [r | {'config': 'configs/text.py:small', 'config_sha256': r['config_sha256'] + 't'}
            for r in simulated(FIVE)]
    files = write(tmp_path, simulated(FIVE) + text)
    assert set(files) == {'README.md', 'digits.svg', 'text-small.svg'}
    assert all(f']({name})' in files['README.md'] for name in files if name != 'README.md')


class TestDrawing:

  def test_is_the_same_bytes_again_and_holds_no_date(self, tmp_path):
    first, again = (write(tmp_path, simulated(FIVE))['digits.svg'] for _ in range(2))
    assert first == again and not re.search('date|20[0-9][0-9]-', first, flags=re.IGNORECASE)

  def test_is_whole_and_says_its_numbers(self, tmp_path):
    svg = write(tmp_path, simulated(FIVE))['digits.svg']
    root = ET.fromstring(svg)
    text = ''.join(root.itertext())
    assert all(text.count(name) >= 2 for name in FIVE)          # in the description, and drawn
    assert 'gain over the baseline, points' in text and 'better than plain KD' in text

  def test_letters_are_large_enough_where_it_is_360_pixels_wide(self, tmp_path):
    svg = write(tmp_path, simulated(FIVE))['digits.svg']
    width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
    sizes = {float(s) for s in re.findall(r'font(?:-size)?: ?([\d.]+)px', svg)}
    assert sizes and min(sizes) * 360 / width >= 9.5            # units of the drawing are points


class TestCommand:

  def test_check_fails_until_all_is_written_and_when_it_is_touched(
      self, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(methods, 'FOLDER', tmp_path)
    assert methods.main([]) == Status.DATA and 'no rows' in capsys.readouterr().err
    write(tmp_path, simulated(FIVE))
    assert methods.main(['--check']) == Status.DATA
    assert methods.main([]) == 0 and methods.main(['--check']) == 0
    drawing = tmp_path / 'digits.svg'
    whole = drawing.read_text()
    drawing.write_text(whole.replace('<path', '<path '))        # as another matplotlib might
    assert methods.main(['--check']) == 0
    drawing.write_text(whole.replace('<desc>dkd 1', '<desc>dkd 2'))
    assert methods.main(['--check']) == Status.DATA
    drawing.write_text(whole)
    page = tmp_path / 'README.md'
    page.write_text(page.read_text().replace('6', '7'))
    assert methods.main(['--check']) == Status.DATA
    assert methods.main(['--chek']) == Status.CONFIG

  def test_broken_lines_are_named_and_the_rest_is_used(self, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(methods, 'FOLDER', tmp_path)
    whole = write(tmp_path, simulated(FIVE))
    with (tmp_path / 'results.jsonl').open('a') as file:
      file.write('{"torn": \n{"schema": 2}\n')
    assert methods.main([]) == 0 and (tmp_path / 'README.md').read_text() == whole['README.md']
    errors = capsys.readouterr().err
    assert 'jsonl:41 is left out' in errors and 'jsonl:42 is left out: its schema is 2' in errors


def test_the_page_of_methods_is_what_its_rows_make():
  if not (methods.FOLDER / 'results.jsonl').exists():
    with pytest.raises(Stop, match='no rows'):
      methods.rendered(methods.FOLDER)
    return
  assert methods.main(['--check']) == 0
