"""A roll trained again from its card alone: the same bits, or it is said how far off, or what has changed is named."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_model import draw_picture

from rolltune.__main__ import main
from rolltune.jobs.again import DIFFERENT, compare, told
from rolltune.recipe import Recipe
from rolltune.weights.card import Base, RollCard
from rolltune.weights.roll_file import load_roll, save_roll

STEPS = ["--config.steps=2", "--config.log_every=2", "--config.warmup=0", "--config.rank=2", "--config.redraws=0"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with eight rows, as JSONL and as CSV; checkpoints/one.npz, and folds of the CSV's, two*.npz."""
    folder = tmp_path_factory.mktemp("again")
    (folder / "dataset/set1").mkdir(parents=True)
    rows = []
    for number in range(8):
        draw_picture(number, (40, 40)).save(folder / f"dataset/set1/{number}.png")
        rows.append({"prefix": "is it?", "suffix": ("yes", "no")[number % 2], "image": f"{number}.png"})
    (folder / "dataset/set1/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = ["what,label,file\n", *(f"is it?,{row['suffix']},{row['image']}\n" for row in rows)]
    (folder / "dataset/set1/rows.csv").write_text("".join(table))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("ROLLTUNE_CACHE", str(folder / "cache"))
        assert main(["learn", "-d", "set1", "-w", "one", "--seed", "7", *STEPS]) == 0
        reading = ["--columns", "prefix=what,suffix=label,image=file"]
        folds = ["--folds", "4", "--keep", "all", "--config.rate_range=(1e-3, 1e-2)"]
        assert main(["learn", "-d", "dataset/set1/rows.csv", "-w", "two", *reading, *folds, *STEPS]) == 0
        yield folder


def test_the_same_bits_come_out(trained, capsys):
    assert main(["learn", "--again", "one"]) == 0
    assert "the same came out, bit for bit" in capsys.readouterr().out
    assert compare(Path("checkpoints/one.npz"), Path("checkpoints/one-again.npz")).same_bits
    then, now = (load_roll(f"checkpoints/{name}.npz").card for name in ("one", "one-again"))
    assert then.metrics == now.metrics and then.recipe == now.recipe and now.seed == 7


def test_one_fold_of_several_is_the_same_to_rounding(trained, capsys):
    path = max(Path("checkpoints").glob("two*.npz"), key=lambda path: load_roll(path).card.metrics["run"]["fold"])
    card = load_roll(path).card
    assert (fold := card.metrics["run"]["fold"]) > 0  # the first one would come out by itself
    assert main(["learn", "--again", path.stem, "-w", "fold"]) == 0
    said = capsys.readouterr().out
    assert "it was one of 4 rolls" in said and ("the same to rounding (largest" in said or "bit for bit" in said)
    made = load_roll("checkpoints/fold.npz").card
    assert made.metrics["run"]["fold"] == fold and made.metrics["learned"] == card.metrics["learned"]


def test_another_roll_is_not_called_the_same(trained, capsys):
    roll = load_roll("checkpoints/one.npz")
    save_roll("checkpoints/seed.npz", roll.tree, dataclasses.replace(roll.card, recipe=roll.card.recipe | {"seed": 8}))
    assert main(["learn", "--again", "seed"]) == 4
    assert "another roll came out" in capsys.readouterr().out


def test_data_that_has_changed_is_named_and_refused(trained, capsys):
    picture, rows = trained / "dataset/set1/3.png", trained / "dataset/set1/train.jsonl"
    was, text = picture.read_bytes(), rows.read_text()
    draw_picture(99, (40, 40)).save(picture)
    assert main(["learn", "--again", "one", "-w", "x"]) == 2
    said = capsys.readouterr().err
    assert "3.png (train)" in said and "2.png" not in said
    picture.write_bytes(was)
    rows.write_text(text.replace("yes", "no", 1))
    assert main(["learn", "--again", "one", "-w", "x"]) == 2
    assert "train.jsonl (train): another file" in capsys.readouterr().err
    rows.unlink()
    assert main(["learn", "--again", "one", "-w", "x"]) == 2
    assert "train.jsonl (train): it is not there" in capsys.readouterr().err
    rows.write_text(text)
    assert not (trained / "checkpoints/x.npz").exists()


@pytest.mark.parametrize("flag", [["-d", "set1"], ["--rolls", "2"], ["--config.steps=3"], ["--seed", "1"]])
def test_nothing_is_taken_from_flags_that_the_card_says(trained, flag, capsys):
    with pytest.raises(SystemExit):
        main(["learn", "--again", "one", *flag])
    assert "all from the roll's card" in capsys.readouterr().err


def test_a_roll_that_does_not_tell_how_it_was_made_is_refused(trained, capsys):
    roll = load_roll("checkpoints/one.npz")
    metrics = {name: value for name, value in roll.card.metrics.items() if name != "run"}
    save_roll("old.npz", roll.tree, dataclasses.replace(roll.card, metrics=metrics))
    assert main(["learn", "--again", "old.npz"]) == 2
    assert "does not tell how it was trained" in capsys.readouterr().err


def test_a_bit_is_a_difference(trained, tmp_path):
    roll = load_roll("checkpoints/one.npz")
    tree = {"text": {"norm": np.zeros(3, np.float32)}}
    save_roll(tmp_path / "a.npz", tree, roll.card)
    save_roll(tmp_path / "b.npz", {"text": {"norm": -np.zeros(3, np.float32)}}, roll.card)
    found = compare(tmp_path / "a.npz", tmp_path / "b.npz")
    assert not found.same_bits and found.largest == 0
    save_roll(tmp_path / "c.npz", {"text": {"other": np.zeros(3, np.float32)}}, roll.card)
    assert compare(tmp_path / "a.npz", tmp_path / "c.npz").largest == np.inf


@pytest.mark.parametrize(
    ("apart", "reason", "status", "word"),
    [
        (0.0, "", 0, "the same came out, bit for bit: 4 numbers of ./old.npz"),
        (0.15, "one of 4", 0, "the same to rounding (largest difference 0.15, of numbers up to 4): one of 4"),
        (0.15, "", DIFFERENT, "another roll came out: ./new.npz is not ./old.npz (largest difference 0.15, of numbers"),
        (0.25, "one of 4", DIFFERENT, "another roll came out: ./new.npz is not ./old.npz (largest difference 0.25, of"),
    ],
)
def test_what_came_out_is_told_by_how_far_it_is_apart(tmp_path, monkeypatch, apart, reason, status, word):
    """Rounding is a twentieth of the largest number, where there is a reason for it."""
    monkeypatch.chdir(tmp_path)
    recipe = dataclasses.asdict(Recipe(task="choose"))
    card = lambda loss: RollCard(
        Base("small", "ab"), "lora", recipe, "", ["a", "b"],
        {"positive": "b", "train": {"log-loss": loss}, "valid": None, "test": {"log-loss": 2 * loss}},
    )  # fmt: skip
    tree = np.array([1.0, -4.0, 2.0], np.float32)
    other = {"b": np.ones(1, np.float32)}
    save_roll("old.npz", {"a": tree} | other, card(0.25))
    save_roll("new.npz", {"a": tree + np.array([0.0, 0.0, apart], np.float32)} | other, card(0.5))
    said: list[str] = []
    origin = SimpleNamespace(path=Path("old.npz"), rounded=reason, card=card(0.25))
    assert told(origin, Path("new.npz"), said.append) == status and said[0].startswith(word)
    splits = ["  train: log-loss 0.25 then, 0.5 now", "  test: log-loss 0.5 then, 1.0 now"]
    assert said[1:] == (splits if status else [])
