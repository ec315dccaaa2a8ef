"""Attacks of one linear model by hand, of images and of texts, and what an attack is refused."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from distill.augment import Ask, adversarial, apply_augments
from distill.modalities import image, probes
from distill.models.functional import Functional
from distill.types import Status, Stop
from tests.modalities.test_probes import BATCH, TEXT, encoder

MODALITY = image.Image(height=1, width=4, channels=1, mean=(8.0,), deviation=(4.0,), white=16.0)


class Linear(nnx.Module):
  """Logits (0, w · x): its loss on label 0 grows with w, on label 1 against it."""

  def __init__(self, *, rngs):
    self.w = nnx.Param(jnp.array([0.5, -2.0, 0.0, 1.0]))

  def __call__(self, batch, *, train=False, key=None):
    z = batch['image'].reshape(-1, 4) @ self.w[...]
    return {'logits': jnp.stack([0 * z, z], 1), 'one': z[:, None]}


MODEL = Functional(lambda rngs: Linear(rngs=rngs))
PROBE = MODALITY.probe(MODEL, MODEL.shapes)


def batch(x=0.0):
  return {'image': jnp.full((2, 1, 4, 1), x), 'label': jnp.array([0, 1]), 'valid': jnp.ones(2)}


def ask(model=MODEL, weights=None, probe=PROBE, teachers=()):
  """What a step whose objective is the cross-entropy would answer."""
  weights = weights or model.init(0)

  def student(batch):
    return probes.answer(model, probe, *weights, batch, train=False, key=None)[0]

  def loss(batch):
    log_q = jax.nn.log_softmax(student(batch)['logits'])
    return -jnp.take_along_axis(log_q, batch['label'][:, None], 1).mean()
  return Ask(student, dict(teachers), loss, lambda: weights[0], probe, 'config: augment[0]')


def perturbed(attack, asked=None, given=None, seed=0):
  found = jax.jit(lambda b: attack(b, jax.random.key(seed), asked or ask()))(given or batch())
  return np.asarray(found['perturbation'])


class TestFGSM:

  def test_moves_each_number_by_epsilon_to_where_the_loss_grows(self):
    sign = np.array([1, -1, 0, 1.0])
    found = perturbed(adversarial.fgsm(epsilon=0.3))[:, 0, :, 0]
    np.testing.assert_allclose(found, [0.3 * sign, -0.3 * sign], rtol=1e-6)

  def test_stays_within_black_and_white(self):
    # Black is (0 - 8) / 4 = -2, white 2: of x = 1.9 only 0.1 is left upwards.
    found = perturbed(adversarial.fgsm(epsilon=0.3), given=batch(1.9))[0, 0, :, 0]
    np.testing.assert_allclose(found, [0.1, -0.3, 0, 0.1], atol=1e-6)

  def test_what_is_beyond_white_in_the_data_stays_there(self):
    found = perturbed(adversarial.fgsm(epsilon=0.3), given=batch(2.5))[0, 0, :, 0]
    np.testing.assert_allclose(found, [0, -0.3, 0, 0], atol=1e-6)

  def test_of_the_student_it_is_refused_for_its_gradient_is_0(self):
    with pytest.raises(ValueError, match="of='student': at the clean input this gradient is 0"):
      adversarial.fgsm(of='student')

  def test_of_a_teacher_it_goes_away_from_the_clean_answer_of_the_teacher(self):
    surely = lambda sure: {'big': lambda batch: {'logits': jnp.array([[0, sure]] * 2)}}
    attack = adversarial.fgsm(epsilon=0.1, of='big')
    assert attack.reads == ('big/logits', 'student/logits')
    for sure, sign in (5.0, -1), (-5.0, 1):           # away from class 1, and from class 0
      found = perturbed(attack, ask(teachers=surely(sure)))[:, 0, :, 0]
      np.testing.assert_allclose(found, [sign * np.array([0.1, -0.1, 0, 0.1])] * 2, rtol=1e-6)


class TestPGD:

  def test_starts_uniform_and_ends_at_the_border_of_the_ball(self):
    start = perturbed(adversarial.pgd(epsilon=0.4, rate=1e-9, steps=1))[:, 0, :, 0]
    assert (np.abs(start) <= 0.4).all() and len(np.unique(start)) == 8
    found = perturbed(adversarial.pgd(epsilon=0.4, rate=0.1, steps=8))[:, 0, :, 0]
    signs = np.array([[1, -1, 1], [-1, 1, -1]])
    np.testing.assert_allclose(found[:, [0, 1, 3]], 0.4 * signs, rtol=1e-6)
    np.testing.assert_allclose(found[:, 2], start[:, 2], rtol=1e-6)   # without a gradient it stays

  def test_two_steps_by_hand(self):
    start = perturbed(adversarial.pgd(epsilon=0.4, rate=1e-9, steps=1))[:, 0, :, 0]
    found = perturbed(adversarial.pgd(epsilon=0.4, rate=0.15, steps=2))[:, 0, :, 0]
    step = 0.15 * np.array([[1, -1, 0, 1], [-1, 1, 0, -1.0]])
    once = np.clip(start + step, -0.4, 0.4)
    np.testing.assert_allclose(found, np.clip(once + step, -0.4, 0.4), rtol=1e-5, atol=1e-6)

  def test_of_the_student_it_takes_its_answer_away_from_its_clean_one(self):
    attack = adversarial.pgd(epsilon=0.4, rate=0.1, steps=8, of='student')
    assert attack.reads == ('student/logits',)
    found = perturbed(attack)[:, 0, :, 0]
    start = perturbed(adversarial.pgd(epsilon=0.4, rate=1e-9, steps=1))[:, 0, :, 0]
    w = np.array([0.5, -2.0, 0, 1])
    assert ((found @ w) * (start @ w) > 0).all()      # on the side where it started
    np.testing.assert_allclose(np.abs(found @ w), 0.4 * np.abs(w).sum(), rtol=1e-5)

  def test_is_drawn_anew_by_the_key(self):
    attack = adversarial.pgd(rate=1e-9, steps=1)
    assert (perturbed(attack) != perturbed(attack, seed=1)).all()


class TestTexts:

  def words(self, **more):
    model, weights = encoder(**more)
    probe = TEXT.probe(model, weights)
    given = {name: jnp.asarray(value) for name, value in BATCH.items()} | {
        'label': jnp.array([0, 2]), 'valid': jnp.ones(2)}
    return model, weights, given, ask(model, weights, probe)

  def test_words_alone_move_by_a_share_of_the_table_s_deviation_and_the_loss_grows(self):
    model, weights, given, asked = self.words()
    found = jax.jit(lambda b: adversarial.fgsm(epsilon=0.1)(b, None, asked))(given)
    delta = np.asarray(found['perturbation'])
    table = np.asarray(weights[0][model.traits.tables[0]])
    moved = np.array([[0, 1, 0, 0, 0], [0, 1, 1, 1, 0]], bool)      # as [UNK], too, is no word
    np.testing.assert_allclose(np.abs(delta[moved]), 0.1 * table.std(), rtol=1e-5)
    assert (delta[~moved] == 0).all() and (found['tokens'] == given['tokens']).all()
    assert asked.loss(found) > asked.loss(given) + 1e-3

  def test_the_table_of_embeddings_keeps_its_gradient(self):
    model, (params, rest), given, asked = self.words()
    first = model.traits.tables[0]
    zero = {**given, 'perturbation': jnp.zeros((2, 5, 4))}
    slope = lambda batch: jax.grad(lambda table: jnp.square(probes.answer(
        model, asked.probe, {**params, first: table}, rest, batch, train=False, key=None)[0][
            'logits']).sum())(params[first])
    np.testing.assert_allclose(slope(zero), slope(given), rtol=1e-4, atol=1e-6)
    assert np.abs(slope(zero)).sum() > 0

  def test_a_head_that_shares_the_table_gives_no_answer(self):
    model, weights, given, asked = self.words(words=True)
    assert 'words' in asked.student(given)
    assert 'words' not in asked.student({**given, 'perturbation': jnp.zeros((2, 5, 4))})


@pytest.mark.parametrize(('attack', 'change', 'line'), [
    (dict(), dict(probe=None), 'the inputs of this student cannot be perturbed'),
    (dict(of='student', output='lgits'), {}, "of='student' needs student/lgits, logits over at"),
    (dict(of='student', output='one'), {}, "there is logits, one: name them by output")])
def test_what_cannot_be_attacked_is_refused_in_a_line(attack, change, line):
  asked = dataclasses.replace(ask(), **change)
  with pytest.raises(Stop, match=line) as stop:
    perturbed(adversarial.pgd(**attack), asked)
  assert stop.value.status == Status.MISFIT and str(stop.value).startswith('config: augment[0]: ')


def test_a_perturbation_without_a_probe_is_refused():
  with pytest.raises(Stop, match="has a field 'perturbation', and the inputs of this model cannot"):
    ask(probe=None).student({**batch(), 'perturbation': jnp.zeros((2, 1, 4, 1))})


def test_one_that_says_that_it_only_adds_fields_is_held_to_it():
  flip = lambda batch, key, ask: {**batch, 'image': batch['image'][:, :, ::-1]}
  given = batch()
  for change in adversarial.fgsm(), flip:
    found = apply_augments((change,), given, jax.random.key(0), ask(), 'config')
    assert found['label'] is given['label']
  flip.adds_only = True
  line = r'config: augment\[0\] changes image, and its attribute adds_only says that'
  with pytest.raises(Stop, match=line):
    apply_augments((flip,), given, jax.random.key(0), ask(), 'config')


@pytest.mark.parametrize(('make', 'wrong'), [
    (adversarial.fgsm, dict(epsilon=0.0)), (adversarial.pgd, dict(epsilon=-1.0)),
    (adversarial.pgd, dict(rate=float('inf'))), (adversarial.pgd, dict(steps=0)),
    (adversarial.pgd, dict(steps=21))])
def test_lengths_out_of_range_are_refused(make, wrong):
  with pytest.raises(ValueError, match=f'{[*wrong][0]}='):
    make(**wrong)
