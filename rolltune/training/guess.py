"""What guessing costs: a roll whose loss stays at or above it has learned nothing of its answers."""

import collections
import math

import numpy as np

from rolltune.data.batches import Encoded
from rolltune.evaluation.tasks import WRITE, Task


def guessing_loss(task: Task, training: Encoded, average: str) -> float:
    """The training loss, in nats, of who knows the shares of the answers and no more.

    Open answers are each written once, and knowing their shares would be knowing them: there, of who knows how often
    each token is written in them, and no more. 0, which is nobody's guess, where all are one answer, or one token.
    """
    rows = training.rows[: len(training.labels)]  # of several views the first: all have the same text
    lengths = np.array([len(row.targets) for row in rows])
    if task.kind == WRITE:
        tokens = np.concatenate([row.targets for row in rows])
        _, place, counts = np.unique(tokens, return_inverse=True, return_counts=True)
        lost = np.add.reduceat(np.log(len(tokens) / counts)[place], np.cumsum(lengths) - lengths)
    else:
        answers = collections.Counter(training.labels)
        lost = np.array([math.log(len(training.labels) / answers[label]) for label in training.labels])
    return float(lost.sum() / lengths.sum() if average == "token" else np.mean(lost / lengths))
