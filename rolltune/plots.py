"""Plots as PNG for pages: one look, each for a light and a dark page."""

import io
from collections.abc import Callable
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

WIDTH = 5.8  # inches: on a phone's 340 pixels, letters of 9 points still have 7


class Shades(NamedTuple):
    ink: str
    grid: str
    accent: str
    muted: str
    bad: str


LIGHT = Shades("#4a4e57", "#e1dfd8", "#0b6e69", "#9aa9af", "#be3c28")
DARK = Shades("#b6bac2", "#31353d", "#4fc3b8", "#65717c", "#ec6c54")


class Plot(NamedTuple):
    """The same plot twice, PNG with a transparent ground."""

    light: bytes
    dark: bytes
    description: str  # for who cannot see it


def both(draw: Callable[[Shades], Figure], description: str) -> Plot:
    return Plot(_png(draw(LIGHT)), _png(draw(DARK)), description)


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)  # no window system, and no state shared with the caller's own plots
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=250, transparent=True, metadata={"Software": None})
    return file.getvalue()


def axes_of(shades: Shades, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(shades.grid)
    axes.tick_params(colors=shades.ink, labelsize=9, length=0)
    axes.grid(axis="y", color=shades.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def name_axes(axes: Axes, shades: Shades, x: str, y: str) -> None:
    axes.set_xlabel(x, color=shades.ink, fontsize=9)
    axes.set_ylabel(y, color=shades.ink, fontsize=9)
