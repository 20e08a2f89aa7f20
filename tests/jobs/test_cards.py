"""A broken card of a roll ends in advice that names the file; so do arrays that its recipe does not train."""

import dataclasses
import json

import numpy as np
import pytest

from rolltune import base, trees
from rolltune.errors import UserError
from rolltune.evaluation.tasks import Task
from rolltune.jobs.cards import NEEDED, check_trained, recipe_of
from rolltune.recipe import Recipe
from rolltune.weights.npz import META
from rolltune.weights.roll_file import Base, RollCard, read_card, save_roll

RECIPE = json.loads(json.dumps(dataclasses.asdict(Recipe()) | {"task": "choose"}))
METRICS = {"passes": 1, "positive": "yes", "files": {"train": {"path": "a.jsonl"}}, "learned": ["p12"]}
CARD = RollCard(Base("tiny", "ab"), "lora", RECIPE, "ok?", ["no", "yes"], METRICS, 7)
GONE = object()
HALF = "\ud83d"


def broken(path, place: str, value: object) -> None:
    """Writes a roll whose card has `value` in this place, "recipe/rank"; GONE takes the entry away."""
    save_roll(path, {"text": {"norm": np.ones(2, np.float32)}}, CARD)
    entries = dict(np.load(path))
    card = json.loads(bytes(entries[META]))
    *way, last = place.split("/")
    inside = card
    for name in way:
        inside = inside[name]
    if value is GONE:
        del inside[last]
    else:
        inside[last] = value
    entries[META] = np.frombuffer(json.dumps(card).encode(), np.uint8)
    np.savez(path, **entries)


def test_a_good_card_is_a_recipe(tmp_path):
    broken(tmp_path / "r.npz", "seed", 8)
    assert recipe_of(read_card(tmp_path / "r.npz"), "r.npz") == Recipe(task="choose")
    three = dataclasses.replace(CARD, answers=["a", "b", "c"], metrics=METRICS | {"positive": None})
    assert recipe_of(three, "r.npz").task == "choose"  # of more than two answers none has to be the positive one
    with pytest.raises(UserError, match="it does not say which of its two answers"):
        recipe_of(dataclasses.replace(three, answers=["a", "b"]), "r.npz")


@pytest.mark.parametrize(
    ("place", "values"),
    [
        ("version", [0, -1, 2, "1", True, None, GONE]),
        ("base", [5, {}, {"name": 5, "hash": "ab"}, {"name": "tiny"}, GONE]),
        ("method", [5, "bogus", "full", GONE]),
        ("prompt", [5, None, HALF, "a\0b"]),
        (
            "answers",
            [
                "yes",
                [1, 2],
                [],
                ["yes"],
                ["yes", "yes"],
                ["yes", "no", "no"],
                ["yes", ""],
                ["yes", "no "],
                ["yes", HALF],
                {"a": 1},
            ],
        ),
        ("seed", ["x", -1, 1.5]),
        ("metrics", [[], {}, GONE]),
        ("metrics/passes", ["two", 0, -5, True]),
        ("metrics/positive", [5, None, "maybe"]),
        ("metrics/decision", [5, "yes", []]),
        ("metrics/files", [5, {"train": 5}]),
        ("metrics/learned", [5, "p1", [5], [[1]], None, {"a": 1}]),
        ("arrays", [[], {}, GONE]),
        ("recipe", [[], {}, "lora", GONE]),
        ("recipe/rank", [0, -1, "8", 10**10, None]),
        ("recipe/alpha", [0, -1, float("inf"), "8"]),
        ("recipe/evaluate_batch", [0, -5, 10**9]),
        ("recipe/first_layer", [-1, 1.5]),
        ("recipe/model", ["", 5, "a\0b"]),
        ("recipe/dtype", ["float64", 16]),
        ("recipe/task", ["auto", "write", "bogus"]),
        ("recipe/method", ["full", "bogus"]),
        ("recipe/frames", ["bogus", "n", 5]),
        ("recipe/rules", ["x", [["text/.*", "lora"]]]),
        ("recipe/quantize", ["nf5", 4]),
        ("recipe/steps", [0, 10**20]),
        ("recipe/rslora", [1, "yes"]),
        *((f"recipe/{name}", [GONE]) for name in NEEDED),
    ],
)
def test_a_broken_card_is_advice(tmp_path, place, values):
    path = tmp_path / "r.npz"
    for value in values:
        broken(path, place, value)
        with pytest.raises(UserError, match=r"r\.npz") as told:
            recipe_of(read_card(path), str(path))
        assert len(str(told.value)) < 1000, value


def test_a_roll_that_lacks_an_adapter_or_has_one_too_many_is_advice():
    model, params = base.load("tiny", "", "float32", ())
    shapes, recipe = trees.shapes(params), Recipe(task="choose", method="attention")
    good = {path: np.zeros(shape) for path, shape in shapes.items() if path.startswith("text/layers/attn/")}
    check = lambda trained: check_trained("r.npz", trained, model, shapes, recipe, Task("choose", ("no", "yes")))
    check(good)
    with pytest.raises(UserError, match=r"r\.npz: .* not those of its recipe: text/layers/attn/q/kernel is missing"):
        check({path: leaf for path, leaf in good.items() if path != "text/layers/attn/q/kernel"})
    with pytest.raises(UserError, match="text/norm/scale is not trained by it"):
        check(good | {"text/norm/scale": np.zeros(shapes["text/norm/scale"])})
    with pytest.raises(UserError, match=r"r\.npz does not fit the model:\n  text/layers/attn/q/kernel"):
        check(good | {"text/layers/attn/q/kernel": good["text/layers/attn/q/kernel"][..., 1:]})
