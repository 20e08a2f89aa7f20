"""What a training is asked for: how many rolls, which name, whose question is asked."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from small_model import make_example

from rolltune.errors import UserError
from rolltune.evaluation.metrics import Prediction
from rolltune.evaluation.written import Written
from rolltune.jobs import learn as learning
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.learn import Options, _check_name, _pack, _unpack, asked_slots, asked_text
from rolltune.jobs.outputs import Outputs
from rolltune.recipe import Recipe


@pytest.mark.parametrize(
    ("asked", "slots"),
    [
        ({}, 1),
        ({"rolls": "8"}, 8),
        ({"rolls": "auto"}, 1),  # until it is known how many fit
        ({"folds": 5}, 5),
        ({"folds": 5, "repeat": 3}, 5),
        ({"rolls": "4", "repeat": 2}, 4),
        ({"folds": 5, "origin": object()}, 1),  # one fold of them is trained again
    ],
)
def test_so_many_rolls_run_at_once(asked, slots):
    assert asked_slots(Options("set1", "mine", **asked)) == slots


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"repeat": 0}, "--repeat 0: expected a number from 1"),
        ({"repeat": 2}, "--repeat 2 repeats --folds or --rolls; --rolls 2 trains as many seeds"),
        ({"rolls": "0"}, "--rolls '0': expected a number from 1, or auto"),
        ({"rolls": "-1"}, "--rolls '-1'"),
        ({"rolls": "many"}, "--rolls 'many'"),
    ],
)
def test_numbers_of_rolls_that_cannot_be_are_refused(asked, message):
    with pytest.raises(UserError, match=message):
        asked_slots(Options("set1", "mine", **asked))


def test_what_was_trained_before_is_never_replaced_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out = Outputs("mine")
    check = lambda **asked: _check_name(Options("set1", "mine", **asked), out)
    check()
    with pytest.raises(UserError, match="no interrupted run is there to go on with"):
        check(resume=True)
    out.roll.parent.mkdir()
    for path in (out.roll, out.kept(2)):
        path.touch()
    with pytest.raises(UserError, match=r"mine\.npz is there already"):
        check()
    assert out.stale == []
    check(overwrite=True)
    assert out.stale == [out.kept(2)] and out.roll.exists()  # until the new one is saved
    monkeypatch.setattr("rolltune.training.savings.exists", lambda path: path == Path("checkpoints/mine.state"))
    check(resume=True)
    out.at_step(8).touch()  # of the interrupted run itself, or of one before: nobody knows
    out.stale = []
    check(resume=True, overwrite=True)  # "the same command and --resume" of a run that was begun to overwrite
    assert out.stale == [out.kept(2)]
    with pytest.raises(UserError, match="an interrupted run is there; go on with --resume, or start anew with --over"):
        check()


def test_whose_question_is_asked_is_said():
    rows = [make_example(n, prompt) for n, prompt in enumerate(("is it?", "is it?", "or so?", ""))]
    assert asked_text(rows[:2], "", "recipe") == "asked: 'is it?' (the rows' own)"
    assert asked_text(rows, "", "recipe") == "asked: 'is it?' and 2 other prompts (the rows' own)"
    assert asked_text(rows[3:], "so?", "roll") == "asked: 'so?' (the roll's)"
    long = [make_example(9, "word " * 500)]
    assert len(asked_text(long, "", "recipe")) < 250 and len(asked_text(long, "so?", "recipe")) < 300
    assert asked_text(rows[:2], "is it?", "roll") == "asked: 'is it?' (the roll's)"
    replaced = asked_text(rows, "so?", "recipe")
    assert replaced == "asked: 'so?' (the recipe's, in the place of the rows' own 'is it?' and 1 more)"


def test_an_evaluation_comes_back_as_it_was_kept():
    chosen = Prediction(
        ("a", "b"), ("no", "yes"), np.array([0, 1]), np.log(np.array([[0.9, 0.1], [0.3, 0.7]], np.float32))
    )
    texts = Written(("a", "b"), (("x",), ("y",)), np.array([-1.0, -2.5], np.float32), ("one", "two"))
    for one, like in (
        (chosen, chosen._replace(log_probs=np.zeros((2, 2), np.float32))),
        (texts, texts._replace(log_probs=np.zeros(2, np.float32), texts=None)),
        (texts._replace(texts=None), texts._replace(texts=None, log_probs=np.zeros(2, np.float32))),
    ):
        again = _unpack(_pack(one), like)
        np.testing.assert_array_equal(again.log_probs, one.log_probs)
        assert again.log_probs.dtype == np.float32 and again._replace(log_probs=0) == one._replace(log_probs=0)


@pytest.mark.parametrize(
    ("asked", "recipe", "message"),
    [
        ({}, {"threshold": "metric"}, "threshold: it is chosen on validation rows"),
        ({}, {"temperature": "valid"}, "temperature: it is chosen on validation rows"),
        ({}, {"metric": "exact-match"}, "exact-match"),
        ({}, {"task": "write", "metric": "iou"}, "iou"),
        ({"keep": "0"}, {}, "--keep takes best, all, vote or a number"),
        ({"state_keep": 0}, {}, "--state-keep 0: expected a number from 1"),
        ({"state_every": "soon"}, {}, "soon"),
        ({"folds": 2, "rolls": "2"}, {}, "--folds makes the rolls the folds"),
        ({"resume": True}, {}, "no interrupted run is there"),
    ],
)
def test_what_cannot_be_is_said_before_a_model_is_loaded(tmp_path, monkeypatch, asked, recipe, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(learning, "prepare", lambda *given: pytest.fail("a model was loaded"))
    rows = [f'{{"prefix": "Is it {n}?", "suffix": "{["yes", "no"][n % 2]}"}}\n' for n in range(4)]
    Path("rows.jsonl").write_text("".join(rows))
    with pytest.raises(UserError, match=message):
        learning.learn(Options("rows.jsonl", "mine", **asked), Recipe(**recipe), Interrupts(lambda text: None))
    assert not Path("checkpoints/mine.npz").exists()


def test_a_disk_without_room_is_said_before_anything_is_scored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    score = lambda *given: pytest.fail("the model was scored")
    ready = SimpleNamespace(run=SimpleNamespace(mesh=None), evaluator=SimpleNamespace(predict=score))
    monkeypatch.setattr(learning, "prepare", lambda *given: ready)
    monkeypatch.setattr(learning.sharding, "cards_in_group", lambda mesh: 1)
    monkeypatch.setattr(learning.sharding, "told", lambda slots, mesh: "")
    monkeypatch.setattr(learning, "new_state", lambda run, slots: SimpleNamespace(rolls=SimpleNamespace(trainable=0)))
    monkeypatch.setattr(learning, "room_for", lambda *given: 10**18)
    rows = [f'{{"prefix": "Is it {n}?", "suffix": "{["yes", "no"][n % 2]}"}}\n' for n in range(4)]
    Path("rows.jsonl").write_text("".join(rows))
    with pytest.raises(UserError, match=r"GB are free, and this run saves up to 1000000000\.00 GB"):
        learning.learn(Options("rows.jsonl", "mine"), Recipe(), Interrupts(lambda text: None))
