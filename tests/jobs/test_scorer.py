"""Rolls of one base share what they can, and nothing that is their own."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_families import FAMILIES, PALIGEMMA, name_of

from rolltune import trees
from rolltune.data.examples import Example, Turn
from rolltune.errors import UserError
from rolltune.evaluation.written import Written
from rolltune.inputs.features import TableFeed
from rolltune.jobs import scorer as scoring
from rolltune.jobs.scorer import Bench, Saved, Scorer, check_alike
from rolltune.recipe import Recipe
from rolltune.weights.roll_file import Base, RollCard, RollFile

EXAMPLES = [Example(str(n), (), (Turn("user", "is it" + "?" * n), Turn("assistant", "a")), f"a:{n}") for n in range(3)]


def test_rolls_with_other_answers_are_scored_on_one_bench_as_on_their_own():
    recipe = Recipe(
        task="choose", evaluate_batch=2, method="rules", rules=(("text/norm/scale", "full"), (".*", "frozen"))
    )
    tree = {"text": {"norm": PALIGEMMA.params["text"]["norm"]}}

    def scorer(bench: Bench, *answers: str) -> Scorer:
        card = RollCard(Base("small", "ab"), "rules", {}, "or so?", list(answers))
        return Scorer(bench, Path("a.npz"), RollFile(tree, card), recipe)

    shared = Bench(PALIGEMMA.model, PALIGEMMA.params)
    for answers in (("a", "no"), ("a", "no", "bc")):
        found = scorer(shared, *answers).predict(EXAMPLES)
        alone = scorer(Bench(PALIGEMMA.model, PALIGEMMA.params), *answers).predict(EXAMPLES)
        assert found.answers == alone.answers == answers and found.log_probs.shape == (3, len(answers))
        np.testing.assert_allclose(found.log_probs, alone.log_probs, rtol=1e-6)


@pytest.mark.parametrize("small", FAMILIES, ids=name_of)
def test_a_base_in_lists_answers_as_one_in_stacks(small):
    """As it is loaded where answers are written on a GPU."""
    recipe = Recipe(
        task="choose", evaluate_batch=2, method="rules", rules=(("text/norm/scale", "full"), (".*", "frozen"))
    )
    card = RollCard(Base("small", "ab"), "rules", {}, "or so?", ["a", "no"])
    roll = RollFile({"text": {"norm": small.params["text"]["norm"]}}, card)
    flat = trees.flatten(small.params)
    in_list = lambda path, leaf: list(leaf) if trees.stack_of(path, small.model.stacks) else leaf
    listed = trees.unflatten({path: in_list(path, leaf) for path, leaf in flat.items()})
    found, expected = (
        Scorer(Bench(small.model, params), Path("a.npz"), roll, recipe) for params in (listed, small.params)
    )
    assert isinstance(found.base["text"]["layers"], list)
    scores = [one.predict(EXAMPLES).log_probs for one in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)
    assert found.predict(EXAMPLES, 4).texts == expected.predict(EXAMPLES, 4).texts


def test_layers_come_in_lists_where_answers_are_written_on_a_gpu(monkeypatch):
    asked = []
    monkeypatch.setattr(scoring, "load_base", lambda *_, listed: asked.append(listed) or (None, {}, None))
    saved = lambda task: Saved(Path("a.npz"), None, Recipe(task=task))
    for gpu in (True, False):
        monkeypatch.setattr(scoring, "is_gpu", lambda gpu=gpu: gpu)
        for task, generate in (("write", None), ("choose", 8), ("choose", None)):
            scoring.bench_of(saved(task), None, scoring.writes_answers(saved(task), generate))
    assert asked == [True, True, False, False, False, False]


def test_written_answers_come_in_the_order_of_the_rows_whatever_else_they_accept(monkeypatch):
    """Rows are scored with those that accept as many answers, in powers of two, and put back."""
    scorer = object.__new__(Scorer)
    scorer.card, scorer.recipe = SimpleNamespace(answers=[]), Recipe(task="write")
    together = []

    def score(task, examples, *how):
        together.append([one.id for one in examples])
        ids = tuple(one.id for one in examples)
        return Written(ids, tuple(("a",) for _ in ids), -np.array([float(id) for id in ids]), ids)

    monkeypatch.setattr(scorer, "_predict", score)
    counts = [1, 3, 2, 1, 5, 4, 2]
    rows = [
        dataclasses.replace(EXAMPLES[0], id=str(n), accepted=tuple(map(str, range(count))))
        for n, count in enumerate(counts)
    ]
    found = scorer.predict(rows)
    assert found.ids == found.texts == tuple("0123456") and found.log_probs.tolist() == [-float(n) for n in range(7)]
    assert together == [["0", "3"], ["2", "6"], ["1", "5"], ["4"]]
    scorer.recipe = Recipe(task="classify")
    with pytest.raises(UserError, match="leave --generate away"):
        scorer.predict(rows, 8)


@pytest.mark.parametrize(
    ("what", "card", "recipe"),
    [
        ("the base", {}, {"model": "other"}),
        ("the base", {}, {"quantize": "nf4"}),
        ("the base", {}, {"dtype": "float32"}),
        ("the weights of the base", {"base": Base("small", "cd")}, {}),
        ("the task", {}, {"task": "classify"}),
        ("the allowed answers", {"answers": ["no", "a"]}, {}),
        ("what is taken of animations", {}, {"frames": "first"}),
    ],
)
def test_rolls_that_answer_another_question_cannot_vote(what, card, recipe):
    first = Saved(Path("a.npz"), RollCard(Base("small", "ab"), "lora", {}, "", ["a", "no"]), Recipe(task="choose"))
    check_alike([first, dataclasses.replace(first, path=Path("c.npz"))], None)
    other = Saved(Path("b.npz"), dataclasses.replace(first.card, **card), dataclasses.replace(first.recipe, **recipe))
    with pytest.raises(UserError, match=rf"b\.npz cannot vote with \./a\.npz: {what} is"):
        check_alike([first, first, other], None)
    if "model" in recipe:
        check_alike([first, other], "here")  # where one base stands for both


def test_pictures_are_shared_as_long_as_all_fit(monkeypatch):
    """Of 100 bytes each: a limit of 250 holds two."""
    made: list[str] = []
    table = lambda name: TableFeed(0, SimpleNamespace(rows=SimpleNamespace(nbytes=100)), {name: 0})
    monkeypatch.setattr(scoring, "read_pictures", lambda family, config, examples: examples[0].id)
    monkeypatch.setattr(scoring.features, "feed", lambda m, p, name, *rest: made.append(name) or table(name))
    shows = {name: [Example(name, (Path(f"{name}.png"),), EXAMPLES[0].turns, "")] for name in "abc"}
    plan = SimpleNamespace(in_step=False, projected=False)
    bench = Bench(PALIGEMMA.model, {})
    ask = lambda name, plan=plan: bench.feed(shows[name], plan, 250 / 2**30)
    assert [ask(name)[0] for name in "abab"] == ["a", "b", "a", "b"] and made == ["a", "b"]
    ask("a", SimpleNamespace(in_step=False, projected=True))  # other rows of the same picture
    assert made == ["a", "b", "a"]
    ask("b")  # that was one too many: all before it were let go
    assert made == ["a", "b", "a", "b"]
    bench.forget()
    ask("b")
    assert made == ["a", "b", "a", "b", "b"]


def test_rolls_are_scored_on_the_base_that_they_were_trained_on():
    card = RollCard(Base("small", "ab"), "lora", {}, "", [])
    recipe = Recipe(model="there", tokenizer="t.model", dtype="float32", quantize="int8")
    assert Saved(Path("a.npz"), card, recipe).base(None) == ("there", "t.model", "float32", tuple(recipe.packing), 0)
    assert recipe.packing and Saved(Path("a.npz"), card, recipe).base("here")[0] == "here"
