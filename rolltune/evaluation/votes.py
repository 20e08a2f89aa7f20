"""Rolls that answer together: the mean of their probabilities, and which few of them do best so."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from rolltune.evaluation.figures import Figures
from rolltune.evaluation.metrics import Prediction, Threshold


def mean_of(predictions: Sequence[Prediction]) -> Prediction:
    """The vote of one roll or several: each row's probabilities are the mean of theirs. One roll's stay as they are.

    Raises ValueError where the predictions are not of the same rows, labels and answers.
    """
    first = predictions[0]
    for number, one in enumerate(predictions):
        if one.ids != first.ids or one.answers != first.answers or not np.array_equal(one.label, first.label):
            raise ValueError(f"prediction {number} has other rows or answers than prediction 0: they cannot vote")
    each = np.stack([one.log_probs for one in predictions]).astype(np.float64)  # [R, N, C]
    # By logarithms: a probability too small for a float is still told from another one.
    joint = logsumexp(each, axis=0) - np.log(len(each))
    return first._replace(log_probs=joint, threshold=joint_threshold(predictions))


def joint_threshold(scored: Sequence[Prediction]) -> Threshold | None:
    """The mean of the rolls' thresholds, one without counting as 0.5; None where none has one."""
    found = [one.threshold for one in scored if one.threshold is not None]
    if not found:
        return None
    at = sum(one.at for one in found) + 0.5 * (len(scored) - len(found))
    return Threshold(found[0].answer, at / len(scored))


def best_few(ranked: Sequence[Prediction]) -> list[int]:
    """The places of the rolls, best first in `ranked`, whose vote is best on these rows, by a greedy rule.

    Forward selection without replacement: it begins with the best roll, adds the roll with which the vote's log-loss is
    lowest, and ends where none makes it lower. By the log-loss, whatever ranks the rolls: on few rows a share of right
    ones has too few steps, and the luckiest roll alone looks best. (Caruana,
    Niculescu-Mizil, Crew and Ksikes 2004, "Ensemble Selection from Libraries of Models"; theirs may take a model twice,
    which weighs it: here each votes once, so that the chosen files are all that has to be kept.)
    """
    chosen, left = [0], list(range(1, len(ranked)))
    best = _log_loss(ranked[:1])
    while left:
        found, place = min((_log_loss([ranked[one] for one in (*chosen, place)]), place) for place in left)
        if found >= best:
            break
        best = found
        chosen.append(place)
        left.remove(place)
    return chosen


def _log_loss(predictions: Sequence[Prediction]) -> float:
    vote = mean_of(predictions)
    return float(-np.mean(vote.log_probs[np.arange(len(vote.label)), vote.label]))


@dataclass(frozen=True)
class Vote:
    """Rolls that answer together, and their figures on the rows that rank the rolls and on the untouched split."""

    rolls: tuple[int, ...]  # their numbers
    selected: bool  # which these are was chosen on the rows that rank: the figures there flatter them
    ranked_on: Figures
    test: Figures | None = None

    @property
    def title(self) -> str:
        return f"{'best' if self.selected else 'all'} {len(self.rolls)}"
