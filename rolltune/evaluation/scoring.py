"""Scores of every allowed answer, for rolls and rows: one forward pass a batch, all rolls in it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rolltune.data.batches import Encoded, evaluation_batches
from rolltune.evaluation.compiled import ROWS
from rolltune.evaluation.metrics import Prediction
from rolltune.sharding import cards_in_group, fetched, sent


def score_rows(
    score: Callable[..., Any],
    base: dict,
    trainables: dict[str, Any],
    scales: Any,
    encoded: Encoded,
    candidates: int,
    batch: int,
    mesh: Mesh | None = None,
) -> np.ndarray:
    """float32 [R, N, C]: log-probability of each row's candidate answers as a whole, 0 where a row has fewer.

    `trainables` and `scales` have a leading axis R; empty trainables are the base alone. A row's score depends on
    neither its neighbours nor their number: padding is seen by nobody. Cards in groups have the rows between them.
    """
    found = np.zeros((len(scales), len(encoded), candidates), np.float32)
    pending: list[tuple[np.ndarray, Any]] = []

    def collect() -> None:
        places, scores = pending.pop(0)
        found[:, places] = fetched(scores)[:, : len(places)]

    for places, some, source in evaluation_batches(encoded, batch, cards_in_group(mesh)):
        pending.append((places, score(base, source, trainables, scales, sent(some, mesh, ROWS))))
        if len(pending) > 2:  # the device works on the next batches meanwhile
            collect()
    while pending:
        collect()
    return found


def predictions(
    scores: np.ndarray, ids: Sequence[str], answers: Sequence[str], right: Sequence[str]
) -> list[Prediction]:
    """One Prediction a roll, normalised over the answers. A right answer that is not among them is one more answer,
    which no row is ever given: such a row counts as wrong."""
    normalised = np.asarray(jax.nn.log_softmax(jnp.asarray(scores), axis=-1))
    strange = tuple(sorted(set(right) - set(answers)))
    if strange:
        never = np.full((*normalised.shape[:2], len(strange)), -np.inf, normalised.dtype)
        normalised = np.concatenate([normalised, never], -1)
    number = {answer: place for place, answer in enumerate((*answers, *strange))}
    labels = np.array([number[answer] for answer in right], int)
    return [Prediction(tuple(ids), (*answers, *strange), labels, own) for own in normalised]
