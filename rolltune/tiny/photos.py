"""The world that comes nearest to photographs: things on textured grounds in changing light, and bare surfaces."""

import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from .asking import DRAWN, Asker, Question, article, yes
from .drawing import COLOURS, Pen, blob, jitter, lighter
from .foods import FOODS, plate
from .surfaces import PATTERNS, TEXTURES, clouds, ground, pattern, texture
from .things import OTHERS, THINGS, plural

PALETTE = np.asarray(list(COLOURS.values()), np.float32)


@dataclass(frozen=True)
class Photo:
    things: tuple[tuple[str, int], ...]  # names and how many of each
    ground: str | None  # of TEXTURES or PATTERNS; None where neither
    spot: str | None  # of a single thing: left, right, middle
    size: str | None  # of a single thing: large, small


@dataclass(frozen=True)
class Surface:
    names: tuple[str, ...]  # of one texture or pattern; of the left and the right half
    alike: bool | None


def _behind(rng: random.Random) -> tuple[Image.Image, str | None]:
    if rng.random() < 0.65:
        name = rng.choice(TEXTURES)
        return texture(rng, name, DRAWN // 2).resize((DRAWN, DRAWN), Image.Resampling.BILINEAR), name
    image, _ = ground(rng, DRAWN // 2)
    return image.resize((DRAWN, DRAWN), Image.Resampling.BILINEAR), None


def _name(rng: random.Random) -> str:
    if rng.random() < 0.2:
        return "hot dog"
    return rng.choice(list(FOODS)) if rng.random() < 0.55 else rng.choice(list(OTHERS))


def _litter(rng: random.Random, draw: ImageDraw.ImageDraw) -> None:
    """Shapes without a name around the thing, so that it is not the only thing on its ground."""
    for _ in range(rng.choice((0, 0, 0, 1, 2, 3))):
        colour = jitter(rng, rng.choice(list(COLOURS.values())), 50)
        pen = Pen(
            draw,
            rng.uniform(0, DRAWN),
            rng.choice((rng.uniform(0, 50), DRAWN - rng.uniform(0, 50))),
            rng.uniform(15, 60),
        )
        line = blob(rng, 1.0, 0.5) if rng.random() < 0.6 else [(-1, -0.5), (1, -0.6), (1, 0.5), (-1, 0.6)]
        pen.area([(x + 0.1, y + 0.1) for x, y in line], lighter(colour, -0.4))
        pen.area(line, colour)


def _stand(rng: random.Random, draw: ImageDraw.ImageDraw, name: str, x: float, y: float, size: float) -> None:
    turn = rng.uniform(-3.14, 3.14) if rng.random() < (0.5 if name in FOODS else 0.1) else rng.gauss(0, 0.25)
    pen = Pen(draw, x, y, size, turn, rng.uniform(0.8, 1.25), rng.random() < 0.5)
    if name in ("hot dog", "sandwich", "burger", "cake", "egg", "banana", "carrot") and rng.random() < 0.35:
        plate(rng, Pen(draw, x, y, size * rng.uniform(1.1, 1.3)))
    elif rng.random() < 0.6:
        draw.ellipse((x - size, y - size * 0.1, x + size * 1.1, y + size), fill=(45, 42, 40))
    THINGS[name](rng, pen)


def _roughen(rng: random.Random, image: Image.Image) -> Image.Image:
    """Mottled light and grain of the size of crumbs and pores, which flat drawing lacks."""
    pixels = np.asarray(image, np.float32)
    cells = rng.randint(8, 28)
    mottle = 1 + rng.uniform(0.05, 0.35) * clouds(rng, image.width, cells, cells, 2)
    return Image.fromarray(np.clip(pixels * mottle[..., None], 0, 255).astype(np.uint8))


def scene(rng: random.Random) -> tuple[Photo, Image.Image]:
    image, name = _behind(rng)
    draw = ImageDraw.Draw(image)
    form = rng.random()
    if form < 0.65:  # one thing, from small to cut off by the frame
        thing = _name(rng)
        size = DRAWN * (rng.uniform(0.15, 0.26) if rng.random() < 0.25 else rng.uniform(0.3, 0.62))
        large = size > DRAWN * 0.3
        spread = 0.12 if large else 0.3
        x, y = (DRAWN * (0.5 + rng.uniform(-spread, spread)) for _ in range(2))
        _litter(rng, draw)
        _stand(rng, draw, thing, x, y, size)
        spot = None
        if not large:
            spot = (
                "left"
                if x < DRAWN * 0.4
                else "right"
                if x > DRAWN * 0.6
                else "middle"
                if abs(x / DRAWN - 0.5) < 0.06
                else None
            )
        photo = Photo(((thing, 1),), name, spot, "large" if large else "small")
    else:
        drawn = sorted({_name(rng) for _ in range(5)})
        names = rng.sample(drawn, 1 if form < 0.85 else min(2, len(drawn)))
        counts = [rng.randint(1, 6 if len(names) == 1 else 3) for _ in names]
        total = sum(counts)
        cells = 2 if total <= 4 else 3
        places = rng.sample(range(cells * cells), total)
        for thing in [n for n, c in zip(names, counts, strict=True) for _ in range(c)]:
            cell = places.pop()
            step = DRAWN / cells
            x, y = step * (cell % cells + rng.uniform(0.42, 0.58)), step * (cell // cells + rng.uniform(0.42, 0.58))
            _stand(rng, draw, thing, x, y, step * rng.uniform(0.34, 0.46))
        photo = Photo(tuple(zip(names, counts, strict=True)), name, None, None)
    image = image.resize((DRAWN // 2, DRAWN // 2), Image.Resampling.BOX)
    return photo, _roughen(rng, image) if rng.random() < 0.6 else image


def what(rng: random.Random, photo: Photo) -> Question | None:
    if len(photo.things) > 1:
        return None
    return Question("what is it", rng.choice(("what is this?", "what does this picture show?")), photo.things[0][0])


def shows(rng: random.Random, photo: Photo) -> Question | None:
    truth = rng.random() < 0.5
    present = [n for n, _ in photo.things]
    name = rng.choice(present)
    if not truth:
        alike = FOODS if name in FOODS and rng.random() < 0.7 else THINGS
        name = "hot dog" if rng.random() < 0.3 else rng.choice(list(alike))
        if name in present:
            return None
    form = rng.choice(
        ("is there {}?", "does this picture show {}?", "is this {}?" if len(present) == 1 else "is there {}?")
    )
    return Question("shows", form.format(article(name)), yes(truth))


def food(rng: random.Random, photo: Photo) -> Question | None:
    if len(photo.things) > 1:
        return None
    return Question("food", "is this food or drink?", yes(photo.things[0][0] in FOODS))


def how_many(rng: random.Random, photo: Photo) -> Question | None:
    name, count = rng.choice(photo.things)
    if count == 1 and rng.random() < 0.85:
        return None
    return Question("how many things", f"how many {plural(name)} are there?", str(count))


def standing(rng: random.Random, photo: Photo) -> Question | None:
    if photo.ground is None:
        return None
    if rng.random() < 0.5:
        return Question("ground", "what is in the background?", photo.ground)
    truth = rng.random() < 0.5
    name = photo.ground if truth else rng.choice([t for t in TEXTURES if t != photo.ground])
    return Question("is ground", f"is the background {name}?", yes(truth))


def spot(rng: random.Random, photo: Photo) -> Question | None:
    if photo.spot is None:
        return None
    return Question("spot", f"where is the {photo.things[0][0]}?", photo.spot)


def size(rng: random.Random, photo: Photo) -> Question | None:
    if photo.size is None or (photo.size == "large" and rng.random() < 0.65):
        return None
    return Question("thing size", f"is the {photo.things[0][0]} large or small?", photo.size)


def caption(rng: random.Random, photo: Photo) -> Question:
    words = [article(n) if c == 1 else f"{c} {plural(n)}" for n, c in photo.things]
    return Question(
        "caption photo", "caption en", " and ".join(words) + (f" on {photo.ground}" if photo.ground else "")
    )


ASKERS: tuple[tuple[float, Asker], ...] = (
    (3.0, what), (4.0, shows), (1.0, food), (0.8, how_many), (1.2, standing), (0.3, spot), (0.3, size), (1.5, caption),
)  # fmt: skip


def surface(rng: random.Random) -> tuple[Surface, Image.Image]:
    """One texture or pattern, or two halves that are alike or not."""
    draw_one = lambda name, seed: _surface(random.Random(seed), name)
    first = rng.choice(TEXTURES + PATTERNS)
    seed = rng.getrandbits(32)
    if rng.random() < 0.55:
        return Surface((first,), None), draw_one(first, seed)
    alike = rng.random() < 0.5
    second = first if alike else rng.choice([n for n in TEXTURES + PATTERNS if n != first])
    left, right = draw_one(first, seed), draw_one(second, rng.getrandbits(32))
    image = Image.new("RGB", left.size)
    image.paste(left.crop((0, 0, left.width // 2, left.height)), (0, 0))
    image.paste(right.crop((0, 0, left.width // 2, left.height)), (left.width // 2, 0))
    return Surface((first, second), alike), image


def _surface(rng: random.Random, name: str) -> Image.Image:
    if name in TEXTURES:
        return texture(rng, name, DRAWN // 2)
    a, b = rng.sample(list(COLOURS.values()), 2)
    return pattern(rng, name, jitter(rng, a, 20), jitter(rng, b, 20), DRAWN // 2)


def material(rng: random.Random, surface: Surface) -> Question:
    if len(surface.names) == 1:
        if rng.random() < 0.6:
            return Question("surface", "what kind of surface is this?", surface.names[0])
        truth = rng.random() < 0.5
        name = surface.names[0] if truth else rng.choice([t for t in TEXTURES + PATTERNS if t != surface.names[0]])
        return Question("is surface", f"is this surface {name}?", yes(truth))
    if rng.random() < 0.5:
        return Question("halves", "are both halves the same kind of surface?", yes(bool(surface.alike)))
    i = rng.randrange(2)
    return Question("surface", f"what kind of surface is on the {('left', 'right')[i]}?", surface.names[i])


SURFACE_ASKERS: tuple[tuple[float, Asker], ...] = ((1.0, material),)


def main_colour(rng: random.Random, image: Image.Image) -> Question | None:
    """The colour nearest to most pixels, where one clearly leads."""
    pixels = np.asarray(image.resize((28, 28), Image.Resampling.BOX), np.float32).reshape(-1, 1, 3)
    votes = np.bincount(np.square(pixels - PALETTE).sum(-1).argmin(1), minlength=len(PALETTE))
    order = np.argsort(votes)
    if votes[order[-1]] < 1.5 * votes[order[-2]]:
        return None
    return Question("main colour", "what is the main colour?", list(COLOURS)[order[-1]])


def brighter_half(rng: random.Random, image: Image.Image) -> Question | None:
    across = rng.random() < 0.5
    a, b = (
        int(v)
        for v in np.asarray(image.convert("L").resize((2, 1) if across else (1, 2), Image.Resampling.BOX)).ravel()
    )
    if abs(a - b) < 8:
        return None
    names = ("left", "right") if across else ("top", "bottom")
    return Question(
        "brighter half", f"which half is brighter, {names[0]} or {names[1]}?", names[0] if a > b else names[1]
    )


def colour_share(rng: random.Random, image: Image.Image) -> Question:
    """How much of the picture is nearest to a colour: what a histogram of colours knows."""
    pixels = np.asarray(image.resize((28, 28), Image.Resampling.BOX), np.float32).reshape(-1, 1, 3)
    shares = np.bincount(np.square(pixels - PALETTE).sum(-1).argmin(1), minlength=len(PALETTE)) / len(pixels)
    number = rng.choice(np.flatnonzero(shares > 0.02).tolist()) if rng.random() < 0.7 else rng.randrange(len(PALETTE))
    words = ("none", "little", "some", "much")
    word = words[int(np.searchsorted((0.02, 0.1, 0.3), shares[number]))]
    return Question("colour share", f"how much {list(COLOURS)[number]} is there?", word)


def detail(rng: random.Random, image: Image.Image) -> Question:
    """How much neighbouring pixels differ."""
    light = np.asarray(image.convert("L"), np.float32)
    change = float(np.abs(np.diff(light, axis=0)).mean() + np.abs(np.diff(light, axis=1)).mean())
    return Question("detail", "how much detail is there?", ("little", "some", "much")[sum(change > v for v in (9, 17))])


STATISTICS: tuple[tuple[float, Asker], ...] = (
    (1.0, main_colour), (0.3, brighter_half), (2.0, colour_share), (0.5, detail),
)  # fmt: skip
