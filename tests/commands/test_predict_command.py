"""07-predict and rolltune.load on rolls of the built-in model: the same bits as 04, alone and in any company."""

import csv
import dataclasses
import json
import random
import shutil

import numpy as np
import pytest
from PIL import Image

import rolltune
from rolltune.__main__ import main
from rolltune.data.asked import Asked, picture_row
from rolltune.evaluation.decision import Decision
from rolltune.evaluation.metrics import Threshold
from rolltune.tiny.ads import PROMPT
from rolltune.weights.roll_file import load_roll, save_roll

STEPS = {"steps": 2, "log_every": 2, "warmup": 0, "redraws": 0, "alphas": (4.0, 32.0), "evaluate_batch": 4}


@pytest.fixture(scope="module")
def trained(drawn_ads, tmp_path_factory):
    """A folder with ten sample ads and two rolls on them, checkpoints/first.npz and first.rank2.npz; what 04 says."""
    folder = tmp_path_factory.mktemp("predict")
    shutil.copytree(drawn_ads, folder / "drawn")
    rows = [json.loads(line) for line in (folder / "drawn/data.jsonl").read_text().splitlines()]
    few = [row for row in rows if row["suffix"] == "yes"][:5] + [row for row in rows if row["suffix"] == "no"][:5]
    few[0] = next(row for row in rows if row["image"].endswith(".gif"))
    (folder / "drawn/few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ROLLTUNE_CACHE", str(folder / "cache"))
        data = rolltune.read("drawn/few.jsonl")
        made = rolltune.learn(STEPS, data, "first", say=lambda text: None, rolls="2", keep="all")
        assert made.status == 0 and made.roll and made.roll.is_file() and made.report.is_file()
        assert 0 <= made.metrics["train"]["accuracy"] <= 1
        cells = rolltune.validate("checkpoints/first*.npz", data)
        assert [cell.checkpoint for cell in cells] == ["./checkpoints/first.npz", "./checkpoints/first.rank2.npz"]
        assert cells[0].trained_on and cells[0].metrics.figure("log-loss") == pytest.approx(
            made.metrics["train"]["log-loss"], abs=1e-5
        )
        assert main(["validate", "-m", "first", "first.rank2", "drawn/few.jsonl", "--predictions", "v.jsonl"]) == 0
        yield folder


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def by_picture(rows, roll="./checkpoints/first.npz"):
    return {row["images"][0]: row["probabilities"] for row in rows if row.get("roll", roll) == roll}


def test_a_row_has_the_bits_of_04_alone_and_in_any_company(trained):
    expected = by_picture(lines(trained / "v.jsonl"))
    assert len(expected) == 10 and len({json.dumps(one) for one in expected.values()}) > 5
    assert main(["predict", "-m", "first", "drawn/images", "drawn/few.jsonl", "--output", "p.jsonl"]) == 0
    found = lines(trained / "p.jsonl")
    assert len(found) == 96 + 10
    for row in found:
        assert row["probabilities"] == expected.get(row["images"][0], row["probabilities"])
    assert {row["right"] for row in found[:96]} == {None} and {row["right"] for row in found[96:]} == {"yes", "no"}
    roll, some = rolltune.load("first"), list(expected)
    random.Random(0).shuffle(some)
    for images in (some, some[:3], some[:1]):
        rows = roll.predict(images)
        assert [dict(row.probabilities) for row in rows] == [expected[name] for name in images]
    still = next(name for name in some if not name.endswith(".gif"))
    picture = Image.open(still).convert("RGB")
    (one,), (other,) = roll.predict(picture), roll.predict(np.asarray(picture))
    assert dict(one.probabilities) == dict(other.probabilities) == expected[still]
    assert one.answer == max(expected[still], key=expected[still].get) and one.right == ()


def test_a_roll_s_own_threshold_and_temperature_decide_in_04_and_07_alike(trained, capsys):
    plain, roll = by_picture(lines(trained / "v.jsonl")), load_roll("checkpoints/first.npz")
    odds = {name: one["yes"] / one["no"] for name, one in plain.items()}
    cut = float(np.sqrt(np.prod(sorted(odds.values())[6:8])))  # three of ten are above it
    made = Decision(2.0, Threshold("yes", cut**0.5 / (1 + cut**0.5)), ("chosen here",))
    save_roll(
        "own.npz", roll.tree, dataclasses.replace(roll.card, metrics={**roll.card.metrics, "decision": made.card()})
    )
    assert main(["validate", "-m", "own.npz", "drawn/few.jsonl", "--predictions", "o.jsonl"]) == 0
    assert "'yes' is given from a probability of" in (said := capsys.readouterr().out) and "chosen here" in said
    found = lines(trained / "o.jsonl")
    for row in found:
        own = odds[row["images"][0]]
        assert row["probabilities"]["yes"] == pytest.approx(own**0.5 / (1 + own**0.5), rel=1e-5)
        assert row["answer"] == ("yes" if own > cut else "no") and row["threshold"]["at"] == made.threshold.at
    assert sum(row["answer"] == "yes" for row in found) == 3
    told = rolltune.load("own.npz").predict([row["images"][0] for row in found])
    assert [(row.answer, dict(row.probabilities)) for row in told] == [
        (row["answer"], row["probabilities"]) for row in found
    ]


def test_several_rolls_answer_by_their_mean(trained):
    said = lines(trained / "v.jsonl")
    each = [by_picture(said, f"./checkpoints/{name}.npz") for name in ("first", "first.rank2")]
    for row in rolltune.load("checkpoints/first*.npz").predict(list(each[0])):
        own = [one[row.images[0]]["yes"] for one in each]
        assert row.probabilities["yes"] == pytest.approx(sum(own) / 2, rel=1e-12)
        assert row.votes.get("yes", 0) == sum(p > 0.5 for p in own) and sum(row.votes.values()) == 2


def test_what_cannot_be_read_is_named_and_the_rest_is_written(trained, capsys):
    few = lines(trained / "drawn/few.jsonl")
    (trained / "drawn/bad.jpg").write_text("no picture")
    (trained / "drawn/asks.csv").write_text(f"image\n{few[1]['image']}\nbad.jpg\nnone.png\n")
    assert main(["predict", "-m", "first", "drawn/asks.csv", "drawn/bad.jpg", "--output", "p.csv"]) == 1
    said = capsys.readouterr().out
    assert said.count("no answer: ") == 3 and "asks.csv:4" in said and "drawn/bad.jpg: not a readable image" in said
    (row,) = csv.DictReader((trained / "p.csv").open(newline=""))
    expected = by_picture(lines(trained / "v.jsonl"))[f"drawn/{few[1]['image']}"]
    assert {answer: float(row[f"p({answer})"]) for answer in expected} == expected and row["right"] == ""
    assert main(["predict", "-m", "first", "drawn/few.jsonl"]) == 0
    table = capsys.readouterr().out
    assert "10 of 10 of these were learned from" in table and "answers are those given" in table


def test_a_roll_without_a_question_of_its_own_is_told_what_to_ask(trained, capsys):
    roll = load_roll("checkpoints/first.npz")
    save_roll("open.npz", roll.tree, dataclasses.replace(roll.card, prompt=""))
    picture = next(iter(by_picture(lines(trained / "v.jsonl"))))
    assert main(["predict", "-m", "open.npz", picture]) == 2
    assert "--question" in capsys.readouterr().err
    (row,) = rolltune.load("open.npz").predict(picture, question=PROMPT)
    assert dict(row.probabilities) == by_picture(lines(trained / "v.jsonl"))[picture]
    with pytest.raises(rolltune.UserError, match="cannot vote with"):
        facts = roll.card.metrics | {"positive": "a"}
        save_roll("other.npz", roll.tree, dataclasses.replace(roll.card, answers=["a", "b"], metrics=facts))
        rolltune.load(["open.npz", "other.npz"])


def test_questions_of_other_lengths_change_no_bit_of_a_row(trained):
    roll = load_roll("checkpoints/first.npz")
    save_roll("open.npz", roll.tree, dataclasses.replace(roll.card, prompt=""))
    picture = trained / next(iter(by_picture(lines(trained / "v.jsonl"))))
    rows = [picture_row(picture, f"row {n}", f"{PROMPT} " * n) for n in range(1, 12)]
    roll = rolltune.load("open.npz")
    said = lambda some: [dict(row.probabilities) for row in roll.answer(Asked(some, [])).rows]
    together = said(rows)
    assert len({one["yes"] for one in together}) == len(rows)
    for some in (slice(0, 4), slice(4, None, 2), slice(5, None, 2)):
        assert said(rows[some]) == together[some]


def test_answers_are_written_where_that_is_asked_for(trained):
    assert (
        main(["predict", "-m", "first", "first.rank2", "drawn/few.jsonl", "--generate", "2", "--output", "w.jsonl"])
        == 0
    )
    found = lines(trained / "w.jsonl")
    assert all(isinstance(row["answer"], str) and "probabilities" not in row for row in found)
    alone = rolltune.load(["first", "first.rank2"], generate=2).predict(found[3]["images"])
    assert alone[0].answer == found[3]["answer"] and dict(alone[0].votes) == found[3]["votes"]


def test_what_is_drawn_is_the_seed_s_and_the_picture_s(trained):
    pictures = sorted(by_picture(lines(trained / "v.jsonl")))[:4]
    draw = lambda seed, some: [
        row.answer
        for row in rolltune.load("first", generate=6, sampling=rolltune.Sampling(3.0, seed=seed)).predict(some)
    ]
    assert draw(1, pictures) == draw(1, pictures)
    assert draw(1, pictures[2:]) == draw(1, pictures)[2:]
    assert draw(2, pictures) != draw(1, pictures)
    assert main(["predict", "-m", "first", pictures[0], "--sample", "0.7"]) == 2  # it chooses


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--generate", "-3"], "--generate -3: expected a number of tokens from 1"),
        (["--generate", "99999999"], "from 1 to 65536"),
        (["--generate", "4", "--top-p", "0.5"], "add --sample"),
        (["--generate", "4", "--seed", "3"], "add --sample"),
    ],
)
def test_what_cannot_be_written_is_refused_before_a_model_is_loaded(trained, capsys, monkeypatch, flags, said):
    monkeypatch.setattr("rolltune.base.load", lambda *_: pytest.fail("a model is loaded"))
    assert main(["predict", "-m", "first", "drawn/few.jsonl", *flags]) == 2 and said in capsys.readouterr().err
    if len(flags) == 2:
        assert main(["validate", "-m", "first", "drawn/few.jsonl", *flags]) == 2 and said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--serve", "--output", "a.csv"], "--output is of data, and --serve takes none"),
        (["--serve", "--question", "so?"], "--question is of data"),
        (["drawn/few.jsonl", "--port", "80"], "--port is of --serve: add that, or leave it away"),
        (["drawn/few.jsonl", "--host", "0.0.0.0"], "--host is of --serve"),
    ],
)
def test_flags_that_would_count_for_nothing_are_refused(trained, capsys, flags, said):
    assert main(["predict", "-m", "first", *flags]) == 2 and said in capsys.readouterr().err


def test_length_normalized_answers_are_the_recipe_s(trained):
    picture = sorted(by_picture(lines(trained / "v.jsonl")))[0]
    roll = load_roll("checkpoints/first.npz")
    recipe = roll.card.recipe | {"length_normalized": True}
    facts = roll.card.metrics | {"positive": "a"}
    longer = dataclasses.replace(roll.card, answers=["a", "no no no no no no no no"], metrics=facts)
    save_roll("whole.npz", roll.tree, longer)
    save_roll("mean.npz", roll.tree, dataclasses.replace(longer, recipe=recipe))
    odds = lambda name: np.diff(np.log([*dict(rolltune.load(name).predict(picture)[0].probabilities).values()]))[0]
    assert odds("whole.npz") != pytest.approx(odds("mean.npz"), rel=0.1)


@pytest.mark.parametrize("image", [np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8), 7, [], "gone.png"])
def test_what_is_no_picture_is_refused_by_name(trained, image):
    with pytest.raises(rolltune.UserError, match=r"image 0|gone\.png"):
        rolltune.load("first").predict([image])
