"""What an advertisement is made of, and how it is drawn. Nothing here knows which ones are lawful."""

import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from .drawing import (
    COLOURS,
    OUTLINES,
    Colour,
    Pen,
    blend,
    fit_size,
    jitter,
    lighter,
    luminance,
    print_text,
    ring_points,
    star_points,
)
from .surfaces import clouds, from_mix, pattern
from .things import THINGS
from .words import COMMON, PRAISE, WORDS, price

BADGES = ("burst", "circle", "ribbon", "tag")
PALETTES: tuple[tuple[Colour, Colour, Colour], ...] = (  # ground, second ground, strong colour
    ((255, 244, 214), (255, 205, 130), (200, 60, 40)),
    ((226, 242, 255), (150, 200, 245), (25, 70, 160)),
    ((232, 248, 226), (160, 215, 140), (30, 110, 55)),
    ((255, 232, 240), (250, 170, 195), (160, 30, 90)),
    ((250, 250, 250), (214, 220, 226), (35, 40, 50)),
    ((60, 40, 90), (30, 20, 55), (250, 205, 80)),
    ((20, 60, 80), (10, 30, 45), (120, 230, 220)),
    ((120, 25, 35), (70, 10, 20), (255, 225, 150)),
    ((255, 225, 60), (250, 180, 30), (30, 30, 30)),
    ((40, 42, 46), (15, 15, 18), (255, 255, 255)),
)
NOTES = (
    "Results differ from person to person. See the label for details and limits.",
    "Based on a survey of 300 users in May. Ask your doctor before use.",
    "Terms apply. Read all instructions with care before you use this product.",
    "This statement was not reviewed. Individual results may vary. See our site.",
)
BUTTONS = ("BUY NOW", "SHOP", "ORDER", "CALL US", "VISIT US", "LEARN MORE", "TRY IT")
SLOGANS = (
    "for a good day",
    "made with love",
    "just for you",
    "you deserve it",
    "since 1984",
    "simply good",
    "every day better",
)


@dataclass(frozen=True)
class Badge:
    form: str  # one of BADGES
    text: str
    colour: str  # a name of COLOURS


@dataclass(frozen=True)
class Ad:
    """The parts of an advertisement; None is a part that is not there."""

    product: str  # a name of THINGS
    headline: str
    price: str | None
    badge: Badge | None
    note: str | None  # small print in a box
    button: str | None
    slogan: str | None


def random_ad(rng: random.Random) -> Ad:
    """Any combination of parts."""
    headline = " ".join(w.upper() for w in rng.sample(COMMON if rng.random() < 0.7 else WORDS, rng.choice((1, 1, 2))))
    text = rng.choice(PRAISE) if rng.random() < 0.85 else rng.choice(COMMON).upper()
    badge = Badge(rng.choice(BADGES), text, rng.choice(list(COLOURS)))
    return Ad(
        product=rng.choice(list(THINGS)),
        headline=headline,
        price=price(rng) if rng.random() < 0.6 else None,
        badge=badge if rng.random() < 0.75 else None,
        note=" ".join(rng.sample(WORDS, 12)) if rng.random() < 0.3 else rng.choice((None, None, *NOTES)),
        button=rng.choice(BUTTONS) if rng.random() < 0.5 else None,
        slogan=rng.choice(SLOGANS) if rng.random() < 0.5 else None,
    )


def _ink(rng: random.Random, ground: Colour, strong: Colour) -> Colour:
    if abs(luminance(strong) - luminance(ground)) >= 80:
        return strong
    return (25, 25, 30) if luminance(ground) > 127 else (250, 250, 245)


def draw_badge(rng: random.Random, image: Image.Image, badge: Badge, x: float, y: float, r: float) -> None:
    """A badge with its text, centred at (x, y), about 2 r wide."""
    colour = jitter(rng, COLOURS[badge.colour], 10)
    pen = Pen(ImageDraw.Draw(image), x, y, r, rng.uniform(-0.15, 0.15))
    edge = lighter(colour, -0.35) if luminance(colour) > 60 else lighter(colour, 0.5)
    if badge.form == "burst":
        points = star_points(rng.choice((12, 14, 16)), 0.8)
        pen.area([(px * 1.06, py * 1.06) for px, py in points], edge)
        pen.area(points, colour)
        wide, high = 1.42, 0.8
    elif badge.form == "circle":
        pen.area(ring_points(32), edge)
        pen.area(ring_points(32, 0.92), colour)
        wide, high = 1.5, 0.85
    elif badge.form == "ribbon":
        pen.area([(-1.25, -0.2), (-0.85, -0.25), (-0.85, 0.55), (-1.25, 0.6), (-1.1, 0.2)], edge)
        pen.area([(1.25, -0.2), (0.85, -0.25), (0.85, 0.55), (1.25, 0.6), (1.1, 0.2)], edge)
        pen.box(-1.02, -0.42, 1.02, 0.42, colour)
        wide, high = 1.85, 0.6
    else:
        points = [(-1.15, 0), (-0.75, -0.55), (1.1, -0.55), (1.1, 0.55), (-0.75, 0.55)]
        pen.area([(px * 1.06, py * 1.09) for px, py in points], edge)
        pen.area(points, colour)
        pen.oval(-0.82, 0, 0.1, 0.1, (250, 250, 250))
        wide, high = 1.6, 0.75
    ink = (20, 20, 20) if luminance(colour) > 125 else (255, 255, 255)
    size = fit_size(badge.text, wide * r * 0.97, high * r)
    print_text(
        image,
        badge.text,
        x + (0.18 * r if badge.form == "tag" else 0),
        y,
        size,
        ink,
        -57.3 * pen.turn,
        bold=int(size >= 22),
    )


def draw_note(rng: random.Random, image: Image.Image, text: str, box: tuple[float, float, float, float]) -> None:
    """Small print: lines of small words in a pale box."""
    left, top, right, bottom = box
    draw = ImageDraw.Draw(image)
    paper = jitter(rng, (250, 249, 244), 5)
    draw.rectangle(box, fill=paper, outline=(110, 110, 110), width=max(1, round(image.width / 200)))
    size = max(5, round((bottom - top) / 4.1))
    gap = (bottom - top) / 3.2
    words, y = text.split(), top + gap * 0.6
    while words and y + size / 2 < bottom:
        line = [words.pop(0)]
        while words and fit_size(" ".join([*line, words[0]]), right - left - 6, 4 * size) >= size:
            line.append(words.pop(0))
        length = min(size, fit_size(" ".join(line), right - left - 4, 4 * size, 4))
        print_text(image, " ".join(line), (left + right) / 2, y, length, (60, 60, 65))
        y += gap


def _sheet(rng: random.Random, wide: int, high: int, a: Colour, b: Colour) -> Image.Image:
    kind = rng.choice(("plain", "gradient", "gradient", "rays", "dotted", "striped", "clouds"))
    side = max(wide, high)
    if kind == "rays":
        image = Image.new("RGB", (side, side), a)
        pen = Pen(ImageDraw.Draw(image), side * rng.uniform(0.3, 0.7), side * rng.uniform(0.4, 0.6), side * 1.5)
        spokes = ring_points(28, 1.0, rng.random())
        for i in range(0, 28, 2):
            pen.area([(0, 0), spokes[i], spokes[i + 1]], blend(a, b, 0.35))
    elif kind == "clouds":
        image = from_mix(0.5 + 0.5 * clouds(rng, side, 2, 2, 2), a, b)
    else:
        image = pattern(rng, kind, a, b if kind == "gradient" else blend(a, b, 0.25), side)
    return image.crop((0, 0, wide, high))


def draw_ad(rng: random.Random, ad: Ad, wide: int, high: int) -> Image.Image:
    """The advertisement as an RGB picture; `rng` decides its place, palette and decoration."""
    ground, second, strong = rng.choice(PALETTES)
    if rng.random() < 0.3:
        strong = rng.choice(PALETTES)[2]
    image = _sheet(rng, wide, high, jitter(rng, ground, 10), second)
    draw = ImageDraw.Draw(image)
    ink = _ink(rng, ground, strong)
    unit = min(wide, high)
    bottom_strip = ad.note is not None or ad.button is not None or rng.random() < 0.3
    foot = high * (0.79 if bottom_strip else 0.97)
    headline_top = rng.random() < 0.75
    head = (0.04 * high, 0.24 * high) if headline_top else (foot - 0.2 * high, foot - 0.01 * high)
    body = (head[1] + 0.01 * high, foot - 0.01 * high) if headline_top else (0.03 * high, head[0] - 0.01 * high)

    banner = rng.random() < 0.35
    if banner:
        draw.rectangle((0, head[0] - 0.015 * high, wide, head[1]), fill=strong)
    lines = (head[1] - head[0]) * (0.62 if ad.slogan else 0.85)
    text_ink = ((20, 20, 25) if luminance(strong) > 125 else (255, 255, 255)) if banner else ink
    size = fit_size(ad.headline, 0.92 * wide, lines * 0.8)
    print_text(image, ad.headline, wide / 2, head[0] + lines / 2, size, text_ink, bold=int(size >= 24))
    if ad.slogan:
        small = fit_size(ad.slogan, 0.7 * wide, (head[1] - head[0]) * 0.24)
        print_text(image, ad.slogan, wide / 2, head[1] - (head[1] - head[0]) * 0.2, small, text_ink)

    middle, space = (body[0] + body[1]) / 2, body[1] - body[0]
    alone = ad.badge is None and ad.price is None
    side = rng.choice((-1, 1))
    reach = min(space * 0.46, wide * (0.3 if alone else 0.23))
    x = wide * (0.5 if alone else 0.5 + side * 0.24)
    if rng.random() < 0.6:
        r = reach * 1.12
        draw.ellipse((x - r, middle - r, x + r, middle + r), fill=lighter(second, rng.choice((0.35, 0.6, -0.15))))
    else:
        draw.ellipse(
            (x - reach, middle + reach * 0.7, x + reach, middle + reach * 1.05), fill=blend(second, (0, 0, 0), 0.25)
        )
    THINGS[ad.product](rng, Pen(draw, x, middle, reach * 0.93, rng.uniform(-0.2, 0.2), 1.0, rng.random() < 0.5))

    other = wide * (0.5 - side * 0.24)
    both = ad.badge is not None and ad.price is not None
    if ad.badge is not None:
        r = min(wide * (0.2 if ad.badge.form in ("ribbon", "tag") else 0.235), space * (0.33 if both else 0.44))
        draw_badge(rng, image, ad.badge, other, body[0] + space * (0.35 if both else 0.48), r)
    if ad.price is not None:
        y = body[0] + space * (0.85 if both else 0.5)
        size = fit_size(ad.price, 0.4 * wide, space * (0.22 if both else 0.36))
        print_text(image, ad.price, other, y, size, ink, bold=int(size >= 20))

    if bottom_strip:
        top, end = high * 0.81, high * 0.97
        split = wide * rng.uniform(0.56, 0.64)
        if ad.note is None and rng.random() < 0.5:
            draw.rectangle((0, foot, wide, high), fill=blend(strong, second, 0.3))
        swap = rng.random() < 0.5
        note_box = (wide * 0.04, top, split if ad.button else wide * 0.96, end)
        button_box = (split + wide * 0.04, top + 0.02 * high, wide * 0.96, end - 0.02 * high)
        if swap and ad.button:
            note_box = (wide - note_box[2], top, wide - note_box[0], end)
            button_box = (wide - button_box[2], button_box[1], wide - button_box[0], button_box[3])
        if ad.note is not None:
            draw_note(rng, image, ad.note, note_box)
        elif ad.button is not None and rng.random() < 0.5:
            shift = wide / 2 - (button_box[0] + button_box[2]) / 2
            button_box = (button_box[0] + shift, button_box[1], button_box[2] + shift, button_box[3])
        if ad.button is not None:
            fill = jitter(
                rng, rng.choice([(230, 60, 40), (40, 130, 70), (30, 90, 190), (30, 30, 35), (245, 150, 30)]), 8
            )
            draw.rounded_rectangle(button_box, radius=round(unit * 0.03), fill=fill, outline=lighter(fill, 0.5))
            room = (button_box[2] - button_box[0]) * 0.86, (button_box[3] - button_box[1]) * 0.55
            centre = (button_box[0] + button_box[2]) / 2, (button_box[1] + button_box[3]) / 2
            print_text(image, ad.button, *centre, fit_size(ad.button, *room), (255, 255, 255))
    if rng.random() < 0.3:
        draw.rectangle((1, 1, wide - 2, high - 2), outline=strong, width=max(2, unit // 80))
    if rng.random() < 0.25:
        for _ in range(5):
            r = unit * rng.uniform(0.01, 0.025)
            Pen(draw, rng.uniform(0, wide), rng.uniform(body[0], body[1]), r).area(
                OUTLINES["star"], lighter(strong, 0.3)
            )
    return image
