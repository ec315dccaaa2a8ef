import dataclasses
import threading
import time

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from distill.data import batches
from distill.data.sets import InMemory, Split
from distill.modalities import text
from distill.types import Field, Status, Stop


def split_of(lengths, labels=None, draws=None, room=16):
  """Texts whose token at place j is 100 * row + j + 1, so that every token is its own."""
  n, lengths = len(lengths), np.asarray(lengths, np.int32)
  place = np.arange(room) + np.zeros((n, 1), np.int32)
  is_token = place < lengths[:, None]
  kind = 'float32' if np.asarray(labels).dtype.kind == 'f' else 'int32'
  index = {
      'hash01': np.asarray(np.arange(n) / max(n, 1) if draws is None else draws, np.float64),
      's': lengths,
      'label': (np.arange(n) % 3 if labels is None else np.asarray(labels)).astype(kind)}
  label = Field((), kind, 0.0 if kind == 'float32' else -1, target=True)
  return Split(index, {**text.Text.fields, 'label': label}, text.fetch({
      'tokens': np.where(is_token, 100 * np.arange(n)[:, None] + place + 1, 0).astype(np.int32),
      'types': (is_token & (place > 2)).astype(np.int32), 'length': lengths}),
      room={'s': room}, raw=[f'text {i}' for i in range(n)])


def boxes_of(sizes, room=None, hash01=None, known=None, whole=False):
  """Examples of n points, all i + 1, and of m boxes, all 10 + i, their targets.

  They are fetched as a list of an array for each, or as one array that is padded to the room.
  """
  n, m = np.array(sizes).T
  known = np.ones(len(n), bool) if known is None else np.asarray(known)
  room = room or {'n': 8, 'm': 4}
  points = [np.full((k, 2), i + 1.0) for i, k in enumerate(n)]
  boxes = [np.full((k, 4), 10.0 + i) for i, k in enumerate(m)]
  padded = lambda arrays, width, fill: np.stack([np.pad(
      x, ((0, width - len(x)), (0, 0)), constant_values=fill) for x in arrays])
  if whole:
    points, boxes = padded(points, room['n'], 0), padded(boxes, room['m'], -7)
  pick = lambda arrays, rows: arrays[rows] if whole else [arrays[i] for i in rows]
  return Split(
      {'hash01': np.zeros(len(n)) if hash01 is None else np.asarray(hash01), 'known': known,
       'n': n, 'm': m},
      {'points': Field(('n', 2), 'float32'), 'boxes': Field(('m', 4), 'float32', -7, target=True)},
      lambda rows: {'points': pick(points, rows), 'boxes': pick(boxes, rows)}, room=room)


def ids(batch):
  return batch['id'][batch['valid'] == 1].tolist()


def walked(batch, count):
  """The ids of a batch that walk through all texts: the first ones, before those drawn."""
  return ids(batch)[:len(ids(batch)) - count]


def epoch(split, number=0, **how):
  steps = batches.epoch_steps(split, **{k: v for k, v in how.items() if k != 'seed'})
  ds = batches.shuffled(split, seed=how.pop('seed', 0), steps=steps * (number + 1), **how)
  return [ds[i] for i in range(steps * number, steps * (number + 1))]


def same(a, b):
  return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


class TestABatch:

  def test_holds_the_columns_of_its_rows_cut_to_the_width_of_its_bucket(self):
    # One text of 3 tokens in a batch of two: its bucket is 8 wide and one row stays empty.
    [batch] = epoch(split_of([3], labels=[2]), batch_size=2, widths=(8, 16))
    expected = {
        'id': [0, -1], 'label': [2, -1], 'labelled': [1, 0], 'valid': [1, 0],
        'tokens': [[1, 2, 3, 0, 0, 0, 0, 0], [0] * 8], 'types': [[0] * 8, [0] * 8],
        'mask': [[1, 1, 1, 0, 0, 0, 0, 0], [0] * 8]}
    assert {k: v.tolist() for k, v in batch.items()} == expected
    assert {k: v.dtype.name for k, v in batch.items()} == {
        'id': 'int32', 'tokens': 'int32', 'types': 'int32', 'mask': 'float32',
        'label': 'int32', 'labelled': 'float32', 'valid': 'float32'}

  def test_holds_numbers_in_a_regression_and_0_where_none_is_seen(self):
    # The second of four has no label, and the last two lie beyond the visible share.
    split = split_of([3] * 4, labels=[-2.5, np.nan, 0.0, 4.0], draws=[0.1, 0.2, 0.5, 0.9])
    [batch] = batches.in_order(split, batch_size=5, widths=(8, 16))
    assert batch['label'].dtype == np.float32
    assert batch['label'].tolist() == [-2.5, 0, 0, 4, 0]
    assert batch['labelled'].tolist() == [1, 0, 1, 1, 0]
    [batch] = epoch(split, batch_size=4, widths=(8, 16), labelled=0.5)
    assert {i: (float(y), k) for i, y, k in zip(
        ids(batch), batch['label'], batch['labelled'], strict=True)} == {
            0: (-2.5, 1), 1: (0, 0), 2: (0, 0), 3: (0, 0)}

  def test_numbers_below_0_are_drawn_as_labels(self):
    split = split_of([3] * 8, labels=[-1.0, np.nan] * 4, draws=[0.0] * 8)
    for batch in epoch(split, batch_size=2, widths=(8, 16), drawn=1.0):
      assert all(i % 2 == 0 for i in ids(batch)) and batch['labelled'].tolist() == [1, 1]

  def test_second_texts_keep_their_type(self):
    [batch] = epoch(split_of([5]), batch_size=1, widths=(8, 16))
    assert batch['types'].tolist() == [[0, 0, 0, 1, 1, 0, 0, 0]]

  def test_a_length_that_equals_a_width_fits_it(self):
    found = epoch(split_of([8, 9]), batch_size=1, widths=(8, 16))
    assert {ids(b)[0]: b['tokens'].shape[1] for b in found} == {0: 8, 1: 16}


class TestAnEpoch:
  lengths = [3, 16, 8, 9, 4, 12, 7, 16, 5, 2, 6]        # 7 texts up to 8, 4 texts up to 16

  def test_shows_every_text_once_in_batches_of_one_size(self):
    split = split_of(self.lengths)
    found = epoch(split, batch_size=3, widths=(8, 16))
    assert len(found) == 3 + 2        # ceil(7 / 3) narrow ones, ceil(4 / 3) wide ones
    assert sorted(i for batch in found for i in ids(batch)) == list(range(11))
    assert all(batch['tokens'].shape[0] == 3 for batch in found)

  def test_the_width_of_a_text_depends_on_its_own_length_alone(self):
    for number in range(3):
      for batch in epoch(split_of(self.lengths), number, batch_size=3, widths=(8, 16)):
        width = batch['tokens'].shape[1]
        assert {width} == {8 if self.lengths[i] <= 8 else 16 for i in ids(batch)}

  def test_batches_follow_the_place_of_their_last_text_in_the_permutation(self):
    # Batches of one text: the batches are the permutation itself, whatever the widths are.
    split = split_of(self.lengths)
    order = lambda widths: [ids(b)[0] for b in epoch(split, batch_size=1, widths=widths)]
    assert order((8, 16)) == order((16,)) != sorted(order((16,)))
    # And batches of three hold the permutation's texts of a bucket in their order.
    permutation, last = order((16,)), []
    for batch in epoch(split, batch_size=3, widths=(8, 16)):
      places = [permutation.index(i) for i in ids(batch)]
      assert places == sorted(places)
      last.append(places[-1])
    assert last == sorted(last)

  def test_epochs_and_seeds_have_orders_of_their_own(self):
    split = split_of([8] * 50)
    order = lambda seed, number: [i for batch in epoch(split, number, batch_size=10, seed=seed)
                                  for i in ids(batch)]
    orders = [order(0, 0), order(0, 1), order(0, 2), order(1, 0), order(2, 0)]
    assert len({tuple(o) for o in orders}) == 5
    assert all(sorted(o) == list(range(50)) for o in orders)

  def test_the_first_place_is_as_likely_for_every_text(self):
    # 4 texts, 2,000 epochs: 500 times each, standard deviation sqrt(2000 · 1/4 · 3/4) = 19.
    ds = batches.shuffled(split_of([8] * 4), batch_size=1, seed=0, steps=8_000)
    first = np.bincount([ds[4 * e]['id'][0] for e in range(2_000)])
    assert (abs(first - 500) < 100).all()


class TestSeeking:

  def test_a_batch_is_a_function_of_seed_and_index(self):
    split = split_of(list(range(1, 17)) * 3)
    make = lambda: batches.shuffled(split, batch_size=4, seed=3, steps=60, labelled=0.5, drawn=0.5)
    straight, ds = [make()[i] for i in range(60)], make()
    for i in (59, 0, 31, 30, 59, 7):
      assert same(ds[i], straight[i])
    assert not same(straight[0], straight[1])

  def test_a_slice_resumes(self):
    ds = batches.shuffled(split_of([5] * 9), batch_size=2, seed=0, steps=20)
    assert len(ds) == 20 and len(ds[13:]) == 7
    assert all(same(ds[13:][i], ds[13 + i]) for i in range(7))

  def test_processes_build_their_rows_of_the_same_batches(self):
    split = split_of([5, 12] * 10, draws=[0.05, 0.5] * 10)
    how = dict(batch_size=4, seed=0, steps=25, labelled=0.1, drawn=0.3)
    whole = batches.shuffled(split, **how)
    assert any(0 < batch['valid'].sum() < 4 for batch in whole)       # some aren't full
    for rows in [0, 1], [2, 3], [3], [0, 2]:
      local = batches.shuffled(split, rows=np.array(rows), **how)
      assert all(same(local[i], {name: x[rows] for name, x in whole[i].items()}) for i in range(25))

  def test_grain_may_read_ahead_in_threads(self):
    ds = batches.shuffled(split_of([5, 12] * 20), batch_size=3, seed=0, steps=45, drawn=0.4)
    read = list(ds.to_iter_dataset())
    assert len(read) == 45 and all(same(a, ds[i]) for i, a in enumerate(read))


class TestLabels:

  def test_the_hash_decides_which_labels_are_seen(self):
    split = split_of([5] * 4, labels=[2, 1, 0, 1], draws=[0.0, 0.09, 0.1, 0.99])
    [batch] = epoch(split, batch_size=4, labelled=0.1)
    seen = dict(zip(batch['id'].tolist(), batch['label'].tolist(), strict=True))
    assert seen == {0: 2, 1: 1, 2: -1, 3: -1}
    assert (batch['labelled'] == (batch['label'] >= 0)).all()

  def test_a_text_without_a_label_is_never_labelled(self):
    [batch] = epoch(split_of([5] * 3, labels=[1, -1, 0]), batch_size=3)
    seen = dict(zip(batch['id'].tolist(), batch['labelled'].tolist(), strict=True))
    assert seen == {0: 1, 1: 0, 2: 1}

  def test_no_labels_at_all_is_a_stream_of_texts(self):
    [batch] = epoch(split_of([5] * 3), batch_size=3, labelled=0.0)
    assert (batch['label'] == -1).all() and batch['valid'].all() and not batch['labelled'].any()


class TestDrawn:
  draws = [0.05, 0.5, 0.5, 0.5, 0.08, 0.5, 0.01, 0.5, 0.5, 0.5]       # labelled: 0, 4, 6

  def test_half_of_a_batch_is_drawn_from_the_labelled_texts_in_turn(self):
    split = split_of([5] * 10, draws=self.draws)
    how = dict(batch_size=4, labelled=0.1, drawn=0.5)
    assert batches.epoch_steps(split, **how) == 5           # two of four walk: 10 / 2
    ds = batches.shuffled(split, seed=0, steps=12, **how)
    drawn = [i for batch in ds for i in batch['id'][-2:].tolist()]
    # 24 draws from 3 texts: 8 permutations of them, one after the other.
    assert all(sorted(drawn[k:k + 3]) == [0, 4, 6] for k in range(0, 24, 3))
    assert len({tuple(drawn[k:k + 3]) for k in range(0, 24, 3)}) > 1
    assert all(batch['labelled'][-2:].all() for batch in ds)

  def test_the_rest_still_shows_every_text_once(self):
    found = epoch(split_of([5] * 10, draws=self.draws), batch_size=4, labelled=0.1, drawn=0.5)
    assert sorted(i for batch in found for i in walked(batch, 2)) == list(range(10))

  def test_draws_go_on_from_epoch_to_epoch(self):
    # One epoch draws 5 · 2 = 10 times, so the second starts in the middle of a permutation.
    split = split_of([5] * 10, draws=self.draws)
    ds = batches.shuffled(split, batch_size=4, seed=0, steps=15, labelled=0.1, drawn=0.5)
    drawn = [i for batch in ds for i in batch['id'][-2:].tolist()]
    assert all(sorted(drawn[k:k + 3]) == [0, 4, 6] for k in range(0, 30, 3))

  def test_draws_have_the_width_of_their_batch(self):
    split = split_of([5, 15] * 10, draws=[0.0, 0.0] + [0.5] * 18)
    for batch in epoch(split, batch_size=4, widths=(8, 16), labelled=0.1, drawn=0.5):
      assert set(batch['id'][-2:].tolist()) == {0 if batch['tokens'].shape[1] == 8 else 1}

  def test_a_width_without_labelled_texts_walks_alone(self):
    split = split_of([5, 15] * 4, draws=[0.0] + [0.5] * 7)
    found = epoch(split, batch_size=4, widths=(8, 16), labelled=0.1, drawn=0.5)
    wide = [batch for batch in found if batch['tokens'].shape[1] == 16]
    assert [sorted(ids(batch)) for batch in wide] == [[1, 3, 5, 7]]
    assert not wide[0]['labelled'].any()

  def test_all_drawn_is_the_labelled_texts_alone_each_once(self):
    split = split_of([5] * 10, draws=self.draws)
    found = epoch(split, batch_size=2, labelled=0.1, drawn=1.0)
    assert sorted(i for batch in found for i in ids(batch)) == [0, 4, 6]
    assert batches.epoch_steps(split, batch_size=2, labelled=0.1, drawn=1.0) == len(found) == 2

  def test_a_batch_of_one_always_walks(self):
    found = epoch(split_of([5] * 3), batch_size=1, drawn=0.9)
    assert sorted(i for batch in found for i in ids(batch)) == [0, 1, 2]


class TestInOrder:

  def test_shows_every_text_once_shortest_width_first_with_its_label(self):
    split = split_of([16, 3, 9, 8, 1], labels=[0, 1, 2, -1, 1], draws=[0.9] * 5)
    ds = batches.in_order(split, batch_size=2, widths=(8, 16))
    assert [batch['id'].tolist() for batch in ds] == [[1, 3], [4, -1], [0, 2]]
    assert [batch['label'].tolist() for batch in ds] == [[1, -1], [1, -1], [0, 2]]
    assert [batch['valid'].tolist() for batch in ds] == [[1, 1], [1, 0], [1, 1]]
    assert [batch['tokens'].shape for batch in ds] == [(2, 8), (2, 8), (2, 16)]


class TestWidths:

  def test_padding_share_by_hand(self):
    # 3 and 8 tokens take 8 places each, 10 tokens take 16: 21 of 32 places hold a token.
    assert batches.padding_share(split_of([3, 8, 10]), widths=(8, 16)) == pytest.approx(11 / 32)

  @pytest.mark.parametrize('room, widths', [
      (64, [16, 32, 48, 64]),
      (48, [16, 24, 40, 48]),         # 12, 24, 36, 48, up to the next multiple of 8
      (50, [16, 32, 40, 50]),         # 12.5, 25, 37.5, and never more than there is
      (8, [8]), (5, [5])])
  def test_are_quarters_of_the_room_by_default(self, room, widths):
    assert batches.axis_widths(split_of([2], room=room))['s'].tolist() == widths

  @pytest.mark.parametrize('widths', [(), (8, 8, 16), (16, 8), (2, 4, 8, 12, 16), (0, 16), (8,),
                                      (8, 17)])
  def test_that_cannot_hold_the_texts_are_refused(self, widths):
    with pytest.raises(ValueError, match='widths'):
      batches.shuffled(split_of([9]), batch_size=2, seed=0, steps=1, widths=widths)


  def test_are_one_width_by_default_for_any_further_axis(self):
    found = batches.axis_widths(boxes_of([(3, 1), (40, 5)], room={'n': 64, 'm': 32}))
    assert {axis: sizes.tolist() for axis, sizes in found.items()} == {
        'n': [16, 32, 48, 64], 'm': [32]}

  def test_a_sequence_is_of_the_first_axis_and_a_mapping_of_those_it_names(self):
    split = boxes_of([(3, 1), (7, 2)], room={'n': 8, 'm': 4})
    widths = lambda given: {axis: sizes.tolist() for axis, sizes in
                            batches.axis_widths(split, given).items()}
    assert widths((4, 8)) == widths({'n': (4, 8)}) == {'n': [4, 8], 'm': [4]}
    assert widths({'m': (1, 2)}) == {'n': [8], 'm': [1, 2]}

  @pytest.mark.parametrize(('widths', 'line'), [
      ({'s': (8,)}, r'widths\.s: the examples have no axis of that name; there is n, m'),
      ({'m': (1,)}, r'widths=\(1,\): the widest must be between 2, the longest example, and 4'),
      ({'n': (8, 4)}, r'widths=\(8, 4\)')])
  def test_of_axes_that_do_not_fit_are_refused(self, widths, line):
    with pytest.raises(ValueError, match=line):
      batches.in_order(boxes_of([(3, 1), (7, 2)], room={'n': 8, 'm': 4}), batch_size=2,
                       widths=widths)


class TestAxes:
  """Examples that differ along two axes, one of them the targets' own."""
  sizes = [(3, 1), (3, 4), (8, 1), (8, 4), (2, 2), (5, 3)]
  widths = {'n': (4, 8), 'm': (2, 4)}

  @pytest.mark.parametrize('whole', [True, False])
  def test_a_bucket_is_a_width_of_each(self, whole):
    split = boxes_of(self.sizes, whole=whole)
    found = {batch['points'].shape[1:] + batch['boxes'].shape[1:]: sorted(ids(batch))
             for batch in epoch(split, batch_size=4, widths=self.widths)}
    assert found == {(4, 2, 2, 4): [0, 4], (4, 2, 4, 4): [1], (8, 2, 2, 4): [2],
                     (8, 2, 4, 4): [3, 5]}

  @pytest.mark.parametrize('whole', [True, False])
  def test_everything_of_an_example_is_there_and_the_rest_is_padding(self, whole):
    for batch in epoch(boxes_of(self.sizes, whole=whole), batch_size=4, widths=self.widths):
      for row, i in enumerate(batch['id']):
        n, m = self.sizes[i] if i >= 0 else (0, 0)
        assert (batch['points'][row, :n] == i + 1).all() and (batch['points'][row, n:] == 0).all()
        assert (batch['boxes'][row, :m] == 10 + i).all() and (batch['boxes'][row, m:] == -7).all()

  def test_arrays_of_targets_are_hidden_where_the_label_may_not_be_seen(self):
    split = boxes_of(self.sizes, hash01=[0.1, 0.9, 0.1, 0.9, 0.9, 0.1],
                     known=[True, True, False, True, True, True])
    for batch in epoch(split, batch_size=4, widths=self.widths, labelled=0.5):
      for row, i in enumerate(batch['id']):
        assert batch['labelled'][row] == (i in (0, 5))
        assert (batch['boxes'][row] != -7).any() == (i in (0, 5))
        assert (batch['points'][row] != 0).any() == (i >= 0)

  def test_known_targets_may_be_given_by_numbers(self):
    split = boxes_of(self.sizes, known=np.array([1, 1, 0, 1, 1, 0]))
    seen = {i: bool((b != -7).any()) for batch in batches.in_order(split, batch_size=3)
            for i, b in zip(batch['id'].tolist(), batch['boxes'], strict=True)}
    assert seen == {0: True, 1: True, 2: False, 3: True, 4: True, 5: False}

  def test_padding_is_that_of_the_first_axis(self):
    # 3 and 2 take 4 places each, 8 and 5 take 8: 3 + 3 + 8 + 8 + 2 + 5 of 4 · 3 + 8 · 3.
    assert batches.padding_share(boxes_of(self.sizes), widths=self.widths) == pytest.approx(7 / 36)

  def test_every_example_is_shown_once(self):
    sizes = [(1 + i % 8, 1 + i % 4) for i in range(50)]
    for number in range(2):
      found = epoch(boxes_of(sizes), number, batch_size=3, widths=self.widths)
      assert sorted(i for batch in found for i in ids(batch)) == list(range(50))


class TestASplitWithoutLabel:
  split = Split({'hash01': np.arange(6) / 6}, {'x': Field((2,), 'float32')},
                InMemory({'x': np.arange(12.).reshape(6, 2)}))

  def test_has_no_label_and_nothing_is_labelled(self):
    assert not self.split.known.any() and self.split.axes == ()
    for batch in (*epoch(self.split, batch_size=4), *batches.in_order(self.split, batch_size=4)):
      assert batch.keys() == {'id', 'x', 'labelled', 'valid'} and not batch['labelled'].any()
      for i, x in zip(batch['id'], batch['x'], strict=True):
        assert x.tolist() == ([2 * i, 2 * i + 1] if i >= 0 else [0, 0])

  def test_has_nothing_to_draw(self):
    with pytest.raises(ValueError, match='none of the 6 examples is labelled'):
      batches.shuffled(self.split, batch_size=2, seed=0, steps=1, drawn=0.5)

  def test_a_subset_has_the_examples_of_its_rows(self):
    part = self.split.subset(np.array([4, 1])).subset(np.array([1, 0, 1]))
    [batch] = batches.in_order(part, batch_size=3)
    assert batch['x'].tolist() == [[2, 3], [8, 9], [2, 3]] and batch['id'].tolist() == [0, 1, 2]
    np.testing.assert_allclose(part.index['hash01'], np.array([1, 4, 1]) / 6)


class TestReadAhead:

  def slow(self):
    """Texts of which every other batch takes long to fetch; with who fetched."""
    split, who = split_of([5, 12] * 20), set()

    def fetch(rows):
      who.add(threading.get_ident())
      time.sleep(0.02 * (rows[0] % 2))
      return split.fetch(rows)
    return dataclasses.replace(split, fetch=fetch), who

  @pytest.mark.parametrize('start', [0, 13, 44])
  def test_gives_what_indexing_gives_from_any_step_on(self, monkeypatch, start):
    monkeypatch.setattr(batches, 'THREADS', 4)
    split, who = self.slow()
    how = dict(batch_size=3, seed=0, steps=45, labelled=0.5, drawn=0.4)
    ds, straight = (batches.shuffled(s, **how) for s in (split, split_of([5, 12] * 20)))
    found = list(batches.read_ahead(ds, start))
    assert len(found) == 45 - start
    assert all(same(batch, straight[start + i]) for i, batch in enumerate(found))
    assert threading.get_ident() not in who
    if start == 0:
      assert len(who) > 1

  def test_reads_any_sequence(self):
    assert list(batches.read_ahead(['a', 'b', 'c'], 1)) == ['b', 'c']


class TestHostileInput:

  def stopped(self, make):
    with pytest.raises(Stop) as stop:
      make()
    assert stop.value.status == Status.DATA and '\n' not in str(stop.value)
    return str(stop.value)

  def test_examples_of_several_shapes_need_a_named_axis(self):
    split = boxes_of([(3, 1), (5, 2), (4, 1)])
    bare = dataclasses.replace(split, fields={**split.fields, 'points': Field((3, 2), 'float32')})
    line = self.stopped(lambda: list(batches.in_order(bare, batch_size=4)))
    assert line == ('data: example 1: its points is [5, 2], not [3, 2]: an axis along which '
                    'examples differ needs a name, and a column of the index')

  @pytest.mark.parametrize('shape', [(3,), (3, 2, 1), (3, 4)])
  def test_arrays_of_another_shape_than_their_field_are_refused(self, shape):
    for values in np.zeros((4, *shape)), [np.zeros(shape)] * 4:
      split = Split({'hash01': np.zeros(4)}, {'x': Field((3, 2), 'float32')},
                    lambda rows, values=values: {'x': [values[i] for i in rows] if isinstance(
                        values, list) else values[rows]})
      line = self.stopped(lambda split=split: batches.in_order(split, batch_size=4)[0])
      assert line.startswith(f'data: example 0: its x is {list(shape)}, not [3, 2]: ')

  def test_columns_of_several_lengths_are_refused(self):
    line = self.stopped(lambda: Split({'hash01': np.zeros(4), 'label': np.zeros(3, int)}, {}, None))
    assert line == ('data: the index has 4 rows of hash01 and 3 of label: a row is an example in '
                    'all columns')
    assert '4 rows of hash01 and 2 of raw' in self.stopped(
        lambda: Split({'hash01': np.zeros(4)}, {}, None, raw=['a', 'b']))

  def test_an_example_longer_than_its_index_says_is_refused(self):
    split = boxes_of([(3, 1), (5, 2), (4, 1)])
    short = dataclasses.replace(split, index={**split.index, 'n': np.array([3, 4, 4])})
    line = self.stopped(lambda: list(batches.in_order(short, batch_size=2)))
    assert line == "data: example 1: its points has 5 entries along 'n', and the index says 4"

  @pytest.mark.parametrize('missing', ['index', 'room'])
  def test_an_axis_without_a_column_of_the_index_or_room_is_refused(self, missing):
    split = boxes_of([(3, 1)])
    less = {k: v for k, v in getattr(split, missing).items() if k != 'm'}
    line = self.stopped(lambda: dataclasses.replace(split, **{missing: less}))
    assert line == ("data: a field has the axis 'm': the index needs a column 'm' with the length "
                    'of every example, and room its largest')

  def test_an_example_beyond_the_room_is_refused(self):
    # Else it would be in no bucket, and never shown.
    line = self.stopped(lambda: split_of([5, 17, 3], room=16))
    assert line == "data: example 1 has 17 entries along 's', and room says 16 at most"

  def test_an_empty_split_is_refused(self):
    with pytest.raises(ValueError, match='empty'):
      batches.shuffled(split_of([]), batch_size=2, seed=0, steps=1)
    with pytest.raises(ValueError, match='empty'):
      batches.in_order(split_of([]), batch_size=2)

  @pytest.mark.parametrize('wrong', [
      dict(batch_size=0), dict(steps=0), dict(labelled=1.5), dict(labelled=-0.1),
      dict(drawn=2.0), dict(drawn=float('nan')), dict(labelled=0.0, drawn=0.5)])
  def test_numbers_out_of_range_are_refused_by_name(self, wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
      batches.shuffled(split_of([5]), **{**dict(batch_size=2, seed=0, steps=1), **wrong})

  def test_a_batch_larger_than_the_split_is_mostly_empty(self):
    found = epoch(split_of([5, 6]), batch_size=64)
    assert [batch['valid'].sum() for batch in found] == [2]

  def test_one_labelled_text_fills_every_draw(self):
    split = split_of([5] * 3, draws=[0.9, 0.0, 0.9])
    for batch in epoch(split, batch_size=8, labelled=0.5, drawn=0.5):
      assert ids(batch)[-4:] == [1] * 4

  @hypothesis.settings(deadline=None, max_examples=60)
  @hypothesis.given(
      lengths=st.lists(st.integers(1, 16), min_size=1, max_size=40),
      batch_size=st.integers(1, 9), seed=st.integers(-2**70, 2**70),
      labelled=st.floats(0.1, 1), drawn=st.floats(0, 1), number=st.integers(0, 2),
      widths=st.sets(st.integers(1, 15), max_size=3))
  def test_an_epoch_is_always_complete(self, lengths, batch_size, seed, labelled, drawn, number,
                                       widths):
    split = split_of(lengths)
    found = epoch(split, number, batch_size=batch_size, seed=seed, labelled=labelled, drawn=drawn,
                  widths=(*sorted(widths), 16))
    seen = {i for i, draw in enumerate(split.index['hash01']) if draw < labelled}
    shown = [i for batch in found for i in ids(batch)]
    assert set(shown) == (seen if drawn == 1 else set(range(len(lengths))))
    for batch in found:
      width = batch['tokens'].shape[1]
      assert batch['mask'].sum() == sum(lengths[i] for i in ids(batch))
      assert all(lengths[i] <= width for i in ids(batch))
      assert {i for i, k in zip(batch['id'], batch['labelled'], strict=True) if k} <= seen
