"""What is said of all answers together: among others, how many rows some roll of the vote knows already."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from rolltune.data.asked import Asked, picture_row
from rolltune.data.examples import STAND_IN, Example, Turn
from rolltune.data.findings import ERROR, Finding
from rolltune.data.learned import marks_of
from rolltune.errors import UserError
from rolltune.evaluation.decision import Decision
from rolltune.evaluation.metrics import Threshold
from rolltune.evaluation.predicted import Predicted
from rolltune.jobs import predict as predicting
from rolltune.jobs.predict import (
    Answered,
    Options,
    Predictor,
    _alike,
    _framed,
    _path_of,
    _summary,
    _with_answer,
    decided_text,
)
from rolltune.jobs.scorer import Saved, read_saved
from rolltune.recipe import Recipe
from rolltune.weights.roll_file import Base, RollCard, save_roll


def test_a_row_that_any_of_the_voting_rolls_has_learned_from_is_counted():
    asked = [Example(str(n), (), (Turn("user", f"question {n}"), Turn("assistant", "a")), "here") for n in range(3)]
    saved = [SimpleNamespace(card=SimpleNamespace(metrics={"learned": marks_of([one])[0]})) for one in asked[:2]]
    rows = [Predicted("here", one.id, (), "a", {}, None, {}, ("a",)) for one in asked]
    said = _summary(Answered(rows, asked, []), saved)
    assert said[0].startswith("3 of 3 answers are those given")
    assert said[1].startswith("2 of 3 of these were learned from")
    (told,) = _summary(Answered(rows[:1], asked[:1], []), saved[1:])
    assert told.startswith("1 of 1 answers are those given")


def test_rows_near_the_threshold_and_without_an_answer_are_counted():
    asked = [Example(str(n), (), (Turn("user", f"question {n}"), Turn("assistant", "a")), "here") for n in range(3)]
    row = Predicted("here", "", (), "a", {"a": 0.6, "b": 0.4}, True, {}, ())
    rows = [row, dataclasses.replace(row, near=False), dataclasses.replace(row, answer="b", right=("a",))]
    saved = [SimpleNamespace(card=SimpleNamespace(metrics={}))]
    said = _summary(Answered(rows, asked, [Finding(ERROR, "bad row", "x", "odd")]), saved)
    assert said[0] == "2 of 3 rows are near the threshold" and said[1].startswith(
        "0 of 1 answers are those given (95 %"
    )
    assert said[2:] == ["not answered: 1, see above"]
    written = dataclasses.replace(row, near=None)
    assert _summary(Answered([written], asked[:1], []), saved) == []


def test_a_row_that_only_asks_is_scored_with_an_answer_that_is_known():
    row = picture_row(Path("a.png"), "a.png", "is it?")
    assert _with_answer(row, ("no", "yes")).answer == "no" and _with_answer(row, ()).answer == STAND_IN
    assert _with_answer(row, ("no",)).turns[:-1] == row.turns[:-1]
    answered = picture_row(Path("a.png"), "a.png", "is it?", "so")
    assert _with_answer(answered, ("no", "yes")) is answered


def test_a_broken_animation_keeps_no_other_row_from_its_answer(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue", "green")]
    frames[0].save(tmp_path / "good.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "bad.gif").write_bytes((tmp_path / "good.gif").read_bytes()[:20])
    asked = [picture_row(tmp_path / f"{name}.gif", f"{name}.gif") for name in ("bad", "good")]
    rows, problems = _framed(Asked(asked, [Finding(ERROR, "bad row", "x", "odd")]), "expand")
    assert [one.source for one in rows] == ["good.gif"] * 3 and [one.frames for one in rows] == [(0,), (1,), (2,)]
    assert [one.where for one in problems] == ["x", "bad.gif"]


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4, 3)), np.zeros((4, 4, 2), np.uint8), np.zeros(4, np.uint8), np.zeros((1, 4, 4, 3), np.uint8), 5],
)
def test_what_is_no_picture_is_refused(image, tmp_path):
    with pytest.raises(UserError, match="image 0: a"):
        _path_of(image, "image 0", tmp_path / "x.png")


def test_pictures_in_memory_keep_every_pixel(tmp_path):
    draw = np.random.default_rng(0)
    grey, colour, clear = (draw.integers(0, 256, shape).astype(np.uint8) for shape in ((5, 7), (5, 7, 3), (5, 7, 4)))
    clear[..., 3] = 255
    for number, (given, seen) in enumerate(
        ((grey, np.stack([grey] * 3, -1)), (colour, colour), (clear, clear[..., :3]))
    ):
        path = _path_of(given, "image", tmp_path / f"{number}.png")
        np.testing.assert_array_equal(np.asarray(Image.open(path)), seen)
        assert _path_of(path, "image", tmp_path / "other.png") == path


def saved(name="a", decision=None, **recipe) -> Saved:
    card = RollCard(Base("tiny", "ab"), "lora", {}, "", ["no", "yes"], {"decision": decision and decision.card()})
    return Saved(Path(f"{name}.npz"), card, Recipe(**{"task": "choose"} | recipe))


def test_how_rolls_decide_is_said_where_it_is_not_by_the_likeliest():
    made = Decision(1.0, Threshold("yes", 0.3), ("chosen so",))
    assert decided_text([saved(), saved("b")]) == []
    assert decided_text([saved(decision=made)]) == [
        "./a.npz: 'yes' is given from a probability of 0.3000 on; chosen so"
    ]
    *lines, last = decided_text([saved(), saved("b", made)])
    assert [line.partition(":")[0] for line in lines] == ["./b.npz"] and last.startswith(
        "together they decide by the mean"
    )
    warm = decided_text([saved(), saved("b", Decision(2.0))])
    assert len(warm) == 1 and "temperature 2" in warm[0]


def test_a_classifier_writes_nothing():
    assert _alike([saved(task="classify")], Options()).path == Path("a.npz")
    with pytest.raises(UserError, match="leave --generate away"):
        _alike([saved(task="classify")], Options(generate=4))


def test_what_is_written_is_near_nothing():
    for one, generate in ((saved(task="write"), None), (saved(), 8)):
        assert _alike([one], Options(generate=generate)) is one
        with pytest.raises(UserError, match=r"--near 0\.2: .*leave it away"):
            _alike([one], Options(near=0.2, generate=generate))


def test_a_roll_answers_on_its_own_base_alone(tmp_path, monkeypatch):
    recipe = dataclasses.asdict(Recipe()) | {"task": "choose"}
    card = RollCard(Base("tiny", "ab"), "lora", recipe, "", ["no", "yes"], {"positive": "yes"})
    save_roll(tmp_path / "a.npz", {"text": {"norm": np.ones(2, np.float32)}}, card)
    asked = []
    other = SimpleNamespace(base=Base("tiny", "cd"))
    bench = lambda saved, model, writes: asked.append(model) or SimpleNamespace(model=other)
    monkeypatch.setattr("rolltune.jobs.predict.bench_of", bench)
    with pytest.raises(UserError, match="the same name, but other weights"):
        Predictor([read_saved(tmp_path / "a.npz")], Options(model="here"))
    assert asked == ["here"]


def test_a_picture_that_has_no_answer_is_an_error_where_one_was_asked_for(tmp_path, monkeypatch):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    predictor, groups = object.__new__(Predictor), []
    broken = Finding(ERROR, "unreadable image", "a.png", "it is broken")

    def answer(asked):
        groups.append([(one.source, len(one.images), one.prompt) for one in asked.examples])
        return Answered(["row"], asked.examples, [broken] if len(groups) > 3 else [])

    monkeypatch.setattr(predictor, "answer", answer, raising=False)
    path, pixels = tmp_path / "a.png", np.zeros((4, 4), np.uint8)
    for images in (path, [path, pixels], [[path, pixels], path]):
        assert predictor.predict(images, "so?") == ["row"]
    with pytest.raises(UserError, match=r"a\.png: it is broken"):
        predictor.predict([path], "so?")
    name = path.as_posix()
    assert groups[0] == groups[3] == [(name, 1, "so?")] and groups[1] == [(name, 1, "so?"), ("image 1", 1, "so?")]
    assert groups[2] == [(name, 2, "so?"), (name, 1, "so?")]
    with pytest.raises(UserError, match="image 1: an empty list of pictures"):
        predictor.predict([path, []])


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """`asked(data, ...)`: (the exit status, what was said) of a roll that answers yes to all that it can read."""
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (8, 8)).save("good.png")
    Path("bad.png").write_bytes(b"no picture")
    monkeypatch.setattr(predicting, "read_saved", lambda path: saved(path.stem))
    monkeypatch.setattr(predicting, "is_foreign", lambda path: False)
    monkeypatch.setattr(predicting, "read_rolls", lambda paths, *_: ([saved(path.stem) for path in paths], {}))

    class Stub:
        def __init__(self, saved, options, arrays):
            pass

        def answer(self, asked):
            rows = [
                Predicted(one.source, one.id, (), "yes", {"no": 0.1, "yes": 0.9}, False, {}, ())
                for one in asked.examples
            ]
            late = [Finding(ERROR, "unreadable image", "late.png", "a frame is broken")] if len(rows) > 1 else []
            return Answered(rows, asked.examples, [*asked.problems, *late])

    monkeypatch.setattr(predicting, "Predictor", Stub)

    def run(*data, **options):
        said: list[str] = []
        return predicting.predict([Path("a.npz")], data, Options(**options), said.append), said

    return run


def test_what_has_no_answer_is_told_once_and_in_the_exit_status(asked, capsys):
    assert asked("good.png")[0] == 0 and "good.png" in capsys.readouterr().out
    status, said = asked("good.png", "bad.png")
    assert status == 1 and sum("bad.png" in text for text in said) == 1 and said[-1] == "not answered: 1, see above"
    status, said = asked("good.png", "good.png", "bad.png")  # what shows while they are answered comes after
    told = [text for text in said if text.startswith("no answer: ")]
    assert status == 1 and len(told) == 2 and "bad.png" in told[0] and "late.png" in told[1]
    with pytest.raises(UserError, match="there is no row that can be answered"):
        asked("bad.png")
    capsys.readouterr()
    status, said = asked("good.png", output=Path("rows.csv"))
    assert status == 0 and "written: ./rows.csv (1 rows)" in said and not capsys.readouterr().out
    assert Path("rows.csv").read_text().count("good.png") >= 1
    with pytest.raises(UserError, match="endings"):
        asked("good.png", output=Path("rows.xlsx"))
