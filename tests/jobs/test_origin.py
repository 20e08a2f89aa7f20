"""A roll of a second pass is trained again from the very roll that it went on from, or not at all."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from small_model import make_example

from rolltune.data.files import sha256_of
from rolltune.errors import UserError
from rolltune.evaluation.metrics import Positive
from rolltune.evaluation.tasks import CHOOSE, Task
from rolltune.jobs.again import DIFFERENT, told
from rolltune.jobs.origin import MOST_NAMED, Origin, made_with, read_origin, run_facts
from rolltune.jobs.second_pass import Earlier
from rolltune.recipe import Recipe
from rolltune.training.dataset import Data
from rolltune.weights.roll_file import Base, RollCard, load_roll, save_roll


def save(path, level, **run):
    recipe = dataclasses.asdict(Recipe()) | {"task": "choose"}
    card = RollCard(Base("tiny", "ab"), "lora", recipe, "ok?", ["a", "b"], {"positive": "a", "passes": 1, "run": run})
    save_roll(path, {"text": {"norm": np.full(2, level, np.float32)}}, card)


def test_the_roll_that_it_went_on_from_is_the_one_of_then(tmp_path):
    first, second = tmp_path / "first.npz", tmp_path / "second.npz"
    save(first, 1.0, second=None)
    save(second, 2.0, second={"path": str(first), "sha256": sha256_of(first)})
    earlier = read_origin(second).earlier
    assert earlier.path == first and earlier.trained["text/norm"].tolist() == [1, 1]
    assert read_origin(first).earlier is None
    save(first, 3.0, second=None)
    with pytest.raises(UserError, match=r"went on from .*first\.npz, which is gone or another one now"):
        read_origin(second)
    first.unlink()
    with pytest.raises(UserError, match="gone or another one"):
        read_origin(second)


def test_one_roll_is_drawn_of_the_base_where_it_is_now(tmp_path):
    save(tmp_path / "one.npz", 1.0, second=None)
    roll = load_roll(tmp_path / "one.npz")
    several = dataclasses.replace(roll.card, recipe=roll.card.recipe | {"draws": 8, "model": "there"})
    save_roll(tmp_path / "one.npz", roll.tree, several)
    assert (read_origin(tmp_path / "one.npz").recipe.draws, read_origin(tmp_path / "one.npz").recipe.model) == (
        0,
        "there",
    )
    assert read_origin(tmp_path / "one.npz", "here").recipe.model == "here"
    with pytest.raises(UserError, match=r"a whole model: name the roll that was worked into it"):
        read_origin(tmp_path / "one.whole.npz")


def origin(path=Path("first.npz"), files=(), marks=(), **run) -> Origin:
    run = {"rolls": 1, "fold": None, "made with": made_with()} | run
    metrics = {"files": dict(files), "learned": list(marks)}
    return Origin(path, RollCard(Base("tiny", "ab"), "lora", {}, "ok?", [], metrics), Recipe(), run)


def test_a_card_says_how_its_run_was_asked_for(tmp_path):
    save(tmp_path / "first.npz", 1.0, second=None)
    before = Earlier(tmp_path / "first.npz", None, Recipe(), {})
    run = run_facts(8, 5, 42, {"question": "so?", "columns": None}, before)
    assert (run["rolls"], run["folds"], run["seed"], run["reading"]) == (8, 5, 42, {"question": "so?"})
    assert run["second"] == {"path": str(tmp_path / "first.npz"), "sha256": sha256_of(tmp_path / "first.npz")}
    assert run["made with"] == made_with() and run_facts(1, None, 0, {}, None)["second"] is None


def test_what_decides_the_last_bits_is_written_down(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--some_flag")
    made = made_with()
    assert made.keys() == {"rolltune", "jax", "jaxlib", "numpy", "python", "device", "XLA_FLAGS"}
    assert made["XLA_FLAGS"] == "--some_flag" and made["numpy"] == np.__version__ and "cores" in made["device"]
    monkeypatch.delenv("XLA_FLAGS")
    assert made_with() == made | {"XLA_FLAGS": ""}


def test_what_keeps_a_training_from_the_same_bits_is_said():
    assert origin().rounded == ""
    assert origin(rolls=4).rounded == "it was one of 4 rolls"
    other = made_with() | {"jax": "0.1", "device": "another"}
    assert origin(rolls=2, **{"made with": other}).rounded == (
        f"it was one of 2 rolls; it was made with jax '0.1', now {made_with()['jax']!r}, device 'another', now "
        f"{made_with()['device']!r}"
    )


def test_the_same_to_rounding_is_near_and_only_where_bits_cannot_be_promised(tmp_path):
    for name, level in (("old", 1.0), ("near", 1.04), ("far", 1.06)):
        save(tmp_path / f"{name}.npz", level, second=None)
    card = load_roll(tmp_path / "old.npz").card
    of = lambda **run: dataclasses.replace(origin(tmp_path / "old.npz", **run), card=card)
    said: list[str] = []
    assert told(of(), tmp_path / "old.npz", said.append) == 0 and "bit for bit: 2 numbers" in said[-1]
    assert told(of(rolls=2), tmp_path / "near.npz", said.append) == 0 and "the same to rounding" in said[-1]
    assert told(of(rolls=2), tmp_path / "far.npz", said.append) == DIFFERENT == 4
    assert told(of(), tmp_path / "near.npz", said.append) == DIFFERENT and "another roll came out" in said[-1]
    losses = {split: {"log-loss": loss} for split, loss in (("train", 0.25), ("valid", 0.5))}
    made = load_roll(tmp_path / "far.npz")
    worse = dataclasses.replace(made.card, metrics={**made.card.metrics, "train": {"log-loss": 0.75}, "valid": None})
    save_roll(tmp_path / "far.npz", made.tree, worse)
    then = dataclasses.replace(of(), card=dataclasses.replace(card, metrics={**card.metrics, **losses}))
    assert told(then, tmp_path / "far.npz", said.append) == DIFFERENT
    assert said[-1] == "  train: log-loss 0.25 then, 0.75 now"  # the other split has no figures now


def test_files_that_are_not_those_of_then_are_named_before_they_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        Path(f"{name}.jsonl").write_text(name)
    Path("folder").mkdir()
    good = {"train": {"path": "a.jsonl", "sha256": sha256_of(Path("a.jsonl"))}, "valid": {"path": "folder"}}
    origin(files=good).check_files()  # of a folder no digest was taken
    assert origin(files=good).files == {"train": Path("a.jsonl"), "valid": Path("folder")}
    bad = {"valid": {"path": "b.jsonl", "sha256": "ab"}, "test": {"path": "gone.jsonl"}}
    with pytest.raises(
        UserError, match=r"b\.jsonl \(valid\): another file.*\n.*gone\.jsonl \(test\): it is not there"
    ) as told:
        origin(files=good | bad).check_files()
    assert "a.jsonl" not in str(told.value)
    with pytest.raises(UserError, match=r"folder \(valid\): another file than then"):  # a folder where a file was
        origin(files={"valid": {"path": "folder", "sha256": "ab"}}).check_files()


def test_the_pictures_that_have_changed_are_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    count = MOST_NAMED + 4
    examples = [dataclasses.replace(make_example(n), images=(Path(f"{n}.png"),)) for n in range(count)]
    spans = {"train": range(count - 2), "valid": range(count - 2, count)}
    marks = [frozenset({f"p{n}"}) for n in range(count)]
    data = Data(examples, spans, {}, Task(CHOOSE, ("no", "yes")), Positive("yes", ""), marks)
    files = {split: {"path": f"{split}.jsonl", "rows": data.digest(split)} for split in spans}
    then = sorted({mark for own in marks for mark in own})
    origin(files=files, marks=then).check_data(data)
    changed = dataclasses.replace(data, marks=[marks[0], *(frozenset({f"p{n}x"}) for n in range(1, count))])
    with pytest.raises(UserError) as told:
        origin(files=files, marks=then).check_data(changed)
    lines = str(told.value).splitlines()[1:]
    assert lines[:MOST_NAMED] == [f"  ./{n}.png (train)" for n in range(1, MOST_NAMED + 1)]
    assert lines[MOST_NAMED:] == ["  ... and 1 more", "  rows or pictures of valid.jsonl (valid)"]
    with pytest.raises(UserError) as told:  # what a fold has learned from is not all that it was judged by
        origin(files=files, marks=then, fold=1).check_data(changed)
    assert "png" not in str(told.value) and "rows or pictures of train.jsonl" in str(told.value)
