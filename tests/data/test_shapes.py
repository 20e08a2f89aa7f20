"""The few shapes that batches may have: little padding, and room for every row."""

import itertools

import numpy as np
import pytest

from rolltune.data.shapes import (
    Shape,
    bucket_of,
    buckets,
    fixed_shape,
    fixed_shapes,
    joint,
    likely,
    shapes_for,
    smallest,
)


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


def test_every_bucket_holds_what_the_smaller_ones_do():
    assert shapes_for([Shape(10, 9), Shape(500, 2)]) == (Shape(16, 12), Shape(512, 12))
    needed = [Shape(10, 1, keys=5, pictures=2, tiles=8), Shape(300, 6, rows=7), Shape(305, 1, keys=2)]
    small, large = shapes_for(needed)
    assert small == Shape(16, 4, 5, 2, 8, 0) and large == Shape(320, 8, 5, 2, 8, 7)
    assert all(smallest((small, large), one).holds(one) for one in needed)


@pytest.mark.parametrize("seed", range(5))
def test_any_rows_together_have_a_shape(seed):
    draw = np.random.default_rng(seed)
    needed = [Shape(*map(int, draw.integers(1, (400, 20, 30, 4, 9, 50)))) for _ in range(60)]
    shapes = shapes_for(needed)
    assert len(shapes) <= 4 and all(b.holds(a) for a, b in itertools.pairwise(shapes))
    for _ in range(50):
        some = [needed[place] for place in draw.integers(0, 60, draw.integers(1, 8))]
        found = smallest(shapes, joint(some))
        assert all(found.holds(one) for one in some)


def test_what_fits_nowhere_is_an_error():
    with pytest.raises(ValueError, match="fits none of"):
        smallest((Shape(16, 4), Shape(32, 4)), Shape(16, 8))


def test_a_rows_own_shape_is_the_same_in_any_company():
    draw = np.random.default_rng(0)
    rows = [Shape(*map(int, draw.integers(0, (3000, 90, 500, 4, 40, 900)))) for _ in range(200)]
    for some in (rows, rows[:50], rows[100:]):
        shapes = fixed_shapes(some)
        assert [smallest(shapes, one) for one in some] == [fixed_shape(one) for one in some]
    assert all(fixed_shape(one).holds(one) for one in rows)
    lengths = {fixed_shape(Shape(n, 1)).tokens for n in range(1, 4097)}
    assert len(lengths) == 16 + 3 * 4  # multiples of 32 up to 512, then four a doubling


def test_a_shape_is_likely_that_batches_come_to_once():
    """Of ten rows five fit the smallest shape, eight the next one."""
    shapes = small, middle, _ = Shape(16, 4), Shape(32, 4), Shape(64, 4)
    needed = [Shape(9, 2)] * 5 + [Shape(30, 2)] * 3 + [Shape(50, 2)] * 2
    assert likely(shapes, needed, rows=1, batches=10) == (small, middle)
    assert likely(shapes, needed, rows=1, batches=3) == (small,)  # the next one comes to 0.9 of three
    assert likely(shapes, needed, rows=8, batches=7) == (middle,)  # 7 * (0.8 ** 8 - 0.5 ** 8) = 1.15
    assert likely(shapes, needed, rows=8, batches=6) == ()
    assert likely(shapes, needed, rows=8, batches=256) == (small, middle)
    assert likely(shapes[-1:], needed, rows=1, batches=10) == ()
