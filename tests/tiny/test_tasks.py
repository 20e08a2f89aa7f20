"""Generated pictures: the same for a seed, and answers that agree with what was drawn."""

import random
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
from PIL import Image

from rolltune.tiny import adverts, photos, prints, shapes, tasks
from rolltune.tiny.asking import DRAWN, SIDE
from rolltune.tiny.drawing import COLOURS, SHAPES
from rolltune.tiny.layouts import Ad, Badge
from rolltune.tiny.shapes import Shape
from rolltune.tiny.things import THINGS


def test_a_seed_gives_one_picture_and_another_seed_another():
    for world in tasks.WORLDS:
        a, b, c = tasks.picture(7, 4, world), tasks.picture(7, 4, world), tasks.picture(8, 4, world)
        assert a.questions == b.questions and a.image.tobytes() == b.image.tobytes()
        assert a.image.tobytes() != c.image.tobytes()
        assert tasks.pixels(a.image).shape == (SIDE, SIDE, 3) and len(a.questions) == 4


def test_yes_and_no_are_as_frequent_in_every_task():
    answers = defaultdict(Counter)
    for world in tasks.WORLDS:
        _, scene, askers, _ = tasks.WORLDS[world]
        rng = random.Random(3)
        for _ in range(60):
            described, _ = scene(rng)
            for _, asker in askers:
                for _ in range(8):
                    question = asker(rng, described)
                    if question is not None and question.answer in ("yes", "no"):
                        answers[question.task][question.answer] += 1
    assert {"is there", "says", "is there a part", "parts together", "shows", "is ground", "halves"} <= answers.keys()
    for task, counts in answers.items():
        assert 0.3 < counts["yes"] / counts.total() < 0.7, (task, counts)


def test_answers_about_shapes_agree_with_the_description():
    drawn = [
        Shape("star", "red", True, "plain", 0.2, 0.2, 0.13),
        Shape("circle", "blue", False, "striped", 0.8, 0.8, 0.08),
        Shape("circle", "green", False, "plain", 0.8, 0.2, 0.08),
    ]
    answers = {}
    rng = random.Random(0)
    for _ in range(3000):
        for _, asker in shapes.ASKERS:
            question = asker(rng, drawn)
            if question is not None:
                assert answers.setdefault(question.prompt, question.answer) == question.answer
    for prompt, answer in {
        "is there a red star?": "yes",
        "is there a red circle?": "no",
        "how many circles are there?": "2",
        "how many stars are there?": "1",
        "how many crosses are there?": "0",
        "how many blue shapes are there?": "1",
        "how many shapes are there?": "3",
        "is there anything blue?": "yes",
        "is there anything yellow?": "no",
        "is there a circle?": "yes",
        "is there a square?": "no",
        "what colour is the star?": "red",
        "what shape is blue?": "circle",
        "where is the blue circle?": "bottom right",
        "which is larger, the red star or the green circle?": "red star",
        "how is the blue circle filled?": "striped",
        "caption en": "a red star, a green circle, a blue circle",
    }.items():
        assert answers[prompt] == answer, prompt


@pytest.mark.parametrize("kind", SHAPES)
def test_a_shape_is_drawn_where_and_in_the_colour_it_says(kind):
    white = Image.new("RGB", (DRAWN, DRAWN), (255, 255, 255))
    shape = Shape(kind, "red", True, "plain", 0.25, 0.75, 0.15)
    pixels = np.asarray(shapes.draw_shapes(random.Random(1), [shape], white), np.float32)
    inked = np.argwhere(np.abs(pixels - COLOURS["red"]).sum(-1) < 60) / DRAWN
    assert len(inked) > 300
    assert np.allclose(inked.mean(0), (0.75, 0.25), atol=0.06)
    assert np.abs(inked - (0.75, 0.25)).max() < 0.2


def test_prints_and_adverts_answer_with_what_they_print():
    rng = random.Random(0)
    drawn = [prints.Print("BOAT", "red", 0.5, 0.25, 0.8, 0.2, 0), prints.Print("Sun", "blue", 0.5, 0.75, 0.8, 0.2, 0)]
    found = {(q.prompt, q.answer) for _ in range(300) if (q := prints.read(rng, drawn))}
    assert found == {("read the top line", "BOAT"), ("read the bottom line", "Sun")}
    lies = {q.prompt for _ in range(300) if (q := prints.says(rng, drawn)).answer == "no"}
    assert len(lies) > 50 and not {"does it say BOAT?", "does it say Sun?"} & lies

    ad = Ad("shoe", "EASY WALK", "$5", Badge("burst", "SALE", "red"), None, "SHOP", None)
    answers = {q.prompt: q.answer for _ in range(900) for _, a in adverts.ASKERS if (q := a(rng, ad)) is not None}
    assert answers["what is for sale?"] == "shoe"
    assert answers["read the headline"] == "EASY WALK"
    assert answers["what is the price?"] == "$5"
    assert answers["what does the badge say?"] == "SALE"
    assert answers["what colour is the badge?"] == "red" and answers["what form has the badge?"] == "burst"
    assert (
        answers["what does the button say?"] == "SHOP" and answers["caption en"] == "an advertisement for shoes, SALE"
    )
    told = {prompt for prompt, answer in answers.items() if answer == "yes" and not prompt.startswith("is there")}
    assert told == {
        "is this an advertisement for shoes?", "does the headline say EASY WALK?", "does the badge say SALE?",
        "is the badge a red one?", "is the badge a burst one?", "does the button say SHOP?",
    }  # fmt: skip
    has = {"a badge", "a burst badge", "a price", "a button"}
    asked = [prompt for prompt in answers if prompt.startswith("is there")]
    for prompt in asked:
        first, *second = re.split(" and | but no ", prompt.removeprefix("is there ").rstrip("?"))
        both = [first in has, *((" but no " in prompt) != (name in has or f"a {name}" in has) for name in second)]
        assert answers[prompt] == ("yes" if all(both) else "no"), prompt
    assert len(asked) > 60


def test_statistics_are_those_of_the_pixels():
    rng = random.Random(0)
    image = Image.new("RGB", (SIDE, SIDE), COLOURS["blue"])
    image.paste(COLOURS["yellow"], (0, 0, SIDE // 3, SIDE))
    assert photos.main_colour(rng, image).answer == "blue"
    answers = {q.prompt: q.answer for _ in range(20) if (q := photos.brighter_half(rng, image)) is not None}
    assert answers == {"which half is brighter, left or right?": "left"}
    shares = {q.prompt: q.answer for _ in range(200) if (q := photos.colour_share(rng, image))}
    assert shares["how much yellow is there?"] == shares["how much blue is there?"] == "much"
    assert shares["how much red is there?"] == "none"
    assert photos.detail(rng, image).answer == "little"


def test_every_thing_leaves_a_mark_of_its_own():
    seen = set()
    for name in THINGS:
        image = Image.new("RGB", (64, 64), (1, 2, 3))
        THINGS[name](random.Random(1), photos.Pen(photos.ImageDraw.Draw(image), 32, 32, 28))
        pixels = np.asarray(image)
        assert (pixels != (1, 2, 3)).any(-1).mean() > 0.04, name
        seen.add(image.tobytes())
    assert len(seen) == len(THINGS)


def test_nothing_is_asked_of_what_a_photo_does_not_show():
    """Each question has an answer, and those of one thing's place and size are of a single thing."""
    draws = range(200)
    many = photos.Photo((("cat", 2),), None, None, None)
    assert not any(
        asked(random.Random(n), many) for n in draws for asked in (photos.spot, photos.size, photos.standing)
    )
    one = photos.Photo((("cat", 1),), "grass", "left", "large")
    assert {photos.spot(random.Random(n), one).answer for n in draws} == {"left"}
    sizes = {question.answer for n in draws if (question := photos.size(random.Random(n), one))}
    grounds = {question.answer for n in draws if (question := photos.standing(random.Random(n), one))}
    assert sizes == {"large"} and grounds == {"grass", "yes", "no"}
