"""Which fold a row is in, even folds or id % N, and what the rolls of all folds say together."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from small_model import make_example

from rolltune.data.learned import learned
from rolltune.errors import UserError
from rolltune.evaluation.metrics import Metrics, Positive, Prediction
from rolltune.evaluation.tasks import CHOOSE, WRITE, Task
from rolltune.evaluation.written import Written
from rolltune.jobs.folded import out_of_fold, rounds
from rolltune.jobs.interrupts import Interrupts
from rolltune.jobs.learn import Options, _folds, learn
from rolltune.jobs.outputs import Outputs
from rolltune.recipe import Recipe
from rolltune.training.dataset import Data, Wanted, read_data
from rolltune.training.loop import COLLAPSED, FinishedRoll
from rolltune.training.rolls import Draw
from rolltune.weights.roll_file import read_card


def test_folds_go_by_the_ids_of_the_files(tmp_path):
    said = []
    for split, ids in (("train", [4, "5", 6, 9]), ("valid", [10, 4])):  # an id is unique in its file alone
        rows = [{"id": id, "prefix": "a", "suffix": "yn"[n % 2], "group": "g"} for n, id in enumerate(ids)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = Recipe(fold_by="id")
    files = {split: tmp_path / f"{split}.jsonl" for split in ("train", "valid")}
    data = read_data(files, Wanted("auto"), lambda text: None)
    options = Options("set1", "name", folds=3)
    assert _folds(options, recipe, data, said.append) == [1, 2, 0, 0, 1, 1]
    assert len(said) == 1 and "torn apart by id % 3" in said[0]
    assert len(set(_folds(Options("set1", "name", folds=2), Recipe(), ungrouped(data), said.append))) == 2
    files["train"].write_text('{"id": "a7", "prefix": "a", "suffix": "y"}\n')
    data = read_data(files, Wanted("auto"), lambda text: None)
    with pytest.raises(UserError, match=r"train\.jsonl:1: the id 'a7'"):
        _folds(options, recipe, data, said.append)


def test_each_row_is_predicted_by_the_roll_that_did_not_learn_from_it(tmp_path, monkeypatch):
    """Three folds of nine rows for training and three for validation: each roll learns from eight, two a step."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ROLLTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Metrics, "collapsed", None)  # after so few steps it is luck whether a roll gives two answers
    (tmp_path / "dataset/set1").mkdir(parents=True)
    for split, count in (("train", 9), ("valid", 3)):
        rows = [{"prefix": f"Is it {split} {n}?", "suffix": ("yes", "no")[n % 2]} for n in range(count)]
        (tmp_path / f"dataset/set1/{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said: list[str] = []
    recipe = Recipe(epochs=1, batch=2, log_every=4, rank=2, warmup=0.0, rate=1e-3, redraws=0, evaluate_batch=12)
    assert learn(Options("set1", "cv", folds=3, keep="all"), recipe, Interrupts(said.append)) == 0, said
    files = {split: tmp_path / f"dataset/set1/{split}.jsonl" for split in ("train", "valid")}
    data = read_data(files, Wanted("auto"), said.append)
    left_out = [json.loads(line) for line in (tmp_path / "reports/cv.out-of-fold.jsonl").read_text().splitlines()]
    assert [row["id"] for row in left_out] == [one.id for one in data.examples]
    assert [row["answer"] for row in left_out] == [one.answer for one in data.examples]
    assert any("(out of fold)" in text for text in said)
    doubted = [json.loads(line) for line in (tmp_path / "reports/cv.doubtful.jsonl").read_text().splitlines()]
    assert {row["id"] for row in doubted} == {row["id"] for row in left_out if row["predicted"] != row["answer"]}
    assert all(row["probabilities"][row["answer"]] <= 0.5 and row["rolls"] == 1 for row in doubted)
    held_out = []
    for name in ("cv", "cv.rank2", "cv.rank3"):
        card = read_card(f"checkpoints/{name}.npz")
        assert card.recipe["steps"] == 4
        own = [place for place, known in enumerate(learned(data.marks, card.metrics["learned"])) if not known]
        assert len(own) == 4 and card.metrics["valid"]["n"] == 4 and card.metrics["train"]["n"] == 8
        held_out += own
    assert sorted(held_out) == list(range(12))


def ungrouped(data):
    return dataclasses.replace(data, examples=[dataclasses.replace(one, group=None) for one in data.examples])


def test_a_fold_of_poor_rolls_alone_is_judged_by_one_of_them():
    def ended(roll, fold, reason="", trained=True):
        return FinishedRoll(Draw(roll, roll, 0.1, 8.0, 0.0, fold=fold), 8, reason, False, {} if trained else None, {})

    every = [ended(0, 0), ended(1, 1, COLLAPSED), ended(2, 0), ended(3, 1, COLLAPSED), ended(4, 1, "loss", False)]
    finished = {one.draw.roll: one for one in every if not one.reason}
    rolls = lambda repeat, ended: [
        {fold: one.draw.roll for fold, one in members.items()}
        for members in rounds(finished, ended, Options("set1", "name", folds=2, repeat=repeat))
    ]
    assert rolls(1, every) == [{0: 0, 1: 3}]
    assert rolls(2, every) == [{0: 0, 1: 3}, {0: 2, 1: 1}]
    assert rolls(1, [every[0], every[4]]) == [{0: 0}]


FOLDS = [1, 0, 0, 1]  # of the four rows that are no test rows
SPANS = {"train": range(0, 3), "valid": range(3, 4), "test": range(4, 6)}
EXAMPLES = [make_example(n, answer=("no", "yes")[n % 2]) for n in range(6)]


def judged(chances) -> Prediction:
    """Of all six rows: how likely "yes" is."""
    sure = np.array(chances)
    ids = tuple(one.id for one in EXAMPLES)
    return Prediction(ids, ("no", "yes"), np.arange(6) % 2, np.log(np.stack([1 - sure, sure], 1)))


def told_of(rounds_, task=CHOOSE, count=2):
    """(the doubts, the lines of the file, what was said) of folds whose rolls made this of the rows."""
    answers = ("no", "yes") if task == CHOOSE else ()
    positive = Positive("yes" if answers else None, "")
    data = Data(EXAMPLES, SPANS, {"train": Path("set/train.jsonl")}, Task(task, answers), positive, [])
    one = lambda fold, scored, reason: FinishedRoll(Draw(fold, 0, 1.0, 8, 0, fold=fold), 8, reason, False, {}, scored)
    members = [{fold: one(fold, *made) for fold, made in some.items()} for some in rounds_]
    out, said = Outputs("cv"), []
    found = out_of_fold(data, members, FOLDS, count, out, said.append)
    lines = out.folds.read_text().splitlines() if out.folds.exists() else []
    return found, [json.loads(line) for line in lines], "\n".join(said)


def test_a_row_out_of_its_fold_has_the_probabilities_of_the_roll_that_never_saw_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = {0: (judged([0.9, 0.75, 0.6, 0.9, 0.5, 0.5]), ""), 1: (judged([0.2, 0.1, 0.1, 0.3, 0.5, 0.5]), "")}
    again = {0: (judged([0.9, 0.95, 0.2, 0.9, 0.5, 0.5]), ""), 1: (judged([0.4, 0.1, 0.1, 0.1, 0.5, 0.5]), COLLAPSED)}
    found, lines, said = told_of([first, again])
    assert [row["id"] for row in lines] == [one.id for one in EXAMPLES[:4]]
    assert [row["answer"] for row in lines] == ["no", "yes", "no", "yes"]
    assert [row["predicted"] for row in lines] == ["no", "yes", "yes", "no"]
    assert [row["probabilities"]["yes"] for row in lines] == pytest.approx([0.2, 0.75, 0.6, 0.3])
    rounds_ = [one["yes"] for row in lines for one in row["rounds"]]
    assert rounds_ == pytest.approx([0.2, 0.4, 0.75, 0.95, 0.6, 0.2, 0.3, 0.1])
    assert [one.id for one in found] == [EXAMPLES[3].id]  # of both rounds; the third row's are of two minds
    assert "Result: ./set (out of fold)" in said and "over 2 seeds" in said and "fold 1: judged by" not in said
    assert "doubtful labels: 1 of 4" in said and "'yes' at 20%, where 'no' is likelier" in said
    _, lines, said = told_of([{**again, 1: (judged([0.4, 0.1, 0.1, 0.6, 0.5, 0.5]), COLLAPSED)}])
    assert all("rounds" not in row for row in lines)
    assert "fold 1: judged by a roll that gives every picture one answer" in said and "seeds" not in said
    assert "doubtful labels: none; rolls that never saw a row give its own answer in all 4" in said


def test_without_a_roll_of_each_fold_there_are_no_figures_out_of_fold(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, lines, said = told_of([{0: (judged([0.5] * 6), "")}], count=3)
    assert not found and not lines and "no roll of fold 1, 2 ran to its end" in said and "Result" not in said


def test_written_answers_out_of_fold_stand_beside_the_accepted_ones(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids, accepted = tuple(one.id for one in EXAMPLES), tuple((one.answer,) for one in EXAMPLES)
    texts = tuple("abcdef")
    made = lambda own: (Written(ids, accepted, -np.arange(6.0), own), "")
    found, lines, _ = told_of([{0: made(texts), 1: made(texts)}], WRITE)
    assert not found and [row["written"] for row in lines] == ["a", "b", "c", "d"]
    assert lines[3] == {"id": EXAMPLES[3].id, "accepted": ["yes"], "written": "d", "log-loss": 3.0}
    _, lines, _ = told_of([{0: made(None), 1: made(texts)}], WRITE)
    assert [row["written"] for row in lines] == [None] * 4
