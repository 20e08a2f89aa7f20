import io
import sys

import numpy as np
import pytest
from PIL import Image

from rolltune.evaluation import charts
from rolltune.evaluation.charts import Curve
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


def test_an_axis_of_shares_ends_at_one():
    figure = charts._rate_figure([(0, 0.001, 0.9), (1, 0.01, 1.0), (2, 0.02, 0.95)], "F-measure", 1, LIGHT)
    assert max(figure.axes[0].get_yticks()) <= 1 and figure.axes[0].get_ylim()[1] >= 1


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
