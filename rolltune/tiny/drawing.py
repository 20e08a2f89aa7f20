"""Pens, colours, shapes and printed words: what every generated picture is drawn with.

Only Pillow's built-in scalable font is used, so that a picture is the same on every machine.
"""

import functools
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Point = tuple[float, float]

COLOURS: dict[str, Colour] = {
    "red": (220, 35, 35),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 220, 40),
    "orange": (245, 140, 30),
    "purple": (130, 50, 180),
    "pink": (245, 140, 190),
    "brown": (130, 80, 40),
    "black": (20, 20, 20),
    "white": (248, 248, 248),
    "gray": (135, 135, 135),
    "cyan": (60, 205, 225),
}
SHAPES = (
    "circle",
    "square",
    "triangle",
    "star",
    "heart",
    "cross",
    "ring",
    "diamond",
    "moon",
    "arrow",
    "drop",
    "hexagon",
)
FILLS = ("plain", "striped", "dotted", "hollow")


def jitter(rng: random.Random, colour: Colour, amount: int = 18) -> Colour:
    """A colour near this one."""
    red, green, blue = (min(255, max(0, c + rng.randint(-amount, amount))) for c in colour)
    return red, green, blue


def blend(a: Colour, b: Colour, part: float) -> Colour:
    """`part` 0 gives a, 1 gives b."""
    red, green, blue = (round(x + (y - x) * part) for x, y in zip(a, b, strict=True))
    return red, green, blue


def lighter(colour: Colour, part: float) -> Colour:
    """Towards white for a positive part, towards black for a negative one."""
    return blend(colour, (255, 255, 255), part) if part >= 0 else blend(colour, (0, 0, 0), -part)


def luminance(colour: Colour) -> float:
    return 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2]


def distance(a: Colour, b: Colour) -> float:
    return math.dist(a, b)


def readable(rng: random.Random, ground: Colour, least: float = 90) -> Colour:
    """A colour of the palette whose brightness differs enough from the ground to be read on it."""
    names = [n for n, c in COLOURS.items() if abs(luminance(c) - luminance(ground)) >= least]
    return (
        jitter(rng, COLOURS[rng.choice(names)], 8) if names else ((0, 0, 0) if luminance(ground) > 127 else (255,) * 3)
    )


def ring_points(n: int, radius: float = 1.0, start: float = 0.0) -> list[Point]:
    return [
        (radius * math.cos(start + math.tau * i / n), radius * math.sin(start + math.tau * i / n)) for i in range(n)
    ]


def star_points(tips: int, inner: float, start: float = -math.pi / 2) -> list[Point]:
    """A star of `tips` tips of radius 1, its notches at radius `inner`."""
    step = math.pi / tips
    return [
        (
            (1.0 if i % 2 == 0 else inner) * math.cos(start + i * step),
            (1.0 if i % 2 == 0 else inner) * math.sin(start + i * step),
        )
        for i in range(2 * tips)
    ]


def _heart() -> list[Point]:
    turns = [math.tau * i / 28 for i in range(28)]
    return [
        (math.sin(t) ** 3, -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16)
        for t in turns
    ]


def _moon() -> list[Point]:
    outer = [(math.cos(a), math.sin(a)) for a in (math.radians(50 + 260 * i / 20) for i in range(21))]
    inner = [
        (0.35 + 0.77 * math.cos(a), 0.77 * math.sin(a)) for a in (math.radians(285 - 210 * i / 16) for i in range(17))
    ]
    return outer + inner


OUTLINES: dict[str, list[Point]] = {
    "circle": ring_points(28),
    "ring": ring_points(28),
    "square": [(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)],
    "triangle": [(0, -1), (0.95, 0.8), (-0.95, 0.8)],
    "star": star_points(5, 0.42),
    "heart": _heart(),
    "cross": [
        *[(-0.32, -0.95), (0.32, -0.95), (0.32, -0.32), (0.95, -0.32), (0.95, 0.32), (0.32, 0.32)],
        *[(0.32, 0.95), (-0.32, 0.95), (-0.32, 0.32), (-0.95, 0.32), (-0.95, -0.32), (-0.32, -0.32)],
    ],
    "diamond": [(0, -1), (0.7, 0), (0, 1), (-0.7, 0)],
    "moon": _moon(),
    "arrow": [(-1, -0.3), (0.1, -0.3), (0.1, -0.8), (1, 0), (0.1, 0.8), (0.1, 0.3), (-1, 0.3)],
    "drop": [
        (0, -1),
        *[
            (0.65 * math.cos(a), 0.35 + 0.65 * math.sin(a))
            for a in (math.radians(-25 + 230 * i / 16) for i in range(17))
        ],
    ],
    "hexagon": ring_points(6),
}


@dataclass(frozen=True)
class Pen:
    """Draws in its own coordinates (about -1..1 each way) at a place, size, turn and stretch of the picture."""

    draw: ImageDraw.ImageDraw
    x: float
    y: float
    size: float
    turn: float = 0.0
    stretch: float = 1.0
    flip: bool = False

    def place(self, points: Sequence[Point]) -> list[Point]:
        c, s = math.cos(self.turn), math.sin(self.turn)
        across = self.size * self.stretch * (-1 if self.flip else 1)
        moved = [(px * across, py * self.size) for px, py in points]
        return [(self.x + c * px - s * py, self.y + s * px + c * py) for px, py in moved]

    def area(self, points: Sequence[Point], colour: Colour) -> None:
        self.draw.polygon(self.place(points), fill=colour)

    def oval(self, x: float, y: float, rx: float, ry: float, colour: Colour, turn: float = 0.0) -> None:
        c, s = math.cos(turn), math.sin(turn)
        ring = [(rx * px, ry * py) for px, py in ring_points(20)]
        self.area([(x + c * px - s * py, y + s * px + c * py) for px, py in ring], colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.area([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], colour)

    def line(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A line with round ends and joints."""
        placed = self.place(points)
        wide = max(1.0, width * self.size)
        self.draw.line(placed, fill=colour, width=round(wide), joint="curve")
        if wide >= 3:
            r = wide / 2
            for px, py in (placed[0], placed[-1]):
                self.draw.ellipse((px - r, py - r, px + r, py + r), fill=colour)

    def tube(self, points: Sequence[Point], width: float, colour: Colour, gloss: float = 0.25) -> None:
        """A line that looks round: dark at the rim, light along the middle."""
        self.line(points, width, lighter(colour, -0.25))
        self.line(points, width * 0.8, colour)
        self.line(points, width * 0.4, lighter(colour, gloss * 0.5))
        self.line(points, width * 0.16, lighter(colour, gloss))

    def ball(self, x: float, y: float, rx: float, ry: float, colour: Colour, gloss: float = 0.35) -> None:
        """An oval that looks round."""
        self.oval(x, y, rx, ry, lighter(colour, -0.25))
        self.oval(x - 0.06 * rx, y - 0.06 * ry, rx * 0.88, ry * 0.88, colour)
        self.oval(x - 0.25 * rx, y - 0.28 * ry, rx * 0.45, ry * 0.45, lighter(colour, gloss * 0.5))
        self.oval(x - 0.32 * rx, y - 0.36 * ry, rx * 0.18, ry * 0.18, lighter(colour, gloss))


def curve(a: Point, b: Point, c: Point, steps: int = 10) -> list[Point]:
    """A quadratic Bezier curve from a to c, pulled towards b."""
    parts = [i / steps for i in range(steps + 1)]
    along = lambda t, axis: (1 - t) ** 2 * a[axis] + 2 * t * (1 - t) * b[axis] + t * t * c[axis]
    return [(along(t, 0), along(t, 1)) for t in parts]


def blob(rng: random.Random, radius: float = 1.0, rough: float = 0.25, n: int = 24) -> list[Point]:
    """A closed wobbly outline."""
    waves = [(k, rng.uniform(-rough, rough) / k, rng.uniform(0, math.tau)) for k in (2, 3, 4)]
    out = []
    for i in range(n):
        a = math.tau * i / n
        r = radius * (1 + sum(h * math.sin(k * a + p) for k, h, p in waves))
        out.append((r * math.cos(a), r * math.sin(a)))
    return out


def paint_shape(
    image: Image.Image, shape: str, x: float, y: float, r: float, colour: Colour, fill: str, turn: float
) -> None:
    """One of SHAPES in one of FILLS onto an RGB picture. Striped and dotted leave the ground in the gaps."""
    pen = Pen(ImageDraw.Draw(image), x, y, r, turn)
    outline = OUTLINES[shape]
    if shape == "ring" or fill == "hollow":
        placed = pen.place(outline)
        width = max(2, round(r * (0.38 if shape == "ring" else 0.2)))
        pen.draw.line([*placed, *placed[:2]], fill=colour, width=width, joint="curve")
    elif fill == "plain":
        pen.area(outline, colour)
    else:
        mask = Image.new("L", image.size, 0)
        inside = ImageDraw.Draw(mask)
        inside.polygon(pen.place(outline), fill=255)
        step = max(5, round(r * 0.4))
        left, top, right, bottom = (round(v) for v in (x - r, y - r, x + r, y + r))
        if fill == "striped":
            for row in range(top, bottom + 1, step):
                inside.rectangle((left, row, right, row + step * 0.42), fill=0)
        else:
            for row in range(top, bottom + 1, step):
                for col in range(left, right + 1, step):
                    inside.ellipse((col, row, col + step * 0.55, row + step * 0.55), fill=0)
        image.paste(colour, (0, 0), mask)
        placed = pen.place(outline)
        pen.draw.line([*placed, placed[0]], fill=colour, width=max(1, round(r * 0.1)))


@functools.lru_cache(maxsize=128)
def font(size: int) -> ImageFont.FreeTypeFont:
    found = ImageFont.load_default(size)
    if not isinstance(found, ImageFont.FreeTypeFont):
        raise RuntimeError("this Pillow has no FreeType, and its built-in font has one size only")
    return found


@functools.lru_cache(maxsize=4096)
def text_box(text: str, size: int) -> tuple[int, ...]:
    """The inked box of a text drawn at (0, 0)."""
    return tuple(int(v) for v in font(size).getbbox(text))


def fit_size(text: str, width: float, height: float, least: int = 6) -> int:
    """The largest font size at which the text's ink fits into width x height."""
    left, top, right, bottom = text_box(text, 40)
    scale = min(width / max(1, right - left), height / max(1, bottom - top))
    return max(least, int(40 * scale))


def print_text(
    image: Image.Image, text: str, x: float, y: float, size: int, colour: Colour, turn: float = 0.0, bold: int = 0
):
    """Print with the ink's centre at (x, y); `turn` in degrees, `bold` in pixels of extra stroke."""
    left, top, right, bottom = text_box(text, size)
    if not turn:
        at = (x - (left + right) / 2, y - (top + bottom) / 2)
        ImageDraw.Draw(image).text(at, text, font=font(size), fill=colour, stroke_width=bold)
        return
    wide, high = right - left + 4 + 2 * bold, bottom - top + 4 + 2 * bold
    mask = Image.new("L", (wide, high), 0)
    ImageDraw.Draw(mask).text((2 + bold - left, 2 + bold - top), text, font=font(size), fill=255, stroke_width=bold)
    mask = mask.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    image.paste(colour, (round(x - mask.width / 2), round(y - mask.height / 2)), mask)
