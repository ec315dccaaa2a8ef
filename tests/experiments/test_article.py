import json
import math
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from distill import flags, objective
from distill.pipelines import setup
from distill.types import Status, Stop
from experiments import article, claims, pages, rows, sweeps
from experiments.claims import BASELINE, PARTS, PLAIN, T, at, batch
from experiments.rows import arm_name

METRIC = {'name': 'accuracy', 'unit': 'fraction', 'higher_is_better': True, 'split': 'test'}
ROOT = sweeps.pathlib.Path(sweeps.__file__).parent.parent
RATES = tuple(f'fixed-0.7, optimizer.rate={rate}' for rate in (0.001, 0.01, 0.03, 0.1, 0.3))


@pytest.fixture(scope='module')
def arms():
  """Returns the arms of the sweep by name."""
  return {arm_name(arm): arm for arm in sweeps.arms(str(ROOT / article.CONFIG))}


@pytest.fixture
def two(arms):
  """Returns two arms, for a page that is made quickly."""
  return {name: arms[name] for name in (PLAIN, 'attention')}


def row(arm, seed, student, baseline=0.6, curve=None, base_curve=None, **more):
  model = lambda role, value: {'role': role, 'quality': {'accuracy': value}, 'n': 470,
                               'retention': None, 'gain': None}
  steps = arm.get('train.steps', 600)
  return {
      'schema': 1, 'config': article.CONFIG, 'base': '01234567', 'arm': arm, 'seed': seed,
      'config_sha256': f'{arm_name(arm)} {seed}', 'commit': 'f' * 40, 'seconds': 30.0,
      'metric': METRIC, 'data': {'name': 'digits', 'fingerprint': 'a' * 64},
      'hardware': {'device': 'cpu', 'cpu': 'EPYC', 'cores': 1}, 'versions': {'jax': '0.10.2'},
      'training': {
          'student': {'seconds': 18.0, 'steps': steps, 'shared': False, **(
              {'curve': curve} if curve else {})},
          'baseline': {'seconds': 9.0, 'steps': steps, 'shared': not base_curve, **(
              {'curve': base_curve} if base_curve else {})}},
      'models': {'teacher': model('teacher', 0.98), 'student': model('student', student),
                 'baseline': model('baseline', baseline)}, **more}


def rising(end, reach):
  """Returns a curve that rises to `end` until step `reach` and stays there."""
  return [[step, round(end * min(1.0, step / reach), 5)] for step in range(20, 601, 20)]


def simulated(arms, gains=None, seeds=range(8), shift=0.0):
  """Returns rows of all arms: KL 10 points over a baseline of 60 %, and `gains` by name over KL."""
  draw, found = np.random.default_rng(1), []
  for seed in seeds:
    base = 0.6 + shift + draw.normal(scale=0.02)
    for i, (name, arm) in enumerate(arms.items()):
      value = float(base + 0.1 + (gains or {}).get(name, 0.0) + draw.normal(scale=0.004))
      found.append(row(arm, seed, value, float(base), rising(value, 300 + 20 * seed),
                       rising(float(base), 500 + 20 * seed) if not i else None))
  return found


def write(folder, found):
  (folder / 'results.jsonl').write_text(''.join(json.dumps(r) + '\n' for r in found))
  return article.rendered(folder)[0]


def findings(found):
  """Returns the findings by their claims' texts."""
  sides = article.sides(article.table.summary(found), found)
  return {f.claim.says: f for f in article.findings(sides)}


def lines_of(page, label):
  return [[c.strip() for c in line.strip('|').split('|')] for line in page.splitlines()
          if line.startswith(f'| {label} |')]


class TestConfig:

  def test_the_page_shows_every_arm_and_claims_nothing_of_others(self, arms):
    shown = {name for part in PARTS for names in part.shown.values() for name in names}
    claimed = {name for part in PARTS for c in part.claims for name in (c.ours, c.theirs)}
    assert shown - {BASELINE} == arms.keys() - {*RATES}
    assert claimed <= shown | {BASELINE}
    labels = [label for part in PARTS for label in part.shown]
    assert all(len(part.columns) == len(names) for part in PARTS for names in part.shown.values())
    assert max(map(len, labels)) <= 20          # what a drawing has room for

  @pytest.mark.parametrize(('variant', 'step', 'hard', 'kd'), [
      ('fixed-0.5', 0, 0.5, 0.5), ('fixed-0.9', 599, 0.1, 0.9),
      ('ramp-tenth-0.7', 0, 1.0, 0.0), ('ramp-tenth-0.7', 30, 0.65, 0.35),     # half of 60 steps
      ('ramp-tenth-0.7', 60, 0.3, 0.7), ('ramp-tenth-0.7', 599, 0.3, 0.7),
      ('ramp-sixth-0.9', 50, 0.55, 0.45), ('linear-0.9', 300, 0.55, 0.45),
      ('advice-0.4-0.8', 0, 0.6, 0.4), ('advice-0.4-0.8', 300, 0.4, 0.6),
      ('reverse-0.9', 0, 0.1, 0.9), ('reverse-0.9', 600, 1.0, 0.0),
      ('warm-up', 25, 1.0, 0.5), ('warm-up', 50, 1.0, 1.0),                    # 20 of 240: 50
      ('kl+mse', 0, 0.3, 0.7), ('kl+attention', 0, 0.3, 0.7), ('attention', 0, 1.0, None)])
  def test_weights_by_hand(self, variant, step, hard, kd):
    node = self.config(variant)
    terms = {t.name: t for t in objective.terms_from(node['objective'], 'objective')}
    assert float(terms['hard'].weight(step)) == pytest.approx(hard, abs=1e-6)
    assert ('kd' in terms) == (kd is not None)
    assert kd is None or float(terms['kd'].weight(step)) == pytest.approx(kd, abs=1e-6)

  def test_fewer_steps_shorten_every_schedule_and_a_rate_leaves_the_teacher_alone(self):
    node = self.config('ramp-tenth-0.7', 'train.steps=300', 'optimizer.rate=0.01')
    assert [node['objective'][t]['schedule']['steps'] for t in ('hard', 'kd')] == [30, 30]
    teacher = node['teachers']['teacher']['train']
    assert teacher['steps'] == 600 and teacher['optimizer']['rate'] == 3e-3

  def test_arms_share_teacher_and_baseline_and_other_batches_the_teacher(self):
    def names(*arm):
      return {t.stage.name: t.identity for t in setup.build_setup(self.config(*arm)).trained}
    plain, other = names('fixed-0.5'), names('kl+hint', f'{T}=1.0')
    wider = names('fixed-0.7', 'data.batch_size=96')
    assert [plain[n] == other[n] for n in ('teacher', 'student', 'baseline')] == [True, False, True]
    assert [plain[n] == wider[n] for n in ('teacher', 'baseline')] == [True, False]

  @staticmethod
  def config(variant, *more):
    file = f'--config={ROOT / article.CONFIG}:{variant}'
    return flags.parsed([file, *(f'--config.{each}' for each in more)]).config.to_dict()


class TestVerdict:

  @pytest.mark.parametrize(('ends', 'p', 'says'), [
      ((0.1, 2.0), 0.04, 'holds'), ((0.1, 2.0), 0.06, "can't be told"),
      ((0.1, 0.3), 0.04, 'holds'), ((0.1, 0.3), 0.06, "doesn't"),     # surely less than 0.5
      ((-2.0, -0.1), 0.9, "doesn't"), ((-0.5, 0.5), 1.0, "doesn't"),
      ((-0.51, 0.2), 1.0, "can't be told"), ((-0.2, 0.51), 1.0, "can't be told"),
      ((0.0, 0.0), 1.0, "doesn't")])
  def test_of_a_difference(self, ends, p, says):
    assert claims.verdict(ends, p) == says

  @pytest.mark.parametrize(('ends', 'p', 'says'), [
      ((0.3, 0.6), 0.01, 'holds'), ((0.3, 0.6), 0.06, "can't be told"),
      ((0.61, 0.9), 0.01, "doesn't"), ((0.61, 0.9), 0.9, "doesn't"),
      ((0.5, 0.61), 0.5, "can't be told"), ((0.6, 0.7), 0.05, "can't be told")])
  def test_of_a_ratio(self, ends, p, says):
    assert claims.verdict_of_ratio(ends, p) == says


class TestFindings:

  def test_by_hand(self, tmp_path, arms):
    # The ramp is better by 1, 2 and 3 points: 2 ± t 1/√3 = 2.484; t = 2 √3 with 2 degrees of
    # freedom: p = 1 − t / √(2 + t²) = 0.0742, the only test.
    found = [row(arms[n], s, 0.7 + s / 100 + (s + 1) / 100 * (n != PLAIN))
             for s in range(3) for n in (PLAIN, 'ramp-tenth-0.7')]
    f = findings(found)['a ramp to 0.7 beats 0.7 throughout, T = 4']
    assert f.values == pytest.approx({0: 1, 1: 2, 2: 3}) and f.verdict == "can't be told"
    assert f.p == pytest.approx(1 - 2 * math.sqrt(3 / 14))
    page = write(tmp_path, found)['README.md']
    assert lines_of(page, f.claim.says) == [[
        f.claim.says, '`ramp-tenth-0.7`', '`fixed-0.7`', '2.0 (−0.5 to 4.5)', '0.074',
        "**can't be told**", '0.30 / 0.30', '600 / 600']]
    assert ('`ramp-tenth-0.7` is 2.0 points above `fixed-0.7` (−0.5 to 4.5), p = 0.074, 3 seeds.'
            ) in page

  def test_finds_what_was_put_in_and_nothing_else(self, arms):
    found = findings(simulated(arms, {at(1): -0.05, 'kl+mse': 0.03, 'attention': -0.04}))
    says = {name: f.verdict for name, f in found.items()}
    assert [name for name, verdict in says.items() if verdict == 'holds'] == [
        'as printed, the ramp at T = 1 beats no teacher',
        'a ramp to 0.7 beats 0.7 throughout, T = 1',
        '0.4 rising to 0.8 beats 0.7 throughout, T = 1', 'MSE of logits beside KL beats KL',
        'attention transfer beats no teacher']
    assert says['T = 1 beats T = 4'] == "doesn't"

  def test_no_claim_holds_where_all_arms_are_alike(self, arms):
    found = findings(simulated(arms, {name: -0.1 for name in arms}))
    assert not [f for f in found.values() if f.verdict == 'holds']

  def test_gains_are_over_the_baseline_at_its_best_rate(self, arms):
    better = [row(arms[RATES[1]], s, 0.1, 0.65) for s in range(8)]
    worse = [row(arms[RATES[0]], s, 0.9, 0.1) for s in range(8)]
    plain = [row(arms[n], s, 0.7, 0.6) for s in range(8) for n in (PLAIN, 'attention')]
    f = findings([*plain, *better, *worse])['attention transfer beats no teacher']
    assert f.values == pytest.approx({s: 5.0 for s in range(8)})


class TestSpeed:

  def test_by_hand(self):
    side = lambda *curves: article.Side({}, dict(enumerate(curves)), 0.0, 0)
    theirs = [(20, 50), (40, 70), (60, 69), (80, 69)]       # ends with 69: has it at 40
    found = article.speeds(side([(20, 69.0), (40, 80)], [(20, 1), (40, 60), (60, 70)],
                                [(20, 1), (80, 68.9)]), side(theirs, theirs, theirs, theirs))
    assert found == {0: (0.5, True), 1: (1.5, True), 2: (2.0, False)}       # not there: its last

  def test_is_a_ratio_with_the_interval_of_its_logarithm(self, tmp_path, arms):
    # 300/500, 320/520, 340/540: the logs −0.5108, −0.4855, −0.4626 have mean −0.4863 and sd
    # 0.0241; t/√3 = 2.484, so ± 0.0599: 0.615 (0.579 to 0.653).
    found = [row(arms[name], s, 0.6, 0.6, rising(0.6, 300 + 20 * s), rising(0.6, 500 + 20 * s))
             for s in range(3) for name in (PLAIN, 'attention')]
    f = findings(found)['attention transfer is 40 % faster']
    assert math.exp(sum(f.values.values()) / 3) == pytest.approx(0.6149, abs=1e-4)
    assert f.verdict == "can't be told"
    page = write(tmp_path, found)['README.md']
    assert '`attention` takes 0.61 of the steps (0.58 to 0.65), p = ' in page
    assert lines_of(page, 'baseline')[1] == ['baseline', '520.0 ± 20.0', '–', '3 of 3']
    assert lines_of(page, 'attention')[1] == [
        'attention', '320.0 ± 20.0', '0.61 × (0.58 to 0.65)', '3 of 3']

  def test_the_baseline_s_curve_is_of_the_run_that_trained_it_and_of_no_other_batch(self, arms):
    other = row(arms[batch(128)], 0, 0.7, 0.6, base_curve=rising(0.9, 100))
    first = row(arms['ramp-sixth-0.9'], 0, 0.7, 0.6, base_curve=rising(0.6, 500))
    found = [other, first, row(arms[PLAIN], 0, 0.7, 0.6)]
    sides = article.sides(article.table.summary(found), found)
    assert sides[BASELINE].curves[0][-1] == (600, pytest.approx(60.0))
    assert not sides[PLAIN].curves


class TestPage:

  def test_has_no_number_without_a_row(self, tmp_path, arms):
    # Two sweeps that agree in nothing share no number but settings: steps, minutes, seeds.
    first = write(tmp_path, simulated(arms, {PLAIN: 0.01}))
    other = write(tmp_path, [r | {'seconds': 60.0} for r in simulated(
        arms, {PLAIN: -0.03}, seeds=range(5), shift=0.15)])
    for name in ('kl+mse', 'batch 96', 'T = 8', 'kl+attention'):
      ours, theirs = (lines_of(page['README.md'], name)[0] for page in (first, other))
      assert ours[-2:] == theirs[-2:] and not set(ours[1:-2]) & set(theirs[1:-2])
    for name in ('gains.svg', 'curves.svg'):
      assert pages.numbers(first[name]) != pages.numbers(other[name])
    prose = lambda page: [line for line in page.splitlines() if line and '|' not in line]
    same = set(prose(first['README.md'])) & set(prose(other['README.md']))
    template = (pages.TEMPLATES / 'article.md').read_text()
    for name in 'SURE', 'MARGIN', 'FASTER':
      template = template.replace(f'{{{{ {name.lower()} }}}}', str(getattr(claims, name)))
    fixed = '\n'.join([template, *(part.text for part in PARTS)])
    assert not [line for line in same if re.search(r'\d', line) and line not in fixed
                and 'The article says' not in line and line[0] not in '![']

  def test_a_partial_sweep_lists_missing_arms(self, tmp_path, arms):
    some = [r for r in simulated(arms) if arm_name(r['arm']) in (PLAIN, 'kl+mse')]
    few = [r for r in some if arm_name(r['arm']) == PLAIN or r['seed'] < 5]
    page = write(tmp_path, few)['README.md']
    assert 'Without rows: `fixed-0.5, T = 1`, `fixed-0.5`, ' in page
    assert 'With fewer than 8 seeds: `kl+mse` (5 seeds).' in page
    assert page.count('**not run**') == 2 * 20 and '20 not run.' in page
    assert 'MSE of logits beside KL beats KL*: **not' not in page

  def test_one_seed_or_no_plain_arm_is_a_page_without_claims_or_drawings(self, tmp_path, arms, two):
    files = write(tmp_path, simulated(two, seeds=range(1)))
    assert list(files) == ['README.md'] and '21 hypotheses: 21 not run.' in files['README.md']
    files = write(tmp_path, simulated({'kl+mse': arms['kl+mse']}))
    assert 'None of `fixed-0.7` has a baseline: no gains.' in files['README.md']
    assert list(files) == ['README.md']

  def test_failed_runs_are_listed_and_other_states_and_configs_left_out(self, tmp_path, arms, two):
    bad = {k: v for k, v in row(arms['kl+mse'], 3, 0.7).items() if k not in rows.FINISHED} | {
        'error': {'status': 12, 'line': 'student: not finite'}}
    old = [row(arms[PLAIN], s, 0.999, base='76543210', config_sha256=f'old{s}') for s in range(3)]
    alien = [row(arms[PLAIN], s, 0.998, config='configs/digits.py') for s in range(3)]
    page = write(tmp_path, [*old, *simulated(two), *alien, bad])['README.md']
    assert 'Failed: `kl+mse`, seed 3, with exit status 12: student: not finite' in page
    assert '3 rows of other states of configs/article.py are left out.' in page
    assert '99.9' not in page and '99.8' not in page


class TestDrawings:

  def test_are_the_same_bytes_again_whole_and_say_their_numbers(self, tmp_path, arms):
    first, again = (write(tmp_path, simulated(arms)) for _ in range(2))
    assert first == again
    for name, labels in (('gains.svg', [label for part in PARTS[1:-1] for label in part.shown
                                        if label not in ('T = 1', 'T = 4', 'batch 64')]),
                         ('curves.svg', article.DRAWN)):
      svg = first[name]
      text = ''.join(ET.fromstring(svg).itertext())
      assert not re.search('date|20[0-9][0-9]-', svg, flags=re.IGNORECASE)
      assert all(text.count(label) >= 2 for label in labels)       # described, and drawn
      width = float(re.search(r'width="([\d.]+)pt"', svg)[1])
      sizes = {float(s) for s in re.findall(r'font(?:-size)?: ?([\d.]+)px', svg)}
      assert sizes and min(sizes) * 360 / width >= 9.5             # where it is 360 pixels wide

  def test_both_temperatures_of_a_weight_are_on_one_line_and_no_arm_is_drawn_twice(
      self, tmp_path, arms):
    svg = write(tmp_path, simulated(arms))['gains.svg']
    described = pages.numbers(svg).split('; ')
    assert len(described) == len(arms) - len(RATES)
    assert [d.split(':')[0] for d in described[:4]] == [
        'fixed-0.5, T = 1', 'fixed-0.5, T = 4', 'fixed-0.7, T = 1', 'fixed-0.7, T = 4']


class TestCommand:

  def test_check_fails_until_all_is_written_and_when_it_is_touched(
      self, tmp_path, monkeypatch, capsys, two):
    monkeypatch.setattr(article, 'FOLDER', tmp_path)
    assert article.main([]) == Status.DATA and 'no finished run of' in capsys.readouterr().err
    found = simulated(two)
    write(tmp_path, found)
    assert article.main(['--check']) == Status.DATA
    assert article.main([]) == 0 and article.main(['--check']) == 0
    changed = found[0] | {'models': {**found[0]['models'], 'student': {
        **found[0]['models']['student'], 'quality': {'accuracy': 0.5}}}}
    write(tmp_path, [changed, *found[1:]])
    assert article.main(['--check']) == Status.DATA and "isn't what the rows" in (
        capsys.readouterr().err)
    assert article.main(['--chek']) == Status.CONFIG

  def test_broken_lines_are_named_and_the_rest_is_used(self, tmp_path, monkeypatch, capsys, two):
    monkeypatch.setattr(article, 'FOLDER', tmp_path)
    whole = write(tmp_path, simulated(two))
    with (tmp_path / 'results.jsonl').open('a') as file:
      file.write('{"torn": \n{"schema": 2}\n')
    assert article.main([]) == 0 and (tmp_path / 'README.md').read_text() == whole['README.md']
    errors = capsys.readouterr().err
    assert 'jsonl:17 is left out' in errors and 'jsonl:18 is left out: its schema is 2' in errors


def test_the_page_of_the_article_is_what_its_rows_make():
  if not (article.FOLDER / 'results.jsonl').exists():
    with pytest.raises(Stop, match='no finished run'):
      article.rendered(article.FOLDER)
    return
  assert article.main(['--check']) == 0
