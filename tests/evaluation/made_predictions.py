"""Predictions for tests: from what is right and what was predicted or written."""

import numpy as np

from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.written import Written


def prediction(right, chosen, answers=("yes", "no"), sure=0.9) -> Prediction:
    """`right` and `chosen` are answers, one a row; the chosen one has probability `sure`."""
    label = np.array([answers.index(answer) for answer in right], dtype=int)
    rest = (1 - sure) / max(1, len(answers) - 1)
    probs = np.full((len(label), len(answers)), rest)
    probs[np.arange(len(label)), [answers.index(answer) for answer in chosen]] = sure
    return Prediction(tuple(f"row{i}" for i in range(len(label))), tuple(answers), label, np.log(probs))


def counted(tp, tn, fp, fn, sure=0.9) -> Prediction:
    right = ["yes"] * tp + ["no"] * tn + ["no"] * fp + ["yes"] * fn
    chosen = ["yes"] * tp + ["no"] * tn + ["yes"] * fp + ["no"] * fn
    return prediction(right, chosen, sure=sure)


def texts(given, accepted, losses=None) -> Written:
    """`given` is what was written (None: nothing), `accepted` has tuples, `losses` -log p of the best of each."""
    losses = np.ones(len(accepted)) if losses is None else np.asarray(losses, float)
    ids = tuple(f"row{i}" for i in range(len(accepted)))
    return Written(ids, tuple(map(tuple, accepted)), -losses, None if given is None else tuple(given))
