"""From arrays of examples to a batch, and the modality that a card names."""
import dataclasses

import jax
import numpy as np
import pytest
from jax import export

from distill import modalities
from distill.modalities import examples
from distill.modalities.examples import ShapeError, stack
from distill.modalities.image import Image
from distill.modalities.text import Text
from distill.types import Field, Status, Stop

FIELD = Field(('s', 2), 'float32', -1)


class TestStacked:

  def test_a_list_is_padded_row_by_row(self):
    found = stack([np.ones((1, 2)), np.full((3, 2), 2), np.zeros((0, 2))], FIELD, {'s': 4}, 4)
    assert found.dtype == np.float32 and found[:, :, 0].tolist() == found[:, :, 1].tolist() == [
        [1, -1, -1, -1], [2, 2, 2, -1], [-1] * 4, [-1] * 4]

  def test_an_array_is_cut_or_padded_to_the_width(self):
    values = np.arange(12.).reshape(2, 3, 2)
    for width in 2, 3, 5:
      found = stack(values, FIELD, {'s': width}, 3)
      least = min(width, 3)
      assert found.shape == (3, width, 2) and (found[:, least:] == -1).all()
      np.testing.assert_array_equal(found[:2, :least], values[:, :least])
      assert (found[2] == -1).all()

  def test_a_list_and_an_array_of_objects_and_of_numbers_give_the_same(self):
    rows = [np.full((2, 2), i) for i in range(3)]
    objects = np.empty(3, object)
    objects[:] = rows
    wanted = stack(np.stack(rows), FIELD, {'s': 2}, 3)
    for values in rows, objects, [row.tolist() for row in rows]:
      np.testing.assert_array_equal(stack(values, FIELD, {'s': 2}, 3), wanted, strict=True)

  def test_two_axes_may_differ(self):
    field = Field(('h', 'w'), 'int32')
    found = stack([np.ones((1, 2)), np.ones((2, 1))], field, {'h': 2, 'w': 3}, 2)
    assert found.tolist() == [[[1, 1, 0], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]]]

  def test_a_list_that_is_longer_than_its_index_or_its_width_is_refused(self):
    rows = [np.ones((1, 2)), np.ones((3, 2))]
    for lengths, most in (({'s': np.array([1, 2])}, 2), (None, 2)):
      with pytest.raises(ShapeError, match=f"has 3 entries along 's', and the index says {most}"
                         ) as error:
        stack(rows, FIELD, {'s': 4 if lengths else 2}, 2, lengths)
      assert error.value.row == 1

  @pytest.mark.parametrize('value', [np.ones(2), np.ones((1, 3)), np.ones((1, 2, 1))])
  def test_another_shape_is_refused(self, value):
    with pytest.raises(ShapeError, match='an axis along which examples differ needs a name') as bad:
      stack([np.ones((1, 2)), value], FIELD, {'s': 4}, 2)
    assert bad.value.row == 1 and f'is {list(value.shape)}, not [\'s\', 2]' in str(bad.value)


@dataclasses.dataclass(frozen=True)
class Twice(modalities.Modality):
  """Series that are doubled as they are prepared, and pairs of a length of their own."""
  noun = 'series'
  fields = {'series': Field(('s',), 'int32'), 'pairs': Field(('m', 2), 'float32')}
  room, widths = {'s': 16, 'm': 4}, {'s': (4, 16), 'm': (2, 4)}

  def prepare(self, batch):
    return {**batch, 'series': 2 * batch['series']}


class TestPadded:

  def test_a_batch_of_one_has_the_widths_of_its_buckets(self):
    example = {'series': np.arange(5), 'pairs': np.ones((2, 2), np.float32)}
    batch = examples.pad_one(example, Twice())
    assert batch['series'].tolist() == [[0, 2, 4, 6, 8] + [0] * 11]
    assert batch['pairs'].shape == (1, 2, 2) and batch['valid'].tolist() == [1]
    assert batch['id'].tolist() == [0]

  def test_an_example_beyond_the_room_is_refused(self):
    with pytest.raises(Stop, match="17 entries along 's', and the model has room for 16") as stop:
      examples.pad_one({'series': np.arange(17), 'pairs': np.ones((2, 2))}, Twice())
    assert stop.value.status == Status.DATA


def test_full_batches_have_the_largest_widths_and_count_every_position():
  batch = examples.placeholders(Twice(), 3)
  assert {name: x.shape for name, x in batch.items()} == {
      'series': (3, 16), 'pairs': (3, 4, 2), 'id': (3,), 'valid': (3,)}
  assert batch['pairs'].all() and batch['valid'].all() and not batch['series'].any()


def test_symbolic_batches_take_any_number_of_examples_and_any_length():
  shapes = examples.symbolic_shapes(Twice())
  assert {name: str(x.shape) for name, x in shapes.items()} == {
      'series': '(b, s)', 'pairs': '(b, m, 2)'}
  program = export.export(jax.jit(lambda batch: batch['series'].sum(1) + batch['pairs'].sum((1, 2))
                                  ))(shapes)
  for b, s, m in (1, 3, 4), (5, 16, 1):
    given = {'series': np.ones((b, s), np.int32), 'pairs': np.ones((b, m, 2), np.float32)}
    assert program.call(given).tolist() == [s + 2 * m] * b


def test_symbolic_batches_are_prepared():
  grey = Image(4, 4, 1, (0.0,), (1.0,), dtype='uint8')
  assert examples.symbolic_shapes(grey)['image'].dtype == np.float32


class TestCard:

  def test_names_the_class_by_which_lookup_finds_it(self):
    text = Text(length=8, widths={'s': (8,)}, sha256='00')
    assert modalities.card(text)['modality'] == 'text.Text'
    assert modalities.name_of(Twice()) == f'{__name__}:Twice'
    again = modalities.from_card(modalities.card(text), 'folder')
    assert again == dataclasses.replace(text, folder='folder')

  def test_of_an_earlier_version_is_known_by_its_keys(self):
    pixels = Image(4, 5, 1, (1.0,), (2.0,)).card()
    assert isinstance(modalities.from_card(pixels), Image)
    text = {'length': 8, 'widths': [4, 8], 'tokenizer_sha256': '00'}
    assert modalities.from_card(text).widths == {'s': (4, 8)}

  @pytest.mark.parametrize(('card', 'line'), [
      ({}, 'folder: config.json does not say what its inputs are'),
      ({'modality': 'nowhere.at.all:Kind'}, 'folder: its inputs are of a modality that is not known'
       )])
  def test_that_says_nothing_or_what_is_not_there_is_refused(self, card, line):
    with pytest.raises(Stop, match=line) as stop:
      modalities.from_card(card, 'folder')
    assert stop.value.status == Status.CHECKPOINT
