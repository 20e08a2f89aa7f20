import io
import sys
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from rolltune.evaluation import charts
from rolltune.evaluation.calibration import Bin
from rolltune.evaluation.charts import Curve
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.statistics import wilson
from rolltune.plots import LIGHT


def drawn(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGBA"))


def test_the_plot_shows_the_curve_and_its_words_the_figures():
    steps = list(range(1, 60))
    falling = Curve(2, steps, [1 / step for step in steps])
    plot = charts.loss_curves([falling, Curve(5, [1, 2], [0.5, 0.25], "died")], chosen=2)
    assert plot.description == "Training loss by step. roll 2 ends at 0.0169; roll 5 ends at 0.2500"
    light, dark = drawn(plot.light), drawn(plot.dark)
    assert light.shape == dark.shape and (light != dark).any()
    assert light[0, 0, 3] == 0  # the page shows through
    accent = np.array([0x0B, 0x6E, 0x69, 255])
    assert (light == accent).all(-1).sum() > 500
    without = drawn(charts.loss_curves([falling], chosen=None).light)
    assert (without == accent).all(-1).sum() == 0


def test_points_as_logged_lie_behind_a_smooth_curve():
    noise = np.random.default_rng(0).normal(size=60) * 0.3
    losses = 2 + noise
    smooth = charts._smooth(losses)
    assert len(smooth) == 60 and np.std(smooth) < 0.7 * np.std(losses)
    assert charts._smooth(losses[:11]) is not smooth and (charts._smooth(losses[:11]) == losses[:11]).all()
    lucky = Curve(0, range(60), [*losses[:-1], 1e-6])
    assert charts._limits([lucky])[1] > 0.1  # one batch does not set the axis
    chosen = drawn(charts.loss_curves([lucky, Curve(1, [1, 2], [2.0, 2.0])], chosen=0).light)
    points = (chosen[..., :3] != chosen[0, 0, :3]).any(-1) & (chosen[..., 3] > 40) & (chosen[..., 3] < 160)
    assert points.sum() > 500


class Drawn(NamedTuple):
    """What a figure shows: lines as (xs, ys, colour, dashed or marker), points, notes, ends of the axes, ticks, key."""

    lines: list
    points: list
    notes: list
    ends: list
    scales: str
    ticks: list
    names: list
    key: list


def shown(figure) -> Drawn:
    (axes,) = figure.axes
    plain = lambda values: [round(float(value), 3) for value in values]
    colours = {value: name for name, value in LIGHT._asdict().items()}
    kind = lambda line: line.get_marker() if line.get_marker() != "None" else line.get_linestyle()
    lines = [
        (plain(line.get_xdata()), plain(line.get_ydata()), colours[line.get_color()], kind(line))
        for line in axes.lines
        if len(line.get_xdata())
    ]
    legend = axes.get_legend()
    return Drawn(
        lines,
        [plain(place) for points in axes.collections for place in points.get_offsets().tolist()],
        [(text.get_text(), *plain(text.xy)) for text in axes.texts],
        [*plain(axes.get_xlim()), *plain(axes.get_ylim())],
        f"{axes.get_xscale()} {axes.get_yscale()}",
        plain(axes.get_xticks()),
        [text.get_text() for text in (axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels())],
        [text.get_text() for text in legend.get_texts()] if legend else [],
    )


def test_losses_are_drawn_with_the_chosen_roll_in_front_and_a_cross_where_one_left():
    one, other = Curve(0, [1, 2, 3], [0.9, 0.6, 0.5]), Curve(1, [1, 2, 3], [0.8, 0.7, 0.1])
    left = Curve(2, [1, 2, 3, 4, 5], [0.7, 0.8, 5.0, 0.6, float("nan")], "died")
    broke = Curve(3, [1, 2, 3], [0.6, 0.7, float("nan")], "stopped")
    told = shown(charts._loss_figure([one, other, left, broke], 0, LIGHT))
    assert told.lines == [
        ([1, 2, 3], [0.8, 0.7, 0.1], "muted", "-"),
        ([1, 2, 3], [0.7, 0.8, 5.0], "bad", "--"),
        ([3], [0.9], "bad", "x"),
        ([1, 2], [0.6, 0.7], "bad", "--"),
        ([2], [0.7], "bad", "x"),
        ([1, 2, 3], [0.9, 0.6, 0.5], "accent", "-"),
    ]
    assert told.points == [[1, 0.9], [2, 0.6], [3, 0.5]]  # the chosen roll's, as logged
    assert (told.ends[0], told.ends[2:], told.scales) == (0, [0, 0.945], "linear linear")
    assert told.key == ["roll 0, the chosen one", "its losses as logged", "1 other roll", "2 died or stopped"]
    alone = shown(charts._loss_figure([Curve(0, [1, 2], [4.0, 0.1])], None, LIGHT))
    assert (alone.points, alone.key, alone.ends[2:], alone.scales) == (
        [[1, 4], [2, 0.1]], ["as logged"], [0.08, 4.2], "linear log",
    )  # fmt: skip
    two = shown(charts._loss_figure([Curve(0, [1], [3.0]), Curve(1, [1], [0.1])], None, LIGHT))
    assert (two.key, two.points, two.scales) == (["2 other rolls"], [], "linear linear")  # thirty times is not too far
    assert len(charts._smooth(np.arange(12.0))) == 12 and charts._smooth(np.arange(12.0))[5] == pytest.approx(5)
    assert charts._smooth(np.arange(12.0) ** 2)[5] == pytest.approx(25 + 2 / 3)  # over three
    assert charts._smooth(np.arange(100.0) ** 2)[50] == pytest.approx(2502)  # over a twentieth


def test_the_rates_are_points_with_their_roll_and_an_axis_of_shares_ends_at_one():
    points = [(0, 0.001, 0.9), (1, 0.01, 1.0), (2, 0.02, 0.95)]
    told = shown(charts._rate_figure(points, "F-measure", 1, LIGHT))
    assert told.points == [[x, y] for _, x, y in points] and told.notes == [(str(n), x, y) for n, x, y in points]
    assert (told.scales, told.ticks) == ("log linear", [0.001, 0.002, 0.005, 0.01, 0.02])
    assert told.names[:2] == ["learning rate", "F-measure"] and told.names[-1] == "1.00" and told.ends[3] > 1
    wide = shown(charts._rate_figure([(0, 0.001, 0.0), (1, 0.01, 1.0)], "F-measure", 1, LIGHT))
    assert wide.ends[2:] == [-0.02, 1.02]
    free = shown(charts._rate_figure([(0, 0.001, 0.5), (1, 0.01, 1.9)], "log-loss", 1, LIGHT))
    assert free.ends[3] > 1.9 and free.names[-1] == "2.25"


def test_runs_stand_one_below_the_other_each_with_its_interval():
    sure = wilson(9, 10)
    rows = [("a", 0.9, sure, True), ("b $x$\x1b", 0.8, None, True), ("c", 1.0, sure, False)]
    plot = charts.standing([charts.StandingRow(*row) for row in rows], "accuracy")
    assert plot.description == "accuracy by run. a 0.9000; b $x$\x1b 0.8000; c 1.0000 (no forecast)"
    figure = charts._standing_figure([charts.StandingRow(*row) for row in rows], "accuracy", LIGHT)
    told = shown(figure)
    bounds = [round(sure.low, 3), round(sure.high, 3)]
    assert told.lines == [
        (bounds, [0, 0], "accent", "-"),
        ([0.9], [0], "accent", "o"),
        ([0.8], [1], "ink", "o"),
        (bounds, [2, 2], "muted", "-"),
        ([1.0], [2], "muted", "o"),
    ]
    fills = [line.get_markerfacecolor() for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert fills == [LIGHT.accent, LIGHT.ink, "none"] and told.ends[2:] == [2.5, -0.5]
    assert told.names[0] == "accuracy" and [name[:3] for name in told.names[2:]] == ["a", "b $", "c"]
    assert "\x1b" not in told.names[3]


def test_a_point_a_bin_stands_at_its_confidence_with_its_rows():
    found = [Bin(0.4, 0.5, 4, 2, 0.45), Bin(0.9, 1.0, 10, 9, 0.95)]
    told = shown(charts._reliability_figure(found, LIGHT))
    bars = [[round(wilson(*of)[side], 3) for side in (0, 1)] for of in ((2, 4), (9, 10))]
    assert told.lines == [
        ([0, 1], [0, 1], "muted", "--"),
        ([0.45] * 2, bars[0], "muted", "-"), ([0.45], [0.5], "accent", "o"),
        ([0.95] * 2, bars[1], "muted", "-"), ([0.95], [0.9], "accent", "o"),
    ]  # fmt: skip
    assert told.notes == [("4", 0.45, 0.5), ("10", 0.95, 0.9)] and told.ends == [0.4, 1.02, 0, 1.05]
    assert shown(charts._reliability_figure(found[1:], LIGHT)).ends[0] == 0.5


def test_precision_by_recall_has_a_mark_where_the_roll_decides():
    chance = np.array([0.9, 0.8, 0.4, 0.3])
    made = Prediction(tuple("abcd"), ("no", "yes"), np.array([1, 0, 1, 0]), np.log(np.stack([1 - chance, chance], 1)))
    plot = charts.precision_recall(made, "yes")
    average = 0.5 + 0.5 * 2 / 3
    assert plot.description == (
        f"Precision by recall: average precision {average:.4f} (2 of 4 are 'yes'); here it decides: precision 0.5000, "
        "recall 0.5000"
    )
    told = shown(charts._precision_figure(np.array([1, 0.5, 0]), np.array([0.5, 1, 1]), 0.25, (0.5, 0.75), "t", LIGHT))
    assert told.lines == [
        ([1, 0.5, 0], [0.5, 1, 1], "accent", "-"), ([0, 1], [0.25, 0.25], "muted", "--"), ([0.5], [0.75], "ink", "o"),
    ]  # fmt: skip
    assert told.ends == [0, 1.02, 0, 1.05] and told.key == ["by chance", "as it decides"]
    assert charts.precision_recall(made.at([0, 2]), "yes") is None is charts.precision_recall(made.at([1, 3]), "yes")
    none = charts.precision_recall(made.at([2, 3]), "yes")  # gives "yes" to no row
    assert "decides" not in none.description and "average precision 1.0000" in none.description


def test_an_explosion_does_not_flatten_the_others():
    tame = Curve(0, [1, 2, 3], [0.9, 0.8, 0.7])
    wild = Curve(1, [1, 2, 3], [0.9, 1e9, float("nan")], "died")
    assert charts._limits([tame, wild]) == (0.9, 0.7)
    assert charts.loss_curves([tame, wild], chosen=0).light


@pytest.mark.parametrize("losses", [[float("nan")], [], [0.0, 0.0], [float("inf"), 3.0]])
def test_odd_curves_are_drawn_all_the_same(losses):
    curve = Curve(0, range(len(losses)), losses, "died")
    assert drawn(charts.loss_curves([curve], chosen=None).light).shape[2] == 4


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.001, 0.02, [0.001, 0.002, 0.005, 0.01, 0.02]),
        (0.006, 0.009, [0.006, 0.009]),
        (1e-5, 1e-3, [1e-5, 1e-4, 1e-3]),
    ],
)
def test_ticks_of_the_rates(low, high, ticks):
    assert charts._rate_ticks(low, high) == pytest.approx(ticks)


def test_the_rates_plot_is_drawn_without_touching_the_callers_plots():
    plot = charts.rates([(0, 0.001, 0.8), (1, 0.01, 0.9), (2, 0.02, 0.7)], "F-measure", chosen=1)
    assert "roll 1: 0.01, 0.9" in plot.description
    assert drawn(plot.dark).any()
    assert "matplotlib.pyplot" not in sys.modules
