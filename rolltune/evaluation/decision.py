"""How a roll's scores become its answers: a temperature for the probabilities, and from which of them on the positive
answer is given. Both are chosen on validation rows, saved in the roll's card, and used wherever the roll is."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from rolltune.errors import UserError
from rolltune.evaluation.calibration import fit_temperature, tempered
from rolltune.evaluation.figures import TITLES, Scored, measured, worth
from rolltune.evaluation.metrics import Prediction, Threshold, measure, rounded
from rolltune.evaluation.statistics import wilson

NONE, METRIC, VALID, PRECISION = "none", "metric", "valid", "precision"
# Precision alone is best where one sure row is positive, recall where all are; no threshold changes the log-loss.
BY_METRIC = ("f-measure", "accuracy", "balanced-accuracy", "macro-f")
TIE = 1e-4  # probabilities that are no further apart are equal: another device or batch moves them by as much
FEW = 30  # validation rows of the rarer answer, below which it is said that they are few


@dataclasses.dataclass(frozen=True)
class Decision:
    """`threshold` None: the likeliest answer is given. `reasons`: what each rests on, or why there is none."""

    temperature: float = 1.0
    threshold: Threshold | None = None
    reasons: tuple[str, ...] = ()  # in words, for a person

    @property
    def changes(self) -> bool:
        return self.threshold is not None or self.temperature != 1

    def apply(self, scored: Scored) -> Scored:
        """The same rows, decided so. Written answers stay as they are."""
        if not self.changes or not isinstance(scored, Prediction):
            return scored
        log_probs = tempered(scored.log_probs, self.temperature) if self.temperature != 1 else scored.log_probs
        return scored._replace(log_probs=log_probs, threshold=self.threshold)

    def undo(self, scored: Scored) -> Scored:
        """What `apply` was given, to rounding: the likeliest answers and the model's own probabilities."""
        if not self.changes or not isinstance(scored, Prediction):
            return scored
        log_probs = tempered(scored.log_probs, 1 / self.temperature) if self.temperature != 1 else scored.log_probs
        return scored._replace(log_probs=log_probs, threshold=None)

    @property
    def rule(self) -> str:
        """What is done, in words; empty where nothing is."""
        parts = []
        if self.threshold is not None:
            parts.append(f"{self.threshold.answer!r} is given from a probability of {self.threshold.at:.4f} on")
        if self.temperature != 1:
            parts.append(f"probabilities are at temperature {self.temperature:.4g}")
        return "; ".join(parts)

    @property
    def text(self) -> str:
        """The same with what it rests on, or why there is none; empty where nothing was asked for."""
        return "; ".join(part for part in (self.rule, *self.reasons) if part)

    def card(self) -> dict[str, object]:
        """What a roll's card holds; `decision_of` reads it."""
        at = None if self.threshold is None else self.threshold._asdict()
        return {"temperature": self.temperature, "threshold": at, "reasons": list(self.reasons)}


PLAIN = Decision()


def decision_of(values: Mapping[str, Any] | None, answers: tuple[str, ...]) -> Decision:
    """The decision that a card holds; of cards without one, the plain one. Raises ValueError for what can be none."""
    if values is None:
        return Decision()
    if not isinstance(values, Mapping):
        raise ValueError("decision is no object")
    temperature, at, reasons = values.get("temperature", 1.0), values.get("threshold"), values.get("reasons", [])
    if not 0 < _number(temperature) < math.inf:
        raise ValueError(f"decision.temperature is {temperature!r}, expected a number above 0")
    if at is not None and not (
        isinstance(at, Mapping) and at.get("answer") in answers and 0 <= _number(at.get("at")) <= 1
    ):
        raise ValueError(f"decision.threshold is {at!r}, expected one of the answers, and a probability")
    if not isinstance(reasons, list) or not all(isinstance(reason, str) for reason in reasons):
        raise ValueError("decision.reasons is no list of texts")
    threshold = None if at is None else Threshold(at["answer"], float(at["at"]))
    return Decision(float(temperature), threshold, tuple(reasons))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def stated_precision(word: str) -> float | None:
    """The precision that a recipe's `threshold` asks for; None where it is "none" or "metric". Raises ValueError for
    any other word."""
    if word in (NONE, METRIC):
        return None
    name, _, value = word.partition("=")
    if name != PRECISION or not 0 < (share := float(value)) <= 1:
        raise ValueError(f"{word!r} is no threshold")
    return share


def check(threshold: str, temperature: str, metric: str, answers: tuple[str, ...], validated: bool) -> None:
    """Raises UserError where a run cannot choose what its recipe asks for: before the training, not after it.

    `validated`: there are validation rows, which are no fold's: every row would be judged by what it chose itself.
    """
    if threshold == temperature == NONE:
        return
    name = "threshold" if threshold != NONE else "temperature"
    if not answers:
        raise UserError(f"{name}: these answers are written, not chosen by their probability; leave it away")
    if not validated:
        raise UserError(
            f"{name}: it is chosen on validation rows, and this run has none of its own: keep some aside "
            "(02-shuffle_data.sh -v N), without --folds"
        )
    if threshold != NONE and len(answers) != 2:
        raise UserError(f"threshold: it is between two answers, and there are {len(answers)}; leave it away")
    if threshold == METRIC and metric not in BY_METRIC:
        raise UserError(
            f"threshold: 'metric', and the metric is {metric}, by which none can be chosen: take --metric "
            f"{', '.join(BY_METRIC[:-1])} or {BY_METRIC[-1]}, or a stated precision, --config.threshold=precision=0.95"
        )


def decide(prediction: Scored, positive: str | None, threshold: str, temperature: str, metric: str) -> Decision:
    """The decision that a recipe's words ask for, from the validation rows' plain prediction: the temperature first,
    then the threshold on what it makes of the probabilities."""
    if not isinstance(prediction, Prediction):
        return Decision()
    made = Decision()
    if temperature == VALID:
        found, why = fit_temperature(prediction.log_probs, prediction.label)
        reason = f"the temperature has the lowest log-loss on {len(prediction.ids)} validation rows"
        made = Decision(found or 1.0, None, (reason if found else f"no temperature was chosen: {why}",))
    if threshold != NONE and positive is not None:
        chosen = choose_threshold(made.apply(prediction), positive, threshold, metric)  # type: ignore[arg-type]
        at = None if chosen.at is None else Threshold(positive, chosen.at)
        made = dataclasses.replace(made, threshold=at, reasons=(*made.reasons, chosen.reason))
    return made


def plain_figures(decision: Decision, scored: Scored, positive: str | None) -> str:
    """For the printed block of a roll that has a decision: the rule, and the figures without it. `scored` has it."""
    if not decision.changes or not isinstance(scored, Prediction):
        return ""
    plain = measured(decision.undo(scored), positive)
    names = [name for name in plain.names if name not in ("balanced-accuracy", "macro-f")]
    figures = ", ".join(f"{TITLES[name]} {rounded(plain.figure(name))}" for name in names)
    return f"{decision.rule}; by the likeliest answer at temperature 1: {figures}"


class Chosen(NamedTuple):
    at: float | None
    reason: str


class Counts(NamedTuple):
    """What the rows with the k highest probabilities as positives give: one entry for each place to cut."""

    at: Float[np.ndarray, "k"]  # the threshold: half-way between the last row above and the first one below
    tp: Float[np.ndarray, "k"]
    above: Float[np.ndarray, "k"]


def choose_threshold(prediction: Prediction, positive: str, word: str, metric: str) -> Chosen:
    """The threshold that is best for the metric, or the lowest (so with the most found) that has a stated precision.

    It stands half-way between two rows' probabilities, so that rounding moves no row across; rows that are equal
    (`TIE`) cannot be parted. Of equally good ones the one nearest to 0.5 is taken; none, where none is better than 0.5.
    """
    is_positive = prediction.label == prediction.answers.index(positive)
    n, there = len(is_positive), int(is_positive.sum())
    basis = f"{n} validation rows, {there} of them {positive!r}"
    if there in (0, n):
        return Chosen(None, f"no threshold was chosen: {basis}, so there is nothing to tell apart")
    counts = cuts(prediction.chance(positive), is_positive)
    if not len(counts.at):
        return Chosen(None, f"no threshold was chosen: {basis}, and all have the same probability")
    rarer = min(there, n - there)
    few = f"; {rarer} rows of the rarer answer are few to choose by" if rarer < FEW else ""
    wanted = stated_precision(word)
    if wanted is None:
        return _by_metric(prediction, positive, metric, counts.at, basis, few)
    precision = counts.tp / counts.above
    enough = np.flatnonzero(precision >= wanted)
    if not len(enough):
        best = int(np.argmax(precision))
        return Chosen(
            None,
            f"no threshold was chosen: none reaches a precision of {wanted:g} on {basis}; the highest is "
            f"{rounded(precision[best])}, from {counts.at[best]:.4f} on",
        )
    place = int(enough[-1])
    tp, above = int(counts.tp[place]), int(counts.above[place])
    return Chosen(
        float(counts.at[place]),
        f"the lowest threshold with a precision of {wanted:g} on {basis}: there it is {rounded(tp / above)} "
        f"({tp} of {above}, 95 %: {wilson(tp, above)}){few}",
    )


def cuts(chance: Float[np.ndarray, "n"], is_positive: Bool[np.ndarray, "n"]) -> Counts:
    """Every place between two probabilities that differ, the highest first."""
    order = np.argsort(-chance, kind="stable")
    sorted_chance, found = chance[order], np.cumsum(is_positive[order])
    place = np.flatnonzero(sorted_chance[:-1] - sorted_chance[1:] > TIE)
    return Counts((sorted_chance[place] + sorted_chance[place + 1]) / 2, found[place], place + 1)


def _by_metric(
    prediction: Prediction, positive: str, metric: str, places: Float[np.ndarray, "k"], basis: str, few: str
) -> Chosen:
    def figure(threshold: Threshold | None) -> float:
        return worth(measure(prediction._replace(threshold=threshold), positive), metric)

    plain = figure(None)
    values = np.array([figure(Threshold(positive, float(at))) for at in places])
    if values.max() <= plain + 1e-12:
        return Chosen(None, f"no threshold was chosen: none has a better {TITLES[metric]} than 0.5 on {basis}{few}")
    best = places[values >= values.max() - 1e-12]
    at = float(best[np.argmin(np.abs(best - 0.5))])
    was = rounded(plain if np.isfinite(plain) else None)
    return Chosen(
        at,
        f"the best {TITLES[metric]} on {basis}: {rounded(float(values.max()))}, where 0.5 has {was} (these rows chose "
        f"it, which flatters it there){few}",
    )
