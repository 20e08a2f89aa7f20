"""What 04 says before and beside its figures: answers that a roll cannot give, rolls that cannot vote."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rolltune.data.examples import Example, Turn
from rolltune.errors import UserError
from rolltune.evaluation.decision import Decision
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.written import Written
from rolltune.jobs import validate as validating
from rolltune.jobs.scorer import Saved
from rolltune.jobs.validate import Options, _check_vote, unknown_answers
from rolltune.recipe import Recipe
from rolltune.weights.card import Base, RollCard


def rows(*answers: str) -> list[Example]:
    turns = lambda answer: (Turn("user", "is it?"), Turn("assistant", answer))
    return [Example(str(n), (), turns(answer), f"rows:{n}") for n, answer in enumerate(answers)]


def card(*answers: str) -> RollCard:
    return RollCard(Base("tiny", "ab"), "lora", {}, "", list(answers))


def test_answers_that_a_roll_cannot_give_are_named_and_their_rows_counted():
    assert unknown_answers(card("no", "yes"), rows("yes", "no", "yes")) == ""
    assert unknown_answers(card("no", "yes"), rows("yes", "so", "so")) == "the answer 'so' of 2 rows"
    many = unknown_answers(card("no", "yes"), rows("yes", *"edcba", "a"))
    assert many == "the answer 'a', 'b', 'c' and 2 more of 6 rows"
    assert unknown_answers(card(), rows("anything")) == ""  # it writes its answers


@pytest.mark.parametrize(
    ("tasks", "generate", "message"),
    [
        (("choose",), None, "name two or more with -m"),
        (("choose", "classify"), None, "cannot vote with"),
        (("choose", "choose"), 8, "written answers have no probabilities"),
        (("write", "write"), None, "written answers have no probabilities"),
    ],
)
def test_what_has_no_mean_is_not_put_to_the_vote(tasks, generate, message):
    saved = [Saved(Path(f"{n}.npz"), card(), Recipe(task=task)) for n, task in enumerate(tasks)]
    with pytest.raises(UserError, match=message):
        _check_vote(saved, Options([], generate=generate))
    _check_vote([Saved(Path(f"{n}.npz"), card("a", "b"), Recipe(task="choose")) for n in range(2)], Options([]))


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """`scored(rolls, files, ...)`: (cells, what was said, the bases that were loaded). Each roll, by its name, is right
    on the first so many rows as `rolls` says, on its own base; "w" writes."""
    monkeypatch.chdir(tmp_path)
    loaded: list[str] = []

    def run(rolls, files, answers=("no", "yes"), decisions=None, cut=0, **asked):
        recipe = lambda name: Recipe(
            model=f"base-{name[0]}", task="write" if name[0] == "w" else "choose", max_tokens=9
        )
        own = lambda name: RollCard(
            Base("tiny", "ab"), "lora", {}, "", [] if name[0] == "w" else list(answers),
            {"positive": answers[-1], "passes": 2, "learned": ["t0"]},
        )  # fmt: skip

        class Stub:
            def __init__(self, bench, path, roll, recipe):
                self.name, self.recipe, self.card, self.cut = path.stem, recipe, own(path.stem), cut
                self.decision = (decisions or {}).get(path.stem, Decision())

            def predict(self, examples, *how):
                ids = tuple(one.id for one in examples)
                if self.name[0] == "w":
                    return Written(ids, tuple((one.answer,) for one in examples), -np.ones(len(ids)), ids)
                label = np.array([answers.index(one.answer) for one in examples])
                right = np.arange(len(ids)) < rolls[self.name]
                chance = np.where((np.arange(2) == label[:, None]) == right[:, None], 0.9, 0.1)
                return self.decision.apply(Prediction(ids, answers, label, np.log(chance)))

        bench = SimpleNamespace(model=SimpleNamespace(base=None))
        load = lambda saved, model, writes: loaded.append(saved.base(model)[0]) or bench
        monkeypatch.setattr(validating, "bench_of", load)
        monkeypatch.setattr(validating, "Scorer", Stub)
        monkeypatch.setattr(validating, "load_roll", lambda path, base: None)
        read = lambda path: Saved(path, own(path.stem), recipe(path.stem))
        monkeypatch.setattr(validating, "read_saved", read)
        monkeypatch.setattr(validating, "read_rolls", lambda paths, *_: ([read(path) for path in paths], {}))
        monkeypatch.setattr(validating, "marks_of", lambda some: [frozenset({f"t{n}"}) for n in range(len(some))])
        for name, text in files.items():
            lines = [json.dumps({"prefix": f"{name} {n}?", "suffix": one}) for n, one in enumerate(text.split())]
            Path(f"{name}.jsonl").write_text("\n".join(lines))
        said: list[str] = []
        options = Options([Path(f"{name}.jsonl") for name in files], **asked)
        return validating.score(options, [Path(f"{name}.npz") for name in rolls], said.append), said, loaded

    return run


def test_cells_stand_in_the_order_of_the_rolls_and_each_base_is_loaded_once(scored):
    rolls = {"b1": 4, "a1": 1, "b2": 2}
    cells, said, loaded = scored(rolls, {"x": "yes no yes no", "y": "no yes"}, predictions=Path("rows.jsonl"))
    assert [(cell.checkpoint, cell.dataset, cell.metrics.accuracy) for cell in cells] == [
        ("./b1.npz", "./x.jsonl", 1.0), ("./b1.npz", "./y.jsonl", 1.0),
        ("./a1.npz", "./x.jsonl", 0.25), ("./a1.npz", "./y.jsonl", 0.5),
        ("./b2.npz", "./x.jsonl", 0.5), ("./b2.npz", "./y.jsonl", 1.0),
    ]  # fmt: skip
    assert sorted(loaded) == ["base-a", "base-b"] and all(cell.trained_on for cell in cells)
    lines = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    assert [line["roll"] for line in lines] == ["./b1.npz"] * 6 + ["./a1.npz"] * 6 + ["./b2.npz"] * 6
    assert [line["answer"] for line in lines[6:12]] == ["yes", "yes", "no", "yes", "no", "no"]
    assert any("./x.jsonl (2nd trained)" in text for text in said)
    assert "  1 of 4 of these were learned from: no forecast for new ones" in said


def test_what_a_person_must_know_of_a_roll_is_said(scored):
    warm = Decision(2.0, None, ("chosen so",))
    _, said, _ = scored({"a": 1}, {"x": "yes no yes no"}, decisions={"a": warm}, cut=3)
    assert "./a.npz: probabilities are at temperature 2; chosen so" in said
    assert "3 of 4 rows were cut to 9 tokens, on their right" in said
    assert any("by the likeliest answer at temperature 1: " in text for text in said)
    assert any("the roll is right no more often (0.25) than" in text for text in said)
    _, said, _ = scored({"a": 4}, {"x": "yes no yes no"})
    assert not any("cut to" in text or "likeliest" in text or "no more often" in text for text in said)
    _, said, loaded = scored({"a": 4, "b": 4}, {"x": "yes no"}, model="here")
    assert loaded[-1] == "here" and loaded.count("here") == 1  # one base stands for both
    with pytest.raises(UserError, match=r"big\.whole\.npz is a whole model and its own base; leave --model away"):
        scored({"big.whole": 1}, {"x": "yes no"}, model="here")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"predictions": Path("rows.txt")}, r"rows\.txt: answers are written as"),
        ({"metric": "luck"}, "no metric is called 'luck'"),
        ({"generate": 0}, "--generate 0: expected a number"),
        ({"vote": True}, "name two or more"),
    ],
)
def test_what_is_typed_wrong_is_said_before_any_model_is_loaded(scored, monkeypatch, asked, message):
    monkeypatch.setattr(validating, "Bench", lambda *given: pytest.fail("a model was loaded"))
    with pytest.raises(UserError, match=message):
        scored({"a": 1}, {"x": "yes no"}, **asked)


def test_rolls_vote_on_each_set_by_themselves(scored):
    cells, said, _ = scored({"a1": 4, "a2": 0, "a3": 4}, {"x": "yes no yes no", "y": "no yes"}, vote=True, model="here")
    assert [(cell.checkpoint, cell.dataset, cell.metrics.accuracy) for cell in cells[6:]] == [
        ("vote of 3", "./x.jsonl", 1.0), ("vote of 3", "./y.jsonl", 1.0)
    ]  # fmt: skip
    assert any("./y.jsonl (vote of 3: ./a1.npz, ./a2.npz, ./a3.npz)" in text for text in said)


@pytest.mark.parametrize(
    ("rolls", "asked", "metric"),
    [("a", "", "f-measure"), ("w", "", "log-loss"), ("aw", "", "log-loss"), ("a", "accuracy", "accuracy")],
)
def test_the_table_is_of_the_metric_that_all_have(scored, monkeypatch, rolls, asked, metric):
    cells, _, _ = scored(dict.fromkeys(rolls, 4), {"x": "yes no"})
    monkeypatch.setattr(validating, "score", lambda *given: cells)
    assert validating.validate(Options([], metric=asked, json=Path("t.json")), [], print) == 0
    told = json.loads(Path("t.json").read_text())
    assert told["metric"] == metric and [cell["checkpoint"] for cell in told["cells"]] == [
        f"./{name}.npz" for name in rolls
    ]
