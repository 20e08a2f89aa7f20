"""Drawn food and drink, each by a function of (random numbers, pen). No photograph is used anywhere."""

import math
import random
from collections.abc import Callable

from .drawing import Colour, Pen, blob, curve, jitter, lighter, ring_points

GREENS: tuple[Colour, ...] = ((90, 150, 50), (60, 120, 40), (140, 180, 70), (170, 200, 110))
SAUCES: tuple[Colour, ...] = ((190, 30, 20), (225, 180, 30), (120, 60, 30), (240, 235, 215))
CRUST: Colour = (205, 150, 85)


def scatter(
    rng: random.Random,
    pen: Pen,
    count: int,
    size: float,
    colours: tuple[Colour, ...],
    wide: float,
    high: float,
    rough: float = 0.4,
):
    """Many small lumps within an oval."""
    for _ in range(count):
        a, r = rng.uniform(0, math.tau), math.sqrt(rng.random())
        x, y, s = wide * r * math.cos(a), high * r * math.sin(a), size * rng.uniform(0.6, 1.3)
        lump = blob(rng, s, rough, 9)
        colour = jitter(rng, rng.choice(colours), 18)
        pen.area([(x + px + s * 0.15, y + py + s * 0.2) for px, py in lump], lighter(colour, -0.35))
        pen.area([(x + px, y + py) for px, py in lump], colour)


def wiggle(rng: random.Random, pen: Pen, x0: float, x1: float, height: float, width: float, colour: Colour) -> None:
    """A sauce poured in waves along x."""
    waves = rng.randint(4, 9)
    line = [(x0 + (x1 - x0) * i / 36, height * math.sin(i / 36 * waves * math.tau / 2)) for i in range(37)]
    pen.line(line, width, lighter(colour, -0.2))
    pen.line(line, width * 0.6, colour)


def hot_dog(rng: random.Random, pen: Pen) -> None:
    bun = jitter(rng, rng.choice([(215, 160, 90), (190, 125, 65), (235, 205, 155)]), 15)
    meat = jitter(rng, rng.choice([(165, 60, 40), (130, 50, 35), (195, 90, 60), (95, 45, 35)]), 15)
    bend = rng.uniform(-0.25, 0.25)
    line = curve((-0.85, 0), (0, bend), (0.85, 0))
    low = [(x, y + 0.17) for x, y in line]
    high = [(x, y - 0.17) for x, y in line]
    if rng.random() < 0.4:
        pen.area(
            [(-1.1, -0.3), (1.0, -0.45), (1.1, 0.4), (-1.0, 0.5)],
            jitter(rng, rng.choice([(245, 245, 240), (220, 60, 50)]), 8),
        )
    pen.tube(high, 0.42, bun)
    pen.tube(low, 0.42, lighter(bun, rng.uniform(-0.1, 0.15)))
    if rng.random() < 0.85:
        reach = rng.uniform(0.95, 1.15)
        pen.tube([(x * reach, y) for x, y in line], rng.uniform(0.22, 0.34), meat, 0.4)
    top = rng.random()
    if top < 0.55:
        wiggle(rng, pen, -0.8, 0.8, rng.uniform(0.03, 0.1), rng.uniform(0.05, 0.1), rng.choice(SAUCES))
    if top > 0.35:
        scatter(
            rng, pen, rng.randint(10, 45), rng.uniform(0.05, 0.1), tuple(rng.sample([*SAUCES, *GREENS], 2)), 0.8, 0.14
        )


def sandwich(rng: random.Random, pen: Pen) -> None:
    bread = jitter(rng, CRUST, 20)
    y = 0.45
    for _ in range(rng.randint(1, 2)):
        pen.area([(-0.8, y), (0.8, y), (0.75, y - 0.22), (-0.75, y - 0.22)], bread)
        y -= 0.22
        for colour in rng.sample([GREENS[0], GREENS[2], (200, 60, 50), (240, 200, 80), (225, 150, 140)], 2):
            pen.line(
                [(-0.8 + 0.2 * i, y - 0.05 + rng.uniform(-0.04, 0.04)) for i in range(9)], 0.12, jitter(rng, colour)
            )
            y -= 0.11
    pen.area([(-0.8, y), (0.8, y), (0.7, y - 0.25), (-0.7, y - 0.25)], lighter(bread, 0.1))


def burger(rng: random.Random, pen: Pen) -> None:
    bun = jitter(rng, (205, 145, 75), 18)
    pen.area([(-0.8, 0.3), (0.8, 0.3), (0.7, 0.65), (-0.7, 0.65)], lighter(bun, -0.08))
    pen.line([(-0.8 + 0.2 * i, 0.22 + rng.uniform(-0.05, 0.05)) for i in range(9)], 0.16, jitter(rng, GREENS[0]))
    pen.line([(-0.75, 0.08), (0.75, 0.08)], 0.24, jitter(rng, (95, 55, 35), 12))
    pen.area([(-0.8, -0.04), (0.8, -0.04), (0.4, 0.15), (-0.3, 0.05)], jitter(rng, (250, 190, 50), 10))
    dome = [(0.85 * math.cos(a), -0.05 - 0.62 * math.sin(a)) for a in (math.pi * i / 14 for i in range(15))]
    pen.area(dome, bun)
    pen.oval(-0.2, -0.42, 0.4, 0.14, lighter(bun, 0.25))
    scatter(rng, pen, 14, 0.03, ((250, 240, 215),), 0.55, 0.18) if rng.random() < 0.5 else None


def fries(rng: random.Random, pen: Pen) -> None:
    gold = jitter(rng, rng.choice([(235, 190, 85), (215, 155, 60), (190, 110, 40)]), 15)
    box = rng.random() < 0.4
    for _ in range(rng.randint(14, 36)):
        a = rng.gauss(-math.pi / 2, 0.3) if box else rng.uniform(0, math.tau)
        x, y = (rng.uniform(-0.5, 0.5), 0.1) if box else (rng.uniform(-0.65, 0.65), rng.uniform(-0.5, 0.5))
        r = rng.uniform(0.3, 0.8)
        shade = jitter(rng, gold, 18)
        pen.line([(x, y), (x + r * math.cos(a), y + r * math.sin(a))], 0.14, lighter(shade, -0.3))
        pen.line([(x, y), (x + r * math.cos(a), y + r * math.sin(a))], 0.09, shade)
    if box:
        pen.area(
            [(-0.65, 0), (0.65, 0), (0.5, 0.9), (-0.5, 0.9)], jitter(rng, rng.choice([(210, 40, 40), (240, 240, 235)]))
        )


def plate(rng: random.Random, pen: Pen) -> None:
    colour = jitter(rng, rng.choice([(245, 245, 242), (240, 238, 230), (60, 100, 150), (70, 70, 72)]), 8)
    pen.oval(0.03, 0.06, 1.05, 1.05, lighter(colour, -0.5))
    pen.oval(0, 0, 1.02, 1.02, lighter(colour, -0.06))
    pen.oval(0, 0, 0.74, 0.74, colour)


def steak(rng: random.Random, pen: Pen) -> None:
    plate(rng, pen) if rng.random() < 0.6 else None
    meat = jitter(rng, (110, 62, 42), 18)
    line = [(x, y * 0.75) for x, y in blob(rng, 0.68, 0.4)]
    pen.area([(x + 0.04, y + 0.06) for x, y in line], lighter(meat, -0.5))
    pen.area(line, meat)
    scatter(rng, pen, 14, 0.09, (lighter(meat, 0.12), lighter(meat, -0.25)), 0.45, 0.3)
    for i in range(-2, 3):
        pen.line([(-0.4 + i * 0.17, -0.3), (-0.1 + i * 0.17, 0.3)], 0.05, lighter(meat, -0.6))


def salad(rng: random.Random, pen: Pen) -> None:
    plate(rng, pen) if rng.random() < 0.6 else None
    scatter(rng, pen, rng.randint(25, 45), 0.26, GREENS, 0.6, 0.55, 0.7)
    scatter(rng, pen, rng.randint(4, 14), 0.12, ((215, 50, 40), (240, 235, 220), (240, 150, 60)), 0.55, 0.5)


def rice(rng: random.Random, pen: Pen) -> None:
    plate(rng, pen)
    bits = rng.choice(
        (((245, 240, 225),), ((225, 190, 120), (200, 90, 50), (90, 140, 60)), ((235, 220, 190), (140, 80, 40)))
    )
    scatter(rng, pen, rng.randint(60, 90), 0.06, bits, 0.66, 0.6)


def noodles(rng: random.Random, pen: Pen) -> None:
    plate(rng, pen)
    base = jitter(rng, rng.choice([(235, 205, 130), (225, 160, 80), (245, 235, 205)]), 12)
    for _ in range(rng.randint(18, 30)):
        ends = [(rng.uniform(-0.55, 0.55), rng.uniform(-0.55, 0.55)) for _ in range(3)]
        pen.line(curve(ends[0], ends[1], ends[2], 7), 0.06, lighter(jitter(rng, base, 10), rng.uniform(-0.3, 0.1)))
    scatter(rng, pen, rng.randint(0, 16), 0.1, (*SAUCES[:3], GREENS[0]), 0.4, 0.4)


def soup(rng: random.Random, pen: Pen) -> None:
    plate(rng, pen)
    liquid = jitter(rng, rng.choice([(200, 90, 40), (150, 90, 45), (220, 190, 110), (110, 140, 60), (120, 30, 25)]), 15)
    pen.oval(0, 0, 0.72, 0.72, lighter(liquid, -0.3))
    pen.oval(0.02, 0.02, 0.68, 0.68, liquid)
    scatter(rng, pen, rng.randint(3, 18), 0.11, (GREENS[0], (240, 230, 200), (225, 120, 50)), 0.5, 0.5)


def pizza(rng: random.Random, pen: Pen) -> None:
    crust = jitter(rng, CRUST, 18)
    slice_only = rng.random() < 0.3
    edge = [(0.0, 0.9), (-0.75, -0.7), (0.75, -0.7)] if slice_only else blob(rng, 0.98, 0.05)
    pen.area(edge, crust)
    cheese = jitter(rng, rng.choice([(240, 190, 90), (225, 110, 50), (245, 215, 140)]), 12)
    pen.area([(x * 0.85, y * 0.85 + (0.05 if slice_only else 0)) for x, y in edge], cheese)
    spread = 0.4 if slice_only else 0.7
    scatter(
        rng,
        pen,
        rng.randint(8, 20),
        0.15,
        rng.choice((((185, 50, 35),), ((185, 50, 35), *GREENS[:1]), (*GREENS[:2], (80, 60, 50)))),
        spread,
        spread,
        0.1,
    )
    scatter(rng, pen, 14, 0.05, ((250, 235, 190),), spread, spread)


def rolls(rng: random.Random, pen: Pen) -> None:
    """Spring rolls, nuggets, bread rolls: several short browned cylinders."""
    plate(rng, pen) if rng.random() < 0.5 else None
    crust = jitter(rng, rng.choice([(205, 140, 65), (225, 180, 110), (170, 100, 45)]), 15)
    turn = rng.uniform(0, math.pi)
    for i in range(rng.randint(2, 5)):
        x, y, a = rng.uniform(-0.4, 0.4), -0.5 + 0.28 * i, turn + rng.gauss(0, 0.4)
        dx, dy = 0.35 * math.cos(a), 0.35 * math.sin(a)
        pen.tube([(x - dx, y - dy), (x + dx, y + dy)], rng.uniform(0.26, 0.36), jitter(rng, crust, 10))


def cake(rng: random.Random, pen: Pen) -> None:
    body = jitter(rng, rng.choice([(95, 55, 35), (240, 220, 180), (190, 60, 60), (235, 180, 190)]), 15)
    cream = jitter(rng, rng.choice([(250, 245, 235), (80, 45, 30), (240, 150, 180)]), 10)
    pen.area([(-0.85, -0.1), (0.8, -0.35), (0.8, 0.45), (-0.85, 0.6)], body)
    for y in (0.05, 0.3):
        pen.line([(-0.82, y + 0.05), (0.78, y - 0.18)], 0.1, cream)
    pen.area([(-0.85, -0.1), (0.8, -0.35), (0.35, -0.7), (-0.2, -0.65)], cream)
    pen.ball(0.25, -0.65, 0.16, 0.16, jitter(rng, (210, 30, 40)))


def doughnut(rng: random.Random, pen: Pen) -> None:
    ring = ring_points(26, 0.62)
    pen.line([*ring, *ring[:2]], 0.62, jitter(rng, CRUST))
    icing = jitter(rng, rng.choice([(240, 140, 180), (95, 55, 35), (250, 245, 240), (120, 190, 220)]), 12)
    pen.line([(x, y - 0.03) for x, y in [*ring, *ring[:2]]], 0.44, icing)
    for _ in range(rng.choice((0, 22))):
        a, r = rng.uniform(0, math.tau), rng.uniform(0.47, 0.77)
        pen.oval(
            r * math.cos(a),
            r * math.sin(a),
            0.05,
            0.02,
            jitter(rng, rng.choice(((250, 230, 60), (60, 160, 240), (250, 80, 80)))),
            a,
        )


def egg(rng: random.Random, pen: Pen) -> None:
    white = jitter(rng, (246, 244, 238), 6)
    pen.area(blob(rng, 0.85, 0.3), lighter(white, -0.12))
    pen.area(blob(rng, 0.78, 0.3), white)
    pen.ball(rng.uniform(-0.15, 0.15), 0, 0.34, 0.34, jitter(rng, (245, 180, 40), 12))


def apple(rng: random.Random, pen: Pen) -> None:
    colour = jitter(rng, rng.choice([(200, 35, 40), (130, 180, 60), (230, 190, 60)]), 15)
    pen.ball(-0.22, 0.05, 0.6, 0.72, colour)
    pen.ball(0.22, 0.05, 0.6, 0.72, colour)
    pen.line(curve((0, -0.5), (0.05, -0.8), (0.15, -0.95)), 0.09, (90, 60, 35))
    pen.oval(0.32, -0.82, 0.24, 0.1, jitter(rng, GREENS[0]), -0.4)


def orange(rng: random.Random, pen: Pen) -> None:
    pen.ball(0, 0, 0.85, 0.82, jitter(rng, (240, 140, 30), 15))
    pen.oval(0.05, -0.6, 0.09, 0.06, (90, 120, 50))


def banana(rng: random.Random, pen: Pen) -> None:
    yellow = jitter(rng, (240, 210, 60), 15)
    for i in range(rng.randint(1, 3)):
        bend = 0.55 + 0.25 * i
        line = curve((-0.85, -0.35), (0, bend), (0.85, -0.4))
        pen.tube(line, 0.3, jitter(rng, yellow, 8))
    pen.line([(0.85, -0.4), (0.98, -0.55)], 0.12, (110, 85, 40))


def carrot(rng: random.Random, pen: Pen) -> None:
    orange_ = jitter(rng, (235, 125, 35), 15)
    for i in range(3):
        pen.line(curve((-0.55, 0), (-0.8, -0.1 * i), (-1.05, 0.3 * (i - 1))), 0.1, jitter(rng, GREENS[1]))
    pen.area([(-0.6, -0.24), (-0.5, 0.26), (1.0, 0.03), (1.0, -0.03)], lighter(orange_, -0.15))
    pen.area([(-0.6, -0.24), (-0.55, 0.12), (1.0, 0.0)], orange_)


def ice_cream(rng: random.Random, pen: Pen) -> None:
    pen.area([(-0.42, 0), (0.42, 0), (0, 1)], jitter(rng, (215, 165, 95)))
    for x, y in ((-0.22, -0.15), (0.22, -0.15), (0, -0.5))[: rng.randint(1, 3)]:
        pen.ball(
            x,
            y,
            0.38,
            0.36,
            jitter(rng, rng.choice([(250, 240, 220), (240, 160, 180), (100, 65, 45), (160, 215, 170)]), 10),
        )


def cup(rng: random.Random, pen: Pen) -> None:
    colour = jitter(rng, rng.choice([(245, 245, 245), (200, 50, 50), (60, 110, 170), (90, 140, 90)]), 12)
    ring = ring_points(16, 0.28)
    pen.line([(0.65 + x, 0.1 + y) for x, y in [*ring, *ring[:2]]], 0.12, lighter(colour, -0.15))
    pen.area([(-0.65, -0.5), (0.65, -0.5), (0.5, 0.7), (-0.5, 0.7)], colour)
    pen.area([(0.2, -0.5), (0.65, -0.5), (0.5, 0.7), (0.2, 0.7)], lighter(colour, -0.12))
    pen.oval(0, -0.5, 0.65, 0.17, lighter(colour, -0.08))
    pen.oval(0, -0.48, 0.56, 0.13, jitter(rng, rng.choice([(75, 45, 30), (190, 140, 80)]), 8))


def bottle(rng: random.Random, pen: Pen) -> None:
    glass = jitter(rng, rng.choice([(40, 110, 60), (110, 65, 30), (90, 160, 200), (230, 120, 60), (150, 30, 60)]), 15)
    pen.area(
        [
            (-0.36, -0.1),
            (-0.14, -0.45),
            (-0.14, -0.9),
            (0.14, -0.9),
            (0.14, -0.45),
            (0.36, -0.1),
            (0.36, 0.95),
            (-0.36, 0.95),
        ],
        glass,
    )
    pen.box(-0.28, -0.05, -0.18, 0.85, lighter(glass, 0.35))
    pen.box(-0.17, -1.0, 0.17, -0.84, jitter(rng, rng.choice([(220, 190, 60), (200, 40, 40), (240, 240, 240)])))
    pen.box(-0.36, 0.15, 0.36, 0.6, jitter(rng, rng.choice([(250, 245, 225), (240, 210, 80)]), 8))


def glass_of_beer(rng: random.Random, pen: Pen) -> None:
    beer = jitter(rng, rng.choice([(235, 170, 40), (150, 80, 25)]), 12)
    ring = ring_points(16, 0.34)
    pen.line([(0.58 + x * 0.8, 0.1 + y) for x, y in [*ring, *ring[:2]]], 0.12, (215, 225, 230))
    pen.area([(-0.58, -0.6), (0.58, -0.6), (0.5, 0.85), (-0.5, 0.85)], (215, 225, 230))
    pen.area([(-0.5, -0.5), (0.5, -0.5), (0.43, 0.75), (-0.43, 0.75)], beer)
    pen.box(-0.38, -0.3, -0.25, 0.6, lighter(beer, 0.3))
    for x in (-0.42, -0.15, 0.15, 0.42):
        pen.ball(x, -0.62, 0.24, 0.2, (250, 247, 238), 0.1)


FOODS: dict[str, Callable[[random.Random, Pen], None]] = {
    "hot dog": hot_dog,
    "sandwich": sandwich,
    "burger": burger,
    "fries": fries,
    "steak": steak,
    "salad": salad,
    "rice": rice,
    "noodles": noodles,
    "soup": soup,
    "pizza": pizza,
    "rolls": rolls,
    "cake": cake,
    "doughnut": doughnut,
    "egg": egg,
    "apple": apple,
    "orange": orange,
    "banana": banana,
    "carrot": carrot,
    "ice cream": ice_cream,
    "cup": cup,
    "bottle": bottle,
    "beer": glass_of_beer,
}
