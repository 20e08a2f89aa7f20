"""From scores of the allowed answers to the figures a person reads: counts and ratios."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from rolltune.errors import UserError
from rolltune.evaluation import calibration

NAMES = ("f-measure", "precision", "recall", "accuracy", "log-loss", "balanced-accuracy", "macro-f")


class Threshold(NamedTuple):
    """The answer that is given from a probability on: `p >= at`."""

    answer: str
    at: float


class Prediction(NamedTuple):
    """N scored rows with the same C allowed answers. A threshold decides in the place of the likeliest answer."""

    ids: tuple[str, ...]  # N
    answers: tuple[str, ...]  # C
    label: Int[np.ndarray, "n"]  # the index of the right answer
    log_probs: Float[np.ndarray, "n c"]  # normalised over the C answers
    threshold: Threshold | None = None

    @property
    def predicted(self) -> Int[np.ndarray, "n"]:
        """The likeliest answer; between equals the one that stands first in `answers`. With a threshold its answer
        where that is likely enough, else the likeliest of the others."""
        if self.threshold is None:
            return np.argmax(self.log_probs, axis=1)
        place = self.answers.index(self.threshold.answer)
        others = np.where(np.arange(len(self.answers)) == place, -np.inf, self.log_probs)
        others[:, place] = np.nan  # never the one, even where all others are impossible
        return np.where(self.chance(self.threshold.answer) >= self.threshold.at, place, np.nanargmax(others, axis=1))

    def chance(self, answer: str) -> Float[np.ndarray, "n"]:
        """Each row's probability of one answer."""
        return np.exp(self.log_probs[:, self.answers.index(answer)].astype(np.float64))

    @property
    def correct(self) -> Bool[np.ndarray, "n"]:
        return self.predicted == self.label

    def at(self, places: Sequence[int] | Int[np.ndarray, "m"]) -> "Prediction":
        """These rows alone, in this order."""
        places = np.asarray(places, int)
        ids = tuple(self.ids[place] for place in places)
        return Prediction(ids, self.answers, self.label[places], self.log_probs[places], self.threshold)

    @classmethod
    def join(cls, parts: Sequence["Prediction"]) -> "Prediction":
        """The rows of all parts, which must have the same answers, and be decided by the same threshold."""
        answers, threshold = parts[0].answers, parts[0].threshold
        for number, part in enumerate(parts):
            if part.answers != answers:
                raise ValueError(f"part {number} has the answers {part.answers}, part 0 {answers}")
            if part.threshold != threshold:
                raise ValueError(f"part {number} has the threshold {part.threshold}, part 0 {threshold}")
        label = np.concatenate([part.label for part in parts])
        log_probs = np.concatenate([part.log_probs for part in parts])
        return cls(tuple(id for part in parts for id in part.ids), answers, label, log_probs, threshold)


class AnswerMetrics(NamedTuple):
    """One answer against all others. An undefined ratio is None."""

    answer: str
    right: int  # rows that have it, and were predicted so
    actual: int  # rows that have it
    predicted: int  # rows predicted so
    precision: float | None
    recall: float | None
    f_measure: float | None


@dataclass(frozen=True)
class Metrics:
    """Figures of one prediction. Ratios are None where they are undefined; `undefined` says why.

    With a positive answer, precision, recall and F-measure are that answer's, and tp, tn, fp, fn its
    counts. Without one (more than two answers) they are scikit-learn's macro means over the answers
    that occur or were predicted: an answer that was never predicted counts as precision 0, since
    leaving it out would reward a model for never trying it.
    """

    names: ClassVar[tuple[str, ...]] = NAMES
    beside: ClassVar[tuple[str, ...]] = ("accuracy", "log-loss")  # what a table shows beside the metric that ranks
    share: ClassVar[str] = "accuracy"  # the figure that is a share of rows

    n: int
    answers: tuple[str, ...]
    positive: str | None
    tp: int | None
    tn: int | None
    fp: int | None
    fn: int | None
    accuracy: float | None
    precision: float | None
    recall: float | None
    f_measure: float | None
    log_loss: float | None  # mean of -log p(right answer), in nats
    balanced_accuracy: float | None  # mean recall of the answers that occur
    macro_f: float | None  # mean F-measure of the answers that occur or were predicted, a positive one or none
    calibration_error: float | None  # expected calibration error: see `calibration.error`
    threshold: float | None  # the probability from which the positive answer was given; None: the likeliest was
    majority_rate: float | None  # accuracy of always giving the most frequent answer of these rows
    confusion: tuple[tuple[int, ...], ...]  # [C][C]; row: right answer, column: predicted
    per_answer: tuple[AnswerMetrics, ...]
    undefined: Mapping[str, str]

    @property
    def predicted(self) -> dict[str, int]:
        """How often each answer was predicted."""
        return {row.answer: row.predicted for row in self.per_answer}

    @property
    def actual(self) -> dict[str, int]:
        return {row.answer: row.actual for row in self.per_answer}

    @property
    def right(self) -> int:
        """Rows whose predicted answer is the right one."""
        return sum(row.right for row in self.per_answer)

    @property
    def collapsed(self) -> str | None:
        """The one answer that every row gets although the rows have several, or None."""
        given = [row.answer for row in self.per_answer if row.predicted]
        occurring = [row.answer for row in self.per_answer if row.actual]
        return given[0] if len(given) == 1 and len(occurring) > 1 else None

    def figure(self, name: str) -> float | None:
        """The figure called `name`, one of NAMES."""
        refuse_unknown(name, NAMES)
        return getattr(self, name.replace("-", "_"))

    def lines(self) -> list[str]:
        """For the printed block."""
        counts = [f"  Tp={self.tp} Tn={self.tn} Fp={self.fp} Fn={self.fn}"] if self.positive is not None else []
        occurring = sum(row.actual > 0 or row.predicted > 0 for row in self.per_answer)
        mean = "" if self.positive is not None else f" (mean over {occurring} answers)"
        ratios = (
            ("accuracy", self.accuracy, ""),
            ("precision", self.precision, mean),
            ("recall", self.recall, mean),
            ("F-measure", self.f_measure, mean),
        )
        text = lambda name, ratio, of: rounded(ratio, self.undefined.get(name, "")) + (of if ratio is not None else "")
        return counts + [f"  {name + ':':<10} {text(name, ratio, of)}" for name, ratio, of in ratios]

    def frequencies(self, most: int = 6) -> str:
        """How often each answer was predicted and how often it is right, in one line; says where only one ever was."""
        rows = sorted(self.per_answer, key=lambda row: (-max(row.predicted, row.actual), row.answer))
        more = f", and {len(rows) - most} more answers" if len(rows) > most else ""
        parts = [f"{row.answer} {row.predicted} (in the data {row.actual})" for row in rows[:most]]
        alarm = f"; every picture gets the same answer, {self.collapsed!r}" if self.collapsed is not None else ""
        return f"predicted: {', '.join(parts)}{more}{alarm}"

    def facts(self) -> dict[str, object]:
        """What a file of figures holds beside those that have names."""
        return {
            "positive": self.positive,
            "calibration-error": self.calibration_error,
            "threshold": self.threshold,
            "majority-rate": self.majority_rate,
            **{name: getattr(self, name) for name in ("tp", "tn", "fp", "fn")},
            "predicted": self.predicted,
            "actual": self.actual,
        }


def refuse_unknown(name: str, names: Sequence[str], where: str = "") -> None:
    """Raises UserError where `name` is none of `names`."""
    if name not in names:
        raise UserError(f"no metric is called {name!r}{where}; there are: {', '.join(names)}")


def require_numbers(ids: Sequence[str], scores: Float[np.ndarray, "n *answers"]) -> None:
    """Raises UserError where a row's scores are not numbers."""
    bad = np.flatnonzero(np.isnan(scores).any(axis=tuple(range(1, scores.ndim))))
    if len(bad):
        raise UserError(
            f"{len(bad)} of {len(ids)} scores are not numbers (first: {ids[bad[0]]}). The model or the roll has "
            "diverged, or its file is damaged: train again with a lower learning rate, or use an earlier file."
        )


class Positive(NamedTuple):
    answer: str | None
    reason: str


def choose_positive(answers: Sequence[str], counts: Mapping[str, int]) -> Positive:
    """Which answer counts as positive where the person named none, and why: to be printed.

    Of two answers it is "yes", or else "true" (in any case), or else the rarer in `counts`, which is
    what one usually looks for; between equally frequent ones the first in alphabetical order. Choose
    once, from all the data: the rarer answer of each split would differ between splits. More than
    two answers have no positive one.
    """
    if len(answers) > 2:
        return Positive(None, f"{len(answers)} answers: ratios are means over the answers")
    for word in ("yes", "true"):
        for answer in answers:
            if answer.strip().lower() == word:
                return Positive(answer, f"{answer!r} is taken as the positive answer")
    rarer = min(answers, key=lambda answer: (counts.get(answer, 0), answer))
    tie = len({counts.get(answer, 0) for answer in answers}) == 1 and len(answers) == 2
    why = "both are equally frequent, this one comes first in the alphabet" if tie else "the rarer one"
    return Positive(rarer, f"{rarer!r} is taken as the positive answer ({why}; --positive names another)")


def measure(prediction: Prediction, positive: str | None) -> Metrics:
    """The figures of a prediction. `positive` is required for one or two answers (see `choose_positive`);
    for more it may be given, and then its ratios against all other answers are reported."""
    _check(prediction)
    answers, label, chosen = prediction.answers, np.asarray(prediction.label), prediction.predicted
    if positive is None and len(answers) <= 2:
        raise ValueError("one or two answers need a positive one: see choose_positive")
    if positive is not None and positive not in answers:
        raise UserError(f"the positive answer {positive!r} is not among the answers: {', '.join(map(repr, answers))}")

    n, codes = len(label), np.arange(len(answers))
    confusion = confusion_matrix(label, chosen, labels=codes) if n else np.zeros((len(answers),) * 2, int)
    per_answer = tuple(_per_answer(label, chosen, answers))
    undefined: dict[str, str] = {}
    if n == 0:
        undefined = dict.fromkeys(
            ("accuracy", "log-loss", "balanced accuracy", "macro F", "precision", "recall", "F-measure"),
            "there are no pictures",
        )
    tp = tn = fp = fn = precision = recall = f_measure = macro_f = None
    if n:
        occurring = np.union1d(label, chosen)
        ratios = precision_recall_fscore_support(label, chosen, labels=occurring, average="macro", zero_division=0)
        macro = tuple(float(ratio) for ratio in ratios[:3])
        macro_f = macro[2]
    if positive is not None:
        row = per_answer[answers.index(positive)]
        tp, fp, fn = row.right, row.predicted - row.right, row.actual - row.right
        tn = n - tp - fp - fn
        precision, recall, f_measure = row.precision, row.recall, row.f_measure
        if n:
            undefined |= _why_undefined(row)
    elif n:
        precision, recall, f_measure = macro
    right = prediction.log_probs[np.arange(n), label].astype(np.float64)
    return Metrics(
        n=n,
        answers=tuple(answers),
        positive=positive,
        tp=tp,
        tn=tn,
        fp=fp,
        fn=fn,
        accuracy=float(np.mean(chosen == label)) if n else None,
        precision=precision,
        recall=recall,
        f_measure=f_measure,
        # sorted, so that the same rows in another order give the same bits
        log_loss=float(-np.mean(np.sort(right))) if n else None,
        balanced_accuracy=float(np.mean([r.recall for r in per_answer if r.recall is not None])) if n else None,
        macro_f=macro_f,
        calibration_error=calibration.error(prediction.log_probs, label) if n else None,
        threshold=prediction.threshold.at if prediction.threshold is not None else None,
        majority_rate=float(np.bincount(label).max() / n) if n else None,
        confusion=tuple(tuple(int(count) for count in row) for row in confusion),
        per_answer=per_answer,
        undefined=undefined,
    )


def _check(prediction: Prediction) -> None:
    ids, answers, label, log_probs = prediction[:4]
    if len(set(answers)) != len(answers) or not answers:
        raise ValueError(f"the answers must be one or more different ones, not {answers}")
    if log_probs.shape != (len(ids), len(answers)) or np.shape(label) != (len(ids),):
        raise ValueError(
            f"{len(ids)} ids and {len(answers)} answers need log_probs of {(len(ids), len(answers))} and as many "
            f"labels; they are {log_probs.shape} and {np.shape(label)}"
        )
    if not len(ids):
        return
    if np.min(label) < 0 or np.max(label) >= len(answers):
        raise ValueError(f"labels must lie in 0..{len(answers) - 1}, found {np.min(label)}..{np.max(label)}")
    require_numbers(ids, log_probs)
    totals = np.exp(log_probs.astype(np.float64)).sum(axis=1)
    if np.abs(totals - 1).max() > 1e-2:  # bf16 scores normalised in bf16 are off by up to 0.4 %
        worst = int(np.abs(totals - 1).argmax())
        raise ValueError(f"probabilities of {ids[worst]} sum to {totals[worst]:.4g}, not 1: normalise over the answers")


def _per_answer(label: np.ndarray, chosen: np.ndarray, answers: tuple[str, ...]) -> list[AnswerMetrics]:
    codes = range(len(answers))
    if len(label):
        precision, recall, f_measure, _ = precision_recall_fscore_support(
            label, chosen, labels=list(codes), average=None, zero_division=np.nan
        )
    else:
        precision = recall = f_measure = np.full(len(answers), np.nan)
    return [
        AnswerMetrics(
            answer=answers[code],
            right=int(np.sum((label == code) & (chosen == code))),
            actual=int(np.sum(label == code)),
            predicted=int(np.sum(chosen == code)),
            precision=_defined(precision[code]),
            recall=_defined(recall[code]),
            f_measure=_defined(f_measure[code]),
        )
        for code in codes
    ]


def _defined(ratio: float) -> float | None:
    return None if np.isnan(ratio) else float(ratio)


def _why_undefined(row: AnswerMetrics) -> dict[str, str]:
    reasons = {}
    if row.precision is None:
        reasons["precision"] = f"no picture was predicted {row.answer}"
    if row.recall is None:
        reasons["recall"] = f"no picture has the answer {row.answer}"
    if row.f_measure is None:
        reasons["F-measure"] = f"no picture has the answer {row.answer} or was predicted so"
    return reasons


def stage(passes: int) -> str:
    """How often it was trained, as the printed blocks say it: (not trained), (1st trained), (2nd trained), ..."""
    if passes == 0:
        return "(not trained)"
    ending = "th" if passes % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(passes % 10, "th")
    return f"({passes}{ending} trained)"


def rounded(ratio: float | None, reason: str = "") -> str:
    """A figure as it is printed everywhere: four digits, or "undefined (why)"."""
    if ratio is None:
        return f"undefined ({reason})" if reason else "undefined"
    return repr(round(float(ratio), 4))
