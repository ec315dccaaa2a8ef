import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from distill.data import batches
from distill.data.sets import Split, in_memory
from distill.modalities import text
from distill.types import Field, Status, Stop


def split_of(lengths, labels=None, draws=None, room=16):
  """Texts whose token at place j is 100 * row + j + 1, so that every token is its own."""
  n, lengths = len(lengths), np.asarray(lengths, np.int32)
  place = np.arange(room) + np.zeros((n, 1), np.int32)
  inside = place < lengths[:, None]
  kind = 'float32' if np.asarray(labels).dtype.kind == 'f' else 'int32'
  index = {
      'hash01': np.asarray(np.arange(n) / max(n, 1) if draws is None else draws, np.float64),
      's': lengths,
      'label': (np.arange(n) % 3 if labels is None else np.asarray(labels)).astype(kind)}
  label = Field((), kind, 0.0 if kind == 'float32' else -1, target=True)
  return Split(index, {**text.Text.fields, 'label': label}, text.fetch({
      'tokens': np.where(inside, 100 * np.arange(n)[:, None] + place + 1, 0).astype(np.int32),
      'types': (inside & (place > 2)).astype(np.int32), 'length': lengths}),
      room={'s': room}, raw=[f'text {i}' for i in range(n)])


def ids(batch):
  return batch['id'][batch['valid'] == 1].tolist()


def walked(batch, count):
  """The ids of a batch that walk through all texts: the first ones, before those drawn."""
  return ids(batch)[:len(ids(batch)) - count]


def epoch(split, number=0, **how):
  steps = batches.epoch_steps(split, **{k: v for k, v in how.items() if k != 'seed'})
  ds = batches.batches(split, seed=how.pop('seed', 0), steps=steps * (number + 1), **how)
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
    # Of four, the second has none and the last two lie beyond the share that is seen.
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
    ds = batches.batches(split_of([8] * 4), batch_size=1, seed=0, steps=8_000)
    first = np.bincount([ds[4 * e]['id'][0] for e in range(2_000)])
    assert (abs(first - 500) < 100).all()


class TestSeeking:

  def test_a_batch_is_a_function_of_seed_and_index(self):
    split = split_of(list(range(1, 17)) * 3)
    make = lambda: batches.batches(split, batch_size=4, seed=3, steps=60, labelled=0.5, drawn=0.5)
    straight, ds = [make()[i] for i in range(60)], make()
    for i in (59, 0, 31, 30, 59, 7):
      assert same(ds[i], straight[i])
    assert not same(straight[0], straight[1])

  def test_a_slice_resumes(self):
    ds = batches.batches(split_of([5] * 9), batch_size=2, seed=0, steps=20)
    assert len(ds) == 20 and len(ds[13:]) == 7
    assert all(same(ds[13:][i], ds[13 + i]) for i in range(7))

  def test_processes_build_their_rows_of_the_same_batches(self):
    split = split_of([5, 12] * 10, draws=[0.05, 0.5] * 10)
    how = dict(batch_size=4, seed=0, steps=25, labelled=0.1, drawn=0.3)
    whole = batches.batches(split, **how)
    assert any(0 < batch['valid'].sum() < 4 for batch in whole)       # some aren't full
    for rows in [0, 1], [2, 3], [3], [0, 2]:
      own = batches.batches(split, rows=np.array(rows), **how)
      assert all(same(own[i], {name: x[rows] for name, x in whole[i].items()}) for i in range(25))

  def test_grain_may_read_ahead_in_threads(self):
    ds = batches.batches(split_of([5, 12] * 20), batch_size=3, seed=0, steps=45, drawn=0.4)
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
    ds = batches.batches(split, seed=0, steps=12, **how)
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
    ds = batches.batches(split, batch_size=4, seed=0, steps=15, labelled=0.1, drawn=0.5)
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
    assert batches.checked_widths(split_of([2], room=room))['s'].tolist() == widths

  @pytest.mark.parametrize('widths', [(), (8, 8, 16), (16, 8), (2, 4, 8, 12, 16), (0, 16), (8,),
                                      (8, 17)])
  def test_that_cannot_hold_the_texts_are_refused(self, widths):
    with pytest.raises(ValueError, match='widths'):
      batches.batches(split_of([9]), batch_size=2, seed=0, steps=1, widths=widths)


class TestHostileInput:

  def test_an_empty_split_is_refused(self):
    with pytest.raises(ValueError, match='empty'):
      batches.batches(split_of([]), batch_size=2, seed=0, steps=1)
    with pytest.raises(ValueError, match='empty'):
      batches.in_order(split_of([]), batch_size=2)

  @pytest.mark.parametrize('wrong', [
      dict(batch_size=0), dict(steps=0), dict(labelled=1.5), dict(labelled=-0.1),
      dict(drawn=2.0), dict(drawn=float('nan')), dict(labelled=0.0, drawn=0.5)])
  def test_numbers_out_of_range_are_refused_by_name(self, wrong):
    with pytest.raises(ValueError, match=list(wrong)[-1]):
      batches.batches(split_of([5]), **{**dict(batch_size=2, seed=0, steps=1), **wrong})

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
