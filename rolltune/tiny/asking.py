"""What a question is, and how a scene is asked several of them."""

import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

SIDE = 112  # pixels of the tiny model's pictures
DRAWN = 2 * SIDE  # scenes are drawn at twice the size and averaged down, which smooths their edges


class Question(NamedTuple):
    task: str  # the line of the accuracy table it counts in
    prompt: str
    answer: str


Asker = Callable[[random.Random, Any], Question | None]  # None: this scene does not allow this question


def article(text: str) -> str:
    return ("an " if text[0] in "aeiou" else "a ") + text


def yes(truth: bool) -> str:
    return "yes" if truth else "no"


def ask(rng: random.Random, scene: Any, askers: Sequence[tuple[float, Asker]], count: int) -> list[Question]:
    """`count` questions on a scene, drawn by weight; different ones as long as the scene has any."""
    functions, weights = [a for _, a in askers], [w for w, _ in askers]
    found: list[Question] = []
    tries = 0
    while len(found) < count:
        tries += 1
        question = rng.choices(functions, weights)[0](rng, scene)
        if question is not None and (tries > 4 * count or question not in found):
            found.append(question)
    return found
