"""Labels that rolls doubt which never saw them: the rows that a person should look at again."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from rolltune import atomic, plain_json
from rolltune.data.examples import Example
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.predicted import shown_path
from rolltune.evaluation.votes import mean_of


def self_confidence(prediction: Prediction) -> Float[np.ndarray, "n"]:
    """The probability of each row's given answer: low is doubtful."""
    return np.exp(prediction.log_probs[np.arange(len(prediction.label)), prediction.label].astype(np.float64))


def margin(prediction: Prediction) -> Float[np.ndarray, "n"]:
    """The given answer's probability above that of the likeliest other one. Of two answers it orders rows as
    `self_confidence` does."""
    others = np.exp(prediction.log_probs.astype(np.float64))
    others[np.arange(len(prediction.label)), prediction.label] = 0.0
    return self_confidence(prediction) - others.max(axis=1)


def against_class(prediction: Prediction) -> Float[np.ndarray, "n"]:
    """`self_confidence` above what is usual of the rows with this answer: its mean over them.

    The thresholds t_j of confident learning (Northcutt, Jiang and Chuang 2021, "Confident Learning: Estimating
    Uncertainty in Dataset Labels", arXiv:1911.00068): an answer that rolls are never sure of doesn't fill the list. It
    orders rows as cleanlab's `get_label_quality_scores(adjust_pred_probs=True)`, whose shift and scale are one for all.
    """
    sure = self_confidence(prediction)
    counts = np.bincount(prediction.label, minlength=len(prediction.answers))
    usual = np.bincount(prediction.label, sure, len(prediction.answers)) / np.maximum(counts, 1)
    return sure - usual[prediction.label]


@dataclass(frozen=True)
class Doubt:
    """A row whose given answer is not the one that rolls which never saw it find likeliest."""

    rank: int  # 1: the most doubted
    source: str
    id: str
    images: tuple[Path, ...]
    prompt: str
    given: str
    instead: str  # the likeliest answer
    probabilities: dict[str, float]  # the mean over the rolls
    agree: int  # rolls that give the row's own answer
    rolls: int  # that never saw the row


def doubts(examples: Sequence[Example], rounds: Sequence[Prediction]) -> list[Doubt]:
    """The rows for which another answer is likelier than their own, the most doubted first.

    `rounds` are out-of-fold predictions of `examples`, in their order: one roll a row in each. By the mean of their
    probabilities rows are ordered by `self_confidence`, equals as they stand.
    """
    mean = mean_of(rounds)
    agreeing = np.sum([one.correct for one in rounds], axis=0)
    order = np.argsort(self_confidence(mean), kind="stable")
    places = [int(place) for place in order if not mean.correct[place]]
    chances = np.exp(mean.log_probs)
    return [
        Doubt(
            rank=rank,
            source=examples[place].source,
            id=examples[place].id,
            images=tuple(examples[place].images),
            prompt=examples[place].prompt,
            given=mean.answers[mean.label[place]],
            instead=mean.answers[mean.predicted[place]],
            probabilities=dict(zip(mean.answers, chances[place].tolist(), strict=True)),
            agree=int(agreeing[place]),
            rolls=len(rounds),
        )
        for rank, place in enumerate(places, 1)
    ]


def plain(doubt: Doubt) -> dict[str, object]:
    """A line of the file."""
    return {
        "rank": doubt.rank,
        "source": doubt.source,
        "id": doubt.id,
        "images": [shown_path(path) for path in doubt.images],
        "answer": doubt.given,
        "instead": doubt.instead,
        "probabilities": {answer: round(p, 6) for answer, p in doubt.probabilities.items()},
        "agree": doubt.agree,
        "rolls": doubt.rolls,
    }


def write(path: Path, found: Sequence[Doubt]) -> None:
    """A line of JSON for each, the most doubted first; an empty file where no answer is doubted."""
    atomic.write_text(path, "".join(f"{plain_json.dumps(plain(doubt))}\n" for doubt in found))
