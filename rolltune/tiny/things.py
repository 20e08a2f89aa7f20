"""Drawn things that are no food, and the table of everything that can stand in a picture."""

import math
import random
from collections.abc import Callable

from .drawing import COLOURS, Pen, blob, curve, jitter, lighter, ring_points, star_points
from .foods import FOODS, GREENS, scatter

Draw = Callable[[random.Random, Pen], None]


def _any(rng: random.Random) -> tuple[int, int, int]:
    return jitter(rng, rng.choice(list(COLOURS.values())), 20)


def tree(rng: random.Random, pen: Pen) -> None:
    pen.line(curve((0, 1), (rng.uniform(-0.15, 0.15), 0.5), (0, -0.1)), 0.2, jitter(rng, (100, 70, 45)))
    leaf = jitter(rng, rng.choice([*GREENS[:2], (200, 120, 40)]), 18)
    if rng.random() < 0.35:
        for y in (0.45, 0.0, -0.45):
            pen.area(
                [(-0.75 - y * 0.4, y + 0.25), (0.75 + y * 0.4, y + 0.25), (0, y - 0.55)], lighter(leaf, -y * 0.2 - 0.1)
            )
    else:
        scatter(rng, pen, 40, 0.24, (leaf, lighter(leaf, -0.2), lighter(leaf, 0.15)), 0.7, 0.6)


def flower(rng: random.Random, pen: Pen) -> None:
    pen.line(curve((0, 0), (0.15, 0.5), (0, 1)), 0.08, jitter(rng, GREENS[1]))
    petal = _any(rng)
    n = rng.choice((5, 6, 8, 11))
    for x, y in ring_points(n, 0.5):
        pen.oval(x, y - 0.25, 0.36, 0.2, petal, math.atan2(y, x))
    pen.ball(0, -0.25, 0.22, 0.22, jitter(rng, rng.choice([(240, 200, 50), (90, 60, 30)])))


def leaf(rng: random.Random, pen: Pen) -> None:
    green = jitter(rng, rng.choice([*GREENS, (190, 110, 40)]), 18)
    wide = rng.uniform(0.3, 0.6)
    pen.area(curve((-0.9, 0), (0, -2 * wide), (0.9, 0)) + curve((0.9, 0), (0, 2 * wide), (-0.9, 0)), green)
    pen.line([(-1.0, 0), (0.85, 0)], 0.05, lighter(green, -0.3))
    for i in range(-3, 4):
        for up in (-1, 1):
            pen.line([(i * 0.22, 0), (i * 0.22 + 0.2, up * wide * 0.6 * (1 - abs(i) / 5))], 0.03, lighter(green, -0.25))


def house(rng: random.Random, pen: Pen) -> None:
    wall = jitter(rng, rng.choice([(230, 215, 185), (180, 90, 70), (240, 240, 235), (150, 180, 200)]), 15)
    pen.box(-0.75, -0.15, 0.75, 0.85, wall)
    pen.area(
        [(-0.95, -0.12), (0, -0.9), (0.95, -0.12)],
        jitter(rng, rng.choice([(150, 60, 45), (80, 80, 90), (110, 75, 50)])),
    )
    pen.box(-0.14, 0.3, 0.18, 0.85, jitter(rng, (110, 70, 45)))
    for x in (-0.5, 0.5):
        pen.box(x - 0.16, 0.1, x + 0.16, 0.42, jitter(rng, (150, 200, 230)))


def car(rng: random.Random, pen: Pen) -> None:
    paint = _any(rng)
    pen.area([(-0.55, -0.05), (-0.35, -0.45), (0.35, -0.45), (0.6, -0.05)], lighter(paint, -0.15))
    pen.area([(-0.42, -0.08), (-0.28, -0.37), (0, -0.37), (0, -0.08)], (190, 220, 235))
    pen.area([(0.06, -0.08), (0.06, -0.37), (0.28, -0.37), (0.45, -0.08)], (190, 220, 235))
    pen.area([(-1, -0.05), (0.9, -0.05), (1, 0.15), (1, 0.38), (-1, 0.38)], paint)
    for x in (-0.55, 0.55):
        pen.oval(x, 0.38, 0.24, 0.24, (30, 30, 32))
        pen.oval(x, 0.38, 0.11, 0.11, (170, 170, 175))


def face(rng: random.Random, pen: Pen) -> None:
    skin = jitter(rng, rng.choice([(240, 200, 170), (200, 150, 110), (120, 80, 55), (225, 175, 140)]), 12)
    hair = jitter(rng, rng.choice([(40, 30, 25), (120, 75, 40), (215, 180, 100), (150, 150, 150)]), 12)
    pen.oval(0, -0.15, 0.72, 0.8, hair)
    pen.oval(0, 0.1, 0.58, 0.75, skin)
    for x in (-0.24, 0.24):
        pen.oval(x, -0.02, 0.12, 0.08, (250, 250, 250))
        pen.oval(x, -0.02, 0.05, 0.06, (50, 40, 35))
    pen.line([(0, 0.05), (-0.06, 0.28), (0.04, 0.3)], 0.04, lighter(skin, -0.25))
    pen.line(curve((-0.22, 0.5), (0, 0.5 + rng.uniform(-0.12, 0.2)), (0.22, 0.5)), 0.07, (170, 60, 60))


def person(rng: random.Random, pen: Pen) -> None:
    skin = jitter(rng, rng.choice([(240, 200, 170), (120, 80, 55), (205, 155, 120)]), 12)
    shirt, legs = _any(rng), _any(rng)
    for side in (-1, 1):
        pen.line([(0.1 * side, 0.2), (rng.uniform(0.1, 0.35) * side, 0.95)], 0.2, legs)
        pen.line(
            [(0.2 * side, -0.35), (rng.uniform(0.4, 0.7) * side, rng.uniform(-0.3, 0.2))], 0.15, lighter(shirt, -0.1)
        )
    pen.area([(-0.28, -0.45), (0.28, -0.45), (0.22, 0.3), (-0.22, 0.3)], shirt)
    pen.ball(0, -0.7, 0.22, 0.25, skin, 0.1)


def cat(rng: random.Random, pen: Pen) -> None:
    fur = jitter(rng, rng.choice([(60, 55, 55), (205, 130, 60), (170, 165, 160), (240, 235, 225)]), 15)
    for x in (-1, 1):
        pen.area([(x * 0.62, -0.15), (x * 0.5, -0.95), (x * 0.08, -0.5)], fur)
    pen.ball(0, 0.1, 0.72, 0.65, fur, 0.1)
    for x in (-0.28, 0.28):
        pen.oval(x, -0.02, 0.14, 0.12, jitter(rng, (170, 200, 70)))
        pen.oval(x, -0.02, 0.04, 0.11, (20, 20, 20))
        for dy in (-0.06, 0.06):
            pen.line([(x * 0.7, 0.32), (x * 3, 0.3 + dy * 3)], 0.02, lighter(fur, 0.6))
    pen.area([(-0.09, 0.24), (0.09, 0.24), (0, 0.34)], (225, 130, 140))


def dog(rng: random.Random, pen: Pen) -> None:
    fur = jitter(rng, rng.choice([(140, 95, 55), (225, 195, 150), (70, 55, 45), (235, 230, 225)]), 15)
    for x in (-0.45, -0.2, 0.3, 0.5):
        pen.line([(x, 0.2), (x + rng.uniform(-0.06, 0.06), 0.85)], 0.15, lighter(fur, -0.1))
    pen.line(curve((-0.6, 0), (-0.9, -0.2), (-0.95, -0.5)), 0.1, fur)
    pen.ball(0, 0.12, 0.68, 0.32, fur, 0.15)
    pen.ball(0.62, -0.3, 0.3, 0.28, fur, 0.15)
    pen.oval(0.88, -0.2, 0.18, 0.12, lighter(fur, 0.1))
    pen.oval(1.02, -0.22, 0.06, 0.05, (25, 20, 20))
    pen.oval(0.45, -0.25, 0.11, 0.27, lighter(fur, -0.3), 0.2)
    pen.oval(0.7, -0.38, 0.04, 0.04, (20, 20, 20))


def bird(rng: random.Random, pen: Pen) -> None:
    colour = _any(rng)
    pen.ball(0, 0.05, 0.6, 0.38, colour, 0.15)
    pen.area([(-0.5, 0), (-1.05, -0.2), (-1.0, 0.15)], lighter(colour, -0.2))
    pen.ball(0.5, -0.32, 0.27, 0.25, colour, 0.15)
    pen.area([(0.72, -0.4), (1.02, -0.28), (0.72, -0.22)], (240, 170, 40))
    pen.oval(0.56, -0.38, 0.05, 0.05, (15, 15, 15))
    pen.area([(-0.3, -0.1), (0.25, 0.0), (-0.35, 0.38)], lighter(colour, -0.3))
    for x in (-0.05, 0.12):
        pen.line([(x, 0.4), (x, 0.8)], 0.05, (220, 140, 40))


def fish(rng: random.Random, pen: Pen) -> None:
    colour = _any(rng)
    pen.area([(-0.55, 0), (-1, -0.42), (-1, 0.42)], lighter(colour, -0.15))
    pen.ball(0.1, 0, 0.75, 0.42, colour)
    for i in range(3):
        pen.line(
            curve((-0.2 + i * 0.25, -0.25), (-0.1 + i * 0.25, 0), (-0.2 + i * 0.25, 0.25)), 0.04, lighter(colour, -0.3)
        )
    pen.oval(0.6, -0.1, 0.08, 0.08, (250, 250, 250))
    pen.oval(0.6, -0.1, 0.04, 0.04, (10, 10, 10))


def snake(rng: random.Random, pen: Pen) -> None:
    colour = jitter(rng, rng.choice([*GREENS, (140, 110, 70), (190, 60, 50), (70, 65, 60)]), 15)
    waves = rng.uniform(1, 2)
    line = [(-0.95 + 1.9 * i / 30, rng.uniform(0.28, 0.3) * math.sin(i / 30 * waves * math.tau)) for i in range(31)]
    pen.tube(line, rng.uniform(0.15, 0.28), colour)
    pen.ball(*line[-1], 0.18, 0.14, colour, 0.15)


def butterfly(rng: random.Random, pen: Pen) -> None:
    wing = _any(rng)
    for x in (-1, 1):
        pen.oval(x * 0.48, -0.3, 0.45, 0.4, wing, x * 0.5)
        pen.oval(x * 0.4, 0.38, 0.34, 0.32, lighter(wing, -0.2), -x * 0.4)
        pen.oval(x * 0.5, -0.3, 0.18, 0.16, lighter(wing, 0.5))
    pen.line([(0, -0.5), (0, 0.6)], 0.12, (40, 35, 35))


def boat(rng: random.Random, pen: Pen) -> None:
    pen.line([(0, 0.35), (0, -0.95)], 0.06, (100, 75, 50))
    pen.area([(0.06, -0.9), (0.06, 0.2), (0.75, 0.2)], jitter(rng, (245, 240, 230)))
    pen.area([(-0.06, -0.7), (-0.06, 0.2), (-0.55, 0.2)], _any(rng))
    pen.area([(-0.95, 0.35), (0.95, 0.35), (0.6, 0.8), (-0.65, 0.8)], _any(rng))


def ball(rng: random.Random, pen: Pen) -> None:
    colour = _any(rng)
    pen.ball(0, 0, 0.85, 0.85, colour)
    if rng.random() < 0.6:
        pen.line(curve((-0.8, -0.2), (0, rng.uniform(-0.6, 0.6)), (0.8, -0.2)), 0.1, _any(rng))


def book(rng: random.Random, pen: Pen) -> None:
    colour = _any(rng)
    pen.box(-0.6, -0.85, 0.66, 0.85, (240, 236, 225))
    pen.box(-0.66, -0.88, 0.58, 0.8, colour)
    pen.box(-0.66, -0.88, -0.52, 0.8, lighter(colour, -0.3))
    pen.box(-0.35, -0.6, 0.42, -0.3, lighter(colour, 0.7))


def chair(rng: random.Random, pen: Pen) -> None:
    colour = jitter(rng, rng.choice([(130, 85, 50), (60, 60, 65), (200, 60, 50)]), 15)
    for x in (-0.5, 0.45):
        pen.line([(x, -0.95 if x < 0 else 0.1), (x, 0.95)], 0.12, lighter(colour, -0.15))
    pen.line([(-0.25, 0.2), (-0.25, 0.75)], 0.1, lighter(colour, -0.3))
    pen.line([(0.65, 0.2), (0.65, 0.75)], 0.1, lighter(colour, -0.3))
    pen.area([(-0.55, -0.9), (-0.3, -0.8), (-0.3, 0.05), (-0.55, 0.1)], colour)
    pen.area([(-0.55, 0.1), (0.5, 0.1), (0.72, 0.25), (-0.3, 0.28)], lighter(colour, 0.15))


def lamp(rng: random.Random, pen: Pen) -> None:
    pen.line([(0, -0.2), (0, 0.85)], 0.09, (90, 85, 80))
    pen.oval(0, 0.88, 0.42, 0.12, (90, 85, 80))
    pen.area(
        [(-0.32, -0.9), (0.32, -0.9), (0.62, -0.15), (-0.62, -0.15)],
        jitter(rng, rng.choice([(250, 230, 170), (200, 80, 70), (90, 140, 150)])),
    )


def clock(rng: random.Random, pen: Pen) -> None:
    pen.oval(0, 0, 0.9, 0.9, _any(rng))
    pen.oval(0, 0, 0.74, 0.74, (248, 246, 240))
    for x, y in ring_points(12, 0.62):
        pen.oval(x, y, 0.05, 0.05, (40, 40, 40))
    for length, width in ((0.5, 0.06), (0.34, 0.09)):
        a = rng.uniform(0, math.tau)
        pen.line([(0, 0), (length * math.cos(a), length * math.sin(a))], width, (30, 30, 30))


def phone(rng: random.Random, pen: Pen) -> None:
    pen.box(-0.48, -0.92, 0.48, 0.92, jitter(rng, rng.choice([(35, 35, 40), (225, 225, 230)])))
    screen = _any(rng)
    pen.box(-0.4, -0.76, 0.4, 0.72, screen)
    for i in range(6):
        x, y = -0.24 + 0.24 * (i % 3), -0.5 + 0.3 * (i // 3)
        pen.box(x - 0.08, y - 0.08, x + 0.08, y + 0.08, lighter(screen, 0.5))


def shoe(rng: random.Random, pen: Pen) -> None:
    colour = _any(rng)
    pen.area([(-0.9, -0.5), (-0.3, -0.5), (-0.1, -0.1), (0.6, 0.1), (0.95, 0.35), (-0.9, 0.35)], colour)
    pen.box(-0.92, 0.33, 0.97, 0.52, (245, 245, 242))
    for i in range(3):
        pen.line([(-0.22 + 0.2 * i, -0.28 + 0.14 * i), (-0.02 + 0.2 * i, -0.3 + 0.12 * i)], 0.06, (250, 250, 250))


def tube(rng: random.Random, pen: Pen) -> None:
    """A tube of cream or paste."""
    colour = _any(rng)
    pen.area([(-0.5, -0.95), (0.5, -0.95), (0.36, 0.6), (-0.36, 0.6)], colour)
    pen.area([(-0.5, -0.95), (-0.3, -0.95), (-0.2, 0.6), (-0.36, 0.6)], lighter(colour, 0.35))
    pen.box(-0.36, -0.5, 0.34, -0.05, lighter(colour, 0.75))
    pen.box(-0.26, 0.6, 0.26, 0.95, jitter(rng, (240, 240, 240)))


def pills(rng: random.Random, pen: Pen) -> None:
    a, b = _any(rng), jitter(rng, (245, 245, 240))
    for i in range(rng.randint(2, 4)):
        x, y, t = rng.uniform(-0.3, 0.3), -0.6 + 0.42 * i, rng.uniform(0, math.pi)
        dx, dy = 0.36 * math.cos(t), 0.36 * math.sin(t)
        pen.line([(x - dx, y - dy), (x + dx, y + dy)], 0.34, lighter(b, -0.1))
        pen.line([(x, y), (x + dx, y + dy)], 0.34, a)
        pen.line([(x - dx * 0.8, y - dy * 0.8 - 0.06), (x + dx * 0.8, y + dy * 0.8 - 0.06)], 0.07, lighter(a, 0.6))


def jar(rng: random.Random, pen: Pen) -> None:
    colour = _any(rng)
    pen.box(-0.62, -0.5, 0.62, 0.8, colour)
    pen.box(-0.5, -0.45, -0.32, 0.75, lighter(colour, 0.4))
    pen.box(-0.66, -0.85, 0.66, -0.5, jitter(rng, rng.choice([(235, 235, 235), (215, 180, 80), (50, 50, 55)])))
    pen.box(-0.62, -0.15, 0.62, 0.45, jitter(rng, (250, 248, 240), 5))


def stone(rng: random.Random, pen: Pen) -> None:
    gray = jitter(rng, rng.choice([(130, 128, 122), (90, 85, 80), (165, 150, 130)]), 15)
    pen.area(blob(rng, 0.9, 0.35), lighter(gray, -0.3))
    pen.area([(x * 0.85 - 0.08, y * 0.8 - 0.1) for x, y in blob(rng, 0.85, 0.35)], gray)
    scatter(rng, pen, 18, 0.07, (lighter(gray, 0.15), lighter(gray, -0.2)), 0.6, 0.55)


def sun(rng: random.Random, pen: Pen) -> None:
    gold = jitter(rng, (250, 200, 50), 12)
    pen.area(star_points(rng.choice((9, 12, 14)), 0.68), gold)
    pen.ball(0, 0, 0.6, 0.6, lighter(gold, 0.15), 0.2)


OTHERS: dict[str, Draw] = {
    "tree": tree, "flower": flower, "leaf": leaf, "house": house, "car": car, "face": face, "person": person,
    "cat": cat, "dog": dog, "bird": bird, "fish": fish, "snake": snake, "butterfly": butterfly, "boat": boat,
    "ball": ball, "book": book, "chair": chair, "lamp": lamp, "clock": clock, "phone": phone, "shoe": shoe,
    "tube": tube, "pills": pills, "jar": jar, "stone": stone, "sun": sun,
}  # fmt: skip
THINGS: dict[str, Draw] = FOODS | OTHERS


def plural(name: str) -> str:
    """ "cup" -> "cups"; names that already mean several stay."""
    if name in ("fries", "noodles", "rolls", "pills", "rice", "fish", "salad", "soup", "beer"):
        return name
    irregular = {"leaf": "leaves", "person": "people", "butterfly": "butterflies", "sandwich": "sandwiches"}
    return irregular.get(name, name + "s")
