import numpy as np
import pytest
from scipy import special, stats
from sklearn import metrics

from distill.measure import faithfulness
from distill.tasks.classification import Classification
from distill.tasks.regression import Regression
from distill.tasks.words import MaskedWords

FEW = dict(resamples=20)
CLASSES = Classification(classes=4)
WORDS = MaskedWords(special={'[MASK]': 1})


def records(logits, label):
  """What a classifier leaves, in float64 so that other implementations agree to the last digits."""
  p = special.softmax(np.asarray(logits, np.float64), axis=1)
  return {'id': np.arange(len(p)), 'label': np.asarray(label, np.int32),
          'prediction': p.argmax(1).astype(np.int32), 'probabilities': p}


def drawn(n, classes, seed=0, label=None):
  random = np.random.default_rng(seed)
  label = random.integers(classes, size=n) if label is None else label
  return records(2 * random.normal(size=(n, classes)), label)


def pairs():
  """Random and degenerate: a model and its teacher."""
  label = np.random.default_rng(9).integers(4, size=200)
  yield 'random', drawn(200, 4, 0, label), drawn(200, 4, 1, label)
  sure = drawn(200, 4, 2)             # right as often as it is sure: errors of either sign
  chance = np.random.default_rng(3).random(200)[:, None] < sure['probabilities'].cumsum(1)
  yield 'calibrated', *(records | {'label': chance.argmax(1).astype(np.int32)}
                        for records in (sure, drawn(200, 4, 4)))
  yield 'one class', drawn(30, 3, 0, np.full(30, 2)), drawn(30, 3, 1, np.full(30, 2))
  yield 'ties', records(np.zeros((6, 2)), [0, 1] * 3), records(np.zeros((6, 2)), [0, 1] * 3)
  yield 'one example', drawn(1, 3, 0, [1]), drawn(1, 3, 1, [1])


each = pytest.mark.parametrize(('ours', 'theirs'), [pair[1:] for pair in pairs()],
                               ids=[pair[0] for pair in pairs()])


class TestCompareAnswers:

  @each
  def test_are_what_others_compute(self, ours, theirs):
    found = faithfulness.compare_answers(CLASSES, ours, theirs, **FEW)
    n = len(ours['id'])
    assert found['agreement']['value'] == pytest.approx(
        metrics.accuracy_score(theirs['prediction'], ours['prediction']))
    kl = stats.entropy(theirs['probabilities'], ours['probabilities'], axis=1)
    assert found['kl']['value'] == pytest.approx(kl.mean(), rel=1e-9, abs=1e-15)
    wrong = [i for i in range(n) if theirs['prediction'][i] != theirs['label'][i]]
    same = [ours['prediction'][i] == theirs['prediction'][i] for i in wrong]
    if wrong:
      assert found['agreement_on_errors']['value'] == pytest.approx(np.mean(same))
      assert found['agreement_on_errors']['n'] == len(wrong)
    else:
      assert 'agreement_on_errors' not in found
    for metric in found.values():
      assert metric['low'] <= metric['high'] and all(
          type(metric[name]) is float for name in ('value', 'low', 'high'))

  def test_say_which_way_is_better(self):
    ours, theirs = drawn(9, 3), drawn(9, 3, 1)
    theirs['label'] = ours['label']
    found = faithfulness.compare_answers(CLASSES, ours, theirs, **FEW)
    assert {name: m['higher_is_better'] for name, m in found.items()} == {
        'agreement': True, 'agreement_on_errors': True, 'kl': False}

  def test_kl_by_hand(self):
    # Teacher (3/4, 1/4), model (1/2, 1/2): ¾ ln 3/2 + ¼ ln 1/2 = 0.130812. Not the other way
    # round, which is 0.143841.
    found = faithfulness.compare_answers(CLASSES, records([[0., 0.]], [0]),
                                         records([[np.log(3), 0.]], [0]))
    assert found['kl']['value'] == pytest.approx(0.130812, abs=1e-6)
    assert found['kl']['low'] == found['kl']['value'] == found['kl']['high']

  def test_kl_of_a_model_that_rules_out_what_the_teacher_is_sure_of_is_large_and_finite(self):
    sure = records([[0., 999.]], [1])
    found = faithfulness.compare_answers(CLASSES, records([[999., 0.]], [1]), sure)['kl']['value']
    assert found == pytest.approx(-np.log(np.finfo(np.float32).tiny))
    assert faithfulness.compare_answers(CLASSES, sure, sure)['kl']['value'] == 0

  def test_examples_are_paired_by_id(self):
    theirs = drawn(20, 3)
    order = np.random.default_rng(0).permutation(20)
    shuffled = {name: values[order] for name, values in theirs.items()}
    assert faithfulness.compare_answers(CLASSES, shuffled, theirs, **FEW)['agreement']['value'] == 1

  def test_numbers_have_a_correlation_and_a_distance(self):
    random = np.random.default_rng(0)
    made = lambda x: {'id': np.arange(30), 'label': np.zeros(30, np.float32), 'prediction': x}
    a, b = random.normal(size=(2, 30))
    found = faithfulness.compare_answers(Regression(), made(a), made(b), **FEW)
    assert found['correlation']['value'] == pytest.approx(stats.pearsonr(a, b)[0])
    assert found['distance']['value'] == pytest.approx(metrics.mean_absolute_error(a, b))
    assert not found['distance']['higher_is_better']
    found = faithfulness.compare_answers(Regression(), made(a), made(0 * b), **FEW)
    assert found['correlation']['value'] == 0

  def test_of_numbers_nothing_and_what_is_no_number_are_refused(self):
    made = lambda x: {'id': np.arange(len(x)), 'label': np.zeros(len(x)), 'prediction': np.array(x)}
    with pytest.raises(ValueError, match='no records'):
      faithfulness.compare_answers(Regression(), made([]), made([]))
    for ours, theirs in ([0., np.nan], [0., 1.]), ([0., 1.], [0., np.inf]):
      with pytest.raises(ValueError, match='predictions that are not finite'):
        faithfulness.compare_answers(Regression(), made(ours), made(theirs))

  def test_of_masked_words_there_are_none(self):
    words = {'id': np.arange(2), 'label': np.ones(2, np.int32), 'right': np.ones(2, np.int32),
             'nll': np.ones(2, np.float32)}
    assert faithfulness.compare_answers(WORDS, words, words) == {}

  @pytest.mark.parametrize('judged', [faithfulness.calibration,
                                      lambda r: faithfulness.compare_answers(CLASSES, r, r)])
  def test_nothing_and_what_is_no_number_is_refused(self, judged):
    with pytest.raises(ValueError, match='no records'):
      judged(drawn(0, 3))
    bad = drawn(4, 3)
    bad['probabilities'][2, 1] = np.nan
    with pytest.raises(ValueError, match='not finite'):
      judged(bad)
    with pytest.raises(ValueError, match='labels'):
      judged(drawn(4, 3, label=[0, 1, 2, 3]))

  def test_other_classes_are_refused(self):
    with pytest.raises(ValueError, match='3 and 4 classes'):
      faithfulness.compare_answers(CLASSES, drawn(2, 4, label=[0, 1]), drawn(2, 3, label=[0, 1]))


def by_definition(found, edges=np.arange(16) / 15):
  """ECE and the curve as Guo 2017 writes them, bin by bin, (low, high]."""
  total, curve = 0.0, []
  for low, high in zip(edges, edges[1:], strict=False):
    within = [i for i, p in enumerate(found['probabilities'].max(1)) if low < p <= high]
    if within:
      accuracy = np.mean([found['prediction'][i] == found['label'][i] for i in within])
      confidence = np.mean([found['probabilities'][i].max() for i in within])
      total += len(within) / len(found['id']) * abs(accuracy - confidence)
      curve.append((len(within), pytest.approx(confidence), pytest.approx(accuracy)))
    else:
      curve.append((0, None, None))
  return total, curve


class TestCalibration:

  @each
  def test_is_what_its_definition_and_others_compute(self, ours, theirs):
    del theirs
    found = faithfulness.calibration(ours, **FEW)
    ece, curve = by_definition(ours)
    assert found['ece']['value'] == pytest.approx(ece)
    assert [(b['n'], b['confidence'], b['accuracy']) for b in found['bins']] == curve
    evenly = np.quantile(ours['probabilities'].max(1), np.arange(1, 15) / 15)
    assert found['adaptive_ece']['value'] == pytest.approx(
        by_definition(ours, [0, *evenly, 1])[0])
    label, p = ours['label'], ours['probabilities']
    classes = range(p.shape[1])
    assert found['nll']['value'] == pytest.approx(metrics.log_loss(label, p, labels=classes))
    assert found['brier']['value'] == pytest.approx(
        np.mean([(p[i] - np.eye(p.shape[1])[label[i]]) @ (p[i] - np.eye(p.shape[1])[label[i]])
                 for i in range(len(p))]))
    assert not any(found[name]['higher_is_better'] for name in ('ece', 'nll', 'brier'))

  def test_brier_is_scikit_learns(self):
    found = drawn(50, 3)
    assert faithfulness.calibration(found, **FEW)['brier']['value'] == pytest.approx(
        metrics.brier_score_loss(found['label'], found['probabilities'], labels=range(3),
                                 scale_by_half=False))

  def test_ece_by_hand(self):
    # Two of four right at confidence 0.8: |0.5 - 0.8| = 0.3. One of one at 0.6, which is the upper
    # edge of the ninth bin: 0.4. Together (4 · 0.3 + 1 · 0.4) / 5 = 0.32.
    p = np.array([[.8, .2]] * 4 + [[.6, .4]])
    found = faithfulness.calibration({
        'id': np.arange(5), 'label': np.array([0, 0, 1, 1, 0]),
        'prediction': np.zeros(5, int), 'probabilities': p}, **FEW)
    assert found['ece']['value'] == pytest.approx(0.32)
    assert [m for m, b in enumerate(found['bins'], start=1) if b['n']] == [9, 12]

  def test_who_is_always_right_and_sure_has_no_error(self):
    found = faithfulness.calibration(records(999 * np.eye(3), [0, 1, 2]), **FEW)
    for name in 'ece', 'adaptive_ece', 'nll', 'brier':
      assert found[name]['value'] == found[name]['low'] == found[name]['high'] == 0
    wrong = faithfulness.calibration(records(999 * np.eye(3), [1, 2, 0]), **FEW)
    assert wrong['ece']['value'] == 1 and wrong['brier']['value'] == 2
    assert wrong['nll']['value'] == pytest.approx(-np.log(np.finfo(np.float32).tiny))

  def test_adaptive_bins_hold_equally_many(self):
    # 30 examples of 30 confidences: two a bin, so the error is that of neighbours; both are right
    # or wrong by turns, so that the errors of two bins would not add up in a wider one.
    confidence = np.linspace(.51, .99, 30)
    right = np.repeat(np.arange(15) % 2, 2)
    found = faithfulness.calibration({
        'id': np.arange(30), 'label': 1 - right, 'prediction': np.zeros(30, int),
        'probabilities': np.stack([confidence, 1 - confidence], 1)}, **FEW)
    by_hand = np.abs((right - confidence).reshape(15, 2).sum(1)).sum() / 30
    assert found['adaptive_ece']['value'] == pytest.approx(by_hand)


def song(k, m):
  """The unbiased HSIC as Song 2012 writes it, eq. 5."""
  n = len(k)
  k, m = (g - np.diag(np.diag(g)) for g in (k, m))
  e = np.ones(n)
  return (np.trace(k @ m) + (e @ k @ e) * (e @ m @ e) / ((n - 1) * (n - 2))
          - 2 / (n - 2) * (e @ k @ m @ e)) / (n * (n - 3))


class TestCKA:

  gram = staticmethod(lambda x: (x @ x.T)[None])

  def cka(self, x, y):
    return faithfulness.cka(self.gram(x), self.gram(y))[0, 0]

  def test_is_one_for_rotated_scaled_and_moved_features(self):
    x = np.random.default_rng(0).normal(size=(12, 5))
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    assert self.cka(x, x) == pytest.approx(1)
    assert self.cka(x, 7 * x @ turn + 3) == pytest.approx(1)
    assert self.cka(x, x * [9, 1, 1, 1, 1]) < 0.99           # but not for another linear map

  def test_is_that_of_songs_formula(self):
    random = np.random.default_rng(0)
    for n in 4, 5, 20:
      x, y = random.normal(size=(n, 3)), random.normal(size=(n, 6))
      k, m = x @ x.T, y @ y.T
      assert self.cka(x, y) == pytest.approx(song(k, m) / np.sqrt(song(k, k) * song(m, m)))

  def test_wide_features_that_have_nothing_in_common_are_not_alike(self):
    x, y = np.random.default_rng(0).normal(size=(2, 48, 400))
    a, b = (z - z.mean(0) for z in (x, y))
    plain = np.sum((a.T @ b)**2) / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert plain > 0.8 and abs(self.cka(x, y)) < 0.1

  def test_a_layer_that_is_always_the_same_is_like_none(self):
    x = np.random.default_rng(0).normal(size=(6, 3))
    assert self.cka(x, np.full((6, 2), 0.1)) == 0 == self.cka(np.zeros((6, 2)), x)

  def test_pairs_all_layers(self):
    x, y, z = np.random.default_rng(0).normal(size=(3, 8, 4))
    both = np.concatenate([self.gram(x), self.gram(y)])
    found = faithfulness.cka(both, np.concatenate([both, self.gram(z)]))
    assert found.shape == (2, 3) and found[1, 2] == pytest.approx(self.cka(y, z))
    np.testing.assert_allclose(np.diag(found), 1)

  def test_few_examples_and_what_is_no_number_are_refused(self):
    with pytest.raises(ValueError, match='3 examples'):
      self.cka(np.ones((3, 2)), np.ones((3, 2)))
    with pytest.raises(ValueError, match='not finite'):
      self.cka(np.full((5, 2), np.nan), np.ones((5, 2)))


def explained(n=8, width=6, seed=0, **more):
  random = np.random.default_rng(seed)
  features = random.normal(size=(2, n, 3))
  return {'id': np.arange(n), 'target': np.zeros(n, int), 'sampled': np.ones(n, bool),
          'places': np.ones((n, width), bool), 'layers': np.array(['embedding', 'pooled']),
          'attribution': random.normal(size=(n, width)),
          'rollout': random.random((n, width)), 'grams': features @ features.swapaxes(1, 2)} | more


class TestCompareExplanations:

  def test_a_model_is_like_itself(self):
    found = faithfulness.compare_explanations(explained(), explained(), **FEW)
    assert list(found) == ['saliency', 'saliency_top', 'rollout', 'cka']
    for metric in found.values():
      assert metric['value'] == pytest.approx(1) and metric['n'] == 8
      assert metric['low'] <= 1 <= metric['high'] + 1e-9

  def test_saliency_is_spearmans_over_the_places_that_say_something(self):
    ours, theirs = explained(), explained(seed=1)
    ours['places'][:, 4:] = False
    theirs['attribution'][:, 1] = theirs['attribution'][:, 0]             # a tie
    found = faithfulness.compare_explanations(ours, theirs, **FEW)['saliency']
    each = [stats.spearmanr(np.abs(a[:4]), np.abs(b[:4]))[0]
           for a, b in zip(ours['attribution'], theirs['attribution'], strict=True)]
    assert found['value'] == pytest.approx(np.mean(each)) and found['unit'] == 'correlation'

  def test_the_sign_of_an_attribution_does_not_count(self):
    ours = explained()
    theirs = ours | {'attribution': -ours['attribution']}
    found = faithfulness.compare_explanations(ours, theirs, **FEW)
    assert found['saliency']['value'] == pytest.approx(1)

  def test_top_by_hand(self):
    # Ten places: the two largest of one are places 0 and 1, of the other 1 and 2.
    a, b = (np.array([9, 8, 0, 0, 0, 0, 0, 0, 0, 0.]), np.array([0, 8, 9, 0, 0, 0, 0, 0, 0, 0.]))
    assert faithfulness.top_overlap(a, b) == 0.5
    assert faithfulness.top_overlap(np.zeros(4), np.zeros(4)) == 1     # the first of equal ones

  @pytest.mark.parametrize('n', [1, 2, 3, 9, 10, 64])
  def test_top_is_that_of_sorted_places(self, n):
    random = np.random.default_rng(n)
    for a, b in (random.random((2, n)), random.integers(3, size=(2, n)), np.zeros((2, n))):
      first, second = ({i for _, i in sorted((-x, i) for i, x in enumerate(values))[:max(
          1, round(n / 5))]} for values in (a, b))
      assert faithfulness.top_overlap(a, b) == len(first & second) / len(first)

  def test_only_what_was_drawn_counts_and_no_single_place(self):
    ours, theirs = explained(), explained()
    theirs['attribution'][6:] = ours['attribution'][6:, ::-1]
    ours['sampled'][6:] = theirs['sampled'][6:] = False
    ours['places'][5, 1:] = False
    both = [records | {'grams': records['grams'][:, :6, :6]} for records in (ours, theirs)]
    found = faithfulness.compare_explanations(*both, **FEW)
    assert found['saliency']['value'] == pytest.approx(1) and found['saliency']['n'] == 5
    assert found['cka']['n'] == 6

  def test_a_model_that_looks_at_nothing_is_like_none(self):
    blind = explained(attribution=np.zeros((8, 6)))
    found = faithfulness.compare_explanations(blind, explained(), **FEW)
    assert found['saliency']['value'] == 0

  def test_models_without_attention_have_no_rollout_and_images_are_flat(self):
    image = {'attribution': np.random.default_rng(0).normal(size=(8, 3, 2)),
             'places': np.ones((8, 3, 2), bool)}
    ours = explained(**image)
    del ours['rollout']
    found = faithfulness.compare_explanations(ours, ours, **FEW)
    assert list(found) == ['saliency', 'saliency_top', 'cka']

  def test_cka_is_that_of_the_layer_most_alike_with_the_jackknifes_error(self):
    ours, theirs = explained(), explained(seed=1)
    found = faithfulness.compare_explanations(ours, theirs, **FEW)['cka']
    best = lambda keep: np.mean([max(faithfulness.cka(
        x[keep][:, keep][None], y[keep][:, keep][None])[0, 0] for y in theirs['grams'])
        for x in ours['grams']])
    assert found['value'] == pytest.approx(best(np.arange(8)))
    without = np.array([best(np.delete(np.arange(8), i)) for i in range(8)])
    error = np.sqrt(7 / 8 * np.sum((without - without.mean())**2))    # Efron 1982, eq. 3.2
    assert found['high'] == pytest.approx(min(1, found['value'] + 1.96 * error))
    assert found['low'] == pytest.approx(max(-1, found['value'] - 1.96 * error))

  def test_layers_are_a_table_or_nothing_of_too_few(self):
    found = faithfulness.layer_similarity(explained(), explained(seed=1))
    assert found['rows'] == found['columns'] == ['embedding', 'pooled']
    assert np.shape(found['cka']) == (2, 2) and type(found['cka'][0][0]) is float
    few = explained(n=3)
    assert faithfulness.layer_similarity(few, few) is None
    assert 'cka' not in faithfulness.compare_explanations(few, few)

  def test_other_examples_and_what_is_no_number_are_refused(self):
    with pytest.raises(ValueError, match='different examples'):
      faithfulness.compare_explanations(explained(), explained(target=np.ones(8, int)))
    with pytest.raises(ValueError, match='attribution that are not finite'):
      faithfulness.compare_explanations(explained(attribution=np.full((8, 6), np.inf)), explained())
