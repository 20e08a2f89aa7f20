"""The pretraining tasks: an endless, seeded stream of pictures with questions and answers.

Five worlds (shapes, prints, adverts, photos, surfaces) draw a scene from a known description and ask about
it; no prompt has one answer only, so that looking is the only way to know.
"""

import random
from typing import NamedTuple

import numpy as np
from PIL import Image

from . import adverts, photos, prints, shapes
from .asking import SIDE, Question, ask, yes
from .surfaces import photograph

WORLDS = {
    "shapes": (0.1, shapes.scene, shapes.ASKERS, 0.6),  # share, scene, questions, strength of the camera's effects
    "prints": (0.27, prints.scene, prints.ASKERS, 0.5),
    "adverts": (0.33, adverts.scene, adverts.ASKERS, 0.35),
    "photos": (0.26, photos.scene, photos.ASKERS, 1.0),
    "surfaces": (0.04, photos.surface, photos.SURFACE_ASKERS, 0.6),
}


class Picture(NamedTuple):
    world: str
    image: Image.Image  # RGB, SIDE x SIDE
    questions: list[Question]


def _any_text(rng: random.Random, world: str) -> Question:
    return Question("any text", "is there any text?", yes(world in ("prints", "adverts")))


def _phrase(rng: random.Random, question: Question) -> Question:
    """People write a question with a capital and ask for "yes or no": at times these do too."""
    prompt = question.prompt
    if rng.random() < 0.25:
        prompt = prompt[0].upper() + prompt[1:]
    if question.answer in ("yes", "no") and rng.random() < 0.2:
        prompt += " Answer yes or no."
    return question._replace(prompt=prompt)


def picture(seed: int, questions: int = 4, world: str | None = None) -> Picture:
    """The picture of a seed, with its questions. The same seed gives the same picture, everywhere."""
    rng = random.Random(seed)
    name = rng.choices(list(WORLDS), [w[0] for w in WORLDS.values()])[0]
    name = world or name
    _, scene, askers, strength = WORLDS[name]
    described, image = scene(rng)
    image = image.resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    if rng.random() < 0.8:
        image = photograph(rng, image, strength)
    # Different ones among four neighbours only, so that the questions that matter come up again and again.
    sizes = [min(4, questions - first) for first in range(0, questions, 4)]
    found = [question for size in sizes for question in ask(rng, described, askers, size)]
    weights, statistics = zip(*photos.STATISTICS, strict=True)
    for place in range(len(found)):  # questions on the picture as a whole, in the place of some on the scene
        if rng.random() < (0.2 if name == "photos" else 0.05):
            extra = _any_text(rng, name) if rng.random() < 0.1 else rng.choices(statistics, weights)[0](rng, image)
            found[place] = extra or found[place]
    return Picture(name, image, [_phrase(rng, question) for question in found])


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 [SIDE, SIDE, 3]."""
    return np.asarray(image, np.uint8)
