"""The world of advertisements: any combination of parts, and questions about each part. No rule about them."""

import random

from PIL import Image

from .asking import DRAWN, Asker, Question, yes
from .drawing import COLOURS
from .layouts import BADGES, BUTTONS, Ad, draw_ad, random_ad
from .things import FOODS, THINGS, plural
from .words import altered

PARTS = {  # a part of an advertisement: whether this one has it
    "a badge": lambda ad: ad.badge is not None,
    "small print": lambda ad: ad.note is not None,
    "a price": lambda ad: ad.price is not None,
    "a button": lambda ad: ad.button is not None,
} | {f"a {form} badge": lambda ad, form=form: ad.badge is not None and ad.badge.form == form for form in BADGES}


def scene(rng: random.Random) -> tuple[Ad, Image.Image]:
    ad = random_ad(rng)
    wide, high = rng.choice(((DRAWN, DRAWN), (DRAWN, DRAWN), (DRAWN * 5 // 4, DRAWN), (DRAWN, DRAWN * 5 // 4)))
    return ad, draw_ad(rng, ad, wide, high)


def product(rng: random.Random, ad: Ad) -> Question:
    form = rng.random()
    if form < 0.5:
        return Question("product", "what is for sale?", ad.product)
    truth = rng.random() < 0.5
    if form < 0.8:
        name = ad.product if truth else rng.choice([t for t in THINGS if t != ad.product])
        return Question("is product", f"is this an advertisement for {plural(name)}?", yes(truth))
    return Question("is product", "is this an advertisement for food or drink?", yes(ad.product in FOODS))


def headline(rng: random.Random, ad: Ad) -> Question:
    if rng.random() < 0.6:
        return Question("headline", "read the headline", ad.headline)
    truth = rng.random() < 0.5
    return Question("says", f"does the headline say {ad.headline if truth else altered(rng, ad.headline)}?", yes(truth))


def price(rng: random.Random, ad: Ad) -> Question | None:
    if ad.price is None and rng.random() < 0.6:
        return None
    return Question("price", "what is the price?", ad.price or "none")


def badge(rng: random.Random, ad: Ad) -> Question | None:
    if ad.badge is None:
        return Question("badge", "what does the badge say?", "none") if rng.random() < 0.2 else None
    form = rng.random()
    if form < 0.5:
        return Question("badge", "what does the badge say?", ad.badge.text)
    if form < 0.55:
        return Question("badge look", "what colour is the badge?", ad.badge.colour)
    if form < 0.7:
        return Question("badge look", "what form has the badge?", ad.badge.form)
    truth = rng.random() < 0.5
    if form < 0.9:
        return Question(
            "says", f"does the badge say {ad.badge.text if truth else altered(rng, ad.badge.text)}?", yes(truth)
        )
    other = rng.choice(
        [c for c in COLOURS if c != ad.badge.colour]
        if rng.random() < 0.5
        else [f for f in BADGES if f != ad.badge.form]
    )
    right = ad.badge.colour if other in COLOURS else ad.badge.form
    return Question("badge look", f"is the badge a {right if truth else other} one?", yes(truth))


def parts(rng: random.Random, ad: Ad) -> Question | None:
    """Is a part there? Both answers weigh the same, whatever share of advertisements has the part."""
    truth = rng.random() < 0.5
    names = [name for name, has in PARTS.items() if has(ad) == truth]
    return Question("is there a part", f"is there {rng.choice(names)}?", yes(truth)) if names else None


def together(rng: random.Random, ad: Ad) -> Question | None:
    """Two conditions at once: a part and another, or a part without the other."""
    truth, but = rng.random() < 0.5, rng.random() < 0.5
    for _ in range(12):  # few pairs are true ones
        a, b = rng.sample(list(PARTS), 2)
        if "badge" in a and "badge" in b:
            continue
        if {"burst", "print"} <= {word for name in (a, b) for word in name.replace("-", " ").split()}:
            continue  # the law of the sample ads, in other words: that is for fine-tuning to find
        if (PARTS[a](ad) and PARTS[b](ad) != but) == truth:
            second = f"but no {b.removeprefix('a ')}" if but else f"and {b}"
            return Question("parts together", f"is there {a} {second}?", yes(truth))
    return None


def button(rng: random.Random, ad: Ad) -> Question | None:
    if ad.button is None:
        return None
    if rng.random() < 0.5:
        return Question("button", "what does the button say?", ad.button)
    truth = rng.random() < 0.5
    text = ad.button if truth else rng.choice([b for b in BUTTONS if b != ad.button])
    return Question("says", f"does the button say {text}?", yes(truth))


def caption(rng: random.Random, ad: Ad) -> Question:
    text = f"an advertisement for {plural(ad.product)}"
    if ad.badge is not None:
        text += f", {ad.badge.text}"
    return Question("caption ad", "caption en", text)


ASKERS: tuple[tuple[float, Asker], ...] = (
    (1.2, product), (1.0, headline), (0.5, price), (4.0, badge), (2.0, parts), (2.0, together), (0.4, button),
    (0.6, caption),
)  # fmt: skip
