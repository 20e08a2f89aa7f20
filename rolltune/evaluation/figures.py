"""What the figures of choices and of written answers have in common: names, order, the printed block, the baseline."""

from collections.abc import Collection, Sequence

import numpy as np

from rolltune.errors import UserError
from rolltune.evaluation import boxes, metrics, written
from rolltune.evaluation.metrics import Metrics, Prediction, measure, refuse_unknown, rounded, stage
from rolltune.evaluation.tasks import AUTO, WRITE
from rolltune.evaluation.written import Written, WrittenMetrics, measure_written

Scored = Prediction | Written  # rows and their scores: `at` takes some of them, `join` puts parts together
Figures = Metrics | WrittenMetrics  # what is worked out of them; what both have is all that most code may ask for

TITLES = {
    "accuracy": "accuracy",
    "precision": "precision",
    "recall": "recall",
    "f-measure": "F-measure",
    "log-loss": "log-loss",
    "balanced-accuracy": "balanced accuracy",
    "macro-f": "macro F",
    "exact-match": "exact match",
    "anls": "ANLS",
    "vqa-accuracy": "VQA accuracy",
    "iou": "mean IoU",
    "box-accuracy": "box accuracy",
    "map": "mAP",
    "map-50": "mAP at 0.5",
}


def names(kind: str) -> tuple[str, ...]:
    """The metrics of a task's kind, the default first; all there are for "auto"."""
    if kind == AUTO:
        return tuple(dict.fromkeys((*metrics.NAMES, *written.NAMES)))
    return written.NAMES if kind == WRITE else metrics.NAMES


def shown_names(some: Sequence[Figures]) -> list[str]:
    """The metrics that a table of these has: macro F beside a positive answer's alone, for it is the F-measure of the
    others; VQA accuracy where there is one, and where answers are boxes their figures instead of those of texts."""

    def has(figures: Figures, name: str) -> bool:
        if name == "macro-f":
            return isinstance(figures, Metrics) and figures.positive is not None
        if isinstance(figures, WrittenMetrics) and figures.boxes is not None:
            return name in ("log-loss", *written.OF_BOXES)
        return name in figures.names and (name not in written.RARE or figures.figure(name) is not None)

    return [name for name in TITLES if any(has(figures, name) for figures in some)]


def check_name(metric: str, kind: str = AUTO) -> None:
    """Raises UserError where a task of this kind has no metric that is called so."""
    refuse_unknown(metric, names(kind), "" if kind == AUTO else f" for task {kind}")


def check_boxes(metric: str, accepted: Sequence[Sequence[str]]) -> None:
    """Raises UserError where a metric of boxes is to rank rows whose accepted answers are others."""
    if metric in written.OF_BOXES and not boxes.are_boxes(accepted):
        raise UserError(f"metric: {metric!r} is of boxes, and {written.NO_BOXES}; ./06-convert_data.py makes such rows")


def default_metric(kind: str) -> str:
    """What ranks the rolls where the person named nothing: the first of `names`. F-measure; for written answers the
    log-loss, which every evaluation has and which costs no writing. "auto" has to be decided before."""
    if kind == AUTO:
        raise ValueError("the task is not decided yet")
    return names(kind)[0]


def measured(scored: Scored, positive: str | None = None) -> Figures:
    """The figures of scored rows. `positive`: see `metrics.measure`; written answers have none."""
    return measure_written(scored) if isinstance(scored, Written) else measure(scored, positive)


def worth(figures: Figures, metric: str) -> float:
    """The figure as a number of which more is better; an undefined one is below every other."""
    figure = figures.figure(metric)
    if figure is None:
        return -np.inf
    return -figure if metric == "log-loss" else figure


def order(figures: Figures, metric: str) -> tuple[float, float]:
    """Sorts the best first: by the metric, and equals by the lower log-loss."""
    return -worth(figures, metric), np.inf if figures.log_loss is None else figures.log_loss


def reason(figures: Figures, metric: str) -> str:
    """Why the figure is undefined, or nothing."""
    return figures.undefined.get(TITLES[metric], "")


def block(title: str, figures: Figures) -> str:
    """The printed block of one checkpoint on one data set. `title`: "./dataset/set1/train.jsonl (1st trained)"."""
    return "\n".join([f"Result: {title}", *figures.lines()])


def mixed_title(folder: str, passes: int, splits: Collection[str]) -> str:
    """The title of the block over a whole set: it says that rows which were trained on are mixed in.

    `splits` are those that the set has; the test split is never among the rows of this block.
    """
    mixed = " and ".join(split for split in splits if split != "test")
    without = ", test left out" if "test" in splits else ""
    return f"{folder} (all) {stage(passes)}: {mixed} mixed{without}"


def no_better(figures: Figures, who: str) -> str | None:
    """A sentence where `who` ("the best", "the roll") is right no more often than one answer for all rows, or None."""
    share, always = figures.figure(figures.share), figures.majority_rate
    if share is None or always is None or share > always:
        return None
    return (
        f"{who} is right no more often ({rounded(share)}) than always giving the most frequent answer "
        f"({rounded(always)})"
    )
