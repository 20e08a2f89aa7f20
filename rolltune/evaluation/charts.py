"""The report's plots."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from rolltune.errors import visible
from rolltune.evaluation.calibration import Bin
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.statistics import Interval, wilson
from rolltune.plots import Plot, Shades, axes_of, both, name_axes


@dataclass(frozen=True)
class Curve:
    """The logged losses of one roll; `state` as in `leaderboard.Status`."""

    roll: int
    steps: Sequence[int]
    losses: Sequence[float]
    state: str = "alive"


def loss_curves(curves: Sequence[Curve], chosen: int | None) -> Plot:
    """Training loss by step: the chosen roll in front, the others behind, what died dashed with a cross."""
    drawn = [curve for curve in curves if np.isfinite(np.asarray(curve.losses, dtype=np.float64)).any()]
    parts = []
    for curve in drawn:
        losses = np.asarray(curve.losses, dtype=np.float64)
        parts.append(f"roll {curve.roll} ends at {losses[np.isfinite(losses)][-1]:.4f}")
    description = "Training loss by step. " + "; ".join(parts)
    return both(lambda shades: _loss_figure(drawn, chosen, shades), description)


def rates(points: Sequence[tuple[int, float, float]], metric: str, chosen: int | None) -> Plot:
    """The figure of each roll against its learning rate. `points`: roll, rate, figure."""
    description = f"{metric} by learning rate. " + "; ".join(f"roll {r}: {x:.3g}, {y:.4g}" for r, x, y in points)
    return both(lambda shades: _rate_figure(points, metric, chosen, shades), description)


def precision_recall(prediction: Prediction, positive: str) -> Plot | None:
    """Precision at every recall as the threshold falls, with a mark where the roll decides; None where no row or every
    row has the positive answer. Average precision is scikit-learn's: the steps' precisions, weighted by the recall
    that each adds, with nothing drawn between them."""
    there = prediction.label == prediction.answers.index(positive)
    if there.all() or not there.any():
        return None
    chance = prediction.chance(positive)
    precision, recall, _ = precision_recall_curve(there, chance)
    average = float(average_precision_score(there, chance))
    given = prediction.predicted == prediction.answers.index(positive)
    found = int(np.sum(given & there))
    mark = (found / int(there.sum()), found / int(given.sum())) if given.any() else None
    title = f"average precision {average:.4f} ({int(there.sum())} of {len(there)} are {positive!r})"
    at = f"; here it decides: precision {mark[1]:.4f}, recall {mark[0]:.4f}" if mark else ""
    return both(
        lambda shades: _precision_figure(recall, precision, float(there.mean()), mark, title, shades),
        f"Precision by recall: {title}{at}",
    )


def reliability(found: Sequence[Bin]) -> Plot:
    """Share of right answers by the likeliest answer's probability, a point a bin, with Wilson's 95 % interval."""
    parts = [f"{one.low:.1f} to {one.high:.1f}: {one.right} of {one.rows} right" for one in found]
    return both(lambda shades: _reliability_figure(found, shades), "Right answers by probability. " + "; ".join(parts))


class StandingRow(NamedTuple):
    """A run in a picture of several: its figure, the figure's interval, and whether it is a forecast."""

    name: str
    value: float
    bounds: Interval | None
    is_clean: bool


def standing(rows: Sequence[StandingRow], metric: str) -> Plot:
    """A line a run, the best on top: the figure with its 95 % interval; hollow where it is no forecast."""
    parts = [f"{row.name} {row.value:.4f}{'' if row.is_clean else ' (no forecast)'}" for row in rows]
    return both(lambda shades: _standing_figure(rows, metric, shades), f"{metric} by run. " + "; ".join(parts))


def _loss_figure(curves: Sequence[Curve], chosen: int | None, shades: Shades) -> Figure:
    figure, axes = axes_of(shades, 3.6)
    top, bottom = _limits(curves)
    if bottom > 0 and top / bottom > 30:
        axes.set_yscale("log")
    else:
        bottom = 0.0
    axes.set_ylim(bottom * 0.8, top * 1.05)
    for curve in sorted(curves, key=lambda curve: curve.roll == chosen):  # the chosen one is drawn last, in front
        steps, losses = np.asarray(curve.steps), np.asarray(curve.losses, dtype=np.float64)
        alive = curve.state == "alive"
        if not alive:
            above = np.flatnonzero(losses > top)  # off the plot: the cross stands where it left
            end = above[0] if len(above) else np.flatnonzero(np.isfinite(losses))[-1]
            shown = (steps[: end + 1], losses[: end + 1])
            axes.plot(*shown, color=shades.bad, linewidth=1, linestyle=(0, (4, 2)), alpha=0.8, zorder=2)
            axes.plot(steps[end], min(losses[end], top), "x", color=shades.bad, markersize=7, clip_on=False, zorder=5)
            continue
        best = curve.roll == chosen
        color, width, order = (shades.accent, 2.2, 4) if best else (shades.muted, 1.1, 3)
        smooth = _smooth(losses)
        if best or len(curves) == 1:
            axes.scatter(steps, losses, s=6, color=color, alpha=0.45, linewidths=0, zorder=order - 0.5)
        axes.plot(steps, smooth, color=color, linewidth=width, zorder=order, alpha=1 if best else 0.85)
    name_axes(axes, shades, "step", "training loss")
    axes.set_xlim(left=0)
    _key(axes, curves, chosen, shades)
    return figure


def _limits(curves: Sequence[Curve]) -> tuple[float, float]:
    """Highest and lowest loss to show: of the rolls that lived, for one explosion would flatten all others."""
    lived = [curve for curve in curves if curve.state == "alive"] or list(curves)
    values = np.concatenate([np.asarray(curve.losses, np.float64) for curve in lived]) if lived else np.ones(1)
    values = values[np.isfinite(values)]
    top = float(values.max()) if len(values) and values.max() > 0 else 1.0
    # From below by the smoothed ones: a lucky batch near 0 would pull a logarithmic axis down by powers of ten.
    smooth = np.concatenate([_smooth(np.asarray(curve.losses, np.float64)) for curve in lived]) if lived else values
    positive = smooth[np.isfinite(smooth) & (smooth > 0)]
    return top, float(positive.min()) if len(positive) else 0.0


def _smooth(losses: np.ndarray) -> np.ndarray:
    """A running mean; what is too short for one is shown as it is."""
    if len(losses) < 12:
        return losses
    width = max(3, len(losses) // 20) | 1
    padded = np.pad(losses, width // 2, mode="edge")
    return np.convolve(padded, np.ones(width) / width, mode="valid")


def _key(axes: Axes, curves: Sequence[Curve], chosen: int | None, shades: Shades) -> None:
    if len(curves) == 1:
        axes.scatter([], [], s=14, color=shades.muted, linewidths=0, label="as logged")
    elif any(curve.roll == chosen for curve in curves):
        axes.plot([], [], color=shades.accent, linewidth=2.2, label=f"roll {chosen}, the chosen one")
        axes.scatter([], [], s=14, color=shades.accent, alpha=0.6, linewidths=0, label="its losses as logged")
    rest = sum(curve.state == "alive" and curve.roll != chosen for curve in curves) if len(curves) > 1 else 0
    gone = sum(curve.state != "alive" for curve in curves)
    if rest:
        axes.plot([], [], color=shades.muted, linewidth=1.1, label=f"{rest} other roll{'s' if rest > 1 else ''}")
    if gone:
        label = f"{gone} died or stopped"
        axes.plot([], [], color=shades.bad, linewidth=1, linestyle=(0, (4, 2)), marker="x", label=label)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=9, labelcolor=shades.ink, loc="upper right")


def _precision_figure(
    recall: np.ndarray,
    precision: np.ndarray,
    share: float,
    mark: tuple[float, float] | None,
    title: str,
    shades: Shades,
) -> Figure:
    figure, axes = axes_of(shades, 3.6)
    axes.step(recall, precision, where="post", color=shades.accent, linewidth=2.2)
    axes.axhline(share, color=shades.muted, linewidth=1, linestyle=(0, (4, 2)), label="by chance")
    if mark:
        axes.plot(*mark, "o", color=shades.ink, markersize=8, label="as it decides", clip_on=False, zorder=5)
    axes.set_xlim(0, 1.02)
    axes.set_ylim(0, 1.05)
    name_axes(axes, shades, "recall", "precision")
    axes.set_title(title, color=shades.ink, fontsize=9, loc="left", parse_math=False)
    axes.legend(frameon=False, fontsize=9, labelcolor=shades.ink, loc="lower left")
    return figure


def _reliability_figure(found: Sequence[Bin], shades: Shades) -> Figure:
    figure, axes = axes_of(shades, 3.6)
    axes.plot([0, 1], [0, 1], color=shades.muted, linewidth=1, linestyle=(0, (4, 2)))
    for one in found:
        bounds = wilson(one.right, one.rows)
        assert bounds  # a bin has rows
        axes.plot([one.confidence] * 2, bounds[:2], color=shades.muted, linewidth=2, zorder=2)
        place = (one.confidence, one.right / one.rows)
        axes.plot(*place, "o", color=shades.accent, markersize=7, clip_on=False, zorder=3)
        axes.annotate(str(one.rows), place, (7, -3), textcoords="offset points", fontsize=8, color=shades.ink)
    axes.set_xlim(min([0.5, *(one.low for one in found)]), 1.02)
    axes.set_ylim(0, 1.05)
    name_axes(axes, shades, "probability of the likeliest answer (beside a point: its pictures)", "share that is right")
    return figure


def _standing_figure(rows: Sequence[StandingRow], metric: str, shades: Shades) -> Figure:
    figure, axes = axes_of(shades, 0.9 + 0.3 * len(rows))
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", color=shades.grid, linewidth=0.8)
    for place, row in enumerate(rows):
        color = shades.muted if not row.is_clean else shades.accent if place == 0 else shades.ink
        if row.bounds:
            axes.plot(row.bounds[:2], [place] * 2, color=color, linewidth=2, alpha=0.6, zorder=2)
        fill = color if row.is_clean else "none"
        axes.plot(row.value, place, "o", color=color, markerfacecolor=fill, markersize=7, clip_on=False, zorder=3)
    axes.set_yticks(range(len(rows)), [visible(row.name) for row in rows])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(metric, color=shades.ink, fontsize=9)
    return figure


def _rate_figure(points: Sequence[tuple[int, float, float]], metric: str, chosen: int | None, shades: Shades) -> Figure:
    figure, axes = axes_of(shades, 2.9)
    axes.set_xscale("log")
    for roll, rate, value in points:
        best = roll == chosen
        size, color = (70, shades.accent) if best else (42, shades.muted)
        axes.scatter([rate], [value], s=size, color=color, zorder=3 + best, linewidths=0)
        axes.annotate(str(roll), (rate, value), (5, 5), textcoords="offset points", fontsize=8, color=shades.ink)
    low, high = min(rate for _, rate, _ in points), max(rate for _, rate, _ in points)
    axes.set_xticks(ticks := _rate_ticks(low, high), [f"{tick:.2g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    name_axes(axes, shades, "learning rate", metric)
    axes.margins(x=0.06, y=0.18)
    if metric != "log-loss":  # a share: an axis past 1 would promise more
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, -0.02), min(high, 1.02))
        axes.set_yticks([tick for tick in axes.get_yticks() if -0.001 <= tick <= 1.001 and low <= tick <= high])
    return figure


def _rate_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 of each power of ten (1 alone over two powers and more); the ends where those are too few."""
    parts = (1, 2, 5) if high / low < 100 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [part * 10.0**power for power in powers for part in parts]
    inside = [tick for tick in found if low <= tick <= high]
    return inside if len(inside) > 1 else [low, high]
