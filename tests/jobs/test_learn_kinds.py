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
    if "augment" in recipe:
        assert any("each step draws one of 3 views of a picture (crop, colour); " in text for text in said)
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


def test_the_views_of_a_roll_are_its_seed_s_own(write):
    """The second of two rolls is the roll of its seed alone, and another than without views."""
    write("train", MIXED, ANSWERS)
    own = dict(optimizer="sgd", rate=0.05)  # AdamW makes whole steps of what is rounding in a gradient of nearly 0
    wanted = dataclasses.replace(RECIPE, augment=("crop", "flip", "colour"), views=3, **own)

    def second(name, recipe, **options):
        assert learn(Options("set1", name, **options), recipe, Interrupts(lambda text: None)) == 0
        rolls = [load_roll(path) for path in sorted(Path("checkpoints").glob(f"{name}.*npz"))]
        return next(flatten(roll.tree) for roll in rolls if roll.card.seed == 1)

    both = second("both", wanted, rolls="2", keep="all")
    alone = second("alone", dataclasses.replace(wanted, seed=1))
    plain = second("plain", dataclasses.replace(wanted, seed=1, augment=()))
    apart = lambda one, other: max(np.abs(one[name] - other[name]).max() / np.abs(one[name]).max() for name in one)
    assert apart(alone, both) < 1e-3 < 1e-2 < apart(alone, plain)


def test_views_of_nothing_are_refused(write):
    write("train", TEXT, ANSWERS)
    with pytest.raises(UserError, match="augment: crop, colour; but the rows to train on show no pictures"):
        learn(Options("set1", "first"), dataclasses.replace(RECIPE, **VIEWS), Interrupts(lambda text: None))


BOX = "<loc0102><loc0000><loc0870><loc0512> cat"


def test_boxes_are_ranked_by_overlap_and_drawn_in_the_report(write):
    answers = (BOX, f"{BOX} ; {BOX}", "none", BOX, "none", BOX)
    write("train", [[n] for n in range(6)], answers)
    write("valid", [[n] for n in range(3)], answers[:3])
    said: list[str] = []
    wanted = dataclasses.replace(RECIPE, task="write", metric="iou", answer_tokens=2, **VIEWS)
    with pytest.raises(UserError, match=r"augment: crop moves what is in a picture, and .*train\.jsonl:1 says where"):
        learn(Options("set1", "first"), wanted, Interrupts(said.append))
    wanted = dataclasses.replace(wanted, augment=("colour",))
    assert learn(Options("set1", "first"), wanted, Interrupts(said.append)) == 0, said
    assert any(text.startswith("Result:") and "  mean IoU:" in text and "  mAP at 0.5:" in text for text in said)
    card = load_roll(Path("checkpoints/first.npz")).card
    assert 0 <= card.metrics["valid"]["iou"] <= 1 and card.metrics["valid"]["map"] is not None
    page = Path("reports/first.html").read_text()
    assert page.count('<rect class="given"') == 3 and "mean IoU" in page


def test_a_metric_of_boxes_is_refused_for_other_answers(write):
    write("train", TEXT, OPEN)
    with pytest.raises(UserError, match="metric: 'map' is of boxes"):
        learn(Options("set1", "first"), dataclasses.replace(RECIPE, metric="map"), Interrupts(lambda text: None))
