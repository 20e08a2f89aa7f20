"""Rows to fixed-shape batches: plain tuples of NumPy arrays, which JAX takes as pytrees."""

import collections
import itertools
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from rolltune.batch import Batch, Row, Source
from rolltune.data.order import balanced_order, class_weights, drawn_views, order
from rolltune.data.shapes import Shape, joint, smallest

AHEAD_BYTES = 2**30  # of batches that wait for their turn
Item = TypeVar("Item")
Made = TypeVar("Made")


class Feed(Protocol):
    """How what rows show reaches the step: out of a table, from the disk, or as tiles."""

    def shape(self, row: Row) -> Shape:
        """The axes that this row needs."""

    def make(self, rows: Sequence[Row], shape: Shape, size: int) -> tuple[Batch, Source]:
        """A batch of `size` rows, the last ones filled up, and the rows that its slots point into."""


def collate(
    encoded: Sequence[Row], shape: Shape, size: int, learned: int = 0, places: Callable[[Row], np.ndarray] | None = None
) -> Batch:
    """Pads `encoded` to `size` rows of a shape.

    Padding has position 0, block 0, segment -1, slot -1 and weight 0. Rows that are missing repeat the last
    one with weight 0 and valid False: a row of padding alone would be a softmax over nothing.
    `places(row)` says where each of the row's own picture rows is; without it, they are where the row counts them.
    Tiles are left to whoever has them.
    """
    if not 1 <= len(encoded) <= size:
        raise ValueError(f"{len(encoded)} rows for a batch of {size}")
    for row in encoded:
        if len(row.tokens) > shape.tokens or len(row.targets) > shape.targets or len(row.keys) > shape.keys:
            got = f"{len(row.tokens)} tokens, {len(row.targets)} targets and {len(row.keys)} keys"
            raise ValueError(f"a row of {got} does not fit {shape}: nothing is ever cut")
    filled = [*encoded, *[encoded[-1]] * (size - len(encoded))]

    def padded(values: Iterable[np.ndarray], length: int, empty: int = 0, inner: tuple[int, ...] = ()) -> np.ndarray:
        block = np.full((size, length, *inner), empty, np.int32)
        for place, own in enumerate(values):
            block[place, : len(own)] = own[:length]
        return block

    def field_of(name: str, length: int, empty: int = 0) -> np.ndarray:
        return padded((getattr(row, name) for row in filled), length, empty)

    where = [places(row) if places and row.pictures else None for row in filled]
    pointing = lambda name: (
        renumbered(getattr(row, name), learned, own) for row, own in zip(filled, where, strict=True)
    )
    weights = np.zeros((size, shape.targets), np.float32)
    for place, row in enumerate(encoded):
        weights[place, : len(row.targets)] = 1
    return Batch(
        tokens=field_of("tokens", shape.tokens),
        positions=field_of("positions", shape.tokens),
        blocks=field_of("blocks", shape.tokens),
        segments=field_of("segments", shape.tokens, -1),
        slots=padded(pointing("slots"), shape.tokens, -1),
        predict=field_of("predict", shape.targets),
        targets=field_of("targets", shape.targets),
        candidates=field_of("candidates", shape.targets),
        weights=weights,
        label=np.array([row.label for row in filled], np.int32),
        valid=np.arange(size) < len(encoded),
        keys=padded(pointing("keys"), shape.keys, -1),
        seen=padded((row.seen for row in filled), shape.tokens if shape.keys else 0, 0, (2,)),
        tiles=np.zeros((size, 0, 1, 1, 3), np.uint8),
        aspect=np.zeros((size, 0), np.int32),
    )


def renumbered(numbers: np.ndarray, learned: int, places: np.ndarray | None) -> np.ndarray:
    """Slots or keys whose number i of the row's own picture rows becomes `places[i]`."""
    if places is None or not len(numbers):
        return numbers
    own = numbers - learned
    if own.max() >= len(places):  # on the device, a number above the end would silently mean the last row
        raise ValueError(f"a row points at {own.max()}, but its pictures have {len(places)} rows")
    return np.where(own >= 0, learned + places[np.maximum(own, 0)], numbers).astype(np.int32)


def prefetch(
    make: Callable[[Item], Made],
    items: Iterable[Item],
    workers: int | None = None,
    size_of: Callable[[Made], int] = lambda made: 0,
) -> Iterator[Made]:
    """make(item) in the order of the items, computed ahead on a few threads; a failure is raised in its turn.

    Threads serve because decoding and resizing happen outside Python's lock. `size_of` says how many bytes an item made
    takes: fewer wait where they are large.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    ahead = 2  # until the first one's size is known
    waiting: collections.deque = collections.deque()
    coming = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="rows")
    submit = lambda count: waiting.extend(pool.submit(make, item) for item in itertools.islice(coming, count))
    try:
        submit(ahead)
        while waiting:
            done = waiting.popleft().result()
            ahead = max(2, min(2 * workers, AHEAD_BYTES // max(size_of(done), 1)))
            submit(ahead - len(waiting))
            yield done
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Encoded:
    """Rows, how their pictures reach the step, and the few shapes that hold them. `labels` are what to balance by.

    There may be several views of each example in `rows`: all examples in one view, then all in the next.
    """

    rows: Sequence[Row]
    feed: Feed
    shapes: tuple[Shape, ...]
    labels: Sequence[Hashable]  # one an example
    views: int = 1

    def __len__(self) -> int:
        return len(self.rows)

    def shape_for(self, rows: Sequence[Row]) -> Shape:
        """The smallest of the shapes that holds these rows together."""
        return smallest(self.shapes, joint(map(self.feed.shape, rows)))


@dataclass(frozen=True)
class Loader:
    """The rows of a training run: those of batch `step` are a function of (seed, step) alone, so any step can be
    resumed from.

    Epochs follow each other without a break: a batch may hold the end of one and the beginning of the
    next, every row comes once an epoch, and no batch is partial. `balance` gives every label the same
    share of rows instead, `weighted` the same share of the loss. `places` are those of the rows that are trained on.
    Where there are several views of each, one is drawn every time.
    """

    data: Encoded
    places: np.ndarray
    batch: int
    seed: int
    balance: bool = False
    weighted: bool = False
    _drawn: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)  # the latest epochs' orders
    _weights: np.ndarray = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not len(self.places) or self.batch < 1 or self.seed < 0:
            raise ValueError(f"{len(self.places)} rows, batch {self.batch}, seed {self.seed}")
        weights = class_weights(self._labels()) if self.weighted else np.ones(len(self.places), np.float32)
        object.__setattr__(self, "_weights", weights)

    def _labels(self) -> list[Hashable]:
        return [self.data.labels[place] for place in self.places]

    def indices(self, step: int) -> np.ndarray:
        """int64 [B]: numbers in `places` of the step's rows (steps count from 0)."""
        n = len(self.places)
        first, last = divmod(step * self.batch, n), divmod((step + 1) * self.batch - 1, n)
        epochs = [self._epoch(epoch) for epoch in range(first[0], last[0] + 1)]
        return np.concatenate(epochs)[first[1] : first[1] + self.batch]

    def _epoch(self, epoch: int) -> np.ndarray:
        drawn = self._drawn.get(epoch)
        if drawn is None:
            if self.balance:
                drawn = balanced_order(self._labels(), epoch, self.seed)
            else:
                drawn = order(len(self.places), epoch, self.seed)
            for old in [known for known in list(self._drawn) if known < epoch - 1]:
                self._drawn.pop(old, None)
            self._drawn[epoch] = drawn
        return drawn

    def rows(self, step: int) -> tuple[list[Row], np.ndarray]:
        """The step's rows, and float32 [B] how much each weighs: 1, or its class's weight."""
        indices = self.indices(step)
        drawn = drawn_views(len(indices), self.data.views, step, self.seed)
        examples = len(self.data.rows) // self.data.views
        return [self.data.rows[place] for place in drawn * examples + self.places[indices]], self._weights[indices]


def joint_batch(
    loaders: Sequence[Loader],
    steps: Sequence[int],
    accumulate: int,
    groups: int = 1,
    cards: int = 1,
    own: range | None = None,
) -> tuple[Batch, Source]:
    """Every roll's own rows at its own step, in one shape: leaves [R, A, B, ...], and one source for all.

    The rolls are those of several groups of cards, as many of each; the cards of a group have the rows of a micro-batch
    between them, as many each: where they do not divide it, its last row is repeated, and counts nothing. Each card has
    a part of the source to itself, as long as any other's, and points into that: it is sent its own rows alone. A table
    stays what it is. With `own`, only these cards' parts are made, counted group after group, in the shape that holds
    the others', too: the rest is another host's.
    """
    data, picked = loaders[0].data, [loader.rows(step) for loader, step in zip(loaders, steps, strict=True)]
    shape = data.shape_for([row for some, _ in picked for row in some])
    rolls, batch = len(loaders) // groups, len(picked[0][0]) // accumulate
    each = -(-batch // cards)

    def part(number: int) -> tuple[Batch, Source]:
        """Of one card: leaves [rolls, A, each, ...]."""
        group, card = divmod(number, cards)
        places = np.arange(card * each, (card + 1) * each)
        real = np.tile(places < batch, rolls * accumulate)
        places = (np.arange(accumulate)[:, None] * batch + np.minimum(places, batch - 1)).reshape(-1)
        mine = picked[group * rolls : (group + 1) * rolls]
        made, source = data.feed.make([some[n] for some, _ in mine for n in places], shape, len(real))
        weights = np.concatenate([some[places] for _, some in mine])
        made = made._replace(weights=made.weights * weights[:, None], valid=made.valid & real)
        split = lambda leaf: leaf.reshape(rolls, accumulate, each, *leaf.shape[1:])
        return Batch(*map(split, made)), source

    numbers = range(groups * cards) if own is None else own
    parts, beside = [part(number) for number in numbers], min(cards, len(numbers))
    source = parts[0][1]
    if any(some is not source for _, some in parts):
        source = Source(np.concatenate([some.rows for _, some in parts]))

    def laid(leaves: tuple[np.ndarray, ...]) -> np.ndarray:
        rows = [leaves[n] if beside == 1 else np.concatenate(leaves[n : n + beside], 2)
                for n in range(0, len(leaves), beside)]  # fmt: skip
        return rows[0] if len(rows) == 1 else np.concatenate(rows)

    return Batch(*map(laid, zip(*(some for some, _ in parts), strict=True))), source


def evaluation_batches(data: Encoded, batch: int, cards: int = 1) -> Iterator[tuple[np.ndarray, Batch, Source]]:
    """(places in `rows`, batch, source) until every row came once: rows of one shape together, the last filled up.

    The places are as many as the batch's valid rows, which come first in it. Where several cards have its rows between
    them, as many each, all batches are filled up to what they divide.
    """
    size = -(-batch // cards) * cards
    by_shape = collections.defaultdict(list)
    for place, row in enumerate(data.rows):
        by_shape[data.shape_for([row])].append(place)
    parts = [
        (shape, places[begin : begin + batch])
        for shape, places in sorted(by_shape.items())
        for begin in range(0, len(places), batch)
    ]

    def make(part: tuple[Shape, list[int]]) -> tuple[np.ndarray, Batch, Source]:
        shape, places = part
        return np.array(places), *data.feed.make([data.rows[place] for place in places], shape, size)

    return prefetch(make, parts, size_of=bytes_of)


def bytes_of(made: tuple[Any, ...]) -> int:
    """What a batch that waits for its turn takes on the host; a table on the device counts nothing."""
    leaves = [leaf for part in made for leaf in (part if isinstance(part, tuple) else (part,))]
    return sum(leaf.nbytes for leaf in leaves if isinstance(leaf, np.ndarray))
