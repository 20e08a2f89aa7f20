"""Rolls and rows in, predictions out: all that stays the same between two evaluations, and how it is done."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from rolltune.data.batches import Encoded, evaluation_batches
from rolltune.data.examples import Example
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.scoring import predictions, score_rows
from rolltune.evaluation.tasks import WRITE, Task, accepted
from rolltune.evaluation.written import Written


@dataclasses.dataclass(frozen=True)
class Writer:
    """How answers are written: the prompts alone, the compiled program, and what makes text of its ids."""

    prompts: Encoded
    write: Callable[..., Any]  # (base, source, trainable, scale, batch) -> ids [B, N]
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

    def predict(self, trainables: dict[str, Any], scales: Any, writes: bool = True) -> list[Prediction | Written]:
        """A prediction of all rows for each roll: leaves [R, ...], scales [R]. With `writes` False no answer of
        `write` is written out: its log-loss alone is cheap."""
        candidates = self.candidates or candidates_of(self.task, self.examples)
        found = score_rows(self.score, self.base, trainables, scales, self.encoded, candidates, self.batch)
        ids = tuple(one.id for one in self.examples)
        if self.task.kind != WRITE:
            return list(predictions(found, ids, self.task.answers, [one.answer for one in self.examples]))
        right = tuple(accepted(one) for one in self.examples)
        there = np.arange(found.shape[-1]) < np.array([[len(some)] for some in right])
        best = np.where(there, found, -np.inf).max(-1)
        one_of = lambda roll: jax.tree.map(lambda leaf: leaf[roll], (trainables, scales))
        texts = [self._texts(*one_of(roll)) if writes and self.writer else None for roll in range(len(scales))]
        return [Written(ids, right, own, text) for own, text in zip(best, texts, strict=True)]

    def _texts(self, trainable: dict[str, Any], scale: Any) -> tuple[str, ...]:
        """One roll's greedy answers to all rows."""
        assert self.writer
        texts = [""] * len(self.examples)
        for places, some, source in evaluation_batches(self.writer.prompts, self.batch):
            written = np.asarray(self.writer.write(self.base, source, trainable, scale, some))
            for place, ids in zip(places, written, strict=False):
                texts[place] = self.writer.text(ids.tolist())
        return tuple(texts)


def candidates_of(task: Task, examples: Sequence[Example]) -> int:
    """How many candidate answers a row has at most."""
    return max(len(task.candidates(one)) for one in examples) if task.kind == WRITE else len(task.answers)
