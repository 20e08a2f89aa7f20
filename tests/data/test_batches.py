"""Batches hold every row whole, in an order that is a function of seed and step alone, at a cost linear in the rows."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from rolltune.batch import NOTHING, Row
from rolltune.data import batches
from rolltune.data.batches import (
    Encoded,
    Loader,
    bytes_of,
    collate,
    evaluation_batches,
    joint_batch,
    prefetch,
    renumbered,
)
from rolltune.data.shapes import Shape, shape_of, shapes_for
from rolltune.errors import UserError


def encoded(tokens, targets=1, value=7, pictures=(), keys=0) -> Row:
    """A row whose every number is `value`; each of its pictures has two rows, which stand at its beginning."""
    ones, answer = np.full(tokens, value, np.int32), np.full(targets, value, np.int32)
    slots = np.full(tokens, -1, np.int32)
    slots[: 2 * len(pictures)] = np.arange(2 * len(pictures))
    own_keys = np.arange(keys, dtype=np.int32)
    seen = np.tile(np.array([[0, keys]], np.int32), (tokens, 1))
    return Row(
        ones, ones, ones, np.zeros(tokens, np.int32), slots, answer, answer, answer, 0, own_keys, seen,
        tuple(pictures), (2,) * len(pictures),
    )  # fmt: skip


@dataclass(frozen=True)
class Counting:
    """Makes batches of text, and counts how often it was asked for a row's shape."""

    asked: list = field(default_factory=list)
    made: list = field(default_factory=list)

    def shape(self, row):
        self.asked.append(1)
        return shape_of(row)

    def make(self, rows, shape, size):
        self.made.append(shape)
        return collate(rows, shape, size), NOTHING


def rows_of(n, answers=("yes", "no")) -> Encoded:
    rows, feed = [encoded(4 + k, value=k) for k in range(n)], Counting()
    made = Encoded(
        rows, feed, shapes_for([shape_of(row) for row in rows]), [answers[k % len(answers)] for k in range(n)]
    )
    return made


def test_collate_pads_and_fills():
    rows = [encoded(3, 1, keys=1), encoded(5, 2, pictures="p", keys=2)]
    batch = collate(rows, Shape(6, 3, keys=3), 3)
    assert batch.tokens.shape == (3, 6) and batch.tiles.shape == (3, 0, 1, 1, 3)
    assert batch.segments[0].tolist() == [0, 0, 0, -1, -1, -1] and batch.positions[0, 3:].tolist() == [0] * 3
    assert batch.weights.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]] and batch.valid.tolist() == [True, True, False]
    assert batch.slots.tolist()[:2] == [[-1] * 6, [0, 1, -1, -1, -1, -1]]
    assert batch.keys.tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, -1]]
    assert batch.seen.shape == (3, 6, 2) and batch.seen[1].tolist() == [[0, 2]] * 5 + [[0, 0]]
    assert batch.segments[2, 0] == 0  # the row that fills up can be attended to: no softmax over nothing
    for shape in (Shape(7, 3), Shape(6, 3, keys=3), Shape(7, 1, keys=3)):
        with pytest.raises(ValueError, match="nothing is ever cut"):
            collate([encoded(7, 2, keys=3)], shape, 1)
    with pytest.raises(ValueError, match="2 rows for a batch of 1"):
        collate(rows, Shape(6, 3, keys=3), 1)


def test_a_row_finds_its_pictures_where_they_are():
    rows = [encoded(5, pictures="ab", keys=4), encoded(5), encoded(5, pictures="b")]
    starts = {"a": 10, "b": 20}
    places = lambda row: np.concatenate([starts[key] + np.arange(2) for key in row.pictures])
    batch = collate(rows, Shape(5, 1, keys=4), 4, 0, places)
    assert batch.slots.tolist() == [[10, 11, 20, 21, -1], [-1] * 5, [20, 21, -1, -1, -1], [20, 21, -1, -1, -1]]
    assert batch.keys.tolist() == [[10, 11, 20, 21], *[[-1] * 4] * 3]


def test_numbers_beyond_the_pictures_are_refused():
    """On the device a number above the end would mean the last row, without a word."""
    places = np.array([5, 6, 9])
    assert renumbered(np.array([-1, 0, 1, 2, 3, 4]), 2, places).tolist() == [-1, 0, 1, 7, 8, 11]
    assert renumbered(np.array([-1, 3]), 2, None).tolist() == [-1, 3] and not len(renumbered(np.zeros(0), 2, places))
    with pytest.raises(ValueError, match="a row points at 3, but its pictures have 3 rows"):
        renumbered(np.array([-1, 5]), 2, places)
    with pytest.raises(ValueError, match="a row points at 2"):
        collate([encoded(5, pictures="p", keys=3)], Shape(5, 1, keys=3), 1, 0, lambda row: np.array([3, 4]))


def stream(loader, steps):
    return [[int(row.tokens[0]) for row in loader.rows(step)[0]] for step in steps]


def test_any_step_can_be_gone_on_from():
    rows = rows_of(10)
    whole = stream(Loader(rows, np.arange(10), 4, 3), range(10))
    assert stream(Loader(rows, np.arange(10), 4, 3), range(6, 10)) == whole[6:]
    seen = [index for batch in whole for index in batch]
    for epoch in range(4):  # every row once an epoch, though batches cross its end
        assert sorted(seen[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    some = Loader(rows, np.array([9, 4, 2]), 2, 3)
    assert {number for batch in stream(some, range(3)) for number in batch} == {9, 4, 2}
    with pytest.raises(ValueError, match="0 rows"):
        Loader(rows, np.arange(0), 4, 3)


def test_a_batch_may_be_larger_than_an_epoch():
    (batch,) = stream(Loader(rows_of(3), np.arange(3), 7, 0), [0])
    assert sorted(Counter(batch).values()) == [2, 2, 3]


def test_every_roll_brings_its_own_rows_at_its_own_step():
    rows = rows_of(10)
    loaders = [Loader(rows, np.arange(10), 4, seed) for seed in (0, 1)]
    batch, source = joint_batch(loaders, [0, 5], 2)
    assert batch.tokens.shape == (2, 2, 2, 16) and batch.label.shape == (2, 2, 2) and source is NOTHING
    for place, (loader, step) in enumerate(zip(loaders, (0, 5), strict=True)):
        assert batch.tokens[place, :, :, 0].reshape(-1).tolist() == stream(loader, [step])[0]


def test_each_step_draws_a_view_of_its_rows_by_seed_and_step_alone():
    plain = rows_of(6)
    rows = [encoded(9, value=100 * view + k) for view in range(3) for k in range(6)]
    several = Encoded(rows, plain.feed, shapes_for([shape_of(row) for row in rows]), plain.labels, 3)
    places = np.array([5, 1, 2])
    one, other = (Loader(several, places, 2, seed) for seed in (3, 4))
    drawn = np.array(stream(one, range(60)))
    assert (drawn % 100).tolist() == stream(Loader(plain, places, 2, 3), range(60))  # the order is as without
    assert {(number, view) for number, view in zip(drawn.ravel() % 100, drawn.ravel() // 100, strict=True)} == {
        (number, view) for number in (5, 1, 2) for view in range(3)
    }
    assert stream(one, [41, 7]) == [drawn[41].tolist(), drawn[7].tolist()]  # gone on from anywhere
    batch, _ = joint_batch([one, other], [7, 7], 2)
    assert batch.tokens[0, ..., 0].ravel().tolist() == drawn[7].tolist()
    assert [number // 100 for step in stream(other, range(60)) for number in step] != (drawn.ravel() // 100).tolist()
    weighted = Loader(several, places, 2, 3, weighted=True)
    assert weighted.rows(0)[1].tolist() == pytest.approx([weighted._weights[i] for i in weighted.indices(0)])


def test_class_weights_reach_the_joint_batch():
    rows = rows_of(9, ("yes", "no", "no"))
    plain, weighted = (Loader(rows, np.arange(9), 9, 0, weighted=flag) for flag in (False, True))
    batch, _ = joint_batch([plain, weighted], [0, 0], 1)
    assert set(batch.weights[0, 0, :, 0].tolist()) == {1.0} and not batch.weights[..., 1:].any()
    for number, weight in zip(batch.tokens[1, 0, :, 0], batch.weights[1, 0, :, 0], strict=True):
        assert weight == pytest.approx(1.5 if rows.labels[number] == "yes" else 0.75)
    assert batch.weights[1].sum() == pytest.approx(9)


def test_a_balanced_loader_shares_alike():
    rows = rows_of(9)
    balanced = Loader(rows, np.arange(9), 2, 0, balance=True)
    assert Counter(rows.labels[i] for step in range(9) for i in balanced.indices(step)) == {"no": 10, "yes": 8}
    seldom = Loader(replace(rows, labels=["a"] * 8 + ["b"]), np.arange(9), 1, 0, balance=True)
    epochs = [{int(seldom.indices(9 * epoch + n)[0]) for n in range(9)} - {8} for epoch in range(2)]
    assert epochs[0] | epochs[1] == set(range(8)) and epochs[0] != epochs[1]  # an epoch has half of the common rows


def test_evaluation_has_every_row_once():
    rows = rows_of(21)
    assert [shape.tokens for shape in rows.shapes] == [16, 32]
    seen = []
    for places, batch, _ in evaluation_batches(rows, 4):
        assert batch.tokens.shape in {(4, 16), (4, 32)} and batch.valid.sum() == len(places)
        assert batch.tokens[: len(places), 0].tolist() == places.tolist()
        seen += places.tolist()
    assert sorted(seen) == list(range(21))


def test_several_cards_have_as_many_rows_of_an_evaluation_each():
    rows = rows_of(7)
    for places, batch, _ in evaluation_batches(rows, 3, cards=2):
        assert batch.label.shape == (4,) and len(places) <= 3
        assert batch.valid.tolist() == [place < len(places) for place in range(4)]
        assert set(batch.tokens[len(places) :, 0].tolist()) == {places[-1]}  # no row of padding alone
        assert not batch.weights[len(places) :].any()


def test_a_batch_that_waits_is_as_large_as_its_arrays_on_the_host():
    ((_, batch, source),) = evaluation_batches(rows_of(1), 1)
    own = sum(leaf.nbytes for leaf in batch)
    assert bytes_of((batch, source)) == own + sum(leaf.nbytes for leaf in source if isinstance(leaf, np.ndarray)) > 0
    assert bytes_of((np.zeros(3, np.int32), (np.zeros(5, np.int8), "table"))) == 17


def test_costs_are_linear_in_the_rows(monkeypatch):
    counted, real = [], batches.class_weights
    monkeypatch.setattr(batches, "class_weights", lambda labels: counted.append(len(labels)) or real(labels))
    rows = rows_of(40)
    loader = Loader(rows, np.arange(40), 4, 0, weighted=True)
    for step in range(30):
        joint_batch([loader, loader], [step, step], 1)
    assert counted == [40]  # once a loader, not once a batch
    assert len(rows.feed.asked) == 30 * 8  # each batch asks for the shapes of its own rows
    rows.feed.asked.clear()
    assert len(list(evaluation_batches(rows, 4))) == 11
    assert len(rows.feed.asked) == 40
    orders, permute = [], batches.order
    monkeypatch.setattr(batches, "order", lambda *given: orders.append(1) or permute(*given))
    stream(Loader(rows, np.arange(40), 4, 0), range(30))
    assert len(orders) == 3  # once an epoch


def test_prefetch_keeps_order_and_raises_in_turn():
    def make(item):
        if item == 5:
            raise UserError("five")
        return item

    got = []
    with pytest.raises(UserError, match="five"):
        for item in prefetch(make, range(10), workers=3):
            got.append(item)
    assert got == [0, 1, 2, 3, 4]
    stream = prefetch(make, iter(range(4)), workers=2)
    next(stream)
    stream.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rows")]


@pytest.mark.parametrize(("each", "most"), [(1, 8), (30, 3), (10_000, 2)])
def test_prefetch_has_few_large_things_waiting(monkeypatch, each, most):
    monkeypatch.setattr(batches, "AHEAD_BYTES", 100)
    made, waiting = [], []
    for number, item in enumerate(prefetch(lambda item: made.append(item) or item, range(30), 4, lambda item: each)):
        assert item == number
        time.sleep(0.002)
        waiting.append(len(made) - number - 1)
    assert max(waiting[:20]) <= most
    assert max(waiting) >= min(most, 2)
