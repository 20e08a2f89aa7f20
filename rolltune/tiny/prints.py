"""The world of printed words: reading, spelling, comparing."""

import random
from dataclasses import dataclass

from PIL import Image

from .asking import DRAWN, Asker, Question, yes
from .drawing import COLOURS, Colour, fit_size, jitter, luminance, print_text
from .surfaces import ground
from .words import PRAISE, altered, printed

SPOTS = ("top", "middle", "bottom")


@dataclass(frozen=True)
class Print:
    text: str
    colour: str
    x: float  # the ink's centre as parts of the side
    y: float
    width: float  # room for the ink, likewise
    height: float
    turn: float  # degrees


def random_prints(rng: random.Random, behind: Colour) -> list[Print]:
    """One text anywhere, or two to four, one below the other."""
    inks = [n for n, c in COLOURS.items() if abs(luminance(c) - luminance(behind)) >= 80]
    if rng.random() < 0.7:
        text = printed(rng)
        if rng.random() < 0.05:
            text += " " + printed(rng)
        large = rng.random() < 0.75
        width = rng.uniform(0.65, 0.96) if large else min(0.96, rng.uniform(0.2, 0.6) + 0.035 * len(text))
        height = rng.uniform(0.18, 0.5) if large else rng.uniform(0.09, 0.3)
        x = rng.uniform(width / 2 + 0.01, 0.99 - width / 2)
        turn = rng.gauss(0, 8) if rng.random() < 0.3 else 0.0
        y = rng.uniform(height / 2 + 0.08, 0.92 - height / 2)
        return [Print(text, rng.choice(inks), x, y, width, height, turn)]
    count = rng.randint(2, 3)
    prints = []
    for i in range(count):
        width, height = rng.uniform(0.5, 0.94), rng.uniform(0.11, min(0.3, 0.8 / count))
        x = rng.uniform(width / 2, 1 - width / 2)
        prints.append(Print(printed(rng), rng.choice(inks), x, (i + 0.5) / count, width, height, 0.0))
    return prints


def draw_prints(rng: random.Random, prints: list[Print], image: Image.Image) -> Image.Image:
    side = image.width
    for p in prints:
        size = fit_size(p.text, p.width * side, p.height * side, 14)
        ink = jitter(rng, COLOURS[p.colour], 10)
        print_text(image, p.text, p.x * side, p.y * side, size, ink, p.turn, rng.choice((0, 0, 1)) if size > 22 else 0)
    return image


def poster(rng: random.Random) -> tuple[list[Print], Image.Image]:
    """One of few texts, large, in the middle of a plain sheet, dark on light or light on dark: the first to be read."""
    paper, ink = rng.choice((("white", "black"), ("black", "white")))
    image = Image.new("RGB", (DRAWN, DRAWN), jitter(rng, COLOURS[paper], 12))
    x, y = (0.5 + rng.uniform(-0.04, 0.04) for _ in range(2))
    prints = [Print(rng.choice(PRAISE), ink, x, y, rng.uniform(0.75, 0.9), 0.4, 0.0)]
    return prints, draw_prints(rng, prints, image)


def scene(rng: random.Random) -> tuple[list[Print], Image.Image]:
    if rng.random() < 0.2:
        return poster(rng)
    while True:
        image, behind = ground(rng, DRAWN, calm=True)
        if not 105 < luminance(behind) < 150:  # few colours can be read on a middling ground
            prints = random_prints(rng, behind)
            return prints, draw_prints(rng, prints, image)


def read(rng: random.Random, prints: list[Print]) -> Question:
    if len(prints) == 1:
        return Question(
            "read", rng.choice(("read", "read", "what does it say?", "what is written here?")), prints[0].text
        )
    if len(prints) == 3 and rng.random() < 0.7:
        i = rng.randrange(3)
        return Question("read one", f"read the {SPOTS[i]} line", prints[i].text)
    i = rng.choice((0, -1))
    return Question("read one", f"read the {'bottom' if i else 'top'} line", prints[i].text)


def says(rng: random.Random, prints: list[Print]) -> Question:
    truth = rng.random() < 0.5
    text = rng.choice(prints).text
    if not truth:
        others = {p.text for p in prints}
        text = altered(rng, text)
        while text in others:
            text = altered(rng, text)
    return Question("says", f"does it say {text}?", yes(truth))


def colour(rng: random.Random, prints: list[Print]) -> Question | None:
    if len(prints) == 1:
        return Question("print colour", "what colour is the text?", prints[0].colour)
    p = rng.choice(prints)
    if sum(q.text == p.text for q in prints) > 1:
        return None
    return Question("print colour", f"what colour is the word {p.text}?", p.colour)


def lines(rng: random.Random, prints: list[Print]) -> Question:
    return Question("how many lines", "how many lines of text are there?", str(len(prints)))


def spelling(rng: random.Random, prints: list[Print]) -> Question | None:
    text = prints[0].text
    if len(prints) > 1 or " " in text:
        return None
    if rng.random() < 0.5:
        return Question("spelling", "how many characters are there?", str(len(text)))
    first = rng.random() < 0.5
    return Question("spelling", f"what is the {'first' if first else 'last'} character?", text[0 if first else -1])


def find(rng: random.Random, prints: list[Print]) -> Question | None:
    if len(prints) < 2:
        return None
    i = rng.choice((0, len(prints) - 1))
    if sum(p.text == prints[i].text for p in prints) > 1:
        return None
    return Question("find", f"is {prints[i].text} at the top or at the bottom?", "bottom" if i else "top")


ASKERS: tuple[tuple[float, Asker], ...] = (
    (6.0, read),
    (1.5, says),
    (0.5, colour),
    (0.2, lines),
    (0.8, spelling),
    (0.4, find),
)
