"""Batches hold every row whole, in an order that is a function of seed and step alone."""

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rolltune.data.batches import (
    Loader,
    Row,
    Rows,
    Shapes,
    balanced_order,
    bucket_of,
    buckets,
    class_weights,
    collate,
    evaluation_batches,
    order,
    prefetch,
    shapes_of,
)
from rolltune.data.examples import Example, Turn
from rolltune.errors import UserError


def encoded(tokens, targets=1, images=1, value=7):
    ones = np.full(tokens, value, np.int32)
    answer = np.full(targets, value, np.int32)
    pixels = np.full((images, 2, 2, 3), value, np.uint8)
    return Row(ones, ones, ones, np.zeros(tokens, np.int32), answer, answer, answer, 0, pixels)


def test_collate_pads_and_fills():
    batch = collate([encoded(3, 1, 1), encoded(5, 2, 2)], tokens=6, targets=3, rows=3)
    assert batch.tokens.shape == (3, 6) and batch.images.shape == (3, 2, 2, 2, 3)
    assert batch.segments[0].tolist() == [0, 0, 0, -1, -1, -1] and batch.positions[0, 3:].tolist() == [0] * 3
    assert batch.weights.tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 0]] and batch.valid.tolist() == [True, True, False]
    assert not batch.images[0, 1].any() and batch.images[1].all()
    assert batch.segments[2, 0] == 0  # the row that fills up can be attended to: no softmax over nothing
    with pytest.raises(ValueError, match="nothing is ever cut"):
        collate([encoded(7)], tokens=6, targets=3, rows=1)


def test_buckets_are_few_and_waste_little():
    assert buckets([3, 9, 16]) == (16,)
    assert buckets([10] * 90 + [500]) == (16, 512)
    lengths = np.random.default_rng(0).integers(1, 400, 500).tolist()
    sizes = buckets(lengths, most=3)
    assert len(sizes) == 3 and sizes[-1] == 400
    padded = sum(bucket_of(length, sizes) for length in lengths)
    best = min(
        sum(bucket_of(length, (a, b, 400)) for length in lengths)
        for a in range(16, 400, 16)
        for b in range(a + 16, 400, 16)
    )
    assert padded == best
    with pytest.raises(ValueError, match="over the largest"):
        bucket_of(401, sizes)
    assert shapes_of([10, 500], [9, 2]) == Shapes((16, 512), (12, 12))


def test_order_is_the_same_everywhere():
    # Written down, so that another platform or NumPy is held to it.
    assert order(8, 0, 42).tolist() == ORDER_42
    assert sorted(order(100, 3, 1)) == list(range(100))
    assert order(100, 3, 1).tolist() != order(100, 4, 1).tolist()


ORDER_42 = [7, 1, 6, 4, 3, 5, 0, 2]


def examples(n, answers=("yes", "no")):
    turns = lambda k: (Turn("user", "q"), Turn("assistant", answers[k % len(answers)]))
    return [Example(str(k), (Path(f"{k}.png"),), turns(k), f"set/data.jsonl:{k + 1}") for k in range(n)]


def rows_of(n, **options):
    def encode(example, images):
        return encoded(4 + int(example.id), value=int(example.id))

    return Rows(examples(n), encode, open_image=lambda path, frame: Image.new("RGB", (2, 2)), **options)


def test_any_step_can_be_gone_on_from():
    rows = rows_of(10)
    loader = Loader(rows, batch=4, seed=3, shapes=rows.shapes())
    whole = [batch.tokens[:, 0].tolist() for batch in loader.stream(0, 10)]
    assert [batch.tokens[:, 0].tolist() for batch in loader.stream(6, 10)] == whole[6:]
    seen = [index for batch in whole for index in batch]
    for epoch in range(4):  # every row once an epoch, though batches cross its end
        assert sorted(seen[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert loader.make(0, (32, 4)).tokens.shape == (4, 32)


def test_evaluation_has_every_row_once():
    rows = rows_of(21)
    shapes = Shapes((16, 32), (4, 4))
    seen = []
    for places, batch in evaluation_batches(rows, 4, shapes):
        assert batch.tokens.shape in {(4, 16), (4, 32)} and batch.valid.sum() == len(places)
        assert batch.tokens[: len(places), 0].tolist() == places.tolist()
        seen += places.tolist()
    assert sorted(seen) == list(range(21))


def test_over_long_rows_are_all_named():
    with pytest.raises(UserError, match=r"2 rows are longer than 11.*\n.*jsonl:9: 12 tokens\n.*jsonl:10: 13 tokens"):
        rows_of(10).shapes(max_tokens=11)


def test_pixels_are_kept_within_the_limit():
    opened = []

    def opening(path, frame):
        opened.append(path)
        return Image.new("RGB", (2, 2))

    rows = Rows(examples(4), lambda example, images: encoded(4), limit_bytes=0, open_image=opening)
    rows.shapes(), rows.shapes()
    assert len(opened) == 8
    rows = Rows(examples(4), lambda example, images: encoded(4), open_image=opening)
    rows.shapes(), rows.shapes()
    assert len(opened) == 12


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


def test_balanced_order_shares_alike_and_leaves_nothing_out():
    labels = ["a"] * 9 + ["b"] * 2 + ["c"]
    drawn = [balanced_order(labels, epoch, 5) for epoch in range(9)]
    for epoch in drawn:
        assert Counter(labels[place] for place in epoch) == {"a": 4, "b": 4, "c": 4}
    counts = Counter(int(place) for epoch in drawn for place in epoch)
    assert [counts[place] for place in range(12)] == [4] * 9 + [18] * 2 + [36]
    assert class_weights(["a", "a", "a", "b"]).tolist() == pytest.approx([2 / 3] * 3 + [2])
    rows = rows_of(9)
    batch = Loader(rows, 9, 0, rows.shapes(), weighted=True).make(0)
    assert batch.weights.sum() == pytest.approx(9) and len(set(batch.weights[:, 0].tolist())) == 2
    balanced = Loader(rows, 2, 0, rows.shapes(), balance=True)
    answers = Counter(rows.examples[i].answer for step in range(9) for i in balanced.indices(step))
    assert answers == {"no": 10, "yes": 8}
