"""Rows to fixed-shape batches: plain tuples of NumPy arrays, which JAX takes as pytrees."""

import bisect
import collections
import itertools
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import numpy as np
from PIL import Image

from rolltune.data.examples import Example
from rolltune.data.images import open_image
from rolltune.errors import UserError

IMAGE = -1  # in `Row.tokens`: not text


class Row(NamedTuple):
    """One encoded example, unpadded: what a model family's `encode` returns.

    T counts the whole sequence, image tokens included; M the predicted tokens. A row holds one or
    more candidate answers after one shared prompt; each candidate sees the prompt and itself only,
    so C answers are scored in one forward pass (training is the case C = 1).
    """

    tokens: np.ndarray  # int32 [T]; IMAGE where an image's features take the place
    positions: np.ndarray  # int32 [T]; of rotary embedding; each candidate goes on from the prompt
    blocks: np.ndarray  # int32 [T]; q may see k where blocks[k] <= blocks[q]: equal = both ways, rising = causal
    segments: np.ndarray  # int32 [T]; 0 the prompt, 1.. the candidate; a candidate sees 0 and itself
    predict: np.ndarray  # int32 [M]; the place in T whose output predicts targets[m]
    targets: np.ndarray  # int32 [M]
    candidates: np.ndarray  # int32 [M]; 0.. the candidate that targets[m] belongs to
    label: int  # the candidate that is right
    pixels: Any  # what `np.asarray` makes an item of `Batch.images` of; of pixels uint8 or float32 in 0..255


class Batch(NamedTuple):
    """B rows padded to shapes out of a small set of buckets. Leaves may have leading axes (rolls, accumulation)."""

    tokens: np.ndarray  # int32 [B, T]
    positions: np.ndarray  # int32 [B, T]
    blocks: np.ndarray  # int32 [B, T]
    segments: np.ndarray  # int32 [B, T]; -1 is padding, seen by nobody
    predict: np.ndarray  # int32 [B, M]
    targets: np.ndarray  # int32 [B, M]
    candidates: np.ndarray  # int32 [B, M]
    weights: np.ndarray  # float32 [B, M]; 0 is padding
    label: np.ndarray  # int32 [B]
    valid: np.ndarray  # bool [B]; False for rows that fill up the last batch
    images: np.ndarray  # pixels [B, I, H, W, 3], features [B, I, P, D], or int32 [B, I]: rows of a table on the device


MULTIPLE = 16  # token counts are rounded up to it: odd shapes cost kernels more than the padding does
TARGET_MULTIPLE = 4
AHEAD_BYTES = 2**30  # of batches that wait for their turn
WORTH_A_SHAPE = 0.1  # every shape is compiled for itself, which takes tens of seconds at real size


def collate(encoded: Sequence[Row], tokens: int, targets: int, rows: int) -> Batch:
    """Pads `encoded` to `rows` rows of `tokens` tokens and `targets` predicted tokens.

    Padding has position 0, block 0, segment -1 and weight 0. Rows that are lacking repeat the last
    one with weight 0 and valid False: a row of padding alone would be a softmax over nothing.
    """
    if not 1 <= len(encoded) <= rows:
        raise ValueError(f"{len(encoded)} rows for a batch of {rows}")
    for row in encoded:
        if len(row.tokens) > tokens or len(row.targets) > targets:
            got = f"{len(row.tokens)} tokens and {len(row.targets)} targets"
            raise ValueError(f"a row of {got} does not fit a batch of {tokens} and {targets}: nothing is ever cut")
    filled = [*encoded, *[encoded[-1]] * (rows - len(encoded))]

    def padded(name: str, length: int, empty: int = 0) -> np.ndarray:
        block = np.full((rows, length), empty, np.int32)
        for place, row in enumerate(filled):
            values = getattr(row, name)
            block[place, : len(values)] = values
        return block

    weights = np.zeros((rows, targets), np.float32)
    for place, row in enumerate(encoded):
        weights[place, : len(row.targets)] = 1
    return Batch(
        tokens=padded("tokens", tokens),
        positions=padded("positions", tokens),
        blocks=padded("blocks", tokens),
        segments=padded("segments", tokens, -1),
        predict=padded("predict", targets),
        targets=padded("targets", targets),
        candidates=padded("candidates", targets),
        weights=weights,
        label=np.array([row.label for row in filled], np.int32),
        valid=np.arange(rows) < len(encoded),
        images=_stacked([row.pixels for row in filled]),
    )


def _stacked(pixels: list[np.ndarray]) -> np.ndarray:
    """[B, I, ...], rows with fewer images filled up with black ones, which no token stands for."""
    pixels = [np.asarray(images) for images in pixels]  # features are read from the disk here
    most = max(pixels, key=len)
    if all(len(images) == len(most) for images in pixels):
        return np.stack(pixels)
    block = np.zeros((len(pixels), *most.shape), np.result_type(*pixels))
    for place, images in enumerate(pixels):
        if len(images):
            block[place, : len(images)] = images
    return block


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
    chosen = None
    for _ in range(most):
        best = [(0, ())] + [
            min(
                (best[begin][0] + sizes[end - 1] * (upto[end] - upto[begin]), (*best[begin][1], sizes[end - 1]))
                for begin in range(end)
            )
            for end in range(1, len(sizes) + 1)
        ]
        if chosen is not None and best[-1][0] > chosen[0] * (1 - WORTH_A_SHAPE):
            break
        chosen = best[-1]
    return chosen[1]


def bucket_of(length: int, sizes: Sequence[int]) -> int:
    """The smallest of the ascending `sizes` that holds `length`."""
    place = bisect.bisect_left(sizes, length)
    if place == len(sizes):
        raise ValueError(f"length {length} is over the largest bucket, {sizes[-1]}")
    return sizes[place]


class Shapes(NamedTuple):
    """The (tokens, targets) pairs that batches may have: `targets[k]` goes with `tokens[k]`; both ascend."""

    tokens: tuple[int, ...]
    targets: tuple[int, ...]

    def of(self, tokens: int, targets: int) -> tuple[int, int]:
        """The smallest shape that holds both."""
        for shape in zip(self.tokens, self.targets, strict=True):
            if tokens <= shape[0] and targets <= shape[1]:
                return shape
        raise ValueError(f"{tokens} tokens and {targets} targets fit none of {self}")


def shapes_of(tokens: Sequence[int], targets: Sequence[int], most: int = 4) -> Shapes:
    """Few shapes that hold rows of these many tokens and targets: as many as there are buckets of tokens."""
    sizes = buckets(tokens, most)
    needed = dict.fromkeys(sizes, 1)
    for length, count in zip(tokens, targets, strict=True):
        size = bucket_of(length, sizes)
        needed[size] = max(needed[size], count)
    rounded = [-(-needed[size] // TARGET_MULTIPLE) * TARGET_MULTIPLE for size in sizes]
    return Shapes(sizes, tuple(itertools.accumulate(rounded, max)))


def order(n: int, epoch: int, seed: int) -> np.ndarray:
    """A permutation of range(n), the same on every platform and NumPy: raw Philox numbers, stably sorted."""
    return _permutation(n, seed, epoch)


def _permutation(n: int, seed: int, stream: int) -> np.ndarray:
    # Generator.permutation may change between versions of NumPy, the raw numbers of a bit generator do not.
    return np.argsort(np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(n), kind="stable")


def balanced_order(labels: Sequence[object], epoch: int, seed: int) -> np.ndarray:
    """Rows of one epoch in which every label has the same share; each label's rows are gone through in turn.

    As many rows as there are labels given. A rare label's rows come several times an epoch, those of
    a common one are spread over several epochs, none left out for good.
    """
    names = sorted(set(labels), key=str)
    members = [np.array([place for place, label in enumerate(labels) if label == name]) for name in names]
    chosen = []
    for number, places in enumerate(members):
        share = len(range(number, len(labels), len(names)))
        for drawn in range(epoch * share, (epoch + 1) * share):
            turn, place = divmod(drawn, len(places))
            if drawn == epoch * share or place == 0:
                shuffled = places[_permutation(len(places), seed, (number + 1) << 32 | turn)]
            chosen.append(shuffled[place])
    return np.array(chosen)[_permutation(len(labels), seed, epoch)]


def class_weights(labels: Sequence[object]) -> np.ndarray:
    """float32 [n]: a weight a row so that every label counts the same in all, 1 on average."""
    counts = collections.Counter(labels)
    return np.array([len(labels) / (len(counts) * counts[label]) for label in labels], np.float32)


Encode = Callable[[Example, list[Image.Image]], Row]
Item = TypeVar("Item")
Made = TypeVar("Made")


class Rows:
    """Examples encoded on demand and kept, pixels included, up to a limit of bytes.

    Safe to use from several threads. Nothing is put out again once the limit is reached: in a round
    through all rows, what was used longest ago is what is needed next.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encode: Encode,
        limit_bytes: int = 2**30,
        open_image: Callable[..., Image.Image] = open_image,
    ):
        self.examples = examples
        self._encode = encode
        self._open = open_image
        self._limit = limit_bytes
        self._kept: dict[int, Row] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Row:
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        example = self.examples[index]
        frames = example.frames or (None,) * len(example.images)
        images = [self._open(path, frame) for path, frame in zip(example.images, frames, strict=True)]
        row = self._encode(example, images)
        size = sum(part.nbytes for part in row if isinstance(part, np.ndarray))
        with self._lock:
            if index not in self._kept and self._bytes + size <= self._limit:
                self._kept[index] = row
                self._bytes += size
        return row

    def some(self, places: Sequence[int]) -> "Rows":
        """Some of these rows, sharing what is kept of them."""
        numbers = {id(self.examples[place]): place for place in places}
        encode = lambda example, _: self[numbers[id(example)]]
        return Rows([self.examples[place] for place in places], encode, 0, lambda path, frame: None)

    def shapes(
        self, max_tokens: int | None = None, most: int = 4, advance: Callable[[], None] = lambda: None
    ) -> Shapes:
        """Goes through all rows once, filling the cache, and finds the shapes that hold them.

        Every row longer than `max_tokens` is named in one UserError. `advance` is called once a row.
        """
        lengths = []
        for row in prefetch(self.__getitem__, range(len(self))):
            lengths.append((len(row.tokens), len(row.targets)))
            advance()
        long = [
            f"  {example.source}: {tokens} tokens"
            for example, (tokens, _) in zip(self.examples, lengths, strict=True)
            if max_tokens is not None and tokens > max_tokens
        ]
        if long:
            raise UserError(
                f"{len(long)} rows are longer than {max_tokens} tokens; nothing is cut silently: shorten them, leave "
                "them out, or allow more tokens\n" + "\n".join(long)
            )
        tokens, targets = zip(*lengths, strict=True)
        return shapes_of(tokens, targets, most)


def prefetch(
    make: Callable[[Item], Made], items: Iterable[Item], workers: int | None = None, size: int = 0
) -> Iterator[Made]:
    """make(item) in the order of the items, worked out ahead on a few threads; a failure is raised in its turn.

    Threads serve because decoding and resizing happen outside Python's lock. An item made takes about
    `size` bytes: fewer wait where they are large.
    """
    workers = workers or min(8, os.cpu_count() or 1)
    ahead = max(2, min(2 * workers, AHEAD_BYTES // max(size, 1)))
    waiting: collections.deque = collections.deque()
    coming = iter(items)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="rows")
    try:
        for item in itertools.islice(coming, ahead):
            waiting.append(pool.submit(make, item))
        while waiting:
            done = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in itertools.islice(coming, 1))
            yield done
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class Loader:
    """The batches of a training run: batch `step` is a function of (seed, step) alone, so any step can be gone on from.

    Epochs follow each other without a break: a batch may hold the end of one and the beginning of the
    next, every row comes once an epoch, and no batch is partial. `balance` gives every answer the same
    share of rows instead, `weighted` the same share of the loss.
    """

    rows: Rows
    batch: int
    seed: int
    shapes: Shapes
    balance: bool = False
    weighted: bool = False
    _drawn: dict[int, np.ndarray] = field(default_factory=dict, repr=False, compare=False)  # the latest epochs' orders

    def __post_init__(self) -> None:
        if not len(self.rows) or self.batch < 1 or self.seed < 0:
            raise ValueError(f"{len(self.rows)} rows, batch {self.batch}, seed {self.seed}")

    def indices(self, step: int) -> np.ndarray:
        """int64 [B]: the places in `rows` of the step's rows (steps count from 0)."""
        n = len(self.rows)
        first, last = divmod(step * self.batch, n), divmod((step + 1) * self.batch - 1, n)
        epochs = [self._epoch(epoch) for epoch in range(first[0], last[0] + 1)]
        return np.concatenate(epochs)[first[1] : first[1] + self.batch]

    def _epoch(self, epoch: int) -> np.ndarray:
        drawn = self._drawn.get(epoch)
        if drawn is None:
            answers = [example.answer for example in self.rows.examples] if self.balance else []
            drawn = balanced_order(answers, epoch, self.seed) if answers else order(len(self.rows), epoch, self.seed)
            for old in [known for known in list(self._drawn) if known < epoch - 1]:
                self._drawn.pop(old, None)
            self._drawn[epoch] = drawn
        return drawn

    def make(self, step: int, shape: tuple[int, int] | None = None) -> Batch:
        """The batch of a step, in the smallest shape that holds it, or in `shape` (so that rolls can be stacked)."""
        indices = self.indices(step)
        encoded = [self.rows[int(index)] for index in indices]
        tokens, targets = shape or self.shape_of(encoded)
        return self.weigh(collate(encoded, tokens, targets, self.batch), indices)

    def weigh(self, batch: Batch, indices: np.ndarray) -> Batch:
        """The batch of these rows, with class weights where the loader is to give them."""
        if not self.weighted:
            return batch
        weights = class_weights([example.answer for example in self.rows.examples])[indices]
        return batch._replace(weights=batch.weights * weights[:, None])

    def shape_of(self, encoded: Sequence[Row]) -> tuple[int, int]:
        return self.shapes.of(max(len(row.tokens) for row in encoded), max(len(row.targets) for row in encoded))

    def stream(self, start: int, stop: int, workers: int | None = None) -> Iterator[Batch]:
        """The batches of steps start..stop-1, made ahead on a few threads."""
        return prefetch(self.make, range(start, stop), workers)


def evaluation_batches(rows: Rows, batch: int, shapes: Shapes) -> Iterator[tuple[np.ndarray, Batch]]:
    """(places in `rows`, batch) until every row came once: rows of one shape together, the last batches filled up.

    The places are as many as the batch's valid rows, which come first in it.
    """
    by_shape = collections.defaultdict(list)
    for index, row in enumerate(prefetch(rows.__getitem__, range(len(rows)))):
        by_shape[shapes.of(len(row.tokens), len(row.targets))].append(index)
    parts = [
        (shape, places[begin : begin + batch])
        for shape, places in sorted(by_shape.items())
        for begin in range(0, len(places), batch)
    ]

    def make(part: tuple[tuple[int, int], list[int]]) -> tuple[np.ndarray, Batch]:
        (tokens, targets), places = part
        return np.array(places), collate([rows[place] for place in places], tokens, targets, batch)

    return prefetch(make, parts, size=batch * rows[0].pixels.nbytes if len(rows) else 0)
