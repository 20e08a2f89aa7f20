"""The main job on data of every kind, by every way that rows come in: it trains, saves, and scores the same again."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from small_model import draw_picture

from rolltune import base
from rolltune.data.sources import read_examples
from rolltune.errors import UserError
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.learn import Options, learn
from rolltune.jobs.scorer import Bench, Scorer
from rolltune.recipe import Recipe, from_card
from rolltune.weights.names import flatten
from rolltune.weights.roll_file import load_roll

RECIPE = Recipe(steps=2, log_every=2, rank=2, batch=2, warmup=0.0, rate=1e-3, redraws=0, evaluate_batch=4)
VISUAL = (("(vision|text)/layers/attn/q/kernel", "lora"), (".*", "frozen"))
QUESTIONS = ("Is it so?", "Or is it not?", "What is it?", "Is it?")


@pytest.fixture
def write(tmp_path, monkeypatch):
    """`write("train", pictures, answers)`: rows that show the pictures of these numbers, each to one row."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "dataset/set1"
    (folder / "images").mkdir(parents=True)

    def run(split, pictures, answers):
        rows = []
        for n, (shown, answer) in enumerate(zip(pictures, answers, strict=True)):
            names = [f"images/{split}{number}.png" for number in shown]
            for name, number in zip(names, shown, strict=True):
                draw_picture(number, (40, 30 + number)).save(folder / name)
            row = {"prefix": f"{QUESTIONS[n % 4]} {split[0]}{n}", "suffix": answer}
            own = {"images": names} if len(names) > 1 else {"image": names[0]} if names else {}
            rows.append(row | own)
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return folder / f"{split}.jsonl"

    return run


TEXT, MIXED = [[]] * 6, [[0], [], [1, 2], [], [], [3]]
ANSWERS = ("yes", "no") * 3
VIEWS = {"augment": ("crop", "colour"), "views": 3}
OPEN = ("red", "a blue one", "none", "green", "two", "it is")


@pytest.mark.parametrize(
    ("pictures", "answers", "recipe"),
    [
        (TEXT, ANSWERS, {}),
        (TEXT, ANSWERS, {"first_layer": 2, "table_gib": 0.0}),
        (TEXT, ANSWERS, {"task": "classify"}),
        (TEXT, OPEN, {"answer_tokens": 2}),
        (MIXED, ANSWERS, {"first_layer": 2}),
        (MIXED, ANSWERS, {"method": "rules", "rules": VISUAL, "evaluate_batch": 1}),
        (MIXED, ANSWERS, {"method": "full", "rate": 1e-5}),
        (MIXED, ANSWERS, VIEWS),
        (MIXED, ANSWERS, VIEWS | {"first_layer": 2, "table_gib": 0.0}),
        (MIXED, ANSWERS, VIEWS | {"method": "rules", "rules": VISUAL, "evaluate_batch": 1}),
    ],
    ids=[
        "text",
        "text-states",
        "text-classes",
        "text-written",
        "mixed-states",
        "mixed-tower",
        "mixed-full",
        "views",
        "views-states",
        "views-tower",
    ],
)
def test_a_roll_is_trained_saved_and_scores_the_same_again(write, pictures, answers, recipe):
    write("train", pictures, answers)
    valid = write("valid", pictures[:4], answers[:4])
    said: list[str] = []
    wanted = dataclasses.replace(RECIPE, **recipe)
    assert learn(Options("set1", "first"), wanted, Interrupts(said.append)) == 0, said
    saved = Path("checkpoints/first.npz")
    roll = load_roll(saved)
    assert all(np.isfinite(leaf).all() for leaf in flatten(roll.tree).values())
    bench = Bench(*base.load("tiny"))
    scorer = Scorer(bench, saved, load_roll(saved, bench.model.base), from_card(roll.card.recipe))
    found = scorer.predict(read_examples(valid))
    loss = -float(np.mean(found.log_probs if answers is OPEN else picked(found)))
    assert loss == pytest.approx(roll.card.metrics["valid"]["log-loss"], rel=1e-3, abs=1e-4)


def picked(prediction):
    return prediction.log_probs[np.arange(len(prediction.label)), prediction.label]


def test_views_are_drawn_by_a_roll_s_seed_and_their_price_is_said(write):
    """The rolls of one run are the runs of one roll; without views, or with states of rows in views, too."""
    write("train", MIXED, ANSWERS)
    wanted = dataclasses.replace(RECIPE, steps=4, log_every=4, augment=("crop", "flip", "colour"), views=3)

    def trained(name, recipe=wanted, **options):
        said: list[str] = []
        assert learn(Options("set1", name, **options), recipe, Interrupts(said.append)) == 0, said
        arrays = [flatten(load_roll(path).tree) for path in sorted(Path("checkpoints").glob(f"{name}.*npz"))]
        seeds = [load_roll(path).card.seed for path in sorted(Path("checkpoints").glob(f"{name}.*npz"))]
        return dict(zip(seeds, arrays, strict=True)), said

    both, said = trained("both", rolls="2", keep="all")
    assert any("draws one of 3 views of a picture (crop, flip, colour); image features take" in text for text in said)
    lower = dataclasses.replace(wanted, seed=1, first_layer=2)
    one, plain = trained("one", dataclasses.replace(wanted, seed=1))[0], dataclasses.replace(wanted, seed=1, augment=())
    without, states = trained("without", plain)[0], trained("states", lower)
    assert any("states of lower layers 3 times as much" in text for text in states[1])
    for name, values in one[1].items():
        np.testing.assert_allclose(both[1][name], values, rtol=1e-4, atol=1e-6)
    assert any(not np.allclose(without[1][name], values, rtol=1e-4, atol=1e-6) for name, values in one[1].items())


def test_views_of_nothing_are_refused(write):
    write("train", TEXT, ANSWERS)
    with pytest.raises(UserError, match="augment: crop, colour; but the rows to train on show no pictures"):
        learn(Options("set1", "first"), dataclasses.replace(RECIPE, **VIEWS), Interrupts(lambda text: None))
