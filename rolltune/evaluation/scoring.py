"""Scores of every allowed answer, for rolls and rows: one forward pass a batch, all rolls in it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rolltune.data.batches import Rows, Shapes, evaluation_batches
from rolltune.errors import UserError
from rolltune.evaluation.metrics import Prediction


def allowed_answers(stated: Sequence[str], seen: Sequence[str]) -> tuple[str, ...]:
    """The answers to choose from: those stated, or all that occur, sorted. Raises UserError for one, or a stray one."""
    answers = tuple(stated) or tuple(sorted(set(seen)))
    if stray := sorted(set(seen) - set(answers)):
        raise UserError(f"the data has the answer {stray[0]!r}, which is not among the allowed ones: {list(answers)}")
    if len(answers) < 2:
        raise UserError(
            f"every row has the answer {answers[0]!r}: there is nothing to tell apart. Name the other allowed answers, "
            "for example --config.answers=\"('yes', 'no')\""
        )
    return answers


def score_rows(
    score: Callable[..., Any],
    base: dict,
    table: Any,
    trainables: dict[str, Any],
    scales: Any,
    rows: Rows,
    shapes: Shapes,
    answers: Sequence[str],
    batch: int,
) -> list[Prediction]:
    """One Prediction a roll: `trainables` and `scales` have a leading axis R; empty trainables are the base alone.

    A row's score depends on neither its neighbours nor their number: padding is seen by nobody.
    """
    rolls = len(scales)
    found = np.zeros((rolls, len(rows), len(answers)), np.float32)
    pending: list[tuple[np.ndarray, Any]] = []

    def collect() -> None:
        places, scores = pending.pop(0)
        found[:, places] = np.asarray(scores)[:, : len(places)]

    for places, some in evaluation_batches(rows, batch, shapes):
        pending.append((places, score(base, table, trainables, scales, some)))
        if len(pending) > 2:  # the device works on the next batches meanwhile
            collect()
    while pending:
        collect()
    normalised = np.asarray(jax.nn.log_softmax(jnp.asarray(found), axis=-1))
    ids = tuple(example.id for example in rows.examples)
    labels = np.array([answers.index(example.answer) for example in rows.examples])
    return [Prediction(ids, tuple(answers), labels, normalised[roll]) for roll in range(rolls)]


def subset(prediction: Prediction, places: Sequence[int]) -> Prediction:
    """The prediction of some of its rows."""
    places = np.asarray(places, int)
    ids = tuple(prediction.ids[place] for place in places)
    return prediction._replace(ids=ids, label=prediction.label[places], log_probs=prediction.log_probs[places])
