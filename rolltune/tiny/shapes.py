"""The world of flat shapes: what is there, how many, where, how large, how filled."""

import random
from collections import Counter
from dataclasses import dataclass

from PIL import Image

from .asking import DRAWN, Asker, Question, article, yes
from .drawing import COLOURS, FILLS, SHAPES, Colour, distance, jitter, paint_shape
from .surfaces import ground

PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")


@dataclass(frozen=True)
class Shape:
    kind: str
    colour: str
    large: bool
    fill: str
    x: float  # centre and radius as parts of the picture's side
    y: float
    radius: float

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    @property
    def place(self) -> str:
        return PLACES[min(2, int(self.y * 3)) * 3 + min(2, int(self.x * 3))]


def random_shapes(rng: random.Random, behind: Colour) -> list[Shape]:
    """One to seven shapes in the cells of a 3 x 3 grid, in colours that stand out from the ground."""
    visible = [n for n, c in COLOURS.items() if distance(c, behind) > 100]
    pairs = [(k, c) for k in rng.sample(SHAPES, rng.randint(1, 4)) for c in rng.sample(visible, min(2, len(visible)))]
    count = rng.choice((1, 1, 2, 2, 3, 3, 4, 5, 6))
    if rng.random() < 0.4:  # a crowd of one kind, so that large counts are as frequent as small ones
        focal = rng.choice(pairs)
        many = rng.randint(1, count)
        chosen = [focal if rng.random() < 0.6 else (focal[0], rng.choice(visible)) for _ in range(many)]
        chosen += [rng.choice(pairs) for _ in range(count - many)]
    else:
        chosen = [rng.choice(pairs) for _ in range(count)]
    shapes = []
    for cell, (kind, colour) in zip(rng.sample(range(9), count), chosen, strict=True):
        large = rng.random() < 0.5
        radius = rng.uniform(0.125, 0.16) if large else rng.uniform(0.065, 0.095)
        reach = 1 / 6 - radius * 0.95
        x, y = (cell % 3 + 0.5) / 3, (cell // 3 + 0.5) / 3
        shapes.append(
            Shape(kind, colour, large, rng.choice(FILLS) if rng.random() < 0.4 else "plain",
                  x + rng.uniform(-reach, reach), y + rng.uniform(-reach, reach), radius)
        )  # fmt: skip
    if count == 1 and rng.random() < 0.6:  # one shape alone may be anywhere, and huge
        radius = rng.uniform(0.07, 0.42)
        x, y = (rng.uniform(radius, 1 - radius) for _ in range(2))
        shapes = [Shape(shapes[0].kind, shapes[0].colour, radius > 0.11, shapes[0].fill, x, y, radius)]
    return shapes


def draw_shapes(rng: random.Random, shapes: list[Shape], image: Image.Image) -> Image.Image:
    side = image.width
    for shape in shapes:
        turn = rng.uniform(-0.3, 0.3) if shape.kind not in ("square", "diamond", "cross") else rng.uniform(-0.12, 0.12)
        colour = jitter(rng, COLOURS[shape.colour], 12)
        paint_shape(image, shape.kind, shape.x * side, shape.y * side, shape.radius * side, colour, shape.fill, turn)
    return image


def scene(rng: random.Random) -> tuple[list[Shape], Image.Image]:
    image, behind = ground(rng, DRAWN, calm=True)
    shapes = random_shapes(rng, behind)
    return shapes, draw_shapes(rng, shapes, image)


def _unique(shapes: list[Shape], key: str) -> list[Shape]:
    counts = Counter(getattr(s, key) for s in shapes)
    return [s for s in shapes if counts[getattr(s, key)] == 1]


def is_there(rng: random.Random, shapes: list[Shape]) -> Question:
    kinds, colours, names = ({getattr(s, key) for s in shapes} for key in ("kind", "colour", "name"))
    truth = rng.random() < 0.5
    form = rng.choice(("name", "name", "kind", "colour"))
    if form == "kind":
        kind = rng.choice(sorted(kinds) if truth else [k for k in SHAPES if k not in kinds])
        return Question("is there", f"is there {article(kind)}?", yes(truth))
    if form == "colour":
        colour = rng.choice(sorted(colours) if truth else [c for c in COLOURS if c not in colours])
        return Question("is there", f"is there anything {colour}?", yes(truth))
    near = sorted({f"{c} {k}" for c in colours for k in kinds} - names)  # right colour, right shape, not together
    far = [f"{c} {rng.choice(shapes).kind}" for c in COLOURS] + [f"{rng.choice(shapes).colour} {k}" for k in SHAPES]
    false = near if near and rng.random() < 0.5 else [n for n in far if n not in names]
    return Question("is there", f"is there {article(rng.choice(sorted(names) if truth else false))}?", yes(truth))


def how_many(rng: random.Random, shapes: list[Shape]) -> Question:
    form = rng.choice(("kind", "kind", "colour", "all"))
    if form == "all":
        return Question("how many", "how many shapes are there?", str(len(shapes)))
    if form == "kind":
        present = sorted({s.kind for s in shapes})
        kind = rng.choice(SHAPES if rng.random() < 0.12 else present)
        more = {"cross": "crosses"}.get(kind, kind + "s")
        return Question("how many", f"how many {more} are there?", str(sum(s.kind == kind for s in shapes)))
    colour = rng.choice(sorted({s.colour for s in shapes}))
    return Question("how many", f"how many {colour} shapes are there?", str(sum(s.colour == colour for s in shapes)))


def which_colour(rng: random.Random, shapes: list[Shape]) -> Question | None:
    found = _unique(shapes, "kind")
    if not found:
        return None
    shape = rng.choice(found)
    return Question("colour", f"what colour is the {shape.kind}?", shape.colour)


def which_shape(rng: random.Random, shapes: list[Shape]) -> Question | None:
    found = _unique(shapes, "colour")
    if not found:
        return None
    shape = rng.choice(found)
    return Question("shape", f"what shape is {shape.colour}?", shape.kind)


def where(rng: random.Random, shapes: list[Shape]) -> Question | None:
    found = [s for s in _unique(shapes, "name") if all(abs((v * 3) % 1 - 0.5) < 0.42 for v in (s.x, s.y))]
    if not found:
        return None
    shape = rng.choice(found)
    return Question("where", f"where is the {shape.name}?", shape.place)


def size(rng: random.Random, shapes: list[Shape]) -> Question | None:
    found = _unique(shapes, "name")
    if not found:
        return None
    if len(found) > 1 and rng.random() < 0.5:
        a, b = rng.sample(found, 2)
        if a.large == b.large:
            return None
        return Question("size", f"which is larger, the {a.name} or the {b.name}?", a.name if a.large else b.name)
    shape = rng.choice(found)
    return Question("size", f"is the {shape.name} large or small?", "large" if shape.large else "small")


def filling(rng: random.Random, shapes: list[Shape]) -> Question | None:
    found = [s for s in _unique(shapes, "name") if s.kind != "ring"]
    if not found:
        return None
    shape = rng.choice(found)
    if shape.fill == "plain" and rng.random() < 0.6:  # plain ones are more frequent
        return None
    return Question("filling", f"how is the {shape.name} filled?", shape.fill)


def caption(rng: random.Random, shapes: list[Shape]) -> Question | None:
    if len(shapes) > 3:
        return None
    ordered = sorted(shapes, key=lambda s: (int(s.y * 3), s.x))
    return Question("caption", "caption en", ", ".join(article(s.name) for s in ordered))


ASKERS: tuple[tuple[float, Asker], ...] = (
    (3.0, is_there), (2.0, how_many), (1.5, which_colour), (1.5, which_shape), (1.5, where), (0.5, size),
    (0.5, filling), (0.8, caption),
)  # fmt: skip
