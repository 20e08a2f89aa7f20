"""What Python code asks of the library reaches the jobs of the commands as the flags would."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from rolltune.errors import UserError
from rolltune.jobs import api
from rolltune.recipe import Recipe


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set of two splits whose columns have other names, and a roll."""
    monkeypatch.chdir(tmp_path)
    for split, answer in (("train", "yes"), ("valid", "no")):
        Path(f"dataset/set1/{split}.jsonl").parent.mkdir(parents=True, exist_ok=True)
        Path(f"dataset/set1/{split}.jsonl").write_text(json.dumps({"asked": "Is it?", "told": answer}) + "\n")
    Path("checkpoints").mkdir()
    Path("checkpoints/mine.npz").touch()
    return tmp_path


@pytest.fixture
def asked(monkeypatch):
    """What the jobs were asked for, last; no model is trained or loaded."""
    got = SimpleNamespace(status=0)

    def learn(options, recipe, interrupts):
        got.options, got.recipe, got.say = options, recipe, interrupts.say
        return got.status

    def score(options, rolls, say):
        got.options, got.rolls = options, rolls
        return []

    monkeypatch.setattr(api.learning, "learn", learn)
    monkeypatch.setattr(api.validating, "score", score)
    monkeypatch.setattr(api, "read_card", lambda path: SimpleNamespace(metrics={"train": {"accuracy": path.stem}}))
    return got


COLUMNS = {"prefix": "asked", "suffix": "told"}
READING = {"columns": COLUMNS, "question": None, "names": None}


def test_rows_are_read_as_they_were_once_wherever_they_go(folder, asked):
    data = api.read("set1", columns=COLUMNS)
    assert [row.answer for rows in data.examples.values() for row in rows] == ["yes", "no"]
    api.learn({}, data, "mine", rolls="8")
    assert asked.options.reading == READING and (asked.options.rolls, asked.options.dataset) == ("8", data)
    api.validate("mine", data, generate=8)
    assert asked.options.reading == READING and asked.options.generate == 8
    assert asked.options.data == [Path("dataset/set1/train.jsonl"), Path("dataset/set1/valid.jsonl")]
    api.validate("mine", data, reading={"question": "Or so?"})
    assert asked.options.reading == {"question": "Or so?"}  # what is said at the call counts
    api.validate(Path("checkpoints/mine.npz"), "other.jsonl", reading=READING)
    assert asked.options.reading == READING and asked.options.data == [Path("other.jsonl")]
    assert asked.rolls == [Path("checkpoints/mine.npz")]
    api.validate(["mine", "checkpoints/*.npz"], ["a.jsonl", Path("b.jsonl")])
    assert asked.options.data == [Path("a.jsonl"), Path("b.jsonl")]


def test_a_recipe_is_an_object_entries_or_a_file_and_what_it_states_is_known(folder, asked):
    Path("short.py").write_text(
        "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict({'steps': 3})\n"
    )
    data = api.read("set1", columns=COLUMNS)
    # Steps turn the epochs off that a second pass would take over from its roll.
    for recipe, steps in ((Recipe(steps=9), 9), ({"steps": 64}, 64), ("short.py", 3), (Path("short.py"), 3)):
        api.learn(recipe, data, "mine")
        assert asked.recipe.steps == steps and asked.options.stated == {"steps", "epochs"}
    api.learn(Recipe(rate=0.5), data, "mine")
    assert asked.options.stated == {"rate"}
    with pytest.raises(UserError, match="keep_share"):
        api.learn(Recipe(keep_share=0), data, "mine")


@pytest.mark.parametrize(("status", "roll", "metrics"), [(0, "mine.npz", "mine"), (3, "", ""), (130, "", "")])
def test_a_training_that_saved_none_has_no_roll(folder, asked, status, roll, metrics):
    asked.status, said = status, []
    made = api.learn({}, api.read("set1", columns=COLUMNS), "mine", said.append)
    assert made.status == status and made.report.name == "mine.html" and asked.say == said.append
    assert (made.roll.name if made.roll else "") == roll
    assert made.metrics == ({"train": {"accuracy": metrics}} if roll else {})
