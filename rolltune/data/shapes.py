"""The few shapes that batches may have: a program is compiled for each, and padding costs time in every step."""

import bisect
import collections
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from rolltune.batch import Row

MULTIPLE = 16  # token counts are rounded up to it: odd shapes cost kernels more than the padding does
TARGET_MULTIPLE = 4
WORTH_A_SHAPE = 0.1  # every shape is compiled for itself, which takes tens of seconds at real size


class Shape(NamedTuple):
    """The lengths of a batch's axes, a row; zero where rows have no such thing."""

    tokens: int  # T
    targets: int  # M
    keys: int = 0  # X
    pictures: int = 0  # I
    tiles: int = 0  # N, where the tower runs in the step
    rows: int = 0  # of features or states, where each step brings its own

    def holds(self, other: "Shape") -> bool:
        return all(room >= needed for room, needed in zip(self, other, strict=True))


def shape_of(row: Row, tiles: int = 0, rows: int = 0) -> Shape:
    pictures = len(row.pictures) if tiles else 0
    return Shape(len(row.tokens), len(row.targets), len(row.keys), pictures, tiles, rows)


def buckets(lengths: Iterable[int], most: int = 4, multiple: int = MULTIPLE) -> tuple[int, ...]:
    """At most `most` sizes, ascending, that hold all lengths with the least padding.

    One more size is taken only where it saves a tenth of all tokens.
    """
    rounded = [-(-max(length, 1) // multiple) * multiple for length in lengths]
    if not rounded:
        raise ValueError("no lengths to make buckets of")
    sizes, counts = zip(*sorted(collections.Counter(rounded).items()), strict=True)
    upto = [0, *itertools.accumulate(counts)]
    # best[j]: (padded tokens, buckets) of the j smallest sizes, with one more bucket allowed in each round.
    best: list[tuple[float, tuple[int, ...]]] = [(0, ())] + [(math.inf, ())] * len(sizes)
    chosen: tuple[float, tuple[int, ...]] = (math.inf, ())
    for _ in range(most):
        best = [(0, ())] + [
            min(
                (best[begin][0] + sizes[end - 1] * (upto[end] - upto[begin]), (*best[begin][1], sizes[end - 1]))
                for begin in range(end)
            )
            for end in range(1, len(sizes) + 1)
        ]
        if best[-1][0] > chosen[0] * (1 - WORTH_A_SHAPE):
            break
        chosen = best[-1]
    return chosen[1]


def bucket_of(length: int, sizes: Sequence[int]) -> int:
    """The smallest of the ascending `sizes` that holds `length`."""
    place = bisect.bisect_left(sizes, length)
    if place == len(sizes):
        raise ValueError(f"length {length} is over the largest bucket, {sizes[-1]}")
    return sizes[place]


def joint(shapes: Iterable[Shape]) -> Shape:
    """The smallest shape that holds all of these."""
    return Shape(*map(max, zip(*shapes, strict=True)))


def smallest(shapes: Sequence[Shape], needed: Shape) -> Shape:
    """The smallest of the ascending `shapes` that holds what is needed."""
    for shape in shapes:
        if shape.holds(needed):
            return shape
    raise ValueError(f"{needed} fits none of {shapes}")


def fixed_shape(needed: Shape) -> Shape:
    """The shape of a row by what it needs alone, whatever other rows there are: sums over padding of another length
    differ in their last bits. Multiples up to the sixteenth, from there four sizes a doubling: a shape is a program.
    """
    steps = Shape(
        tokens=2 * MULTIPLE, targets=TARGET_MULTIPLE, keys=2 * MULTIPLE, pictures=1, tiles=1, rows=2 * MULTIPLE
    )

    def up(length: int, step: int) -> int:
        step = step if length <= 16 * step else 2 ** ((length - 1).bit_length() - 3)
        return -(-length // step) * step

    return Shape(*map(up, needed, steps))


def fixed_shapes(needed: Iterable[Shape]) -> tuple[Shape, ...]:
    """The ascending shapes of rows of these, of which `smallest` finds each row's own."""
    return tuple(sorted(set(map(fixed_shape, needed))))


def likely(shapes: Sequence[Shape], needed: Sequence[Shape], rows: int, batches: int) -> tuple[Shape, ...]:
    """Which of the ascending shapes below the largest are expected of at least one of so many batches, each the
    smallest shape that holds so many rows: drawn, one like the other, from rows that need these."""
    found, smaller = [], 0.0
    for shape in shapes[:-1]:
        fits = (sum(map(shape.holds, needed)) / len(needed)) ** rows
        if batches * (fits - smaller) >= 1:
            found.append(shape)
        smaller = fits
    return tuple(found)


def shapes_for(needed: Sequence[Shape], most: int = 4) -> tuple[Shape, ...]:
    """Few ascending shapes that hold rows of these: as many as there are buckets of tokens."""
    sizes = buckets([one.tokens for one in needed], most)
    by_size: dict[int, Shape] = {}
    for one in needed:
        size = bucket_of(one.tokens, sizes)
        by_size[size] = joint((by_size.get(size, one), one))
    found: list[Shape] = []
    for size in sizes:
        targets = -(-by_size[size].targets // TARGET_MULTIPLE) * TARGET_MULTIPLE
        own = by_size[size]._replace(tokens=size, targets=targets)
        found.append(joint((found[-1], own)) if found else own)
    return tuple(found)
