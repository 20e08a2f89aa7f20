"""What a figure on few pictures is worth: intervals, the test of best against second, the winner's curse."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.stats import binom, binomtest, norm

from rolltune.evaluation.figures import TITLES, Figures, Scored
from rolltune.evaluation.metrics import AnswerMetrics, Metrics, Prediction, rounded
from rolltune.evaluation.written import Written, WrittenMetrics


class Interval(NamedTuple):
    low: float
    high: float
    method: str

    def __str__(self) -> str:
        return f"{self.low:.2f} to {self.high:.2f}"


def wilson(right: int, n: int, confidence: float = 0.95) -> Interval | None:
    """Wilson's score interval of a proportion; None for n = 0.

    It keeps inside 0..1 and has a width at 0 of n and n of n, where the textbook interval has none.
    """
    if not 0 <= right <= n:
        raise ValueError(f"{right} right of {n}")
    if n == 0:
        return None
    z = norm.ppf((1 + confidence) / 2)
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z / (1 + spread) * math.sqrt(share * (1 - share) / n + spread / n / 4)
    # The ends are exactly 0 and 1 at 0 of n and n of n; rounding must not push them past.
    low = 0.0 if right == 0 else max(0.0, middle - half)
    high = 1.0 if right == n else min(1.0, middle + half)
    return Interval(low, high, "Wilson")


def f_interval(metrics: Metrics, confidence: float = 0.95) -> Interval | None:
    """The interval of the F-measure; None where it is undefined.

    With a positive answer: F = 2J / (1 + J) rises with J = Tp / (Tp + Fp + Fn), which is a
    proportion, so Wilson's interval of J is carried over. A bootstrap would give 1.0 to 1.0 for ten
    right of ten. (Lam, Gopal and Qian 2023, "Confidence Intervals for the F1 Score", arXiv
    2309.14621: the "Wilson indirect" method.) Without one: the bootstrap of the macro mean.
    """
    if metrics.f_measure is None:
        return None
    if metrics.positive is None:
        return bootstrap_f(metrics, confidence=confidence)
    return f_bounds(metrics.per_answer[metrics.answers.index(metrics.positive)], confidence)


def f_bounds(row: AnswerMetrics, confidence: float = 0.95) -> Interval | None:
    """The interval of one answer's F-measure, as `f_interval` has it; None where it is undefined."""
    share = wilson(row.right, row.predicted + row.actual - row.right, confidence)
    if share is None:
        return None
    return Interval(2 * share.low / (1 + share.low), 2 * share.high / (1 + share.high), "Wilson, through Tp/(Tp+Fp+Fn)")


def bootstrap_macro(metrics: Metrics, name: str, samples: int = 2000, seed: int = 0) -> Interval | None:
    """The 95 % percentile bootstrap of a mean over answers: "precision", "recall", "balanced-accuracy" or "macro-f".

    Rows are drawn as in `bootstrap_f`. What a draw leaves undefined counts as `measure` counts it: balanced accuracy
    leaves out answers that do not occur, the others those that neither occur nor were predicted. None where all agree.
    """
    table = np.asarray(metrics.confusion)
    n, size = int(table.sum()), len(table)
    if n == 0:
        return None
    draws = np.random.default_rng(seed).multinomial(n, (table / n).ravel(), size=samples).reshape(samples, size, size)
    hits, actual, predicted = np.diagonal(draws, axis1=1, axis2=2), draws.sum(2), draws.sum(1)  # [samples, C]
    below = {"precision": predicted, "macro-f": (actual + predicted) / 2}.get(name, actual)
    counted = actual > 0 if name == "balanced-accuracy" else actual + predicted > 0
    each = np.divide(hits, below, out=np.zeros(hits.shape), where=below > 0)
    values = (each * counted).sum(1) / counted.sum(1)
    low, high = np.quantile(values, [0.025, 0.975])
    return Interval(float(low), float(high), "bootstrap") if low < high else None


def bootstrap_f(metrics: Metrics, samples: int = 2000, seed: int = 0, confidence: float = 0.95) -> Interval | None:
    """Percentile bootstrap of the F-measure (macro mean without a positive answer).

    Drawing N rows again with replacement is drawing a multinomial over the cells of the confusion
    table, so rows and their order are not needed. None where all draws agree (there is no mistake to
    draw, or no right answer): the bootstrap knows nothing then. Draws in which F is undefined are left out.
    """
    table = np.asarray(metrics.confusion)
    n, size = int(table.sum()), len(table)
    if n == 0:
        return None
    right, predicted = np.nonzero(table)  # empty cells stay empty in every draw
    draws = np.random.default_rng(seed).multinomial(n, table[right, predicted] / n, size=samples)  # [samples, cells]
    of_answer = np.eye(size)
    hits = draws @ (of_answer[right] * of_answer[predicted])  # [samples, C]
    total = draws @ (of_answer[right] + of_answer[predicted])  # 2 Tp + Fp + Fn
    each = np.divide(2 * hits, total, out=np.full_like(hits, np.nan), where=total > 0)
    if metrics.positive is not None:
        each = each[:, [metrics.answers.index(metrics.positive)]]
    defined = np.isfinite(each)
    counted = defined.sum(axis=1)
    values = np.where(defined, each, 0).sum(axis=1)[counted > 0] / counted[counted > 0]
    if len(values) == 0 or np.ptp(values) == 0:
        return None
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), "bootstrap")


def _counts(metrics: Metrics) -> tuple[int, int, int]:
    """Tp, Fp and Fn of the positive answer."""
    assert metrics.tp is not None and metrics.fp is not None and metrics.fn is not None
    return metrics.tp, metrics.fp, metrics.fn


def bootstrap_mean(
    values: Float[np.ndarray, "n"], samples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Interval | None:
    """Percentile bootstrap of a mean over rows. None where all rows agree, or one costs infinitely much."""
    values = np.asarray(values, np.float64)
    if not len(values) or not np.isfinite(values).all() or np.ptp(values) == 0:
        return None
    rng = np.random.default_rng(seed)
    means = [values[rng.integers(0, len(values), len(values))].mean() for _ in range(samples)]
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(low), float(high), "bootstrap")


def interval(figures: Figures, name: str) -> Interval | None:
    """The 95 % interval of the figure called `name`; None where there is none (log-loss of choices, undefined figures,
    mean average precision, means in which no draw of rows differs)."""
    if name == figures.share:
        return None if figures.right is None else wilson(figures.right, figures.n)
    if isinstance(figures, WrittenMetrics):
        rows = {"log-loss": figures.losses, "anls": figures.similarities, "vqa-accuracy": figures.agreements}
        rows |= {"iou": figures.boxes.overlaps} if figures.boxes is not None else {}
        if name == "exact-match" and figures.exact is not None:  # a share, too, where boxes have another
            return wilson(round(figures.exact * figures.n), figures.n)
        return bootstrap_mean(np.array(rows[name])) if name in rows else None
    if name == "f-measure":
        return f_interval(figures)
    if name == "log-loss":
        return None
    if figures.positive is None or name in ("balanced-accuracy", "macro-f"):
        return bootstrap_macro(figures, name)
    tp, fp, fn = _counts(figures)
    return wilson(tp, tp + fp) if name == "precision" else wilson(tp, tp + fn)


class McNemar(NamedTuple):
    only_first: int  # rows that the first has right and the second wrong
    only_second: int
    n: int
    p: float


def mcnemar(first: Prediction, second: Prediction) -> McNemar:
    """McNemar's exact test, two-sided: are both right on the same share of rows? They must hold the same rows."""
    if sorted(first.ids) != sorted(second.ids):
        raise ValueError("the two predictions are of different rows")
    places = {id: place for place, id in enumerate(second.ids)}
    mine, theirs = first.correct, second.correct[[places[id] for id in first.ids]]
    ahead, behind = int(np.sum(mine & ~theirs)), int(np.sum(~mine & theirs))
    p = float(binomtest(ahead, ahead + behind, 0.5).pvalue) if ahead + behind else 1.0
    return McNemar(ahead, behind, len(first.ids), p)


def against_second(k: int, test: McNemar, level: float = 0.05) -> str:
    """The outcome of the test of the best of k rolls against the second, in words."""
    differ = test.only_first + test.only_second
    basis = f"McNemar p = {test.p:.2g}: one is right where the other is wrong on {differ} of {test.n} pictures"
    if test.p >= level:
        return f"the best of {k} cannot be told from the second ({basis})"
    if test.only_first > test.only_second:
        return f"the best of {k} is right on more pictures than the second ({basis})"
    return f"the best of {k} is right on fewer pictures than the second: other metrics rank them differently ({basis})"


class Paired(NamedTuple):
    metric: str
    difference: float  # of the two means
    n: int
    p: float


def paired(first: Written, second: Written, metric: str, samples: int = 5000, seed: int = 0) -> Paired | None:
    """Fisher's randomisation test, two-sided: is the mean of `metric` over the same rows the same for both?

    If it made no difference which of the two a row's figure is from, each row's difference could as well have the
    other sign: p is the share of random signs (the ones found among them) that give a mean as far from 0. It holds
    for few rows and for losses of any distribution. None where the metric is undefined for one of the two, or a row
    costs infinitely much.
    """
    if sorted(first.ids) != sorted(second.ids):
        raise ValueError("the two are of different rows")
    places = {id: place for place, id in enumerate(second.ids)}
    mine, theirs = first.rows(metric), second.at([places[id] for id in first.ids]).rows(metric)
    if mine is None or theirs is None or not len(mine) or not np.isfinite([mine, theirs]).all():
        return None
    differences = mine - theirs
    rng, found = np.random.default_rng(seed), abs(differences.mean())
    means = [abs(np.mean(differences * rng.choice((-1, 1), len(mine)))) for _ in range(samples)]
    as_far = int(np.sum(np.array(means) >= found - 1e-12))
    return Paired(metric, float(differences.mean()), len(mine), (as_far + 1) / (samples + 1))


def written_against_second(k: int, test: Paired, level: float = 0.05) -> str:
    """The outcome of the test of the best of k rolls against the second, which it was ranked above by the metric."""
    basis = (
        f"their {TITLES[test.metric]} differs by {rounded(abs(test.difference))} on {test.n} rows, "
        f"paired randomisation test p = {test.p:.2g}"
    )
    outcome = "cannot be told from" if test.p >= level else "is better than"
    return f"the best of {k} {outcome} the second ({basis})"


def compare(first: Scored, second: Scored, k: int, metric: str) -> str | None:
    """Whether the best of k rolls, ranked by `metric`, can be told from the second, in words; None where it cannot
    be tested. Both must hold the same rows."""
    if isinstance(first, Prediction) and isinstance(second, Prediction):
        return against_second(k, mcnemar(first, second))
    if isinstance(first, Written) and isinstance(second, Written):
        test = paired(first, second, metric)
        return written_against_second(k, test) if test else None
    raise ValueError("choices cannot be compared with written answers")


ADVICE = "; score the chosen roll on pictures that chose nothing (02-shuffle_data.sh -t N)"


def optimism(k: int, n: int, accuracy: float) -> float:
    """How much the best of k equally good rolls on n pictures looks better than it is: E[max] / n - accuracy.

    For k independent counts ~ Binomial(n, accuracy), exactly. Real rolls err on the same hard
    pictures, which makes it less, so this is an upper estimate. (On the effect: Cawley and Talbot
    2010, "On Over-fitting in Model Selection", JMLR 11.)
    """
    if k < 1 or n < 1:
        raise ValueError(f"{k} rolls on {n} pictures")
    below = binom.cdf(np.arange(n), n, accuracy)  # P(count <= c), c = 0..n-1
    return max(0.0, float(np.sum(1 - below**k)) / n - accuracy)


def winners_curse(
    k: int, n: int, accuracy: float, worth: float = 0.02, tested: bool = False, name: str = "accuracy"
) -> str | None:
    """The warning about choosing the best of k on n pictures, or None where it is less than `worth`.

    `accuracy` is the mean of the rolls' share of right rows, which is called `name`. `tested`: the chosen roll was
    scored on an untouched split, so it is not advised. All rolls perfect (or all wrong) says nothing about luck but
    that n pictures cannot rank them.
    """
    if k < 2:
        return None
    extra, advice = optimism(k, n, accuracy), "" if tested else ADVICE
    if accuracy in (0.0, 1.0):
        return f"choosing the best of {k} on {n} pictures: all are equal there, so these pictures cannot choose{advice}"
    if extra < worth:
        return None
    return (
        f"choosing the best of {k} on {n} pictures flatters it: were all {k} equally good ({name} "
        f"{rounded(accuracy)}), luck alone would show a best of up to {min(1.0, accuracy + extra):.2f}{advice}"
    )


def mean_optimism(values: Float[np.ndarray, "k n"], samples: int = 1000, seed: int = 0) -> float:
    """How much the best mean of k rolls over the same n rows looks better than it is, more being better.

    The bootstrap's estimate: choose the best of each draw of rows, and compare its mean over the draw with that over
    all rows. What the rolls have in common, such as hard rows, cancels. Where all k are equally good it comes out a
    quarter too low (0.14 against 0.18 for 8 rolls and 50 rows of independent noise of deviation 1).
    """
    values = np.asarray(values, np.float64)
    rng, means, n = np.random.default_rng(seed), values.mean(1), values.shape[1]
    gains = np.zeros(samples)
    for draw in range(samples):
        drawn = values[:, rng.integers(0, n, n)].mean(1)
        best = drawn.argmax()
        gains[draw] = drawn[best] - means[best]
    return max(0.0, float(gains.mean()))


def written_curse(rolls: Sequence[Written], metric: str, worth: float = 0.01, tested: bool = False) -> str | None:
    """The warning about choosing the best of these by a mean over their rows, all the same; None where it is less
    than the share `worth` of the figure, or the metric is undefined for one of them."""
    rows = [roll.at(np.argsort(np.array(roll.ids))).rows(metric) for roll in rolls]
    found = [own for own in rows if own is not None and len(own) and np.isfinite(own).all()]
    if len(found) < max(2, len(rolls)):
        return None
    values = np.stack(found) * (-1 if metric == "log-loss" else 1)
    extra = mean_optimism(values)
    if extra < worth * abs(values.mean(1).max()):
        return None
    return (
        f"choosing the best of {len(rolls)} on {values.shape[1]} rows flatters its {TITLES[metric]} by about "
        f"{rounded(extra)}{'' if tested else ADVICE}"
    )
