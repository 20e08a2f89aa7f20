"""The order of rows is a function of seed and epoch alone."""

from collections import Counter

import pytest

from rolltune.data.order import balanced_order, class_weights, drawn_views, order

ORDER_42 = [7, 1, 6, 4, 3, 5, 0, 2]
VIEWS_42 = [0, 3, 3, 1, 0, 3, 2, 0]


def test_order_is_the_same_everywhere():
    # Written down, so that another platform or NumPy is held to it.
    assert order(8, 0, 42).tolist() == ORDER_42
    assert sorted(order(100, 3, 1)) == list(range(100))
    assert order(100, 3, 1).tolist() != order(100, 4, 1).tolist()


def test_balanced_order_shares_alike_and_leaves_nothing_out():
    labels = ["a"] * 9 + ["b"] * 2 + ["c"]
    drawn = [balanced_order(labels, epoch, 5) for epoch in range(9)]
    for epoch in drawn:
        assert Counter(labels[place] for place in epoch) == {"a": 4, "b": 4, "c": 4}
    counts = Counter(int(place) for epoch in drawn for place in epoch)
    assert [counts[place] for place in range(12)] == [4] * 9 + [18] * 2 + [36]


def test_rows_of_two_labels_are_drawn_apart_from_each_other():
    """Of eight rows of each label an epoch takes seven or eight: which ones is not the same for all labels."""
    labels = ["a"] * 8 + ["b"] * 8 + ["c"] * 4
    left_out = []
    for epoch in range(8):
        drawn = set(balanced_order(labels, epoch, 5).tolist())
        left_out.append(tuple({n for n in range(8) if first + n not in drawn} for first in (0, 8)))
    assert sum(a != b for a, b in left_out) >= 3


def test_class_weights_make_every_label_count_alike():
    assert class_weights(["a", "a", "a", "b"]).tolist() == pytest.approx([2 / 3] * 3 + [2])


def test_views_are_drawn_alike_everywhere_and_each_as_often():
    assert drawn_views(8, 4, 3, 42).tolist() == VIEWS_42
    steps = [tuple(drawn_views(16, 4, step, seed)) for step in range(8) for seed in range(8)]
    assert len(set(steps)) == 64
    counts = Counter(int(view) for drawn in steps for view in drawn)
    assert sorted(counts) == [0, 1, 2, 3] and all(200 < count < 312 for count in counts.values())
    assert set(drawn_views(100, 1, 0, 0)) == {0}
