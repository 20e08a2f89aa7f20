"""Rolls and rows in, predictions out: all that stays the same between two evaluations, and how it is done."""

import dataclasses
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from rolltune.data.batches import Encoded, evaluation_batches
from rolltune.data.examples import Example
from rolltune.evaluation.compiled import ROWS, picked
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.scoring import predictions, score_rows
from rolltune.evaluation.tasks import WRITE, Task, accepted
from rolltune.evaluation.written import Written
from rolltune.sharding import cards_in_group, fetched, sent, size_of

KEPT = 2**30  # bytes of keys and values that rolls which write side by side may keep on a card


@dataclasses.dataclass(frozen=True)
class Writer:
    """How answers are written: the prompts alone, the compiled program, and what makes text of its ids."""

    prompts: Encoded
    write: Callable[..., Any]  # (base, source, trainables [R, ...], scales [R], (batch, numbers [B])) -> ids [R, B, N]
    text: Callable[[Sequence[int]], str]
    tokens: int  # N, of an answer at most
    kept: int  # bytes that a token's keys and values take

    def side_by_side(self, each: int, batch: int) -> int:
        """How many of a card's `each` rolls write at once, `batch` rows each: all, or equal parts of them that KEPT
        has room for. Together they read the base once a token."""
        kept = self.kept * (self.prompts.shapes[-1].tokens + self.tokens) * batch
        fits = lambda count: each % count == 0 and count * kept <= KEPT
        return next((count for count in range(each, 1, -1) if fits(count)), 1)


@dataclasses.dataclass(frozen=True)
class Evaluator:
    """`encoded` are the examples' rows with their candidate answers; `writer` is there for written answers only."""

    task: Task
    examples: Sequence[Example]
    encoded: Encoded
    base: dict
    score: Callable[..., Any]
    batch: int
    writer: Writer | None = None
    candidates: int = 0  # that the program scores, where it has room for more than these rows have
    mesh: Mesh | None = None  # the cards that the rolls are laid on

    def predict(self, trainables: dict[str, Any], scales: Any, writes: bool = True) -> list[Prediction | Written]:
        """A prediction of all rows for each roll: leaves [R, ...], scales [R]. With `writes` False no answer of
        `write` is written out: its log-loss alone is cheap."""
        candidates = self.candidates or candidates_of(self.task, self.examples)
        found = score_rows(self.score, self.base, trainables, scales, self.encoded, candidates, self.batch, self.mesh)
        ids = tuple(one.id for one in self.examples)
        if self.task.kind != WRITE:
            return list(predictions(found, ids, self.task.answers, [one.answer for one in self.examples]))
        right = tuple(accepted(one) for one in self.examples)
        there = np.arange(found.shape[-1]) < np.array([[len(some)] for some in right])
        best = np.where(there, found, -np.inf).max(-1)
        texts: list[Any] = [None] * len(scales)
        if writes and self.writer:
            each = len(scales) // size_of(self.mesh)  # rolls on each card
            count = self.writer.side_by_side(each, self.batch)
            for place in range(0, each, count):
                slots = [slot for slot in range(len(scales)) if place <= slot % each < place + count]
                some = (trainables, scales) if count == each else picked(self.mesh, count)((trainables, scales), place)
                for slot, own in zip(slots, self._texts(*some), strict=True):
                    texts[slot] = own
        return [Written(ids, right, own, text) for own, text in zip(best, texts, strict=True)]

    def _texts(self, trainables: dict[str, Any], scales: Any) -> list[tuple[str, ...]]:
        """The answers to all rows of rolls that write side by side: leaves [R, ...], scales [R]."""
        assert self.writer
        texts = [[""] * len(self.examples) for _ in range(len(scales))]
        for places, some, source in evaluation_batches(self.writer.prompts, self.batch, cards_in_group(self.mesh)):
            numbers = np.zeros(len(some.label), np.uint32)  # of rows, for what is drawn: by their names, in any company
            numbers[: len(places)] = [zlib.crc32(self.examples[place].id.encode()) for place in places]
            asked = sent((some, numbers), self.mesh, ROWS)
            written = fetched(self.writer.write(self.base, source, trainables, scales, asked))
            for own, answers in zip(texts, written, strict=True):
                for place, ids in zip(places, answers, strict=False):
                    own[place] = self.writer.text(ids.tolist())
        return [tuple(own) for own in texts]


def candidates_of(task: Task, examples: Sequence[Example]) -> int:
    """How many candidate answers a row has at most."""
    return max(len(task.candidates(one)) for one in examples) if task.kind == WRITE else len(task.answers)
