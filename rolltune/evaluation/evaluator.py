"""Rolls and rows in, predictions out: all that stays the same between two evaluations, and how it is done."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from rolltune.data.batches import Encoded, evaluation_batches, over_cards
from rolltune.data.examples import Example
from rolltune.evaluation.compiled import picked
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.scoring import predictions, score_rows
from rolltune.evaluation.tasks import WRITE, Task, accepted
from rolltune.evaluation.written import Written
from rolltune.sharding import cards_in_group, size_of


@dataclasses.dataclass(frozen=True)
class Writer:
    """How answers are written: the prompts alone, the compiled program, and what makes text of its ids."""

    prompts: Encoded
    write: Callable[..., Any]  # (base, source, trainables [D, ...], scales [D], batch) -> ids [D, B, N] of D cards
    text: Callable[[Sequence[int]], str]


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
        cards = cards_in_group(self.mesh)
        found = score_rows(self.score, self.base, trainables, scales, self.encoded, candidates, self.batch, cards)
        ids = tuple(one.id for one in self.examples)
        if self.task.kind != WRITE:
            return list(predictions(found, ids, self.task.answers, [one.answer for one in self.examples]))
        right = tuple(accepted(one) for one in self.examples)
        there = np.arange(found.shape[-1]) < np.array([[len(some)] for some in right])
        best = np.where(there, found, -np.inf).max(-1)
        texts: list[Any] = [None] * len(scales)
        if writes and self.writer:
            each = len(scales) // size_of(self.mesh)  # rolls on each card, which write one after the other
            for place in range(each):
                texts[place::each] = self._texts(*picked(self.mesh)((trainables, scales), place))
        return [Written(ids, right, own, text) for own, text in zip(best, texts, strict=True)]

    def _texts(self, trainables: dict[str, Any], scales: Any) -> list[tuple[str, ...]]:
        """One roll's greedy answers to all rows, on each card: leaves [D, ...], scales [D]."""
        assert self.writer
        texts = [[""] * len(self.examples) for _ in range(len(scales))]
        for places, some, source in evaluation_batches(self.writer.prompts, self.batch):
            some = over_cards(some, cards_in_group(self.mesh), 0)
            written = np.asarray(self.writer.write(self.base, source, trainables, scales, some))
            for own, answers in zip(texts, written, strict=True):
                for place, ids in zip(places, answers, strict=False):
                    own[place] = self.writer.text(ids.tolist())
        return [tuple(own) for own in texts]


def candidates_of(task: Task, examples: Sequence[Example]) -> int:
    """How many candidate answers a row has at most."""
    return max(len(task.candidates(one)) for one in examples) if task.kind == WRITE else len(task.answers)
